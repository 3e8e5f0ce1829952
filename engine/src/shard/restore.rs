//! Batches that lie in a segment, as they were when they were admitted.
//!
//! Must never: believe a batch or a record that its checksum does not confirm.

use crate::event::{EventBatch, EventKey, FingerprintKey, Source};
use crate::format::batch::{BatchError, BatchView};
use crate::format::block::BLOCK_HEADER_BYTES;
use crate::format::record::{Record, RecordError};
use crate::ids::{Micros, Position, Version};
use crate::index::active::ActiveIndex;

/// A batch as it was read back.
#[derive(Debug)]
pub(super) struct Restored {
    pub batch: EventBatch,
    body_offset: usize,
    pub first_position: Position,
    pub received_at: Micros,
}

impl Restored {
    /// Adds the batch's events to the index of the segment in which its block lies at `block_offset`.
    pub fn add_to(&self, index: &mut ActiveIndex, block_offset: u64) {
        let tenant = self.batch.tenant();
        let numbers: Vec<u32> = self
            .batch
            .keys()
            .iter()
            .map(|key| index.restore_entity(tenant, key.entity, Version(key.version)))
            .collect();
        let batch_offset = block_offset as usize + BLOCK_HEADER_BYTES + self.body_offset;
        index.append(&self.batch, &numbers, batch_offset as u32, self.first_position, self.received_at);
    }
}

/// Why a block with a valid checksum is not taken.
#[derive(Debug)]
pub(super) enum BodyError {
    Malformed,
    Newer(&'static str),
}

impl From<BatchError> for BodyError {
    fn from(error: BatchError) -> BodyError {
        match error {
            BatchError::UnknownFlags(_) => BodyError::Newer("batch flag"),
            BatchError::Short | BatchError::Lengths | BatchError::EventCount(_) | BatchError::Crc => {
                BodyError::Malformed
            }
        }
    }
}

impl From<RecordError> for BodyError {
    fn from(error: RecordError) -> BodyError {
        match error {
            RecordError::UnknownKind(_) => BodyError::Newer("kind of event"),
            RecordError::UnknownFlags(_) => BodyError::Newer("event flag"),
            RecordError::Short | RecordError::Lengths | RecordError::Crc | RecordError::Text => BodyError::Malformed,
        }
    }
}

/// Reads every batch of a block's body back.
pub(super) fn restore_batches(body: &[u8], fingerprint: FingerprintKey) -> Result<Vec<Restored>, BodyError> {
    let mut restored = Vec::new();
    let mut at = 0;
    while at < body.len() {
        let bytes = &body[at..];
        let view = BatchView::parse(bytes)?;
        let records = bytes.get(view.head_bytes()..view.batch_bytes()).ok_or(BodyError::Malformed)?;
        let mut keys = Vec::with_capacity(view.event_count());
        let mut record_at = 0;
        for event_index in 0..view.event_count() {
            let record = Record::parse(&records[record_at..])?;
            keys.push(EventKey {
                entity: fingerprint.entity(record.entity),
                event_type: fingerprint.event_type(record.event_type),
                timestamp: record.timestamp,
                record_bytes: record.record_bytes as u32,
                version: view.version(event_index),
            });
            record_at += record.record_bytes;
        }
        if record_at != records.len() {
            return Err(BodyError::Malformed);
        }
        restored.push(Restored {
            batch: EventBatch::from_parts(
                view.tenant(),
                Source::Engine,
                view.idempotency(),
                fingerprint,
                records.to_vec(),
                keys,
            ),
            body_offset: at,
            first_position: view.first_position(),
            received_at: view.received_at(),
        });
        at += view.batch_bytes();
    }
    Ok(restored)
}
