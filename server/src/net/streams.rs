//! Connections that are only read: sources that push and are told nothing. Not a byte is ever written to one.
//!
//! Owns which socket is who, what each has received and nobody has taken yet, and how much of that there may be. The only
//! answer to a sender is not to read on: TCP then slows it down. Never looks into a byte and never decides what one means:
//! the `StreamService` takes whole units off the front, and says how long the next one is.
//!
//! ```text
//!           ┌─► Shared (multishot, the ring's buffers) ─stop─► Stopping ─┐
//!   Idle ───┤                                                            ├─► Idle
//!           └─► Own (one receive, behind what is held) ──────────────────┘
//!   taken: Receive ─► on    Pause ─► until `resume`    End ─► until `close`
//! ```
//!
//! A unit that is longer than [`STREAM_HELD_FREE_BYTES`] is received once its whole length is reserved, and those that wait
//! for that get it in order: whoever has it can come to its end. Who has it and does not go on loses it to those who wait.

use std::collections::VecDeque;
use std::net::IpAddr;

use ringlog_engine::io::{Completion, End, ReceiveBuffer, Ring, SocketId};

use crate::limits::{
    BODY_RESERVE_BYTES, DIRECT_RECEIVE_BYTES_MIN, RECEIVE_BUFFER_BYTES, SECOND_US, STREAM_BACKLOG_BYTES_MAX,
    STREAM_HELD_FREE_BYTES, STREAM_QUIET_US, STREAM_RESERVED_BYTES_MAX, STREAM_WIDE_BYTES, STREAMS_WIDE_MAX,
};
use crate::net::admission::Admission;
use crate::net::http1::BodyClock;

/// What is made of the bytes.
pub trait StreamService {
    /// What is kept for each connection.
    type Stream;

    fn on_open(&mut self, listener: u32, peer: IpAddr) -> Self::Stream;

    /// Takes whole units off the front of `bytes`, which may be empty. `is_end`: no more follow, and the answer is `Pause`
    /// or `End`.
    fn on_bytes(&mut self, key: StreamKey, stream: &mut Self::Stream, bytes: &[u8], is_end: bool) -> Taken;
}

/// A connection, for as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey {
    place: u32,
    generation: u32,
}

#[cfg(test)]
impl StreamKey {
    pub fn of_place(place: u32) -> StreamKey {
        StreamKey { place, generation: 0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// From the front. The rest is shown again, with more behind it.
    pub bytes: usize,
    /// How long the unit is that the rest begins with, as far as that is known.
    pub unit_bytes: usize,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// More is needed.
    Receive,
    /// Show nothing until `Streams::resume`, and read no further than what is on its way.
    Pause,
    /// Whatever else comes does not count. The service closes the connection when it is done with what it took.
    End,
}

/// How a connection receives at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    Idle,
    Shared,
    /// `Shared` until its end is told.
    Stopping,
    Own,
}

/// Bytes that nobody has taken yet.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    start: usize,
}

impl Held {
    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    fn push(&mut self, more: &[u8]) {
        if more.is_empty() {
            return;
        }
        if self.bytes.capacity() - self.bytes.len() < more.len() {
            self.move_to_front();
        }
        self.bytes.extend_from_slice(more);
    }

    fn consume(&mut self, bytes: usize) {
        assert!(bytes <= self.len());
        self.start += bytes;
        if self.start == self.bytes.len() {
            self.clear();
        } else {
            self.fit(2 * STREAM_WIDE_BYTES);
        }
    }

    /// What is left of a long unit's memory does not stay for a few bytes: nothing counts it.
    fn fit(&mut self, bytes_max: usize) {
        if bytes_max < self.bytes.capacity() && self.len() < self.bytes.capacity() / 4 {
            self.bytes = self.bytes().to_vec();
            self.start = 0;
        }
    }

    /// Large memory is given back: an idle connection holds none.
    fn clear(&mut self) {
        self.start = 0;
        if RECEIVE_BUFFER_BYTES as usize <= self.bytes.capacity() {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
    }

    fn move_to_front(&mut self) {
        if 0 < self.start {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// For a receive behind what there is.
    fn lend(&mut self, bytes_max: usize) -> Vec<u8> {
        self.fit(2 * (self.len() + bytes_max));
        self.move_to_front();
        std::mem::take(&mut self.bytes)
    }
}

struct Connection<T> {
    socket: SocketId,
    peer: IpAddr,
    stream: T,
    receive: Receive,
    held: Held,
    /// Of the unit at the front, as far as known.
    unit_bytes: usize,
    unit_since_us: u64,
    /// Of the budget for long units.
    reserved_bytes: usize,
    /// Its unit is long, and there is nothing of the budget left.
    is_waiting: bool,
    /// Of `held` beyond what is reserved or free, as it was counted last.
    backlog_bytes: usize,
    /// Its units are long: the next is received into memory of its own as well, because ending a shared receive takes a
    /// turn.
    has_long_units: bool,
    /// What is held at most when the receive into its own memory has ended.
    own_bytes_max: usize,
    /// The last one brought as much: there is more.
    is_fast: bool,
    /// This one is wide.
    is_wide: bool,
    is_paused: bool,
    /// The sender has ended its side, or something has ended it for it.
    is_ended: bool,
    received_at_us: u64,
    /// The service has taken all that it will.
    is_finished: bool,
    is_closing: bool,
    is_dirty: bool,
}

impl<T> Connection<T> {
    fn missing_bytes(&self) -> usize {
        self.unit_bytes.saturating_sub(self.held.len())
    }

    fn close(&mut self, ring: &mut Ring) {
        if !std::mem::replace(&mut self.is_closing, true) {
            ring.close(self.socket);
        }
    }
}

struct Slot<T> {
    generation: u32,
    connection: Option<Box<Connection<T>>>,
}

pub struct Streams<T> {
    slots: Vec<Slot<T>>,
    admission: Admission,
    /// Of long units, over all connections.
    reserved_bytes: usize,
    reserved_bytes_max: usize,
    /// Those that wait for some of it, by place.
    waiting: VecDeque<u32>,
    /// When those who have it and do not go on are looked for.
    look_at_us: Option<u64>,
    backlog_bytes: usize,
    /// There is too much of it: nobody receives.
    is_crowded: bool,
    /// Wide receives that may still begin.
    wide_left: usize,
    dirty: Vec<u32>,
    /// When those that have gone quiet are looked for, once there is to be an end.
    drain_at_us: Option<u64>,
    is_cut: bool,
    stalled_count: u64,
}

impl<T> Streams<T> {
    pub fn new(open_count_max: usize) -> Streams<T> {
        Streams {
            slots: Vec::new(),
            admission: Admission::new(open_count_max),
            reserved_bytes: 0,
            reserved_bytes_max: STREAM_RESERVED_BYTES_MAX,
            waiting: VecDeque::new(),
            look_at_us: None,
            backlog_bytes: 0,
            is_crowded: false,
            wide_left: STREAMS_WIDE_MAX,
            dirty: Vec::new(),
            drain_at_us: None,
            is_cut: false,
            stalled_count: 0,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.admission.open_count() == 0
    }

    /// Connections that were closed in the middle of a long unit, because others waited for what it held.
    pub fn stalled_count(&self) -> u64 {
        self.stalled_count
    }

    /// Whether a socket is one of these.
    pub fn has(&self, socket: SocketId) -> bool {
        let slot = self.slots.get(socket.index());
        slot.and_then(|slot| slot.connection.as_ref()).is_some_and(|connection| connection.socket == socket)
    }

    // ----- what the ring tells -----

    pub fn on_completion<S: StreamService<Stream = T>>(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        match completion {
            Completion::Accepted { listener, socket, peer } => {
                self.accept(listener, socket, peer.ip(), ring, service, now_us);
            }
            Completion::AcceptFailed { listener, error } => self.admission.failed(listener, &error, now_us),
            Completion::Received { socket, buffer } => self.received(socket, buffer, ring, service, now_us),
            Completion::ReceivedInto { socket, buffer, .. } => {
                self.received_into(socket, buffer);
                if let Some(place) = self.place_of(socket) {
                    self.connection(place).received_at_us = now_us;
                    self.feed(place, &[], service, now_us);
                }
            }
            Completion::ReceiveEnded { socket, buffer, end } => {
                if let Some(buffer) = buffer {
                    self.received_into(socket, buffer);
                }
                self.receive_ended(socket, &end, service, now_us);
            }
            Completion::Closed { socket } => self.closed(socket, now_us),
            Completion::Sent { .. } | Completion::Disk(_) | Completion::DatagramsReady { .. } | Completion::Woken => {
                unreachable!("not a stream's")
            }
        }
    }

    fn accept<S: StreamService<Stream = T>>(
        &mut self,
        listener: u32,
        socket: SocketId,
        peer: IpAddr,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        if !self.admission.enter(peer) {
            ring.close(socket);
            return;
        }
        let place = socket.index();
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || Slot { generation: 0, connection: None });
        }
        let slot = &mut self.slots[place];
        assert!(slot.connection.is_none());
        slot.generation = slot.generation.wrapping_add(1);
        slot.connection = Some(Box::new(Connection {
            socket,
            peer,
            stream: service.on_open(listener, peer),
            receive: Receive::Idle,
            held: Held::default(),
            unit_bytes: 0,
            unit_since_us: now_us,
            reserved_bytes: 0,
            is_waiting: false,
            backlog_bytes: 0,
            has_long_units: false,
            own_bytes_max: 0,
            is_fast: false,
            is_wide: false,
            is_paused: false,
            is_ended: false,
            received_at_us: now_us,
            is_finished: false,
            is_closing: false,
            is_dirty: false,
        }));
        self.touch(place as u32);
    }

    fn received<S: StreamService<Stream = T>>(
        &mut self,
        socket: SocketId,
        buffer: ReceiveBuffer,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        if let Some(place) = self.place_of(socket) {
            self.connection(place).received_at_us = now_us;
            self.feed(place, ring.bytes(&buffer), service, now_us);
        }
        ring.recycle(buffer);
    }

    fn received_into(&mut self, socket: SocketId, buffer: Vec<u8>) {
        let Some(place) = self.place_of(socket) else { return };
        let connection = self.connection(place);
        assert!(connection.held.len() == 0);
        connection.receive = Receive::Idle;
        connection.is_fast = connection.own_bytes_max <= buffer.len();
        connection.held = Held { bytes: buffer, start: 0 };
        let was_wide = std::mem::take(&mut connection.is_wide);
        self.wide_left += usize::from(was_wide);
    }

    fn receive_ended<S: StreamService<Stream = T>>(
        &mut self,
        socket: SocketId,
        end: &End,
        service: &mut S,
        now_us: u64,
    ) {
        let Some(place) = self.place_of(socket) else { return };
        let is_cut = self.is_cut;
        let connection = self.connection(place);
        connection.receive = Receive::Idle;
        match end {
            // Of a connection that was reset, what came before it is as good as any.
            End::Eof | End::Error(_) => connection.is_ended = true,
            End::Canceled => connection.is_ended = is_cut,
        }
        self.feed(place, &[], service, now_us);
    }

    fn closed(&mut self, socket: SocketId, now_us: u64) {
        let Some(slot) = self.slots.get_mut(socket.index()) else { return };
        let Some(connection) = slot.connection.take_if(|connection| connection.socket == socket) else { return };
        self.admission.leave(connection.peer);
        self.wide_left += usize::from(connection.is_wide);
        self.backlog_bytes -= connection.backlog_bytes;
        if connection.is_waiting {
            let place = socket.index() as u32;
            self.waiting.retain(|waiting| *waiting != place);
        }
        self.release(connection.reserved_bytes, now_us);
        self.make_room();
    }

    /// Where a socket's connection is, unless it is gone or going.
    fn place_of(&self, socket: SocketId) -> Option<u32> {
        let connection = self.slots.get(socket.index())?.connection.as_ref()?;
        (connection.socket == socket && !connection.is_closing).then_some(socket.index() as u32)
    }

    fn connection(&mut self, place: u32) -> &mut Connection<T> {
        self.slots[place as usize].connection.as_mut().expect("looked up by the caller")
    }

    // ----- bytes -----

    /// Shows the service what is held and `fresh` behind it.
    fn feed<S: StreamService<Stream = T>>(&mut self, place: u32, fresh: &[u8], service: &mut S, now_us: u64) {
        self.touch(place);
        let slot = &mut self.slots[place as usize];
        let key = StreamKey { place, generation: slot.generation };
        let connection = slot.connection.as_deref_mut().expect("looked up by the caller");
        if connection.is_finished {
            return;
        }
        if connection.is_paused {
            connection.held.push(fresh);
            self.account(place, now_us);
            return;
        }
        let Connection { stream, held, is_ended, .. } = connection;
        let taken = if held.len() == 0 {
            // Where it was received: most of it is taken without a copy.
            let taken = service.on_bytes(key, stream, fresh, *is_ended);
            held.push(&fresh[taken.bytes..]);
            taken
        } else {
            held.push(fresh);
            let taken = service.on_bytes(key, stream, held.bytes(), *is_ended);
            held.consume(taken.bytes);
            taken
        };
        if 0 < taken.bytes || connection.unit_bytes == 0 {
            connection.unit_since_us = now_us;
        }
        connection.unit_bytes = taken.unit_bytes;
        connection.has_long_units |= DIRECT_RECEIVE_BYTES_MIN < taken.unit_bytes;
        match taken.then {
            Then::Receive => assert!(!connection.is_ended),
            Then::Pause => connection.is_paused = true,
            Then::End => {
                connection.is_finished = true;
                connection.unit_bytes = 0;
                connection.held = Held::default();
            }
        }
        self.account(place, now_us);
    }

    /// Makes what is reserved and counted for a connection agree with what it holds.
    fn account(&mut self, place: u32, now_us: u64) {
        let connection = self.slots[place as usize].connection.as_deref_mut().expect("looked up by the caller");
        let is_long = STREAM_HELD_FREE_BYTES < connection.unit_bytes;
        let wanted_bytes = if is_long { connection.unit_bytes } else { 0 };
        if !is_long && std::mem::take(&mut connection.is_waiting) {
            self.waiting.retain(|waiting| *waiting != place);
        }
        let mut freed_bytes = 0;
        if wanted_bytes <= connection.reserved_bytes {
            freed_bytes = connection.reserved_bytes - wanted_bytes;
            connection.reserved_bytes = wanted_bytes;
        } else if !connection.is_waiting {
            // What it has is given back first: nobody holds some and waits for more.
            freed_bytes = std::mem::take(&mut connection.reserved_bytes);
            connection.is_waiting = true;
            self.waiting.push_back(place);
        }
        let covered_bytes = connection.reserved_bytes.max(STREAM_HELD_FREE_BYTES);
        let backlog_bytes = connection.held.len().saturating_sub(covered_bytes);
        self.backlog_bytes -= std::mem::replace(&mut connection.backlog_bytes, backlog_bytes);
        self.backlog_bytes += backlog_bytes;
        self.release(freed_bytes, now_us);
        self.make_room();
    }

    /// Gives some of the budget back, and what there is of it to those who wait, in order.
    fn release(&mut self, bytes: usize, now_us: u64) {
        assert!(bytes <= self.reserved_bytes);
        self.reserved_bytes -= bytes;
        while let Some(&place) = self.waiting.front() {
            let connection = self.slots[place as usize].connection.as_deref_mut().expect("one that waits is there");
            let wanted_bytes = connection.unit_bytes;
            if self.reserved_bytes + wanted_bytes > self.reserved_bytes_max {
                self.look_at_us.get_or_insert(now_us + SECOND_US);
                return;
            }
            self.waiting.pop_front();
            self.reserved_bytes += wanted_bytes;
            connection.reserved_bytes = wanted_bytes;
            connection.is_waiting = false;
            connection.unit_since_us = now_us;
            let covered_bytes = wanted_bytes.min(connection.backlog_bytes);
            connection.backlog_bytes -= covered_bytes;
            self.backlog_bytes -= covered_bytes;
            self.touch(place);
        }
        self.look_at_us = None;
    }

    /// Stops everybody while too much waits to be taken: what is on its way already may double it, and not more.
    fn make_room(&mut self) {
        let is_crowded = if self.is_crowded {
            STREAM_BACKLOG_BYTES_MAX / 2 < self.backlog_bytes
        } else {
            STREAM_BACKLOG_BYTES_MAX < self.backlog_bytes
        };
        if std::mem::replace(&mut self.is_crowded, is_crowded) != is_crowded {
            for place in 0..self.slots.len() as u32 {
                self.touch(place);
            }
        }
    }

    fn touch(&mut self, place: u32) {
        let Some(connection) = self.slots[place as usize].connection.as_mut() else { return };
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(place);
        }
    }

    /// Tells the sockets what came of the turn.
    pub fn flush(&mut self, ring: &mut Ring) {
        while let Some(place) = self.dirty.pop() {
            if let Some(connection) = self.slots[place as usize].connection.as_deref_mut() {
                connection.is_dirty = false;
                connection.receive(ring, self.is_crowded, &mut self.wide_left);
            }
        }
    }

    // ----- what the service asks for -----

    pub fn get_mut(&mut self, key: StreamKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.place as usize)?;
        let connection = slot.connection.as_deref_mut()?;
        (slot.generation == key.generation && !connection.is_closing).then_some(&mut connection.stream)
    }

    /// Goes on with one that has paused.
    pub fn resume<S: StreamService<Stream = T>>(&mut self, key: StreamKey, service: &mut S, now_us: u64) {
        if self.get_mut(key).is_some() && std::mem::take(&mut self.connection(key.place).is_paused) {
            self.feed(key.place, &[], service, now_us);
        }
    }

    pub fn close(&mut self, key: StreamKey, ring: &mut Ring) {
        if self.get_mut(key).is_some() {
            self.connection(key.place).close(ring);
        }
    }

    // ----- time and the end -----

    /// Does what is due.
    pub fn on_time(&mut self, ring: &mut Ring, now_us: u64) {
        self.admission.on_time(ring, now_us);
        if self.look_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.look_at_us = (!self.waiting.is_empty()).then_some(now_us + SECOND_US);
            self.close_stalled(ring, now_us);
        }
        if self.drain_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.drain_at_us = Some(now_us + STREAM_QUIET_US);
            self.end_quiet(ring, now_us);
        }
    }

    /// When `on_time` wants to be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        [self.admission.deadline(), self.look_at_us, self.drain_at_us].into_iter().flatten().min()
    }

    /// Closes those that have reserved what others wait for, and do not go on.
    fn close_stalled(&mut self, ring: &mut Ring, now_us: u64) {
        if self.waiting.is_empty() {
            return;
        }
        for connection in self.slots.iter_mut().filter_map(|slot| slot.connection.as_deref_mut()) {
            let arrived_bytes = connection.held.len() as u64;
            let clock = BodyClock { since_us: connection.unit_since_us, bytes: arrived_bytes };
            let is_late = clock.deadline_us() <= now_us;
            if 0 < connection.reserved_bytes && !connection.is_paused && !connection.is_closing && is_late {
                self.stalled_count += 1;
                connection.close(ring);
            }
        }
    }

    /// Comes to an end: what the kernel holds is still received, and what is on its way to it as long as it keeps coming.
    pub fn drain(&mut self, now_us: u64) {
        self.drain_at_us = Some(now_us + STREAM_QUIET_US);
    }

    /// Ends the input of those that say nothing, behind what the kernel holds of it.
    fn end_quiet(&mut self, ring: &mut Ring, now_us: u64) {
        for connection in self.slots.iter().filter_map(|slot| slot.connection.as_deref()) {
            if connection.received_at_us + STREAM_QUIET_US <= now_us {
                ring.shutdown_read(connection.socket);
            }
        }
    }

    /// Ends the input of those that a sender keeps from their end.
    pub fn cut<S: StreamService<Stream = T>>(&mut self, ring: &mut Ring, service: &mut S, now_us: u64) {
        self.is_cut = true;
        for place in 0..self.slots.len() as u32 {
            let Some(connection) = self.slots[place as usize].connection.as_deref_mut() else { continue };
            if connection.is_closing || connection.is_ended {
                continue;
            }
            if connection.receive == Receive::Idle {
                connection.is_ended = true;
                self.feed(place, &[], service, now_us);
            } else {
                ring.stop_receive(connection.socket);
            }
        }
    }

    /// Closes whatever is still open, and says how many had something that nobody took.
    pub fn close_all(&mut self, ring: &mut Ring) -> usize {
        let mut cut_count = 0;
        for connection in self.slots.iter_mut().filter_map(|slot| slot.connection.as_deref_mut()) {
            cut_count += usize::from(0 < connection.held.len() && !connection.is_closing);
            connection.close(ring);
        }
        cut_count
    }
}

impl<T> Connection<T> {
    fn receive(&mut self, ring: &mut Ring, is_crowded: bool, wide_left: &mut usize) {
        if self.is_closing || self.is_ended {
            return;
        }
        let wants = !self.is_paused && !self.is_waiting && !self.is_finished && !is_crowded;
        let missing_bytes = self.missing_bytes();
        match self.receive {
            Receive::Idle if wants && self.has_long_units => {
                // No more than a piece at once, and then as much again as there is: a length alone takes no memory.
                let piece_bytes = BODY_RESERVE_BYTES.max(self.held.len());
                let mut bytes_max = missing_bytes.min(piece_bytes).max(RECEIVE_BUFFER_BYTES as usize);
                // Who fills what is asked for has more than one unit on the way: fewer calls, and fewer answers of TCP.
                if self.is_fast && 0 < *wide_left {
                    *wide_left -= 1;
                    self.is_wide = true;
                    bytes_max = bytes_max.max(STREAM_WIDE_BYTES);
                }
                self.own_bytes_max = self.held.len() + bytes_max;
                self.receive = Receive::Own;
                ring.receive_into(self.socket, self.held.lend(bytes_max), bytes_max);
            }
            Receive::Idle if wants => {
                self.receive = Receive::Shared;
                ring.receive(self.socket);
            }
            Receive::Shared if !wants || DIRECT_RECEIVE_BYTES_MIN < missing_bytes => {
                self.receive = Receive::Stopping;
                ring.stop_receive(self.socket);
            }
            Receive::Idle | Receive::Shared | Receive::Stopping | Receive::Own => {}
        }
    }
}

#[cfg(test)]
mod tests;
