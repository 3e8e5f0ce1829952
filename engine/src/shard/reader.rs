//! Reading a segment while a shard is opened: through one window that slides, because touching fresh memory costs more
//! than reading into it, and a segment may be as large as all the memory that opening should take.
//!
//! Must never: believe anything that `format::scan` has not checked.

use crate::format::block::{BLOCK_FLAG_WINDOWED, BlockHeader};
use crate::format::scan::{SegmentBytes, bears_mark};
use crate::ids::BlockSequence;
use crate::index::sealed::SegmentFile;
use crate::io::{Buffer, Disk, DiskError};
use crate::limits::{ALIGNMENT, BLOCK_BYTES_MAX};
use crate::shard::jobs::ShardHome;

/// The largest block, and enough behind it that sliding is rare.
const WINDOW_BYTES: usize = BLOCK_BYTES_MAX + (2 << 20);

/// The memory that segments are read through, one after another.
pub(super) struct Window(Buffer);

impl Window {
    pub fn new(segment_bytes: u64) -> Window {
        Window(Buffer::new((WINDOW_BYTES as u64).min(segment_bytes) as usize))
    }
}

/// A segment and the part of it that is in memory.
pub(super) struct SegmentReader<'a> {
    disk: &'a dyn Disk,
    home: &'a ShardHome,
    segment: &'a SegmentFile,
    window: &'a mut Buffer,
    base: u64,
    filled: usize,
}

/// A whole block of this life, as a survey saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenBlock {
    pub offset: u64,
    pub sequence: BlockSequence,
    pub durable_sequence: BlockSequence,
    pub previous_crc: u32,
    pub is_windowed: bool,
}

/// What lies in a segment from some offset on.
#[derive(Debug)]
pub(super) struct Survey {
    pub blocks: Vec<SeenBlock>,
    pub reach: Reach,
}

/// How far what lies in a segment reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reach {
    /// The end of the last page that bears a mark of this life, or of the block that it claims to be.
    pub marked_until: u64,
    /// The end of the last page that is not zeros: torn blocks have pages without a mark, and so have earlier lives.
    pub dirty_until: u64,
}

impl Reach {
    /// Nothing lies behind `offset`.
    pub fn to(offset: u64) -> Reach {
        Reach { marked_until: offset, dirty_until: offset }
    }
}

const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];

impl<'a> SegmentReader<'a> {
    pub fn new(
        disk: &'a dyn Disk,
        home: &'a ShardHome,
        segment: &'a SegmentFile,
        window: &'a mut Window,
    ) -> SegmentReader<'a> {
        SegmentReader { disk, home, segment, window: &mut window.0, base: 0, filled: 0 }
    }

    pub fn segment_bytes(&self) -> u64 {
        self.segment.bytes
    }

    /// A view that holds the block at `offset` whole, if there is one.
    pub fn view(&mut self, offset: u64) -> Result<SegmentBytes<'_>, DiskError> {
        if offset + ALIGNMENT as u64 <= self.segment.bytes {
            self.cover(offset, ALIGNMENT as u64)?;
            let claimed = self.claimed_at(offset);
            self.cover(offset, claimed)?;
        }
        Ok(self.bytes())
    }

    /// Every whole block of this life at or behind `from`, and how far what lies there reaches.
    pub fn survey(&mut self, from: u64) -> Result<Survey, DiskError> {
        let mut survey = Survey { blocks: Vec::new(), reach: Reach::to(from) };
        let mut at = from;
        while at + ALIGNMENT as u64 <= self.segment.bytes {
            self.cover(at, ALIGNMENT as u64)?;
            let in_window = &self.window[(at - self.base) as usize..self.filled];
            let skipped_from = at;
            for page in in_window.chunks_exact(ALIGNMENT).take_while(|page| !bears_mark(page, self.segment.epoch)) {
                at += ALIGNMENT as u64;
                if *page != ZEROS {
                    survey.reach.dirty_until = at;
                }
            }
            if skipped_from < at {
                continue;
            }
            let claimed = self.claimed_at(at);
            survey.reach.marked_until = survey.reach.marked_until.max(at + claimed);
            survey.reach.dirty_until = survey.reach.dirty_until.max(at + claimed);
            self.cover(at, claimed)?;
            at += match self.bytes().block_at(at) {
                Ok(block) => {
                    survey.blocks.push(SeenBlock {
                        offset: at,
                        sequence: block.header.sequence(),
                        durable_sequence: BlockSequence(block.header.durable_sequence.get()),
                        previous_crc: block.header.previous_crc.get(),
                        is_windowed: block.header.flags & BLOCK_FLAG_WINDOWED != 0,
                    });
                    block.header.block_bytes()
                }
                Err(_) => ALIGNMENT as u64,
            };
        }
        Ok(survey)
    }

    /// How long the block at `offset` says it is, if its header is whole and in its place; else a page.
    fn claimed_at(&self, offset: u64) -> u64 {
        let page = &self.window[(offset - self.base) as usize..self.filled];
        let header = BlockHeader::parse(page, &self.bytes().place(offset));
        header.map_or(ALIGNMENT as u64, |(header, _)| header.block_bytes())
    }

    fn bytes(&self) -> SegmentBytes<'_> {
        SegmentBytes {
            shard: self.home.shard.0,
            number: self.segment.number,
            epoch: self.segment.epoch,
            segment_bytes: self.segment.bytes,
            base: self.base,
            bytes: &self.window[..self.filled],
        }
    }

    /// Slides the window so that it holds `bytes` from `offset` on.
    fn cover(&mut self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        if self.base <= offset && offset + bytes <= self.base + self.filled as u64 {
            return Ok(());
        }
        let wanted = (self.segment.bytes - offset).min(self.window.len() as u64) as usize;
        let read = self.disk.read(&self.segment.file, offset, &mut self.window[..wanted])?;
        if read < wanted {
            return Err(DiskError::ShortTransfer);
        }
        self.base = offset;
        self.filled = wanted;
        Ok(())
    }
}
