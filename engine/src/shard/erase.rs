//! Erasing tenants: from one moment on a tenant is refused and not found, and then its events are removed from the disk.
//!
//! ```text
//! erase ─► open segment ended early ─► sealed ─► segments rewritten ─► runs and key runs merged without ─► names synced ─► erased
//! ```
//! Whatever a tenant has is in an index, a run or a list here, so that nothing has to be looked for on disk. Must never:
//! say that a tenant is erased while any file holds something of it, or hold up a shard that is full or closing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::format::run::RunView;
use crate::ids::{BlockSequence, SegmentNumber, Tenant};
use crate::index::active::ActiveIndex;
use crate::index::sealed::{SealedSegment, Snapshot};
use crate::io::DiskError;
use crate::limits::{
    ERASE_KEYS_PER_TURN, ERASE_LOOKS_PER_TURN, ERASE_PENDING_MAX, ERASE_RETRY_US, ERASE_ROLL_EVERY_US,
};
use crate::shard::jobs::{Job, JobError};
use crate::shard::rewrite::Rewrite;
use crate::shard::{Now, Output, Shard};

/// What is being erased, and how far it is. Lists of tenants are part of `pending`, but for `pending` itself.
#[derive(Debug, Default)]
pub(super) struct Erasure {
    /// Every tenant that `erase` was called for, and whether nothing is left of it.
    tenants: BTreeMap<Tenant, bool>,
    /// Those that are being erased, sorted: at most so many at a time that a look at all of them is short.
    pending: Vec<Tenant>,
    /// Those that are refused and wait for a place in `pending`.
    waiting: VecDeque<Tenant>,
    /// Those who may have events in the open segment, or a place in its checkpoint.
    unrolled: Vec<Tenant>,
    /// When the open segment may be ended for them.
    roll_at_us: u64,
    /// Segments that were ended early and are mostly empty: a copy of what is in them gives their room back.
    ended: Vec<SegmentNumber>,
    /// The last checkpoint that was written, which must be durable: an older one names who is erased.
    checkpoint: BlockSequence,
    awaits_checkpoint: bool,
    /// Those who have idempotency keys in memory.
    forgetting: Vec<Tenant>,
    /// Those who may have some in key runs, and those who are left out of the merge that is under way.
    keyed: Vec<Tenant>,
    leaving_keys: Vec<Tenant>,
    /// No sealed segment before this one holds anything of anybody, except those that cannot be copied.
    look_from: SegmentNumber,
    unreadable: Vec<SegmentNumber>,
    /// Some segment was passed over because there was no room for its copy.
    passed_over: bool,
    /// There was no room for something, which may be tried again from this moment on.
    retry_at_us: u64,
    /// Of whom nothing was left when the sync of names began.
    confirming: Vec<Tenant>,
    /// Something has changed since the last look for work.
    is_due: bool,
    /// The last look was not to the end.
    is_looking: bool,
}

impl Erasure {
    /// Whether a tenant's batches are refused.
    pub fn refuses(&self, tenant: Tenant) -> bool {
        !self.tenants.is_empty() && self.tenants.contains_key(&tenant)
    }

    /// Those that are not erased yet, sorted.
    pub fn pending(&self) -> &[Tenant] {
        &self.pending
    }

    /// Something has changed: there may be work.
    pub fn look_again(&mut self) {
        self.is_due = true;
    }

    /// A new segment was begun: no tenant that is being erased has anything in it.
    pub fn rolled(&mut self, checkpoint: BlockSequence) {
        self.unrolled.clear();
        self.checkpoint = checkpoint;
        self.is_due = true;
    }

    /// A merge of key runs has ended. If it was ours, those that it left out have no keys any more.
    pub fn keys_merged(&mut self) {
        let leaving = std::mem::take(&mut self.leaving_keys);
        self.keyed.retain(|tenant| !leaving.contains(tenant));
    }

    /// What was to be written for a tenant may find room later. A full disk is no reason to wait otherwise: erasing frees it.
    pub fn wait_for_room(&mut self, error: JobError, now: Now) {
        if error == JobError::Disk(DiskError::NoSpace) && !self.pending.is_empty() {
            self.retry_at_us = now.monotonic_us + ERASE_RETRY_US;
        }
    }

    fn is_any_in(&self, sealed: &SealedSegment) -> bool {
        self.pending.iter().any(|&tenant| sealed.resident.tenant(tenant).is_some())
    }
}

impl Shard {
    /// From now on the tenant's appends are refused, waiting ones included; only what is in a block already goes on.
    /// Queries that begin find nothing of it, its idempotency keys are forgotten, and what is on disk is removed in
    /// the background, as far as the shard is not read-only. `is_erased` says when that is done. Calling it again
    /// changes nothing.
    ///
    /// The shard does not store the intention: whoever owns it calls this after every open, before the first append,
    /// until `is_erased`.
    pub fn erase(&mut self, tenant: Tenant) {
        let erasure = &mut self.erasure;
        if erasure.tenants.contains_key(&tenant) {
            return;
        }
        erasure.tenants.insert(tenant, false);
        if erasure.pending.len() < ERASE_PENDING_MAX {
            self.begin_erasing(tenant);
        } else {
            erasure.waiting.push_back(tenant);
        }
    }

    fn begin_erasing(&mut self, tenant: Tenant) {
        let erasure = &mut self.erasure;
        let place = erasure.pending.partition_point(|&known| known < tenant);
        erasure.pending.insert(place, tenant);
        // Gone from the next checkpoint on.
        let was_listed = self.tenants.remove(tenant).is_some();
        if was_listed || self.active.tenant_positions(tenant).is_some() {
            erasure.unrolled.push(tenant);
        }
        if self.keys.has_known(tenant) {
            erasure.forgetting.push(tenant);
            erasure.keyed.push(tenant);
        }
        erasure.look_from = SegmentNumber(0);
        erasure.is_due = true;
        self.limits.remove(tenant);
    }

    /// Whether `erase` was called and no file of the shard holds anything that the tenant sent any more, durably. Checkpoints of
    /// segments that hold nothing else of it may still name its number and its counters.
    pub fn is_erased(&self, tenant: Tenant) -> bool {
        self.erasure.tenants.get(&tenant) == Some(&true)
    }

    /// The part of erasing that the shard does itself: keys are forgotten a few at a time, and the open segment is ended.
    pub(super) fn tend_erasure(&mut self, now: Now, out: &mut Output) {
        if self.erasure.pending.is_empty() || self.latch.is_some() || self.closing {
            return;
        }
        if let Some(&tenant) = self.erasure.forgetting.last()
            && self.keys.forget_some(tenant, ERASE_KEYS_PER_TURN)
        {
            self.erasure.forgetting.pop();
            // One merge of key runs for all of them.
            self.erasure.is_due |= self.erasure.forgetting.is_empty();
        }
        if self.erasure.awaits_checkpoint && self.erasure.checkpoint <= self.sealable() {
            self.erasure.awaits_checkpoint = false;
            self.erasure.is_due = true;
        }
        let is_roll_due = !self.erasure.unrolled.is_empty() && self.erasure.roll_at_us <= now.monotonic_us;
        let open = self.segment.as_ref().map(|open| (open.file.number, open.write_offset));
        if is_roll_due && self.roll(now, out) {
            self.erasure.roll_at_us = now.monotonic_us + ERASE_ROLL_EVERY_US;
            if let Some((number, used_bytes)) = open
                && used_bytes < self.config.home.segment_bytes / 2
            {
                self.erasure.ended.push(number);
            }
        }
    }

    /// When erasing wants a turn, if nothing else ends before.
    pub(super) fn erasure_wants(&self, now: Now) -> Option<u64> {
        let erasure = &self.erasure;
        if erasure.pending.is_empty() || self.closing {
            return None;
        }
        if !erasure.forgetting.is_empty() {
            return Some(now.monotonic_us + 1);
        }
        if !self.job_in_flight && (erasure.is_looking || now.monotonic_us < erasure.retry_at_us) {
            return Some(erasure.retry_at_us.max(now.monotonic_us + 1));
        }
        // A roll that is over its time waits for something that will end.
        (!erasure.unrolled.is_empty() && now.monotonic_us < erasure.roll_at_us).then_some(erasure.roll_at_us)
    }

    /// The next job that takes something of an erased tenant from the disk.
    pub(super) fn erase_due(&mut self, now: Now) -> Option<Job> {
        let is_due = self.erasure.is_due && self.erasure.retry_at_us <= now.monotonic_us;
        if self.erasure.pending.is_empty() || !is_due || self.closing {
            return None;
        }
        let job = self.rewrite_due(now);
        if job.is_some() || self.erasure.is_looking {
            return job;
        }
        let job = self.merge_without_due().or_else(|| self.merge_keys_without_due()).or_else(|| self.confirm_due());
        self.erasure.is_due = job.is_some() || self.erasure.passed_over;
        if job.is_none() && std::mem::take(&mut self.erasure.passed_over) {
            self.erasure.look_from = SegmentNumber(0);
            self.erasure.retry_at_us = now.monotonic_us + ERASE_RETRY_US;
        }
        job
    }

    /// The oldest sealed segment that holds something, rewritten without it.
    fn rewrite_due(&mut self, now: Now) -> Option<Job> {
        let snapshot = Arc::clone(&self.snapshot);
        let from = snapshot.segments.partition_point(|sealed| sealed.segment.number < self.erasure.look_from);
        let mut looks = 0;
        for sealed in &snapshot.segments[from..] {
            self.erasure.is_looking = ERASE_LOOKS_PER_TURN <= looks;
            if self.erasure.is_looking {
                return None;
            }
            looks += self.erasure.pending.len();
            let number = sealed.segment.number;
            self.erasure.look_from = number;
            let is_wanted = self.erasure.is_any_in(sealed) || self.erasure.ended.contains(&number);
            if is_wanted && !self.erasure.unreadable.contains(&number) {
                let rewrite = Rewrite {
                    source: Arc::clone(sealed),
                    erased: self.erasure.pending.clone(),
                    epoch: self.next_random(),
                    now: now.wall,
                    fingerprint: self.config.fingerprint,
                };
                return Some(Job::Rewrite { home: self.config.home.clone(), rewrite });
            }
            self.erasure.look_from = SegmentNumber(number.0 + 1);
        }
        self.erasure.is_looking = false;
        None
    }

    pub(super) fn take_rewritten(
        &mut self,
        number: SegmentNumber,
        result: Result<Arc<SealedSegment>, JobError>,
        now: Now,
    ) {
        // An `erase` meanwhile may want all of them looked at again.
        if self.erasure.look_from == number {
            self.erasure.look_from = SegmentNumber(number.0 + 1);
        }
        let may_be_tried_again = matches!(result, Err(JobError::Disk(DiskError::NoSpace)));
        self.erasure.ended.retain(|&ended| ended != number || may_be_tried_again);
        match result {
            Ok(rewritten) => {
                let mut segments = self.snapshot.segments.clone();
                let of_this = |sealed: &&mut Arc<SealedSegment>| sealed.segment.number == number;
                let place = segments.iter_mut().find(of_this).or_else(|| self.retiring.iter_mut().find(of_this));
                *place.expect("only a job takes a sealed segment away") = rewritten;
                self.snapshot = Arc::new(Snapshot { segments });
                self.stats.segments_rewritten += 1;
            }
            // It stays as it is. Queries name what is damaged when they meet it.
            Err(JobError::Source) => {
                self.erasure.unreadable.push(number);
                self.stats.segments_not_rewritten += 1;
            }
            // Another one may need less room.
            Err(JobError::Disk(DiskError::NoSpace)) => self.erasure.passed_over = true,
            Err(error) => self.job_failed(error, now),
        }
    }

    /// An entity run that knows somebody who is being erased, in a merge with itself.
    fn merge_without_due(&mut self) -> Option<Job> {
        let pending = &self.erasure.pending;
        let knows_any = |run: &&Arc<RunView>| pending.iter().any(|&tenant| run.holds(tenant));
        let run = Arc::clone(self.entities.runs().iter().find(knows_any)?);
        let seed = self.next_random();
        let erased = self.erasure.pending.clone();
        Some(Job::Merge { home: self.config.home.clone(), runs: vec![run], seed, erased })
    }

    /// All key runs, in a merge without the keys of those who have none in memory any more, nor in a segment that will be sealed.
    fn merge_keys_without_due(&mut self) -> Option<Job> {
        let erasure = &self.erasure;
        let is_over = |tenant: &Tenant| !erasure.forgetting.contains(tenant) && !self.is_unsealed(*tenant);
        let leaving: Vec<Tenant> = erasure.keyed.iter().copied().filter(is_over).collect();
        if leaving.is_empty() {
            return None;
        }
        let runs = self.key_runs.all().to_vec();
        self.erasure.leaving_keys = leaving;
        if runs.is_empty() {
            self.erasure.keys_merged();
            return None;
        }
        Some(Job::MergeKeys { home: self.config.home.clone(), runs, floors: self.keys.floors() })
    }

    /// The last step for those of whom nothing is left: removed names are made durable.
    fn confirm_due(&mut self) -> Option<Job> {
        self.erasure.awaits_checkpoint = self.sealable() < self.erasure.checkpoint;
        if self.erasure.awaits_checkpoint || self.erasure.passed_over || !self.erasure.ended.is_empty() {
            return None;
        }
        // Runs and all other sealed segments have been looked at.
        let erasure = &self.erasure;
        let is_unreadable = |sealed: &&Arc<SealedSegment>| erasure.unreadable.contains(&sealed.segment.number);
        let unreadable = self.snapshot.segments.iter().filter(is_unreadable);
        let left: Vec<&Arc<SealedSegment>> = unreadable.chain(&self.retiring).collect();
        let is_gone = |&tenant: &Tenant| {
            let is_left = left.iter().any(|sealed| sealed.resident.tenant(tenant).is_some());
            !is_left && !erasure.keyed.contains(&tenant) && !self.is_unsealed(tenant)
        };
        let confirming: Vec<Tenant> = erasure.pending.iter().copied().filter(is_gone).collect();
        if confirming.is_empty() {
            return None;
        }
        self.erasure.confirming = confirming;
        Some(Job::SyncNames { home: self.config.home.clone(), sync_first: self.files_to_sync() })
    }

    pub(super) fn take_names_synced(&mut self, result: Result<(), JobError>, now: Now) {
        let confirmed = std::mem::take(&mut self.erasure.confirming);
        if let Err(error) = result {
            self.erasure.wait_for_room(error, now);
            self.job_failed(error, now);
            return;
        }
        self.erasure.pending.retain(|tenant| !confirmed.contains(tenant));
        self.stats.tenants_erased += confirmed.len() as u64;
        self.erasure.tenants.extend(confirmed.into_iter().map(|tenant| (tenant, true)));
        while self.erasure.pending.len() < ERASE_PENDING_MAX
            && let Some(tenant) = self.erasure.waiting.pop_front()
        {
            self.begin_erasing(tenant);
        }
    }

    /// Whether a tenant that is being erased may have events in a segment that is not sealed.
    fn is_unsealed(&self, tenant: Tenant) -> bool {
        let has_events = |index: &ActiveIndex| index.tenant_positions(tenant).is_some();
        self.erasure.unrolled.contains(&tenant) || self.frozen.iter().any(|frozen| has_events(frozen.index()))
    }
}
