//! A core that does nothing with what comes: every request is answered, and what sources push is cut into its units and
//! dropped. What the connections alone cost.

use std::net::{IpAddr, TcpListener, UdpSocket};

use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{DiskDone, IoMode, Ring, SyncMode};

use crate::core::sources::{FRAMES_LISTENER, SYSLOG_DATAGRAMS, SYSLOG_LISTENER};
use crate::core::turns::{Clock, Host, Moment, Next, Pace, turn_until_over};
use crate::core::{pin, ring_config};
use crate::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX, DATAGRAM_BYTES_MAX, DATAGRAMS_PER_TURN, STREAMS_MAX};
use crate::net::connections::{Asked, Connections, Handled, Service};
use crate::net::http1::{Decision, Request};
use crate::net::sockets::{HTTP_LISTENER, Sockets};
use crate::net::streams::{StreamKey, StreamService, Streams, Taken, Then};
use crate::wire::frame::{Framing, LENGTH_BYTES, next_frame};
use crate::wire::http::Head;
use crate::wire::response::{ReplyTo, Response};
use crate::wire::syslog::framing::{self, Framer};

/// What a null core listens on.
pub struct Listeners {
    pub http: TcpListener,
    pub frames: TcpListener,
    pub syslog_tcp: TcpListener,
    pub syslog_udp: UdpSocket,
}

/// Takes whatever comes, for ever, on the calling thread. `accepts` is called once it does.
pub fn run(
    listeners: Listeners,
    cpu: Option<usize>,
    io: IoMode,
    accepts: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    pin(cpu);
    let sockets_max = CONNECTIONS_MAX + STREAMS_MAX;
    let mut ring = Ring::new(ring_config(io, SyncMode::Dsync, sockets_max)).map_err(|error| error.to_string())?;
    let clock = Clock::start();
    let http = Connections::new(CONNECTIONS_MAX, random_u64(), clock.now().unix_us);
    let mut sockets = Sockets { http, streams: Streams::new(STREAMS_MAX) };
    for (listener, token) in
        [(listeners.http, HTTP_LISTENER), (listeners.frames, FRAMES_LISTENER), (listeners.syslog_tcp, SYSLOG_LISTENER)]
    {
        ring.listen(listener, token).map_err(|error| error.to_string())?;
    }
    ring.watch_datagrams(listeners.syslog_udp, SYSLOG_DATAGRAMS).map_err(|error| error.to_string())?;
    accepts()?;
    turn_until_over(&mut Null::default(), &mut sockets, &mut ring, clock);
    Ok(())
}

#[derive(Default)]
struct Null {
    pace: Pace,
    /// Streams whose sender has ended.
    ended: Vec<StreamKey>,
    has_datagrams: bool,
    datagram: Vec<u8>,
}

impl Service for Null {
    type Context = ();

    fn decide(&mut self, _head: &Head<'_>, _peer: IpAddr, _reply: &mut ReplyTo) -> Decision<()> {
        Decision::Accept { body_bytes_max: BODY_BYTES_MAX, context: () }
    }

    fn handle(&mut self, asked: Asked, _peer: IpAddr, _request: Request<'_, ()>, answer: &mut Vec<u8>) -> Handled {
        Response::begin(answer, 202, &asked.reply).without_body();
        Handled::Now
    }
}

/// Where units of a stream end.
enum Units {
    Frames,
    Messages(Framer),
}

impl Units {
    /// How many bytes whole units take, and how long the next one is as far as that is known.
    fn take(&mut self, bytes: &[u8]) -> (usize, usize) {
        let mut taken_bytes = 0;
        loop {
            let rest = &bytes[taken_bytes..];
            match self {
                Units::Frames => match next_frame(rest) {
                    Framing::Frame(body) => taken_bytes += body.end,
                    Framing::Need(unit_bytes) => return (taken_bytes, unit_bytes),
                    // Not told apart from what ends well: nobody looks at what is dropped.
                    Framing::TooLarge(_) => return (bytes.len(), LENGTH_BYTES),
                },
                Units::Messages(framer) => {
                    let step = framer.step(rest);
                    taken_bytes += step.consumed;
                    if step.frame == framing::Frame::Need {
                        return (taken_bytes, bytes.len() - taken_bytes + 1);
                    }
                }
            }
        }
    }
}

impl StreamService for Null {
    type Stream = Units;

    fn on_open(&mut self, listener: u32, _peer: IpAddr) -> Units {
        if listener == FRAMES_LISTENER { Units::Frames } else { Units::Messages(Framer::default()) }
    }

    fn on_bytes(&mut self, key: StreamKey, units: &mut Units, bytes: &[u8], is_end: bool) -> Taken {
        if is_end {
            self.ended.push(key);
            return Taken { bytes: bytes.len(), unit_bytes: 0, then: Then::End };
        }
        let (bytes, unit_bytes) = units.take(bytes);
        Taken { bytes, unit_bytes, then: Then::Receive }
    }
}

impl Host for Null {
    fn begin(&mut self, _now: Moment, _sockets: &mut Sockets<Null>, _ring: &mut Ring) {}

    fn disk_done(&mut self, _done: DiskDone) {}

    fn datagrams_ready(&mut self, _token: u32) {
        self.has_datagrams = true;
    }

    fn work(&mut self, _now: Moment, sockets: &mut Sockets<Null>, ring: &mut Ring) -> Option<u64> {
        for key in self.ended.drain(..) {
            sockets.streams.close(key, ring);
        }
        if self.has_datagrams {
            self.datagram.resize(DATAGRAM_BYTES_MAX, 0);
            let taken =
                (0..DATAGRAMS_PER_TURN).find(|_| ring.take_datagram(SYSLOG_DATAGRAMS, &mut self.datagram).is_none());
            self.has_datagrams = taken.is_none();
        }
        None
    }

    fn end(&mut self, _sockets: &mut Sockets<Null>, _ring: &mut Ring) -> Next {
        if self.has_datagrams { Next::Turn } else { Next::Wait }
    }

    fn prepare_wait(&mut self) -> bool {
        true
    }

    fn awake(&mut self) {}

    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken of `bytes` that come in pieces, with what is left shown again.
    fn taken(units: &mut Units, bytes: &[u8], piece_bytes: usize) -> usize {
        let (mut sum, mut held) = (0, Vec::new());
        for piece in bytes.chunks(piece_bytes) {
            held.extend_from_slice(piece);
            let (taken_bytes, unit_bytes) = units.take(&held);
            held.drain(..taken_bytes);
            assert!(held.len() < unit_bytes);
            sum += taken_bytes;
        }
        sum
    }

    #[test]
    fn units_are_found_wherever_the_network_splits_them() {
        let frames = [&[0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0], &[0, 0, 1, 0], &[7; 256], &[0, 0, 0, 2], b"x"].concat();
        let messages = b"5 <1>ab<34>a line\n\n12 <1>12345678!9 <1>";
        for piece_bytes in 1..frames.len() {
            assert_eq!(taken(&mut Units::Frames, &frames, piece_bytes), frames.len() - 5);
            let mut units = Units::Messages(Framer::default());
            assert_eq!(taken(&mut units, messages, piece_bytes), messages.len() - b"9 <1>".len(), "{piece_bytes}");
        }
    }
}
