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

use crate::event::{EventBatch, IdempotencyKey, UNKNOWN_VERSION};
use crate::format::key_run::KeyEntry;
use crate::limits::{KEY_RUN_DEAD_MAX, KEY_RUNS_MAX, KEYS_KEPT_US, SHARD_KEYS_MAX, TENANT_KEYS_MAX};
use crate::shard::{AppendError, Appended};

/// How much is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBounds {
    /// Keys of one tenant: one more, and its oldest is forgotten.
    pub per_tenant: usize,
    /// Keys of the shard: one more, and the oldest of a tenant that has the most is forgotten.
    pub per_shard: usize,
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
        kept_us: KEYS_KEPT_US,
        runs: KEY_RUNS_MAX,
        dead: KEY_RUN_DEAD_MAX,
    };
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
