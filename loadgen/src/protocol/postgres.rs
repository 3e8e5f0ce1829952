//! PostgreSQL over its wire protocol 3, trust authentication: a row for each event, a transaction for each request.
//!
//! A single event is a prepared INSERT, a batch is a binary COPY: the fastest way for each. Both commit as one.
//! The table is made by whoever starts the server:
//!
//! ```text
//! events (tenant int4, event_type text, entity text, payload json, metadata json)   and whatever it adds by itself
//!
//! StartupMessage                          ─►
//!                                         ◄─  R S.. K Z
//! Parse INSERT, Sync                      ─►
//!                                         ◄─  1 Z                 ready
//! Bind Execute Sync    (one event)        ─►
//!                                         ◄─  2 C Z
//! Query COPY, CopyData, CopyDone (batch)  ─►
//!                                         ◄─  G C Z               E instead of C: refused
//! ```

#![expect(clippy::big_endian_bytes, reason = "PostgreSQL's wire format is big-endian")]

use super::{Answer, Body, Outcome, ReadError, Step};
use crate::corpus::Event;

const INSERT: &str = "INSERT INTO events (tenant, event_type, entity, payload, metadata) VALUES ($1, $2, $3, $4, $5)";
const COPY: &str = "COPY events (tenant, event_type, entity, payload, metadata) FROM STDIN WITH (FORMAT binary)";
const FIELD_COUNT: i16 = 5;
const VERSION_3_0: i32 = 3 << 16;
const COPY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Longer than anything that answers an INSERT or a COPY.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Appends what a connection begins with.
pub fn write_hello(user: &str, database: &str, out: &mut Vec<u8>) {
    let body = format!("user\0{user}\0database\0{database}\0application_name\0ringlog-load\0\0");
    push_i32(8 + body.len() as i32, out);
    push_i32(VERSION_3_0, out);
    out.extend_from_slice(body.as_bytes());
}

/// Appends one request.
pub fn write_events<'a>(tenant: u16, events: impl Iterator<Item = Event<'a>>, out: &mut Vec<u8>) {
    let mut events = events.peekable();
    let Some(first) = events.next() else { return };
    if events.peek().is_none() {
        push_message(b'B', out, |out| {
            // The unnamed portal, the statement of the greeting, all parameters binary, no results.
            out.extend_from_slice(b"\0i\0");
            push_i16(1, out);
            push_i16(1, out);
            push_row(tenant, &first, out);
            push_i16(0, out);
        });
        push_message(b'E', out, |out| out.extend_from_slice(&[0; 5]));
        push_message(b'S', out, |_| {});
        return;
    }
    push_message(b'Q', out, |out| push_text(COPY, out));
    push_message(b'd', out, |out| {
        out.extend_from_slice(COPY_SIGNATURE);
        out.extend_from_slice(&[0; 8]);
        push_row(tenant, &first, out);
        events.for_each(|event| push_row(tenant, &event, out));
        push_i16(-1, out);
    });
    push_message(b'c', out, |_| {});
}

/// The fields of an event, counted and each with its length: the same in a Bind and in a COPY.
fn push_row(tenant: u16, event: &Event<'_>, out: &mut Vec<u8>) {
    push_i16(FIELD_COUNT, out);
    push_i32(4, out);
    push_i32(i32::from(tenant), out);
    for field in [event.event_type, event.entity, event.payload, event.metadata] {
        push_i32(field.len() as i32, out);
        out.extend_from_slice(field);
    }
}

/// A message whose length, which counts itself, is known when its body is written.
fn push_message(tag: u8, out: &mut Vec<u8>, write_body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let length_at = out.len();
    push_i32(0, out);
    write_body(out);
    let length = (out.len() - length_at) as i32;
    out[length_at..length_at + 4].copy_from_slice(&length.to_be_bytes());
}

fn push_i32(value: i32, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn push_i16(value: i16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Starting,
    Preparing,
    Ready,
}

#[derive(Debug, Default)]
pub struct Reader {
    stage: Stage,
    /// Bytes of the oldest request's answer that were looked at.
    scanned: usize,
    refusal: Option<String>,
}

impl Reader {
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub fn advance(&mut self, buffer: &[u8], closed: bool, reply: &mut Vec<u8>) -> Result<Step, ReadError> {
        while let Some((tag, body)) = parse(&buffer[self.scanned..])? {
            self.scanned += 5 + body.len();
            match tag {
                b'E' => {
                    let refusal = refusal(body);
                    if self.stage != Stage::Ready {
                        return Err(ReadError::Refused(refusal));
                    }
                    self.refusal.get_or_insert(refusal);
                }
                b'R' if body != [0; 4] => return Err(ReadError::Refused("postgres wants a password".to_owned())),
                b'Z' => {
                    let consumed = std::mem::take(&mut self.scanned);
                    match self.stage {
                        Stage::Starting => {
                            push_message(b'P', reply, |out| {
                                push_text("i", out);
                                push_text(INSERT, out);
                                push_i16(0, out);
                            });
                            push_message(b'S', reply, |_| {});
                            self.stage = Stage::Preparing;
                        }
                        Stage::Preparing => self.stage = Stage::Ready,
                        Stage::Ready => {
                            let outcome = self.refusal.take().map_or(Outcome::Good, Outcome::Refused);
                            let body = Body::InBuffer(0..0);
                            return Ok(Step::Answer(Answer { outcome, consumed, will_close: false, body }));
                        }
                    }
                    return Ok(Step::Aside { consumed });
                }
                b'R' | b'S' | b'K' | b'N' | b'1' | b'2' | b'C' | b'G' => {}
                _ => return Err(ReadError::Malformed("not a message that was expected of PostgreSQL")),
            }
        }
        if closed && !buffer.is_empty() { Err(ReadError::Truncated) } else { Ok(Step::More) }
    }
}

/// Tag and body of the message at the start of `bytes`, or `None` when it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<(u8, &[u8])>, ReadError> {
    let Some((&[tag, a, b, c, d], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length < 4 {
        return Err(ReadError::Malformed("the length of a message"));
    }
    if MESSAGE_BYTES_MAX < length {
        return Err(ReadError::TooLarge("a message"));
    }
    Ok(rest.get(..length - 4).map(|body| (tag, body)))
}

/// The SQLSTATE out of an ErrorResponse, whose fields are a letter and a text that ends with 0.
fn refusal(body: &[u8]) -> String {
    let code = body.split(|&byte| byte == 0).find_map(|field| field.strip_prefix(b"C"));
    format!("postgres {}", String::from_utf8_lossy(code.unwrap_or(b"error")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{EVENT, steps};

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_message(tag, &mut out, |out| out.extend_from_slice(body));
        out
    }

    fn ready() -> Reader {
        let mut reader = Reader::default();
        let mut said = Vec::new();
        let greeting = [
            message(b'R', &[0; 4]),
            message(b'S', b"server_version\x0015.14\0"),
            message(b'K', &[1; 8]),
            message(b'Z', b"I"),
            message(b'1', b""),
            message(b'Z', b"I"),
        ]
        .concat();
        let answers = steps(&greeting, |bytes, closed, reply| {
            let step = reader.advance(bytes, closed, reply);
            said.append(reply);
            step
        });
        assert_eq!(answers, Ok(vec![]));
        assert!(reader.is_ready());
        assert_eq!(said[0], b'P');
        assert!(said.ends_with(b"S\0\0\0\x04"));
        reader
    }

    #[test]
    fn one_event_is_a_prepared_insert_and_more_are_a_copy() {
        let tags = |count: usize| {
            let mut out = Vec::new();
            write_events(3, std::iter::repeat_n(EVENT, count), &mut out);
            let (mut tags, mut rest) = (Vec::new(), &out[..]);
            while let Some((tag, body)) = parse(rest).unwrap() {
                tags.push(tag);
                rest = &rest[5 + body.len()..];
            }
            assert!(rest.is_empty());
            String::from_utf8(tags).unwrap()
        };
        assert_eq!(tags(1), "BES");
        assert_eq!(tags(2), "Qdc");
        assert_eq!(tags(500), "Qdc");
    }

    #[test]
    fn a_row_is_the_fields_with_their_lengths() {
        let mut out = Vec::new();
        push_row(3, &EVENT, &mut out);
        let expected = b"\0\x05\0\0\0\x04\0\0\0\x03\0\0\0\x0dorder.created\0\0\0\x0ae-0000002a\
            \0\0\0\x07{\"n\":1}\0\0\0\x02{}";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_request_is_answered_when_the_server_is_ready_again() {
        let mut reader = ready();
        let insert = [message(b'2', b""), message(b'C', b"INSERT 0 1\0"), message(b'Z', b"I")].concat();
        let copy = [message(b'G', &[1, 0, 0]), message(b'C', b"COPY 2\0"), message(b'Z', b"I")].concat();
        let refused =
            [message(b'E', b"SERROR\0VERROR\0C22P02\0Minvalid input syntax for type json\0\0"), message(b'Z', b"I")];
        let all = [&insert[..], &copy, &refused.concat()].concat();
        let answers = steps(&all, |bytes, closed, reply| reader.advance(bytes, closed, reply)).unwrap();
        let expected = [
            (Outcome::Good, insert.len()),
            (Outcome::Good, copy.len()),
            (Outcome::Refused("postgres 22P02".into()), refused.concat().len()),
        ];
        assert_eq!(answers, expected);
    }

    #[test]
    fn a_refused_greeting_and_broken_messages_end_the_connection() {
        let check = |bytes: &[u8], expected: ReadError| {
            assert_eq!(Reader::default().advance(bytes, true, &mut Vec::new()).unwrap_err(), expected);
        };
        let no_database = message(b'E', b"SFATAL\0C3D000\0Mdatabase \"x\" does not exist\0\0");
        check(&no_database, ReadError::Refused("postgres 3D000".into()));
        check(&message(b'R', &[0, 0, 0, 10]), ReadError::Refused("postgres wants a password".into()));
        check(b"HTTP/1.1 200 OK\r\n", ReadError::TooLarge("a message"));
        check(b"Z\0\0\0\0", ReadError::Malformed("the length of a message"));
        check(b"Z\0\0\0\x05", ReadError::Truncated);
        check(&message(b'D', b""), ReadError::Malformed("not a message that was expected of PostgreSQL"));
    }
}
