//! Bodies of `POST /v1/events` and `/v1/logs`: JSON lines straight into a batch, each line for itself.
//!
//! Owns how a line of the second seed's SDKs becomes an event, which `docs/http-sources.md` tells in prose, and what is said
//! of a line that does not. Must never: build a tree, change a byte of a value, or let one line decide about another.
//!
//! ```text
//! {"type":"track","event":"Signed Up","device_id":"2536..","session_id":"d108..","timestamp":1795281149305,"plan":"pro","properties":{"a":1}}
//!   event_type  Signed Up        entity  user_id, else 2536..        payload  {"plan":"pro","a":1}
//! ```

pub mod answer;
#[cfg(test)]
pub(super) mod tests;

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::ops::Range;

use ringlog_engine::event::{EventBatch, EventError, EventInput};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::Micros;

use super::envelope::{is_other_value, is_reserved_entity, is_reserved_type, key_bytes};
use super::json::{JsonError, Kind, Scanner, Text, Value};
use super::json_simd::Window;
use super::split::{Line, LineSplit};
use super::time::parse_moment;
use crate::limits::{EVENT_BYTES_MAX, LINE_DEPTH_MAX, LINES_NAMED_MAX, LINES_PER_REQUEST_MAX};

/// Which of the two routes a body came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Events,
    Logs,
}

/// What is known of a request beside its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Who sent it; behind a trusted proxy, for whom it was sent.
    pub source_ip: IpAddr,
}

/// What became of a body of which at least one line was good. The batch holds the good lines, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    pub accepted: usize,
    pub rejected: usize,
    /// The first `LINES_NAMED_MAX` of those that were rejected.
    pub refused: Vec<Refused>,
}

/// One line, or one element of an array, that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// From 1, blank lines counted.
    pub line: usize,
    /// Where it stands in the body.
    pub span: Range<usize>,
    pub fault: LineFault,
}

/// Why nothing of a body was taken. The batch must be reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinesError {
    /// There is no line that is not blank.
    Empty,
    /// All of them were refused.
    NoGoodLine(Lines),
    /// The good lines take more than this once encoded.
    TooLarge { limit: usize },
    /// Of a body that is one document: it is none.
    Json(JsonError),
}

/// What is wrong with a line. Its texts are bounded: none quotes what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    Json(JsonError),
    NotAnObject,
    DuplicateKey(&'static str),
    /// None of them is there.
    Missing(&'static str),
    WrongType {
        name: &'static str,
        expected: &'static str,
    },
    DeviceId,
    Timestamp,
    /// A name that belongs to the server.
    Reserved(&'static str),
    TooLarge {
        bytes: usize,
    },
    TooManyLines,
    Engine(EventError),
}

impl LineFault {
    /// One word for counters and for the list of rejects.
    pub fn reason(self) -> &'static str {
        match self {
            LineFault::Json(_) => "invalid_json",
            LineFault::NotAnObject => "not_an_object",
            LineFault::DuplicateKey(_) => "duplicate_key",
            LineFault::Missing(_) => "missing",
            LineFault::WrongType { .. } => "wrong_type",
            LineFault::DeviceId => "device_id",
            LineFault::Timestamp => "timestamp",
            LineFault::Reserved(_) => "reserved_name",
            LineFault::TooLarge { .. } => "too_large",
            LineFault::TooManyLines => "too_many_lines",
            LineFault::Engine(_) => "invalid_event",
        }
    }
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineFault::Json(error) => write!(f, "{error}"),
            LineFault::NotAnObject => f.write_str("expected a JSON object"),
            LineFault::DuplicateKey(name) => write!(f, "{name} stands there twice; send it once"),
            LineFault::Missing(name) => write!(f, "{name} is missing"),
            LineFault::WrongType { name, expected } => write!(f, "{name} must be {expected}"),
            LineFault::DeviceId => f.write_str("device_id must be 32 hexadecimal digits, hyphens aside"),
            LineFault::Timestamp => f.write_str("timestamp must be a whole number of milliseconds since 1970"),
            LineFault::Reserved(name) => write!(f, "{name} is reserved for the server; use another name"),
            LineFault::TooLarge { bytes } => write!(f, "the line has {bytes} bytes, {EVENT_BYTES_MAX} allowed"),
            LineFault::TooManyLines => write!(f, "more than {LINES_PER_REQUEST_MAX} lines in one request"),
            LineFault::Engine(error) => write!(f, "{error}"),
        }
    }
}

impl From<JsonError> for LineFault {
    fn from(error: JsonError) -> LineFault {
        LineFault::Json(error)
    }
}

impl Lines {
    /// Notes what became of the line at `span`. Only what refuses the whole body is an error.
    pub(super) fn note(
        &mut self,
        line: usize,
        span: Range<usize>,
        verdict: Result<(), LineFault>,
    ) -> Result<(), LinesError> {
        match verdict {
            Ok(()) => self.accepted += 1,
            Err(LineFault::Engine(EventError::BatchBytes { limit })) => return Err(LinesError::TooLarge { limit }),
            Err(fault) => {
                self.rejected += 1;
                if self.refused.len() < LINES_NAMED_MAX {
                    self.refused.push(Refused { line, span, fault });
                }
            }
        }
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        LINES_PER_REQUEST_MAX <= self.accepted + self.rejected
    }

    pub(super) fn finish(self) -> Result<Lines, LinesError> {
        match (self.accepted, self.rejected) {
            (0, 0) => Err(LinesError::Empty),
            (0, _) => Err(LinesError::NoGoodLine(self)),
            _ => Ok(self),
        }
    }
}

/// Memory that a core keeps, so that a line allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(super) window: Window,
    pub(super) key: String,
    pub(super) event_type: String,
    pub(super) entity: String,
    /// What stays in the payload, as spans of the line: neighbours are one span.
    kept: Vec<Range<usize>>,
    payload: Vec<u8>,
    pub(super) metadata: Metadata,
}

/// Takes the lines of `body` into `batch`, which must be empty. After an error, reset it.
pub fn put(
    body: &[u8],
    shape: Shape,
    received: &Received,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Lines, LinesError> {
    scratch.metadata.set_origin(received, "http");
    let mut lines = Lines::default();
    for line in LineSplit::of(body) {
        let verdict =
            if lines.is_full() { Err(LineFault::TooManyLines) } else { put_line(&line, shape, scratch, batch) };
        lines.note(line.number, line.at..line.at + line.bytes.len(), verdict)?;
    }
    lines.finish()
}

/// Keys that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Type,
    SessionId,
    Timestamp,
    Service,
    Event,
    DeviceId,
    UserId,
    Properties,
    Traits,
    Context,
    Message,
    Level,
    Source,
    Data,
}

const FIELDS: usize = Field::Data as usize + 1;

impl Field {
    #[inline(always)]
    fn of(shape: Shape, key: &[u8]) -> Option<Field> {
        match (shape, key) {
            (_, b"type") => Some(Field::Type),
            (_, b"session_id") => Some(Field::SessionId),
            (_, b"timestamp") => Some(Field::Timestamp),
            (_, b"service") => Some(Field::Service),
            (Shape::Events, b"event") => Some(Field::Event),
            (Shape::Events, b"device_id") => Some(Field::DeviceId),
            (Shape::Events, b"user_id") => Some(Field::UserId),
            (Shape::Events, b"properties") => Some(Field::Properties),
            (Shape::Events, b"traits") => Some(Field::Traits),
            (Shape::Events, b"context") => Some(Field::Context),
            (Shape::Logs, b"message") => Some(Field::Message),
            (Shape::Logs, b"level") => Some(Field::Level),
            (Shape::Logs, b"source") => Some(Field::Source),
            (Shape::Logs, b"data") => Some(Field::Data),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Type => "type",
            Field::SessionId => "session_id",
            Field::Timestamp => "timestamp",
            Field::Service => "service",
            Field::Event => "event",
            Field::DeviceId => "device_id",
            Field::UserId => "user_id",
            Field::Properties => "properties",
            Field::Traits => "traits",
            Field::Context => "context",
            Field::Message => "message",
            Field::Level => "level",
            Field::Source => "source",
            Field::Data => "data",
        }
    }

    /// It is read here and belongs to the payload all the same, where it was sent.
    fn stays(self) -> bool {
        matches!(self, Field::UserId | Field::Message)
    }
}

/// Where the parts of one line stand. A value that is `null` counts as one that is not there.
struct Found {
    values: [Option<Value>; FIELDS],
}

impl Found {
    fn get(&self, field: Field) -> Option<Value> {
        self.values[field as usize].filter(|value| value.kind != Kind::Null)
    }

    fn text(&self, field: Field) -> Result<Option<Text>, LineFault> {
        let Some(value) = self.get(field) else { return Ok(None) };
        if value.kind != Kind::String {
            return Err(LineFault::WrongType { name: field.name(), expected: "a string" });
        }
        Ok(Some(value.text()))
    }

    /// An empty string counts as one that is not there.
    fn name(&self, field: Field) -> Result<Option<Text>, LineFault> {
        Ok(self.text(field)?.filter(|text| text.start < text.end))
    }

    fn members(&self, field: Field) -> Result<Option<Value>, LineFault> {
        match self.get(field) {
            Some(value) if value.kind != Kind::Object => {
                Err(LineFault::WrongType { name: field.name(), expected: "an object" })
            }
            found => Ok(found),
        }
    }
}

fn put_line(line: &Line<'_>, shape: Shape, scratch: &mut Scratch, batch: &mut EventBatch) -> Result<(), LineFault> {
    if line.bytes.len() > EVENT_BYTES_MAX {
        return Err(LineFault::TooLarge { bytes: line.bytes.len() });
    }
    let text = line.text?;
    let found = scan(text, shape, scratch)?;
    match shape {
        Shape::Events => put_event(text, &found, scratch, batch),
        Shape::Logs => put_log(text, &found, scratch, batch),
    }
}

/// Validates a line, notes its fields and what stays in the payload.
#[inline(always)]
fn scan(text: &str, shape: Shape, scratch: &mut Scratch) -> Result<Found, LineFault> {
    let mut scanner = Scanner::new(text, &mut scratch.window).limit_depth(LINE_DEPTH_MAX);
    if is_other_value(scanner.peek(), b'{') {
        return Err(LineFault::NotAnObject);
    }
    scratch.kept.clear();
    let mut found = Found { values: [None; FIELDS] };
    let mut twice = None;
    let mut follows_kept = false;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        let field = Field::of(shape, key_bytes(text, key, &mut scratch.key));
        let value = scanner.value()?;
        if let Some(field) = field
            && found.values[field as usize].replace(value).is_some()
        {
            twice = twice.or(Some(field.name()));
        }
        if field.is_none_or(Field::stays) {
            match scratch.kept.last_mut() {
                Some(last) if follows_kept => last.end = value.end,
                _ => scratch.kept.push(key.start - 1..value.end),
            }
            follows_kept = true;
        } else {
            follows_kept = false;
        }
    }
    scanner.finish()?;
    match twice {
        Some(name) => Err(LineFault::DuplicateKey(name)),
        None => Ok(found),
    }
}

fn put_event(text: &str, found: &Found, scratch: &mut Scratch, batch: &mut EventBatch) -> Result<(), LineFault> {
    let Scratch { key, event_type, entity, kept, payload, metadata, .. } = scratch;
    let event = found.name(Field::Event)?.map(|event| event.resolve(text, event_type));
    let kind = found.name(Field::Type)?.map(|kind| kind.resolve(text, key));
    let Some(name) = event.or(kind) else { return Err(LineFault::Missing("event or type")) };
    if is_reserved_type(name) {
        return Err(LineFault::Reserved("the name of the event"));
    }

    let mut hex = [0; DEVICE_ID_DIGITS];
    let device_id = match found.text(Field::DeviceId)? {
        Some(device_id) => Some(hex_of(&text[device_id.span()], &mut hex).ok_or(LineFault::DeviceId)?),
        None => None,
    };
    let user_id = found.name(Field::UserId)?.map(|user_id| user_id.resolve(text, entity));
    let Some(about) = user_id.or(device_id) else { return Err(LineFault::Missing("device_id or user_id")) };
    if is_reserved_entity(about) {
        return Err(LineFault::Reserved("the user_id"));
    }

    begin_payload(text, kept, payload);
    for field in [Field::Properties, Field::Traits] {
        if let Some(members) = found.members(field)? {
            push_members(payload, text, members);
        }
    }
    if let Some(context) = found.get(Field::Context) {
        push_member(payload, text, "context", context);
    }
    payload.push(b'}');

    metadata.begin();
    metadata.text("service", text, found.text(Field::Service)?);
    metadata.session(text, found.text(Field::SessionId)?);
    if let Some(device_id) = device_id {
        metadata.plain("device_id", device_id);
    }
    // The event's name takes the place of a type that says more than `track`.
    if event.is_some() && kind.is_some_and(|kind| kind != "track") {
        metadata.text("type", text, found.text(Field::Type)?);
    }
    push(
        batch,
        EventInput {
            kind: if kind == Some("identify") { EventKind::Identify } else { EventKind::Event },
            event_type: name,
            entity: about,
            timestamp: timestamp(text, found.get(Field::Timestamp))?,
            payload,
            metadata: metadata.finish(),
            expected_version: None,
        },
    )
}

fn put_log(text: &str, found: &Found, scratch: &mut Scratch, batch: &mut EventBatch) -> Result<(), LineFault> {
    let Scratch { event_type, entity, kept, payload, metadata, .. } = scratch;
    if found.text(Field::Message)?.is_none() {
        return Err(LineFault::Missing("message"));
    }
    let name = found.name(Field::Type)?.map_or("log", |kind| kind.resolve(text, event_type));
    if is_reserved_type(name) {
        return Err(LineFault::Reserved("the type"));
    }
    let service = found.text(Field::Service)?;
    let source = found.text(Field::Source)?;
    let about = found.name(Field::Service)?.or(found.name(Field::Source)?);
    let about = about.map_or("unknown", |about| about.resolve(text, entity));
    if is_reserved_entity(about) {
        return Err(LineFault::Reserved("the service or source"));
    }

    begin_payload(text, kept, payload);
    match found.get(Field::Data) {
        Some(data) if data.kind == Kind::Object => push_members(payload, text, data),
        Some(data) => push_member(payload, text, "data", data),
        None => {}
    }
    payload.push(b'}');

    metadata.begin();
    metadata.text("service", text, service);
    metadata.session(text, found.text(Field::SessionId)?);
    match found.text(Field::Level)? {
        Some(level) => metadata.text("level", text, Some(level)),
        None => metadata.plain("level", "info"),
    }
    metadata.text("source", text, source);
    push(
        batch,
        EventInput {
            kind: EventKind::Log,
            event_type: name,
            entity: about,
            timestamp: timestamp(text, found.get(Field::Timestamp))?,
            payload,
            metadata: metadata.finish(),
            expected_version: None,
        },
    )
}

fn push(batch: &mut EventBatch, event: EventInput<'_>) -> Result<(), LineFault> {
    batch.push(event).map_err(LineFault::Engine)
}

fn begin_payload(text: &str, kept: &[Range<usize>], payload: &mut Vec<u8>) {
    payload.clear();
    payload.push(b'{');
    for span in kept {
        push_comma(payload);
        payload.extend_from_slice(&text.as_bytes()[span.clone()]);
    }
}

/// What stands between the braces of an object.
fn push_members(payload: &mut Vec<u8>, text: &str, object: Value) {
    let members = text.as_bytes()[object.start + 1..object.end - 1].trim_ascii();
    if !members.is_empty() {
        push_comma(payload);
        payload.extend_from_slice(members);
    }
}

fn push_member(payload: &mut Vec<u8>, text: &str, name: &'static str, value: Value) {
    push_comma(payload);
    push_name(payload, name);
    payload.extend_from_slice(&text.as_bytes()[value.span()]);
}

fn push_comma(payload: &mut Vec<u8>) {
    if payload.len() > 1 {
        payload.push(b',');
    }
}

/// `"name":`, for names that need no escape.
fn push_name(out: &mut Vec<u8>, name: &'static str) {
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Milliseconds; from `time::MICROS_FROM` on, which no clock shows, microseconds.
fn timestamp(text: &str, value: Option<Value>) -> Result<Option<Micros>, LineFault> {
    let Some(value) = value else { return Ok(None) };
    let digits = &text[value.span()];
    if value.kind != Kind::Number || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(LineFault::Timestamp);
    }
    parse_moment(digits).map(Some).map_err(|_| LineFault::Timestamp)
}

const DEVICE_ID_DIGITS: usize = 32;

/// 32 hexadecimal digits in lower case and without hyphens. What UUIDs say of versions and variants is not looked at: the
/// SDKs' ids do not keep to it.
fn hex_of<'a>(raw: &str, out: &'a mut [u8; DEVICE_ID_DIGITS]) -> Option<&'a str> {
    if let Ok(digits) = <&[u8; DEVICE_ID_DIGITS]>::try_from(raw.as_bytes()) {
        *out = *digits;
    } else {
        let mut digits = raw.bytes().filter(|&byte| byte != b'-');
        for place in &mut *out {
            *place = digits.next()?;
        }
        if digits.next().is_some() {
            return None;
        }
    }
    let is_hex = out.iter().fold(true, |all, byte| all & byte.is_ascii_hexdigit());
    out.make_ascii_lowercase();
    if is_hex { std::str::from_utf8(out).ok() } else { None }
}

/// The metadata of an event under construction: what the line says of its origin, then what the server knows of it.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    out: Vec<u8>,
    /// The members that every event of a body ends with.
    origin: Vec<u8>,
}

impl Metadata {
    /// Once for a body. `source_kind` needs no escape.
    pub(super) fn set_origin(&mut self, received: &Received, source_kind: &'static str) {
        self.origin.clear();
        let source_ip = received.source_ip.to_canonical();
        write!(self.origin, "\"source_ip\":\"{source_ip}\",\"source_kind\":\"{source_kind}\"}}")
            .expect("memory takes what is written to it");
    }

    pub(super) fn begin(&mut self) {
        self.out.clear();
        self.out.push(b'{');
    }

    /// A string of the line, with its quotes and escapes as they were sent.
    pub(super) fn text(&mut self, name: &'static str, line: &str, text: Option<Text>) {
        if let Some(text) = text {
            self.plain(name, &line[text.span()]);
        }
    }

    /// In hexadecimal when it is an id of the SDKs, else as it was sent.
    fn session(&mut self, line: &str, session_id: Option<Text>) {
        let Some(session_id) = session_id else { return };
        let raw = &line[session_id.span()];
        self.plain("session_id", hex_of(raw, &mut [0; DEVICE_ID_DIGITS]).unwrap_or(raw));
    }

    /// `value` is what may stand between quotes.
    fn plain(&mut self, name: &'static str, value: &str) {
        push_name(&mut self.out, name);
        self.out.push(b'"');
        self.out.extend_from_slice(value.as_bytes());
        self.out.extend_from_slice(b"\",");
    }

    pub(super) fn finish(&mut self) -> &[u8] {
        self.out.extend_from_slice(&self.origin);
        &self.out
    }
}
