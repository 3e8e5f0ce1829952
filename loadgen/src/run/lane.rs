//! One thread's share of a run as plain state: its connections' books, its schedule, its counts.
//!
//! It is borrowed once for each thing that happens and never across a wait. Nothing leaves the books silently:
//! a request ends as an answer or as an error with a kind.
//!
//! ```text
//! clock ─► pace ─┐                        ┌─► free connections, in the order they became free (open loop)
//!                ├─► send_next ─► socket   │
//! bytes ─► on_bytes ─► judge, count ───────┴─► the same connection's next request (closed loop)
//! ```
//!
//! The open loop keeps no queue of its own: what is due and not sent is the part of the schedule that lies behind.

use super::alarm::Alarm;
use super::books::{Books, End, Pending, State};
use super::schedule::Schedule;
use crate::ledger::{Ack, LedgerWriter};
use crate::protocol::{Answer, Outcome, ReadError, Step};
use crate::stats::{Interval, Tally};
use crate::workload::{Scrutiny, Stream, Workload};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// So that the end of the run is noticed.
const NAP_NS_MAX: u64 = 50_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connecting,
    Running,
    /// Nothing new is sent; what is in flight may still be answered.
    Ending,
}

#[derive(Debug)]
pub enum Pace {
    /// The next request leaves when an answer comes: a slow server is asked less. So many may still be sent.
    Closed { left: u64 },
    /// Requests leave on a schedule that was fixed in advance.
    Open(Schedule),
}

#[derive(Debug)]
pub struct Lane {
    pub workload: Arc<Workload>,
    pub origin: Instant,
    pub depth: usize,
    pub phase: Phase,
    pub pace: Pace,
    /// The measured time, in nanoseconds since the origin.
    pub window: (u64, u64),
    pub tally: Tally,
    /// Intervals that are over and not handed over yet.
    pub over: Vec<Interval>,
    pub last_answer_at: u64,
    /// Why the run must end at once: the ledger cannot be written.
    pub fatal: Option<String>,
    /// Connections whose socket took no more: somebody has to wait for them and call [`Lane::flush`].
    pub stuck: Vec<usize>,
    ledger: Option<LedgerWriter>,
    connections: Vec<Books>,
    free: VecDeque<usize>,
    alarm: Option<Alarm>,
    acks: Vec<Ack>,
    reply: Vec<u8>,
}

impl Lane {
    pub fn new(
        workload: Arc<Workload>,
        origin: Instant,
        depth: usize,
        streams: Vec<Stream>,
        ledger: Option<LedgerWriter>,
    ) -> Self {
        let books = |stream: Stream| {
            let reader = workload.protocol.reader(stream.connection());
            Books::new(stream, reader, depth)
        };
        let connections = streams.into_iter().map(books).collect();
        let tally = Tally::new(workload.recipe.mix.operations.len());
        Self {
            workload,
            origin,
            depth,
            phase: Phase::Connecting,
            pace: Pace::Closed { left: 0 },
            window: (u64::MAX, u64::MAX),
            tally,
            over: Vec::new(),
            last_answer_at: 0,
            fatal: None,
            stuck: Vec::new(),
            ledger,
            connections,
            free: VecDeque::new(),
            alarm: None,
            acks: Vec::new(),
            reply: Vec::new(),
        }
    }

    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    pub fn states(&self) -> impl Iterator<Item = State> {
        self.connections.iter().map(|connection| connection.state)
    }

    /// Every connection is there and greeted, or has failed.
    pub fn is_settled(&self) -> bool {
        self.connections.iter().all(|connection| match connection.state {
            State::Connecting => false,
            State::Connected => connection.reader.is_ready(),
            State::Away | State::Ended => true,
        })
    }

    /// Nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.connections.iter().all(|connection| connection.in_flight.is_empty())
    }

    /// Everything that there is to send has been sent.
    pub fn has_run_out(&self) -> bool {
        match &self.pace {
            Pace::Closed { left } => *left == 0,
            Pace::Open(schedule) => schedule.left() == 0,
        }
    }

    fn is_measured(&self, at: u64) -> bool {
        self.window.0 <= at && at < self.window.1
    }

    /// The connections begin to send.
    pub fn start(&mut self, pace: Pace, alarm: Option<Alarm>, start_at: u64, window: (u64, u64)) {
        let now = self.now();
        self.pace = pace;
        self.alarm = alarm;
        self.window = window;
        self.phase = Phase::Running;
        self.tally.begin(now.max(start_at), window);
        for index in 0..self.connections.len() {
            self.offer(index, now);
        }
    }

    /// A connection is there. Says the protocol's greeting; answers the number of this connection.
    pub fn opened(&mut self, index: usize, socket: std::net::TcpStream) -> u64 {
        let now = self.now();
        let connection = &mut self.connections[index];
        connection.state = State::Connected;
        connection.reader = self.workload.protocol.reader(connection.stream.connection());
        connection.broken = None;
        connection.socket = Some(socket);
        connection.number += 1;
        connection.freed_at = now;
        connection.unsent.clear();
        connection.unsent_from = 0;
        connection.is_stuck = false;
        let number = connection.number;
        self.workload.protocol.hello(&mut connection.unsent);
        self.send(index);
        self.offer(index, now);
        number
    }

    /// The connection is over; whatever was in flight ends with an error. Answers whether it ended in good order.
    pub fn closed(&mut self, index: usize, end: End, next: State) -> bool {
        let now = self.now();
        let (is_polite, why) = match end {
            End::Done => (true, "unanswered".to_owned()),
            End::Polite => (true, "closed by server".to_owned()),
            End::Closed => (false, "closed by server".to_owned()),
            End::Error(why) => (false, why),
        };
        let connection = &mut self.connections[index];
        // What ended it from this side is the reason, not what the socket said then.
        let why = connection.broken.take().unwrap_or(why);
        let was_greeted = connection.reader.is_ready();
        connection.socket = None;
        connection.state = next;
        let pending = std::mem::take(&mut connection.in_flight);
        if pending.is_empty() && !was_greeted && self.phase != Phase::Ending {
            self.tally.stats.error(&format!("greeting: {why}"));
        }
        for pending in pending {
            self.failed(&pending, &why, now);
        }
        is_polite
    }

    /// No connection came about.
    pub fn not_connected(&mut self, why: &str) {
        self.tally.stats.error(&format!("connect: {why}"));
    }

    pub fn set_state(&mut self, index: usize, state: State) {
        self.connections[index].state = state;
    }

    fn failed(&mut self, pending: &Pending, why: &str, now: u64) {
        let is_measured = self.is_measured(pending.intended_at);
        let operation = &mut self.tally.stats.operations[usize::from(pending.sent.operation)];
        operation.errors += 1;
        if is_measured && matches!(self.pace, Pace::Open(_)) {
            operation.response.saturating_record(now.saturating_sub(pending.intended_at));
        }
        self.tally.stats.error(why);
    }

    /// Ends a connection from this side; whatever is in flight ends with this error.
    pub fn break_off(&mut self, index: usize, why: &str) {
        let connection = &mut self.connections[index];
        if connection.broken.is_none() {
            connection.broken = Some(why.to_owned());
        }
        if let Some(socket) = &connection.socket {
            // It may be closed already; then there is nothing to end.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Ends the connections whose oldest request, or whose greeting, has waited for longer than `timeout_ns`.
    pub fn check_timeouts(&mut self, now: u64, timeout_ns: u64) {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            let since = match connection.in_flight.front() {
                Some(oldest) => oldest.sent_at,
                None if connection.state == State::Connected && !connection.reader.is_ready() => connection.freed_at,
                None => continue,
            };
            if since.saturating_add(timeout_ns) < now {
                self.break_off(index, "timeout");
            }
        }
    }

    /// Nothing more is sent. What the schedule still wanted by `now` was not sent, and counts as an error.
    pub fn end(&mut self, now: u64) {
        if self.phase == Phase::Ending {
            return;
        }
        self.phase = Phase::Ending;
        let has_connections = self.states().any(|state| state != State::Ended);
        // A count that was asked for is kept even when nobody is left to send it to.
        let until = if has_connections || self.window.1 != u64::MAX { now.min(self.window.1) } else { u64::MAX };
        if let Pace::Open(schedule) = &mut self.pace {
            while schedule.next_at() < until {
                let intended_at = schedule.next_at();
                schedule.advance();
                self.tally.stats.error("not sent");
                // At least this long it would have waited. Which kind it would have been nobody knows.
                if self.window.0 <= intended_at && intended_at < self.window.1 {
                    let waited = now.saturating_sub(intended_at);
                    self.tally.stats.operations[0].response.saturating_record(waited);
                }
            }
        }
        for index in 0..self.connections.len() {
            if self.connections[index].in_flight.is_empty() {
                self.break_off(index, "ended");
            }
        }
    }

    /// Sends what the schedule wants by `now`, as far as connections are free.
    pub fn pace(&mut self, now: u64) {
        loop {
            let Pace::Open(schedule) = &mut self.pace else { return };
            if now < schedule.next_at() || self.window.1 <= schedule.next_at() || self.phase != Phase::Running {
                return;
            }
            let Some(index) = self.free.pop_front() else { return };
            self.connections[index].is_listed_as_free = false;
            if !self.connections[index].has_room(self.depth) {
                continue;
            }
            let intended_at = schedule.next_at();
            schedule.advance();
            self.write(index, intended_at, intended_at.max(self.connections[index].freed_at));
            self.send(index);
            self.list_as_free(index);
        }
    }

    /// Sends what is due, and sets the alarm for what is due next.
    pub fn on_alarm(&mut self) {
        let now = self.now();
        self.pace(now);
        let now = self.now();
        let next_at = self.next_at(now).unwrap_or(now + NAP_NS_MAX).min(now + NAP_NS_MAX);
        if let Some(alarm) = &mut self.alarm {
            alarm.set(now, next_at);
        }
    }

    /// When the schedule wants something that is not due yet. What is due already waits for a connection.
    fn next_at(&self, now: u64) -> Option<u64> {
        match &self.pace {
            Pace::Open(schedule) => {
                Some(schedule.next_at()).filter(|next_at| now < *next_at && *next_at < self.window.1)
            }
            Pace::Closed { .. } => None,
        }
    }

    fn list_as_free(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_listed_as_free && connection.has_room(self.depth) {
            connection.is_listed_as_free = true;
            self.free.push_back(index);
        }
    }

    /// The connection has room: it gets what there is to send.
    fn offer(&mut self, index: usize, now: u64) {
        if self.phase != Phase::Running {
            return;
        }
        if let Pace::Open(_) = self.pace {
            self.list_as_free(index);
            self.pace(now);
            if let (Some(next_at), Some(alarm)) = (self.next_at(now), &mut self.alarm) {
                alarm.bring_forward(now, next_at);
            }
            return;
        }
        let mut has_written = false;
        while let Pace::Closed { left } = &mut self.pace
            && 0 < *left
            && self.connections[index].has_room(self.depth)
        {
            *left -= 1;
            self.write(index, now, now);
            has_written = true;
        }
        if has_written {
            self.send(index);
        }
    }

    /// Appends a request to what the connection has to send.
    fn write(&mut self, index: usize, intended_at: u64, possible_at: u64) {
        let connection = &mut self.connections[index];
        let from = connection.unsent.len();
        let sent = self.workload.write(&mut connection.stream, &mut connection.unsent);
        connection.reader.note_sent(sent.event_count);
        if let Some(ledger) = &mut self.ledger
            && !connection.stream.marks.is_empty()
        {
            ledger.sent(sent.first_seq, sent.tenant, &connection.stream.marks);
        }
        let request_bytes = (connection.unsent.len() - from) as u32;
        // The send is the very next thing, but for what a batch of requests takes to be written.
        let sent_at = self.origin.elapsed().as_nanos() as u64;
        connection.in_flight.push_back(Pending { sent, intended_at, sent_at, request_bytes });
        if matches!(self.pace, Pace::Open(_)) && self.is_measured(intended_at) {
            self.tally.stats.send_lag.saturating_record(sent_at.saturating_sub(possible_at));
        }
    }

    /// Hands the kernel what it takes; the rest waits for [`Lane::flush`].
    fn send(&mut self, index: usize) {
        // What the server may hold must be in the ledger before the server can have it.
        if !self.flush_ledger() {
            return self.break_off(index, "ledger");
        }
        let connection = &mut self.connections[index];
        let Some(socket) = connection.socket.as_ref().filter(|_| !connection.is_stuck) else { return };
        while connection.unsent_from < connection.unsent.len() {
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            match rustix::net::send(socket, &connection.unsent[connection.unsent_from..], flags) {
                Ok(bytes) => connection.unsent_from += bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    connection.is_stuck = true;
                    self.stuck.push(index);
                    return;
                }
                Err(error) => {
                    let why = format!("write: {}", io_kind(&error.into()));
                    return self.break_off(index, &why);
                }
            }
        }
        connection.unsent.clear();
        connection.unsent_from = 0;
    }

    /// The socket takes bytes again. Answers whether nobody has to wait any more.
    pub fn flush(&mut self, index: usize, number: u64) -> bool {
        let connection = &mut self.connections[index];
        if connection.number != number || connection.socket.is_none() || connection.broken.is_some() {
            return true;
        }
        connection.is_stuck = false;
        self.send(index);
        let now = self.now();
        self.offer(index, now);
        // Whoever asks goes on waiting: nobody else need be called.
        self.stuck.retain(|stuck| *stuck != index);
        !self.connections[index].is_stuck
    }

    /// A second handle to the socket of a connection that is stuck, and the connection's number.
    pub fn stuck_socket(&self, index: usize) -> Option<(io::Result<std::net::TcpStream>, u64)> {
        let connection = &self.connections[index];
        connection.socket.as_ref().map(|socket| (socket.try_clone(), connection.number))
    }

    /// Takes what came on a connection: answers how many bytes are used up, and whether the connection is over.
    pub fn on_bytes(&mut self, index: usize, buffer: &[u8], closed: bool) -> (usize, Option<End>) {
        let now = self.now();
        if let Some(over) = self.tally.turn(now, self.window) {
            self.over.push(over);
        }
        // First what idle connections should long have sent: else a late look would pass for a busy server.
        self.pace(now);
        let mut offset = 0;
        let was_ready = self.connections[index].reader.is_ready();
        let end = self.read_answers(index, buffer, closed, now, &mut offset);
        if !was_ready && self.connections[index].reader.is_ready() {
            self.connections[index].freed_at = now;
        }
        if !self.flush_ledger() {
            return (offset, Some(End::Error("ledger".to_owned())));
        }
        if !self.reply.is_empty() {
            let reply = std::mem::take(&mut self.reply);
            self.connections[index].unsent.extend_from_slice(&reply);
            self.reply = reply;
            self.reply.clear();
            self.send(index);
        }
        let connection = &mut self.connections[index];
        if end.is_some() || closed {
            let is_midway = connection.reader.is_midway(&buffer[offset..]);
            let closed_end = if is_midway { End::Error("closed in mid-answer".to_owned()) } else { End::Closed };
            return (offset, Some(end.unwrap_or(closed_end)));
        }
        if self.phase == Phase::Ending && connection.in_flight.is_empty() {
            return (offset, Some(End::Done));
        }
        self.offer(index, now);
        (offset, None)
    }

    fn read_answers(&mut self, index: usize, buffer: &[u8], closed: bool, now: u64, offset: &mut usize) -> Option<End> {
        loop {
            let rest = &buffer[*offset..];
            match self.connections[index].reader.advance(rest, closed, &mut self.reply) {
                Ok(Step::Answer(answer)) => {
                    if !self.answered(index, now, &answer, rest) {
                        return Some(End::Error("answer nobody asked for".to_owned()));
                    }
                    *offset += answer.consumed;
                    if answer.will_close {
                        return Some(End::Polite);
                    }
                }
                Ok(Step::Aside { consumed }) => *offset += consumed,
                Ok(Step::More) => return None,
                Err(ReadError::Truncated) => return Some(End::Error("closed in mid-answer".to_owned())),
                Err(ReadError::Malformed(_) | ReadError::TooLarge(_)) => {
                    return Some(End::Error("malformed answer".to_owned()));
                }
                Err(ReadError::Refused(why)) => return Some(End::Error(why)),
            }
        }
    }

    /// Books an answer to the oldest request; `false` when there is none.
    fn answered(&mut self, index: usize, now: u64, answer: &Answer, buffer: &[u8]) -> bool {
        let connection = &mut self.connections[index];
        let Some(pending) = connection.in_flight.pop_front() else { return false };
        if connection.in_flight.len() + 1 == self.depth {
            connection.freed_at = now;
        }
        let judged = self.workload.judge(pending.sent, &answer.outcome, answer.body(buffer), &mut self.acks);
        self.last_answer_at = now;
        let is_measured = self.is_measured(now);
        let is_intended = self.is_measured(pending.intended_at);
        let is_noted = self.workload.scrutiny == Scrutiny::Everything && 0 < pending.sent.event_count;
        let events = u64::from(pending.sent.event_count);
        let stats = &mut self.tally.stats;
        let operation = &mut stats.operations[usize::from(pending.sent.operation)];
        match judged {
            Ok(()) => {
                if let Some(ledger) = self.ledger.as_mut().filter(|_| is_noted) {
                    ledger.acked(pending.sent.first_seq, &self.acks);
                }
                stats.requests_good += 1;
                stats.events_good += events;
                if is_measured {
                    operation.requests_measured += 1;
                    operation.events_measured += events;
                    stats.bytes_sent += u64::from(pending.request_bytes);
                    stats.bytes_received += answer.consumed as u64;
                }
            }
            Err(kind) => {
                // A 4xx promises that nothing was stored; anything else promises nothing.
                if let Outcome::Status(status @ 400..500) = answer.outcome
                    && let Some(ledger) = self.ledger.as_mut().filter(|_| is_noted)
                {
                    ledger.refused(pending.sent.first_seq, status);
                }
                operation.errors += 1;
                stats.error(&kind);
            }
        }
        let operation = &mut self.tally.stats.operations[usize::from(pending.sent.operation)];
        match self.pace {
            Pace::Closed { .. } if is_measured => operation.service.saturating_record(now - pending.sent_at.min(now)),
            Pace::Open(_) if is_intended => {
                operation.service.saturating_record(now - pending.sent_at.min(now));
                operation.response.saturating_record(now - pending.intended_at.min(now));
            }
            Pace::Closed { .. } | Pace::Open(_) => {}
        }
        true
    }

    pub fn flush_ledger(&mut self) -> bool {
        let Some(ledger) = &mut self.ledger else { return true };
        match ledger.flush() {
            Ok(()) => true,
            Err(error) => {
                self.fatal = Some(format!("the ledger cannot be written: {error}"));
                false
            }
        }
    }
}

pub fn io_kind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset => "reset by server",
        io::ErrorKind::BrokenPipe => "broken pipe",
        io::ErrorKind::TimedOut => "timeout",
        io::ErrorKind::NotFound => "no address",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        _ => "other",
    }
}
