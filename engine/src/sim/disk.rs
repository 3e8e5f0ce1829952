//! A disk and file system in memory that lose, tear, reorder and refuse as real ones may, decided by a seed.
//!
//! Owns two images of every file and every name: what readers see and what a power cut leaves.
//! Must never: be kinder than a real disk (nothing is durable that was not synced), nor impossible (within one
//! 512-byte sector completed writes land in order; names change atomically and in an order that was asked for).
//! Its parts: `machine` (power, order), `names`, `inode` (bytes), `fault` (what goes wrong).

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh3::xxh3_64;

use super::fault::{Fault, FaultRates};
use super::machine::{Call, Machine, handle};
use super::rng::mix;
use crate::io::{Disk, DiskDone, DiskFile, DiskOp, DiskResult, Fill, Map, Site};

/// A simulated disk. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimDisk {
    machine: Arc<Mutex<Machine>>,
}

impl SimDisk {
    /// An empty, faultless disk without a limit that matters.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk { machine: Arc::new(Mutex::new(Machine::new(seed))) }
    }

    /// Hands over an operation. After a power loss it is swallowed: nobody is left to tell.
    ///
    /// # Panics
    /// If a write, or a read past the cache, is not aligned to 4096 bytes: the kernel would answer EINVAL.
    pub fn submit(&self, op: DiskOp) {
        self.lock().submit(op);
    }

    /// Operations that were submitted and not completed; 0 after a power loss.
    pub fn pending(&self) -> usize {
        self.lock().pending_count()
    }

    /// Completes up to `how_many` pending operations, in any order. At least one if there is one, unless the power fails.
    pub fn complete_some(&self, how_many: usize) -> Vec<DiskDone> {
        self.lock().complete_some(how_many)
    }

    /// Cuts the power: leaves what a power cut may leave, and nothing else. Every operation fails until `reopen`.
    pub fn crash(&self) {
        self.lock().cut_power();
    }

    /// Lets `operations` more succeed; the next one fails with `Crashed`, perhaps after it took effect, and so does
    /// everything after it. Counts blocking calls, submissions and completions. A crash clears it.
    pub fn crash_after(&self, operations: u64) {
        self.lock().countdown = Some(operations);
    }

    /// Starts the next life. After a power loss it sees what is durable; otherwise only the process restarted, and
    /// what was submitted has its effect, though nobody hears of it. Handles from before are dead.
    pub fn reopen(&self) {
        self.lock().reopen();
    }

    /// The power is gone: every operation fails with `Crashed`.
    pub fn is_down(&self) -> bool {
        !self.lock().is_on()
    }

    pub fn set_fault_rates(&self, rates: FaultRates) {
        self.lock().faults.rates = rates;
    }

    /// Fails the `nth` operation of this kind from here; 0 is the next one.
    pub fn fail_nth(&self, fault: Fault, nth: u64) {
        self.lock().faults.schedule(fault, nth);
    }

    /// The disk's size. Files count with their length from their creation on.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity_bytes = bytes;
    }

    /// What files take of the disk.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes()
    }

    /// From here on every sync, directory sync and durable write succeeds and guarantees nothing.
    pub fn lie_about_sync(&self, lie: bool) {
        self.lock().faults.is_lying = lie;
    }

    /// From here on this one site's syncs succeed and guarantee nothing. `Site::Block` is `Persist::Durable`,
    /// `Site::Interval` is `DiskOp::Sync`.
    pub fn ignore_site(&self, site: Site) {
        self.lock().faults.ignore(site);
    }

    /// How often this site asked for durability: a site that nothing visits proves nothing when it is ignored.
    pub fn syncs_at(&self, site: Site) -> u64 {
        self.lock().faults.syncs_at(site)
    }

    /// Rots one bit, on the medium and in the cache.
    ///
    /// # Panics
    /// If the file is absent or shorter.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) {
        assert!(bit < 8);
        self.lock().rot(path, offset..offset + 1, |byte| *byte ^= 1 << bit);
    }

    /// Rots a range to zeros, on the medium and in the cache.
    ///
    /// # Panics
    /// If the file is absent or shorter.
    pub fn zero_range(&self, path: &str, offset: u64, bytes: u64) {
        self.lock().rot(path, offset..offset + bytes, |byte| *byte = 0);
    }

    /// A file's bytes as readers see them, outside the count and the faults: for those who judge a test.
    pub fn peek(&self, path: &str) -> Option<Vec<u8>> {
        self.lock().peek(path)
    }

    /// Names in a folder as readers see them, outside the count and the faults.
    pub fn peek_names(&self, dir: &str) -> Vec<String> {
        self.lock().list(dir).unwrap_or_default()
    }

    /// The files of a folder as the medium has them, by path: what a power cut leaves if nothing else comes to it. For those
    /// who judge a test.
    pub fn durable_files(&self, dir: &str) -> Vec<(String, Vec<u8>)> {
        self.lock().durable_files(dir)
    }

    /// Every operation so far: blocking calls, submissions, completions.
    pub fn op_count(&self) -> u64 {
        self.lock().op_count()
    }

    /// A hash of every operation with its arguments, bytes and result. The same seed and calls give the same hash.
    pub fn trace_hash(&self) -> u64 {
        self.lock().trace_hash()
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().expect("no panic leaves a simulated disk half changed")
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({:?})", self.lock())
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &str) -> DiskResult<()> {
        self.lock().call(Call::CreateDir, &[digest_path(path)], |machine| machine.create_dir(path), |()| 0)
    }

    fn list(&self, dir: &str) -> DiskResult<Vec<String>> {
        let digest = |names: &Vec<String>| names.iter().fold(0, |hash, name| mix(hash ^ digest_path(name)));
        self.lock().call(Call::List, &[digest_path(dir)], |machine| machine.list(dir), digest)
    }

    fn create(&self, path: &str, bytes: u64, fill: Fill) -> DiskResult<DiskFile> {
        let arguments = [digest_path(path), bytes, u64::from(fill == Fill::Zeros)];
        self.lock().call(Call::Create, &arguments, |machine| machine.create(path, bytes), handle)
    }

    fn open(&self, path: &str) -> DiskResult<DiskFile> {
        self.lock().call(Call::Open, &[digest_path(path)], |machine| machine.open(path), handle)
    }

    fn file_bytes(&self, file: &DiskFile) -> DiskResult<u64> {
        self.lock().call(Call::FileBytes, &[handle(file)], |machine| machine.file_bytes(file), |bytes| *bytes)
    }

    fn read(&self, file: &DiskFile, offset: u64, into: &mut [u8]) -> DiskResult<usize> {
        let arguments = [handle(file), offset, into.len() as u64];
        let run = |machine: &mut Machine| {
            let count = machine.read(file, offset, into)?;
            Ok((count, xxh3_64(&into[..count])))
        };
        self.lock().call(Call::Read, &arguments, run, |(_, payload)| *payload).map(|(count, _)| count)
    }

    fn write(&self, file: &DiskFile, offset: u64, bytes: &[u8]) -> DiskResult<()> {
        let arguments = [handle(file), offset, bytes.len() as u64, xxh3_64(bytes)];
        self.lock().call(Call::Write, &arguments, |machine| machine.write(file, offset, bytes), |()| 0)
    }

    fn sync(&self, file: &DiskFile, site: Site) -> DiskResult<()> {
        self.lock().call(Call::Sync, &[handle(file), site as u64], |machine| machine.sync(file, site), |()| 0)
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let arguments = [digest_path(from), digest_path(to)];
        self.lock().call(Call::Rename, &arguments, |machine| machine.rename(from, to), |()| 0)
    }

    fn remove(&self, path: &str) -> DiskResult<()> {
        self.lock().call(Call::Remove, &[digest_path(path)], |machine| machine.remove(path), |()| 0)
    }

    fn sync_dir(&self, dir: &str, site: Site) -> DiskResult<()> {
        self.lock().call(Call::SyncDir, &[digest_path(dir), site as u64], |machine| machine.sync_dir(dir, site), |()| 0)
    }

    fn map(&self, file: &DiskFile, bytes: u64) -> DiskResult<Map> {
        let run = |machine: &mut Machine| machine.map(file, bytes);
        self.lock().call(Call::Map, &[handle(file), bytes], run, |map| xxh3_64(map))
    }

    fn free_bytes(&self) -> DiskResult<u64> {
        self.lock().call(Call::FreeBytes, &[], |machine| Ok(machine.free_bytes()), |bytes| *bytes)
    }
}

fn digest_path(path: &str) -> u64 {
    xxh3_64(path.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::io::{Buffer, DiskError, Persist, ReadFrom};
    use crate::sim::Rng;
    use crate::sim::trial::{BLOCK, SEEDS, SITE, disk_with_file, lose_power, read_all, write_op};

    #[test]
    fn what_was_written_is_read_back_and_short_at_the_end() {
        let (disk, file) = disk_with_file(1, 1000);
        disk.write(&file, 990, &[7; 20]).unwrap();
        assert_eq!(disk.file_bytes(&file), Ok(1010));
        let mut bytes = [9; 40];
        assert_eq!(disk.read(&file, 985, &mut bytes), Ok(25));
        assert_eq!(bytes[..25], [[0; 5].as_slice(), &[7; 20]].concat());
        assert_eq!(disk.read(&file, 5000, &mut bytes), Ok(0));
        assert_eq!(disk.map(&file, 1010).unwrap()[990], 7);
        assert_eq!(disk.map(&file, 1011).err(), Some(DiskError::ShortTransfer));
    }

    #[test]
    fn rot_is_on_the_medium_and_in_the_cache() {
        let (disk, file) = disk_with_file(1, 1024);
        disk.write(&file, 0, &[0xff; 1024]).unwrap();
        disk.sync(&file, SITE).unwrap();
        disk.flip_bit("log", 3, 0);
        disk.zero_range("log", 600, 2);
        for _ in 0..2 {
            let bytes = read_all(&disk, "log");
            assert_eq!((bytes[2], bytes[3], bytes[599], bytes[600], bytes[601]), (0xff, 0xfe, 0xff, 0, 0));
            lose_power(&disk);
        }
    }

    /// A small workload that uses every operation and gives up at the first error.
    fn script(disk: &SimDisk, rng: &mut Rng) -> DiskResult<()> {
        disk.create_dir("s")?;
        disk.sync_dir("", Site::ShardDir)?;
        for name in disk.list("s")? {
            disk.remove(&format!("s/{name}"))?;
        }
        let file = disk.create("s/tmp", 8 * BLOCK as u64, Fill::Zeros)?;
        disk.sync(&file, Site::SegmentHeader)?;
        disk.write(&file, 0, &[1; 700])?;
        disk.sync(&file, Site::SegmentHeader)?;
        disk.rename("s/tmp", "s/log")?;
        disk.sync_dir("s", Site::SegmentDir)?;
        for ticket in 0..12 {
            let persist = if rng.chance(1, 2) { Persist::Durable } else { Persist::Written };
            disk.submit(write_op(ticket, &file, rng.below(7) * BLOCK as u64, rng.draw() as u8, persist));
            if rng.chance(1, 3) {
                disk.submit(DiskOp::Sync { ticket: 100 + ticket, file: file.clone() });
            }
            for done in disk.complete_some(rng.index(3)) {
                done.result?;
            }
        }
        let open = disk.open("s/log")?;
        let buffer = Buffer::new(BLOCK);
        disk.submit(DiskOp::Read { ticket: 50, file: open, offset: 0, buffer, bytes: BLOCK, from: ReadFrom::Device });
        while disk.pending() != 0 {
            disk.complete_some(2);
        }
        let bytes = disk.file_bytes(&file)?;
        disk.map(&file, bytes)?;
        disk.free_bytes()?;
        disk.read(&file, 0, &mut [0; 100])?;
        if disk.is_down() { Err(DiskError::Crashed) } else { Ok(()) }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        let life = |seed: u64| {
            let disk = SimDisk::new(seed);
            disk.set_fault_rates(FaultRates {
                write_per_million: 9000,
                sync_per_million: 9000,
                read_per_million: 9000,
            });
            let mut rng = Rng::new(seed);
            for _ in 0..3 {
                disk.crash_after(rng.below(100));
                let _ = script(&disk, &mut rng);
                lose_power(&disk);
            }
            (disk.trace_hash(), disk.op_count(), disk.peek("s/log"))
        };
        let traces: BTreeSet<u64> = (0..SEEDS)
            .map(|seed| {
                assert!(life(seed) == life(seed), "seed {seed}");
                life(seed).0
            })
            .collect();
        assert_eq!(traces.len() as u64, SEEDS);
    }

    #[test]
    fn the_power_may_fail_at_every_operation() {
        for seed in 0..20 {
            for operations in 0.. {
                let disk = SimDisk::new(seed);
                disk.crash_after(operations);
                let outcome = script(&disk, &mut Rng::new(seed));
                if outcome.is_ok() {
                    assert!(40 < operations, "{operations}");
                    break;
                }
                assert_eq!(outcome, Err(DiskError::Crashed));
                assert!(disk.is_down());
                assert_eq!(disk.op_count(), operations + 1);
                assert_eq!(disk.list(""), Err(DiskError::Crashed));
                assert!(disk.complete_some(1).is_empty());
                if operations % 2 == 0 {
                    disk.crash();
                }
                disk.reopen();
                assert_eq!(script(&disk, &mut Rng::new(seed)), Ok(()), "after {operations} operations of seed {seed}");
            }
        }
    }

    #[test]
    #[ignore = "prints a time: cargo test -p ringlog-engine sim::disk -- --ignored --nocapture"]
    #[expect(clippy::disallowed_methods, reason = "a measurement, run by hand")]
    fn time_of_a_thousand_seeds() {
        let started = std::time::Instant::now();
        let mut op_count = 0;
        for seed in 0..1000 {
            let disk = SimDisk::new(seed);
            let mut rng = Rng::new(seed);
            for _ in 0..5 {
                let _ = script(&disk, &mut rng);
                let names: Vec<String> = disk.list("s").unwrap();
                for name in names {
                    let file = disk.open(&format!("s/{name}")).unwrap();
                    let mut bytes = vec![0; 8 * BLOCK];
                    disk.read(&file, 0, &mut bytes).unwrap();
                }
                lose_power(&disk);
            }
            op_count += disk.op_count();
        }
        println!("1000 seeds, 5 lives each, {op_count} operations: {:?}", started.elapsed());
    }
}
