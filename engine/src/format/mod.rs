//! Bytes on disk. Must never call the operating system; every length is checked before it is used.
//! Little-endian throughout. `docs/disk-format.md` shows the same tables.

pub mod batch;
pub mod block;
pub mod checkpoint;
pub mod index;
pub mod key_run;
pub mod record;
pub mod run;
pub mod scan;
pub mod segment;
pub mod superblock;
