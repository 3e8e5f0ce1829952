//! A batch inside a block: what one tenant sent together, with what the shard's owner decided about it.
//!
//! ```text
//! | BatchHeader 96 | versions, 8 bytes each | records as the receiving core encoded them |
//! ```
//! The header's checksum covers the versions too; each record has its own. So one event can be read and verified
//! without its block.

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::event::{IdempotencyKey, KeyClass};
use crate::ids::{Micros, Position, Tenant};
use crate::limits::BATCH_EVENTS_MAX;

pub const BATCH_HEADER_BYTES: usize = 96;
pub const BATCH_VERSION_BYTES: usize = 8;
/// Where the checksummed part of the header begins.
pub const BATCH_HEADER_CRC_FROM: usize = 4;

/// `idempotency_hash` and `body_hash` are set.
pub const BATCH_FLAG_IDEMPOTENT: u8 = 0b0000_0001;
/// The key is that of a frame (`KeyClass::Frame`). Without it, a request's.
pub const BATCH_FLAG_FRAME_KEY: u8 = 0b0001_0000;
/// Flags a reader may ignore when it does not know them.
pub const BATCH_FLAGS_IGNORABLE: u8 = 0b1111_0000;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BatchHeader {
    /// Over the rest of the header and the versions.
    pub header_crc: U32,
    /// Header, versions and records.
    pub batch_bytes: U32,
    pub tenant: U32,
    pub event_count: U32,
    pub first_position: U64,
    /// Microseconds since the Unix epoch, never decreasing within a tenant.
    pub received_at: I64,
    pub records_bytes: U32,
    pub source: u8,
    pub flags: u8,
    pub reserved_source: U16,
    pub idempotency_hash: [u8; 16],
    pub body_hash: [u8; 16],
    pub reserved: [u8; 24],
}

const _: () = assert!(size_of::<BatchHeader>() == BATCH_HEADER_BYTES);

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchError {
    Short,
    Lengths,
    EventCount(u32),
    Crc,
    UnknownFlags(u8),
}

/// A checked view of a batch's header and versions.
#[derive(Debug, Clone, Copy)]
pub struct BatchView<'a> {
    pub header: &'a BatchHeader,
    versions: &'a [U64],
}

impl<'a> BatchView<'a> {
    /// Reads and checks header and versions at the front of `bytes`; the records may lie beyond its end.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let (header, rest) = BatchHeader::ref_from_prefix(bytes).map_err(|_| BatchError::Short)?;
        let event_count = header.event_count.get();
        if event_count == 0 || event_count as usize > BATCH_EVENTS_MAX {
            return Err(BatchError::EventCount(event_count));
        }
        let (versions, _) =
            <[U64]>::ref_from_prefix_with_elems(rest, event_count as usize).map_err(|_| BatchError::Short)?;
        let head_bytes = BATCH_HEADER_BYTES + versions.len() * BATCH_VERSION_BYTES;
        if head_bytes as u64 + u64::from(header.records_bytes.get()) != u64::from(header.batch_bytes.get()) {
            return Err(BatchError::Lengths);
        }
        if crc32fast::hash(&bytes[BATCH_HEADER_CRC_FROM..head_bytes]) != header.header_crc.get() {
            return Err(BatchError::Crc);
        }
        if header.flags & !(BATCH_FLAG_IDEMPOTENT | BATCH_FLAGS_IGNORABLE) != 0 {
            return Err(BatchError::UnknownFlags(header.flags));
        }
        Ok(BatchView { header, versions })
    }

    pub fn tenant(&self) -> Tenant {
        Tenant(self.header.tenant.get())
    }

    pub fn first_position(&self) -> Position {
        Position(self.header.first_position.get())
    }

    pub fn received_at(&self) -> Micros {
        Micros(self.header.received_at.get())
    }

    /// What makes the batch be stored once, if anything does.
    pub fn idempotency(&self) -> Option<IdempotencyKey> {
        let is_set = |flag| self.header.flags & flag != 0;
        let class = if is_set(BATCH_FLAG_FRAME_KEY) { KeyClass::Frame } else { KeyClass::Request };
        let (key, body) = (self.header.idempotency_hash, self.header.body_hash);
        is_set(BATCH_FLAG_IDEMPOTENT).then_some(IdempotencyKey { class, key, body })
    }

    pub fn event_count(&self) -> usize {
        self.versions.len()
    }

    /// The version of the batch's `event_index`-th event.
    pub fn version(&self, event_index: usize) -> u64 {
        self.versions[event_index].get()
    }

    /// Bytes in front of the first record.
    pub fn head_bytes(&self) -> usize {
        head_bytes(self.versions.len())
    }

    pub fn batch_bytes(&self) -> usize {
        self.header.batch_bytes.get() as usize
    }
}

/// Header and versions of a batch of `event_count` events.
pub fn head_bytes(event_count: usize) -> usize {
    BATCH_HEADER_BYTES + event_count * BATCH_VERSION_BYTES
}

/// What a batch's header says beside what its events say.
#[derive(Debug, Clone, Copy)]
pub struct BatchHead {
    pub tenant: Tenant,
    pub source: u8,
    pub idempotency: Option<IdempotencyKey>,
    pub first_position: Position,
    pub received_at: Micros,
}

/// Writes a batch at the front of `out` and returns its length. `out` has room for it: the caller computed it with `head_bytes`.
pub fn encode_batch(
    out: &mut [u8],
    head: &BatchHead,
    versions: impl ExactSizeIterator<Item = u64>,
    records: &[u8],
) -> usize {
    let &BatchHead { tenant, source, idempotency, first_position, received_at } = head;
    let head_bytes = head_bytes(versions.len());
    let batch_bytes = head_bytes + records.len();
    let mut header = BatchHeader {
        header_crc: U32::new(0),
        batch_bytes: U32::new(batch_bytes as u32),
        tenant: U32::new(tenant.0),
        event_count: U32::new(versions.len() as u32),
        first_position: U64::new(first_position.0),
        received_at: I64::new(received_at.0),
        records_bytes: U32::new(records.len() as u32),
        source,
        flags: match idempotency.map(|idempotency| idempotency.class) {
            None => 0,
            Some(KeyClass::Request) => BATCH_FLAG_IDEMPOTENT,
            Some(KeyClass::Frame) => BATCH_FLAG_IDEMPOTENT | BATCH_FLAG_FRAME_KEY,
        },
        reserved_source: U16::new(0),
        idempotency_hash: idempotency.map_or([0; 16], |idempotency| idempotency.key),
        body_hash: idempotency.map_or([0; 16], |idempotency| idempotency.body),
        reserved: [0; 24],
    };
    for (slot, version) in out[BATCH_HEADER_BYTES..head_bytes].chunks_exact_mut(BATCH_VERSION_BYTES).zip(versions) {
        slot.copy_from_slice(&version.to_le_bytes());
    }
    out[..BATCH_HEADER_BYTES].copy_from_slice(header.as_bytes());
    header.header_crc = U32::new(crc32fast::hash(&out[BATCH_HEADER_CRC_FROM..head_bytes]));
    out[..BATCH_HEADER_CRC_FROM].copy_from_slice(header.header_crc.as_bytes());
    out[head_bytes..batch_bytes].copy_from_slice(records);
    batch_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDEMPOTENCY: IdempotencyKey = IdempotencyKey { class: KeyClass::Frame, key: [7; 16], body: [8; 16] };

    fn sample() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        let head = BatchHead {
            tenant: Tenant(5),
            source: 1,
            idempotency: Some(IDEMPOTENCY),
            first_position: Position(11),
            received_at: Micros(99),
        };
        let len = encode_batch(&mut bytes, &head, [3u64, 1, 4].into_iter(), b"records");
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn a_batch_reads_back_without_its_records() {
        let bytes = sample();
        let view = BatchView::parse(&bytes[..BATCH_HEADER_BYTES + 24]).unwrap();
        assert_eq!((view.tenant(), view.first_position(), view.received_at()), (Tenant(5), Position(11), Micros(99)));
        assert_eq!(view.idempotency(), Some(IDEMPOTENCY));
        assert_eq!((0..3).map(|index| view.version(index)).collect::<Vec<_>>(), [3, 1, 4]);
        assert_eq!(&bytes[view.head_bytes()..], b"records");
    }

    #[test]
    fn a_key_is_of_a_request_unless_it_is_marked_as_a_frames() {
        for class in KeyClass::ALL {
            let mut bytes = vec![0; BATCH_HEADER_BYTES + BATCH_VERSION_BYTES];
            let idempotency = Some(IdempotencyKey { class, ..IDEMPOTENCY });
            let head = BatchHead {
                tenant: Tenant(5),
                source: 1,
                idempotency,
                first_position: Position(11),
                received_at: Micros(99),
            };
            encode_batch(&mut bytes, &head, [3u64].into_iter(), b"");
            assert_eq!(BatchView::parse(&bytes).unwrap().idempotency(), idempotency);
        }
    }

    #[test]
    fn no_flipped_bit_in_header_or_versions_goes_unnoticed() {
        let bytes = sample();
        for bit in 0..(BATCH_HEADER_BYTES + 24) * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchView::parse(&changed).is_err(), "bit {bit}");
        }
    }
}
