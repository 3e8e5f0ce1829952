//! What the benches and the null servers share, and the statistics of the timing test.

pub mod announce;
pub mod credentials;
pub mod requests;
pub mod sample;
pub mod welch;
