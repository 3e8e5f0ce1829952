//! Bodies of `POST /api/v1/events` and `/api/v1/events/batch`: from JSON straight into a batch.
//!
//! Owns the shape of an event on this surface and the rules for its names, which are stricter than the engine's.
//! Must never: look into a payload, keep a body, or take a tenant from it; a tenant named there is only compared.
//!
//! ```text
//! {"event_type":"order.paid","entity_id":"order-7","payload":{...},"metadata":{...},"expected_version":4,"tenant_id":"acme"}
//! {"events":[{...},{...}]}
//! {...}\n{...}\n                as JSON lines, to the second of the two
//! ```
//! Unknown keys are validated and ignored, however often they stand there. A known key may stand there once.

use std::fmt;

use ringlog_engine::event::{EventBatch, EventError, EventInput};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::Version;
use ringlog_engine::limits::BATCH_EVENTS_MAX;

use super::json::{JsonError, Kind, Scanner, Text, Value, as_text};
use super::json_simd::{Level, Window};
use super::split::{Line, LineSplit};

/// Longest event type and entity of this surface, in bytes; the first seed's rule.
pub const EVENT_TYPE_BYTES_MAX: usize = 128;
pub const ENTITY_ID_BYTES_MAX: usize = 128;
/// One event with everything in it; the engine takes as much for a payload alone.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Names that belong to the server.
pub const RESERVED_TYPE_PREFIX: &str = "_system.";
pub const RESERVED_TYPE: &str = "allsource.read_model.committed";
pub const RESERVED_ENTITY_PREFIX: &str = "read-model:";
/// What an error text quotes of a client's string at most, in characters.
const QUOTE_CHARS_MAX: usize = 64;

/// Keys that mean something in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    EventType,
    EntityId,
    TenantId,
    Payload,
    Metadata,
    ExpectedVersion,
    /// The one key of a batch.
    Events,
}

const EVENT_FIELDS: usize = Field::Events as usize;

impl Field {
    pub fn name(self) -> &'static str {
        match self {
            Field::EventType => "event_type",
            Field::EntityId => "entity_id",
            Field::TenantId => "tenant_id",
            Field::Payload => "payload",
            Field::Metadata => "metadata",
            Field::ExpectedVersion => "expected_version",
            Field::Events => "events",
        }
    }

    #[inline(always)]
    fn of_event(key: &[u8]) -> Option<Field> {
        match key {
            b"event_type" => Some(Field::EventType),
            b"entity_id" => Some(Field::EntityId),
            b"tenant_id" => Some(Field::TenantId),
            b"payload" => Some(Field::Payload),
            b"metadata" => Some(Field::Metadata),
            b"expected_version" => Some(Field::ExpectedVersion),
            _ => None,
        }
    }
}

/// Why a body was refused. The batch that was being filled holds an unusable prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeError {
    /// Place of the event in its batch, from 0; `None` for a single event and for the batch's own shape.
    pub event_index: Option<usize>,
    /// Offset in the body.
    pub at: usize,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Json(JsonError),
    /// The body, or an element of the batch, is not an object, or `events` is not an array.
    Shape {
        expected: &'static str,
    },
    DuplicateKey(Field),
    Missing(Field),
    WrongType {
        field: Field,
        expected: &'static str,
    },
    EventType {
        found: String,
        rule: EventTypeRule,
    },
    EntityId {
        found: String,
        rule: EntityIdRule,
    },
    NoEvents,
    TooManyEvents,
    EventTooLarge {
        bytes: usize,
    },
    BatchTooLarge {
        limit: usize,
    },
    TenantMismatch,
    /// The engine refused what the rules here let pass.
    Engine(EventError),
}

/// The decision a caller takes. Statuses and wire codes stand in one table elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultClass {
    /// 400 `invalid_json`
    InvalidJson,
    /// 400 `invalid_event`
    InvalidEvent,
    /// 413
    TooLarge,
    /// 403
    TenantMismatch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTypeRule {
    Empty,
    TooLong { bytes: usize },
    UpperCase,
    Character(char),
    OuterDot,
    DoubleDot,
    Reserved,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntityIdRule {
    Empty,
    TooLong { bytes: usize },
    ControlCharacter,
    OuterSpace,
    Reserved,
}

impl EnvelopeError {
    pub fn class(&self) -> FaultClass {
        match &self.fault {
            Fault::Json(_) => FaultClass::InvalidJson,
            Fault::TenantMismatch => FaultClass::TenantMismatch,
            Fault::TooManyEvents | Fault::EventTooLarge { .. } | Fault::BatchTooLarge { .. } => FaultClass::TooLarge,
            Fault::Engine(EventError::BatchEvents { .. } | EventError::BatchBytes { .. }) => FaultClass::TooLarge,
            _ => FaultClass::InvalidEvent,
        }
    }

    /// The error of a piece that begins at `offset`, as one of the whole body.
    fn behind(mut self, offset: usize) -> EnvelopeError {
        self.at += offset;
        if let Fault::Json(error) = &mut self.fault {
            error.at += offset;
        }
        self
    }

    /// The field that is wrong, by its name on the wire.
    pub fn field(&self) -> Option<&'static str> {
        let field = match &self.fault {
            Fault::DuplicateKey(field) | Fault::Missing(field) | Fault::WrongType { field, .. } => *field,
            Fault::EventType { .. } => Field::EventType,
            Fault::EntityId { .. } => Field::EntityId,
            Fault::TenantMismatch => Field::TenantId,
            Fault::NoEvents | Fault::TooManyEvents => Field::Events,
            _ => return None,
        };
        Some(field.name())
    }
}

impl fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.event_index {
            write!(f, "event {index}: ")?;
        }
        match &self.fault {
            Fault::Json(error) => write!(f, "{error}"),
            Fault::Shape { expected } => write!(f, "expected {expected} at byte {}", self.at),
            Fault::DuplicateKey(field) => write!(f, "{} stands there twice; send it once", field.name()),
            Fault::Missing(field) => write!(f, "{} is missing", field.name()),
            Fault::WrongType { field, expected } => write!(f, "{} must be {expected}", field.name()),
            Fault::EventType { found, rule } => write!(f, "event_type {found:?} {rule}"),
            Fault::EntityId { found, rule } => write!(f, "entity_id {found:?} {rule}"),
            Fault::NoEvents => f.write_str("events is empty; send at least one event"),
            Fault::TooManyEvents => {
                write!(f, "more than {BATCH_EVENTS_MAX} events in one request; send them in smaller batches")
            }
            Fault::EventTooLarge { bytes } => {
                write!(
                    f,
                    "the event has {bytes} bytes, {EVENT_BYTES_MAX} allowed; store large data elsewhere and refer to it"
                )
            }
            Fault::BatchTooLarge { limit } => {
                write!(f, "the batch takes more than {limit} bytes once encoded; send it in smaller batches")
            }
            Fault::TenantMismatch => {
                f.write_str("tenant_id is not the tenant of your credential; leave it out or use the right key")
            }
            Fault::Engine(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

impl fmt::Display for EventTypeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const USE: &str = "use lower case, digits, '.' and '_'";
        match self {
            EventTypeRule::Empty => f.write_str("is empty; name what happened, as in \"order.paid\""),
            EventTypeRule::TooLong { bytes } => write!(f, "has {bytes} bytes, {EVENT_TYPE_BYTES_MAX} allowed"),
            EventTypeRule::UpperCase => write!(f, "has upper-case letters; {USE}"),
            EventTypeRule::Character(found) => write!(f, "has the character {found:?}; {USE}"),
            EventTypeRule::OuterDot => f.write_str("begins or ends with '.'; remove it"),
            EventTypeRule::DoubleDot => f.write_str("has \"..\"; use a single '.'"),
            EventTypeRule::Reserved => f.write_str("is reserved for the server; use another name"),
        }
    }
}

impl fmt::Display for EntityIdRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntityIdRule::Empty => f.write_str("is empty; name what the event is about, as in \"order-7\""),
            EntityIdRule::TooLong { bytes } => write!(f, "has {bytes} bytes, {ENTITY_ID_BYTES_MAX} allowed"),
            EntityIdRule::ControlCharacter => f.write_str("has a control character; remove it"),
            EntityIdRule::OuterSpace => f.write_str("begins or ends with white space; remove it"),
            EntityIdRule::Reserved => {
                write!(f, "begins with {RESERVED_ENTITY_PREFIX:?}, which is reserved for the server; use another name")
            }
        }
    }
}

/// Memory for names that have escapes. Kept by the connection or core, so that an event allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    window: Window,
    names: Names,
}

#[derive(Debug, Default)]
struct Names {
    key: String,
    event_type: String,
    entity: String,
}

/// Appends the one event of `body` to `batch`. `tenant_id` is the credential's.
pub fn parse_event(
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<(), EnvelopeError> {
    parse_event_with(Level::best(), body, tenant_id, scratch, batch)
}

/// Appends the events of `body` to `batch`, in their order, and returns how many. `tenant_id` is the credential's.
/// After an error the batch holds the events before it: reset it.
pub fn parse_batch(
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<usize, EnvelopeError> {
    parse_batch_with(Level::best(), body, tenant_id, scratch, batch)
}

/// Appends the events of `body`, one to a line, to `batch`, in their order, and returns how many. Blank lines count for
/// nothing. All or nothing, as a batch is: after an error the batch holds the events before it, so reset it.
pub fn parse_lines(
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<usize, EnvelopeError> {
    parse_lines_with(Level::best(), body, tenant_id, scratch, batch)
}

fn parse_event_with(
    level: Level,
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<(), EnvelopeError> {
    let Scratch { window, names } = scratch;
    let body = as_text(body).map_err(|error| bad_json(None, error))?;
    let mut scanner = Scanner::with_level(body, window, level);
    if is_other_value(scanner.peek(), b'{') {
        return Err(wrong_shape(None, scanner.at(), "an event object"));
    }
    let mut fields = EventFields::default();
    scan_event(&mut scanner, body, &mut names.key, None, &mut fields)?;
    scanner.finish().map_err(|error| bad_json(None, error))?;
    push_event(body, &fields, tenant_id, names, batch, None)
}

fn parse_batch_with(
    level: Level,
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<usize, EnvelopeError> {
    let json = |error| bad_json(None, error);
    let Scratch { window, names } = scratch;
    let body = as_text(body).map_err(|error| bad_json(None, error))?;
    let mut scanner = Scanner::with_level(body, window, level);
    let mut fields = EventFields::default();
    let mut count = None;
    if is_other_value(scanner.peek(), b'{') {
        return Err(wrong_shape(None, scanner.at(), "an object with \"events\""));
    }
    scanner.begin_object().map_err(json)?;
    while let Some(key) = scanner.next_key().map_err(json)? {
        if key_bytes(body, key, &mut names.key) != b"events" {
            scanner.value().map_err(json)?;
            continue;
        }
        if count.is_some() {
            return Err(refuse(None, key.start, Fault::DuplicateKey(Field::Events)));
        }
        if is_other_value(scanner.peek(), b'[') {
            return Err(wrong_shape(None, scanner.at(), "an array of events"));
        }
        scanner.begin_array().map_err(json)?;
        let mut index = 0;
        while scanner.next_element().map_err(|error| bad_json(Some(index), error))? {
            if is_other_value(scanner.peek(), b'{') {
                return Err(wrong_shape(Some(index), scanner.at(), "an event object"));
            }
            if index == BATCH_EVENTS_MAX {
                return Err(refuse(None, scanner.at(), Fault::TooManyEvents));
            }
            scan_event(&mut scanner, body, &mut names.key, Some(index), &mut fields)?;
            push_event(body, &fields, tenant_id, names, batch, Some(index))?;
            index += 1;
        }
        count = Some(index);
    }
    let end = scanner.at();
    scanner.finish().map_err(json)?;
    match count {
        None => Err(refuse(None, end - 1, Fault::Missing(Field::Events))),
        Some(0) => Err(refuse(None, end - 1, Fault::NoEvents)),
        Some(count) => Ok(count),
    }
}

fn parse_lines_with(
    level: Level,
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<usize, EnvelopeError> {
    let mut fields = EventFields::default();
    let mut count = 0;
    for line in LineSplit::of(body) {
        if count == BATCH_EVENTS_MAX {
            return Err(refuse(None, line.at, Fault::TooManyEvents));
        }
        parse_line(level, &line, count, tenant_id, scratch, &mut fields, batch)
            .map_err(|error| error.behind(line.at))?;
        count += 1;
    }
    if count == 0 {
        return Err(refuse(None, body.len(), Fault::NoEvents));
    }
    Ok(count)
}

/// Offsets in the error are those in the line.
fn parse_line(
    level: Level,
    line: &Line<'_>,
    index: usize,
    tenant_id: &str,
    scratch: &mut Scratch,
    fields: &mut EventFields,
    batch: &mut EventBatch,
) -> Result<(), EnvelopeError> {
    let json = |error| bad_json(Some(index), error);
    let Scratch { window, names } = scratch;
    let text = line.text.map_err(json)?;
    let mut scanner = Scanner::with_level(text, window, level);
    if is_other_value(scanner.peek(), b'{') {
        return Err(wrong_shape(Some(index), scanner.at(), "an event object"));
    }
    scan_event(&mut scanner, text, &mut names.key, Some(index), fields)?;
    scanner.finish().map_err(json)?;
    push_event(text, fields, tenant_id, names, batch, Some(index))
}

/// Where the parts of one event stand.
#[derive(Debug, Default)]
struct EventFields {
    start: usize,
    end: usize,
    values: [Option<Value>; EVENT_FIELDS],
}

/// Validates one event object and notes its fields; nothing is decided about them yet.
#[inline(always)]
fn scan_event(
    scanner: &mut Scanner<'_>,
    body: &str,
    scratch: &mut String,
    index: Option<usize>,
    fields: &mut EventFields,
) -> Result<(), EnvelopeError> {
    let json = |error| bad_json(index, error);
    scanner.begin_object().map_err(json)?;
    fields.start = scanner.at() - 1;
    fields.values = [None; EVENT_FIELDS];
    while let Some(key) = scanner.next_key().map_err(json)? {
        let field = Field::of_event(key_bytes(body, key, scratch));
        let value = scanner.value().map_err(json)?;
        if let Some(field) = field {
            let place = &mut fields.values[field as usize];
            if place.is_some() {
                return Err(refuse(index, key.start, Fault::DuplicateKey(field)));
            }
            *place = Some(value);
        }
    }
    fields.end = scanner.at();
    Ok(())
}

/// Checks an event against the rules of this surface and appends it.
fn push_event(
    body: &str,
    fields: &EventFields,
    tenant_id: &str,
    names: &mut Names,
    batch: &mut EventBatch,
    index: Option<usize>,
) -> Result<(), EnvelopeError> {
    let bytes = fields.end - fields.start;
    if bytes > EVENT_BYTES_MAX {
        return Err(refuse(index, fields.start, Fault::EventTooLarge { bytes }));
    }
    if let Some(value) = fields.values[Field::TenantId as usize].filter(|value| value.kind != Kind::Null) {
        let text = expect_text(value, Field::TenantId, index)?;
        if text.resolve(body, &mut names.key) != tenant_id {
            return Err(refuse(index, value.start, Fault::TenantMismatch));
        }
    }
    let required =
        |field: Field| fields.values[field as usize].ok_or_else(|| refuse(index, fields.start, Fault::Missing(field)));
    let type_value = required(Field::EventType)?;
    let text = expect_text(type_value, Field::EventType, index)?;
    let event_type = text.resolve(body, &mut names.event_type);
    check_event_type(event_type)
        .map_err(|rule| refuse(index, type_value.start, Fault::EventType { found: quote(event_type), rule }))?;
    let entity_value = required(Field::EntityId)?;
    let text = expect_text(entity_value, Field::EntityId, index)?;
    let entity = text.resolve(body, &mut names.entity);
    check_entity_id(entity)
        .map_err(|rule| refuse(index, entity_value.start, Fault::EntityId { found: quote(entity), rule }))?;
    let payload = required(Field::Payload)?;
    let metadata = match fields.values[Field::Metadata as usize] {
        Some(value) if value.kind != Kind::Null => &body.as_bytes()[value.span()],
        _ => b"",
    };
    let expected_version = match fields.values[Field::ExpectedVersion as usize] {
        Some(value) if value.kind != Kind::Null => Some(expect_version(body, value, index)?),
        _ => None,
    };
    let event = EventInput {
        kind: EventKind::Event,
        event_type,
        entity,
        timestamp: None,
        payload: &body.as_bytes()[payload.span()],
        metadata,
        expected_version,
    };
    batch.push(event).map_err(|error| match error {
        EventError::BatchEvents { .. } => refuse(index, fields.start, Fault::TooManyEvents),
        EventError::BatchBytes { limit } => refuse(index, fields.start, Fault::BatchTooLarge { limit }),
        other => refuse(index, fields.start, Fault::Engine(other)),
    })
}

/// The event types of this surface: 1 to 128 of `a-z 0-9 . _`, no outer or double dot, none of the server's own.
pub fn check_event_type(event_type: &str) -> Result<(), EventTypeRule> {
    let bytes = event_type.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return Err(EventTypeRule::Empty) };
    if bytes.len() > EVENT_TYPE_BYTES_MAX {
        return Err(EventTypeRule::TooLong { bytes: bytes.len() });
    }
    // Without early exits, so that the compiler can take many bytes at once.
    let is_allowed = bytes.iter().fold(true, |all, &byte| all & is_type_byte(byte));
    let has_double_dot =
        bytes.iter().zip(&bytes[1..]).fold(false, |any, (&left, &right)| any | ((left == b'.') & (right == b'.')));
    if !is_allowed {
        return Err(wrong_type_character(event_type));
    }
    if first == b'.' || last == b'.' {
        return Err(EventTypeRule::OuterDot);
    }
    if has_double_dot {
        return Err(EventTypeRule::DoubleDot);
    }
    if is_reserved_type(event_type) {
        return Err(EventTypeRule::Reserved);
    }
    Ok(())
}

/// The entities of this surface: 1 to 128 bytes of any Unicode without control characters and outer white space.
pub fn check_entity_id(entity: &str) -> Result<(), EntityIdRule> {
    let (Some(first), Some(last)) = (entity.chars().next(), entity.chars().next_back()) else {
        return Err(EntityIdRule::Empty);
    };
    if entity.len() > ENTITY_ID_BYTES_MAX {
        return Err(EntityIdRule::TooLong { bytes: entity.len() });
    }
    // C0 and DEL are single bytes; C1 is C2 followed by 80 to 9F, and only a look at the characters tells it.
    let mut has_control = false;
    let mut is_ascii = true;
    for &byte in entity.as_bytes() {
        has_control |= (byte < 0x20) | (byte == 0x7f);
        is_ascii &= byte < 0x80;
    }
    if has_control || (!is_ascii && entity.chars().any(char::is_control)) {
        return Err(EntityIdRule::ControlCharacter);
    }
    if first.is_whitespace() || last.is_whitespace() {
        return Err(EntityIdRule::OuterSpace);
    }
    if is_reserved_entity(entity) {
        return Err(EntityIdRule::Reserved);
    }
    Ok(())
}

/// Whether only the server may write events of this type.
#[inline]
pub fn is_reserved_type(event_type: &str) -> bool {
    event_type.starts_with(RESERVED_TYPE_PREFIX) || event_type == RESERVED_TYPE
}

/// Whether only the server may write events about this entity.
#[inline]
pub fn is_reserved_entity(entity: &str) -> bool {
    entity.starts_with(RESERVED_ENTITY_PREFIX)
}

#[inline(always)]
fn is_type_byte(byte: u8) -> bool {
    (byte.wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10) | (byte == b'.') | (byte == b'_')
}

#[cold]
fn wrong_type_character(event_type: &str) -> EventTypeRule {
    let wrong = event_type.chars().find(|&found| !found.is_ascii() || !is_type_byte(found as u8));
    match wrong {
        Some(found) if found.is_uppercase() => EventTypeRule::UpperCase,
        Some(found) => EventTypeRule::Character(found),
        None => EventTypeRule::Empty,
    }
}

/// A key as it is meant; escapes in keys are rare but count.
#[inline(always)]
pub(super) fn key_bytes<'a>(body: &'a str, key: Text, scratch: &'a mut String) -> &'a [u8] {
    if key.is_escaped { key.resolve(body, scratch).as_bytes() } else { &body.as_bytes()[key.start..key.end] }
}

fn expect_text(value: Value, field: Field, index: Option<usize>) -> Result<Text, EnvelopeError> {
    if value.kind != Kind::String {
        return Err(refuse(index, value.start, Fault::WrongType { field, expected: "a string" }));
    }
    Ok(value.text())
}

/// The largest value stands for "no expectation" further in, so it is refused; no entity gets there.
fn expect_version(body: &str, value: Value, index: Option<usize>) -> Result<Version, EnvelopeError> {
    let digits = &body[value.span()];
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_whole { digits.parse::<u64>().ok() } else { None };
    match number {
        Some(version) if version < u64::MAX => Ok(Version(version)),
        _ => {
            let fault = Fault::WrongType { field: Field::ExpectedVersion, expected: "a whole number from 0, or null" };
            Err(refuse(index, value.start, fault))
        }
    }
}

/// Something begins there that could be a value, but of another kind. Anything else is the scanner's to refuse.
#[inline(always)]
pub(super) fn is_other_value(byte: u8, wanted: u8) -> bool {
    byte != wanted && matches!(byte, b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n')
}

fn quote(text: &str) -> String {
    match text.char_indices().nth(QUOTE_CHARS_MAX) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text.to_owned(),
    }
}

#[cold]
#[inline(never)]
fn refuse(event_index: Option<usize>, at: usize, fault: Fault) -> EnvelopeError {
    EnvelopeError { event_index, at, fault }
}

#[cold]
#[inline(never)]
fn bad_json(event_index: Option<usize>, error: JsonError) -> EnvelopeError {
    EnvelopeError { event_index, at: error.at, fault: Fault::Json(error) }
}

#[cold]
#[inline(never)]
fn wrong_shape(event_index: Option<usize>, at: usize, expected: &'static str) -> EnvelopeError {
    EnvelopeError { event_index, at, fault: Fault::Shape { expected } }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::Instant;

    use ringlog_engine::event::{FingerprintKey, NO_EXPECTED_VERSION, Source};
    use ringlog_engine::format::record::Record;
    use ringlog_engine::ids::Tenant;

    use super::*;
    use crate::wire::broken::every_wrong_byte;

    fn new_batch() -> EventBatch {
        EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7))
    }

    /// What every kernel makes of a body, which must be the same.
    fn on_every_level(
        body: &[u8],
        parse: impl Fn(Level, &[u8], &mut EventBatch) -> Result<usize, EnvelopeError>,
    ) -> Result<EventBatch, EnvelopeError> {
        let mut batch = new_batch();
        let verdict = parse(Level::Portable, body, &mut batch);
        for level in Level::available() {
            let mut again = new_batch();
            assert_eq!(parse(level, body, &mut again), verdict, "{level:?}");
            assert_eq!(again.records(), batch.records(), "{level:?}");
            assert_eq!(again.keys(), batch.keys(), "{level:?}");
        }
        let count = verdict?;
        assert_eq!(count, batch.event_count());
        Ok(batch)
    }

    fn single(body: impl AsRef<[u8]>) -> Result<EventBatch, EnvelopeError> {
        on_every_level(body.as_ref(), |level, body, batch| {
            parse_event_with(level, body, "acme", &mut Scratch::default(), batch).map(|()| 1)
        })
    }

    fn many(body: impl AsRef<[u8]>) -> Result<EventBatch, EnvelopeError> {
        on_every_level(body.as_ref(), |level, body, batch| {
            parse_batch_with(level, body, "acme", &mut Scratch::default(), batch)
        })
    }

    /// Type, entity, payload, metadata and expected version of every event.
    fn events(batch: &EventBatch) -> Vec<(String, String, String, String, Option<u64>)> {
        let mut bytes = batch.records();
        let mut events = Vec::new();
        for key in batch.keys() {
            let record = Record::parse(bytes).unwrap();
            assert_eq!((record.kind, record.timestamp), (EventKind::Event, None));
            bytes = &bytes[record.record_bytes..];
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let version = (key.version != NO_EXPECTED_VERSION).then_some(key.version);
            events.push((
                record.event_type.into(),
                record.entity.into(),
                text(record.payload),
                text(record.metadata),
                version,
            ));
        }
        assert!(bytes.is_empty());
        events
    }

    /// Events are what another parser reads.
    fn check_sent(sent: &[serde_json::Value], stored: &[(String, String, String, String, Option<u64>)]) {
        assert_eq!(sent.len(), stored.len());
        for (sent, (event_type, entity, payload, ..)) in sent.iter().zip(stored) {
            assert_eq!(
                (sent["event_type"].as_str(), sent["entity_id"].as_str()),
                (Some(&**event_type), Some(&**entity))
            );
            assert_eq!(sent["payload"], serde_json::from_str::<serde_json::Value>(payload).unwrap());
        }
    }

    #[test]
    fn an_event_is_taken_apart_and_its_json_kept_byte_for_byte() {
        for (body, event_type, entity, payload, metadata, version) in [
            (r#"{"event_type":"a","entity_id":"b","payload":1}"#, "a", "b", "1", "", None),
            (
                r#" { "payload" : { "x" : [ 1.0 ] } , "entity_id" : "b" , "event_type" : "a" } "#,
                "a",
                "b",
                r#"{ "x" : [ 1.0 ] }"#,
                "",
                None,
            ),
            (
                r#"{"event_type":"a","entity_id":"b","payload":null,"metadata":null,"expected_version":null,"tenant_id":null}"#,
                "a",
                "b",
                "null",
                "",
                None,
            ),
            (
                r#"{"event_type":"a","entity_id":"b","payload":"x","metadata":[1, 2],"expected_version":0,"tenant_id":"acme"}"#,
                "a",
                "b",
                "\"x\"",
                "[1, 2]",
                Some(0),
            ),
            (
                r#"{"event_type":"a","entity_id":"b","payload":{},"metadata":{},"expected_version":18446744073709551614}"#,
                "a",
                "b",
                "{}",
                "{}",
                Some(u64::MAX - 1),
            ),
            (
                r#"{"event_type":"a","entity_id":"b","payload":{"n":123456789012345678901234567890,"n":1e999,"s":"\u00e9\/"}}"#,
                "a",
                "b",
                r#"{"n":123456789012345678901234567890,"n":1e999,"s":"\u00e9\/"}"#,
                "",
                None,
            ),
            (
                r#"{"event\u005ftype":"\u0061.b","entity_id":"\u00e9\ud83d\ude00\"","p\u0061yload":1,"tenant_id":"\u0061cme"}"#,
                "a.b",
                "\u{e9}\u{1f600}\"",
                "1",
                "",
                None,
            ),
            (
                r#"{"event_type":"a_1.b2","entity_id":"k\u00e4se \u2014 brot","payload":false,"id":1,"id":2,"Payload":3,"x":{"payload":4}}"#,
                "a_1.b2",
                "k\u{e4}se \u{2014} brot",
                "false",
                "",
                None,
            ),
        ] {
            let batch = single(body).unwrap_or_else(|error| panic!("{body}: {error}"));
            let expected = (event_type.into(), entity.into(), payload.into(), metadata.into(), version);
            assert_eq!(events(&batch), [expected], "{body}");
        }
    }

    #[test]
    fn a_batch_keeps_its_order() {
        let body = r#"{"source":"x","events":[{"event_type":"a","entity_id":"1","payload":1},
            {"payload":2,"event_type":"b","entity_id":"2","expected_version":5}, {"event_type":"a","entity_id":"1","payload":3,"metadata":0}
            ],"events_total":[{}],"source":"y"}"#;
        let found = events(&many(body).unwrap());
        let expected = [("a", "1", "1", "", None), ("b", "2", "2", "", Some(5)), ("a", "1", "3", "0", None)].map(
            |(event_type, entity, payload, metadata, version)| {
                (event_type.to_owned(), entity.to_owned(), payload.to_owned(), metadata.to_owned(), version)
            },
        );
        assert_eq!(found, expected);
        assert_eq!(
            events(&many(r#"{"\u0065vents":[{"event_type":"a","entity_id":"1","payload":1}]}"#).unwrap()).len(),
            1
        );
        assert_eq!(many(sample_batch(1000)).unwrap().event_count(), 1000);
    }

    fn lines(body: impl AsRef<[u8]>) -> Result<EventBatch, EnvelopeError> {
        on_every_level(body.as_ref(), |level, body, batch| {
            parse_lines_with(level, body, "acme", &mut Scratch::default(), batch)
        })
    }

    #[test]
    fn json_lines_are_the_batch_of_their_lines() {
        let batch = r#"{"events":[{"event_type":"a","entity_id":"1","payload":{"x":"\n"}},
            {"payload":2,"event_type":"b","entity_id":"2","expected_version":5},{"event_type":"a","entity_id":"1","payload":3}]}"#;
        let one_each = "{\"event_type\":\"a\",\"entity_id\":\"1\",\"payload\":{\"x\":\"\\n\"}}\r\n\n \t\r\n\
            \x20{\"payload\":2,\"event_type\":\"b\",\"entity_id\":\"2\",\"expected_version\":5}\n\
            {\"event_type\":\"a\",\"entity_id\":\"1\",\"payload\":3}";
        let expected = events(&many(batch).unwrap());
        assert_eq!(events(&lines(one_each).unwrap()), expected);
        assert_eq!(events(&lines(format!("{one_each}\n")).unwrap()), expected);
        assert_eq!(lines(r#"{"event_type":"a","entity_id":"1","payload":3}"#).unwrap().event_count(), 1);
    }

    #[test]
    fn a_bad_line_refuses_all_of_them_and_is_named() {
        use FaultClass::*;
        let good = r#"{"event_type":"t","entity_id":"e","payload":1}"#;
        let second = |line: &str| lines(format!("{good}\n\n{line}\n{good}"));
        refused(second("[]"), InvalidEvent, 48, "event 1: expected an event object at byte 48");
        refused(second(&format!("{good}{good}")), InvalidJson, 94, "event 1: expected the end of the body at byte 94");
        refused(second("{"), InvalidJson, 49, "event 1: expected a key in quotes at byte 49, where the body ends");
        refused(
            second(&good.replace("\"t\"", "\"T\"")),
            InvalidEvent,
            62,
            "event 1: event_type \"T\" has upper-case letters; use lower case, digits, '.' and '_'",
        );
        let error = lines([good.as_bytes(), b"\n\"\xff\""].concat()).map(|batch| batch.event_count()).unwrap_err();
        assert_eq!((error.event_index, error.at, error.class()), (Some(1), 48, InvalidJson));
        for empty in ["", "\n", " \r\n\t\n"] {
            refused(lines(empty), InvalidEvent, empty.len(), "events is empty; send at least one event");
        }
        let many_lines = |count: usize| vec![good; count].join("\n");
        assert_eq!(lines(many_lines(10_000)).unwrap().event_count(), 10_000);
        let text = "more than 10000 events in one request; send them in smaller batches";
        refused(lines(many_lines(10_001)), TooLarge, 470_000, text);
    }

    #[test]
    fn no_cut_or_changed_line_is_a_panic() {
        let body = String::from_utf8(sample_batch(3)).unwrap();
        let body = body[11..body.len() - 2].replace("}},{", "}}\n{").into_bytes();
        let mut scratch = Scratch::default();
        for cut in 0..body.len() {
            let whole = body[..cut].ends_with(b"\n") || body[..cut].ends_with(b"}}") && body[cut] == b'\n';
            let count = parse_lines(&body[..cut], "acme", &mut scratch, &mut new_batch()).unwrap_or(0);
            assert!(count <= body[..cut].iter().filter(|&&byte| byte == b'\n').count() + usize::from(whole), "{cut}");
        }
        every_wrong_byte(&body, |place, changed| {
            let mut batch = new_batch();
            if let Ok(count) = parse_lines(changed, "acme", &mut scratch, &mut batch) {
                assert_eq!(count, 3);
                let line = body[..place].iter().filter(|&&byte| byte == b'\n').count();
                let sent = changed.split(|&byte| byte == b'\n').nth(line).unwrap();
                check_sent(&[serde_json::from_slice(sent).unwrap()], &events(&batch)[line..=line]);
            }
        });
    }

    /// Fills the blanks of a good event: the type, the entity and what follows the payload.
    fn event_with(event_type: &str, entity: &str, more: &str) -> String {
        format!("{{\"event_type\":{event_type},\"entity_id\":{entity},\"payload\":{{}}{more}}}")
    }

    fn refused(verdict: Result<EventBatch, EnvelopeError>, class: FaultClass, at: usize, text: &str) {
        let error = verdict.map(|batch| batch.event_count()).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.class(), error.at), (text, class, at));
    }

    #[test]
    fn a_broken_rule_is_named_with_what_to_do() {
        const USE: &str = "use lower case, digits, '.' and '_'";
        let long = "x".repeat(129);
        for (event_type, text) in [
            ("\"User.Action\"", format!("\"User.Action\" has upper-case letters; {USE}")),
            ("\"\u{c9}t\u{e9}\"", format!("\"\u{c9}t\u{e9}\" has upper-case letters; {USE}")),
            ("\"user-action\"", format!("\"user-action\" has the character '-'; {USE}")),
            ("\"user action\"", format!("\"user action\" has the character ' '; {USE}")),
            ("\"\u{e9}t\u{e9}\"", format!("\"\u{e9}t\u{e9}\" has the character '\u{e9}'; {USE}")),
            ("\"a\\n\"", format!("\"a\\n\" has the character '\\n'; {USE}")),
            ("\"\"", "\"\" is empty; name what happened, as in \"order.paid\"".into()),
            ("\".a\"", "\".a\" begins or ends with '.'; remove it".into()),
            ("\"a.\"", "\"a.\" begins or ends with '.'; remove it".into()),
            ("\".\"", "\".\" begins or ends with '.'; remove it".into()),
            ("\"a..b\"", "\"a..b\" has \"..\"; use a single '.'".into()),
            ("\"_system.x\"", "\"_system.x\" is reserved for the server; use another name".into()),
            (
                "\"allsource.read_model.committed\"",
                "\"allsource.read_model.committed\" is reserved for the server; use another name".into(),
            ),
            (&format!("\"{long}\""), format!("\"{}...\" has 129 bytes, 128 allowed", &long[..64])),
        ] {
            let body = event_with(event_type, "\"e\"", "");
            refused(single(body), FaultClass::InvalidEvent, 14, &format!("event_type {text}"));
        }
        for (entity, text) in [
            ("\"\"", "\"\" is empty; name what the event is about, as in \"order-7\"".to_owned()),
            ("\" a\"", "\" a\" begins or ends with white space; remove it".into()),
            ("\"a\u{a0}\"", "\"a\\u{a0}\" begins or ends with white space; remove it".into()),
            ("\"a\\tb\"", "\"a\\tb\" has a control character; remove it".into()),
            ("\"a\u{7f}b\"", "\"a\\u{7f}b\" has a control character; remove it".into()),
            ("\"a\u{85}b\"", "\"a\\u{85}b\" has a control character; remove it".into()),
            (
                "\"read-model:x\"",
                "\"read-model:x\" begins with \"read-model:\", which is reserved for the server; use another name"
                    .into(),
            ),
            (
                &format!("\"{}\"", "\u{e9}".repeat(65)),
                format!("\"{}...\" has 130 bytes, 128 allowed", "\u{e9}".repeat(64)),
            ),
        ] {
            let body = event_with("\"t\"", entity, "");
            refused(single(body), FaultClass::InvalidEvent, 30, &format!("entity_id {text}"));
        }
        for good in [
            "\"a.b_c.9\"",
            "\"_system\"",
            "\"_systems.a\"",
            "\"allsource.read_model.committed2\"",
            &format!("\"{}\"", "x".repeat(128)),
        ] {
            assert!(single(event_with(good, "\"e\"", "")).is_ok(), "{good}");
        }
        for good in
            ["\"a b\"", "\"Order-7/\u{e9}\"", "\"read-model\"", "\"a\u{a0}b\"", &format!("\"{}\"", "x".repeat(128))]
        {
            assert!(single(event_with("\"t\"", good, "")).is_ok(), "{good}");
        }
    }

    #[test]
    fn fields_have_types_and_stand_there_once() {
        use FaultClass::*;
        for (body, class, at, text) in [
            ("{}", InvalidEvent, 0, "event_type is missing"),
            (r#"{"entity_id":"e","payload":1}"#, InvalidEvent, 0, "event_type is missing"),
            (r#" {"event_type":"t","payload":1}"#, InvalidEvent, 1, "entity_id is missing"),
            (r#"{"event_type":"t","entity_id":"e"}"#, InvalidEvent, 0, "payload is missing"),
            (r#"{"event_type":1,"entity_id":"e","payload":1}"#, InvalidEvent, 14, "event_type must be a string"),
            (r#"{"event_type":null,"entity_id":"e","payload":1}"#, InvalidEvent, 14, "event_type must be a string"),
            (r#"{"event_type":"t","entity_id":{},"payload":1}"#, InvalidEvent, 30, "entity_id must be a string"),
            (
                r#"{"event_type":"t","entity_id":"e","payload":1,"tenant_id":7}"#,
                InvalidEvent,
                58,
                "tenant_id must be a string",
            ),
            (
                r#"{"event_type":"t","entity_id":"e","payload":1,"tenant_id":"other"}"#,
                TenantMismatch,
                58,
                "tenant_id is not the tenant of your credential; leave it out or use the right key",
            ),
            (
                r#"{"event_type":"t","event_type":"t","entity_id":"e","payload":1}"#,
                InvalidEvent,
                19,
                "event_type stands there twice; send it once",
            ),
            (
                r#"{"payload":1,"entity_id":"e","event_type":"t","p\u0061yload":1}"#,
                InvalidEvent,
                47,
                "payload stands there twice; send it once",
            ),
            (r#"{"metadata":null,"metadata":null}"#, InvalidEvent, 18, "metadata stands there twice; send it once"),
            ("[]", InvalidEvent, 0, "expected an event object at byte 0"),
            (" null", InvalidEvent, 1, "expected an event object at byte 1"),
            ("\"{}\"", InvalidEvent, 0, "expected an event object at byte 0"),
            ("", InvalidJson, 0, "expected '{' at byte 0, where the body ends"),
            ("x", InvalidJson, 0, "expected '{' at byte 0"),
            ("\u{feff}{}", InvalidJson, 0, "expected '{' at byte 0"),
            (
                r#"{"event_type":"t","entity_id":"e","payload":1}x"#,
                InvalidJson,
                46,
                "expected the end of the body at byte 46",
            ),
            (r#"{"event_type" "t"}"#, InvalidJson, 14, "expected ':' at byte 14"),
            (r#"{"event_type":"T","x":01}"#, InvalidJson, 22, "number with a leading zero at byte 22"),
        ] {
            refused(single(body), class, at, text);
        }
        for wrong in ["-1", "1.0", "1e0", "\"1\"", "true", "[]", "18446744073709551615", "18446744073709551616", "-0"] {
            let body = event_with("\"t\"", "\"e\"", &format!(",\"expected_version\":{wrong}"));
            refused(single(body), InvalidEvent, 66, "expected_version must be a whole number from 0, or null");
        }
    }

    #[test]
    fn a_batch_has_a_shape_and_its_errors_an_index() {
        use FaultClass::*;
        let good = r#"{"event_type":"t","entity_id":"e","payload":1}"#;
        refused(many("{}"), InvalidEvent, 1, "events is missing");
        refused(many(r#"{"event":[]} "#), InvalidEvent, 11, "events is missing");
        refused(many(r#"{"events":[]}"#), InvalidEvent, 12, "events is empty; send at least one event");
        refused(many(r#"{"events":{}}"#), InvalidEvent, 10, "expected an array of events at byte 10");
        refused(many(r#"{"events":null}"#), InvalidEvent, 10, "expected an array of events at byte 10");
        refused(many("[]"), InvalidEvent, 0, "expected an object with \"events\" at byte 0");
        refused(many(r#"{"events":[1]}"#), InvalidEvent, 11, "event 0: expected an event object at byte 11");
        refused(
            many(format!("{{\"events\":[{good},[]]}}")),
            InvalidEvent,
            58,
            "event 1: expected an event object at byte 58",
        );
        refused(many(format!("{{\"events\":[{good},]}}")), InvalidJson, 58, "event 1: expected '{' at byte 58");
        refused(
            many(format!("{{\"events\":[{good} {good}]}}")),
            InvalidJson,
            58,
            "event 1: expected ',' or ']' at byte 58",
        );
        refused(
            many(format!("{{\"events\":[{good}],\"events\":[{good}]}}")),
            InvalidEvent,
            60,
            "events stands there twice; send it once",
        );
        refused(many(format!("{{\"events\":[{good}]}} 1")), InvalidJson, 60, "expected the end of the body at byte 60");
        refused(
            many(format!("{{\"events\":[{good}]")),
            InvalidJson,
            58,
            "expected ',' or '}' at byte 58, where the body ends",
        );
        let upper = good.replace("\"t\"", "\"User.Action\"");
        let error = many(format!("{{\"events\":[{good},{good},{good},{upper}]}}")).unwrap_err();
        assert_eq!((error.event_index, error.at, error.field()), (Some(3), 11 + 3 * 47 + 14, Some("event_type")));
        assert_eq!(
            error.to_string(),
            "event 3: event_type \"User.Action\" has upper-case letters; use lower case, digits, '.' and '_'"
        );
    }

    #[test]
    fn requests_have_ceilings() {
        let good = r#"{"event_type":"t","entity_id":"e","payload":1}"#;
        let events = |count: usize| format!("{{\"events\":[{}]}}", vec![good; count].join(","));
        assert_eq!(many(events(10_000)).unwrap().event_count(), 10_000);
        let text = "more than 10000 events in one request; send them in smaller batches";
        refused(many(events(10_001)), FaultClass::TooLarge, 11 + 10_000 * 47, text);

        let sized = |bytes: usize| good.replace("1}", &format!("\"{}\"}}", "x".repeat(bytes - good.len() - 1)));
        assert!(single(sized(EVENT_BYTES_MAX)).is_ok());
        let text = "the event has 1048577 bytes, 1048576 allowed; store large data elsewhere and refer to it";
        refused(single(sized(EVENT_BYTES_MAX + 1)), FaultClass::TooLarge, 0, text);
        let large = sized(EVENT_BYTES_MAX);
        let error = many(format!("{{\"events\":[{}]}}", vec![large.as_str(); 18].join(","))).unwrap_err();
        assert_eq!((error.event_index, error.class()), (Some(17), FaultClass::TooLarge));
    }

    #[test]
    fn no_cut_or_changed_body_is_a_panic() {
        let body = sample_batch(2);
        let mut scratch = Scratch::default();
        for cut in 0..body.len() {
            assert!(parse_batch(&body[..cut], "acme", &mut scratch, &mut new_batch()).is_err());
            assert!(parse_event(&body[..cut], "acme", &mut scratch, &mut new_batch()).is_err());
        }
        every_wrong_byte(&body, |_, changed| {
            let mut batch = new_batch();
            // Whatever it says, it says it without a panic, and never other events than there are.
            if let Ok(count) = parse_batch(changed, "acme", &mut scratch, &mut batch) {
                assert_eq!(count, 2);
                let sent: serde_json::Value = serde_json::from_slice(changed).unwrap();
                check_sent(sent["events"].as_array().unwrap(), &events(&batch));
            }
        });
    }

    fn sample_batch(events: usize) -> Vec<u8> {
        let mut body = b"{\"events\":[".to_vec();
        for index in 0..events {
            if index > 0 {
                body.push(b',');
            }
            let event = format!(
                "{{\"event_type\":\"order.item.added\",\"entity_id\":\"order-{:06}\",\"payload\":{{\"sku\":\"A-{:04}\",\
                 \"quantity\":{},\"price\":{}.99,\"currency\":\"EUR\",\"note\":\"gift wrapped\",\"paid\":true}},\
                 \"metadata\":{{\"source\":\"checkout\",\"ip\":\"10.1.2.{}\"}}}}",
                index * 7919 % 1_000_000,
                index * 31 % 10_000,
                index % 100,
                index * 13 % 1000,
                index % 256
            );
            body.extend_from_slice(event.as_bytes());
        }
        body.extend_from_slice(b"]}");
        body
    }

    /// `cargo test --release -p ringlog --lib timing -- --ignored --nocapture --test-threads 1`
    #[test]
    #[ignore = "a measurement, not a check"]
    fn timing_of_a_batch_of_100() {
        let body = sample_batch(100);
        println!("{} bytes per event", body.len() / 100);
        let report = |name: &str, level: Level, work: &mut dyn FnMut()| {
            let mut best = f64::MAX;
            for _ in 0..200 {
                let start = Instant::now();
                for _ in 0..20 {
                    work();
                }
                best = best.min(start.elapsed().as_nanos() as f64 / 2000.0);
            }
            println!("{name:>24} {level:?}: {best:6.1} ns/event");
        };
        let mut window = Window::default();
        let mut scratch = Scratch::default();
        let mut batch = EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7));
        for level in Level::available() {
            report("validate", level, &mut || {
                black_box(crate::wire::json::validate_with(level, black_box(&body), &mut window)).unwrap();
            });
            report("fields", level, &mut || {
                black_box(walk_fields(level, black_box(&body), &mut window));
            });
            report("parse_batch", level, &mut || {
                batch.reset(Tenant(1), Source::Http);
                parse_batch_with(level, black_box(&body), "acme", &mut scratch, &mut batch).unwrap();
            });
        }
        let one = &body[11..11 + body.len() / 100];
        let end = one.windows(2).rposition(|pair| pair == b"}}").unwrap() + 2;
        for level in Level::available() {
            report("parse_event x100", level, &mut || {
                for _ in 0..100 {
                    batch.reset(Tenant(1), Source::Http);
                    parse_event_with(level, black_box(&one[..end]), "acme", &mut scratch, &mut batch).unwrap();
                }
            });
        }
        report("push alone", Level::Portable, &mut || {
            batch.reset(Tenant(1), Source::Http);
            for _ in 0..100 {
                let event = EventInput {
                    kind: EventKind::Event,
                    event_type: black_box("order.item.added"),
                    entity: black_box("order-000123"),
                    timestamp: None,
                    payload: black_box(&one[64..170]),
                    metadata: black_box(&one[100..140]),
                    expected_version: None,
                };
                batch.push(event).unwrap();
            }
        });
    }

    /// The walk through the envelope without what is done with it.
    fn walk_fields(level: Level, body: &[u8], window: &mut Window) -> usize {
        let body = as_text(body).unwrap();
        let mut scanner = Scanner::with_level(body, window, level);
        let mut scratch = String::new();
        let mut fields = EventFields::default();
        let mut sum = 0;
        scanner.begin_object().unwrap();
        scanner.next_key().unwrap();
        scanner.begin_array().unwrap();
        while scanner.next_element().unwrap() {
            scan_event(&mut scanner, body, &mut scratch, None, &mut fields).unwrap();
            sum += black_box(&fields).end;
        }
        assert!(scanner.next_key().unwrap().is_none());
        scanner.finish().unwrap();
        sum
    }
}
