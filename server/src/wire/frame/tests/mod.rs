//! What the tests of frames share: a writer of tables that no SDK lays out like that, and the events that came of a frame.

mod golden;
mod hostile;

use std::net::{IpAddr, Ipv4Addr};

use ringlog_engine::event::{EventBatch, FingerprintKey, Source};
use ringlog_engine::format::record::{EventKind, Record};
use ringlog_engine::ids::Tenant;

use super::*;

pub const KEY: [u8; KEY_BYTES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

pub const RECEIVED: Received =
    Received { source_kind: "tcp", peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), trust_source_ip: false };

/// A field of a table to be written.
#[derive(Clone)]
pub enum Slot {
    Absent,
    U8(u8),
    U64(u64),
    Bytes(Vec<u8>),
    Table(Vec<Slot>),
    Tables(Vec<Vec<Slot>>),
}

pub fn bytes(bytes: impl AsRef<[u8]>) -> Slot {
    Slot::Bytes(bytes.as_ref().to_vec())
}

pub fn float(value: f64) -> Slot {
    Slot::U64(value.to_bits())
}

/// A FlatBuffer with this root. Fields are packed, and vtables stand behind their tables: nothing that a template knows.
pub fn flat(root: &[Slot]) -> Vec<u8> {
    let mut out = vec![4, 0, 0, 0];
    write_table(&mut out, root);
    out
}

fn write_table(out: &mut Vec<u8>, slots: &[Slot]) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    let mut vtable = Vec::new();
    let mut children = Vec::new();
    for slot in slots {
        let place = out.len();
        vtable.push((place - at) as u16);
        match slot {
            Slot::Absent => *vtable.last_mut().unwrap() = 0,
            Slot::U8(value) => out.push(*value),
            Slot::U64(value) => out.extend_from_slice(&value.to_le_bytes()),
            child => {
                out.extend_from_slice(&[0; 4]);
                children.push((place, child));
            }
        }
    }
    let vtable_at = out.len();
    patch(out, at, (at as u32).wrapping_sub(vtable_at as u32));
    vtable.splice(..0, [4 + 2 * slots.len() as u16, (vtable_at - at) as u16]);
    out.extend(vtable.iter().flat_map(|slot| slot.to_le_bytes()));
    for (place, child) in children {
        let target = match child {
            Slot::Bytes(bytes) => {
                let target = out.len();
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(bytes);
                target
            }
            Slot::Table(slots) => write_table(out, slots),
            Slot::Tables(tables) => write_tables(out, tables),
            _ => unreachable!("only children are left"),
        };
        patch(out, place, (target - place) as u32);
    }
    at
}

fn write_tables(out: &mut Vec<u8>, tables: &[Vec<Slot>]) -> usize {
    let at = out.len();
    out.extend_from_slice(&(tables.len() as u32).to_le_bytes());
    out.resize(out.len() + 4 * tables.len(), 0);
    for (index, slots) in tables.iter().enumerate() {
        let place = at + 4 + 4 * index;
        let target = write_table(out, slots);
        patch(out, place, (target - place) as u32);
    }
    at
}

pub fn patch(out: &mut [u8], place: usize, value: u32) {
    out[place..place + 4].copy_from_slice(&value.to_le_bytes());
}

/// The data of one schema: a table with one vector.
pub fn data(entries: Vec<Vec<Slot>>) -> Vec<u8> {
    flat(&[Slot::Tables(entries)])
}

/// A body in the writer's own layout.
pub fn body(schema: u8, data: &[u8]) -> Vec<u8> {
    flat(&[bytes(KEY), Slot::U8(schema), Slot::U8(100), Slot::U64(7), bytes(data)])
}

/// A body in the SDKs' layout around any data.
pub fn sdk_body(schema: tell_encoding::SchemaType, batch_id: u64, data: &[u8]) -> Vec<u8> {
    let params = tell_encoding::BatchParams { api_key: &KEY, schema_type: schema, version: 100, batch_id, data };
    tell_encoding::encode_batch(&params)
}

/// A body with its length in front, as it goes over a socket.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = (body.len() as u32).to_le_bytes();
    [&[d, c, b, a], body].concat()
}

pub fn new_batch() -> EventBatch {
    EventBatch::new(Tenant(1), Source::Tcp, FingerprintKey(7))
}

/// One event as it was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: EventKind,
    pub event_type: String,
    pub entity: String,
    pub timestamp_us: Option<i64>,
    pub payload: String,
    pub metadata: String,
}

/// Every event of a batch, whose bytes are seen to be what events must be.
pub fn seen(batch: &EventBatch) -> Vec<Seen> {
    let mut rest = batch.records();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let record = Record::parse(rest).unwrap();
        rest = &rest[record.record_bytes..];
        let object = |bytes: &[u8]| {
            let text = std::str::from_utf8(bytes).unwrap();
            assert!(text.trim_start().starts_with('{'), "{text}");
            serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            text.to_owned()
        };
        events.push(Seen {
            kind: record.kind,
            event_type: record.event_type.to_owned(),
            entity: record.entity.to_owned(),
            timestamp_us: record.timestamp.map(|at| at.0),
            payload: object(record.payload),
            metadata: object(record.metadata),
        });
    }
    assert_eq!(events.len(), batch.event_count());
    events
}

pub fn put(body: &[u8]) -> Result<Vec<Seen>, FrameError> {
    put_from(body, &RECEIVED)
}

pub fn put_from(body: &[u8], received: &Received) -> Result<Vec<Seen>, FrameError> {
    let mut batch = new_batch();
    let count = Frame::parse(body)?.put(received, &mut Scratch::default(), &mut batch)?;
    let events = seen(&batch);
    assert_eq!(events.len(), count);
    Ok(events)
}

/// The only event of a body.
pub fn put_one(body: &[u8]) -> Seen {
    let mut events = put(body).unwrap();
    assert_eq!(events.len(), 1);
    events.remove(0)
}

pub fn refused(body: &[u8]) -> &'static str {
    put(body).expect_err("a refusal").reason()
}
