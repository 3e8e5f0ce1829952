//! NATS JetStream: an event is a message on `ev.TENANT.TYPE.ENTITY`, published with a reply subject and awaited.
//!
//! A batch is that many messages behind one another in one write, answered when the stream acknowledged all of them; it
//! is not atomic. The subject is the stream's index: newest, by type and by entity are its filters.
//!
//! ```text
//! INFO {..}                                         ◄─  greeting
//! CONNECT {..}  SUB _R.PID.CONNECTION 1  PING       ─►
//! PONG                                              ◄─  ready
//! PUB ev.0.order.created.e-0000002a _R.7.0 214 ..   ─►
//! MSG _R.7.0 1 30  {"stream":"EV", "seq":1}         ◄─
//! ```

use super::{Answer, Body, Outcome, ReadError, Step};
use crate::corpus::Event;
use std::collections::VecDeque;
use std::io::Write;

/// A control line with the server's INFO in it, or an acknowledgement.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Where the acknowledgements for one connection go: no two connections of one machine share it.
fn reply_subject(connection: u32) -> String {
    format!("_R.{}.{connection}", std::process::id())
}

/// Appends the messages of one request.
pub fn write_events<'a>(connection: u32, tenant: u16, events: impl Iterator<Item = Event<'a>>, out: &mut Vec<u8>) {
    let reply = reply_subject(connection);
    for event in events {
        // Writing to a vector cannot fail.
        let _ = write!(out, "PUB ev.{tenant}.");
        out.extend_from_slice(event.event_type);
        out.push(b'.');
        out.extend_from_slice(event.entity);
        let _ = write!(out, " {reply} {}\r\n", event.json.len());
        out.extend_from_slice(event.json);
        out.extend_from_slice(b"\r\n");
    }
}

/// Gathers the acknowledgements of the events of each request.
#[derive(Debug)]
pub struct Reader {
    connection: u32,
    is_ready: bool,
    /// Events of each request that has no answer yet, oldest first.
    expected: VecDeque<u32>,
    /// Acknowledgements of the oldest request, and the bytes they took.
    ack_count: u32,
    scanned: usize,
    refusal: Option<String>,
}

impl Reader {
    pub fn new(connection: u32) -> Self {
        Self { connection, is_ready: false, expected: VecDeque::new(), ack_count: 0, scanned: 0, refusal: None }
    }

    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub fn note_sent(&mut self, event_count: u32) {
        self.expected.push_back(event_count);
    }

    pub fn advance(&mut self, buffer: &[u8], closed: bool, reply: &mut Vec<u8>) -> Result<Step, ReadError> {
        while let Some(said) = parse(&buffer[self.scanned..])? {
            self.scanned += said.consumed;
            match said.kind {
                Kind::Info => {
                    // Writing to a vector cannot fail.
                    let _ = write!(
                        reply,
                        "CONNECT {{\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\",\
                         \"protocol\":1}}\r\nSUB {} 1\r\nPING\r\n",
                        reply_subject(self.connection)
                    );
                }
                Kind::Ping => reply.extend_from_slice(b"PONG\r\n"),
                Kind::Pong => self.is_ready = true,
                Kind::Ok => {}
                Kind::Error(why) => return Err(ReadError::Refused(why)),
                Kind::Ack(refusal) => {
                    let Some(&expected) = self.expected.front() else {
                        return Err(ReadError::Malformed("an acknowledgement without a message"));
                    };
                    self.refusal = self.refusal.take().or(refusal);
                    self.ack_count += 1;
                    if self.ack_count == expected {
                        self.expected.pop_front();
                        self.ack_count = 0;
                        let outcome = self.refusal.take().map_or(Outcome::Good, Outcome::Refused);
                        let consumed = std::mem::take(&mut self.scanned);
                        let body = Body::InBuffer(0..0);
                        return Ok(Step::Answer(Answer { outcome, consumed, will_close: false, body }));
                    }
                }
            }
            // In the midst of acknowledgements their bytes stay, so that the answer accounts for them.
            if self.ack_count == 0 {
                return Ok(Step::Aside { consumed: std::mem::take(&mut self.scanned) });
            }
        }
        if closed && !buffer.is_empty() { Err(ReadError::Truncated) } else { Ok(Step::More) }
    }
}

struct Said {
    kind: Kind,
    consumed: usize,
}

enum Kind {
    Info,
    Ping,
    Pong,
    Ok,
    Error(String),
    /// With why the stream refused the message, if it did.
    Ack(Option<String>),
}

/// What stands at the start of `bytes`, or `None` when it is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Said>, ReadError> {
    let Some(line_end) = bytes.windows(2).take(LINE_BYTES_MAX).position(|pair| pair == b"\r\n") else {
        return if LINE_BYTES_MAX < bytes.len() { Err(ReadError::TooLarge("a line")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&bytes[..line_end]).map_err(|_| ReadError::Malformed("a line that is not UTF-8"))?;
    let after_line = line_end + 2;
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let kind = match verb {
        "MSG" => {
            let length = rest.rsplit(' ').next().and_then(|digits| digits.parse::<usize>().ok());
            let length = length.filter(|&length| length <= LINE_BYTES_MAX);
            let length = length.ok_or(ReadError::Malformed("the length of a message"))?;
            let consumed = after_line + length + 2;
            let Some(body) = bytes.get(after_line..consumed) else { return Ok(None) };
            return Ok(Some(Said { kind: Kind::Ack(refusal(body)), consumed }));
        }
        "INFO" => Kind::Info,
        "PING" => Kind::Ping,
        "PONG" => Kind::Pong,
        "+OK" => Kind::Ok,
        "-ERR" => Kind::Error(rest.trim_matches('\'').to_owned()),
        _ => return Err(ReadError::Malformed("not a line of NATS")),
    };
    Ok(Some(Said { kind, consumed: after_line }))
}

/// Why a stream did not store a message: `{"error":{"code":503,"err_code":10077,..},"stream":"EV","seq":0}`.
fn refusal(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct PubAck {
        error: Option<ApiError>,
        seq: Option<u64>,
    }
    #[derive(serde::Deserialize)]
    struct ApiError {
        err_code: Option<u32>,
    }
    match serde_json::from_slice::<PubAck>(body) {
        Ok(PubAck { error: None, seq: Some(1..) }) => None,
        Ok(PubAck { error: Some(ApiError { err_code: Some(code) }), .. }) => Some(format!("nats {code}")),
        _ => Some("nats answer that is no acknowledgement".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::tests::{EVENT, steps};

    const GREETING: &[u8] = b"INFO {\"server_id\":\"NB\",\"version\":\"2.9.10\",\"max_payload\":1048576} \r\nPONG\r\n";

    fn ready() -> Reader {
        let mut reader = Reader::new(5);
        let mut said = Vec::new();
        let greeting = steps(GREETING, |bytes, closed, reply| {
            let step = reader.advance(bytes, closed, reply);
            said.append(reply);
            step
        });
        assert_eq!(greeting, Ok(vec![]));
        assert!(reader.is_ready());
        let said = String::from_utf8(said).unwrap();
        assert!(said.ends_with(&format!("\r\nSUB {} 1\r\nPING\r\n", reply_subject(5))), "{said}");
        reader
    }

    #[test]
    fn a_request_is_one_message_for_each_event() {
        let mut out = Vec::new();
        write_events(5, 3, [EVENT, EVENT].into_iter(), &mut out);
        let json = std::str::from_utf8(EVENT.json).unwrap();
        let one = format!("PUB ev.3.order.created.e-0000002a {} {}\r\n{json}\r\n", reply_subject(5), json.len());
        assert_eq!(String::from_utf8(out).unwrap(), one.repeat(2));
    }

    #[test]
    fn a_request_is_answered_when_all_its_messages_are_acknowledged() {
        let mut reader = ready();
        reader.note_sent(1);
        reader.note_sent(3);
        // What NATS 2.9.10 answers, with a full stream and a ping in the midst.
        let recorded = b"MSG _R.7.5 1  24\r\n{\"stream\":\"EV\", \"seq\":1}\r\n\
            MSG _R.7.5 1  24\r\n{\"stream\":\"EV\", \"seq\":2}\r\nPING\r\n\
            MSG _R.7.5 1  24\r\n{\"stream\":\"EV\", \"seq\":3}\r\n\
            MSG _R.7.5 1  103\r\n{\"error\":{\"code\":503,\"err_code\":10077,\"description\":\"maximum messages exceeded\"},\
            \"stream\":\"EV\",\"seq\":0}\r\n";
        let mut said = Vec::new();
        let answers = steps(recorded, |bytes, closed, reply| {
            let step = reader.advance(bytes, closed, reply);
            said.append(reply);
            step
        });
        let outcomes: Vec<_> = answers.unwrap().into_iter().map(|(outcome, _)| outcome).collect();
        assert_eq!(outcomes, [Outcome::Good, Outcome::Refused("nats 10077".into())]);
        assert_eq!(said, b"PONG\r\n");
    }

    #[test]
    fn broken_lines_are_refused() {
        let check = |bytes: &[u8], expected: ReadError| {
            assert_eq!(ready().advance(bytes, true, &mut Vec::new()).unwrap_err(), expected);
        };
        check(b"HTTP/1.1 200 OK\r\n", ReadError::Malformed("not a line of NATS"));
        check(b"MSG a 1 many\r\n", ReadError::Malformed("the length of a message"));
        check(b"MSG a 1 20\r\n{\"str", ReadError::Truncated);
        check(b"-ERR 'Stale Connection'\r\n", ReadError::Refused("Stale Connection".into()));
        check(b"MSG a 1 2\r\n{}\r\n", ReadError::Malformed("an acknowledgement without a message"));
    }
}
