//! The seam between a run and what it speaks: how a connection begins, how a request is written, how answers are read.
//!
//! A run knows nothing of a protocol's bytes; a protocol knows nothing of sockets, clocks and schedules. Both halves
//! are plain data: bytes go in, bytes and steps come out, nothing waits.
//!
//! ```text
//! connected ─► Protocol::hello(out) ─► socket          Protocol: one per run, shared by its threads, never changed
//! bytes ─► Reader::advance(buffer, closed, reply) ─► Step      Reader: one per connection, made anew with it
//!            Step::More      nothing whole yet: call again with more bytes behind the same ones
//!            Step::Aside     bytes that answer no request: a greeting, a notice, an interim answer
//!            Step::Answer    the answer to the oldest request that has none
//!          `reply` is sent at once (a step of the greeting, an answer to a ping), in whatever step
//! Reader::is_ready() ─► only then: Protocol::write_*(out), then Reader::note_sent(event_count), request by request
//! ```
//!
//! What a protocol must keep:
//! - Answers come in the order of the requests, exactly one `Step::Answer` for each. Where the wire gives several
//!   (one for each event of a batch), the reader gathers them; `note_sent` tells it how many events to expect.
//! - `consumed` of a step counts from the start of `buffer`; the caller cuts that much off before the next call.
//!   A reader that has looked at bytes without consuming them may remember how far it came.
//! - A peer that breaks the framing, or refuses the greeting, is a [`ReadError`], never a guess, and ends the connection.
//! - `closed` says that no more bytes will come: what is not whole by then is [`ReadError::Truncated`].
//!
//! A new protocol is a file here, a variant in [`Protocol`] and in [`Reader`], and a scheme in [`Protocol::from_url`].

pub mod http;
mod nats;
mod postgres;
mod redis;

use crate::corpus::Event;
use crate::failure::Failure;
use std::fmt;
use std::ops::Range;

/// What a run speaks, with what it needs to know for that.
#[derive(Debug)]
pub enum Protocol {
    Http,
    Redis,
    Nats,
    Postgres { database: String },
}

/// One connection's place in what the server says.
#[derive(Debug)]
pub enum Reader {
    Http(http::ResponseReader),
    Redis(redis::Reader),
    Nats(nats::Reader),
    Postgres(postgres::Reader),
}

#[derive(Debug)]
pub enum Step {
    More,
    Aside { consumed: usize },
    Answer(Answer),
}

/// One whole answer; `consumed` bytes of the buffer belong to it.
#[derive(Debug)]
pub struct Answer {
    pub outcome: Outcome,
    pub consumed: usize,
    /// The server closes the connection behind this answer, in good order.
    pub will_close: bool,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An HTTP status, to be judged together with the body.
    Status(u16),
    /// All events of the request are acknowledged.
    Good,
    /// Refused; the text is a kind to count by, so it must be short and one of few.
    Refused(String),
}

#[derive(Debug)]
pub enum Body {
    InBuffer(Range<usize>),
    Decoded(Vec<u8>),
}

impl Answer {
    /// The body; `buffer` is the one that [`Reader::advance`] was given.
    pub fn body<'a>(&'a self, buffer: &'a [u8]) -> &'a [u8] {
        match &self.body {
            Body::InBuffer(range) => &buffer[range.clone()],
            Body::Decoded(bytes) => bytes,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// What came is not of this protocol.
    Malformed(&'static str),
    TooLarge(&'static str),
    /// The peer closed in the middle of an answer.
    Truncated,
    /// The server does not want this connection; the text is a kind to count by.
    Refused(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => write!(f, "malformed answer: {what}"),
            Self::TooLarge(what) => write!(f, "answer too large: {what}"),
            Self::Truncated => f.write_str("closed in mid-answer"),
            Self::Refused(why) => write!(f, "connection refused by the protocol: {why}"),
        }
    }
}

impl Protocol {
    /// The protocol that a URL's scheme names. What stands behind HOST:PORT (`rest`, with its slash) is the protocol's.
    pub fn from_url(scheme: &str, rest: &str) -> Result<Self, Failure> {
        let path = rest.trim_matches('/');
        match (scheme, path) {
            ("http", "") => Ok(Self::Http),
            ("redis", "") => Ok(Self::Redis),
            ("nats", "") => Ok(Self::Nats),
            ("postgres", "") => Ok(Self::Postgres { database: "postgres".to_owned() }),
            ("postgres", database) => Ok(Self::Postgres { database: database.to_owned() }),
            ("http" | "redis" | "nats", _) => {
                Err(Failure::Usage(format!("--url: a path is not expected here: {rest}")))
            }
            _ => Err(Failure::Usage(format!(
                "--url: {scheme}:// is not spoken here; http, redis, nats and postgres are"
            ))),
        }
    }

    /// The port that is meant when a URL names none.
    pub fn default_port(scheme: &str) -> u16 {
        match scheme {
            "redis" => 6379,
            "nats" => 4222,
            "postgres" => 5432,
            _ => 80,
        }
    }

    /// What a new connection says first.
    pub fn hello(&self, out: &mut Vec<u8>) {
        match self {
            Self::Postgres { database } => postgres::write_hello("postgres", database, out),
            // In NATS the server speaks first.
            Self::Http | Self::Redis | Self::Nats => {}
        }
    }

    /// For connection number `connection` of the run.
    pub fn reader(&self, connection: u32) -> Reader {
        match self {
            Self::Http => Reader::Http(http::ResponseReader::default()),
            Self::Redis => Reader::Redis(redis::Reader::default()),
            Self::Nats => Reader::Nats(nats::Reader::new(connection)),
            Self::Postgres { .. } => Reader::Postgres(postgres::Reader::default()),
        }
    }

    /// Appends one request that carries `events` of tenant number `tenant`, for protocols that take events as they are.
    /// HTTP requests have heads and bodies of many kinds and are written by the workload.
    pub fn write_events<'a>(
        &self,
        connection: u32,
        tenant: u16,
        events: impl Iterator<Item = Event<'a>>,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Http => unreachable!("the workload writes HTTP requests itself"),
            Self::Redis => redis::write_events(tenant, events, out),
            Self::Nats => nats::write_events(connection, tenant, events, out),
            Self::Postgres { .. } => postgres::write_events(tenant, events, out),
        }
    }
}

impl Reader {
    /// Whether the greeting is over, so that requests may be sent.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Http(_) | Self::Redis(_) => true,
            Self::Nats(reader) => reader.is_ready(),
            Self::Postgres(reader) => reader.is_ready(),
        }
    }

    /// A request with so many events was written.
    pub fn note_sent(&mut self, event_count: u32) {
        match self {
            Self::Http(_) | Self::Postgres(_) => {}
            Self::Redis(reader) => reader.note_sent(event_count),
            Self::Nats(reader) => reader.note_sent(event_count),
        }
    }

    /// Whether a part of an answer has been read.
    pub fn is_midway(&self, buffer: &[u8]) -> bool {
        match self {
            Self::Http(reader) => reader.is_midway(buffer),
            Self::Redis(_) | Self::Nats(_) | Self::Postgres(_) => !buffer.is_empty(),
        }
    }

    /// The next thing that the server says, from the beginning of `buffer`.
    pub fn advance(&mut self, buffer: &[u8], closed: bool, reply: &mut Vec<u8>) -> Result<Step, ReadError> {
        match self {
            Self::Http(reader) => match reader.advance(buffer, closed)? {
                Some(response) if (100..200).contains(&response.status) => {
                    Ok(Step::Aside { consumed: response.consumed })
                }
                Some(response) => Ok(Step::Answer(Answer {
                    outcome: Outcome::Status(response.status),
                    consumed: response.consumed,
                    will_close: response.will_close,
                    body: response.body,
                })),
                None => Ok(Step::More),
            },
            Self::Redis(reader) => reader.advance(buffer, closed),
            Self::Nats(reader) => reader.advance(buffer, closed, reply),
            Self::Postgres(reader) => reader.advance(buffer, closed, reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub const EVENT: Event<'static> = Event {
        json: br#"{"event_type":"order.created","entity_id":"e-0000002a","payload":{"n":1},"metadata":{}}"#,
        event_type: b"order.created",
        entity: b"e-0000002a",
        payload: br#"{"n":1}"#,
        metadata: b"{}",
    };

    /// Feeds `bytes` one by one, which is every way in which they can be cut, and collects the answers with their bytes.
    pub fn steps(
        bytes: &[u8],
        mut advance: impl FnMut(&[u8], bool, &mut Vec<u8>) -> Result<Step, ReadError>,
    ) -> Result<Vec<(Outcome, usize)>, ReadError> {
        let (mut buffer, mut reply, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for &byte in bytes {
            buffer.push(byte);
            loop {
                match advance(&buffer, false, &mut reply)? {
                    Step::More => break,
                    Step::Aside { consumed } => drop(buffer.drain(..consumed)),
                    Step::Answer(answer) => {
                        buffer.drain(..answer.consumed);
                        answers.push((answer.outcome, answer.consumed));
                    }
                }
            }
        }
        assert!(buffer.is_empty());
        Ok(answers)
    }

    #[test]
    fn schemes_name_protocols() {
        let database = |url_path| match Protocol::from_url("postgres", url_path) {
            Ok(Protocol::Postgres { database }) => database,
            other => panic!("{other:?}"),
        };
        assert_eq!(database("/"), "postgres");
        assert_eq!(database("/bench"), "bench");
        assert!(matches!(Protocol::from_url("redis", ""), Ok(Protocol::Redis)));
        assert!(matches!(Protocol::from_url("nats", "/"), Ok(Protocol::Nats)));
        assert!(Protocol::from_url("redis", "/1").is_err());
        assert!(Protocol::from_url("kafka", "").is_err());
    }
}
