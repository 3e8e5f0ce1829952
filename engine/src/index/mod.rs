//! What is known of events without reading them: the active index in memory, sealed indexes on disk, entity runs.

pub mod active;
pub mod entities;
pub mod sealed;
pub mod table;
