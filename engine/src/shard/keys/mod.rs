//! Idempotency: a batch that is sent again is stored once.
//!
//! ```text
//! admit ─► window ──────────────── the answer to a replay          in memory, what a tenant's last batches had
//!   └────► active index ─► seal ─► key run ─► merge ─► open        on disk, so that a restart knows it too
//! ```
//! Keys of segments that are not sealed are in the batches themselves. Must never: remember a batch that was refused,
//! or forget one of a tenant's before an older one of the same tenant.

pub(super) mod runs;
mod slots;
mod window;

pub use runs::KeyRun;
pub use window::KeyWindow;

use crate::event::{EventBatch, IdempotencyKey, KeyClass, UNKNOWN_VERSION};
use crate::format::key_run::KeyEntry;
use crate::ids::{Micros, Position, Tenant};
use crate::limits::{
    KEY_RUN_DEAD_MAX, KEY_RUNS_MAX, KEYS_KEPT_US, SHARD_FRAMES_MAX, SHARD_KEYS_MAX, TENANT_FRAMES_MAX, TENANT_KEYS_MAX,
};
use crate::shard::{AppendError, Appended};

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBounds {
    /// Keys of one tenant's requests: one more, and its oldest is forgotten.
    pub per_tenant: usize,
    /// Keys of the shard's requests: one more, and the oldest of a tenant that has the most is forgotten.
    pub per_shard: usize,
    /// The same of frames.
    pub frames_per_tenant: usize,
    pub frames_per_shard: usize,
    /// How long after its batch was received a key holds, by the received time of the batch that comes with it.
    pub kept_us: i64,
    /// Key runs on disk before they are merged into one.
    pub runs: usize,
    /// Keys in runs, beyond twice those that are remembered, before the runs are merged.
    pub dead: usize,
}

impl KeyBounds {
    /// What every shard has, except where a test wants to see the bounds.
    pub const STANDARD: KeyBounds = KeyBounds {
        per_tenant: TENANT_KEYS_MAX,
        per_shard: SHARD_KEYS_MAX,
        frames_per_tenant: TENANT_FRAMES_MAX,
        frames_per_shard: SHARD_FRAMES_MAX,
        kept_us: KEYS_KEPT_US,
        runs: KEY_RUNS_MAX,
        dead: KEY_RUN_DEAD_MAX,
    };
}

impl KeyBounds {
    /// Keys of one tenant, and of the shard.
    pub fn of(&self, class: KeyClass) -> (usize, usize) {
        match class {
            KeyClass::Request => (self.per_tenant, self.per_shard),
            KeyClass::Frame => (self.frames_per_tenant, self.frames_per_shard),
        }
    }
}

/// Where what is remembered of a tenant begins: whatever of the class is before it is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyFloor {
    pub tenant: Tenant,
    pub class: KeyClass,
    pub position: Position,
}

/// A window for each class: keys of frames, which come as fast as frames do, push out none of a request.
#[derive(Debug)]
pub struct KeyWindows {
    requests: KeyWindow,
    frames: KeyWindow,
}

impl KeyWindows {
    /// `seed` is secret: nobody outside can aim at one place in a table.
    pub fn new(bounds: KeyBounds, seed: u64) -> KeyWindows {
        let window = |class| KeyWindow::new(bounds, class, seed);
        KeyWindows { requests: window(KeyClass::Request), frames: window(KeyClass::Frame) }
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.requests.len() + self.frames.len()
    }

    pub fn of(&self, class: KeyClass) -> &KeyWindow {
        match class {
            KeyClass::Request => &self.requests,
            KeyClass::Frame => &self.frames,
        }
    }

    fn of_mut(&mut self, class: KeyClass) -> &mut KeyWindow {
        match class {
            KeyClass::Request => &mut self.requests,
            KeyClass::Frame => &mut self.frames,
        }
    }

    /// What is remembered of a tenant's key for a batch that is received at this moment.
    pub fn find(&self, tenant: Tenant, idempotency: &IdempotencyKey, received_at: Micros) -> Option<&KeyEntry> {
        self.of(idempotency.class).find(tenant, &idempotency.key, received_at)
    }

    /// Asks the memory for what a look for a key will touch first, some time before it. Changes nothing.
    pub fn fetch(&self, tenant: Tenant, idempotency: &IdempotencyKey) {
        self.of(idempotency.class).fetch(tenant, &idempotency.key);
    }

    /// Remembers an admitted batch, or one that is read back. One that is not behind its tenant's newest is known already.
    pub fn insert(&mut self, entry: KeyEntry) {
        self.of_mut(entry.class()).insert(entry);
    }

    /// Makes some keys go whose time is over at this moment.
    pub fn sweep(&mut self, wall: Micros) {
        self.requests.sweep(wall);
        self.frames.sweep(wall);
    }

    /// Whether a key of the tenant was ever remembered.
    pub fn has_known(&self, tenant: Tenant) -> bool {
        self.requests.has_known(tenant) || self.frames.has_known(tenant)
    }

    /// Forgets a tenant's oldest keys, at most so many of each class. Whether none is left.
    pub fn forget_some(&mut self, tenant: Tenant, at_most: usize) -> bool {
        let requests_are_gone = self.requests.forget_some(tenant, at_most);
        let frames_are_gone = self.frames.forget_some(tenant, at_most);
        requests_are_gone && frames_are_gone
    }

    /// Of each tenant and class whose keys are remembered.
    pub fn floors(&self) -> Vec<KeyFloor> {
        let floors = |class| {
            let of_window = self.of(class).floors().into_iter();
            of_window.map(move |(tenant, position)| KeyFloor { tenant, class, position })
        };
        KeyClass::ALL.into_iter().flat_map(floors).collect()
    }
}

/// The answer to a batch whose key is remembered. On success its keys get the versions that are known.
pub(super) fn answer_replay(
    batch: &mut EventBatch,
    idempotency: IdempotencyKey,
    original: &KeyEntry,
) -> Result<Appended, AppendError> {
    let is_same_count = batch.event_count() == original.event_count.get() as usize;
    if idempotency.body != original.body_hash || !is_same_count {
        return Err(AppendError::IdempotencyMismatch);
    }
    let version = if batch.event_count() == 1 { original.first_version.get() } else { UNKNOWN_VERSION };
    for key in &mut batch.keys {
        key.version = version;
    }
    Ok(Appended { first_position: original.first_position(), received_at: original.received_at(), is_replay: true })
}

#[cfg(test)]
mod tests {
    use zerocopy::little_endian::{I64, U16, U32, U64};

    use super::*;

    fn entry(tenant: u32, class: KeyClass, position: u64) -> KeyEntry {
        KeyEntry {
            tenant: U32::new(tenant),
            event_count: U16::new(1),
            class: class as u8,
            reserved: 0,
            first_position: U64::new(position),
            received_at: I64::new(0),
            first_version: U64::new(1),
            idempotency_hash: u128::from(position).to_le_bytes(),
            body_hash: [0; 16],
        }
    }

    #[test]
    fn a_tenants_keys_of_both_classes_are_forgotten() {
        let mut windows = KeyWindows::new(KeyBounds::STANDARD, 1);
        for position in 1..=10 {
            windows.insert(entry(1, KeyClass::Frame, 2 * position));
            windows.insert(entry(2, KeyClass::Frame, position));
        }
        windows.insert(entry(1, KeyClass::Request, 1));
        let floor = |tenant, class, position| KeyFloor { tenant: Tenant(tenant), class, position: Position(position) };
        let of_two = floor(2, KeyClass::Frame, 1);
        let mut floors = windows.floors();
        floors.sort_unstable();
        assert_eq!(floors, [floor(1, KeyClass::Request, 1), floor(1, KeyClass::Frame, 2), of_two]);
        assert!(windows.has_known(Tenant(1)) && !windows.has_known(Tenant(3)));
        // The request's goes at once, and that is not all.
        assert!(!windows.forget_some(Tenant(1), 5));
        assert_eq!((windows.len(), windows.of(KeyClass::Request).len()), (15, 0));
        assert!(windows.forget_some(Tenant(1), 5));
        assert_eq!((windows.len(), windows.floors()), (10, vec![of_two]));
    }
}
