//! A durable, multi-tenant, thread-per-core event log.

pub mod data_dir;
pub mod engine;
pub mod event;
pub mod event_id;
pub mod filter;
pub mod format;
pub mod host;
pub mod ids;
pub mod index;
pub mod io;
pub mod limits;
pub mod month;
pub mod query;
pub mod shard;
pub mod sim;
