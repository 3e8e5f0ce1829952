//! The connections of one core: sockets of its ring, each under its HTTP/1 state machine.
//!
//! Owns which socket is who, what each may hold, how it receives, and when it ends. Never looks into a byte and never
//! decides about a request: the `Service` does, between a head and its body, and once the body is here.
//!
//! ```text
//!         ┌─► Shared (multishot, the ring's buffers) ─stop─► Stopping ─┐
//! Idle ───┼─► Own (one receive into the connection's buffer) ──────────┼─► Idle     any ─► closing ─► Closed
//!         └─► Body (one receive straight into a large body) ───────────┘
//! ```

use std::net::IpAddr;

use ringlog_engine::io::{Completion, End, ReceiveBuffer, Ring, SocketId};

use crate::limits::{DIRECT_RECEIVE_BYTES_MIN, RECEIVE_BUFFER_BYTES, RECEIVING_BYTES_MAX};
use crate::net::admission::Admission;
use crate::net::http1::{Action, Decision, Http1, Request, Step};
use crate::net::wheel::{TimerKey, Wheel};
use crate::wire::http::{BodyFraming, Head};
use crate::wire::response::{HeaderValue, ReplyTo};
use crate::wire::status::Problem;

/// Whom the connections speak for.
pub trait Service {
    /// What is learnt from a head and kept until its body is here.
    type Context;

    fn decide(&mut self, head: &Head<'_>, peer: IpAddr, reply: &mut ReplyTo) -> Decision<Self::Context>;

    /// Takes one whole request. `answer` is empty; what is written there leaves if the request was answered at once.
    fn handle(
        &mut self,
        asked: Asked,
        peer: IpAddr,
        request: Request<'_, Self::Context>,
        answer: &mut Vec<u8>,
    ) -> Handled;
}

/// Whether the answer is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    Now,
    /// It comes by `Connections::answer` or `Connections::stream`.
    Later,
    /// As `Later`, and what comes behind it on the connection may depend on it.
    LaterChanged,
}

/// A connection, for as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionKey {
    place: u32,
    generation: u32,
}

/// Where an answer goes.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub connection: ConnectionKey,
    pub sequence: u64,
    /// The last request before this one that changes something, by its sequence.
    pub changed_by: Option<u64>,
    pub reply: ReplyTo,
}

/// How a connection receives at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receive {
    Idle,
    Shared,
    /// `Shared` until its end is told.
    Stopping,
    Own,
    Body,
}

struct Connection<C> {
    socket: SocketId,
    peer: IpAddr,
    http: Http1<C>,
    receive: Receive,
    /// Its bodies are large: the next head is received into `own` as well, because ending a shared receive takes a turn.
    has_large_bodies: bool,
    own: Vec<u8>,
    /// The last request that changes something, by its sequence.
    changed_by: Option<u64>,
    is_sending: bool,
    /// The ring has been told to close it.
    is_closing: bool,
    /// Its service wants it gone.
    is_aborted: bool,
    is_dirty: bool,
    /// Bytes of the budget that its body holds.
    reserved_bytes: usize,
    /// When the wheel brings it up at the latest.
    timer_at_us: Option<u64>,
}

struct Slot<C> {
    generation: u32,
    connection: Option<Box<Connection<C>>>,
}

/// What large bodies may hold together.
#[derive(Debug, Default)]
struct Budget {
    reserved_bytes: usize,
}

impl Budget {
    fn reserve(&mut self, bytes: usize) -> bool {
        let fits = self.reserved_bytes + bytes <= RECEIVING_BYTES_MAX;
        if fits {
            self.reserved_bytes += bytes;
        }
        fits
    }

    fn release(&mut self, bytes: usize) {
        assert!(bytes <= self.reserved_bytes);
        self.reserved_bytes -= bytes;
    }
}

pub struct Connections<C> {
    slots: Vec<Slot<C>>,
    admission: Admission,
    budget: Budget,
    wheel: Wheel,
    /// Something happened to these that their sockets have not heard of.
    dirty: Vec<u32>,
    is_draining: bool,
    seed: u64,
    answer: Vec<u8>,
}

impl<C> Connections<C> {
    /// `seed` is random.
    pub fn new(open_count_max: usize, seed: u64, now_us: u64) -> Connections<C> {
        Connections {
            slots: Vec::new(),
            admission: Admission::new(open_count_max),
            budget: Budget::default(),
            wheel: Wheel::new(now_us),
            dirty: Vec::new(),
            is_draining: false,
            seed,
            answer: Vec::new(),
        }
    }

    /// Open ones, those that are being closed among them.
    pub fn len(&self) -> usize {
        self.admission.open_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    // ----- what the ring tells -----

    /// Takes a completion of a listener or socket. Whole requests go to the service.
    pub fn on_completion<S: Service<Context = C>>(
        &mut self,
        completion: Completion,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        match completion {
            Completion::Accepted { socket, peer, .. } => self.accept(socket, peer.ip(), ring, now_us),
            Completion::AcceptFailed { listener, error } => self.admission.failed(listener, &error, now_us),
            Completion::Received { socket, buffer } => self.received(socket, buffer, ring, service, now_us),
            Completion::ReceivedInto { socket, buffer, .. } => {
                self.received_into(socket, Some(buffer), service, now_us);
            }
            Completion::ReceiveEnded { socket, buffer, end } => {
                self.receive_ended(socket, buffer, &end, ring, service, now_us);
            }
            Completion::Sent { socket, buffer, result } => self.sent(socket, buffer, result.is_ok(), ring, now_us),
            Completion::Closed { socket } => self.closed(socket),
            Completion::Disk(_) | Completion::DatagramsReady { .. } | Completion::Woken => {
                unreachable!("not a connection's")
            }
        }
    }

    fn accept(&mut self, socket: SocketId, peer: IpAddr, ring: &mut Ring, now_us: u64) {
        if self.is_draining || !self.admission.enter(peer) {
            ring.close(socket);
            return;
        }
        let place = socket.index();
        if self.slots.len() <= place {
            self.slots.resize_with(place + 1, || Slot { generation: 0, connection: None });
        }
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let slot = &mut self.slots[place];
        assert!(slot.connection.is_none());
        slot.generation = slot.generation.wrapping_add(1);
        slot.connection = Some(Box::new(Connection {
            socket,
            peer,
            http: Http1::new(self.seed, now_us),
            receive: Receive::Idle,
            has_large_bodies: false,
            own: Vec::new(),
            changed_by: None,
            is_sending: false,
            is_closing: false,
            is_aborted: false,
            is_dirty: false,
            reserved_bytes: 0,
            timer_at_us: None,
        }));
        self.touch(place as u32);
    }

    fn received<S: Service<Context = C>>(
        &mut self,
        socket: SocketId,
        buffer: ReceiveBuffer,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        if let Some(place) = self.place_of(socket) {
            let mut input = ring.bytes(&buffer);
            self.step(place, &mut input, service, now_us);
            self.reserve_grown(place);
            self.touch(place);
        }
        ring.recycle(buffer);
    }

    /// The end of a one-shot receive, with what it brought.
    fn received_into<S: Service<Context = C>>(
        &mut self,
        socket: SocketId,
        buffer: Option<Vec<u8>>,
        service: &mut S,
        now_us: u64,
    ) {
        let Some(place) = self.place_of(socket) else { return };
        let connection = self.slots[place as usize].connection.as_mut().expect("it was just found");
        let receive = std::mem::replace(&mut connection.receive, Receive::Idle);
        match (receive, buffer) {
            (Receive::Body, Some(buffer)) => {
                connection.http.give_buffer(buffer);
                self.step(place, &mut &b""[..], service, now_us);
            }
            (Receive::Own, Some(mut buffer)) => {
                self.step(place, &mut &buffer[..], service, now_us);
                buffer.clear();
                if let Some(connection) = self.slots[place as usize].connection.as_mut() {
                    connection.own = buffer;
                }
            }
            (Receive::Idle | Receive::Shared | Receive::Stopping | Receive::Own | Receive::Body, _) => {}
        }
        self.touch(place);
    }

    fn receive_ended<S: Service<Context = C>>(
        &mut self,
        socket: SocketId,
        buffer: Option<Vec<u8>>,
        end: &End,
        ring: &mut Ring,
        service: &mut S,
        now_us: u64,
    ) {
        self.received_into(socket, buffer, service, now_us);
        let Some(place) = self.place_of(socket) else { return };
        let connection = self.slots[place as usize].connection.as_mut().expect("it was just found");
        match end {
            End::Eof => {
                connection.http.on_eof();
                self.step(place, &mut &b""[..], service, now_us);
            }
            End::Error(_) => connection.close(ring),
            End::Canceled => {}
        }
    }

    fn sent(&mut self, socket: SocketId, buffer: Vec<u8>, is_ok: bool, ring: &mut Ring, now_us: u64) {
        let Some(place) = self.place_of(socket) else { return };
        let connection = self.slots[place as usize].connection.as_mut().expect("it was just found");
        connection.is_sending = false;
        if is_ok {
            connection.http.on_sent(buffer, now_us);
            self.touch(place);
        } else {
            connection.close(ring);
        }
    }

    fn closed(&mut self, socket: SocketId) {
        let Some(slot) = self.slots.get_mut(socket.index()) else { return };
        let Some(connection) = slot.connection.take_if(|connection| connection.socket == socket) else { return };
        self.budget.release(connection.reserved_bytes);
        self.admission.leave(connection.peer);
    }

    /// Where a socket's connection is, unless it is gone or going.
    fn place_of(&self, socket: SocketId) -> Option<u32> {
        let connection = self.slots.get(socket.index())?.connection.as_ref()?;
        (connection.socket == socket && !connection.is_closing).then_some(socket.index() as u32)
    }

    /// Feeds bytes in, and hands every request that is whole to the service.
    fn step<S: Service<Context = C>>(&mut self, place: u32, input: &mut &[u8], service: &mut S, now_us: u64) {
        let Self { slots, budget, answer, .. } = self;
        let slot = &mut slots[place as usize];
        let key = ConnectionKey { place, generation: slot.generation };
        let Some(connection) = slot.connection.as_mut() else { return };
        let Connection { http, reserved_bytes, has_large_bodies, changed_by, peer, .. } = &mut **connection;
        loop {
            let step = http.step(input, now_us, |head, reply| {
                budget.release(std::mem::take(reserved_bytes));
                let decision = service.decide(head, *peer, reply);
                let Decision::Accept { body_bytes_max, .. } = &decision else { return decision };
                let body_bytes = match head.framing() {
                    BodyFraming::Length(bytes) if bytes <= *body_bytes_max as u64 => bytes as usize,
                    // One that is longer is refused for it, and a chunked one reserves as it grows.
                    BodyFraming::Length(_) | BodyFraming::None | BodyFraming::Chunked => 0,
                };
                *has_large_bodies = body_bytes > DIRECT_RECEIVE_BYTES_MIN;
                if !*has_large_bodies {
                    return decision;
                }
                if !budget.reserve(body_bytes) {
                    return Decision::Reject(Box::new(Problem::overloaded("too many large bodies are on their way")));
                }
                *reserved_bytes = body_bytes;
                decision
            });
            let Step::Request(request) = step else { return };
            let sequence = request.sequence;
            let asked = Asked { connection: key, sequence, changed_by: *changed_by, reply: request.reply };
            answer.clear();
            match service.handle(asked, *peer, request, answer) {
                Handled::Now => http.complete(sequence, answer),
                Handled::Later => {}
                Handled::LaterChanged => *changed_by = Some(sequence),
            }
            budget.release(std::mem::take(reserved_bytes));
        }
    }

    /// Reserves for a body whose length nobody has told. Where that fails, the connection's end is the answer.
    fn reserve_grown(&mut self, place: u32) {
        let Some(connection) = self.slots[place as usize].connection.as_mut() else { return };
        let body_bytes = connection.http.body_bytes();
        if body_bytes <= connection.reserved_bytes.max(DIRECT_RECEIVE_BYTES_MIN) {
            return;
        }
        let more_bytes = body_bytes - connection.reserved_bytes;
        if self.budget.reserve(more_bytes) {
            connection.reserved_bytes = body_bytes;
        } else {
            connection.is_aborted = true;
        }
    }

    // ----- answers -----

    /// Gives the answer to a request one more header, whoever writes it. To be said before its first byte is.
    pub fn add_header(&mut self, asked: &Asked, name: &'static str, value: &HeaderValue<'_>) {
        if let Some(connection) = self.get_mut(asked.connection) {
            connection.http.add_header(asked.sequence, name, value);
        }
    }

    /// Writes the whole answer to a request. One whose connection is gone goes nowhere.
    pub fn answer(&mut self, asked: &Asked, write: impl FnOnce(&mut Vec<u8>, &ReplyTo)) {
        let Some(connection) = self.get_mut(asked.connection) else { return };
        connection.http.complete_with(asked.sequence, |out| write(out, &asked.reply));
        self.touch(asked.connection.place);
    }

    /// Whether everything is answered that the connection asked to be changed before this. RFC 9112 9.3.2 lets only
    /// requests with safe methods overtake each other. A connection that is gone has nothing to wait for.
    pub fn is_due(&self, asked: &Asked) -> bool {
        let Some(changed_by) = asked.changed_by else { return true };
        self.get(asked.connection).is_none_or(|connection| connection.http.is_answered(changed_by))
    }

    /// Whether another piece of an answer has somewhere to go.
    pub fn can_stream(&self, asked: &Asked) -> bool {
        self.get(asked.connection).is_some_and(|connection| connection.http.can_stream(asked.sequence))
    }

    /// A piece of an answer, its head included. Ask `can_stream` before each.
    pub fn stream(&mut self, asked: &Asked, piece: &[u8], is_last: bool) {
        let Some(connection) = self.get_mut(asked.connection) else { return };
        connection.http.stream(asked.sequence, piece, is_last);
        self.touch(asked.connection.place);
    }

    pub fn is_open(&self, key: ConnectionKey) -> bool {
        self.get(key).is_some()
    }

    /// Ends a connection whose answer cannot be finished: the client must not take what it got for the whole.
    pub fn abort(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.get_mut(key) {
            connection.is_aborted = true;
            self.touch(key.place);
        }
    }

    fn get(&self, key: ConnectionKey) -> Option<&Connection<C>> {
        let slot = self.slots.get(key.place as usize)?;
        let connection = slot.connection.as_deref()?;
        (slot.generation == key.generation && !connection.is_closing).then_some(connection)
    }

    fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection<C>> {
        let slot = self.slots.get_mut(key.place as usize)?;
        let connection = slot.connection.as_deref_mut()?;
        (slot.generation == key.generation && !connection.is_closing).then_some(connection)
    }

    fn touch(&mut self, place: u32) {
        let Some(connection) = self.slots[place as usize].connection.as_mut() else { return };
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(place);
        }
    }

    // ----- time and the end -----

    /// Does what is due.
    pub fn on_time(&mut self, ring: &mut Ring, now_us: u64) {
        self.admission.on_time(ring, now_us);
        let Self { slots, wheel, dirty, .. } = self;
        wheel.advance(now_us, |key| {
            let slot = slots.get_mut(key.slot as usize)?;
            let connection = slot.connection.as_mut()?;
            // An earlier deadline was armed in the meantime, and this entry is left over.
            let is_stale = connection.timer_at_us.is_none_or(|at_us| now_us < at_us);
            if slot.generation != key.generation || connection.is_closing || is_stale {
                return None;
            }
            connection.http.trim();
            if connection.http.deadline().is_some_and(|at_us| at_us <= now_us) {
                connection.http.on_deadline(now_us);
                if !std::mem::replace(&mut connection.is_dirty, true) {
                    dirty.push(key.slot);
                }
            }
            connection.timer_at_us = connection.http.deadline();
            connection.timer_at_us
        });
    }

    /// When `on_time` wants to be called at the latest.
    pub fn deadline(&self) -> Option<u64> {
        [self.wheel.next_deadline(), self.admission.deadline()].into_iter().flatten().min()
    }

    /// Tells the sockets what came of the turn: one send each at most.
    pub fn flush<S: Service<Context = C>>(&mut self, ring: &mut Ring, service: &mut S, now_us: u64) {
        while let Some(place) = self.dirty.pop() {
            self.settle(place, ring, service, now_us);
        }
    }

    fn settle<S: Service<Context = C>>(&mut self, place: u32, ring: &mut Ring, service: &mut S, now_us: u64) {
        loop {
            let Some(connection) = self.slots[place as usize].connection.as_mut() else { return };
            connection.is_dirty = false;
            if connection.is_closing || !connection.http.has_backlog() {
                break;
            }
            self.step(place, &mut &b""[..], service, now_us);
        }
        let slot = &mut self.slots[place as usize];
        let Some(connection) = slot.connection.as_mut() else { return };
        connection.send(ring, now_us);
        connection.receive(ring);
        let Some(deadline_us) = connection.http.deadline() else { return };
        if !connection.is_closing && connection.timer_at_us.is_none_or(|at_us| deadline_us < at_us) {
            connection.timer_at_us = Some(deadline_us);
            self.wheel.insert(TimerKey { slot: place, generation: slot.generation }, deadline_us);
        }
    }

    /// Finishes what has begun, and takes nothing new. Listeners are the caller's to stop.
    pub fn drain(&mut self) {
        self.is_draining = true;
        for place in 0..self.slots.len() {
            if let Some(connection) = self.slots[place].connection.as_mut() {
                connection.http.drain();
                self.touch(place as u32);
            }
        }
    }

    /// Closes whatever is still open.
    pub fn close_all(&mut self, ring: &mut Ring) {
        for slot in &mut self.slots {
            if let Some(connection) = slot.connection.as_mut() {
                connection.close(ring);
            }
        }
    }
}

impl<C> Connection<C> {
    fn close(&mut self, ring: &mut Ring) {
        if !std::mem::replace(&mut self.is_closing, true) {
            ring.close(self.socket);
        }
    }

    fn send(&mut self, ring: &mut Ring, now_us: u64) {
        if self.is_closing {
            return;
        }
        if self.is_aborted {
            self.close(ring);
            return;
        }
        if !self.is_sending
            && let Some(output) = self.http.take_output(now_us)
        {
            self.is_sending = true;
            ring.send(self.socket, output);
        }
        match self.http.action(now_us) {
            Action::Continue => {}
            Action::ShutdownWrite => ring.shutdown_write(self.socket),
            Action::Close | Action::Abort => self.close(ring),
        }
    }

    fn receive(&mut self, ring: &mut Ring) {
        if self.is_closing {
            return;
        }
        let wanted = self.http.wants_direct();
        match self.receive {
            Receive::Idle => {
                if let Some(bytes_max) = wanted {
                    let buffer = self.http.take_buffer();
                    self.receive = Receive::Body;
                    ring.receive_into(self.socket, buffer, bytes_max);
                } else if self.http.wants_read() && self.has_large_bodies {
                    let buffer = std::mem::take(&mut self.own);
                    self.receive = Receive::Own;
                    ring.receive_into(self.socket, buffer, RECEIVE_BUFFER_BYTES as usize);
                } else if self.http.wants_read() {
                    self.own = Vec::new();
                    self.receive = Receive::Shared;
                    ring.receive(self.socket);
                }
            }
            Receive::Shared => {
                if wanted.is_some() || !self.http.wants_read() {
                    self.receive = Receive::Stopping;
                    ring.stop_receive(self.socket);
                }
            }
            Receive::Stopping | Receive::Own | Receive::Body => {}
        }
    }
}
