//! Batches that a core has done with, kept for their memory.
//!
//! Owns how much of it there may be. Must never: keep a batch that is so large that few others will want as much.

use ringlog_engine::event::EventBatch;

use crate::limits::{BATCH_KEPT_BYTES_MAX, BATCHES_KEPT_BYTES_MAX, BATCHES_KEPT_MAX};

#[derive(Debug, Default)]
pub struct Kept {
    batches: Vec<EventBatch>,
    bytes: usize,
}

impl Kept {
    /// The one that was used last, whose memory is still near.
    pub fn take(&mut self) -> Option<EventBatch> {
        let batch = self.batches.pop()?;
        self.bytes -= batch.memory_bytes();
        Some(batch)
    }

    pub fn keep(&mut self, batch: EventBatch) {
        let bytes = batch.memory_bytes();
        let fits = self.batches.len() < BATCHES_KEPT_MAX && self.bytes + bytes <= BATCHES_KEPT_BYTES_MAX;
        if bytes <= BATCH_KEPT_BYTES_MAX && fits {
            self.bytes += bytes;
            self.batches.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use ringlog_engine::event::{FingerprintKey, Source};
    use ringlog_engine::ids::Tenant;

    use super::*;

    fn batch(bytes: usize) -> EventBatch {
        let mut batch = EventBatch::new(Tenant(1), Source::Tcp, FingerprintKey(1));
        batch.reserve(0, bytes);
        batch
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes_and_in_number() {
        let mut kept = Kept::default();
        kept.keep(batch(BATCH_KEPT_BYTES_MAX + 1));
        assert!(kept.take().is_none());
        for _ in 0..2 * BATCHES_KEPT_BYTES_MAX / BATCH_KEPT_BYTES_MAX {
            kept.keep(batch(BATCH_KEPT_BYTES_MAX));
        }
        assert_eq!(kept.bytes, BATCHES_KEPT_BYTES_MAX);
        assert!(std::iter::from_fn(|| kept.take()).all(|batch| batch.memory_bytes() == BATCH_KEPT_BYTES_MAX));
        assert_eq!(kept.bytes, 0);
        (0..2 * BATCHES_KEPT_MAX).for_each(|_| kept.keep(batch(0)));
        assert_eq!(kept.batches.len(), BATCHES_KEPT_MAX);
    }
}
