//! What the sources of one core have taken and refused, since it started.

use std::fmt;

use ringlog_engine::shard::{AppendError, ReadOnly};

use crate::limits::{GATE_FULL_RETRY_US, GATE_READ_ONLY_RETRY_US, ROOM_RETRY_US};

/// Where it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    Frames,
    SyslogStream,
    SyslogDatagram,
}

/// Why a frame or a message was not stored. Nobody is told but the tenant's operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its key is not known, or not good any more, or its tenant is not active.
    BadKey,
    /// It cannot be read.
    Malformed,
    /// It says that it is longer than any may be: its connection ends.
    Oversized,
    /// The connection ended in the middle of it.
    CutOff,
    Quota,
    /// It was good when it came, and not any more when it was its turn.
    Revoked,
    /// The shard can take no more tenants, or none that is so large.
    TooLarge,
    TooManyTenants,
    /// The disk failed while it was on its way: it may be found after a restart.
    OutcomeUnknown,
    ShuttingDown,
}

impl Refusal {
    pub const ALL: [Refusal; 10] = [
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

    /// For metrics.
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
        AppendError::TooLarge => Failed::Refused(Refusal::TooLarge),
        AppendError::OutcomeUnknown => Failed::Refused(Refusal::OutcomeUnknown),
        // The content is a part of its key: this is a frame that another version of the server read otherwise.
        AppendError::IdempotencyMismatch => Failed::Refused(Refusal::Malformed),
        AppendError::VersionConflict { .. } => unreachable!("a source expects no version"),
    }
}

/// Of one kind of source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SourceCounters {
    pub connections_opened: u64,
    /// Batches and events that are stored as durably as the server promises.
    pub batches_stored: u64,
    pub events_stored: u64,
    /// How often reading has stopped: because a shard, a mailbox or a tenant's rate had no room.
    pub pauses: u64,
    refused: [u64; Refusal::ALL.len()],
}

impl SourceCounters {
    /// Frames, and messages of syslog.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize]
    }

    pub(super) fn refuse(&mut self, why: Refusal, count: u64) {
        self.refused[why as usize] += count;
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub frames: SourceCounters,
    pub syslog_streams: SourceCounters,
    pub syslog_datagrams: SourceCounters,
    /// Malformed frames by what is wrong with them.
    pub malformed_frames: Vec<(&'static str, u64)>,
}

impl Counters {
    pub(super) fn of(&mut self, kind: SourceKind) -> &mut SourceCounters {
        match kind {
            SourceKind::Frames => &mut self.frames,
            SourceKind::SyslogStream => &mut self.syslog_streams,
            SourceKind::SyslogDatagram => &mut self.syslog_datagrams,
        }
    }

    /// `reason` is one of a closed list.
    pub(super) fn malformed_frame(&mut self, reason: &'static str) {
        self.frames.refuse(Refusal::Malformed, 1);
        match self.malformed_frames.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.malformed_frames.push((reason, 1)),
        }
    }
}

/// Of each source that was used: what it took and why it refused the rest.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds =
            [("tcp", &self.frames), ("syslog_tcp", &self.syslog_streams), ("syslog_udp", &self.syslog_datagrams)];
        let mut space = "";
        for (name, counters) in kinds.into_iter().filter(|(_, counters)| **counters != SourceCounters::default()) {
            let SourceCounters { connections_opened, batches_stored, events_stored, pauses, .. } = counters;
            write!(f, "{space}{name}: connections={connections_opened} batches={batches_stored}")?;
            write!(f, " events={events_stored} pauses={pauses}")?;
            for why in Refusal::ALL.into_iter().filter(|why| 0 < counters.refused(*why)) {
                write!(f, " {}={}", why.name(), counters.refused(why))?;
            }
            space = " ";
        }
        for (reason, count) in &self.malformed_frames {
            write!(f, " malformed.{reason}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_place_and_name() {
        let mut counters = SourceCounters::default();
        for (number, why) in Refusal::ALL.into_iter().enumerate() {
            counters.refuse(why, number as u64 + 1);
        }
        for (number, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(counters.refused(why), number as u64 + 1);
            assert_eq!(Refusal::ALL.iter().filter(|other| other.name() == why.name()).count(), 1);
        }
    }

    #[test]
    fn what_was_used_is_told_and_nothing_else() {
        let mut counters = Counters::default();
        assert_eq!(counters.to_string(), "");
        counters.malformed_frame("short");
        counters.of(SourceKind::SyslogDatagram).events_stored = 2;
        assert_eq!(
            counters.to_string(),
            "tcp: connections=0 batches=0 events=0 pauses=0 malformed=1 \
             syslog_udp: connections=0 batches=0 events=2 pauses=0 malformed.short=1"
        );
    }
}
