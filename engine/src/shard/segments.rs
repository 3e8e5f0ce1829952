//! Segments come, fill and go: prepared ahead of need, rolled over, sealed in the background, removed when retired.
//!
//! ```text
//! pool ─prepare─► next ─roll─► open ─roll─► frozen ─seal─► snapshot ─retire─► gone
//!                                                          └─rewrite─┘
//! ```
//! One job at a time is with the helper thread. Must never: roll before the next segment's header is durable.

use std::sync::Arc;

use crate::format::index::IndexIdentity;
use crate::format::segment::SEGMENT_BLOCKS_FROM;
use crate::ids::{BlockSequence, SegmentNumber};
use crate::index::active::ActiveIndex;
use crate::index::sealed::{SegmentFile, Snapshot};
use crate::io::{DiskError, DiskFile, Fill};
use crate::limits::SEALING_SEGMENTS_MAX;
use crate::shard::commit::Durability;
use crate::shard::jobs::{Job, JobDone, JobError, Sealed};
use crate::shard::{Now, Output, Shard};

/// How long to wait after the disk said that it is full.
const FULL_RETRY_US: u64 = 1_000_000;

/// The segment that blocks go into.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub file: Arc<SegmentFile>,
    pub write_offset: u64,
    pub first_sequence: BlockSequence,
}

/// The segment that the log goes on in when the open one is full.
#[derive(Debug)]
pub(super) enum NextSegment {
    None,
    Preparing,
    Ready(Arc<SegmentFile>),
}

/// A full segment on its way to being sealed. Its index becomes shared once all of its blocks may be shown.
#[derive(Debug)]
pub(super) struct Frozen {
    pub segment: Arc<SegmentFile>,
    pub identity: IndexIdentity,
    index: FrozenIndex,
    is_sealing: bool,
}

#[derive(Debug)]
enum FrozenIndex {
    Filling(Box<ActiveIndex>),
    Complete(Arc<ActiveIndex>),
    /// Only while it changes hands.
    Moving,
}

impl Frozen {
    pub fn new(segment: Arc<SegmentFile>, identity: IndexIdentity, index: ActiveIndex) -> Frozen {
        Frozen { segment, identity, index: FrozenIndex::Filling(Box::new(index)), is_sealing: false }
    }

    pub fn index(&self) -> &ActiveIndex {
        match &self.index {
            FrozenIndex::Filling(index) => index,
            FrozenIndex::Complete(index) => index,
            FrozenIndex::Moving => unreachable!("an index changes hands within one call"),
        }
    }

    pub fn set_visible(&mut self, visible: usize) {
        match &mut self.index {
            FrozenIndex::Filling(index) => index.set_visible(visible),
            FrozenIndex::Complete(_) | FrozenIndex::Moving => panic!("a complete index shows everything"),
        }
    }

    /// The index for sealing, if every block of the segment is safe.
    fn complete(&mut self, safe: BlockSequence) -> Option<Arc<ActiveIndex>> {
        if safe.0 < self.identity.last_sequence || self.index().has_gap() {
            return None;
        }
        if let FrozenIndex::Filling(_) = self.index {
            let FrozenIndex::Filling(index) = std::mem::replace(&mut self.index, FrozenIndex::Moving) else {
                unreachable!("matched above");
            };
            assert!(index.visible() == index.event_count());
            self.index = FrozenIndex::Complete(Arc::from(index));
        }
        match &self.index {
            FrozenIndex::Complete(index) => Some(Arc::clone(index)),
            FrozenIndex::Filling(_) | FrozenIndex::Moving => None,
        }
    }

    fn into_index(self) -> Option<ActiveIndex> {
        match self.index {
            FrozenIndex::Complete(index) => Arc::try_unwrap(index).ok(),
            FrozenIndex::Filling(_) | FrozenIndex::Moving => None,
        }
    }
}

impl Shard {
    /// Goes on in the next segment. `false`: not now, because the next one is not ready, too much waits to be sealed,
    /// or the window has no room for the last block here and the first one there.
    pub(super) fn roll(&mut self, now: Now, out: &mut Output) -> bool {
        let NextSegment::Ready(_) = self.next else { return false };
        if self.frozen.len() >= SEALING_SEGMENTS_MAX || !self.has_room_to_roll() {
            return false;
        }
        if !self.submit_open(now, out) {
            return false;
        }
        let NextSegment::Ready(file) = std::mem::replace(&mut self.next, NextSegment::None) else {
            unreachable!("matched above");
        };
        if let Some(full) = self.segment.take() {
            let identity = self.identity_of(&full);
            let fresh = self.spare_index();
            let index = std::mem::replace(&mut self.active, fresh);
            if matches!(self.config.durability, Durability::Interval { .. }) {
                self.unsynced.push((full.file.file.clone(), BlockSequence(identity.last_sequence)));
            }
            self.frozen.push_back(Frozen::new(full.file, identity, index));
            self.stats.segments_rolled += 1;
        }
        self.segment =
            Some(OpenSegment { file, write_offset: SEGMENT_BLOCKS_FROM, first_sequence: self.next_sequence });
        self.submit_checkpoint(out);
        self.erasure.rolled(BlockSequence(self.next_sequence.0 - 1));
        true
    }

    /// Seals what is open early, so that it can be retired: for tests and for shrinking. `false`: not now.
    pub fn roll_now(&mut self, now: Now, out: &mut Output) -> bool {
        self.active.event_count() > 0 && self.latch.is_none() && self.roll(now, out)
    }

    /// Starts the slow work that is needed, one job at a time.
    pub(super) fn tend_segments(&mut self, now: Now, out: &mut Output) {
        if self.full_until_us.is_some_and(|until| until <= now.monotonic_us) {
            self.full_until_us = None;
        }
        if self.job_in_flight || self.latch.is_some() {
            return;
        }
        let is_full = self.full_until_us.is_some();
        let job = self
            .prepare_due(now, is_full)
            .or_else(|| self.seal_due(is_full))
            .or_else(|| self.retire_due())
            .or_else(|| self.merge_due(is_full))
            .or_else(|| self.merge_keys_due(is_full))
            .or_else(|| self.erase_due(now));
        if let Some(job) = job {
            self.job_in_flight = true;
            out.jobs.push(job);
        }
    }

    pub(super) fn take_job_done(&mut self, done: JobDone, now: Now) {
        self.erasure.look_again();
        match done {
            JobDone::Prepared { number, result: Ok(file) } => {
                assert!(file.number == number);
                self.next = NextSegment::Ready(file);
            }
            JobDone::Prepared { number, result: Err(error) } => {
                // Numbers of used segments have no holes.
                self.segment_number_next = number;
                self.next = NextSegment::None;
                self.job_failed(error, now);
            }
            JobDone::Sealed { number, result: Ok(Sealed { segment: sealed, run, key_run }) } => {
                let place = self.frozen.iter().position(|frozen| frozen.segment.number == number);
                let frozen = place.and_then(|place| self.frozen.remove(place)).expect("a sealed segment was frozen");
                let mut segments = self.snapshot.segments.clone();
                let at = segments.partition_point(|segment| segment.segment.number < number);
                segments.insert(at, sealed);
                self.snapshot = Arc::new(Snapshot { segments });
                self.entities.push(run);
                if let Some(key_run) = key_run {
                    self.key_runs.push(key_run);
                }
                if let Some(mut index) = frozen.into_index() {
                    index.clear();
                    self.spare_indexes.push(index);
                }
                self.stats.segments_sealed += 1;
            }
            JobDone::Sealed { number, result: Err(error) } => {
                if let Some(frozen) = self.frozen.iter_mut().find(|frozen| frozen.segment.number == number) {
                    frozen.is_sealing = false;
                }
                self.job_failed(error, now);
            }
            JobDone::Rewritten { number, result } => self.take_rewritten(number, result, now),
            JobDone::NamesSynced { result } => self.take_names_synced(result, now),
            JobDone::Merged { result: Ok(run) } => {
                self.entities.replace(run);
                self.stats.runs_merged += 1;
            }
            JobDone::Merged { result: Err(error) } => {
                self.erasure.wait_for_room(error, now);
                self.job_failed(error, now);
            }
            JobDone::KeysMerged { result: Ok(run) } => {
                self.key_runs.replace(run);
                self.erasure.keys_merged();
                self.stats.key_runs_merged += 1;
            }
            JobDone::KeysMerged { result: Err(error) } => {
                self.erasure.wait_for_room(error, now);
                self.job_failed(error, now);
            }
            JobDone::Retired { result: Ok(()), .. } => self.stats.segments_retired += 1,
            JobDone::Retired { result: Err(error), .. } => self.job_failed(error, now),
        }
    }

    /// A full disk heals by itself and is asked again; anything else means that nobody knows what is on disk.
    pub(super) fn job_failed(&mut self, error: JobError, now: Now) {
        if error == JobError::Disk(DiskError::NoSpace) {
            self.full_until_us = Some(now.monotonic_us + FULL_RETRY_US);
        } else {
            self.latch_write_failed();
        }
    }

    pub(super) fn identity_of(&self, segment: &OpenSegment) -> IndexIdentity {
        IndexIdentity {
            shard: self.config.home.shard.0,
            segment_number: segment.file.number.0,
            epoch: segment.file.epoch,
            first_sequence: segment.first_sequence.0,
            last_sequence: self.next_sequence.0 - 1,
            next_ordinal: self.next_ordinal,
            last_block_crc: self.last_block_crc,
            has_key_run: !self.active.idempotency_keys().is_empty(),
        }
    }

    fn spare_index(&mut self) -> ActiveIndex {
        self.spare_indexes.pop().unwrap_or_else(|| ActiveIndex::new(self.config.segment_events_max()))
    }

    fn prepare_due(&mut self, now: Now, is_full: bool) -> Option<Job> {
        if is_full || self.closing || !matches!(self.next, NextSegment::None) {
            return None;
        }
        let number = self.segment_number_next;
        self.segment_number_next = SegmentNumber(number.0 + 1);
        self.next = NextSegment::Preparing;
        // A log without any segment cannot take events: it gets one at once and pays for its extents later.
        let fill = if self.segment.is_none() { Fill::Allocate } else { self.config.spare_fill };
        let epoch = self.next_random();
        Some(Job::Prepare { home: self.config.home.clone(), number, epoch, now: now.wall, fill })
    }

    /// The last block that slow work may rely on. A file is synced from one place only, since a sync that failed there
    /// would succeed here: `interval` waits for its own syncs, `memory` leaves the one sync of a segment to the job.
    pub(super) fn sealable(&self) -> BlockSequence {
        match self.config.durability {
            Durability::Commit | Durability::Interval { .. } => self.durable,
            Durability::Memory => self.written,
        }
    }

    fn seal_due(&mut self, is_full: bool) -> Option<Job> {
        if is_full {
            return None;
        }
        let safe = self.sealable();
        let frozen = self.frozen.front_mut()?;
        if frozen.is_sealing {
            return None;
        }
        let index = frozen.complete(safe)?;
        frozen.is_sealing = true;
        Some(Job::Seal {
            home: self.config.home.clone(),
            index,
            segment: Arc::clone(&frozen.segment),
            identity: frozen.identity,
            sync_segment: self.config.durability == Durability::Memory,
        })
    }

    fn retire_due(&mut self) -> Option<Job> {
        // The open segment's checkpoint carries the state that the retired one leaves behind: it goes first.
        let safe = self.sealable();
        self.segment.as_ref().filter(|open| open.first_sequence <= safe)?;
        // Ours is the last reference: no snapshot, query or place names the segment any more.
        let is_free = |sealed: &Arc<crate::index::sealed::SealedSegment>| {
            Arc::strong_count(sealed) == 1 && Arc::strong_count(&sealed.segment) == 1
        };
        // Oldest first: the segments of a log have no holes.
        self.retiring.first().filter(|sealed| is_free(sealed))?;
        let sealed = self.retiring.remove(0);
        let sync_first = self.files_to_sync();
        Some(Job::Retire { home: self.config.home.clone(), number: sealed.segment.number, sync_first })
    }

    /// What a job has to sync before it relies on the open segment's checkpoint: under `memory` durability nobody else does,
    /// and a checkpoint is worth nothing when blocks before it are lost.
    pub(super) fn files_to_sync(&self) -> Vec<DiskFile> {
        if self.config.durability != Durability::Memory {
            return Vec::new();
        }
        let frozen = self.frozen.iter().map(|frozen| &frozen.segment);
        frozen.chain(self.segment.as_ref().map(|open| &open.file)).map(|segment| segment.file.clone()).collect()
    }

    fn merge_due(&mut self, is_full: bool) -> Option<Job> {
        if is_full || self.closing {
            return None;
        }
        let runs = self.entities.merge_due()?;
        let seed = self.next_random();
        let erased = self.erasure.pending().to_vec();
        Some(Job::Merge { home: self.config.home.clone(), runs, seed, erased })
    }

    fn merge_keys_due(&mut self, is_full: bool) -> Option<Job> {
        if is_full || self.closing {
            return None;
        }
        let runs = self.key_runs.merge_due(self.keys.len(), &self.config.keys)?;
        Some(Job::MergeKeys { home: self.config.home.clone(), runs, floors: self.keys.floors() })
    }

    /// The next number of the shard's own sequence, from the seed it was opened with.
    pub(super) fn next_random(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}
