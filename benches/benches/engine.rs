//! What the engine costs, step by step: encode, checksum, admit and index, append durably, query.
//!
//! `cargo bench -p ringlog-benches --bench engine` (about a minute; `-- append` for one group). The appends use a
//! temporary folder: set TMPDIR to a folder on the device in question, since /tmp may be memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlog_engine::engine::{Engine, EngineOptions};
use ringlog_engine::event::{EventBatch, EventInput, FingerprintKey, Source};
use ringlog_engine::ids::{Micros, ShardNumber, Tenant};
use ringlog_engine::io::{BufferPool, Disk, DiskDone, DiskOp, Fill};
use ringlog_engine::limits::BLOCK_BYTES_TARGET;
use ringlog_engine::query::{Order, QuerySpec};
use ringlog_engine::shard::jobs::ShardHome;
use ringlog_engine::shard::names::{QUARANTINE_DIR, shard_dir};
use ringlog_engine::shard::{Durability, Now, Output, Shard, ShardConfig};
use ringlog_engine::sim::SimDisk;
use tempfile::TempDir;

const TENANT: Tenant = Tenant(1);
const KEY: FingerprintKey = FingerprintKey(0x5EED);
/// Appends that are under way at a time: enough to fill the engine's window.
const IN_FLIGHT: u64 = 64;
const ENTITIES: usize = 10_000;

/// 220 bytes as an SDK sends them: payload, type and entity.
struct Sample {
    entities: Vec<String>,
    payload: Vec<u8>,
}

impl Sample {
    fn new() -> Sample {
        let entities: Vec<String> = (0..ENTITIES).map(|at| format!("order-{at:06}")).collect();
        let payload_bytes = 220 - "order.placed".len() - entities[0].len();
        let mut payload = b"{\"amount\":1200,\"currency\":\"EUR\",\"note\":\"".to_vec();
        payload.resize(payload_bytes - 2, b'n');
        payload.extend_from_slice(b"\"}");
        Sample { entities, payload }
    }

    fn fill(&self, batch: &mut EventBatch, from: usize, count: usize) {
        for at in from..from + count {
            // Neighbours differ, as they do in a feed of many clients.
            let entity = &self.entities[at * 7919 % ENTITIES];
            batch.push(EventInput::new("order.placed", entity, &self.payload)).expect("a valid event");
        }
    }

    fn batch(&self, from: usize, count: usize) -> EventBatch {
        let mut batch = EventBatch::new(TENANT, Source::Engine, KEY);
        self.fill(&mut batch, from, count);
        batch
    }
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

fn encode(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "encode");
    let mut batch = EventBatch::new(TENANT, Source::Engine, KEY);
    group.throughput(Throughput::Elements(100));
    group.bench_function("push 100 events of 220 bytes", |bencher| {
        bencher.iter(|| {
            batch.reset(TENANT, Source::Engine);
            sample.fill(&mut batch, 0, 100);
        });
    });
}

fn checksum(criterion: &mut Criterion) {
    let mut group = group(criterion, "crc");
    for bytes in [220, 4 << 10, 1 << 20] {
        let data = vec![0xA5; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(bytes), |bencher| bencher.iter(|| crc32fast::hash(&data)));
    }
}

/// A shard whose writes complete at once and go nowhere: what remains is admission, the block and the index.
struct NullShard {
    shard: Shard,
    now: Now,
    out: Output,
}

impl NullShard {
    const SEGMENT_BYTES: u64 = 32 << 20;

    fn open() -> NullShard {
        let disk = SimDisk::new(1);
        let home = ShardHome {
            shard: ShardNumber(0),
            dir: shard_dir(ShardNumber(0)),
            instance: [7; 16],
            segment_bytes: NullShard::SEGMENT_BYTES,
            reserve_bytes: 0,
        };
        disk.create_dir(&home.dir).expect("a healthy disk");
        disk.create_dir(QUARANTINE_DIR).expect("a healthy disk");
        let config = ShardConfig {
            home,
            fingerprint: KEY,
            durability: Durability::Commit,
            spare_fill: Fill::Allocate,
            block_bytes_target: BLOCK_BYTES_TARGET,
            commit_share_permille: 90,
        };
        let now = Now { monotonic_us: 1, wall: Micros(1), busy_permille: 0, commit_cost_us: 0 };
        let pool = BufferPool::new(6, BLOCK_BYTES_TARGET);
        let (shard, _) = Shard::open(&disk, config, pool, now, 1).expect("an empty shard");
        let mut null = NullShard { shard, now, out: Output::default() };
        null.turn();
        for job in std::mem::take(&mut null.out.jobs) {
            null.shard.job_done(job.run(&disk), null.now);
        }
        null
    }

    /// One turn, and the completions of what it asked for.
    fn turn(&mut self) {
        self.now.monotonic_us += 20;
        self.shard.turn(self.now, &mut self.out);
        for op in self.out.disk.drain(..) {
            if let DiskOp::Write { ticket, buffer, bytes, .. } = op {
                self.shard.disk_done(DiskDone { ticket, result: Ok(bytes), buffer: Some(buffer) });
            }
        }
    }

    /// Appends batches that are there already; the time that the shard's thread takes. They fit the first segment.
    fn append(&mut self, batches: Vec<EventBatch>) -> Duration {
        let count = batches.len();
        let mut answered = Vec::with_capacity(count);
        let started = Instant::now();
        for (ticket, batch) in batches.into_iter().enumerate() {
            self.shard.append(ticket as u64, batch).expect("room for a batch");
            self.turn();
            answered.append(&mut self.out.acks);
        }
        self.turn();
        answered.append(&mut self.out.acks);
        let elapsed = started.elapsed();
        assert!(answered.len() == count && answered.iter().all(|ack| ack.result.is_ok()));
        elapsed
    }
}

fn admit(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "admit and index");
    for events in [1, 100, 500] {
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(BenchmarkId::new("events in a batch", events), |bencher| {
            bencher.iter_custom(|iterations| {
                // Half of a segment at a time, so that nothing rolls. A block takes a page at least.
                let per_batch = (events as u64 * 300).next_multiple_of(4096);
                let fits = NullShard::SEGMENT_BYTES / 2 / per_batch;
                let mut left = iterations;
                let mut elapsed = Duration::ZERO;
                while left > 0 {
                    let count = left.min(fits);
                    let batches = (0..count as usize).map(|at| sample.batch(at * events, events)).collect();
                    elapsed += NullShard::open().append(batches);
                    left -= count;
                }
                elapsed
            });
        });
    }
}

fn options(durability: Durability) -> EngineOptions {
    EngineOptions { segment_bytes: 32 << 20, reserve_bytes: 0, durability, ..EngineOptions::default() }
}

fn append(criterion: &mut Criterion) {
    let sample = Arc::new(Sample::new());
    for (name, durability) in [("append, commit", Durability::Commit), ("append, memory", Durability::Memory)] {
        let mut group = group(criterion, name);
        for events in [1, 10, 100, 500] {
            let dir = TempDir::new().expect("a temporary folder");
            let mut engine = Engine::open(dir.path(), &options(durability)).expect("a new log");
            let key = engine.fingerprint();
            let mut prototype = EventBatch::new(TENANT, Source::Engine, key);
            sample.fill(&mut prototype, 0, events);
            group.throughput(Throughput::Elements(events as u64));
            group.bench_function(BenchmarkId::new("events in a batch", events), |bencher| {
                bencher.iter_custom(|iterations| append_all(&mut engine, &prototype, iterations));
            });
            engine.close();
        }
    }
}

/// Appends copies of a batch, with several under way, and waits for the last answer. Old segments go as new ones come.
fn append_all(engine: &mut Engine, prototype: &EventBatch, count: u64) -> Duration {
    let started = Instant::now();
    let mut appended = 0;
    let mut answered = 0;
    while answered < count {
        while appended < count && appended - answered < IN_FLIGHT {
            engine.start(prototype.clone()).expect("room for a batch");
            appended += 1;
        }
        for ack in engine.finished() {
            ack.result.expect("a healthy disk");
            answered += 1;
        }
        let stats = engine.stats(ShardNumber(0));
        if stats.segments_sealed > stats.segments_retired + 2 {
            engine.retire_oldest(ShardNumber(0));
        }
    }
    started.elapsed()
}

fn query(criterion: &mut Criterion) {
    const EVENTS: usize = 100_000;
    let sample = Sample::new();
    let dir = TempDir::new().expect("a temporary folder");
    // Small segments: most of the events are sealed, some are not.
    let small = EngineOptions { segment_bytes: 4 << 20, ..options(Durability::Memory) };
    let mut engine = Engine::open(dir.path(), &small).expect("a new log");
    for from in (0..EVENTS).step_by(500) {
        let mut batch = engine.batch(TENANT);
        sample.fill(&mut batch, from, 500);
        engine.append(batch).map_err(|(_, error)| error).expect("a healthy disk");
    }
    engine.settle();
    let mut group = group(criterion, "query");
    let newest = QuerySpec { order: Order::Descending, ..QuerySpec::all(TENANT, 100) };
    let of_entity = QuerySpec { entity: Some(sample.entities[4_242].clone()), ..newest.clone() };
    for (name, spec) in [("newest 100 of 100k", newest), ("one entity of 10k in 100k", of_entity)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut rows = 0;
                engine.query(spec.clone(), |_| rows += 1).expect("a healthy log");
                assert!(0 < rows);
            });
        });
    }
    group.finish();
    engine.close();
}

criterion_group!(benches, encode, checksum, admit, append, query);
criterion_main!(benches);
