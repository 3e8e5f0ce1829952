//! Ingest: a body becomes a batch, and what became of the batch becomes an answer.
//!
//! Must never: answer 5xx for a batch that was stored, or tell of a version that is not the batch's own.

use ringlog_engine::event::EventBatch;
use ringlog_engine::event_id::EventIdKey;
use ringlog_engine::format::record::Record;
use ringlog_engine::ids::Version;
use ringlog_engine::limits::BATCH_EVENTS_MAX;
use ringlog_engine::shard::{AppendError, Appended, ReadOnly};

use crate::handle::{routes, usage};
use crate::limits::EVENT_BYTES_MAX;
use crate::wire::answer::{Stored, put_stored, put_stored_batch};
use crate::wire::envelope::{EnvelopeError, Fault, FaultClass, Scratch, parse_batch, parse_event, parse_lines};
use crate::wire::response::{ContentType, Durability, HeaderValue, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

/// One event, or a list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    One,
    Many,
    /// As `Many`, one to a line.
    Lines,
}

/// Fills an empty batch from a body. After a refusal it holds something unusable.
pub fn read(
    shape: Shape,
    body: &[u8],
    tenant_id: &str,
    scratch: &mut Scratch,
    batch: &mut EventBatch,
) -> Result<(), Problem> {
    match shape {
        Shape::One => parse_event(body, tenant_id, scratch, batch),
        Shape::Many => parse_batch(body, tenant_id, scratch, batch).map(drop),
        Shape::Lines => parse_lines(body, tenant_id, scratch, batch).map(drop),
    }
    .map_err(|error| refused(&error))
}

/// Memory for the ids of one answer.
pub type Ids = Vec<[u8; 16]>;

/// A batch that was stored.
pub struct StoredBatch<'a> {
    pub shape: Shape,
    pub batch: &'a EventBatch,
    pub appended: Appended,
    pub durability: Durability,
}

/// Appends the whole answer for a batch that was stored. `ids` is memory.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, stored: &StoredBatch<'_>, key: &EventIdKey, ids: &mut Ids) {
    let StoredBatch { shape, batch, appended, durability } = *stored;
    let Appended { first_position, received_at, is_replay } = appended;
    ids.clear();
    key.ids(batch.tenant(), first_position, received_at, batch.event_count(), |id| ids.push(id));
    let stored = batch.keys().iter().zip(ids.iter()).map(|(event, &id)| Stored {
        id,
        timestamp: event.timestamp.unwrap_or(received_at),
        version: Version(event.version),
    });
    let mut response = Response::begin(out, 200, reply);
    response.content_type(ContentType::Json).durability(durability);
    if is_replay {
        response.header("Idempotent-Replayed", &HeaderValue::from_static("true"));
    }
    let mut body = response.body();
    match shape {
        Shape::One => stored.for_each(|event| put_stored(body.buffer(), &event)),
        Shape::Many | Shape::Lines => put_stored_batch(body.buffer(), stored),
    }
    body.finish();
}

/// Why a batch was not stored, as its sender is told.
pub fn not_appended(error: AppendError, shape: Shape, batch: &EventBatch) -> Problem {
    match error {
        AppendError::VersionConflict { event_index, expected, current } => {
            let problem = Problem::version_conflict(entity_of(batch, event_index), expected.0, current.0);
            match shape {
                Shape::One => problem,
                Shape::Many | Shape::Lines => problem.number("event_index", event_index as u64),
            }
        }
        AppendError::ReadOnly(ReadOnly::Closing) => {
            Problem::new(ErrorCode::ShuttingDown, "the server is shutting down").text("scope", "global")
        }
        AppendError::ReadOnly(ReadOnly::WriteFailed) => {
            Problem::new(ErrorCode::ReadOnly, "a disk has refused a write: the shard takes no events")
                .text("scope", "shard")
        }
        AppendError::ReadOnly(ReadOnly::Damaged) => {
            Problem::new(ErrorCode::ReadOnly, "stored events are damaged: the shard takes none until it is repaired")
                .text("scope", "shard")
        }
        AppendError::OutcomeUnknown => {
            Problem::new(ErrorCode::OutcomeUnknown, "the disk failed while the events were on their way")
                .text("scope", "shard")
        }
        AppendError::StorageFull => Problem::new(ErrorCode::StorageFull, "there is no room for more events"),
        AppendError::TenantLimit => Problem::new(
            ErrorCode::StorageFull,
            "the shard holds as many tenants as it can; ask the operator for another",
        )
        .text("scope", "shard"),
        AppendError::TooLarge => Problem::new(ErrorCode::BodyTooLarge, "the batch is larger than a segment can take"),
        AppendError::QuotaExceeded { kind, used, quota, resets_at } => usage::exceeded(kind, used, quota, resets_at),
        AppendError::IdempotencyMismatch => Problem::new(
            ErrorCode::IdempotencyKeyReused,
            "the idempotency key is that of an earlier request with another body",
        ),
        // Its keys are as good as gone.
        AppendError::TenantErased => routes::not_good(),
        AppendError::Overloaded => Problem::overloaded("too many events wait to be stored"),
    }
}

fn refused(error: &EnvelopeError) -> Problem {
    let code = match (error.class(), &error.fault) {
        (FaultClass::InvalidJson, _) => ErrorCode::InvalidJson,
        (FaultClass::InvalidEvent, _) => ErrorCode::InvalidEvent,
        (FaultClass::TenantMismatch, _) => ErrorCode::TenantForbidden,
        (FaultClass::TooLarge, Fault::TooManyEvents) => ErrorCode::TooManyEvents,
        (FaultClass::TooLarge, _) => ErrorCode::BodyTooLarge,
    };
    let mut problem = Problem::new(code, error.to_string());
    if let Some(index) = error.event_index {
        problem = problem.number("event_index", index as u64);
    }
    if let Some(field) = error.field() {
        problem = problem.text("field", field);
    }
    match &error.fault {
        Fault::Json(_) => problem.number("offset", error.at as u64),
        Fault::TooManyEvents => problem.number("limit", BATCH_EVENTS_MAX as u64),
        Fault::EventTooLarge { .. } => problem.number("limit", EVENT_BYTES_MAX as u64),
        Fault::BatchTooLarge { limit } => problem.number("limit", *limit as u64),
        _ => problem,
    }
}

/// The entity of one event of a batch, out of its record.
fn entity_of(batch: &EventBatch, event_index: usize) -> &str {
    let offset: usize = batch.keys()[..event_index].iter().map(|event| event.record_bytes as usize).sum();
    Record::parse(&batch.records()[offset..]).map_or("", |record| record.entity)
}
