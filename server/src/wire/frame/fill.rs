//! Entries become events: the one mapping of docs/wire-protocol.md.
//!
//! Owns which field becomes type, entity, payload, metadata and time. Must never: change a payload, or look at a byte of it
//! more than once. Metadata is made anew only where the sender changes, which in one client's frame is once.

use std::io::Write;
use std::net::IpAddr;

use ringlog_engine::event::{EventBatch, EventError, EventInput};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::Micros;
use ringlog_engine::limits::{ENTITY_BYTES_MAX, PAYLOAD_BYTES_MAX};

use super::entry::{Entry, Origin};
use super::made::{hex_pair, push_hex, push_name};
use super::{Fault, FrameError, ORIGIN_TEXT_BYTES_MAX, Part, Received, Scratch, text};
use crate::wire::envelope::{is_reserved_entity, is_reserved_type, key_bytes};
use crate::wire::json::{JsonError, Kind, Scanner, Value, as_text};
use crate::wire::json_simd::Window;
use crate::wire::response::push_json_string;
use crate::wire::time::MOMENT_MAX;

/// Severities as RFC 5424 numbers them, and one below.
const LEVELS: [&str; 9] = ["emergency", "alert", "critical", "error", "warning", "notice", "info", "debug", "trace"];

/// Entity of an event that says nothing of whom it is about.
const NO_ENTITY: &str = "unknown";

const ID_HEX_BYTES: usize = 32;

/// What an entry is, and what stands for a name that it lacks.
#[derive(Debug, Clone, Copy)]
pub struct Sort {
    pub kind: EventKind,
    pub default_type: &'static str,
    /// Of the timestamp.
    pub unit: Unit,
    /// Where the entity is looked for.
    pub entities: &'static [Whom],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Millisecond,
    Nanosecond,
}

/// Who an event can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    User,
    Snapshot,
    Device,
    Session,
    Service,
    Source,
}

const OF_EVENTS: &[Whom] = &[Whom::User, Whom::Device, Whom::Session, Whom::Service];
const OF_SERVERS: &[Whom] = &[Whom::User, Whom::Service, Whom::Source, Whom::Session];
const OF_SNAPSHOTS: &[Whom] = &[Whom::Snapshot, Whom::User, Whom::Source];

pub const METRIC: Sort =
    Sort { kind: EventKind::Metric, default_type: "metric", unit: Unit::Nanosecond, entities: OF_SERVERS };
pub const TRACE: Sort =
    Sort { kind: EventKind::Trace, default_type: "trace", unit: Unit::Nanosecond, entities: OF_SERVERS };
pub const SNAPSHOT: Sort =
    Sort { kind: EventKind::Event, default_type: "snapshot", unit: Unit::Millisecond, entities: OF_SNAPSHOTS };

/// By `EventType` of the events' schema.
#[inline(always)]
pub fn sort_of_event(event_type: u8) -> Sort {
    const TYPES: [&str; 7] = ["event", "track", "identify", "group", "alias", "enrich", "context"];
    const IDENTIFY: u8 = 2;
    let kind = if event_type == IDENTIFY { EventKind::Identify } else { EventKind::Event };
    let default_type = TYPES.get(usize::from(event_type)).copied().unwrap_or(TYPES[0]);
    Sort { kind, default_type, unit: Unit::Millisecond, entities: OF_EVENTS }
}

/// By `LogEventType` of the logs' schema.
#[inline(always)]
pub fn sort_of_log(event_type: u8) -> Sort {
    const ENRICH: u8 = 2;
    let default_type = if event_type == ENRICH { "enrich" } else { "log" };
    Sort { kind: EventKind::Log, default_type, unit: Unit::Millisecond, entities: OF_SERVERS }
}

/// Puts the entries of one frame into a batch.
pub struct Filler<'a, 's> {
    batch: &'s mut EventBatch,
    window: &'s mut Window,
    key: &'s mut String,
    user: &'s mut String,
    metadata: &'s mut Vec<u8>,
    /// What every event's metadata ends with.
    ending: &'s [u8],
    /// Whose metadata was made last.
    origin: Option<Origin<'a>>,
    /// What the payloads that are still to come may have at most: payloads that do not overlap have no more than the data.
    payload_bytes_left: usize,
}

impl<'a, 's> Filler<'a, 's> {
    /// Also returns memory for payloads that are made.
    pub fn new(
        scratch: &'s mut Scratch,
        batch: &'s mut EventBatch,
        payload_bytes: usize,
    ) -> (Filler<'a, 's>, &'s mut Vec<u8>) {
        let Scratch { window, key, user, metadata, ending, made } = scratch;
        let filler =
            Filler { batch, window, key, user, metadata, ending, origin: None, payload_bytes_left: payload_bytes };
        (filler, made)
    }

    /// Checks the payload that an entry brings; the user that it names, if any, is kept for the event.
    #[inline(always)]
    pub fn check_payload(&mut self, payload: &'a [u8]) -> Result<Payload<'a>, Fault> {
        if payload.is_empty() {
            return Ok(Payload { bytes: b"{}", user: None });
        }
        let bytes = payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(Fault::PayloadBytes { bytes });
        }
        self.payload_bytes_left = self.payload_bytes_left.checked_sub(bytes).ok_or(Fault::Overlap)?;
        let (body, user) = scan_payload(payload, self.window, self.key).map_err(Fault::Payload)?;
        Ok(Payload { bytes: payload, user: user.map(|value| User { body, value }) })
    }

    /// Appends the event that the entry is. `payload` has been checked or made.
    #[inline(always)]
    pub fn push(
        &mut self,
        index: usize,
        sort: Sort,
        entry: &Entry<'a>,
        name: &'a [u8],
        payload: Payload<'_>,
    ) -> Result<(), FrameError> {
        let refuse = |fault| FrameError::Event { index, fault };
        let timestamp = moment(entry.timestamp, sort.unit).map_err(refuse)?;
        let event_type = if name.is_empty() { sort.default_type } else { text(name, Part::Name).map_err(refuse)? };
        if is_reserved_type(event_type) {
            return Err(refuse(Fault::Reserved));
        }
        if !self.origin.is_some_and(|origin| origin.is(&entry.origin)) {
            self.describe(&entry.origin).map_err(refuse)?;
            self.origin = Some(entry.origin);
        }
        let user = payload.user.map_or("", |user| user.text(self.user));
        let mut whoms = sort.entities.iter();
        loop {
            let whom = whoms.next();
            let mut hex = [0; ID_HEX_BYTES];
            let entity = match whom {
                Some(&whom) => entity_of(whom, entry, user, &mut hex).map_err(refuse)?,
                None => NO_ENTITY,
            };
            if entity.is_empty() || is_reserved_entity(entity) {
                continue;
            }
            let input = EventInput {
                kind: sort.kind,
                event_type,
                entity,
                timestamp,
                payload: payload.bytes,
                metadata: self.metadata,
                expected_version: None,
            };
            let Err(error) = self.batch.push(input) else { return Ok(()) };
            match error {
                EventError::BatchEvents { .. } | EventError::BatchBytes { .. } => return Err(FrameError::BatchFull),
                EventError::TypeLength { .. } => return Err(refuse(Fault::Name)),
                EventError::ControlCharacter if event_type.chars().any(char::is_control) => {
                    return Err(refuse(Fault::Name));
                }
                EventError::EntityLength { .. } | EventError::ControlCharacter => {
                    // What cannot be an entity is passed over: the event has it in its payload or metadata. But for a
                    // snapshot's, which stands nowhere else.
                    assert!(whom.is_some());
                    if whom == Some(&Whom::Snapshot) {
                        return Err(refuse(Fault::Entity));
                    }
                }
                other => return Err(refuse(Fault::Event(other))),
            }
        }
    }

    /// Makes the metadata of a sender.
    #[inline(never)]
    fn describe(&mut self, origin: &Origin<'_>) -> Result<(), Fault> {
        let out = &mut *self.metadata;
        out.clear();
        out.push(b'{');
        push_text(out, b"\"service\":", origin.service, Part::Service)?;
        push_id(out, b"\"session_id\":\"", origin.session);
        push_id(out, b"\"device_id\":\"", origin.device);
        if let Some(level) = origin.level {
            out.extend_from_slice(b"\"level\":");
            push_name(out, &LEVELS, level);
            out.push(b',');
        }
        push_text(out, b"\"source\":", origin.source, Part::Source)?;
        out.extend_from_slice(self.ending);
        Ok(())
    }
}

/// A JSON object, checked or made by us.
#[derive(Debug, Clone, Copy)]
pub struct Payload<'p> {
    pub bytes: &'p [u8],
    pub user: Option<User<'p>>,
}

/// The value of `user_id` in a payload.
#[derive(Debug, Clone, Copy)]
pub struct User<'p> {
    body: &'p str,
    value: Value,
}

/// Validates a payload, which must be an object, and finds its `user_id`. The last one counts.
fn scan_payload<'a>(
    payload: &'a [u8],
    window: &mut Window,
    key_memory: &mut String,
) -> Result<(&'a str, Option<Value>), JsonError> {
    let body = as_text(payload)?;
    let mut scanner = Scanner::new(body, window);
    let mut user = None;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        let value = scanner.value()?;
        if key_bytes(body, key, key_memory) == b"user_id" {
            user = Some(value);
        }
    }
    scanner.finish()?;
    Ok((body, user))
}

impl<'p> User<'p> {
    /// A string, or a number's digits as they were sent. Empty for anything else.
    #[inline(always)]
    fn text(self, memory: &'p mut String) -> &'p str {
        match self.value.kind {
            Kind::String => self.value.text().resolve(self.body, memory),
            Kind::Number => &self.body[self.value.span()],
            _ => "",
        }
    }
}

/// The entity that this part of an entry names; empty when it names none.
#[inline(always)]
fn entity_of<'e>(
    whom: Whom,
    entry: &Entry<'e>,
    user: &'e str,
    hex: &'e mut [u8; ID_HEX_BYTES],
) -> Result<&'e str, Fault> {
    match whom {
        Whom::User => Ok(user),
        Whom::Snapshot if entry.entity.len() > ENTITY_BYTES_MAX => Err(Fault::Entity),
        Whom::Snapshot => text(entry.entity, Part::Entity),
        Whom::Device => Ok(id_text(entry.origin.device, hex)),
        Whom::Session => Ok(id_text(entry.origin.session, hex)),
        // Their text has been checked with the metadata.
        Whom::Service => text(entry.origin.service, Part::Service),
        Whom::Source => text(entry.origin.source, Part::Source),
    }
}

fn id_text<'h>(id: &[u8], hex: &'h mut [u8; ID_HEX_BYTES]) -> &'h str {
    let (pairs, _) = hex.as_chunks_mut::<2>();
    for (pair, &byte) in pairs.iter_mut().zip(id) {
        *pair = hex_pair(byte);
    }
    std::str::from_utf8(&hex[..2 * id.len()]).expect("digits are ASCII")
}

/// Microseconds of a client's time; `None` when it has sent none.
#[inline(always)]
fn moment(timestamp: u64, unit: Unit) -> Result<Option<Micros>, Fault> {
    let micros = match unit {
        Unit::Millisecond => timestamp.checked_mul(1000),
        Unit::Nanosecond => Some(timestamp / 1000),
    };
    match micros {
        _ if timestamp == 0 => Ok(None),
        Some(micros) if micros <= MOMENT_MAX.0 as u64 => Ok(Some(Micros(micros as i64))),
        _ => Err(Fault::Timestamp { timestamp }),
    }
}

fn push_text(out: &mut Vec<u8>, key: &[u8], bytes: &[u8], part: Part) -> Result<(), Fault> {
    if bytes.is_empty() {
        return Ok(());
    }
    if bytes.len() > ORIGIN_TEXT_BYTES_MAX {
        return Err(Fault::TextBytes { part, bytes: bytes.len() });
    }
    out.extend_from_slice(key);
    push_json_string(out, text(bytes, part)?);
    out.push(b',');
    Ok(())
}

fn push_id(out: &mut Vec<u8>, key: &[u8], id: &[u8]) {
    if !id.is_empty() {
        out.extend_from_slice(key);
        push_hex(out, id);
        out.extend_from_slice(b"\",");
    }
}

/// Writes what the metadata of every event of a frame ends with.
pub fn write_ending(received: &Received, source_ip: Option<[u8; 16]>, out: &mut Vec<u8>) {
    let address = match source_ip {
        Some(bytes) if received.trust_source_ip => IpAddr::from(bytes),
        _ => received.peer,
    };
    out.clear();
    write!(out, "\"source_ip\":\"{}\",\"source_kind\":", address.to_canonical())
        .expect("memory takes all that is written");
    push_json_string(out, received.source_kind);
    out.push(b'}');
}
