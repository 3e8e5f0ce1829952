//! What a question costs while what it reads is in memory: newest events, one entity, none, a window of time, a type.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench query    a quarter of a minute
//! ```
//! Elements are the rows of the answer; of the entity that does not exist, questions. 100,000 events lie in sealed
//! segments of 4 MiB and in the open one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{ENTITIES, Sample, TENANT, group};
use ringlog_engine::engine::{Engine, EngineOptions};
use ringlog_engine::ids::ShardNumber;
use ringlog_engine::query::{Order, QuerySpec, TypeFilter};
use ringlog_engine::shard::Durability;
use tempfile::TempDir;

const EVENTS: usize = 100_000;

fn filled(sample: &Sample, dir: &TempDir) -> Engine {
    let options = EngineOptions {
        segment_bytes: 4 << 20,
        reserve_bytes: 0,
        durability: Durability::Memory,
        ..EngineOptions::default()
    };
    let mut engine = Engine::open(dir.path(), &options).expect("a new log");
    for from in (0..EVENTS).step_by(500) {
        let batch = sample.batch(engine.fingerprint(), from, 500);
        engine.append(batch).map_err(|(_, error)| error).expect("a healthy disk");
    }
    engine.settle();
    assert!(engine.stats(ShardNumber(0)).segments_sealed > 2);
    engine
}

fn query(criterion: &mut Criterion) {
    let sample = Sample::new();
    let dir = TempDir::new().expect("a temporary folder");
    let mut engine = filled(&sample, &dir);
    let newest = QuerySpec { order: Order::Descending, ..QuerySpec::all(TENANT, 100) };
    let of_entity = |entity: &str| QuerySpec { entity: Some(entity.to_string()), ..newest.clone() };
    let window = |from, to| QuerySpec {
        since: Some(sample.timestamp(from)),
        until: Some(sample.timestamp(to)),
        ..newest.clone()
    };
    let of_type = QuerySpec { event_type: Some(TypeFilter::Exact("order.placed".to_string())), ..newest.clone() };
    let mut group = group(criterion, "query");
    for (name, spec, rows) in [
        ("newest 100", newest.clone(), 100),
        ("newest 100 of a type", of_type, 100),
        ("all of an entity", of_entity(sample.entity(4_242)), EVENTS / ENTITIES),
        ("an entity that does not exist", of_entity("order-absent"), 0),
        ("100 of a window of 100 in the middle", window(50_000, 50_099), 100),
        ("newest 100 of a window of 10,000", window(40_000, 49_999), 100),
        ("a window of the very first", window(0, 0), 1),
    ] {
        group.throughput(Throughput::Elements(rows.max(1) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut found = 0;
                engine.query(spec.clone(), |_| found += 1).expect("a healthy log");
                assert_eq!(found, rows);
            });
        });
    }
    group.finish();
    engine.close();
}

criterion_group!(benches, query);
criterion_main!(benches);
