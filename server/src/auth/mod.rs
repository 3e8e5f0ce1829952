//! Who is asking, and for which tenant: decided before a body is parsed, from a core's own tables.
//! Never waits, never reads a clock, and never trusts a claim: a credential points at a row, the row is the authority.
//!
//! ```text
//! headers ─► presented ─► keyed_hash ─► recognised ─► (miss) jwt or digest ─► row ─► Principal
//!                                                      catalog ─► delta ─► credentials
//! ```

pub mod credentials;
pub mod delta;
pub mod jwt;
mod keyed_hash;
pub mod last_used;
pub mod password;
pub mod password_thread;
pub mod presented;
pub mod programmatic;
mod recognised;
pub mod role;
pub mod secret;
pub mod secret_file;
pub mod session;
pub mod tenant_id;
