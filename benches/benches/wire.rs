//! What reading a request costs: its head, its JSON, and both with the encoding of the events, as the server does it.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench wire                  about a minute
//! cargo bench -p ringlog-benches --bench wire -- 'json, 100'   one group
//! ```
//! A group `json, N` holds bodies of N events of 220 bytes: the scanner with each kernel that the machine has, and two
//! crates beside it. None of them stores anything; `events, N` is the whole step from a body to an encoded batch.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{EVENT_BYTES, KEY, Sample, TENANT, group};
use ringlog_engine::event::{EventBatch, Source};
use ringlog_server::limits::{BODY_BYTES_MAX, REQUESTS_PER_CONNECTION_MAX};
use ringlog_server::net::http1::{Decision, Http1, Step};
use ringlog_server::wire::envelope::{Scratch, parse_batch, parse_event};
use ringlog_server::wire::http::{Head, HeadLimits, parse_head};
use ringlog_server::wire::json::{Scanner, as_text};
use ringlog_server::wire::json_simd::{Level, Window};
use ringlog_server::wire::response::{ReplyTo, Response};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

const EVENT_COUNTS: [usize; 4] = [1, 10, 100, 500];

/// As the load generator and the published SDKs send it, with a key as long as a real one.
fn request_head(body_bytes: usize) -> Vec<u8> {
    let key = "k".repeat(300);
    format!(
        "POST /api/v1/events HTTP/1.1\r\nhost: 127.0.0.1:3900\r\nauthorization: Bearer {key}\r\n\
         user-agent: ringlog-bench/1\r\naccept: */*\r\ncontent-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n"
    )
    .into_bytes()
}

fn head(criterion: &mut Criterion) {
    let head = request_head(EVENT_BYTES);
    let mut group = group(criterion, "http");
    group.throughput(Throughput::Elements(1));
    group.bench_function("head", |bencher| {
        bencher.iter(|| {
            let (head, bytes) = parse_head(black_box(&head), &HeadLimits::SERVER).expect("a head").expect("all of it");
            black_box((head.path(), bytes));
        });
    });

    let mut request = head.clone();
    request.resize(head.len() + EVENT_BYTES, b'x');
    let mut connection = Http1::<()>::new(7, 1);
    let mut now_us = 1_u64;
    group.bench_function("request through a connection, with its empty answer", |bencher| {
        bencher.iter(|| {
            now_us += 1;
            // A connection ends after so many requests; another takes its place before.
            if now_us.is_multiple_of(REQUESTS_PER_CONNECTION_MAX / 2) {
                connection = Http1::new(7, now_us);
            }
            let mut input = black_box(&request[..]);
            let accept =
                |_: &Head<'_>, _: &mut ReplyTo| Decision::Accept { body_bytes_max: BODY_BYTES_MAX, context: () };
            let Step::Request(asked) = connection.step(&mut input, now_us, accept) else {
                panic!("a whole request was sent")
            };
            assert_eq!(asked.body.len(), EVENT_BYTES);
            let (sequence, reply) = (asked.sequence, asked.reply);
            connection.complete_with(sequence, |out| Response::begin(out, 202, &reply).without_body());
            let answer = connection.take_output(now_us).expect("an answer");
            connection.on_sent(black_box(answer), now_us);
        });
    });
}

/// What a client that trusts its input would have parsed: the fields as text, the payload as it stands.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    entity_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
}

#[derive(Deserialize)]
struct Envelopes<'a> {
    #[serde(borrow)]
    events: Vec<Envelope<'a>>,
}

fn field_bytes(event: &Envelope<'_>) -> usize {
    event.event_type.len() + event.entity_id.len() + event.payload.get().len()
}

fn body(sample: &Sample, events: usize) -> Vec<u8> {
    if events == 1 { sample.event(0) } else { sample.events(0, events) }.into_bytes()
}

fn json(criterion: &mut Criterion) {
    let sample = Sample::new();
    for events in EVENT_COUNTS {
        let body = body(&sample, events);
        let mut group = group(criterion, &format!("json, {events}"));
        group.throughput(Throughput::Elements(events as u64));
        let mut window = Window::default();
        for level in Level::available() {
            group.bench_function(format!("validate, {level:?}"), |bencher| {
                bencher.iter(|| {
                    let text = as_text(black_box(&body)).expect("text");
                    let mut scanner = Scanner::with_level(text, &mut window, level);
                    black_box(scanner.value().expect("a document"));
                    scanner.finish().expect("nothing behind it");
                });
            });
        }
        group.bench_function("serde_json, validate", |bencher| {
            bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&body)).expect("a document"));
        });
        group.bench_function("serde_json, fields and raw payload", |bencher| {
            bencher.iter(|| {
                let body = black_box(&body[..]);
                if events == 1 {
                    field_bytes(&serde_json::from_slice(body).expect("an event"))
                } else {
                    let parsed: Envelopes<'_> = serde_json::from_slice(body).expect("a batch");
                    parsed.events.iter().map(field_bytes).sum()
                }
            });
        });
        // It unescapes in place, so that it needs a copy each time: what it costs is in the figure, as it would be in ours.
        let mut copy = Vec::new();
        let mut buffers = simd_json::Buffers::new(body.len());
        group.bench_function("simd-json, tape of a copy", |bencher| {
            bencher.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(&body));
                let tape = simd_json::to_tape_with_buffers(&mut copy, &mut buffers).expect("a document");
                black_box(tape.0.len())
            });
        });
    }
}

fn events(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "events");
    for events in EVENT_COUNTS {
        let body = body(&sample, events);
        let mut scratch = Scratch::default();
        let mut batch = EventBatch::new(TENANT, Source::Http, KEY);
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(format!("body to encoded batch, {events}"), |bencher| {
            bencher.iter(|| {
                batch.reset(TENANT, Source::Http);
                let body = black_box(&body[..]);
                if events == 1 {
                    parse_event(body, "tenant", &mut scratch, &mut batch).expect("an event");
                } else {
                    parse_batch(body, "tenant", &mut scratch, &mut batch).expect("a batch");
                }
                black_box(batch.records());
            });
        });
    }
}

criterion_group!(benches, head, json, events);
criterion_main!(benches);
