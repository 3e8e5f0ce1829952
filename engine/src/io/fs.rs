//! The disk seam on a real file system.
//!
//! Owns the data directory: its lock, its permissions, and every open file below it. A file is opened twice, past the
//! page cache for the log and through it for everything else; the kernel keeps the two views coherent.
//!
//! ```text
//! data directory (0700)        LOCK (flock while the process lives)        shard-0/ (0700)  files (0600)
//! ```
//!
//! Must never: follow a link, leave the data directory, leave half a file behind, or retry a sync.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FallocateFlags, FlockOperation, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::buffer::Buffer;
use super::disk::{Disk, DiskError, DiskFile, DiskResult, FileInner, Fill, Site};
use super::map::Map;
use crate::limits::ALIGNMENT;

/// The file whose lock says that a process works in a data directory. Not shown by `list`.
const LOCK_NAME: &str = "LOCK";

/// Bytes per write of zeros: large enough to be limited by the device, small enough to leave gaps for commits.
const ZEROS_BYTES: usize = 1 << 20;
/// Memory of zeros: a huge page, which the kernel takes hold of as one and not page by page.
const ZEROS_MEMORY_BYTES: usize = 2 << 20;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: Mode = Mode::RWXU;

/// An open file of a real file system.
pub struct RealFile {
    /// Opened with O_DIRECT where the file system has it; else a second buffered descriptor.
    pub(super) direct: File,
    pub(super) cached: File,
    id: u64,
    is_direct: bool,
}

impl RealFile {
    /// Unique in this process, never reused.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether `direct` really goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.is_direct
    }
}

/// Why a data directory cannot be worked in.
#[derive(Debug)]
pub enum DataDirError {
    /// Another process holds the lock.
    InUse { path: PathBuf },
    /// The directory belongs to another user.
    ForeignOwner { path: PathBuf, owner: u32, ours: u32 },
    /// Group or others may enter, and it is not empty.
    TooOpen { path: PathBuf, mode: u32 },
    /// It could not be created, opened or locked.
    Io { path: PathBuf, error: DiskError },
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DataDirError::InUse { path } => {
                write!(f, "data directory {} is in use by another process", path.display())
            }
            DataDirError::ForeignOwner { path, owner, ours } => {
                write!(f, "data directory {} belongs to user {owner}, and this is user {ours}", path.display())
            }
            DataDirError::TooOpen { path, mode } => write!(
                f,
                "data directory {path} is open to other users (mode {mode:04o}): chmod 700 {path}",
                path = path.display()
            ),
            DataDirError::Io { path, error } => write!(f, "data directory {}: {error}", path.display()),
        }
    }
}

impl std::error::Error for DataDirError {}

/// A data directory that is ours alone until this is dropped.
pub struct FsDisk {
    dir: OwnedFd,
    _lock: OwnedFd,
    /// False once the kernel said that it has no openat2.
    has_openat2: AtomicBool,
}

impl FsDisk {
    /// Creates the directory if it is absent (0700), checks who can enter it, and locks it.
    pub fn open(path: &Path) -> Result<FsDisk, DataDirError> {
        let io = |error: DiskError| DataDirError::Io { path: path.to_path_buf(), error };
        let in_std = |error: std::io::Error| io(DiskError::Io(error.raw_os_error().unwrap_or(libc::EIO)));

        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(in_std)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = retry(|| rustix::fs::openat(CWD, path, flags, Mode::empty())).map_err(io)?;
        check_owner(path, &dir)?;

        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let lock = retry(|| rustix::fs::openat(&dir, LOCK_NAME, flags, FILE_MODE)).map_err(io)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(DataDirError::InUse { path: path.to_path_buf() }),
            Err(errno) => return Err(io(disk_error(errno))),
        }
        Ok(FsDisk { dir, _lock: lock, has_openat2: AtomicBool::new(true) })
    }

    /// Opens below the data directory, through no link.
    fn open_at(&self, path: &str, flags: OFlags, mode: Mode) -> DiskResult<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        assert!(path.split('/').all(|part| !part.is_empty() && part != ".."));
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if self.has_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match retry_errno(|| rustix::fs::openat2(&self.dir, path, flags, mode, resolve)) {
                // Kernels before 5.6, and filters that do not know the call.
                Err(Errno::NOSYS | Errno::PERM) => self.has_openat2.store(false, Ordering::Relaxed),
                opened => return opened.map_err(disk_error),
            }
        }
        retry(|| rustix::fs::openat(&self.dir, path, flags, mode))
    }

    fn open_dir(&self, dir: &str) -> DiskResult<OwnedFd> {
        self.open_at(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// The folder of a path, opened, and the name in it.
    fn parent<'p>(&self, path: &'p str) -> DiskResult<(OwnedFd, &'p str)> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        assert!(!name.is_empty());
        Ok((self.open_dir(dir)?, name))
    }

    /// The second descriptor of a file, and both together.
    fn both(&self, path: &str, cached: OwnedFd) -> DiskResult<RealFile> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let (direct, is_direct) = match self.open_at(path, OFlags::RDWR | OFlags::DIRECT, Mode::empty()) {
            Ok(direct) => (direct, true),
            // The file system has no O_DIRECT.
            Err(DiskError::Io(libc::EINVAL)) => (self.open_at(path, OFlags::RDWR, Mode::empty())?, false),
            Err(error) => return Err(error),
        };
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(RealFile { direct: File::from(direct), cached: File::from(cached), id, is_direct })
    }

    fn fill(&self, path: &str, cached: OwnedFd, bytes: u64, fill: Fill) -> DiskResult<RealFile> {
        allocate(&cached, bytes)?;
        let file = self.both(path, cached)?;
        if fill == Fill::Zeros {
            write_zeros(&file, bytes)?;
        }
        Ok(file)
    }
}

impl Disk for FsDisk {
    fn create_dir(&self, path: &str) -> DiskResult<()> {
        let (dir, name) = self.parent(path)?;
        match retry(|| rustix::fs::mkdirat(&dir, name, DIR_MODE)) {
            Ok(()) | Err(DiskError::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(self.open_dir(dir)?).map_err(disk_error)? {
            let entry = entry.map_err(disk_error)?;
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let is_lock = dir.is_empty() && name == LOCK_NAME;
            if name != "." && name != ".." && !is_lock {
                names.push(name.to_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, path: &str, bytes: u64, fill: Fill) -> DiskResult<DiskFile> {
        if self.free_bytes()? < bytes {
            return Err(DiskError::NoSpace);
        }
        let cached = self.open_at(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, FILE_MODE)?;
        match self.fill(path, cached, bytes, fill) {
            Ok(file) => Ok(wrap(file)),
            Err(error) => {
                // The first error is the one to tell.
                let _ = self.remove(path);
                Err(error)
            }
        }
    }

    fn open(&self, path: &str) -> DiskResult<DiskFile> {
        let cached = self.open_at(path, OFlags::RDWR, Mode::empty())?;
        Ok(wrap(self.both(path, cached)?))
    }

    fn file_bytes(&self, file: &DiskFile) -> DiskResult<u64> {
        let stat = rustix::fs::fstat(&real(file).cached).map_err(disk_error)?;
        Ok(stat.st_size as u64)
    }

    fn read(&self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize> {
        let real = real(file);
        // An aligned read goes past the page cache: after a failed sync the cache may still show what the device has lost,
        // and recovery must see what the device has.
        let is_direct = real.is_direct() && is_aligned(offset, into);
        let source = if is_direct { &real.direct } else { &real.cached };
        let mut filled = 0;
        while filled < into.len() {
            match source.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    // Past a ragged end there is nothing, and asking for it would be misaligned.
                    if is_direct && !count.is_multiple_of(ALIGNMENT) {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(std_error(&error)),
            }
        }
        Ok(filled)
    }

    fn write(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let real = real(file);
        let mut written = 0;
        while written < bytes.len() {
            // Past the page cache where that is possible: a large file would only push others out of it. What follows a
            // piece that was cut short may not be.
            let (at, rest) = (offset + written as u64, &bytes[written..]);
            let is_direct = real.is_direct() && is_aligned(at, rest);
            written += write_some(if is_direct { &real.direct } else { &real.cached }, at, rest)?;
        }
        Ok(())
    }

    fn sync(&self, file: &DiskFile, _site: Site) -> DiskResult<()> {
        // Once: after a failed sync the kernel has forgotten which pages it lost, and the next call would succeed.
        rustix::fs::fsync(&real(file).cached).map_err(disk_error)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        retry(|| rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name))
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        let (dir, name) = self.parent(path)?;
        retry(|| rustix::fs::unlinkat(&dir, name, AtFlags::empty()))
    }

    fn sync_dir(&self, dir: &str, _site: Site) -> DiskResult<()> {
        rustix::fs::fsync(self.open_dir(dir)?).map_err(disk_error)
    }

    fn map(&self, file: &DiskFile, bytes: u64) -> DiskResult<Map> {
        Map::of_file(&real(file).cached, bytes)
    }

    fn free_bytes(&self) -> DiskResult<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir).map_err(disk_error)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// The real file behind a handle.
///
/// # Panics
/// If the handle belongs to a simulated disk.
pub(super) fn real(file: &DiskFile) -> &RealFile {
    match &*file.0 {
        FileInner::Real(file) => file,
        FileInner::Simulated(_) => panic!("a simulated file on a real disk"),
    }
}

/// What an errno means to a caller.
pub(super) fn disk_error(errno: Errno) -> DiskError {
    match errno {
        Errno::NOENT => DiskError::NotFound,
        Errno::EXIST => DiskError::AlreadyExists,
        Errno::NOSPC | Errno::DQUOT => DiskError::NoSpace,
        other => DiskError::Io(other.raw_os_error()),
    }
}

fn std_error(error: &std::io::Error) -> DiskError {
    disk_error(Errno::from_io_error(error).unwrap_or(Errno::IO))
}

fn wrap(file: RealFile) -> DiskFile {
    DiskFile(Arc::new(FileInner::Real(file)))
}

fn retry_errno<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> DiskResult<T> {
    retry_errno(call).map_err(disk_error)
}

/// Refuses a directory that others own or may enter. An empty one of ours is closed to others instead: it was made by
/// an installer or a container runtime with its defaults.
fn check_owner(path: &Path, dir: &OwnedFd) -> Result<(), DataDirError> {
    let io = |errno: Errno| DataDirError::Io { path: path.to_path_buf(), error: disk_error(errno) };
    let stat = rustix::fs::fstat(dir).map_err(io)?;
    let ours = rustix::process::geteuid().as_raw();
    if stat.st_uid != ours {
        return Err(DataDirError::ForeignOwner { path: path.to_path_buf(), owner: stat.st_uid, ours });
    }
    if stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    for entry in Dir::read_from(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            return Err(DataDirError::TooOpen { path: path.to_path_buf(), mode: stat.st_mode & 0o7777 });
        }
    }
    rustix::fs::fchmod(dir, DIR_MODE).map_err(io)
}

/// Whether a transfer can go past the page cache.
fn is_aligned(offset: u64, bytes: &[u8]) -> bool {
    offset.is_multiple_of(ALIGNMENT as u64)
        && bytes.len().is_multiple_of(ALIGNMENT)
        && bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

fn allocate(file: &OwnedFd, bytes: u64) -> DiskResult<()> {
    if bytes == 0 {
        return Ok(());
    }
    match retry_errno(|| rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => retry(|| rustix::fs::ftruncate(file, bytes)),
        result => result.map_err(disk_error),
    }
}

/// Writes `bytes` zeros from the start of the file: past the page cache as far as alignment allows.
fn write_zeros(file: &RealFile, bytes: u64) -> DiskResult<()> {
    let zeros = Buffer::new(ZEROS_MEMORY_BYTES);
    let aligned_bytes = bytes - bytes % ALIGNMENT as u64;
    let mut offset = 0;
    while offset < bytes {
        let (target, end) = if offset < aligned_bytes { (&file.direct, aligned_bytes) } else { (&file.cached, bytes) };
        let step = (end - offset).min(ZEROS_BYTES as u64);
        write_all(target, offset, &zeros[..step as usize])?;
        offset += step;
        // Commits of other threads go first.
        std::thread::yield_now();
    }
    Ok(())
}

fn write_all(file: &File, offset: u64, bytes: &[u8]) -> DiskResult<()> {
    let mut written = 0;
    while written < bytes.len() {
        written += write_some(file, offset + written as u64, &bytes[written..])?;
    }
    Ok(())
}

fn write_some(file: &File, offset: u64, bytes: &[u8]) -> DiskResult<usize> {
    match retry_errno(|| rustix::io::pwrite(file.as_fd(), bytes, offset)) {
        Ok(0) => Err(DiskError::ShortTransfer),
        Ok(count) => Ok(count),
        Err(errno) => Err(disk_error(errno)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn disk() -> (tempfile::TempDir, FsDisk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = FsDisk::open(&folder.path().join("data")).unwrap();
        (folder, disk)
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_data_directory_is_private_and_locked() {
        let (folder, disk) = disk();
        let path = folder.path().join("data");
        assert_eq!(mode(&path), 0o700);
        assert!(matches!(FsDisk::open(&path), Err(DataDirError::InUse { .. })));
        drop(disk);
        let disk = FsDisk::open(&path).unwrap();
        assert_eq!(disk.list("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_directory_open_to_others_is_closed_when_empty_and_refused_when_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        path.set_permissions(0o755);
        drop(FsDisk::open(path).unwrap());
        assert_eq!(mode(path), 0o700);
        path.set_permissions(0o750);
        assert!(matches!(FsDisk::open(path), Err(DataDirError::TooOpen { mode: 0o750, .. })));
    }

    trait SetPermissions {
        fn set_permissions(&self, mode: u32);
    }
    impl SetPermissions for Path {
        fn set_permissions(&self, mode: u32) {
            std::fs::set_permissions(self, std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    #[test]
    fn files_are_created_whole_with_zeros_in_either_way() {
        let (folder, disk) = disk();
        disk.create_dir("shard-0").unwrap();
        disk.create_dir("shard-0").unwrap();
        assert_eq!(mode(&folder.path().join("data/shard-0")), 0o700);
        for (name, bytes, fill) in [
            ("shard-0/a", 3 << 20, Fill::Zeros),
            ("shard-0/b", 3 << 20, Fill::Allocate),
            ("shard-0/c", 5000, Fill::Zeros),
            ("shard-0/d", 0, Fill::Zeros),
        ] {
            let file = disk.create(name, bytes, fill).unwrap();
            assert_eq!(disk.file_bytes(&file).unwrap(), bytes);
            let mut content = vec![1; bytes as usize + 10];
            assert_eq!(disk.read(&file, 0, &mut content).unwrap() as u64, bytes);
            assert!(content[..bytes as usize].iter().all(|byte| *byte == 0));
            assert_eq!(mode(&folder.path().join("data").join(name)), 0o600);
            assert!(matches!(disk.create(name, bytes, fill), Err(DiskError::AlreadyExists)));
        }
        assert_eq!(disk.list("shard-0").unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(disk.list("absent"), Err(DiskError::NotFound));
    }

    #[test]
    fn a_file_larger_than_the_device_is_refused_and_leaves_nothing() {
        let (_folder, disk) = disk();
        assert!(matches!(disk.create("a", 1 << 60, Fill::Allocate), Err(DiskError::NoSpace)));
        assert_eq!(disk.list("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn writes_renames_maps_and_removes_round_trip() {
        let (_folder, disk) = disk();
        let file = disk.create("aside", 0, Fill::Allocate).unwrap();
        disk.write(&file, 3, b"hello").unwrap();
        disk.sync(&file, Site::IndexFile).unwrap();
        disk.create("there", 10, Fill::Allocate).unwrap();
        disk.rename("aside", "there").unwrap();
        disk.sync_dir("", Site::IndexDir).unwrap();
        assert_eq!(disk.list("").unwrap(), ["there"]);

        let file = disk.open("there").unwrap();
        let map = disk.map(&file, 8).unwrap();
        assert_eq!(&map[..], b"\0\0\0hello");
        assert_eq!(disk.map(&file, 9).unwrap_err(), DiskError::ShortTransfer);
        assert!(disk.map(&file, 0).unwrap().is_empty());
        drop(map);
        disk.remove("there").unwrap();
        assert!(matches!(disk.open("there"), Err(DiskError::NotFound)));
        assert_eq!(disk.remove("there"), Err(DiskError::NotFound));
    }

    #[test]
    fn both_descriptors_show_the_same_bytes() {
        let (_folder, disk) = disk();
        let file = disk.create("a", 8192, Fill::Zeros).unwrap();
        let mut buffer = Buffer::new(4096);
        buffer.fill(5);
        disk.write(&file, 4096, &buffer).unwrap();
        let mut seen = Buffer::new(4096);
        real(&file).direct.read_exact_at(&mut seen, 4096).unwrap();
        assert_eq!(&seen[..], &buffer[..]);
        buffer.fill(6);
        real(&file).direct.write_all_at(&buffer, 4096).unwrap();
        assert_eq!(disk.read(&file, 4096, &mut seen).unwrap(), 4096);
        assert_eq!(&seen[..], &buffer[..]);
    }

    #[test]
    fn links_are_not_followed() {
        let (folder, disk) = disk();
        let outside = folder.path().join("outside");
        symlink(folder.path(), folder.path().join("data/link")).unwrap();
        assert!(disk.list("link").is_err());
        assert!(disk.create("link/outside", 10, Fill::Allocate).is_err());
        assert!(!outside.exists());
    }
}
