//! What must be true: a plain list of events per tenant, against which every life of a shard is checked, both ways.
//!
//! Nothing acknowledged is lost or changed; nothing appears that was not appended in this life or durable in an earlier one.

use std::collections::{BTreeMap, VecDeque};

use crate::event::EventBatch;
use crate::format::record::Record;
use crate::ids::{Micros, Position, Tenant, Version};
use crate::query::{Order, QuerySpec, Row};
use crate::shard::{AppendError, Appended};

/// An event as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEvent {
    pub event_type: String,
    pub entity: String,
    pub timestamp: Option<Micros>,
    pub payload: Vec<u8>,
    pub metadata: Vec<u8>,
    pub expected_version: Option<Version>,
}

/// An event that is in the log.
#[derive(Debug, Clone)]
pub struct Stored {
    pub event: ModelEvent,
    pub version: Version,
    pub received_at: Micros,
}

/// A batch whose answer has not come, or never will.
#[derive(Debug, Clone)]
struct Unanswered {
    ticket: u64,
    tenant: Tenant,
    events: Vec<ModelEvent>,
}

/// Whether acknowledged means durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Durable,
    /// A crash may take the end of the log, whole batches at a time, newest first.
    BestEffort,
}

/// A broken promise, in words.
pub type Violation = String;

#[derive(Debug)]
pub struct Model {
    promise: Promise,
    tenants: BTreeMap<u32, Vec<Stored>>,
    unanswered: VecDeque<Unanswered>,
    /// Answered batches in order, for `BestEffort`: tenant and number of events.
    order: Vec<(Tenant, usize)>,
    /// Highest position that may be gone because its segment was retired.
    retired: BTreeMap<u32, u64>,
}

impl Model {
    pub fn new(promise: Promise) -> Model {
        Model {
            promise,
            tenants: BTreeMap::new(),
            unanswered: VecDeque::new(),
            order: Vec::new(),
            retired: BTreeMap::new(),
        }
    }

    pub fn stored(&self, tenant: Tenant) -> &[Stored] {
        self.tenants.get(&tenant.0).map_or(&[], Vec::as_slice)
    }

    pub fn is_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    pub fn tenants(&self) -> Vec<Tenant> {
        self.tenants.keys().map(|&number| Tenant(number)).collect()
    }

    /// The version that the next event of an entity gets, as far as answers tell.
    pub fn version(&self, tenant: Tenant, entity: &str) -> Version {
        version_in(self.stored(tenant), entity)
    }

    pub fn appended(&mut self, ticket: u64, tenant: Tenant, events: Vec<ModelEvent>) {
        self.unanswered.push_back(Unanswered { ticket, tenant, events });
    }

    /// Positions up to here may vanish.
    pub fn retired(&mut self, tenant: Tenant, to: Position) {
        let known = self.retired.entry(tenant.0).or_insert(0);
        *known = (*known).max(to.0);
    }

    pub fn retired_to(&self, tenant: Tenant) -> Position {
        Position(self.retired.get(&tenant.0).copied().unwrap_or(0))
    }

    /// Checks one answer. Answers that change anything come in the order of the appends.
    pub fn answered(
        &mut self,
        ticket: u64,
        batch: &EventBatch,
        result: Result<Appended, AppendError>,
    ) -> Result<(), Violation> {
        let place = self.unanswered.iter().position(|waiting| waiting.ticket == ticket);
        let Some(place) = place else { return Err(format!("ticket {ticket} was answered twice")) };
        if result == Err(AppendError::OutcomeUnknown) {
            // It may be found after the next crash: it stays on the list.
            return Ok(());
        }
        let waiting = self.unanswered.remove(place).expect("found above");
        match result {
            Ok(appended) => self.check_appended(waiting, batch, appended),
            Err(AppendError::VersionConflict { event_index, expected, current }) => {
                self.check_conflict(&waiting, event_index, expected, current)
            }
            Err(_) => Ok(()),
        }
    }

    fn check_appended(&mut self, waiting: Unanswered, batch: &EventBatch, appended: Appended) -> Result<(), Violation> {
        let tenant = waiting.tenant;
        let stored = self.tenants.entry(tenant.0).or_default();
        let first = stored.len() as u64 + 1;
        if appended.first_position.0 != first {
            return Err(format!("tenant {} got position {} for {first}", tenant.0, appended.first_position.0));
        }
        if stored.last().is_some_and(|last| appended.received_at < last.received_at) {
            return Err(format!("tenant {} was received back in time", tenant.0));
        }
        self.order.push((tenant, waiting.events.len()));
        for (event, key) in waiting.events.into_iter().zip(batch.keys()) {
            let version = Version(version_in(stored, &event.entity).0 + 1);
            if key.version != version.0 {
                return Err(format!("entity {} got version {} for {}", event.entity, key.version, version.0));
            }
            stored.push(Stored { event, version, received_at: appended.received_at });
        }
        Ok(())
    }

    fn check_conflict(
        &self,
        waiting: &Unanswered,
        event_index: usize,
        expected: Version,
        current: Version,
    ) -> Result<(), Violation> {
        let event = &waiting.events[event_index];
        let earlier = waiting.events[..event_index].iter().filter(|other| other.entity == event.entity).count();
        let right = Version(self.version(waiting.tenant, &event.entity).0 + earlier as u64);
        if current != right || event.expected_version != Some(expected) || expected == current {
            return Err(format!("a conflict on {} named version {} for {}", event.entity, current.0, right.0));
        }
        Ok(())
    }

    /// Checks what is found after a crash, and takes it as the truth from here on.
    /// `found` has every row of every tenant that has any, oldest first, with `oldest` the first position still kept.
    pub fn recovered(&mut self, found: &BTreeMap<u32, Vec<(Position, Stored)>>) -> Result<(), Violation> {
        for (&number, rows) in found {
            let oldest = rows.first().map_or(1, |(position, _)| position.0);
            if oldest > self.retired_to(Tenant(number)).0 + 1 {
                return Err(format!("tenant {number} begins at position {oldest}: older ones were not retired"));
            }
            let dense = rows.iter().enumerate().all(|(at, (position, _))| position.0 == oldest + at as u64);
            if !dense {
                return Err(format!("tenant {number} has a hole"));
            }
        }
        let mut taken: BTreeMap<u32, u64> = BTreeMap::new();
        match self.promise {
            Promise::Durable => {
                for (&number, stored) in &self.tenants {
                    taken.insert(number, stored.len() as u64);
                }
            }
            Promise::BestEffort => self.forget_lost_end(found, &mut taken)?,
        }
        for (&number, stored) in &self.tenants {
            let last_found = found.get(&number).and_then(|rows| rows.last()).map(|(position, _)| position.0);
            let last = stored.len() as u64;
            if last_found.unwrap_or(0) < last && last > self.retired_to(Tenant(number)).0 {
                return Err(format!("tenant {number} lost acknowledged events: {last_found:?} of {last}"));
            }
        }
        self.take_unanswered(found, &mut taken)?;
        for (&number, rows) in found {
            let known = &self.tenants.get(&number).map_or(&[][..], Vec::as_slice);
            for (position, row) in rows {
                let Some(stored) = known.get(position.0 as usize - 1) else {
                    return Err(format!("tenant {number} position {} was never appended", position.0));
                };
                let is_same = stored.event.same_content(&row.event)
                    && stored.version == row.version
                    && stored.received_at == row.received_at;
                if !is_same {
                    return Err(format!("tenant {number} position {} changed: {stored:?} became {row:?}", position.0));
                }
            }
        }
        self.unanswered.clear();
        Ok(())
    }

    /// With `BestEffort`, what is found must be the answered batches up to some point.
    fn forget_lost_end(
        &mut self,
        found: &BTreeMap<u32, Vec<(Position, Stored)>>,
        taken: &mut BTreeMap<u32, u64>,
    ) -> Result<(), Violation> {
        let mut kept = 0;
        for &(tenant, count) in &self.order {
            let last = found.get(&tenant.0).and_then(|rows| rows.last()).map_or(0, |(position, _)| position.0);
            let at = taken.entry(tenant.0).or_insert(0);
            if last < *at + count as u64 && self.retired.get(&tenant.0).copied().unwrap_or(0) < *at + count as u64 {
                break;
            }
            *at += count as u64;
            kept += 1;
        }
        for (&number, stored) in &mut self.tenants {
            stored.truncate(taken.get(&number).copied().unwrap_or(0) as usize);
        }
        let is_cut = kept < self.order.len();
        self.order.truncate(kept);
        if is_cut {
            // Newer batches are gone as well: nothing unanswered may be there.
            self.unanswered.clear();
        }
        Ok(())
    }

    /// Unanswered batches may be there: a prefix of them, each whole. Those that expected a version may have been refused.
    fn take_unanswered(
        &mut self,
        found: &BTreeMap<u32, Vec<(Position, Stored)>>,
        taken: &mut BTreeMap<u32, u64>,
    ) -> Result<(), Violation> {
        let mut is_over = false;
        for waiting in std::mem::take(&mut self.unanswered) {
            let number = waiting.tenant.0;
            let at = taken.get(&number).copied().unwrap_or(0);
            let rows = found.get(&number).map_or(&[][..], Vec::as_slice);
            let start = rows.partition_point(|(position, _)| position.0 <= at);
            let is_there = rows.get(start).is_some_and(|(_, row)| row.event.same_content(&waiting.events[0]));
            let may_be_refused = waiting.events.iter().any(|event| event.expected_version.is_some());
            if !is_there {
                is_over |= !may_be_refused;
                continue;
            }
            if is_over {
                return Err(format!("tenant {number}: a batch was kept behind one that was lost"));
            }
            let stored = self.tenants.entry(number).or_default();
            for (event_index, event) in waiting.events.iter().enumerate() {
                let Some((_, row)) = rows.get(start + event_index) else {
                    return Err(format!("tenant {number}: half a batch was kept"));
                };
                if !row.event.same_content(event) {
                    return Err(format!("tenant {number}: a batch was torn apart"));
                }
                let version = Version(version_in(stored, &event.entity).0 + 1);
                stored.push(Stored { event: event.clone(), version, received_at: row.received_at });
            }
            self.order.push((waiting.tenant, waiting.events.len()));
            *taken.entry(number).or_insert(0) = at + waiting.events.len() as u64;
        }
        Ok(())
    }

    /// What a query must return when nothing is under way: positions in order, whether more match, and how many in all.
    pub fn expected(&self, spec: &QuerySpec, oldest: Position) -> (Vec<Position>, bool, u64) {
        let stored = self.stored(spec.tenant);
        let mut matching: Vec<Position> = (oldest.0..=stored.len() as u64)
            .map(Position)
            .filter(|position| {
                let row = &stored[position.0 as usize - 1];
                let timestamp = row.event.timestamp.unwrap_or(row.received_at);
                spec.matches_type(&row.event.event_type)
                    && spec.entity.as_ref().is_none_or(|entity| *entity == row.event.entity)
                    && spec.since.is_none_or(|since| since <= timestamp)
                    && spec.until.is_none_or(|until| timestamp <= until)
            })
            .collect();
        if spec.order == Order::Descending {
            matching.reverse();
        }
        if let Some(after) = spec.after {
            matching.retain(|&position| match spec.order {
                Order::Ascending => after < position,
                Order::Descending => position < after,
            });
        }
        let total = matching.len() as u64;
        let skipped: Vec<Position> = matching.into_iter().skip(spec.offset as usize).collect();
        let has_more = skipped.len() > spec.limit;
        (skipped.into_iter().take(spec.limit).collect(), has_more, total)
    }
}

impl ModelEvent {
    pub fn of(record: &Record<'_>) -> ModelEvent {
        ModelEvent {
            event_type: record.event_type.to_owned(),
            entity: record.entity.to_owned(),
            timestamp: record.timestamp,
            payload: record.payload.to_vec(),
            metadata: record.metadata.to_vec(),
            expected_version: None,
        }
    }

    fn same_content(&self, other: &ModelEvent) -> bool {
        self.event_type == other.event_type
            && self.entity == other.entity
            && self.timestamp == other.timestamp
            && self.payload == other.payload
            && self.metadata == other.metadata
    }
}

impl Stored {
    pub fn of(row: &Row<'_>) -> Stored {
        Stored { event: ModelEvent::of(&row.record), version: row.version, received_at: row.received_at }
    }
}

fn version_in(stored: &[Stored], entity: &str) -> Version {
    stored.iter().rev().find(|row| row.event.entity == entity).map_or(Version(0), |row| row.version)
}
