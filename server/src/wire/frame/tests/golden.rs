//! Golden frames: bytes that clients send, and the events that come of them, field by field.
//!
//! `tests/data/frames/*.bin` hold whole frames, length included. Those that a published encoder makes are compared with it.
//! They are written by `RINGLOG_BLESS=1 cargo test -p ringlog --lib golden`, and do not change while that encoder is about.

use std::path::Path;

use ringlog_engine::event::EventInput;
use tell_encoding::{
    EventParams, EventType, HistogramParams, LabelParam, LogEntryParams, LogEventType, LogLevel, MetricEntryParams,
    MetricType, SchemaType, Temporality, encode_event_data_into, encode_log_data_into, encode_metric_data_into,
};

use super::*;

const DEVICE: [u8; 16] = *b"\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf";
const SESSION: [u8; 16] = *b"PQRSTUVWXYZ[\\]^_";
const DEVICE_HEX: &str = "d0d1d2d3d4d5d6d7d8d9dadbdcdddedf";
const SESSION_HEX: &str = "505152535455565758595a5b5c5d5e5f";
const AT_MS: u64 = 1_700_000_000_000;
const AT_US: i64 = 1_700_000_000_000_000;
const AT_NS: u64 = 1_700_000_000_000_000_000;
const FROM: &str = r#""source_ip":"192.0.2.7","source_kind":"tcp"}"#;

/// Every golden frame: its name, and the bytes that its maker makes today.
pub fn frames() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("event", event()),
        ("events-unnamed", events_unnamed()),
        ("events-100", events_100()),
        ("events-old-layout", events_old_layout()),
        ("log", log()),
        ("logs-levels", logs_levels()),
        ("metric-gauge", metric_gauge()),
        ("metric-histogram", metric_histogram()),
        ("metric-int-labels", metric_int_labels()),
        ("trace", trace()),
        ("snapshot", snapshot()),
    ]
}

fn events_frame(batch_id: u64, events: &[EventParams<'_>]) -> Vec<u8> {
    let mut data = Vec::new();
    encode_event_data_into(&mut data, events);
    framed(&sdk_body(SchemaType::Event, batch_id, &data))
}

fn event() -> Vec<u8> {
    events_frame(
        1,
        &[EventParams {
            event_type: EventType::Track,
            timestamp: AT_MS,
            service: Some("web"),
            device_id: Some(&DEVICE),
            session_id: Some(&SESSION),
            event_name: Some("Sign Up"),
            payload: Some(br#"{"user_id":"u1","plan":"pro"}"#),
        }],
    )
}

const UNNAMED: [EventType; 7] = [
    EventType::Unknown,
    EventType::Track,
    EventType::Identify,
    EventType::Group,
    EventType::Alias,
    EventType::Enrich,
    EventType::Context,
];

/// One of each type without a name, none with a batch id, and the more left out the further on.
fn events_unnamed() -> Vec<u8> {
    let events: Vec<EventParams<'_>> = UNNAMED
        .iter()
        .enumerate()
        .map(|(index, &event_type)| EventParams {
            event_type,
            timestamp: if index < 6 { AT_MS + index as u64 } else { 0 },
            service: (index < 5).then_some("w"),
            device_id: (index < 3).then_some(&DEVICE),
            session_id: (index < 4).then_some(&SESSION),
            event_name: None,
            payload: (index < 2).then_some(b"{\"user_id\":7}"),
        })
        .collect();
    events_frame(0, &events)
}

fn payloads_100() -> Vec<String> {
    (0..100)
        .map(|index| {
            format!(r#"{{"user_id":"user_{}","url":"/p/{index}","n":{index},"user_id":"u{index}"}}"#, index % 7)
        })
        .collect()
}

fn events_100() -> Vec<u8> {
    let payloads = payloads_100();
    let events: Vec<EventParams<'_>> = payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| EventParams {
            event_type: EventType::Track,
            timestamp: AT_MS + index as u64,
            service: Some(if index < 50 { "web" } else { "app" }),
            device_id: Some(&DEVICE),
            session_id: None,
            event_name: Some(if index % 2 == 0 { "Page Viewed" } else { "Größe gewählt" }),
            payload: Some(payload.as_bytes()),
        })
        .collect();
    events_frame(2, &events)
}

/// Six slots: what older SDKs send.
fn events_old_layout() -> Vec<u8> {
    let old = |name: Slot, payload: &str| {
        vec![Slot::U8(1), Slot::U64(AT_MS), bytes(DEVICE), bytes(SESSION), name, bytes(payload)]
    };
    framed(&body(1, &data(vec![old(bytes("Sign Up"), r#"{"user_id":"u1"}"#), old(Slot::Absent, "{}")])))
}

fn logs_frame(logs: &[LogEntryParams<'_>]) -> Vec<u8> {
    let mut data = Vec::new();
    encode_log_data_into(&mut data, logs);
    framed(&sdk_body(SchemaType::Log, 3, &data))
}

fn log() -> Vec<u8> {
    logs_frame(&[LogEntryParams {
        event_type: LogEventType::Log,
        session_id: None,
        level: LogLevel::Error,
        timestamp: AT_MS,
        source: Some("host1"),
        service: Some("api"),
        payload: Some(br#"{"message":"boom"}"#),
    }])
}

const LEVELS: [(LogLevel, &str); 9] = [
    (LogLevel::Emergency, "emergency"),
    (LogLevel::Alert, "alert"),
    (LogLevel::Critical, "critical"),
    (LogLevel::Error, "error"),
    (LogLevel::Warning, "warning"),
    (LogLevel::Notice, "notice"),
    (LogLevel::Info, "info"),
    (LogLevel::Debug, "debug"),
    (LogLevel::Trace, "trace"),
];

fn logs_levels() -> Vec<u8> {
    let logs = LEVELS.map(|(level, _)| LogEntryParams {
        event_type: if level == LogLevel::Trace { LogEventType::Enrich } else { LogEventType::Log },
        session_id: Some(&SESSION),
        level,
        timestamp: AT_MS,
        source: (level != LogLevel::Alert).then_some("host\"1\""),
        service: None,
        payload: Some(br#"{"message":"m","user_id":null}"#),
    });
    logs_frame(&logs)
}

fn metric_frame(metric: MetricEntryParams<'_>) -> Vec<u8> {
    let mut data = Vec::new();
    encode_metric_data_into(&mut data, &[metric]);
    framed(&sdk_body(SchemaType::Metric, 4, &data))
}

fn metric_gauge() -> Vec<u8> {
    metric_frame(MetricEntryParams {
        metric_type: MetricType::Gauge,
        timestamp: AT_NS,
        name: "cpu",
        value: 0.5,
        source: Some("host1"),
        service: Some("api"),
        labels: &[LabelParam { key: "core", value: "0" }],
        temporality: Temporality::Unspecified,
        histogram: None,
        session_id: None,
    })
}

fn metric_histogram() -> Vec<u8> {
    let histogram = HistogramParams {
        count: 3,
        sum: 0.75,
        min: 0.125,
        max: 0.5,
        buckets: vec![(0.25, 2), (1.0, 3), (f64::INFINITY, 3)],
    };
    metric_frame(MetricEntryParams {
        metric_type: MetricType::Histogram,
        timestamp: AT_NS + 1,
        name: "latency",
        value: 0.0,
        source: Some("host1"),
        service: None,
        labels: &[LabelParam { key: "route", value: "/a\n" }, LabelParam { key: "é", value: "" }],
        temporality: Temporality::Delta,
        histogram: Some(&histogram),
        session_id: Some(&SESSION),
    })
}

fn metric_int_labels() -> Vec<u8> {
    let label = |key: &str, value: i64| vec![bytes(key), Slot::U64(value as u64)];
    let metric = vec![
        Slot::U8(2),
        Slot::Absent,
        bytes("requests"),
        float(f64::NAN),
        Slot::Absent,
        Slot::Absent,
        Slot::Absent,
        Slot::U8(1),
        Slot::Table(vec![Slot::U64(1)]),
        Slot::Absent,
        Slot::Tables(vec![label("status", 200), label("shift", -3)]),
    ];
    framed(&body(3, &data(vec![metric])))
}

fn trace() -> Vec<u8> {
    let span = vec![
        bytes(DEVICE),
        bytes(b"\x01\x02\x03\x04\x05\x06\x07\x08"),
        bytes(b"\x11\x12\x13\x14\x15\x16\x17\x18"),
        Slot::U64(AT_NS + 250),
        Slot::U64(1_500),
        bytes("GET /"),
        Slot::U8(2),
        Slot::U8(1),
        bytes("host1"),
        bytes("api"),
        bytes(SESSION),
        bytes(r#"{"status":200}"#),
    ];
    framed(&body(4, &data(vec![span, vec![Slot::Absent; 12]])))
}

fn snapshot() -> Vec<u8> {
    let snapshot = vec![Slot::U64(AT_MS), bytes("github"), bytes("repo/ringlog"), bytes(r#"{"stars":1}"#)];
    framed(&body(5, &data(vec![snapshot])))
}

/// The body of a golden file; the file is made first when that is asked for.
fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/frames").join(format!("{name}.bin"));
    if std::env::var_os("RINGLOG_BLESS").is_some_and(|value| value == "1") {
        std::fs::write(&path, made).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("golden file {name}: {error}"))
}

/// The events that came of a golden frame.
fn events_of(name: &str) -> Vec<Seen> {
    let (_, frame) = frames().into_iter().find(|(other, _)| *other == name).unwrap();
    put(&golden(name, &frame)[LENGTH_BYTES..]).unwrap()
}

fn one_of(name: &str) -> Seen {
    let mut events = events_of(name);
    assert_eq!(events.len(), 1);
    events.remove(0)
}

#[test]
fn golden_frames_are_what_the_encoders_make() {
    for (name, made) in frames() {
        let kept = golden(name, &made);
        assert!(kept == made, "{name}");
        assert_eq!(next_frame(&kept), Framing::Frame(LENGTH_BYTES..kept.len()), "{name}");
    }
}

#[test]
fn the_published_encoder_lays_an_event_out_as_documented() {
    let documented = "000000fd14000000100020000400180019001000080000001000000018000000\
        2800000000000000010000000000000001640000100000000001020304050607\
        08090a0b0c0d0e0fb50000000c00000006000800040000000800000004000000\
        010000001c00000018000000120024001c00140020000400 08000c0010000000\
        1400000020000000300000004800000050000000 0068e5cf8b010000 01000000\
        2c00000010000000d0d1d2d3d4d5d6d7d8d9dadbdcdddedf1000000050515253\
        5455565758595a5b5c5d5e5f030000007765620007000000 5369676e20557000\
        1d0000007b22757365725f6964223a227531222c22706c616e223a2270726f22\
        7d"
    .replace(' ', "");
    assert_eq!(crate::auth::secret::hex(&event()), documented);
}

#[test]
fn the_outer_table_is_read() {
    let sent = event();
    let frame = Frame::parse(&sent[LENGTH_BYTES..]).unwrap();
    assert_eq!((frame.key, frame.schema, frame.version, frame.batch_id), (KEY, Schema::Event, 100, 1));
    let data = [1, 2, 3];
    for (number, schema) in [
        (0, Schema::Event),
        (1, Schema::Event),
        (2, Schema::Log),
        (3, Schema::Metric),
        (4, Schema::Trace),
        (5, Schema::Snapshot),
        (6, Schema::Event),
        (255, Schema::Event),
    ] {
        let body = body(number, &data);
        let frame = Frame::parse(&body).unwrap();
        assert_eq!((frame.schema, frame.version, frame.data), (schema, 100, &data[..]));
        assert_eq!((frame.batch_id, frame.source_ip), (7, None));
    }
}

#[test]
fn an_event_has_every_field_of_its_client() {
    let expected = Seen {
        kind: EventKind::Event,
        event_type: "Sign Up".into(),
        entity: "u1".into(),
        timestamp_us: Some(AT_US),
        payload: r#"{"user_id":"u1","plan":"pro"}"#.into(),
        metadata: format!(r#"{{"service":"web","session_id":"{SESSION_HEX}","device_id":"{DEVICE_HEX}",{FROM}"#),
    };
    assert_eq!(one_of("event"), expected);
}

#[test]
fn events_without_a_name_are_named_by_their_type_and_are_about_whom_they_tell() {
    let events = events_of("events-unnamed");
    let types: Vec<&str> = events.iter().map(|event| &event.event_type[..]).collect();
    assert_eq!(types, ["event", "track", "identify", "group", "alias", "enrich", "context"]);
    let entities: Vec<&str> = events.iter().map(|event| &event.entity[..]).collect();
    assert_eq!(entities, ["7", "7", DEVICE_HEX, SESSION_HEX, "w", "unknown", "unknown"]);
    for (index, event) in events.iter().enumerate() {
        let kind = if index == 2 { EventKind::Identify } else { EventKind::Event };
        assert_eq!(event.kind, kind);
        assert_eq!(event.timestamp_us, (index < 6).then_some(AT_US + 1000 * index as i64));
        assert_eq!(event.payload, if index < 2 { "{\"user_id\":7}" } else { "{}" });
    }
    assert_eq!(events[3].metadata, format!(r#"{{"service":"w","session_id":"{SESSION_HEX}",{FROM}"#));
    assert_eq!(events[5].metadata, format!("{{{FROM}"));
}

#[test]
fn a_batch_keeps_its_order_and_every_payload_as_it_was_sent() {
    let events = events_of("events-100");
    assert_eq!(events.len(), 100);
    for (index, (event, payload)) in events.iter().zip(payloads_100()).enumerate() {
        let service = if index < 50 { "web" } else { "app" };
        let expected = Seen {
            kind: EventKind::Event,
            event_type: if index % 2 == 0 { "Page Viewed" } else { "Größe gewählt" }.into(),
            // The last of two keys of one name counts.
            entity: format!("u{index}"),
            timestamp_us: Some(AT_US + 1000 * index as i64),
            payload,
            metadata: format!(r#"{{"service":"{service}","device_id":"{DEVICE_HEX}",{FROM}"#),
        };
        assert_eq!(*event, expected);
    }
}

#[test]
fn the_older_layout_is_told_by_its_vtable() {
    let events = events_of("events-old-layout");
    let expected = Seen {
        kind: EventKind::Event,
        event_type: "Sign Up".into(),
        entity: "u1".into(),
        timestamp_us: Some(AT_US),
        payload: r#"{"user_id":"u1"}"#.into(),
        metadata: format!(r#"{{"session_id":"{SESSION_HEX}","device_id":"{DEVICE_HEX}",{FROM}"#),
    };
    assert_eq!(events[0], expected);
    let unnamed = Seen { event_type: "track".into(), entity: DEVICE_HEX.into(), payload: "{}".into(), ..expected };
    assert_eq!(events[1..], [unnamed]);
}

#[test]
fn a_log_is_about_its_service_and_has_its_level() {
    let expected = Seen {
        kind: EventKind::Log,
        event_type: "log".into(),
        entity: "api".into(),
        timestamp_us: Some(AT_US),
        payload: r#"{"message":"boom"}"#.into(),
        metadata: format!(r#"{{"service":"api","level":"error","source":"host1",{FROM}"#),
    };
    assert_eq!(one_of("log"), expected);

    for (event, (level, name)) in events_of("logs-levels").iter().zip(LEVELS) {
        let (entity, source) = if level == LogLevel::Alert {
            (SESSION_HEX, String::new())
        } else {
            ("host\"1\"", r#""source":"host\"1\"","#.to_owned())
        };
        assert_eq!(event.entity, entity);
        assert_eq!(event.event_type, if level == LogLevel::Trace { "enrich" } else { "log" });
        let metadata = format!(r#"{{"session_id":"{SESSION_HEX}","level":"{name}",{source}{FROM}"#);
        assert_eq!(event.metadata, metadata);
    }
}

#[test]
fn metrics_become_objects() {
    let expected = Seen {
        kind: EventKind::Metric,
        event_type: "metric".into(),
        entity: "api".into(),
        timestamp_us: Some(AT_US),
        payload: r#"{"name":"cpu","type":"gauge","value":0.5,"labels":{"core":"0"}}"#.into(),
        metadata: format!(r#"{{"service":"api","source":"host1",{FROM}"#),
    };
    assert_eq!(one_of("metric-gauge"), expected);

    let histogram = one_of("metric-histogram");
    let payload = concat!(
        r#"{"name":"latency","type":"histogram","value":0.0,"temporality":"delta","#,
        r#""timestamp_ns":1700000000000000001,"labels":{"route":"/a\n","é":""},"#,
        r#""histogram":{"count":3,"sum":0.75,"min":0.125,"max":0.5,"buckets":["#,
        r#"{"upper_bound":0.25,"count":2},{"upper_bound":1.0,"count":3},{"upper_bound":"Infinity","count":3}]}}"#
    );
    assert_eq!(histogram.payload, payload);
    assert_eq!((&histogram.entity[..], histogram.timestamp_us), ("host1", Some(AT_US)));

    let counter = one_of("metric-int-labels");
    let payload = concat!(
        r#"{"name":"requests","type":"counter","value":"NaN","temporality":"cumulative","#,
        r#""int_labels":{"status":200,"shift":-3},"#,
        r#""histogram":{"count":1,"sum":0.0,"min":0.0,"max":0.0,"buckets":[]}}"#
    );
    assert_eq!(counter.payload, payload);
    assert_eq!((&counter.entity[..], counter.timestamp_us), ("unknown", None));
}

#[test]
fn spans_become_objects() {
    let spans = events_of("trace");
    let expected = Seen {
        kind: EventKind::Trace,
        event_type: "trace".into(),
        entity: "api".into(),
        timestamp_us: Some(AT_US),
        payload: format!(
            r#"{{"name":"GET /","trace_id":"{DEVICE_HEX}","span_id":"0102030405060708","parent_span_id":"1112131415161718","kind":"server","status":"ok","duration_ns":1500,"timestamp_ns":1700000000000000250,"payload":{{"status":200}}}}"#
        ),
        metadata: format!(r#"{{"service":"api","session_id":"{SESSION_HEX}","source":"host1",{FROM}"#),
    };
    assert_eq!(spans[0], expected);
    assert_eq!(spans[1].payload, r#"{"kind":"unspecified","status":"unset","duration_ns":0}"#);
    assert_eq!((&spans[1].entity[..], spans[1].timestamp_us), ("unknown", None));
}

#[test]
fn a_snapshot_is_of_its_entity() {
    let expected = Seen {
        kind: EventKind::Event,
        event_type: "snapshot".into(),
        entity: "repo/ringlog".into(),
        timestamp_us: Some(AT_US),
        payload: r#"{"stars":1}"#.into(),
        metadata: format!(r#"{{"source":"github",{FROM}"#),
    };
    assert_eq!(one_of("snapshot"), expected);
}

/// An event with nothing but a payload and a device.
fn about(payload: &str) -> String {
    let event =
        vec![Slot::U8(1), Slot::U64(0), Slot::Absent, bytes(DEVICE), Slot::Absent, Slot::Absent, bytes(payload)];
    put_one(&body(1, &data(vec![event]))).entity
}

#[test]
fn the_user_of_a_payload_is_its_entity_when_it_can_be_one() {
    assert_eq!(about(r#"{"user_id":"é"}"#), "é");
    assert_eq!(about("\t{ \"a\" : {\"user_id\":\"x\"} , \"user_id\" : \"\\u00e9\" } \n"), "é");
    assert_eq!(about(r#"{"user\u005fid":"u"}"#), "u");
    assert_eq!(about(r#"{"user_id":-12.50e1}"#), "-12.50e1");
    assert_eq!(about(r#"{"user_id":"a","user_id":3}"#), "3");
    assert_eq!(about(&format!(r#"{{"user_id":"{}"}}"#, "x".repeat(256))), "x".repeat(256));
    for other in [
        "{}".to_owned(),
        r#"{"user_id":""}"#.to_owned(),
        r#"{"user_id":"a","user_id":null}"#.to_owned(),
        r#"{"user_id":true}"#.to_owned(),
        r#"{"user_id":["a"]}"#.to_owned(),
        r#"{"user_id":{"user_id":"a"}}"#.to_owned(),
        r#"{"a":{"user_id":"a"}}"#.to_owned(),
        r#"{"User_id":"a"}"#.to_owned(),
        r#"{"user_id":"a\nb"}"#.to_owned(),
        r#"{"user_id":"read-model:a"}"#.to_owned(),
        format!(r#"{{"user_id":"{}"}}"#, "x".repeat(257)),
        format!(r#"{{"user_id":1{}}}"#, "0".repeat(256)),
    ] {
        assert_eq!(about(&other), DEVICE_HEX, "{other}");
    }
}

#[test]
fn the_peer_is_the_source_unless_a_forwarder_is_believed() {
    let forwarded = |ip: &[u8]| {
        let event = vec![Slot::U8(1)];
        flat(&[bytes(KEY), Slot::U8(1), Slot::U8(100), Slot::U64(0), bytes(data(vec![event])), bytes(ip)])
    };
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 9];
    let trusting = Received { trust_source_ip: true, ..RECEIVED };
    let metadata = |ip: &[u8], received: &Received| put_from(&forwarded(ip), received).unwrap().remove(0).metadata;
    let told = |address: &str| format!(r#"{{"source_ip":"{address}","source_kind":"tcp"}}"#);
    assert_eq!(metadata(&mapped, &RECEIVED), told("192.0.2.7"));
    assert_eq!(metadata(&mapped, &trusting), told("203.0.113.9"));
    assert_eq!(metadata(&[], &trusting), told("192.0.2.7"));
    assert_eq!(metadata(&DEVICE, &trusting), told("d0d1:d2d3:d4d5:d6d7:d8d9:dadb:dcdd:dedf"));
    let peer = Received { source_kind: "http", peer: "::ffff:10.0.0.1".parse().unwrap(), trust_source_ip: false };
    assert_eq!(metadata(&[], &peer), r#"{"source_ip":"10.0.0.1","source_kind":"http"}"#);
    assert_eq!(refused(&forwarded(&mapped[..4])), "source_ip");
}

#[test]
fn frames_of_one_key_share_a_batch() {
    let mut batch = new_batch();
    batch.push(EventInput::new("a", "b", b"{}")).unwrap();
    let mut scratch = Scratch::default();
    for (index, (_, frame)) in frames().iter().enumerate() {
        let before = batch.event_count();
        let count = Frame::parse(&frame[LENGTH_BYTES..]).unwrap().put(&RECEIVED, &mut scratch, &mut batch).unwrap();
        assert!(count > 0, "frame {index}");
        assert_eq!(batch.event_count(), before + count);
    }
    let alone: Vec<Seen> = frames().iter().flat_map(|(_, frame)| put(&frame[LENGTH_BYTES..]).unwrap()).collect();
    let first = batch.keys()[0].record_bytes as usize;
    let mut all = new_batch();
    for (_, frame) in frames() {
        Frame::parse(&frame[LENGTH_BYTES..]).unwrap().put(&RECEIVED, &mut scratch, &mut all).unwrap();
    }
    assert_eq!(seen(&all), alone);
    assert_eq!(&batch.records()[first..], all.records());
}

#[test]
fn a_frame_sent_again_has_the_same_replay_key() {
    let once = event();
    let frame = Frame::parse(&once[LENGTH_BYTES..]).unwrap();
    let key = frame.replay_key(5).unwrap();
    assert_eq!((key.key, key.batch_id), (KEY, 1));
    assert_eq!(Frame::parse(&event()[LENGTH_BYTES..]).unwrap().replay_key(5), Some(key));
    assert_ne!(frame.replay_key(6).unwrap().content, key.content);
    let mut other = once.clone();
    *other.last_mut().unwrap() = b' ';
    assert_ne!(Frame::parse(&other[LENGTH_BYTES..]).unwrap().replay_key(5), Some(key));
    // Without a batch id nothing tells two equal frames from one sent twice.
    assert_eq!(Frame::parse(&events_unnamed()[LENGTH_BYTES..]).unwrap().replay_key(5), None);
}
