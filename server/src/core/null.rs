//! A core that answers every request and does nothing else: what the connections alone cost.

use std::net::{IpAddr, TcpListener};

use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{DiskDone, IoMode, Ring, SyncMode};

use crate::core::turns::{Clock, Host, Moment, Next, Pace, turn_until_over};
use crate::core::{pin, ring_config};
use crate::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX};
use crate::net::connections::{Asked, Connections, Handled, Service};
use crate::net::http1::{Decision, Request};
use crate::net::sockets::{HTTP_LISTENER, Sockets};
use crate::net::streams::{StreamKey, StreamService, Streams, Taken, Then};
use crate::wire::http::Head;
use crate::wire::response::{ReplyTo, Response};

/// Answers 202 to whatever is accepted, for ever, on the calling thread. `accepts` is called once it does.
pub fn run(
    listener: TcpListener,
    cpu: Option<usize>,
    io: IoMode,
    accepts: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    pin(cpu);
    let mut ring = Ring::new(ring_config(io, SyncMode::Dsync, CONNECTIONS_MAX)).map_err(|error| error.to_string())?;
    let clock = Clock::start();
    let http = Connections::new(CONNECTIONS_MAX, random_u64(), clock.now().unix_us);
    let mut sockets = Sockets { http, streams: Streams::new(0) };
    ring.listen(listener, HTTP_LISTENER).map_err(|error| error.to_string())?;
    accepts()?;
    turn_until_over(&mut Null::default(), &mut sockets, &mut ring, clock);
    Ok(())
}

#[derive(Default)]
struct Null {
    pace: Pace,
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

/// There is no listener for them.
impl StreamService for Null {
    type Stream = ();

    fn on_open(&mut self, _listener: u32, _peer: IpAddr) {}

    fn on_bytes(&mut self, _key: StreamKey, (): &mut (), bytes: &[u8], _is_end: bool) -> Taken {
        Taken { bytes: bytes.len(), unit_bytes: 0, then: Then::End }
    }
}

impl Host for Null {
    fn begin(&mut self, _now: Moment, _sockets: &mut Sockets<Null>, _ring: &mut Ring) {}

    fn disk_done(&mut self, _done: DiskDone) {}

    fn datagrams_ready(&mut self, _token: u32) {}

    fn work(&mut self, _now: Moment, _sockets: &mut Sockets<Null>, _ring: &mut Ring) -> Option<u64> {
        None
    }

    fn end(&mut self, _sockets: &mut Sockets<Null>, _ring: &mut Ring) -> Next {
        Next::Wait
    }

    fn prepare_wait(&mut self) -> bool {
        true
    }

    fn awake(&mut self) {}

    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}
