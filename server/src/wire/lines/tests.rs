use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ringlog_engine::event::{FingerprintKey, Source};
use ringlog_engine::format::record::Record;
use ringlog_engine::ids::Tenant;

use super::*;
use crate::auth::presented::Presented;
use crate::wire::broken::every_wrong_byte;
use crate::wire::http::{HeadLimits, parse_head};

const BROWSER_EVENTS: &[u8] = include_bytes!("../../../tests/data/lines/browser_events.http");
const BROWSER_LOGS: &[u8] = include_bytes!("../../../tests/data/lines/browser_logs.http");
const NODE_EVENTS: &[u8] = include_bytes!("../../../tests/data/lines/node_events.http");

const SENDER: Received = Received { source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)) };
const ORIGIN: &str = r#""source_ip":"192.0.2.7","source_kind":"http"}"#;
const DEVICE: &str = "25367c4ba7d0aab4fb7d20188ccff883";
const SESSION: &str = "d1088a7e5c1f0b2294c3d7e6f5a41b90";

fn new_batch() -> EventBatch {
    EventBatch::new(Tenant(1), Source::Http, FingerprintKey(7))
}

#[derive(Debug, Clone, PartialEq)]
struct Event {
    kind: EventKind,
    event_type: String,
    entity: String,
    payload: String,
    metadata: String,
    timestamp: Option<i64>,
}

/// What two other parsers say. simd-json reads numbers into machine words and refuses those that do not fit; the second
/// looks at their form alone, as we do.
pub(in crate::wire) fn is_json(bytes: &[u8]) -> bool {
    simd_json::to_tape(&mut bytes.to_vec()).is_ok() || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

/// The events of a batch, each of them checked for JSON by another parser than ours.
fn events(batch: &EventBatch) -> Vec<Event> {
    let mut bytes = batch.records();
    let mut events = Vec::new();
    for _ in batch.keys() {
        let record = Record::parse(bytes).unwrap();
        bytes = &bytes[record.record_bytes..];
        for json in [record.payload, record.metadata] {
            assert_eq!(json.first(), Some(&b'{'));
            assert!(is_json(json), "{}", json.escape_ascii());
        }
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        events.push(Event {
            kind: record.kind,
            event_type: record.event_type.into(),
            entity: record.entity.into(),
            payload: text(record.payload),
            metadata: text(record.metadata),
            timestamp: record.timestamp.map(|at| at.0),
        });
    }
    assert!(bytes.is_empty());
    events
}

fn taken(shape: Shape, body: impl AsRef<[u8]>) -> Result<(Lines, Vec<Event>), LinesError> {
    let mut batch = new_batch();
    let lines = put(body.as_ref(), shape, &SENDER, &mut Scratch::default(), &mut batch)?;
    assert_eq!(lines.accepted, batch.event_count());
    assert_eq!(lines.refused.len(), lines.rejected.min(LINES_NAMED_MAX));
    Ok((lines, events(&batch)))
}

fn one(shape: Shape, line: &str) -> Event {
    let (lines, mut events) = taken(shape, line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
    assert_eq!((lines.accepted, lines.rejected), (1, 0), "{line}");
    events.remove(0)
}

fn fault(shape: Shape, line: &str) -> String {
    let Err(LinesError::NoGoodLine(lines)) = taken(shape, line) else { panic!("{line} was taken") };
    assert_eq!(lines.refused[0].line, 1);
    lines.refused[0].fault.to_string()
}

/// What a request says: its key and its body.
fn request(bytes: &[u8]) -> (String, &[u8]) {
    let (head, len) = parse_head(bytes, &HeadLimits::SERVER).unwrap().unwrap();
    let presented = Presented::by_precedence(head.authorization(), head.x_api_key(), head.query());
    (String::from_utf8(presented.secret().unwrap().to_vec()).unwrap(), &bytes[len..])
}

fn golden(shape: Shape, bytes: &[u8], expected: &[(EventKind, &str, &str, &str, &str, i64)]) {
    let (key, body) = request(bytes);
    assert_eq!(key, "feed1e11feed1e11feed1e11feed1e11");
    let (lines, events) = taken(shape, body).unwrap();
    assert_eq!((lines.accepted, lines.rejected), (expected.len(), 0));
    for (event, &(kind, event_type, entity, payload, metadata, ms)) in events.iter().zip(expected) {
        let expected = Event {
            kind,
            event_type: event_type.into(),
            entity: entity.into(),
            payload: payload.into(),
            metadata: format!("{metadata},{ORIGIN}"),
            timestamp: Some(ms * 1000),
        };
        assert_eq!(*event, expected);
    }
}

#[test]
fn the_browser_sdks_events_become_events() {
    let metadata = format!(r#"{{"service":"shop.example","session_id":"{SESSION}","device_id":"{DEVICE}""#);
    let context = r#"{"reason":"session_start","browser":"Chrome","browser_version":"126.0","os_name":"Linux","locale":"en-US","cpu_cores":8,"touch":false,"device_type":"desktop","screen_width":1920,"screen_height":1080,"timezone":"UTC","dark_mode":false}"#;
    let clicked = r#"{"utm_source":"x","button":"signup"}"#;
    let identify = r#"{"user_id":"user_123","name":"Alice"}"#;
    let order =
        r#"{"user_id":"user_123","utm_source":"x","sku":"x","order_id":"ord_1","amount":9.99,"currency":"USD"}"#;
    golden(
        Shape::Events,
        BROWSER_EVENTS,
        &[
            (EventKind::Event, "context", DEVICE, context, &metadata, 1_795_281_149_302),
            (EventKind::Event, "Button Clicked", DEVICE, clicked, &metadata, 1_795_281_149_305),
            (EventKind::Identify, "identify", "user_123", identify, &metadata, 1_795_281_149_306),
            (EventKind::Event, "Order Completed", "user_123", order, &metadata, 1_795_281_149_307),
        ],
    );
}

#[test]
fn the_browser_sdks_logs_become_events() {
    let metadata = |level: &str| {
        format!(r#"{{"service":"shop.example","session_id":"{SESSION}","level":"{level}","source":"browser""#)
    };
    let started = r#"{"message":"Checkout started","section":"commerce"}"#;
    let raw = r#"{"message":"Raw","data":"a bare string"}"#;
    golden(
        Shape::Logs,
        BROWSER_LOGS,
        &[
            (EventKind::Log, "log", "shop.example", started, &metadata("info"), 1_795_281_149_310),
            (
                EventKind::Log,
                "log",
                "shop.example",
                r#"{"message":"Payment failed"}"#,
                &metadata("critical"),
                1_795_281_149_311,
            ),
            (EventKind::Log, "log", "shop.example", raw, &metadata("debug"), 1_795_281_149_312),
        ],
    );
}

#[test]
fn the_node_sdks_events_become_events() {
    let metadata = r#"{"service":"svc","session_id":"b238c1a0e5f94d7186a2b3c4d5e6f708","device_id":"bf01f2d852124da3bd4cf4bedcab5545""#;
    let viewed = r#"{"user_id":"user_1","url":"/home"}"#;
    let alias = r#"{"user_id":"user_1","previous_id":"anon_1"}"#;
    let group = r#"{"user_id":"user_1","group_id":"g_1","plan":"pro"}"#;
    golden(
        Shape::Events,
        NODE_EVENTS,
        &[
            (EventKind::Event, "Page Viewed", "user_1", viewed, metadata, 1_795_281_118_215),
            (EventKind::Event, "alias", "user_1", alias, metadata, 1_795_281_118_216),
            (EventKind::Event, "group", "user_1", group, metadata, 1_795_281_118_217),
        ],
    );
}

/// An event line with these members beside a device.
fn event_with(members: &str) -> String {
    format!(r#"{{"device_id":"{DEVICE}",{members}}}"#)
}

#[test]
fn a_payload_is_flat_in_the_order_of_its_parts_and_its_bytes_are_kept() {
    for (members, payload) in [
        (r#""type":"track""#, "{}"),
        (r#""type":"track","properties":{},"traits":{ },"context":null"#, "{}"),
        (r#""a":1,"type":"track","b":2"#, r#"{"a":1,"b":2}"#),
        (r#""a" : 1 , "b" :2,"type":"track""#, r#"{"a" : 1 , "b" :2}"#),
        (
            r#""traits":{"t":1},"context":{"os":{"n":"L"}},"properties":{ "p":[1, 2],"q":"}" },"type":"track","x":0"#,
            r#"{"x":0,"p":[1, 2],"q":"}","t":1,"context":{"os":{"n":"L"}}}"#,
        ),
        (
            r#""type":"track","n":1e999,"n":123456789012345678901234567890,"s":"\u00e9\/""#,
            r#"{"n":1e999,"n":123456789012345678901234567890,"s":"\u00e9\/"}"#,
        ),
        (
            r#""type":"track","user_id":null,"group_id":7,"level":"x","source":1"#,
            r#"{"user_id":null,"group_id":7,"level":"x","source":1}"#,
        ),
        (r#""ty\u0070e":"track","propert\u0069es":{"a":1}"#, r#"{"a":1}"#),
        (r#""type":"track","context":"a string""#, r#"{"context":"a string"}"#),
    ] {
        assert_eq!(one(Shape::Events, &event_with(members)).payload, payload, "{members}");
    }
    for (line, payload) in [
        (r#"{"message":"m"}"#, r#"{"message":"m"}"#),
        (
            r#"{"user_id":"u","message":"m","level":"info","event":"e","data":{"a":1,"message":"n"}}"#,
            r#"{"user_id":"u","message":"m","event":"e","a":1,"message":"n"}"#,
        ),
        (r#"{"data":[1],"message":"m"}"#, r#"{"message":"m","data":[1]}"#),
        (r#"{"data":null,"message":""}"#, r#"{"message":""}"#),
    ] {
        assert_eq!(one(Shape::Logs, line).payload, payload, "{line}");
    }
}

#[test]
fn an_event_has_its_name_or_its_type() {
    for (members, event_type, kind) in [
        (r#""type":"track","event":"Sign Up""#, "Sign Up", EventKind::Event),
        (r#""type":"track""#, "track", EventKind::Event),
        (r#""type":"track","event":"""#, "track", EventKind::Event),
        (r#""type":"track","event":null"#, "track", EventKind::Event),
        (r#""type":"enrich""#, "enrich", EventKind::Event),
        (r#""type":"something else""#, "something else", EventKind::Event),
        (r#""event":"caf\u00e9""#, "caf\u{e9}", EventKind::Event),
        (r#""type":"identify","event":"Signed Up""#, "Signed Up", EventKind::Identify),
    ] {
        let event = one(Shape::Events, &event_with(members));
        assert_eq!((event.event_type.as_str(), event.kind), (event_type, kind), "{members}");
    }
    let both = one(Shape::Events, &event_with(r#""type":"group","event":"Joined""#));
    assert_eq!(both.metadata, format!(r#"{{"device_id":"{DEVICE}","type":"group",{ORIGIN}"#));
    assert_eq!(one(Shape::Logs, r#"{"message":"m","type":"enrich"}"#).event_type, "enrich");
}

#[test]
fn an_event_is_about_its_user_or_its_device_and_a_log_about_its_service_or_source() {
    for (members, entity) in
        [(r#""user_id":"u\u0031""#, "u1"), (r#""user_id":"""#, DEVICE), (r#""user_id":null"#, DEVICE)]
    {
        assert_eq!(one(Shape::Events, &event_with(&format!(r#""type":"track",{members}"#))).entity, entity);
    }
    assert_eq!(one(Shape::Events, r#"{"type":"track","user_id":"u","device_id":null}"#).entity, "u");
    for device in [
        "25367C4BA7D0AAB4FB7D20188CCFF883",
        "25367c4b-a7d0-aab4-fb7d-20188ccff883",
        "25367C4B-A7D0-AAB4-FB7D-20188CCFF883",
    ] {
        let event = one(Shape::Events, &format!(r#"{{"type":"track","device_id":"{device}"}}"#));
        assert_eq!(event.entity, DEVICE);
        assert!(event.metadata.contains(&format!(r#""device_id":"{DEVICE}""#)));
    }
    for (members, entity) in [
        (r#""service":"s","source":"h""#, "s"),
        (r#""service":"","source":"h""#, "h"),
        (r#""source":"h""#, "h"),
        (r#""x":1"#, "unknown"),
    ] {
        assert_eq!(one(Shape::Logs, &format!(r#"{{"message":"m",{members}}}"#)).entity, entity);
    }
}

#[test]
fn metadata_says_where_an_event_comes_from() {
    let line =
        r#"{"message":"m","session_id":"D1088A7E-5C1F-0B22-94C3-D7E6F5A41B90","service":"a\"b","source":"\u00e9"}"#;
    assert_eq!(
        one(Shape::Logs, line).metadata,
        format!(r#"{{"service":"a\"b","session_id":"{SESSION}","level":"info","source":"\u00e9",{ORIGIN}"#)
    );
    let event = one(Shape::Events, &event_with(r#""type":"track","session_id":"my session""#));
    assert_eq!(event.metadata, format!(r#"{{"session_id":"my session","device_id":"{DEVICE}",{ORIGIN}"#));
    for (ip, text) in [
        (IpAddr::V6(Ipv6Addr::LOCALHOST), "::1"),
        (IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped()), "10.0.0.1"),
    ] {
        let mut batch = new_batch();
        let received = Received { source_ip: ip };
        put(b"{\"message\":\"m\"}", Shape::Logs, &received, &mut Scratch::default(), &mut batch).unwrap();
        let metadata = format!(r#"{{"level":"info","source_ip":"{text}","source_kind":"http"}}"#);
        assert_eq!(events(&batch)[0].metadata, metadata);
    }
}

#[test]
fn a_broken_rule_refuses_its_line_and_says_why() {
    let deep = |levels: usize| format!(r#""type":"track","x":{}{}"#, "[".repeat(levels), "]".repeat(levels));
    assert!(taken(Shape::Events, event_with(&deep(31))).is_ok());
    let device = "device_id must be 32 hexadecimal digits, hyphens aside";
    let time = "timestamp must be a whole number of milliseconds since 1970";
    let long = "x".repeat(257);
    for (line, text) in [
        (event_with(&deep(32)), "more than 32 levels of nesting at byte 98"),
        ("[]".into(), "expected a JSON object"),
        ("7".into(), "expected a JSON object"),
        ("{".into(), "expected a key in quotes at byte 1, where the body ends"),
        ("{}".into(), "event or type is missing"),
        (event_with(r#""a":1"#), "event or type is missing"),
        (event_with(r#""type":1"#), "type must be a string"),
        (event_with(r#""event":{}"#), "event must be a string"),
        (r#"{"type":"track"}"#.into(), "device_id or user_id is missing"),
        (r#"{"type":"track","user_id":7}"#.into(), "user_id must be a string"),
        (r#"{"type":"track","user_id":"u","device_id":"d1"}"#.into(), device),
        (format!(r#"{{"type":"track","device_id":"{}g"}}"#, &DEVICE[..31]), device),
        (format!(r#"{{"type":"track","device_id":"{DEVICE}0"}}"#), device),
        (format!(r#"{{"type":"track","device_id":"{}"}}"#, &DEVICE[..31]), device),
        (r#"{"type":"track","device_id":""}"#.into(), device),
        (event_with(r#""type":"track","timestamp":1.0"#), time),
        (event_with(r#""type":"track","timestamp":1e3"#), time),
        (event_with(r#""type":"track","timestamp":-1"#), time),
        (event_with(r#""type":"track","timestamp":"1""#), time),
        (event_with(r#""type":"track","timestamp":18446744073709551615"#), time),
        (event_with(r#""type":"track","properties":[1]"#), "properties must be an object"),
        (event_with(r#""type":"track","traits":"x""#), "traits must be an object"),
        (event_with(r#""type":"track","session_id":7"#), "session_id must be a string"),
        (event_with(r#""type":"track","service":7"#), "service must be a string"),
        (event_with(r#""type":"track","type":"track""#), "type stands there twice; send it once"),
        (
            event_with(r#""type":"track","event":"_system.x""#),
            "the name of the event is reserved for the server; use another name",
        ),
        (
            event_with(r#""type":"track","user_id":"read-model:x""#),
            "the user_id is reserved for the server; use another name",
        ),
        (event_with(&format!(r#""type":"{long}""#)), "event type has 257 bytes, 1 to 256 allowed"),
        (event_with(r#""type":"a\nb""#), "event type or entity has a control character"),
        (event_with(r#""type":"track"}{"#), "expected the end of the body at byte 63"),
    ] {
        assert_eq!(fault(Shape::Events, &line), text, "{line}");
    }
    for (line, text) in [
        ("{}", "message is missing"),
        (r#"{"message":null}"#, "message is missing"),
        (r#"{"message":1}"#, "message must be a string"),
        (r#"{"message":"m","level":3}"#, "level must be a string"),
        (r#"{"message":"m","source":3}"#, "source must be a string"),
    ] {
        assert_eq!(fault(Shape::Logs, line), text, "{line}");
    }
    let large = format!(r#"{{"message":"{}"}}"#, "x".repeat(EVENT_BYTES_MAX));
    assert_eq!(fault(Shape::Logs, &large), "the line has 1048590 bytes, 1048576 allowed");
}

#[test]
fn a_bad_line_is_counted_by_its_number_and_the_others_are_kept_in_order() {
    let body = b"{\"message\":\"1\"}\r\n\r\nbad\n{\"message\":\"2\"}\n \t\n{\"message\":\"\xff\"}\n{\"message\":\"3\"}";
    let (lines, events) = taken(Shape::Logs, body).unwrap();
    let payloads: Vec<_> = events.iter().map(|event| event.payload.as_str()).collect();
    assert_eq!(payloads, [r#"{"message":"1"}"#, r#"{"message":"2"}"#, r#"{"message":"3"}"#]);
    assert_eq!((lines.accepted, lines.rejected), (3, 2));
    let refused: Vec<_> = lines.refused.iter().map(|refused| (refused.line, &body[refused.span.clone()])).collect();
    assert_eq!(refused, [(3, &b"bad"[..]), (6, b"{\"message\":\"\xff\"}")]);
    assert_eq!(lines.refused[1].fault.to_string(), "the body is not UTF-8 at byte 12");
}

#[test]
fn a_body_without_a_good_line_is_refused_whole() {
    for empty in ["", "\n", "\r\n \t\r\n"] {
        assert_eq!(taken(Shape::Logs, empty), Err(LinesError::Empty));
    }
    let Err(LinesError::NoGoodLine(lines)) = taken(Shape::Logs, "x\ny") else { panic!("no line is good") };
    assert_eq!((lines.accepted, lines.rejected, lines.refused.len()), (0, 2, 2));
}

#[test]
fn lines_beyond_the_ceiling_are_refused_each() {
    let body = "{\"message\":\"m\"}\n".repeat(LINES_PER_REQUEST_MAX + 3);
    let (lines, _) = taken(Shape::Logs, &body).unwrap();
    assert_eq!((lines.accepted, lines.rejected), (LINES_PER_REQUEST_MAX, 3));
    assert_eq!(lines.refused[0].line, LINES_PER_REQUEST_MAX + 1);
    assert_eq!(lines.refused[2].fault.to_string(), "more than 10000 lines in one request");
    let large = format!(r#"{{"message":"{}"}}"#, "x".repeat(EVENT_BYTES_MAX - 20));
    let error = taken(Shape::Logs, vec![large.as_str(); 18].join("\n")).unwrap_err();
    assert_eq!(error, LinesError::TooLarge { limit: ringlog_engine::limits::BATCH_BYTES_MAX });
}

#[test]
fn no_cut_or_changed_body_is_a_panic_and_only_json_is_stored() {
    for (shape, bytes) in [(Shape::Events, BROWSER_EVENTS), (Shape::Logs, BROWSER_LOGS), (Shape::Events, NODE_EVENTS)] {
        let (_, body) = request(bytes);
        let (_, whole) = taken(shape, body).unwrap();
        for cut in 0..body.len() {
            // Whatever was whole before the cut is what it was; the line that was cut is never an event.
            let complete = body[..cut].iter().filter(|&&byte| byte == b'\n').count();
            let complete = complete + usize::from(body[cut] == b'\n');
            match taken(shape, &body[..cut]) {
                Ok((lines, events)) => {
                    assert_eq!(lines.accepted, complete, "{cut}");
                    assert_eq!(events, whole[..complete], "{cut}");
                }
                Err(error) => assert_eq!(complete, 0, "{cut} {error:?}"),
            }
        }
        check_every_wrong_byte(body, |body, scratch, batch| put(body, shape, &SENDER, scratch, batch));
    }
}

/// Of a body whose lines are all good: a wrong byte spoils no line but the one that it is in, or the two that it makes one of.
/// What that becomes is what it becomes alone, and JSON to another parser, too.
pub(in crate::wire) fn check_every_wrong_byte(
    body: &[u8],
    put: impl Fn(&[u8], &mut Scratch, &mut EventBatch) -> Result<Lines, LinesError>,
) {
    let (mut scratch, mut batch, mut alone) = (Scratch::default(), new_batch(), new_batch());
    let starts: Vec<usize> = std::iter::once(0)
        .chain(body.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1))
        .collect();
    let end_of = |line: usize| starts.get(line + 1).map_or(body.len(), |next| next - 1);
    let whole = put(body, &mut scratch, &mut batch).unwrap();
    assert_eq!((whole.accepted, whole.rejected), (starts.len(), 0));
    let mut ends = vec![0];
    for _ in &starts {
        let at = ends[ends.len() - 1];
        ends.push(at + Record::parse(&batch.records()[at..]).unwrap().record_bytes);
    }
    let golden = batch.records().to_vec();
    every_wrong_byte(body, |place, changed| {
        let first = starts.partition_point(|&start| start <= place) - 1;
        let last = if body[place] == b'\n' { first + 1 } else { first };
        let spoilt = &changed[starts[first]..end_of(last)];
        alone.reset(Tenant(1), Source::Http);
        // Among lines it is none; alone it would be an array of objects.
        let is_array = spoilt.trim_ascii_start().starts_with(b"[");
        let good = if is_array { 0 } else { put(spoilt, &mut scratch, &mut alone).map_or(0, |lines| lines.accepted) };
        let is_good = |line: &&[u8]| is_json(line);
        assert!(good <= spoilt.split(|&byte| byte == b'\n').filter(is_good).count(), "{}", spoilt.escape_ascii());
        assert_eq!(events(&alone).len(), good);
        batch.reset(Tenant(1), Source::Http);
        let found = put(changed, &mut scratch, &mut batch);
        if is_array && first == 0 && matches!(found, Err(LinesError::Json(_))) {
            // The whole body was taken for one, which it is not; what stood in front of the fault is what events are.
            events(&batch);
            return;
        }
        let accepted = match &found {
            Ok(lines) => lines.accepted,
            Err(LinesError::NoGoodLine(_) | LinesError::Empty) => 0,
            Err(error) => panic!("{error:?}: {}", changed.escape_ascii()),
        };
        assert_eq!(accepted, starts.len() - (last + 1 - first) + good);
        let records = batch.records();
        let (before, behind) = (&golden[..ends[first]], &golden[ends[last + 1]..]);
        assert_eq!(records.len(), before.len() + alone.records().len() + behind.len());
        assert!(records.starts_with(before) && records.ends_with(behind));
        assert_eq!(&records[before.len()..records.len() - behind.len()], alone.records());
    });
}

#[test]
fn memory_of_an_earlier_body_shows_in_no_later_one() {
    let mut scratch = Scratch::default();
    let first = r#"{"type":"track","event":"long\u0020name","user_id":"long\u0020user","device_id":"25367c4ba7d0aab4fb7d20188ccff883","a":1,"service":"s"}"#;
    let second = r#"{"type":"t","user_id":"u"}"#;
    let mut batch = new_batch();
    for line in [first, "x", second] {
        batch.reset(Tenant(1), Source::Http);
        let _ = put(line.as_bytes(), Shape::Events, &SENDER, &mut scratch, &mut batch);
    }
    assert_eq!(events(&batch), [one(Shape::Events, second)]);
}
