//! Which files a ring has registered with the kernel, so that a write looks no descriptor up.
//!
//! Owns the slots. A registered slot keeps the file open in the kernel, so only files that are written to get one, and
//! slots of files that nobody holds any more are cleared.

use std::sync::{Arc, Weak};

use super::disk::{DiskFile, FileInner};
use super::fs::real;

/// Log segments that one core writes to: one active, a few being filled or sealed, the catalog. A guess with room to spare.
pub(super) const FILES_MAX: usize = 64;

/// Lookups between two searches for dead files.
const SWEEP_LOOKUPS: u32 = 256;

pub(super) struct FileTable {
    slots: Vec<Option<Entry>>,
    lookups: u32,
}

struct Entry {
    id: u64,
    file: Weak<FileInner>,
}

/// What the caller has to tell the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Registered in this slot.
    Known(u32),
    /// To be registered in this free slot; `forget` it if that fails.
    New(u32),
    /// All slots are taken by living files.
    Full,
}

impl FileTable {
    pub fn new() -> FileTable {
        FileTable { slots: (0..FILES_MAX).map(|_| None).collect(), lookups: 0 }
    }

    pub fn place(&mut self, file: &DiskFile) -> Place {
        let id = real(file).id();
        let known = self.slots.iter().position(|slot| slot.as_ref().is_some_and(|entry| entry.id == id));
        if let Some(slot) = known {
            return Place::Known(slot as u32);
        }
        let Some(slot) = self.slots.iter().position(Option::is_none) else { return Place::Full };
        self.slots[slot] = Some(Entry { id, file: Arc::downgrade(&file.0) });
        Place::New(slot as u32)
    }

    pub fn forget(&mut self, slot: u32) {
        self.slots[slot as usize] = None;
    }

    /// Now and then: the slots whose files are gone, for the caller to clear.
    pub fn sweep(&mut self) -> Vec<u32> {
        self.lookups += 1;
        if self.lookups < SWEEP_LOOKUPS {
            return Vec::new();
        }
        self.lookups = 0;
        let is_dead = |slot: &Option<Entry>| slot.as_ref().is_some_and(|entry| entry.file.strong_count() == 0);
        let dead = self.slots.iter().enumerate().filter(|(_, slot)| is_dead(slot));
        dead.map(|(slot, _)| slot as u32).collect()
    }
}
