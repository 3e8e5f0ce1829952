//! The shards that a core owns.
//!
//! Owns their turns, the searches that have to wait until they can see what was appended before them, and the counts that wait
//! until what they count is written. Must never: answer a search with less than its asker may know to be stored, or tell
//! of events that a crash may take back.

use std::collections::VecDeque;
use std::sync::Arc;

use ringlog_engine::data_dir::DataDir;
use ringlog_engine::event::EventBatch;
use ringlog_engine::host::{Route, ShardHost};
use ringlog_engine::ids::{BlockSequence, Micros, Position, ShardNumber, Tenant};
use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{DiskDone, Fill, Ring};
use ringlog_engine::limits::{BLOCK_BYTES_TARGET, DISK_RESERVE_BYTES};
use ringlog_engine::query::active::{ActiveAnswer, ActiveRequest};
use ringlog_engine::query::{Order, QuerySpec};
use ringlog_engine::shard::recover::RecoveryReport;
use ringlog_engine::shard::{Ack, AppendError, Durability, KeyBounds, Limits, Now, ShardConfig, ShardStats, Usage};

/// The core's time that commits may take, in thousandths: docs/architecture.md asks for 8 to 10 %.
const COMMIT_SHARE_PERMILLE: u64 = 90;

/// Who asked a search, and under which ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchFrom {
    pub core: usize,
    pub ticket: u64,
}

/// What a tenant has stored, and how many of its events are still kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCounts {
    pub usage: Usage,
    pub kept: u64,
}

/// What waits until a block is written.
struct Held {
    sequence: BlockSequence,
    from: SearchFrom,
    what: HeldWhat,
}

enum HeldWhat {
    /// Searches then: it sees what is visible by then.
    Search(ActiveRequest),
    /// Has counted, and tells it then.
    Counts(EventCounts),
}

struct Owned {
    number: ShardNumber,
    host: ShardHost,
    held: VecDeque<Held>,
    is_latch_told: bool,
}

/// What a turn of the shards has brought.
#[derive(Default)]
pub struct ShardsOutcome {
    pub acks: Vec<Ack>,
    pub searched: Vec<(SearchFrom, ActiveAnswer)>,
    pub counted: Vec<(SearchFrom, EventCounts)>,
    /// Shards that take no more events, told once each.
    pub latched: Vec<ShardNumber>,
    /// Block writes are among the operations that wait for submission.
    pub has_committed: bool,
    pub deadline_us: Option<u64>,
}

pub struct OwnedShards {
    owned: Vec<Owned>,
    /// By shard number.
    places: Vec<Option<usize>>,
    durability: Durability,
}

impl OwnedShards {
    /// Opens every shard that `owners` gives to `core`.
    pub fn open(
        dir: &DataDir,
        core: usize,
        owners: &[usize],
        durability: Durability,
        now: Now,
        ring: &mut Ring,
    ) -> Result<(OwnedShards, Vec<(ShardNumber, RecoveryReport)>), String> {
        let mut shards = OwnedShards { owned: Vec::new(), places: vec![None; owners.len()], durability };
        let mut reports = Vec::new();
        for (index, _) in owners.iter().enumerate().filter(|(_, owner)| **owner == core) {
            let number = ShardNumber(index as u32);
            let config = ShardConfig {
                home: dir.shard_home(number, DISK_RESERVE_BYTES),
                fingerprint: dir.fingerprint(),
                durability,
                spare_fill: Fill::Zeros,
                block_bytes_target: BLOCK_BYTES_TARGET,
                commit_share_permille: COMMIT_SHARE_PERMILLE,
                keys: KeyBounds::STANDARD,
            };
            let route = Route(index as u8);
            let (host, report) = ShardHost::open(dir.disk(), config, now, random_u64(), route, ring)
                .map_err(|error| format!("shard {index}: {error}"))?;
            shards.places[index] = Some(shards.owned.len());
            shards.owned.push(Owned { number, host, held: VecDeque::new(), is_latch_told: false });
            reports.push((number, report));
        }
        Ok((shards, reports))
    }

    /// See `Shard::append`.
    pub fn append(
        &mut self,
        shard: ShardNumber,
        ticket: u64,
        batch: EventBatch,
    ) -> Result<(), (EventBatch, AppendError)> {
        self.get_mut(shard).host.append(ticket, batch)
    }

    /// One bite of a query. `None`: its answer comes out of a later turn.
    pub fn search(&mut self, shard: ShardNumber, from: SearchFrom, request: ActiveRequest) -> Option<ActiveAnswer> {
        // With `commit`, whatever anybody was told of can be read already.
        let may_run_ahead = self.durability != Durability::Commit;
        let owned = self.get_mut(shard);
        let known = owned.host.shard();
        let sequence = known.appended_sequence();
        if may_run_ahead && is_first(&request) && !known.is_written(sequence) {
            owned.held.push_back(Held { sequence, from, what: HeldWhat::Search(request) });
            return None;
        }
        Some(known.search(&request))
    }

    /// See `Shard::set_limits`.
    pub fn set_limits(&mut self, shard: ShardNumber, tenant: Tenant, limits: Limits) {
        self.get_mut(shard).host.shard_mut().set_limits(tenant, limits);
    }

    /// See `Shard::erase`.
    pub fn erase(&mut self, shard: ShardNumber, tenant: Tenant) {
        self.get_mut(shard).host.shard_mut().erase(tenant);
    }

    /// See `Shard::is_erased`.
    pub fn is_erased(&self, shard: ShardNumber, tenant: Tenant) -> bool {
        self.get(shard).host.shard().is_erased(tenant)
    }

    pub fn stats(&self) -> impl Iterator<Item = (ShardNumber, ShardStats)> {
        self.owned.iter().map(|owned| (owned.number, owned.host.shard().stats()))
    }

    /// What a tenant has stored, as admission counts it at `wall`. `None`: the answer comes out of a later turn, when all that
    /// it counts is written.
    pub fn count_events(
        &mut self,
        shard: ShardNumber,
        from: SearchFrom,
        tenant: Tenant,
        wall: Micros,
    ) -> Option<EventCounts> {
        let spec = QuerySpec { order: Order::Descending, ..QuerySpec::all(tenant, 0) };
        let request = ActiveRequest {
            spec: Arc::new(spec),
            entity: None,
            // Nothing lies before the first position, so that nothing is searched.
            bound: Position(1),
            sealed_to: None,
            resume: None,
            matches_max: 0,
        };
        let owned = self.get_mut(shard);
        let known = owned.host.shard();
        let usage = known.usage(tenant, wall);
        let gone = known.search(&request).oldest_position.0.saturating_sub(1);
        let counts = EventCounts { usage, kept: usage.stored_events.saturating_sub(gone) };
        let sequence = known.appended_sequence();
        if known.is_written(sequence) {
            return Some(counts);
        }
        owned.held.push_back(Held { sequence, from, what: HeldWhat::Counts(counts) });
        None
    }

    pub fn disk_done(&mut self, shard: ShardNumber, done: DiskDone) {
        self.get_mut(shard).host.disk_done(done);
    }

    pub fn turn(&mut self, ring: &mut Ring, now: Now, outcome: &mut ShardsOutcome) {
        outcome.has_committed = false;
        outcome.deadline_us = None;
        for owned in &mut self.owned {
            let blocks = owned.host.shard().stats().blocks_submitted;
            let deadline_us = owned.host.turn(ring, now, &mut outcome.acks);
            outcome.has_committed |= blocks != owned.host.shard().stats().blocks_submitted;
            outcome.deadline_us = [outcome.deadline_us, deadline_us].into_iter().flatten().min();
            let shard = owned.host.shard();
            while let Some(held) = owned.held.pop_front_if(|held| shard.is_written(held.sequence)) {
                match held.what {
                    HeldWhat::Search(request) => outcome.searched.push((held.from, shard.search(&request))),
                    HeldWhat::Counts(counts) => outcome.counted.push((held.from, counts)),
                }
            }
            if shard.read_only().is_some() && !std::mem::replace(&mut owned.is_latch_told, true) {
                outcome.latched.push(owned.number);
            }
        }
    }

    /// Takes no more batches.
    pub fn close(&mut self) {
        for owned in &mut self.owned {
            owned.host.shard_mut().close();
        }
    }

    /// Whether everything is answered and durable, and no slow work is under way.
    pub fn is_settled(&self) -> bool {
        self.owned.iter().all(|owned| owned.host.shard().is_quiet() && owned.host.shard().is_idle())
    }

    fn get(&self, shard: ShardNumber) -> &Owned {
        &self.owned[self.place(shard)]
    }

    fn get_mut(&mut self, shard: ShardNumber) -> &mut Owned {
        let place = self.place(shard);
        &mut self.owned[place]
    }

    fn place(&self, shard: ShardNumber) -> usize {
        self.places[shard.0 as usize].expect("asked of the shard's owner only")
    }
}

/// Whether this is a query's first bite: what later ones have to see was there before it.
fn is_first(request: &ActiveRequest) -> bool {
    let bound = request.spec.after.unwrap_or(match request.spec.order {
        Order::Ascending => Position(0),
        Order::Descending => Position(u64::MAX),
    });
    request.bound == bound && request.sealed_to.is_none() && request.resume.is_none()
}
