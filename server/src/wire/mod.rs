//! Bytes become requests, and answers become bytes.
//!
//! Owns the grammar of every protocol and the one table from errors to statuses. Never waits, never reads a clock,
//! never touches a socket: each file is a function of the bytes it is given.

pub mod answer;
#[cfg(test)]
mod broken;
pub mod chunked;
pub mod cors;
pub mod envelope;
pub mod exposition;
pub mod forwarded;
pub mod frame;
pub mod http;
pub mod inflate;
pub mod json;
pub mod json_simd;
pub mod lines;
pub mod otlp;
pub mod params;
pub mod response;
pub mod shipper;
mod split;
pub mod status;
pub mod syslog;
pub mod time;
