//! What must be true: a plain list of events per tenant, against which every life of a shard is checked, both ways.
//!
//! Nothing acknowledged is lost or changed; nothing appears that was not appended in this life or durable in an earlier one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::event::{EventBatch, KeyClass};
use crate::format::record::{RECORD_HEADER_BYTES, Record};
use crate::ids::{Micros, Position, Tenant, Version};
use crate::month::Month;
use crate::query::{Order, QuerySpec, Row};
use crate::shard::{AppendError, Appended, KeyBounds, Limits, QuotaKind, Usage};
use crate::sim::keyed::{Key, KeyModel, Received};

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
    key: Option<Key>,
    /// What the wall clock showed since it was sent.
    wall: Received,
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
    /// What the shard was told. Changed only while no answer is outstanding, so that it held for every answer.
    limits: BTreeMap<u32, Limits>,
    keys: KeyModel,
    /// Whom the shard was told to erase: nothing is expected of them but that they are not found.
    erased: BTreeSet<u32>,
}

impl Model {
    pub fn new(promise: Promise, bounds: KeyBounds) -> Model {
        Model {
            promise,
            tenants: BTreeMap::new(),
            unanswered: VecDeque::new(),
            order: Vec::new(),
            retired: BTreeMap::new(),
            limits: BTreeMap::new(),
            keys: KeyModel::new(bounds),
            erased: BTreeSet::new(),
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

    pub fn set_limits(&mut self, tenant: Tenant, limits: Limits) {
        assert!(self.is_answered());
        self.limits.insert(tenant.0, limits);
    }

    pub fn limits(&self, tenant: Tenant) -> Limits {
        self.limits.get(&tenant.0).copied().unwrap_or_default()
    }

    /// What the shard must say that a tenant has stored, when nothing is under way.
    pub fn usage(&self, tenant: Tenant, wall: Micros) -> Usage {
        let stored = self.stored(tenant);
        let last_received_at = stored.last().map(|last| last.received_at);
        let month = Month::of(last_received_at.map_or(wall, |last| last.max(wall)));
        let (events_this_month, bytes_this_month) = counted_in(stored, month);
        Usage {
            month,
            events_this_month,
            bytes_this_month,
            resets_at: month.ends_at(),
            stored_events: stored.len() as u64,
            stored_bytes: stored_bytes(stored),
            last_received_at,
        }
    }

    pub fn appended(&mut self, ticket: u64, tenant: Tenant, events: Vec<ModelEvent>) {
        self.appended_at(ticket, tenant, events, None, Micros(0));
    }

    /// As `appended`, of a batch that may have a key, with what the wall clock shows.
    pub(super) fn appended_at(
        &mut self,
        ticket: u64,
        tenant: Tenant,
        events: Vec<ModelEvent>,
        key: Option<Key>,
        wall: Micros,
    ) {
        let wall = Received { earliest: wall, latest: wall };
        self.unanswered.push_back(Unanswered { ticket, tenant, events, key, wall });
    }

    /// The wall clock shows this.
    pub fn saw(&mut self, wall: Micros) {
        self.keys.saw(wall);
        for waiting in &mut self.unanswered {
            waiting.wall.earliest = waiting.wall.earliest.min(wall);
            waiting.wall.latest = waiting.wall.latest.max(wall);
        }
    }

    /// Positions up to here may vanish.
    pub fn retired(&mut self, tenant: Tenant, to: Position) {
        let known = self.retired.entry(tenant.0).or_insert(0);
        *known = (*known).max(to.0);
    }

    pub fn retired_to(&self, tenant: Tenant) -> Position {
        Position(self.retired.get(&tenant.0).copied().unwrap_or(0))
    }

    /// The tenant is to be erased. Its keys stay in the count of those that may push others out.
    pub fn erase(&mut self, tenant: Tenant) {
        self.erased.insert(tenant.0);
        self.tenants.remove(&tenant.0);
        self.retired.remove(&tenant.0);
        self.limits.remove(&tenant.0);
        self.order.retain(|&(number, _)| number != tenant);
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
        if self.erased.contains(&waiting.tenant.0) {
            return Ok(());
        }
        if result == Err(AppendError::TenantErased) {
            return Err(format!("tenant {} is not being erased and was refused for it", waiting.tenant.0));
        }
        if let Some(key) = waiting.key {
            let received = self.received(&waiting);
            match result {
                Ok(appended) if appended.is_replay => {
                    return self.keys.check_replay(waiting.tenant, key, received, batch, appended);
                }
                Err(AppendError::IdempotencyMismatch) => {
                    return self.keys.check_mismatch(waiting.tenant, key, received);
                }
                Err(AppendError::VersionConflict { .. } | AppendError::QuotaExceeded { .. }) => {
                    self.keys.check_unknown(waiting.tenant, key, received)?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        match result {
            Ok(Appended { is_replay: true, .. }) | Err(AppendError::IdempotencyMismatch) => {
                Err(format!("ticket {ticket} has no key and got {result:?}"))
            }
            Ok(appended) => self.check_appended(waiting, batch, appended),
            Err(AppendError::VersionConflict { event_index, expected, current }) => {
                self.check_conflict(&waiting, event_index, expected, current)
            }
            Err(AppendError::QuotaExceeded { kind, used, quota, resets_at }) => {
                self.check_quota_refusal(&waiting, kind, used, quota, resets_at)
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
        if let Some(key) = waiting.key {
            let first = (appended.first_position, Version(batch.keys()[0].version));
            self.keys.stored(tenant, key, first, appended.received_at, waiting.events.len())?;
        }
        for (event, key) in waiting.events.into_iter().zip(batch.keys()) {
            let version = Version(version_in(stored, &event.entity).0 + 1);
            if key.version != version.0 {
                return Err(format!("entity {} got version {} for {}", event.entity, key.version, version.0));
            }
            stored.push(Stored { event, version, received_at: appended.received_at });
        }
        self.check_within_limits(tenant)
    }

    /// When a batch that is being answered may have been received.
    fn received(&self, waiting: &Unanswered) -> Received {
        let last = self.stored(waiting.tenant).last().map_or(Micros(i64::MIN), |last| last.received_at);
        Received { earliest: waiting.wall.earliest.max(last), latest: waiting.wall.latest.max(last) }
    }

    /// After a batch was admitted: it did not cross a limit.
    fn check_within_limits(&self, tenant: Tenant) -> Result<(), Violation> {
        let (limits, stored) = (self.limits(tenant), self.stored(tenant));
        let Some(last) = stored.last() else { return Ok(()) };
        let (events, _) = counted_in(stored, Month::of(last.received_at));
        if limits.events_per_month.is_some_and(|limit| limit < events) {
            return Err(format!("tenant {} was let across {limits:?}: {events} events", tenant.0));
        }
        let bytes = stored_bytes(stored);
        if limits.stored_bytes.is_some_and(|limit| limit < bytes) {
            return Err(format!("tenant {} was let across {limits:?}: {bytes} bytes", tenant.0));
        }
        Ok(())
    }

    /// A refusal tells what was stored before it, and the batch would have crossed the limit.
    fn check_quota_refusal(
        &self,
        waiting: &Unanswered,
        kind: QuotaKind,
        used: u64,
        quota: u64,
        resets_at: Option<Micros>,
    ) -> Result<(), Violation> {
        let (limits, stored) = (self.limits(waiting.tenant), self.stored(waiting.tenant));
        let (limit, right, asked) = match (kind, resets_at) {
            (QuotaKind::EventsPerMonth, Some(resets_at)) => {
                let month = Month::of(Micros(resets_at.0 - 1));
                if month.ends_at() != resets_at || stored.last().is_some_and(|last| month < Month::of(last.received_at))
                {
                    return Err(format!("tenant {}: no month of now ends at {resets_at:?}", waiting.tenant.0));
                }
                (limits.events_per_month, counted_in(stored, month).0, waiting.events.len() as u64)
            }
            (QuotaKind::StoredBytes, None) => (limits.stored_bytes, stored_bytes(stored), waiting.bytes()),
            _ => return Err(format!("{kind:?} that begins again at {resets_at:?}")),
        };
        if limit != Some(quota) || used != right || used + asked <= quota {
            return Err(format!(
                "tenant {} was refused {asked} by {kind:?}, {used} of {quota}, with {right} counted and {limits:?}",
                waiting.tenant.0
            ));
        }
        Ok(())
    }

    /// Whether a batch whose answer is not known may have been refused, given what is stored before it.
    fn may_be_refused(&self, waiting: &Unanswered) -> bool {
        let (limits, stored) = (self.limits(waiting.tenant), self.stored(waiting.tenant));
        // The fullest month that it can have come in.
        let events = stored.last().map_or(0, |last| counted_in(stored, Month::of(last.received_at)).0);
        waiting.key.is_some_and(|key| self.keys.may_be_known(waiting.tenant, key))
            || waiting.events.iter().any(|event| event.expected_version.is_some())
            || limits.events_per_month.is_some_and(|limit| limit < events + waiting.events.len() as u64)
            || limits.stored_bytes.is_some_and(|limit| limit < stored_bytes(stored) + waiting.bytes())
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
        let mut unanswered: BTreeMap<(u32, KeyClass), usize> = BTreeMap::new();
        for waiting in &self.unanswered {
            if let Some(key) = waiting.key {
                *unanswered.entry((waiting.tenant.0, key.class)).or_insert(0) += 1;
            }
        }
        self.keys.crashed(&unanswered);
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
            let last = taken.get(&number).copied().unwrap_or(0);
            stored.truncate(last as usize);
            self.keys.cut(Tenant(number), Position(last));
        }
        let is_cut = kept < self.order.len();
        self.order.truncate(kept);
        if is_cut {
            // Newer batches are gone as well: nothing unanswered may be there.
            self.unanswered.clear();
        }
        Ok(())
    }

    /// Unanswered batches may be there: a prefix of them, each whole. Those that expected a version, or would have crossed
    /// a limit, may have been refused.
    fn take_unanswered(
        &mut self,
        found: &BTreeMap<u32, Vec<(Position, Stored)>>,
        taken: &mut BTreeMap<u32, u64>,
    ) -> Result<(), Violation> {
        let mut is_over = false;
        for waiting in std::mem::take(&mut self.unanswered) {
            let number = waiting.tenant.0;
            if self.erased.contains(&number) {
                continue;
            }
            let at = taken.get(&number).copied().unwrap_or(0);
            let rows = found.get(&number).map_or(&[][..], Vec::as_slice);
            let start = rows.partition_point(|(position, _)| position.0 <= at);
            let is_there = rows.get(start).is_some_and(|(_, row)| row.event.same_content(&waiting.events[0]));
            if !is_there {
                is_over |= !self.may_be_refused(&waiting);
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
            if let Some(key) = waiting.key {
                let row = &rows[start].1;
                let first = (Position(at + 1), row.version);
                self.keys.stored(waiting.tenant, key, first, row.received_at, waiting.events.len())?;
            }
            self.order.push((waiting.tenant, waiting.events.len()));
            *taken.entry(number).or_insert(0) = at + waiting.events.len() as u64;
            self.check_within_limits(waiting.tenant)?;
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

    fn record_bytes(&self) -> u64 {
        let strings = [self.event_type.as_bytes(), self.entity.as_bytes(), &self.payload, &self.metadata];
        (RECORD_HEADER_BYTES + strings.iter().map(|string| string.len()).sum::<usize>()) as u64
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

impl Unanswered {
    fn bytes(&self) -> u64 {
        self.events.iter().map(ModelEvent::record_bytes).sum()
    }
}

/// Events and record bytes that were received in a month.
fn counted_in(stored: &[Stored], month: Month) -> (u64, u64) {
    let of_month = stored.iter().rev().take_while(|row| Month::of(row.received_at) == month);
    of_month.fold((0, 0), |(events, bytes), row| (events + 1, bytes + row.event.record_bytes()))
}

fn stored_bytes(stored: &[Stored]) -> u64 {
    stored.iter().map(|row| row.event.record_bytes()).sum()
}

fn version_in(stored: &[Stored], entity: &str) -> Version {
    stored.iter().rev().find(|row| row.event.entity == entity).map_or(Version(0), |row| row.version)
}
