//! Reading a segment's blocks back, and saying why the log ended where it did.
//!
//! Trusts nothing: magic, place, epoch, checksums, sequence and the chain of header checksums, each before the next.
//! After a bad block it looks on at every 4096 bytes: what is found there tells a torn tail from damage.

use crate::format::block::{BlockError, BlockHeader, BlockKind, BlockPlace};
use crate::ids::{BlockSequence, SegmentNumber};
use crate::limits::ALIGNMENT;

/// Why a run of valid blocks ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogEnd {
    /// Nothing was written here in this life of the segment.
    Empty,
    /// The segment has no room for another block.
    Full,
    /// Something is here that is not the block that belongs here.
    Bad(BlockError),
    /// A valid block of this life, but not the next one.
    Sequence { found: BlockSequence },
    /// The next block by number, but it does not follow the block before it.
    Chain,
}

/// Where a scan is, and what the next block must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    pub sequence: BlockSequence,
    /// `None`: the block before is not known, any chain is accepted.
    pub previous_crc: Option<u32>,
}

/// A block that is whole and in its place.
#[derive(Debug, Clone, Copy)]
pub struct FoundBlock<'a> {
    pub header: BlockHeader,
    pub kind: BlockKind,
    pub offset: u64,
    pub body: &'a [u8],
}

/// A part of a segment in memory, to be scanned. Behind its end nothing is found.
#[derive(Debug, Clone, Copy)]
pub struct SegmentBytes<'a> {
    pub shard: u32,
    pub number: SegmentNumber,
    pub epoch: u64,
    pub segment_bytes: u64,
    /// Where in the segment `bytes` begins.
    pub base: u64,
    pub bytes: &'a [u8],
}

impl<'a> SegmentBytes<'a> {
    /// What must be true of a block at `offset`.
    pub fn place(&self, offset: u64) -> BlockPlace {
        BlockPlace {
            shard: self.shard,
            segment: self.number,
            epoch: self.epoch,
            offset,
            segment_bytes: self.segment_bytes,
        }
    }

    /// The block at `offset`, whichever it is.
    pub fn block_at(&self, offset: u64) -> Result<FoundBlock<'a>, BlockError> {
        let page = self.from(offset);
        let (header, kind) = BlockHeader::parse(page, &self.place(offset))?;
        let body = header.body(page)?;
        Ok(FoundBlock { header, kind, offset, body })
    }

    /// The block at `offset` if it is the expected one.
    pub fn expected_at(&self, offset: u64, expected: &Expected) -> Result<FoundBlock<'a>, LogEnd> {
        if offset + ALIGNMENT as u64 > self.segment_bytes {
            return Err(LogEnd::Full);
        }
        if self.from(offset).len() < ALIGNMENT {
            return Err(LogEnd::Empty);
        }
        let block = match self.block_at(offset) {
            Ok(block) => block,
            // What an earlier life of the file left behind is as good as nothing.
            Err(BlockError::Zeros) => return Err(LogEnd::Empty),
            Err(BlockError::Elsewhere) if !self.is_this_life(offset) => return Err(LogEnd::Empty),
            Err(error) => return Err(LogEnd::Bad(error)),
        };
        if block.header.sequence() != expected.sequence {
            return Err(LogEnd::Sequence { found: block.header.sequence() });
        }
        if expected.previous_crc.is_some_and(|crc| crc != block.header.previous_crc.get()) {
            return Err(LogEnd::Chain);
        }
        Ok(block)
    }

    /// Every whole block of this life at or behind `offset`, in order of place.
    pub fn blocks_from(&self, offset: u64) -> Vec<FoundBlock<'a>> {
        let mut found = Vec::new();
        let mut at = offset;
        while self.from(at).len() >= ALIGNMENT {
            at += match self.block_at(at) {
                Ok(block) => {
                    found.push(block);
                    block.header.block_bytes()
                }
                Err(_) => ALIGNMENT as u64,
            };
        }
        found
    }

    fn from(&self, offset: u64) -> &'a [u8] {
        let start = offset.checked_sub(self.base).and_then(|start| usize::try_from(start).ok());
        start.and_then(|start| self.bytes.get(start..)).unwrap_or_default()
    }

    /// Whether a page begins like a block of this life, whole or torn.
    fn is_this_life(&self, offset: u64) -> bool {
        bears_mark(self.from(offset), self.epoch)
    }
}

/// Whether a page begins with a block's magic and this epoch.
pub fn bears_mark(page: &[u8], epoch: u64) -> bool {
    const EPOCH_AT: usize = std::mem::offset_of!(BlockHeader, epoch);
    page[..8] == crate::format::block::BLOCK_MAGIC && page[EPOCH_AT..EPOCH_AT + 8] == epoch.to_le_bytes()
}
