//! What must hold of every batch that a source fills, whatever was sent.

use ringlog_engine::event::{EventBatch, EventInput, FingerprintKey, Source};
use ringlog_engine::format::record::Record;
use ringlog_engine::ids::Tenant;
use ringlog_engine::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX};
use ringlog_server::wire::envelope::{is_reserved_entity, is_reserved_type};
use serde::de::IgnoredAny;

pub fn new_batch() -> EventBatch {
    EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7))
}

/// A batch with an event in it that no source has sent.
pub fn batch_with_one() -> EventBatch {
    let mut batch = new_batch();
    batch.push(EventInput { metadata: b"{}", ..EventInput::new("first", "one", b"{}") }).unwrap();
    batch
}

/// A source's events are objects, not just JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    Objects,
    AnyJson,
}

/// The events of a batch, each of which is what an event must be.
pub fn check(batch: &EventBatch, payloads: Payloads) -> Vec<Record<'_>> {
    assert!(batch.event_count() <= BATCH_EVENTS_MAX);
    assert!(batch.records().len() <= BATCH_BYTES_MAX);
    let mut rest = batch.records();
    let mut records = Vec::new();
    for key in batch.keys() {
        let record = Record::parse(rest).unwrap();
        assert_eq!(record.record_bytes, key.record_bytes as usize);
        assert_eq!(record.timestamp, key.timestamp);
        rest = &rest[record.record_bytes..];
        assert!(!is_reserved_type(record.event_type), "{:?}", record.event_type);
        assert!(!is_reserved_entity(record.entity), "{:?}", record.entity);
        check_json(record.payload, payloads == Payloads::Objects);
        if !record.metadata.is_empty() {
            // The first SDK's clients may send any JSON as metadata, as they may as a payload.
            check_json(record.metadata, payloads == Payloads::Objects);
        }
        records.push(record);
    }
    assert!(rest.is_empty());
    records
}

fn check_json(bytes: &[u8], is_object: bool) {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{error}: {}", shown()));
    if is_object {
        assert!(text.trim_start().starts_with('{'), "{text}");
    }
    serde_json::from_str::<IgnoredAny>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
}
