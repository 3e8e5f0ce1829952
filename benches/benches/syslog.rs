//! What a syslog message costs from its bytes to an encoded event, as the server does it, and each step of that.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench syslog               half a minute
//! cargo bench -p ringlog-benches --bench syslog -- 3164       one kind of message
//! ```
//! `framing` finds the messages of a stream of 100, each with a counter of its own.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{KEY, TENANT, group};
use ringlog_engine::event::{EventBatch, Source};
use ringlog_engine::ids::Micros;
use ringlog_server::wire::syslog::framing::{Frame, Framer};
use ringlog_server::wire::syslog::key::find_key;
use ringlog_server::wire::syslog::map::Writer;
use ringlog_server::wire::syslog::parse::Reader;

const RECEIVED_AT: Micros = Micros(1_795_305_600_000_000);
const SOURCE_IP: &str = "192.0.2.7";
const COUNT: usize = 100;

const KINDS: [(&str, &str); 4] = [
    (
        "rfc5424",
        "<165>1 2026-11-21T09:30:01.123456+01:00 web-3.example.org orders 4711 ID47 - order 81723 of customer 5512 was \
         paid after 3 attempts, 12.90 EUR by card ending in 4242",
    ),
    (
        "rfc5424 with data",
        "<165>1 2026-11-21T09:30:01.123456+01:00 web-3.example.org orders 4711 ID47 [timeQuality tzKnown=\"1\" \
         isSynced=\"1\" syncAccuracy=\"1500\"][meta sequenceId=\"29\" sysUpTime=\"371123\"] order 81723 was paid",
    ),
    (
        "rfc3164",
        "<30>Nov 21 09:30:02 web-3 orders[4711]: order 81723 of customer 5512 was paid after 3 attempts, 12.90 EUR by \
         card ending in 4242",
    ),
    (
        "nginx, with quotes",
        "<190>Nov 21 09:30:04 web-3 nginx: 203.0.113.9 - - [21/Nov/2026:09:30:04 +0100] \"GET /orders/81723?page=2 \
         HTTP/1.1\" 200 612 \"https://shop.example.org/\" \"Mozilla/5.0 (X11; Linux x86_64)\"",
    ),
];

fn message(criterion: &mut Criterion) {
    for (kind, line) in KINDS {
        let mut group = group(criterion, &format!("syslog, {kind}"));
        group.throughput(Throughput::Elements(1));
        let mut reader = Reader::default();
        group.bench_function("parse", |bencher| {
            bencher.iter(|| {
                let message = reader.read(black_box(line.as_bytes()), RECEIVED_AT);
                black_box((message.text.len(), find_key(&message).is_ok()))
            });
        });
        let mut writer = Writer::default();
        let mut batch = EventBatch::new(TENANT, Source::Syslog, KEY);
        group.bench_function("parse, map and encode", |bencher| {
            bencher.iter(|| {
                if batch.event_count() == COUNT {
                    batch.reset(TENANT, Source::Syslog);
                }
                let message = reader.read(black_box(line.as_bytes()), RECEIVED_AT);
                assert_eq!(find_key(&message), Ok(None));
                writer.push(&message, SOURCE_IP, &mut batch).expect("room in the batch");
                black_box(batch.records());
            });
        });
    }
}

fn framing(criterion: &mut Criterion) {
    let (_, line) = KINDS[0];
    let counted: String = (0..COUNT).map(|_| format!("{} {line}", line.len())).collect();
    let lines: String = (0..COUNT).map(|_| format!("{line}\n")).collect();
    let mut group = group(criterion, "syslog, framing");
    group.throughput(Throughput::Elements(COUNT as u64));
    for (name, stream) in [("octet counting", counted), ("line feeds", lines)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut framer = Framer::default();
                let mut pending = black_box(stream.as_bytes());
                let mut found = 0;
                loop {
                    let step = framer.step(pending);
                    pending = &pending[step.consumed..];
                    match step.frame {
                        Frame::Message(_) => found += 1,
                        Frame::Truncated(_) => panic!("no message is too long"),
                        Frame::Need => break,
                    }
                }
                assert_eq!(found, COUNT);
            });
        });
    }
}

criterion_group!(benches, message, framing);
criterion_main!(benches);
