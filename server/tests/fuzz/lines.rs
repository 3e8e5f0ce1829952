//! JSON bodies of four routes: lines of events and of logs, what shippers send, and the first seed's events.

use std::net::{IpAddr, Ipv4Addr};

use ringlog_engine::event::EventBatch;
use ringlog_server::limits::LINES_NAMED_MAX;
use ringlog_server::wire::envelope;
use ringlog_server::wire::lines::{self, Lines, LinesError, Received, Scratch, Shape};
use ringlog_server::wire::shipper::{self, Fields};
use serde_json::Value;

use crate::frame::golden_folder;
use crate::run::{Check, Target, leave, mark, size};
use crate::stored::{self, Payloads, new_batch};

const RECEIVED: Received = Received { source_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)) };

pub const EVENTS: Target = Target {
    name: "event_lines",
    corpus: || bodies(&["browser_events.http", "node_events.http"]),
    words: &[
        b"\n",
        b"\r\n\n",
        br#""type":"track","#,
        br#""type":"identify","#,
        br#""event":"_system.x","#,
        br#""user_id":"u","#,
        br#""user_id":"read-model:","#,
        br#""device_id":"d1088a7e-5c1f-0b22-94c3-d7e6f5a41b90","#,
        br#""session_id":"\u0041","#,
        br#""timestamp":1795281149302,"#,
        br#""properties":{"a":1},"#,
        br#""traits":{},"#,
        br#""context":[],"#,
        b"null",
        b"\\u0065",
        b"\xff",
    ],
    mend: leave,
    checker: || lines_checker(|body, scratch, batch| lines::put(body, Shape::Events, &RECEIVED, scratch, batch)),
};

pub const LOGS: Target = Target {
    name: "log_lines",
    corpus: || bodies(&["browser_logs.http"]),
    words: &[
        b"\n",
        br#""message":"m","#,
        br#""level":"error","#,
        br#""service":"s","#,
        br#""source":"read-model:x","#,
        br#""data":{"a":[1]},"#,
        br#""data":7,"#,
        br#""type":"allsource.read_model.committed","#,
        br#""timestamp":"x","#,
        b"null",
        b"\\u006d",
        b"\xff",
    ],
    mend: leave,
    checker: || lines_checker(|body, scratch, batch| lines::put(body, Shape::Logs, &RECEIVED, scratch, batch)),
};

pub const SHIPPER: Target = Target {
    name: "shipper",
    corpus: || {
        vec![
            br#"{"message":"one","host":"web-1","timestamp":"2026-01-02T03:04:05.678Z","level":"info","service":"s"}
{"date":1767323045.5,"log":"two","hostname":"web-2","event_type":"app.log","entity_id":7}

{"@timestamp":"2026-01-02 03:04:05.000000","severity":"err","source":"\u0041"}"#
                .to_vec(),
            br#" [{"message":"one","time":1767323045},{"host":"h"}, {"t":"x","e":"y","w":1}]"#.to_vec(),
        ]
    },
    words: &[
        b"\n",
        b"[",
        b"]",
        b"{}",
        b",7,",
        br#""host":"h","#,
        br#""timestamp":1e400,"#,
        br#""time":"99999999999999999999","#,
        br#""t":"_system.x","#,
        br#""e":"read-model:x","#,
        br#""w":"2026-01-02T03:04:05","#,
        b"null",
        b"\xff",
    ],
    mend: leave,
    checker: || {
        let fields = Fields::parse(Some("type_field=t&entity_field=e&time_field=w&entity=none")).unwrap();
        lines_checker(move |body, scratch, batch| shipper::put(body, &fields, &RECEIVED, scratch, batch))
    },
};

pub const ENVELOPE: Target = Target {
    name: "envelope",
    corpus: || {
        [
            r#"{"event_type":"order.placed","entity_id":"order-1","payload":{"a":[1,2.5,"x"],"b":null}}"#,
            r#"{"entity_id":"\u0065-1","tenant_id":"acme","event_type":"a.b","metadata":{"k":"v"},"payload":{},"timestamp":"2026-01-02T03:04:05Z","expected_version":3}"#,
            r#"{"events":[{"event_type":"a.b","entity_id":"e1","payload":{}},{"event_type":"a.c","entity_id":"e2","payload":{"n":1}}]}"#,
            "{\"event_type\":\"a.b\",\"entity_id\":\"e1\",\"payload\":{}}\n\n{\"event_type\":\"a.b\",\"entity_id\":\"e2\",\"payload\":{}}\r\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
    },
    words: &[
        b"\n",
        br#""events":["#,
        br#""event_type":"a.b","#,
        br#""entity_id":"e","#,
        br#""payload":{},"#,
        br#""metadata":{},"#,
        br#""expected_version":0,"#,
        br#""timestamp":"2026-01-02T03:04:05+01:00","#,
        br#""tenant_id":"other","#,
        b"_system.",
        b"read-model:",
        b"null",
        b"{}",
        b"\xff",
    ],
    mend: leave,
    checker: envelope_checker,
};

/// Bodies as they are and one line at a time.
fn bodies(names: &[&str]) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for (_, request) in golden_folder("lines").into_iter().filter(|(name, _)| names.contains(&name.as_str())) {
        let text = String::from_utf8(request).unwrap().replace("\r\n", "\n");
        let body = text.split_once("\n\n").unwrap().1;
        bodies.push(body.as_bytes().to_vec());
        bodies.extend(body.lines().map(|line| line.as_bytes().to_vec()));
    }
    bodies
}

fn lines_of(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let is_blank = |line: &&[u8]| line.iter().all(|byte| b" \t\r".contains(byte));
    body.split(|&byte| byte == b'\n').filter(move |line| !is_blank(line))
}

fn lines_checker(put: impl Fn(&[u8], &mut Scratch, &mut EventBatch) -> Result<Lines, LinesError> + 'static) -> Check {
    let (mut scratch, mut batch) = (Scratch::default(), new_batch());
    Box::new(move |body| {
        batch.reset(batch.tenant(), batch.source());
        let outcome = put(body, &mut scratch, &mut batch);
        let (told, what) = match &outcome {
            Ok(told) => (told, 1),
            Err(LinesError::NoGoodLine(told)) => (told, 2),
            Err(LinesError::Empty) => {
                assert!(batch.is_empty());
                return 0;
            }
            Err(LinesError::TooLarge { .. }) => return 3,
            // A document that is none; its first events may be there, and are what events are.
            Err(LinesError::Json(error)) => {
                assert!(error.at <= body.len());
                stored::check(&batch, Payloads::Objects);
                return mark((format!("{:?}", error.reason), batch.event_count()));
            }
        };
        assert_eq!(told.accepted, batch.event_count());
        assert_eq!(told.accepted > 0, outcome.is_ok());
        assert_eq!(told.refused.len(), told.rejected.min(LINES_NAMED_MAX));
        let mut last = 0;
        for refused in &told.refused {
            assert!(last < refused.line);
            last = refused.line;
            assert!(refused.span.start <= refused.span.end && refused.span.end <= body.len());
            let text = refused.fault.to_string();
            assert!(!text.is_empty() && text.len() < 300, "{text}");
        }
        let records = stored::check(&batch, Payloads::Objects);
        let seen: Vec<_> = records
            .iter()
            .take(3)
            .map(|record| (record.kind as u8, size(record.payload.len()), record.timestamp.is_some()))
            .collect();
        let reasons: Vec<_> = told.refused.iter().take(3).map(|refused| refused.fault.reason()).collect();
        if body.trim_ascii_start().first() != Some(&b'[') {
            assert_eq!(told.accepted + told.rejected, lines_of(body).count());
            each_line_for_itself(body, &put, &batch);
        }
        mark((what, size(told.accepted), seen, reasons))
    })
}

/// What a line becomes is the same when it comes alone, and no memory of a line before it is needed.
fn each_line_for_itself(
    body: &[u8],
    put: &impl Fn(&[u8], &mut Scratch, &mut EventBatch) -> Result<Lines, LinesError>,
    batch: &EventBatch,
) {
    let mut rest = batch.records();
    for line in lines_of(body).take(200) {
        // Among lines it is none; alone it would be an array of objects.
        if line.trim_ascii_start().starts_with(b"[") {
            continue;
        }
        let mut alone = new_batch();
        if put(line, &mut Scratch::default(), &mut alone).is_ok() {
            assert!(rest.starts_with(alone.records()), "{}", String::from_utf8_lossy(line));
            rest = &rest[alone.records().len()..];
        } else {
            assert!(alone.is_empty());
        }
    }
    assert!(rest.is_empty() || lines_of(body).count() > 200);
}

const TENANT: &str = "acme";

fn envelope_checker() -> Check {
    let (mut scratch, mut batch) = (envelope::Scratch::default(), new_batch());
    Box::new(move |body| {
        let mut marks = Vec::new();
        type Parse = fn(&[u8], &str, &mut envelope::Scratch, &mut EventBatch) -> Result<usize, envelope::EnvelopeError>;
        let parsers: [Parse; 3] = [
            |body, tenant, scratch, batch| envelope::parse_event(body, tenant, scratch, batch).map(|()| 1),
            envelope::parse_batch,
            envelope::parse_lines,
        ];
        for (way, parse) in parsers.into_iter().enumerate() {
            batch.reset(batch.tenant(), batch.source());
            let outcome = parse(body, TENANT, &mut scratch, &mut batch);
            let mut other = new_batch();
            assert_eq!(parse(body, TENANT, &mut envelope::Scratch::default(), &mut other), outcome);
            assert_eq!(batch.records(), other.records());
            // After an error it holds the events before it.
            let records = stored::check(&batch, Payloads::AnyJson);
            match &outcome {
                Ok(count) => {
                    assert_eq!(records.len(), *count);
                    let sent: Vec<Value> = match way {
                        0 => serde_json::from_slice(body).map(|event| vec![event]).unwrap_or_default(),
                        1 => events_of(body),
                        _ => lines_of(body).filter_map(|line| serde_json::from_slice(line).ok()).collect(),
                    };
                    // A number beyond f64 is text to us, and more than `serde_json` can hold.
                    if sent.len() == *count {
                        for (record, sent) in records.iter().zip(&sent) {
                            assert_eq!(
                                (record.event_type, record.entity),
                                (text(sent, "event_type"), text(sent, "entity_id"))
                            );
                            let payload: Value = serde_json::from_slice(record.payload).unwrap();
                            assert_eq!(Some(&payload), sent.get("payload"));
                        }
                    }
                    let shapes: Vec<_> = records
                        .iter()
                        .take(3)
                        .map(|record| {
                            (size(record.payload.len()), record.metadata.is_empty(), record.timestamp.is_some())
                        })
                        .collect();
                    marks.push(mark((size(*count), shapes)));
                }
                Err(error) => {
                    let class = error.class();
                    assert!(!error.to_string().is_empty());
                    marks.push(mark((format!("{class:?}"), error.field(), batch.event_count())));
                }
            }
        }
        mark(marks)
    })
}

fn events_of(body: &[u8]) -> Vec<Value> {
    let whole: Value = serde_json::from_slice(body).unwrap_or_default();
    whole["events"].as_array().cloned().unwrap_or_default()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap()
}
