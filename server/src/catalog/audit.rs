//! The audit log: the catalog's records, read back for those whose business they are, and proved whole.
//! A page is bounded by what is looked at, not only by what is found, so that no question holds up a change for long.
//! Must never: show a tenant a record that is not its own, or show a digest of a key.

use std::fmt;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::role::Permission;
use crate::auth::secret::Digest;
use crate::catalog::command::{Authority, Refused};
use crate::catalog::control::Control;
use crate::catalog::log::{CatalogError, CatalogLog};
use crate::catalog::records::{Actor, CHAIN_START, Record, chain_digest};
use crate::limits::{AUDIT_READ_RECORDS, AUDIT_SCAN_RECORDS_MAX};

/// What of the log is wanted. Newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Inclusive.
    pub since: Option<Micros>,
    pub until: Option<Micros>,
    pub actor: Option<Actor>,
    /// A record's type.
    pub action: Option<String>,
    /// Only records before this one; records count from 1.
    pub before: Option<u64>,
    pub limit: usize,
}

#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// From 1, without gaps.
    pub number: u64,
    pub record: Record,
    /// Of the record's bytes: what the next one names.
    pub digest: Digest,
    /// Whose business it is, by number and id.
    pub tenant: Option<(Tenant, String)>,
    pub actor_name: Option<String>,
}

#[derive(Debug, Clone)]
pub struct AuditPage {
    pub events: Vec<AuditEvent>,
    /// Where to go on, if there may be more. A page that goes on can be short, and even empty.
    pub next: Option<u64>,
}

impl<L: CatalogLog> Control<L> {
    /// `tenant` is whose records are wanted; operators may want all.
    pub(super) fn read_audit(
        &mut self,
        by: Authority,
        tenant: Option<Tenant>,
        query: &AuditQuery,
    ) -> Result<AuditPage, Refused> {
        by.needs(Permission::Admin)?;
        let tenant = match tenant {
            None if by.is_operator() => None,
            None => Some(by.tenant),
            Some(tenant) if by.is_operator() || tenant.0 == by.tenant => Some(tenant.0),
            Some(_) => return Err(Refused::TenantForbidden),
        };
        let mut page = AuditPage { events: Vec::new(), next: None };
        let mut before = query.before.unwrap_or(u64::MAX).min(self.state().record_count() + 1);
        if let Some(until) = query.until {
            before = self.first_after(until, before)?;
        }
        let mut looked_at = 0;
        loop {
            if before <= 1 {
                return Ok(page);
            }
            if AUDIT_SCAN_RECORDS_MAX <= looked_at {
                page.next = Some(before);
                return Ok(page);
            }
            let mut records = Vec::new();
            self.log()
                .read_before(before, AUDIT_READ_RECORDS, &mut |number, bytes| {
                    records.push((number, bytes.to_vec()));
                })
                .map_err(|_| Refused::Unreadable)?;
            if records.is_empty() {
                return Err(Refused::Unreadable);
            }
            for (number, bytes) in records {
                looked_at += 1;
                before = number;
                let record = Record::decode(&bytes).map_err(|_| Refused::Unreadable)?;
                // Records never go back in time.
                if query.since.is_some_and(|since| record.at < since) {
                    return Ok(page);
                }
                let whose = self.state().tenant_of(&record.body);
                let is_wanted = query.actor.is_none_or(|actor| record.origin.actor == actor)
                    && query.action.as_deref().is_none_or(|action| record.body.kind() == action)
                    && tenant.is_none_or(|tenant| whose == Some(tenant));
                if is_wanted {
                    page.events.push(self.event(number, record, chain_digest(&bytes), whose));
                }
                if query.limit <= page.events.len() {
                    page.next = Some(number).filter(|number| 1 < *number);
                    return Ok(page);
                }
            }
        }
    }

    /// The number of the first record after `until`, or `before` if that comes first. Records never go back in time.
    fn first_after(&mut self, until: Micros, before: u64) -> Result<u64, Refused> {
        let (mut low, mut high) = (1, before);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = None;
            self.log()
                .read_before(middle + 1, 1, &mut |_, bytes| at = Record::decode(bytes).ok().map(|record| record.at))
                .map_err(|_| Refused::Unreadable)?;
            if at.ok_or(Refused::Unreadable)? <= until {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn event(&self, number: u64, record: Record, digest: Digest, whose: Option<u32>) -> AuditEvent {
        let state = self.state();
        let tenant = whose.map(|number| {
            let id = state.id_of_tenant(Tenant(number)).map(str::to_owned);
            (Tenant(number), id.unwrap_or_else(|| format!("ws-{number}")))
        });
        let actor_name = match record.origin.actor {
            Actor::Key(key) => state.key(key).map(|entry| entry.made.name.clone()),
            Actor::User(user) => state.user(user).map(|entry| entry.name().to_owned()),
            Actor::Server | Actor::Anonymous => None,
        };
        AuditEvent { number, record, digest, tenant, actor_name }
    }
}

/// A chain that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proved {
    pub records: u64,
    /// The last record's digest. Whoever keeps it elsewhere can tell later that nothing before it was rewritten.
    pub head: Digest,
    /// The digest that was asked for stands in the chain.
    pub contains: bool,
}

/// Where a chain breaks first. Records count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// The record does not name the digest of the one before it.
    Link {
        record: u64,
    },
    Record {
        record: u64,
        why: String,
    },
    Log(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Link { record: 1 } => write!(f, "record 1 does not begin the chain: what stood before it is gone"),
            Broken::Link { record } => write!(
                f,
                "record {record} does not follow record {}: one of them was changed, or something between them is gone",
                record - 1
            ),
            Broken::Record { record, why } => write!(f, "record {record}: {why}"),
            Broken::Log(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Broken {}

/// Recomputes the chain from its start. Also proves records of a later version, as long as they name the one before.
pub fn prove(log: &mut impl CatalogLog, wanted: Option<Digest>) -> Result<Proved, Broken> {
    let mut proved = Proved { records: 0, head: CHAIN_START, contains: wanted == Some(CHAIN_START) };
    let mut broken = None;
    let outcome = log.replay(&mut |bytes| {
        let record = proved.records + 1;
        match Record::read_prev(bytes) {
            Err(error) => broken = Some(Broken::Record { record, why: error.to_string() }),
            Ok(prev) if prev != proved.head => broken = Some(Broken::Link { record }),
            Ok(_) => {}
        }
        if broken.is_some() {
            return Err(CatalogError::Damaged(String::new()));
        }
        proved.head = chain_digest(bytes);
        proved.records = record;
        proved.contains |= wanted == Some(proved.head);
        Ok(())
    });
    match (broken, outcome) {
        (Some(broken), _) => Err(broken),
        (None, Err(error)) => Err(Broken::Log(error.to_string())),
        (None, Ok(())) => Ok(proved),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::log::MemoryLog;
    use crate::catalog::records::{Body, KeyRevoked, Origin, Outcome};

    fn chain(count: u64) -> MemoryLog {
        let mut log = MemoryLog::default();
        let mut prev = CHAIN_START;
        for key in 0..count {
            let body = Body::KeyRevoked(KeyRevoked { key });
            let record = Record { at: Micros(1), origin: Origin::server(), outcome: Outcome::Ok, prev, body };
            let bytes = record.encode();
            prev = chain_digest(&bytes);
            log.records.push(bytes);
        }
        log
    }

    #[test]
    fn a_whole_chain_is_proved_and_its_heads_are_known() {
        let mut log = chain(5);
        let third = chain_digest(&log.records[2]);
        let proved = prove(&mut log, Some(third)).unwrap();
        assert_eq!(proved, Proved { records: 5, head: chain_digest(&log.records[4]), contains: true });
        assert!(!prove(&mut log, Some([9; 32])).unwrap().contains);
        assert_eq!(prove(&mut chain(0), None).unwrap().records, 0);
    }

    #[test]
    fn the_first_broken_link_is_named() {
        for at in 0..4 {
            let mut changed = chain(5);
            let text = String::from_utf8(changed.records[at].clone()).unwrap();
            changed.records[at] = text.replace("\"at\":1", "\"at\":2").into_bytes();
            assert_eq!(prove(&mut changed, None), Err(Broken::Link { record: at as u64 + 2 }), "{at} changed");
            let mut missing = chain(5);
            missing.records.remove(at);
            assert_eq!(prove(&mut missing, None), Err(Broken::Link { record: at as u64 + 1 }), "{at} missing");
        }
        let mut nonsense = chain(3);
        nonsense.records[1] = b"nonsense".to_vec();
        assert!(matches!(prove(&mut nonsense, None), Err(Broken::Record { record: 2, .. })));
    }

    /// The last record's change shows in the head alone, which is why a head that was kept elsewhere can be asked for.
    #[test]
    fn a_rewritten_end_does_not_hold_a_head_that_was_kept() {
        let kept = chain_digest(&chain(5).records[4]);
        let mut rewritten = chain(5);
        let text = String::from_utf8(rewritten.records[4].clone()).unwrap();
        rewritten.records[4] = text.replace("\"key\":4", "\"key\":9").into_bytes();
        assert!(!prove(&mut rewritten, Some(kept)).unwrap().contains);
    }
}
