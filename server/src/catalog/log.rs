//! The catalog's durable log, as little as the catalog needs of it.
//! Never rewrites or forgets: what was appended is replayed, in order, byte for byte.

use std::fmt;

/// Why the log could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogError {
    /// It is not known whether the record is on disk. The log takes no more until it was opened anew.
    OutcomeUnknown(String),
    /// The record is not on disk, and nothing else is wrong: there is no room for it.
    Full,
    /// What was stored cannot be read back.
    Damaged(String),
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CatalogError::OutcomeUnknown(why) => write!(f, "the catalog's log failed in the middle of a write: {why}"),
            CatalogError::Full => write!(f, "there is no room for the catalog's log"),
            CatalogError::Damaged(why) => write!(f, "the catalog's log is damaged: {why}"),
        }
    }
}

impl std::error::Error for CatalogError {}

pub trait CatalogLog {
    /// Returns once the record is durable. `entity` and `kind` are for those who read the log with other tools.
    fn append(&mut self, record: &[u8], entity: &str, kind: &str) -> Result<(), CatalogError>;

    /// Hands every record to `each`, oldest first, and stops at the first error.
    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError>;

    /// Hands at most `count` records before the one numbered `before` to `each`, newest first, with their numbers.
    /// Records count from 1. Asked after a replay.
    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError>;
}

/// A log that lasts as long as it is kept: for simulations and for servers that keep nothing.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    pub records: Vec<Vec<u8>>,
}

impl CatalogLog for MemoryLog {
    fn append(&mut self, record: &[u8], _entity: &str, _kind: &str) -> Result<(), CatalogError> {
        self.records.push(record.to_vec());
        Ok(())
    }

    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        self.records.iter().try_for_each(|record| each(record))
    }

    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError> {
        let numbered = (1..).zip(&self.records).take_while(|(number, _)| *number < before);
        let numbered: Vec<_> = numbered.collect();
        numbered.into_iter().rev().take(count).for_each(|(number, record)| each(number, record));
        Ok(())
    }
}
