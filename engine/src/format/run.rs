//! A run of the entity directory: last version and last position of every entity that had events in some segments.
//!
//! ```text
//! | header page | binary fuse filter, padded to 4096 | entries sorted by (tenant, fingerprint) |
//! ```
//! Runs outlive their segments: a version is never reused, whatever happened to the events.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::filter::FilterRef;
use crate::ids::{Position, Tenant, Version};
use crate::io::Map;
use crate::limits::ALIGNMENT;

pub const RUN_MAGIC: [u8; 8] = *b"RLENTRY1";
pub const RUN_VERSION: u16 = 1;
pub const RUN_HEADER_BYTES: usize = 72;
/// Where the checksummed part of the header begins.
pub const RUN_HEADER_CRC_FROM: usize = 12;
pub const RUN_ENTRY_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RunHeader {
    pub magic: [u8; 8],
    /// Over the rest of the header.
    pub header_crc: U32,
    pub version: U16,
    pub flags: U16,
    pub shard: U32,
    /// Over everything behind the header page.
    pub body_crc: U32,
    /// First and last segment whose entities the run knows.
    pub segment_from: U64,
    pub segment_to: U64,
    pub entry_count: U64,
    pub filter_bytes: U64,
    pub entries_offset: U64,
    pub reserved: U64,
}

const _: () = assert!(size_of::<RunHeader>() == RUN_HEADER_BYTES);

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RunEntry {
    pub tenant: U32,
    /// The upper 32 and lower 64 bits of the entity's 96-bit fingerprint.
    pub fingerprint_high: U32,
    pub fingerprint_low: U64,
    pub version: U64,
    pub position: U64,
}

const _: () = assert!(size_of::<RunEntry>() == RUN_ENTRY_BYTES);

impl RunEntry {
    pub fn new(tenant: Tenant, fingerprint: u128, version: Version, position: Position) -> RunEntry {
        RunEntry {
            tenant: U32::new(tenant.0),
            fingerprint_high: U32::new((fingerprint >> 64) as u32),
            fingerprint_low: U64::new(fingerprint as u64),
            version: U64::new(version.0),
            position: U64::new(position.0),
        }
    }

    /// Order of entries in a run.
    pub fn key(&self) -> u128 {
        run_key(
            Tenant(self.tenant.get()),
            u128::from(self.fingerprint_high.get()) << 64 | u128::from(self.fingerprint_low.get()),
        )
    }
}

/// Tenant in the upper 32 bits, fingerprint in the lower 96.
pub fn run_key(tenant: Tenant, fingerprint: u128) -> u128 {
    u128::from(tenant.0) << 96 | fingerprint
}

/// The key that an entity has in a run's filter.
pub fn run_filter_key(key: u128) -> u64 {
    (key as u64) ^ ((key >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Why bytes are not a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunError {
    Short,
    Magic,
    Crc,
    Version(u16),
    UnknownFlags(u16),
    Layout,
}

/// Encodes a whole run file. `entries` is sorted by `key` without repetition; `filter` is over their `run_filter_key`s.
pub fn encode_run(shard: u32, segment_from: u64, segment_to: u64, entries: &[RunEntry], filter: &[u8]) -> Vec<u8> {
    let entries_offset = ALIGNMENT + filter.len().next_multiple_of(ALIGNMENT);
    let mut file = vec![0; entries_offset];
    file[ALIGNMENT..ALIGNMENT + filter.len()].copy_from_slice(filter);
    file.extend_from_slice(entries.as_bytes());
    let mut header = RunHeader {
        magic: RUN_MAGIC,
        header_crc: U32::new(0),
        version: U16::new(RUN_VERSION),
        flags: U16::new(0),
        shard: U32::new(shard),
        body_crc: U32::new(crc32fast::hash(&file[ALIGNMENT..])),
        segment_from: U64::new(segment_from),
        segment_to: U64::new(segment_to),
        entry_count: U64::new(entries.len() as u64),
        filter_bytes: U64::new(filter.len() as u64),
        entries_offset: U64::new(entries_offset as u64),
        reserved: U64::new(0),
    };
    header.header_crc = U32::new(crc32fast::hash(&header.as_bytes()[RUN_HEADER_CRC_FROM..]));
    file[..RUN_HEADER_BYTES].copy_from_slice(header.as_bytes());
    file
}

/// A run, checked once and mapped.
#[derive(Debug)]
pub struct RunView {
    map: Map,
    header: RunHeader,
}

impl RunView {
    pub fn open(map: Map) -> Result<RunView, RunError> {
        let (header, _) = RunHeader::read_from_prefix(&map).map_err(|_| RunError::Short)?;
        if header.magic != RUN_MAGIC {
            return Err(RunError::Magic);
        }
        if crc32fast::hash(&map[RUN_HEADER_CRC_FROM..RUN_HEADER_BYTES]) != header.header_crc.get() {
            return Err(RunError::Crc);
        }
        if header.version.get() != RUN_VERSION {
            return Err(RunError::Version(header.version.get()));
        }
        if header.flags.get() != 0 {
            return Err(RunError::UnknownFlags(header.flags.get()));
        }
        if map.len() < ALIGNMENT || crc32fast::hash(&map[ALIGNMENT..]) != header.body_crc.get() {
            return Err(RunError::Crc);
        }
        let run = RunView { map, header };
        let Some(entries) = run.try_entries() else { return Err(RunError::Layout) };
        if !entries.windows(2).all(|pair| pair[0].key() < pair[1].key()) || run.try_filter().is_none() {
            return Err(RunError::Layout);
        }
        Ok(run)
    }

    pub fn shard(&self) -> u32 {
        self.header.shard.get()
    }

    /// First and last segment the run covers.
    pub fn segments(&self) -> (u64, u64) {
        (self.header.segment_from.get(), self.header.segment_to.get())
    }

    pub fn entries(&self) -> &[RunEntry] {
        self.try_entries().expect("checked at open")
    }

    /// Whether the run knows an entity of the tenant.
    pub fn holds(&self, tenant: Tenant) -> bool {
        let entries = self.entries();
        let place = entries.partition_point(|entry| entry.tenant.get() < tenant.0);
        entries.get(place).is_some_and(|entry| entry.tenant.get() == tenant.0)
    }

    pub fn mapped_bytes(&self) -> usize {
        self.map.len()
    }

    /// Last version and position of an entity, if the run knows it.
    pub fn find(&self, key: u128) -> Option<(Version, Position)> {
        if !self.try_filter().expect("checked at open").may_contain(run_filter_key(key)) {
            return None;
        }
        let entries = self.entries();
        let place = entries.binary_search_by_key(&key, RunEntry::key).ok()?;
        Some((Version(entries[place].version.get()), Position(entries[place].position.get())))
    }

    fn try_entries(&self) -> Option<&[RunEntry]> {
        let from = self.header.entries_offset.get();
        let bytes = self.header.entry_count.get().checked_mul(RUN_ENTRY_BYTES as u64)?;
        if from < ALIGNMENT as u64 || from.checked_add(bytes)? != self.map.len() as u64 {
            return None;
        }
        <[RunEntry]>::ref_from_bytes(&self.map[from as usize..]).ok()
    }

    fn try_filter(&self) -> Option<FilterRef<'_>> {
        let bytes = usize::try_from(self.header.filter_bytes.get()).ok()?;
        FilterRef::parse(self.map.get(ALIGNMENT..ALIGNMENT.checked_add(bytes)?)?)
    }
}
