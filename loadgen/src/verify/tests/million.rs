//! One fault among a million acknowledged events, of each kind, each alone and all together: found, and nothing else.
//!
//! The ledger is a real one. The store is in memory and feeds the judge without a server in between.

use super::*;
use crate::corpus::{Mark, Rng, Seq, payload_hash, rest_hash};
use crate::ledger::{Ack, LedgerFile, Outcome, Tenant, id_hash};
use crate::verify::readback::Event;
use serde_json::value::RawValue;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt::Write;
use std::sync::LazyLock;

const ACKED: u32 = 1_000_000;
const TENANTS: u16 = 3;
const CONNECTIONS: u32 = 8;
const ENTITIES: u32 = 20_000;
/// Requests that are in flight at any time.
const WINDOW: usize = 16;
/// Events that are so far apart are not in flight together.
const FAR: usize = 64 * WINDOW;

/// What a server keeps of an event: its texts are made from its sequence number.
#[derive(Debug, Clone, Copy)]
struct Kept {
    seq: Seq,
    version: u64,
    id: u32,
    entity: u32,
    tenant: u16,
    texts: Texts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Texts {
    AsSent,
    OtherPayload,
    OtherType,
    OtherMetadata,
}

struct World {
    ledger: Ledger,
    kept: Vec<Kept>,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// A request that was sent and not answered yet.
struct InFlight {
    first: Seq,
    kept: Vec<Kept>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acked,
    UnknownPresent,
    UnknownAbsent,
    Refused,
}

impl World {
    /// Batches of 1 to 20 on eight connections. Of every thousand requests three are not acknowledged.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (file, _) = LedgerFile::open(&path).unwrap();
        let mut writers = [file.writer(), file.writer()];
        writers[0].run(1);
        for index in 0..TENANTS {
            writers[0].tenant(&Tenant { id: format!("t{index}"), key: format!("k{index}") });
        }
        let mut rng = Rng::new(20);
        let mut kept: Vec<Kept> = Vec::with_capacity(ACKED as usize + 20_000);
        let mut versions = vec![0; usize::from(TENANTS) * ENTITIES as usize];
        let mut numbers = [0; CONNECTIONS as usize];
        let mut in_flight = VecDeque::new();
        let (mut acked, mut request, mut id) = (0, 0_usize, 0);
        let mut text = String::new();
        while acked < ACKED || !in_flight.is_empty() {
            if in_flight.len() == WINDOW || acked == ACKED {
                let InFlight { first, kept, fate }: InFlight = in_flight.pop_front().unwrap();
                let writer = &mut writers[usize::from(kept[0].tenant) % 2];
                let ack =
                    |kept: &Kept| Ack { id_hash: id_hash(id_text(&mut String::new(), kept.id)), version: kept.version };
                match fate {
                    Fate::Acked => writer.acked(first, &kept.iter().map(ack).collect::<Vec<_>>()),
                    Fate::Refused => writer.refused(first, 429),
                    Fate::UnknownPresent | Fate::UnknownAbsent => {}
                }
                continue;
            }
            let (connection, tenant) = (request as u32 % CONNECTIONS, (request % usize::from(TENANTS)) as u16);
            let fate = match request % 1000 {
                300 => Fate::UnknownPresent,
                500 => Fate::UnknownAbsent,
                700 => Fate::Refused,
                _ => Fate::Acked,
            };
            let mut count = 1 + rng.below(20) as u32;
            if fate == Fate::Acked {
                count = count.min(ACKED - acked);
                acked += count;
            }
            let number = &mut numbers[connection as usize];
            let first = Seq::new(0, connection, *number);
            *number += u64::from(count);
            let mut sent = Vec::new();
            for index in 0..count {
                let entity = rng.below(u64::from(ENTITIES)) as u32;
                let mut version = 0;
                if matches!(fate, Fate::Acked | Fate::UnknownPresent) {
                    let last = &mut versions[usize::from(tenant) * ENTITIES as usize + entity as usize];
                    *last += 1;
                    version = *last;
                    id += 1;
                }
                let seq = first.plus(u64::from(index));
                sent.push(Kept { seq, version, id, entity, tenant, texts: Texts::AsSent });
            }
            let marks: Vec<Mark> = sent.iter().map(|kept| kept.mark(&mut text)).collect();
            writers[usize::from(tenant) % 2].sent(first, tenant, &marks);
            if matches!(fate, Fate::Acked | Fate::UnknownPresent) {
                kept.extend(&sent);
            }
            in_flight.push_back(InFlight { first, kept: sent, fate });
            request += 1;
        }
        writers.iter_mut().for_each(|writer| writer.flush().unwrap());
        drop((file, writers));
        Self { ledger: Ledger::read(&path).unwrap(), kept }
    }

    /// The place of an acknowledged event, in no request that was chosen before.
    fn choose(&self, rng: &mut Rng, kept: &[Kept], used: &mut BTreeSet<u32>) -> usize {
        loop {
            let place = rng.below(kept.len() as u64) as usize;
            let Some(event) = self.ledger.event_by_seq(kept[place].seq) else { continue };
            let is_acked = matches!(self.ledger.request_of(event).outcome, Outcome::Acked { .. });
            if is_acked && used.insert(self.ledger.request_index(event)) {
                return place;
            }
        }
    }
}

fn id_text(out: &mut String, id: u32) -> &str {
    out.clear();
    write!(out, "id-{id}").unwrap();
    out
}

impl Kept {
    fn payload<'a>(&self, out: &'a mut String) -> &'a str {
        out.clear();
        let number = self.seq.0 % 1000 + u64::from(self.texts == Texts::OtherPayload);
        write!(out, r#"{{"seq":"{}","n":{number}}}"#, self.seq).unwrap();
        out
    }

    fn event_type(&self) -> &'static str {
        const TYPES: [&str; 5] = ["order.created", "order.fulfilled", "user.logged_in", "cart.item_added", "other"];
        TYPES[if self.texts == Texts::OtherType { 4 } else { self.seq.0 as usize % 4 }]
    }

    fn metadata(&self) -> &'static str {
        const METADATA: [&str; 4] = [r#"{"source":"a"}"#, r#"{"source":"b"}"#, "{}", "null"];
        METADATA[if self.texts == Texts::OtherMetadata { 3 } else { self.seq.0 as usize % 3 }]
    }

    fn mark(&self, text: &mut String) -> Mark {
        Mark {
            entity: self.entity,
            payload_hash: payload_hash(self.payload(text).as_bytes()),
            rest_hash: rest_hash(self.event_type().as_bytes(), self.metadata().as_bytes()),
        }
    }
}

fn judge_kept(world: &World, kept: &[Kept]) -> Verdict {
    let mut judge = Judge::new(&world.ledger, true, Findings::new(None).unwrap());
    let (mut payload, mut id, mut entity) = (String::new(), String::new(), String::new());
    for tenant in 0..TENANTS {
        let mut feed = Feed::new(tenant, &world.ledger);
        for kept in kept.iter().filter(|kept| kept.tenant == tenant) {
            entity.clear();
            write!(entity, "e-{:08x}", kept.entity).unwrap();
            let event = Event {
                id: id_text(&mut id, kept.id).into(),
                event_type: kept.event_type().into(),
                entity_id: entity.as_str().into(),
                payload: serde_json::from_str::<&RawValue>(kept.payload(&mut payload)).unwrap(),
                metadata: Some(serde_json::from_str(kept.metadata()).unwrap()),
                version: kept.version,
            };
            judge.see(&mut feed, &event);
        }
        judge.end_feed(feed);
    }
    judge.conclude().unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Lost,
    Doubled,
    Swapped,
    Changed,
    Invented,
    Copied,
    Moved,
    Torn,
}

const ALL: [Fault; 8] = [
    Fault::Lost,
    Fault::Doubled,
    Fault::Swapped,
    Fault::Changed,
    Fault::Invented,
    Fault::Copied,
    Fault::Moved,
    Fault::Torn,
];

type Expected = Vec<(Trouble, Option<Seq>)>;

/// Plants a fault at a place that nobody used yet; answers what is to be found of it.
fn plant(world: &World, fault: Fault, rng: &mut Rng, kept: &mut Vec<Kept>, used: &mut BTreeSet<u32>) -> Expected {
    let place = world.choose(rng, kept, used);
    let chosen = kept[place];
    let one = |kind: Trouble| vec![(kind, Some(chosen.seq))];
    match fault {
        Fault::Lost => {
            kept.remove(place);
            one(Trouble::Lost)
        }
        Fault::Doubled => {
            kept.insert(rng.below(kept.len() as u64) as usize, chosen);
            one(Trouble::Duplicated)
        }
        Fault::Swapped => {
            let other = loop {
                let other = world.choose(rng, kept, used);
                if FAR < other.abs_diff(place) && kept[other].tenant == chosen.tenant {
                    break other;
                }
            };
            kept.swap(place, other);
            [place, other].map(|place| (Trouble::Reordered, Some(kept[place].seq))).to_vec()
        }
        Fault::Changed => {
            let changed = &mut kept[place];
            match rng.below(6) {
                0 => changed.texts = Texts::OtherPayload,
                1 => changed.texts = Texts::OtherType,
                2 => changed.texts = Texts::OtherMetadata,
                3 => changed.entity = (changed.entity + 1) % ENTITIES,
                4 => changed.version += 1 + rng.below(3),
                _ => changed.id += 10_000_000,
            }
            one(Trouble::Changed)
        }
        Fault::Invented => {
            let version = 1 + rng.below(20);
            let invented = Kept { seq: Seq::new(7, 0, 5), id: 20_000_000, version, ..chosen };
            kept.insert(rng.below(kept.len() as u64) as usize, invented);
            vec![(Trouble::Invented, None)]
        }
        Fault::Copied => {
            let copy = Kept { tenant: (chosen.tenant + 1) % TENANTS, ..chosen };
            kept.insert(rng.below(kept.len() as u64) as usize, copy);
            one(Trouble::Leaked)
        }
        Fault::Moved => {
            kept[place].tenant = (chosen.tenant + 1) % TENANTS;
            one(Trouble::Leaked)
        }
        Fault::Torn => {
            let there: HashSet<Seq> = kept.iter().map(|kept| kept.seq).collect();
            let requests = &world.ledger.requests;
            let is_good = |request: &crate::ledger::SentRequest| {
                request.outcome == Outcome::Unknown && 1 < request.event_count && there.contains(&request.first_seq)
            };
            let from = rng.below(requests.len() as u64) as usize;
            let mut from_there = (from..requests.len()).chain(0..from);
            let index = from_there.find(|&index| is_good(&requests[index]) && used.insert(index as u32)).unwrap();
            let request = &requests[index];
            let (first, count) = (request.first_seq, u64::from(request.event_count));
            let cut = first.plus(1 + rng.below(count - 1));
            kept.retain(|kept| !(cut..first.plus(count)).contains(&kept.seq));
            vec![(Trouble::Torn, Some(first))]
        }
    }
}

/// Exactly these findings, each once.
fn check(faults: &[Fault], seed: u64) {
    let world = &*WORLD;
    let (mut kept, mut rng, mut used) = (world.kept.clone(), Rng::new(seed), BTreeSet::new());
    let mut expected = Expected::new();
    for &fault in faults {
        expected.extend(plant(world, fault, &mut rng, &mut kept, &mut used));
    }
    let verdict = judge_kept(world, &kept);
    let findings: Vec<&Finding> = verdict.examples.values().flatten().collect();
    let mut found: Expected = findings.iter().map(|finding| (finding.kind, finding.seq)).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{faults:?}, seed {seed}: {findings:#?}");
    assert_eq!(verdict.count_of_trouble(), expected.len() as u64, "{faults:?}, seed {seed}");
    assert_eq!(verdict.events_acknowledged, u64::from(ACKED));
    assert_eq!(verdict.events_read, kept.len() as u64);
}

#[test]
fn a_million_good_events_pass() {
    check(&[], 1);
    let requests = &WORLD.ledger.requests;
    let count = |is_meant: fn(&Outcome) -> bool| requests.iter().filter(|request| is_meant(&request.outcome)).count();
    assert!(100 < count(|outcome| *outcome == Outcome::Unknown));
    assert!(50 < count(|outcome| matches!(outcome, Outcome::Refused { .. })));
}

#[test]
fn one_lost_event_of_a_million_is_found() {
    check(&[Fault::Lost], 2);
}

#[test]
fn one_doubled_event_of_a_million_is_found() {
    check(&[Fault::Doubled], 3);
}

#[test]
fn two_swapped_events_of_a_million_are_found() {
    check(&[Fault::Swapped], 4);
}

#[test]
fn one_changed_event_of_a_million_is_found() {
    check(&[Fault::Changed], 5);
}

#[test]
fn one_invented_event_of_a_million_is_found() {
    check(&[Fault::Invented], 6);
}

#[test]
fn one_leaked_event_of_a_million_is_found() {
    check(&[Fault::Copied], 7);
    check(&[Fault::Moved], 8);
}

#[test]
fn one_torn_request_among_a_million_events_is_found() {
    check(&[Fault::Torn], 9);
}

#[test]
fn faults_of_all_kinds_are_told_apart() {
    check(&ALL, 10);
}
