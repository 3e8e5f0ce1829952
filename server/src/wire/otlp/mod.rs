//! OpenTelemetry logs (OTLP/HTTP): an `ExportLogsServiceRequest`, as protobuf or as JSON, straight into a batch.
//!
//! Owns both encodings of the request and of its answers, and the one mapping from a log record to an event, so that the same
//! records give the same events in both. Must never: build a tree, or let one record's fault take another record with it.
//!
//! ```text
//! protobuf ─┐                       ┌─► resource and scope, once for all of their records
//!           ├─► walk ─► values as JSON ─► record ─► map ─► event of kind Log
//! json ─────┘
//! ```
//! An encoding that is broken refuses the whole request and leaves the batch empty. A record that cannot become an event is
//! counted and told, and the others are stored: exporters drop what is refused and do not send a part of a request again.

mod answer;
mod json;
mod json_value;
mod map;
mod protobuf;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use ringlog_engine::event::{EventBatch, EventError};
use ringlog_engine::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, PAYLOAD_BYTES_MAX};

pub use self::answer::{http_status, put_outcome, put_status, refuse, respond};
pub use self::map::{FALLBACK_ENTITY, FALLBACK_EVENT_TYPE, level_name};
use self::map::{Parts, Sink};
pub use self::protobuf::{WireError, WireReason};
use super::json::JsonError;
use super::json_simd::Window;
use super::response::ContentType;
use super::status::{ErrorCode, Problem};

/// Arrays and key-value lists inside of each other in one value. As many of them fit into what the JSON scanner takes.
pub const VALUE_DEPTH_MAX: u32 = 12;

/// How a request is written, and therefore its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

impl Encoding {
    /// By the request's `Content-Type`, whose parameters do not count. `None`: 415.
    pub fn of_content_type(value: &[u8]) -> Option<Encoding> {
        let media_type = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        if media_type.eq_ignore_ascii_case(b"application/x-protobuf") {
            Some(Encoding::Protobuf)
        } else if media_type.eq_ignore_ascii_case(b"application/json") {
            Some(Encoding::Json)
        } else {
            None
        }
    }

    pub fn content_type(self) -> ContentType {
        match self {
            Encoding::Protobuf => ContentType::Protobuf,
            Encoding::Json => ContentType::Json,
        }
    }
}

/// Why a request was refused whole: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtlpError {
    Wire(WireError),
    Json(JsonError),
    /// A field of the JSON form has a value of another kind.
    Field {
        at: usize,
        field: &'static str,
        expected: &'static str,
    },
    /// A field of the JSON form stands twice in one object.
    Duplicate {
        at: usize,
        field: &'static str,
    },
}

impl OtlpError {
    /// Offset in the body.
    pub fn at(&self) -> usize {
        match self {
            OtlpError::Wire(error) => error.at,
            OtlpError::Json(error) => error.at,
            OtlpError::Field { at, .. } | OtlpError::Duplicate { at, .. } => *at,
        }
    }
}

impl From<WireError> for OtlpError {
    fn from(error: WireError) -> OtlpError {
        OtlpError::Wire(error)
    }
}

impl From<JsonError> for OtlpError {
    fn from(error: JsonError) -> OtlpError {
        OtlpError::Json(error)
    }
}

impl From<&OtlpError> for Problem {
    fn from(error: &OtlpError) -> Problem {
        let code = match error {
            OtlpError::Json(_) => ErrorCode::InvalidJson,
            _ => ErrorCode::BadRequest,
        };
        Problem::new(code, error.to_string())
    }
}

impl fmt::Display for OtlpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OtlpError::Wire(error) => write!(f, "{error}"),
            OtlpError::Json(error) => write!(f, "{error}"),
            OtlpError::Field { at, field, expected } => write!(f, "{field} at byte {at} must be {expected}"),
            OtlpError::Duplicate { at, field } => write!(f, "{field} stands twice in one object, again at byte {at}"),
        }
    }
}

impl std::error::Error for OtlpError {}

/// Why one record is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFault {
    /// Its payload, of which its resource and scope are a part, is too long.
    TooLarge,
    TooDeep,
    /// Its type or its entity is one of the server's own.
    ReservedName,
    /// Its type or its entity is too long or has a control character.
    Engine(EventError),
    /// The request had as many records as a batch takes before it.
    TooManyRecords,
    /// The records before it fill a batch.
    BatchFull,
}

impl RecordFault {
    pub const REASONS: [&'static str; 4] = ["too_large", "too_deep", "invalid_name", "batch_full"];

    fn reason_index(self) -> usize {
        match self {
            RecordFault::TooLarge
            | RecordFault::Engine(EventError::PayloadLength { .. } | EventError::MetadataLength { .. }) => 0,
            RecordFault::TooDeep => 1,
            RecordFault::ReservedName | RecordFault::Engine(_) => 2,
            RecordFault::TooManyRecords | RecordFault::BatchFull => 3,
        }
    }

    /// One word for counters and for the list of rejects.
    pub fn reason(self) -> &'static str {
        RecordFault::REASONS[self.reason_index()]
    }
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordFault::TooLarge => {
                write!(f, "the record with its resource and scope has more than {PAYLOAD_BYTES_MAX} bytes as JSON")
            }
            RecordFault::TooDeep => write!(f, "a value has more than {VALUE_DEPTH_MAX} levels of nesting"),
            RecordFault::ReservedName => {
                f.write_str("event_name or service.name is reserved for the server; use another name")
            }
            RecordFault::Engine(error) => {
                write!(f, "{error} (event_name is the event type, service.name or host.name the entity)")
            }
            RecordFault::TooManyRecords => {
                write!(f, "more than {BATCH_EVENTS_MAX} records in one request; export smaller batches")
            }
            RecordFault::BatchFull => {
                write!(
                    f,
                    "the records take more than {BATCH_BYTES_MAX} bytes with their resources; export smaller batches"
                )
            }
        }
    }
}

/// A record that was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Place in the request, from 0.
    pub record_index: usize,
    /// Its bytes in the body.
    pub span: Range<usize>,
    pub fault: RecordFault,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}: {}", self.record_index, self.fault)
    }
}

/// What became of the records of a request whose encoding was whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// In the request, rejected ones included.
    pub record_count: usize,
    pub rejected_count: usize,
    pub first_rejection: Option<Rejection>,
    reason_counts: [usize; RecordFault::REASONS.len()],
}

impl Outcome {
    /// Reasons of [`RecordFault::reason`] with how many records were rejected for each.
    pub fn rejected_by_reason(&self) -> impl Iterator<Item = (&'static str, usize)> {
        RecordFault::REASONS.into_iter().zip(self.reason_counts).filter(|&(_, count)| count > 0)
    }

    fn reject(&mut self, span: Range<usize>, fault: RecordFault) {
        let record_index = self.record_count;
        self.record_count += 1;
        self.rejected_count += 1;
        self.reason_counts[fault.reason_index()] += 1;
        if self.first_rejection.is_none() {
            self.first_rejection = Some(Rejection { record_index, span, fault });
        }
    }
}

/// Memory of a core or a connection, so that a request allocates nothing once it has grown.
#[derive(Debug, Default)]
pub struct Scratch {
    windows: [Window; json::WINDOWS],
    parts: Parts,
}

/// Appends the records of `body` to `batch`, which must be empty. After an error it is empty again.
/// `source_ip` becomes a part of each event's metadata.
pub fn parse_logs(
    encoding: Encoding,
    body: &[u8],
    source_ip: Option<IpAddr>,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<Outcome, OtlpError> {
    assert!(batch.is_empty());
    let Scratch { windows, parts } = scratch;
    let mut sink = Sink::new(parts, batch, source_ip);
    let walked = match encoding {
        Encoding::Protobuf => protobuf::walk(body, &mut sink).map_err(OtlpError::from),
        Encoding::Json => json::walk(body, windows, &mut sink),
    };
    let outcome = sink.finish();
    match walked {
        Ok(()) => {
            assert_eq!(outcome.record_count, outcome.rejected_count + batch.event_count());
            Ok(outcome)
        }
        Err(error) => {
            batch.reset(batch.tenant(), batch.source());
            Err(error)
        }
    }
}
