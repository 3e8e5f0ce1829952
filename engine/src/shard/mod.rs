//! A shard: one log, the tenants in it, and the rule that nothing is acknowledged before it is durable.
//!
//! ```text
//! append ─► pending ─► admit ─► open block ─► commit ─► in flight ─► durable prefix ─► acks
//!                        │                                  │
//!                        └► active index (not visible)      └► visible
//! ```
//! A plain state machine: its host feeds completions in, calls `turn`, and carries out the operations that come out.
//! Must never: call the operating system, read a clock, or acknowledge out of order.

mod admit;
mod commit;
mod erase;
pub mod jobs;
mod keys;
pub mod names;
mod quota;
mod reader;
pub mod recover;
mod restore;
mod rewrite;
mod segments;
mod tenants;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::{EventBatch, FingerprintKey};
use crate::ids::{BlockSequence, Micros, Position, SegmentNumber, ShardNumber, Tenant, Version};
use crate::index::active::ActiveIndex;
use crate::index::entities::EntityDirectory;
use crate::index::sealed::{SealedSegment, SegmentFile, Snapshot};
use crate::io::{BufferPool, DiskDone, DiskFile, DiskOp, Fill};
use crate::limits::{PENDING_BATCHES_MAX, PENDING_BYTES_MAX, SEGMENT_BYTES_PER_EVENT};
use crate::query::active::{ActiveAnswer, ActiveRequest};
pub use commit::Durability;
use commit::{InFlight, OpenBlock, SyncInFlight, WaitingAck};
use erase::Erasure;
use jobs::{Job, JobDone, ShardHome};
use keys::runs::KeyRuns;
pub use keys::{KeyBounds, KeyRun, KeyWindow};
pub use quota::{Limits, QuotaKind, Usage};
use segments::{Frozen, NextSegment, OpenSegment};
use tenants::{TenantMap, TenantState};

/// What a host gives to a shard once, at open.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    pub home: ShardHome,
    pub fingerprint: FingerprintKey,
    pub durability: Durability,
    /// How segments are made ahead of need. The very first is always allocated only, so that a first start is quick.
    pub spare_fill: Fill,
    /// What a block grows to before it waits for the next one.
    pub block_bytes_target: usize,
    /// Ceiling of the core's time that commits may take, in thousandths.
    pub commit_share_permille: u64,
    /// How many idempotency keys are remembered, and how long.
    pub keys: KeyBounds,
}

impl ShardConfig {
    /// Events that one segment may hold.
    pub fn segment_events_max(&self) -> usize {
        (self.home.segment_bytes / SEGMENT_BYTES_PER_EVENT) as usize
    }
}

/// What the host knows when it calls `turn`.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub monotonic_us: u64,
    pub wall: Micros,
    /// How busy the core has been lately, in thousandths. Commits are paced only when it matters.
    pub busy_permille: u64,
    /// What submitting one commit costs the core, measured by the host.
    pub commit_cost_us: u64,
}

/// What a turn asks of the host.
#[derive(Debug, Default)]
pub struct Output {
    pub disk: Vec<DiskOp>,
    pub jobs: Vec<Job>,
    pub acks: Vec<Ack>,
}

/// The answer to one `append`, given exactly once. The batch comes back for reuse; on success its keys hold the versions.
#[derive(Debug)]
pub struct Ack {
    pub ticket: u64,
    pub batch: EventBatch,
    pub result: Result<Appended, AppendError>,
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Position of the first event; the others follow.
    pub first_position: Position,
    pub received_at: Micros,
    /// The batch was stored earlier, under the same idempotency key: this is where and when. Of a single event, its key
    /// holds the version; of several, `UNKNOWN_VERSION`: whoever needs them reads the events of the tenant that follow
    /// `first_position - 1`, as any query does (`QuerySpec::after`).
    pub is_replay: bool,
}

/// Why a batch was not appended. Nothing of it was stored, except as `OutcomeUnknown` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendError {
    /// The event's entity is at another version than its sender expected.
    VersionConflict { event_index: usize, expected: Version, current: Version },
    /// The shard does not take events until it has been opened again, or repaired.
    ReadOnly(ReadOnly),
    /// The write was on its way when the disk failed: the batch may or may not be found after a restart.
    OutcomeUnknown,
    /// No room for another segment. Writing resumes by itself when there is.
    StorageFull,
    /// The shard has as many tenants as it can hold.
    TenantLimit,
    /// The batch is larger than a segment can take.
    TooLarge,
    /// The batch would have taken the tenant across a limit. `used` of `quota` are taken, counting what was appended before
    /// it; events of a month begin again at `resets_at`.
    QuotaExceeded { kind: QuotaKind, used: u64, quota: u64, resets_at: Option<Micros> },
    /// The batch's idempotency key is that of a batch with another body.
    IdempotencyMismatch,
    /// The tenant is being erased, or was.
    TenantErased,
    /// Too much waits already.
    Overloaded,
}

/// Why a shard takes no events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// A write or sync failed; nobody knows what is on disk.
    WriteFailed,
    /// Acknowledged events are damaged and wait for a repair.
    Damaged,
    /// The shard is being closed.
    Closing,
}

#[derive(Debug)]
struct Pending {
    ticket: u64,
    batch: EventBatch,
}

/// One log and its tenants. See the module's picture.
///
/// Invariant: `durable <= written < next_sequence`; `next_sequence - 1 - written <= IN_FLIGHT_BLOCKS_MAX`;
/// waiting acks are sorted by the sequence they wait for.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    pool: BufferPool,
    /// Every tenant that ever had an event in the shard.
    tenants: TenantMap<TenantState>,
    /// What tenants may store, as the host says; not on disk.
    limits: TenantMap<Limits>,
    entities: EntityDirectory,
    /// The idempotency keys of the tenants' last batches, and the files that know those of sealed segments.
    keys: KeyWindow,
    key_runs: KeyRuns,
    active: ActiveIndex,
    spare_indexes: Vec<ActiveIndex>,
    frozen: VecDeque<Frozen>,
    snapshot: Arc<Snapshot>,
    retiring: Vec<Arc<SealedSegment>>,
    segment: Option<OpenSegment>,
    next: NextSegment,
    segment_number_next: SegmentNumber,
    open: Option<OpenBlock>,
    in_flight: VecDeque<InFlight>,
    waiting: VecDeque<WaitingAck>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    next_sequence: BlockSequence,
    next_ordinal: u64,
    last_block_crc: u32,
    /// Every block up to here has been completed by the disk.
    written: BlockSequence,
    /// Every block up to here survives a power cut.
    durable: BlockSequence,
    /// The highest durable sequence that any submitted block carries.
    announced: BlockSequence,
    /// The last block that has something to lose.
    last_content: BlockSequence,
    quiet_since_us: Option<u64>,
    commit_at_us: u64,
    /// When the last block with events left.
    submitted_at_us: u64,
    sync_in_flight: Option<SyncInFlight>,
    /// Segments rolled out of, with their last block, until an interval sync has covered it.
    unsynced: Vec<(DiskFile, BlockSequence)>,
    sync_at_us: u64,
    full_until_us: Option<u64>,
    latch: Option<ReadOnly>,
    closing: bool,
    job_in_flight: bool,
    erasure: Erasure,
    seed: u64,
    /// Scratch of `admit`, kept for its memory.
    entity_numbers: Vec<u32>,
    versions: Vec<u64>,
    stats: ShardStats,
}

/// Counters of one shard since it was opened, and gauges of the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ShardStats {
    pub events_appended: u64,
    pub batches_appended: u64,
    /// Batches that had been stored before, under the same idempotency key.
    pub batches_replayed: u64,
    pub blocks_submitted: u64,
    pub block_bytes_submitted: u64,
    pub segments_rolled: u64,
    pub segments_sealed: u64,
    pub segments_retired: u64,
    pub runs_merged: u64,
    pub key_runs_merged: u64,
    /// Of which nothing is left on disk.
    pub tenants_erased: u64,
    /// Sealed segments that were written again without what is being erased.
    pub segments_rewritten: u64,
    /// Those that could not be, because they are damaged: what is being erased stays in them.
    pub segments_not_rewritten: u64,
}

impl Shard {
    pub fn number(&self) -> ShardNumber {
        self.config.home.shard
    }

    pub fn stats(&self) -> ShardStats {
        self.stats
    }

    /// Why the shard takes no events, if it does not.
    pub fn read_only(&self) -> Option<ReadOnly> {
        self.latch
    }

    /// The sealed segments as they are now. Holding the snapshot pins their files.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Tenants with at least one event ever.
    pub fn tenant_count(&self) -> usize {
        self.tenants.len()
    }

    /// Idempotency keys that are remembered.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Bytes that summaries, filters and the entity directory keep mapped.
    pub fn mapped_bytes(&self) -> usize {
        let indexes: usize = self.snapshot.segments.iter().map(|segment| segment.resident.mapped_bytes()).sum();
        indexes + self.entities.mapped_bytes()
    }

    /// Queues a batch. Its answer comes as an `Ack` with the same ticket, unless it is refused here and now.
    pub fn append(&mut self, ticket: u64, batch: EventBatch) -> Result<(), (EventBatch, AppendError)> {
        assert!(!batch.is_empty());
        if let Some(reason) = self.latch {
            return Err((batch, AppendError::ReadOnly(reason)));
        }
        if self.closing {
            return Err((batch, AppendError::ReadOnly(ReadOnly::Closing)));
        }
        if self.erasure.refuses(batch.tenant()) {
            return Err((batch, AppendError::TenantErased));
        }
        let bytes = batch.records().len();
        if self.pending.len() >= PENDING_BATCHES_MAX || self.pending_bytes + bytes > PENDING_BYTES_MAX {
            return Err((batch, AppendError::Overloaded));
        }
        if let Some(idempotency) = batch.idempotency() {
            self.keys.fetch(batch.tenant(), &idempotency.key);
        }
        self.pending_bytes += bytes;
        self.pending.push_back(Pending { ticket, batch });
        Ok(())
    }

    /// Takes the end of a disk operation that an earlier turn asked for. Acks it releases come out of the next turn.
    pub fn disk_done(&mut self, done: DiskDone) {
        self.take_disk_done(done);
    }

    /// Takes the end of a job that an earlier turn asked for.
    pub fn job_done(&mut self, done: JobDone, now: Now) {
        self.job_in_flight = false;
        self.take_job_done(done, now);
    }

    /// Admits what waits, commits what is due, starts what slow work is needed.
    /// Returns the monotonic time at which the shard wants another turn even if nothing completes.
    pub fn turn(&mut self, now: Now, out: &mut Output) -> Option<u64> {
        self.release_acks(out);
        self.keys.sweep(now.wall);
        loop {
            let before = (self.pending.len(), self.next_sequence);
            self.admit_pending(now, out);
            self.commit_due(now, out);
            let after = (self.pending.len(), self.next_sequence);
            if self.pending.is_empty() || before == after {
                break;
            }
        }
        self.announce_durable(now, out);
        self.tend_erasure(now, out);
        self.tend_segments(now, out);
        self.release_acks(out);
        self.deadline(now)
    }

    /// Whether every accepted batch has been answered and the log says how far it is durable.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty()
            && self.open.is_none()
            && self.in_flight.is_empty()
            && self.waiting.is_empty()
            && self.sync_in_flight.is_none()
            && (self.latch.is_some() || self.is_settled())
    }

    /// Whether the durability that was promised has been reached.
    fn is_settled(&self) -> bool {
        match self.config.durability {
            Durability::Commit => self.last_content <= self.announced,
            Durability::Interval { .. } => !self.closing || self.written <= self.durable,
            Durability::Memory => true,
        }
    }

    /// Takes no more batches; what was accepted is made durable and answered. `is_quiet` says when that is done.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// Whether no job is with the helper thread.
    pub fn is_idle(&self) -> bool {
        !self.job_in_flight
    }

    /// Removes the oldest sealed segment once nobody reads it. Its events are gone from every query at once.
    /// Returns its number, or `None` if no segment is sealed.
    pub fn retire_oldest(&mut self) -> Option<SegmentNumber> {
        let oldest = self.snapshot.segments.first()?;
        let number = oldest.segment.number;
        self.retiring.push(Arc::clone(oldest));
        self.snapshot = Arc::new(Snapshot { segments: self.snapshot.segments[1..].to_vec() });
        Some(number)
    }

    /// The last version of an entity, durable or not; `Version(0)` if it has no event, or its tenant is being erased.
    pub fn entity_version(&self, tenant: Tenant, fingerprint: u128) -> Version {
        if self.erasure.refuses(tenant) {
            return Version(0);
        }
        self.known_version(tenant, fingerprint).map_or(Version(0), |(version, _)| version)
    }

    /// One bite of a query over what is not sealed. See `query::active`.
    pub fn search(&self, request: &ActiveRequest) -> ActiveAnswer {
        let segments: Vec<(&ActiveIndex, &Arc<SegmentFile>)> = self
            .frozen
            .iter()
            .map(|frozen| (frozen.index(), &frozen.segment))
            .chain(self.segment.as_ref().map(|open| (&self.active, &open.file)))
            .collect();
        let tenant = request.spec.tenant;
        if self.erasure.refuses(tenant) {
            return ActiveAnswer::nothing(request);
        }
        let version = request.entity.map(|fingerprint| self.visible_version(tenant, fingerprint));
        let next_position = self.visible_next_position(tenant);
        crate::query::active::search(request, &segments, Arc::clone(&self.snapshot), version, next_position)
    }

    /// The sequence that a reader must wait for, to see everything appended so far. See `is_written`.
    pub fn appended_sequence(&self) -> BlockSequence {
        let open = u64::from(self.open.is_some());
        BlockSequence(self.next_sequence.0 - 1 + open)
    }

    /// Whether everything up to a block can be read.
    pub fn is_written(&self, sequence: BlockSequence) -> bool {
        sequence <= self.written || self.latch.is_some()
    }

    fn known_version(&self, tenant: Tenant, fingerprint: u128) -> Option<(Version, Position)> {
        if let Some(known) = self.active.last_version(tenant, fingerprint) {
            return Some(known);
        }
        self.older_version(tenant, fingerprint)
    }

    /// The version of an entity's last event that readers may see.
    fn visible_version(&self, tenant: Tenant, fingerprint: u128) -> Version {
        let hidden = |index: &ActiveIndex| index.hidden_of_entity(tenant, fingerprint);
        let hidden_count = hidden(&self.active) + self.frozen.iter().map(|frozen| hidden(frozen.index())).sum::<u64>();
        Version(self.entity_version(tenant, fingerprint).0 - hidden_count)
    }

    /// The position behind a tenant's last event that readers may see.
    fn visible_next_position(&self, tenant: Tenant) -> Position {
        let hidden = |index: &ActiveIndex| index.hidden_of_tenant(tenant);
        let hidden_count = hidden(&self.active) + self.frozen.iter().map(|frozen| hidden(frozen.index())).sum::<u64>();
        let next = self.tenants.get(tenant).map_or(Position(1), |state| state.next_position);
        Position(next.0 - hidden_count)
    }

    /// What segments before the active one know.
    fn older_version(&self, tenant: Tenant, fingerprint: u128) -> Option<(Version, Position)> {
        self.frozen
            .iter()
            .rev()
            .find_map(|frozen| frozen.index().last_version(tenant, fingerprint))
            .or_else(|| self.entities.find(tenant, fingerprint))
    }
}
