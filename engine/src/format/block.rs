//! Block header.
pub const BLOCK_HEADER_BYTES: usize = 128;
