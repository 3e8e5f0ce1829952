//! The only place where the engine touches the machine: files, the ring, memory from the kernel, clocks, randomness, threads.
//!
//! Everything above takes time as an argument and randomness as a seed, so that `sim/` can put a simulated disk
//! under a whole shard and replay a life exactly.

pub mod buffer;
pub mod clock;
pub mod disk;
mod fallback;
mod files;
pub mod fs;
pub mod map;
pub mod ring;
#[cfg(test)]
mod ring_tests;
mod slab;
mod uring;
pub mod worker;

pub use buffer::{Buffer, BufferPool, FileMemory, huge_vec, prefetch};
pub use disk::{Disk, DiskDone, DiskError, DiskFile, DiskOp, DiskResult, Fill, Persist, ReadFrom, Site};
pub use fs::{DataDirError, FsDisk};
pub use map::Map;
pub use ring::{
    Completion, Datagram, End, IoMode, ReceiveBuffer, Remote, Ring, RingConfig, RingError, SocketId, SyncMode,
};
pub use worker::Worker;
