//! What is refused, and what positions and versions an accepted batch gets.
//!
//! Must never: leave a trace of a refused batch in the index, or let a batch span two blocks.

use crate::event::NO_EXPECTED_VERSION;
use crate::format::batch::{BatchHead, encode_batch, head_bytes};
use crate::format::block::{BLOCK_HEADER_BYTES, block_bytes};
use crate::format::key_run::KeyEntry;
use crate::ids::{BlockSequence, Position, Version};
use crate::limits::{POSITION_MAX, SHARD_TENANTS_MAX};
use crate::shard::commit::{Durability, WaitingAck};
use crate::shard::keys::answer_replay;
use crate::shard::tenants::TenantState;
use crate::shard::{Ack, AppendError, Appended, Now, Output, Pending, Shard};

/// Whether a batch can be placed now.
enum Place {
    Ready,
    /// Something must complete first.
    Later,
    Never(AppendError),
    /// Never: what was appended before it says what its answer is.
    Answered(Result<Appended, AppendError>),
}

impl Shard {
    /// Admits pending batches in order until one has to wait. Behind one that found the storage full none is admitted in the
    /// same pass, however small it is: a sender that keeps its order sends it and all that follow it again.
    pub(super) fn admit_pending(&mut self, now: Now, out: &mut Output) {
        let mut is_full = false;
        while let Some(mut pending) = self.pending.pop_front() {
            if let Some(reason) = self.latch {
                self.answer_refused(pending, AppendError::ReadOnly(reason), out);
                continue;
            }
            if is_full {
                self.answer_refused(pending, AppendError::StorageFull, out);
                continue;
            }
            match self.make_place(&mut pending, now, out) {
                Place::Ready => self.admit(pending, now, out),
                Place::Never(error) => {
                    is_full = error == AppendError::StorageFull;
                    self.answer_refused(pending, error, out);
                }
                Place::Answered(result) => self.answer_behind_appended(pending, result, out),
                Place::Later => {
                    self.pending.push_front(pending);
                    return;
                }
            }
        }
    }

    /// Makes sure that the open block, its segment and the index can take the batch.
    fn make_place(&mut self, pending: &mut Pending, now: Now, out: &mut Output) -> Place {
        let tenant = pending.batch.tenant();
        if self.erasure.refuses(tenant) {
            return Place::Never(AppendError::TenantErased);
        }
        let event_count = pending.batch.event_count();
        let records_bytes = pending.batch.records().len();
        let batch_bytes = head_bytes(event_count) + records_bytes;
        let known = self.tenants.get(tenant).copied();
        // Before anything may refuse it: what was stored once is answered, however full everything is by now.
        if let Some(idempotency) = pending.batch.idempotency()
            && let Some(state) = &known
            && let Some(original) = self.keys.find(tenant, &idempotency.key, state.received_at(now.wall))
        {
            let answer = answer_replay(&mut pending.batch, idempotency, original);
            self.stats.batches_replayed += u64::from(answer.is_ok());
            return Place::Answered(answer);
        }
        if known.is_none() && self.is_full_of_tenants() {
            return Place::Never(AppendError::TenantLimit);
        }
        // Behind every block with content there is room for the one that says how far the log is durable: a segment that
        // ended exactly full could not say it, and its last block could not be told from a torn tail.
        let watermark_bytes = block_bytes(0);
        let front = crate::format::segment::SEGMENT_BLOCKS_FROM + self.checkpoint_bytes();
        let largest = self.config.home.segment_bytes.saturating_sub(front);
        if (block_bytes(batch_bytes) + watermark_bytes) as u64 > largest
            || event_count > self.config.segment_events_max()
        {
            return Place::Never(AppendError::TooLarge);
        }
        let state = known.unwrap_or(TenantState::EMPTY);
        if state.next_position.0 + event_count as u64 > POSITION_MAX {
            return Place::Never(AppendError::TenantLimit);
        }
        // Before a block or a segment is begun for it: a tenant at its limit costs the disk nothing.
        let limits = self.limits(tenant);
        if let Err(error) = limits.check(&state, now.wall, event_count as u64, records_bytes as u64) {
            return Place::Answered(Err(error));
        }
        loop {
            let Some(segment) = &self.segment else {
                match self.place_after_roll(now, out) {
                    Place::Ready => continue,
                    other => return other,
                }
            };
            let used = self.open.as_ref().map_or(0, |open| open.used());
            let needed = block_bytes(used + batch_bytes) + watermark_bytes;
            let fits_segment = segment.write_offset + needed as u64 <= self.config.home.segment_bytes;
            let fits_index = self.active.event_count() + event_count <= self.config.segment_events_max()
                && self.active.entity_count() + event_count <= self.config.segment_events_max();
            if !fits_index || (!fits_segment && used == 0) {
                match self.place_after_roll(now, out) {
                    Place::Ready => continue,
                    other => return other,
                }
            }
            match &self.open {
                Some(open) if fits_segment && open.room() >= batch_bytes => return Place::Ready,
                Some(_) => {
                    if !self.submit_open(now, out) {
                        return Place::Later;
                    }
                }
                None => {
                    return if self.begin_block(batch_bytes) { Place::Ready } else { Place::Later };
                }
            }
        }
    }

    /// Whether one tenant more is too many: their checkpoint opens every segment, and must leave half of it for events.
    fn is_full_of_tenants(&self) -> bool {
        self.tenants.len() >= SHARD_TENANTS_MAX || self.checkpoint_bytes() > self.config.home.segment_bytes / 2
    }

    fn place_after_roll(&mut self, now: Now, out: &mut Output) -> Place {
        if self.roll(now, out) {
            Place::Ready
        } else if self.full_until_us.is_some() && self.in_flight.is_empty() && self.open.is_none() {
            Place::Never(AppendError::StorageFull)
        } else {
            Place::Later
        }
    }

    fn admit(&mut self, mut pending: Pending, now: Now, out: &mut Output) {
        if let Err(conflict) = self.take_versions(&mut pending.batch) {
            self.answer_behind_appended(pending, Err(conflict), out);
            return;
        }
        let Pending { ticket, batch } = pending;
        self.pending_bytes -= batch.records().len();
        let tenant = batch.tenant();
        let mut state = self.tenants.get(tenant).copied().unwrap_or(TenantState::EMPTY);
        let received_at = state.received_at(now.wall);
        let first_position = state.next_position;
        let segment_offset = self.segment.as_ref().expect("make_place found a segment").write_offset;
        let open = self.open.as_mut().expect("make_place opened a block");
        let batch_offset = segment_offset as usize + BLOCK_HEADER_BYTES + open.used();
        let batch_bytes = encode_batch(
            open.free_bytes(),
            &BatchHead {
                tenant,
                source: batch.source() as u8,
                idempotency: batch.idempotency(),
                first_position,
                received_at,
            },
            batch.keys.iter().map(|key| key.version),
            batch.records(),
        );
        open.take(batch_bytes, batch.event_count());
        self.active.append(&batch, &self.entity_numbers, batch_offset as u32, first_position, received_at);
        state.take(first_position, received_at, batch.event_count() as u64, batch.records().len() as u64);
        self.tenants.set(tenant, state);
        if let Some(idempotency) = batch.idempotency() {
            self.keys.insert(KeyEntry::new(&batch, idempotency, first_position, received_at));
        }
        self.next_ordinal += batch.event_count() as u64;
        self.stats.batches_appended += 1;
        self.stats.events_appended += batch.event_count() as u64;
        let ack = Ack { ticket, batch, result: Ok(Appended { first_position, received_at, is_replay: false }) };
        self.answer_with(self.next_sequence, ack, out);
    }

    /// Answers once a block is durable, or at once where nobody waits for that. Answers keep the order of admission.
    fn answer_with(&mut self, sequence: BlockSequence, ack: Ack, out: &mut Output) {
        match self.config.durability {
            Durability::Commit => self.waiting.push_back(WaitingAck { sequence, ack }),
            Durability::Interval { .. } | Durability::Memory => out.acks.push(ack),
        }
    }

    /// Gives every event its version and leaves the entities' numbers in `entity_numbers`. On a conflict nothing has changed.
    fn take_versions(&mut self, batch: &mut crate::event::EventBatch) -> Result<(), AppendError> {
        let tenant = batch.tenant();
        let entity_count_before = self.active.entity_count();
        self.active.fetch_entities(batch);
        self.entity_numbers.clear();
        self.versions.clear();
        for event_index in 0..batch.keys.len() {
            let key = batch.keys[event_index];
            let number = match self.active.find_entity(tenant, key.entity) {
                Some(number) => number,
                None => {
                    let (version, position) =
                        self.older_version(tenant, key.entity).unwrap_or((Version(0), Position(0)));
                    self.active.insert_entity(tenant, key.entity, version, position)
                }
            };
            let current = self.active.entity(number).version;
            if key.version != NO_EXPECTED_VERSION && key.version != current.0 {
                for &undo in &self.entity_numbers {
                    self.active.undo_version(undo);
                }
                self.active.remove_entities_from(entity_count_before);
                return Err(AppendError::VersionConflict { event_index, expected: Version(key.version), current });
            }
            let version = self.active.next_version(number);
            self.versions.push(version);
            self.entity_numbers.push(number);
        }
        // Versions replace expectations only once nothing can fail: a refused batch goes back as it came.
        for (key, &version) in batch.keys.iter_mut().zip(&self.versions) {
            key.version = version;
        }
        Ok(())
    }

    /// Gives an answer that tells of state that may not be durable yet: it leaves with the prefix it depends on.
    fn answer_behind_appended(&mut self, pending: Pending, result: Result<Appended, AppendError>, out: &mut Output) {
        self.pending_bytes -= pending.batch.records().len();
        let ack = Ack { ticket: pending.ticket, batch: pending.batch, result };
        self.answer_with(self.appended_sequence(), ack, out);
    }

    fn answer_refused(&mut self, pending: Pending, error: AppendError, out: &mut Output) {
        self.pending_bytes -= pending.batch.records().len();
        out.acks.push(Ack { ticket: pending.ticket, batch: pending.batch, result: Err(error) });
    }

    /// Releases the answers whose blocks are durable.
    pub(super) fn release_acks(&mut self, out: &mut Output) {
        while let Some(front) = self.waiting.front() {
            if front.sequence > self.durable && !front.is_settled() {
                return;
            }
            let waiting = self.waiting.pop_front().expect("front exists");
            out.acks.push(waiting.ack);
        }
    }
}
