//! Redis over RESP2: a stream for each tenant, an XADD for each event.
//!
//! A batch is that many XADDs behind one another in one write, answered when all of them are. This is Redis' fastest way;
//! it is not atomic, as MULTI would be. Redis has no index by type or entity.
//!
//! ```text
//! *11 XADD ev:0 * type T entity E payload P metadata M      ─►      $15 1763764812000-0
//! ```

use super::{Answer, Body, Outcome, ReadError, Step};
use crate::corpus::Event;
use std::collections::VecDeque;
use std::io::Write;

/// Longer than any reply to an XADD.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Appends the XADDs of one request.
pub fn write_events<'a>(tenant: u16, events: impl Iterator<Item = Event<'a>>, out: &mut Vec<u8>) {
    let stream = format!("ev:{tenant}");
    for event in events {
        out.extend_from_slice(b"*11\r\n$4\r\nXADD\r\n");
        push_bulk(stream.as_bytes(), out);
        out.extend_from_slice(b"$1\r\n*\r\n$4\r\ntype\r\n");
        push_bulk(event.event_type, out);
        out.extend_from_slice(b"$6\r\nentity\r\n");
        push_bulk(event.entity, out);
        out.extend_from_slice(b"$7\r\npayload\r\n");
        push_bulk(event.payload, out);
        out.extend_from_slice(b"$8\r\nmetadata\r\n");
        push_bulk(event.metadata, out);
    }
}

fn push_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "${}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Gathers the replies to the events of each request.
#[derive(Debug, Default)]
pub struct Reader {
    /// Events of each request that has no answer yet, oldest first.
    expected: VecDeque<u32>,
    /// Replies to the oldest request, and the bytes they took.
    reply_count: u32,
    scanned: usize,
    refusal: Option<String>,
}

impl Reader {
    pub fn note_sent(&mut self, event_count: u32) {
        self.expected.push_back(event_count);
    }

    pub fn advance(&mut self, buffer: &[u8], closed: bool) -> Result<Step, ReadError> {
        while let Some(reply) = parse(&buffer[self.scanned..])? {
            let Some(&expected) = self.expected.front() else {
                return Err(ReadError::Malformed("a reply without a command"));
            };
            if let Kind::Error(kind) = reply.kind {
                self.refusal.get_or_insert(kind);
            }
            self.scanned += reply.consumed;
            self.reply_count += 1;
            if self.reply_count == expected {
                self.expected.pop_front();
                self.reply_count = 0;
                let outcome = self.refusal.take().map_or(Outcome::Good, Outcome::Refused);
                let consumed = std::mem::take(&mut self.scanned);
                return Ok(Step::Answer(Answer { outcome, consumed, will_close: false, body: Body::InBuffer(0..0) }));
            }
        }
        if closed && !buffer.is_empty() { Err(ReadError::Truncated) } else { Ok(Step::More) }
    }
}

struct Reply {
    kind: Kind,
    consumed: usize,
}

enum Kind {
    Good,
    /// The first word of the error, such as `OOM` or `MISCONF`.
    Error(String),
}

/// The reply at the start of `bytes`, or `None` when it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Reply>, ReadError> {
    let Some(line_end) = bytes.windows(2).take(REPLY_BYTES_MAX).position(|pair| pair == b"\r\n") else {
        return if REPLY_BYTES_MAX < bytes.len() { Err(ReadError::TooLarge("a reply")) } else { Ok(None) };
    };
    let (tag, line) = (bytes[0], &bytes[1.min(line_end)..line_end]);
    let after_line = line_end + 2;
    match tag {
        b'+' | b':' => Ok(Some(Reply { kind: Kind::Good, consumed: after_line })),
        b'-' => {
            let word = String::from_utf8_lossy(line).split(' ').next().unwrap_or_default().to_owned();
            Ok(Some(Reply { kind: Kind::Error(format!("redis {word}")), consumed: after_line }))
        }
        b'$' => {
            let length = std::str::from_utf8(line).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|&length| length <= REPLY_BYTES_MAX);
            let length = length.ok_or(ReadError::Malformed("the length of a bulk string"))?;
            let consumed = after_line + length + 2;
            Ok((consumed <= bytes.len()).then_some(Reply { kind: Kind::Good, consumed }))
        }
        _ => Err(ReadError::Malformed("not a reply of RESP2")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{EVENT, steps};

    /// What Redis 7.0.15 answered to three XADDs, the second of them to a key that is no stream.
    const RECORDED: &[u8] = b"$15\r\n1795302018950-0\r\n\
        -WRONGTYPE Operation against a key holding the wrong kind of value\r\n\
        $15\r\n1795302018950-1\r\n";

    #[test]
    fn a_request_is_one_command_for_each_event() {
        let mut out = Vec::new();
        write_events(3, [EVENT, EVENT].into_iter(), &mut out);
        let one = "*11\r\n$4\r\nXADD\r\n$4\r\nev:3\r\n$1\r\n*\r\n$4\r\ntype\r\n$13\r\norder.created\r\n\
            $6\r\nentity\r\n$10\r\ne-0000002a\r\n$7\r\npayload\r\n$7\r\n{\"n\":1}\r\n$8\r\nmetadata\r\n$2\r\n{}\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), one.repeat(2));
    }

    #[test]
    fn a_request_is_answered_when_all_its_events_are() {
        let mut reader = Reader::default();
        reader.note_sent(1);
        reader.note_sent(2);
        let answers = steps(RECORDED, |bytes, closed, _| reader.advance(bytes, closed)).unwrap();
        assert_eq!(answers, [(Outcome::Good, 22), (Outcome::Refused("redis WRONGTYPE".into()), RECORDED.len() - 22)]);
    }

    #[test]
    fn broken_replies_are_refused() {
        let check = |bytes: &[u8], expected: ReadError| {
            let mut reader = Reader::default();
            reader.note_sent(1);
            assert_eq!(reader.advance(bytes, true).unwrap_err(), expected);
        };
        check(b"HTTP/1.1 200 OK\r\n", ReadError::Malformed("not a reply of RESP2"));
        check(b"$-5\r\n", ReadError::Malformed("the length of a bulk string"));
        check(b"$15\r\n17637", ReadError::Truncated);
        check(b"\r\n", ReadError::Malformed("not a reply of RESP2"));
        assert!(Reader::default().advance(b"+OK\r\n", false).is_err());
    }
}
