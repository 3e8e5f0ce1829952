//! What reading OpenTelemetry logs costs: from a request, in either encoding, to an encoded batch.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench otlp                     about a quarter of a minute
//! cargo bench -p ringlog-benches --bench otlp -- 'protobuf, 100'  one of them
//! ```
//! A record is what an SDK sends for one line of a web service: a message, six attributes, ids of a trace; its resource has
//! six attributes, which each event gets a copy of. `null` is the least that a reader of the same bytes can do: the protobuf
//! form is copied, the JSON form validated.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{KEY, TENANT, group};
use ringlog_engine::event::{EventBatch, Source};
use ringlog_server::wire::json::validate;
use ringlog_server::wire::json_simd::Window;
use ringlog_server::wire::otlp::{Encoding, Scratch, parse_logs};

const RECORD_COUNTS: [usize; 4] = [1, 10, 100, 500];
const FIRST_AT_NS: u64 = 1_793_095_200_000_000_000;
const RESOURCE: [(&str, &str); 6] = [
    ("service.name", "checkout"),
    ("service.version", "1.42.0"),
    ("host.name", "node-7.eu-central.example.net"),
    ("telemetry.sdk.name", "opentelemetry"),
    ("telemetry.sdk.language", "python"),
    ("deployment.environment.name", "production"),
];
const ATTRIBUTES: [(&str, &str); 6] = [
    ("session.id", "6f9619ff-8b86-d011-b42d-00c04fc964ff"),
    ("http.request.method", "POST"),
    ("http.route", "/api/v1/orders/{id}/payment"),
    ("code.function.name", "shop.payment.capture"),
    ("user.id", "user-000123"),
    ("thread.name", "worker-3"),
];
const MESSAGE: &str = "captured payment of order 000123 after 2 attempts";

/// A field of length-delimited bytes.
fn put_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

fn text_value(text: &str) -> Vec<u8> {
    let mut value = Vec::new();
    put_bytes(&mut value, 1, text.as_bytes());
    value
}

fn put_attributes(out: &mut Vec<u8>, number: u8, attributes: &[(&str, &str)]) {
    for (key, value) in attributes {
        let mut attribute = Vec::new();
        put_bytes(&mut attribute, 1, key.as_bytes());
        put_bytes(&mut attribute, 2, &text_value(value));
        put_bytes(out, number, &attribute);
    }
}

fn protobuf(records: usize) -> Vec<u8> {
    let mut scope_logs = Vec::new();
    put_bytes(&mut scope_logs, 1, &text_value("shop.payment"));
    for index in 0..records as u64 {
        let mut record = vec![0x09];
        record.extend_from_slice(&(FIRST_AT_NS + index).to_le_bytes());
        record.extend_from_slice(&[0x10, 9]);
        put_bytes(&mut record, 3, b"INFO");
        put_bytes(&mut record, 5, &text_value(MESSAGE));
        put_attributes(&mut record, 6, &ATTRIBUTES);
        put_bytes(&mut record, 9, &[0x4b; 16]);
        put_bytes(&mut record, 10, &[0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        put_bytes(&mut scope_logs, 2, &record);
    }
    let mut resource = Vec::new();
    put_attributes(&mut resource, 1, &RESOURCE);
    let mut resource_logs = Vec::new();
    put_bytes(&mut resource_logs, 1, &resource);
    put_bytes(&mut resource_logs, 2, &scope_logs);
    let mut request = Vec::new();
    put_bytes(&mut request, 1, &resource_logs);
    request
}

fn json(records: usize) -> Vec<u8> {
    let attributes = |attributes: &[(&str, &str)]| {
        let members =
            attributes.iter().map(|(key, value)| format!(r#"{{"key":"{key}","value":{{"stringValue":"{value}"}}}}"#));
        members.collect::<Vec<_>>().join(",")
    };
    let record = |index: u64| {
        format!(
            r#"{{"timeUnixNano":"{}","severityNumber":9,"severityText":"INFO","body":{{"stringValue":"{MESSAGE}"}},"attributes":[{}],"traceId":"{}","spanId":"00f067aa0ba902b7"}}"#,
            FIRST_AT_NS + index,
            attributes(&ATTRIBUTES),
            "4b".repeat(16),
        )
    };
    let records = (0..records as u64).map(record).collect::<Vec<_>>().join(",");
    format!(
        r#"{{"resourceLogs":[{{"resource":{{"attributes":[{}]}},"scopeLogs":[{{"scope":{{"name":"shop.payment"}},"logRecords":[{records}]}}]}}]}}"#,
        attributes(&RESOURCE),
    )
    .into_bytes()
}

fn logs(criterion: &mut Criterion) {
    let mut group = group(criterion, "otlp");
    for records in RECORD_COUNTS {
        let bodies = [("protobuf", Encoding::Protobuf, protobuf(records)), ("json", Encoding::Json, json(records))];
        let mut scratch = Scratch::default();
        let mut batches = Vec::new();
        group.throughput(Throughput::Elements(records as u64));
        for (name, encoding, body) in &bodies {
            let mut batch = EventBatch::new(TENANT, Source::Http, KEY);
            group.bench_function(format!("{name}, {records}"), |bencher| {
                bencher.iter(|| {
                    batch.reset(TENANT, Source::Http);
                    let outcome = parse_logs(*encoding, black_box(body), None, &mut scratch, &mut batch);
                    assert_eq!(outcome.expect("a request").rejected_count, 0);
                    black_box(batch.records());
                });
            });
            batch.reset(TENANT, Source::Http);
            parse_logs(*encoding, body, None, &mut scratch, &mut batch).expect("a request");
            batches.push(batch.records().to_vec());
        }
        assert_eq!(batches[0], batches[1]);
        let mut copy = Vec::new();
        group.bench_function(format!("null of protobuf, {records}"), |bencher| {
            bencher.iter(|| {
                copy.clear();
                copy.extend_from_slice(black_box(&bodies[0].2));
                black_box(&copy);
            });
        });
        let mut window = Window::default();
        group.bench_function(format!("null of json, {records}"), |bencher| {
            bencher.iter(|| validate(black_box(&bodies[1].2), &mut window).expect("a document"));
        });
    }
}

criterion_group!(benches, logs);
criterion_main!(benches);
