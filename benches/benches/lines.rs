//! What reading JSON lines costs, from the body that arrived to the encoded batch, and what unpacking it costs before.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench lines              about a minute
//! cargo bench -p ringlog-benches --bench lines -- inflate   one group
//! ```
//! Times of `lines` and `inflate` are for a whole body; divide by its lines.

use std::hint::black_box;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::Compression;
use flate2::write::GzEncoder;
use ringlog_benches::sample::{KEY, Sample, TENANT, group};
use ringlog_engine::event::{EventBatch, Source};
use ringlog_server::limits::INFLATED_BYTES_MAX;
use ringlog_server::wire::envelope::{self, parse_lines};
use ringlog_server::wire::inflate::{Encoding, Inflate};
use ringlog_server::wire::lines::{Received, Scratch, Shape, put};
use ringlog_server::wire::shipper::{self, Fields};

const LINE_COUNTS: [usize; 4] = [1, 10, 100, 500];
const SENDER: Received = Received { source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST) };

/// As the second seed's browser SDK sends them.
fn track_lines(count: usize) -> Vec<u8> {
    let line = |index: usize| {
        format!(
            "{{\"type\":\"track\",\"event\":\"Order Completed\",\"service\":\"shop.example\",\
             \"device_id\":\"25367c4ba7d0aab4fb7d20188ccff883\",\"session_id\":\"d1088a7e5c1f0b2294c3d7e6f5a41b90\",\
             \"user_id\":\"user_{index:06}\",\"timestamp\":{},\"utm_source\":\"x\",\"order_id\":\"ord_{index}\",\
             \"amount\":9.99,\"currency\":\"USD\"}}",
            1_795_281_149_307 + index
        )
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

fn log_lines(count: usize) -> Vec<u8> {
    let line = |index: usize| {
        format!(
            "{{\"level\":\"info\",\"message\":\"Checkout started\",\"source\":\"browser\",\"service\":\"shop.example\",\
             \"session_id\":\"d1088a7e5c1f0b2294c3d7e6f5a41b90\",\"timestamp\":{},\"data\":{{\"section\":\"commerce\"}}}}",
            1_795_281_149_307 + index
        )
    };
    (0..count).map(line).collect::<Vec<_>>().join("\n").into_bytes()
}

fn lines(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "lines");
    let mut batch = EventBatch::new(TENANT, Source::Http, KEY);
    let mut scratch = Scratch::default();
    for count in LINE_COUNTS {
        group.throughput(Throughput::Elements(count as u64));
        for (name, shape, body) in
            [("events", Shape::Events, track_lines(count)), ("logs", Shape::Logs, log_lines(count))]
        {
            group.bench_function(format!("{name}, {count}"), |bencher| {
                bencher.iter(|| {
                    batch.reset(TENANT, Source::Http);
                    let lines = put(black_box(&body), shape, &SENDER, &mut scratch, &mut batch).expect("good lines");
                    assert_eq!((lines.accepted, lines.rejected), (count, 0));
                    black_box(batch.records());
                });
            });
        }
        let body = log_lines(count);
        let fields = Fields::default();
        group.bench_function(format!("shipper, {count}"), |bencher| {
            bencher.iter(|| {
                batch.reset(TENANT, Source::Http);
                let lines = shipper::put(black_box(&body), &fields, &SENDER, &mut scratch, &mut batch);
                assert_eq!(lines.expect("good lines").accepted, count);
                black_box(batch.records());
            });
        });
        let body = (0..count).map(|index| sample.event(index)).collect::<Vec<_>>().join("\n").into_bytes();
        let mut scratch = envelope::Scratch::default();
        group.bench_function(format!("envelope, {count}"), |bencher| {
            bencher.iter(|| {
                batch.reset(TENANT, Source::Http);
                parse_lines(black_box(&body), "tenant", &mut scratch, &mut batch).expect("good lines");
                black_box(batch.records());
            });
        });
    }
}

fn inflate(criterion: &mut Criterion) {
    let mut group = group(criterion, "inflate");
    let mut kept = Inflate::default();
    let mut out = Vec::new();
    for count in LINE_COUNTS {
        let body = track_lines(count);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&body).expect("memory takes it");
        let gzip = encoder.finish().expect("memory takes it");
        let zstd = zstd::bulk::compress(&body, 3).expect("memory takes it");
        group.throughput(Throughput::Elements(count as u64));
        for (name, encoding, packed) in [("gzip", Encoding::Gzip, gzip), ("zstd", Encoding::Zstd, zstd)] {
            group.bench_function(format!("{name}, {count}, decoder kept"), |bencher| {
                bencher.iter(|| {
                    kept.decode(encoding, black_box(&packed), &mut out, INFLATED_BYTES_MAX).expect("a good body");
                    assert_eq!(out.len(), body.len());
                });
            });
            group.bench_function(format!("{name}, {count}, decoder new"), |bencher| {
                bencher.iter(|| {
                    let mut new = Inflate::default();
                    new.decode(encoding, black_box(&packed), &mut out, INFLATED_BYTES_MAX).expect("a good body");
                    assert_eq!(out.len(), body.len());
                });
            });
        }
    }
}

criterion_group!(benches, lines, inflate);
criterion_main!(benches);
