//! `verify`: everything that a ledger knows, compared with everything that the server gives back.
//!
//! It is told nothing by the run but the ledger. What it holds a server to:
//! an acknowledged event is there once, as sent, with the id and version that were acknowledged; a refused one is not
//! there; a request is there as a whole or not at all; versions of an entity count from 1 in feed order; and whoever
//! was acknowledged before another was sent comes before it.

pub mod readback;

use crate::cli::VerifyArgs;
use crate::client::Client;
use crate::corpus::{Seq, entity_name, parse_entity, payload_hash, rest_hash};
use crate::failure::{EXIT_VERIFICATION_FAILED, Failure};
use crate::ledger::{Ledger, Outcome, id_hash};
use crate::report;
use crate::run::target_of;
use readback::Event;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Examples that are printed per kind of trouble.
const EXAMPLES_MAX: usize = 20;

pub fn main(args: &VerifyArgs) -> Result<u8, Failure> {
    let target = target_of(&args.target)?;
    let ledger = Ledger::read(&args.ledger)?;
    let client = Client::new(target, Duration::from_secs_f64(args.timeout));
    let verdict = crate::ring::block_on(verify(&ledger, client, args.page, !args.allow_gaps))??;
    let text = report::verdict_text(&verdict);
    report::publish(&verdict, &text, args.json.as_deref())?;
    Ok(if verdict.is_good() { 0 } else { EXIT_VERIFICATION_FAILED })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// Acknowledged, and not there.
    Lost,
    /// There more than once.
    Duplicated,
    /// Versions or positions out of order.
    Reordered,
    /// There, but not as it was sent or acknowledged.
    Changed,
    /// There, though never sent, or refused.
    Invented,
    /// There, in another tenant.
    Misplaced,
    /// A part of a request is there.
    Torn,
}

impl Trouble {
    pub const ALL: [Self; 7] =
        [Self::Lost, Self::Duplicated, Self::Reordered, Self::Changed, Self::Invented, Self::Misplaced, Self::Torn];

    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Reordered => "reordered",
            Self::Changed => "changed",
            Self::Invented => "invented",
            Self::Misplaced => "misplaced",
            Self::Torn => "torn",
        }
    }
}

#[derive(Debug, Default, Serialize)]
pub struct Verdict {
    pub tenants: usize,
    pub runs: u16,
    pub events_sent: u64,
    pub events_acknowledged: u64,
    pub events_read: u64,
    /// Outcome unknown to the client, and stored.
    pub unknown_present: u64,
    /// Outcome unknown to the client, and not stored.
    pub unknown_absent: u64,
    pub events_refused: u64,
    pub ledger_torn_bytes: u64,
    pub trouble: BTreeMap<&'static str, u64>,
    pub examples: BTreeMap<&'static str, Vec<String>>,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.count_of_trouble() == 0
    }

    pub fn count_of_trouble(&self) -> u64 {
        self.trouble.values().sum()
    }

    fn note(&mut self, trouble: Trouble, example: impl FnOnce() -> String) {
        *self.trouble.entry(trouble.name()).or_default() += 1;
        let examples = self.examples.entry(trouble.name()).or_default();
        if examples.len() < EXAMPLES_MAX {
            examples.push(example());
        }
    }
}

pub async fn verify(
    ledger: &Ledger,
    mut client: Client,
    page_events: u32,
    versions_are_dense: bool,
) -> Result<Verdict, Failure> {
    let mut judge = Judge::new(ledger, versions_are_dense);
    for (index, tenant) in ledger.tenants.iter().enumerate() {
        let mut feed = Feed::new(index as u16, ledger);
        readback::for_each_event(&mut client, &tenant.key, page_events, |event| judge.see(&mut feed, event)).await?;
        judge.end_of_feed(&feed);
    }
    Ok(judge.conclude())
}

/// One tenant's events as they go by.
struct Feed {
    tenant: u16,
    position: u64,
    versions: HashMap<String, u64>,
    our_versions: HashMap<u32, u64>,
    baseline: HashMap<u128, u32>,
    /// The latest moment at which an event that stands earlier in the feed was sent.
    latest_sent_at: u32,
    latest_sent: Option<Seq>,
}

impl Feed {
    fn new(tenant: u16, ledger: &Ledger) -> Self {
        let baseline = ledger.baselines.get(&tenant).into_iter().flatten().map(|&id| (id, 0)).collect();
        Self {
            tenant,
            position: 0,
            versions: HashMap::new(),
            our_versions: HashMap::new(),
            baseline,
            latest_sent_at: 0,
            latest_sent: None,
        }
    }
}

struct Judge<'a> {
    ledger: &'a Ledger,
    versions_are_dense: bool,
    /// How often each event of the ledger was read.
    seen: Vec<u32>,
    /// By request: the place within it that is expected next.
    next_in_request: Vec<u32>,
    by_id: HashMap<u128, u32>,
    verdict: Verdict,
}

impl<'a> Judge<'a> {
    fn new(ledger: &'a Ledger, versions_are_dense: bool) -> Self {
        let by_id = ledger.events.iter().enumerate();
        let by_id = by_id.filter_map(|(index, event)| event.ack.map(|ack| (ack.id_hash, index as u32))).collect();
        let verdict = Verdict {
            tenants: ledger.tenants.len(),
            runs: ledger.run_count,
            events_sent: ledger.events.len() as u64,
            ledger_torn_bytes: ledger.torn_bytes,
            trouble: Trouble::ALL.iter().map(|trouble| (trouble.name(), 0)).collect(),
            ..Verdict::default()
        };
        Self {
            ledger,
            versions_are_dense,
            seen: vec![0; ledger.events.len()],
            next_in_request: vec![0; ledger.requests.len()],
            by_id,
            verdict,
        }
    }

    fn tenant_name(&self, tenant: u16) -> &'a str {
        self.ledger.tenants.get(usize::from(tenant)).map_or("?", |tenant| &tenant.id)
    }

    fn see(&mut self, feed: &mut Feed, event: &Event<'_>) {
        self.verdict.events_read += 1;
        feed.position += 1;
        self.check_version(feed, event);
        let id = id_hash(&event.id);
        if let Some(count) = feed.baseline.get_mut(&id) {
            *count += 1;
            if 1 < *count {
                self.verdict.note(Trouble::Duplicated, || format!("{} (older than the ledger)", event.id));
            }
            return;
        }
        let place = || format!("{} {} at {}", self.tenant_name(feed.tenant), event.id, feed.position);
        // A payload that no longer tells who it is may still be known by its id.
        let by_seq = read_seq(event.payload.get()).and_then(|seq| self.ledger.event_by_seq(seq));
        let Some(index) = by_seq.or_else(|| self.by_id.get(&id).copied()) else {
            let example = place();
            return self.verdict.note(Trouble::Invented, || example);
        };
        let known = &self.ledger.events[index as usize];
        let request = &self.ledger.requests[known.request as usize];
        let example = format!("{} seq {}", place(), known.seq);
        self.seen[index as usize] += 1;
        if 1 < self.seen[index as usize] {
            return self.verdict.note(Trouble::Duplicated, || example);
        }
        if request.tenant != feed.tenant {
            let owner = self.tenant_name(request.tenant);
            return self.verdict.note(Trouble::Misplaced, || format!("{example}, of {owner}"));
        }
        if let Outcome::Refused { status } = request.outcome {
            self.verdict.note(Trouble::Invented, || format!("{example}, refused with {status}"));
        }
        if let Some(difference) = difference(known, event, id) {
            self.verdict.note(Trouble::Changed, || format!("{example}: {difference}"));
        }
        let place_in_request = index - request.first_event;
        if place_in_request < self.next_in_request[known.request as usize] {
            self.verdict.note(Trouble::Reordered, || format!("{example}, after a later event of its request"));
        }
        self.next_in_request[known.request as usize] = place_in_request + 1;
        if let Outcome::Acked { at } = request.outcome
            && at < feed.latest_sent_at
            && let Some(later) = feed.latest_sent
        {
            let text = format!("{example}, after seq {later}, which was sent after this one was acknowledged");
            self.verdict.note(Trouble::Reordered, || text);
        }
        if feed.latest_sent_at <= request.at {
            feed.latest_sent_at = request.at;
            feed.latest_sent = Some(known.seq);
        }
    }

    fn check_version(&mut self, feed: &mut Feed, event: &Event<'_>) {
        let last = match parse_entity(&event.entity_id) {
            Some(entity) => feed.our_versions.entry(entity).or_default(),
            None => feed.versions.entry(event.entity_id.clone().into_owned()).or_default(),
        };
        let expected = *last + 1;
        let is_good = if self.versions_are_dense { event.version == expected } else { expected <= event.version };
        *last = event.version;
        if !is_good {
            self.verdict.note(Trouble::Reordered, || {
                format!(
                    "{} at {}: version {} of {}, expected {expected}",
                    event.id, feed.position, event.version, event.entity_id
                )
            });
        }
    }

    fn end_of_feed(&mut self, feed: &Feed) {
        let tenant = self.tenant_name(feed.tenant);
        for _ in feed.baseline.values().filter(|&&count| count == 0) {
            self.verdict.note(Trouble::Lost, || format!("{tenant}: an event older than the ledger"));
        }
    }

    fn conclude(mut self) -> Verdict {
        for request in &self.ledger.requests {
            let range = request.first_event as usize..(request.first_event + request.event_count) as usize;
            let present = self.seen[range.clone()].iter().filter(|&&count| 0 < count).count() as u64;
            let all = u64::from(request.event_count);
            match request.outcome {
                Outcome::Acked { .. } => {
                    self.verdict.events_acknowledged += all;
                    for index in range.filter(|&index| self.seen[index] == 0) {
                        let event = &self.ledger.events[index];
                        let tenant = self.ledger.tenants.get(usize::from(request.tenant)).map_or("?", |it| &it.id);
                        let version = event.ack.map_or(0, |ack| ack.version);
                        self.verdict.note(Trouble::Lost, || {
                            format!(
                                "{tenant} seq {}: version {version} of {}",
                                event.seq,
                                entity_name(event.mark.entity)
                            )
                        });
                    }
                }
                Outcome::Unknown => {
                    self.verdict.unknown_present += present;
                    self.verdict.unknown_absent += all - present;
                }
                Outcome::Refused { .. } => self.verdict.events_refused += all,
            }
            let is_acked = matches!(request.outcome, Outcome::Acked { .. });
            if !is_acked && 0 < present && present < all {
                let seq = self.ledger.events[request.first_event as usize].seq;
                self.verdict.note(Trouble::Torn, || format!("seq {seq}: {present} of {all} events"));
            }
        }
        self.verdict
    }
}

/// The first thing about an event that is not as the ledger has it.
fn difference(known: &crate::ledger::SentEvent, event: &Event<'_>, id: u128) -> Option<String> {
    if payload_hash(event.payload.get().as_bytes()) != known.mark.payload_hash {
        return Some(format!("payload is {}", event.payload.get().chars().take(200).collect::<String>()));
    }
    let metadata = event.metadata.map_or("null", |metadata| metadata.get());
    if rest_hash(event.event_type.as_bytes(), metadata.as_bytes()) != known.mark.rest_hash {
        return Some(format!("type or metadata: {} {metadata}", event.event_type));
    }
    if parse_entity(&event.entity_id) != Some(known.mark.entity) {
        return Some(format!("entity {}, was {}", event.entity_id, entity_name(known.mark.entity)));
    }
    let ack = known.ack?;
    if ack.id_hash != id {
        return Some("another id than acknowledged".to_owned());
    }
    (ack.version != event.version).then(|| format!("version {}, acknowledged as {}", event.version, ack.version))
}

fn read_seq(payload: &str) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        seq: &'a str,
    }
    serde_json::from_str::<Payload<'_>>(payload).ok().and_then(|payload| Seq::parse(payload.seq))
}

#[cfg(test)]
mod tests;
