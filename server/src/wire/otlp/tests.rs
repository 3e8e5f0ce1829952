use std::net::{IpAddr, Ipv4Addr};

use ringlog_engine::event::{EventBatch, EventError, FingerprintKey, Source};
use ringlog_engine::format::record::{EventKind, Record};
use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, PAYLOAD_BYTES_MAX};
use serde_json::{Value, json};

use super::*;
use crate::wire::broken::{every_cut, every_wrong_byte};
use crate::wire::lines::tests::is_json;
use crate::wire::response::{Persistence, ReplyTo, RequestId};

const EVERY_FIELD_PROTOBUF: &[u8] = include_bytes!("../../../tests/data/otlp/every_field.pb");
const EVERY_FIELD_JSON: &[u8] = include_bytes!("../../../tests/data/otlp/every_field.json");
const SDK_PROTOBUF: &[u8] = include_bytes!("../../../tests/data/otlp/python_sdk.pb");
const SDK_JSON: &[u8] = include_bytes!("../../../tests/data/otlp/python_sdk.json");

#[derive(Debug, Clone, PartialEq)]
struct Event {
    event_type: String,
    entity: String,
    timestamp: Option<Micros>,
    payload: Value,
    metadata: Value,
}

struct Parser {
    scratch: Scratch,
    batch: EventBatch,
}

impl Parser {
    fn new() -> Parser {
        let batch = EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7));
        Parser { scratch: Scratch::default(), batch }
    }

    fn parse(&mut self, encoding: Encoding, body: &[u8]) -> Result<Outcome, OtlpError> {
        self.batch.reset(Tenant(1), Source::Http);
        let source_ip = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let outcome = parse_logs(encoding, body, source_ip, &mut self.scratch, &mut self.batch);
        assert!(outcome.is_ok() || self.batch.is_empty());
        outcome
    }

    fn records(&self) -> Vec<Record<'_>> {
        let mut rest = self.batch.records();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let record = Record::parse(rest).unwrap();
            rest = &rest[record.record_bytes..];
            records.push(record);
        }
        assert_eq!(records.len(), self.batch.event_count());
        records
    }

    fn events(&self) -> Vec<Event> {
        let event = |record: &Record<'_>| {
            assert_eq!(record.kind, EventKind::Log);
            Event {
                event_type: record.event_type.to_owned(),
                entity: record.entity.to_owned(),
                timestamp: record.timestamp,
                payload: serde_json::from_slice(record.payload).unwrap(),
                metadata: serde_json::from_slice(record.metadata).unwrap(),
            }
        };
        self.records().iter().map(event).collect()
    }
}

fn events(encoding: Encoding, body: &[u8]) -> Vec<Event> {
    let mut parser = Parser::new();
    let outcome = parser.parse(encoding, body).unwrap();
    assert_eq!((outcome.rejected_count, &outcome.first_rejection), (0, &None));
    parser.events()
}

fn outcome(encoding: Encoding, body: &[u8]) -> (Outcome, Vec<Event>) {
    let mut parser = Parser::new();
    let outcome = parser.parse(encoding, body).unwrap();
    (outcome, parser.events())
}

fn error(encoding: Encoding, body: &[u8]) -> OtlpError {
    Parser::new().parse(encoding, body).unwrap_err()
}

// ----- protobuf, written by hand -----

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, inside: impl AsRef<[u8]>) -> Vec<u8> {
    let inside = inside.as_ref();
    [varint(field << 3 | 2), varint(inside.len() as u64), inside.to_vec()].concat()
}

fn text_value(text: impl AsRef<[u8]>) -> Vec<u8> {
    bytes(1, text)
}

fn attribute(key: &str, value: &[u8]) -> Vec<u8> {
    [bytes(1, key), bytes(2, value)].concat()
}

/// A request of one scope.
fn request(resource_attributes: &[Vec<u8>], records: &[Vec<u8>]) -> Vec<u8> {
    let resource: Vec<u8> = resource_attributes.iter().flat_map(|attribute| bytes(1, attribute)).collect();
    let scope_logs: Vec<u8> = records.iter().flat_map(|record| bytes(2, record)).collect();
    bytes(1, [bytes(1, resource), bytes(2, scope_logs)].concat())
}

/// The same in JSON, with one record or several, divided by commas.
fn json_request(records: &str) -> String {
    format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#)
}

fn json_record(record: &str) -> Event {
    let events = events(Encoding::Json, json_request(record).as_bytes());
    assert_eq!(events.len(), 1);
    events[0].clone()
}

// ----- the mapping -----

#[test]
fn both_encodings_of_a_request_give_the_same_events() {
    for (protobuf, json, count) in [(EVERY_FIELD_PROTOBUF, EVERY_FIELD_JSON, 6), (SDK_PROTOBUF, SDK_JSON, 3)] {
        let from_protobuf = events(Encoding::Protobuf, protobuf);
        assert_eq!(from_protobuf.len(), count);
        assert_eq!(from_protobuf, events(Encoding::Json, json));
    }
}

#[test]
fn every_field_arrives_where_it_belongs() {
    let events = events(Encoding::Protobuf, EVERY_FIELD_PROTOBUF);
    let resource = json!({"service.name": "checkout \"eu\"", "host.name": "node-7", "process.pid": 4711});
    let scope = json!({
        "name": "shop.payments", "version": "1.4.2", "attributes": {"short": true}, "dropped_attributes_count": 1
    });
    let expected = Event {
        event_type: "payment.failed".to_owned(),
        entity: "checkout \"eu\"".to_owned(),
        timestamp: Some(Micros(1_793_095_200_123_456)),
        payload: json!({
            "message": "card declined: \"no funds\"\n\tünïcödé 😀",
            "severity_text": "ERROR",
            "severity_number": 17,
            "attributes": {
                "session.id": "s-42", "http.status_code": 402, "negative": i64::MIN, "largest": i64::MAX,
                "ratio": 0.1, "tiny": 5e-324, "huge": f64::MAX, "nan": "NaN", "inf": "Infinity", "-inf": "-Infinity",
                "retry": false, "raw": "AP/+e30=", "empty": null, "list": ["a", 1, [2.5, true], {"k": "v"}],
                "map": {"a": {"b": []}, "c": {}}, "": "no key", "emoji 😀": "\u{2028}",
            },
            "dropped_attributes_count": 3,
            "trace_id": "0102030405060708090a0b0c0d0e0f10",
            "span_id": "f1f2f3f4f5f6f7f8",
            "flags": 1,
            "time_unix_nano": "1793095200123456789",
            "observed_time_unix_nano": "1793095200223456789",
            "scope": scope,
            "resource": resource,
            "resource_dropped_attributes_count": 2,
        }),
        metadata: json!({
            "source_kind": "otlp", "source_ip": "127.0.0.1", "service": "checkout \"eu\"", "source": "node-7",
            "level": "error", "session_id": "s-42",
        }),
    };
    assert_eq!(events[0], expected);
    let structured = json!({
        "body": {"event": "structured", "n": 1}, "severity_number": 9, "scope": scope, "resource": resource,
        "resource_dropped_attributes_count": 2,
    });
    assert_eq!((&events[1].payload, events[1].event_type.as_str()), (&structured, "log"));
    assert_eq!(events[1].timestamp, Some(Micros(1_793_095_200_000_001)));
    let bare = json!({"resource": resource, "resource_dropped_attributes_count": 2});
    assert_eq!((&events[2].payload, events[2].timestamp), (&bare, None));
    assert_eq!(events[3].payload["body"], json!([1, "two"]));
    assert_eq!(events[3].timestamp, Some(Micros(1_793_095_200_000_000)));
    assert_eq!(events[3].metadata["level"], "emergency");
    assert_eq!(events[4].entity, "only-a-host");
    assert_eq!(
        events[4].metadata,
        json!({"source_kind": "otlp", "source_ip": "127.0.0.1", "source": "only-a-host", "level": "trace"})
    );
    let from_a_host = json!({
        "message": "from a host", "severity_text": "trace", "severity_number": 1, "resource": {"host.name": "only-a-host"}
    });
    assert_eq!(events[4].payload, from_a_host);
    assert_eq!(events[5].entity, FALLBACK_ENTITY);
    assert_eq!(events[5].payload, json!({"message": "from nowhere", "severity_number": 13}));
}

#[test]
fn levels_rise_with_severity_numbers() {
    const NAMES: [&str; 9] = ["trace", "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    let ranks: Vec<usize> =
        (1..=24).map(|number| NAMES.iter().position(|&name| Some(name) == level_name(number)).unwrap()).collect();
    assert!(ranks.is_sorted());
    for rank in 0..NAMES.len() {
        assert!(ranks.contains(&rank));
    }
    for number in [i32::MIN, -1, 0, 25, i32::MAX] {
        assert_eq!(level_name(number), None);
    }
}

#[test]
fn a_resource_counts_wherever_it_stands() {
    let scope_logs = r#"[{"logRecords":[{"body":{"stringValue":"x"}}],"scope":{"name":"n"}}]"#;
    let resource = r#"{"attributes":[{"value":{"stringValue":"shop"},"key":"service.name"}]}"#;
    let ordered = format!(
        r#"{{"resourceLogs":[{{"resource":{resource},"scopeLogs":[{{"scope":{{"name":"n"}},"logRecords":[{{"body":{{"stringValue":"x"}}}}]}}]}}]}}"#
    );
    let reversed =
        format!(r#"{{"resourceLogs":[{{"schemaUrl":"u","scopeLogs":{scope_logs},"resource":{resource}}}]}}"#);
    let expected = events(Encoding::Json, ordered.as_bytes());
    assert_eq!(expected[0].entity, "shop");
    assert_eq!(
        expected[0].payload,
        json!({"message": "x", "scope": {"name": "n"}, "resource": {"service.name": "shop"}})
    );
    assert_eq!(events(Encoding::Json, reversed.as_bytes()), expected);

    let record = bytes(5, text_value("x"));
    let scope = bytes(1, "n");
    // A value before its key as well.
    let named = [bytes(2, text_value("shop")), bytes(1, "service.name")].concat();
    let scope_logs = [bytes(2, &record), bytes(1, &scope)].concat();
    let protobuf = bytes(1, [bytes(2, scope_logs), bytes(1, bytes(1, named))].concat());
    assert_eq!(events(Encoding::Protobuf, &protobuf), expected);
}

#[test]
fn a_resource_in_parts_is_one() {
    let part = |key: &str| bytes(1, bytes(1, attribute(key, &text_value("v"))));
    let logs = [part("a"), bytes(2, bytes(2, b"")), part("b")].concat();
    assert_eq!(events(Encoding::Protobuf, &bytes(1, logs))[0].payload, json!({"resource": {"a": "v", "b": "v"}}));
}

#[test]
fn the_last_member_of_a_value_counts() {
    let value = [text_value("first"), number(3, 7)].concat();
    let protobuf = request(&[], &[[bytes(5, text_value("other")), bytes(5, value)].concat()]);
    assert_eq!(events(Encoding::Protobuf, &protobuf)[0].payload, json!({"body": 7}));
    let json = json_record(r#"{"body":{"stringValue":"first","intValue":7}}"#);
    assert_eq!(json.payload, json!({"body": 7}));
}

#[test]
fn text_that_no_stored_json_has_is_replaced() {
    let record = [bytes(5, text_value(b"a\xff\0b")), bytes(6, attribute("k\0", &text_value("\u{1}")))].concat();
    let named = attribute("service.name", &text_value(b"caf\xe9"));
    let events = events(Encoding::Protobuf, &request(&[named], &[record]));
    assert_eq!(events[0].entity, "caf\u{fffd}");
    assert_eq!(events[0].payload["message"], "a\u{fffd}\u{fffd}b");
    assert_eq!(events[0].payload["attributes"], json!({"k\u{fffd}": "\u{1}"}));
}

#[test]
fn an_empty_request_is_a_success() {
    for (encoding, body) in [
        (Encoding::Protobuf, &b""[..]),
        (Encoding::Protobuf, &bytes(1, b"")),
        (Encoding::Json, b"{}"),
        (Encoding::Json, br#" {"resourceLogs":[ ]} "#),
        (Encoding::Json, br#"{"resourceLogs":null,"more":[{}]}"#),
        (Encoding::Json, br#"{"resourceLogs":[{"scopeLogs":[{}]},{}]}"#),
    ] {
        assert_eq!(outcome(encoding, body), (Outcome::default(), vec![]));
    }
}

// ----- JSON -----

#[test]
fn json_takes_what_the_mapping_of_protobuf_allows() {
    let record = json_record(
        r#"{"timeUnixNano":1793095200000000000,"severityNumber":"9","flags":1.0,"droppedAttributesCount":1e2,"body":null,
            "traceId":"0102030405060708090A0B0C0D0E0F10","spanId":"","unknown":{"traceId":5},"sever\u0069tyText":"INFO",
            "attributes":[{"key":"i","value":{"intValue":-5}},{"key":"d","value":{"doubleValue":"2.5"}},
                {"key":"b","value":{"bytesValue":"-_8"}},{"key":"n","value":null},{"value":{"stringValue":"x\/y\u00e9"}},
                {"value":{"kvlistValue":{"values":[{"value":{"boolValue":true},"key":"in"}]}},"key":"out"},
                {"key":"list","value":{"arrayValue":{}}}]}"#,
    );
    let expected = json!({
        "severity_text": "INFO", "severity_number": 9, "dropped_attributes_count": 100, "flags": 1,
        "trace_id": "0102030405060708090a0b0c0d0e0f10",
        "attributes": {"i": -5, "d": 2.5, "b": "+/8=", "n": null, "": "x/yé", "out": {"in": true}, "list": []},
    });
    assert_eq!(record.payload, expected);
    assert_eq!(record.timestamp, Some(Micros(1_793_095_200_000_000)));
    let session = json_record(r#"{"attributes":[{"value":{"stringValue":"s\"1"},"key":"session\u002eid"}]}"#);
    assert_eq!(session.metadata["session_id"], "s\"1");
    let not_a_name = json_record(r#"{"attributes":[{"key":"session.id","value":{"intValue":"7"}}]}"#);
    assert_eq!(not_a_name.metadata.get("session_id"), None);
    // An id of another length says that there is none; original names are not names of this form.
    assert_eq!(json_record(r#"{"traceId":"0102","span_id":"x","time_unix_nano":"5"}"#).payload, json!({}));
}

#[test]
fn json_fields_of_another_kind_refuse_the_request() {
    for record in [
        "7",
        "null",
        "[]",
        r#"{"timeUnixNano":"soon"}"#,
        r#"{"timeUnixNano":-1}"#,
        r#"{"timeUnixNano":1.5}"#,
        r#"{"timeUnixNano":18446744073709551616}"#,
        r#"{"timeUnixNano":true}"#,
        r#"{"severityNumber":"SEVERITY_NUMBER_INFO"}"#,
        r#"{"severityNumber":2147483648}"#,
        r#"{"flags":4294967296}"#,
        r#"{"severityText":5}"#,
        r#"{"traceId":"AQIDBAUGBwgJCgsMDQ4PEA=="}"#,
        r#"{"spanId":"123"}"#,
        r#"{"eventName":{}}"#,
        r#"{"body":"text"}"#,
        r#"{"body":{"stringValue":1}}"#,
        r#"{"body":{"boolValue":"true"}}"#,
        r#"{"body":{"intValue":"9223372036854775808"}}"#,
        r#"{"body":{"intValue":"inf"}}"#,
        r#"{"body":{"doubleValue":"nan"}}"#,
        r#"{"body":{"doubleValue":1e400}}"#,
        r#"{"body":{"bytesValue":"a*"}}"#,
        r#"{"body":{"arrayValue":[]}}"#,
        r#"{"body":{"kvlistValue":{"values":{}}}}"#,
        r#"{"attributes":{"a":1}}"#,
        r#"{"attributes":[7]}"#,
        r#"{"attributes":[{"key":7}]}"#,
    ] {
        let body = json_request(record);
        let error = error(Encoding::Json, body.as_bytes());
        assert!(matches!(error, OtlpError::Field { .. }), "{record}: {error}");
        assert!((body.find(record).unwrap()..body.len() - 6).contains(&error.at()), "{record}: {error}");
    }
    for body in ["[]", r#"{"resourceLogs":{}}"#, r#"{"resourceLogs":[{"scopeLogs":[1]}]}"#] {
        assert!(matches!(error(Encoding::Json, body.as_bytes()), OtlpError::Field { .. }), "{body}");
    }
    for record in [r#"{"body":{},"body":{}}"#, r#"{"attributes":[{"key":"a","key":"b"}]}"#] {
        let error = error(Encoding::Json, json_request(record).as_bytes());
        assert!(matches!(error, OtlpError::Duplicate { .. }), "{record}: {error}");
    }
    for body in [
        "",
        "{",
        "{}{}",
        "{\"resourceLogs\":[}",
        "\u{feff}{}",
        &json_request("{\"body\":{\"stringValue\":\"\\u0000\"}}"),
    ] {
        assert!(matches!(error(Encoding::Json, body.as_bytes()), OtlpError::Json(_)), "{body}");
    }
    assert!(matches!(error(Encoding::Json, b"{\"a\":\"\xff\"}"), OtlpError::Json(_)));
}

// ----- protobuf -----

#[test]
fn unknown_protobuf_fields_are_skipped() {
    let unknown = [
        number(100, u64::MAX),
        [varint(101 << 3 | 1), vec![9; 8]].concat(),
        bytes(102, b"\xff\xff"),
        [varint(103 << 3 | 5), vec![9; 4]].concat(),
        number((1 << 29) - 1, 0),
    ]
    .concat();
    let key_value = [unknown.clone(), attribute("k", &[unknown.clone(), text_value("v"), unknown.clone()].concat())];
    let record = [unknown.clone(), bytes(6, key_value.concat()), unknown.clone()].concat();
    let scope_logs = [unknown.clone(), bytes(2, record), bytes(1, &unknown)].concat();
    let resource_logs = [bytes(1, &unknown), unknown.clone(), bytes(2, scope_logs)].concat();
    let body = [unknown, bytes(1, resource_logs)].concat();
    assert_eq!(events(Encoding::Protobuf, &body)[0].payload, json!({"attributes": {"k": "v"}}));
}

#[test]
fn broken_protobuf_refuses_the_request_where_it_breaks() {
    let whole = request(&[], &[bytes(5, text_value("stored before"))]);
    let check = |broken: &[u8], reason: WireReason| {
        let body = [&whole, broken].concat();
        assert_eq!(
            error(Encoding::Protobuf, &body),
            OtlpError::Wire(WireError { at: whole.len(), reason }),
            "{broken:?}"
        );
    };
    check(&[0x0b], WireReason::Group);
    check(&[0x0c], WireReason::Group);
    check(&[0x0e, 0], WireReason::UnknownType);
    check(&[0x0f, 0], WireReason::UnknownType);
    check(&[0x02, 0], WireReason::FieldNumber);
    check(&varint(1 << 32), WireReason::FieldNumber);
    check(&[0x80], WireReason::Ends);
    check(&[0x0a], WireReason::Ends);
    check(&[0x0a, 1], WireReason::Ends);
    check(&[0x09, 1, 2, 3], WireReason::Ends);
    check(&[0x0d, 1, 2, 3], WireReason::Ends);
    check(&[vec![0x0a], varint(u64::MAX)].concat(), WireReason::Ends);
    check(&[vec![0x50], vec![0xff; 9], vec![0x02]].concat(), WireReason::Varint);
    check(&[vec![0x50], vec![0x80; 11]].concat(), WireReason::Varint);
    check(&[0x08, 1], WireReason::WrongType { number: 1 });
    // A length that leaves its message but not the body.
    let inside = bytes(1, [0x12, 9]);
    let error = error(Encoding::Protobuf, &[inside, vec![0; 20]].concat());
    assert_eq!(error, OtlpError::Wire(WireError { at: 2, reason: WireReason::Ends }));
    // The longest varint there is.
    assert_eq!(events(Encoding::Protobuf, &number(100, u64::MAX)), vec![]);
}

// ----- ceilings -----

fn nested(levels: usize) -> (Vec<u8>, String) {
    let mut protobuf = text_value("deep");
    let mut json = r#"{"stringValue":"deep"}"#.to_owned();
    for level in 0..levels {
        if level % 2 == 0 {
            protobuf = bytes(6, bytes(1, attribute("k", &protobuf)));
            json = format!(r#"{{"kvlistValue":{{"values":[{{"key":"k","value":{json}}}]}}}}"#);
        } else {
            protobuf = bytes(5, bytes(1, protobuf));
            json = format!(r#"{{"arrayValue":{{"values":[{json}]}}}}"#);
        }
    }
    (
        request(&[], &[bytes(6, attribute("a", &protobuf))]),
        json_request(&format!(r#"{{"attributes":[{{"key":"a","value":{json}}}]}}"#)),
    )
}

#[test]
fn nesting_is_bounded_alike_in_both_encodings() {
    let (protobuf, json) = nested(VALUE_DEPTH_MAX as usize);
    let deepest = events(Encoding::Protobuf, &protobuf);
    assert_eq!(events(Encoding::Json, json.as_bytes()), deepest);
    let (protobuf, json) = nested(VALUE_DEPTH_MAX as usize + 1);
    for (encoding, body) in [(Encoding::Protobuf, protobuf.as_slice()), (Encoding::Json, json.as_bytes())] {
        let (outcome, events) = outcome(encoding, body);
        assert_eq!((outcome.rejected_count, events.len()), (1, 0));
        assert_eq!(outcome.first_rejection.unwrap().fault, RecordFault::TooDeep);
    }
    // Far beyond it nothing is followed: each level is a few bytes and no call.
    let (protobuf, json) = nested(2000);
    assert_eq!(outcome(Encoding::Protobuf, &protobuf).0.rejected_count, 1);
    assert!(matches!(error(Encoding::Json, json.as_bytes()), OtlpError::Json(_)));
}

#[test]
fn a_record_that_is_no_event_does_not_take_others_with_it() {
    let named = |name: &str| bytes(12, name);
    let records = [
        named("first"),
        named(&"x".repeat(257)),
        named("_system.secret"),
        named("two\nlines"),
        bytes(5, text_value(vec![b'x'; PAYLOAD_BYTES_MAX])),
        named("Last One"),
    ];
    let body = request(&[], &records);
    let (outcome, events) = outcome(Encoding::Protobuf, &body);
    assert_eq!(events.iter().map(|event| event.event_type.as_str()).collect::<Vec<_>>(), ["first", "Last One"]);
    assert_eq!((outcome.record_count, outcome.rejected_count), (6, 4));
    assert_eq!(outcome.rejected_by_reason().collect::<Vec<_>>(), [("too_large", 1), ("invalid_name", 3)]);
    let first = outcome.first_rejection.unwrap();
    assert_eq!(first.record_index, 1);
    assert_eq!(first.fault, RecordFault::Engine(EventError::TypeLength { bytes: 257 }));
    assert_eq!(&body[first.span], &records[1]);

    let json = json_request(r#"{"eventName":"ok"},{"eventName":"_system.x"} , {"body":{"stringValue":"x"}}"#);
    let (outcome, events) = self::outcome(Encoding::Json, json.as_bytes());
    assert_eq!((events.len(), outcome.rejected_count), (2, 1));
    let first = outcome.first_rejection.unwrap();
    assert_eq!((first.record_index, &json[first.span]), (1, r#"{"eventName":"_system.x"}"#));
}

#[test]
fn names_that_no_entity_has_reject_the_records_of_their_resource() {
    for name in ["read-model:x", "a\tb", &"x".repeat(257)] {
        let named = attribute("service.name", &text_value(name));
        let body = [request(&[named], &[vec![], vec![]]), request(&[], &[vec![]])].concat();
        let (outcome, events) = outcome(Encoding::Protobuf, &body);
        assert_eq!((outcome.rejected_count, events.len()), (2, 1), "{name:?}");
        assert_eq!(outcome.first_rejection.unwrap().fault.reason(), "invalid_name");
    }
}

#[test]
fn records_beyond_a_batch_are_rejected_and_counted() {
    let records = vec![vec![]; BATCH_EVENTS_MAX + 7];
    let (outcome, events) = outcome(Encoding::Protobuf, &request(&[], &records));
    assert_eq!((events.len(), outcome.rejected_count), (BATCH_EVENTS_MAX, 7));
    let first = outcome.first_rejection.unwrap();
    assert_eq!((first.record_index, first.fault), (BATCH_EVENTS_MAX, RecordFault::TooManyRecords));

    let json = json_request(&vec!["{}"; BATCH_EVENTS_MAX + 1].join(","));
    let (outcome, events) = self::outcome(Encoding::Json, json.as_bytes());
    assert_eq!((events.len(), outcome.rejected_count), (BATCH_EVENTS_MAX, 1));
}

#[test]
fn a_small_request_cannot_become_more_than_a_batch() {
    let large = attribute("large", &text_value(vec![b'x'; 500_000]));
    let records = vec![vec![]; 5000];
    let mut parser = Parser::new();
    let outcome = parser.parse(Encoding::Protobuf, &request(&[large], &records)).unwrap();
    assert!(parser.batch.records().len() <= BATCH_BYTES_MAX);
    assert_eq!(outcome.first_rejection.as_ref().unwrap().fault, RecordFault::BatchFull);
    assert_eq!(outcome.record_count, 5000);
    assert_eq!(parser.batch.event_count(), BATCH_BYTES_MAX / 500_100);

    // Two attributes that fit, and a resource that does not: no record is put together at all.
    let half = |key| attribute(key, &text_value(vec![b'\x01'; 100_000]));
    let outcome = parser.parse(Encoding::Protobuf, &request(&[half("a"), half("b")], &records)).unwrap();
    assert_eq!(outcome.rejected_by_reason().collect::<Vec<_>>(), [("too_large", 5000)]);
    assert!(parser.batch.is_empty());
}

#[test]
fn what_is_never_stored_is_not_copied_either() {
    let large = || attribute("large", &text_value(vec![b'x'; 900_000]));
    // Each of these records is rejected for its name only once it is put together.
    let records = vec![bytes(12, "x".repeat(257)); 5000];
    let (outcome, _) = outcome(Encoding::Protobuf, &request(&[large()], &records));
    let stopped_after = BATCH_BYTES_MAX / 900_300;
    let expected = [("invalid_name", stopped_after), ("batch_full", 5000 - stopped_after)];
    assert_eq!(outcome.rejected_by_reason().collect::<Vec<_>>(), expected);
    // A copy of the resource for each scope would be a terabyte.
    let scopes = bytes(2, b"").repeat(1_000_000);
    let body = bytes(1, [bytes(1, bytes(1, large())), scopes].concat());
    assert_eq!(events(Encoding::Protobuf, &body), vec![]);
}

// ----- damage -----

/// The fields of a message, by number, of those that are messages or bytes. `None` where it breaks.
fn walk(mut message: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    fn take<'m>(message: &mut &'m [u8], len: u64) -> Option<&'m [u8]> {
        let (taken, rest) = message.split_at_checked(usize::try_from(len).ok()?)?;
        *message = rest;
        Some(taken)
    }
    fn take_varint(message: &mut &[u8]) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = take(message, 1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            0 => drop(take_varint(&mut message)?),
            1 => drop(take(&mut message, 8)?),
            2 => {
                let len = take_varint(&mut message)?;
                fields.push((tag >> 3, take(&mut message, len)?));
            }
            5 => drop(take(&mut message, 4)?),
            _ => return None,
        }
    }
    Some(fields)
}

/// How many records a request has, to whoever knows no more of it than where its fields are.
fn count_records(request: &[u8]) -> Option<usize> {
    let mut messages = vec![request];
    for number in [1, 2, 2] {
        let mut inside = Vec::new();
        for message in messages {
            inside.extend(walk(message)?.into_iter().filter(|(found, _)| *found == number).map(|(_, bytes)| bytes));
        }
        messages = inside;
    }
    Some(messages.len())
}

#[test]
fn every_cut_and_every_wrong_byte_of_golden_protobuf_is_refused_or_says_what_is_stored() {
    // A message may end behind any of its fields.
    assert!(0 < check_broken(Encoding::Protobuf, &[EVERY_FIELD_PROTOBUF, SDK_PROTOBUF]));
}

#[test]
fn every_cut_and_every_wrong_byte_of_golden_json_is_refused_or_says_what_is_stored() {
    assert_eq!(check_broken(Encoding::Json, &[EVERY_FIELD_JSON, SDK_JSON]), 0);
}

/// How many of the cut ones were taken.
fn check_broken(encoding: Encoding, goldens: &[&[u8]]) -> usize {
    let (mut parser, mut outcomes) = (Parser::new(), [0; 2]);
    let mut check = |body: &[u8]| {
        let result = parser.parse(encoding, body);
        outcomes[usize::from(result.is_ok())] += 1;
        match result {
            Ok(outcome) => {
                assert_eq!(outcome.record_count, outcome.rejected_count + parser.batch.event_count());
                match encoding {
                    Encoding::Protobuf => assert_eq!(count_records(body), Some(outcome.record_count)),
                    Encoding::Json => {
                        serde_json::from_slice::<serde::de::IgnoredAny>(body).unwrap();
                    }
                }
                for record in parser.records() {
                    for json in [record.payload, record.metadata] {
                        assert!(json.starts_with(b"{") && is_json(json), "{}", json.escape_ascii());
                    }
                }
                true
            }
            Err(error) => {
                assert!(error.at() <= body.len());
                false
            }
        }
    };
    let mut taken_cuts = 0;
    for golden in goldens {
        assert!(check(golden));
        every_cut(golden.trim_ascii_end(), |cut| taken_cuts += usize::from(check(cut)));
        every_wrong_byte(golden, |_, changed| {
            check(changed);
        });
    }
    assert!(outcomes.iter().all(|&count| count > 50_000), "{outcomes:?}");
    taken_cuts
}

// ----- answers -----

fn reply() -> ReplyTo {
    ReplyTo {
        request_id: RequestId::from_client(b"req-1").unwrap(),
        persistence: Persistence::KeepAlive,
        head_only: false,
        may_chunk: true,
        cors: Default::default(),
    }
}

/// Head and body of an answer.
fn answered(write: impl FnOnce(&mut Vec<u8>)) -> (String, Vec<u8>) {
    let mut out = Vec::new();
    write(&mut out);
    let end = out.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(out[..end].to_vec()).unwrap(), out[end..].to_vec())
}

#[test]
fn a_whole_success_says_nothing() {
    let (head, body) = answered(|out| respond(out, &reply(), &[], Encoding::Protobuf, &Outcome::default()));
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/x-protobuf\r\n"), "{head}");
    assert_eq!(body, b"");
    let (head, body) = answered(|out| respond(out, &reply(), &[], Encoding::Json, &Outcome::default()));
    assert!(head.contains("Content-Type: application/json\r\n"), "{head}");
    assert_eq!(body, b"{}");
}

#[test]
fn a_partial_success_counts_and_tells_the_first_fault() {
    let (outcome, _) = outcome(Encoding::Protobuf, &request(&[], &[vec![], bytes(12, "_system.x")]));
    let message = "record 1: event_name or service.name is reserved for the server; use another name";
    let (_, body) = answered(|out| respond(out, &reply(), &[], Encoding::Json, &outcome));
    let expected = json!({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": message}});
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    let (_, body) = answered(|out| respond(out, &reply(), &[], Encoding::Protobuf, &outcome));
    assert_eq!(body, bytes(1, [number(1, 1), bytes(2, message)].concat()));

    let many = Outcome { rejected_count: 300, ..outcome };
    let mut body = Vec::new();
    put_outcome(&mut body, Encoding::Protobuf, &many);
    let message = format!("{message} (the first of 300)");
    assert_eq!(body, bytes(1, [number(1, 300), bytes(2, message)].concat()));
}

#[test]
fn a_refusal_is_a_status_in_the_encoding_of_the_request() {
    let problem = Problem::from(&error(Encoding::Protobuf, b"\x0b"));
    let (head, body) = answered(|out| refuse(out, &reply(), &[], Encoding::Protobuf, &problem));
    assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
    assert!(head.contains("Content-Type: application/x-protobuf\r\n"), "{head}");
    let message = "the protobuf field at byte 0 is a group, which is not read here";
    assert_eq!(body, [number(1, 3), bytes(2, message)].concat());

    let problem = Problem::new(ErrorCode::Unauthorized, "no \"key\"");
    let (head, body) = answered(|out| refuse(out, &reply(), &[], Encoding::Json, &problem));
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
    assert!(head.contains("WWW-Authenticate: Bearer"), "{head}");
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), json!({"code": 16, "message": "no \"key\""}));

    let problem = Problem::overloaded("busy");
    let (head, _) = answered(|out| refuse(out, &reply(), &[], Encoding::Json, &problem));
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 1\r\n"), "{head}");
}

#[test]
fn exporters_try_again_what_may_succeed_later_and_nothing_else() {
    const TRIED_AGAIN: [u16; 4] = [429, 502, 503, 504];
    for code in ErrorCode::ALL {
        let is_tried_again = TRIED_AGAIN.contains(&http_status(code));
        match code {
            // The connection ends, or nothing was stored that a second request could double.
            ErrorCode::RequestTimeout | ErrorCode::RequestInProgress => assert!(!is_tried_again),
            // A new request may find another node or a disk that works again.
            ErrorCode::OutcomeUnknown | ErrorCode::ReadOnly | ErrorCode::PaymentOutcomeUnknown => {
                assert!(is_tried_again)
            }
            _ => assert_eq!(is_tried_again, code.is_retryable(), "{code:?}"),
        }
    }
}

#[test]
fn the_encoding_is_told_by_the_media_type_alone() {
    for (value, encoding) in [
        ("application/x-protobuf", Some(Encoding::Protobuf)),
        ("Application/X-Protobuf ; charset=binary", Some(Encoding::Protobuf)),
        ("application/json", Some(Encoding::Json)),
        ("application/json;charset=utf-8", Some(Encoding::Json)),
        ("application/jsonl", None),
        ("application/protobuf", None),
        ("text/plain", None),
        ("", None),
    ] {
        assert_eq!(Encoding::of_content_type(value.as_bytes()), encoding, "{value}");
    }
}
