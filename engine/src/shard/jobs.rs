//! Slow file work of a shard, done by a helper thread: prepare a segment, seal a full one, merge runs, retire, rewrite.
//!
//! Every job is a plain function over the blocking half of the disk seam, so that the simulator can cut the power
//! between any two of its steps. A file appears complete or not at all: written aside, synced, renamed, folder synced.

use std::sync::Arc;

use crate::format::index::{IndexError, IndexIdentity, IndexResident};
use crate::format::key_run::KeyRunError;
use crate::format::run::{RunError, RunView};
use crate::format::segment::SegmentHeader;
use crate::ids::{Micros, SegmentNumber, ShardNumber, Tenant};
use crate::index::active::ActiveIndex;
use crate::index::entities::merge_runs;
use crate::index::sealed::{SealedSegment, SegmentFile};
use crate::io::{Disk, DiskError, DiskFile, FileMemory, Fill, Site};
use crate::limits::ALIGNMENT;
use crate::shard::keys::KeyFloor;
use crate::shard::keys::runs::{KeyRun, merge_key_runs, publish_key_run};
use crate::shard::names::{ASIDE_SUFFIX, ShardEntry, free_path, index_path, log_path, parse_name, run_path};
use crate::shard::rewrite::{Rewrite, rewrite};

/// What every file of a shard says about where it belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardHome {
    pub shard: ShardNumber,
    pub dir: String,
    pub instance: [u8; 16],
    pub segment_bytes: u64,
    /// Free space below which no new segment is made.
    pub reserve_bytes: u64,
}

/// Work for the helper thread.
#[derive(Debug)]
pub enum Job {
    /// Take a segment from the pool, or make one, and put it into the log under `number`.
    Prepare { home: ShardHome, number: SegmentNumber, epoch: u64, now: Micros, fill: Fill },
    /// Write the index and the runs of a full segment. `sync_segment`: its blocks were not written durably.
    Seal {
        home: ShardHome,
        index: Arc<ActiveIndex>,
        segment: Arc<SegmentFile>,
        identity: IndexIdentity,
        sync_segment: bool,
    },
    /// Replace runs, newest first, by one without the entities of `erased` tenants, which are sorted.
    Merge { home: ShardHome, runs: Vec<Arc<RunView>>, seed: u64, erased: Vec<Tenant> },
    /// Replace key runs, oldest first, by one of the keys that are not before their tenant's floor.
    MergeKeys { home: ShardHome, runs: Vec<KeyRun>, floors: Vec<KeyFloor> },
    /// Remove a segment that nobody reads any more. `sync_first`: the segments that are not sealed, oldest first, if their
    /// blocks are not written durably, since the open one's checkpoint replaces what goes.
    Retire { home: ShardHome, number: SegmentNumber, sync_first: Vec<DiskFile> },
    /// Replace a sealed segment by a copy without the events of tenants that are being erased.
    Rewrite { home: ShardHome, rewrite: Rewrite },
    /// Make the removal of names durable: the last step of erasing tenants. `sync_first`: as of `Retire`.
    SyncNames { home: ShardHome, sync_first: Vec<DiskFile> },
}

/// The end of a job.
#[derive(Debug)]
pub enum JobDone {
    Prepared { number: SegmentNumber, result: Result<Arc<SegmentFile>, JobError> },
    Sealed { number: SegmentNumber, result: Result<Sealed, JobError> },
    Merged { result: Result<Arc<RunView>, JobError> },
    KeysMerged { result: Result<KeyRun, JobError> },
    Retired { number: SegmentNumber, result: Result<(), JobError> },
    Rewritten { number: SegmentNumber, result: Result<Arc<SealedSegment>, JobError> },
    NamesSynced { result: Result<(), JobError> },
}

/// A segment that was sealed, and what was written beside its index.
#[derive(Debug)]
pub struct Sealed {
    pub segment: Arc<SealedSegment>,
    pub run: Arc<RunView>,
    pub key_run: Option<KeyRun>,
}

/// Why a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobError {
    Disk(DiskError),
    /// What was just written does not read back as an index or a run.
    Index(IndexError),
    Run(RunError),
    KeyRun(KeyRunError),
    /// The segment that was to be copied cannot be read, or is not what its index says.
    Source,
}

impl From<DiskError> for JobError {
    fn from(error: DiskError) -> JobError {
        JobError::Disk(error)
    }
}

impl Job {
    /// Does the work, making files in `memory`. Takes as long as it takes; never called on a core.
    pub fn run(self, disk: &dyn Disk, memory: &mut FileMemory) -> JobDone {
        let done = self.carry_out(disk, memory);
        memory.trim();
        done
    }

    fn carry_out(self, disk: &dyn Disk, memory: &mut FileMemory) -> JobDone {
        match self {
            Job::Prepare { home, number, epoch, now, fill } => {
                JobDone::Prepared { number, result: prepare(disk, &home, number, epoch, now, fill) }
            }
            Job::Seal { home, index, segment, identity, sync_segment } => {
                let number = segment.number;
                JobDone::Sealed { number, result: seal(disk, &home, &index, segment, &identity, sync_segment, memory) }
            }
            Job::Merge { home, runs, seed, erased } => {
                JobDone::Merged { result: merge(disk, &home, &runs, seed, &erased, memory) }
            }
            Job::MergeKeys { home, runs, floors } => {
                JobDone::KeysMerged { result: merge_key_runs(disk, &home, &runs, floors) }
            }
            Job::Retire { home, number, sync_first } => {
                JobDone::Retired { number, result: retire(disk, &home, number, sync_first) }
            }
            Job::Rewrite { home, rewrite: what } => {
                JobDone::Rewritten { number: what.source.segment.number, result: rewrite(disk, &home, &what, memory) }
            }
            Job::SyncNames { home, sync_first } => JobDone::NamesSynced { result: sync_names(disk, &home, sync_first) },
        }
    }
}

/// Puts a segment into the log: taken from the pool if there is one, else made. Its header is durable before its name is.
pub fn prepare(
    disk: &dyn Disk,
    home: &ShardHome,
    number: SegmentNumber,
    epoch: u64,
    now: Micros,
    fill: Fill,
) -> Result<Arc<SegmentFile>, JobError> {
    let pooled = disk.list(&home.dir)?.into_iter().find_map(|name| match parse_name(&name) {
        ShardEntry::Free(number) => Some(free_path(&home.dir, number)),
        _ => None,
    });
    let (path, file) = match pooled {
        Some(path) => {
            let file = disk.open(&path)?;
            if disk.file_bytes(&file)? == home.segment_bytes {
                (path, file)
            } else {
                // Left half made by a crash, or of another configuration.
                disk.remove(&path)?;
                make(disk, home, number, fill)?
            }
        }
        None => make(disk, home, number, fill)?,
    };
    let header = SegmentHeader::new(home.shard.0, number, epoch, home.segment_bytes, now.0, home.instance);
    disk.write(&file, 0, &header.to_page())?;
    disk.sync(&file, Site::SegmentHeader)?;
    disk.rename(&path, &log_path(&home.dir, number))?;
    disk.sync_dir(&home.dir, Site::SegmentDir)?;
    Ok(Arc::new(SegmentFile { number, epoch, file, bytes: home.segment_bytes }))
}

fn make(disk: &dyn Disk, home: &ShardHome, number: SegmentNumber, fill: Fill) -> Result<(String, DiskFile), JobError> {
    if disk.free_bytes()? < home.segment_bytes + home.reserve_bytes {
        return Err(JobError::Disk(DiskError::NoSpace));
    }
    let path = free_path(&home.dir, number);
    // Its size and zeros become durable with the header, before the file gets a name in the log.
    let file = disk.create(&path, home.segment_bytes, fill)?;
    Ok((path, file))
}

/// Seals a full segment: the runs first, the index last, since the index is what says that the segment is sealed.
pub fn seal(
    disk: &dyn Disk,
    home: &ShardHome,
    index: &ActiveIndex,
    segment: Arc<SegmentFile>,
    identity: &IndexIdentity,
    sync_segment: bool,
    memory: &mut FileMemory,
) -> Result<Sealed, JobError> {
    if sync_segment {
        disk.sync(&segment.file, Site::Interval)?;
    }
    let number = segment.number;
    let key_run = match index.idempotency_keys() {
        [] => None,
        keys => Some(publish_key_run(disk, home, number.0, number.0, keys)?),
    };
    let run_bytes = index.seal_run(identity, memory);
    let run_file =
        publish(disk, &home.dir, &run_path(&home.dir, number.0, number.0), run_bytes, Site::RunFile, Site::RunDir)?;
    let run = RunView::open(disk.map(&run_file, run_bytes.len() as u64)?).map_err(JobError::Run)?;
    let index_bytes = index.seal(identity, memory);
    let segment = publish_index(disk, home, segment, index_bytes)?;
    Ok(Sealed { segment, run: Arc::new(run), key_run })
}

/// Writes a segment's index: from here on it is sealed.
pub(super) fn publish_index(
    disk: &dyn Disk,
    home: &ShardHome,
    segment: Arc<SegmentFile>,
    bytes: &[u8],
) -> Result<Arc<SealedSegment>, JobError> {
    let path = index_path(&home.dir, segment.number);
    let index_file = publish(disk, &home.dir, &path, bytes, Site::IndexFile, Site::IndexDir)?;
    let resident_bytes = IndexResident::resident_bytes(bytes).map_err(JobError::Index)?;
    let map = disk.map(&index_file, resident_bytes)?;
    let resident = IndexResident::open(map, bytes.len() as u64).map_err(JobError::Index)?;
    Ok(Arc::new(SealedSegment { segment, index_file, resident }))
}

fn merge(
    disk: &dyn Disk,
    home: &ShardHome,
    runs: &[Arc<RunView>],
    seed: u64,
    erased: &[Tenant],
    memory: &mut FileMemory,
) -> Result<Arc<RunView>, JobError> {
    let bytes = merge_runs(runs, seed, erased, memory);
    let (from, to) = (runs[runs.len() - 1].segments().0, runs[0].segments().1);
    let file = publish(disk, &home.dir, &run_path(&home.dir, from, to), bytes, Site::RunFile, Site::RunDir)?;
    let merged = RunView::open(disk.map(&file, bytes.len() as u64)?).map_err(JobError::Run)?;
    // The merged run is durable under its name: the ones it covers may go, in any order, at any time.
    for run in runs.iter().filter(|run| run.segments() != (from, to)) {
        let (from, to) = run.segments();
        disk.remove(&run_path(&home.dir, from, to))?;
    }
    Ok(Arc::new(merged))
}

/// The file is not used again: it holds events of tenants that may be erased later, and the pool must not.
fn retire(disk: &dyn Disk, home: &ShardHome, number: SegmentNumber, sync_first: Vec<DiskFile>) -> Result<(), JobError> {
    for file in sync_first {
        disk.sync(&file, Site::Interval)?;
    }
    disk.remove(&log_path(&home.dir, number))?;
    match disk.remove(&index_path(&home.dir, number)) {
        Ok(()) | Err(DiskError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    disk.sync_dir(&home.dir, Site::RetireDir)?;
    Ok(())
}

fn sync_names(disk: &dyn Disk, home: &ShardHome, sync_first: Vec<DiskFile>) -> Result<(), JobError> {
    for file in sync_first {
        disk.sync(&file, Site::Interval)?;
    }
    disk.sync_dir(&home.dir, Site::EraseDir)?;
    Ok(())
}

/// Writes a file aside, makes it durable, gives it its name and makes that durable too.
pub fn publish(
    disk: &dyn Disk,
    dir: &str,
    path: &str,
    bytes: &[u8],
    file_site: Site,
    dir_site: Site,
) -> Result<DiskFile, DiskError> {
    let aside = format!("{path}{ASIDE_SUFFIX}");
    remove_aside(disk, &aside)?;
    let file = disk.create(&aside, bytes.len() as u64, Fill::Allocate)?;
    let written = || -> Result<(), DiskError> {
        for (part_index, part) in bytes.chunks(256 * ALIGNMENT).enumerate() {
            disk.write(&file, (part_index * 256 * ALIGNMENT) as u64, part)?;
        }
        disk.sync(&file, file_site)
    };
    written().inspect_err(|_| {
        // It may be what fills the disk, and what it holds may be erased before it is written again.
        let _ = disk.remove(&aside);
    })?;
    disk.rename(&aside, path)?;
    disk.sync_dir(dir, dir_site)?;
    Ok(file)
}

/// Removes what an earlier attempt has left.
pub(super) fn remove_aside(disk: &dyn Disk, aside: &str) -> Result<(), DiskError> {
    match disk.remove(aside) {
        Ok(()) | Err(DiskError::NotFound) => Ok(()),
        Err(error) => Err(error),
    }
}
