//! The first 4096 bytes of a segment: which one it is, and which life of the file this is.
//!
//! ```text
//! | SegmentHeader 80 | RewrittenHeader 48, if the flag says so | zeros to 4096 | blocks
//! ```

use zerocopy::little_endian::{I64, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::SegmentNumber;
use crate::limits::ALIGNMENT;

pub const SEGMENT_MAGIC: [u8; 8] = *b"RLSEGMT1";
pub const SEGMENT_VERSION: u16 = 1;
pub const SEGMENT_HEADER_BYTES: usize = 80;
/// The segment was written again without the events of erased tenants: a `RewrittenHeader` follows.
pub const SEGMENT_FLAG_REWRITTEN: u16 = 0b0000_0001;
pub const REWRITTEN_HEADER_BYTES: usize = 48;
/// Where the checksummed part of the rewritten header begins.
pub const REWRITTEN_HEADER_CRC_FROM: usize = 4;
/// Blocks begin here.
pub const SEGMENT_BLOCKS_FROM: u64 = ALIGNMENT as u64;
/// Where the checksummed part of the header begins.
pub const SEGMENT_HEADER_CRC_FROM: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SegmentHeader {
    pub magic: [u8; 8],
    /// Over the rest of the header.
    pub header_crc: U32,
    pub version: U16,
    pub flags: U16,
    pub shard: U32,
    pub reserved: U32,
    pub number: U64,
    /// Random, new each time the file is taken from the pool. It never leaves the data directory.
    pub epoch: U64,
    pub segment_bytes: U64,
    pub created_at: I64,
    /// The data directory's instance, from its superblock.
    pub instance: [u8; 16],
    pub reserved_instance: U64,
}

const _: () = assert!(size_of::<SegmentHeader>() == SEGMENT_HEADER_BYTES);

/// Where the blocks of a rewritten segment end, and how the log goes on behind it: as behind the blocks that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RewrittenHeader {
    /// Over the rest of this header.
    pub crc: U32,
    /// `header_crc` of the segment's last block before it was rewritten.
    pub last_block_crc: U32,
    /// The end of the last block, and of the file.
    pub blocks_to: U64,
    /// Sequence of the segment's last block before it was rewritten.
    pub last_sequence: U64,
    /// Ordinal that the event after the segment's last one gets.
    pub next_ordinal: U64,
    pub reserved: [u8; 16],
}

const _: () = assert!(size_of::<RewrittenHeader>() == REWRITTEN_HEADER_BYTES);

/// Why a segment's first page cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentError {
    Short,
    Magic,
    Crc,
    Version(u16),
    UnknownFlags(u16),
    /// Another shard's, another number than the file's name, or from another data directory.
    Elsewhere,
    Size(u64),
}

impl SegmentHeader {
    pub fn new(
        shard: u32,
        number: SegmentNumber,
        epoch: u64,
        segment_bytes: u64,
        created_at: i64,
        instance: [u8; 16],
    ) -> SegmentHeader {
        let mut header = SegmentHeader {
            magic: SEGMENT_MAGIC,
            header_crc: U32::new(0),
            version: U16::new(SEGMENT_VERSION),
            flags: U16::new(0),
            shard: U32::new(shard),
            reserved: U32::new(0),
            number: U64::new(number.0),
            epoch: U64::new(epoch),
            segment_bytes: U64::new(segment_bytes),
            created_at: I64::new(created_at),
            instance,
            reserved_instance: U64::new(0),
        };
        header.header_crc = U32::new(crc32fast::hash(&header.as_bytes()[SEGMENT_HEADER_CRC_FROM..]));
        header
    }

    /// The header as a whole page.
    pub fn to_page(self) -> Vec<u8> {
        let mut page = vec![0; ALIGNMENT];
        page[..SEGMENT_HEADER_BYTES].copy_from_slice(self.as_bytes());
        page
    }

    /// The header of a rewritten segment as a whole page.
    pub fn to_rewritten_page(mut self, rewritten: RewrittenHeader) -> Vec<u8> {
        self.flags = U16::new(SEGMENT_FLAG_REWRITTEN);
        self.header_crc = U32::new(crc32fast::hash(&self.as_bytes()[SEGMENT_HEADER_CRC_FROM..]));
        let mut page = self.to_page();
        page[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + REWRITTEN_HEADER_BYTES].copy_from_slice(rewritten.as_bytes());
        page
    }

    pub fn is_rewritten(&self) -> bool {
        self.flags.get() & SEGMENT_FLAG_REWRITTEN != 0
    }

    pub fn parse(
        page: &[u8],
        shard: u32,
        number: SegmentNumber,
        file_bytes: u64,
        instance: [u8; 16],
    ) -> Result<SegmentHeader, SegmentError> {
        let (header, _) = SegmentHeader::read_from_prefix(page).map_err(|_| SegmentError::Short)?;
        if header.magic != SEGMENT_MAGIC {
            return Err(SegmentError::Magic);
        }
        if crc32fast::hash(&page[SEGMENT_HEADER_CRC_FROM..SEGMENT_HEADER_BYTES]) != header.header_crc.get() {
            return Err(SegmentError::Crc);
        }
        if header.version.get() != SEGMENT_VERSION {
            return Err(SegmentError::Version(header.version.get()));
        }
        if header.flags.get() & !SEGMENT_FLAG_REWRITTEN != 0 {
            return Err(SegmentError::UnknownFlags(header.flags.get()));
        }
        if header.shard.get() != shard || header.number.get() != number.0 || header.instance != instance {
            return Err(SegmentError::Elsewhere);
        }
        let segment_bytes = header.segment_bytes.get();
        let ends_at = match header.is_rewritten() {
            true => RewrittenHeader::parse(page)?.blocks_to.get(),
            false => segment_bytes,
        };
        let is_aligned = segment_bytes.is_multiple_of(ALIGNMENT as u64) && ends_at.is_multiple_of(ALIGNMENT as u64);
        if ends_at != file_bytes || segment_bytes < ends_at || !is_aligned {
            return Err(SegmentError::Size(segment_bytes));
        }
        Ok(header)
    }
}

impl RewrittenHeader {
    pub fn new(blocks_to: u64, last_sequence: u64, next_ordinal: u64, last_block_crc: u32) -> RewrittenHeader {
        let mut header = RewrittenHeader {
            crc: U32::new(0),
            last_block_crc: U32::new(last_block_crc),
            blocks_to: U64::new(blocks_to),
            last_sequence: U64::new(last_sequence),
            next_ordinal: U64::new(next_ordinal),
            reserved: [0; 16],
        };
        header.crc = U32::new(crc32fast::hash(&header.as_bytes()[REWRITTEN_HEADER_CRC_FROM..]));
        header
    }

    /// Reads the header from the first page of a segment that is flagged as rewritten.
    pub fn parse(page: &[u8]) -> Result<RewrittenHeader, SegmentError> {
        let behind = page.get(SEGMENT_HEADER_BYTES..).ok_or(SegmentError::Short)?;
        let (header, _) = RewrittenHeader::read_from_prefix(behind).map_err(|_| SegmentError::Short)?;
        if crc32fast::hash(&header.as_bytes()[REWRITTEN_HEADER_CRC_FROM..]) != header.crc.get() {
            return Err(SegmentError::Crc);
        }
        // The log goes on behind the segment: its last block has a successor.
        if header.blocks_to.get() < SEGMENT_BLOCKS_FROM || header.last_sequence.get() == u64::MAX {
            return Err(SegmentError::Size(header.blocks_to.get()));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_header_reads_back_only_as_itself() {
        let header = SegmentHeader::new(1, SegmentNumber(7), 99, 65536, 5, [3; 16]);
        let page = header.to_page();
        assert_eq!(SegmentHeader::parse(&page, 1, SegmentNumber(7), 65536, [3; 16]), Ok(header));
        assert_eq!(SegmentHeader::parse(&page, 2, SegmentNumber(7), 65536, [3; 16]), Err(SegmentError::Elsewhere));
        assert_eq!(SegmentHeader::parse(&page, 1, SegmentNumber(8), 65536, [3; 16]), Err(SegmentError::Elsewhere));
        assert_eq!(SegmentHeader::parse(&page, 1, SegmentNumber(7), 65536, [4; 16]), Err(SegmentError::Elsewhere));
        assert_eq!(SegmentHeader::parse(&page, 1, SegmentNumber(7), 4096, [3; 16]), Err(SegmentError::Size(65536)));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut changed = page.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::parse(&changed, 1, SegmentNumber(7), 65536, [3; 16]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_rewritten_segment_says_where_it_ends_and_how_the_log_goes_on() {
        let rewritten = RewrittenHeader::new(8192, 12, 900, 0xC4C4);
        let header = SegmentHeader::new(1, SegmentNumber(7), 99, 65536, 5, [3; 16]);
        let page = header.to_rewritten_page(rewritten);
        let parse = |page: &[u8], bytes| SegmentHeader::parse(page, 1, SegmentNumber(7), bytes, [3; 16]);
        assert!(parse(&page, 8192).unwrap().is_rewritten());
        assert_eq!(RewrittenHeader::parse(&page), Ok(rewritten));
        assert_eq!(parse(&page, 65536), Err(SegmentError::Size(65536)));
        assert_eq!(parse(&header.to_page(), 8192), Err(SegmentError::Size(65536)));
        for bit in 0..(SEGMENT_HEADER_BYTES + REWRITTEN_HEADER_BYTES) * 8 {
            let mut changed = page.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&changed, 8192).is_err(), "bit {bit}");
        }
        let too_long = header.to_rewritten_page(RewrittenHeader::new(1 << 20, 12, 900, 0));
        assert_eq!(parse(&too_long, 1 << 20), Err(SegmentError::Size(65536)));
    }
}
