//! One tenant's events as they go by, and whether they stand in order.
//!
//! While events go by, cheap signs are watched: a version that does not follow, a place that goes back, an
//! acknowledgement older than the latest sending. A good feed ends with no sign and costs nothing more. Only where
//! there was one, the end of the feed finds out whom to blame (see [`super::order`]).

use super::order::{Span, not_rising, out_of_place};
use crate::corpus::entity_name;
use crate::ledger::{Ledger, Moment};
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// One event that stands in the feed.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Its place in the ledger, or [`NOT_OURS`].
    event: u32,
    /// An index of [`Feed::entities`].
    entity: u32,
    version: u64,
    standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its place is to be judged.
    Open,
    /// Blamed already: its place says nothing more.
    Blamed,
    /// It should not be here at all: at most it explains where a version went.
    Stranger,
}

const NOT_OURS: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Entity {
    version_last: u64,
    is_suspect: bool,
}

/// Two look-ups per event: the usual hash of a number would cost as much as everything else here.
type Numbered<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;

#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(u32::from(byte)));
    }

    fn write_u32(&mut self, number: u32) {
        // The table looks at the highest and at the lowest bits.
        self.0 = (self.0 ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Debug, Default)]
struct Progress {
    /// The place that follows the one seen last.
    next: u32,
    count: u32,
}

/// Names of a feed's entities: those that we made are numbers.
#[derive(Debug, Default)]
struct Names {
    ours: Numbered<u32>,
    others: HashMap<String, u32>,
}

#[derive(Debug)]
pub struct Feed {
    pub tenant: u16,
    /// Events so far.
    pub position: u64,
    seen: Vec<Seen>,
    names: Names,
    entities: Vec<Entity>,
    /// Sorted, and how often each was seen.
    baseline: Vec<(u128, u32)>,
    latest_sent_at: Moment,
    /// Requests of which a part was seen.
    requests: Numbered<Progress>,
    is_order_suspect: bool,
    suspect_requests: HashSet<u32>,
}

/// What the end of a feed finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Disorder {
    /// Of an event of the ledger, or of another; `position` from 1.
    Misplaced { event: Option<u32>, position: u64, why: String },
    /// Versions of an entity that nobody has.
    Skipped { entity: String, first: u64, last: u64 },
}

/// Whose version it is.
#[derive(Debug, Clone, Copy)]
pub enum EntityName<'a> {
    Ours(u32),
    Other(&'a str),
}

impl Feed {
    pub fn new(tenant: u16, ledger: &Ledger) -> Self {
        let mut baseline: Vec<(u128, u32)> =
            ledger.baselines.get(&tenant).into_iter().flatten().map(|&id| (id, 0)).collect();
        baseline.sort_unstable();
        Self {
            tenant,
            position: 0,
            seen: Vec::new(),
            names: Names::default(),
            entities: Vec::new(),
            baseline,
            latest_sent_at: Moment::default(),
            requests: Numbered::default(),
            is_order_suspect: false,
            suspect_requests: HashSet::new(),
        }
    }

    /// How often an event that is older than the ledger was seen, this time included; `None` for any other.
    pub fn count_baseline(&mut self, id: u128) -> Option<u32> {
        let at = self.baseline.binary_search_by_key(&id, |&(known, _)| known).ok()?;
        self.baseline[at].1 += 1;
        Some(self.baseline[at].1)
    }

    pub fn lost_baseline(&self) -> usize {
        self.baseline.iter().filter(|&&(_, count)| count == 0).count()
    }

    /// An event of the ledger, seen for the first time.
    pub fn take(&mut self, ledger: &Ledger, event: u32, version: u64) {
        let request_index = ledger.request_index(event);
        let request = &ledger.requests[request_index as usize];
        if request.acked_at() < self.latest_sent_at {
            self.is_order_suspect = true;
        }
        self.latest_sent_at = self.latest_sent_at.max(request.sent_at);
        if 1 < request.event_count {
            let progress = self.requests.entry(request_index).or_default();
            let place = event - request.first_event;
            if place < progress.next {
                self.suspect_requests.insert(request_index);
            }
            progress.next = place + 1;
            progress.count += 1;
            if progress.count == request.event_count {
                self.requests.remove(&request_index);
            }
        }
        let entity = self.entity(EntityName::Ours(ledger.mark(event).entity));
        self.push(Seen { event, entity, version, standing: Standing::Open });
    }

    /// An event that is not the ledger's, and has its place in the feed all the same.
    pub fn take_other(&mut self, entity: EntityName<'_>, version: u64) {
        let entity = self.entity(entity);
        self.push(Seen { event: NOT_OURS, entity, version, standing: Standing::Open });
    }

    /// An event that should not be here, and was reported as what it is.
    pub fn pass(&mut self, entity: EntityName<'_>, version: u64) {
        let entity = self.entity(entity);
        self.entities[entity as usize].is_suspect = true;
        self.seen.push(Seen { event: NOT_OURS, entity, version, standing: Standing::Stranger });
    }

    fn push(&mut self, seen: Seen) {
        let entity = &mut self.entities[seen.entity as usize];
        if seen.version != entity.version_last.wrapping_add(1) {
            entity.is_suspect = true;
        }
        entity.version_last = seen.version;
        self.seen.push(seen);
    }

    fn entity(&mut self, name: EntityName<'_>) -> u32 {
        let fresh = self.entities.len() as u32;
        let index = match name {
            EntityName::Ours(number) => *self.names.ours.entry(number).or_insert(fresh),
            EntityName::Other(name) => match self.names.others.get(name) {
                Some(&index) => index,
                None => {
                    self.names.others.insert(name.to_owned(), fresh);
                    fresh
                }
            },
        };
        if index == fresh {
            self.entities.push(Entity::default());
        }
        index
    }

    /// Everything that is out of order, each event once. `counts` says how often each event of the ledger was seen
    /// in its own tenant; `versions_are_dense` that no version may be missing.
    pub fn conclude(mut self, ledger: &Ledger, counts: &[u8], versions_are_dense: bool) -> Vec<Disorder> {
        // Where it stood first is as good as where it stood again, so neither place is blamed.
        for seen in self.seen.iter_mut().filter(|seen| seen.event != NOT_OURS) {
            if 1 < counts[seen.event as usize] {
                seen.standing = Standing::Blamed;
            }
        }
        let mut found = Vec::new();
        if self.is_order_suspect {
            self.blame_order(ledger, &mut found);
        }
        if !self.suspect_requests.is_empty() {
            self.blame_requests(ledger, &mut found);
        }
        if self.entities.iter().any(|entity| entity.is_suspect) {
            self.blame_versions(ledger, counts, versions_are_dense, &mut found);
        }
        found
    }

    /// The event at this place of [`Feed::seen`] is out of order.
    fn blame(&mut self, place: usize, found: &mut Vec<Disorder>, why: String) {
        let seen = &mut self.seen[place];
        seen.standing = Standing::Blamed;
        let event = Some(seen.event).filter(|&event| event != NOT_OURS);
        // Every event is pushed once, so places are positions.
        found.push(Disorder::Misplaced { event, position: place as u64 + 1, why });
    }

    fn blame_order(&mut self, ledger: &Ledger, found: &mut Vec<Disorder>) {
        let is_judged = |seen: &Seen| seen.event != NOT_OURS && seen.standing == Standing::Open;
        let places: Vec<usize> = (0..self.seen.len()).filter(|&place| is_judged(&self.seen[place])).collect();
        let spans: Vec<Span> = places
            .iter()
            .map(|&place| {
                let request = ledger.request_of(self.seen[place].event);
                Span { sent_at: request.sent_at, acked_at: request.acked_at() }
            })
            .collect();
        let blamed = out_of_place(&spans);
        let mut is_blamed = vec![false; spans.len()];
        blamed.iter().for_each(|&at| is_blamed[at] = true);
        // A witness among the good ones: the last sent before each of the blamed.
        let mut latest: Option<usize> = None;
        for at in 0..spans.len() {
            if !is_blamed[at] {
                if latest.is_none_or(|other| spans[other].sent_at < spans[at].sent_at) {
                    latest = Some(at);
                }
                continue;
            }
            let witness = latest.filter(|&other| spans[at].acked_at < spans[other].sent_at);
            let why = match witness.map(|other| ledger.seq(self.seen[places[other]].event)) {
                Some(seq) => format!("stands after seq {seq}, which was sent after this one was acknowledged"),
                None => "stands before events that were acknowledged before this one was sent".to_owned(),
            };
            self.blame(places[at], found, why);
        }
    }

    fn blame_requests(&mut self, ledger: &Ledger, found: &mut Vec<Disorder>) {
        let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, seen) in self.seen.iter().enumerate() {
            if seen.event == NOT_OURS || seen.standing != Standing::Open {
                continue;
            }
            let request = ledger.request_index(seen.event);
            if self.suspect_requests.contains(&request) {
                members.entry(request).or_default().push(place);
            }
        }
        for places in sorted(members) {
            let events: Vec<u64> = places.iter().map(|&place| u64::from(self.seen[place].event)).collect();
            for at in not_rising(&events) {
                self.blame(places[at], found, "out of order within its request".to_owned());
            }
        }
    }

    fn blame_versions(&mut self, ledger: &Ledger, counts: &[u8], versions_are_dense: bool, found: &mut Vec<Disorder>) {
        let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
        for (place, seen) in self.seen.iter().enumerate() {
            if self.entities[seen.entity as usize].is_suspect {
                members.entry(seen.entity).or_default().push(place);
            }
        }
        let names: HashMap<u32, String> = self
            .names
            .ours
            .iter()
            .map(|(&number, &index)| (index, number))
            .filter(|(index, _)| self.entities[*index as usize].is_suspect)
            .map(|(index, number)| (index, entity_name(number)))
            .chain(self.names.others.iter().map(|(name, &index)| (index, name.clone())))
            .collect();
        let mut excuses = if versions_are_dense { self.excuses(ledger, counts) } else { HashMap::new() };
        let mut entities: Vec<u32> = members.keys().copied().collect();
        entities.sort_unstable();
        for entity in entities {
            let places = &members[&entity];
            let mut taken: Vec<u64> = places.iter().map(|&place| self.seen[place].version).collect();
            let is_native = |place: &&usize| self.seen[**place].standing != Standing::Stranger;
            let largest = places.iter().filter(is_native).map(|&place| self.seen[place].version).max();
            let is_open = |&place: &usize| self.seen[place].standing == Standing::Open;
            let places: Vec<usize> = places.iter().copied().filter(is_open).collect();
            let versions: Vec<u64> = places.iter().map(|&place| self.seen[place].version).collect();
            for at in not_rising(&versions) {
                let why = format!("version {} of {} stands out of order", versions[at], names[&entity]);
                self.blame(places[at], found, why);
            }
            if versions_are_dense {
                let excuse = excuses.remove(&entity).unwrap_or_default();
                taken.extend(excuse.versions);
                taken.retain(|&version| version <= largest.unwrap_or_default());
                for (first, last) in missing(taken, excuse.any_count) {
                    found.push(Disorder::Skipped { entity: names[&entity].clone(), first, last });
                }
            }
        }
    }

    /// Versions of suspect entities that are missing for a reason that is reported elsewhere.
    fn excuses(&self, ledger: &Ledger, counts: &[u8]) -> HashMap<u32, Excuse> {
        let mut excuses: HashMap<u32, Excuse> = HashMap::new();
        for request in ledger.requests.iter().filter(|request| request.tenant == self.tenant) {
            let absent = || request.events().filter(|&event| counts[event as usize] == 0);
            let absent_count = absent().count() as u32;
            if absent_count == 0 || (request.acked_at() == Moment::NEVER && absent_count == request.event_count) {
                continue;
            }
            for event in absent() {
                let index = self.names.ours.get(&ledger.mark(event).entity).copied();
                let Some(index) = index.filter(|&index| self.entities[index as usize].is_suspect) else { continue };
                let excuse = excuses.entry(index).or_default();
                match ledger.ack(event) {
                    Some(ack) => excuse.versions.push(ack.version),
                    None => excuse.any_count += 1,
                }
            }
        }
        excuses
    }
}

/// Lost events have taken these versions; the missing part of a torn request some more, nobody knows which.
#[derive(Debug, Default)]
struct Excuse {
    versions: Vec<u64>,
    any_count: u64,
}

/// Values in the order of their keys, so that the same feed gives the same findings.
fn sorted<V>(map: HashMap<u32, V>) -> Vec<V> {
    let mut pairs: Vec<(u32, V)> = map.into_iter().collect();
    pairs.sort_unstable_by_key(|&(key, _)| key);
    pairs.into_iter().map(|(_, value)| value).collect()
}

/// Ranges from 1 to the largest of `taken` that are not in it, but for the first `excused` numbers of them.
fn missing(mut taken: Vec<u64>, mut excused: u64) -> Vec<(u64, u64)> {
    taken.sort_unstable();
    let mut ranges = Vec::new();
    let mut last = 0;
    for version in taken {
        let absent = version.saturating_sub(last).saturating_sub(1);
        let kept = absent.saturating_sub(excused);
        excused -= absent - kept;
        if 0 < kept {
            ranges.push((version - kept, version - 1));
        }
        last = last.max(version);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn missing_versions_are_ranges() {
        assert_eq!(missing(vec![3, 1, 2], 0), []);
        assert_eq!(missing(vec![7, 1, 3, 3], 0), [(2, 2), (4, 6)]);
        assert_eq!(missing(vec![7, 1, 3], 2), [(5, 6)]);
        assert_eq!(missing(vec![0, 1], 0), []);
        assert_eq!(missing(vec![u64::MAX, u64::MAX], 1), [(2, u64::MAX - 1)]);
    }
}
