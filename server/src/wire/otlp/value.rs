//! Values of OTLP as JSON text, written one behind the other.
//!
//! Owns how each kind of value is written, and the ceiling of one text: beyond it, or after another fault, nothing more is
//! written, and whoever uses the text looks at `fault` first. Must never: know which encoding a value came in.

use std::io::Write;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringlog_engine::limits::PAYLOAD_BYTES_MAX;

use super::RecordFault;
use crate::wire::answer::{put_number, put_string};

/// What a value has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Written {
    /// A string of the sender's own, not bytes and not a number in quotes.
    Text,
    #[default]
    Other,
}

#[derive(Debug, Default)]
pub(super) struct JsonText {
    bytes: Vec<u8>,
    fault: Option<RecordFault>,
}

impl JsonText {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.fault = None;
    }

    /// Clears the text and gives memory back beyond `kept_bytes`.
    pub fn trim(&mut self, kept_bytes: usize) {
        self.clear();
        self.bytes.shrink_to(kept_bytes);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn fault(&self) -> Option<RecordFault> {
        self.fault
    }

    pub fn set_fault(&mut self, fault: RecordFault) {
        self.fault.get_or_insert(fault);
    }

    /// Takes back what was written behind `len`.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// A comma, unless what comes is the first of its object or array.
    pub fn separate(&mut self) {
        if !matches!(self.bytes.last(), None | Some(b'{' | b'[')) {
            self.push(b',');
        }
    }

    /// A bracket or the like.
    pub fn push(&mut self, byte: u8) {
        if self.has_room(1) {
            self.bytes.push(byte);
        }
    }

    /// A string that has no escapes yet. What is not UTF-8 and NUL, which no stored JSON has, become U+FFFD.
    pub fn text(&mut self, raw: &[u8]) {
        if !self.has_room(raw.len()) {
            return;
        }
        match std::str::from_utf8(raw) {
            Ok(text) if !raw.contains(&0) => put_string(&mut self.bytes, text),
            _ => put_string(&mut self.bytes, &String::from_utf8_lossy(raw).replace('\0', "\u{fffd}")),
        }
    }

    /// The inside of a string that is JSON already.
    pub fn escaped_text(&mut self, inside: &str) {
        if self.has_room(inside.len()) {
            self.bytes.push(b'"');
            self.bytes.extend_from_slice(inside.as_bytes());
            self.bytes.push(b'"');
        }
    }

    pub fn bool(&mut self, value: bool) {
        self.literal(if value { "true" } else { "false" });
    }

    pub fn null(&mut self) {
        self.literal("null");
    }

    pub fn integer(&mut self, value: i64) {
        if value < 0 {
            self.push(b'-');
        }
        if self.has_room(1) {
            put_number(&mut self.bytes, value.unsigned_abs());
        }
    }

    /// What JSON has no number for is a string, as protobuf's mapping to JSON says.
    pub fn double(&mut self, value: f64) {
        if value.is_nan() {
            self.literal("\"NaN\"");
        } else if value.is_infinite() {
            self.literal(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
        } else if self.has_room(1) {
            write!(self.bytes, "{value:?}").expect("a vector takes everything");
        }
    }

    /// Bytes as base64 with padding.
    pub fn base64(&mut self, raw: &[u8]) {
        let encoded_bytes = raw.len().div_ceil(3) * 4;
        if !self.has_room(encoded_bytes) {
            return;
        }
        self.bytes.push(b'"');
        let start = self.bytes.len();
        self.bytes.resize(start + encoded_bytes, 0);
        STANDARD.encode_slice(raw, &mut self.bytes[start..]).expect("the room was made for it");
        self.bytes.push(b'"');
    }

    fn literal(&mut self, text: &str) {
        if self.has_room(text.len()) {
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    /// Escapes make at most six bytes of one, so that a text ends a few times above its ceiling at most.
    fn has_room(&mut self, bytes: usize) -> bool {
        if self.bytes.len() + bytes > PAYLOAD_BYTES_MAX {
            self.set_fault(RecordFault::TooLarge);
        }
        self.fault.is_none()
    }
}

/// Attributes as one JSON object, with the places of the values that the mapping looks for.
#[derive(Debug, Default)]
pub(super) struct Attributes {
    pub text: JsonText,
    service: Range<usize>,
    host: Range<usize>,
    session: Range<usize>,
}

impl Attributes {
    pub fn begin(&mut self) {
        self.text.clear();
        self.text.push(b'{');
        self.service = 0..0;
        self.host = 0..0;
        self.session = 0..0;
    }

    pub fn end(&mut self) {
        self.text.push(b'}');
    }

    /// Only for attributes that have ended.
    pub fn is_empty(&self) -> bool {
        self.text.as_bytes() == b"{}"
    }

    /// The attribute that has been written: its key, and where its value begins.
    pub fn note(&mut self, key: &[u8], value_at: usize, written: Written) {
        let place = match key {
            b"service.name" => &mut self.service,
            b"host.name" => &mut self.host,
            b"session.id" => &mut self.session,
            _ => return,
        };
        if written == Written::Text && self.text.fault().is_none() {
            *place = value_at + 1..self.text.len() - 1;
        }
    }

    /// The insides of JSON strings; empty where there is none.
    pub fn service(&self) -> &str {
        self.inside(&self.service)
    }

    pub fn host(&self) -> &str {
        self.inside(&self.host)
    }

    pub fn session(&self) -> &str {
        self.inside(&self.session)
    }

    fn inside(&self, place: &Range<usize>) -> &str {
        std::str::from_utf8(&self.text.as_bytes()[place.clone()]).expect("JSON text is UTF-8")
    }
}

/// A member of an object whose key may come behind its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    start: usize,
}

impl Member {
    pub fn begin(text: &mut JsonText) -> Member {
        text.separate();
        Member { start: text.len() }
    }

    /// Brings the key, which stands with its colon from `key_at` on, before the value. Returns where the value begins.
    pub fn key_to_front(self, text: &mut JsonText, key_at: usize) -> usize {
        let key_bytes = text.len() - key_at;
        text.bytes[self.start..].rotate_right(key_bytes);
        self.start + key_bytes
    }
}
