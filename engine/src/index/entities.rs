//! The entity directory: last version and position of every entity in sealed segments, for ever.
//!
//! Sorted runs, newest first, each behind a filter; eight runs of a tier are merged into one of the next, so that their
//! number stays logarithmic and an entity never seen before costs a few filter probes.

use std::sync::Arc;

use crate::format::run::{RunEntry, RunView, encode_run, run_filter_key, run_key};
use crate::ids::{Position, Tenant, Version};
use crate::limits::RUNS_PER_TIER;

/// Invariant: runs cover disjoint ranges of segments, newest first.
#[derive(Debug, Clone, Default)]
pub struct EntityDirectory {
    runs: Vec<Arc<RunView>>,
}

impl EntityDirectory {
    /// `runs` in any order; their segment ranges must not overlap.
    pub fn new(mut runs: Vec<Arc<RunView>>) -> EntityDirectory {
        runs.sort_unstable_by_key(|run| std::cmp::Reverse(run.segments()));
        assert!(runs.windows(2).all(|pair| pair[1].segments().1 < pair[0].segments().0));
        EntityDirectory { runs }
    }

    pub fn runs(&self) -> &[Arc<RunView>] {
        &self.runs
    }

    /// Adds the run of a newly sealed segment, in the place of one that was made of it before.
    pub fn push(&mut self, run: Arc<RunView>) {
        self.runs.retain(|known| known.segments() != run.segments());
        let place = self.runs.partition_point(|known| known.segments() > run.segments());
        self.runs.insert(place, run);
    }

    /// Replaces the runs that `merged` covers.
    pub fn replace(&mut self, merged: Arc<RunView>) {
        let (from, to) = merged.segments();
        self.runs.retain(|run| run.segments().1 < from || to < run.segments().0);
        self.push(merged);
    }

    /// Last version and position of an entity, as far as sealed segments know.
    pub fn find(&self, tenant: Tenant, fingerprint: u128) -> Option<(Version, Position)> {
        let key = run_key(tenant, fingerprint);
        self.runs.iter().find_map(|run| run.find(key))
    }

    pub fn covers(&self, segment: u64) -> bool {
        self.runs.iter().any(|run| run.segments().0 <= segment && segment <= run.segments().1)
    }

    /// Forgets the run of a segment that is open again: what it says is older than what will be appended.
    pub fn forget(&mut self, segment: u64) {
        self.runs.retain(|run| run.segments() != (segment, segment));
    }

    pub fn mapped_bytes(&self) -> usize {
        self.runs.iter().map(|run| run.mapped_bytes()).sum()
    }

    /// Neighbouring runs that are due for a merge: the oldest `RUNS_PER_TIER` of the lowest full tier.
    pub fn merge_due(&self) -> Option<Vec<Arc<RunView>>> {
        let tier = |run: &RunView| (run.segments().1 - run.segments().0 + 1).ilog(RUNS_PER_TIER as u64);
        let mut from = 0;
        while from < self.runs.len() {
            let this = tier(&self.runs[from]);
            let to = from + self.runs[from..].iter().take_while(|run| tier(run) == this).count();
            if to - from >= RUNS_PER_TIER {
                return Some(self.runs[to - RUNS_PER_TIER..to].to_vec());
            }
            from = to;
        }
        None
    }
}

/// Merges neighbouring runs, newest first, into the bytes of one: the newest entry of each entity wins, and those of
/// `erased` tenants, which are sorted, are left out.
pub fn merge_runs(runs: &[Arc<RunView>], seed: u64, erased: &[Tenant]) -> Vec<u8> {
    assert!(!runs.is_empty());
    let is_kept = |entry: &&RunEntry| erased.binary_search(&Tenant(entry.tenant.get())).is_err();
    let mut entries: Vec<RunEntry> =
        runs.iter().flat_map(|run| run.entries().iter().filter(is_kept).copied()).collect();
    // Stable, and newer runs come first: the first entry of each key is the newest.
    entries.sort_by_key(RunEntry::key);
    entries.dedup_by_key(|entry| entry.key());
    let mut keys: Vec<u64> = entries.iter().map(|entry| run_filter_key(entry.key())).collect();
    let filter = crate::filter::build(&mut keys, seed);
    let from = runs[runs.len() - 1].segments().0;
    let to = runs[0].segments().1;
    encode_run(runs[0].shard(), from, to, &entries, &filter)
}
