//! Connections: what arrives, what leaves, and when patience ends.
//!
//! Owns the order of answers and every deadline of a connection. Never interprets a byte itself: it asks `wire`.

pub mod admission;
pub mod by_address;
pub mod connections;
pub mod http1;
pub mod rate_limit;
pub mod sockets;
pub mod streams;
pub mod tenant_rates;
pub mod wheel;
