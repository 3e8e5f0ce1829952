//! A writable view of one extent of the ledger's file.
//!
//! Owns the mapping: what is stored is in the page cache at once, and the kernel keeps it when this process dies.
//! Must never map a range that the file system has not promised: a store into it would be a SIGBUS.

use memmap2::{MmapMut, MmapOptions};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct Map(MmapMut);

impl Map {
    /// Maps a range that was allocated before and is given to nobody else.
    #[expect(unsafe_code, reason = "a mapping's content is the file's")]
    pub fn of_range(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        // SAFETY: the ledger's lock keeps other runs out, and the growth lock gives each range to one writer only, so
        // nobody else stores here. The file is cut only when the last writer, and with it the last map, is gone.
        let map = unsafe { MmapOptions::new().offset(offset).len(bytes).map_mut(file) }?;
        Ok(Self(map))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Stores eight bytes at once, after everything that was written before: whoever is killed in between leaves
    /// the old eight bytes or the new ones.
    #[expect(unsafe_code, reason = "an atomic store into mapped memory")]
    pub fn publish(&mut self, at: usize, word: u64) {
        let place = self.0[at..at + 8].as_mut_ptr().cast::<u64>();
        assert!(place.is_aligned());
        // SAFETY: eight bytes within the map, aligned as asserted, and ours alone as long as `self` is borrowed.
        unsafe { AtomicU64::from_ptr(place) }.store(word.to_le(), Ordering::Release);
    }
}
