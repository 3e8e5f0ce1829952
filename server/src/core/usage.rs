//! What tenants may store, told to the shards of this core; and what they have stored, told to whoever asks.
//!
//! Owns who waits for a count. Must never: count, which the owner of a tenant's shard does at admission and nobody else,
//! or acknowledge a change before the shards of this core hold batches against it.
//!
//! ```text
//! snapshot, Delta ─► set_limits ─► shard
//! question ─┬─► shard of this core ─── what is counted is written ──► counted ─► answer
//!           └─► CountEvents ─► owner ─── what is counted is written ──► EventsCounted ─► answer
//! ```

use std::sync::Arc;

use ringlog_engine::ids::{ShardNumber, Tenant};

use crate::auth::delta::{Change, Delta, SYSTEM_TENANT};
use crate::core::host::{Context, CoreHost, refuse};
use crate::core::mailbox::Message;
use crate::core::shards::{EventCounts, SearchFrom};
use crate::core::slots::{SlotKey, Slots};
use crate::handle::routes::{Access, not_good};
use crate::handle::usage::{self, About};
use crate::limits::COUNTS_IN_FLIGHT_MAX;
use crate::net::connections::{Asked, Connections, Handled};
use crate::wire::status::Problem;

/// Who waits for a count.
struct Waiter {
    asked: Asked,
    about: About,
}

pub struct Counts {
    waiters: Slots<Waiter>,
}

impl Counts {
    pub fn new() -> Counts {
        Counts { waiters: Slots::new(COUNTS_IN_FLIGHT_MAX) }
    }
}

impl CoreHost {
    /// Sets what tenants may store, in those of their shards that this core owns. Shards do not remember it: it is said after
    /// they are opened and at every change.
    pub(super) fn set_limits(&mut self, delta: &Delta) {
        for change in &delta.changes {
            let Change::Tenant(row) = change else { continue };
            if row.number != SYSTEM_TENANT && self.shard_owners[row.shard.0 as usize] == self.core {
                self.shards.set_limits(row.shard, row.number, row.quotas.limits());
            }
        }
    }

    /// A tenant's own look at what it has used.
    pub(super) fn usage(&mut self, asked: Asked, access: &Access, answer: &mut Vec<u8>) -> Handled {
        let Some(row) = self.credentials.tenant(access.tenant) else { return refuse(&not_good(), &asked, answer) };
        let about = About::Own { tenant_id: Arc::clone(&access.tenant_id), quotas: row.quotas };
        match self.ask_owner_for_counts(asked, about, access.shard, access.tenant) {
            Ok(None) => Handled::Later,
            Ok(Some((about, counts))) => {
                usage::answer(answer, &asked.reply, &about, &counts.usage, counts.kept);
                Handled::Now
            }
            Err(problem) => refuse(&problem, &asked, answer),
        }
    }

    /// Asks the owner of a tenant's shard what the catalog does not know, and answers.
    pub(super) fn count(
        &mut self,
        asked: Asked,
        about: About,
        (shard, tenant): (ShardNumber, Tenant),
        connections: &mut Connections<Context>,
    ) {
        match self.ask_owner_for_counts(asked, about, shard, tenant) {
            Ok(None) => {}
            Ok(Some((about, counts))) => answer(&asked, &about, &counts, connections),
            Err(problem) => connections.answer(&asked, |out, reply| problem.respond(out, reply)),
        }
    }

    /// `Some`: the owner is this core, and the answer is there already. `None`: it comes by `counted`.
    fn ask_owner_for_counts(
        &mut self,
        asked: Asked,
        about: About,
        shard: ShardNumber,
        tenant: Tenant,
    ) -> Result<Option<(About, EventCounts)>, Problem> {
        let Ok(key) = self.counts.waiters.insert(Waiter { asked, about }) else {
            return Err(Problem::overloaded("too many ask what is stored"));
        };
        let ticket = key.to_ticket();
        let owner = self.shard_owners[shard.0 as usize];
        if owner == self.core {
            let from = SearchFrom { core: self.core, ticket };
            let counts = self.shards.count_events(shard, from, tenant, self.now.wall);
            let waiter = counts.and_then(|_| self.counts.waiters.take(key));
            return Ok(waiter.zip(counts).map(|(waiter, counts)| (waiter.about, counts)));
        }
        let question = Message::CountEvents { from: self.core, ticket, shard, tenant };
        match self.peers.ask(owner, question) {
            Ok(()) => Ok(None),
            Err(_) => {
                self.counts.waiters.take(key);
                Err(Problem::overloaded("the tenant's core has too much to do"))
            }
        }
    }

    /// A shard of this core has counted: here, or for the core that asked.
    pub(super) fn count_ended(
        &mut self,
        from: SearchFrom,
        counts: EventCounts,
        connections: &mut Connections<Context>,
    ) {
        if from.core == self.core {
            self.counted(from.ticket, counts, connections);
        } else {
            self.peers.answer(from.core, Message::EventsCounted { ticket: from.ticket, counts });
        }
    }

    pub(super) fn counted(&mut self, ticket: u64, counts: EventCounts, connections: &mut Connections<Context>) {
        if let Some(Waiter { asked, about }) = self.counts.waiters.take(SlotKey::of_ticket(ticket)) {
            answer(&asked, &about, &counts, connections);
        }
    }
}

fn answer(asked: &Asked, about: &About, counts: &EventCounts, connections: &mut Connections<Context>) {
    connections.answer(asked, |out, reply| usage::answer(out, reply, about, &counts.usage, counts.kept));
}
