//! The ringlog server.

pub mod auth;
pub mod catalog;
pub mod handle;
pub mod limits;
pub mod net;
pub mod wire;
