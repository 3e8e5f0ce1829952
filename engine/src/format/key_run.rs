//! A key run: the idempotency keys of some sealed segments, so that a restart knows them without reading the segments.
//!
//! ```text
//! | header page | entries in the order of admission |
//! ```
//! Runs outlive their segments: a key holds for its time, whatever happened to the events.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::event::{EventBatch, IdempotencyKey, KeyClass};
use crate::ids::{Micros, Position, Tenant};
use crate::io::Map;
use crate::limits::{ALIGNMENT, BATCH_EVENTS_MAX};

pub const KEY_RUN_MAGIC: [u8; 8] = *b"RLKEYRN1";
pub const KEY_RUN_VERSION: u16 = 1;
pub const KEY_RUN_HEADER_BYTES: usize = 56;
/// Where the checksummed part of the header begins.
pub const KEY_RUN_HEADER_CRC_FROM: usize = 12;
pub const KEY_ENTRY_BYTES: usize = 64;

/// Some entries are of frames. Not set where none is, as in runs from before there were classes.
pub const KEY_RUN_FLAG_FRAMES: u16 = 0b0000_0001;

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
    pub event_count: U16,
    /// `KeyClass`.
    pub class: u8,
    pub reserved: u8,
    pub first_position: U64,
    /// Microseconds since the Unix epoch.
    pub received_at: I64,
    /// Version of the first event.
    pub first_version: U64,
    pub idempotency_hash: [u8; 16],
    pub body_hash: [u8; 16],
}

const _: () = assert!(size_of::<KeyEntry>() == KEY_ENTRY_BYTES);
const _: () = assert!(BATCH_EVENTS_MAX <= u16::MAX as usize);

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
            event_count: U16::new(batch.event_count() as u16),
            class: idempotency.class as u8,
            reserved: 0,
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

    pub fn class(&self) -> KeyClass {
        if self.class == KeyClass::Frame as u8 { KeyClass::Frame } else { KeyClass::Request }
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
    let has_frames = entries.iter().any(|entry| entry.class() == KeyClass::Frame);
    let mut header = KeyRunHeader {
        magic: KEY_RUN_MAGIC,
        header_crc: U32::new(0),
        version: U16::new(KEY_RUN_VERSION),
        flags: U16::new(if has_frames { KEY_RUN_FLAG_FRAMES } else { 0 }),
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
        if header.flags.get() & !KEY_RUN_FLAG_FRAMES != 0 {
            return Err(KeyRunError::UnknownFlags(header.flags.get()));
        }
        if map.len() < ALIGNMENT || crc32fast::hash(&map[ALIGNMENT..]) != header.body_crc.get() {
            return Err(KeyRunError::Crc);
        }
        let run = KeyRunView { map, header };
        let Some(entries) = run.try_entries() else { return Err(KeyRunError::Layout) };
        let class_max = (header.flags.get() & KEY_RUN_FLAG_FRAMES) as u8;
        let is_entry =
            |entry: &KeyEntry| entry.event_count.get() > 0 && entry.class <= class_max && entry.reserved == 0;
        if entries.len() as u64 != header.entry_count.get() || !entries.iter().all(is_entry) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(class: u8) -> KeyEntry {
        KeyEntry {
            tenant: U32::new(1),
            event_count: U16::new(1),
            class,
            reserved: 0,
            first_position: U64::new(1),
            received_at: I64::new(1),
            first_version: U64::new(1),
            idempotency_hash: [1; 16],
            body_hash: [2; 16],
        }
    }

    fn open(entries: &[KeyEntry], change: impl FnOnce(&mut KeyRunHeader)) -> Result<u16, KeyRunError> {
        let mut file = encode_key_run(3, 1, 2, entries);
        let (header, _) = KeyRunHeader::mut_from_prefix(&mut file).unwrap();
        change(header);
        header.header_crc = U32::new(crc32fast::hash(&header.as_bytes()[KEY_RUN_HEADER_CRC_FROM..]));
        KeyRunView::open(Map::owned(file)).map(|run| run.header.flags.get())
    }

    #[test]
    fn a_run_with_frames_says_so_and_one_without_is_as_it_ever_was() {
        assert_eq!(open(&[], |_| {}), Ok(0));
        assert_eq!(open(&[entry(0), entry(0)], |_| {}), Ok(0));
        assert_eq!(open(&[entry(0), entry(1)], |_| {}), Ok(KEY_RUN_FLAG_FRAMES));
    }

    #[test]
    fn a_class_that_is_not_announced_or_not_known_is_refused() {
        assert_eq!(open(&[entry(1)], |header| header.flags.set(0)), Err(KeyRunError::Layout));
        assert_eq!(open(&[entry(1), entry(2)], |_| {}), Err(KeyRunError::Layout));
        assert_eq!(open(&[KeyEntry { reserved: 1, ..entry(0) }], |_| {}), Err(KeyRunError::Layout));
        assert_eq!(open(&[entry(0)], |header| header.flags.set(2)), Err(KeyRunError::UnknownFlags(2)));
    }
}
