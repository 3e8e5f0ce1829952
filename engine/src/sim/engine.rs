//! An engine of one shard on the simulated disk: for programs that keep their own promises by an engine's.
//! As blocking as `Engine` is: it lets the disk work, in any order, until what was asked for has happened.
//! Must never: answer after the power went or the process was killed. Whoever asked is gone, too.

use std::collections::VecDeque;

use crate::event::{EventBatch, FingerprintKey, Source};
use crate::host::Route;
use crate::ids::{Micros, ShardNumber, Tenant};
use crate::io::{BufferPool, Disk, DiskError, DiskResult, FileMemory, Fill, Site};
use crate::query::{QuerySpec, Row, Search, SearchError, SearchStep, Summary};
use crate::shard::jobs::{Job, ShardHome};
use crate::shard::names::{QUARANTINE_DIR, shard_dir};
use crate::shard::recover::{OpenError, RecoveryReport};
use crate::shard::{Ack, AppendError, Appended, Durability, KeyBounds, Now, Output, Shard, ShardConfig, ShardStats};
use crate::sim::{Rng, SimDisk};

const SHARD_ROUTE: Route = Route(0);
const QUERY_ROUTE: Route = Route(1);

/// What is under way has ended long before, or never ends.
const STEPS_MAX: usize = 100_000;

#[derive(Debug, Clone, Copy)]
pub struct SimEngineOptions {
    pub segment_bytes: u64,
    pub durability: Durability,
    pub seed: u64,
    /// The wall clock, which goes on by itself from here.
    pub now: Micros,
}

pub struct SimEngine {
    disk: SimDisk,
    shard: Shard,
    fingerprint: FingerprintKey,
    rng: Rng,
    now: Now,
    jobs: VecDeque<Job>,
    acks: Vec<Ack>,
    next_ticket: u64,
    /// Steps until the process is killed.
    kill_in: Option<u64>,
}

impl SimEngine {
    /// Opens the shard in the present life of the disk.
    pub fn open(disk: &SimDisk, options: SimEngineOptions) -> Result<(SimEngine, RecoveryReport), OpenError> {
        let shard = ShardNumber(0);
        let home = ShardHome {
            shard,
            dir: shard_dir(shard),
            instance: [7; 16],
            segment_bytes: options.segment_bytes,
            reserve_bytes: 0,
        };
        make_folders(disk, &home.dir)?;
        let fingerprint = FingerprintKey(7);
        let config = ShardConfig {
            home,
            fingerprint,
            durability: options.durability,
            spare_fill: Fill::Zeros,
            block_bytes_target: 8 << 10,
            commit_share_permille: 90,
            keys: KeyBounds::STANDARD,
        };
        let now = Now { monotonic_us: 1_000, wall: options.now, busy_permille: 0, commit_cost_us: 0 };
        let (shard, report) = Shard::open(disk, config, BufferPool::new(6, 8 << 10), now, options.seed)?;
        let engine = SimEngine {
            disk: disk.clone(),
            shard,
            fingerprint,
            rng: Rng::new(options.seed).fork("engine"),
            now,
            jobs: VecDeque::new(),
            acks: Vec::new(),
            next_ticket: 1,
            kill_in: None,
        };
        Ok((engine, report))
    }

    /// Lets the engine take so many steps more. Then the process is dead, but the machine is not.
    pub fn kill_after(&mut self, steps: u64) {
        self.kill_in = Some(steps);
    }

    /// Nobody hears anything of this engine any more.
    pub fn is_dead(&self) -> bool {
        self.kill_in == Some(0) || self.disk.is_down()
    }

    pub fn stats(&self) -> ShardStats {
        self.shard.stats()
    }

    /// See `Engine::batch`.
    pub fn batch(&self, tenant: Tenant) -> EventBatch {
        EventBatch::new(tenant, Source::Engine, self.fingerprint)
    }

    /// See `Engine::append`. A dead engine's outcome is unknown.
    pub fn append(&mut self, batch: EventBatch) -> Result<Appended, AppendError> {
        if self.is_dead() {
            return Err(AppendError::OutcomeUnknown);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.shard.append(ticket, batch).map_err(|(_, error)| error)?;
        for _ in 0..STEPS_MAX {
            self.turn();
            if let Some(place) = self.acks.iter().position(|ack| ack.ticket == ticket) {
                return self.acks.swap_remove(place).result;
            }
            if !self.step(None) {
                return Err(AppendError::OutcomeUnknown);
            }
        }
        panic!("an append never ends");
    }

    /// See `Engine::query`. A dead engine fails as a disk without power does.
    pub fn query(&mut self, spec: QuerySpec, each: &mut dyn FnMut(Row<'_>)) -> Result<Summary, SearchError> {
        let dead = || SearchError::Disk(DiskError::Crashed);
        while !self.shard.is_written(self.shard.appended_sequence()) {
            if !self.step(None) {
                return Err(dead());
            }
        }
        let mut search = Search::new(spec, self.fingerprint);
        let mut ops = Vec::new();
        loop {
            let step = search.step(&mut ops)?;
            for op in ops.drain(..) {
                self.disk.submit(QUERY_ROUTE.tag(op));
            }
            match step {
                SearchStep::AskOwner(request) => search.owner_answered(self.shard.search(&request)),
                SearchStep::Rows(rows) => rows.iter().for_each(&mut *each),
                SearchStep::Done(summary) => return Ok(summary),
                SearchStep::Wait => {
                    if !self.step(Some(&mut search)) {
                        return Err(dead());
                    }
                }
            }
        }
    }

    /// See `Engine::settle`.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            self.turn();
            if (self.shard.is_quiet() && self.shard.is_idle()) || !self.step(None) {
                return;
            }
        }
        panic!("an engine never settles");
    }

    /// See `Engine::close`.
    pub fn close(&mut self) {
        self.shard.close();
        self.settle();
    }

    fn turn(&mut self) {
        if self.is_dead() {
            return;
        }
        let mut out = Output::default();
        self.shard.turn(self.now, &mut out);
        for op in out.disk {
            self.disk.submit(SHARD_ROUTE.tag(op));
        }
        self.jobs.extend(out.jobs);
        // Submitting may have been what the power did not survive.
        if !self.disk.is_down() {
            self.acks.extend(out.acks);
        }
    }

    /// Lets a moment pass, in which the disk and the helper get on with their work. False: the engine is dead.
    fn step(&mut self, mut search: Option<&mut Search>) -> bool {
        if let Some(left) = &mut self.kill_in {
            *left = left.saturating_sub(1);
        }
        if self.is_dead() {
            return false;
        }
        self.pass_time();
        if (self.disk.pending() == 0 || self.rng.chance(1, 3))
            && let Some(job) = self.jobs.pop_front()
        {
            let done = job.run(&self.disk, &mut FileMemory::default());
            if self.disk.is_down() {
                return false;
            }
            self.shard.job_done(done, self.now);
        }
        let how_many = self.rng.below(4) as usize;
        for done in self.disk.complete_some(how_many) {
            let (route, done) = Route::untag(done);
            match &mut search {
                Some(search) if route == QUERY_ROUTE => search.disk_done(done),
                _ if route == SHARD_ROUTE => self.shard.disk_done(done),
                _ => {}
            }
        }
        self.turn();
        !self.is_dead()
    }

    fn pass_time(&mut self) {
        let us = 1 + self.rng.below(2_000);
        self.now.monotonic_us += us;
        // The wall clock steps back now and then; stored times must not.
        let step = if self.rng.chance(1, 50) { -5_000 } else { us as i64 };
        self.now.wall = Micros(self.now.wall.0 + step);
    }
}

/// What a data directory has before its shard is opened.
pub(super) fn make_folders(disk: &SimDisk, shard_dir: &str) -> DiskResult<()> {
    disk.create_dir(shard_dir)?;
    disk.create_dir(QUARANTINE_DIR)?;
    disk.sync_dir("", Site::ShardDir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventInput;
    use crate::sim::Fault;

    const TENANT: Tenant = Tenant(1);

    fn open(disk: &SimDisk) -> SimEngine {
        let options = SimEngineOptions {
            segment_bytes: 32 << 10,
            durability: Durability::Commit,
            seed: 5,
            now: Micros(1_000_000),
        };
        let (engine, report) = SimEngine::open(disk, options).unwrap();
        assert!(report.damage.is_empty());
        engine
    }

    fn append(engine: &mut SimEngine, text: &str) -> Result<Appended, AppendError> {
        let mut batch = engine.batch(TENANT);
        batch.push(EventInput::new("type", "entity", text.as_bytes())).unwrap();
        engine.append(batch)
    }

    fn read(engine: &mut SimEngine) -> Vec<String> {
        let mut texts = Vec::new();
        let mut each = |row: Row<'_>| texts.push(String::from_utf8(row.record.payload.to_vec()).unwrap());
        engine.query(QuerySpec::all(TENANT, usize::MAX), &mut each).unwrap();
        texts
    }

    #[test]
    fn what_was_answered_is_there_after_a_power_cut() {
        let disk = SimDisk::new(3);
        let texts: Vec<String> = (0..60).map(|number| format!("{number}")).collect();
        for life in texts.chunks(20) {
            let mut engine = open(&disk);
            for text in life {
                append(&mut engine, text).unwrap();
            }
            disk.crash();
            assert!(engine.is_dead());
            assert_eq!(append(&mut engine, "late"), Err(AppendError::OutcomeUnknown));
            disk.reopen();
        }
        assert_eq!(read(&mut open(&disk)), texts);
    }

    #[test]
    fn a_killed_engine_answers_nothing_and_the_machine_goes_on() {
        let disk = SimDisk::new(3);
        let mut engine = open(&disk);
        append(&mut engine, "first").unwrap();
        engine.kill_after(1);
        assert_eq!(append(&mut engine, "second"), Err(AppendError::OutcomeUnknown));
        assert!(engine.is_dead() && !disk.is_down());
        disk.reopen();
        let mut engine = open(&disk);
        let texts = read(&mut engine);
        assert!(texts == ["first"] || texts == ["first", "second"], "{texts:?}");
        engine.close();
    }

    #[test]
    fn a_failed_write_is_answered_as_unknown_and_latches() {
        let disk = SimDisk::new(3);
        let mut engine = open(&disk);
        append(&mut engine, "first").unwrap();
        // The next segment is ready: the write that fails is the record's.
        engine.settle();
        disk.fail_nth(Fault::Write, 0);
        assert_eq!(append(&mut engine, "second"), Err(AppendError::OutcomeUnknown));
        assert!(matches!(append(&mut engine, "third"), Err(AppendError::ReadOnly(_))));
        assert!(!engine.is_dead());
    }
}
