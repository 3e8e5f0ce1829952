//! Whole lives of a shard on the simulated disk: appends, queries, retirements, faults, power cuts, and what must hold after each.
//!
//! One thread, one seed. The same seed gives the same trace; a failure is reproduced by its seed alone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::event::{EventBatch, EventInput, FingerprintKey, IdempotencyKey, KeyClass, Source};
use crate::format::key_run::encode_key_run;
use crate::format::record::EventKind;
use crate::ids::{Micros, Position, ShardNumber, Tenant, Version};
use crate::io::{BufferPool, Disk, DiskDone, FileMemory, Fill, Site};
use crate::limits::ERASE_ROLL_EVERY_US;
use crate::month::Month;
use crate::query::{Order, QuerySpec, Search, SearchStep, Summary, TypeFilter};
use crate::shard::jobs::{Job, ShardHome, publish};
use crate::shard::names::{ShardEntry, index_path, key_run_path, parse_name, shard_dir};
use crate::shard::recover::{OpenError, RecoveryReport};
use crate::shard::{Ack, AppendError, Durability, KeyBounds, Limits, Now, Output, ReadOnly, Shard, ShardConfig};
use crate::sim::engine::make_folders;
use crate::sim::forget::{forget_counters, forget_keys};
use crate::sim::gone::{check_gone, mark};
use crate::sim::keyed::Key;
use crate::sim::model::{Model, ModelEvent, Promise, Stored, Violation};
use crate::sim::{FaultRates, Rng, SimDisk};

/// What kind of world a seed gets.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorldOptions {
    /// The disk says that syncs succeed and does not do them: the checks must fail.
    pub lying_disk: bool,
    /// One durability point is missing: the checks must fail for some seed.
    pub ignored_site: Option<Site>,
    /// Checkpoints lose what they say of quotas on their way to the disk: the checks must fail for some seed.
    pub uncounted_checkpoints: bool,
    /// Batches lose their idempotency keys on their way to the disk: the checks must fail for some seed.
    pub keyless_batches: bool,
    /// Key runs lose their keys between two lives: the checks must fail for some seed.
    pub empty_key_runs: bool,
    /// A tenant is taken for erased as soon as that was asked for: the checks must fail for some seed.
    pub erased_at_once: bool,
}

/// What one seed went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorldReport {
    pub lives: u64,
    pub crashes: u64,
    pub crashes_in_recovery: u64,
    pub restarts: u64,
    pub appended: u64,
    pub quota_refusals: u64,
    pub replays: u64,
    pub mismatches: u64,
    pub key_runs_merged: u64,
    pub queries: u64,
    pub rolls: u64,
    pub retired: u64,
    pub tails_cut: u64,
    pub latched: u64,
    pub segments_rewritten: u64,
    pub tenants_erased: u64,
    pub storage_full: u64,
    pub trace: u64,
}

/// All rows of a query, and its end.
type Answer = (Vec<(Position, Stored)>, Summary);

const TICKET_QUERY: u64 = 1 << 62;
const TYPES: [&str; 6] = ["order.placed", "order.paid", "order.shipped", "user.signed_up", "user.left", "x"];

/// Runs every life of one seed. `Err` says which promise was broken.
pub fn run(seed: u64, options: WorldOptions) -> Result<WorldReport, Violation> {
    let mut world = World::new(seed, options);
    world.live()?;
    world.report.trace = crate::sim::rng::mix(world.disk.trace_hash() ^ world.answers);
    Ok(world.report)
}

struct World {
    rng: Rng,
    disk: SimDisk,
    config: ShardConfig,
    model: Model,
    report: WorldReport,
    now: Now,
    next_ticket: u64,
    next_payload: u64,
    next_entity: u64,
    jobs: VecDeque<Job>,
    /// Hash over every answer, for the trace.
    answers: u64,
    /// Indexes of the life before, which must not have to be made again.
    sealed_before: Vec<String>,
    /// Quarantined files that must stay, with their content.
    quarantined: BTreeMap<String, Vec<u8>>,
    /// The life before ended with nothing under way: its log must be found clean.
    ended_clean: bool,
    /// Who sends.
    tenants: Vec<Tenant>,
    next_tenant: u32,
    /// Who is to be erased, and who the shard said is.
    erasing: BTreeSet<Tenant>,
    erased: BTreeSet<Tenant>,
    /// So many of the senders have limits. The others keep the log going.
    limited_tenants: usize,
    /// Batches with a key that may be sent again.
    sent: Vec<Sent>,
    next_keys: [u64; 2],
    options: WorldOptions,
}

/// A batch with a key, as it was sent.
#[derive(Debug, Clone)]
struct Sent {
    tenant: Tenant,
    key: Key,
    events: Vec<ModelEvent>,
}

impl World {
    fn new(seed: u64, options: WorldOptions) -> World {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.draw());
        disk.lie_about_sync(options.lying_disk);
        if let Some(site) = options.ignored_site {
            disk.ignore_site(site);
        }
        let must_be_strict = options.lying_disk || options.ignored_site.is_some_and(|site| site != Site::Interval);
        let durability = match rng.below(10) {
            0 if !must_be_strict => Durability::Memory,
            _ if options.ignored_site == Some(Site::Interval) => Durability::Interval { every_us: 500 },
            1 if !must_be_strict => Durability::Interval { every_us: 500 },
            _ => Durability::Commit,
        };
        // Where one class has room for all, the other is tight.
        let (of_tenant, of_shard) = (rng.index(3), rng.index(3));
        let keys = KeyBounds {
            per_tenant: [3, 20, 1 << 20][of_tenant],
            per_shard: [8, 1 << 21, 1 << 21][of_shard],
            frames_per_tenant: [15, 1 << 18, 2][of_tenant],
            frames_per_shard: [1 << 19, 5, 1 << 19][of_shard],
            kept_us: [100_000, KeyBounds::STANDARD.kept_us][rng.index(2)],
            runs: 2 + rng.index(3),
            dead: [0, 5, 1 << 16][rng.index(3)],
        };
        let segment_bytes = [32 << 10, 64 << 10, 64 << 10, 128 << 10][rng.index(4)];
        let config = ShardConfig {
            home: ShardHome {
                shard: ShardNumber(0),
                dir: shard_dir(ShardNumber(0)),
                instance: [7; 16],
                segment_bytes,
                reserve_bytes: 0,
            },
            fingerprint: FingerprintKey(rng.draw()),
            durability,
            spare_fill: Fill::Zeros,
            block_bytes_target: 8 << 10,
            commit_share_permille: 90,
            keys,
        };
        let promise = if durability == Durability::Commit { Promise::Durable } else { Promise::BestEffort };
        let limited_tenants = rng.index(3);
        World {
            rng,
            disk,
            config,
            model: Model::new(promise, keys),
            report: WorldReport::default(),
            now: Now { monotonic_us: 1_000, wall: FIRST_MOMENT, busy_permille: 500, commit_cost_us: 20 },
            tenants: (1..=TENANTS).map(Tenant).collect(),
            next_tenant: TENANTS + 1,
            erasing: BTreeSet::new(),
            erased: BTreeSet::new(),
            limited_tenants,
            sent: Vec::new(),
            next_keys: [0; 2],
            options,
            next_ticket: 1,
            next_payload: 1,
            next_entity: 1,
            jobs: VecDeque::new(),
            answers: 0,
            sealed_before: Vec::new(),
            quarantined: BTreeMap::new(),
            ended_clean: false,
        }
    }

    fn live(&mut self) -> Result<(), Violation> {
        // A power cut may keep, by luck, what was never synced: a liar has to have that luck more often.
        let lives = 3 + self.rng.below(5) + if self.options.lying_disk { 20 } else { 0 };
        for _ in 0..lives {
            let Some(mut shard) = self.open()? else { continue };
            self.report.lives += 1;
            self.erase_again(&mut shard)?;
            self.check_recovered(&mut shard)?;
            self.set_limits(&mut shard);
            for _ in 0..self.rng.below(4) {
                self.append_again(&mut shard)?;
            }
            let has_faults = self.rng.chance(1, 4);
            if has_faults {
                self.disk.set_fault_rates(FaultRates {
                    write_per_million: self.rng.below(4_000) as u32,
                    sync_per_million: self.rng.below(4_000) as u32,
                    read_per_million: 0,
                });
            }
            if self.rng.chance(1, 6) {
                let room = self.rng.below(4 * self.config.home.segment_bytes);
                self.disk.set_capacity(self.disk.used_bytes() + room);
            }
            if self.rng.chance(1, 3) {
                self.disk.crash_after(self.rng.below(400));
            }
            let outcome = self.act(&mut shard);
            self.disk.set_fault_rates(NO_FAULTS);
            self.disk.set_capacity(u64::MAX);
            outcome?;
            self.end(shard);
        }
        // The last word: everything is read back once more from a clean start.
        self.disk.crash_after(u64::MAX);
        for _ in 0..3 {
            if let Some(mut shard) = self.open()? {
                self.erase_again(&mut shard)?;
                return self.check_recovered(&mut shard);
            }
        }
        Ok(())
    }

    /// Opens the shard, perhaps losing power on the way, perhaps several times.
    fn open(&mut self) -> Result<Option<Shard>, Violation> {
        if let Some(path) = self.sealed_before.iter().find(|path| self.disk.peek(path).is_none()) {
            return Err(format!("a sealed index was not there any more: {path}"));
        }
        if self.options.empty_key_runs {
            self.empty_key_runs()?;
        }
        for attempt in 0..4 {
            if attempt < 3 && self.rng.chance(1, 6) {
                self.disk.crash_after(self.rng.below(40));
            }
            match self.try_open() {
                Ok((shard, report)) if !self.disk.is_down() => {
                    self.check_report(&shard, &report)?;
                    // What recovery has cut must not come back, whatever comes next.
                    if report.tail.is_none() || self.rng.chance(3, 4) {
                        return Ok(Some(shard));
                    }
                }
                Ok(_) => {}
                Err(OpenError::Disk(_)) if self.disk.is_down() => {}
                Err(OpenError::Seal(_)) if self.disk.is_down() => {}
                Err(error) => return Err(format!("open failed: {error}")),
            }
            self.report.crashes += 1;
            self.report.crashes_in_recovery += 1;
            self.disk.crash();
            self.disk.reopen();
        }
        Ok(None)
    }

    /// Replaces every key run by a whole one without keys.
    fn empty_key_runs(&self) -> Result<(), Violation> {
        let dir = &self.config.home.dir;
        for name in self.disk.list(dir).unwrap_or_default() {
            if let ShardEntry::KeyRun { from, to } = parse_name(&name) {
                let bytes = encode_key_run(0, from, to, &[]);
                let path = key_run_path(dir, from, to);
                publish(&self.disk, dir, &path, &bytes, Site::KeyRunFile, Site::KeyRunDir)
                    .map_err(|error| format!("the world could not empty a key run: {error}"))?;
            }
        }
        Ok(())
    }

    fn try_open(&mut self) -> Result<(Shard, RecoveryReport), OpenError> {
        make_folders(&self.disk, &self.config.home.dir)?;
        let seed = self.rng.draw();
        Shard::open(&self.disk, self.config.clone(), BufferPool::new(6, 8 << 10), self.now, seed)
    }

    fn check_report(&mut self, shard: &Shard, report: &RecoveryReport) -> Result<(), Violation> {
        if !report.damage.is_empty() || shard.read_only() == Some(ReadOnly::Damaged) {
            return Err(format!("recovery reports damage that nobody did: {:?}", report.damage));
        }
        if report.indexes_rebuilt > 0 {
            return Err(format!("a sealed index was not there any more: {report:?}"));
        }
        for (path, bytes) in &self.quarantined {
            if self.disk.peek(path).as_deref() != Some(bytes.as_slice()) {
                return Err(format!("a quarantined tail is gone: {path}"));
            }
        }
        if let Some(tail) = &report.tail {
            self.report.tails_cut += 1;
            if self.ended_clean {
                return Err(format!("a log that ended clean had its tail cut: {tail:?}"));
            }
            for path in &tail.quarantined {
                let bytes = self.disk.peek(path).unwrap_or_default();
                self.quarantined.insert(path.clone(), bytes);
            }
        }
        // From here on, until something is appended, the log is clean: another crash must find it so.
        self.ended_clean = true;
        Ok(())
    }

    /// Reads everything back and compares it with the model.
    fn check_recovered(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let mut found = BTreeMap::new();
        for tenant in self.tenants.clone() {
            let Some((rows, _)) = self.query(shard, QuerySpec::all(tenant, usize::MAX))? else { return Ok(()) };
            if !rows.is_empty() {
                found.insert(tenant.0, rows);
            }
        }
        self.check_not_found(shard)?;
        self.model.recovered(&found)?;
        self.check_usage(shard)
    }

    /// The counters are those of the events that are there.
    fn check_usage(&mut self, shard: &Shard) -> Result<(), Violation> {
        for &tenant in &self.tenants {
            let (usage, right) = (shard.usage(tenant, self.now.wall), self.model.usage(tenant, self.now.wall));
            if usage != right {
                return Err(format!("tenant {} {MISCOUNTED}: {usage:?} for {right:?}", tenant.0));
            }
        }
        Ok(())
    }

    /// Gives some tenants new limits, a few batches from where they are, unless an answer may still tell of the old ones.
    fn set_limits(&mut self, shard: &mut Shard) {
        for (place, tenant) in self.tenants.clone().into_iter().enumerate() {
            if place < self.limited_tenants && self.model.is_answered() && self.rng.chance(1, 2) {
                let usage = self.model.usage(tenant, self.now.wall);
                let limits = Limits {
                    events_per_month: self.rng.chance(1, 2).then(|| {
                        let from = if self.rng.chance(1, 4) { usage.events_this_month } else { 0 };
                        from + self.rng.below(60)
                    }),
                    stored_bytes: self.rng.chance(1, 5).then(|| usage.stored_bytes + self.rng.below(8_000)),
                };
                self.model.set_limits(tenant, limits);
            }
            // A shard forgets limits when it is closed.
            shard.set_limits(tenant, self.model.limits(tenant));
        }
    }

    fn act(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let steps = 20 + self.rng.below(150);
        for _ in 0..steps {
            if self.disk.is_down() {
                return Ok(());
            }
            match self.rng.below(100) {
                0..38 => self.append(shard)?,
                38..45 => self.append_again(shard)?,
                45..49 if self.model.is_answered() => self.query_and_compare(shard)?,
                49 if self.model.is_answered() => {
                    self.check_usage(shard)?;
                    self.set_limits(shard);
                }
                50..54 => self.retire(shard),
                54..56 => {
                    let mut out = Output::default();
                    shard.roll_now(self.now, &mut out);
                    self.carry_out(shard, out)?;
                }
                56..60 => self.settle(shard)?,
                60..69 => self.pass_time(6_000),
                69 => self.near_the_end_of_a_month(),
                70 => self.erase(shard)?,
                71 => self.now.monotonic_us += ERASE_ROLL_EVERY_US,
                _ => {}
            }
            self.pass_time(200);
            self.turn(shard)?;
            let completions = self.rng.below(4) as usize;
            self.complete(shard, completions)?;
            if self.rng.chance(1, 3) {
                self.run_job(shard)?;
            }
            self.see_erased(shard)?;
        }
        if self.rng.chance(1, 3) {
            shard.close();
            self.settle(shard)?;
        }
        Ok(())
    }

    /// Power cut, or only the process: everything that was under way meets its fate.
    fn end(&mut self, shard: Shard) {
        if shard.read_only() == Some(ReadOnly::WriteFailed) {
            self.report.latched += 1;
        }
        let stats = shard.stats();
        self.report.rolls += stats.segments_rolled;
        self.report.retired += stats.segments_retired;
        self.report.replays += stats.batches_replayed;
        self.report.key_runs_merged += stats.key_runs_merged;
        self.report.segments_rewritten += stats.segments_rewritten;
        self.report.tenants_erased += stats.tenants_erased;
        let snapshot = shard.snapshot();
        let sealed = snapshot.segments.iter();
        self.sealed_before = sealed.map(|sealed| index_path(&self.config.home.dir, sealed.segment.number)).collect();
        self.ended_clean = shard.is_quiet()
            && shard.is_idle()
            && shard.read_only().is_none()
            && !self.disk.is_down()
            && self.config.durability == Durability::Commit;
        drop(shard);
        self.jobs.clear();
        if self.disk.is_down() || self.rng.chance(2, 3) {
            self.report.crashes += 1;
            self.disk.crash();
        } else {
            self.report.restarts += 1;
        }
        self.disk.reopen();
    }

    fn append(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let tenant = self.some_tenant();
        let events = self.some_events(tenant);
        let key = self.rng.chance(1, 3).then(|| {
            // Numbers of one class are numbers of the other, too.
            let class = KeyClass::ALL[self.next_payload as usize % 2];
            let next = &mut self.next_keys[class as usize];
            *next += 1;
            Key { class, key: *next, body: self.next_payload }
        });
        if let Some(key) = key {
            self.sent.push(Sent { tenant, key, events: events.clone() });
        }
        self.start(shard, tenant, events, key)
    }

    /// Sends a batch with a key once more, or another one under its key.
    fn append_again(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        if self.sent.is_empty() {
            return Ok(());
        }
        let recent = self.sent.len().min([3, 30, 300][self.rng.index(3)]);
        let place = self.sent.len() - 1 - self.rng.index(recent);
        let Sent { tenant, mut key, mut events } = self.sent[place].clone();
        if self.rng.chance(1, 6) {
            events = self.some_events(tenant);
            key.body = self.next_payload;
        }
        self.start(shard, tenant, events, Some(key))
    }

    /// Events that were never sent before.
    fn some_events(&mut self, tenant: Tenant) -> Vec<ModelEvent> {
        let mut events = Vec::new();
        let event_count = if self.rng.chance(1, 2) { 1 } else { 1 + self.rng.below(12) };
        for _ in 0..event_count {
            let entity = if self.rng.chance(3, 4) {
                entity_name(tenant, self.rng.below(5))
            } else {
                self.next_entity += 1;
                format!("once-{}-{}", self.next_entity, mark(tenant))
            };
            let expected_version = self.rng.chance(1, 6).then(|| {
                let right = self.model.version(tenant, &entity);
                if self.rng.chance(1, 4) { Version(right.0 + self.rng.below(3)) } else { right }
            });
            self.next_payload += 1;
            let mut payload = self.next_payload.to_le_bytes().to_vec();
            payload.extend_from_slice(mark(tenant).as_bytes());
            let payload_bytes = if self.rng.chance(1, 20) { 3_000 } else { self.rng.below(300) as usize };
            payload.resize(payload.len() + payload_bytes, (self.next_payload & 0xff) as u8);
            events.push(ModelEvent {
                event_type: self.some_type(tenant),
                entity,
                timestamp: self.rng.chance(1, 3).then(|| self.some_moment()),
                payload,
                metadata: if self.rng.chance(1, 3) { b"null".to_vec() } else { Vec::new() },
                expected_version,
            });
        }
        events
    }

    fn start(
        &mut self,
        shard: &mut Shard,
        tenant: Tenant,
        events: Vec<ModelEvent>,
        key: Option<Key>,
    ) -> Result<(), Violation> {
        let mut batch = EventBatch::new(tenant, Source::Engine, self.config.fingerprint);
        if let Some(Key { class, key, body }) = key {
            let wide = |number: u64| u128::from(number).to_le_bytes();
            batch.set_idempotency(IdempotencyKey { class, key: wide(key), body: wide(body) });
        }
        for event in &events {
            let pushed = batch.push(EventInput {
                kind: EventKind::Event,
                event_type: &event.event_type,
                entity: &event.entity,
                timestamp: event.timestamp,
                payload: &event.payload,
                metadata: &event.metadata,
                expected_version: event.expected_version,
            });
            pushed.map_err(|error| format!("the world made a bad event: {error}"))?;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if shard.append(ticket, batch).is_ok() {
            if self.erasing.contains(&tenant) {
                return Err(format!("tenant {} is being erased and was heard", tenant.0));
            }
            self.report.appended += 1;
            self.ended_clean = false;
            self.model.appended_at(ticket, tenant, events, key, self.now.wall);
        }
        Ok(())
    }

    fn retire(&mut self, shard: &mut Shard) {
        let snapshot = shard.snapshot();
        let Some(oldest) = snapshot.segments.first() else { return };
        for entry in oldest.resident.tenants() {
            let to = entry.first_position.get() + u64::from(entry.event_count.get()) - 1;
            self.model.retired(Tenant(entry.tenant.get()), Position(to));
        }
        shard.retire_oldest();
    }

    /// Tells the shard to erase a sender. Another one takes its place.
    fn erase(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let place = self.rng.index(self.tenants.len());
        let tenant = std::mem::replace(&mut self.tenants[place], Tenant(self.next_tenant));
        self.next_tenant += 1;
        self.model.erase(tenant);
        self.erasing.insert(tenant);
        shard.erase(tenant);
        if self.options.erased_at_once {
            check_gone(&self.disk, &self.config.home.dir, [&tenant])?;
        }
        self.check_not_found(shard)
    }

    /// As whoever owns the intention: after every open, until it is done. What is done needs nobody to remember it.
    fn erase_again(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        self.erasing.iter().for_each(|&tenant| shard.erase(tenant));
        check_gone(&self.disk, &self.config.home.dir, &self.erased)
    }

    /// Whoever the shard says is erased has left nothing.
    fn see_erased(&mut self, shard: &Shard) -> Result<(), Violation> {
        if self.disk.is_down() {
            return Ok(());
        }
        let is_erased = |tenant: &Tenant| shard.is_erased(*tenant);
        let erased: Vec<Tenant> = self.erasing.extract_if(.., is_erased).collect();
        check_gone(&self.disk, &self.config.home.dir, &erased)?;
        for tenant in erased {
            self.sent.retain(|sent| sent.tenant != tenant);
            self.erased.insert(tenant);
        }
        Ok(())
    }

    /// Nobody finds, or counts, what is erased or being erased.
    fn check_not_found(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        for tenant in self.erasing.iter().chain(&self.erased).copied().collect::<Vec<Tenant>>() {
            let Some((rows, summary)) = self.query(shard, QuerySpec::all(tenant, 1))? else { return Ok(()) };
            let usage = shard.usage(tenant, self.now.wall);
            if !rows.is_empty() || summary.total != Some(0) || usage.stored_events != 0 {
                return Err(format!("tenant {} is erased and was found: {summary:?}, {usage:?}", tenant.0));
            }
        }
        Ok(())
    }

    fn query_and_compare(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let tenant = self.some_tenant();
        let stored = self.model.stored(tenant).len() as u64;
        let mut spec = QuerySpec::all(tenant, [0, 1, 3, 10, usize::MAX][self.rng.index(5)]);
        if self.rng.chance(1, 2) {
            spec.order = Order::Descending;
        }
        match self.rng.below(4) {
            0 => spec.event_type = Some(TypeFilter::Exact(self.some_type(tenant))),
            1 => {
                spec.event_type =
                    Some(TypeFilter::Prefix(["order.", "user.", "o", "z", ""][self.rng.index(5)].to_owned()))
            }
            _ => {}
        }
        if self.rng.chance(1, 6) {
            spec.exclude_type_prefixes = vec!["order.p".to_owned(), "x".to_owned()];
        }
        if self.rng.chance(1, 3) {
            spec.entity = Some(entity_name(tenant, self.rng.below(6)));
        }
        if self.rng.chance(1, 4) {
            spec.since = Some(self.some_moment());
        }
        if self.rng.chance(1, 4) {
            spec.until = Some(self.some_moment());
        }
        if self.rng.chance(1, 4) {
            spec.offset = self.rng.below(6);
        } else if self.rng.chance(1, 4) {
            spec.after = Some(Position(self.rng.below(stored + 3)));
        }
        let Some((rows, summary)) = self.query(shard, spec.clone())? else { return Ok(()) };
        let all = QuerySpec::all(tenant, 1);
        let Some((first, _)) = self.query(shard, all)? else { return Ok(()) };
        if shard.read_only().is_some() && self.config.durability != Durability::Commit {
            // Answered before it was written, and then the write failed: that is what these modes mean.
            return Ok(());
        }
        self.report.queries += 1;
        let oldest = first.first().map_or(Position(stored + 1), |(position, _)| *position);
        if oldest.0 > self.model.retired_to(tenant).0 + 1 {
            return Err(format!("tenant {} begins at {}: older ones were not retired", tenant.0, oldest.0));
        }
        let (positions, has_more, total) = self.model.expected(&spec, oldest);
        let found: Vec<Position> = rows.iter().map(|(position, _)| *position).collect();
        if found != positions || summary.has_more != has_more {
            return Err(format!(
                "{spec:?} found {found:?} for {positions:?}, more {} for {has_more}",
                summary.has_more
            ));
        }
        if spec.after.is_none() && summary.total != Some(total) {
            return Err(format!("{spec:?} counted {:?} for {total}", summary.total));
        }
        if let Some(entity) = &spec.entity
            && summary.entity_version != Some(self.model.version(tenant, entity))
        {
            return Err(format!("{entity} has version {:?}", summary.entity_version));
        }
        Ok(())
    }

    /// Runs a query to its end. `None`: the power went.
    fn query(&mut self, shard: &mut Shard, spec: QuerySpec) -> Result<Option<Answer>, Violation> {
        let mut search = Search::new(spec, self.config.fingerprint);
        let mut found = Vec::new();
        // Without a durable commit, answers come before the write: a reader waits for it.
        let sequence = shard.appended_sequence();
        while !shard.is_written(sequence) {
            if self.disk.is_down() {
                return Ok(None);
            }
            self.pass_time(500);
            self.turn(shard)?;
            self.complete(shard, 2)?;
        }
        loop {
            let mut ops = Vec::new();
            let step = match search.step(&mut ops) {
                Ok(step) => step,
                Err(_) if self.disk.is_down() => return Ok(None),
                Err(error) => return Err(format!("a query failed: {error}")),
            };
            for op in ops {
                self.disk.submit(tag(op));
            }
            match step {
                SearchStep::AskOwner(request) => search.owner_answered(shard.search(&request)),
                SearchStep::Rows(rows) => found.extend(rows.iter().map(|row| (row.position, Stored::of(&row)))),
                SearchStep::Done(summary) => return Ok(Some((found, summary))),
                SearchStep::Wait => {
                    if self.disk.is_down() {
                        return Ok(None);
                    }
                    for mut done in self.disk.complete_some(3) {
                        if done.ticket & TICKET_QUERY == 0 {
                            shard.disk_done(done);
                            continue;
                        }
                        done.ticket &= !TICKET_QUERY;
                        search.disk_done(done);
                    }
                }
            }
        }
    }

    /// Lets everything that is under way come to its end.
    fn settle(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        for _ in 0..300 {
            if self.disk.is_down() || (shard.is_quiet() && self.jobs.is_empty()) {
                break;
            }
            self.pass_time(2_000);
            self.turn(shard)?;
            self.complete(shard, 4)?;
            self.run_job(shard)?;
        }
        Ok(())
    }

    fn turn(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let mut out = Output::default();
        self.model.saw(self.now.wall);
        shard.turn(self.now, &mut out);
        let bounds = self.config.keys;
        let kept_max = |class| {
            let (per_tenant, per_shard) = bounds.of(class);
            per_shard.min(per_tenant * (self.next_tenant as usize - 1))
        };
        if KeyClass::ALL.into_iter().map(kept_max).sum::<usize>() < shard.key_count() {
            return Err(format!("{} keys are remembered, {bounds:?}", shard.key_count()));
        }
        self.carry_out(shard, out)
    }

    fn carry_out(&mut self, _shard: &mut Shard, out: Output) -> Result<(), Violation> {
        for mut op in out.disk {
            if self.options.uncounted_checkpoints {
                forget_counters(&mut op);
            }
            if self.options.keyless_batches {
                forget_keys(&mut op);
            }
            self.disk.submit(op);
        }
        self.jobs.extend(out.jobs);
        for ack in out.acks {
            self.take_ack(ack)?;
        }
        Ok(())
    }

    fn take_ack(&mut self, ack: Ack) -> Result<(), Violation> {
        if self.disk.is_down() {
            // The process is dead: whoever waits sees a broken connection.
            return Ok(());
        }
        self.report.mismatches += u64::from(matches!(ack.result, Err(AppendError::IdempotencyMismatch)));
        self.report.storage_full += u64::from(ack.result == Err(AppendError::StorageFull));
        self.report.quota_refusals += u64::from(matches!(ack.result, Err(AppendError::QuotaExceeded { .. })));
        let outcome = ack.result.map_or(u64::MAX, |appended| appended.first_position.0);
        self.answers = crate::sim::rng::mix(self.answers ^ ack.ticket ^ outcome.rotate_left(32));
        self.model.answered(ack.ticket, &ack.batch, ack.result)
    }

    fn complete(&mut self, shard: &mut Shard, how_many: usize) -> Result<(), Violation> {
        if how_many == 0 || self.disk.pending() == 0 {
            return Ok(());
        }
        let done: Vec<DiskDone> = self.disk.complete_some(how_many);
        for done in done {
            shard.disk_done(done);
        }
        self.turn(shard)
    }

    fn run_job(&mut self, shard: &mut Shard) -> Result<(), Violation> {
        let Some(job) = self.jobs.pop_front() else { return Ok(()) };
        // Its steps are few among all others, and each of them matters.
        if matches!(job, Job::Rewrite { .. }) && self.rng.chance(1, 12) {
            self.disk.crash_after(self.rng.below(30));
        }
        let done = job.run(&self.disk, &mut FileMemory::default());
        if !self.disk.is_down() {
            shard.job_done(done, self.now);
            return self.turn(shard);
        }
        Ok(())
    }

    fn pass_time(&mut self, us_max: u64) {
        let us = 1 + self.rng.below(us_max);
        self.now.monotonic_us += us;
        // The wall clock steps back now and then; stored times must not.
        let step = if self.rng.chance(1, 50) { -5_000 } else { us as i64 };
        self.now.wall = Micros(self.now.wall.0 + step);
        self.now.busy_permille = self.rng.below(1_001);
    }

    /// Sets the wall clock to a moment before the end of this month, so that what follows falls to both sides of it.
    fn near_the_end_of_a_month(&mut self) {
        let ends_at = Month::of(self.now.wall).ends_at();
        self.now.wall = Micros(ends_at.0 - 1 - self.rng.below(3_000) as i64);
    }

    fn some_tenant(&mut self) -> Tenant {
        self.tenants[self.rng.index(self.tenants.len())]
    }

    /// One of all tenants' types, or the tenant's own.
    fn some_type(&mut self, tenant: Tenant) -> String {
        let place = self.rng.index(TYPES.len() + 1);
        TYPES.get(place).map_or_else(|| format!("own.{}", mark(tenant)), |&name| name.to_owned())
    }

    /// Some moment of the first two seconds, or of the two around the wall clock.
    fn some_moment(&mut self) -> Micros {
        let begins_at = if self.rng.chance(1, 2) { 0 } else { self.now.wall.0 - 1_000_000 };
        Micros(begins_at + self.rng.below(2_000_000) as i64)
    }
}

/// One of a tenant's few entities with many events.
fn entity_name(tenant: Tenant, number: u64) -> String {
    format!("entity-{number}-{}", mark(tenant))
}

const TENANTS: u32 = 4;
const FIRST_MOMENT: Micros = Micros(1_000_000);
/// In every complaint about counters, and in no other.
const MISCOUNTED: &str = "is miscounted";
const NO_FAULTS: FaultRates = FaultRates { write_per_million: 0, sync_per_million: 0, read_per_million: 0 };

fn tag(op: crate::io::DiskOp) -> crate::io::DiskOp {
    use crate::io::DiskOp;
    match op {
        DiskOp::Read { ticket, file, offset, buffer, bytes, from } => {
            DiskOp::Read { ticket: ticket | TICKET_QUERY, file, offset, buffer, bytes, from }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::gone::LEFT;
    use crate::sim::keyed::FORGOTTEN;

    #[test]
    fn three_hundred_seeds_keep_every_promise() {
        for seed in 0..300 {
            if let Err(violation) = run(seed, WorldOptions::default()) {
                panic!("seed {seed}: {violation}");
            }
        }
    }

    #[test]
    fn a_lying_disk_is_caught_on_every_seed() {
        for seed in 0..20 {
            let options = WorldOptions { lying_disk: true, ..WorldOptions::default() };
            assert!(run(seed, options).is_err(), "seed {seed}");
        }
    }

    #[test]
    fn every_missing_sync_is_noticed() {
        // The superblock's two are tested where it is made: worlds begin inside a data directory.
        let sites = Site::ALL.into_iter().filter(|site| !matches!(site, Site::Superblock | Site::SuperblockDir));
        let mut unnoticed = Vec::new();
        for site in sites {
            let options = WorldOptions { ignored_site: Some(site), ..WorldOptions::default() };
            let first = (0..2_000).find(|&seed| run(seed, options).is_err());
            println!("{site:?}: {first:?}");
            if first.is_none() {
                unnoticed.push(site);
            }
        }
        assert_eq!(unnoticed, []);
    }

    #[test]
    fn a_checkpoint_that_forgets_what_tenants_have_stored_is_noticed() {
        let options = WorldOptions { uncounted_checkpoints: true, ..WorldOptions::default() };
        let noticed: Vec<Violation> = (0..20).filter_map(|seed| run(seed, options).err()).collect();
        assert!(10 < noticed.len(), "{}", noticed.len());
        assert!(noticed.iter().any(|violation| violation.contains(MISCOUNTED)), "{noticed:?}");
    }

    #[test]
    fn a_log_that_forgets_idempotency_keys_is_noticed() {
        let options = WorldOptions { keyless_batches: true, ..WorldOptions::default() };
        let noticed: Vec<Violation> = (0..20).filter_map(|seed| run(seed, options).err()).collect();
        assert!(5 < noticed.len(), "{}", noticed.len());
        assert!(noticed.iter().all(|violation| violation.contains(FORGOTTEN)), "{noticed:?}");
    }

    #[test]
    fn key_runs_that_lose_their_keys_are_noticed() {
        let options = WorldOptions { empty_key_runs: true, ..WorldOptions::default() };
        let noticed: Vec<Violation> = (0..40).filter_map(|seed| run(seed, options).err()).collect();
        assert!(5 < noticed.len(), "{}", noticed.len());
        assert!(noticed.iter().all(|violation| violation.contains(FORGOTTEN)), "{noticed:?}");
    }

    #[test]
    fn worlds_have_replays_mismatches_and_merges() {
        let reports: Vec<WorldReport> = (0..20).filter_map(|seed| run(seed, WorldOptions::default()).ok()).collect();
        let total = |count: fn(&WorldReport) -> u64| reports.iter().map(count).sum::<u64>();
        assert!(50 < total(|report| report.replays));
        assert!(10 < total(|report| report.mismatches));
        assert!(5 < total(|report| report.key_runs_merged));
    }

    #[test]
    fn tenants_that_are_taken_for_erased_too_early_are_noticed() {
        let options = WorldOptions { erased_at_once: true, ..WorldOptions::default() };
        let noticed: Vec<Violation> = (0..20).filter_map(|seed| run(seed, options).err()).collect();
        assert!(10 < noticed.len(), "{}", noticed.len());
        assert!(noticed.iter().all(|violation| violation.contains(LEFT)), "{noticed:?}");
    }

    #[test]
    fn worlds_have_tenants_that_are_erased() {
        let reports: Vec<WorldReport> = (0..20).filter_map(|seed| run(seed, WorldOptions::default()).ok()).collect();
        let total = |count: fn(&WorldReport) -> u64| reports.iter().map(count).sum::<u64>();
        assert!(20 < total(|report| report.tenants_erased));
        assert!(20 < total(|report| report.segments_rewritten));
    }

    #[test]
    fn worlds_have_batches_at_their_tenants_limits() {
        let refusals = |seed| run(seed, WorldOptions::default()).map_or(0, |report| report.quota_refusals);
        assert!(20 < (0..20).map(refusals).sum::<u64>());
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        for seed in 500..510 {
            let first = run(seed, WorldOptions::default()).unwrap();
            let second = run(seed, WorldOptions::default()).unwrap();
            assert_eq!(first, second);
        }
    }
}
