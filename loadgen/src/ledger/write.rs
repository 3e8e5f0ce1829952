//! Writing the ledger, from as many threads as want to.
//!
//! Owns the file's length: it grows in big steps that the file system has promised, so that a full disk is an error
//! here and not a signal in the middle of a store. A writer that failed writes nothing more, and says so at every
//! [`LedgerWriter::flush`].

use super::layout::{
    self, ENTRY_HEAD_BYTES, EXTENT_ALIGN_BYTES, EXTENT_BYTES, EXTENT_HEAD_BYTES, EXTENT_SUM_AT, ExtentHead,
    FILE_HEAD_BYTES, KIND_ACKED, KIND_BASELINE, KIND_REFUSED, KIND_RUN, KIND_SENT, KIND_TENANT, MAGIC, entry_bytes,
    entry_head,
};
use super::map::Map;
use super::{Ack, Ledger, Moment, Tenant};
use crate::corpus::{Mark, Seq};
use crate::failure::Failure;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The file doubles, within these bounds.
const GROWTH_BYTES_MIN: u64 = 4 << 20;
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// An open ledger; clones share it. While one of them lives, nobody else can open the file.
#[derive(Debug, Clone)]
pub struct LedgerFile(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: File,
    session: u16,
    salt: u64,
    opened_at: Instant,
    growth: Mutex<Growth>,
}

/// Invariant: `FILE_HEAD_BYTES <= end <= allocated`.
#[derive(Debug)]
struct Growth {
    /// Where the next extent begins.
    end: u64,
    allocated: u64,
}

impl LedgerFile {
    /// Opens or creates the ledger, and answers what is in it. What a killed writer left behind is not continued.
    pub fn open(path: &Path) -> Result<(Self, Ledger), Failure> {
        let what = || format!("ledger {}", path.display());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(Failure::io(what()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Other(format!("{}: another run writes it, or a verify reads it", what())));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::io(what())(error)),
        }
        let ledger = Ledger::of_file(&file).map_err(|why| Failure::Other(format!("{}: {why}", what())))?;
        if Moment::SESSION_MAX < ledger.session_count {
            return Err(Failure::Usage(format!("{}: it has seen too many runs: begin another", what())));
        }
        let shared = Shared::new(file, &ledger).map_err(Failure::io(what()))?;
        Ok((Self(Arc::new(shared)), ledger))
    }

    pub fn writer(&self) -> LedgerWriter {
        LedgerWriter { file: self.clone(), extent: None, body: Vec::new(), failure: None }
    }

    fn now(&self) -> Moment {
        Moment::new(self.0.session, self.0.opened_at.elapsed().as_nanos() as u64)
    }
}

impl Shared {
    fn new(file: File, ledger: &Ledger) -> io::Result<Self> {
        let end = ledger.end.max(FILE_HEAD_BYTES);
        if ledger.end == 0 {
            let mut head = [0; FILE_HEAD_BYTES as usize];
            head[..MAGIC.len()].copy_from_slice(MAGIC);
            file.write_all_at(&head, 0)?;
        }
        // What lies beyond was never used, or is half an extent's head: it must be zeros when it is used.
        file.set_len(end)?;
        let mut salt = [0; 8];
        rustix::rand::getrandom(&mut salt, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self {
            file,
            session: ledger.session_count,
            salt: u64::from_le_bytes(salt),
            opened_at: Instant::now(),
            growth: Mutex::new(Growth { end, allocated: end }),
        })
    }

    /// A new extent with room for an entry of `entry_bytes`.
    fn take_extent(&self, entry_bytes: usize) -> io::Result<Extent> {
        let needed = (EXTENT_HEAD_BYTES + entry_bytes) as u64;
        let bytes = needed.next_multiple_of(EXTENT_ALIGN_BYTES).max(EXTENT_BYTES);
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = growth.end;
        if growth.allocated < offset + bytes {
            growth.allocated = self.grow(growth.allocated, offset + bytes)?;
        }
        let mut map = Map::of_range(&self.file, offset, bytes as usize)?;
        let head = ExtentHead { salt: self.salt, session: self.session, bytes, offset };
        map.write(0, &head.to_bytes());
        // Still under the lock: there is no extent beyond one whose head is not whole.
        map.publish(EXTENT_SUM_AT, head.sum());
        growth.end = offset + bytes;
        Ok(Extent { map, offset, filled: EXTENT_HEAD_BYTES })
    }

    /// Allocates up to `needed` at least; answers up to where.
    fn grow(&self, allocated: u64, needed: u64) -> io::Result<u64> {
        let wanted = (allocated + allocated.clamp(GROWTH_BYTES_MIN, GROWTH_BYTES_MAX)).max(needed);
        match allocate(&self.file, allocated, wanted) {
            Ok(()) => Ok(wanted),
            Err(_) if needed < wanted => allocate(&self.file, allocated, needed).map(|()| needed),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let growth = self.growth.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Only tidiness: the reader stops where the extents end.
        let _ = self.file.set_len(growth.end);
    }
}

fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, to - from) {
        Ok(()) => Ok(()),
        // A file system that knows no allocation promises what was written.
        Err(Errno::OPNOTSUPP) => {
            let mut offset = from;
            while offset < to {
                let bytes = (to - offset).min(ZEROS.len() as u64);
                file.write_all_at(&ZEROS[..bytes as usize], offset)?;
                offset += bytes;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug)]
struct Extent {
    map: Map,
    offset: u64,
    filled: usize,
}

impl Extent {
    fn room(&self) -> usize {
        self.map.len() - self.filled
    }
}

/// Appends to a ledger: one per thread. An entry is in the page cache when its method returns.
#[derive(Debug)]
pub struct LedgerWriter {
    // Before the file, so that the map is gone before the file is cut.
    extent: Option<Extent>,
    file: LedgerFile,
    body: Vec<u8>,
    failure: Option<(io::ErrorKind, String)>,
}

impl LedgerWriter {
    pub fn run(&mut self, seed: u64) {
        self.entry(KIND_RUN, |out| out.extend_from_slice(&seed.to_le_bytes()));
    }

    pub fn tenant(&mut self, tenant: &Tenant) {
        self.entry(KIND_TENANT, |out| {
            for text in [&tenant.id, &tenant.key] {
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        });
    }

    /// Events that the tenant held before the first run.
    pub fn baseline(&mut self, tenant: u16, ids: &[u128]) {
        self.entry(KIND_BASELINE, |out| {
            out.extend_from_slice(&tenant.to_le_bytes());
            for id in ids {
                out.extend_from_slice(&id.to_le_bytes());
            }
        });
    }

    /// To be called before the request's first byte leaves.
    pub fn sent(&mut self, first: Seq, tenant: u16, marks: &[Mark]) {
        let at = self.file.now();
        self.entry(KIND_SENT, |out| {
            out.extend_from_slice(&at.0.to_le_bytes());
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&tenant.to_le_bytes());
            out.extend_from_slice(&(marks.len() as u32).to_le_bytes());
            for mark in marks {
                out.extend_from_slice(&mark.entity.to_le_bytes());
                out.extend_from_slice(&mark.payload_hash.to_le_bytes());
                out.extend_from_slice(&mark.rest_hash.to_le_bytes());
            }
        });
    }

    /// To be called after the answer was read.
    pub fn acked(&mut self, first: Seq, acks: &[Ack]) {
        let at = self.file.now();
        self.entry(KIND_ACKED, |out| {
            out.extend_from_slice(&at.0.to_le_bytes());
            out.extend_from_slice(&first.0.to_le_bytes());
            for ack in acks {
                out.extend_from_slice(&ack.id_hash.to_le_bytes());
                out.extend_from_slice(&ack.version.to_le_bytes());
            }
        });
    }

    pub fn refused(&mut self, first: Seq, status: u16) {
        self.entry(KIND_REFUSED, |out| {
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&status.to_le_bytes());
        });
    }

    /// Whether everything up to here survives this process; the first error stays.
    pub fn flush(&mut self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    fn entry(&mut self, kind: u8, write_fields: impl FnOnce(&mut Vec<u8>)) {
        if self.failure.is_some() {
            return;
        }
        self.body.clear();
        self.body.push(kind);
        write_fields(&mut self.body);
        if let Err(error) = self.put() {
            self.failure = Some((error.kind(), error.to_string()));
        }
    }

    fn put(&mut self) -> io::Result<()> {
        let bytes = entry_bytes(self.body.len());
        let extent = match &mut self.extent {
            Some(extent) if bytes <= extent.room() => extent,
            full => full.insert(self.file.0.take_extent(bytes)?),
        };
        let at = extent.filled;
        extent.map.write(at + ENTRY_HEAD_BYTES, &self.body);
        let word = entry_head(self.file.0.salt, extent.offset + at as u64, &self.body);
        extent.map.publish(at, word);
        extent.filled += bytes;
        Ok(())
    }
}

const _: () = assert!(EXTENT_HEAD_BYTES.is_multiple_of(layout::ENTRY_ALIGN_BYTES));
const _: () = assert!(FILE_HEAD_BYTES.is_multiple_of(EXTENT_ALIGN_BYTES));
