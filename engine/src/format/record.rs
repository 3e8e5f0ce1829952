//! One event as it lies on disk, encoded by the core that received it and copied unchanged ever after.
//!
//! ```text
//! 0        4     8    9     10         12           14         16            20              24            32
//! | bytes  | crc | kind | flags | type len | entity len | reserved | payload len | metadata len | timestamp | type entity payload metadata |
//! ```
//! `crc` covers everything behind itself. Must never: call the operating system, or trust a length before it is checked.

use zerocopy::little_endian::{I64, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::Micros;

/// Bytes of `RecordHeader`.
pub const RECORD_HEADER_BYTES: usize = 32;
/// Where the checksummed part begins.
pub const RECORD_CRC_FROM: usize = 8;

/// The event has no time of its own: its timestamp is the received time of its batch.
pub const RECORD_FLAG_SERVER_TIME: u8 = 0b0000_0001;
/// Flags a reader may ignore when it does not know them; any other unknown flag makes the record unreadable.
pub const RECORD_FLAGS_IGNORABLE: u8 = 0b1111_0000;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RecordHeader {
    /// Header and strings together.
    pub record_bytes: U32,
    pub crc: U32,
    pub kind: u8,
    pub flags: u8,
    pub type_bytes: U16,
    pub entity_bytes: U16,
    pub reserved: U16,
    pub payload_bytes: U32,
    pub metadata_bytes: U32,
    /// Microseconds since the Unix epoch; 0 with `RECORD_FLAG_SERVER_TIME`.
    pub timestamp: I64,
}

const _: () = assert!(size_of::<RecordHeader>() == RECORD_HEADER_BYTES);

/// What an event is. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum EventKind {
    #[default]
    Event = 1,
    Log = 2,
    Metric = 3,
    Trace = 4,
    Identify = 5,
}

impl EventKind {
    pub fn from_byte(byte: u8) -> Option<EventKind> {
        match byte {
            1 => Some(EventKind::Event),
            2 => Some(EventKind::Log),
            3 => Some(EventKind::Metric),
            4 => Some(EventKind::Trace),
            5 => Some(EventKind::Identify),
            _ => None,
        }
    }
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than the header, or than the header says.
    Short,
    /// The parts do not add up to the whole.
    Lengths,
    Crc,
    UnknownKind(u8),
    UnknownFlags(u8),
    /// Type or entity is not UTF-8.
    Text,
}

/// A checked view of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: EventKind,
    /// `None`: the batch's received time stands for it.
    pub timestamp: Option<Micros>,
    pub event_type: &'a str,
    pub entity: &'a str,
    pub payload: &'a [u8],
    pub metadata: &'a [u8],
    /// Header and strings together.
    pub record_bytes: usize,
}

impl<'a> Record<'a> {
    /// Reads and checks the record at the front of `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let (header, _) = RecordHeader::ref_from_prefix(bytes).map_err(|_| RecordError::Short)?;
        let record_bytes = header.record_bytes.get() as usize;
        if record_bytes < RECORD_HEADER_BYTES || bytes.len() < record_bytes {
            return Err(RecordError::Short);
        }
        let type_bytes = header.type_bytes.get() as usize;
        let entity_bytes = header.entity_bytes.get() as usize;
        let payload_bytes = header.payload_bytes.get() as usize;
        let metadata_bytes = header.metadata_bytes.get() as usize;
        if RECORD_HEADER_BYTES + type_bytes + entity_bytes + payload_bytes + metadata_bytes != record_bytes {
            return Err(RecordError::Lengths);
        }
        if crc32fast::hash(&bytes[RECORD_CRC_FROM..record_bytes]) != header.crc.get() {
            return Err(RecordError::Crc);
        }
        let kind = EventKind::from_byte(header.kind).ok_or(RecordError::UnknownKind(header.kind))?;
        if header.flags & !(RECORD_FLAG_SERVER_TIME | RECORD_FLAGS_IGNORABLE) != 0 {
            return Err(RecordError::UnknownFlags(header.flags));
        }
        let server_time = header.flags & RECORD_FLAG_SERVER_TIME != 0;
        let timestamp = if server_time { None } else { Some(Micros(header.timestamp.get())) };
        let (event_type, rest) = bytes[RECORD_HEADER_BYTES..record_bytes].split_at(type_bytes);
        let (entity, rest) = rest.split_at(entity_bytes);
        let (payload, metadata) = rest.split_at(payload_bytes);
        Ok(Record {
            kind,
            timestamp,
            event_type: std::str::from_utf8(event_type).map_err(|_| RecordError::Text)?,
            entity: std::str::from_utf8(entity).map_err(|_| RecordError::Text)?,
            payload,
            metadata,
            record_bytes,
        })
    }
}

/// Appends one record to `out` and returns its length. The caller has checked the lengths against `limits`.
pub fn encode_record(
    out: &mut Vec<u8>,
    kind: EventKind,
    timestamp: Option<Micros>,
    event_type: &str,
    entity: &str,
    payload: &[u8],
    metadata: &[u8],
) -> u32 {
    let record_bytes = RECORD_HEADER_BYTES + event_type.len() + entity.len() + payload.len() + metadata.len();
    let mut header = RecordHeader {
        record_bytes: U32::new(record_bytes as u32),
        crc: U32::new(0),
        kind: kind as u8,
        flags: if timestamp.is_none() { RECORD_FLAG_SERVER_TIME } else { 0 },
        type_bytes: U16::new(event_type.len() as u16),
        entity_bytes: U16::new(entity.len() as u16),
        reserved: U16::new(0),
        payload_bytes: U32::new(payload.len() as u32),
        metadata_bytes: U32::new(metadata.len() as u32),
        timestamp: I64::new(timestamp.map_or(0, |at| at.0)),
    };
    let start = out.len();
    out.reserve(record_bytes);
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(event_type.as_bytes());
    out.extend_from_slice(entity.as_bytes());
    out.extend_from_slice(payload);
    out.extend_from_slice(metadata);
    header.crc = U32::new(crc32fast::hash(&out[start + RECORD_CRC_FROM..]));
    out[start + 4..start + RECORD_CRC_FROM].copy_from_slice(header.crc.as_bytes());
    record_bytes as u32
}

/// The event type of a record that is known to be whole, without checking it again.
///
/// # Panics
/// If `record` is shorter than it says.
pub fn record_type(record: &[u8]) -> &[u8] {
    let type_bytes = u16::from_le_bytes([record[10], record[11]]) as usize;
    &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + type_bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_record(&mut bytes, EventKind::Event, Some(Micros(7)), "order.paid", "order-1", b"{\"a\":1}", b"null");
        bytes
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let bytes = sample();
        let record = Record::parse(&bytes).unwrap();
        assert_eq!(record.event_type, "order.paid");
        assert_eq!(record.entity, "order-1");
        assert_eq!(record.payload, b"{\"a\":1}");
        assert_eq!(record.metadata, b"null");
        assert_eq!(record.timestamp, Some(Micros(7)));
        assert_eq!(record.record_bytes, bytes.len());
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::parse(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn no_cut_record_is_accepted() {
        let bytes = sample();
        for len in 0..bytes.len() {
            assert!(Record::parse(&bytes[..len]).is_err(), "{len} bytes");
        }
    }
}
