//! What the benches and the null servers share.

pub mod announce;
pub mod requests;
pub mod sample;
