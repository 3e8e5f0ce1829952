//! Every socket of a core: connections that are answered, and streams that are only read.
//!
//! Owns which is which, by the listener that accepted it and by where the ring keeps it. Must never: know what either is
//! for.

use ringlog_engine::io::{Completion, Ring};

use crate::net::connections::{Connections, Service};
use crate::net::streams::{StreamService, Streams};

/// The token of the listener whose connections are answered. Those of all others are only read.
pub const HTTP_LISTENER: u32 = 0;

pub struct Sockets<S: Service + StreamService> {
    pub http: Connections<S::Context>,
    pub streams: Streams<S::Stream>,
}

impl<S: Service + StreamService> Sockets<S> {
    /// Takes a completion of a listener or a connection.
    pub fn on_completion(&mut self, completion: Completion, ring: &mut Ring, service: &mut S, now_us: u64) {
        let is_stream = match &completion {
            Completion::Accepted { listener, .. } | Completion::AcceptFailed { listener, .. } => {
                *listener != HTTP_LISTENER
            }
            Completion::Received { socket, .. }
            | Completion::ReceivedInto { socket, .. }
            | Completion::ReceiveEnded { socket, .. }
            | Completion::Sent { socket, .. }
            | Completion::Closed { socket } => self.streams.has(*socket),
            Completion::DatagramsReady { .. } | Completion::Disk(_) | Completion::Woken => {
                unreachable!("not a connection's")
            }
        };
        if is_stream {
            self.streams.on_completion(completion, ring, service, now_us);
        } else {
            self.http.on_completion(completion, ring, service, now_us);
        }
    }

    /// Does what is due.
    pub fn on_time(&mut self, ring: &mut Ring, now_us: u64) {
        self.http.on_time(ring, now_us);
        self.streams.on_time(ring, now_us);
    }

    /// When `on_time` wants to be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        [self.http.deadline(), self.streams.deadline()].into_iter().flatten().min()
    }

    /// Tells the sockets what came of the turn.
    pub fn flush(&mut self, ring: &mut Ring, service: &mut S, now_us: u64) {
        self.http.flush(ring, service, now_us);
        self.streams.flush(ring);
    }

    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.streams.is_empty()
    }
}
