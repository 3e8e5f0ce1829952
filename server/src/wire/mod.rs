//! Bytes become requests, and answers become bytes.
//!
//! Owns the grammar of every protocol and the one table from errors to statuses. Never waits, never reads a clock,
//! never touches a socket: each file is a function of the bytes it is given.

pub mod chunked;
pub mod http;
pub mod response;
pub mod status;
