//! A key run: the idempotency keys of some sealed segments, so that a restart knows them without reading the segments.
//!
//! ```text
//! | header page | entries in the order of admission |
//! ```
//! Runs outlive their segments: a key holds for its time, whatever happened to the events.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::event::{EventBatch, IdempotencyKey};
use crate::ids::{Micros, Position, Tenant};
use crate::io::Map;
use crate::limits::ALIGNMENT;

pub const KEY_RUN_MAGIC: [u8; 8] = *b"RLKEYRN1";
pub const KEY_RUN_VERSION: u16 = 1;
pub const KEY_RUN_HEADER_BYTES: usize = 56;
/// Where the checksummed part of the header begins.
pub const KEY_RUN_HEADER_CRC_FROM: usize = 12;
pub const KEY_ENTRY_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyRunHeader {
    pub magic: [u8; 8],
    /// Over the rest of the header.
    pub header_crc: U32,
    pub version: U16,
    pub flags: U16,
    pub shard: U32,
    /// Over everything behind the header page.
    pub body_crc: U32,
    /// First and last segment whose keys the run knows.
    pub segment_from: U64,
    pub segment_to: U64,
    pub entry_count: U64,
    pub reserved: U64,
}

const _: () = assert!(size_of::<KeyRunHeader>() == KEY_RUN_HEADER_BYTES);

/// What is remembered of a batch that had an idempotency key: all that its answer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct KeyEntry {
    pub tenant: U32,
    pub event_count: U32,
    pub first_position: U64,
    /// Microseconds since the Unix epoch.
    pub received_at: I64,
    /// Version of the first event.
    pub first_version: U64,
    pub idempotency_hash: [u8; 16],
    pub body_hash: [u8; 16],
}

const _: () = assert!(size_of::<KeyEntry>() == KEY_ENTRY_BYTES);

impl KeyEntry {
    /// Of a batch whose events have their versions.
    pub fn new(
        batch: &EventBatch,
        idempotency: IdempotencyKey,
        first_position: Position,
        received_at: Micros,
    ) -> KeyEntry {
        KeyEntry {
            tenant: U32::new(batch.tenant().0),
            event_count: U32::new(batch.event_count() as u32),
            first_position: U64::new(first_position.0),
            received_at: I64::new(received_at.0),
            first_version: U64::new(batch.keys()[0].version),
            idempotency_hash: idempotency.key,
            body_hash: idempotency.body,
        }
    }

    pub fn tenant(&self) -> Tenant {
        Tenant(self.tenant.get())
    }

    pub fn first_position(&self) -> Position {
        Position(self.first_position.get())
    }

    pub fn received_at(&self) -> Micros {
        Micros(self.received_at.get())
    }
}

/// Why bytes are not a key run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyRunError {
    Short,
    Magic,
    Crc,
    Version(u16),
    UnknownFlags(u16),
    Layout,
}

/// Encodes a whole key run. `entries` are in the order of admission.
pub fn encode_key_run(shard: u32, segment_from: u64, segment_to: u64, entries: &[KeyEntry]) -> Vec<u8> {
    let mut file = Vec::with_capacity(ALIGNMENT + size_of_val(entries));
    file.resize(ALIGNMENT, 0);
    file.extend_from_slice(entries.as_bytes());
    let mut header = KeyRunHeader {
        magic: KEY_RUN_MAGIC,
        header_crc: U32::new(0),
        version: U16::new(KEY_RUN_VERSION),
        flags: U16::new(0),
        shard: U32::new(shard),
        body_crc: U32::new(crc32fast::hash(&file[ALIGNMENT..])),
        segment_from: U64::new(segment_from),
        segment_to: U64::new(segment_to),
        entry_count: U64::new(entries.len() as u64),
        reserved: U64::new(0),
    };
    header.header_crc = U32::new(crc32fast::hash(&header.as_bytes()[KEY_RUN_HEADER_CRC_FROM..]));
    file[..KEY_RUN_HEADER_BYTES].copy_from_slice(header.as_bytes());
    file
}

/// A key run, checked once.
#[derive(Debug)]
pub struct KeyRunView {
    map: Map,
    header: KeyRunHeader,
}

impl KeyRunView {
    pub fn open(map: Map) -> Result<KeyRunView, KeyRunError> {
        let (header, _) = KeyRunHeader::read_from_prefix(&map).map_err(|_| KeyRunError::Short)?;
        if header.magic != KEY_RUN_MAGIC {
            return Err(KeyRunError::Magic);
        }
        if crc32fast::hash(&map[KEY_RUN_HEADER_CRC_FROM..KEY_RUN_HEADER_BYTES]) != header.header_crc.get() {
            return Err(KeyRunError::Crc);
        }
        if header.version.get() != KEY_RUN_VERSION {
            return Err(KeyRunError::Version(header.version.get()));
        }
        if header.flags.get() != 0 {
            return Err(KeyRunError::UnknownFlags(header.flags.get()));
        }
        if map.len() < ALIGNMENT || crc32fast::hash(&map[ALIGNMENT..]) != header.body_crc.get() {
            return Err(KeyRunError::Crc);
        }
        let run = KeyRunView { map, header };
        let Some(entries) = run.try_entries() else { return Err(KeyRunError::Layout) };
        if entries.len() as u64 != header.entry_count.get() || entries.iter().any(|entry| entry.event_count.get() == 0)
        {
            return Err(KeyRunError::Layout);
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

    /// In the order of admission.
    pub fn entries(&self) -> &[KeyEntry] {
        self.try_entries().expect("checked at open")
    }

    fn try_entries(&self) -> Option<&[KeyEntry]> {
        <[KeyEntry]>::ref_from_bytes(&self.map[ALIGNMENT..]).ok()
    }
}
