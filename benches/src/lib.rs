//! What the benches and the null servers share.

pub mod sample;
