//! The key runs of a shard: which files there are, which are due for a merge, and what is read back at the start.
//!
//! One run for each sealed segment that has keys; all of them are merged into one when they are many or mostly forgotten
//! keys, so that a restart reads at most about twice what it keeps. Must never: leave a segment that has keys uncovered.

use crate::format::key_run::{KeyEntry, KeyRunError, KeyRunView, encode_key_run};
use crate::ids::{Position, SegmentNumber, Tenant};
use crate::io::{Disk, DiskError, Site};
use crate::shard::jobs::{JobError, ShardHome, publish};
use crate::shard::keys::{KeyBounds, KeyWindow};
use crate::shard::names::{ShardEntry, key_run_path};
use crate::shard::recover::{OpenError, remove_covered};

/// A key run on disk: the segments it covers, and how many keys are in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyRun {
    pub from: u64,
    pub to: u64,
    pub entry_count: usize,
}

impl KeyRun {
    fn of(view: &KeyRunView) -> KeyRun {
        let (from, to) = view.segments();
        KeyRun { from, to, entry_count: view.entries().len() }
    }

    fn covers(&self, segment: u64) -> bool {
        self.from <= segment && segment <= self.to
    }
}

/// Invariant: runs cover disjoint ranges of segments, oldest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeyRuns {
    runs: Vec<KeyRun>,
}

impl KeyRuns {
    pub fn covers(&self, segment: u64) -> bool {
        self.runs.iter().any(|run| run.covers(segment))
    }

    /// Adds the run of a newly sealed segment.
    pub fn push(&mut self, run: KeyRun) {
        let place = self.runs.partition_point(|known| known.to < run.from);
        assert!(self.runs.get(place).is_none_or(|next| run.to < next.from));
        self.runs.insert(place, run);
    }

    /// Replaces the runs that `merged` covers.
    pub fn replace(&mut self, merged: KeyRun) {
        self.runs.retain(|run| run.to < merged.from || merged.to < run.from);
        self.push(merged);
    }

    pub fn all(&self) -> &[KeyRun] {
        &self.runs
    }

    /// All runs, if merging them is due while `kept` keys are remembered.
    pub fn merge_due(&self, kept: usize, bounds: &KeyBounds) -> Option<Vec<KeyRun>> {
        let entry_count: usize = self.runs.iter().map(|run| run.entry_count).sum();
        let is_due = self.runs.len() >= bounds.runs.max(2) || entry_count > 2 * kept + bounds.dead;
        is_due.then(|| self.runs.clone())
    }
}

/// Key runs as they were found.
#[derive(Debug, Default)]
pub(crate) struct FoundKeyRuns {
    /// Those that verify and are not yet in the window, newest first.
    views: Vec<KeyRunView>,
    /// Ranges of segments whose run does not verify.
    pub broken: Vec<(u64, u64)>,
}

impl FoundKeyRuns {
    pub fn covers(&self, segment: u64) -> bool {
        self.views.iter().any(|view| KeyRun::of(view).covers(segment))
    }

    /// Forgets the runs of segments that will be sealed again, and tells which those are.
    pub fn forget(&mut self, is_unsealed: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
        let is_of_one = |view: &KeyRunView| view.segments().0 == view.segments().1;
        let forgotten = self.views.extract_if(.., |view| is_of_one(view) && is_unsealed(view.segments().0));
        forgotten.map(|view| view.segments()).collect()
    }

    pub fn list(&self) -> KeyRuns {
        KeyRuns { runs: self.views.iter().rev().map(KeyRun::of).collect() }
    }

    /// Takes what the runs know that begin at or before a segment into the window. Keys come in the order of admission.
    pub fn load_until(&mut self, segment: SegmentNumber, window: &mut KeyWindow) {
        while let Some(view) = self.views.pop_if(|view| view.segments().0 <= segment.0) {
            view.entries().iter().for_each(|&entry| window.insert(entry));
        }
    }
}

/// Finds and checks the key runs of a folder. What a merge has replaced is removed.
pub(crate) fn find_key_runs(
    disk: &dyn Disk,
    dir: &str,
    shard: u32,
    names: &[ShardEntry],
) -> Result<FoundKeyRuns, OpenError> {
    let mut ranges: Vec<(u64, u64)> = names
        .iter()
        .filter_map(|entry| match entry {
            // Any other name is not ours.
            ShardEntry::KeyRun { from, to } if 0 < *from && from <= to => Some((*from, *to)),
            _ => None,
        })
        .collect();
    // Widest first, so that what a merge has replaced is seen as covered.
    ranges.sort_unstable_by_key(|&(from, to)| (std::cmp::Reverse(to - from), from));
    let mut found = FoundKeyRuns::default();
    for (from, to) in ranges {
        let known = || found.views.iter().map(KeyRun::of);
        if known().any(|run| run.covers(from) && run.covers(to)) {
            remove_covered(disk, dir, &key_run_path(dir, from, to), Site::KeyRunDir)?;
            continue;
        }
        let overlaps = known().any(|run| run.from <= to && from <= run.to);
        match open_run(disk, dir, from, to)? {
            Ok(run) if run.segments() == (from, to) && run.shard() == shard && !overlaps => {
                found.views.push(run);
            }
            Err(KeyRunError::Version(_) | KeyRunError::UnknownFlags(_)) => {
                return Err(OpenError::Newer { segment: SegmentNumber(from), what: "key run version" });
            }
            Ok(_) | Err(_) => found.broken.push((from, to)),
        }
    }
    found.views.sort_unstable_by_key(|view| std::cmp::Reverse(view.segments()));
    Ok(found)
}

fn open_run(disk: &dyn Disk, dir: &str, from: u64, to: u64) -> Result<Result<KeyRunView, KeyRunError>, DiskError> {
    let file = disk.open(&key_run_path(dir, from, to))?;
    let bytes = disk.file_bytes(&file)?;
    Ok(KeyRunView::open(disk.map(&file, bytes)?))
}

/// Writes the run of a full segment.
pub(crate) fn publish_key_run(
    disk: &dyn Disk,
    home: &ShardHome,
    from: u64,
    to: u64,
    entries: &[KeyEntry],
) -> Result<KeyRun, JobError> {
    let bytes = encode_key_run(home.shard.0, from, to, entries);
    publish(disk, &home.dir, &key_run_path(&home.dir, from, to), &bytes, Site::KeyRunFile, Site::KeyRunDir)?;
    Ok(KeyRun { from, to, entry_count: entries.len() })
}

/// Replaces neighbouring runs, oldest first, by one that has what is still remembered: keys at or behind their tenant's floor.
/// One without any key stays, too: it says that its segments' keys are all accounted for.
pub(crate) fn merge_key_runs(
    disk: &dyn Disk,
    home: &ShardHome,
    runs: &[KeyRun],
    mut floors: Vec<(Tenant, Position)>,
) -> Result<KeyRun, JobError> {
    floors.sort_unstable();
    let (from, to) = (runs[0].from, runs[runs.len() - 1].to);
    let is_kept = |entry: &KeyEntry| {
        let place = floors.binary_search_by_key(&entry.tenant(), |&(tenant, _)| tenant);
        place.is_ok_and(|place| floors[place].1 <= entry.first_position())
    };
    let mut entries = Vec::new();
    for run in runs {
        let view = open_run(disk, &home.dir, run.from, run.to)?.map_err(JobError::KeyRun)?;
        entries.extend(view.entries().iter().filter(|entry| is_kept(entry)));
    }
    let merged = publish_key_run(disk, home, from, to, &entries)?;
    // The merged run is durable under its name: the ones it covers may go, in any order, at any time.
    for run in runs.iter().filter(|run| (run.from, run.to) != (from, to)) {
        disk.remove(&key_run_path(&home.dir, run.from, run.to))?;
    }
    Ok(merged)
}
