//! The first block of every segment: the state of its shard, so that a restart reads one segment and not all.
//!
//! The body is one `CheckpointEntry` for each tenant that ever had an event in the shard.

use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub const CHECKPOINT_ENTRY_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct CheckpointEntry {
    pub tenant: U32,
    pub reserved_tenant: U32,
    /// The position that the tenant's next event gets.
    pub next_position: U64,
    /// Received time of the tenant's last batch, microseconds since the Unix epoch.
    pub last_received_at: I64,
    /// Events that the tenant's batches brought in the UTC month of `last_received_at`, and their record bytes.
    pub month_events: U64,
    pub month_bytes: U64,
    /// Record bytes of all of the tenant's events.
    pub stored_bytes: U64,
    /// Room for more that must survive a restart. Zero; readers that do not know it skip it.
    pub reserved: [u8; 16],
}

const _: () = assert!(size_of::<CheckpointEntry>() == CHECKPOINT_ENTRY_BYTES);
const _: () = assert!(
    crate::limits::SHARD_TENANTS_MAX * CHECKPOINT_ENTRY_BYTES + 2 * crate::limits::ALIGNMENT
        <= crate::limits::BLOCK_BYTES_MAX
);

/// The entries of a checkpoint body, or `None` if it is not a whole number of them.
pub fn checkpoint_entries(body: &[u8]) -> Option<&[CheckpointEntry]> {
    <[CheckpointEntry]>::ref_from_bytes(body).ok()
}
