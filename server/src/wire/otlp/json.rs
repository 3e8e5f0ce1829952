//! The JSON form of a request, scanned in place.
//!
//! Owns the names and the order of its fields: lowerCamelCase; unknown fields are validated and ignored, null is absence.
//! Must never: take a field twice.
//!
//! Whoever writes the fields in the schema's order, as everybody does, is read in one go. A list that comes before the
//! resource or the scope it belongs to is skipped and scanned again behind it, with a window of its own.

use super::json_value::{Document, Seen, any_value, attributes, each, expect, id, integer, is_null, string};
use super::map::{Record, Sink};
use super::{OtlpError, VALUE_DEPTH_MAX};
use crate::wire::json::{Scanner, as_text};
use crate::wire::json_simd::Window;

/// One for the body, one for scopes and one for records that come before what they belong to.
pub(super) const WINDOWS: usize = 3;

/// `ExportLogsServiceRequest`.
pub(super) fn walk(body: &[u8], windows: &mut [Window; WINDOWS], sink: &mut Sink<'_>) -> Result<(), OtlpError> {
    let document = Document { text: as_text(body)?, offset: 0 };
    let [window, spare @ ..] = windows;
    let mut scanner = Scanner::new(document.text, window);
    let mut seen = Seen::default();
    let mut name = String::new();
    expect(&mut scanner, document, b'{', "the request", "an object")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        if document.name(key, &mut name) != "resourceLogs" || is_null(&mut scanner) {
            scanner.value()?;
            continue;
        }
        seen.once(0, document, key.start, "resourceLogs")?;
        each(&mut scanner, document, "resourceLogs", |scanner| resource_logs(scanner, document, spare, sink))?;
    }
    scanner.finish()?;
    Ok(())
}

fn resource_logs(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    spare: &mut [Window],
    sink: &mut Sink<'_>,
) -> Result<(), OtlpError> {
    let mut seen = Seen::default();
    let mut name = String::new();
    let mut skipped = None;
    let mut has_resource = false;
    sink.begin_resource();
    expect(scanner, document, b'{', "resourceLogs", "an array of objects")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        match document.name(key, &mut name) {
            "resource" if !is_null(scanner) => {
                seen.once(0, document, key.start, "resource")?;
                resource(scanner, document, sink)?;
                sink.end_resource();
                has_resource = true;
            }
            "scopeLogs" if !is_null(scanner) => {
                seen.once(1, document, key.start, "scopeLogs")?;
                if has_resource {
                    each(scanner, document, "scopeLogs", |scanner| scope_logs(scanner, document, spare, sink))?;
                } else {
                    skipped = Some(scanner.value()?);
                }
            }
            _ => {
                scanner.value()?;
            }
        }
    }
    let Some(value) = skipped else { return Ok(()) };
    if !has_resource {
        sink.end_resource();
    }
    let (window, spare) = spare.split_first_mut().expect("scopes are skipped once on the way down");
    let document = Document { text: &document.text[value.span()], offset: document.offset + value.start };
    let mut scanner = Scanner::new(document.text, window);
    each(&mut scanner, document, "scopeLogs", |scanner| scope_logs(scanner, document, spare, sink))
}

fn resource(scanner: &mut Scanner<'_>, document: Document<'_>, sink: &mut Sink<'_>) -> Result<(), OtlpError> {
    let mut seen = Seen::default();
    let mut name = String::new();
    expect(scanner, document, b'{', "resource", "an object")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        match document.name(key, &mut name) {
            "attributes" if !is_null(scanner) => {
                seen.once(0, document, key.start, "attributes")?;
                attributes(scanner, document, &mut sink.parts.resource)?;
            }
            "droppedAttributesCount" if !is_null(scanner) => {
                seen.once(1, document, key.start, "droppedAttributesCount")?;
                sink.parts.resource_dropped_count = integer(scanner, document, "droppedAttributesCount")?;
            }
            _ => {
                scanner.value()?;
            }
        }
    }
    Ok(())
}

fn scope_logs(
    scanner: &mut Scanner<'_>,
    document: Document<'_>,
    spare: &mut [Window],
    sink: &mut Sink<'_>,
) -> Result<(), OtlpError> {
    let mut seen = Seen::default();
    let mut name = String::new();
    let mut skipped = None;
    let mut has_scope = false;
    sink.begin_scope();
    expect(scanner, document, b'{', "scopeLogs", "an array of objects")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        match document.name(key, &mut name) {
            "scope" if !is_null(scanner) => {
                seen.once(0, document, key.start, "scope")?;
                scope(scanner, document, sink)?;
                sink.end_scope();
                has_scope = true;
            }
            "logRecords" if !is_null(scanner) => {
                seen.once(1, document, key.start, "logRecords")?;
                if has_scope {
                    each(scanner, document, "logRecords", |scanner| log_record(scanner, document, sink))?;
                } else {
                    skipped = Some(scanner.value()?);
                }
            }
            _ => {
                scanner.value()?;
            }
        }
    }
    let Some(value) = skipped else { return Ok(()) };
    if !has_scope {
        sink.end_scope();
    }
    let window = spare.first_mut().expect("records are skipped once on the way down");
    let document = Document { text: &document.text[value.span()], offset: document.offset + value.start };
    let mut scanner = Scanner::new(document.text, window);
    each(&mut scanner, document, "logRecords", |scanner| log_record(scanner, document, sink))
}

fn scope(scanner: &mut Scanner<'_>, document: Document<'_>, sink: &mut Sink<'_>) -> Result<(), OtlpError> {
    let mut seen = Seen::default();
    let mut name = String::new();
    let scope = &mut sink.parts.scope;
    expect(scanner, document, b'{', "scope", "an object")?;
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        match document.name(key, &mut name) {
            "name" if !is_null(scanner) => {
                seen.once(0, document, key.start, "name")?;
                string(scanner, document, "name", &mut scope.name)?;
            }
            "version" if !is_null(scanner) => {
                seen.once(1, document, key.start, "version")?;
                string(scanner, document, "version", &mut scope.version)?;
            }
            "attributes" if !is_null(scanner) => {
                seen.once(2, document, key.start, "attributes")?;
                attributes(scanner, document, &mut scope.attributes)?;
            }
            "droppedAttributesCount" if !is_null(scanner) => {
                seen.once(3, document, key.start, "droppedAttributesCount")?;
                scope.dropped_count = integer(scanner, document, "droppedAttributesCount")?;
            }
            _ => {
                scanner.value()?;
            }
        }
    }
    Ok(())
}

fn log_record(scanner: &mut Scanner<'_>, document: Document<'_>, sink: &mut Sink<'_>) -> Result<(), OtlpError> {
    expect(scanner, document, b'{', "logRecords", "an array of objects")?;
    let start = scanner.at();
    if sink.begin_record() {
        record(scanner, document, &mut sink.parts.record)?;
    } else {
        scanner.value()?;
    }
    sink.end_record(document.offset + start..document.offset + scanner.at());
    Ok(())
}

fn record(scanner: &mut Scanner<'_>, document: Document<'_>, record: &mut Record) -> Result<(), OtlpError> {
    let mut seen = Seen::default();
    let mut name = String::new();
    scanner.begin_object()?;
    while let Some(key) = scanner.next_key()? {
        let is_null = is_null(scanner);
        let field = RecordField::of(document.name(key, &mut name)).filter(|_| !is_null);
        let Some((field, name)) = field else {
            scanner.value()?;
            continue;
        };
        seen.once(field as u32, document, key.start, name)?;
        match field {
            RecordField::Time => record.time_unix_nano = integer(scanner, document, name)?,
            RecordField::ObservedTime => record.observed_time_unix_nano = integer(scanner, document, name)?,
            RecordField::SeverityNumber => record.severity_number = integer(scanner, document, name)?,
            RecordField::SeverityText => string(scanner, document, name, &mut record.severity_text)?,
            RecordField::Body => {
                record.body_written = any_value(scanner, document, VALUE_DEPTH_MAX, &mut record.body)?;
            }
            RecordField::Attributes => attributes(scanner, document, &mut record.attributes)?,
            RecordField::DroppedCount => record.dropped_count = integer(scanner, document, name)?,
            RecordField::Flags => record.flags = integer(scanner, document, name)?,
            RecordField::TraceId => record.trace_id = id(scanner, document, name)?,
            RecordField::SpanId => record.span_id = id(scanner, document, name)?,
            RecordField::EventName => string(scanner, document, name, &mut record.event_name)?,
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum RecordField {
    Time,
    ObservedTime,
    SeverityNumber,
    SeverityText,
    Body,
    Attributes,
    DroppedCount,
    Flags,
    TraceId,
    SpanId,
    EventName,
}

impl RecordField {
    fn of(key: &str) -> Option<(RecordField, &'static str)> {
        match key {
            "timeUnixNano" => Some((RecordField::Time, "timeUnixNano")),
            "observedTimeUnixNano" => Some((RecordField::ObservedTime, "observedTimeUnixNano")),
            "severityNumber" => Some((RecordField::SeverityNumber, "severityNumber")),
            "severityText" => Some((RecordField::SeverityText, "severityText")),
            "body" => Some((RecordField::Body, "body")),
            "attributes" => Some((RecordField::Attributes, "attributes")),
            "droppedAttributesCount" => Some((RecordField::DroppedCount, "droppedAttributesCount")),
            "flags" => Some((RecordField::Flags, "flags")),
            "traceId" => Some((RecordField::TraceId, "traceId")),
            "spanId" => Some((RecordField::SpanId, "spanId")),
            "eventName" => Some((RecordField::EventName, "eventName")),
            _ => None,
        }
    }
}
