//! One task for each connection: connects, reads, and leaves every decision to the lane.
//!
//! Requests are sent from where they are decided, without a wait; only a socket that takes no more gets a task that
//! waits for it.

use super::books::{End, State};
use super::lane::{Lane, Phase, io_kind};
use crate::client::{Connected, connect};
use crate::target::Target;
use monoio::buf::IoBufMut;
use monoio::io::AsyncReadRent;
use monoio::net::TcpStream;
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

const READ_BYTES_FIRST: usize = 16 << 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Connects, works until the run ends, and connects again where that is wanted.
pub async fn run(lane: Rc<RefCell<Lane>>, index: usize, target: Target, reconnect_for: Option<Duration>) {
    let mut backoff = BACKOFF_FIRST;
    let mut reached_at = Instant::now();
    while lane.borrow().phase != Phase::Ending {
        let connected = match target.address() {
            Some(address) => connect(address).await,
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let is_polite = match connected {
            Ok(connected) => {
                backoff = BACKOFF_FIRST;
                let end = work(&lane, index, connected).await;
                reached_at = Instant::now();
                lane.borrow_mut().closed(index, end, State::Away)
            }
            Err(error) => {
                lane.borrow_mut().not_connected(io_kind(&error));
                false
            }
        };
        if lane.borrow().phase == Phase::Ending {
            break;
        }
        {
            let mut lane = lane.borrow_mut();
            lane.set_state(index, State::Away);
            lane.tally.stats.reconnects += 1;
        }
        if is_polite {
            continue;
        }
        match reconnect_for {
            Some(limit) if reached_at.elapsed() < limit => {}
            _ => break,
        }
        monoio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    lane.borrow_mut().set_state(index, State::Ended);
}

/// One connection from its first to its last byte.
async fn work(lane: &Rc<RefCell<Lane>>, index: usize, connected: Connected) -> End {
    // The end of the run has passed over the connections that were not there yet.
    if lane.borrow().phase == Phase::Ending {
        return End::Done;
    }
    let Connected { mut stream, control } = connected;
    lane.borrow_mut().opened(index, control);
    help_the_stuck(lane);
    let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES_FIRST);
    loop {
        let read;
        if buffer.is_empty() {
            (read, buffer) = stream.read(buffer).await;
        } else {
            if buffer.capacity() - buffer.len() < buffer.capacity() / 4 {
                buffer.reserve(buffer.capacity());
            }
            let filled = buffer.len();
            let (outcome, slice) = stream.read(buffer.slice_mut(filled..)).await;
            (read, buffer) = (outcome, slice.into_inner());
        }
        let closed = match read {
            Ok(bytes) => bytes == 0,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return End::Error(io_kind(&error).to_owned()),
        };
        // A read that ended without a byte may leave an empty buffer as it was.
        let (consumed, end) = lane.borrow_mut().on_bytes(index, &buffer, closed);
        if let Some(end) = end {
            return end;
        }
        help_the_stuck(lane);
        if consumed == buffer.len() {
            buffer.clear();
        } else {
            buffer.drain(..consumed);
        }
    }
}

/// A task for every connection whose socket took no more.
pub fn help_the_stuck(lane: &Rc<RefCell<Lane>>) {
    if lane.borrow().stuck.is_empty() {
        return;
    }
    let stuck = std::mem::take(&mut lane.borrow_mut().stuck);
    for index in stuck {
        monoio::spawn(flush(Rc::clone(lane), index));
    }
}

async fn flush(lane: Rc<RefCell<Lane>>, index: usize) {
    let Some((socket, number)) = lane.borrow().stuck_socket(index) else { return };
    let waiting = match socket.and_then(TcpStream::from_std) {
        Ok(stream) => stream,
        Err(error) => return lane.borrow_mut().break_off(index, &format!("write: {}", io_kind(&error))),
    };
    loop {
        if let Err(error) = waiting.writable(false).await {
            return lane.borrow_mut().break_off(index, &format!("write: {}", io_kind(&error)));
        }
        let is_done = lane.borrow_mut().flush(index, number);
        help_the_stuck(&lane);
        if is_done {
            return;
        }
    }
}
