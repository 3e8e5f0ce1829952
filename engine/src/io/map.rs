//! Read-only views of files that no longer change.
//!
//! Owns the mappings. A mapping shows whatever the file holds at the moment of a read, and kills the process where the
//! file has become shorter; so only sealed files are mapped, and they are released before a file is reused or removed.
//!
//! Must never: map a file that is still written to.

use std::fmt;
use std::fs::File;
use std::ops::Deref;

use memmap2::{Advice, MmapOptions};

use super::disk::{DiskError, DiskResult};

/// The bytes of an immutable file.
pub struct Map(Inner);

enum Inner {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Map {
    /// Bytes in memory in place of a mapping: for the simulated disk.
    pub fn owned(bytes: Vec<u8>) -> Map {
        Map(Inner::Owned(bytes))
    }

    /// Maps the first `bytes` of a file and reads them in. `ShortTransfer` if the file is shorter.
    #[expect(unsafe_code, reason = "a mapping's content is the file's")]
    pub(super) fn of_file(file: &File, bytes: u64) -> DiskResult<Map> {
        if bytes == 0 {
            return Ok(Map::owned(Vec::new()));
        }
        let file_bytes = file.metadata().map_err(|error| disk_error(&error))?.len();
        if file_bytes < bytes {
            return Err(DiskError::ShortTransfer);
        }
        let len = usize::try_from(bytes).map_err(|_| DiskError::Io(libc::EOVERFLOW))?;
        // SAFETY: the file lies in a folder that only our user can enter and only our process, by its lock, works in.
        // The callers of `Disk::map` map sealed files only, and drop the map before they reuse, cut or remove one.
        let mapped = unsafe { MmapOptions::new().len(len).map(file) }.map_err(|error| disk_error(&error))?;
        match mapped.advise(Advice::PopulateRead) {
            Ok(()) => {}
            // A kernel before 5.14 has no such advice; pages then come at first touch.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let _ = mapped.advise(Advice::WillNeed);
            }
            // Unreadable sectors are an error here, instead of a SIGBUS at first touch.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return Err(DiskError::Io(libc::EIO)),
            Err(error) => return Err(disk_error(&error)),
        }
        Ok(Map(Inner::Mapped(mapped)))
    }
}

fn disk_error(error: &std::io::Error) -> DiskError {
    DiskError::Io(error.raw_os_error().unwrap_or(libc::EIO))
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Inner::Mapped(mapped) => mapped,
            Inner::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Map({} bytes)", self.len())
    }
}
