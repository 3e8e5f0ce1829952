//! The disk seam: everything that durability needs, and nothing else.
//!
//! Owns the vocabulary of file operations. `FsDisk` carries them out on a real file system, `sim::SimDisk` in memory
//! with faults. Two halves, because the engine has two kinds of work:
//! * `Disk`: blocking calls, for recovery and for jobs on a helper thread (create, pre-write, seal, rename);
//! * `DiskOp` / `DiskDone`: operations that a shard hands out and whose completions it takes in a later turn.
//!
//! Must never: retry a failed write or sync, or decide what is durable. That is the caller's business.

use std::fmt;
use std::sync::Arc;

use super::buffer::Buffer;
use super::map::Map;

/// What went wrong with a disk operation, in the categories a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskError {
    /// The path does not exist.
    NotFound,
    /// The path exists and must not.
    AlreadyExists,
    /// ENOSPC or EDQUOT.
    NoSpace,
    /// The transfer ended early and cannot be continued.
    ShortTransfer,
    /// Any other errno.
    Io(i32),
    /// The simulated machine has lost power. Never comes from a real disk.
    Crashed,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::NotFound => f.write_str("no such file"),
            DiskError::AlreadyExists => f.write_str("file exists"),
            DiskError::NoSpace => f.write_str("no space left on device"),
            DiskError::ShortTransfer => f.write_str("transfer ended early"),
            DiskError::Io(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            DiskError::Crashed => f.write_str("simulated power loss"),
        }
    }
}

impl std::error::Error for DiskError {}

pub type DiskResult<T> = Result<T, DiskError>;

/// Names each point at which the engine makes something durable.
/// The simulator deletes them one at a time and must notice every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// A commit: the durable write of one block.
    Block,
    /// `interval` durability: the periodic sync of the active segment.
    Interval,
    /// The superblock's bytes, and its name.
    Superblock,
    SuperblockDir,
    /// A shard's folder appearing in the data directory.
    ShardDir,
    /// The header that gives a segment its number and epoch; a new segment's size and zeros with it.
    SegmentHeader,
    /// The rename of a segment into the log.
    SegmentDir,
    /// A sealed index's bytes, and its name.
    IndexFile,
    IndexDir,
    /// An entity run's bytes, and its name.
    RunFile,
    RunDir,
    /// A key run's bytes, and its name.
    KeyRunFile,
    KeyRunDir,
    /// The removal of a retired segment, or of one that holds nothing of the log; the rename of an unused one into the pool.
    RetireDir,
    /// The copy of a segment without the events of erased tenants, and the rename over the segment.
    RewriteFile,
    RewriteDir,
    /// Every removal of a file that held something of an erased tenant.
    EraseDir,
    /// A cut tail's copy in the quarantine, and its name.
    QuarantineFile,
    QuarantineDir,
    /// Zeros over a cut tail, and what recovery found, before it is shown: it may sit in a volatile cache if only the
    /// process died.
    Recovery,
}

impl Site {
    pub const ALL: [Site; 20] = [
        Site::Block,
        Site::Interval,
        Site::Superblock,
        Site::SuperblockDir,
        Site::ShardDir,
        Site::SegmentHeader,
        Site::SegmentDir,
        Site::IndexFile,
        Site::IndexDir,
        Site::RunFile,
        Site::RunDir,
        Site::KeyRunFile,
        Site::KeyRunDir,
        Site::RetireDir,
        Site::RewriteFile,
        Site::RewriteDir,
        Site::EraseDir,
        Site::QuarantineFile,
        Site::QuarantineDir,
        Site::Recovery,
    ];
}

/// How a new file gets its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Extents are allocated, reads give zeros, the first write to each extent costs metadata.
    Allocate,
    /// Zeros are written, so that later writes change neither size nor extents.
    Zeros,
}

/// An open file. Clones share the descriptor; the last clone closes it.
#[derive(Clone)]
pub struct DiskFile(pub(super) Arc<FileInner>);

pub(super) enum FileInner {
    Real(super::fs::RealFile),
    Simulated(u64),
}

impl DiskFile {
    /// A handle that only `sim::SimDisk` can serve.
    pub fn simulated(inode: u64) -> DiskFile {
        DiskFile(Arc::new(FileInner::Simulated(inode)))
    }

    /// Whether both are clones of one open file.
    pub fn is_same(&self, other: &DiskFile) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The inode number given to `simulated`; `None` for a real file.
    pub fn simulated_inode(&self) -> Option<u64> {
        match *self.0 {
            FileInner::Simulated(inode) => Some(inode),
            FileInner::Real(_) => None,
        }
    }
}

impl fmt::Debug for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            FileInner::Real(file) => write!(f, "DiskFile({})", file.id()),
            FileInner::Simulated(inode) => write!(f, "DiskFile(simulated {inode})"),
        }
    }
}

/// Blocking file operations below one data directory.
///
/// Paths are relative to it, `/`-separated, made by the engine alone and never from client input.
/// No call is retried; nothing is durable before the matching `sync` or `sync_dir` returned.
pub trait Disk: Send + Sync {
    /// Creates a folder; one that exists is fine. Its name is durable after `sync_dir` of the parent.
    fn create_dir(&self, path: &str) -> DiskResult<()>;
    /// Names in a folder, sorted. `NotFound` if the folder is absent. `""` is the data directory itself.
    fn list(&self, dir: &str) -> DiskResult<Vec<String>>;
    /// Creates a file of `bytes` zeros. `AlreadyExists` if the name is taken. Not durable before `sync` and `sync_dir`.
    fn create(&self, path: &str, bytes: u64, fill: Fill) -> DiskResult<DiskFile>;
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &str) -> DiskResult<DiskFile>;
    /// The file's size in bytes.
    fn file_bytes(&self, file: &DiskFile) -> DiskResult<u64>;
    /// Fills `into` from `offset`; the count is short only at the end of the file.
    fn read(&self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize>;
    /// Writes all of `bytes`, extending the file if needed. Not durable before `sync`.
    fn write(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> DiskResult<()>;
    /// Makes all earlier completed writes to the file, and its size, durable.
    fn sync(&self, file: &DiskFile, site: Site) -> DiskResult<()>;
    /// Renames a file, replacing the target. Durable after `sync_dir` of the folder.
    fn rename(&self, from: &str, to: &str) -> DiskResult<()>;
    /// Removes a file. Durable after `sync_dir` of the folder.
    fn remove(&self, path: &str) -> DiskResult<()>;
    /// Makes earlier creates, renames and removes in a folder durable.
    fn sync_dir(&self, dir: &str, site: Site) -> DiskResult<()>;
    /// Maps the first `bytes` of an immutable file for reading, with its pages populated.
    fn map(&self, file: &DiskFile, bytes: u64) -> DiskResult<Map>;
    /// Bytes that new files may still take.
    fn free_bytes(&self) -> DiskResult<u64>;
}

/// What a commit write must mean by the time it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persist {
    /// The bytes survive power loss: RWF_DSYNC, or a linked fdatasync.
    Durable,
    /// The device has taken the bytes; its cache may still lose them.
    Written,
}

/// Where a read may be served from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// The page cache is welcome: for files that no longer change.
    Cache,
    /// Past the page cache: for a segment that is still written with O_DIRECT, and to re-check a bad checksum.
    Device,
}

/// An operation that a shard or a query hands to whoever drives the ring.
/// Offsets and lengths of writes and `Device` reads are multiples of 4096. Buffers travel with the operation and come back in `DiskDone`.
#[derive(Debug)]
pub enum DiskOp {
    Write {
        ticket: u64,
        file: DiskFile,
        offset: u64,
        buffer: Buffer,
        bytes: usize,
        persist: Persist,
    },
    /// Reads up to `bytes` into the front of `buffer`; short only at the end of the file.
    Read {
        ticket: u64,
        file: DiskFile,
        offset: u64,
        buffer: Buffer,
        bytes: usize,
        from: ReadFrom,
    },
    Sync {
        ticket: u64,
        file: DiskFile,
    },
}

/// The end of one `DiskOp`, told exactly once.
#[derive(Debug)]
pub struct DiskDone {
    pub ticket: u64,
    /// Bytes transferred. A write that could not transfer everything is an error, not a short count.
    pub result: DiskResult<usize>,
    pub buffer: Option<Buffer>,
}
