//! Frames that are damaged or made to hurt: refused whole or stored as they are, in bounded time and memory.

use ringlog_engine::event::EventInput;

use super::golden::frames;
use super::*;
use crate::wire::broken::every_wrong_byte;

/// Puts a body behind one event that is already there, with and without the templates, and compares.
fn check(body: &[u8], scratch: &mut Scratch, batches: &mut [EventBatch; 2]) -> bool {
    let parsed = Frame::parse_by(Walk::Recognise, body);
    assert_eq!(parsed, Frame::parse_by(Walk::Everything, body));
    let Ok(frame) = parsed else { return false };
    let mut results = Vec::new();
    for (batch, walk) in batches.iter_mut().zip([Walk::Recognise, Walk::Everything]) {
        batch.truncate(1);
        let before = batch.records().len();
        let result = frame.put_by(walk, &RECEIVED, scratch, batch);
        match result {
            Ok(count) => assert_eq!(batch.event_count(), 1 + count),
            Err(_) => assert_eq!((batch.event_count(), batch.records().len()), (1, before)),
        }
        results.push(result);
    }
    assert_eq!(results[0], results[1]);
    assert_eq!(batches[0].records(), batches[1].records());
    if results[0].is_ok() {
        seen(&batches[0]);
    }
    results[0].is_ok()
}

fn batches_with_one_event() -> [EventBatch; 2] {
    let mut batch = new_batch();
    batch.push(EventInput { metadata: b"{}", ..EventInput::new("first", "one", b"{}") }).unwrap();
    [batch.clone(), batch]
}

#[test]
fn every_cut_of_a_golden_frame_is_refused() {
    let (mut scratch, mut batches) = (Scratch::default(), batches_with_one_event());
    for (name, frame) in frames() {
        for len in 0..frame.len() {
            let need = if len < LENGTH_BYTES { LENGTH_BYTES } else { frame.len() };
            assert_eq!(next_frame(&frame[..len]), Framing::Need(need), "{name}");
        }
        let body = &frame[LENGTH_BYTES..];
        assert!(check(body, &mut scratch, &mut batches), "{name}");
        for len in 0..body.len() {
            assert!(!check(&body[..len], &mut scratch, &mut batches), "{name} at {len}");
        }
    }
}

#[test]
fn every_changed_byte_of_a_golden_frame_leaves_whole_events_or_none() {
    let (mut scratch, mut batches) = (Scratch::default(), batches_with_one_event());
    let mut outcomes = [0; 2];
    // That of a hundred events says nothing that the others do not: a few changes of it, where its tables and its first event lie.
    let (long, short): (Vec<_>, Vec<_>) = frames().into_iter().partition(|(name, _)| *name == "events-100");
    for (_, frame) in &short {
        every_wrong_byte(&frame[LENGTH_BYTES..], |_, body| {
            outcomes[usize::from(check(body, &mut scratch, &mut batches))] += 1;
        });
    }
    for (_, frame) in &long {
        let mut body = frame[LENGTH_BYTES..].to_vec();
        for place in (0..body.len()).filter(|place| *place <= 600 || place % 97 == 0) {
            let was = body[place];
            for change in [was ^ 1, was ^ 0x80, 0xff] {
                body[place] = change;
                check(&body, &mut scratch, &mut batches);
            }
            body[place] = was;
        }
    }
    // Both happen often: names and payloads can change and stay what they are, offsets can not.
    assert!(outcomes.iter().all(|&count| count > 100_000), "{outcomes:?}");
}

#[test]
fn many_changes_at_once_leave_whole_events_or_none() {
    let (mut scratch, mut batches) = (Scratch::default(), batches_with_one_event());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for (name, frame) in frames() {
        let body = &frame[LENGTH_BYTES..];
        for _ in 0..if name == "events-100" { 100 } else { 2_000 } {
            let mut changed = body.to_vec();
            for _ in 0..1 + random(6) {
                let place = random(changed.len());
                match random(4) {
                    0 => changed[place] = random(256) as u8,
                    // Offsets, counts and slots that are small lead to other tables.
                    1 => changed[place] = changed[place].wrapping_add(random(9) as u8).wrapping_sub(4),
                    2 => changed[place] = 4 * random(16) as u8,
                    _ => {
                        let from = random(changed.len());
                        let len = random(12).min(changed.len() - from.max(place));
                        changed.copy_within(from..from + len, place);
                    }
                }
            }
            check(&changed, &mut scratch, &mut batches);
        }
    }
}

#[test]
fn lengths_decide_where_frames_end() {
    assert_eq!(next_frame(&[]), Framing::Need(4));
    assert_eq!(next_frame(&[0, 0, 0, 0]), Framing::Frame(4..4));
    assert_eq!(next_frame(&[0, 0, 0, 2, 9]), Framing::Need(6));
    assert_eq!(next_frame(&[0, 0, 0, 2, 9, 9, 9]), Framing::Frame(4..6));
    assert_eq!(next_frame(&[1, 0, 0, 0]), Framing::Need(4 + FRAME_BYTES_MAX));
    assert_eq!(next_frame(&[1, 0, 0, 1]), Framing::TooLarge(FRAME_BYTES_MAX as u32 + 1));
    assert_eq!(next_frame(b"GET / HTTP/1.1"), Framing::TooLarge(0x4745_5420));
}

/// A body with one event of the newer layout, whose slots may be changed.
fn one_event(change: impl FnOnce(&mut Vec<Slot>)) -> Vec<u8> {
    let mut slots = vec![Slot::U8(1), Slot::U64(5), Slot::Absent, Slot::Absent, Slot::Absent, bytes("n"), bytes("{}")];
    change(&mut slots);
    body(1, &data(vec![slots]))
}

#[test]
fn what_is_not_valid_has_a_reason() {
    let check = |slot: usize, value: Slot, reason: &str| {
        assert_eq!(refused(&one_event(|slots| slots[slot] = value)), reason);
    };
    check(1, Slot::U64(253_402_300_800_000), "timestamp");
    check(1, Slot::U64(u64::MAX), "timestamp");
    check(2, bytes(b"\xff"), "text");
    check(2, bytes(b"a\0b"), "text");
    check(2, bytes("s".repeat(ORIGIN_TEXT_BYTES_MAX + 1)), "text_length");
    check(3, bytes([1; 15]), "id_length");
    check(4, bytes([1; 17]), "id_length");
    check(5, bytes(b"\xc3\x28"), "text");
    check(5, bytes("a\nb"), "event_name");
    check(5, bytes("a\u{85}b"), "event_name");
    check(5, bytes("n".repeat(257)), "event_name");
    check(5, bytes("_system.audit"), "reserved_name");
    for payload in [&b"[]"[..], b"1", b"{", b"{}x", b"\"a\"", b" ", b"{\"a\":\xff}", b"{\"a\":01}", b"null"] {
        check(6, bytes(payload), "payload_json");
    }
    check(6, bytes(format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX))), "payload_length");
    assert_eq!(put_one(&one_event(|slots| slots[1] = Slot::U64(253_402_300_799_999))).timestamp_us.unwrap() % 1000, 0);

    assert_eq!(refused(b""), "short");
    assert_eq!(refused(&[0; 15]), "short");
    assert_eq!(refused(&[0xff; 16]), "bounds");
    assert_eq!(refused(&flat(&[Slot::Absent, Slot::U8(1), Slot::U8(1), Slot::U64(1), bytes("d")])), "key_missing");
    assert_eq!(refused(&flat(&[bytes([1; 15]), Slot::U8(1), Slot::U8(1), Slot::U64(1), bytes("d")])), "key_length");
    assert_eq!(refused(&flat(&[bytes(KEY), Slot::U8(1), Slot::U8(1), Slot::U64(1)])), "data_missing");
    assert_eq!(refused(&body(1, b"")), "bounds");
    assert_eq!(refused(&body(1, &data(vec![]))), "no_events");
    assert_eq!(refused(&body(1, &flat(&[]))), "no_events");
    assert_eq!(refused(&body(3, &data(vec![vec![Slot::U8(1)]]))), "metric_name");
    assert_eq!(refused(&body(5, &data(vec![vec![Slot::Absent, Slot::Absent, bytes("a\nb")]]))), "entity");
    assert_eq!(refused(&body(5, &data(vec![vec![Slot::Absent, Slot::Absent, bytes("e".repeat(257))]]))), "entity");
    let error = put(&one_event(|slots| slots[6] = bytes("{\"a\":}"))).unwrap_err();
    assert_eq!(error.to_string(), "event 0: the payload is not a JSON object: expected a value at byte 5");
}

#[test]
fn one_bad_event_refuses_its_whole_frame() {
    let event = |payload: &str| {
        vec![Slot::U8(1), Slot::U64(5), Slot::Absent, Slot::Absent, Slot::Absent, bytes("n"), bytes(payload)]
    };
    let error = put(&body(1, &data(vec![event("{}"), event("{}"), event("[]"), event("{}")]))).unwrap_err();
    assert!(matches!(error, FrameError::Event { index: 2, fault: Fault::Payload(_) }), "{error}");
}

#[test]
fn names_beyond_what_is_known_are_kept_as_numbers() {
    let log = vec![Slot::U8(1), Slot::Absent, Slot::U8(9), Slot::Absent, Slot::Absent, Slot::Absent, Slot::Absent];
    assert!(put_one(&body(2, &data(vec![log]))).metadata.contains(r#""level":"9""#));
    let metric = vec![Slot::U8(200), Slot::Absent, bytes("m")];
    assert!(put_one(&body(3, &data(vec![metric]))).payload.contains(r#""type":"200""#));
}

/// Data whose every element is the one table that `slots` describe.
fn aliased(slots: &[Slot], count: usize) -> Vec<u8> {
    let mut bytes = data(vec![slots.to_vec()]);
    // The vector goes to the end, where it may be as long as it likes; its offsets are relative, and so cannot go back.
    let vector_place = 8;
    let vector_at =
        vector_place + u32::from_le_bytes(bytes[vector_place..vector_place + 4].try_into().unwrap()) as usize;
    let table_at = vector_at + 8;
    let gap = 4 * (count - 1);
    bytes.splice(vector_at + 8..vector_at + 8, vec![0; gap]);
    patch(&mut bytes, vector_at, count as u32);
    for index in 0..count {
        let place = vector_at + 4 + 4 * index;
        patch(&mut bytes, place, (table_at + gap - place) as u32);
    }
    bytes
}

#[test]
fn payloads_that_lie_over_each_other_are_refused_before_they_cost_anything() {
    let event =
        |payload: Slot| vec![Slot::U8(1), Slot::U64(5), Slot::Absent, Slot::Absent, Slot::Absent, bytes("n"), payload];
    // Nothing is wrong with tables that are shared.
    assert_eq!(put(&body(1, &aliased(&event(Slot::Absent), 5_000))).unwrap().len(), 5_000);
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
    assert_eq!(refused(&body(1, &aliased(&event(bytes(&long)), 2))), "overlap");
    assert_eq!(refused(&body(1, &aliased(&event(bytes(&long)), 10_000))), "overlap");
    assert_eq!(refused(&body(1, &aliased(&event(Slot::Absent), BATCH_EVENTS_MAX + 1))), "too_many_events");
}

#[test]
fn what_is_made_of_shared_tables_is_bounded() {
    let metric =
        |labels: Slot| vec![Slot::U8(1), Slot::U64(0), bytes("m"), Slot::U64(0), Slot::Absent, Slot::Absent, labels];
    let labels = |count: usize, len: usize| Slot::Tables(vec![vec![bytes("k"), bytes("v".repeat(len))]; count]);
    // 300 metrics with the same 100 KB of labels have more than a batch takes.
    let mut batch = new_batch();
    let body = body(3, &aliased(&metric(labels(10, 10_000)), 300));
    let mut scratch = Scratch::default();
    let put =
        |batch: &mut EventBatch, scratch: &mut Scratch| Frame::parse(&body).unwrap().put(&RECEIVED, scratch, batch);
    assert_eq!(put(&mut batch, &mut scratch), Err(FrameError::BatchFull));
    assert!(batch.is_empty());
    assert_eq!(refused(&super::body(3, &data(vec![metric(labels(1, PAYLOAD_BYTES_MAX + 1))]))), "payload_length");
    assert_eq!(refused(&super::body(3, &data(vec![metric(labels(110, 10_000))]))), "payload_length");
    assert_eq!(refused(&super::body(3, &data(vec![metric(bytes(b"\x01"))]))), "bounds");

    // A vector of labels that all lead to one: the payload ends at its limit, whatever the count says.
    let entry = metric(labels(1, 1_000));
    let one = data(vec![entry]);
    let at = one.windows(8).rposition(|bytes| bytes[..4] == [1, 0, 0, 0] && bytes[4..] == [4, 0, 0, 0]).unwrap();
    let mut many = one.clone();
    let gap = 4 * 99_999;
    many.splice(at + 8..at + 8, vec![0; gap]);
    patch(&mut many, at, 100_000);
    for index in 0..100_000 {
        patch(&mut many, at + 4 + 4 * index, (4 + 4 * (99_999 - index)) as u32);
    }
    assert_eq!(super::put(&super::body(3, &one)).unwrap().len(), 1);
    assert_eq!(refused(&super::body(3, &many)), "payload_length");
    assert!(scratch.made.capacity() <= PAYLOAD_BYTES_MAX);
}

#[test]
fn counts_are_not_believed() {
    for count in [2, 0x1000, 0x00ff_ffff, u32::MAX] {
        let mut body = one_event(|_| {});
        let at = body.windows(4).position(|bytes| bytes == [1, 0, 0, 0]).unwrap();
        patch(&mut body, at, count);
        assert_eq!(refused(&body), "bounds", "{count} events");
    }
}

#[test]
fn a_table_may_lead_to_itself() {
    // The root of the data, its vector and its only event are one place: whatever comes of it, it ends.
    for filler in [0, 4, 8, 16] {
        let mut data = vec![filler; 64];
        patch(&mut data, 0, 8);
        patch(&mut data, 8, 4);
        patch(&mut data, 12, 0);
        let _ = put(&body(1, &data));
        patch(&mut data, 4, 0x0008_0006);
        data[8] = 4;
        patch(&mut data, 16, 1);
        let _ = put(&body(1, &data));
    }
}
