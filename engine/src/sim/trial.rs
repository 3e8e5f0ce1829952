//! Short lives of a simulated disk, for the tests of its parts.

use std::collections::BTreeSet;

use super::SimDisk;
use super::inode::SECTOR_BYTES;
use crate::io::{Buffer, Disk, DiskFile, DiskOp, Fill, Persist, Site};

pub(super) const SEEDS: u64 = 200;
pub(super) const SITE: Site = Site::SegmentHeader;
pub(super) const BLOCK: usize = 8192;

/// A disk with one file of `bytes` zeros, durable with its name.
pub(super) fn disk_with_file(seed: u64, bytes: u64) -> (SimDisk, DiskFile) {
    let disk = SimDisk::new(seed);
    let file = disk.create("log", bytes, Fill::Zeros).unwrap();
    disk.sync(&file, SITE).unwrap();
    disk.sync_dir("", SITE).unwrap();
    (disk, file)
}

pub(super) fn lose_power(disk: &SimDisk) {
    disk.crash();
    disk.reopen();
}

fn filled(byte: u8, bytes: usize) -> Buffer {
    let mut buffer = Buffer::new(bytes);
    buffer.fill(byte);
    buffer
}

pub(super) fn write_op(ticket: u64, file: &DiskFile, offset: u64, byte: u8, persist: Persist) -> DiskOp {
    DiskOp::Write { ticket, file: file.clone(), offset, buffer: filled(byte, BLOCK), bytes: BLOCK, persist }
}

pub(super) fn read_all(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(path).unwrap();
    let mut bytes = vec![0; disk.file_bytes(&file).unwrap() as usize];
    assert_eq!(disk.read(&file, 0, &mut bytes), Ok(bytes.len()));
    bytes
}

/// Runs a life per seed and gives the different ends that were seen.
pub(super) fn ends<T: Ord>(life: impl Fn(u64) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(life).collect()
}

/// Whether a run of bytes is all `byte`, all zeros, or torn between them at sector granularity.
pub(super) fn verdict(bytes: &[u8], byte: u8) -> &'static str {
    let whole = |sector: &[u8]| sector.iter().all(|&b| b == byte);
    let gone = |sector: &[u8]| sector.iter().all(|&b| b == 0);
    assert!(bytes.chunks(SECTOR_BYTES).all(|sector| whole(sector) || gone(sector)), "a sector is torn");
    match bytes {
        _ if whole(bytes) => "kept",
        _ if gone(bytes) => "lost",
        _ => "torn",
    }
}
