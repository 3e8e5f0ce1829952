//! The shards that a core owns.
//!
//! Owns their turns and the searches that have to wait until they can see what was appended before them. Must never:
//! answer a search with less than its asker may know to be stored.

use std::collections::VecDeque;
use std::sync::Arc;

use ringlog_engine::data_dir::DataDir;
use ringlog_engine::event::EventBatch;
use ringlog_engine::host::{Route, ShardHost};
use ringlog_engine::ids::{BlockSequence, Position, ShardNumber, Tenant};
use ringlog_engine::io::clock::random_u64;
use ringlog_engine::io::{DiskDone, Fill, Ring};
use ringlog_engine::limits::{BLOCK_BYTES_TARGET, DISK_RESERVE_BYTES};
use ringlog_engine::query::active::{ActiveAnswer, ActiveRequest};
use ringlog_engine::query::{Order, QuerySpec};
use ringlog_engine::shard::recover::RecoveryReport;
use ringlog_engine::shard::{Ack, AppendError, Durability, Now, ShardConfig};

/// The core's time that commits may take, in thousandths: docs/architecture.md asks for 8 to 10 %.
const COMMIT_SHARE_PERMILLE: u64 = 90;

/// Who asked a search, and under which ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchFrom {
    pub core: usize,
    pub ticket: u64,
}

/// How many events a tenant had, and how many of them are still kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventCounts {
    pub ever: u64,
    pub kept: u64,
}

/// A search that waits until a block is written.
struct Held {
    sequence: BlockSequence,
    from: SearchFrom,
    request: ActiveRequest,
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
            owned.held.push_back(Held { sequence, from, request });
            return None;
        }
        Some(known.search(&request))
    }

    /// What a tenant has in a shard: every event that readers can see is counted.
    pub fn count_events(&mut self, shard: ShardNumber, tenant: Tenant) -> EventCounts {
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
        let answer = self.get_mut(shard).host.shard().search(&request);
        let ever = answer.next_position.0.saturating_sub(1);
        EventCounts { ever, kept: answer.next_position.0.saturating_sub(answer.oldest_position.0).min(ever) }
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
                outcome.searched.push((held.from, shard.search(&held.request)));
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

    fn get_mut(&mut self, shard: ShardNumber) -> &mut Owned {
        let place = self.places[shard.0 as usize].expect("asked of the shard's owner only");
        &mut self.owned[place]
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
