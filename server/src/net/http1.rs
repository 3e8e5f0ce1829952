//! One HTTP/1 connection, without its socket.
//!
//! Owns the order of answers, the buffers of a connection, its deadlines and its end. Never reads a clock (time is an
//! argument: unix microseconds that never run backwards), never waits, never decides who may do what: `decide` does,
//! between a head and its body.
//!
//! ```text
//! Open ──last request read, refusal, end of input──► Finishing ──all answered and sent──► Lingering ──► Closed
//!   └──idle──► Closed        any ──write stall, backlog──► Aborted
//! ```

use std::collections::VecDeque;
use std::ops::Range;

use crate::limits::{
    BACKLOG_BYTES_MAX, BODY_DEADLINE_US, BODY_GRACE_US, BODY_RATE_BYTES_PER_SECOND_MIN, BODY_RESERVE_BYTES,
    BUFFER_KEPT_BYTES_MAX, CONNECTION_AGE_US, DIRECT_RECEIVE_BYTES_MIN, FIRST_REQUEST_IDLE_US, HEADER_DEADLINE_US,
    KEEP_ALIVE_IDLE_US, LINGER_BYTES_MAX, LINGER_US, PIPELINE_DEPTH_MAX, REQUESTS_PER_CONNECTION_MAX, SECOND_US,
    UNSENT_BYTES_MAX, WRITE_RATE_BYTES_PER_SECOND_MIN, WRITE_STALL_US,
};
use crate::wire::chunked::ChunkDecoder;
use crate::wire::cors::CorsHeaders;
use crate::wire::http::{BodyFraming, Head, HeadIndex, HeadLimits, HeadScan, HttpError, Method, Version, parse_extent};
use crate::wire::response::{CONTINUE, HeaderValue, Persistence, ReplyTo, RequestId};
use crate::wire::status::{ErrorCode, Problem};

/// What is made of a head, before one byte of its body is asked for.
pub enum Decision<T> {
    /// Read the body, up to so many bytes, and hand both over with `context`: what was learnt from the head.
    Accept { body_bytes_max: usize, context: T },
    /// Answer at once. The connection survives if the body is small enough to be read and dropped.
    Reject(Box<Problem>),
}

/// What came of the bytes.
pub enum Step<'a, T> {
    /// All input was taken. Look at the output and at [`Http1::action`].
    Wait,
    /// One whole request; step again for the next.
    Request(Request<'a, T>),
}

/// A request with its whole body, both borrowed from where they were received.
pub struct Request<'a, T> {
    /// Names the request in [`Http1::complete`] and [`Http1::stream`].
    pub sequence: u64,
    pub head: Head<'a>,
    pub body: &'a [u8],
    pub reply: ReplyTo,
    pub context: T,
}

/// What the core does with the socket once there is nothing to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Continue,
    /// Shut down the sending side and go on receiving: the client reads the last answer before it sees a reset.
    ShutdownWrite,
    Close,
    /// Close without delivering what is still unsent.
    Abort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Nothing more is read; what was read is answered.
    Finishing,
    Lingering {
        until_us: u64,
        bytes_left: usize,
    },
    Closed,
    Aborted,
}

/// The request whose body is arriving. Its head lies at the start of the pending bytes.
struct Receiving<T> {
    index: HeadIndex,
    head_len: usize,
    sequence: u64,
    reply: ReplyTo,
    context: T,
}

enum Reading<T> {
    Head,
    Length {
        receiving: Receiving<T>,
        len: usize,
        left: usize,
    },
    Chunked {
        receiving: Receiving<T>,
        decoder: ChunkDecoder,
        body_bytes_max: usize,
    },
    /// A body whose head was refused, read only to find the next head.
    Discard {
        left: usize,
    },
}

/// Where bytes of a finished request lie.
enum Place<'i> {
    Input(&'i [u8]),
    Pending(Range<usize>),
    Decoded,
}

struct Found<'i, T> {
    index: HeadIndex,
    sequence: u64,
    reply: ReplyTo,
    context: T,
    head: Place<'i>,
    body: Place<'i>,
}

#[expect(clippy::large_enum_variant, reason = "the large variant is the hot one, and moves once")]
enum Turn<'i, T> {
    Again,
    Wait,
    Found(Found<'i, T>),
}

/// The answer to one request that was read, in the order of reading.
#[derive(Default)]
struct Slot {
    bytes: Vec<u8>,
    done: bool,
    /// An HTTP/1.0 stream is ended by the connection's end.
    ends_connection: bool,
    /// A whole header line that the answer's head gets, whoever writes that.
    header_line: Option<Box<[u8]>>,
}

impl Slot {
    /// Puts the header that was asked for behind the status line of the answer that begins at `answer_at`, once.
    fn put_header_line(&mut self, bytes: &mut Vec<u8>, answer_at: usize) {
        let Some(line) = self.header_line.take() else { return };
        let status_line =
            bytes[answer_at..].iter().position(|byte| *byte == b'\n').expect("an answer begins with its head");
        let at = answer_at + status_line + 1;
        bytes.splice(at..at, line);
    }
}

/// Since when and how much of a body arrived.
#[derive(Clone, Copy)]
pub(super) struct BodyClock {
    pub(super) since_us: u64,
    pub(super) bytes: u64,
}

impl BodyClock {
    pub(super) fn deadline_us(self) -> u64 {
        let earned_us = self.bytes.saturating_mul(SECOND_US) / BODY_RATE_BYTES_PER_SECOND_MIN;
        self.since_us + earned_us.clamp(BODY_GRACE_US, BODY_DEADLINE_US)
    }
}

pub struct Http1<T> {
    phase: Phase,
    seed: u64,
    close_after_us: u64,
    idle_limit_us: u64,
    draining: bool,
    eof: bool,
    refused: Option<ErrorCode>,

    reading: Reading<T>,
    scan: HeadScan,
    /// `..start` is spent, `start..cursor` belongs to the request that is being read or was handed over last,
    /// `cursor..` is unread.
    pending: Vec<u8>,
    start: usize,
    cursor: usize,
    /// The payload of a chunked body.
    decoded: Vec<u8>,
    /// The core receives into `pending`; this is the length it had.
    lent_len: Option<usize>,

    head_since_us: Option<u64>,
    body_clock: BodyClock,
    idle_since_us: u64,

    slots: VecDeque<Slot>,
    front_sequence: u64,
    /// An HTTP/1.0 request is in flight, and its answer may have to end the connection.
    serial: bool,
    out: Vec<u8>,
    spare: Vec<u8>,
    recycled: Vec<Vec<u8>>,
    /// In slots behind the front.
    stored_bytes: usize,
    sending_bytes: usize,
    send_progress_us: u64,
}

impl<T> Http1<T> {
    /// `seed` varies the connection's age limit and makes its request ids unlike those of others: random bits.
    pub fn new(seed: u64, now_us: u64) -> Self {
        let jitter_us = seed % (CONNECTION_AGE_US / 5);
        Self {
            phase: Phase::Open,
            seed,
            close_after_us: now_us + CONNECTION_AGE_US - CONNECTION_AGE_US / 10 + jitter_us,
            idle_limit_us: KEEP_ALIVE_IDLE_US,
            draining: false,
            eof: false,
            refused: None,
            reading: Reading::Head,
            scan: HeadScan::default(),
            pending: Vec::new(),
            start: 0,
            cursor: 0,
            decoded: Vec::new(),
            lent_len: None,
            head_since_us: None,
            body_clock: BodyClock { since_us: now_us, bytes: 0 },
            idle_since_us: now_us,
            slots: VecDeque::new(),
            front_sequence: 0,
            serial: false,
            out: Vec::new(),
            spare: Vec::new(),
            recycled: Vec::new(),
            stored_bytes: 0,
            sending_bytes: 0,
            send_progress_us: now_us,
        }
    }

    // ----- bytes in -----

    /// Takes from `input` until one request is whole. After [`Step::Wait`] all of `input` is taken and its memory
    /// may be reused; after [`Step::Request`] the rest is still in `input`.
    pub fn step<'s, 'i: 's>(
        &'s mut self,
        input: &mut &'i [u8],
        now_us: u64,
        mut decide: impl FnMut(&Head<'_>, &mut ReplyTo) -> Decision<T>,
    ) -> Step<'s, T> {
        assert!(self.lent_len.is_none() || input.is_empty(), "two receives at once");
        self.release();
        let found = loop {
            match self.phase {
                Phase::Open => {}
                Phase::Lingering { until_us, bytes_left } => {
                    self.phase = match bytes_left.checked_sub(input.len()) {
                        Some(bytes_left) => Phase::Lingering { until_us, bytes_left },
                        None => Phase::Closed,
                    };
                    *input = &[];
                    return Step::Wait;
                }
                Phase::Finishing | Phase::Closed | Phase::Aborted => {
                    *input = &[];
                    return Step::Wait;
                }
            }
            let turn = match self.reading {
                Reading::Head => self.read_head(input, now_us, &mut decide),
                Reading::Length { .. } => self.read_length(input),
                Reading::Chunked { .. } => self.read_chunks(input),
                Reading::Discard { .. } => self.read_discard(input),
            };
            match turn {
                Turn::Again => {}
                Turn::Wait => return Step::Wait,
                Turn::Found(found) => break found,
            }
        };
        self.idle_since_us = now_us;
        if found.reply.persistence == Persistence::Close {
            self.phase = Phase::Finishing;
        }
        Step::Request(Request {
            sequence: found.sequence,
            head: found.index.over(self.at(found.head)),
            body: self.at(found.body),
            reply: found.reply,
            context: found.context,
        })
    }

    /// The client sent its last byte. Step once more afterwards: what was read whole is still answered.
    pub fn on_eof(&mut self) {
        self.eof = true;
        if matches!(self.phase, Phase::Lingering { .. }) {
            self.phase = Phase::Closed;
        }
    }

    /// Whether an ordinary receive should be outstanding.
    pub fn wants_read(&self) -> bool {
        if self.lent_len.is_some() {
            return false;
        }
        match self.phase {
            Phase::Open => !self.eof && (!matches!(self.reading, Reading::Head) || !self.is_full()),
            Phase::Lingering { .. } => !self.eof,
            Phase::Finishing | Phase::Closed | Phase::Aborted => false,
        }
    }

    /// Whether a step without input would get further: bytes were kept while too much was in flight.
    pub fn has_backlog(&self) -> bool {
        self.phase == Phase::Open
            && matches!(self.reading, Reading::Head)
            && !self.is_full()
            && (self.cursor < self.pending.len() && self.head_since_us.is_none() || self.eof)
    }

    /// Bytes of the body that is being read, framing included; zero between bodies.
    pub fn body_bytes(&self) -> usize {
        match self.reading {
            Reading::Length { .. } | Reading::Chunked { .. } => self.body_clock.bytes as usize,
            Reading::Head | Reading::Discard { .. } => 0,
        }
    }

    /// How many bytes to receive straight into [`Http1::take_buffer`], when the body is worth it.
    pub fn wants_direct(&self) -> Option<usize> {
        match self.reading {
            Reading::Length { len, left, .. }
                if self.phase == Phase::Open
                    && self.lent_len.is_none()
                    && !self.eof
                    && len > DIRECT_RECEIVE_BYTES_MIN
                    && left > 0 =>
            {
                Some(left.min(reserve_bytes(self.pending.len())))
            }
            _ => None,
        }
    }

    /// The buffer to receive [`Http1::wants_direct`] bytes into, behind what it holds; it has the room. Until it comes
    /// back no other receive may be outstanding.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        let wanted = self.wants_direct().expect("asked for only when a direct receive is wanted");
        assert!(self.lent_len.is_none(), "the buffer is already out");
        self.pending.reserve_exact(wanted);
        self.lent_len = Some(self.pending.len());
        std::mem::take(&mut self.pending)
    }

    /// Brings the buffer back with what was received behind its old end. Step without input afterwards.
    pub fn give_buffer(&mut self, buffer: Vec<u8>) {
        let lent_len = self.lent_len.take().expect("only a buffer that was taken comes back");
        let Reading::Length { left, .. } = &mut self.reading else { return };
        let received = buffer.len().checked_sub(lent_len).expect("what it held is still there");
        assert!(received <= *left, "received beyond the body");
        *left -= received;
        self.body_clock.bytes += received as u64;
        self.pending = buffer;
        self.cursor = self.pending.len();
    }

    // ----- answers -----

    /// Gives the answer to a request one more header. To be said before its first byte is written.
    pub fn add_header(&mut self, sequence: u64, name: &'static str, value: &HeaderValue<'_>) {
        if self.is_answering() {
            let index = self.slot_index(sequence);
            self.slots[index].header_line = Some(format!("{name}: {}\r\n", value.as_str()).into_bytes().into());
        }
    }

    /// The whole answer to one request, written by `write` into the buffer that will be sent where possible.
    pub fn complete_with(&mut self, sequence: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.is_answering() {
            return;
        }
        let index = self.slot_index(sequence);
        let slot = &mut self.slots[index];
        if index == 0 {
            let before = self.out.len();
            write(&mut self.out);
            slot.put_header_line(&mut self.out, before);
            slot.done = true;
        } else {
            let mut bytes = std::mem::take(&mut slot.bytes);
            let before = bytes.len();
            write(&mut bytes);
            slot.put_header_line(&mut bytes, before);
            slot.bytes = bytes;
            self.stored_bytes += slot.bytes.len() - before;
            slot.done = true;
        }
        self.promote();
    }

    /// As [`Http1::complete_with`], from bytes that are already there.
    pub fn complete(&mut self, sequence: u64, answer: &[u8]) {
        self.complete_with(sequence, |out| out.extend_from_slice(answer));
    }

    /// A piece of an answer, its head included. Ask [`Http1::can_stream`] before each.
    pub fn stream(&mut self, sequence: u64, piece: &[u8], last: bool) {
        if !self.is_answering() {
            return;
        }
        let index = self.slot_index(sequence);
        self.slots[index].ends_connection = self.serial;
        if last {
            self.complete(sequence, piece);
        } else if index == 0 {
            let before = self.out.len();
            self.out.extend_from_slice(piece);
            self.slots[0].put_header_line(&mut self.out, before);
            self.stop_head_clock_when_full();
        } else {
            let slot = &mut self.slots[index];
            let mut bytes = std::mem::take(&mut slot.bytes);
            let before = bytes.len();
            bytes.extend_from_slice(piece);
            slot.put_header_line(&mut bytes, before);
            self.stored_bytes += bytes.len() - before;
            slot.bytes = bytes;
        }
    }

    /// Whether another piece has somewhere to go: the request is the oldest unanswered one and the client keeps up.
    pub fn can_stream(&self, sequence: u64) -> bool {
        sequence == self.front_sequence && self.unsent_bytes() <= UNSENT_BYTES_MAX
    }

    /// Whether a request that was read, and every one before it, has been answered.
    pub fn is_answered(&self, sequence: u64) -> bool {
        sequence < self.front_sequence
    }

    /// Requests that were read and not answered.
    pub fn in_flight(&self) -> usize {
        self.slots.len()
    }

    /// The code of the last refusal that was made here, once: for the counters.
    pub fn take_refusal(&mut self) -> Option<ErrorCode> {
        self.refused.take()
    }

    // ----- bytes out -----

    /// Everything that may be sent in order, for one send. `None` while the last one is out.
    pub fn take_output(&mut self, now_us: u64) -> Option<Vec<u8>> {
        if self.out.is_empty() || self.sending_bytes > 0 || matches!(self.phase, Phase::Closed | Phase::Aborted) {
            return None;
        }
        let output = std::mem::replace(&mut self.out, std::mem::take(&mut self.spare));
        self.sending_bytes = output.len();
        self.send_progress_us = now_us;
        Some(output)
    }

    /// Part of the output went out; the core sends the rest itself.
    pub fn on_send_progress(&mut self, sent_bytes: usize, now_us: u64) {
        assert!(sent_bytes < self.sending_bytes);
        self.sending_bytes -= sent_bytes;
        self.send_progress_us = now_us;
    }

    /// All of the output went out; its buffer comes back to be used again.
    pub fn on_sent(&mut self, mut buffer: Vec<u8>, now_us: u64) {
        self.sending_bytes = 0;
        self.idle_since_us = now_us;
        if buffer.capacity() <= BUFFER_KEPT_BYTES_MAX {
            buffer.clear();
            self.spare = buffer;
        }
    }

    // ----- time and the end -----

    /// When [`Http1::on_deadline`] has something to do, unless bytes move before. Ask again after every event.
    pub fn deadline(&self) -> Option<u64> {
        let stall_us = self.stall_deadline();
        match self.phase {
            Phase::Open => [stall_us, self.read_deadline()].into_iter().flatten().min(),
            Phase::Finishing => stall_us,
            Phase::Lingering { until_us, .. } => Some(until_us),
            Phase::Closed | Phase::Aborted => None,
        }
    }

    /// Does what is due. Look at the output afterwards: there may be a 408 in it.
    pub fn on_deadline(&mut self, now_us: u64) -> Action {
        if self.deadline().is_none_or(|deadline_us| now_us < deadline_us) {
            return self.action(now_us);
        }
        if matches!(self.phase, Phase::Lingering { .. }) {
            self.phase = Phase::Closed;
        } else if self.stall_deadline().is_some_and(|stall_us| stall_us <= now_us) {
            self.phase = Phase::Aborted;
        } else {
            match self.reading {
                Reading::Head if self.head_since_us.is_some() => {
                    self.refuse(HttpError::new(ErrorCode::RequestTimeout, "the head took too long"), now_us);
                }
                Reading::Head => self.phase = Phase::Closed,
                Reading::Length { .. } | Reading::Chunked { .. } => {
                    self.refuse_body(HttpError::new(ErrorCode::RequestTimeout, "the body took too long").into());
                }
                // Its refusal is already on the way.
                Reading::Discard { .. } => self.finish_reading(),
            }
        }
        self.action(now_us)
    }

    /// What to do with the socket. After the output was taken, and again after it was sent.
    pub fn action(&mut self, now_us: u64) -> Action {
        match self.phase {
            Phase::Aborted => return Action::Abort,
            Phase::Closed => return Action::Close,
            Phase::Finishing if self.is_quiet() && !self.eof => {
                let until_us = now_us + LINGER_US;
                self.phase = Phase::Lingering { until_us, bytes_left: LINGER_BYTES_MAX };
                return Action::ShutdownWrite;
            }
            Phase::Finishing if self.is_quiet() => self.phase = Phase::Closed,
            Phase::Open if self.draining && self.is_idle() => self.phase = Phase::Closed,
            Phase::Open | Phase::Finishing | Phase::Lingering { .. } => return Action::Continue,
        }
        Action::Close
    }

    /// The server is leaving: what was begun is finished, and answers from here on say `Connection: close`.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Shortens the patience with an idle connection when connections run short.
    pub fn set_idle_limit(&mut self, idle_limit_us: u64) {
        self.idle_limit_us = idle_limit_us;
    }

    /// Frees the memory of a connection that is doing nothing.
    pub fn trim(&mut self) {
        if self.is_idle() && self.lent_len.is_none() {
            self.pending = Vec::new();
            (self.start, self.cursor) = (0, 0);
            self.decoded = Vec::new();
            self.out = Vec::new();
            self.spare = Vec::new();
            self.recycled = Vec::new();
            self.slots.shrink_to_fit();
        }
    }

    // ----- reading -----

    fn read_head<'i>(
        &mut self,
        input: &mut &'i [u8],
        now_us: u64,
        decide: &mut impl FnMut(&Head<'_>, &mut ReplyTo) -> Decision<T>,
    ) -> Turn<'i, T> {
        if self.is_full() {
            self.head_since_us = None;
            self.keep(input);
            return Turn::Wait;
        }
        self.start = self.cursor;
        let inline = self.cursor == self.pending.len();
        if inline && input.is_empty() {
            return self.wait();
        }
        if !inline {
            self.keep(input);
        }
        let bytes = if inline { *input } else { &self.pending[self.cursor..] };
        let extent = match self.scan.advance(bytes, &HeadLimits::SERVER) {
            Ok(Some(extent)) => extent,
            Ok(None) => {
                self.head_since_us.get_or_insert(now_us);
                self.keep(input);
                return self.wait();
            }
            Err(error) => return self.refuse(error, now_us),
        };
        let (index, reply, decision) = match parse_extent(bytes, extent, &HeadLimits::SERVER) {
            Ok(head) => {
                let mut reply = self.reply_to(&head, now_us);
                let decision = decide(&head, &mut reply);
                (*head.index(), reply, decision)
            }
            Err(error) => return self.refuse(error, now_us),
        };
        self.scan = HeadScan::default();
        self.head_since_us = None;
        self.body_clock = BodyClock { since_us: now_us, bytes: 0 };
        let head = if inline {
            let (head, rest) = input.split_at(extent.end);
            *input = rest;
            Place::Input(head)
        } else {
            self.cursor += extent.end;
            Place::Pending(self.start..self.cursor)
        };

        let sequence = self.open_slot();
        let framing = index.framing();
        let (body_bytes_max, context) = match decision {
            Decision::Accept { body_bytes_max, context } => (body_bytes_max, context),
            Decision::Reject(problem) => return self.reject(sequence, &problem, &index, reply),
        };
        if let BodyFraming::Length(len) = framing
            && len > body_bytes_max as u64
        {
            return self.reject(sequence, &Problem::body_too_large(body_bytes_max), &index, reply);
        }
        self.serial = index.version() == Version::Http10;
        let receiving = Receiving { index, head_len: extent.end, sequence, reply, context };
        match framing {
            BodyFraming::None => Turn::Found(receiving.found(head, Place::Input(&[]))),
            BodyFraming::Length(len) => self.begin_length(input, receiving, head, len as usize),
            BodyFraming::Chunked => self.begin_chunks(input, receiving, head, body_bytes_max),
        }
    }

    fn begin_length<'i>(
        &mut self,
        input: &mut &'i [u8],
        receiving: Receiving<T>,
        head: Place<'i>,
        len: usize,
    ) -> Turn<'i, T> {
        if let Place::Input(head_bytes) = head {
            if let Some((body, rest)) = input.split_at_checked(len) {
                *input = rest;
                return Turn::Found(receiving.found(head, Place::Input(body)));
            }
            self.store_head(head_bytes, len);
        }
        let arrived = (self.pending.len() - self.cursor).min(len);
        self.cursor += arrived;
        if arrived == 0 && input.is_empty() {
            self.send_continue(&receiving);
        }
        self.body_clock.bytes = arrived as u64;
        self.reading = Reading::Length { receiving, len, left: len - arrived };
        Turn::Again
    }

    fn read_length<'i>(&mut self, input: &mut &'i [u8]) -> Turn<'i, T> {
        let Reading::Length { len, left, .. } = &mut self.reading else { return Turn::Wait };
        let (taken, rest) = input.split_at((*left).min(input.len()));
        *input = rest;
        *left -= taken.len();
        let (len, left) = (*len, *left);
        if !taken.is_empty() {
            if self.pending.capacity() - self.pending.len() < taken.len() {
                self.pending
                    .reserve_exact((left + taken.len()).min(reserve_bytes(self.pending.len())).max(taken.len()));
            }
            self.pending.extend_from_slice(taken);
            self.cursor = self.pending.len();
            self.body_clock.bytes += taken.len() as u64;
        }
        if left > 0 {
            return self.wait();
        }
        let Reading::Length { receiving, .. } = std::mem::replace(&mut self.reading, Reading::Head) else {
            return Turn::Wait;
        };
        let body_at = self.start + receiving.head_len;
        let head = Place::Pending(self.start..body_at);
        Turn::Found(receiving.found(head, Place::Pending(body_at..body_at + len)))
    }

    fn begin_chunks<'i>(
        &mut self,
        input: &mut &'i [u8],
        receiving: Receiving<T>,
        head: Place<'i>,
        body_bytes_max: usize,
    ) -> Turn<'i, T> {
        let mut decoder = ChunkDecoder::new(body_bytes_max);
        self.decoded.clear();
        if let Place::Input(head_bytes) = head {
            // Most bodies are here whole; then the head need not be kept.
            match decoder.decode(input, &mut self.decoded) {
                Ok(taken) => {
                    *input = &input[taken..];
                    self.body_clock.bytes = taken as u64;
                }
                Err(error) => {
                    return self.refuse_slot(
                        receiving.sequence,
                        &chunk_problem(error, body_bytes_max),
                        receiving.reply,
                    );
                }
            }
            if decoder.is_done() {
                return Turn::Found(receiving.found(head, Place::Decoded));
            }
            self.store_head(head_bytes, 0);
        }
        if self.body_clock.bytes == 0 && self.cursor == self.pending.len() {
            self.send_continue(&receiving);
        }
        self.reading = Reading::Chunked { receiving, decoder, body_bytes_max };
        Turn::Again
    }

    fn read_chunks<'i>(&mut self, input: &mut &'i [u8]) -> Turn<'i, T> {
        let Reading::Chunked { decoder, body_bytes_max, .. } = &mut self.reading else { return Turn::Wait };
        let mut decode = |source: &[u8]| decoder.decode(source, &mut self.decoded);
        // What was kept comes first; what arrives is then decoded from where it lies.
        let result = match decode(&self.pending[self.cursor..]) {
            Ok(kept) => {
                self.cursor += kept;
                self.body_clock.bytes += kept as u64;
                if self.cursor == self.pending.len() { decode(input) } else { Ok(0) }
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(taken) => {
                *input = &input[taken..];
                self.body_clock.bytes += taken as u64;
            }
            Err(error) => {
                let problem = chunk_problem(error, *body_bytes_max);
                return self.refuse_body(problem);
            }
        }
        match std::mem::replace(&mut self.reading, Reading::Head) {
            Reading::Chunked { receiving, decoder, .. } if decoder.is_done() => {
                let head = Place::Pending(self.start..self.start + receiving.head_len);
                Turn::Found(receiving.found(head, Place::Decoded))
            }
            unfinished => {
                self.reading = unfinished;
                self.wait()
            }
        }
    }

    fn read_discard<'i>(&mut self, input: &mut &'i [u8]) -> Turn<'i, T> {
        let Reading::Discard { left } = &mut self.reading else { return Turn::Wait };
        let kept = (*left).min(self.pending.len() - self.cursor);
        let taken = (*left - kept).min(input.len());
        *left -= kept + taken;
        self.body_clock.bytes += (kept + taken) as u64;
        let is_done = *left == 0;
        *input = &input[taken..];
        self.cursor += kept;
        self.start = self.cursor;
        if !is_done {
            return self.wait();
        }
        self.reading = Reading::Head;
        Turn::Again
    }

    /// Nothing more can be made of what is here. At the end of input that is the end of reading: half a request is
    /// nobody's, and what was read whole is still answered.
    fn wait<'i>(&mut self) -> Turn<'i, T> {
        if self.eof {
            if !matches!(self.reading, Reading::Head | Reading::Discard { .. }) {
                let slot = self.slots.pop_back().expect("a body that is being read has its slot");
                self.stored_bytes -= slot.bytes.len();
            }
            self.finish_reading();
        }
        Turn::Wait
    }

    /// Forgets the request that was handed over last.
    fn release(&mut self) {
        if self.lent_len.is_some() || !matches!(self.reading, Reading::Head) {
            return;
        }
        self.start = self.cursor;
        if self.start == self.pending.len() {
            (self.start, self.cursor) = (0, 0);
            empty(&mut self.pending);
        }
        empty(&mut self.decoded);
    }

    /// Keeps input for later, behind what is unread.
    fn keep(&mut self, input: &mut &[u8]) {
        if input.is_empty() {
            return;
        }
        if self.start > 0 {
            self.pending.drain(..self.start);
            self.cursor -= self.start;
            self.start = 0;
        }
        self.pending.extend_from_slice(input);
        *input = &[];
        if self.pending.len() > BACKLOG_BYTES_MAX {
            self.phase = Phase::Aborted;
        }
    }

    /// Keeps a head until its body is here.
    fn store_head(&mut self, head: &[u8], body_len: usize) {
        self.pending.clear();
        self.pending.reserve_exact(head.len() + body_len.min(BODY_RESERVE_BYTES));
        self.pending.extend_from_slice(head);
        self.start = 0;
        self.cursor = self.pending.len();
    }

    fn at<'s, 'i: 's>(&'s self, place: Place<'i>) -> &'s [u8] {
        match place {
            Place::Input(bytes) => bytes,
            Place::Pending(range) => &self.pending[range],
            Place::Decoded => &self.decoded,
        }
    }

    /// Nothing more is read; the answers that are owed still leave.
    fn finish_reading(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Finishing;
        }
        self.reading = Reading::Head;
        self.head_since_us = None;
        self.pending = Vec::new();
        (self.start, self.cursor) = (0, 0);
        self.decoded = Vec::new();
    }

    fn is_full(&self) -> bool {
        self.slots.len() >= PIPELINE_DEPTH_MAX
            || self.unsent_bytes() > UNSENT_BYTES_MAX
            || self.serial && !self.slots.is_empty()
    }

    fn unsent_bytes(&self) -> usize {
        self.out.len() + self.sending_bytes + self.stored_bytes
    }

    /// Everything that was read is answered, and every answer has left.
    fn is_quiet(&self) -> bool {
        self.slots.is_empty() && self.out.is_empty() && self.sending_bytes == 0
    }

    fn is_idle(&self) -> bool {
        self.is_quiet() && matches!(self.reading, Reading::Head) && self.cursor == self.pending.len()
    }

    fn stall_deadline(&self) -> Option<u64> {
        let more_bytes = self.sending_bytes.saturating_sub(UNSENT_BYTES_MAX) as u64;
        let more_us = more_bytes * SECOND_US / WRITE_RATE_BYTES_PER_SECOND_MIN;
        (self.sending_bytes > 0).then_some(self.send_progress_us + WRITE_STALL_US + more_us)
    }

    fn read_deadline(&self) -> Option<u64> {
        match self.reading {
            // The client waits for us, not we for it.
            Reading::Head if self.is_full() => None,
            Reading::Head => match self.head_since_us {
                Some(since_us) => Some(since_us + HEADER_DEADLINE_US),
                None if !self.is_idle() => None,
                None if self.next_sequence() == 0 => Some(self.idle_since_us + FIRST_REQUEST_IDLE_US),
                None => Some(self.idle_since_us + self.idle_limit_us),
            },
            Reading::Length { .. } | Reading::Chunked { .. } | Reading::Discard { .. } => {
                Some(self.body_clock.deadline_us())
            }
        }
    }

    /// While nothing is read, a head that is half here is not late.
    fn stop_head_clock_when_full(&mut self) {
        if self.is_full() {
            self.head_since_us = None;
        }
    }

    // ----- answering -----

    fn next_sequence(&self) -> u64 {
        self.front_sequence + self.slots.len() as u64
    }

    fn open_slot(&mut self) -> u64 {
        let sequence = self.next_sequence();
        self.slots.push_back(Slot { bytes: self.recycled.pop().unwrap_or_default(), ..Slot::default() });
        sequence
    }

    fn slot_index(&self, sequence: u64) -> usize {
        let index = sequence.checked_sub(self.front_sequence).expect("answered once") as usize;
        assert!(index < self.slots.len(), "an answer to a request that was not read");
        assert!(!self.slots[index].done, "answered once");
        index
    }

    fn is_answering(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Finishing)
    }

    /// Moves into the output what has become first in order.
    fn promote(&mut self) {
        while let Some(front) = self.slots.front_mut() {
            self.stored_bytes -= front.bytes.len();
            self.out.append(&mut front.bytes);
            if !front.done {
                break;
            }
            let Some(slot) = self.slots.pop_front() else { break };
            self.front_sequence += 1;
            if (1..=RECYCLED_BYTES_MAX).contains(&slot.bytes.capacity()) {
                self.recycled.push(slot.bytes);
            }
            if slot.ends_connection {
                self.finish_reading();
            }
        }
        self.stop_head_clock_when_full();
    }

    fn reply_to(&self, head: &Head<'_>, now_us: u64) -> ReplyTo {
        let sequence = self.next_sequence();
        let is_last = self.draining || sequence + 1 >= REQUESTS_PER_CONNECTION_MAX || self.close_after_us <= now_us;
        ReplyTo {
            request_id: head
                .x_request_id()
                .and_then(RequestId::from_client)
                .unwrap_or_else(|| self.make_request_id(sequence, now_us)),
            persistence: match head.version() {
                _ if is_last || !head.keep_alive() => Persistence::Close,
                Version::Http10 => Persistence::KeepAliveStated,
                Version::Http11 => Persistence::KeepAlive,
            },
            head_only: head.method() == Method::Head,
            may_chunk: head.version() == Version::Http11,
            cors: CorsHeaders::default(),
        }
    }

    fn make_request_id(&self, sequence: u64, now_us: u64) -> RequestId {
        let mixed = mix(self.seed ^ mix(sequence));
        RequestId::generate(now_us / 1000, u128::from(mixed) << 64 | u128::from(mix(mixed)))
    }

    fn send_continue(&mut self, receiving: &Receiving<T>) {
        if !receiving.index.expect_continue() {
            return;
        }
        // In its order: before the answer to the same request, after those to earlier ones.
        let index = self.slot_index(receiving.sequence);
        self.slots[index].bytes.extend_from_slice(CONTINUE);
        self.stored_bytes += CONTINUE.len();
        self.promote();
    }

    /// Answers a head whose rules are broken. Where the next request begins is unknown, so this is the last answer.
    fn refuse<'i>(&mut self, error: HttpError, now_us: u64) -> Turn<'i, T> {
        let request_id = self.make_request_id(self.next_sequence(), now_us);
        let reply = ReplyTo {
            request_id,
            persistence: Persistence::Close,
            head_only: false,
            may_chunk: true,
            cors: CorsHeaders::default(),
        };
        let sequence = self.open_slot();
        self.refuse_slot(sequence, &error.into(), reply)
    }

    /// Answers a request whose body cannot be read to its end.
    fn refuse_body<'i>(&mut self, problem: Problem) -> Turn<'i, T> {
        match std::mem::replace(&mut self.reading, Reading::Head) {
            Reading::Length { receiving, .. } | Reading::Chunked { receiving, .. } => {
                self.refuse_slot(receiving.sequence, &problem, receiving.reply)
            }
            Reading::Head | Reading::Discard { .. } => Turn::Wait,
        }
    }

    fn refuse_slot<'i>(&mut self, sequence: u64, problem: &Problem, reply: ReplyTo) -> Turn<'i, T> {
        self.refused = Some(problem.code());
        let reply = ReplyTo { persistence: Persistence::Close, ..reply };
        self.complete_with(sequence, |out| problem.respond(out, &reply));
        self.finish_reading();
        Turn::Again
    }

    /// Answers a sound head that is not let in. Its body is read and dropped if that is cheap, so that the connection
    /// survives; a client that waits for `100 Continue` may or may not send it, so that one does not.
    fn reject<'i>(&mut self, sequence: u64, problem: &Problem, index: &HeadIndex, reply: ReplyTo) -> Turn<'i, T> {
        let body_len = match index.framing() {
            BodyFraming::None => 0,
            BodyFraming::Length(len) if len <= LINGER_BYTES_MAX as u64 && !index.expect_continue() => len as usize,
            BodyFraming::Length(_) | BodyFraming::Chunked => return self.refuse_slot(sequence, problem, reply),
        };
        if reply.persistence == Persistence::Close {
            return self.refuse_slot(sequence, problem, reply);
        }
        self.refused = Some(problem.code());
        self.complete_with(sequence, |out| problem.respond(out, &reply));
        self.start = self.cursor;
        if body_len > 0 {
            self.reading = Reading::Discard { left: body_len };
        }
        Turn::Again
    }
}

impl<T> Receiving<T> {
    fn found<'i>(self, head: Place<'i>, body: Place<'i>) -> Found<'i, T> {
        let Self { index, sequence, reply, context, .. } = self;
        Found { index, sequence, reply, context, head, body }
    }
}

/// A slot's buffer of at most this capacity serves another slot.
const RECYCLED_BYTES_MAX: usize = 4 * 1024;

fn chunk_problem(error: HttpError, body_bytes_max: usize) -> Problem {
    if error.code == ErrorCode::BodyTooLarge { Problem::body_too_large(body_bytes_max) } else { error.into() }
}

/// How much room a body gets at once: its memory at most doubles, whatever length was declared.
fn reserve_bytes(len: usize) -> usize {
    len.max(BODY_RESERVE_BYTES)
}

fn empty(buffer: &mut Vec<u8>) {
    if buffer.capacity() <= BUFFER_KEPT_BYTES_MAX {
        buffer.clear();
    } else {
        *buffer = Vec::new();
    }
}

/// SplitMix64's finisher: spreads a counter over all bits. Not a secret, and not used as one.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
