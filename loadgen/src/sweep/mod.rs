//! `sweep`: raises the rate to the knee, then measures at half of it.

mod course;
mod search;

pub const EXAMPLES: &str = "";
