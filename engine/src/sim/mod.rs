//! The simulated machine: a disk with faults and the randomness that drives it, and worlds that live on it.
//!
//! Owns everything that lets a whole shard live, lose power and recover inside one thread, from one seed.
//! Must never: read a clock, start a thread, or do anything that the seed does not decide.

pub mod disk;
pub mod engine;
mod fault;
mod forget;
mod gone;
mod inode;
mod keyed;
mod machine;
pub mod model;
mod names;
pub mod rng;
#[cfg(test)]
mod trial;
pub mod world;

pub use disk::SimDisk;
pub use engine::{SimEngine, SimEngineOptions};
pub use fault::{Fault, FaultRates};
pub use inode::SECTOR_BYTES;
pub use rng::Rng;
