//! Batch header.
pub const BATCH_HEADER_BYTES: usize = 96;
