//! What the log must hold: every record whose append was answered or that a recovery has shown, and the catalog that
//! these records make. Kept by the judge, outside of everything that is judged.

use super::Violation;
use crate::auth::secret::Digest;
use crate::catalog::log::CatalogError;
use crate::catalog::records::{Record, chain_digest};
use crate::catalog::state::State;

/// Invariant: `state` is what `records` say, each decoded from its bytes.
#[derive(Default)]
pub struct Ledger {
    records: Vec<Vec<u8>>,
    state: State,
    /// A record whose append ended without a word about it.
    unanswered: Option<Vec<u8>>,
}

/// What became of the record that nobody knew about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    None,
    Found,
    Lost,
}

impl Ledger {
    pub fn records(&self) -> &[Vec<u8>] {
        &self.records
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// Of the last record.
    pub fn head(&self) -> Digest {
        self.state.head()
    }

    /// Whether an append of this life ended without a word.
    pub fn is_unknown(&self) -> bool {
        self.unanswered.is_some()
    }

    /// Takes note of an append and how it ended.
    pub fn appended(&mut self, record: Vec<u8>, result: &Result<(), CatalogError>) -> Result<(), Violation> {
        if self.unanswered.is_some() {
            return Err(format!("{} was appended behind a record that nobody knows about", text(&record)));
        }
        match result {
            Ok(()) => self.take(record),
            // It is said that it is not there, so that it must never be.
            Err(CatalogError::Full) => Ok(()),
            Err(CatalogError::OutcomeUnknown(_) | CatalogError::Damaged(_)) => {
                self.unanswered = Some(record);
                Ok(())
            }
        }
    }

    /// Compares what a life begins with. What it shows is there for good.
    pub fn recovered(&mut self, found: &[Vec<u8>]) -> Result<Unanswered, Violation> {
        let known = self.records.len();
        if found.len() < known {
            return Err(format!("{known} changes were answered, and {} are left", found.len()));
        }
        if let Some(at) = (0..known).find(|&at| found[at] != self.records[at]) {
            let (was, is) = (text(&self.records[at]), text(&found[at]));
            return Err(format!("change {} was {was} and is {is}", at + 1));
        }
        match (&found[known..], self.unanswered.take()) {
            ([], None) => Ok(Unanswered::None),
            ([], Some(_)) => Ok(Unanswered::Lost),
            ([record], Some(unanswered)) if *record == unanswered => {
                self.take(unanswered)?;
                Ok(Unanswered::Found)
            }
            ([record, ..], _) => Err(format!("change {} was never made: {}", known + 1, text(record))),
        }
    }

    fn take(&mut self, record: Vec<u8>) -> Result<(), Violation> {
        let decoded = Record::decode(&record).map_err(|error| format!("{} is stored: {error}", text(&record)))?;
        let applied = self.state.apply(&decoded, chain_digest(&record));
        applied.map_err(|error| format!("{} is stored: {error}", text(&record)))?;
        self.records.push(record);
        Ok(())
    }
}

fn text(record: &[u8]) -> String {
    String::from_utf8_lossy(record).into_owned()
}

#[cfg(test)]
mod tests {
    use ringlog_engine::ids::Micros;

    use super::*;
    use crate::catalog::records::{Body, CHAIN_START, Origin, Outcome, SigningSecretCreated};

    fn chain(count: usize) -> Vec<Vec<u8>> {
        let mut prev = CHAIN_START;
        let mut records = Vec::new();
        for number in 0..count {
            let body = Body::SigningSecretCreated(SigningSecretCreated { kid: format!("k{number}") });
            let record = Record { at: Micros(1), origin: Origin::server(), outcome: Outcome::Ok, prev, body };
            let bytes = record.encode();
            prev = chain_digest(&bytes);
            records.push(bytes);
        }
        records
    }

    /// Two records that were answered, and perhaps a third that was not.
    fn ledger(third: Option<CatalogError>) -> Ledger {
        let mut ledger = Ledger::default();
        let records = chain(3);
        ledger.appended(records[0].clone(), &Ok(())).unwrap();
        ledger.appended(records[1].clone(), &Ok(())).unwrap();
        if let Some(error) = third {
            ledger.appended(records[2].clone(), &Err(error)).unwrap();
        }
        ledger
    }

    fn unknown() -> Option<CatalogError> {
        Some(CatalogError::OutcomeUnknown(String::new()))
    }

    #[test]
    fn what_was_answered_must_be_there_and_what_was_not_may_be() {
        let records = chain(4);
        assert_eq!(ledger(None).recovered(&records[..2]), Ok(Unanswered::None));
        assert_eq!(ledger(unknown()).recovered(&records[..2]), Ok(Unanswered::Lost));
        let mut shown = ledger(unknown());
        assert_eq!(shown.recovered(&records[..3]), Ok(Unanswered::Found));
        // Once shown, it is there for good.
        assert!(shown.recovered(&records[..2]).is_err());
        for (mut ledger, found) in [
            (ledger(None), &records[..1]),
            (ledger(None), &records[1..3]),
            (ledger(None), &records[..3]),
            (ledger(unknown()), &records[..4]),
            (ledger(Some(CatalogError::Full)), &records[..3]),
        ] {
            assert!(ledger.recovered(found).is_err(), "{}", found.len());
        }
    }

    #[test]
    fn nothing_is_appended_behind_a_record_that_nobody_knows_about() {
        let mut ledger = ledger(unknown());
        assert!(ledger.appended(chain(3).remove(2), &Ok(())).is_err());
    }
}
