//! What reading a binary frame costs: from its bytes to an encoded batch, with every payload checked.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench frame                 about half a minute
//! cargo bench -p ringlog-benches --bench frame -- events       one group
//! ```
//! Frames are made by the encoder of the published SDK. Nothing is stored; criterion's `elem` is one event.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{KEY, TENANT, group};
use ringlog_engine::event::{EventBatch, Source};
use ringlog_server::wire::frame::{Frame, Framing, LENGTH_BYTES, Received, Scratch, next_frame};
use tell_encoding::{
    BatchParams, EventParams, EventType, LogEntryParams, LogEventType, LogLevel, MetricEntryParams, MetricType,
    SchemaType, Temporality, encode_batch, encode_event_data_into, encode_log_data_into, encode_metric_data_into,
};

const EVENT_COUNTS: [usize; 4] = [1, 10, 100, 500];
const DEVICE: [u8; 16] = *b"a device's own..";
const SESSION: [u8; 16] = *b"a session's id..";
const AT_MS: u64 = 1_700_000_000_000;

const RECEIVED: Received =
    Received { source_kind: "tcp", peer: IpAddr::V4(Ipv4Addr::LOCALHOST), trust_source_ip: false };

/// A whole frame, its length included.
fn frame(schema_type: SchemaType, data: &[u8]) -> Vec<u8> {
    let body = encode_batch(&BatchParams { api_key: &[7; 16], schema_type, version: 100, batch_id: 1, data });
    let [a, b, c, d] = (body.len() as u32).to_le_bytes();
    [&[d, c, b, a], &body[..]].concat()
}

fn payload(index: usize) -> String {
    let user = index * 7919 % 10_000;
    format!(
        r#"{{"user_id":"user_{user:06}","url":"https://shop.example/p/{index:05}","referrer":"/","price":1299,"currency":"EUR"}}"#
    )
}

fn events_frame(count: usize) -> Vec<u8> {
    let payloads: Vec<String> = (0..count).map(payload).collect();
    let events: Vec<EventParams<'_>> = payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| EventParams {
            event_type: EventType::Track,
            timestamp: AT_MS + index as u64,
            service: Some("web"),
            device_id: Some(&DEVICE),
            session_id: Some(&SESSION),
            event_name: Some("Page Viewed"),
            payload: Some(payload.as_bytes()),
        })
        .collect();
    let mut data = Vec::new();
    encode_event_data_into(&mut data, &events);
    frame(SchemaType::Event, &data)
}

fn logs_frame(count: usize) -> Vec<u8> {
    let payloads: Vec<String> = (0..count)
        .map(|index| format!(r#"{{"message":"request {index} took longer than 250 ms","status":200}}"#))
        .collect();
    let logs: Vec<LogEntryParams<'_>> = payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| LogEntryParams {
            event_type: LogEventType::Log,
            session_id: None,
            level: if index % 4 == 0 { LogLevel::Warning } else { LogLevel::Info },
            timestamp: AT_MS + index as u64,
            source: Some("host-17"),
            service: Some("api"),
            payload: Some(payload.as_bytes()),
        })
        .collect();
    let mut data = Vec::new();
    encode_log_data_into(&mut data, &logs);
    frame(SchemaType::Log, &data)
}

fn metrics_frame(count: usize) -> Vec<u8> {
    let labels = [("route", "/v1/events"), ("method", "POST")];
    let labels = labels.map(|(key, value)| tell_encoding::LabelParam { key, value });
    let metrics: Vec<MetricEntryParams<'_>> = (0..count)
        .map(|index| MetricEntryParams {
            metric_type: MetricType::Gauge,
            timestamp: AT_MS * 1_000_000,
            name: "http.requests.duration",
            value: index as f64 / 8.0,
            source: Some("host-17"),
            service: Some("api"),
            labels: &labels,
            temporality: Temporality::Unspecified,
            histogram: None,
            session_id: None,
        })
        .collect();
    let mut data = Vec::new();
    encode_metric_data_into(&mut data, &metrics);
    frame(SchemaType::Metric, &data)
}

fn body(frame: &[u8]) -> &[u8] {
    let Framing::Frame(place) = next_frame(frame) else { panic!("a whole frame was made") };
    &frame[place]
}

fn kinds(criterion: &mut Criterion, name: &str, make: fn(usize) -> Vec<u8>, counts: &[usize]) {
    let mut group = group(criterion, name);
    for &count in counts {
        let frame = make(count);
        let event_bytes = (frame.len() - LENGTH_BYTES) / count;
        let mut scratch = Scratch::default();
        let mut batch = EventBatch::new(TENANT, Source::Tcp, KEY);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("frame to encoded batch, {count} of {event_bytes} bytes"), |bencher| {
            bencher.iter(|| {
                batch.reset(TENANT, Source::Tcp);
                let frame = Frame::parse(body(black_box(&frame))).expect("a frame");
                frame.put(&RECEIVED, &mut scratch, &mut batch).expect("valid events");
                black_box(batch.records());
            });
        });
    }
}

fn outer(criterion: &mut Criterion) {
    let mut group = group(criterion, "outer");
    for count in [1, 100] {
        let frame = events_frame(count);
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(format!("key and batch id, {count}"), |bencher| {
            bencher.iter(|| {
                let frame = Frame::parse(body(black_box(&frame))).expect("a frame");
                black_box((frame.key, frame.batch_id));
            });
        });
        group.bench_function(format!("replay key, {count}"), |bencher| {
            bencher.iter(|| {
                let frame = Frame::parse(body(black_box(&frame))).expect("a frame");
                black_box(frame.replay_key(7));
            });
        });
    }
}

fn events(criterion: &mut Criterion) {
    kinds(criterion, "events", events_frame, &EVENT_COUNTS);
}

fn logs(criterion: &mut Criterion) {
    kinds(criterion, "logs", logs_frame, &[100]);
}

fn metrics(criterion: &mut Criterion) {
    kinds(criterion, "metrics", metrics_frame, &[100]);
}

criterion_group!(benches, outer, events, logs, metrics);
criterion_main!(benches);
