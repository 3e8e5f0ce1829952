//! What a shard knows of each tenant: where its feed goes on, and how much it has stored.
//!
//! The state moves with each batch, whether the batch is admitted or read back from the log, so that recovery counts
//! what admission counted. Must never: count a batch that is not in the log.

use zerocopy::little_endian::{I64, U32, U64};

use crate::format::checkpoint::CheckpointEntry;
use crate::ids::{Micros, Position, Tenant};
use crate::index::table::HashTable;
use crate::month::Month;

/// Something for each of some tenants. Invariant: `table` finds each entry of `entries`.
#[derive(Debug)]
pub(crate) struct TenantMap<T> {
    entries: Vec<(Tenant, T)>,
    table: HashTable,
}

impl<T> TenantMap<T> {
    pub fn new() -> TenantMap<T> {
        TenantMap { entries: Vec::new(), table: HashTable::new() }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &(Tenant, T)> {
        self.entries.iter()
    }

    pub fn get(&self, tenant: Tenant) -> Option<&T> {
        self.find(tenant).map(|number| &self.entries[number as usize].1)
    }

    pub fn set(&mut self, tenant: Tenant, value: T) {
        match self.find(tenant) {
            Some(number) => self.entries[number as usize].1 = value,
            None => {
                let number = self.entries.len() as u32;
                self.entries.push((tenant, value));
                self.table.insert(u64::from(tenant.0), number);
            }
        }
    }

    /// Removes a tenant's entry. The last one gets its number.
    pub fn remove(&mut self, tenant: Tenant) -> Option<T> {
        let number = self.find(tenant)?;
        let last = self.entries.len() as u32 - 1;
        self.table.remove(u64::from(tenant.0), number);
        if number != last {
            let moved = u64::from(self.entries[last as usize].0.0);
            self.table.remove(moved, last);
            self.table.insert(moved, number);
        }
        Some(self.entries.swap_remove(number as usize).1)
    }

    /// The tenant's number here, which stays until an entry is removed; with this value if it is new.
    pub fn number_or_insert(&mut self, tenant: Tenant, value: T) -> usize {
        if let Some(number) = self.find(tenant) {
            return number as usize;
        }
        self.set(tenant, value);
        self.entries.len() - 1
    }

    pub fn number(&self, tenant: Tenant) -> Option<usize> {
        self.find(tenant).map(|number| number as usize)
    }

    pub fn at(&self, number: usize) -> &T {
        &self.entries[number].1
    }

    pub fn at_mut(&mut self, number: usize) -> &mut T {
        &mut self.entries[number].1
    }

    fn find(&self, tenant: Tenant) -> Option<u32> {
        self.table.find(u64::from(tenant.0), |n| self.entries[n as usize].0 == tenant)
    }
}

/// What a tenant has stored in one month so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MonthCount {
    pub events: u64,
    /// Of records.
    pub bytes: u64,
    pub ends_at: Micros,
}

/// What a tenant's next batch gets, and what its batches so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TenantState {
    pub next_position: Position,
    pub last_received_at: Micros,
    /// The end of the month that `last_received_at` lies in. Kept, since a calendar costs more than the rest of `take`.
    pub month_ends_at: Micros,
    /// Events and record bytes that were received in the month of `last_received_at`.
    pub month_events: u64,
    pub month_bytes: u64,
    /// Record bytes of all events, ever.
    pub stored_bytes: u64,
}

impl TenantState {
    /// Before a tenant's first event.
    pub const EMPTY: TenantState = TenantState {
        next_position: Position(1),
        last_received_at: Micros(i64::MIN),
        month_ends_at: Micros(i64::MIN),
        month_events: 0,
        month_bytes: 0,
        stored_bytes: 0,
    };

    /// When a batch that comes now counts as received: time never decreases within a tenant.
    pub fn received_at(&self, wall: Micros) -> Micros {
        wall.max(self.last_received_at)
    }

    /// The counters of the month that a moment lies in, which is not before the last batch.
    pub fn month_at(&self, received_at: Micros) -> MonthCount {
        if received_at < self.month_ends_at {
            MonthCount { events: self.month_events, bytes: self.month_bytes, ends_at: self.month_ends_at }
        } else {
            MonthCount { events: 0, bytes: 0, ends_at: Month::of(received_at).ends_at() }
        }
    }

    /// Moves on by one batch.
    pub fn take(&mut self, first_position: Position, received_at: Micros, event_count: u64, records_bytes: u64) {
        let month = self.month_at(received_at);
        self.next_position = Position(first_position.0 + event_count);
        self.last_received_at = received_at;
        self.month_ends_at = month.ends_at;
        self.month_events = month.events.saturating_add(event_count);
        self.month_bytes = month.bytes.saturating_add(records_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(records_bytes);
    }

    pub fn of_entry(entry: &CheckpointEntry) -> (Tenant, TenantState) {
        let last_received_at = Micros(entry.last_received_at.get());
        let state = TenantState {
            next_position: Position(entry.next_position.get()),
            last_received_at,
            month_ends_at: Month::of(last_received_at).ends_at(),
            month_events: entry.month_events.get(),
            month_bytes: entry.month_bytes.get(),
            stored_bytes: entry.stored_bytes.get(),
        };
        (Tenant(entry.tenant.get()), state)
    }

    pub fn to_entry(self, tenant: Tenant) -> CheckpointEntry {
        CheckpointEntry {
            tenant: U32::new(tenant.0),
            reserved_tenant: U32::new(0),
            next_position: U64::new(self.next_position.0),
            last_received_at: I64::new(self.last_received_at.0),
            month_events: U64::new(self.month_events),
            month_bytes: U64::new(self.month_bytes),
            stored_bytes: U64::new(self.stored_bytes),
            reserved: [0; 16],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_left_is_found_after_others_were_removed() {
        let mut map = TenantMap::new();
        (0..1_000).for_each(|number| map.set(Tenant(number), number));
        for number in (0..1_000).filter(|number| number % 3 != 1).rev() {
            assert_eq!(map.remove(Tenant(number)), Some(number));
        }
        assert_eq!((map.remove(Tenant(0)), map.len()), (None, 333));
        assert!((0..1_000).all(|number| map.get(Tenant(number)).copied() == (number % 3 == 1).then_some(number)));
        map.set(Tenant(0), 7);
        assert_eq!((map.get(Tenant(0)), map.len()), (Some(&7), 334));
    }
}
