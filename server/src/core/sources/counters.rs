//! What one core has taken and refused of each source, since it started.
//!
//! Owns the numbers that `/metrics` shows. The core that owns them writes, and any core may read at any time: each is an atomic
//! with one writer, so that counting costs what a plain addition costs. Must never: take a lock, or grow with what clients send.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use ringlog_engine::shard::{AppendError, ReadOnly};

use crate::handle::sources::{SourceEndpoint, Taken};
use crate::limits::{GATE_FULL_RETRY_US, GATE_READ_ONLY_RETRY_US, REJECT_REASONS_MAX, ROOM_RETRY_US};

/// A number that one thread raises.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// By the one thread that writes.
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    Frames,
    SyslogStream,
    SyslogDatagram,
    /// `/api/v1/events` and `/batch`.
    Api,
    /// `/v1/events` and `/v1/logs`.
    Http,
    HttpFrame,
    Otlp,
    Shipper,
}

impl SourceKind {
    pub const ALL: [SourceKind; 8] = [
        SourceKind::Frames,
        SourceKind::SyslogStream,
        SourceKind::SyslogDatagram,
        SourceKind::Api,
        SourceKind::Http,
        SourceKind::HttpFrame,
        SourceKind::Otlp,
        SourceKind::Shipper,
    ];

    /// What rejects and metrics call it.
    pub fn name(self) -> &'static str {
        match self {
            SourceKind::Frames => "tcp",
            SourceKind::SyslogStream => "syslog_tcp",
            SourceKind::SyslogDatagram => "syslog_udp",
            SourceKind::Api => "api",
            SourceKind::Http => "http",
            SourceKind::HttpFrame => "http_frame",
            SourceKind::Otlp => "otlp",
            SourceKind::Shipper => "shipper",
        }
    }

    pub fn of_endpoint(endpoint: SourceEndpoint) -> SourceKind {
        match endpoint {
            SourceEndpoint::Event | SourceEndpoint::EventBatch => SourceKind::Api,
            SourceEndpoint::Events | SourceEndpoint::Logs => SourceKind::Http,
            SourceEndpoint::Frame => SourceKind::HttpFrame,
            SourceEndpoint::Otlp => SourceKind::Otlp,
            SourceEndpoint::Shipper => SourceKind::Shipper,
        }
    }

    pub fn of_body(taken: &Taken) -> SourceKind {
        match taken {
            Taken::Envelope(_) => SourceKind::Api,
            Taken::Lines(_) => SourceKind::Http,
            Taken::Frame => SourceKind::HttpFrame,
            Taken::Otlp(..) => SourceKind::Otlp,
            Taken::Shipper(_) => SourceKind::Shipper,
        }
    }

    /// Whether it is told nothing, and so not read while there is no room.
    pub fn is_pushed(self) -> bool {
        self.is_stream() || self == SourceKind::SyslogDatagram
    }

    /// Whether it has connections of its own.
    pub fn is_stream(self) -> bool {
        matches!(self, SourceKind::Frames | SourceKind::SyslogStream)
    }
}

/// Why a frame or a message was not stored. Nobody is told but the tenant's operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Nobody has or had its key, as far as is known.
    BadKey,
    /// It cannot be read.
    Malformed,
    /// It says that it is longer than any may be: a frame's connection ends.
    Oversized,
    /// The connection ended in the middle of it.
    CutOff,
    Quota,
    /// Its key was good once, or when it came and not any more when it was its turn; or its tenant is not active.
    Revoked,
    /// The shard can take no more tenants, or none that is so large.
    TooLarge,
    TooManyTenants,
    /// The disk failed while it was on its way: it may be found after a restart.
    OutcomeUnknown,
    ShuttingDown,
}

impl Refusal {
    /// For rejects and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::BadKey => "bad_key",
            Refusal::Malformed => "malformed",
            Refusal::Oversized => "oversized",
            Refusal::CutOff => "cut_off",
            Refusal::Quota => "quota",
            Refusal::Revoked => "revoked",
            Refusal::TooLarge => "too_large",
            Refusal::TooManyTenants => "too_many_tenants",
            Refusal::OutcomeUnknown => "outcome_unknown",
            Refusal::ShuttingDown => "shutting_down",
        }
    }

    /// For whoever reads rejects.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::BadKey => "nobody has this key",
            Refusal::Malformed => "it cannot be read",
            Refusal::Oversized => "it is longer than any may be",
            Refusal::CutOff => "the connection ended in the middle of it",
            Refusal::Quota => "the tenant's quota is used up",
            Refusal::Revoked => "the key is not good any more, or the tenant is not active",
            Refusal::TooLarge => "it is larger than the tenant's shard takes",
            Refusal::TooManyTenants => "the tenant's shard can take no more tenants",
            Refusal::OutcomeUnknown => "the disk failed while it was on its way: it may be found after a restart",
            Refusal::ShuttingDown => "the server stopped before it was stored",
        }
    }
}

/// What follows from an append that failed.
pub enum Failed {
    /// There is no room; there will be.
    NoRoom {
        retry_us: u64,
    },
    Refused(Refusal),
}

pub fn failed(error: AppendError) -> Failed {
    match error {
        AppendError::Overloaded => Failed::NoRoom { retry_us: ROOM_RETRY_US },
        AppendError::StorageFull => Failed::NoRoom { retry_us: GATE_FULL_RETRY_US },
        AppendError::ReadOnly(ReadOnly::WriteFailed | ReadOnly::Damaged) => {
            Failed::NoRoom { retry_us: GATE_READ_ONLY_RETRY_US }
        }
        AppendError::ReadOnly(ReadOnly::Closing) => Failed::Refused(Refusal::ShuttingDown),
        AppendError::QuotaExceeded { .. } => Failed::Refused(Refusal::Quota),
        AppendError::TenantLimit => Failed::Refused(Refusal::TooManyTenants),
        AppendError::TenantErased => Failed::Refused(Refusal::Revoked),
        AppendError::TooLarge => Failed::Refused(Refusal::TooLarge),
        AppendError::OutcomeUnknown => Failed::Refused(Refusal::OutcomeUnknown),
        // The content is a part of its key: this is a frame that another version of the server read otherwise.
        AppendError::IdempotencyMismatch => Failed::Refused(Refusal::Malformed),
        AppendError::VersionConflict { .. } => unreachable!("a source expects no version"),
    }
}

/// Of one kind of source.
#[derive(Debug, Default)]
pub struct SourceCounters {
    pub connections_opened: Count,
    /// Batches and events that are stored as durably as the server promises. What is known to be a replay is stored already.
    pub batches_stored: Count,
    pub events_stored: Count,
    /// How often reading has stopped: because a shard, a mailbox or a tenant's rate had no room.
    pub pauses: Count,
}

impl SourceCounters {
    fn is_unused(&self) -> bool {
        [&self.connections_opened, &self.batches_stored, &self.events_stored, &self.pauses]
            .into_iter()
            .all(|count| count.get() == 0)
    }
}

type Reason = (SourceKind, &'static str);

/// How many were refused, by source and reason. Filled from the front.
#[derive(Debug)]
struct RejectCounts {
    places: Box<[(OnceLock<Reason>, Count)]>,
}

impl Default for RejectCounts {
    fn default() -> RejectCounts {
        RejectCounts { places: (0..REJECT_REASONS_MAX).map(|_| Default::default()).collect() }
    }
}

impl RejectCounts {
    fn add(&self, reason: Reason, count: u64) {
        let is_it = |(place, _): &&(OnceLock<Reason>, Count)| *place.get_or_init(|| reason) == reason;
        let (_, place) = self.places.iter().find(is_it).expect("reasons are words of the code, and fewer than that");
        place.add(count);
    }

    fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        self.places.iter().map_while(|(place, count)| Some((*place.get()?, count.get())))
    }
}

/// Of one core. Cores do not share the lines that they lie in.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    kinds: [SourceCounters; SourceKind::ALL.len()],
    rejected: RejectCounts,
}

impl Counters {
    pub fn of(&self, kind: SourceKind) -> &SourceCounters {
        &self.kinds[kind as usize]
    }

    /// `reason` is one of a closed list.
    pub fn reject(&self, kind: SourceKind, reason: &'static str, count: u64) {
        if 0 < count {
            self.rejected.add((kind, reason), count);
        }
    }

    /// What was refused, by source and reason: frames, lines, records and messages.
    pub fn rejected(&self) -> impl Iterator<Item = ((SourceKind, &'static str), u64)> {
        self.rejected.iter()
    }
}

/// Of each source that was used: what it took and why it refused the rest.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for kind in SourceKind::ALL {
            let counters = self.of(kind);
            let mut rejected = self.rejected().filter(|((of, _), _)| *of == kind).peekable();
            if counters.is_unused() && rejected.peek().is_none() {
                continue;
            }
            let SourceCounters { connections_opened, batches_stored, events_stored, pauses } = counters;
            write!(f, "{space}{}: connections={}", kind.name(), connections_opened.get())?;
            write!(f, " batches={} events={}", batches_stored.get(), events_stored.get())?;
            write!(f, " pauses={}", pauses.get())?;
            for ((_, reason), count) in rejected {
                write!(f, " {reason}={count}")?;
            }
            space = " ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSALS: [Refusal; 10] = [
        Refusal::BadKey,
        Refusal::Malformed,
        Refusal::Oversized,
        Refusal::CutOff,
        Refusal::Quota,
        Refusal::Revoked,
        Refusal::TooLarge,
        Refusal::TooManyTenants,
        Refusal::OutcomeUnknown,
        Refusal::ShuttingDown,
    ];

    #[test]
    fn each_source_and_each_reason_has_its_own_place_and_name() {
        let counters = Counters::default();
        for (number, kind) in SourceKind::ALL.into_iter().enumerate() {
            counters.of(kind).events_stored.add(number as u64 + 1);
            assert_eq!(SourceKind::ALL.iter().filter(|other| other.name() == kind.name()).count(), 1);
        }
        for (number, kind) in SourceKind::ALL.into_iter().enumerate() {
            assert_eq!(counters.of(kind).events_stored.get(), number as u64 + 1);
        }
        for why in REFUSALS {
            assert_eq!(REFUSALS.iter().filter(|other| other.name() == why.name()).count(), 1);
            assert_eq!(REFUSALS.iter().filter(|other| other.text() == why.text()).count(), 1);
        }
    }

    #[test]
    fn refusals_are_counted_by_source_and_reason() {
        let counters = Counters::default();
        counters.reject(SourceKind::Http, "missing", 2);
        counters.reject(SourceKind::Otlp, "missing", 1);
        counters.reject(SourceKind::Http, "missing", 3);
        counters.reject(SourceKind::Http, "too_deep", 0);
        let found: Vec<_> = counters.rejected().collect();
        assert_eq!(found, [((SourceKind::Http, "missing"), 5), ((SourceKind::Otlp, "missing"), 1)]);
    }

    #[test]
    fn what_was_used_is_told_and_nothing_else() {
        let counters = Counters::default();
        assert_eq!(counters.to_string(), "");
        counters.reject(SourceKind::Frames, "short", 1);
        counters.of(SourceKind::SyslogDatagram).events_stored.add(2);
        assert_eq!(
            counters.to_string(),
            "tcp: connections=0 batches=0 events=0 pauses=0 short=1 \
             syslog_udp: connections=0 batches=0 events=2 pauses=0"
        );
    }

    #[test]
    fn another_thread_reads_what_one_writes() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1000).for_each(|_| counters.reject(SourceKind::Frames, "short", 1)));
            let mut last = 0;
            while last < 1000 {
                let now = counters.rejected().map(|(_, count)| count).sum();
                assert!(last <= now);
                last = now;
            }
        });
    }
}
