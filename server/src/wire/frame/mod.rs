//! Frames of the binary source: a length, then a FlatBuffer with a key and the events of one batch.
//!
//! Owns where a frame ends, what it holds, and that it becomes events whole or not at all. Must never: allocate for an event,
//! ask whether the key is known, or trust an address in the frame unless it is told to.
//! The bytes, and what becomes of them, are in docs/wire-protocol.md.
//!
//! ```text
//! length u32, big-endian | Batch: key, schema, version, batch id, address, data ─► EventData | LogData | MetricData | ...
//! ```

mod entry;
mod fill;
mod flat;
mod made;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use ringlog_engine::event::{EventBatch, EventError, IdempotencyKey, KeyClass};
use ringlog_engine::limits::{BATCH_EVENTS_MAX, ENTITY_BYTES_MAX, PAYLOAD_BYTES_MAX, TYPE_BYTES_MAX};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use self::entry::Walk;
use self::fill::{Filler, METRIC, Payload, SNAPSHOT, TRACE, sort_of_event, sort_of_log, write_ending};
use self::flat::{Bounds, Buffer};
use super::json::{JsonError, as_text};
use super::json_simd::Window;
use crate::limits::FRAME_BYTES_MAX;

/// Bytes of the length in front of a frame. They do not count themselves.
pub const LENGTH_BYTES: usize = 4;
pub const KEY_BYTES: usize = 16;
/// A body below it holds no key.
pub const BODY_BYTES_MIN: usize = 16;
/// Service and source are names. A text of this length is none, and would be copied into the metadata of each event.
pub const ORIGIN_TEXT_BYTES_MAX: usize = 4096;

/// Room that is made for a frame's events at once. More of them make more, if they are what they say.
const RESERVED_BYTES_MAX: usize = 1 << 20;

/// What stands at the front of a connection's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// A frame is whole once there are so many bytes, its length among them.
    Need(usize),
    /// The place of its body; the next frame begins where it ends.
    Frame(Range<usize>),
    /// It says that it is longer than any frame may be. Nothing behind it can be read.
    TooLarge(u32),
}

/// Finds the first frame of `bytes`.
#[inline]
pub fn next_frame(bytes: &[u8]) -> Framing {
    let Some(&[a, b, c, d]) = bytes.first_chunk::<LENGTH_BYTES>() else { return Framing::Need(LENGTH_BYTES) };
    // The one number of the protocol that has its highest byte first.
    let len = u32::from_le_bytes([d, c, b, a]);
    if len as usize > FRAME_BYTES_MAX {
        return Framing::TooLarge(len);
    }
    let end = LENGTH_BYTES + len as usize;
    if bytes.len() < end { Framing::Need(end) } else { Framing::Frame(LENGTH_BYTES..end) }
}

/// Which table a frame's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    Event,
    Log,
    Metric,
    Trace,
    Snapshot,
}

impl Schema {
    /// Numbers without a meaning are events, as they always were.
    fn of(number: u8) -> Schema {
        match number {
            2 => Schema::Log,
            3 => Schema::Metric,
            4 => Schema::Trace,
            5 => Schema::Snapshot,
            _ => Schema::Event,
        }
    }
}

/// The outer table of a frame. What is in `data` has not been looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    body: &'a [u8],
    pub key: [u8; KEY_BYTES],
    pub schema: Schema,
    /// 100 is 1.0; nothing depends on it.
    pub version: u8,
    /// 0: none.
    pub batch_id: u64,
    pub data: &'a [u8],
    /// Whom a forwarder has it from, if the forwarder is to be believed. IPv6, or IPv4 within it.
    pub source_ip: Option<[u8; 16]>,
}

/// What tells a frame that is sent again from another. Equal for equal bytes with one seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplayKey {
    pub key: [u8; KEY_BYTES],
    pub batch_id: u64,
    /// Of the whole body.
    pub content: u128,
}

impl ReplayKey {
    /// What makes the frame's batch be stored once, whichever way it comes again. A sender counts its batches from 1 in each of
    /// its lives, so that another content under the same number is another batch.
    pub fn idempotency(&self, seed: u64) -> IdempotencyKey {
        let mut whole = [0; KEY_BYTES + 8 + 16];
        whole[..KEY_BYTES].copy_from_slice(&self.key);
        whole[KEY_BYTES..KEY_BYTES + 8].copy_from_slice(&self.batch_id.to_le_bytes());
        whole[KEY_BYTES + 8..].copy_from_slice(&self.content.to_le_bytes());
        let key = xxh3_128_with_seed(&whole, seed).to_le_bytes();
        IdempotencyKey { class: KeyClass::Frame, key, body: self.content.to_le_bytes() }
    }
}

/// How a frame came in.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// `source_kind` of the metadata.
    pub source_kind: &'static str,
    pub peer: IpAddr,
    /// Whether the peer may say whom it has the frame from.
    pub trust_source_ip: bool,
}

/// Memory that a core keeps from frame to frame.
#[derive(Debug, Default)]
pub struct Scratch {
    window: Window,
    key: String,
    user: String,
    metadata: Vec<u8>,
    ending: Vec<u8>,
    made: Vec<u8>,
}

/// Why a frame was refused. Whatever it is, nothing of the frame is in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    Short {
        bytes: usize,
    },
    /// An offset of the outer table, or of the data's, leads out of the frame.
    Bounds,
    KeyMissing,
    KeyBytes {
        bytes: usize,
    },
    DataMissing,
    SourceIpBytes {
        bytes: usize,
    },
    NoEvents,
    TooManyEvents {
        count: usize,
    },
    /// The batch has no room for all of it. In an empty batch, it has more than any batch can take.
    BatchFull,
    Event {
        index: usize,
        fault: Fault,
    },
}

/// What is wrong with one event of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Bounds,
    /// Not UTF-8, or with a NUL in it.
    Text(Part),
    TextBytes {
        part: Part,
        bytes: usize,
    },
    IdBytes {
        part: Part,
        bytes: usize,
    },
    /// Not JSON, or not an object.
    Payload(JsonError),
    PayloadBytes {
        bytes: usize,
    },
    /// Payloads have more bytes than the data that they lie in.
    Overlap,
    /// An event's name is too long or has a control character.
    Name,
    /// The server's own name for its own events.
    Reserved,
    MetricName,
    Entity,
    Timestamp {
        timestamp: u64,
    },
    Event(EventError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Name,
    Service,
    Source,
    Entity,
    DeviceId,
    SessionId,
    TraceId,
    SpanId,
    Label,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Name => "name",
            Part::Service => "service",
            Part::Source => "source",
            Part::Entity => "entity",
            Part::DeviceId => "device_id",
            Part::SessionId => "session_id",
            Part::TraceId => "trace_id",
            Part::SpanId => "span_id",
            Part::Label => "label",
        }
    }
}

impl FrameError {
    /// For counters. Part of what is documented.
    pub fn reason(&self) -> &'static str {
        match self {
            FrameError::Short { .. } => "short",
            FrameError::KeyMissing => "key_missing",
            FrameError::KeyBytes { .. } => "key_length",
            FrameError::DataMissing => "data_missing",
            FrameError::SourceIpBytes { .. } => "source_ip",
            FrameError::NoEvents => "no_events",
            FrameError::TooManyEvents { .. } => "too_many_events",
            FrameError::BatchFull => "batch_full",
            FrameError::Bounds => "bounds",
            FrameError::Event { fault, .. } => match fault {
                Fault::Bounds => "bounds",
                Fault::Text(_) => "text",
                Fault::TextBytes { .. } => "text_length",
                Fault::IdBytes { .. } => "id_length",
                Fault::Payload(_) => "payload_json",
                Fault::PayloadBytes { .. } => "payload_length",
                Fault::Overlap => "overlap",
                Fault::Name => "event_name",
                Fault::Reserved => "reserved_name",
                Fault::MetricName => "metric_name",
                Fault::Entity => "entity",
                Fault::Timestamp { .. } => "timestamp",
                Fault::Event(_) => "event",
            },
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Short { bytes } => write!(f, "the frame has {bytes} bytes, at least {BODY_BYTES_MIN} needed"),
            FrameError::Bounds => f.write_str("an offset leads out of the frame"),
            FrameError::KeyMissing => f.write_str("the frame has no key"),
            FrameError::KeyBytes { bytes } => write!(f, "the key has {bytes} bytes instead of {KEY_BYTES}"),
            FrameError::DataMissing => f.write_str("the frame has no data"),
            FrameError::SourceIpBytes { bytes } => write!(f, "the source address has {bytes} bytes instead of 16"),
            FrameError::NoEvents => f.write_str("the data has no events"),
            FrameError::TooManyEvents { count } => {
                write!(f, "the data has {count} events, {BATCH_EVENTS_MAX} allowed")
            }
            FrameError::BatchFull => f.write_str("the frame's events take more room than a batch has"),
            FrameError::Event { index, fault } => write!(f, "event {index}: {fault}"),
        }
    }
}

impl std::error::Error for FrameError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Bounds => f.write_str("an offset leads out of the frame"),
            Fault::Text(part) => write!(f, "{} is not UTF-8 or has a NUL", part.name()),
            Fault::TextBytes { part, bytes } => {
                write!(f, "{} has {bytes} bytes, {ORIGIN_TEXT_BYTES_MAX} allowed", part.name())
            }
            Fault::IdBytes { part, bytes } => write!(f, "{} has {bytes} bytes, which no such id has", part.name()),
            Fault::Payload(error) => write!(f, "the payload is not a JSON object: {error}"),
            Fault::PayloadBytes { bytes } => {
                write!(f, "the payload has {bytes} bytes or more, {PAYLOAD_BYTES_MAX} allowed")
            }
            Fault::Overlap => f.write_str("payloads lie over each other"),
            Fault::Name => {
                write!(f, "the event's name is longer than {TYPE_BYTES_MAX} bytes or has a control character")
            }
            Fault::Reserved => f.write_str("the event's name is reserved for the server"),
            Fault::MetricName => f.write_str("the metric has no name"),
            Fault::Entity => {
                write!(f, "the entity is longer than {ENTITY_BYTES_MAX} bytes or has a control character")
            }
            Fault::Timestamp { timestamp } => write!(f, "the timestamp {timestamp} is behind the year 9999"),
            Fault::Event(error) => write!(f, "{error}"),
        }
    }
}

impl From<Bounds> for FrameError {
    fn from(_: Bounds) -> FrameError {
        FrameError::Bounds
    }
}

impl From<Bounds> for Fault {
    fn from(_: Bounds) -> Fault {
        Fault::Bounds
    }
}

impl<'a> Frame<'a> {
    /// Reads the outer table: cheap, and done before the key is checked.
    #[inline]
    pub fn parse(body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        Frame::parse_by(Walk::Recognise, body)
    }

    #[inline]
    fn parse_by(walk: Walk, body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        if walk.recognises()
            && let Some(frame) = Frame::recognise(body)
        {
            return Ok(frame);
        }
        Frame::walk(body)
    }

    /// The frame as the published SDKs lay it out.
    #[inline(always)]
    fn recognise(body: &'a [u8]) -> Option<Frame<'a>> {
        const KEY_AT: usize = 0x34;
        const DATA_AT: usize = 0x48;
        let (head, data) = body.split_first_chunk::<DATA_AT>()?;
        let words = head.as_chunks::<8>().0;
        let mut other = 0;
        for (found, (sent, mask)) in words.iter().zip(SDK_HEAD.iter().zip(SDK_HEAD_MASK)) {
            other |= (u64::from_le_bytes(*found) ^ sent) & mask;
        }
        let [.., a, b, c, d] = *head;
        if other != 0 || head[0x30..KEY_AT] != [KEY_BYTES as u8, 0, 0, 0] {
            return None;
        }
        let buffer = Buffer(head);
        let has_batch_id = head[0x0e] != 0;
        Some(Frame {
            body,
            key: *head[KEY_AT..].first_chunk()?,
            schema: Schema::of(head[0x2c]),
            version: head[0x2d],
            batch_id: if has_batch_id { buffer.u64(0x24).ok()? } else { 0 },
            data: data.get(..u32::from_le_bytes([a, b, c, d]) as usize)?,
            source_ip: None,
        })
    }

    /// The frame as anybody may lay it out.
    fn walk(body: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        if body.len() < BODY_BYTES_MIN {
            return Err(FrameError::Short { bytes: body.len() });
        }
        let buffer = Buffer(body);
        let [key, schema, version, batch_id, data, source_ip] = buffer.fields(buffer.root()?)?.places;
        if key == 0 {
            return Err(FrameError::KeyMissing);
        }
        let key = buffer.bytes(key)?;
        if data == 0 {
            return Err(FrameError::DataMissing);
        }
        let source_ip = match buffer.bytes(source_ip)? {
            [] => None,
            bytes => Some(*bytes.as_array().ok_or(FrameError::SourceIpBytes { bytes: bytes.len() })?),
        };
        Ok(Frame {
            body,
            key: *key.as_array().ok_or(FrameError::KeyBytes { bytes: key.len() })?,
            schema: Schema::of(buffer.u8(schema)?.unwrap_or(0)),
            version: buffer.u8(version)?.unwrap_or(0),
            batch_id: buffer.u64(batch_id)?,
            data: buffer.bytes(data)?,
            source_ip,
        })
    }

    /// What a frame that is sent again has in common with the first; `None` for a frame without a batch id, which may be
    /// equal to another by intention.
    pub fn replay_key(&self, seed: u64) -> Option<ReplayKey> {
        if self.batch_id == 0 {
            return None;
        }
        let content = xxh3_128_with_seed(self.body, seed);
        Some(ReplayKey { key: self.key, batch_id: self.batch_id, content })
    }

    /// Appends every event of the frame to `batch` and returns how many. After an error the batch is as it was before.
    #[inline]
    pub fn put(&self, received: &Received, scratch: &mut Scratch, batch: &mut EventBatch) -> Result<usize, FrameError> {
        self.put_by(Walk::Recognise, received, scratch, batch)
    }

    fn put_by(
        &self,
        walk: Walk,
        received: &Received,
        scratch: &mut Scratch,
        batch: &mut EventBatch,
    ) -> Result<usize, FrameError> {
        let before = batch.event_count();
        write_ending(received, self.source_ip, &mut scratch.ending);
        let filled = self.fill(walk, scratch, batch);
        if filled.is_err() {
            batch.truncate(before);
        }
        // One payload of control characters alone is six times as long in between.
        scratch.made.shrink_to(PAYLOAD_BYTES_MAX);
        filled
    }

    #[inline(always)]
    fn fill(&self, walk: Walk, scratch: &mut Scratch, batch: &mut EventBatch) -> Result<usize, FrameError> {
        let buffer = Buffer(self.data);
        let [entries] = buffer.fields(buffer.root()?)?.places;
        let entries = buffer.tables(entries)?;
        let count = entries.count;
        if count == 0 {
            return Err(FrameError::NoEvents);
        }
        if count > BATCH_EVENTS_MAX {
            return Err(FrameError::TooManyEvents { count });
        }
        // What a table takes in the frame, a record's header and metadata take in the batch.
        batch.reserve(count, self.data.len().min(RESERVED_BYTES_MAX));
        let (mut filler, made) = Filler::new(scratch, batch, self.data.len());
        for index in 0..count {
            let refuse = |fault| FrameError::Event { index, fault };
            let at = entries.at(index).map_err(|bounds| refuse(bounds.into()))?;
            match self.schema {
                Schema::Event => {
                    let entry = entry::event(walk, buffer, at).map_err(refuse)?;
                    let payload = filler.check_payload(entry.payload).map_err(refuse)?;
                    filler.push(index, sort_of_event(entry.event_type), &entry, entry.name, payload)?;
                }
                Schema::Log => {
                    let entry = entry::log(walk, buffer, at).map_err(refuse)?;
                    let payload = filler.check_payload(entry.payload).map_err(refuse)?;
                    filler.push(index, sort_of_log(entry.event_type), &entry, b"", payload)?;
                }
                Schema::Snapshot => {
                    let entry = entry::snapshot(buffer, at).map_err(refuse)?;
                    let payload = filler.check_payload(entry.payload).map_err(refuse)?;
                    filler.push(index, SNAPSHOT, &entry, b"", payload)?;
                }
                Schema::Metric => {
                    let metric = entry::metric(buffer, at).map_err(refuse)?;
                    made::metric(buffer, &metric, made).map_err(refuse)?;
                    filler.push(index, METRIC, &metric.entry, b"", Payload { bytes: made, user: None })?;
                }
                Schema::Trace => {
                    let span = entry::span(buffer, at).map_err(refuse)?;
                    let user = filler.check_payload(span.entry.payload).map_err(refuse)?.user;
                    made::span(&span, made).map_err(refuse)?;
                    filler.push(index, TRACE, &span.entry, b"", Payload { bytes: made, user })?;
                }
            }
        }
        Ok(count)
    }
}

/// Root offset, vtable, and the table up to the offset of the data, as words of eight bytes.
const SDK_HEAD: [u64; 4] = [0x0020_0010_0000_0014, 0x0010_0019_0018_0004, 0x0000_0010_0000_0008, 0x0000_0028_0000_0018];
/// The slot of the batch id is 16, or 0 where it is absent.
const SDK_HEAD_MASK: [u64; 4] = [u64::MAX, !(0x0010 << 48), u64::MAX, u64::MAX];

/// A string of a frame.
#[inline(always)]
fn text(bytes: &[u8], part: Part) -> Result<&str, Fault> {
    match as_text(bytes) {
        Ok(text) if !bytes.contains(&0) => Ok(text),
        _ => Err(Fault::Text(part)),
    }
}
