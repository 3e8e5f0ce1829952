//! What was sent and not stored: kept for its tenant, bounded in size and rate, and counted by reason.
//!
//! A tenant's rejects are events of a tenant of their own, in the same shard: as durable as any event, numbered apart,
//! and out of sight of every query but their own. Must never: take room or quota from what is good, or hold up a request.
//!
//! ```text
//! Reject ─► paced by tenant ─► batch of the shadow tenant ─► owner of the tenant's shard; nobody waits for it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use ringlog_engine::event::{EventBatch, EventInput, Source};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::{ShardNumber, Tenant};
use ringlog_engine::shard::Limits;
use serde_json::json;

use crate::core::host::CoreHost;
use crate::core::mailbox::Message;
use crate::handle::routes::Access;
use crate::handle::sources::{Reject, shadow_of};
use crate::limits::{
    REJECT_BYTES_STORED_MAX, REJECTED_TENANTS_MAX, REJECTS_BURST, REJECTS_PER_MONTH_MAX, REJECTS_PER_SECOND,
};
use crate::net::connections::Asked;
use crate::net::rate_limit::{Bucket, Rate};

const PACE: Rate = Rate::new(REJECTS_PER_SECOND, REJECTS_BURST).expect("neither is 0");
const LIMITS: Limits =
    Limits { events_per_month: Some(REJECTS_PER_MONTH_MAX), stored_bytes: Some(REJECT_BYTES_STORED_MAX) };

/// How many were refused, by source and reason, since the server started: all cores together.
#[derive(Debug, Default)]
pub struct RejectCounts(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl RejectCounts {
    pub fn count(&self, source: &'static str, reason: &'static str, count: u64) {
        *self.lock().entry((source, reason)).or_default() += count;
    }

    pub fn all(&self) -> Vec<((&'static str, &'static str), u64)> {
        self.lock().iter().map(|(of, count)| (*of, *count)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(&'static str, &'static str), u64>> {
        // A number is all that a panic could leave behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy)]
struct Paced {
    bucket: Bucket,
    /// Refused and not kept, since the last that was kept.
    missed: u64,
}

/// How fast this core keeps rejects, by tenant.
#[derive(Debug, Default)]
pub struct Rejects {
    paced: HashMap<Tenant, Paced>,
}

impl Rejects {
    /// What is to be kept, with how many were missed before it; nothing if it is one too many.
    fn admit(&mut self, tenant: Tenant, now_us: u64) -> Option<u64> {
        if REJECTED_TENANTS_MAX <= self.paced.len() && !self.paced.contains_key(&tenant) {
            self.paced.retain(|_, paced| 0 < paced.missed || !paced.bucket.is_full(PACE, now_us));
            if REJECTED_TENANTS_MAX <= self.paced.len() {
                return None;
            }
        }
        let fresh = || Paced { bucket: Bucket::full(PACE, now_us), missed: 0 };
        let paced = self.paced.entry(tenant).or_insert_with(fresh);
        match paced.bucket.take(PACE, 1, now_us) {
            Ok(_) => Some(std::mem::take(&mut paced.missed)),
            Err(_) => {
                paced.missed += 1;
                None
            }
        }
    }
}

impl CoreHost {
    /// Keeps what was refused of one request.
    pub(super) fn keep_rejects(&mut self, access: &Access, source: &'static str, asked: &Asked, rejects: Vec<Reject>) {
        let request_id = asked.reply.request_id;
        self.keep_rejects_of(access.tenant, access.shard, source, Some(request_id.as_str()), rejects);
    }

    pub(super) fn keep_rejects_of(
        &mut self,
        tenant: Tenant,
        shard: ShardNumber,
        source: &'static str,
        request_id: Option<&str>,
        rejects: Vec<Reject>,
    ) {
        let mut batch = self.appends.take_batch(shadow_of(tenant), Source::Http);
        for reject in rejects {
            self.reject_counts.count(source, reject.reason, reject.count);
            let Some(missed) = self.rejects.admit(tenant, self.now.monotonic_us) else { continue };
            let mut payload = json!({
                "source": source,
                "reason": reject.reason,
                "message": reject.message,
                "count": reject.count,
            });
            for (name, value) in [
                ("sample", reject.sample.map(Into::into)),
                ("request_id", request_id.map(Into::into)),
                ("missed", (0 < missed).then(|| missed.into())),
            ] {
                if let Some(value) = value {
                    payload[name] = value;
                }
            }
            let payload = payload.to_string();
            let input =
                EventInput { kind: EventKind::Log, ..EventInput::new(reject.reason, source, payload.as_bytes()) };
            batch.push(input).expect("reasons and sources are names, and few clipped samples fit into a batch");
        }
        if !batch.is_empty() {
            self.store_rejects(shard, batch);
        } else {
            self.appends.keep(batch);
        }
    }

    fn store_rejects(&mut self, shard: ShardNumber, batch: EventBatch) {
        let owner = self.shard_owners[shard.0 as usize];
        if owner == self.core {
            return self.append_rejects(shard, batch);
        }
        if let Err(Message::Rejected { batch, .. }) = self.peers.ask(owner, Message::Rejected { shard, batch }) {
            self.appends.keep(batch);
        }
    }

    /// By the owner: what is refused again is not kept.
    pub(super) fn append_rejects(&mut self, shard: ShardNumber, batch: EventBatch) {
        let tenant = batch.tenant();
        self.shards.set_limits(shard, tenant, LIMITS);
        self.append_for_nobody(shard, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_paced_and_what_was_missed_is_told() {
        let mut rejects = Rejects::default();
        let (one, other) = (Tenant(1), Tenant(2));
        assert!((0..REJECTS_BURST).all(|_| rejects.admit(one, 0) == Some(0)));
        assert!((0..7).all(|_| rejects.admit(one, 0).is_none()));
        assert_eq!(rejects.admit(other, 0), Some(0));
        assert_eq!(rejects.admit(one, 1_000_000), Some(7));
        assert_eq!(rejects.admit(one, 1_000_000), Some(0));
    }

    #[test]
    fn the_table_of_paces_is_bounded_and_forgets_those_at_rest() {
        let mut rejects = Rejects::default();
        for tenant in 0..REJECTED_TENANTS_MAX as u32 {
            assert!(rejects.admit(Tenant(tenant), 0).is_some());
        }
        assert_eq!(rejects.admit(Tenant(1 << 20), 0), None);
        assert!(rejects.admit(Tenant(1 << 20), 60_000_000).is_some());
        assert!(rejects.paced.len() < 10);
    }

    #[test]
    fn counts_are_by_source_and_reason() {
        let counts = RejectCounts::default();
        counts.count("http", "missing", 2);
        counts.count("http", "missing", 3);
        counts.count("otlp", "too_deep", 1);
        assert_eq!(counts.all(), [(("http", "missing"), 5), (("otlp", "too_deep"), 1)]);
    }
}
