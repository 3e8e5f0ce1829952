//! The catalog's records as events of an engine: one tenant, one record an event, its number the event's position.
//! The same over a real engine and over the simulator's.
//! Must never: answer an append before it is durable, show a log with holes, or pass over what cannot be read.

use ringlog_engine::engine::Engine;
use ringlog_engine::event::{EventBatch, EventInput};
use ringlog_engine::ids::{Position, Tenant};
use ringlog_engine::query::{Order, QuerySpec, Row, SearchError, Summary};
use ringlog_engine::shard::recover::{Damage, RecoveryReport};
use ringlog_engine::shard::{AppendError, Appended};

use crate::catalog::log::{CatalogError, CatalogLog};

const CATALOG: Tenant = Tenant(1);

/// What the catalog needs of an engine.
pub trait RecordEngine {
    fn batch(&self, tenant: Tenant) -> EventBatch;

    /// Returns once the batch is durable.
    fn append(&mut self, batch: EventBatch) -> Result<Appended, AppendError>;

    fn query(&mut self, spec: QuerySpec, each: &mut dyn FnMut(Row<'_>)) -> Result<Summary, SearchError>;
}

impl RecordEngine for Engine {
    fn batch(&self, tenant: Tenant) -> EventBatch {
        Engine::batch(self, tenant)
    }

    fn append(&mut self, batch: EventBatch) -> Result<Appended, AppendError> {
        Engine::append(self, batch).map(|(appended, _)| appended).map_err(|(_, error)| error)
    }

    fn query(&mut self, spec: QuerySpec, each: &mut dyn FnMut(Row<'_>)) -> Result<Summary, SearchError> {
        Engine::query(self, spec, each)
    }
}

/// Invariant: every position below `next` has been replayed or appended; before a replay that is none.
pub struct EngineRecords<E> {
    engine: E,
    next: Position,
}

impl<E: RecordEngine> EngineRecords<E> {
    /// With what the engine found when it was opened. A catalog with holes could let in what was revoked.
    pub fn new(engine: E, report: &RecoveryReport) -> Result<EngineRecords<E>, Vec<Damage>> {
        if report.damage.is_empty() {
            Ok(EngineRecords { engine, next: Position(1) })
        } else {
            Err(report.damage.clone())
        }
    }

    pub fn engine(&mut self) -> &mut E {
        &mut self.engine
    }

    pub fn into_engine(self) -> E {
        self.engine
    }
}

impl<E: RecordEngine> CatalogLog for EngineRecords<E> {
    fn append(&mut self, record: &[u8], entity: &str, kind: &str) -> Result<(), CatalogError> {
        let mut batch = self.engine.batch(CATALOG);
        // Nothing has been written: what does not fit a record is refused as such.
        batch.push(EventInput::new(kind, entity, record)).map_err(|_| CatalogError::Full)?;
        match self.engine.append(batch) {
            Ok(appended) => {
                assert_eq!(appended.first_position, self.next, "a log is replayed before it is appended to");
                self.next = Position(self.next.0 + 1);
                Ok(())
            }
            Err(AppendError::StorageFull) => Err(CatalogError::Full),
            Err(error) => Err(CatalogError::OutcomeUnknown(format!("{error:?}"))),
        }
    }

    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        let mut next = Position(1);
        let mut gap = None;
        let mut heard = Ok(());
        let summary = self
            .engine
            .query(QuerySpec::all(CATALOG, usize::MAX), &mut |row| {
                if row.position != next {
                    gap.get_or_insert((next, row.position));
                }
                if gap.is_none() && heard.is_ok() {
                    heard = each(row.record.payload);
                }
                next = Position(row.position.0 + 1);
            })
            .map_err(|error| CatalogError::Damaged(error.to_string()))?;
        if let Some((due, found)) = gap {
            return Err(CatalogError::Damaged(format!("change {} follows, {} was due", found.0, due.0)));
        }
        assert!(!summary.has_more, "there is no limit");
        self.next = next;
        heard
    }

    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError> {
        let mut spec = QuerySpec::all(CATALOG, count);
        spec.order = Order::Descending;
        spec.after = Some(Position(before));
        self.engine
            .query(spec, &mut |row| each(row.position.0, row.record.payload))
            .map_err(|error| CatalogError::Damaged(error.to_string()))?;
        Ok(())
    }
}
