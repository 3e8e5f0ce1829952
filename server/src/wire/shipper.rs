//! Bodies of `POST /ingest/ndjson`: what Vector, Fluent Bit and rsyslog send, straight into a batch.
//!
//! Owns which members of an unknown object name its type, its entity and its time. Must never: change what was sent; the
//! object is the payload, byte for byte, whatever was found in it.
//!
//! ```text
//! {"host":"web-1","message":"started","timestamp":"2026-10-27T10:00:00Z"}     a line, or an element of one array
//!   event_type  log       entity  web-1       payload  the object as it stands
//! ```

use ringlog_engine::event::{EventBatch, EventInput};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::Micros;

use super::envelope::{is_other_value, is_reserved_entity, is_reserved_type, key_bytes};
use super::json::{JsonError, Kind, Scanner, Value, as_text};
use super::lines::{LineFault, Lines, LinesError, Received, Scratch};
use super::params::{ParamError, ParamFault, pairs};
use super::split::{Line, LineSplit};
use super::time::{MOMENT_MAX, MOMENT_MIN, TimeError, parse_moment};
use crate::limits::EVENT_BYTES_MAX;

/// What an object without a type is, unless the request says so.
const TYPE_DEFAULT: &str = "log";

/// Where a request says that things are. All of it is optional.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// The member that names the type, and the type of objects without it.
    type_field: Option<String>,
    event_type: Option<String>,
    /// The member that names the entity, and the entity of objects without one.
    entity_field: Option<String>,
    entity: Option<String>,
    /// The member that says when it was.
    time_field: Option<String>,
}

impl Fields {
    /// From `type_field`, `type`, `entity_field`, `entity` and `time_field` of a query string. Others are not looked at.
    pub fn parse(query: Option<&str>) -> Result<Fields, ParamError> {
        let mut fields = Fields::default();
        for pair in pairs(query.unwrap_or_default().as_bytes()) {
            let (name, value) = pair?;
            let place = match &*name {
                "type_field" => &mut fields.type_field,
                "type" => &mut fields.event_type,
                "entity_field" => &mut fields.entity_field,
                "entity" => &mut fields.entity,
                "time_field" => &mut fields.time_field,
                _ => continue,
            };
            if place.replace(value.into_owned()).is_some() {
                return Err(ParamError { name: name.into_owned(), fault: ParamFault::Duplicate });
            }
        }
        Ok(fields)
    }
}

/// Takes the objects of `body` into `batch`, which must be empty: one to a line, or the elements of one array. After an error,
/// reset it. Of an array, `line` counts elements.
pub fn put(
    body: &[u8],
    fields: &Fields,
    received: &Received,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Lines, LinesError> {
    scratch.metadata.set_origin(received, "shipper");
    let source_ip = received.source_ip.to_canonical().to_string();
    let asked = Asked { fields, source_ip: &source_ip };
    if body.trim_ascii_start().first() == Some(&b'[') {
        return put_array(body, &asked, scratch, batch);
    }
    let mut lines = Lines::default();
    for line in LineSplit::of(body) {
        let verdict =
            if lines.is_full() { Err(LineFault::TooManyLines) } else { put_line(&line, &asked, scratch, batch) };
        lines.note(line.number, line.at..line.at + line.bytes.len(), verdict)?;
    }
    lines.finish()
}

fn put_line(
    line: &Line<'_>,
    asked: &Asked<'_>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<(), LineFault> {
    let text = line.text?;
    let mut scanner = Scanner::new(text, &mut scratch.window);
    if is_other_value(scanner.peek(), b'{') {
        return Err(LineFault::NotAnObject);
    }
    let found = scan(&mut scanner, text, asked.fields, &mut scratch.key)?;
    scanner.finish()?;
    put_object(text, &found, asked, scratch, batch)
}

fn put_array(
    body: &[u8],
    asked: &Asked<'_>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Lines, LinesError> {
    let text = as_text(body).map_err(LinesError::Json)?;
    // Its own, for the time of this body: the scanner holds it across events.
    let mut window = std::mem::take(&mut scratch.window);
    let outcome = put_elements(text, Scanner::new(text, &mut window), asked, scratch, batch);
    scratch.window = window;
    outcome
}

fn put_elements(
    text: &str,
    mut scanner: Scanner<'_>,
    asked: &Asked<'_>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Lines, LinesError> {
    let mut lines = Lines::default();
    let mut number = 0;
    scanner.begin_array().map_err(LinesError::Json)?;
    while scanner.next_element().map_err(LinesError::Json)? {
        number += 1;
        let (span, verdict) = if lines.is_full() || scanner.peek() != b'{' {
            let value = scanner.value().map_err(LinesError::Json)?;
            let fault = if lines.is_full() { LineFault::TooManyLines } else { LineFault::NotAnObject };
            (value.span(), Err(fault))
        } else {
            let found = scan(&mut scanner, text, asked.fields, &mut scratch.key).map_err(LinesError::Json)?;
            (found.start..found.end, put_object(text, &found, asked, scratch, batch))
        };
        lines.note(number, span, verdict)?;
    }
    scanner.finish().map_err(LinesError::Json)?;
    lines.finish()
}

/// What a request says of all its objects.
struct Asked<'a> {
    fields: &'a Fields,
    source_ip: &'a str,
}

/// What is looked for in an object. Of each the last member counts that has one of its keys.
#[derive(Clone, Copy)]
enum Part {
    Type,
    Entity,
    Host,
    Time,
    Service,
    Level,
    Source,
}

const PARTS: usize = Part::Source as usize + 1;

impl Part {
    /// By the names that shippers use unasked: Vector (`host`, `timestamp`, `service`), Fluent Bit (`date`, `@timestamp`), rsyslog's
    /// templates (`host`, `hostname`, `severity`).
    fn of(key: &[u8]) -> Option<Part> {
        match key {
            b"event_type" => Some(Part::Type),
            b"entity_id" => Some(Part::Entity),
            b"host" | b"hostname" => Some(Part::Host),
            b"timestamp" | b"@timestamp" | b"date" | b"time" => Some(Part::Time),
            b"service" => Some(Part::Service),
            b"level" | b"severity" => Some(Part::Level),
            b"source" => Some(Part::Source),
            _ => None,
        }
    }
}

/// Where the parts of an object stand.
struct Found {
    start: usize,
    end: usize,
    parts: [Option<Value>; PARTS],
    /// By the names that the request gave.
    named_type: Option<Value>,
    named_entity: Option<Value>,
    named_time: Option<Value>,
}

fn scan(scanner: &mut Scanner<'_>, text: &str, fields: &Fields, key: &mut String) -> Result<Found, JsonError> {
    scanner.begin_object()?;
    let start = scanner.at() - 1;
    let mut parts = [None; PARTS];
    let (mut named_type, mut named_entity, mut named_time) = (None, None, None);
    while let Some(name) = scanner.next_key()? {
        let name = key_bytes(text, name, key);
        let part = Part::of(name);
        let is = |field: &Option<String>| field.as_ref().is_some_and(|field| field.as_bytes() == name);
        let named = [is(&fields.type_field), is(&fields.entity_field), is(&fields.time_field)];
        let value = Some(scanner.value()?);
        if let Some(part) = part {
            parts[part as usize] = value;
        }
        for (place, is_named) in [&mut named_type, &mut named_entity, &mut named_time].into_iter().zip(named) {
            if is_named {
                *place = value;
            }
        }
    }
    Ok(Found { start, end: scanner.at(), parts, named_type, named_entity, named_time })
}

fn put_object(
    text: &str,
    found: &Found,
    asked: &Asked<'_>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<(), LineFault> {
    let bytes = found.end - found.start;
    if bytes > EVENT_BYTES_MAX {
        return Err(LineFault::TooLarge { bytes });
    }
    let part = |part: Part| found.parts[part as usize];
    let Scratch { event_type, entity, metadata, .. } = scratch;
    let event_type = [found.named_type, part(Part::Type)]
        .into_iter()
        .flatten()
        .find(is_name)
        .map_or(asked.fields.event_type.as_deref().unwrap_or(TYPE_DEFAULT), |value| name(text, value, event_type));
    if is_reserved_type(event_type) {
        return Err(LineFault::Reserved("the type"));
    }
    let of_object = [found.named_entity, part(Part::Entity), part(Part::Host), part(Part::Service)];
    let entity = match of_object.into_iter().flatten().find(is_name) {
        Some(value) => name(text, value, entity),
        None => asked.fields.entity.as_deref().unwrap_or(asked.source_ip),
    };
    if is_reserved_entity(entity) {
        return Err(LineFault::Reserved("the entity"));
    }
    metadata.begin();
    for (name, value) in
        [("service", part(Part::Service)), ("level", part(Part::Level)), ("source", part(Part::Source))]
    {
        let string = value.filter(|value| value.kind == Kind::String);
        metadata.text(name, text, string.map(|value| value.text()));
    }
    let event = EventInput {
        kind: EventKind::Log,
        event_type,
        entity,
        timestamp: found.named_time.or(part(Part::Time)).and_then(|value| moment(text, value)),
        payload: &text.as_bytes()[found.start..found.end],
        metadata: metadata.finish(),
        expected_version: None,
    };
    batch.push(event).map_err(LineFault::Engine)
}

/// It can name something: a string that is not empty, or a number.
fn is_name(value: &Value) -> bool {
    match value.kind {
        Kind::String => value.start + 2 < value.end,
        Kind::Number => true,
        _ => false,
    }
}

fn name<'a>(text: &'a str, value: Value, scratch: &'a mut String) -> &'a str {
    match value.kind {
        Kind::String => value.text().resolve(text, scratch),
        _ => &text[value.span()],
    }
}

/// The time in a value, if there is one. A shipper's clock that cannot be read is no reason to lose a line: the received time
/// stands for it, and what was sent stays in the payload.
fn moment(text: &str, value: Value) -> Option<Micros> {
    match value.kind {
        Kind::Number => epoch(&text[value.span()]),
        Kind::String if !value.is_escaped => {
            let time = &text[value.text().span()];
            match parse_moment(time) {
                // Fluent Bit's `java_sql_timestamp` and rsyslog's ISO dates without a zone are UTC.
                Err(TimeError::NoOffset) => parse_moment(&format!("{time}Z")).ok(),
                Ok(_) if time.bytes().all(|byte| byte.is_ascii_digit()) => epoch(time),
                // `1792922400.25`
                Err(TimeError::Form { .. }) => epoch(time),
                parsed => parsed.ok(),
            }
        }
        _ => None,
    }
}

/// Since 1970, in seconds with a fraction or in whole milli-, micro- or nanoseconds: the magnitude tells which, for every time
/// from 1974 to 5138.
fn epoch(number: &str) -> Option<Micros> {
    const SECONDS_BELOW: u64 = 100_000_000_000;
    let micros = match number.split_once('.') {
        _ if number.contains(['e', 'E']) => {
            let seconds: f64 = number.parse().ok()?;
            // A float that is out of range becomes the end of the range, which the last line refuses.
            (seconds * 1e6) as i64
        }
        Some((whole, fraction)) => {
            let whole: u64 = whole.parse().ok()?;
            if whole >= SECONDS_BELOW || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
            let fraction = digits.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
            (whole * 1_000_000 + fraction) as i64
        }
        None => {
            let whole: u64 = number.parse().ok()?;
            let (times, divided_by) = match whole {
                _ if whole < SECONDS_BELOW => (1_000_000, 1),
                _ if whole < SECONDS_BELOW * 1000 => (1000, 1),
                _ if whole < SECONDS_BELOW * 1_000_000 => (1, 1),
                _ => (1, 1000),
            };
            i64::try_from(whole * times / divided_by).ok()?
        }
    };
    let moment = Micros(micros);
    (MOMENT_MIN..=MOMENT_MAX).contains(&moment).then_some(moment)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use ringlog_engine::event::{FingerprintKey, Source};
    use ringlog_engine::format::record::Record;
    use ringlog_engine::ids::Tenant;

    use super::*;
    use crate::wire::broken::{every_cut, every_wrong_byte};
    use crate::wire::json::JsonReason;
    use crate::wire::lines::tests::{check_every_wrong_byte, is_json};

    const SENDER: Received = Received { source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)) };
    const AT: i64 = 1_793_095_200_000_000;

    fn new_batch() -> EventBatch {
        EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7))
    }

    /// Type, entity, payload, metadata and time of every event.
    type Event = (String, String, String, String, Option<i64>);

    fn events(batch: &EventBatch) -> Vec<Event> {
        let mut bytes = batch.records();
        let mut events = Vec::new();
        for _ in batch.keys() {
            let record = Record::parse(bytes).unwrap();
            bytes = &bytes[record.record_bytes..];
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            for json in [record.payload, record.metadata] {
                assert!(is_json(json), "{}", json.escape_ascii());
            }
            events.push((
                record.event_type.into(),
                record.entity.into(),
                text(record.payload),
                text(record.metadata),
                record.timestamp.map(|at| at.0),
            ));
        }
        assert!(bytes.is_empty());
        events
    }

    fn taken(body: impl AsRef<[u8]>, query: &str) -> Result<(Lines, Vec<Event>), LinesError> {
        let fields = Fields::parse(Some(query)).unwrap();
        let mut batch = new_batch();
        let lines = put(body.as_ref(), &fields, &SENDER, &mut Scratch::default(), &mut batch)?;
        assert_eq!(lines.accepted, batch.event_count());
        Ok((lines, events(&batch)))
    }

    fn one(body: &str, query: &str) -> Event {
        let (lines, mut events) = taken(body, query).unwrap_or_else(|error| panic!("{body}: {error:?}"));
        assert_eq!((lines.accepted, lines.rejected), (1, 0), "{body}");
        events.remove(0)
    }

    #[test]
    fn what_shippers_send_unasked_is_understood() {
        let vector = r#"{"host":"web-1","message":"GET /","service":"shop","source_type":"file","timestamp":"2026-10-27T10:00:00.25Z"}"#;
        let metadata = r#"{"service":"shop","source_ip":"192.0.2.7","source_kind":"shipper"}"#;
        let expected = ("log".into(), "web-1".into(), vector.into(), metadata.into(), Some(AT + 250_000));
        assert_eq!(one(vector, ""), expected);
        let fluent_bit = r#"{"date":1793095200.250000,"log":"x","level":"warn"}"#;
        let (event_type, entity, payload, metadata, at) = one(fluent_bit, "");
        assert_eq!((event_type.as_str(), entity.as_str(), payload.as_str()), ("log", "192.0.2.7", fluent_bit));
        assert_eq!(metadata, r#"{"level":"warn","source_ip":"192.0.2.7","source_kind":"shipper"}"#);
        assert_eq!(at, Some(AT + 250_000));
        let rsyslog = r#"{"timestamp":"2026-10-27T12:00:00.250000+02:00","host":"db","severity":"err","message":"x"}"#;
        let (_, entity, _, metadata, at) = one(rsyslog, "");
        assert_eq!((entity.as_str(), at), ("db", Some(AT + 250_000)));
        assert!(metadata.contains(r#""level":"err""#));
    }

    #[test]
    fn a_request_names_its_fields() {
        let line = r#"{"k\u0069nd":"http.request","app":"a\"b","when":"2026-10-27 10:00:00","host":"h","user":7,"timestamp":1}"#;
        let named = "type_field=kind&entity_field=app&time_field=when&token=secret";
        let (event_type, entity, payload, _, at) = one(line, named);
        assert_eq!(
            (event_type.as_str(), entity.as_str(), payload.as_str(), at),
            ("http.request", "a\"b", line, Some(AT))
        );
        assert_eq!(one(line, "entity_field=user").1, "7");
        assert_eq!(one(line, "entity_field=nothing").1, "h");
        assert_eq!(one(line, "type=access&type_field=nothing").0, "access");
        assert_eq!(one(r#"{"host":"","service":"s"}"#, "entity=e").1, "s");
        assert_eq!(one(r#"{"host":null}"#, "entity=e").1, "e");
        assert_eq!(one(r#"{"event_type":"t","entity_id":"e"}"#, "type=x&entity=y").0, "t");
        let twice = Fields::parse(Some("type=a&type=b")).unwrap_err();
        assert_eq!((twice.name.as_str(), twice.fault), ("type", ParamFault::Duplicate));
    }

    #[test]
    fn every_clock_that_shippers_have_is_read_and_a_bad_one_loses_no_line() {
        for (time, expected) in [
            ("1793095200", Some(AT)),
            ("1793095200.0", Some(AT)),
            ("1793095200.1234567", Some(AT + 123_456)),
            ("1.7930952e9", Some(AT)),
            ("1793095200000", Some(AT)),
            ("1793095200000000", Some(AT)),
            ("1793095200000000999", Some(AT)),
            ("\"1793095200\"", Some(AT)),
            ("\"1793095200.5\"", Some(AT + 500_000)),
            ("\"2026-10-27T10:00:00Z\"", Some(AT)),
            ("\"2026-10-27 10:00:00.000000\"", Some(AT)),
            ("\"2026-10-27T12:00:00+02:00\"", Some(AT)),
            ("0", Some(0)),
            ("-1", None),
            ("1e300", None),
            ("100000000000.5", None),
            ("18446744073709551616", None),
            ("\"yesterday\"", None),
            ("\"1.\\u0035\"", None),
            ("true", None),
            ("null", None),
            ("{}", None),
        ] {
            assert_eq!(one(&format!("{{\"time\":{time}}}"), "").4, expected, "{time}");
        }
    }

    #[test]
    fn an_array_is_its_elements() {
        let (lines, events) = taken(" [{\"host\":\"a\"}, {\"host\": \"b\"},7,\"x\",[{}]] \n", "").unwrap();
        let payloads: Vec<_> = events.iter().map(|event| event.2.as_str()).collect();
        assert_eq!(payloads, ["{\"host\":\"a\"}", "{\"host\": \"b\"}"]);
        assert_eq!((lines.accepted, lines.rejected), (2, 3));
        let faults: Vec<_> = lines.refused.iter().map(|refused| (refused.line, refused.fault)).collect();
        assert_eq!(faults, [3, 4, 5].map(|line| (line, LineFault::NotAnObject)));
        assert_eq!(taken("[]", ""), Err(LinesError::Empty));
        for (broken, at) in [("[{}", 3), ("[{},]", 4), ("[{}] x", 5), ("[{}]\n[{}]", 5), ("[{\"a\":\"\u{1}\"}]", 7)] {
            let Err(LinesError::Json(error)) = taken(broken, "") else { panic!("{broken}") };
            assert_eq!(error.at, at, "{broken}");
        }
        let Err(LinesError::Json(error)) = taken(b"[\"\xff\"]", "") else { panic!("not text") };
        assert_eq!((error.at, error.reason), (2, JsonReason::Utf8));
    }

    #[test]
    fn a_bad_line_is_counted_and_the_others_are_kept() {
        let (lines, events) = taken(b"{\"a\":1}\r\n\nx\n{\"a\":2}\n{}{}\n\xff", "").unwrap_or_else(|_| unreachable!());
        assert_eq!((lines.accepted, lines.rejected, events.len()), (2, 3, 2));
        let numbers: Vec<_> = lines.refused.iter().map(|refused| refused.line).collect();
        assert_eq!(numbers, [3, 5, 6]);
        let Err(LinesError::NoGoodLine(lines)) = taken("x\n[1]", "") else { panic!("nothing is good") };
        assert_eq!((lines.rejected, lines.refused[1].span.clone()), (2, 2..5));
        assert_eq!(taken("\n", ""), Err(LinesError::Empty));
        for reserved in [r#"{"event_type":"_system.x"}"#, r#"{"host":"read-model:x"}"#] {
            assert!(matches!(taken(reserved, ""), Err(LinesError::NoGoodLine(_))), "{reserved}");
        }
    }

    #[test]
    fn no_cut_or_changed_body_is_a_panic_and_only_json_is_stored() {
        let line = r#"{"host":"web-1","message":"a \"b\" \u00e9","timestamp":"2026-10-27T10:00:00.25Z","n":[1,{"a":-2.5e3}],"level":"info"}"#;
        for body in [format!("{line}\n{line}\r\n{line}"), format!("[{line},\n {line}]")] {
            every_cut(body.as_bytes(), |cut| drop(taken(cut, "")));
        }
        let fields = Fields::parse(Some("type_field=message&time_field=n")).unwrap();
        let put =
            |body: &[u8], scratch: &mut Scratch, batch: &mut EventBatch| put(body, &fields, &SENDER, scratch, batch);
        check_every_wrong_byte(format!("{line}\n{line}\r\n{line}").as_bytes(), put);
        let array = format!("[{line},\n {line}]");
        let (mut scratch, mut batch) = (Scratch::default(), new_batch());
        every_wrong_byte(array.as_bytes(), |_, changed| {
            batch.reset(Tenant(1), Source::Http);
            if let Ok(lines) = put(changed, &mut scratch, &mut batch)
                && changed[0] == b'['
            {
                let sent: Vec<serde::de::IgnoredAny> = serde_json::from_slice(changed).unwrap();
                assert_eq!(lines.accepted + lines.rejected, sent.len(), "{}", changed.escape_ascii());
                assert_eq!(events(&batch).len(), lines.accepted);
            }
        });
    }
}
