//! Frames of the binary source, as a connection sends them: a stream of lengths and bodies.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use ringlog_engine::event::EventBatch;
use ringlog_server::wire::frame::{Frame, FrameError, Framing, LENGTH_BYTES, Received, Schema, Scratch, next_frame};

use crate::mutate::cuts;
use crate::run::{Check, Target, mark, size};
use crate::stored::{self, Payloads, batch_with_one};

pub const FRAME: Target = Target {
    name: "frame",
    corpus,
    words: &[
        b"\x04\0\0\0",
        b"\x12\0\x24\0\x1c\0\x14\0\x20\0\x04\0\x08\0\x0c\0\x10\0",
        b"\x12\0\x20\0\x1c\0\x04\0\x1d\0\x14\0\x08\0\x0c\0\x10\0",
        b"\x10\0\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f",
        b"\xff\xff\xff\x7f",
        b"_system.",
        b"read-model:",
        br#"{"user_id":"u"}"#,
        br#""user_id":1"#,
    ],
    mend,
    checker,
};

pub fn golden_folder(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

fn corpus() -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = golden_folder("frames").into_iter().map(|(_, frame)| frame).collect();
    // Two behind each other.
    let two = [&frames[0][..], frames.last().unwrap()].concat();
    frames.push(two);
    frames
}

/// The first frame takes all that there is.
fn mend(input: &mut [u8]) {
    if let Some(bytes) = input.len().checked_sub(LENGTH_BYTES) {
        let mut length = (bytes as u32).to_le_bytes();
        length.reverse();
        input[..LENGTH_BYTES].copy_from_slice(&length);
    }
}

/// The bodies of a stream, and what stands behind the last one.
fn framed(input: &[u8]) -> (Vec<&[u8]>, Framing) {
    let (mut bodies, mut rest) = (Vec::new(), input);
    loop {
        match next_frame(rest) {
            Framing::Frame(place) => {
                assert!(LENGTH_BYTES <= place.start && place.start <= place.end && place.end <= rest.len());
                bodies.push(&rest[place.clone()]);
                rest = &rest[place.end..];
            }
            Framing::Need(bytes) => {
                assert!(rest.len() < bytes);
                return (bodies, Framing::Need(bytes));
            }
            behind => return (bodies, behind),
        }
    }
}

fn framed_in_pieces(input: &[u8]) -> (Vec<Vec<u8>>, Framing) {
    let (mut bodies, mut pending, mut from) = (Vec::new(), Vec::new(), 0);
    let mut behind = Framing::Need(LENGTH_BYTES);
    for cut in cuts(input) {
        pending.extend_from_slice(&input[from..cut]);
        from = cut;
        let (found, then) = framed(&pending);
        let taken: usize = found.iter().map(|body| LENGTH_BYTES + body.len()).sum();
        bodies.extend(found.into_iter().map(<[u8]>::to_vec));
        pending.drain(..taken);
        behind = then;
        if matches!(behind, Framing::TooLarge(_)) {
            break;
        }
    }
    (bodies, behind)
}

/// What the outer table of a frame says.
struct Outer<'a> {
    key: [u8; 16],
    schema: Option<u8>,
    version: u8,
    batch_id: u64,
    data: &'a [u8],
}

/// The outer table, read by the book: what a walk through any FlatBuffer finds of key, schema, version, batch id and data.
fn by_the_book(body: &[u8]) -> Option<Outer<'_>> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(*body.get(at..)?.first_chunk()?) as usize);
    let u16_at = |at: usize| Some(usize::from(u16::from_le_bytes(*body.get(at..)?.first_chunk()?)));
    let table = u32_at(0)?;
    let back = u32_at(table)? as u32 as i32;
    let vtable = usize::try_from(table as i64 - i64::from(back)).ok()?;
    let slot = |index: usize| {
        let at = 4 + 2 * index;
        let offset = if at + 2 <= u16_at(vtable)? { u16_at(vtable + at)? } else { 0 };
        Some((offset != 0).then_some(table + offset))
    };
    let bytes = |place: usize| {
        let at = place + u32_at(place)?;
        body.get(at + 4..at + 4 + u32_at(at)?)
    };
    let byte = |index: usize| match slot(index)? {
        Some(place) => body.get(place).copied().map(Some),
        None => Some(None),
    };
    let batch_id = match slot(3)? {
        Some(place) => u64::from_le_bytes(*body.get(place..)?.first_chunk()?),
        None => 0,
    };
    let key = bytes(slot(0)??)?.try_into().ok()?;
    Some(Outer { key, schema: byte(1)?, version: byte(2)?.unwrap_or(0), batch_id, data: bytes(slot(4)??)? })
}

fn checker() -> Check {
    let (mut scratch, mut batch) = (Scratch::default(), batch_with_one());
    Box::new(move |input| {
        let (bodies, behind) = framed(input);
        let (pieces, behind_pieces) = framed_in_pieces(input);
        assert_eq!(bodies, pieces);
        assert_eq!(behind, behind_pieces);
        let put: Vec<_> = bodies.iter().take(4).map(|body| body_of(body, &mut scratch, &mut batch)).collect();
        mark((put, std::mem::discriminant(&behind)))
    })
}

fn body_of(body: &[u8], scratch: &mut Scratch, batch: &mut EventBatch) -> u64 {
    let frame = match Frame::parse(body) {
        Ok(frame) => frame,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return mark(error.reason());
        }
    };
    let Outer { key, schema, version, batch_id, data } = by_the_book(body).expect("what was parsed can be walked");
    assert_eq!((frame.key, frame.version, frame.batch_id, frame.data), (key, version, batch_id, data));
    let expected = match schema {
        Some(2) => Schema::Log,
        Some(3) => Schema::Metric,
        Some(4) => Schema::Trace,
        Some(5) => Schema::Snapshot,
        _ => Schema::Event,
    };
    assert_eq!(frame.schema, expected);
    let replay = frame.replay_key(9);
    assert_eq!(replay.is_none(), batch_id == 0);
    let elsewhere = body.to_vec();
    assert_eq!(replay, Frame::parse(&elsewhere).unwrap().replay_key(9));
    let received = Received {
        source_kind: "tcp",
        peer: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        trust_source_ip: body.len().is_multiple_of(2),
    };
    batch.truncate(1);
    let before = batch.records().to_vec();
    let result = frame.put(&received, scratch, batch);
    let mut other = batch_with_one();
    // What a core keeps from frame to frame has no influence.
    assert_eq!(frame.put(&received, &mut Scratch::default(), &mut other), result);
    assert_eq!(batch.records(), other.records());
    let what = match result {
        Ok(count) => {
            assert_eq!(batch.event_count(), 1 + count);
            let records = stored::check(batch, Payloads::Objects);
            let kinds: Vec<_> = records.iter().skip(1).take(4).map(|record| record.kind as u8).collect();
            mark((size(count), kinds, schema))
        }
        Err(error) => {
            assert_eq!((batch.event_count(), batch.records()), (1, &before[..]));
            let index = if let FrameError::Event { index, .. } = error { size(index) } else { 0 };
            mark((error.reason(), index, schema))
        }
    };
    mark((what, version == 100, batch_id == 0, frame.source_ip.is_some()))
}
