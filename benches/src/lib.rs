//! Shared set-up for the benches, and the statistics of the timing test.

pub mod credentials;
pub mod welch;
