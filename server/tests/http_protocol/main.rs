//! One HTTP/1 connection as a client would see it, without sockets and with a clock of our own.

mod connection;
mod framing;
mod peer;
