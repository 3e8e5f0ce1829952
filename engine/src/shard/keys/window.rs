//! The keys that a shard remembers: each tenant's last ones, found by hash, forgotten oldest first.
//!
//! ```text
//! tables: hash ─► slot        slots: entry ─► next of the tenant        queues: tenant ─► oldest slot .. newest slot
//! ```
//! Every step is bounded: a key that comes in makes at most a few older ones go. Must never: read a clock.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::format::key_run::KeyEntry;
use crate::ids::{Micros, Position, Tenant};
use crate::index::table::HashTable;
use crate::shard::keys::KeyBounds;
use crate::shard::keys::slots::{NO_SLOT, Slots};
use crate::shard::tenants::TenantMap;

/// Several tables: when one grows, no turn waits for more than its share of all keys. Not more, so that large ones are on
/// huge pages.
const TABLES: usize = 8;
/// Keys of its tenant that one new key makes go because their time is over.
const OVER_PER_KEY: usize = 2;
/// Keys whose time is over that one turn makes go.
const OVER_PER_TURN: usize = 64;

/// A tenant's remembered batches, oldest first.
#[derive(Debug, Clone, Copy)]
struct Queue {
    oldest: u32,
    newest: u32,
    count: usize,
    oldest_hash: u64,
    oldest_received_at: Micros,
    oldest_position: Position,
    /// First position of the newest one that ever was in the queue.
    newest_position: Position,
}

impl Queue {
    const EMPTY: Queue = Queue {
        oldest: NO_SLOT,
        newest: NO_SLOT,
        count: 0,
        oldest_hash: 0,
        oldest_received_at: Micros(i64::MAX),
        oldest_position: Position(0),
        newest_position: Position(0),
    };
}

/// Invariant: `kept` is the sum of all queues' counts and at most `per_shard`; a table knows every slot whose entry is the
/// newest of its key. An entry that a newer one of the same key has replaced has no events.
#[derive(Debug)]
pub struct KeyWindow {
    bounds: KeyBounds,
    seed: u64,
    /// None while nothing is kept.
    tables: Vec<HashTable>,
    slots: Slots,
    queues: TenantMap<Queue>,
    kept: usize,
    /// The queue that is looked at next for what has to go.
    cursor: usize,
    /// A queue that was found longer than the others.
    longest: usize,
}

impl KeyWindow {
    /// `seed` is secret: nobody outside can aim at one place in a table.
    pub fn new(bounds: KeyBounds, seed: u64) -> KeyWindow {
        assert!(bounds.per_tenant > 0);
        assert!(bounds.per_shard > 0);
        KeyWindow {
            bounds,
            seed,
            tables: Vec::new(),
            slots: Slots::default(),
            queues: TenantMap::new(),
            kept: 0,
            cursor: 0,
            longest: 0,
        }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.kept
    }

    pub fn is_empty(&self) -> bool {
        self.kept == 0
    }

    /// What is remembered of a tenant's key for a batch that is received at this moment.
    pub fn find(&self, tenant: Tenant, key: &[u8; 16], received_at: Micros) -> Option<&KeyEntry> {
        if self.kept == 0 {
            return None;
        }
        let hash = self.hash(tenant, key);
        let entry = &self.slots.get(self.find_slot(hash, tenant, key)?).entry;
        if self.is_over(entry.received_at(), received_at) { None } else { Some(entry) }
    }

    /// Asks the memory for what a look for a key will touch first, some time before it. Changes nothing.
    pub fn fetch(&self, tenant: Tenant, key: &[u8; 16]) {
        self.fetch_place(self.hash(tenant, key));
    }

    /// Remembers an admitted batch, or one that is read back. One that is not behind the tenant's newest is known already.
    pub fn insert(&mut self, entry: KeyEntry) {
        let tenant = entry.tenant();
        let number = self.queues.number_or_insert(tenant, Queue::EMPTY);
        if entry.first_position() <= self.queues.at(number).newest_position {
            return;
        }
        for _ in 0..OVER_PER_KEY {
            let queue = self.queues.at(number);
            if queue.count > 0 && self.is_over(queue.oldest_received_at, entry.received_at()) {
                self.forget_oldest(number);
            }
        }
        if self.queues.at(number).count == self.bounds.per_tenant {
            self.forget_oldest(number);
        }
        if self.kept == self.bounds.per_shard {
            let longest = self.longest_queue(number);
            self.forget_oldest(longest);
        }
        if self.tables.is_empty() {
            self.tables.resize_with(TABLES, HashTable::new);
        }
        let hash = self.hash(tenant, &entry.idempotency_hash);
        let replaced = self.find_slot(hash, tenant, &entry.idempotency_hash);
        let slot = self.slots.take(entry);
        let table = &mut self.tables[table_index(hash)];
        if let Some(replaced) = replaced {
            table.remove(hash, replaced);
            self.slots.get_mut(replaced).entry.event_count.set(0);
        }
        table.insert(hash, slot);
        let queue = self.queues.at_mut(number);
        if queue.count == 0 {
            queue.oldest = slot;
            queue.oldest_hash = hash;
            queue.oldest_received_at = entry.received_at();
            queue.oldest_position = entry.first_position();
        } else {
            self.slots.get_mut(queue.newest).next = slot;
        }
        queue.newest = slot;
        queue.newest_position = entry.first_position();
        queue.count += 1;
        self.kept += 1;
    }

    /// Makes some keys go whose time is over at this moment, whoever's they are: a tenant that sends nothing more must not
    /// keep its memory. Costs nothing to speak of when there are none.
    pub fn sweep(&mut self, wall: Micros) {
        for _ in 0..OVER_PER_TURN {
            if self.kept == 0 {
                return;
            }
            self.cursor = if self.cursor < self.queues.len() { self.cursor } else { 0 };
            let queue = self.queues.at(self.cursor);
            if queue.count == 0 || !self.is_over(queue.oldest_received_at, wall) {
                self.cursor += 1;
                return;
            }
            self.forget_oldest(self.cursor);
        }
    }

    /// Whether a key of the tenant was ever remembered.
    pub fn has_known(&self, tenant: Tenant) -> bool {
        self.queues.get(tenant).is_some()
    }

    /// Forgets a tenant's oldest keys, at most so many. Whether none is left.
    pub fn forget_some(&mut self, tenant: Tenant, at_most: usize) -> bool {
        let Some(number) = self.queues.number(tenant) else { return true };
        for _ in 0..at_most.min(self.queues.at(number).count) {
            self.forget_oldest(number);
        }
        self.queues.at(number).count == 0
    }

    /// Each tenant whose keys are remembered, with the first position of its oldest one: whatever is before it is forgotten.
    pub fn floors(&self) -> Vec<(Tenant, Position)> {
        let kept = self.queues.iter().filter(|(_, queue)| queue.count > 0);
        kept.map(|&(tenant, queue)| (tenant, queue.oldest_position)).collect()
    }

    fn is_over(&self, received_at: Micros, now: Micros) -> bool {
        received_at.0.saturating_add(self.bounds.kept_us) <= now.0
    }

    fn hash(&self, tenant: Tenant, key: &[u8; 16]) -> u64 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(key);
        bytes[16..].copy_from_slice(&tenant.0.to_le_bytes());
        xxh3_64_with_seed(&bytes, self.seed)
    }

    fn find_slot(&self, hash: u64, tenant: Tenant, key: &[u8; 16]) -> Option<u32> {
        let table = self.tables.get(table_index(hash))?;
        table.find(hash, |number| {
            let entry = &self.slots.get(number).entry;
            entry.idempotency_hash == *key && entry.tenant() == tenant
        })
    }

    fn fetch_place(&self, hash: u64) {
        if let Some(table) = self.tables.get(table_index(hash)) {
            std::hint::black_box(table.first_candidate(hash));
        }
    }

    /// A queue that has the most, as far as looking at three of them tells: the one found before, the one that grows, and
    /// one more each time. What one misses the next ones see.
    fn longest_queue(&mut self, growing: usize) -> usize {
        loop {
            self.cursor = if self.cursor < self.queues.len() { self.cursor } else { 0 };
            for candidate in [growing, self.cursor] {
                if self.queues.at(self.longest).count < self.queues.at(candidate).count {
                    self.longest = candidate;
                }
            }
            self.cursor += 1;
            if self.queues.at(self.longest).count > 0 {
                return self.longest;
            }
        }
    }

    fn forget_oldest(&mut self, number: usize) {
        let Queue { oldest: slot_number, oldest_hash: hash, .. } = *self.queues.at(number);
        let slot = self.slots.get(slot_number);
        let (next, is_newest_of_its_key) = (slot.next, slot.entry.event_count.get() > 0);
        if is_newest_of_its_key {
            let table = &mut self.tables[table_index(hash)];
            table.remove(hash, slot_number);
            table.shrink();
        }
        self.slots.free(slot_number);
        self.kept -= 1;
        let queue = self.queues.at_mut(number);
        queue.oldest = next;
        queue.count -= 1;
        if queue.count > 0 {
            let oldest = &self.slots.get(next).entry;
            let (tenant, key) = (oldest.tenant(), oldest.idempotency_hash);
            queue.oldest_received_at = oldest.received_at();
            queue.oldest_position = oldest.first_position();
            let hash = self.hash(tenant, &key);
            self.queues.at_mut(number).oldest_hash = hash;
            // It is the next one to go: by then its place is at hand.
            self.fetch_place(hash);
        }
        if self.kept == 0 {
            self.tables = Vec::new();
        }
    }
}

fn table_index(hash: u64) -> usize {
    hash as usize % TABLES
}

#[cfg(test)]
mod tests {
    use zerocopy::little_endian::{I64, U32, U64};

    use super::*;

    const BOUNDS: KeyBounds = KeyBounds { per_tenant: 100, per_shard: 250, kept_us: 1_000, runs: 4, dead: 10 };

    fn entry(tenant: u32, key: u64, position: u64, received_at: i64) -> KeyEntry {
        KeyEntry {
            tenant: U32::new(tenant),
            event_count: U32::new(1),
            first_position: U64::new(position),
            received_at: I64::new(received_at),
            first_version: U64::new(1),
            idempotency_hash: hash_of(key),
            body_hash: [0; 16],
        }
    }

    fn hash_of(key: u64) -> [u8; 16] {
        u128::from(key).to_le_bytes()
    }

    /// The position that a tenant's key is remembered with.
    fn found(window: &KeyWindow, tenant: u32, key: u64, at: i64) -> Option<u64> {
        window.find(Tenant(tenant), &hash_of(key), Micros(at)).map(|entry| entry.first_position.get())
    }

    #[test]
    fn a_tenant_keeps_its_last_keys_and_no_others() {
        let mut window = KeyWindow::new(BOUNDS, 1);
        for position in 1..=500 {
            window.insert(entry(1, position, position, 0));
        }
        window.insert(entry(2, 500, 1, 0));
        assert_eq!(window.len(), 101);
        assert_eq!(found(&window, 1, 400, 0), None);
        assert!((401..=500).all(|key| found(&window, 1, key, 0) == Some(key)));
        assert_eq!((found(&window, 2, 500, 0), found(&window, 2, 499, 0)), (Some(1), None));
        assert_eq!(window.floors(), [(Tenant(1), Position(401)), (Tenant(2), Position(1))]);
    }

    #[test]
    fn a_full_shard_takes_from_those_who_have_the_most() {
        let mut window = KeyWindow::new(BOUNDS, 1);
        for tenant in 1..=10 {
            window.insert(entry(tenant, 7, 1, 0));
        }
        for position in 2..2_000 {
            for tenant in 1..=3 {
                window.insert(entry(tenant, 1_000 + position, position, 0));
                assert!(window.len() <= 250);
            }
        }
        assert_eq!(window.len(), 250);
        assert!((4..=10).all(|tenant| found(&window, tenant, 7, 0) == Some(1)), "quiet tenants lose nothing");
        let count = |tenant| (2..2_000).filter(|key| found(&window, tenant, 1_000 + key, 0).is_some()).count();
        assert!((1..=3).map(count).all(|count| (75..=90).contains(&count)));
    }

    #[test]
    fn a_key_holds_for_its_time_and_the_memory_goes_back() {
        let mut window = KeyWindow::new(KeyBounds { per_tenant: 10_000, per_shard: 10_000, ..BOUNDS }, 1);
        for position in 1..=5_000u64 {
            window.insert(entry(1 + position as u32 % 3, position, position, 10));
        }
        assert_eq!((found(&window, 1, 3, 1_009), found(&window, 1, 3, 1_010)), (Some(3), None));
        assert_eq!(window.slots.chunk_count(), 5);
        for _ in 0..10_000 {
            window.sweep(Micros(1_009));
        }
        assert_eq!(window.len(), 5_000);
        for _ in 0..200 {
            window.sweep(Micros(1_010));
        }
        assert_eq!((window.len(), window.slots.chunk_count(), window.tables.len()), (0, 0, 0));
        window.insert(entry(1, 3, 9_000, 1_010));
        assert_eq!(found(&window, 1, 3, 1_010), Some(9_000));
    }

    #[test]
    fn a_key_that_is_used_again_after_its_time_stands_for_the_newer_batch() {
        let mut window = KeyWindow::new(BOUNDS, 1);
        // As recovery may find them: both in the log, the older one not yet gone.
        window.insert(entry(1, 7, 1, 0));
        window.insert(entry(1, 8, 2, 0));
        window.insert(entry(1, 7, 3, 500));
        window.insert(entry(1, 7, 2, 0));
        assert_eq!((found(&window, 1, 7, 900), window.len()), (Some(3), 3));
        for position in 4..=102 {
            window.insert(entry(1, 100 + position, position, 500));
        }
        assert_eq!((found(&window, 1, 8, 900), found(&window, 1, 7, 900)), (None, Some(3)));
        window.insert(entry(1, 1_000, 103, 500));
        assert_eq!(found(&window, 1, 7, 900), None);
    }

    #[test]
    fn a_tenants_keys_are_forgotten_a_few_at_a_time() {
        let mut window = KeyWindow::new(BOUNDS, 1);
        for position in 1..=100 {
            window.insert(entry(1, position, position, 0));
            window.insert(entry(2, position, position, 0));
        }
        assert!(!window.forget_some(Tenant(1), 40));
        assert_eq!((window.len(), found(&window, 1, 40, 0), found(&window, 1, 41, 0)), (160, None, Some(41)));
        assert!(window.forget_some(Tenant(1), 60));
        assert!(window.forget_some(Tenant(3), 1));
        assert_eq!(window.floors(), [(Tenant(2), Position(1))]);
        assert!((1..=100).all(|key| found(&window, 1, key, 0).is_none() && found(&window, 2, key, 0) == Some(key)));
        assert_eq!((window.has_known(Tenant(1)), window.has_known(Tenant(3))), (true, false));
    }

    /// Against a plain list: what the bounds promise is kept, whatever the order of tenants, keys and times.
    #[test]
    fn what_is_within_the_bounds_is_found() {
        let mut rng = crate::sim::Rng::new(9);
        let bounds = KeyBounds { per_tenant: 20, per_shard: 1_000, ..BOUNDS };
        let mut window = KeyWindow::new(bounds, 3);
        let mut lists: Vec<Vec<(u64, u64, i64)>> = vec![Vec::new(); 8];
        let mut now = 0;
        for step in 1..20_000u64 {
            now += rng.below(30) as i64;
            let tenant = rng.index(lists.len());
            let key = rng.below(40);
            let list = &mut lists[tenant];
            if found(&window, tenant as u32, key, now).is_none() {
                window.insert(entry(tenant as u32, key, step, now));
                list.push((key, step, now));
            }
            let recent = &list[list.len().saturating_sub(20)..];
            let right = recent.iter().rev().find(|known| known.0 == key && now < known.2 + 1_000).map(|known| known.1);
            assert_eq!(found(&window, tenant as u32, key, now), right, "step {step}");
            window.sweep(Micros(now));
        }
    }
}
