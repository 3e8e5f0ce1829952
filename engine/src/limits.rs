//! Every ceiling of the engine, with where its number comes from.

/// Alignment of every O_DIRECT transfer, and of every block in a segment.
pub const ALIGNMENT: usize = 4096;

/// Longest event type and entity, in bytes (docs/architecture.md; one-byte-per-char worst case of both surfaces).
pub const TYPE_BYTES_MAX: usize = 256;
pub const ENTITY_BYTES_MAX: usize = 256;

/// One event's payload, and its metadata. The server refuses larger bodies before it gets here.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
pub const METADATA_BYTES_MAX: usize = 1 << 20;

/// Events in one batch.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// Encoded records of one batch: a 16 MiB request body, plus a header for each of 10,000 events, rounded up.
pub const BATCH_BYTES_MAX: usize = 17 << 20;

/// Blocks that may be past the durable prefix. Recovery counts on it: a valid block further beyond a bad one
/// proves that the bad one had been acknowledged.
pub const IN_FLIGHT_BLOCKS_MAX: u64 = 4;

/// Bytes of a commit buffer, and what a block grows to before it waits for the next one. Measured: 64 KiB to 1 MiB
/// carry the same bytes per second once four are in flight, and 1 MiB keeps the submission cost under 2 % at 1 GB/s.
pub const BLOCK_BYTES_TARGET: usize = 1 << 20;

/// Block header, batch header, versions and padding of the largest batch must fit a block of their own.
pub const BLOCK_BYTES_MAX: usize = 18 << 20;
const _: () = assert!(
    crate::format::block::BLOCK_HEADER_BYTES
        + crate::format::batch::BATCH_HEADER_BYTES
        + 8 * BATCH_EVENTS_MAX
        + BATCH_BYTES_MAX
        + ALIGNMENT
        <= BLOCK_BYTES_MAX
);

/// Size of a segment unless configured. Sealed segments are 80 for 10 GiB: few enough that summaries open at once.
pub const SEGMENT_BYTES_DEFAULT: u64 = 128 << 20;
pub const SEGMENT_BYTES_LIMIT: u64 = 256 << 20;
/// Smaller ones would be little more than their own headers.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_LIMIT);
const _: () = assert!(SEGMENT_BYTES_LIMIT < u32::MAX as u64);

/// Events per segment: bounds the active index whatever the size of events. One event for each 128 bytes of segment.
pub const SEGMENT_BYTES_PER_EVENT: u64 = 128;

/// Full segments whose sealing has not finished. One more makes appends wait: memory has a ceiling.
pub const SEALING_SEGMENTS_MAX: usize = 2;

/// Tenants of one shard that have a position. Their checkpoint opens every segment at 64 bytes each.
pub const SHARD_TENANTS_MAX: usize = 1 << 18;

/// Idempotency keys that are remembered, of one tenant and of a shard, and how long: what clients are promised, and
/// memory for two tenants that use all of it (docs/architecture.md).
pub const TENANT_KEYS_MAX: usize = 1 << 20;
pub const SHARD_KEYS_MAX: usize = 1 << 21;
/// The same of frames, whose senders try again within seconds: of 10,000 a second the last 26 s.
pub const TENANT_FRAMES_MAX: usize = 1 << 18;
pub const SHARD_FRAMES_MAX: usize = 1 << 19;
pub const KEYS_KEPT_US: i64 = 24 * 60 * 60 * 1_000_000;
const _: () = assert!(TENANT_KEYS_MAX <= SHARD_KEYS_MAX);
const _: () = assert!(TENANT_FRAMES_MAX <= SHARD_FRAMES_MAX);

/// Key runs before they are merged, and keys in them beyond twice the remembered ones: a restart reads no more. A guess
/// between files to open and bytes to write again.
pub const KEY_RUNS_MAX: usize = 64;
pub const KEY_RUN_DEAD_MAX: usize = 1 << 16;

/// Positions of a tenant: what an event id has room for.
pub const POSITION_MAX: u64 = (1 << 42) - 1;

/// Batches that wait in a shard for admission, and their encoded bytes.
pub const PENDING_BATCHES_MAX: usize = 65_536;
pub const PENDING_BYTES_MAX: usize = 64 << 20;

/// Entity runs of one tier before they are merged into one of the next.
pub const RUNS_PER_TIER: usize = 8;

/// Least time between two segments that are ended early, so that what they hold of a tenant can be erased. A guess: many
/// deletions must not make many small segments.
pub const ERASE_ROLL_EVERY_US: u64 = 60_000_000;
/// Tenants that a shard erases at a time: others are refused as they are, and wait. A look at all of them, in every run of
/// the entity directory, stays below some 10 ms.
pub const ERASE_PENDING_MAX: usize = 512;
/// How long erasing waits when there was no room for a copy of any segment that it has left. A guess.
pub const ERASE_RETRY_US: u64 = 10_000_000;
/// Idempotency keys of tenants that are being erased which one turn makes go: about 100 µs.
pub const ERASE_KEYS_PER_TURN: usize = 512;
/// How often one turn asks whether a segment holds a tenant that is being erased: about 1 ms.
pub const ERASE_LOOKS_PER_TURN: usize = 16_384;

/// Index entries that one bite of a query looks at, so that a core never stops answering: about 100 µs.
pub const QUERY_BITE_ENTRIES: usize = 65_536;
/// Places that one bite hands back.
pub const QUERY_BITE_PLACES: usize = 1_024;

/// Free space that the engine never takes: room for the catalog, and for an operator to work in.
pub const DISK_RESERVE_BYTES: u64 = 256 << 20;

/// The log says how far it is durable once nothing has been in flight for this long.
pub const WATERMARK_IDLE_US: u64 = 5_000;
