//! One shard on the simulated disk, driven by hand: nothing happens between two calls.
//!
//! Owns the disk, the clock and the shard of one test, and what has been acknowledged in it.
//! Must never: decide what is right. It only does and reads.

use std::collections::{BTreeMap, VecDeque};

use ringlog_engine::event::{EventBatch, EventInput, FingerprintKey, IdempotencyKey, Source};
use ringlog_engine::format::block::{BlockHeader, BlockKind};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::format::scan::SegmentBytes;
use ringlog_engine::format::segment::{SEGMENT_BLOCKS_FROM, SegmentHeader};
use ringlog_engine::ids::{Micros, Position, SegmentNumber, ShardNumber, Tenant, Version};
use ringlog_engine::io::{BufferPool, Disk, DiskError, DiskOp, FileMemory, Fill, Site};
use ringlog_engine::query::{QuerySpec, Row, Search, SearchError, SearchStep, Summary};
use ringlog_engine::shard::jobs::{Job, ShardHome};
use ringlog_engine::shard::names::{QUARANTINE_DIR, log_path, shard_dir};
use ringlog_engine::shard::recover::{OpenError, RecoveryReport};
use ringlog_engine::shard::{AppendError, Appended, Durability, KeyBounds, Now, Output, Shard, ShardConfig};
use ringlog_engine::sim::SimDisk;

/// Tickets of queries are apart from those of the shard.
const TICKET_QUERY: u64 = 1 << 62;
/// Turns after which nothing that can come to an end is still under way.
const TURNS_MAX: usize = 400;
/// Longer than the log waits before it says how far it is durable.
const QUIET_US: u64 = 6_000;
pub const SEGMENT_BYTES: u64 = 64 << 10;

/// One event as a test describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub event_type: String,
    pub entity: String,
    pub timestamp: Option<Micros>,
    pub payload: Vec<u8>,
    pub metadata: Vec<u8>,
}

impl Event {
    pub fn new(event_type: &str, entity: &str, payload: &str) -> Event {
        Event {
            event_type: event_type.to_owned(),
            entity: entity.to_owned(),
            timestamp: None,
            payload: payload.as_bytes().to_vec(),
            metadata: Vec::new(),
        }
    }
}

/// One event as it was read back, or as an acknowledgement says that it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub position: Position,
    pub version: Version,
    pub received_at: Micros,
    pub event: Event,
}

impl Found {
    pub fn of(row: &Row<'_>) -> Found {
        Found {
            position: row.position,
            version: row.version,
            received_at: row.received_at,
            event: Event {
                event_type: row.record.event_type.to_owned(),
                entity: row.record.entity.to_owned(),
                timestamp: row.record.timestamp,
                payload: row.record.payload.to_vec(),
                metadata: row.record.metadata.to_vec(),
            },
        }
    }
}

/// A block of a segment, as the test finds it on disk.
#[derive(Debug, Clone, Copy)]
pub struct BlockAt {
    pub offset: u64,
    pub bytes: u64,
    pub kind: BlockKind,
    pub header: BlockHeader,
}

pub struct Rig {
    pub disk: SimDisk,
    pub config: ShardConfig,
    pub now: Now,
    pub shard: Option<Shard>,
    /// The wall clock stands still, so that received times do not depend on how many turns something takes.
    pub is_wall_frozen: bool,
    /// Of the next life: epochs must not repeat.
    pub seed: u64,
    /// Every acknowledged event by tenant, in order.
    pub acknowledged: BTreeMap<Tenant, Vec<Found>>,
    jobs: VecDeque<Job>,
    waiting: BTreeMap<u64, (Tenant, Vec<Event>)>,
    /// The keys of the last batch that came back: what its answer says of versions.
    pub answered_versions: Vec<u64>,
    answers: BTreeMap<u64, Result<Appended, AppendError>>,
    next_ticket: u64,
}

impl Rig {
    pub fn new(seed: u64) -> Rig {
        Rig::with_disk(SimDisk::new(seed))
    }

    pub fn with_disk(disk: SimDisk) -> Rig {
        let shard = ShardNumber(0);
        let config = ShardConfig {
            home: ShardHome {
                shard,
                dir: shard_dir(shard),
                instance: *b"golden-instance!",
                segment_bytes: SEGMENT_BYTES,
                reserve_bytes: 0,
            },
            fingerprint: FingerprintKey(0x5EED),
            durability: Durability::Commit,
            spare_fill: Fill::Zeros,
            block_bytes_target: 8 << 10,
            commit_share_permille: 90,
            keys: KeyBounds::STANDARD,
        };
        Rig {
            disk,
            config,
            now: Now { monotonic_us: 1_000, wall: Micros(1_700_000_000_000_000), busy_permille: 0, commit_cost_us: 0 },
            shard: None,
            is_wall_frozen: false,
            seed: 77,
            acknowledged: BTreeMap::new(),
            jobs: VecDeque::new(),
            waiting: BTreeMap::new(),
            answered_versions: Vec::new(),
            answers: BTreeMap::new(),
            next_ticket: 1,
        }
    }

    /// Opens the shard, in a folder that is made if it is not there.
    pub fn open(&mut self) -> Result<RecoveryReport, OpenError> {
        self.disk.create_dir(&self.config.home.dir)?;
        self.disk.create_dir(QUARANTINE_DIR)?;
        self.disk.sync_dir("", Site::ShardDir)?;
        let pool = BufferPool::new(6, 8 << 10);
        self.seed += 1;
        let (shard, report) = Shard::open(&self.disk, self.config.clone(), pool, self.now, self.seed)?;
        self.shard = Some(shard);
        Ok(report)
    }

    pub fn shard(&mut self) -> &mut Shard {
        self.shard.as_mut().expect("the shard is open")
    }

    /// Starts an append; its ticket, or why it was refused at once.
    pub fn start(&mut self, tenant: Tenant, events: &[Event]) -> Result<u64, AppendError> {
        self.start_batch(batch_of(tenant, self.config.fingerprint, events, None), events)
    }

    /// Starts an append under an idempotency key.
    pub fn start_keyed(&mut self, tenant: Tenant, key: IdempotencyKey, events: &[Event]) -> Result<u64, AppendError> {
        let mut batch = batch_of(tenant, self.config.fingerprint, events, None);
        batch.set_idempotency(key);
        self.start_batch(batch, events)
    }

    fn start_batch(&mut self, batch: EventBatch, events: &[Event]) -> Result<u64, AppendError> {
        let tenant = batch.tenant();
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.shard().append(ticket, batch).map_err(|(_, error)| error)?;
        self.waiting.insert(ticket, (tenant, events.to_vec()));
        Ok(ticket)
    }

    /// Appends and waits for the answer, no longer: the log does not yet say how far it is durable.
    /// `None`: there is no answer, because the power went.
    pub fn append(&mut self, tenant: Tenant, events: &[Event]) -> Option<Result<Appended, AppendError>> {
        match self.start(tenant, events) {
            Ok(ticket) => self.answer(ticket),
            Err(error) => Some(Err(error)),
        }
    }

    /// As `append`, under an idempotency key.
    pub fn append_keyed(
        &mut self,
        tenant: Tenant,
        key: IdempotencyKey,
        events: &[Event],
    ) -> Option<Result<Appended, AppendError>> {
        match self.start_keyed(tenant, key, events) {
            Ok(ticket) => self.answer(ticket),
            Err(error) => Some(Err(error)),
        }
    }

    /// Waits for the answer to an append that was started. `None`: the power went.
    pub fn answer(&mut self, ticket: u64) -> Option<Result<Appended, AppendError>> {
        for _ in 0..TURNS_MAX {
            self.turn(20);
            if self.answers.contains_key(&ticket) || self.disk.is_down() {
                break;
            }
            self.run_jobs();
        }
        assert!(self.answers.contains_key(&ticket) || self.disk.is_down(), "no answer to an append");
        self.answers.get(&ticket).copied()
    }

    /// What became of an append, if it has been answered.
    pub fn answered(&self, ticket: u64) -> Option<Result<Appended, AppendError>> {
        self.answers.get(&ticket).copied()
    }

    /// Appends one event, which must succeed.
    pub fn put(&mut self, tenant: u32, event_type: &str, entity: &str, payload: &str) -> Appended {
        let appended = self.append(Tenant(tenant), &[Event::new(event_type, entity, payload)]);
        appended.expect("the power is on").expect("an append that nothing hinders")
    }

    /// Lets everything that is under way come to its end, until the log says how far it is durable.
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.disk.is_down() {
                return;
            }
            self.turn(QUIET_US);
            self.run_jobs();
            let is_quiet = self.shard().is_quiet() && self.shard().is_idle();
            if is_quiet && self.disk.pending() == 0 {
                return;
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Ends the open segment and seals it. It must have an event.
    pub fn roll(&mut self) {
        assert!(self.try_roll(), "nothing hinders a roll when nothing is under way");
    }

    /// Ends the open segment and seals it, if the next one is ready.
    pub fn try_roll(&mut self) -> bool {
        self.settle();
        if self.disk.is_down() {
            return false;
        }
        let mut out = Output::default();
        let now = self.now;
        let has_rolled = self.shard().roll_now(now, &mut out);
        self.take(out);
        self.settle();
        has_rolled
    }

    /// Gives the oldest sealed segment back. What was in it is no longer expected.
    pub fn retire(&mut self) {
        let snapshot = self.shard().snapshot();
        let Some(oldest) = snapshot.segments.first() else { return };
        for entry in oldest.resident.tenants() {
            let last = entry.first_position.get() + u64::from(entry.event_count.get()) - 1;
            if let Some(found) = self.acknowledged.get_mut(&Tenant(entry.tenant.get())) {
                found.retain(|found| last < found.position.0);
            }
        }
        drop(snapshot);
        self.shard().retire_oldest();
        self.settle();
    }

    /// A clean end.
    pub fn close(&mut self) {
        self.shard().close();
        self.settle();
        self.stop();
    }

    /// The process is gone; the machine stays.
    pub fn stop(&mut self) {
        self.forget();
        self.disk.reopen();
    }

    /// The power is gone.
    pub fn crash(&mut self) {
        self.forget();
        self.disk.crash();
        self.disk.reopen();
    }

    fn forget(&mut self) {
        self.shard = None;
        self.jobs.clear();
        self.waiting.clear();
        self.answers.clear();
    }

    /// One turn, the completions of all that it asked for, and a turn that takes them.
    pub fn turn(&mut self, us: u64) {
        self.now.monotonic_us += us;
        if !self.is_wall_frozen {
            self.now.wall = Micros(self.now.wall.0 + us as i64);
        }
        for _ in 0..2 {
            let mut out = Output::default();
            let now = self.now;
            self.shard().turn(now, &mut out);
            self.take(out);
            for done in self.disk.complete_some(usize::MAX) {
                self.shard().disk_done(done);
            }
        }
        let mut out = Output::default();
        let now = self.now;
        self.shard().turn(now, &mut out);
        self.take(out);
    }

    fn take(&mut self, out: Output) {
        for op in out.disk {
            self.disk.submit(op);
        }
        self.jobs.extend(out.jobs);
        for ack in out.acks {
            if self.disk.is_down() {
                // The process is dead: whoever waits sees a broken connection.
                continue;
            }
            let (tenant, events) = self.waiting.remove(&ack.ticket).expect("one answer to each append");
            self.answered_versions = ack.batch.keys().iter().map(|key| key.version).collect();
            if let Ok(appended) = ack.result
                && !appended.is_replay
            {
                let list = self.acknowledged.entry(tenant).or_default();
                for (event_index, (event, key)) in events.into_iter().zip(ack.batch.keys()).enumerate() {
                    list.push(Found {
                        position: Position(appended.first_position.0 + event_index as u64),
                        version: Version(key.version),
                        received_at: appended.received_at,
                        event,
                    });
                }
            }
            self.answers.insert(ack.ticket, ack.result);
        }
    }

    fn run_jobs(&mut self) {
        while let Some(job) = self.jobs.pop_front() {
            let done = job.run(&self.disk, &mut FileMemory::default());
            if self.disk.is_down() {
                return;
            }
            let now = self.now;
            self.shard().job_done(done, now);
            self.turn(20);
        }
    }

    /// Asks a query to its end.
    pub fn query(&mut self, spec: QuerySpec) -> Result<(Vec<Found>, Summary), SearchError> {
        let mut search = Search::new(spec, self.config.fingerprint);
        let mut found = Vec::new();
        loop {
            let mut ops = Vec::new();
            let step = search.step(&mut ops)?;
            for op in ops {
                self.disk.submit(tag(op));
            }
            match step {
                SearchStep::AskOwner(request) => search.owner_answered(self.shard().search(&request)),
                SearchStep::Rows(rows) => found.extend(rows.iter().map(|row| Found::of(&row))),
                SearchStep::Done(summary) => return Ok((found, summary)),
                SearchStep::Wait => {
                    let done = self.disk.complete_some(usize::MAX);
                    if done.is_empty() {
                        return Err(SearchError::Disk(DiskError::Crashed));
                    }
                    for mut done in done {
                        if done.ticket & TICKET_QUERY == 0 {
                            self.shard().disk_done(done);
                        } else {
                            done.ticket &= !TICKET_QUERY;
                            search.disk_done(done);
                        }
                    }
                }
            }
        }
    }

    /// Everything of a tenant, oldest first.
    pub fn all(&mut self, tenant: Tenant) -> Result<Vec<Found>, SearchError> {
        self.query(QuerySpec::all(tenant, usize::MAX)).map(|(found, _)| found)
    }

    /// Whatever was acknowledged is found, unchanged, and in order. More may be found behind it.
    pub fn check_acknowledged(&mut self, context: &str) {
        for (tenant, expected) in self.acknowledged.clone() {
            let found = self.all(tenant).unwrap_or_else(|error| panic!("{context}: {error}"));
            // A retirement may or may not have happened when the power went.
            let first = expected.first().map_or(0, |first| first.position.0);
            let found: Vec<Found> = found.into_iter().filter(|found| first <= found.position.0).collect();
            assert!(
                expected.len() <= found.len(),
                "{context}: {tenant:?} lost {} of {}",
                expected.len() - found.len(),
                expected.len()
            );
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "{context}: {tenant:?}");
            }
            let dense = found.windows(2).all(|pair| pair[0].position.0 + 1 == pair[1].position.0);
            assert!(dense, "{context}: {tenant:?} has a hole");
        }
    }

    pub fn segment_path(&self, number: u64) -> String {
        log_path(&self.config.home.dir, SegmentNumber(number))
    }

    /// The blocks of a segment's file as they are on disk.
    pub fn blocks(&self, number: u64) -> Vec<BlockAt> {
        let bytes = self.disk.peek(&self.segment_path(number)).expect("the segment exists");
        let home = &self.config.home;
        let header =
            SegmentHeader::parse(&bytes, home.shard.0, SegmentNumber(number), bytes.len() as u64, home.instance);
        let segment = SegmentBytes {
            shard: home.shard.0,
            number: SegmentNumber(number),
            epoch: header.expect("a segment of this shard").epoch.get(),
            segment_bytes: bytes.len() as u64,
            base: 0,
            bytes: &bytes,
        };
        let blocks = segment.blocks_from(SEGMENT_BLOCKS_FROM);
        blocks
            .iter()
            .map(|block| BlockAt {
                offset: block.offset,
                bytes: block.header.block_bytes(),
                kind: block.kind,
                header: block.header,
            })
            .collect()
    }

    /// The segments' numbers in the log, oldest first.
    pub fn segments(&self) -> Vec<u64> {
        self.files(".seg").iter().filter_map(|name| name.strip_prefix("log-").and_then(hex)).collect()
    }

    /// Names in the shard's folder that end like this.
    pub fn files(&self, suffix: &str) -> Vec<String> {
        let mut names = self.disk.list(&self.config.home.dir).expect("the folder exists");
        names.retain(|name| name.ends_with(suffix));
        names
    }
}

fn hex(name: &str) -> Option<u64> {
    u64::from_str_radix(name.split('.').next()?, 16).ok()
}

fn tag(op: DiskOp) -> DiskOp {
    match op {
        DiskOp::Read { ticket, file, offset, buffer, bytes, from } => {
            DiskOp::Read { ticket: ticket | TICKET_QUERY, file, offset, buffer, bytes, from }
        }
        other => other,
    }
}

/// A batch of these events, that expects the version of the first one's entity.
pub fn batch_of(
    tenant: Tenant,
    fingerprint: FingerprintKey,
    events: &[Event],
    expected: Option<Version>,
) -> EventBatch {
    let mut batch = EventBatch::new(tenant, Source::Engine, fingerprint);
    for (event_index, event) in events.iter().enumerate() {
        batch
            .push(EventInput {
                kind: EventKind::Event,
                event_type: &event.event_type,
                entity: &event.entity,
                timestamp: event.timestamp,
                payload: &event.payload,
                metadata: &event.metadata,
                expected_version: expected.filter(|_| event_index == 0),
            })
            .expect("a valid event");
    }
    batch
}

/// Every file of a disk: to be put onto another one, as often as a test needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image(pub BTreeMap<String, Vec<u8>>);

impl Image {
    /// The files of the shard's folder.
    pub fn of(rig: &Rig) -> Image {
        let dir = &rig.config.home.dir;
        let names = rig.disk.list(dir).expect("the folder exists");
        let files = names.into_iter().map(|name| {
            let path = format!("{dir}/{name}");
            let bytes = rig.disk.peek(&path).expect("a listed file exists");
            (path, bytes)
        });
        Image(files.collect())
    }

    /// A disk with these files on it, durable.
    pub fn load(&self, seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        let dir = shard_dir(ShardNumber(0));
        disk.create_dir(&dir).expect("a healthy disk");
        for (path, bytes) in &self.0 {
            let file = disk.create(path, bytes.len() as u64, Fill::Allocate).expect("a new file");
            disk.write(&file, 0, bytes).expect("a healthy disk");
            disk.sync(&file, Site::SegmentHeader).expect("a healthy disk");
        }
        disk.sync_dir(&dir, Site::SegmentDir).expect("a healthy disk");
        disk.sync_dir("", Site::ShardDir).expect("a healthy disk");
        disk
    }
}
