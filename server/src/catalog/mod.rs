//! What the control plane owns: tenants, keys and the record of every change to them.
//! A change is durable in the catalog's log first, then on every core, and only then answered. Nothing here runs on a core.
//!
//! ```text
//! core ─► thread ─► control ─► records ─► log (durable) ─► state ─► delta ─► every core ─► acknowledged ─► answer
//! ```

pub mod accounts;
mod agent_keys;
pub mod audit;
pub mod body;
mod change_limit;
pub mod command;
pub mod control;
pub mod engine_log;
mod engine_records;
pub mod keys_file;
pub mod keys_file_edit;
pub mod keys_file_thread;
pub mod keys_file_watch;
pub mod log;
pub mod name;
pub mod notes;
mod onboard_limit;
mod people_records;
pub mod programmatic_keys;
pub mod records;
pub mod set_up;
#[cfg(test)]
mod simulation;
pub mod state;
pub mod streaming_keys;
mod tenants;
pub mod thread;
pub mod tiers;
pub mod users;
