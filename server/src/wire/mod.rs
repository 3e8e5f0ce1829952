//! wire
pub mod envelope;
pub mod json;
pub mod json_simd;
pub mod time;
