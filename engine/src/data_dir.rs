//! A data directory: its identity, its secrets, and the folders of its shards.
//!
//! ```text
//! superblock    LOCK    quarantine/    shard-0000/    shard-0001/ ...
//! ```
//! The superblock is written once and replaced as a whole when the shard count is raised. It can never be lowered:
//! a tenant's events lie in its shard for ever.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::event::FingerprintKey;
use crate::event_id::EventIdKey;
use crate::format::superblock::{SUPERBLOCK_BYTES, Superblock, SuperblockError};
use crate::ids::{Micros, ShardNumber};
use crate::io::{DataDirError, Disk, DiskError, FsDisk, Site};
use crate::limits::{SEGMENT_BYTES_LIMIT, SEGMENT_BYTES_MIN};
use crate::shard::jobs::{ShardHome, publish};
use crate::shard::names::{QUARANTINE_DIR, shard_dir};

const SUPERBLOCK_PATH: &str = "superblock";

/// Why a data directory cannot be opened.
#[derive(Debug)]
pub enum OpenDirError {
    /// The directory itself: taken by another process, open to others, not ours.
    Dir(DataDirError),
    Disk(DiskError),
    Superblock(SuperblockError),
    /// Fewer shards were asked for than the directory has.
    ShardCount {
        asked: u32,
        has: u32,
    },
    SegmentBytes {
        asked: u64,
    },
}

impl fmt::Display for OpenDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenDirError::Dir(error) => write!(f, "{error}"),
            OpenDirError::Disk(error) => write!(f, "{error}"),
            OpenDirError::Superblock(error) => write!(f, "the superblock does not verify: {error:?}"),
            OpenDirError::ShardCount { asked, has } => {
                write!(
                    f,
                    "the data directory has {has} shards and cannot be opened with {asked}: the count can only be raised"
                )
            }
            OpenDirError::SegmentBytes { asked } => write!(
                f,
                "segments of {asked} bytes are not possible: use a multiple of 4096 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_LIMIT}"
            ),
        }
    }
}

impl std::error::Error for OpenDirError {}

impl From<DiskError> for OpenDirError {
    fn from(error: DiskError) -> OpenDirError {
        OpenDirError::Disk(error)
    }
}

/// An open data directory. Clones share the lock on it.
#[derive(Clone)]
pub struct DataDir {
    disk: Arc<FsDisk>,
    superblock: Superblock,
    is_new: bool,
}

/// Secrets and identity of a directory that is being made.
#[derive(Debug, Clone, Copy)]
pub struct NewDir {
    pub now: Micros,
    pub segment_bytes: u64,
    /// Random bytes: instance, id key, fingerprint seed.
    pub random: [u8; 40],
}

impl DataDir {
    /// Opens or makes a data directory with at least `shard_count` shards; `None` takes what is there, or one.
    pub fn open(path: &Path, shard_count: Option<u32>, new: NewDir) -> Result<DataDir, OpenDirError> {
        let disk = FsDisk::open(path).map_err(OpenDirError::Dir)?;
        let (superblock, is_new) = open_superblock(&disk, shard_count, new)?;
        Ok(DataDir { disk: Arc::new(disk), superblock, is_new })
    }

    pub fn disk(&self) -> Arc<FsDisk> {
        Arc::clone(&self.disk)
    }

    /// Whether this call of `open` made it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    pub fn shard_count(&self) -> u32 {
        self.superblock.shard_count.get()
    }

    pub fn segment_bytes(&self) -> u64 {
        self.superblock.segment_bytes.get()
    }

    pub fn instance(&self) -> [u8; 16] {
        self.superblock.instance
    }

    pub fn fingerprint(&self) -> FingerprintKey {
        FingerprintKey(self.superblock.fingerprint_seed.get())
    }

    pub fn event_id_key(&self) -> EventIdKey {
        EventIdKey::new(self.superblock.id_key)
    }

    /// What a shard's files say about where they belong.
    pub fn shard_home(&self, shard: ShardNumber, reserve_bytes: u64) -> ShardHome {
        assert!(shard.0 < self.shard_count());
        ShardHome {
            shard,
            dir: shard_dir(shard),
            instance: self.superblock.instance,
            segment_bytes: self.segment_bytes(),
            reserve_bytes,
        }
    }
}

/// Reads the superblock, or makes everything that a new directory needs. Nothing refers to a folder before its name is durable.
fn open_superblock(disk: &dyn Disk, shard_count: Option<u32>, new: NewDir) -> Result<(Superblock, bool), OpenDirError> {
    let known = match disk.open(SUPERBLOCK_PATH) {
        Ok(file) => {
            let mut page = vec![0; SUPERBLOCK_BYTES];
            let read = disk.read(&file, 0, &mut page)?;
            Some(Superblock::parse(&page[..read]).map_err(OpenDirError::Superblock)?)
        }
        Err(DiskError::NotFound) => None,
        Err(error) => return Err(error.into()),
    };
    let has = known.map_or(0, |superblock| superblock.shard_count.get());
    let wanted = shard_count.unwrap_or(has.max(1));
    if wanted < has || wanted == 0 || wanted > SHARDS_MAX {
        return Err(OpenDirError::ShardCount { asked: wanted, has });
    }
    if known.is_none() {
        let is_possible = new.segment_bytes.is_multiple_of(4096)
            && (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_LIMIT).contains(&new.segment_bytes);
        if !is_possible {
            return Err(OpenDirError::SegmentBytes { asked: new.segment_bytes });
        }
    }
    if let Some(superblock) = known
        && wanted == has
    {
        return Ok((superblock, false));
    }
    disk.create_dir(QUARANTINE_DIR)?;
    for shard in has..wanted {
        disk.create_dir(&shard_dir(ShardNumber(shard)))?;
    }
    disk.sync_dir("", Site::ShardDir)?;
    let superblock = match known {
        Some(known) => Superblock::new(
            known.instance,
            known.id_key,
            known.fingerprint_seed.get(),
            known.segment_bytes.get(),
            wanted,
            known.created_at.get(),
        ),
        None => {
            let (instance, rest) = new.random.split_at(16);
            let (id_key, seed) = rest.split_at(16);
            Superblock::new(
                instance.try_into().expect("16 of 40 bytes"),
                id_key.try_into().expect("16 of 40 bytes"),
                u64::from_le_bytes(seed.try_into().expect("8 of 40 bytes")),
                new.segment_bytes,
                wanted,
                new.now.0,
            )
        }
    };
    publish(disk, "", SUPERBLOCK_PATH, &superblock.to_page(), Site::Superblock, Site::SuperblockDir)?;
    Ok((superblock, known.is_none()))
}

/// Shards of one data directory: a route byte names each, with room for other routes.
pub const SHARDS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    const NEW: NewDir = NewDir { now: Micros(5), segment_bytes: 1 << 20, random: [9; 40] };

    #[test]
    fn a_superblock_is_made_once_and_its_shards_can_only_be_raised() {
        let disk = SimDisk::new(1);
        let (first, is_new) = open_superblock(&disk, Some(2), NEW).unwrap();
        assert!(is_new);
        let other = NewDir { random: [1; 40], ..NEW };
        assert_eq!(open_superblock(&disk, None, other).unwrap(), (first, false));
        assert!(matches!(open_superblock(&disk, Some(1), NEW), Err(OpenDirError::ShardCount { asked: 1, has: 2 })));
        let (raised, _) = open_superblock(&disk, Some(3), other).unwrap();
        assert_eq!((raised.shard_count.get(), raised.instance), (3, first.instance));
    }

    #[test]
    fn a_superblock_survives_a_power_cut_at_any_operation() {
        for operations in 0..40 {
            let disk = SimDisk::new(operations);
            disk.crash_after(operations);
            let made = open_superblock(&disk, Some(1), NEW);
            disk.crash();
            disk.reopen();
            let (found, _) = open_superblock(&disk, Some(1), NewDir { random: [3; 40], ..NEW }).unwrap();
            if let Ok((made, _)) = made {
                assert_eq!(made, found, "after {operations} operations");
            }
        }
    }

    #[test]
    fn a_missing_sync_of_the_superblock_is_noticed() {
        let other = NewDir { random: [3; 40], ..NEW };
        for site in [Site::Superblock, Site::SuperblockDir] {
            let is_lost = |seed| {
                let disk = SimDisk::new(seed);
                disk.ignore_site(site);
                let (made, _) = open_superblock(&disk, Some(1), NEW).unwrap();
                disk.crash();
                disk.reopen();
                open_superblock(&disk, Some(1), other).map_or(true, |(found, _)| found != made)
            };
            assert!((0..200).any(is_lost), "{site:?}");
        }
    }

    #[test]
    fn a_damaged_superblock_is_refused() {
        let disk = SimDisk::new(1);
        open_superblock(&disk, Some(1), NEW).unwrap();
        disk.flip_bit(SUPERBLOCK_PATH, 30, 3);
        assert!(matches!(open_superblock(&disk, None, NEW), Err(OpenDirError::Superblock(SuperblockError::Crc))));
    }
}
