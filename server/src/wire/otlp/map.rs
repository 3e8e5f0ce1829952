//! One log record becomes one event.
//!
//! Owns the mapping, which `docs/otlp.md` tells in prose, and the ceilings of a request: its resources and scopes are written
//! once and copied for each record, so that a small request could ask for a lot of copying. Must never: know an encoding, look
//! at more records than a batch takes, or put together more bytes than a batch takes, whether they are stored or not.
//!
//! ```text
//! payload   {"message":"..","severity_text":"..","attributes":{..},"trace_id":"..",.. | "scope":{..} | "resource":{..}}
//!           of the record                                                               copied for each record
//! metadata  {"source_kind":"otlp","source_ip":"..","service":"..","source":".." | "level":"..","session_id":".."}
//! ```

use std::io::Write;
use std::net::IpAddr;
use std::ops::Range;

use ringlog_engine::event::{EventBatch, EventError, EventInput};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::Micros;
use ringlog_engine::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, ENTITY_BYTES_MAX, PAYLOAD_BYTES_MAX};

use super::value::{Attributes, JsonText, Written};
use super::{Outcome, RecordFault};
use crate::wire::answer::put_number;
use crate::wire::envelope::{RESERVED_ENTITY_PREFIX, RESERVED_TYPE, RESERVED_TYPE_PREFIX};
use crate::wire::json::unescape;

/// The entity of records whose resource names neither a service nor a host: what the SDKs call a service without a name.
pub const FALLBACK_ENTITY: &str = "unknown_service";
/// The type of records without an event name.
pub const FALLBACK_EVENT_TYPE: &str = "log";

/// Names of hosts and sessions that are longer stay in the payload alone. An entity with an escape for each byte fits.
const METADATA_TEXT_BYTES_MAX: usize = 6 * ENTITY_BYTES_MAX;

/// What a request leaves of each of its buffers, at most: far more than a usual record has.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// The name of a severity number; `None` for 0, which says that there is none, and for numbers that do not exist.
///
/// Each of OpenTelemetry's six ranges begins with what languages call by its name: their CRITICAL and FATAL are 21. The
/// levels between two ranges are the steps that its own table gives to syslog (INFO2 is notice) or the next ones.
pub fn level_name(severity_number: i32) -> Option<&'static str> {
    match severity_number {
        1..=4 => Some("trace"),
        5..=8 => Some("debug"),
        9 => Some("info"),
        10..=12 => Some("notice"),
        13..=16 => Some("warning"),
        17..=20 => Some("error"),
        21 => Some("critical"),
        22 => Some("alert"),
        23 | 24 => Some("emergency"),
        _ => None,
    }
}

/// The parts of one record, whatever order they come in. Texts are JSON strings, or empty.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub time_unix_nano: u64,
    pub observed_time_unix_nano: u64,
    pub severity_number: i32,
    pub severity_text: JsonText,
    pub event_name: JsonText,
    pub body: JsonText,
    pub body_written: Written,
    pub attributes: Attributes,
    pub dropped_count: u32,
    pub flags: u32,
    pub trace_id: Option<[u8; 16]>,
    pub span_id: Option<[u8; 8]>,
}

impl Record {
    fn begin(&mut self) {
        self.time_unix_nano = 0;
        self.observed_time_unix_nano = 0;
        self.severity_number = 0;
        self.severity_text.clear();
        self.event_name.clear();
        self.body.clear();
        self.body_written = Written::Other;
        self.attributes.begin();
        self.dropped_count = 0;
        self.flags = 0;
        self.trace_id = None;
        self.span_id = None;
    }

    fn fault(&self) -> Option<RecordFault> {
        let texts = [&self.body, &self.attributes.text, &self.severity_text, &self.event_name];
        texts.into_iter().find_map(JsonText::fault)
    }

    /// Of its own parts, without what stands between them.
    fn bytes(&self) -> usize {
        self.body.len() + self.attributes.text.len() + self.severity_text.len() + self.event_name.len()
    }

    fn has_body(&self) -> bool {
        !matches!(self.body.as_bytes(), b"" | b"null")
    }

    /// Members of the payload, each with a comma before it.
    fn put_members(&self, out: &mut Vec<u8>) {
        if self.has_body() {
            let key: &[u8] = if self.body_written == Written::Text { b",\"message\":" } else { b",\"body\":" };
            put_raw(out, key, self.body.as_bytes());
        }
        if self.severity_text.len() > 0 {
            put_raw(out, b",\"severity_text\":", self.severity_text.as_bytes());
        }
        if self.severity_number != 0 {
            out.extend_from_slice(b",\"severity_number\":");
            if self.severity_number < 0 {
                out.push(b'-');
            }
            put_number(out, u64::from(self.severity_number.unsigned_abs()));
        }
        if !self.attributes.is_empty() {
            put_raw(out, b",\"attributes\":", self.attributes.text.as_bytes());
        }
        put_count(out, b",\"dropped_attributes_count\":", self.dropped_count);
        put_id(out, b",\"trace_id\":\"", self.trace_id.as_ref().map(|id| id.as_slice()));
        put_id(out, b",\"span_id\":\"", self.span_id.as_ref().map(|id| id.as_slice()));
        put_count(out, b",\"flags\":", self.flags);
        // The event's timestamp has microseconds.
        if !self.time_unix_nano.is_multiple_of(1000) {
            put_nanoseconds(out, b",\"time_unix_nano\":\"", self.time_unix_nano);
        }
        if self.observed_time_unix_nano != 0 {
            put_nanoseconds(out, b",\"observed_time_unix_nano\":\"", self.observed_time_unix_nano);
        }
    }

    /// An unsigned count of nanoseconds ends in the year 2554.
    fn timestamp(&self) -> Option<Micros> {
        let nanoseconds = if self.time_unix_nano != 0 { self.time_unix_nano } else { self.observed_time_unix_nano };
        (nanoseconds != 0).then_some(Micros((nanoseconds / 1000) as i64))
    }
}

/// The parts of one instrumentation scope.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub name: JsonText,
    pub version: JsonText,
    pub attributes: Attributes,
    pub dropped_count: u32,
}

impl Scope {
    fn begin(&mut self) {
        self.name.clear();
        self.version.clear();
        self.attributes.begin();
        self.dropped_count = 0;
    }

    fn fault(&self) -> Option<RecordFault> {
        [&self.name, &self.version, &self.attributes.text].into_iter().find_map(JsonText::fault)
    }

    /// As a member of the payload, with a comma before it. Nothing when the scope says nothing.
    fn put_member(&self, out: &mut Vec<u8>) {
        const KEY: &[u8] = b",\"scope\":";
        let start = out.len();
        out.extend_from_slice(KEY);
        let inside_at = out.len();
        if self.name.len() > 0 {
            put_raw(out, b",\"name\":", self.name.as_bytes());
        }
        if self.version.len() > 0 {
            put_raw(out, b",\"version\":", self.version.as_bytes());
        }
        if !self.attributes.is_empty() {
            put_raw(out, b",\"attributes\":", self.attributes.text.as_bytes());
        }
        put_count(out, b",\"dropped_attributes_count\":", self.dropped_count);
        if out.len() == inside_at {
            out.truncate(start);
        } else {
            out[inside_at] = b'{';
            out.push(b'}');
        }
    }
}

/// What is being put together, and memory for it.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub resource: Attributes,
    pub resource_dropped_count: u32,
    pub scope: Scope,
    pub record: Record,
    /// Of the resource.
    entity: String,
    /// Metadata with what the request and the resource say; a record's follows.
    metadata: Vec<u8>,
    request_metadata_bytes: usize,
    resource_metadata_bytes: usize,
    scope_member: Vec<u8>,
    /// Of the resource or the scope.
    shared_fault: Option<RecordFault>,
    payload: Vec<u8>,
    event_type: String,
}

impl Parts {
    /// Gives memory back that only an unusual request needed.
    fn trim(&mut self) {
        let Record { severity_text, event_name, body, attributes, .. } = &mut self.record;
        let Scope { name, version, attributes: scope_attributes, .. } = &mut self.scope;
        let texts = [severity_text, event_name, body, name, version];
        let attributes = [attributes, scope_attributes, &mut self.resource].map(|attributes| &mut attributes.text);
        for text in texts.into_iter().chain(attributes) {
            text.trim(KEPT_BYTES_MAX);
        }
        for bytes in [&mut self.metadata, &mut self.scope_member, &mut self.payload] {
            bytes.clear();
            bytes.shrink_to(KEPT_BYTES_MAX);
        }
        for text in [&mut self.entity, &mut self.event_type] {
            text.clear();
            text.shrink_to(KEPT_BYTES_MAX);
        }
    }
}

/// Where the walkers bring what they find, in this order: `begin_resource`, its parts, `end_resource`, then for each of its
/// scopes the same, and for each of the scope's records `begin_record`, its parts if that said so, `end_record`.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    pub parts: &'a mut Parts,
    batch: &'a mut EventBatch,
    outcome: Outcome,
    /// Of payloads, those of rejected records included.
    assembled_bytes: usize,
    /// No record fits any more.
    full: Option<RecordFault>,
}

impl<'a> Sink<'a> {
    pub fn new(parts: &'a mut Parts, batch: &'a mut EventBatch, source_ip: Option<IpAddr>) -> Sink<'a> {
        parts.metadata.clear();
        parts.metadata.extend_from_slice(b"{\"source_kind\":\"otlp\"");
        if let Some(ip) = source_ip {
            write!(parts.metadata, ",\"source_ip\":\"{ip}\"").expect("a vector takes everything");
        }
        parts.request_metadata_bytes = parts.metadata.len();
        Sink { parts, batch, outcome: Outcome::default(), assembled_bytes: 0, full: None }
    }

    pub fn finish(self) -> Outcome {
        self.parts.trim();
        self.outcome
    }

    pub fn begin_resource(&mut self) {
        self.parts.resource.begin();
        self.parts.resource_dropped_count = 0;
    }

    pub fn end_resource(&mut self) {
        let Parts { resource, entity, metadata, request_metadata_bytes, resource_metadata_bytes, .. } =
            &mut *self.parts;
        resource.end();
        let (service, host) = (resource.service(), resource.host());
        entity.clear();
        unescape([service, host, FALLBACK_ENTITY].into_iter().find(|name| !name.is_empty()).unwrap_or(""), entity);
        metadata.truncate(*request_metadata_bytes);
        put_text(metadata, b",\"service\":\"", service);
        put_text(metadata, b",\"source\":\"", host);
        *resource_metadata_bytes = metadata.len();
    }

    pub fn begin_scope(&mut self) {
        self.parts.scope.begin();
    }

    pub fn end_scope(&mut self) {
        let Parts { resource, scope, scope_member, shared_fault, .. } = &mut *self.parts;
        scope.attributes.end();
        scope_member.clear();
        scope.put_member(scope_member);
        *shared_fault = resource.text.fault().or(scope.fault());
    }

    /// Whether the record's parts are wanted: with `false` they need not be read.
    #[inline]
    pub fn begin_record(&mut self) -> bool {
        if self.outcome.record_count == BATCH_EVENTS_MAX {
            self.full.get_or_insert(RecordFault::TooManyRecords);
        }
        if self.full.is_some() {
            return false;
        }
        self.parts.record.begin();
        true
    }

    /// `span` is the record's place in the body.
    pub fn end_record(&mut self, span: Range<usize>) {
        let pushed = match self.full {
            Some(fault) => Err(fault),
            None => self.push_record(),
        };
        match pushed {
            Ok(()) => self.outcome.record_count += 1,
            Err(fault) => {
                if fault == RecordFault::BatchFull {
                    self.full = Some(fault);
                }
                self.outcome.reject(span, fault);
            }
        }
    }

    fn push_record(&mut self) -> Result<(), RecordFault> {
        let Parts {
            resource,
            resource_dropped_count,
            record,
            entity,
            metadata,
            resource_metadata_bytes,
            scope_member,
            shared_fault,
            payload,
            event_type,
            ..
        } = &mut *self.parts;
        record.attributes.end();
        if let Some(fault) = shared_fault.or(record.fault()) {
            return Err(fault);
        }
        // Before anything is copied.
        let payload_bytes = record.bytes() + scope_member.len() + resource.text.len();
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(RecordFault::TooLarge);
        }
        self.assembled_bytes += payload_bytes;
        if self.assembled_bytes > BATCH_BYTES_MAX {
            return Err(RecordFault::BatchFull);
        }
        event_type.clear();
        match record.event_name.as_bytes() {
            [b'"', inside @ .., b'"'] => {
                unescape(std::str::from_utf8(inside).expect("JSON text is UTF-8"), event_type);
            }
            _ => event_type.push_str(FALLBACK_EVENT_TYPE),
        }
        if event_type.starts_with(RESERVED_TYPE_PREFIX)
            || event_type == RESERVED_TYPE
            || entity.starts_with(RESERVED_ENTITY_PREFIX)
        {
            return Err(RecordFault::ReservedName);
        }
        payload.clear();
        record.put_members(payload);
        payload.extend_from_slice(scope_member);
        if !resource.is_empty() {
            put_raw(payload, b",\"resource\":", resource.text.as_bytes());
        }
        put_count(payload, b",\"resource_dropped_attributes_count\":", *resource_dropped_count);
        match payload.first_mut() {
            Some(first) => *first = b'{',
            None => payload.push(b'{'),
        }
        payload.push(b'}');
        metadata.truncate(*resource_metadata_bytes);
        if let Some(level) = level_name(record.severity_number) {
            put_text(metadata, b",\"level\":\"", level);
        }
        put_text(metadata, b",\"session_id\":\"", record.attributes.session());
        metadata.push(b'}');
        let event = EventInput {
            kind: EventKind::Log,
            event_type,
            entity,
            timestamp: record.timestamp(),
            payload,
            metadata,
            expected_version: None,
        };
        self.batch.push(event).map_err(|error| match error {
            EventError::BatchEvents { .. } => RecordFault::TooManyRecords,
            EventError::BatchBytes { .. } => RecordFault::BatchFull,
            other => RecordFault::Engine(other),
        })
    }
}

fn put_raw(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

/// A string of the metadata, `inside` being JSON already. Nothing when it is empty or long.
fn put_text(out: &mut Vec<u8>, key: &[u8], inside: &str) {
    if (1..=METADATA_TEXT_BYTES_MAX).contains(&inside.len()) {
        put_raw(out, key, inside.as_bytes());
        out.push(b'"');
    }
}

fn put_count(out: &mut Vec<u8>, key: &[u8], count: u32) {
    if count != 0 {
        out.extend_from_slice(key);
        put_number(out, u64::from(count));
    }
}

/// In quotes: most readers of JSON have 53 bits.
fn put_nanoseconds(out: &mut Vec<u8>, key: &[u8], nanoseconds: u64) {
    out.extend_from_slice(key);
    put_number(out, nanoseconds);
    out.push(b'"');
}

/// An id in hexadecimal digits. One of zeros only says that there is none.
fn put_id(out: &mut Vec<u8>, key: &[u8], id: Option<&[u8]>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let Some(id) = id.filter(|id| id.iter().any(|&byte| byte != 0)) else { return };
    out.extend_from_slice(key);
    out.extend(id.iter().flat_map(|&byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]));
    out.push(b'"');
}
