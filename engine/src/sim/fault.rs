//! What may go wrong on a simulated disk, and when: by rate, by schedule, by a lie.
//!
//! Owns which operation is struck and which sync is honoured, and how much a power cut leaves.
//! Must never: touch bytes or names; what a fault does to them is told where they are.

use super::rng::Rng;
use crate::io::Site;

/// A failure to schedule, by the kind of operation that it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// EIO from a write; any of its sectors may have been written.
    Write,
    /// EIO from a sync; what was not yet durable never will be, though readers still see it.
    Sync,
    /// EIO from a read or a mapping.
    Read,
    /// ENOSPC from a create or from a write that extends a file.
    Space,
}

/// How often each kind of operation fails by chance.
#[derive(Debug, Clone, Copy)]
pub struct FaultRates {
    pub write_per_million: u32,
    pub sync_per_million: u32,
    pub read_per_million: u32,
}

/// The faults that are asked for.
pub(super) struct Faults {
    pub(super) rates: FaultRates,
    scheduled: [Option<u64>; 4],
    pub(super) is_lying: bool,
    ignored: [bool; Site::ALL.len()],
    syncs: [u64; Site::ALL.len()],
}

impl Faults {
    pub(super) fn none() -> Faults {
        Faults {
            rates: FaultRates { write_per_million: 0, sync_per_million: 0, read_per_million: 0 },
            scheduled: [None; 4],
            is_lying: false,
            ignored: [false; Site::ALL.len()],
            syncs: [0; Site::ALL.len()],
        }
    }

    pub(super) fn schedule(&mut self, fault: Fault, nth: u64) {
        self.scheduled[fault as usize] = Some(nth);
    }

    pub(super) fn ignore(&mut self, site: Site) {
        self.ignored[site as usize] = true;
    }

    pub(super) fn syncs_at(&self, site: Site) -> u64 {
        self.syncs[site as usize]
    }

    /// Whether this operation fails.
    pub(super) fn strikes(&mut self, fault: Fault, rng: &mut Rng) -> bool {
        if let Some(left) = &mut self.scheduled[fault as usize] {
            if *left == 0 {
                self.scheduled[fault as usize] = None;
                return true;
            }
            *left -= 1;
        }
        let per_million = match fault {
            Fault::Write => self.rates.write_per_million,
            Fault::Sync => self.rates.sync_per_million,
            Fault::Read => self.rates.read_per_million,
            Fault::Space => 0,
        };
        per_million != 0 && rng.chance(u64::from(per_million), 1_000_000)
    }

    /// Counts a request for durability; whether it is granted.
    pub(super) fn honours(&mut self, site: Site) -> bool {
        self.syncs[site as usize] += 1;
        !self.is_lying && !self.ignored[site as usize]
    }
}

/// How much of what was not durable a power cut leaves. One for the whole machine: independent dice for each write would
/// almost never lose two things together.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fate {
    Nothing,
    Everything,
    /// All before this moment, part of what happened at it, nothing after it.
    UpTo(u64),
    /// Each write and each folder for itself.
    Scattered,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::io::{Disk, DiskError, DiskOp, Persist};
    use crate::sim::trial::{BLOCK, SITE, disk_with_file, ends, lose_power, read_all, verdict, write_op};

    #[test]
    fn reads_and_mappings_fail_when_told_to() {
        let (disk, file) = disk_with_file(1, 512);
        disk.fail_nth(Fault::Read, 0);
        assert_eq!(disk.read(&file, 0, &mut [0]), Err(DiskError::Io(libc::EIO)));
        assert_eq!(disk.read(&file, 0, &mut [0]), Ok(1));
        disk.fail_nth(Fault::Read, 0);
        assert!(disk.map(&file, 1).is_err());
    }

    #[test]
    fn rates_make_some_operations_fail() {
        let (disk, file) = disk_with_file(1, 512);
        let per_million = 100_000;
        disk.set_fault_rates(FaultRates {
            write_per_million: per_million,
            sync_per_million: per_million,
            read_per_million: per_million,
        });
        let failures = |run: &dyn Fn() -> bool| (0..1000).filter(|_| run()).count();
        let writes = failures(&|| disk.write(&file, 0, &[1]).is_err());
        let syncs = failures(&|| disk.sync(&file, SITE).is_err());
        let reads = failures(&|| disk.read(&file, 0, &mut [0]).is_err());
        for count in [writes, syncs, reads] {
            assert!((50..150).contains(&count), "{count}");
        }
    }

    #[test]
    fn a_disk_that_lies_about_sync_loses_what_was_synced() {
        let ends = ends(|seed| {
            let (disk, file) = disk_with_file(seed, 2 * BLOCK as u64);
            disk.lie_about_sync(true);
            disk.write(&file, 0, &[7; BLOCK]).unwrap();
            disk.sync(&file, SITE).unwrap();
            disk.submit(write_op(1, &file, BLOCK as u64, 8, Persist::Durable));
            assert_eq!(disk.complete_some(1)[0].result, Ok(BLOCK));
            disk.rename("log", "sealed").unwrap();
            disk.sync_dir("", SITE).unwrap();
            lose_power(&disk);
            let names = disk.list("").unwrap();
            let bytes = read_all(&disk, &names[0]);
            (names[0] == "sealed", verdict(&bytes[..BLOCK], 7) == "kept", verdict(&bytes[BLOCK..], 8) == "kept")
        });
        assert_eq!(ends.len(), 8, "{ends:?}");
    }

    #[test]
    fn each_site_can_be_ignored_alone() {
        for site in Site::ALL {
            let ends = ends(|seed| {
                let (disk, file) = disk_with_file(seed, 2 * BLOCK as u64);
                let visits = disk.syncs_at(site);
                disk.ignore_site(site);
                let other = Site::ALL[(site as usize + 1) % Site::ALL.len()];
                let make_durable = |site: Site, offset: usize| match site {
                    Site::Block => {
                        disk.submit(write_op(1, &file, offset as u64, 7, Persist::Durable));
                        disk.complete_some(1);
                    }
                    Site::Interval => {
                        disk.submit(write_op(1, &file, offset as u64, 7, Persist::Written));
                        disk.complete_some(1);
                        disk.submit(DiskOp::Sync { ticket: 2, file: file.clone() });
                        disk.complete_some(1);
                    }
                    _ => {
                        disk.write(&file, offset as u64, &[7; BLOCK]).unwrap();
                        disk.sync(&file, site).unwrap();
                    }
                };
                make_durable(other, 0);
                make_durable(site, BLOCK);
                assert_eq!(disk.syncs_at(site), visits + 1);
                lose_power(&disk);
                let bytes = read_all(&disk, "log");
                assert_eq!(verdict(&bytes[..BLOCK], 7), "kept");
                verdict(&bytes[BLOCK..], 7)
            });
            assert_eq!(ends, BTreeSet::from(["kept", "lost", "torn"]), "{site:?}");
        }
    }
}
