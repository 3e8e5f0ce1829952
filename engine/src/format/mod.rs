//! Bytes on disk. Must never call the operating system; every length is checked before it is used.

pub mod batch;
pub mod block;
pub mod record;
