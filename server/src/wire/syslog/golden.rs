//! Real messages against the events that they become, and everything that can be broken in them.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use ringlog_engine::event::{EventBatch, EventError, FingerprintKey, Source};
use ringlog_engine::format::record::{EventKind, Record};
use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::limits::BATCH_EVENTS_MAX;

use super::framing::{Frame, Framer, datagram};
use super::key::find_key;
use super::map::Writer;
use super::parse::Reader;
use crate::limits::{EVENT_BYTES_MAX, SYSLOG_MESSAGE_BYTES_MAX};
use crate::wire::answer::put_string;
use crate::wire::broken::every_wrong_byte;
use crate::wire::json::validate;
use crate::wire::json_simd::Window;
use crate::wire::time::{format_moment, parse_moment};

const MESSAGES: &str = include_str!("../../../tests/data/syslog/messages.log");
const EVENTS: &str = include_str!("../../../tests/data/syslog/events.ndjson");
const SOURCE_IP: &str = "192.0.2.7";
const KEY_TEXT: &str = "00112233445566778899aabbccddeeff";

fn received_at() -> Micros {
    parse_moment("2026-11-22T00:00:00Z").unwrap()
}

struct Codec {
    reader: Reader,
    writer: Writer,
    batch: EventBatch,
    window: Window,
}

impl Codec {
    fn new() -> Codec {
        let batch = EventBatch::new(Tenant(1), Source::Syslog, FingerprintKey(1));
        Codec { reader: Reader::default(), writer: Writer::default(), batch, window: Window::default() }
    }

    /// What is stored of a message, after the rules that hold for every message.
    fn event(&mut self, message: &[u8]) -> Record<'_> {
        self.batch.reset(Tenant(1), Source::Syslog);
        let parsed = self.reader.read(message, received_at());
        let _ = find_key(&parsed);
        self.writer.push(&parsed, SOURCE_IP, &mut self.batch).unwrap();
        let record = Record::parse(self.batch.records()).unwrap();
        assert_eq!((record.kind, record.event_type), (EventKind::Log, "log"));
        assert!(record.payload.len() <= message.len() * 6 + 512, "{} bytes", record.payload.len());
        for json in [record.payload, record.metadata] {
            let is_json = simd_json::to_owned_value(&mut json.to_vec()).is_ok();
            assert!(is_json && validate(json, &mut self.window).is_ok(), "{:?}", String::from_utf8_lossy(json));
        }
        record
    }

    fn payload(&mut self, message: &[u8]) -> String {
        String::from_utf8(self.event(message).payload.to_vec()).unwrap()
    }

    /// A line of `events.ndjson`.
    fn shown(&mut self, message: &[u8]) -> String {
        let record = self.event(message);
        let mut out = b"{\"entity\":".to_vec();
        put_string(&mut out, record.entity);
        if let Some(time) = record.timestamp {
            out.extend_from_slice(b",\"timestamp\":\"");
            out.extend_from_slice(&format_moment(time));
            out.push(b'"');
        }
        out.extend_from_slice(b",\"payload\":");
        out.extend_from_slice(record.payload);
        out.extend_from_slice(b",\"metadata\":");
        out.extend_from_slice(record.metadata);
        out.push(b'}');
        String::from_utf8(out).unwrap()
    }
}

#[test]
fn golden_messages_become_golden_events() {
    let mut codec = Codec::new();
    let found: Vec<String> = MESSAGES.lines().map(|message| codec.shown(message.as_bytes())).collect();
    let expected: Vec<&str> = EVENTS.lines().collect();
    assert!(found == expected, "the events are\n{}", found.join("\n"));
}

#[test]
fn no_key_is_stored_whatever_is_around_it() {
    let mut codec = Codec::new();
    let mut seen = 0;
    for message in MESSAGES.lines().filter(|message| message.contains(KEY_TEXT)) {
        seen += 1;
        let payload = codec.payload(message.as_bytes());
        let records = codec.batch.records();
        assert!(!payload.contains(KEY_TEXT), "{payload}");
        assert!(!records.windows(KEY_TEXT.len()).any(|bytes| bytes == KEY_TEXT.as_bytes()));
        // Cut anywhere, it is neither.
        for len in 0..message.len() {
            let payload = codec.payload(&message.as_bytes()[..len]);
            assert!(!payload.contains("00112233"), "{payload}");
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn every_truncation_and_every_broken_byte_is_still_an_event() {
    let mut codec = Codec::new();
    for message in MESSAGES.lines() {
        let message = message.as_bytes();
        for len in 0..message.len() {
            codec.event(&message[..len]);
            codec.event(&message[len..]);
        }
        every_wrong_byte(message, |_, broken| {
            codec.event(broken);
        });
    }
}

#[test]
fn what_is_not_text_is_replaced_and_marked() {
    let mut codec = Codec::new();
    let payload = codec.payload(b"<13>Nov 21 09:30:01 h app: a\xffb\0c\xe2\x82");
    assert_eq!(
        payload,
        "{\"message\":\"a\u{fffd}b\u{fffd}c\u{fffd}\",\"facility\":\"user\",\"severity\":\"notice\",\"priority\":13,\
         \"host\":\"h\",\"app\":\"app\",\"encoding\":\"lossy\"}"
    );
    let payload = codec.payload(b"\xff\xfe");
    assert_eq!(payload, "{\"parsed\":false,\"raw\":\"\u{fffd}\u{fffd}\",\"encoding\":\"lossy\"}");
}

#[test]
fn the_largest_messages_fit_into_an_event() {
    let mut codec = Codec::new();
    let most = SYSLOG_MESSAGE_BYTES_MAX;
    for (head, repeated, tail) in [
        ("", "\u{1}", ""),
        ("<13>1 - - - - - - ", "\u{1}", ""),
        ("<13>1 - ", "\u{1}", " - - - - x"),
        ("<13>1 - - - - - ", "[a]", ""),
        ("<13>1 - - - - - ", "[a b=\"\"]", ""),
        ("<13>1 - - - - - [a", " b=\"\"", "]"),
        ("<13>1 - - - - - [a", " b=\"\u{1}\"", "] x"),
        ("<13>1 - - - - - ", "[", ""),
        ("<13>1 - - - - - [a b=\"", "\\", "\"]"),
        ("<13>1 - - - - - [a b=\"", "\\\"", "\"]"),
        ("<13>1 - - - - - - ", "ringlog@32473 ]", ""),
        ("<13>", " ", ""),
        ("<13>Nov 21 09:30:01 ", "\u{1}", ": x"),
        ("<13>Nov 21 09:30:01 h ", "a[", ""),
    ] {
        let count = (most - head.len() - tail.len()) / repeated.len();
        let payload = codec.payload(format!("{head}{}{tail}", repeated.repeat(count)).as_bytes());
        assert!(payload.len() <= EVENT_BYTES_MAX);
    }
    let distinct: String = (0..).map(|n| format!("[{n} x=\"\" y{n}=\"\" x=\"\"]")).take(2000).collect();
    let payload = codec.payload(format!("<13>1 - - - - - {distinct}").as_bytes());
    assert!(payload.contains(r#""1999":{"x":["",""],"y1999":""}"#));
    codec.event(&vec![0xff; most]);
    codec.event(&vec![0; most]);
}

#[test]
fn names_of_services_become_entities_only_if_they_can_be_asked_for() {
    let mut codec = Codec::new();
    for (app, host, entity) in [
        ("app", "host", "app"),
        ("-", "host", "host"),
        ("-", "-", SOURCE_IP),
        ("a\u{1}b", "host", "host"),
        ("read-model:x", "host", "host"),
        ("\u{a0}x", "\u{85}", SOURCE_IP),
    ] {
        let message = format!("<13>1 - {host} {app} - - - x");
        assert_eq!(codec.event(message.as_bytes()).entity, entity);
    }
    // 128 bytes, and whole characters.
    let long = "é".repeat(100);
    assert_eq!(codec.event(format!("<13>1 - - {long} - - - x").as_bytes()).entity, &long[..128]);
    assert_eq!(codec.event(format!("<13>1 - - a{long} - - - x").as_bytes()).entity, format!("a{}", &long[..126]));
}

#[test]
fn a_full_batch_says_so_and_takes_no_more() {
    let mut codec = Codec::new();
    let message = codec.reader.read(b"<13>1 - h a - - - x", received_at());
    for _ in 0..BATCH_EVENTS_MAX {
        codec.writer.push(&message, SOURCE_IP, &mut codec.batch).unwrap();
    }
    let refused = codec.writer.push(&message, SOURCE_IP, &mut codec.batch);
    assert_eq!(refused, Err(EventError::BatchEvents { limit: BATCH_EVENTS_MAX }));
}

/// The messages of a stream that arrives in pieces which end at `cuts`, and what the end leaves. Truncated ones begin with `~`.
fn messages(stream: &[u8], cuts: impl IntoIterator<Item = usize>, limits: (usize, usize)) -> Vec<Vec<u8>> {
    let mut framer = Framer::new(limits.0, limits.1);
    let mut found = Vec::new();
    let mut pending: Vec<u8> = Vec::new();
    let keep = |found: &mut Vec<Vec<u8>>, pending: &[u8], frame: &Frame| match frame {
        Frame::Message(range) => found.push(pending[range.clone()].to_vec()),
        Frame::Truncated(range) => found.push([b"~", &pending[range.clone()]].concat()),
        Frame::Need => {}
    };
    let mut from = 0;
    for cut in cuts.into_iter().chain([stream.len()]) {
        pending.extend_from_slice(&stream[from..cut]);
        from = cut;
        loop {
            let step = framer.step(&pending);
            keep(&mut found, &pending, &step.frame);
            pending.drain(..step.consumed);
            if step.frame == Frame::Need {
                break;
            }
        }
        assert!(pending.len() <= framer.pending_bytes_max());
    }
    if let Some(frame) = framer.finish(&pending) {
        keep(&mut found, &pending, &frame);
    }
    found
}

const ROOMY: (usize, usize) = (SYSLOG_MESSAGE_BYTES_MAX, 1024);

fn check(stream: &str, limits: (usize, usize), expected: &[&str]) {
    let shown = |found: Vec<Vec<u8>>| -> Vec<String> {
        found.iter().map(|message| String::from_utf8_lossy(message).into_owned()).collect()
    };
    assert_eq!(shown(messages(stream.as_bytes(), [], limits)), expected, "{stream:?}");
    // One cut at every place, and a cut at every place.
    for cut in 0..=stream.len() {
        assert_eq!(shown(messages(stream.as_bytes(), [cut], limits)), expected, "{stream:?} cut at {cut}");
    }
    assert_eq!(shown(messages(stream.as_bytes(), 0..stream.len(), limits)), expected, "{stream:?} in bytes");
}

#[test]
fn both_framings_are_told_apart_for_each_message() {
    check("<1>a\n<2>b\n", ROOMY, &["<1>a", "<2>b"]);
    check("<1>a\r\n\r\n\n<2>b\0\n", ROOMY, &["<1>a", "<2>b"]);
    check("4 <1>a4 <2>b", ROOMY, &["<1>a", "<2>b"]);
    check("4 <1>a\n<2>b\n5 <3>c\n4 <4>d\n", ROOMY, &["<1>a", "<2>b", "<3>c", "<4>d"]);
    check("6 <1>a\nb<2>c", ROOMY, &["<1>a\nb", "<2>c"]);
    check("12 monkeys\n4 <1>a\n", ROOMY, &["12 monkeys", "<1>a"]);
    check("12\n4 <a>b\n04 <1>a\n4  <1>a\n", ROOMY, &["12", "4 <a>b", "04 <1>a", "4  <1>a"]);
    check("1234567890 <1>a\n", ROOMY, &["1234567890 <1>a"]);
    check("2 <1>a\n", ROOMY, &["<1", ">a"]);
    check("", ROOMY, &[]);
    check("\n\r\n\0", ROOMY, &[]);
}

#[test]
fn what_the_end_of_a_stream_leaves_is_not_lost() {
    check("<1>a\n<2>b", ROOMY, &["<1>a", "<2>b"]);
    check("<1>a\n<2>b\r", ROOMY, &["<1>a", "<2>b"]);
    check("12 <", ROOMY, &["12 <"]);
    check("12", ROOMY, &["12"]);
    check("4 <1>a9 <1>cut", ROOMY, &["<1>a", "~<1>cut"]);
}

#[test]
fn messages_that_are_too_long_are_cut_and_the_next_is_found() {
    check("<1>1234\n<2>b\n", (7, 4), &["<1>1234", "<2>b"]);
    check("<1>12345\n<2>b\n", (7, 4), &["~<1>1", "<2>b"]);
    check("<1>12345678901234567890\n<2>b\n", (7, 4), &["~<1>1", "<2>b"]);
    check("<1>12345678901234567890", (7, 4), &["~<1>1"]);
    check("7 <1>12348 <1>123454 <2>b", (7, 4), &["<1>1234", "~<1>1", "<2>b"]);
    check("20 <1>12\n456789012345674 <2>b", (7, 4), &["~<1>1", "<2>b"]);
    check("20 <1>1234", (7, 4), &["~<1>1"]);
    check("20 <1", (7, 4), &["~<1"]);
    // A count that nobody will ever fill skips what is there and no more.
    check("999999999 <1>12345\n<2>b\n", (7, 4), &["~<1>1"]);
}

#[test]
fn a_datagram_is_one_message_without_its_ends() {
    assert_eq!(datagram(b"<1>a\nb\r\n\0"), Some(&b"<1>a\nb"[..]));
    assert_eq!(datagram(b"x"), Some(&b"x"[..]));
    assert_eq!(datagram(b"\r\n\0"), None);
    assert_eq!(datagram(b""), None);
}

#[test]
fn a_mixture_of_both_framings_gives_the_messages_that_were_sent_however_it_is_cut() {
    let message = "<[0-9]{1,3}>[ -~]{0,40}";
    let sent = prop::collection::vec((message, any::<bool>(), any::<bool>()), 0..20);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(sent, cuts), |(sent, cuts)| {
            let mut stream = Vec::new();
            for (message, is_counted, has_end) in &sent {
                if *is_counted {
                    stream.extend_from_slice(format!("{} {message}", message.len()).as_bytes());
                    stream.extend_from_slice(if *has_end { b"\n" } else { b"" });
                } else {
                    stream.extend_from_slice(message.as_bytes());
                    stream.extend_from_slice(if *has_end { b"\r\n" } else { b"\n" });
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let expected: Vec<Vec<u8>> = sent.iter().map(|(message, ..)| message.clone().into_bytes()).collect();
            prop_assert_eq!(messages(&stream, cuts, ROOMY), expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn hostile_streams_give_the_same_messages_however_they_are_cut() {
    let piece = prop_oneof![
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\0".to_owned()),
        Just("<1".to_owned()),
        Just(" <".to_owned()),
        "[0-9]{1,11}",
        "[0-9]{1,2} <[0-9]",
        "[ -~]{0,12}",
    ];
    let stream = prop::collection::vec(piece, 0..40);
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..12);
    let config = ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    runner
        .run(&(stream, cuts), |(stream, cuts)| {
            let stream = stream.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let whole = messages(&stream, [], (24, 8));
            prop_assert_eq!(&messages(&stream, cuts, (24, 8)), &whole);
            prop_assert_eq!(&messages(&stream, 0..stream.len(), (24, 8)), &whole);
            Ok(())
        })
        .unwrap();
}
