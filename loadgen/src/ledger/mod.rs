//! The ledger: what was sent and what was acknowledged, out of this process' hands before anybody can ask about it.
//!
//! A file that several threads write through mappings, each into extents of its own. A request is noted before its
//! first byte leaves, so that whatever the server holds is known here; its outcome is noted as it arrives. A request
//! without an outcome may be stored or not: both are honest. What is noted is in the kernel's page cache at once: it
//! survives the death of this process and of the server, not that of the machine.
//!
//! ```text
//! run ─► LedgerFile ─► LedgerWriter (one per thread) ─► map      verify ─► Ledger (read)      both ─► layout
//! ```
//!
//! The file holds keys: it is made readable by its owner alone.

mod layout;
mod map;
mod read;
mod write;

pub use read::Ledger;
pub use write::{LedgerFile, LedgerWriter};

use crate::corpus::Seq;
use xxhash_rust::xxh3::xxh3_128;

/// Who the events belong to, and the key that reads them back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: String,
    pub key: String,
}

/// What the server said of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub id_hash: u128,
    pub version: u64,
}

pub fn id_hash(id: &str) -> u128 {
    xxh3_128(id.as_bytes())
}

/// When something was noted: the same clock for all threads of a run, and a later run's moments are later.
///
/// ```text
/// 63          52 51                                             0
/// | session (12) | nanoseconds since the session's begin (52)   |
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// Of what has not happened.
    pub const NEVER: Self = Self(u64::MAX);
    pub const SESSION_MAX: u16 = (1 << 12) - 1;
    /// 52 days. Later moments of a session are all equal to it, and equal moments are no order.
    const NS_MAX: u64 = (1 << 52) - 1;

    fn new(session: u16, ns: u64) -> Self {
        assert!(session <= Self::SESSION_MAX);
        Self(u64::from(session) << 52 | ns.min(Self::NS_MAX))
    }

    /// In the first session.
    #[cfg(test)]
    pub fn of_ns(ns: u64) -> Self {
        Self::new(0, ns)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Unknown,
    /// `at` is when the answer had been read; the events' acknowledgements stand together from `first_ack` on.
    Acked {
        at: Moment,
        first_ack: u32,
    },
    Refused {
        status: u16,
    },
}

#[derive(Debug)]
pub struct SentRequest {
    pub first_seq: Seq,
    /// Before its first byte left.
    pub sent_at: Moment,
    pub outcome: Outcome,
    pub first_event: u32,
    pub event_count: u32,
    pub tenant: u16,
}

impl SentRequest {
    /// Places of its events in the ledger.
    pub fn events(&self) -> std::ops::Range<u32> {
        self.first_event..self.first_event + self.event_count
    }

    pub fn acked_at(&self) -> Moment {
        match self.outcome {
            Outcome::Acked { at, .. } => at,
            Outcome::Unknown | Outcome::Refused { .. } => Moment::NEVER,
        }
    }
}

#[cfg(test)]
pub mod tests;
