//! The judge: finds out which event of the ledger each event of a feed is, and what is wrong with it.
//!
//! Owns how often every event was seen. It waits for nobody and asks nobody: events go in, findings come out, and a
//! tenant's order is left to its [`Feed`].

use super::feed::{Disorder, EntityName, Feed};
use super::readback::Event;
use super::verdict::{Finding, Findings, Trouble, Verdict};
use crate::corpus::{Seq, entity_name, parse_entity, payload_hash, rest_hash};
use crate::failure::Failure;
use crate::ledger::{Ledger, Outcome, id_hash};
use serde::Deserialize;
use std::cell::OnceCell;
use std::collections::HashSet;

pub struct Judge<'a> {
    ledger: &'a Ledger,
    versions_are_dense: bool,
    /// How often each event of the ledger was read where it belongs; 255 stands for more, too.
    counts: Vec<u8>,
    /// Acknowledged events by half the hash of their id; made when the first payload does not tell who it is.
    by_id: OnceCell<Vec<(u64, u32)>>,
    leaks: Vec<Leak>,
    events_read: u64,
    findings: Findings,
}

/// An event of the ledger in another tenant's feed.
struct Leak {
    event: u32,
    seen_in: u16,
    position: u64,
    id: String,
}

impl<'a> Judge<'a> {
    pub fn new(ledger: &'a Ledger, versions_are_dense: bool, findings: Findings) -> Self {
        let counts = vec![0; ledger.event_count() as usize];
        let (by_id, leaks) = (OnceCell::new(), Vec::new());
        Self { ledger, versions_are_dense, counts, by_id, leaks, events_read: 0, findings }
    }

    pub fn events_read(&self) -> u64 {
        self.events_read
    }

    /// How many events there are to read, if nothing is wrong and whatever is unknown is not there.
    pub fn events_expected(&self) -> u64 {
        let acked = self.ledger.requests.iter().filter(|request| matches!(request.outcome, Outcome::Acked { .. }));
        let older: usize = self.ledger.baselines.values().map(Vec::len).sum();
        acked.map(|request| u64::from(request.event_count)).sum::<u64>() + older as u64
    }

    /// The next event of a tenant's feed, oldest first.
    pub fn see(&mut self, feed: &mut Feed, event: &Event<'_>) {
        self.events_read += 1;
        feed.position += 1;
        let id = id_hash(&event.id);
        let named = parse_entity(&event.entity_id).map_or(EntityName::Other(&event.entity_id), EntityName::Ours);
        if let Some(count) = feed.count_baseline(id) {
            if count == 1 {
                return feed.take_other(named, event.version);
            }
            feed.pass(named, event.version);
            return self.note(Trouble::Duplicated, feed, event, None, "older than the ledger".to_owned());
        }
        let Some(known) = self.identify(event, id) else {
            feed.pass(named, event.version);
            let what = format!("nobody sent it: {}", start_of(event.payload.get()));
            return self.note(Trouble::Invented, feed, event, None, what);
        };
        let ledger = self.ledger;
        let request = ledger.request_of(known);
        if request.tenant != feed.tenant {
            feed.pass(named, event.version);
            let (seen_in, position, id) = (feed.tenant, feed.position, event.id.clone().into_owned());
            return self.leaks.push(Leak { event: known, seen_in, position, id });
        }
        let count = self.counts[known as usize].saturating_add(1);
        self.counts[known as usize] = count;
        if 1 < count {
            feed.pass(named, event.version);
            return self.note(Trouble::Duplicated, feed, event, Some(known), format!("read {count} times"));
        }
        // What was acknowledged counts for the order: an event with another version is changed, not out of order.
        feed.take(ledger, known, ledger.ack(known).map_or(event.version, |ack| ack.version));
        if let Outcome::Refused { status } = request.outcome {
            self.note(Trouble::Invented, feed, event, Some(known), format!("it was refused with {status}"));
        }
        if let Some(difference) = difference(ledger, known, event, id) {
            self.note(Trouble::Changed, feed, event, Some(known), difference);
        }
    }

    /// Nothing more comes of this feed.
    pub fn end_feed(&mut self, feed: Feed) {
        let (tenant, lost_baseline) = (feed.tenant, feed.lost_baseline());
        for _ in 0..lost_baseline {
            let what = "an event older than the ledger".to_owned();
            self.note_absent(Trouble::Lost, tenant, None, what);
        }
        for disorder in feed.conclude(self.ledger, &self.counts, self.versions_are_dense) {
            match disorder {
                Disorder::Misplaced { event, position, why } => self.findings.note(Finding {
                    kind: Trouble::Reordered,
                    tenant: self.tenant_name(tenant),
                    position: Some(position),
                    id: None,
                    seq: event.map(|event| self.ledger.seq(event)),
                    what: why,
                }),
                Disorder::Skipped { entity, first, last } => {
                    let what = match first == last {
                        true => format!("nobody has version {first} of {entity}"),
                        false => format!("nobody has the versions {first} to {last} of {entity}"),
                    };
                    self.note_absent(Trouble::Skipped, tenant, None, what);
                }
            }
        }
    }

    /// When all feeds have ended: what is missing, and the sum of it. Fails when the findings could not be listed.
    pub fn conclude(mut self) -> Result<Verdict, Failure> {
        let ledger = self.ledger;
        let mut verdict = Verdict {
            tenants: ledger.tenants.len(),
            runs: ledger.run_count,
            requests_sent: ledger.requests.len() as u64,
            events_sent: u64::from(ledger.event_count()),
            events_read: self.events_read,
            ledger_torn_bytes: ledger.torn_bytes,
            ..Verdict::default()
        };
        let leaked = self.conclude_leaks();
        for request in &ledger.requests {
            let all = u64::from(request.event_count);
            let range = request.first_event as usize..(request.first_event + request.event_count) as usize;
            let present = self.counts[range].iter().filter(|&&count| 0 < count).count() as u64;
            match request.outcome {
                Outcome::Acked { .. } => {
                    verdict.events_acknowledged += all;
                    let is_lost = |event: &u32| self.counts[*event as usize] == 0 && !leaked.contains(event);
                    for event in request.events().filter(is_lost).collect::<Vec<_>>() {
                        let version = ledger.ack(event).map_or(0, |ack| ack.version);
                        let what =
                            format!("acknowledged as version {version} of {}", entity_name(ledger.mark(event).entity));
                        self.note_absent(Trouble::Lost, request.tenant, Some(ledger.seq(event)), what);
                    }
                }
                Outcome::Unknown => {
                    verdict.events_unknown += all;
                    verdict.unknown_present += present;
                    verdict.unknown_absent += all - present;
                    if 0 < present && present < all {
                        let what = format!("{present} of the request's {all} events are there");
                        self.note_absent(Trouble::Torn, request.tenant, Some(request.first_seq), what);
                    }
                }
                Outcome::Refused { .. } => verdict.events_refused += all,
            }
        }
        self.findings.close_into(&mut verdict)?;
        Ok(verdict)
    }

    /// Answers which events were seen in a tenant that is not theirs.
    fn conclude_leaks(&mut self) -> HashSet<u32> {
        let mut leaked = HashSet::new();
        for Leak { event, seen_in, position, id } in std::mem::take(&mut self.leaks) {
            let owner = self.tenant_name(self.ledger.request_of(event).tenant);
            leaked.insert(event);
            let is_home = 0 < self.counts[event as usize];
            let home = if is_home { "where it is too" } else { "where it is missing" };
            self.findings.note(Finding {
                kind: Trouble::Leaked,
                tenant: self.tenant_name(seen_in),
                position: Some(position),
                id: Some(id),
                seq: Some(self.ledger.seq(event)),
                what: format!("it belongs to {owner}, {home}"),
            });
        }
        leaked
    }

    /// Which event of the ledger this is. An id that was acknowledged says it best; a payload says it where there was
    /// no acknowledgement, or where the id is another one.
    fn identify(&self, event: &Event<'_>, id: u128) -> Option<u32> {
        let by_seq = read_seq(event.payload.get()).and_then(|seq| self.ledger.event_by_seq(seq));
        let is_sure = by_seq.is_some_and(|known| match self.ledger.ack(known) {
            Some(ack) => ack.id_hash == id,
            None => self.ledger.mark(known).payload_hash == payload_hash(event.payload.get().as_bytes()),
        });
        if is_sure { by_seq } else { self.event_by_id(id).or(by_seq) }
    }

    fn event_by_id(&self, id: u128) -> Option<u32> {
        let by_id = self.by_id.get_or_init(|| {
            let acked = (0..self.ledger.event_count()).filter_map(|event| Some((event, self.ledger.ack(event)?)));
            let mut pairs: Vec<(u64, u32)> = acked.map(|(event, ack)| (ack.id_hash as u64, event)).collect();
            pairs.sort_unstable();
            pairs
        });
        let from = by_id.partition_point(|&(half, _)| half < id as u64);
        let mut candidates = by_id[from..].iter().take_while(|&&(half, _)| half == id as u64).map(|&(_, event)| event);
        candidates.find(|&event| self.ledger.ack(event).is_some_and(|ack| ack.id_hash == id))
    }

    fn tenant_name(&self, tenant: u16) -> String {
        self.ledger.tenants.get(usize::from(tenant)).map_or("?", |tenant| &tenant.id).to_owned()
    }

    fn note(&mut self, kind: Trouble, feed: &Feed, event: &Event<'_>, known: Option<u32>, what: String) {
        self.findings.note(Finding {
            kind,
            tenant: self.tenant_name(feed.tenant),
            position: Some(feed.position),
            id: Some(event.id.clone().into_owned()),
            seq: known.map(|known| self.ledger.seq(known)),
            what,
        });
    }

    fn note_absent(&mut self, kind: Trouble, tenant: u16, seq: Option<Seq>, what: String) {
        let tenant = self.tenant_name(tenant);
        self.findings.note(Finding { kind, tenant, position: None, id: None, seq, what });
    }
}

/// The first thing about an event that is not as the ledger has it.
fn difference(ledger: &Ledger, known: u32, event: &Event<'_>, id: u128) -> Option<String> {
    let mark = ledger.mark(known);
    if payload_hash(event.payload.get().as_bytes()) != mark.payload_hash {
        return Some(format!("the payload is {}", start_of(event.payload.get())));
    }
    let metadata = event.metadata.map_or("null", |metadata| metadata.get());
    if rest_hash(event.event_type.as_bytes(), metadata.as_bytes()) != mark.rest_hash {
        return Some(format!("the type or the metadata is another: {} {}", event.event_type, start_of(metadata)));
    }
    if parse_entity(&event.entity_id) != Some(mark.entity) {
        return Some(format!("the entity is {}, and was {}", event.entity_id, entity_name(mark.entity)));
    }
    let ack = ledger.ack(known)?;
    if ack.id_hash != id {
        return Some("the id is not the acknowledged one".to_owned());
    }
    (ack.version != event.version)
        .then(|| format!("the version is {}, and {} was acknowledged", event.version, ack.version))
}

fn start_of(text: &str) -> String {
    text.chars().take(200).collect()
}

fn read_seq(payload: &str) -> Option<Seq> {
    #[derive(Deserialize)]
    struct Payload<'a> {
        seq: &'a str,
    }
    // As it was sent; anything else takes the long way.
    let digits = payload.strip_prefix(r#"{"seq":""#).and_then(|rest| rest.split_once('"'));
    digits
        .and_then(|(digits, _)| Seq::parse(digits))
        .or_else(|| serde_json::from_str::<Payload<'_>>(payload).ok().and_then(|payload| Seq::parse(payload.seq)))
}
