//! One connection of a run: a writer that keeps the window full and a reader that matches answers to requests.
//!
//! Owns the books of what is in flight. Nothing leaves them silently: a request ends as an answer or as an error
//! with a kind.
//!
//! ```text
//! pacer (open loop) ─ due ─► writer ─► socket ─► reader ─► stats, ledger
//!                              ▲   in flight (FIFO)   │
//!                              └────── wake ──────────┘
//! ```

use crate::client::{Connected, connect};
use crate::corpus::Seq;
use crate::ledger::LedgerWriter;
use crate::protocol::{Answer, Outcome, ReadError, Step};
use crate::stats::Stats;
use crate::target::Target;
use crate::workload::{Scrutiny, Stream, Workload, Written};
use monoio::buf::IoBufMut;
use monoio::io::{AsyncReadRent, AsyncWriteRentExt, OwnedReadHalf, OwnedWriteHalf, Splitable};
use monoio::net::TcpStream;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

/// What one write hands to the kernel at most, beyond a last request that crosses it.
const WRITE_BYTES_MAX: usize = 256 << 10;
const READ_BYTES_FIRST: usize = 64 << 10;
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Connecting,
    Running,
    /// Nothing new is sent; what is in flight may still be answered.
    Ending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// The next request leaves when an answer comes: a slow server is asked less.
    Closed,
    /// Requests leave on a schedule that was fixed in advance.
    Open,
}

/// What all connections of a run share.
pub struct Shared {
    pub workload: Workload,
    pub target: Target,
    pub pace: Loop,
    pub depth: usize,
    pub reconnect_for: Option<Duration>,
    pub origin: Instant,
    pub phase: Cell<Phase>,
    /// The measured time, in nanoseconds since the origin.
    pub window: Cell<(u64, u64)>,
    /// Requests that may still be sent.
    pub tickets: Cell<u64>,
    pub stats: RefCell<Stats>,
    pub ledger: Option<RefCell<LedgerWriter>>,
    /// Why the run must end at once: the ledger cannot be written.
    pub fatal: RefCell<Option<String>>,
}

impl Shared {
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    pub fn take_ticket(&self) -> bool {
        let left = self.tickets.get();
        self.tickets.set(left.saturating_sub(1));
        0 < left
    }

    fn is_measured(&self, at: u64) -> bool {
        let (from, to) = self.window.get();
        from <= at && at < to
    }

    fn with_ledger(&self, note: impl FnOnce(&mut LedgerWriter)) {
        if let Some(ledger) = &self.ledger {
            note(&mut ledger.borrow_mut());
        }
    }

    pub fn flush_ledger(&self) -> bool {
        let Some(ledger) = &self.ledger else { return true };
        match ledger.borrow_mut().flush() {
            Ok(()) => true,
            Err(error) => {
                *self.fatal.borrow_mut() = Some(format!("the ledger cannot be written: {error}"));
                false
            }
        }
    }
}

/// A request that was sent and not answered yet.
#[derive(Debug)]
struct Pending {
    sent: Written,
    intended_at: u64,
    sent_at: u64,
    request_bytes: u32,
}

/// A request that the schedule wants to be sent.
#[derive(Debug)]
struct Due {
    intended_at: u64,
    /// The window was full at that moment, so that waiting is the server's doing.
    had_to_wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Connecting,
    Connected,
    /// Between two connections.
    Away,
    Ended,
}

struct Books {
    state: State,
    stream: Stream,
    in_flight: VecDeque<Pending>,
    due: VecDeque<Due>,
    /// When the window last had room again.
    freed_at: u64,
    control: Option<std::net::TcpStream>,
    /// Why this connection is over; its in-flight requests end with this error.
    broken: Option<String>,
}

pub struct Session {
    shared: Rc<Shared>,
    books: RefCell<Books>,
    woken: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Session {
    pub fn new(shared: Rc<Shared>, stream: Stream) -> Self {
        let books = Books {
            state: State::Connecting,
            stream,
            in_flight: VecDeque::new(),
            due: VecDeque::new(),
            freed_at: 0,
            control: None,
            broken: None,
        };
        Self { shared, books: RefCell::new(books), woken: Cell::new(false), waker: Cell::new(None) }
    }

    pub fn state(&self) -> State {
        self.books.borrow().state
    }

    pub fn is_idle(&self) -> bool {
        self.books.borrow().in_flight.is_empty()
    }

    pub fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The schedule wants one more request.
    pub fn push_due(&self, intended_at: u64) {
        let mut books = self.books.borrow_mut();
        if books.state == State::Ended {
            return self.shared.stats.borrow_mut().error("not sent");
        }
        let had_to_wait = books.state != State::Connected || self.shared.depth <= books.in_flight.len();
        books.due.push_back(Due { intended_at, had_to_wait });
        drop(books);
        self.wake();
    }

    /// Ends the connection when its oldest request has waited for longer than `timeout_ns`.
    pub fn check_timeout(&self, now: u64, timeout_ns: u64) {
        let is_late = {
            let books = self.books.borrow();
            books.in_flight.front().is_some_and(|oldest| oldest.sent_at + timeout_ns < now)
        };
        if is_late {
            self.break_off("timeout");
        }
    }

    /// Ends the connection from outside; whatever is in flight ends with this error.
    pub fn break_off(&self, why: &str) {
        let mut books = self.books.borrow_mut();
        if books.broken.is_none() {
            books.broken = Some(why.to_owned());
        }
        if let Some(control) = &books.control {
            // It may be closed already; then there is nothing to end.
            let _ = control.shutdown(std::net::Shutdown::Both);
        }
        drop(books);
        self.wake();
    }

    /// Connects, works until the run ends, and connects again where that is wanted.
    pub async fn run(self: Rc<Self>) {
        let mut backoff = BACKOFF_FIRST;
        let mut reached_at = Instant::now();
        while self.shared.phase.get() != Phase::Ending {
            let connected = match self.shared.target.address() {
                Some(address) => connect(address).await,
                None => Err(io::ErrorKind::NotFound.into()),
            };
            let is_polite = match connected {
                Ok(connected) => {
                    backoff = BACKOFF_FIRST;
                    let is_polite = Rc::clone(&self).work(connected).await;
                    reached_at = Instant::now();
                    is_polite
                }
                Err(error) => {
                    self.shared.stats.borrow_mut().error(&format!("connect: {}", io_kind(&error)));
                    false
                }
            };
            if self.shared.phase.get() == Phase::Ending {
                break;
            }
            self.books.borrow_mut().state = State::Away;
            self.shared.stats.borrow_mut().reconnects += 1;
            if is_polite {
                continue;
            }
            match self.shared.reconnect_for {
                Some(limit) if reached_at.elapsed() < limit => {}
                _ => break,
            }
            monoio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        let mut books = self.books.borrow_mut();
        books.state = State::Ended;
        let now = self.shared.now();
        let mut stats = self.shared.stats.borrow_mut();
        for due in books.due.drain(..) {
            // It was to be sent and never was: at least this long it would have waited.
            stats.error("not sent");
            if self.shared.is_measured(due.intended_at) {
                stats.response.saturating_record(now.saturating_sub(due.intended_at));
            }
        }
    }

    /// One connection from its first to its last byte. Answers whether the server closed it in good order.
    async fn work(self: Rc<Self>, connected: Connected) -> bool {
        {
            let mut books = self.books.borrow_mut();
            books.state = State::Connected;
            books.broken = None;
            books.control = Some(connected.control);
            books.freed_at = self.shared.now();
        }
        let (reader, writer) = connected.stream.into_split();
        let writing = monoio::spawn(Rc::clone(&self).write_all(writer));
        let end = self.read_all(reader).await;
        let (is_polite, why) = match end {
            End::Done => (true, "unanswered"),
            End::Polite => (true, "closed by server"),
            End::Closed => (false, "closed by server"),
            End::Error(why) => (false, why),
        };
        self.break_off(why);
        writing.await;
        let mut books = self.books.borrow_mut();
        books.control = None;
        let why = books.broken.take().unwrap_or_default();
        let now = self.shared.now();
        let mut stats = self.shared.stats.borrow_mut();
        for pending in books.in_flight.drain(..) {
            stats.error(&why);
            if self.shared.pace == Loop::Open && self.shared.is_measured(pending.intended_at) {
                stats.response.saturating_record(now.saturating_sub(pending.intended_at));
            }
        }
        is_polite
    }

    async fn write_all(self: Rc<Self>, mut writer: OwnedWriteHalf<TcpStream>) {
        let mut buffer = Vec::with_capacity(READ_BYTES_FIRST);
        loop {
            buffer.clear();
            let has_ended = {
                let mut books = self.books.borrow_mut();
                if books.broken.is_none() && self.shared.phase.get() == Phase::Running {
                    self.fill(&mut books, &mut buffer);
                }
                books.broken.is_some() || self.shared.phase.get() == Phase::Ending
            };
            if buffer.is_empty() {
                if has_ended {
                    return;
                }
                self.woken().await;
                continue;
            }
            // What the server may hold must be in the ledger before the server can have it.
            if !self.shared.flush_ledger() {
                return self.break_off("ledger");
            }
            let (written, returned) = writer.write_all(buffer).await;
            buffer = returned;
            if let Err(error) = written {
                return self.break_off(&format!("write: {}", io_kind(&error)));
            }
        }
    }

    /// Writes requests until the window is full or nothing is due.
    fn fill(&self, books: &mut Books, buffer: &mut Vec<u8>) {
        let shared = &*self.shared;
        let now = shared.now();
        while books.in_flight.len() < shared.depth && buffer.len() < WRITE_BYTES_MAX {
            let intended_at = match shared.pace {
                Loop::Closed if shared.take_ticket() => now,
                Loop::Closed => break,
                Loop::Open => {
                    let Some(due) = books.due.pop_front() else { break };
                    let possible_at =
                        if due.had_to_wait { due.intended_at.max(books.freed_at) } else { due.intended_at };
                    if shared.is_measured(due.intended_at) {
                        let lag = now.saturating_sub(possible_at);
                        shared.stats.borrow_mut().send_lag.saturating_record(lag);
                    }
                    due.intended_at
                }
            };
            let from = buffer.len();
            let sent = shared.workload.write(&mut books.stream, buffer);
            shared.with_ledger(|ledger| ledger.sent(sent.first_seq, sent.tenant, &books.stream.marks));
            let request_bytes = (buffer.len() - from) as u32;
            books.in_flight.push_back(Pending { sent, intended_at, sent_at: now, request_bytes });
        }
    }

    async fn read_all(&self, mut reader: OwnedReadHalf<TcpStream>) -> End {
        let mut parser = self.shared.workload.protocol.reader(0);
        let mut reply = Vec::new();
        let mut buffer: Vec<u8> = Vec::with_capacity(READ_BYTES_FIRST);
        let mut acks = Vec::new();
        loop {
            if buffer.capacity() - buffer.len() < buffer.capacity() / 4 {
                buffer.reserve(buffer.capacity());
            }
            let filled = buffer.len();
            let (read, slice) = reader.read(buffer.slice_mut(filled..)).await;
            buffer = slice.into_inner();
            let closed = match read {
                Ok(bytes) => bytes == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return End::Error(io_kind(&error)),
            };
            let now = self.shared.now();
            let mut offset = 0;
            let mut is_last = false;
            while !is_last {
                let rest = &buffer[offset..];
                match parser.advance(rest, closed, &mut reply) {
                    Ok(Step::Answer(answer)) => {
                        if !self.answered(now, &answer, rest, &mut acks) {
                            return End::Error("answer nobody asked for");
                        }
                        is_last = answer.will_close;
                        offset += answer.consumed;
                    }
                    Ok(Step::Aside { consumed }) => offset += consumed,
                    Ok(Step::More) => break,
                    Err(ReadError::Truncated) => return End::Error("closed in mid-answer"),
                    Err(_) => return End::Error("malformed answer"),
                }
            }
            if !self.shared.flush_ledger() {
                return End::Error("ledger");
            }
            if is_last {
                return End::Polite;
            }
            if closed {
                let is_midway = parser.is_midway(&buffer[offset..]);
                return if is_midway { End::Error("closed in mid-answer") } else { End::Closed };
            }
            buffer.drain(..offset);
            if self.shared.phase.get() == Phase::Ending && self.is_idle() {
                return End::Done;
            }
            self.wake();
        }
    }

    /// Books an answer to the oldest request; `false` when there is none.
    fn answered(&self, now: u64, answer: &Answer, buffer: &[u8], acks: &mut Vec<crate::ledger::Ack>) -> bool {
        let shared = &*self.shared;
        let Some(pending) = ({
            let mut books = self.books.borrow_mut();
            books.freed_at = now;
            books.in_flight.pop_front()
        }) else {
            return false;
        };
        let judged = shared.workload.judge(pending.sent, &answer.outcome, answer.body(buffer), acks);
        let mut stats = shared.stats.borrow_mut();
        stats.last_answer_at = now;
        let first: Seq = pending.sent.first_seq;
        match judged {
            Ok(()) => {
                if shared.workload.scrutiny == Scrutiny::Everything {
                    shared.with_ledger(|ledger| ledger.acked(first, acks));
                }
                stats.requests_good += 1;
                stats.events_good += u64::from(pending.sent.event_count);
                if shared.is_measured(now) {
                    stats.requests_in_window += 1;
                    stats.events_in_window += u64::from(pending.sent.event_count);
                    stats.bytes_out_in_window += u64::from(pending.request_bytes);
                    stats.bytes_in_in_window += answer.consumed as u64;
                }
            }
            Err(kind) => {
                // A 4xx promises that nothing was stored; anything else promises nothing.
                if let Outcome::Status(status @ 400..500) = answer.outcome {
                    shared.with_ledger(|ledger| ledger.refused(first, status));
                }
                stats.error(&kind);
            }
        }
        match shared.pace {
            Loop::Closed if shared.is_measured(now) => stats.service.saturating_record(now - pending.sent_at),
            Loop::Open if shared.is_measured(pending.intended_at) => {
                stats.service.saturating_record(now - pending.sent_at);
                stats.response.saturating_record(now - pending.intended_at);
            }
            Loop::Closed | Loop::Open => {}
        }
        true
    }

    /// Until [`Session::wake`] is called, also if it was called since the last time.
    async fn woken(&self) {
        std::future::poll_fn(|context| {
            if self.woken.replace(false) {
                return Poll::Ready(());
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

enum End {
    /// The run is over and everything was answered.
    Done,
    /// The server said that it would close.
    Polite,
    Closed,
    Error(&'static str),
}

fn io_kind(error: &io::Error) -> &'static str {
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

/// Hands out requests on the schedule: request `i` at `i / rate`, to one connection after the other.
pub async fn pace(shared: Rc<Shared>, sessions: Rc<Vec<Rc<Session>>>, requests_per_second: f64) -> io::Result<()> {
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    /// So that the end of the run is noticed.
    const NAP_NS_MAX: u64 = 50_000_000;
    /// A timer cannot be set to nothing; below this the next tick is as good.
    const NAP_NS_MIN: u64 = 2_000;
    // The runtime's own timers tick once per millisecond; this one is exact.
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let ticks = monoio::fs::File::from_std(std::fs::File::from(timer.try_clone()?))?;
    let start_at = shared.now();
    let intended_at = |index: u64| start_at + (index as f64 * 1e9 / requests_per_second) as u64;
    let mut index = 0;
    let mut tick = vec![0; 8];
    while shared.phase.get() == Phase::Running {
        let now = shared.now();
        while intended_at(index) <= now {
            if !shared.take_ticket() {
                return Ok(());
            }
            sessions[index as usize % sessions.len()].push_due(intended_at(index));
            index += 1;
        }
        let nap = intended_at(index).saturating_sub(shared.now()).clamp(NAP_NS_MIN, NAP_NS_MAX);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec: 0, tv_nsec: nap as i64 },
        };
        rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
        let (read, returned) = ticks.read_at(tick, 0).await;
        tick = returned;
        read?;
    }
    Ok(())
}
