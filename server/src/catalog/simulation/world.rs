//! The lives of one catalog: it begins, is checked, works, and ends by a power cut, a kill or a stop, again and again.
//! Must never: let anything but the seed decide. Keys and salts come from the system, but none of them decides anything.

use ringlog_engine::ids::{Micros, ShardNumber};
use ringlog_engine::io::Disk;
use ringlog_engine::shard::Durability;
use ringlog_engine::shard::names::shard_dir;
use ringlog_engine::shard::recover::OpenError;
use ringlog_engine::sim::rng::mix;
use ringlog_engine::sim::{FaultRates, Rng, SimDisk, SimEngine, SimEngineOptions};

use super::ledger::{Ledger, Unanswered};
use super::promises::{Holder, OneOf, PromisedTenant, Promises, Standing, TenantTerms, Token, Told};
use super::running::{Running, WatchedLog};
use super::{Report, SimulationOptions, Violation};
use crate::auth::delta::{CredentialKind, SYSTEM_TENANT, TenantState};
use crate::auth::password::Hasher;
use crate::auth::password::tests::cheap_hasher;
use crate::auth::role::Role;
use crate::auth::secret::Secret;
use crate::auth::secret_file::NamedSecret;
use crate::catalog::audit::{AuditQuery, prove};
use crate::catalog::command::{Call, Command, Done, What};
use crate::catalog::engine_records::EngineRecords;
use crate::catalog::keys_file::FileKey;
use crate::catalog::log::{CatalogError, CatalogLog};
use crate::catalog::records::{Record, chain_digest};
use crate::catalog::tiers::{Overrides, Tier};

const FIRST_MOMENT: i64 = 1_700_000_000_000_000;
const NO_FAULTS: FaultRates = FaultRates { write_per_million: 0, sync_per_million: 0, read_per_million: 0 };
const CAPACITY_BYTES: u64 = 1 << 40;

pub struct World {
    pub rng: Rng,
    disk: SimDisk,
    segment_bytes: u64,
    options: SimulationOptions,
    pub now: i64,
    pub ledger: Ledger,
    pub promises: Promises,
    pub report: Report,
    pub hasher: Hasher,
    /// Makes names, addresses, request ids and secrets that were not there before.
    pub next_number: u64,
    /// What the server is configured with, as its operator has it in files.
    pub bootstrap: Secret,
    pub secrets: Vec<NamedSecret>,
    pub file_keys: Vec<FileKey>,
    trace: u64,
}

impl World {
    pub fn new(seed: u64, options: SimulationOptions) -> World {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.draw());
        disk.lie_about_sync(options.lying_disk);
        if let Some(site) = options.ignored_site {
            disk.ignore_site(site);
        }
        let segment_bytes = [32 << 10, 64 << 10, 128 << 10][rng.index(3)];
        let mut world = World {
            rng,
            disk,
            segment_bytes,
            options,
            now: FIRST_MOMENT,
            ledger: Ledger::default(),
            promises: Promises::default(),
            report: Report::default(),
            hasher: cheap_hasher(),
            next_number: 1,
            bootstrap: Secret::new(String::new()),
            secrets: Vec::new(),
            file_keys: Vec::new(),
            trace: 0,
        };
        world.configure_bootstrap();
        world.configure_signing();
        world
    }

    pub fn live(&mut self) -> Result<(), Violation> {
        let lives = 3 + self.rng.below(4);
        for _ in 0..lives {
            let Some(mut running) = self.open()? else { continue };
            self.report.lives += 1;
            self.disturb(&mut running);
            let outcome = self.work(&mut running);
            self.disk.set_fault_rates(NO_FAULTS);
            outcome?;
            self.end(running)?;
        }
        // The last word: everything is read back once more, with nothing in its way.
        for _ in 0..4 {
            if self.open()?.is_some() {
                return Ok(());
            }
        }
        Err("the catalog never opens again".to_owned())
    }

    pub fn close_report(&mut self) -> Report {
        self.report.records = self.ledger.records().len() as u64;
        self.report.trace = mix(self.trace ^ self.disk.op_count());
        self.report
    }

    pub fn note(&mut self, word: u64) {
        self.trace = mix(self.trace.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word);
    }

    // ----- a life begins -----

    /// Begins a life and checks all that it begins with. `None`: the power went on the way.
    fn open(&mut self) -> Result<Option<Running>, Violation> {
        self.disk.set_capacity(CAPACITY_BYTES);
        for attempt in 0..4 {
            if attempt < 3 && self.rng.chance(1, 5) {
                self.disk.crash_after(self.rng.below(150));
            }
            match self.begin() {
                Ok(running) if !self.disk.is_down() => return Ok(Some(running)),
                Err(violation) if !self.disk.is_down() => return Err(violation),
                Ok(_) | Err(_) => {
                    self.report.crashes += 1;
                    self.report.crashes_in_recovery += 1;
                    self.disk.crash();
                    self.disk.reopen();
                }
            }
        }
        Ok(None)
    }

    /// With the power gone, whatever comes back says nothing.
    fn begin(&mut self) -> Result<Running, Violation> {
        let records = self.open_log()?;
        let swallow_in = self.options.swallows_a_record.then(|| 5 + self.rng.below(30));
        let mut log = WatchedLog::new(records, swallow_in);
        let mut found = Vec::new();
        log.replay(&mut |record| {
            found.push(record.to_vec());
            Ok(())
        })
        .map_err(|error| error.to_string())?;
        self.check_records(&mut log, &found)?;
        let mut running = Running::open(log, &self.secrets).map_err(|error| error.to_string())?;
        if running.control.state() != self.ledger.state() {
            return Err("the catalog is not what its records say".to_owned());
        }
        self.promises.check(&mut running, self.now)?;
        self.check_audit(&mut running)?;
        self.set_up(&mut running)?;
        Ok(running)
    }

    fn open_log(&mut self) -> Result<EngineRecords<SimEngine>, Violation> {
        let options = SimEngineOptions {
            segment_bytes: self.segment_bytes,
            durability: if self.options.answers_early { Durability::Memory } else { Durability::Commit },
            seed: self.rng.draw(),
            now: Micros(self.now),
        };
        let opened = SimEngine::open(&self.disk, options);
        let (engine, report) = opened.map_err(|error: OpenError| format!("the engine does not open: {error}"))?;
        EngineRecords::new(engine, &report).map_err(|damage| format!("recovery reports damage: {damage:?}"))
    }

    /// Nothing that was answered is lost or changed, and the chain is whole.
    fn check_records(&mut self, log: &mut WatchedLog, found: &[Vec<u8>]) -> Result<(), Violation> {
        if self.options.forgets_the_ledger {
            self.ledger = Ledger::default();
            found.iter().try_for_each(|record| self.ledger.appended(record.clone(), &Ok(())))?;
        }
        match self.ledger.recovered(found)? {
            Unanswered::None => {}
            Unanswered::Found => self.report.unanswered_found += 1,
            Unanswered::Lost => self.report.unanswered_lost += 1,
        }
        let head = self.ledger.head();
        let proved = prove(log, Some(head)).map_err(|broken| broken.to_string())?;
        if proved.records != found.len() as u64 || proved.head != head || !proved.contains {
            return Err(format!("{} records are there, and {proved:?}", found.len()));
        }
        Ok(())
    }

    /// The audit log, as an operator reads it, has every record, and among them one for each request that was answered.
    fn check_audit(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(by) = self.operator(running) else { return Ok(()) };
        let who = running.who(&by, Micros(self.now)).ok_or("an operator opens nothing")?;
        let mut query = AuditQuery { limit: 1 + self.rng.index(40), ..AuditQuery::default() };
        let mut number = self.ledger.records().len() as u64;
        let mut requests = Vec::new();
        loop {
            let call = Call {
                slot: who.slot,
                generation: who.generation,
                source: [10, 0, 0, 7].into(),
                request_id: String::new(),
                at: Micros(self.now),
            };
            let what = What::ReadAudit { tenant: None, query: query.clone() };
            let page = match running.control.carry_out(&Command { call, what }) {
                Ok(Done::Audit(page)) => page,
                other => return Err(format!("the audit log is not read: {other:?}")),
            };
            for event in page.events {
                let known = self.ledger.records().get(event.number as usize - 1);
                if event.number != number || known.is_none_or(|record| chain_digest(record) != event.digest) {
                    return Err(format!("the audit log has {event:?} for record {number}"));
                }
                number -= 1;
                requests.extend(event.record.origin.request_id);
            }
            match page.next {
                Some(next) => query.before = Some(next),
                None => break,
            }
        }
        if number != 0 {
            return Err(format!("the audit log begins with record {}", number + 1));
        }
        requests.reverse();
        let mut audited = requests.iter();
        match self.promises.requests.iter().find(|promised| !audited.any(|request| request == *promised)) {
            Some(request) => Err(format!("request {request} was done, and is not in the audit log")),
            None => Ok(()),
        }
    }

    /// What a server does before its first request.
    fn set_up(&mut self, running: &mut Running) -> Result<(), Violation> {
        let told = [
            self.apply_signing(running)?,
            self.apply_bootstrap(running)?,
            self.make_default_tenant(running)?,
            self.apply_file_keys(running)?,
        ];
        if running.engine().is_dead() || told.iter().all(|told| *told == Told::Done) {
            return Ok(());
        }
        Err(format!("a start without faults ends with {told:?}"))
    }

    fn make_default_tenant(&mut self, running: &mut Running) -> Result<Told, Violation> {
        let outcome = running.control.set_up_default_tenant(Micros(self.now)).map(|_| ());
        let told = self.settle_outcome(running, outcome.is_ok())?;
        if told == Told::Done && !self.promises.tenants.contains_key(&1) {
            let terms = TenantTerms {
                state: TenantState::Active,
                name: "default".to_owned(),
                tier: Tier::Unlimited,
                overrides: Overrides::default(),
            };
            self.promises.tenants.insert(1, PromisedTenant::new("default".to_owned(), terms));
        }
        Ok(told)
    }

    // ----- what stands in the server's files -----

    /// Another bootstrap key. The one before it ends when the server takes the new one.
    pub fn configure_bootstrap(&mut self) {
        self.bootstrap = Secret::new(format!("a-bootstrap-key-{}", self.fresh_number()));
        self.promises.tokens.push(Token {
            text: self.bootstrap.expose().to_owned(),
            kind: CredentialKind::Bootstrap,
            tenant: SYSTEM_TENANT.0,
            name: "bootstrap".to_owned(),
            holder: Holder::Itself(Role::Admin),
            kid: None,
            number: None,
            standing: OneOf::known(Standing::Ended),
            successor: None,
        });
    }

    pub fn apply_bootstrap(&mut self, running: &mut Running) -> Result<Told, Violation> {
        let outcome = running.control.set_up_bootstrap(Some(&self.bootstrap), Micros(self.now));
        let told = self.settle_outcome(running, outcome.is_ok())?;
        let configured = self.bootstrap.expose();
        for token in self.promises.tokens.iter_mut().filter(|token| token.kind == CredentialKind::Bootstrap) {
            let to = if token.text == configured { Standing::Until(None) } else { Standing::Ended };
            token.standing.change(to, told);
        }
        Ok(told)
    }

    /// Another signing secret, beside the one before it.
    pub fn configure_signing(&mut self) {
        let number = self.fresh_number();
        let secret = Secret::new(format!("{number:032}"));
        self.secrets.insert(0, NamedSecret { kid: format!("k{number}"), secret });
        self.secrets.truncate(2);
    }

    pub fn apply_signing(&mut self, running: &mut Running) -> Result<Told, Violation> {
        let outcome = running.control.match_signing_secrets(&self.secrets, Micros(self.now));
        if outcome.is_ok() {
            running.signs_with(&self.secrets);
        }
        self.settle_outcome(running, outcome.is_ok())
    }

    pub fn apply_file_keys(&mut self, running: &mut Running) -> Result<Told, Violation> {
        let outcome = running.control.match_keys_file("apikeys.conf".as_ref(), &self.file_keys, Micros(self.now));
        let told = self.settle_outcome(running, outcome.is_ok())?;
        for token in self.promises.tokens.iter_mut().filter(|token| token.kind == CredentialKind::Streaming) {
            let is_in_file = self.file_keys.iter().any(|key| key.secret.expose() == token.text);
            let to = if is_in_file { Standing::Until(None) } else { Standing::Ended };
            token.standing.change(to, told);
        }
        Ok(told)
    }

    /// What the server does after a change of its own accord. A refusal may come after a part of it: it is not known.
    fn settle_outcome(&mut self, running: &mut Running, is_ok: bool) -> Result<Told, Violation> {
        self.take_attempts(running)?;
        running.publish();
        Ok(if is_ok && !running.engine().is_dead() { Told::Done } else { Told::Unknown })
    }

    // ----- a life -----

    /// Decides what goes wrong in this life.
    fn disturb(&mut self, running: &mut Running) {
        if self.rng.chance(1, 4) {
            self.disk.set_fault_rates(FaultRates {
                write_per_million: self.rng.below(20_000) as u32,
                sync_per_million: self.rng.below(20_000) as u32,
                read_per_million: 0,
            });
        }
        if self.rng.chance(1, 3) {
            self.disk.crash_after(self.rng.below(300));
        } else if self.rng.chance(1, 3) {
            running.engine().kill_after(1 + self.rng.below(150));
        }
        if self.rng.chance(1, 8)
            && let Ok(free_bytes) = self.disk.free_bytes()
        {
            let more = self.rng.below(2) * self.segment_bytes;
            self.disk.set_capacity(CAPACITY_BYTES - free_bytes + more);
        }
    }

    fn work(&mut self, running: &mut Running) -> Result<(), Violation> {
        for _ in 0..10 + self.rng.below(50) {
            if running.engine().is_dead() {
                return Ok(());
            }
            self.pass_time();
            self.do_something(running)?;
            if self.rng.chance(1, 8) {
                running.engine().settle();
            }
        }
        Ok(())
    }

    /// Now and then a day, so that keys expire; now and then backwards.
    fn pass_time(&mut self) {
        self.now += match self.rng.below(40) {
            0 => 86_400_000_000,
            1 => -5_000_000,
            2..6 => self.rng.below(7_200_000_000) as i64,
            _ => self.rng.below(2_000_000) as i64,
        };
    }

    fn end(&mut self, mut running: Running) -> Result<(), Violation> {
        if !running.engine().is_dead() {
            // Every delta has reached the core. What it shows says nothing of a record that nobody knows about.
            let mut promises = self.promises.clone();
            promises.check(&mut running, self.now)?;
            if !self.ledger.is_unknown() {
                self.promises = promises;
            }
            if !self.ledger.is_unknown() && running.control.state() != self.ledger.state() {
                return Err("the catalog is not what its records say".to_owned());
            }
            if self.rng.chance(1, 4) {
                running.engine().close();
            }
        }
        self.report.latched += u64::from(self.ledger.is_unknown() && !running.engine().is_dead());
        self.report.segments_rolled += running.engine().stats().segments_rolled;
        let is_killed = running.engine().is_dead() && !self.disk.is_down();
        self.report.kills += u64::from(is_killed);
        drop(running);
        if self.disk.is_down() || (!is_killed && self.rng.chance(2, 3)) {
            self.report.crashes += 1;
            self.disk.crash();
        } else {
            self.report.restarts += 1;
        }
        self.disk.reopen();
        Ok(())
    }

    // ----- a log at rest -----

    /// One life in which nothing goes wrong, and that ends with nothing under way.
    pub fn live_in_peace(&mut self) -> Result<(), Violation> {
        let mut running = self.begin()?;
        self.work(&mut running)?;
        if self.rng.chance(1, 2) {
            running.engine().close();
        } else {
            running.engine().settle();
            self.disk.crash();
        }
        drop(running);
        self.disk.reopen();
        Ok(())
    }

    pub fn restart(&mut self) {
        self.disk.reopen();
    }

    /// Turns one bit of one record over, where it is stored.
    pub fn rot(&mut self) {
        let record = &self.ledger.records()[self.rng.index(self.ledger.records().len())];
        let bit = (self.rng.below(record.len() as u64), self.rng.below(8) as u8);
        let dir = shard_dir(ShardNumber(0));
        let paths = self.disk.list(&dir).expect("the machine is on").into_iter().map(|name| format!("{dir}/{name}"));
        let place_in = |path: String| {
            let bytes = self.disk.peek(&path)?;
            let offset = bytes.windows(record.len()).position(|window| window == record)?;
            Some((path, offset as u64))
        };
        let places: Vec<(String, u64)> = paths.filter_map(place_in).collect();
        assert_eq!(places.len(), 1, "a record is stored once");
        self.disk.flip_bit(&places[0].0, places[0].1 + bit.0, bit.1);
    }

    /// As `ringlog audit verify` reads it.
    pub fn verify(&mut self) -> Result<u64, Violation> {
        let mut log = self.open_log()?;
        let proved = prove(&mut log, None).map_err(|broken| broken.to_string())?;
        Ok(proved.records)
    }

    // ----- for those who ask -----

    pub fn fresh_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// A bootstrap key that the core lets in, as the operator would find by trying.
    pub fn operator(&self, running: &mut Running) -> Option<String> {
        let bootstraps = self.promises.tokens.iter().rev().filter(|token| token.kind == CredentialKind::Bootstrap);
        let mut texts = bootstraps.map(|token| token.text.clone());
        texts.find(|text| running.who(text, Micros(self.now)).is_some())
    }

    /// Enters what was appended into the ledger, and gives the records that are durable.
    pub fn take_attempts(&mut self, running: &mut Running) -> Result<Vec<Record>, Violation> {
        let mut durable = Vec::new();
        for (bytes, result) in running.control.log().take_attempts() {
            let record = Record::decode(&bytes).map_err(|error| error.to_string())?;
            self.note(bytes.len() as u64 ^ u64::from(result.is_ok()) << 32);
            self.report.full += u64::from(result == Err(CatalogError::Full));
            self.ledger.appended(bytes, &result)?;
            if result.is_ok() {
                self.report.acknowledged += 1;
                durable.push(record);
            }
        }
        Ok(durable)
    }
}
