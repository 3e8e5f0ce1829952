//! What sources are sent, made here from their specifications and once: sending copies it and patches what differs.
//!
//! Shares nothing with the server and with no SDK, so that a mistake of either cannot hide in its own judge. Must never: be
//! slower than a copy and a few bytes for each event.
//!
//! ```text
//! make_*(..) ─► Made { bytes, places } ─► append(out, batch id, first number, entity of each, now)
//! ```

pub mod frame;
mod otlp;
mod text;

use crate::corpus::Seq;
use clap::ValueEnum;
use std::time::Duration;

pub use text::{events, shipper, syslog};

const SEQ_DIGITS: usize = 16;
const ENTITY_DIGITS: usize = 8;
const MILLIS_DIGITS: usize = 13;

/// Bodies that a program sends over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BodyKind {
    /// One binary frame without its length, with a batch id of its own each time
    Frame,
    /// JSON lines as the second seed's SDKs send them
    Events,
    /// JSON lines as log shippers send them
    Shipper,
    /// An ExportLogsServiceRequest as protobuf
    Otlp,
}

impl BodyKind {
    /// A body of `count` events of about `event_bytes` bytes of JSON.
    pub fn make(self, key: &[u8; 16], count: usize, event_bytes: usize) -> Made {
        match self {
            Self::Frame => frame::body(key, count, event_bytes),
            Self::Events => events(count, event_bytes),
            Self::Shipper => shipper(count, event_bytes),
            Self::Otlp => otlp::request(count, event_bytes),
        }
    }
}

/// Where something stands that is another each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// 16 hex digits.
    Seq(usize),
    /// 8 hex digits.
    Entity(usize),
    /// 13 decimal digits.
    MillisText(usize),
    /// u64.
    Millis(usize),
    Nanos(usize),
}

/// A batch, whole but for what is patched.
#[derive(Debug, Clone)]
pub struct Made {
    bytes: Vec<u8>,
    batch_id: Option<usize>,
    /// By event.
    places: Vec<Vec<Place>>,
}

impl Made {
    pub fn event_count(&self) -> usize {
        self.places.len()
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the batch. Events are numbered from `first` on; `entity` gives one for each.
    pub fn append(&self, out: &mut Vec<u8>, batch_id: u64, first: Seq, now: Duration, mut entity: impl FnMut() -> u32) {
        let base = out.len();
        out.extend_from_slice(&self.bytes);
        let copy = &mut out[base..];
        if let Some(at) = self.batch_id {
            put_u64(copy, at, batch_id);
        }
        let (millis, nanos) = (now.as_millis() as u64, now.as_nanos() as u64);
        for (index, places) in self.places.iter().enumerate() {
            for place in places {
                match *place {
                    Place::Seq(at) => put_hex(&mut copy[at..at + SEQ_DIGITS], first.plus(index as u64).0),
                    Place::Entity(at) => put_hex(&mut copy[at..at + ENTITY_DIGITS], u64::from(entity())),
                    Place::MillisText(at) => put_decimal(&mut copy[at..at + MILLIS_DIGITS], millis),
                    Place::Millis(at) => put_u64(copy, at, millis),
                    Place::Nanos(at) => put_u64(copy, at, nanos),
                }
            }
        }
    }
}

/// Little-endian, as FlatBuffers and protobuf have it.
fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn put_hex(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn put_decimal(digits: &mut [u8], mut value: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Writes texts with gaps, and remembers where these are.
#[derive(Debug, Default)]
struct Maker {
    bytes: Vec<u8>,
    batch_id: Option<usize>,
    places: Vec<Vec<Place>>,
}

impl Maker {
    fn put(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.bytes.extend_from_slice(bytes.as_ref());
        self
    }

    fn begin_event(&mut self) -> &mut Self {
        self.places.push(Vec::new());
        self
    }

    fn gap(&mut self, bytes: usize, place: fn(usize) -> Place) -> &mut Self {
        let at = self.bytes.len();
        self.bytes.resize(at + bytes, b'0');
        self.places.last_mut().expect("an event has begun").push(place(at));
        self
    }

    fn seq(&mut self) -> &mut Self {
        self.gap(SEQ_DIGITS, Place::Seq)
    }

    fn entity(&mut self) -> &mut Self {
        self.put("e-").gap(ENTITY_DIGITS, Place::Entity)
    }

    fn millis_text(&mut self) -> &mut Self {
        self.gap(MILLIS_DIGITS, Place::MillisText)
    }

    fn made(self) -> Made {
        Made { bytes: self.bytes, batch_id: self.batch_id, places: self.places }
    }
}

/// Words that fill an event up to its size, other ones for each.
fn note(index: usize, bytes: usize) -> String {
    const WORDS: [&str; 12] = [
        "parcel",
        "north",
        "überall",
        "blue",
        "seventeen",
        "a,b",
        "東京",
        "{curly}",
        "[list]",
        "warehouse",
        "plain",
        "x",
    ];
    let mut text = String::new();
    let mut at = index;
    while text.len() < bytes {
        text.push_str(WORDS[at % WORDS.len()]);
        text.push(' ');
        at = (at * 7 + 3) % 1009;
    }
    text
}

#[cfg(test)]
mod tests;
