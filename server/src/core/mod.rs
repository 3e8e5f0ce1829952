//! One core: one pinned thread with its ring, its connections and its shards.

pub mod mailbox;
pub mod setup;
