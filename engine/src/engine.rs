//! The engine for programs that embed it: one thread, blocking calls, all shards on one ring.
//!
//! The server drives the same shards itself, one ring per core; what this file shows is the whole of what a host has to do.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::data_dir::{DataDir, NewDir, OpenDirError};
use crate::event::{EventBatch, FingerprintKey, Source};
use crate::event_id::EventIdKey;
use crate::host::{Route, ShardHost};
use crate::ids::{Micros, SegmentNumber, ShardNumber, Tenant};
use crate::io::clock::{monotonic_us, random_bytes, random_u64, wall_us};
use crate::io::{Completion, Fill, IoMode, Ring, RingConfig, RingError, SyncMode};
use crate::limits::{BLOCK_BYTES_TARGET, DISK_RESERVE_BYTES, SEGMENT_BYTES_DEFAULT};
use crate::query::{QuerySpec, Rows, Search, SearchError, SearchStep, Summary};
use crate::shard::recover::{OpenError, RecoveryReport};
use crate::shard::{Ack, AppendError, Appended, Durability, KeyBounds, Limits, Now, ShardConfig, ShardStats, Usage};

/// The route of an engine's queries; shards have the routes below it.
const QUERY_ROUTE: Route = Route(u8::MAX);

/// How to open an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Shards of a new data directory, or more than an existing one has; `None` takes what is there.
    pub shard_count: Option<u32>,
    /// Size of a new directory's segments.
    pub segment_bytes: u64,
    pub durability: Durability,
    pub io: IoMode,
    pub sync: SyncMode,
    /// Free space that is never taken.
    pub reserve_bytes: u64,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            shard_count: None,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            durability: Durability::Commit,
            io: IoMode::Auto,
            sync: SyncMode::Dsync,
            reserve_bytes: DISK_RESERVE_BYTES,
        }
    }
}

/// Why an engine cannot be opened.
#[derive(Debug)]
pub enum EngineError {
    Dir(OpenDirError),
    Ring(RingError),
    Shard { shard: ShardNumber, error: OpenError },
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Dir(error) => write!(f, "{error}"),
            EngineError::Ring(error) => write!(f, "{error}"),
            EngineError::Shard { shard, error } => write!(f, "shard {}: {error}", shard.0),
        }
    }
}

impl std::error::Error for EngineError {}

/// A data directory, open for appending and querying from one thread.
///
/// ```no_run
/// use ringlog_engine::engine::{Engine, EngineOptions};
/// use ringlog_engine::event::EventInput;
/// use ringlog_engine::ids::Tenant;
/// use ringlog_engine::query::QuerySpec;
///
/// let mut engine = Engine::open("data".as_ref(), &EngineOptions::default())?;
/// let mut batch = engine.batch(Tenant(1));
/// batch.push(EventInput::new("order.paid", "order-7", b"{\"amount\":12}"))?;
/// let (appended, _) = engine.append(batch).map_err(|(_, error)| format!("{error:?}"))?;
/// println!("stored at position {}", appended.first_position.0);
/// engine.query(QuerySpec::all(Tenant(1), 10), |row| println!("{}", row.record.event_type))?;
/// engine.close();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    dir: DataDir,
    ring: Ring,
    shards: Vec<ShardHost>,
    reports: Vec<RecoveryReport>,
    acks: Vec<Ack>,
    next_ticket: u64,
    deadline_us: Option<u64>,
}

impl Engine {
    /// Opens or makes a data directory and recovers its shards.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Engine, EngineError> {
        let mut random = [0; 40];
        random_bytes(&mut random);
        let new = NewDir { now: Micros(wall_us()), segment_bytes: options.segment_bytes, random };
        let dir = DataDir::open(path, options.shard_count, new).map_err(EngineError::Dir)?;
        let mut ring = Ring::new(RingConfig {
            mode: options.io,
            entries: 64,
            receive_buffers: 1,
            receive_buffer_bytes: 4096,
            sync: options.sync,
            sockets_max: 1,
        })
        .map_err(EngineError::Ring)?;
        let mut shards = Vec::new();
        let mut reports = Vec::new();
        for number in 0..dir.shard_count() {
            let shard = ShardNumber(number);
            let config = ShardConfig {
                home: dir.shard_home(shard, options.reserve_bytes),
                fingerprint: dir.fingerprint(),
                durability: options.durability,
                spare_fill: Fill::Zeros,
                block_bytes_target: BLOCK_BYTES_TARGET,
                commit_share_permille: 90,
                keys: KeyBounds::STANDARD,
            };
            let route = Route(number as u8);
            let (host, report) = ShardHost::open(dir.disk(), config, now(), random_u64(), route, &mut ring)
                .map_err(|error| EngineError::Shard { shard, error })?;
            shards.push(host);
            reports.push(report);
        }
        Ok(Engine { dir, ring, shards, reports, acks: Vec::new(), next_ticket: 0, deadline_us: Some(0) })
    }

    /// What opening found, by shard.
    pub fn recovery_reports(&self) -> &[RecoveryReport] {
        &self.reports
    }

    /// One line about how the kernel is asked.
    pub fn io_notice(&self) -> &str {
        self.ring.notice()
    }

    pub fn fingerprint(&self) -> FingerprintKey {
        self.dir.fingerprint()
    }

    pub fn event_id_key(&self) -> EventIdKey {
        self.dir.event_id_key()
    }

    /// An empty batch for a tenant.
    pub fn batch(&self, tenant: Tenant) -> EventBatch {
        EventBatch::new(tenant, Source::Engine, self.dir.fingerprint())
    }

    /// The shard a tenant's events go to. An embedded engine spreads tenants by number.
    pub fn shard_of(&self, tenant: Tenant) -> ShardNumber {
        ShardNumber(tenant.0 % self.dir.shard_count())
    }

    /// Appends a batch and returns when it is as durable as the engine was told to make it.
    /// The batch comes back with the versions in its keys.
    pub fn append(&mut self, batch: EventBatch) -> Result<(Appended, EventBatch), (EventBatch, AppendError)> {
        let ticket = self.start(batch)?;
        loop {
            self.turn();
            if let Some(place) = self.acks.iter().position(|ack| ack.ticket == ticket) {
                let ack = self.acks.swap_remove(place);
                return match ack.result {
                    Ok(appended) => Ok((appended, ack.batch)),
                    Err(error) => Err((ack.batch, error)),
                };
            }
            self.wait(None);
        }
    }

    /// Queues an append without waiting. Work goes on, and its answer comes out, in `finished`, under the ticket returned here.
    pub fn start(&mut self, batch: EventBatch) -> Result<u64, (EventBatch, AppendError)> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let shard = self.shard_of(batch.tenant());
        self.shards[shard.0 as usize].append(ticket, batch)?;
        Ok(ticket)
    }

    /// Waits until at least one started append has been answered, and hands out all that have.
    /// Returns nothing only if nothing is under way.
    pub fn finished(&mut self) -> Vec<Ack> {
        loop {
            self.turn();
            if !self.acks.is_empty() || self.shards.iter().all(|host| host.shard().is_quiet()) {
                return std::mem::take(&mut self.acks);
            }
            self.wait(None);
        }
    }

    /// Answers a query row by row, in order.
    pub fn query(
        &mut self,
        spec: QuerySpec,
        mut each: impl FnMut(crate::query::Row<'_>),
    ) -> Result<Summary, SearchError> {
        let shard = self.shard_of(spec.tenant).0 as usize;
        self.wait_written(shard);
        let mut search = Search::new(spec, self.dir.fingerprint());
        let mut ops = Vec::new();
        loop {
            let step = search.step(&mut ops)?;
            for op in ops.drain(..) {
                self.ring.disk(QUERY_ROUTE.tag(op));
            }
            match step {
                SearchStep::AskOwner(request) => search.owner_answered(self.shards[shard].shard().search(&request)),
                SearchStep::Rows(rows) => each_row(&rows, &mut each),
                SearchStep::Wait => self.wait(Some(&mut search)),
                SearchStep::Done(summary) => return Ok(summary),
            }
        }
    }

    /// Sets what a tenant may store, until the engine is closed: limits are not kept on disk. See `Shard::set_limits`.
    pub fn set_limits(&mut self, tenant: Tenant, limits: Limits) {
        let shard = self.shard_of(tenant);
        self.shards[shard.0 as usize].shard_mut().set_limits(tenant, limits);
    }

    /// Removes all that a tenant has stored, in the background. Not kept over a close: see `Shard::erase`.
    pub fn erase(&mut self, tenant: Tenant) {
        let shard = self.shard_of(tenant);
        self.shards[shard.0 as usize].shard_mut().erase(tenant);
    }

    /// Whether nothing is left of a tenant that was to be erased. See `Shard::is_erased`.
    pub fn is_erased(&self, tenant: Tenant) -> bool {
        self.shards[self.shard_of(tenant).0 as usize].shard().is_erased(tenant)
    }

    /// What a tenant has stored, counting at least everything that was answered. All of it can be read.
    pub fn usage(&mut self, tenant: Tenant) -> Usage {
        let shard = self.shard_of(tenant).0 as usize;
        self.wait_written(shard);
        self.shards[shard].shard().usage(tenant, Micros(wall_us()))
    }

    /// Removes the oldest sealed segment of a shard: its events are gone. `None` if none is sealed.
    pub fn retire_oldest(&mut self, shard: ShardNumber) -> Option<SegmentNumber> {
        let number = self.shards[shard.0 as usize].shard_mut().retire_oldest();
        self.turn();
        self.ring.submit().expect("the ring takes what the engine's windows bound");
        number
    }

    /// Waits until every started append is answered, full segments are sealed and no slow work is under way.
    pub fn settle(&mut self) {
        let is_settled =
            |engine: &Engine| engine.shards.iter().all(|host| host.shard().is_quiet() && host.shard().is_idle());
        loop {
            self.turn();
            if is_settled(self) {
                return;
            }
            self.wait(None);
        }
    }

    pub fn stats(&self, shard: ShardNumber) -> ShardStats {
        self.shards[shard.0 as usize].shard().stats()
    }

    /// Makes everything durable and lets go of the data directory.
    pub fn close(mut self) {
        for host in &mut self.shards {
            host.shard_mut().close();
        }
        self.settle();
    }

    /// Waits until everything appended to a shard can be read.
    fn wait_written(&mut self, shard: usize) {
        loop {
            self.turn();
            let shard = self.shards[shard].shard();
            if shard.is_written(shard.appended_sequence()) {
                return;
            }
            self.wait(None);
        }
    }

    /// Lets every shard work. What it asks of the kernel is handed over by the `wait` that follows.
    fn turn(&mut self) {
        let now = now();
        self.deadline_us = None;
        for host in &mut self.shards {
            if let Some(at) = host.turn(&mut self.ring, now, &mut self.acks) {
                self.deadline_us = Some(self.deadline_us.map_or(at, |known| known.min(at)));
            }
        }
    }

    /// Waits for completions, or until a shard wants another turn, and passes them on.
    fn wait(&mut self, mut search: Option<&mut Search>) {
        let timeout = self.deadline_us.map(|at| Duration::from_micros(at.saturating_sub(monotonic_us())));
        self.ring.wait(timeout).expect("waiting on a ring of our own");
        while let Some(completion) = self.ring.next() {
            if let Completion::Disk(done) = completion {
                let (route, done) = Route::untag(done);
                if route == QUERY_ROUTE {
                    if let Some(search) = search.as_mut() {
                        search.disk_done(done);
                    }
                } else {
                    self.shards[usize::from(route.0)].disk_done(done);
                }
            }
        }
    }
}

fn each_row(rows: &Rows, each: &mut impl FnMut(crate::query::Row<'_>)) {
    for row in rows.iter() {
        each(row);
    }
}

fn now() -> Now {
    Now {
        monotonic_us: monotonic_us(),
        wall: Micros(wall_us()),
        // An embedded engine has no other work on its thread: commits are never held back.
        busy_permille: 0,
        commit_cost_us: 0,
    }
}
