//! When data becomes durable, and how long a batch waits for it.
//!
//! No timer decides: while writes are in flight the next block fills. A block leaves when it is large, or when commits
//! have not used up their share of a busy core. At most `IN_FLIGHT_BLOCKS_MAX` blocks are beyond the durable prefix,
//! counted by sequence, because recovery reads a valid block beyond that window as proof of an acknowledgement.

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use crate::format::block::{
    BLOCK_FLAG_WINDOWED, BLOCK_HEADER_BYTES, BlockHeader, BlockKind, block_bytes, empty_header, finish_block,
};
use crate::format::checkpoint::CHECKPOINT_ENTRY_BYTES;
use crate::ids::{BlockSequence, SegmentNumber};
use crate::io::{Buffer, DiskDone, DiskOp, Persist};
use crate::limits::{IN_FLIGHT_BLOCKS_MAX, WATERMARK_IDLE_US};
use crate::shard::{Ack, AppendError, Now, Output, ReadOnly, Shard};

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The events survive a power cut.
    Commit,
    /// The events are in memory and survive a power cut after at most this long.
    Interval { every_us: u64 },
    /// The events are in memory; the kernel is never asked for a flush.
    Memory,
}

/// How long a commit may be under way before a small one goes out beside it. A guess between a flush on a quiet machine
/// (0.2 ms) and a completion that waits for a busy core's next tick (4 ms).
const COMMIT_BESIDE_US: u64 = 150;

/// Tickets of syncs are apart from those of block writes, which are sequences.
const TICKET_SYNC: u64 = 1 << 55;

/// The block that batches go into. Invariant: the body's `used` bytes stand behind the header's room.
#[derive(Debug)]
pub(super) struct OpenBlock {
    buffer: Buffer,
    used: usize,
    batch_count: u32,
    event_count: u32,
    first_ordinal: u64,
}

impl OpenBlock {
    pub fn used(&self) -> usize {
        self.used
    }

    /// Body bytes that still fit, with the padding kept free.
    pub fn room(&self) -> usize {
        self.buffer.len() - BLOCK_HEADER_BYTES - self.used
    }

    pub fn free_bytes(&mut self) -> &mut [u8] {
        &mut self.buffer[BLOCK_HEADER_BYTES + self.used..]
    }

    pub fn take(&mut self, batch_bytes: usize, event_count: usize) {
        self.used += batch_bytes;
        self.batch_count += 1;
        self.event_count += event_count as u32;
    }
}

/// A block that the disk has not completed, or that waits for one before it.
#[derive(Debug)]
pub(super) struct InFlight {
    sequence: BlockSequence,
    is_done: bool,
    segment: SegmentNumber,
    /// Events of the segment's index once this block may be shown.
    visible_after: usize,
    has_content: bool,
}

/// The syncs of one interval.
#[derive(Debug)]
pub(super) struct SyncInFlight {
    reached: BlockSequence,
    files_left: usize,
}

/// An answer that leaves when a block is durable.
#[derive(Debug)]
pub(super) struct WaitingAck {
    pub sequence: BlockSequence,
    pub ack: Ack,
}

impl WaitingAck {
    /// An answer that no longer depends on the disk.
    pub fn is_settled(&self) -> bool {
        matches!(self.ack.result, Err(AppendError::OutcomeUnknown | AppendError::ReadOnly(_)))
    }
}

impl Shard {
    /// Blocks that may still be submitted before the durable prefix has to move.
    fn window_room(&self) -> u64 {
        let beyond = self.next_sequence.0 - 1 - self.written.0;
        assert!(beyond <= IN_FLIGHT_BLOCKS_MAX);
        IN_FLIGHT_BLOCKS_MAX - beyond
    }

    /// Opens a block that has room for a batch. `false`: no buffer is free.
    pub(super) fn begin_block(&mut self, batch_bytes: usize) -> bool {
        assert!(self.open.is_none());
        let needed = block_bytes(batch_bytes);
        let buffer = if needed <= self.pool.bytes_each() { self.pool.take() } else { Some(Buffer::new(needed)) };
        let Some(buffer) = buffer else { return false };
        self.open =
            Some(OpenBlock { buffer, used: 0, batch_count: 0, event_count: 0, first_ordinal: self.next_ordinal });
        true
    }

    /// Submits the open block if it is due.
    pub(super) fn commit_due(&mut self, now: Now, out: &mut Output) {
        let Some(open) = &self.open else { return };
        let is_large = open.used >= self.config.block_bytes_target / 4;
        if is_large || self.closing || self.commit_due_at_us() <= now.monotonic_us {
            self.submit_open(now, out);
        }
    }

    /// When the open block leaves if it does not grow large before. Flushes queue up at the device: a second commit beside
    /// one that is under way only makes both late, unless the first one takes far longer than a flush does.
    fn commit_due_at_us(&self) -> u64 {
        let beside_us = if self.in_flight.is_empty() { 0 } else { self.submitted_at_us + COMMIT_BESIDE_US };
        self.commit_at_us.max(beside_us)
    }

    /// Submits the open block. `false`: the window is full and the block stays open.
    pub(super) fn submit_open(&mut self, now: Now, out: &mut Output) -> bool {
        if self.window_room() == 0 {
            return false;
        }
        let Some(open) = self.open.take() else { return true };
        let header = BlockHeader {
            kind: BlockKind::Data as u8,
            first_ordinal: U64::new(open.first_ordinal),
            batch_count: U32::new(open.batch_count),
            event_count: U32::new(open.event_count),
            ..empty_header()
        };
        self.submit(header, open.buffer, open.used, out);
        // Commits get their share of a busy core and no more; an idle core commits at once.
        let gap_us = now.commit_cost_us * 1000 / self.config.commit_share_permille;
        let busy = now.busy_permille.saturating_sub(400).min(400);
        self.commit_at_us = now.monotonic_us + gap_us * busy / 400;
        self.submitted_at_us = now.monotonic_us;
        true
    }

    /// Writes the state of the shard as the first block of a segment. The window has room for it.
    pub(super) fn submit_checkpoint(&mut self, out: &mut Output) {
        let body_bytes = self.tenants.len() * CHECKPOINT_ENTRY_BYTES;
        let needed = block_bytes(body_bytes);
        let pooled = if needed <= self.pool.bytes_each() { self.pool.take() } else { None };
        let mut buffer = pooled.unwrap_or_else(|| Buffer::new(needed));
        let body = &mut buffer[BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + body_bytes];
        for (slot, &(tenant, state)) in body.chunks_exact_mut(CHECKPOINT_ENTRY_BYTES).zip(self.tenants.iter()) {
            slot.copy_from_slice(state.to_entry(tenant).as_bytes());
        }
        let header = BlockHeader {
            kind: BlockKind::Checkpoint as u8,
            first_ordinal: U64::new(self.next_ordinal),
            ..empty_header()
        };
        self.submit(header, buffer, body_bytes, out);
    }

    /// Bytes that the next checkpoint block will take.
    pub(super) fn checkpoint_bytes(&self) -> u64 {
        block_bytes((self.tenants.len() + 1) * CHECKPOINT_ENTRY_BYTES) as u64
    }

    /// Room that the window needs for a roll: the open block and the checkpoint behind it.
    pub(super) fn has_room_to_roll(&self) -> bool {
        self.window_room() > u64::from(self.open.is_some())
    }

    fn submit(&mut self, header: BlockHeader, mut buffer: Buffer, body_bytes: usize, out: &mut Output) {
        assert!(self.window_room() > 0);
        assert!(self.latch.is_none());
        let segment = self.segment.as_mut().expect("blocks are submitted into a segment");
        let sequence = self.next_sequence;
        let offset = segment.write_offset;
        let is_windowed = self.config.durability == Durability::Commit;
        let header = BlockHeader {
            flags: if is_windowed { BLOCK_FLAG_WINDOWED } else { 0 },
            epoch: U64::new(segment.file.epoch),
            sequence: U64::new(sequence.0),
            segment_offset: U64::new(offset),
            durable_sequence: U64::new(self.durable.0),
            shard: U32::new(self.config.home.shard.0),
            previous_crc: U32::new(self.last_block_crc),
            segment_number: U64::new(segment.file.number.0),
            ..header
        };
        let has_content = header.kind != BlockKind::Watermark as u8;
        let (bytes, crc) = finish_block(&mut buffer, header, body_bytes);
        assert!(offset + bytes as u64 <= self.config.home.segment_bytes);
        segment.write_offset += bytes as u64;
        self.last_block_crc = crc;
        self.next_sequence = BlockSequence(sequence.0 + 1);
        self.announced = self.announced.max(self.durable);
        if has_content {
            self.last_content = sequence;
        }
        self.quiet_since_us = None;
        self.in_flight.push_back(InFlight {
            sequence,
            is_done: false,
            segment: segment.file.number,
            visible_after: self.active.event_count(),
            has_content,
        });
        self.stats.blocks_submitted += 1;
        self.stats.block_bytes_submitted += bytes as u64;
        let persist = match self.config.durability {
            Durability::Commit => Persist::Durable,
            Durability::Interval { .. } | Durability::Memory => Persist::Written,
        };
        let file = segment.file.file.clone();
        out.disk.push(DiskOp::Write { ticket: sequence.0, file, offset, buffer, bytes, persist });
    }

    pub(super) fn take_disk_done(&mut self, done: DiskDone) {
        if let Some(buffer) = done.buffer {
            self.pool.put(buffer);
        }
        if done.ticket & TICKET_SYNC != 0 {
            let mut sync = self.sync_in_flight.take().expect("a sync is in flight");
            sync.files_left -= 1;
            if done.result.is_err() {
                self.fail_from(BlockSequence(self.durable.0 + 1));
            }
            if sync.files_left > 0 {
                self.sync_in_flight = Some(sync);
            } else if self.latch.is_none() {
                self.durable = self.durable.max(sync.reached);
                self.unsynced.retain(|&(_, last)| last > sync.reached);
            }
            return;
        }
        let sequence = BlockSequence(done.ticket);
        let Some(block) = self.in_flight.iter_mut().find(|block| block.sequence == sequence) else {
            // A block behind one that failed: forgotten when the shard latched.
            assert!(self.latch.is_some());
            return;
        };
        assert!(!block.is_done);
        if done.result.is_err() {
            self.fail_from(sequence);
            return;
        }
        block.is_done = true;
        while self.in_flight.front().is_some_and(|block| block.is_done) {
            let block = self.in_flight.pop_front().expect("front exists");
            assert!(block.sequence.0 == self.written.0 + 1);
            self.written = block.sequence;
            if self.config.durability == Durability::Commit {
                self.durable = block.sequence;
            }
            self.show(block.segment, block.visible_after);
            debug_assert!(!block.has_content || block.sequence <= self.last_content);
        }
    }

    /// A write or sync failed: nothing from `sequence` on is known to be on disk. Latches the shard; recovery decides.
    fn fail_from(&mut self, sequence: BlockSequence) {
        self.latch.get_or_insert(ReadOnly::WriteFailed);
        self.in_flight.retain(|block| block.sequence < sequence);
        self.open = None;
        for waiting in self.waiting.iter_mut().filter(|waiting| waiting.sequence >= sequence) {
            waiting.ack.result = Err(AppendError::OutcomeUnknown);
        }
    }

    /// Latches the shard because slow work failed in a way that time does not heal.
    pub(super) fn latch_write_failed(&mut self) {
        self.fail_from(self.next_sequence);
    }

    fn show(&mut self, segment: SegmentNumber, visible: usize) {
        if self.segment.as_ref().is_some_and(|open| open.file.number == segment) {
            self.active.set_visible(visible);
        } else if let Some(frozen) = self.frozen.iter_mut().find(|frozen| frozen.segment.number == segment) {
            frozen.set_visible(visible);
        }
    }

    /// Once the log has been quiet for a moment, writes an empty block that says how far it is durable: then recovery can
    /// tell damage to the last blocks from a torn tail. `interval` durability syncs here.
    pub(super) fn announce_durable(&mut self, now: Now, out: &mut Output) {
        if let Durability::Interval { every_us } = self.config.durability {
            self.sync_due(every_us, now, out);
        }
        let is_quiet = self.in_flight.is_empty() && self.open.is_none() && self.pending.is_empty();
        if !is_quiet || self.latch.is_some() {
            self.quiet_since_us = None;
            return;
        }
        let since = *self.quiet_since_us.get_or_insert(now.monotonic_us);
        let is_due = self.closing || since + WATERMARK_IDLE_US <= now.monotonic_us;
        if !is_due || !self.has_news() {
            return;
        }
        let Some(segment) = &self.segment else { return };
        if segment.write_offset + block_bytes(0) as u64 > self.config.home.segment_bytes {
            return;
        }
        let Some(buffer) = self.pool.take() else { return };
        let header = BlockHeader {
            kind: BlockKind::Watermark as u8,
            first_ordinal: U64::new(self.next_ordinal),
            ..empty_header()
        };
        self.submit(header, buffer, 0, out);
    }

    /// Whether some durable block with content is not covered by any submitted block's watermark.
    fn has_news(&self) -> bool {
        self.announced < self.last_content && self.last_content <= self.durable
    }

    fn sync_due(&mut self, every_us: u64, now: Now, out: &mut Output) {
        let is_due = self.closing || self.sync_at_us <= now.monotonic_us;
        if self.sync_in_flight.is_some() || self.written <= self.durable || !is_due || self.latch.is_some() {
            return;
        }
        let Some(segment) = &self.segment else { return };
        self.sync_at_us = now.monotonic_us + every_us;
        // Segments rolled out of may hold blocks that completed since the last sync.
        let mut files: Vec<_> = self.unsynced.iter().map(|(file, _)| file.clone()).collect();
        files.push(segment.file.file.clone());
        self.sync_in_flight = Some(SyncInFlight { reached: self.written, files_left: files.len() });
        out.disk.extend(files.into_iter().map(|file| DiskOp::Sync { ticket: TICKET_SYNC, file }));
    }

    /// When the next turn is wanted even if nothing completes.
    pub(super) fn deadline(&self, now: Now) -> Option<u64> {
        let mut deadline = self.full_until_us;
        let mut sooner = |at: u64| deadline = Some(deadline.map_or(at, |known| known.min(at)));
        if self.latch.is_some() {
            return None;
        }
        if self.open.is_some() && self.window_room() > 0 {
            sooner(self.commit_due_at_us());
        }
        if let Durability::Interval { .. } = self.config.durability
            && self.durable < self.written
            && self.sync_in_flight.is_none()
        {
            sooner(self.sync_at_us);
        }
        if let Some(since) = self.quiet_since_us
            && self.has_news()
        {
            sooner((since + WATERMARK_IDLE_US).max(now.monotonic_us + 1));
        }
        if let Some(at) = self.erasure_wants(now) {
            sooner(at);
        }
        deadline
    }
}
