//! A core reduced to one connection: feeds bytes, answers what comes out, and keeps what a client would see.

use ringlog_server::net::http1::{Action, Decision, Http1, Step};
use ringlog_server::wire::http::Head;
use ringlog_server::wire::response::{ReplyTo, Response};

pub const START_US: u64 = 1_700_000_000_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub sequence: u64,
    pub line: String,
    pub body: Vec<u8>,
}

pub struct Peer {
    pub connection: Http1<usize>,
    pub now_us: u64,
    pub seen: Vec<Seen>,
    /// Answers owed, when they are not given at once.
    pub owed: Vec<(u64, ReplyTo)>,
    pub answers_at_once: bool,
    pub body_bytes_max: usize,
    pub output: Vec<u8>,
    /// Whether the sending side was shut down or the connection closed.
    pub ended: Option<Action>,
}

impl Peer {
    pub fn new() -> Self {
        Self {
            connection: Http1::new(7, START_US),
            now_us: START_US,
            seen: Vec::new(),
            owed: Vec::new(),
            answers_at_once: true,
            body_bytes_max: 16 << 20,
            output: Vec::new(),
            ended: None,
        }
    }

    /// Accepts every request.
    pub fn feed(&mut self, bytes: &[u8]) {
        let body_bytes_max = self.body_bytes_max;
        self.feed_deciding(bytes, |_, _| Decision::Accept { body_bytes_max, context: body_bytes_max });
    }

    pub fn feed_deciding(&mut self, bytes: &[u8], decide: impl FnMut(&Head<'_>, &mut ReplyTo) -> Decision<usize>) {
        self.step_all(bytes, decide);
        self.send();
    }

    pub fn step_all(&mut self, bytes: &[u8], mut decide: impl FnMut(&Head<'_>, &mut ReplyTo) -> Decision<usize>) {
        // The memory is gone after the call, as a provided buffer would be.
        let owned = bytes.to_vec();
        let mut input = &owned[..];
        while let Step::Request(request) = self.connection.step(&mut input, self.now_us, &mut decide) {
            let head = request.head;
            let query = head.query().map(|query| format!("?{query}")).unwrap_or_default();
            let line = format!("{} {}{query}", head.method().as_str(), head.path());
            let (sequence, reply, body) = (request.sequence, request.reply, request.body.to_vec());
            self.seen.push(Seen { sequence, line, body });
            if self.answers_at_once {
                self.answer(sequence, &reply);
            } else {
                self.owed.push((sequence, reply));
            }
        }
        assert!(input.is_empty(), "input is taken whole");
    }

    /// The answer's body is the request's number.
    pub fn answer(&mut self, sequence: u64, reply: &ReplyTo) {
        self.connection
            .complete_with(sequence, |out| Response::begin(out, 200, reply).with_body(sequence.to_string().as_bytes()));
    }

    pub fn eof(&mut self) {
        self.connection.on_eof();
        self.feed(b"");
    }

    /// Sends everything and looks at what the connection wants next.
    pub fn send(&mut self) {
        while let Some(output) = self.connection.take_output(self.now_us) {
            assert!(self.connection.take_output(self.now_us).is_none(), "one send at a time");
            self.output.extend_from_slice(&output);
            self.connection.on_sent(output, self.now_us);
        }
        let action = self.connection.action(self.now_us);
        if action != Action::Continue {
            self.ended.get_or_insert(action);
        }
    }

    pub fn lines(&self) -> Vec<&str> {
        self.seen.iter().map(|seen| seen.line.as_str()).collect()
    }

    pub fn answers(&self) -> Vec<Answer> {
        answers(&self.output)
    }

    pub fn statuses(&self) -> Vec<u16> {
        self.answers().iter().map(|answer| answer.status).collect()
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// Reads answers with a length, one after the other, and fails on anything else between them.
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head ends") + 4;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let status = head.strip_prefix("HTTP/1.1 ").expect("a status line")[..3].parse().expect("a status");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let body_len = length.map_or(0, |length| length.parse().expect("a length"));
        let (body, rest) = bytes[end..].split_at(body_len);
        bytes = rest;
        answers.push(Answer { status, head, body: body.to_vec() });
    }
    answers
}
