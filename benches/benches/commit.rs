//! What a device adds: durable writes through the ring by size and depth, and whole appends, durable and not.
//!
//! ```text
//! cargo bench -p ringlog-benches --bench commit                       about a minute
//! cargo bench -p ringlog-benches --bench commit -- 'durable write'    one group
//! TMPDIR=/mnt/disk cargo bench -p ringlog-benches --bench commit      on another device
//! ```
//! It writes to temporary folders: /tmp may be memory, which flushes nothing and answers at once.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringlog_benches::sample::{ENTITIES, Sample, group};
use ringlog_engine::engine::{Engine, EngineOptions};
use ringlog_engine::event::EventBatch;
use ringlog_engine::ids::ShardNumber;
use ringlog_engine::io::{
    Buffer, Completion, Disk, DiskFile, DiskOp, Fill, FsDisk, IoMode, Persist, Ring, RingConfig, Site, SyncMode,
};
use ringlog_engine::limits::IN_FLIGHT_BLOCKS_MAX;
use ringlog_engine::shard::Durability;
use tempfile::TempDir;

/// Appends that are under way at a time: enough to fill the engine's window.
const IN_FLIGHT: u64 = 64;

/// A file as a segment is: full of zeros before the first write, so that a write changes neither size nor extents.
struct Log {
    _dir: TempDir,
    ring: Ring,
    file: DiskFile,
    offset: u64,
}

impl Log {
    const BYTES: u64 = 32 << 20;

    fn new() -> Log {
        let dir = TempDir::new().expect("a temporary folder");
        let disk = FsDisk::open(&dir.path().join("data")).expect("a new folder");
        let file = disk.create("log", Log::BYTES, Fill::Zeros).expect("room on the device");
        disk.sync(&file, Site::SegmentHeader).expect("a healthy disk");
        let ring = Ring::new(RingConfig {
            mode: IoMode::Auto,
            entries: 64,
            receive_buffers: 1,
            receive_buffer_bytes: 4096,
            sync: SyncMode::Dsync,
            sockets_max: 1,
        })
        .expect("a ring or its fallback");
        Log { _dir: dir, ring, file, offset: 0 }
    }

    /// Writes `count` blocks, with `depth` under way at a time, and waits for the last.
    fn write(&mut self, count: u64, block_bytes: usize, depth: u64, persist: Persist) -> Duration {
        let mut free: Vec<Buffer> = (0..depth).map(|_| Buffer::new(block_bytes)).collect();
        let (mut begun, mut ended) = (0, 0);
        let started = Instant::now();
        while ended < count {
            while begun < count
                && let Some(buffer) = free.pop()
            {
                let (file, offset) = (self.file.clone(), self.offset);
                self.ring.disk(DiskOp::Write { ticket: begun, file, offset, buffer, bytes: block_bytes, persist });
                self.offset = (offset + block_bytes as u64) % Log::BYTES;
                begun += 1;
            }
            self.ring.wait(None).expect("a ring of our own");
            while let Some(completion) = self.ring.next() {
                if let Completion::Disk(done) = completion {
                    assert_eq!(done.result, Ok(block_bytes));
                    free.extend(done.buffer);
                    ended += 1;
                }
            }
        }
        started.elapsed()
    }
}

/// Elements are writes: a commit of the engine is one of them, whatever number of events its block carries.
fn write(criterion: &mut Criterion) {
    let mut log = Log::new();
    for (name, persist) in [("durable write", Persist::Durable), ("write", Persist::Written)] {
        let mut group = group(criterion, name);
        group.throughput(Throughput::Elements(1));
        for block_bytes in [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
            for depth in [1, IN_FLIGHT_BLOCKS_MAX] {
                let id = BenchmarkId::new(format!("depth {depth}"), format!("{} KiB", block_bytes >> 10));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|count| log.write(count, block_bytes, depth, persist));
                });
            }
        }
    }
}

fn append(criterion: &mut Criterion) {
    let sample = Sample::new();
    for (name, durability) in [("append, commit", Durability::Commit), ("append, memory", Durability::Memory)] {
        let mut group = group(criterion, name);
        for events in [1, 10, 100, 500] {
            let dir = TempDir::new().expect("a temporary folder");
            let options =
                EngineOptions { segment_bytes: 32 << 20, reserve_bytes: 0, durability, ..EngineOptions::default() };
            let mut engine = Engine::open(dir.path(), &options).expect("a new log");
            let key = engine.fingerprint();
            let batches: Vec<EventBatch> =
                (0..ENTITIES / events).map(|batch_index| sample.batch(key, batch_index * events, events)).collect();
            group.throughput(Throughput::Elements(events as u64));
            group.bench_function(BenchmarkId::new("events in a batch", events), |bencher| {
                bencher.iter_custom(|count| append_all(&mut engine, &batches, count));
            });
            engine.close();
        }
    }
}

/// Appends copies of batches, with several under way, and waits for the last answer. The copies are in the time. Old
/// segments go as new ones come.
fn append_all(engine: &mut Engine, batches: &[EventBatch], count: u64) -> Duration {
    let mut copies = batches.iter().cycle();
    let started = Instant::now();
    let mut appended = 0;
    let mut answered = 0;
    while answered < count {
        while appended < count && appended - answered < IN_FLIGHT {
            let batch = copies.next().expect("a cycle has no end").clone();
            engine.start(batch).expect("room for a batch");
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

criterion_group!(benches, write, append);
criterion_main!(benches);
