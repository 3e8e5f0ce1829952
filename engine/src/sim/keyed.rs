//! What must be true of idempotency keys: a batch whose key the bounds promise to remember is answered and not stored, one
//! whose time is over is stored, and in between both are right.

use std::collections::BTreeMap;

use crate::event::{EventBatch, KeyClass, UNKNOWN_VERSION};
use crate::ids::{Micros, Position, Tenant, Version};
use crate::shard::{Appended, KeyBounds};
use crate::sim::model::Violation;

/// In every complaint about keys, and in no other.
pub(super) const FORGOTTEN: &str = "was stored twice";

/// The key of a batch, and what stands for its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub class: KeyClass,
    pub key: u64,
    pub body: u64,
}

/// The moments that a batch may have been received at, as far as the wall clock goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub earliest: Micros,
    pub latest: Micros,
}

/// A batch that was stored under a key.
#[derive(Debug, Clone, Copy)]
struct Original {
    body: u64,
    first_position: Position,
    first_version: Version,
    received_at: Micros,
    event_count: usize,
    /// It may have been forgotten at some time, for a batch that may be gone by now.
    may_be_gone: bool,
}

/// What is remembered of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    Must,
    May,
    MustNot,
}

#[derive(Debug)]
pub(super) struct KeyModel {
    bounds: KeyBounds,
    /// By tenant and key, oldest first. A crash may take the last ones, and what it leaves may be remembered again.
    originals: BTreeMap<(u32, KeyClass, u64), Vec<Original>>,
    /// First positions of each tenant's stored batches with a key of each class.
    stored: BTreeMap<(u32, KeyClass), Vec<Position>>,
    /// The highest the wall clock ever stood: what was over by then may be forgotten for good.
    wall_max: Micros,
}

impl KeyModel {
    pub fn new(bounds: KeyBounds) -> KeyModel {
        KeyModel { bounds, originals: BTreeMap::new(), stored: BTreeMap::new(), wall_max: Micros(i64::MIN) }
    }

    pub fn saw(&mut self, wall: Micros) {
        self.wall_max = self.wall_max.max(wall);
    }

    /// A batch with a key was stored. Its key must not have been one that is remembered.
    pub fn stored(
        &mut self,
        tenant: Tenant,
        key: Key,
        first: (Position, Version),
        received_at: Micros,
        event_count: usize,
    ) -> Result<(), Violation> {
        self.check_unknown(tenant, key, Received { earliest: received_at, latest: received_at })?;
        let originals = self.originals.entry((tenant.0, key.class, key.key)).or_default();
        originals.iter_mut().for_each(|older| older.may_be_gone = true);
        originals.push(Original {
            body: key.body,
            first_position: first.0,
            first_version: first.1,
            received_at,
            event_count,
            may_be_gone: false,
        });
        self.stored.entry((tenant.0, key.class)).or_default().push(first.0);
        Ok(())
    }

    /// A batch was judged by something that comes after the look for its key: the key must not be one that is remembered.
    pub fn check_unknown(&self, tenant: Tenant, key: Key, received: Received) -> Result<(), Violation> {
        if self.memory(tenant, key, received) == Memory::Must {
            let original = self.original(tenant, key);
            return Err(format!(
                "tenant {}: a batch with {key:?} {FORGOTTEN}, or lost its answer: {original:?}",
                tenant.0
            ));
        }
        Ok(())
    }

    /// The answer to a replay is the one that its original got.
    pub fn check_replay(
        &self,
        tenant: Tenant,
        key: Key,
        received: Received,
        batch: &EventBatch,
        appended: Appended,
    ) -> Result<(), Violation> {
        let original = self.original(tenant, key);
        let is_right = original.is_some_and(|original| {
            let version = if original.event_count == 1 { original.first_version.0 } else { UNKNOWN_VERSION };
            original.body == key.body
                && original.first_position == appended.first_position
                && original.received_at == appended.received_at
                && original.event_count == batch.event_count()
                && batch.keys().iter().all(|key| key.version == version)
        });
        if !is_right || self.memory(tenant, key, received) == Memory::MustNot {
            return Err(format!("tenant {}: {key:?} was answered with {appended:?} of {original:?}", tenant.0));
        }
        Ok(())
    }

    pub fn check_mismatch(&self, tenant: Tenant, key: Key, received: Received) -> Result<(), Violation> {
        let original = self.original(tenant, key);
        let is_right = original.is_some_and(|original| original.body != key.body);
        if !is_right || self.memory(tenant, key, received) == Memory::MustNot {
            return Err(format!("tenant {}: {key:?} was refused because of {original:?}", tenant.0));
        }
        Ok(())
    }

    /// Whether a batch may have been answered without being stored.
    pub fn may_be_known(&self, tenant: Tenant, key: Key) -> bool {
        self.original(tenant, key).is_some()
    }

    /// A crash may take the last batches back, but not bring back what they pushed out. `unanswered`: of each tenant
    /// and class, the batches with a key that may have been admitted.
    pub fn crashed(&mut self, unanswered: &BTreeMap<(u32, KeyClass), usize>) {
        for class in KeyClass::ALL {
            let (per_tenant, per_shard) = self.bounds.of(class);
            let waiting = unanswered.iter().filter(|((_, of), _)| *of == class).map(|(_, count)| count).sum::<usize>();
            let stored = self.stored.iter().filter(|((_, of), _)| *of == class).map(|(_, stored)| stored.len());
            let all = stored.sum::<usize>() + waiting;
            for ((number, _, _), originals) in self.originals.iter_mut().filter(|((_, of, _), _)| *of == class) {
                let stored = &self.stored[&(*number, class)];
                let of_tenant = unanswered.get(&(*number, class)).copied().unwrap_or(0);
                for original in originals {
                    let newer = stored.len() - stored.partition_point(|&first| first <= original.first_position);
                    original.may_be_gone |= per_tenant <= newer + of_tenant || per_shard <= all;
                }
            }
        }
    }

    /// A crash took the end of the log: what was stored behind `last` never was.
    pub fn cut(&mut self, tenant: Tenant, last: Position) {
        for ((number, _, _), originals) in &mut self.originals {
            if *number == tenant.0 {
                originals.retain(|original| original.first_position <= last);
            }
        }
        for (_, stored) in self.stored.iter_mut().filter(|((number, _), _)| *number == tenant.0) {
            stored.retain(|&first| first <= last);
        }
    }

    fn original(&self, tenant: Tenant, key: Key) -> Option<&Original> {
        self.originals.get(&(tenant.0, key.class, key.key))?.last()
    }

    fn memory(&self, tenant: Tenant, key: Key, received: Received) -> Memory {
        let Some(original) = self.original(tenant, key) else { return Memory::MustNot };
        let over_at = Micros(original.received_at.0.saturating_add(self.bounds.kept_us));
        if over_at <= received.earliest {
            return Memory::MustNot;
        }
        let stored = &self.stored[&(tenant.0, key.class)];
        let newer = stored.len() - stored.partition_point(|&first| first <= original.first_position);
        let of_class = self.stored.iter().filter(|((_, class), _)| *class == key.class);
        let all: usize = of_class.map(|(_, stored)| stored.len()).sum();
        let (per_tenant, per_shard) = self.bounds.of(key.class);
        let may_be_gone = original.may_be_gone
            || over_at <= self.wall_max.max(received.latest)
            || per_tenant <= newer
            || per_shard <= all;
        if may_be_gone { Memory::May } else { Memory::Must }
    }
}
