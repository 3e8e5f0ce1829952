//! A catalog that runs on the simulated disk: the log with somebody who writes down what is asked of it, the control
//! plane, and one core's table.

use ringlog_engine::event::EventBatch;
use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::query::{QuerySpec, Row, SearchError, Summary};
use ringlog_engine::shard::{AppendError, Appended};
use ringlog_engine::sim::SimEngine;

use crate::auth::credentials::{Credentials, Presented, Principal};
use crate::auth::secret_file::NamedSecret;
use crate::catalog::control::{Control, ControlSettings, OpenError};
use crate::catalog::engine_records::{EngineRecords, RecordEngine};
use crate::catalog::log::{CatalogError, CatalogLog};

const SETTINGS: ControlSettings = ControlSettings { shard_count: 3, onboard_per_hour: 0 };

impl RecordEngine for SimEngine {
    fn batch(&self, tenant: Tenant) -> EventBatch {
        SimEngine::batch(self, tenant)
    }

    fn append(&mut self, batch: EventBatch) -> Result<Appended, AppendError> {
        SimEngine::append(self, batch)
    }

    fn query(&mut self, spec: QuerySpec, each: &mut dyn FnMut(Row<'_>)) -> Result<Summary, SearchError> {
        SimEngine::query(self, spec, each)
    }
}

/// A record and how its append ended.
pub type Attempt = (Vec<u8>, Result<(), CatalogError>);

pub struct WatchedLog {
    records: EngineRecords<SimEngine>,
    attempts: Vec<Attempt>,
    /// Appends until one is said to be done that was not.
    swallow_in: Option<u64>,
}

impl WatchedLog {
    pub fn new(records: EngineRecords<SimEngine>, swallow_in: Option<u64>) -> WatchedLog {
        WatchedLog { records, attempts: Vec::new(), swallow_in }
    }

    pub fn engine(&mut self) -> &mut SimEngine {
        self.records.engine()
    }

    pub fn take_attempts(&mut self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts)
    }
}

impl CatalogLog for WatchedLog {
    fn append(&mut self, record: &[u8], entity: &str, kind: &str) -> Result<(), CatalogError> {
        let is_swallowed = self.swallow_in == Some(0);
        self.swallow_in = self.swallow_in.and_then(|left| left.checked_sub(1));
        let result = if is_swallowed { Ok(()) } else { self.records.append(record, entity, kind) };
        self.attempts.push((record.to_vec(), result.clone()));
        result
    }

    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        self.records.replay(each)
    }

    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError> {
        self.records.read_before(before, count, each)
    }
}

pub struct Running {
    pub control: Control<WatchedLog>,
    pub core: Credentials,
    kids: Vec<String>,
}

impl Running {
    /// As a server begins, with the signing secrets of its file.
    pub fn open(log: WatchedLog, secrets: &[NamedSecret]) -> Result<Running, OpenError> {
        let mut control = Control::open(log, SETTINGS)?;
        control.sign_with(secrets);
        let core = Credentials::new(1, &control.snapshot());
        Ok(Running { control, core, kids: kids(secrets) })
    }

    /// From here on these sign and verify.
    pub fn signs_with(&mut self, secrets: &[NamedSecret]) {
        self.kids = kids(secrets);
    }

    /// Of the secret that signs.
    pub fn kid(&self) -> &str {
        &self.kids[0]
    }

    pub fn signs(&self, kid: &str) -> bool {
        self.kids.iter().any(|known| known == kid)
    }

    /// What the control thread does between a change and its answer.
    pub fn publish(&mut self) {
        if let Some(delta) = self.control.take_delta() {
            self.core.apply(&delta);
        }
    }

    pub fn who(&mut self, token: &str, now: Micros) -> Option<Principal> {
        self.core.authenticate(Presented::none().authorization(token.as_bytes()), now).ok()
    }

    pub fn engine(&mut self) -> &mut SimEngine {
        self.control.log().engine()
    }
}

fn kids(secrets: &[NamedSecret]) -> Vec<String> {
    secrets.iter().map(|named| named.kid.clone()).collect()
}
