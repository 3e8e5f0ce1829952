//! wire
pub mod answer;
pub mod envelope;
pub mod json;
pub mod json_simd;
pub mod params;
pub mod time;
