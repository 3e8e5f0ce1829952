//! Where one message ends and the next begins: RFC 6587, both ways on one connection, decided for each message.
//!
//! Owns the look-ahead and what happens to a message that is too long. Must never: keep bytes, or lose any: what is not
//! consumed is shown again, with more behind it.
//!
//! ```text
//! 29 <34>1 - host app - - - hello!    digits, a space, '<' and a digit: the digits count the bytes behind the space
//! <34>Oct 11 22:14:15 host app: hi\n  anything else: up to the line feed
//! ```
//! Line feeds, carriage returns and NULs around a message do not belong to it, and an empty line is no message.

use std::ops::Range;

use crate::limits::{SYSLOG_MESSAGE_BYTES_MAX, SYSLOG_TRUNCATED_BYTES};

/// Digits of a count. A longer run of digits is text: nobody sends a gigabyte as one message.
const COUNT_DIGITS_MAX: usize = 9;

/// What the pending bytes begin with. Ranges are places in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, without what ended it. Never empty.
    Message(Range<usize>),
    /// The beginning of a message that is too long, or that the connection's end cut off. The rest is skipped.
    Truncated(Range<usize>),
    /// No more messages in these bytes.
    Need,
}

/// A frame, and how many bytes to drop from the front before the next call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub frame: Frame,
    pub consumed: usize,
}

/// What of a message that is too long is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    Bytes(usize),
    Line,
}

/// The state of one connection's framing.
#[derive(Debug)]
pub struct Framer {
    skip: Skip,
    /// Bytes at the front of the pending ones that are known to hold no line feed.
    searched: usize,
    message_bytes_max: usize,
    truncated_bytes: usize,
}

impl Default for Framer {
    fn default() -> Framer {
        Framer::new(SYSLOG_MESSAGE_BYTES_MAX, SYSLOG_TRUNCATED_BYTES)
    }
}

/// How a message is framed, as far as its first bytes say.
enum Head {
    /// The message has this many bytes, from this place on.
    Counted {
        at: usize,
        bytes: usize,
    },
    Line,
    /// It takes more bytes to tell.
    Undecided,
}

impl Framer {
    pub fn new(message_bytes_max: usize, truncated_bytes: usize) -> Framer {
        assert!(0 < truncated_bytes);
        assert!(truncated_bytes <= message_bytes_max);
        Framer { skip: Skip::Nothing, searched: 0, message_bytes_max, truncated_bytes }
    }

    /// Most bytes that can be pending after `Need`: what a connection's buffer has to hold, plus one read.
    pub fn pending_bytes_max(&self) -> usize {
        self.message_bytes_max + COUNT_DIGITS_MAX + 1
    }

    /// The first message of the pending bytes. `pending` begins where the previous call's `consumed` ended, and may have
    /// grown since. Call it again until it says `Need`.
    pub fn step(&mut self, pending: &[u8]) -> Step {
        let mut at = 0;
        loop {
            match self.skip {
                Skip::Nothing => {}
                Skip::Bytes(bytes) => {
                    let skipped = bytes.min(pending.len() - at);
                    at += skipped;
                    if skipped < bytes {
                        self.skip = Skip::Bytes(bytes - skipped);
                        return Step { frame: Frame::Need, consumed: at };
                    }
                    self.skip = Skip::Nothing;
                }
                Skip::Line => match memchr::memchr(b'\n', &pending[at..]) {
                    None => return Step { frame: Frame::Need, consumed: pending.len() },
                    Some(len) => {
                        at += len + 1;
                        self.skip = Skip::Nothing;
                    }
                },
            }
            at += leading_ends(&pending[at..]);
            let rest = &pending[at..];
            let (frame, consumed) = match head(rest) {
                Head::Undecided => (Frame::Need, at),
                Head::Counted { at: head_bytes, bytes } => self.counted(rest, at, head_bytes, bytes),
                Head::Line => self.line(rest, at),
            };
            // A count can hold nothing but ends.
            if frame == Frame::Message(consumed..consumed) {
                at = consumed;
                continue;
            }
            return Step { frame, consumed };
        }
    }

    /// What is left when the sender has ended the stream and `step` has said `Need`: an unterminated line is a message, and
    /// a count that was not reached a truncated one.
    pub fn finish(&mut self, pending: &[u8]) -> Option<Frame> {
        if self.skip != Skip::Nothing {
            return None;
        }
        let at = leading_ends(pending);
        let rest = &pending[at..];
        if rest.is_empty() {
            return None;
        }
        if let Head::Counted { at: head_bytes, .. } = head(rest) {
            let from = at + head_bytes;
            return Some(Frame::Truncated(from..pending.len().min(from + self.truncated_bytes)));
        }
        Some(Frame::Message(at..at + trimmed(rest)))
    }

    fn counted(&mut self, rest: &[u8], at: usize, head_bytes: usize, bytes: usize) -> (Frame, usize) {
        let from = at + head_bytes;
        let arrived = rest.len() - head_bytes;
        if bytes > self.message_bytes_max {
            if arrived < self.truncated_bytes {
                return (Frame::Need, at);
            }
            self.skip = Skip::Bytes(bytes - self.truncated_bytes);
            let to = from + self.truncated_bytes;
            return (Frame::Truncated(from..to), to);
        }
        if arrived < bytes {
            return (Frame::Need, at);
        }
        let message = &rest[head_bytes..head_bytes + bytes];
        let ends = leading_ends(message);
        let len = trimmed(&message[ends..]);
        if len == 0 {
            return (Frame::Message(from + bytes..from + bytes), from + bytes);
        }
        (Frame::Message(from + ends..from + ends + len), from + bytes)
    }

    fn line(&mut self, rest: &[u8], at: usize) -> (Frame, usize) {
        // The leading ends are gone after the first call that saw them, so that places do not move between calls.
        let searched = std::mem::take(&mut self.searched).min(rest.len());
        let end = memchr::memchr(b'\n', &rest[searched..]).map(|found| searched + found);
        let len = end.unwrap_or(rest.len());
        if len > self.message_bytes_max {
            if end.is_none() {
                self.skip = Skip::Line;
            }
            let consumed = at + end.map_or(len, |end| end + 1);
            return (Frame::Truncated(at..at + self.truncated_bytes), consumed);
        }
        match end {
            None => {
                self.searched = len;
                (Frame::Need, at)
            }
            Some(end) => (Frame::Message(at..at + trimmed(&rest[..end])), at + end + 1),
        }
    }
}

/// The message of a datagram. `None`: there is none in it.
pub fn datagram(bytes: &[u8]) -> Option<&[u8]> {
    let message = &bytes[leading_ends(bytes)..];
    let message = &message[..trimmed(message)];
    if message.is_empty() { None } else { Some(message) }
}

fn head(bytes: &[u8]) -> Head {
    let digits = bytes.iter().take(COUNT_DIGITS_MAX + 1).take_while(|byte| byte.is_ascii_digit()).count();
    match bytes.first() {
        None => return Head::Undecided,
        Some(b'1'..=b'9') if digits <= COUNT_DIGITS_MAX => {}
        Some(_) => return Head::Line,
    }
    match bytes[digits..] {
        [] | [b' '] | [b' ', b'<'] => Head::Undecided,
        [b' ', b'<', b'0'..=b'9', ..] => {
            let count = bytes[..digits].iter().fold(0, |count, digit| count * 10 + usize::from(digit - b'0'));
            Head::Counted { at: digits + 1, bytes: count }
        }
        _ => Head::Line,
    }
}

fn is_end(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0)
}

fn leading_ends(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_end(byte)).count()
}

/// Length without the ends behind it.
fn trimmed(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1)
}
