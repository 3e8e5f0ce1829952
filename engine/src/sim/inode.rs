//! A file of a simulated disk: what readers see, what the medium holds, and the writes that make the difference.
//!
//! Owns both images of the bytes, and what a failed write, a failed sync and a power cut leave of them, by sector.
//! Must never: tear a sector, bring an older write back over a durable one, or know what the file is called.

use std::collections::BTreeSet;
use std::ops::Range;

use super::fault::Fate;
use super::rng::Rng;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

/// A file: what readers see, what the medium holds, and the writes that make the difference.
pub(super) struct Inode {
    pub(super) cached: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) unsynced: Vec<UnsyncedWrite>,
    /// The images may differ.
    has_diverged: bool,
    /// A failed sync took writes out of `unsynced` that readers still see.
    pub(super) has_lost: bool,
}

impl Inode {
    pub(super) fn new(bytes: usize) -> Inode {
        Inode { cached: vec![0; bytes], durable: Vec::new(), unsynced: Vec::new(), has_diverged: true, has_lost: false }
    }

    pub(super) fn write(&mut self, order: u64, offset: usize, bytes: &[u8]) {
        put(&mut self.cached, offset, bytes);
        self.unsynced.push(UnsyncedWrite::new(order, offset, bytes));
        self.has_diverged = true;
    }

    /// This write alone becomes durable, and the file's length as far as it reaches.
    pub(super) fn write_durable(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.cached, offset, bytes);
        put(&mut self.durable, offset, bytes);
        let range = offset..offset + bytes.len();
        for write in &mut self.unsynced {
            if range.start < write.end() && write.offset < range.end {
                write.settled.push(range.clone());
            }
        }
    }

    /// A write that failed: any of its sectors are there, none beyond the file's end.
    pub(super) fn write_torn(&mut self, order: u64, offset: usize, bytes: &[u8], rng: &mut Rng) {
        let whole = UnsyncedWrite::new(order, offset, bytes);
        let landed = torn(whole.sector_count(), rng);
        for sector in (0..landed.len()).filter(|&sector| landed[sector]) {
            let range = whole.sector(sector);
            if range.end <= self.cached.len() {
                self.write(order, range.start, &bytes[range.start - offset..range.end - offset]);
            }
        }
    }

    pub(super) fn sync(&mut self, before: u64, file_bytes: usize) {
        if self.durable.len() < file_bytes {
            grow(&mut self.durable, file_bytes);
        }
        let durable = &mut self.durable;
        self.unsynced.retain(|write| {
            let is_covered = write.order < before;
            if is_covered {
                write.land(durable, write.offset..write.end());
            }
            !is_covered
        });
    }

    /// After a failed sync the kernel marks the pages clean: readers see them, and no later sync writes them.
    pub(super) fn lose_unsynced(&mut self, rng: &mut Rng) {
        let writes = std::mem::take(&mut self.unsynced);
        let completed_count = writes.len();
        land_some(&mut self.durable, &writes, completed_count, Fate::Scattered, rng);
        self.has_lost = true;
    }

    /// Readers see the medium again, under the writes that are still to come to it.
    pub(super) fn evict(&mut self) {
        let file_bytes = self.cached.len();
        self.cached.clone_from(&self.durable);
        grow(&mut self.cached, file_bytes);
        for write in &self.unsynced {
            write.land(&mut self.cached, write.offset..write.end());
        }
        self.has_lost = false;
    }

    pub(super) fn cut_power(&mut self, in_flight: Vec<UnsyncedWrite>, fate: Fate, rng: &mut Rng) -> usize {
        let mut writes = std::mem::take(&mut self.unsynced);
        let completed_count = writes.len();
        writes.extend(in_flight);
        let synced_bytes = self.durable.len();
        let longest = writes.iter().map(UnsyncedWrite::end).fold(self.cached.len(), usize::max);
        if synced_bytes < longest {
            let bytes = match (fate, rng.below(4)) {
                (Fate::Nothing, _) => synced_bytes,
                (Fate::Everything, _) | (_, 2) => longest,
                (_, 3) => {
                    let anywhere = synced_bytes + rng.index(longest - synced_bytes + 1);
                    (anywhere / SECTOR_BYTES * SECTOR_BYTES).max(synced_bytes)
                }
                _ => synced_bytes,
            };
            grow(&mut self.durable, bytes);
        }
        let landed = land_some(&mut self.durable, &writes, completed_count, fate, rng);
        if self.has_diverged || !writes.is_empty() {
            self.cached.clone_from(&self.durable);
            self.has_diverged = false;
            self.has_lost = false;
        }
        landed
    }
}

/// A completed write that a power cut may undo, or one in flight that it may tear.
pub(super) struct UnsyncedWrite {
    pub(super) order: u64,
    offset: usize,
    bytes: Vec<u8>,
    /// Ranges of the file that a later durable write settled: this write must not come back over it.
    settled: Vec<Range<usize>>,
}

impl UnsyncedWrite {
    pub(super) fn new(order: u64, offset: usize, bytes: &[u8]) -> UnsyncedWrite {
        UnsyncedWrite { order, offset, bytes: bytes.to_vec(), settled: Vec::new() }
    }

    fn end(&self) -> usize {
        self.offset + self.bytes.len()
    }

    fn sector_count(&self) -> usize {
        self.end().div_ceil(SECTOR_BYTES) - self.offset / SECTOR_BYTES
    }

    /// The range of the file that this write covers in its n-th sector.
    fn sector(&self, index: usize) -> Range<usize> {
        let start = (self.offset / SECTOR_BYTES + index) * SECTOR_BYTES;
        start.max(self.offset)..(start + SECTOR_BYTES).min(self.end())
    }

    /// Puts a range of this write on the medium, except where it is settled and where the file does not reach.
    fn land(&self, durable: &mut [u8], range: Range<usize>) {
        let end = range.end.min(durable.len());
        let mut at = range.start;
        while at < end {
            if let Some(settled) = self.settled.iter().find(|settled| settled.contains(&at)) {
                at = settled.end;
                continue;
            }
            let next_settled = self.settled.iter().map(|settled| settled.start).filter(|&start| at < start).min();
            let stop = next_settled.unwrap_or(end).min(end);
            durable[at..stop].copy_from_slice(&self.bytes[at - self.offset..stop - self.offset]);
            at = stop;
        }
    }
}

/// Applies to the medium what fate leaves of these writes, of which the last ones were still in flight.
/// Returns the number of sectors that landed.
fn land_some(durable: &mut [u8], writes: &[UnsyncedWrite], completed_count: usize, fate: Fate, rng: &mut Rng) -> usize {
    let mut landed: Vec<Vec<bool>> = Vec::with_capacity(writes.len());
    for write in writes {
        let sectors = write.sector_count();
        landed.push(match fate {
            Fate::Nothing => vec![false; sectors],
            Fate::Everything => vec![true; sectors],
            Fate::UpTo(moment) if write.order < moment => vec![true; sectors],
            Fate::UpTo(moment) if moment < write.order => vec![false; sectors],
            Fate::UpTo(_) | Fate::Scattered => torn(sectors, rng),
        });
    }
    // A sector is written as it stood in the cache. Where a write that covers only a part of a sector landed,
    // the completed writes before it are there too.
    let mut together = BTreeSet::new();
    for (write, landed) in writes[..completed_count].iter().zip(&mut landed).rev() {
        let last = landed.len().saturating_sub(1);
        for (sector, lands) in landed.iter_mut().enumerate() {
            let number = write.offset / SECTOR_BYTES + sector;
            *lands |= together.contains(&number);
            let is_edge = sector == 0 || sector == last;
            if is_edge && *lands && write.sector(sector).len() < SECTOR_BYTES {
                together.insert(number);
            }
        }
    }
    let mut count = 0;
    for (write, landed) in writes.iter().zip(&landed) {
        for sector in (0..landed.len()).filter(|&sector| landed[sector]) {
            write.land(durable, write.sector(sector));
            count += 1;
        }
    }
    count
}

/// Which sectors of a write a power cut leaves: none, all, the first few, or any.
fn torn(sector_count: usize, rng: &mut Rng) -> Vec<bool> {
    match rng.below(4) {
        0 => vec![false; sector_count],
        1 => vec![true; sector_count],
        2 => {
            let kept = rng.index(sector_count + 1);
            (0..sector_count).map(|sector| sector < kept).collect()
        }
        _ => (0..sector_count).map(|_| rng.chance(1, 2)).collect(),
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        grow(image, end);
    }
    image[offset..end].copy_from_slice(bytes);
}

fn grow(image: &mut Vec<u8>, bytes: usize) {
    if image.is_empty() {
        *image = vec![0; bytes];
    } else {
        image.resize(bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Disk, DiskError, Fill, Persist};
    use crate::sim::trial::{BLOCK, SEEDS, SITE, disk_with_file, ends, lose_power, read_all, verdict, write_op};
    use crate::sim::{Fault, SimDisk};

    #[test]
    fn an_unsynced_write_is_lost_kept_or_torn_by_sectors() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 32 * 512);
            disk.write(&file, 512, &[7; 16 * 512]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            assert_eq!(bytes.len(), 32 * 512);
            assert!(bytes[..512].iter().chain(&bytes[17 * 512..]).all(|&byte| byte == 0));
            verdict(&bytes[512..17 * 512], 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn unsynced_writes_survive_out_of_order() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4096);
            disk.write(&file, 0, &[1; 512]).unwrap();
            disk.write(&file, 1024, &[2; 512]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            (bytes[0], bytes[1024])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0), (0, 2), (1, 0), (1, 2)]));
    }

    #[test]
    fn a_sector_holds_a_moment_of_its_past() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[1; 10]).unwrap();
            disk.write(&file, 10, &[2; 10]).unwrap();
            disk.write(&file, 0, &[3; 1]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            (bytes[0], bytes[1], bytes[10])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0, 0), (1, 1, 0), (1, 1, 2), (3, 1, 2)]));
    }

    #[test]
    fn a_synced_write_is_never_lost() {
        for seed in 0..SEEDS {
            let (disk, file) = disk_with_file(seed, 4096);
            disk.write(&file, 100, &[7; 6000]).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.write(&file, 8000, &[8; 100]).unwrap();
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            assert!(6100 <= bytes.len());
            assert!(bytes[100..6100].iter().all(|&byte| byte == 7));
        }
    }

    #[test]
    fn a_length_is_durable_by_sync_only() {
        let ends = ends(|seed| {
            let disk = SimDisk::new(seed);
            let file = disk.create("log", 8192, Fill::Zeros).unwrap();
            disk.sync_dir("", SITE).unwrap();
            if seed % 2 == 0 {
                disk.sync(&file, SITE).unwrap();
            }
            lose_power(&disk);
            (seed % 2 == 0, read_all(&disk, "log").len())
        });
        let of_synced: Vec<_> = ends.iter().filter(|(is_synced, _)| *is_synced).collect();
        assert_eq!(of_synced, [&(true, 8192)]);
        assert!(ends.contains(&(false, 0)) && ends.contains(&(false, 8192)) && 3 < ends.len());
    }

    #[test]
    fn a_durable_write_survives_from_its_completion_on() {
        for seed in 0..SEEDS {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.write(&file, 100, &[1; 20_000]).unwrap();
            disk.submit(write_op(5, &file, 0, 7, Persist::Durable));
            let done = disk.complete_some(9);
            assert_eq!((done.len(), done[0].ticket, done[0].result), (1, 5, Ok(BLOCK)));
            assert_eq!(disk.peek("log").unwrap()[BLOCK - 1], 7);
            lose_power(&disk);
            let bytes = read_all(&disk, "log");
            // The older unsynced write does not come back over it.
            assert_eq!(verdict(&bytes[..BLOCK], 7), "kept");
        }
    }

    #[test]
    fn a_failed_write_leaves_any_of_its_sectors() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 4 * BLOCK as u64);
            disk.fail_nth(Fault::Write, 1);
            disk.write(&file, 3 * BLOCK as u64, &[1]).unwrap();
            disk.submit(write_op(1, &file, 0, 7, Persist::Durable));
            assert_eq!(disk.complete_some(1)[0].result, Err(DiskError::Io(libc::EIO)));
            disk.write(&file, 3 * BLOCK as u64, &[1]).unwrap();
            verdict(&disk.peek("log").unwrap()[..BLOCK], 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_the_data_is_gone() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, BLOCK as u64);
            disk.write(&file, 0, &[7; BLOCK]).unwrap();
            disk.fail_nth(Fault::Sync, 0);
            assert_eq!(disk.sync(&file, SITE), Err(DiskError::Io(libc::EIO)));
            assert_eq!(disk.sync(&file, SITE), Ok(()));
            assert_eq!(verdict(&disk.peek("log").unwrap(), 7), "kept");
            lose_power(&disk);
            verdict(&read_all(&disk, "log"), 7)
        });
        assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]));
    }

    #[test]
    fn after_a_failed_sync_a_restarted_process_sees_what_the_device_has() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 512);
            disk.write(&file, 0, &[7; 512]).unwrap();
            disk.fail_nth(Fault::Sync, 0);
            disk.sync(&file, SITE).unwrap_err();
            disk.reopen();
            let seen = read_all(&disk, "log")[0];
            lose_power(&disk);
            (seen, read_all(&disk, "log")[0])
        });
        assert_eq!(ends, BTreeSet::from([(0, 0), (7, 7)]));
    }
}
