//! The simulated machine: a disk with faults and the randomness that drives it.
//!
//! Owns everything that lets a whole shard live, lose power and recover inside one thread, from one seed.
//! Must never: read a clock, start a thread, or do anything that the seed does not decide.

pub mod disk;
#[cfg(test)]
mod fault;
mod inode;
mod machine;
mod names;
mod trial;
pub mod model;
pub mod rng;
pub mod world;

pub use disk::SimDisk;
pub use fault::{Fault, FaultRates};
pub use inode::SECTOR_BYTES;
pub use rng::Rng;
