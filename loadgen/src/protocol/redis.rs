//! Redis over RESP2: a stream for each tenant, an XADD for each event.
//!
//! A batch is that many XADDs between MULTI and EXEC, in one write: atomic, and one sync of the append-only file. Plain
//! pipelining is read in pieces of 16 KiB with a sync for each. Redis has no index by type or entity.
//!
//! ```text
//! one event   XADD ev:0 * type T entity E payload P metadata M   ─►
//!             $15 1763764812000-0                                ◄─
//! batch       MULTI  XADD ..  XADD ..  EXEC                      ─►
//!             +OK  +QUEUED  +QUEUED  *2  $15 ..  $15 ..          ◄─   or -EXECABORT in place of the array
//! ```

use super::{Answer, Body, Outcome, ReadError, Step};
use crate::corpus::Event;
use std::collections::VecDeque;
use std::io::Write;

/// Longer than any one reply to an XADD.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Appends one request.
pub fn write_events<'a>(tenant: u16, events: impl Iterator<Item = Event<'a>>, out: &mut Vec<u8>) {
    let stream = format!("ev:{tenant}");
    let mut events = events.peekable();
    let Some(first) = events.next() else { return };
    let is_batch = events.peek().is_some();
    if is_batch {
        out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
    }
    push_xadd(&stream, &first, out);
    events.for_each(|event| push_xadd(&stream, &event, out));
    if is_batch {
        out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
    }
}

fn push_xadd(stream: &str, event: &Event<'_>, out: &mut Vec<u8>) {
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

fn push_bulk(bytes: &[u8], out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "${}\r\n", bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Gathers the replies to each request.
#[derive(Debug, Default)]
pub struct Reader {
    /// Top-level replies that each unanswered request still gets, oldest first.
    expected: VecDeque<u32>,
    /// Elements of an array that are still to come.
    elements: usize,
    /// Bytes of the oldest request's replies that were looked at.
    scanned: usize,
    refusal: Option<String>,
}

impl Reader {
    pub fn note_sent(&mut self, event_count: u32) {
        // MULTI, each XADD and EXEC have one each.
        self.expected.push_back(if event_count == 1 { 1 } else { event_count + 2 });
    }

    pub fn advance(&mut self, buffer: &[u8], closed: bool) -> Result<Step, ReadError> {
        while let Some(reply) = parse(&buffer[self.scanned..])? {
            let Some(expected) = self.expected.front_mut() else {
                return Err(ReadError::Malformed("a reply without a command"));
            };
            if self.elements == 0 {
                *expected -= 1
            } else {
                self.elements -= 1
            }
            match reply.kind {
                Kind::Good => {}
                Kind::Array(elements) => self.elements += elements,
                Kind::Error(kind) => self.refusal = self.refusal.take().or(Some(kind)),
            }
            self.scanned += reply.consumed;
            if *expected == 0 && self.elements == 0 {
                self.expected.pop_front();
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
    /// Elements follow, which are replies themselves.
    Array(usize),
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
        b'$' | b'*' => {
            let length = std::str::from_utf8(line).ok().and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|&length| length <= REPLY_BYTES_MAX);
            let length = length.ok_or(ReadError::Malformed("the length of a bulk string or an array"))?;
            if tag == b'*' {
                return Ok(Some(Reply { kind: Kind::Array(length), consumed: after_line }));
            }
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

    const ONE: &str = "*11\r\n$4\r\nXADD\r\n$4\r\nev:3\r\n$1\r\n*\r\n$4\r\ntype\r\n$13\r\norder.created\r\n\
        $6\r\nentity\r\n$10\r\ne-0000002a\r\n$7\r\npayload\r\n$7\r\n{\"n\":1}\r\n$8\r\nmetadata\r\n$2\r\n{}\r\n";

    fn written(event_count: usize) -> String {
        let mut out = Vec::new();
        write_events(3, std::iter::repeat_n(EVENT, event_count), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_event_is_a_command_and_more_are_a_transaction() {
        assert_eq!(written(1), ONE);
        assert_eq!(written(2), format!("*1\r\n$5\r\nMULTI\r\n{ONE}{ONE}*1\r\n$4\r\nEXEC\r\n"));
    }

    #[test]
    fn a_request_is_answered_when_all_its_commands_are() {
        let mut reader = Reader::default();
        [1, 1, 2, 2, 1].into_iter().for_each(|event_count| reader.note_sent(event_count));
        // What Redis 7.0.15 answers: the second request went to a key that is no stream, the fourth held a wrong command.
        let recorded: [&[u8]; 5] = [
            b"$15\r\n1795302018950-0\r\n",
            b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
            b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n$15\r\n1795302018950-1\r\n$15\r\n1795302018950-2\r\n",
            b"+OK\r\n+QUEUED\r\n-ERR wrong number of arguments for 'xadd' command\r\n\
                -EXECABORT Transaction discarded because of previous errors.\r\n",
            b"$15\r\n1795302018950-3\r\n",
        ];
        let answers = steps(&recorded.concat(), |bytes, closed, _| reader.advance(bytes, closed)).unwrap();
        let outcomes = [
            Outcome::Good,
            Outcome::Refused("redis WRONGTYPE".into()),
            Outcome::Good,
            Outcome::Refused("redis ERR".into()),
            Outcome::Good,
        ];
        assert_eq!(answers, outcomes.into_iter().zip(recorded.map(<[u8]>::len)).collect::<Vec<_>>());
    }

    #[test]
    fn broken_replies_are_refused() {
        let check = |bytes: &[u8], expected: ReadError| {
            let mut reader = Reader::default();
            reader.note_sent(1);
            assert_eq!(reader.advance(bytes, true).unwrap_err(), expected);
        };
        check(b"HTTP/1.1 200 OK\r\n", ReadError::Malformed("not a reply of RESP2"));
        check(b"$-5\r\n", ReadError::Malformed("the length of a bulk string or an array"));
        check(b"$15\r\n17637", ReadError::Truncated);
        check(b"\r\n", ReadError::Malformed("not a reply of RESP2"));
        assert!(Reader::default().advance(b"+OK\r\n", false).is_err());
    }
}
