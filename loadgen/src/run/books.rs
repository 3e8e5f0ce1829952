//! The books of one connection: what it is, what is in flight on it, what it still has to send.

use crate::protocol::Reader;
use crate::workload::{Stream, Written};
use std::collections::VecDeque;

/// Unsent bytes of a connection beyond which it gets no further request.
const BACKLOG_BYTES_MAX: usize = 256 << 10;

/// A request that was sent and not answered yet.
#[derive(Debug)]
pub struct Pending {
    pub sent: Written,
    pub intended_at: u64,
    pub sent_at: u64,
    pub request_bytes: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Connecting,
    Connected,
    /// Between two connections.
    Away,
    Ended,
}

/// How a connection came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The run is over and everything was answered.
    Done,
    /// The server said that it would close.
    Polite,
    Closed,
    Error(String),
}

#[derive(Debug)]
pub struct Books {
    pub state: State,
    pub stream: Stream,
    pub reader: Reader,
    pub in_flight: VecDeque<Pending>,
    /// When the window last had room again.
    pub freed_at: u64,
    pub is_listed_as_free: bool,
    pub socket: Option<std::net::TcpStream>,
    /// Which connection of this place: one more each time.
    pub number: u64,
    /// Written and not yet taken by the kernel, from `unsent_from` on.
    pub unsent: Vec<u8>,
    pub unsent_from: usize,
    /// The socket took no more; somebody waits for it.
    pub is_stuck: bool,
    /// Why this connection is over; its in-flight requests end with this error.
    pub broken: Option<String>,
}

impl Books {
    pub fn new(stream: Stream, reader: Reader, depth: usize) -> Self {
        Self {
            state: State::Connecting,
            stream,
            reader,
            in_flight: VecDeque::with_capacity(depth),
            freed_at: 0,
            is_listed_as_free: false,
            socket: None,
            number: 0,
            unsent: Vec::new(),
            unsent_from: 0,
            is_stuck: false,
            broken: None,
        }
    }

    fn backlog_bytes(&self) -> usize {
        self.unsent.len() - self.unsent_from
    }

    /// Whether it may be given one more request.
    pub fn has_room(&self, depth: usize) -> bool {
        self.state == State::Connected
            && self.broken.is_none()
            && self.in_flight.len() < depth
            && self.backlog_bytes() < BACKLOG_BYTES_MAX
            && self.reader.is_ready()
    }
}
