//! A block: what one disk write makes durable.
//!
//! ```text
//! | BlockHeader 128 | body: batches, or a checkpoint, or nothing | zeros to a multiple of 4096 |
//! ```
//! The header has its own checksum, so that a bad body does not lose the length, and names its own place (segment, offset,
//! epoch), so that a misdirected write or a block of the segment's earlier life is never believed.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{BlockSequence, SegmentNumber};
use crate::limits::{ALIGNMENT, BLOCK_BYTES_MAX};

pub const BLOCK_MAGIC: [u8; 8] = *b"RLBLOCK1";
pub const BLOCK_VERSION: u16 = 1;
pub const BLOCK_HEADER_BYTES: usize = 128;
/// Where the checksummed part of the header begins.
pub const BLOCK_HEADER_CRC_FROM: usize = 12;

/// The writer waited for the durable prefix before it went beyond the in-flight window: `commit` durability.
pub const BLOCK_FLAG_WINDOWED: u8 = 0b0001_0000;

/// Flags a reader may ignore when it does not know them; any other unknown flag refuses the log.
pub const BLOCK_FLAGS_IGNORABLE: u8 = 0b1111_0000;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BlockHeader {
    pub magic: [u8; 8],
    /// Over the rest of the header.
    pub header_crc: U32,
    pub version: U16,
    pub kind: u8,
    pub flags: u8,
    /// Random, given to the segment for this life of it.
    pub epoch: U64,
    pub sequence: U64,
    /// Where in the segment this block begins, in bytes.
    pub segment_offset: U64,
    /// The highest sequence known to be durable when this block was submitted.
    pub durable_sequence: U64,
    /// Ordinal of the first event in the block, counted over the shard's whole log.
    pub first_ordinal: U64,
    pub shard: U32,
    /// `header_crc` of the block before, 0 for a log's first.
    pub previous_crc: U32,
    pub body_bytes: U32,
    pub body_crc: U32,
    pub batch_count: U32,
    pub event_count: U32,
    pub segment_number: U64,
    pub reserved: [u8; 40],
}

const _: () = assert!(size_of::<BlockHeader>() == BLOCK_HEADER_BYTES);

/// What a block's body is. The number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BlockKind {
    /// Batches of events.
    Data = 1,
    /// The shard's state at the start of a segment.
    Checkpoint = 2,
    /// Nothing: the block only carries `durable_sequence`.
    Watermark = 3,
}

impl BlockKind {
    fn from_byte(byte: u8) -> Option<BlockKind> {
        match byte {
            1 => Some(BlockKind::Data),
            2 => Some(BlockKind::Checkpoint),
            3 => Some(BlockKind::Watermark),
            _ => None,
        }
    }
}

/// Why bytes are not a block that belongs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// The page is all zeros: nothing was ever written here in this life.
    Zeros,
    Magic,
    HeaderCrc,
    Version(u16),
    UnknownKind(u8),
    UnknownFlags(u8),
    /// A block of another segment, of another life, or from another offset.
    Elsewhere,
    BodyLength(u32),
    BodyCrc,
}

/// Where a block stands and what must be true of it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockPlace {
    pub shard: u32,
    pub segment: SegmentNumber,
    pub epoch: u64,
    pub offset: u64,
    pub segment_bytes: u64,
}

impl BlockHeader {
    /// Checks the header at the front of `page` against its place. The body is not looked at.
    pub fn parse(page: &[u8], place: &BlockPlace) -> Result<(BlockHeader, BlockKind), BlockError> {
        let Ok((header, _)) = BlockHeader::read_from_prefix(page) else {
            return Err(BlockError::BodyLength(page.len() as u32));
        };
        if header.magic != BLOCK_MAGIC {
            let zeros = page[..BLOCK_HEADER_BYTES].iter().all(|&byte| byte == 0);
            return Err(if zeros { BlockError::Zeros } else { BlockError::Magic });
        }
        if crc32fast::hash(&page[BLOCK_HEADER_CRC_FROM..BLOCK_HEADER_BYTES]) != header.header_crc.get() {
            return Err(BlockError::HeaderCrc);
        }
        if header.epoch.get() != place.epoch
            || header.segment_number.get() != place.segment.0
            || header.segment_offset.get() != place.offset
            || header.shard.get() != place.shard
        {
            return Err(BlockError::Elsewhere);
        }
        if header.version.get() != BLOCK_VERSION {
            return Err(BlockError::Version(header.version.get()));
        }
        if header.flags & !BLOCK_FLAGS_IGNORABLE != 0 {
            return Err(BlockError::UnknownFlags(header.flags));
        }
        let kind = BlockKind::from_byte(header.kind).ok_or(BlockError::UnknownKind(header.kind))?;
        let body_bytes = header.body_bytes.get();
        let block_bytes = block_bytes(body_bytes as usize) as u64;
        if block_bytes > BLOCK_BYTES_MAX as u64 || place.offset + block_bytes > place.segment_bytes {
            return Err(BlockError::BodyLength(body_bytes));
        }
        Ok((header, kind))
    }

    /// The body of the block in `block`, checked.
    pub fn body<'a>(&self, block: &'a [u8]) -> Result<&'a [u8], BlockError> {
        let body_bytes = self.body_bytes.get() as usize;
        let Some(body) = block.get(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + body_bytes) else {
            return Err(BlockError::BodyLength(body_bytes as u32));
        };
        if crc32fast::hash(body) != self.body_crc.get() {
            return Err(BlockError::BodyCrc);
        }
        Ok(body)
    }

    pub fn sequence(&self) -> BlockSequence {
        BlockSequence(self.sequence.get())
    }

    /// Header, body and padding.
    pub fn block_bytes(&self) -> u64 {
        block_bytes(self.body_bytes.get() as usize) as u64
    }
}

/// Header, body and padding of a block with `body_bytes` of body.
pub fn block_bytes(body_bytes: usize) -> usize {
    (BLOCK_HEADER_BYTES + body_bytes).next_multiple_of(ALIGNMENT)
}

/// Writes the header in front of a body that already stands in `block[BLOCK_HEADER_BYTES..]`, zeroes the padding,
/// and returns the block's length and its header checksum. `header`'s own checksums and fixed fields are filled in here.
pub fn finish_block(block: &mut [u8], mut header: BlockHeader, body_bytes: usize) -> (usize, u32) {
    let total = block_bytes(body_bytes);
    assert!(total <= block.len());
    block[BLOCK_HEADER_BYTES + body_bytes..total].fill(0);
    header.magic = BLOCK_MAGIC;
    header.version = U16::new(BLOCK_VERSION);
    header.body_bytes = U32::new(body_bytes as u32);
    header.body_crc = U32::new(crc32fast::hash(&block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + body_bytes]));
    let crc = crc32fast::hash(&header.as_bytes()[BLOCK_HEADER_CRC_FROM..]);
    header.header_crc = U32::new(crc);
    block[..BLOCK_HEADER_BYTES].copy_from_slice(header.as_bytes());
    (total, crc)
}

/// A header with everything zero, for struct update syntax.
pub fn empty_header() -> BlockHeader {
    BlockHeader {
        magic: BLOCK_MAGIC,
        header_crc: U32::new(0),
        version: U16::new(BLOCK_VERSION),
        kind: 0,
        flags: 0,
        epoch: U64::new(0),
        sequence: U64::new(0),
        segment_offset: U64::new(0),
        durable_sequence: U64::new(0),
        first_ordinal: U64::new(0),
        shard: U32::new(0),
        previous_crc: U32::new(0),
        body_bytes: U32::new(0),
        body_crc: U32::new(0),
        batch_count: U32::new(0),
        event_count: U32::new(0),
        segment_number: U64::new(0),
        reserved: [0; 40],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: BlockPlace =
        BlockPlace { shard: 3, segment: SegmentNumber(9), epoch: 77, offset: 8192, segment_bytes: 65536 };

    fn sample() -> Vec<u8> {
        let mut block = vec![0xAA; 8192];
        block[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + 5].copy_from_slice(b"hello");
        let header = BlockHeader {
            kind: BlockKind::Data as u8,
            epoch: U64::new(PLACE.epoch),
            sequence: U64::new(4),
            segment_offset: U64::new(PLACE.offset),
            shard: U32::new(PLACE.shard),
            segment_number: U64::new(PLACE.segment.0),
            ..empty_header()
        };
        let (total, _) = finish_block(&mut block, header, 5);
        block.truncate(total);
        block
    }

    #[test]
    fn a_block_reads_back_and_is_padded_with_zeros() {
        let block = sample();
        assert_eq!(block.len(), ALIGNMENT);
        let (header, kind) = BlockHeader::parse(&block, &PLACE).unwrap();
        assert_eq!(kind, BlockKind::Data);
        assert_eq!(header.sequence(), BlockSequence(4));
        assert_eq!(header.body(&block).unwrap(), b"hello");
        assert!(block[BLOCK_HEADER_BYTES + 5..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn a_block_is_refused_anywhere_but_in_its_own_place_and_life() {
        let block = sample();
        for place in [
            BlockPlace { epoch: 78, ..PLACE },
            BlockPlace { offset: 4096, ..PLACE },
            BlockPlace { segment: SegmentNumber(8), ..PLACE },
            BlockPlace { shard: 2, ..PLACE },
        ] {
            assert_eq!(BlockHeader::parse(&block, &place).unwrap_err(), BlockError::Elsewhere);
        }
        let tight = BlockPlace { segment_bytes: PLACE.offset + 100, ..PLACE };
        assert_eq!(BlockHeader::parse(&block, &tight).unwrap_err(), BlockError::BodyLength(5));
    }

    #[test]
    fn no_flipped_bit_in_header_or_body_goes_unnoticed() {
        let block = sample();
        for bit in 0..(BLOCK_HEADER_BYTES + 5) * 8 {
            let mut changed = block.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let accepted =
                BlockHeader::parse(&changed, &PLACE).and_then(|(header, _)| header.body(&changed).map(|_| ()));
            assert!(accepted.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_empty_page_is_told_from_garbage() {
        assert_eq!(BlockHeader::parse(&[0; 4096], &PLACE).unwrap_err(), BlockError::Zeros);
        assert_eq!(BlockHeader::parse(&[1; 4096], &PLACE).unwrap_err(), BlockError::Magic);
    }
}
