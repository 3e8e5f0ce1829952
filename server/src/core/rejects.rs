//! What was sent and not stored: kept for its tenant, bounded in size and rate, and counted by reason.
//!
//! A tenant's rejects are events of a tenant of their own, in the same shard: as durable as any event, numbered apart,
//! and out of sight of every query but their own. Must never: take room or quota from what is good, or hold up a request.
//!
//! ```text
//! something wrong with it ──────────► paced by tenant ─► batch of the shadow tenant ─► owner of the tenant's shard
//! its key or tenant may not ─► one a minute ─┘                                         nobody waits for it
//! ```

use std::collections::{HashMap, VecDeque};

use ringlog_engine::event::{EventBatch, EventInput, Source};
use ringlog_engine::format::record::EventKind;
use ringlog_engine::ids::{ShardNumber, Tenant};
use ringlog_engine::shard::Limits;
use serde::Serialize;

use crate::auth::delta::{SYSTEM_TENANT, TenantState};
use crate::core::host::CoreHost;
use crate::core::mailbox::Message;
use crate::core::sources::Writer;
use crate::core::sources::counters::{Refusal, SourceKind};
use crate::handle::routes::Access;
use crate::handle::sources::{Reject, shadow_of};
use crate::limits::{
    REJECT_BYTES_STORED_MAX, REJECTED_KEYS_MAX, REJECTED_KEYS_OF_TENANT_MAX, REJECTED_TENANTS_MAX, REJECTS_BURST,
    REJECTS_KEY_EVERY_US, REJECTS_PER_MONTH_MAX, REJECTS_PER_SECOND,
};
use crate::net::connections::Asked;
use crate::net::rate_limit::{Bucket, Rate};
use crate::wire::response::RequestId;

const PACE: Rate = Rate::new(REJECTS_PER_SECOND, REJECTS_BURST).expect("neither is 0");
const LIMITS: Limits =
    Limits { events_per_month: Some(REJECTS_PER_MONTH_MAX), stored_bytes: Some(REJECT_BYTES_STORED_MAX) };

#[derive(Debug, Clone, Copy)]
struct Paced {
    bucket: Bucket,
    /// What was refused and not kept, since the last that was kept.
    missed: u64,
}

/// What is told at most once a minute: whose writing was refused where, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Repeated {
    writer: Writer,
    kind: SourceKind,
    why: Refusal,
}

/// What went on since the last that was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Since {
    count: u64,
    /// Of the last request among them.
    request_id: Option<RequestId>,
}

/// How fast this core keeps rejects.
#[derive(Debug, Default)]
pub struct Rejects {
    paced: HashMap<Tenant, Paced>,
    repeated: HashMap<Repeated, Since>,
    /// How many of them are of one tenant, so that none has the room of all.
    repeated_counts: HashMap<Tenant, usize>,
    /// When each of them may be told of again, soonest first.
    due: VecDeque<(u64, Repeated)>,
}

impl Rejects {
    /// Whether a reject that stands for `count` is to be kept: with how many were missed before it.
    fn admit(&mut self, tenant: Tenant, count: u64, now_us: u64) -> Option<u64> {
        let paced = self.paced(tenant, now_us)?;
        match paced.bucket.take(PACE, 1, now_us) {
            Ok(_) => Some(std::mem::take(&mut paced.missed)),
            Err(_) => {
                paced.missed += count;
                None
            }
        }
    }

    fn paced(&mut self, tenant: Tenant, now_us: u64) -> Option<&mut Paced> {
        if REJECTED_TENANTS_MAX <= self.paced.len() && !self.paced.contains_key(&tenant) {
            self.paced.retain(|_, paced| 0 < paced.missed || !paced.bucket.is_full(PACE, now_us));
            if REJECTED_TENANTS_MAX <= self.paced.len() {
                return None;
            }
        }
        let fresh = || Paced { bucket: Bucket::full(PACE, now_us), missed: 0 };
        Some(self.paced.entry(tenant).or_insert_with(fresh))
    }

    /// `true`: to be told of now. Otherwise it is counted, and told of when it is due; where there is no room to wait in, it
    /// is told as missed with the tenant's next entry.
    fn is_first(&mut self, repeated: Repeated, now: Since, now_us: u64) -> bool {
        if let Some(since) = self.repeated.get_mut(&repeated) {
            *since = Since { count: since.count + now.count, request_id: now.request_id };
            return false;
        }
        let tenant = repeated.writer.tenant;
        let of_tenant = self.repeated_counts.get(&tenant).copied().unwrap_or(0);
        if REJECTED_KEYS_OF_TENANT_MAX <= of_tenant || REJECTED_KEYS_MAX <= self.repeated.len() {
            if let Some(paced) = self.paced(tenant, now_us) {
                paced.missed += now.count;
            }
            return false;
        }
        self.repeated_counts.insert(tenant, of_tenant + 1);
        self.repeated.insert(repeated, Since::default());
        self.due.push_back((now_us + REJECTS_KEY_EVERY_US, repeated));
        true
    }

    /// What is to be told of. What has not happened again for its time is forgotten.
    fn next_due(&mut self, now_us: u64) -> Option<(Repeated, Since)> {
        while let Some((at_us, repeated)) = self.due.front().copied()
            && at_us <= now_us
        {
            self.due.pop_front();
            let since = self.repeated.get_mut(&repeated).map(std::mem::take).unwrap_or_default();
            if 0 < since.count {
                self.due.push_back((now_us + REJECTS_KEY_EVERY_US, repeated));
                return Some((repeated, since));
            }
            self.forget(&repeated);
        }
        None
    }

    fn forget(&mut self, repeated: &Repeated) {
        self.repeated.remove(repeated);
        let of_tenant = self.repeated_counts.get_mut(&repeated.writer.tenant).expect("what waits is counted");
        *of_tenant -= 1;
        if *of_tenant == 0 {
            self.repeated_counts.remove(&repeated.writer.tenant);
        }
    }

    /// When there is something to tell or to forget.
    pub fn due_at_us(&self) -> Option<u64> {
        self.due.front().map(|(at_us, _)| *at_us)
    }

    fn take_all(&mut self) -> Vec<(Repeated, Since)> {
        self.due.clear();
        self.repeated_counts.clear();
        self.repeated.drain().filter(|(_, since)| 0 < since.count).collect()
    }
}

/// The payload of a reject, member by member as it is listed.
#[derive(Debug, Serialize)]
struct Payload<'a> {
    source: &'static str,
    reason: &'static str,
    message: &'a str,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
}

/// What a batch stands for that is refused as a whole: a frame is one, whatever is in it.
pub(super) fn refused_count(kind: SourceKind, batch: &EventBatch) -> u64 {
    match kind {
        SourceKind::Frames | SourceKind::HttpFrame => 1,
        _ => batch.event_count() as u64,
    }
}

fn put(batch: &mut EventBatch, payload: &Payload<'_>) {
    let bytes = serde_json::to_vec(payload).expect("strings and numbers are JSON");
    let input =
        EventInput { kind: EventKind::Log, ..EventInput::new(payload.reason, payload.source, bytes.as_slice()) };
    batch.push(input).expect("reasons and sources are names, and few clipped samples fit into a batch");
}

impl CoreHost {
    /// Keeps what was refused of one request.
    pub(super) fn keep_rejects(&mut self, access: &Access, kind: SourceKind, asked: &Asked, rejects: Vec<Reject>) {
        let key_id = self.key_id((access.slot, access.generation));
        let mut batch = self.appends.take_batch(shadow_of(access.tenant), Source::Http);
        for reject in &rejects {
            self.sources.counters().reject(kind, reject.reason, reject.count);
            let missed = self.rejects.admit(access.tenant, reject.count, self.now.monotonic_us);
            let Some(missed) = missed else { continue };
            let payload = Payload {
                source: kind.name(),
                reason: reject.reason,
                message: &reject.message,
                count: reject.count,
                sample: reject.sample.as_deref(),
                key_id: key_id.clone(),
                request_id: Some(asked.reply.request_id.as_str()),
                missed: (0 < missed).then_some(missed),
            };
            put(&mut batch, &payload);
        }
        self.store_rejects(access.shard, batch);
    }

    /// Keeps a frame or message that something is wrong with. `tell` says what, and shows it, if there is room for that.
    pub(super) fn reject(
        &mut self,
        writer: &Writer,
        kind: SourceKind,
        reason: &'static str,
        tell: impl FnOnce() -> (String, Option<String>),
    ) {
        self.sources.counters().reject(kind, reason, 1);
        self.tell_reject(writer, kind, reason, Since { count: 1, request_id: None }, tell);
    }

    /// Keeps that a writer may not write: once a minute, with how often it was so.
    pub(super) fn reject_repeated(&mut self, writer: &Writer, kind: SourceKind, why: Refusal, count: u64) {
        self.tell_first(Repeated { writer: *writer, kind, why }, Since { count, request_id: None });
    }

    /// The same of a request, which is answered, too: clients that drop what is refused tell nobody.
    pub(super) fn reject_request(
        &mut self,
        writer: &Writer,
        kind: SourceKind,
        why: Refusal,
        batch: &EventBatch,
        request_id: RequestId,
    ) {
        let now = Since { count: refused_count(kind, batch), request_id: Some(request_id) };
        self.tell_first(Repeated { writer: *writer, kind, why }, now);
    }

    fn tell_first(&mut self, repeated: Repeated, now: Since) {
        self.sources.counters().reject(repeated.kind, repeated.why.name(), now.count);
        if 0 < now.count && self.rejects.is_first(repeated, now, self.now.monotonic_us) {
            self.tell_repeated(repeated, now);
        }
    }

    /// A streaming key that is not good. Whose it was, that is told, as long as its place in the table is known; a key that
    /// nobody had is nobody's business.
    pub(super) fn reject_key(&mut self, kind: SourceKind, key: &[u8; 16]) {
        match self.former_writer(key) {
            Some(writer) => self.reject_repeated(&writer, kind, Refusal::Revoked, 1),
            None => self.sources.counters().reject(kind, Refusal::BadKey.name(), 1),
        }
    }

    fn former_writer(&self, key: &[u8; 16]) -> Option<Writer> {
        let (tenant, slot, generation) = self.credentials.whose_streaming_key(key)?;
        let row = self.credentials.tenant(tenant)?;
        let has_readers = tenant != SYSTEM_TENANT && row.state != TenantState::Deleting;
        has_readers.then_some(Writer { tenant, shard: row.shard, credential: Some((slot, generation)) })
    }

    /// Tells of what has gone on since it was told of the last time.
    pub(super) fn tell_due_rejects(&mut self) {
        while let Some((repeated, since)) = self.rejects.next_due(self.now.monotonic_us) {
            self.tell_repeated(repeated, since);
        }
    }

    /// At the end, while every shard still takes events.
    pub(super) fn tell_all_rejects(&mut self) {
        for (repeated, since) in self.rejects.take_all() {
            self.tell_repeated(repeated, since);
        }
    }

    fn tell_repeated(&mut self, Repeated { writer, kind, why }: Repeated, since: Since) {
        self.tell_reject(&writer, kind, why.name(), since, || (why.text().to_owned(), None));
    }

    fn tell_reject(
        &mut self,
        writer: &Writer,
        kind: SourceKind,
        reason: &'static str,
        Since { count, request_id }: Since,
        tell: impl FnOnce() -> (String, Option<String>),
    ) {
        let missed = self.rejects.admit(writer.tenant, count, self.now.monotonic_us);
        let Some(missed) = missed else { return };
        let (message, sample) = tell();
        let payload = Payload {
            source: kind.name(),
            reason,
            message: &message,
            count,
            sample: sample.as_deref(),
            key_id: writer.credential.and_then(|credential| self.key_id(credential)),
            request_id: request_id.as_ref().map(RequestId::as_str),
            missed: (0 < missed).then_some(missed),
        };
        let source = match kind {
            SourceKind::Frames => Source::Tcp,
            SourceKind::SyslogStream | SourceKind::SyslogDatagram => Source::Syslog,
            _ => Source::Http,
        };
        let mut batch = self.appends.take_batch(shadow_of(writer.tenant), source);
        put(&mut batch, &payload);
        self.store_rejects(writer.shard, batch);
    }

    /// What lists of keys call it.
    fn key_id(&self, (slot, generation): (u32, u32)) -> Option<String> {
        self.credentials.key_number(slot, generation).map(|number| format!("key_{number}"))
    }

    fn store_rejects(&mut self, shard: ShardNumber, batch: EventBatch) {
        if batch.is_empty() {
            return self.appends.keep(batch);
        }
        let owner = self.shard_owners[shard.0 as usize];
        if owner == self.core {
            return self.append_rejects(shard, batch);
        }
        if let Err(Message::Rejected { batch, .. }) = self.peers.ask(owner, Message::Rejected { shard, batch }) {
            self.appends.keep(batch);
        }
    }

    /// By the owner: what is refused again is not kept, and neither is what nobody will read.
    pub(super) fn append_rejects(&mut self, shard: ShardNumber, batch: EventBatch) {
        let tenant = batch.tenant();
        if !self.is_kept(tenant) {
            return self.appends.keep(batch);
        }
        self.shards.set_limits(shard, tenant, LIMITS);
        self.append_for_nobody(shard, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeated(tenant: u32, why: Refusal) -> Repeated {
        of_key(tenant, 1, why)
    }

    fn of_key(tenant: u32, slot: u32, why: Refusal) -> Repeated {
        let writer = Writer { tenant: Tenant(tenant), shard: ShardNumber(0), credential: Some((slot, 1)) };
        Repeated { writer, kind: SourceKind::Frames, why }
    }

    fn since(count: u64) -> Since {
        Since { count, request_id: None }
    }

    #[test]
    fn a_flood_is_paced_and_what_was_missed_is_told() {
        let mut rejects = Rejects::default();
        let (one, other) = (Tenant(1), Tenant(2));
        assert!((0..REJECTS_BURST).all(|_| rejects.admit(one, 1, 0) == Some(0)));
        assert!((0..7).all(|_| rejects.admit(one, 3, 0).is_none()));
        assert_eq!(rejects.admit(other, 1, 0), Some(0));
        assert_eq!(rejects.admit(one, 1, 1_000_000), Some(21));
        assert_eq!(rejects.admit(one, 1, 1_000_000), Some(0));
    }

    #[test]
    fn the_table_of_paces_is_bounded_and_forgets_those_at_rest() {
        let mut rejects = Rejects::default();
        for tenant in 0..REJECTED_TENANTS_MAX as u32 {
            assert!(rejects.admit(Tenant(tenant), 1, 0).is_some());
        }
        assert_eq!(rejects.admit(Tenant(1 << 20), 1, 0), None);
        assert!(rejects.admit(Tenant(1 << 20), 1, 60_000_000).is_some());
        assert!(rejects.paced.len() < 10);
    }

    #[test]
    fn what_goes_on_is_told_once_a_minute_with_how_often_it_was() {
        let mut rejects = Rejects::default();
        let (quota, revoked) = (repeated(1, Refusal::Quota), repeated(1, Refusal::Revoked));
        let request = |id: &[u8]| RequestId::from_client(id);
        assert!(rejects.is_first(quota, since(1), 0) && rejects.is_first(revoked, since(1), 1));
        assert!((2..11).all(|now_us| !rejects.is_first(quota, since(5), now_us)));
        assert!(!rejects.is_first(quota, Since { count: 5, request_id: request(b"last") }, 11));
        assert_eq!(
            (rejects.next_due(REJECTS_KEY_EVERY_US - 1), rejects.due_at_us()),
            (None, Some(REJECTS_KEY_EVERY_US))
        );
        let told = Since { count: 50, request_id: request(b"last") };
        assert_eq!(rejects.next_due(REJECTS_KEY_EVERY_US + 1), Some((quota, told)));
        // What has ended is forgotten, and begins anew.
        assert_eq!(rejects.next_due(REJECTS_KEY_EVERY_US + 1), None);
        assert!(rejects.is_first(revoked, since(1), REJECTS_KEY_EVERY_US + 2));
        assert!(!rejects.is_first(quota, since(4), REJECTS_KEY_EVERY_US + 2));
        assert_eq!(rejects.take_all(), [(quota, since(4))]);
        assert_eq!(rejects.due_at_us(), None);
    }

    #[test]
    fn the_table_of_what_goes_on_is_bounded() {
        let mut rejects = Rejects::default();
        for tenant in 0..REJECTED_KEYS_MAX as u32 {
            assert!(rejects.is_first(repeated(tenant, Refusal::Quota), since(1), 0));
        }
        assert!(!rejects.is_first(repeated(1 << 20, Refusal::Quota), since(1), 0));
        assert_eq!(rejects.next_due(REJECTS_KEY_EVERY_US), None);
        assert!(rejects.repeated.is_empty() && rejects.repeated_counts.is_empty() && rejects.due.is_empty());
    }

    #[test]
    fn a_tenant_with_many_keys_leaves_room_for_others_and_is_told_what_it_missed() {
        let mut rejects = Rejects::default();
        let room = REJECTED_KEYS_OF_TENANT_MAX as u32;
        let all_keys: Vec<bool> = (0..2 * REJECTED_KEYS_MAX as u32)
            .map(|slot| rejects.is_first(of_key(1, slot, Refusal::Quota), since(3), 0))
            .collect();
        assert!(all_keys.iter().enumerate().all(|(slot, is_first)| *is_first == (slot < room as usize)));
        assert!(rejects.is_first(repeated(2, Refusal::Quota), since(1), 0));
        assert_eq!(rejects.admit(Tenant(2), 1, 0), Some(0));
        assert_eq!(rejects.admit(Tenant(1), 1, 0), Some(3 * (2 * REJECTED_KEYS_MAX as u64 - u64::from(room))));

        // Room comes back with what has ended, and not with what goes on.
        assert!(!rejects.is_first(of_key(1, 0, Refusal::Quota), since(1), 1));
        assert!(rejects.next_due(REJECTS_KEY_EVERY_US).is_some());
        assert_eq!(rejects.next_due(REJECTS_KEY_EVERY_US), None);
        let later = (room..2 * room).map(|slot| rejects.is_first(of_key(1, slot, Refusal::Quota), since(1), 0));
        assert_eq!(later.filter(|is_first| *is_first).count(), room as usize - 1);
    }

    #[test]
    fn a_reject_begins_as_its_list_needs_it_and_leaves_out_what_is_not_known() {
        let payload = Payload {
            source: "tcp",
            reason: "bounds",
            message: "m",
            count: 1,
            sample: None,
            key_id: None,
            request_id: None,
            missed: None,
        };
        let text = serde_json::to_string(&payload).unwrap();
        assert_eq!(text, r#"{"source":"tcp","reason":"bounds","message":"m","count":1}"#);
    }
}
