//! Writing a sealed segment again, without the events of tenants that are being erased.
//!
//! ```text
//! before   | header | checkpoint | A B | A | B A | watermark | ...
//! after    | header, rewritten | checkpoint | A A A |              a file of its own, under the same name
//! ```
//! Batches that stay are copied as they are. Must never: replace a segment before every event that stays is in the copy,
//! or change the segment's file.

use std::sync::Arc;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::event::FingerprintKey;
use crate::format::batch::BatchView;
use crate::format::block::{BLOCK_HEADER_BYTES, BlockHeader, BlockKind, block_bytes, empty_header, finish_block};
use crate::format::checkpoint::{CheckpointEntry, checkpoint_entries};
use crate::format::index::IndexIdentity;
use crate::format::scan::{Expected, FoundBlock};
use crate::format::segment::{RewrittenHeader, SEGMENT_BLOCKS_FROM, SegmentHeader};
use crate::ids::{BlockSequence, Micros, Position, Tenant};
use crate::index::active::ActiveIndex;
use crate::index::sealed::{SealedSegment, SegmentFile};
use crate::io::{Disk, DiskError, DiskFile, FileMemory, Fill, Site};
use crate::limits::{ALIGNMENT, BLOCK_BYTES_TARGET};
use crate::shard::jobs::{JobError, ShardHome, publish_index, remove_aside};
use crate::shard::names::{ASIDE_SUFFIX, log_path};
use crate::shard::reader::{SegmentReader, Window};
use crate::shard::restore::restore_batches;

/// What a segment is written again with.
#[derive(Debug)]
pub struct Rewrite {
    pub source: Arc<SealedSegment>,
    /// Whose events are left out, sorted.
    pub erased: Vec<Tenant>,
    /// Of the new file's life.
    pub epoch: u64,
    pub now: Micros,
    pub fingerprint: FingerprintKey,
}

/// Writes the copy under the segment's name and its index behind it. A crash between the two leaves a segment that
/// recovery indexes again.
pub(super) fn rewrite(
    disk: &dyn Disk,
    home: &ShardHome,
    rewrite: &Rewrite,
    memory: &mut FileMemory,
) -> Result<Arc<SealedSegment>, JobError> {
    let number = rewrite.source.segment.number;
    let path = log_path(&home.dir, number);
    let aside = format!("{path}{ASIDE_SUFFIX}");
    remove_aside(disk, &aside)?;
    let copied = copy(disk, home, rewrite, &aside, memory).and_then(|(segment, mut index, identity)| {
        let visible = index.event_count();
        index.set_visible(visible);
        let index_bytes = index.seal(&identity, memory);
        // Before the segment has its name: one that waits for its index keeps the room of both.
        if disk.free_bytes()? < index_bytes.len() as u64 {
            return Err(JobError::Disk(DiskError::NoSpace));
        }
        Ok((segment, index_bytes))
    });
    let (segment, index_bytes) = copied.inspect_err(|_| {
        // The room that it took is what the disk lacks.
        let _ = disk.remove(&aside);
    })?;
    disk.rename(&aside, &path)?;
    disk.sync_dir(&home.dir, Site::RewriteDir)?;
    publish_index(disk, home, Arc::new(segment), index_bytes)
}

/// The copy, durable under its name aside.
fn copy(
    disk: &dyn Disk,
    home: &ShardHome,
    rewrite: &Rewrite,
    aside: &str,
    memory: &mut FileMemory,
) -> Result<(SegmentFile, ActiveIndex, IndexIdentity), JobError> {
    let source = &rewrite.source;
    let before = source.resident.identity();
    // The rest of the file comes with the blocks: how much stays is not known.
    let file = disk.create(aside, ALIGNMENT as u64, Fill::Allocate)?;
    let mut copy = Copy {
        disk,
        home,
        rewrite,
        before,
        file,
        memory,
        index: ActiveIndex::new(kept_events(rewrite)),
        offset: SEGMENT_BLOCKS_FROM,
        sequence: before.first_sequence,
        previous_crc: 0,
        block: vec![0; BLOCK_HEADER_BYTES],
        first_ordinal: 0,
        batch_count: 0,
        event_count: 0,
    };
    let mut window = Window::new(source.segment.bytes);
    let mut reader = SegmentReader::new(disk, home, &source.segment, &mut window);
    let mut offset = SEGMENT_BLOCKS_FROM;
    let mut expected = Expected { sequence: BlockSequence(before.first_sequence), previous_crc: None };
    // A segment that was rewritten before ends with its file, and with fewer blocks than it had.
    while expected.sequence.0 <= before.last_sequence && offset < source.segment.bytes {
        let view = reader.view(offset).map_err(|_| JobError::Source)?;
        let block = view.expected_at(offset, &expected).map_err(|_| JobError::Source)?;
        copy.take(&block)?;
        offset += block.header.block_bytes();
        expected = Expected {
            sequence: BlockSequence(expected.sequence.0 + 1),
            previous_crc: Some(block.header.header_crc.get()),
        };
    }
    copy.flush(BlockKind::Data)?;
    copy.finish()
}

/// Events that stay, as the index of the segment tells.
fn kept_events(rewrite: &Rewrite) -> usize {
    let resident = &rewrite.source.resident;
    let left_out = rewrite.erased.iter().filter_map(|&tenant| resident.tenant(tenant));
    resident.event_count() as usize - left_out.map(|entry| entry.event_count.get() as usize).sum::<usize>()
}

/// A copy under way. Invariant: `block` begins with the room for its header; the new blocks are no more than those taken.
struct Copy<'a> {
    disk: &'a dyn Disk,
    home: &'a ShardHome,
    rewrite: &'a Rewrite,
    before: IndexIdentity,
    file: DiskFile,
    /// For what is being written: past the page cache.
    memory: &'a mut FileMemory,
    index: ActiveIndex,
    /// Where the next block goes, and its place in the chain.
    offset: u64,
    sequence: u64,
    previous_crc: u32,
    /// The next block's body so far, and what its header will say of it.
    block: Vec<u8>,
    first_ordinal: u64,
    batch_count: u32,
    event_count: u32,
}

impl Copy<'_> {
    fn is_erased(&self, tenant: Tenant) -> bool {
        self.rewrite.erased.binary_search(&tenant).is_ok()
    }

    fn take(&mut self, block: &FoundBlock<'_>) -> Result<(), JobError> {
        let is_first = block.offset == SEGMENT_BLOCKS_FROM;
        match block.kind {
            BlockKind::Checkpoint if is_first => self.take_checkpoint(block),
            // Every segment begins with one, and has no other.
            _ if is_first => Err(JobError::Source),
            BlockKind::Checkpoint => Err(JobError::Source),
            BlockKind::Data => self.take_batches(block),
            BlockKind::Watermark => Ok(()),
        }
    }

    fn take_checkpoint(&mut self, block: &FoundBlock<'_>) -> Result<(), JobError> {
        let entries = checkpoint_entries(block.body).ok_or(JobError::Source)?;
        let kept = entries.iter().filter(|entry: &&CheckpointEntry| !self.is_erased(Tenant(entry.tenant.get())));
        let body: Vec<u8> = kept.flat_map(|entry| entry.as_bytes().iter().copied()).collect();
        self.block.extend_from_slice(&body);
        self.first_ordinal = block.header.first_ordinal.get();
        self.previous_crc = block.header.previous_crc.get();
        self.flush(BlockKind::Checkpoint)
    }

    /// What stays of a block stays together, so that the new blocks are not more than the old ones.
    fn take_batches(&mut self, block: &FoundBlock<'_>) -> Result<(), JobError> {
        let mut kept = Vec::new();
        let mut at = 0;
        while at < block.body.len() {
            let view = BatchView::parse(&block.body[at..]).map_err(|_| JobError::Source)?;
            let end = at + view.batch_bytes();
            let batch = block.body.get(at..end).ok_or(JobError::Source)?;
            if !self.is_erased(view.tenant()) {
                kept.push((batch, view.event_count() as u32));
            }
            at = end;
        }
        let kept_bytes: usize = kept.iter().map(|(batch, _)| batch.len()).sum();
        if BLOCK_BYTES_TARGET < block_bytes(self.block.len() - BLOCK_HEADER_BYTES + kept_bytes) {
            self.flush(BlockKind::Data)?;
        }
        if self.batch_count == 0 {
            self.first_ordinal = block.header.first_ordinal.get();
        }
        for (batch, event_count) in kept {
            self.block.extend_from_slice(batch);
            self.batch_count += 1;
            self.event_count += event_count;
        }
        Ok(())
    }

    /// Writes the block that is full, and indexes what is in it.
    fn flush(&mut self, kind: BlockKind) -> Result<(), JobError> {
        let body_bytes = self.block.len() - BLOCK_HEADER_BYTES;
        if kind == BlockKind::Data {
            if body_bytes == 0 {
                return Ok(());
            }
            let body = &self.block[BLOCK_HEADER_BYTES..];
            for restored in restore_batches(body, self.rewrite.fingerprint).map_err(|_| JobError::Source)? {
                restored.add_to(&mut self.index, self.offset);
            }
        }
        assert!(self.sequence <= self.before.last_sequence);
        self.block.resize(block_bytes(body_bytes), 0);
        let header = BlockHeader {
            kind: kind as u8,
            epoch: U64::new(self.rewrite.epoch),
            sequence: U64::new(self.sequence),
            segment_offset: U64::new(self.offset),
            // Sealed: all of it is durable.
            durable_sequence: U64::new(self.before.last_sequence),
            first_ordinal: U64::new(self.first_ordinal),
            shard: U32::new(self.home.shard.0),
            previous_crc: U32::new(self.previous_crc),
            batch_count: U32::new(std::mem::take(&mut self.batch_count)),
            event_count: U32::new(std::mem::take(&mut self.event_count)),
            segment_number: U64::new(self.before.segment_number),
            ..empty_header()
        };
        let (bytes, crc) = finish_block(&mut self.block, header, body_bytes);
        let written = self.memory.take(bytes);
        written.copy_from_slice(&self.block[..bytes]);
        self.disk.write(&self.file, self.offset, written)?;
        self.offset += bytes as u64;
        self.sequence += 1;
        self.previous_crc = crc;
        self.block.truncate(BLOCK_HEADER_BYTES);
        Ok(())
    }

    /// Checks that everything that stays is there, and makes the copy durable.
    fn finish(self) -> Result<(SegmentFile, ActiveIndex, IndexIdentity), JobError> {
        for entry in self.rewrite.source.resident.tenants() {
            let tenant = Tenant(entry.tenant.get());
            let first = entry.first_position.get();
            let all = (Position(first), Position(first + u64::from(entry.event_count.get())));
            let right = if self.is_erased(tenant) { None } else { Some(all) };
            if self.index.has_gap() || self.index.tenant_positions(tenant) != right {
                return Err(JobError::Source);
            }
        }
        let Copy { disk, home, rewrite, before, file, index, offset, .. } = self;
        let number = rewrite.source.segment.number;
        let header =
            SegmentHeader::new(home.shard.0, number, rewrite.epoch, home.segment_bytes, rewrite.now.0, home.instance);
        let rewritten = RewrittenHeader::new(offset, before.last_sequence, before.next_ordinal, before.last_block_crc);
        disk.write(&file, 0, &header.to_rewritten_page(rewritten))?;
        disk.sync(&file, Site::RewriteFile)?;
        if disk.file_bytes(&file)? != offset {
            return Err(JobError::Disk(DiskError::ShortTransfer));
        }
        let identity =
            IndexIdentity { epoch: rewrite.epoch, has_key_run: !index.idempotency_keys().is_empty(), ..before };
        Ok((SegmentFile { number, epoch: rewrite.epoch, file, bytes: offset }, index, identity))
    }
}
