//! Syslog: from the bytes of a connection or a datagram to log events.
//!
//! Owns the framing of RFC 6587, the two grammars of RFC 5424 and RFC 3164, and how a message becomes an event. Must
//! never: refuse a message for its content (what no grammar fits is kept as it came), or let a streaming key reach a
//! payload.
//!
//! ```text
//! pending bytes ─► framing ─► one message ─► parse ─► Message ─┬─► key: whose is it?
//!                                                              └─► map: event in a batch
//! ```

mod bsd;
pub mod framing;
pub mod key;
pub mod map;
pub mod parse;

#[cfg(test)]
mod golden;
