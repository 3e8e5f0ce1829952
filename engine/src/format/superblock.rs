//! The data directory's identity and secrets, written once, replaced as a whole when the shard count is raised.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::limits::ALIGNMENT;

pub const SUPERBLOCK_MAGIC: [u8; 8] = *b"RLSUPER1";
pub const SUPERBLOCK_VERSION: u16 = 1;
pub const SUPERBLOCK_BYTES: usize = 80;
/// Where the checksummed part begins.
pub const SUPERBLOCK_CRC_FROM: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    pub magic: [u8; 8],
    /// Over the rest.
    pub crc: U32,
    pub version: U16,
    pub flags: U16,
    pub instance: [u8; 16],
    /// Key of the permutation that event ids are made with. Never rotated, part of every backup.
    pub id_key: [u8; 16],
    /// Seed of entity and type fingerprints.
    pub fingerprint_seed: U64,
    pub segment_bytes: U64,
    pub shard_count: U32,
    pub reserved: U32,
    pub created_at: I64,
}

const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_BYTES);

/// Why a superblock cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SuperblockError {
    Short,
    Magic,
    Crc,
    Version(u16),
    UnknownFlags(u16),
}

impl Superblock {
    pub fn new(
        instance: [u8; 16],
        id_key: [u8; 16],
        fingerprint_seed: u64,
        segment_bytes: u64,
        shard_count: u32,
        created_at: i64,
    ) -> Superblock {
        let mut superblock = Superblock {
            magic: SUPERBLOCK_MAGIC,
            crc: U32::new(0),
            version: U16::new(SUPERBLOCK_VERSION),
            flags: U16::new(0),
            instance,
            id_key,
            fingerprint_seed: U64::new(fingerprint_seed),
            segment_bytes: U64::new(segment_bytes),
            shard_count: U32::new(shard_count),
            reserved: U32::new(0),
            created_at: I64::new(created_at),
        };
        superblock.crc = U32::new(crc32fast::hash(&superblock.as_bytes()[SUPERBLOCK_CRC_FROM..]));
        superblock
    }

    /// The superblock as a whole page.
    pub fn to_page(self) -> Vec<u8> {
        let mut page = vec![0; ALIGNMENT];
        page[..SUPERBLOCK_BYTES].copy_from_slice(self.as_bytes());
        page
    }

    pub fn parse(page: &[u8]) -> Result<Superblock, SuperblockError> {
        let (superblock, _) = Superblock::read_from_prefix(page).map_err(|_| SuperblockError::Short)?;
        if superblock.magic != SUPERBLOCK_MAGIC {
            return Err(SuperblockError::Magic);
        }
        if crc32fast::hash(&page[SUPERBLOCK_CRC_FROM..SUPERBLOCK_BYTES]) != superblock.crc.get() {
            return Err(SuperblockError::Crc);
        }
        if superblock.version.get() != SUPERBLOCK_VERSION {
            return Err(SuperblockError::Version(superblock.version.get()));
        }
        if superblock.flags.get() != 0 {
            return Err(SuperblockError::UnknownFlags(superblock.flags.get()));
        }
        Ok(superblock)
    }
}
