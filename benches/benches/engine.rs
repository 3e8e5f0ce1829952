//! What an event costs the engine before any device is asked: encoding, checksums, admission with its index.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench engine              half a minute
//! cargo bench -p ringlog-benches --bench engine -- encode    one group
//! ```
//! The appends use no device; what a device adds is in `commit.rs`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::credentials::mixed;
use ringlog_benches::sample::{KEY, Sample, TENANT, group};
use ringlog_engine::event::{EventBatch, IdempotencyKey, KeyClass, Source};
use ringlog_engine::format::key_run::KeyEntry;
use ringlog_engine::ids::{Micros, Position, ShardNumber};
use ringlog_engine::io::{BufferPool, Disk, DiskDone, DiskOp, FileMemory, Fill};
use ringlog_engine::limits::BLOCK_BYTES_TARGET;
use ringlog_engine::shard::jobs::ShardHome;
use ringlog_engine::shard::names::{QUARANTINE_DIR, shard_dir};
use ringlog_engine::shard::{Durability, KeyBounds, KeyWindow, Now, Output, Shard, ShardConfig};
use ringlog_engine::sim::SimDisk;

fn encode(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "encode");
    let mut batch = EventBatch::new(TENANT, Source::Engine, KEY);
    group.throughput(Throughput::Elements(100));
    // The names are checked and hashed, the record is written and its checksum taken.
    group.bench_function("push 100 events", |bencher| {
        bencher.iter(|| {
            batch.reset(TENANT, Source::Engine);
            sample.fill(black_box(&mut batch), 0, 100);
            black_box(batch.records());
        });
    });
}

fn checksum(criterion: &mut Criterion) {
    let mut group = group(criterion, "crc");
    for bytes in [200, 4 << 10, 64 << 10, 1 << 20] {
        let data = vec![0xA5; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("bytes", bytes), |bencher| {
            bencher.iter(|| crc32fast::hash(black_box(&data)));
        });
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

    fn open(keys: KeyBounds) -> NullShard {
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
            keys,
        };
        let now = Now { monotonic_us: 1, wall: Micros(1), busy_permille: 0, commit_cost_us: 0 };
        let pool = BufferPool::new(6, BLOCK_BYTES_TARGET);
        let (shard, _) = Shard::open(&disk, config, pool, now, 1).expect("an empty shard");
        let mut null = NullShard { shard, now, out: Output::default() };
        null.turn();
        for job in std::mem::take(&mut null.out.jobs) {
            null.shard.job_done(job.run(&disk, &mut FileMemory::default()), null.now);
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
    fn append(&mut self, batches: Vec<EventBatch>, per_turn: usize) -> Duration {
        let count = batches.len();
        let mut answered = Vec::with_capacity(count);
        let started = Instant::now();
        for (ticket, batch) in batches.into_iter().enumerate() {
            self.shard.append(ticket as u64, batch).expect("room for a batch");
            if (ticket + 1).is_multiple_of(per_turn) {
                self.turn();
                answered.append(&mut self.out.acks);
            }
        }
        // What is left waits for the block before it, a few turns at most.
        for _ in 0..100 {
            if answered.len() == count {
                break;
            }
            self.turn();
            answered.append(&mut self.out.acks);
        }
        let elapsed = started.elapsed();
        assert!(answered.len() == count && answered.iter().all(|ack| ack.result.is_ok()));
        elapsed
    }
}

fn admit(criterion: &mut Criterion) {
    let sample = Sample::new();
    let mut group = group(criterion, "admit and index");
    // Each turn's batches share a block: a lone event in a block pays for the whole block.
    for (events, per_turn) in [(1, 1), (1, 64), (10, 64), (100, 1), (100, 16), (500, 1)] {
        group.throughput(Throughput::Elements(events as u64));
        group.bench_function(format!("batches of {events}, {per_turn} a turn"), |bencher| {
            bencher.iter_custom(|iterations| {
                // Half of a segment at a time, so that nothing rolls. A block takes a page at least.
                let per_batch = (events as u64 * 300).next_multiple_of(4096);
                let fits = NullShard::SEGMENT_BYTES / 2 / per_batch;
                let mut left = iterations;
                let mut elapsed = Duration::ZERO;
                while left > 0 {
                    let count = left.min(fits);
                    let batches = (0..count as usize).map(|at| sample.batch(KEY, at * events, events)).collect();
                    elapsed += NullShard::open(KeyBounds::STANDARD).append(batches, per_turn);
                    left -= count;
                }
                elapsed
            });
        });
    }
}

/// What an idempotency key adds to a batch: the first line has none, the others have one each, with few keys remembered, with
/// as many as the tenant may have, so that each new one makes the oldest go, and of batches that were stored before.
fn keyed(criterion: &mut Criterion) {
    const PER_TURN: usize = 64;
    const BATCHES: usize = 16_384;
    const KEYS: usize = 1 << 20;
    let sample = Sample::new();
    let mut group = group(criterion, "idempotency keys");
    let idempotency = |at: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&mixed(at).to_le_bytes());
        IdempotencyKey { class: KeyClass::Request, key, body: key }
    };
    let keyed = |from: usize, count: usize| -> Vec<EventBatch> {
        let batches = (from..from + count).map(|at| {
            let mut batch = sample.batch(KEY, at % BATCHES, 1);
            batch.set_idempotency(idempotency(at as u64));
            batch
        });
        batches.collect()
    };
    let mut line = |name: &str, run: &mut dyn FnMut(usize) -> Duration| {
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let mut left = iterations as usize;
                let mut elapsed = Duration::ZERO;
                while left > 0 {
                    let count = left.min(BATCHES);
                    elapsed += run(count);
                    left -= count;
                }
                elapsed
            });
        });
    };
    line("no key", &mut |count| {
        let batches = (0..count).map(|at| sample.batch(KEY, at, 1)).collect();
        NullShard::open(KeyBounds::STANDARD).append(batches, PER_TURN)
    });
    line("few remembered", &mut |count| NullShard::open(KeyBounds::STANDARD).append(keyed(0, count), PER_TURN));
    // The bound is what fits one segment: nothing rolls, and the table of a shard is as full as it gets.
    let small = KeyBounds { per_tenant: BATCHES, ..KeyBounds::STANDARD };
    line("16,384 remembered, each makes one go", &mut |count| {
        let mut shard = NullShard::open(small);
        shard.append(keyed(0, BATCHES), PER_TURN);
        shard.append(keyed(BATCHES, count), PER_TURN)
    });
    line("replays", &mut |count| {
        let mut shard = NullShard::open(KeyBounds::STANDARD);
        shard.append(keyed(0, count), PER_TURN);
        shard.append(keyed(0, count), PER_TURN)
    });
    // A full window without a shard around it: what 1,048,576 keys cost beyond the caches.
    let mut window = KeyWindow::new(KeyBounds::STANDARD, KeyClass::Request, 7);
    let batch = sample.batch(KEY, 0, 1);
    let mut next = 0;
    let mut insert = |count: usize| {
        let started = Instant::now();
        for _ in 0..count {
            next += 1;
            let entry = KeyEntry::new(&batch, idempotency(next), Position(next), Micros(1));
            black_box(window.find(TENANT, &entry.idempotency_hash, Micros(1)));
            window.insert(entry);
        }
        started.elapsed()
    };
    insert(KEYS + BATCHES);
    line("1,048,576 remembered, look and replace, no shard", &mut insert);
}

criterion_group!(benches, encode, checksum, admit, keyed);
criterion_main!(benches);
