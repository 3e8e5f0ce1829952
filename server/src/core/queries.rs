//! Queries on their way, in bites: none keeps the core from its next turn, and none makes more than its client takes.
//!
//! Owns which queries run and which wait. Must never: leave a client with a part of an answer that looks whole.
//!
//! ```text
//! waiting ─► ready ─┬─► the owner, the disk ──► ready
//!                   ├─► parked (the client takes nothing, or changes before it are under way) ──► ready
//!                   └─► answered
//! ```

use std::collections::VecDeque;

use ringlog_engine::host::Route;
use ringlog_engine::ids::Tenant;
use ringlog_engine::io::{DiskDone, DiskOp, Ring};
use ringlog_engine::query::active::{ActiveAnswer, ActiveRequest};

use crate::core::host::{Context, CoreHost};
use crate::core::mailbox::Message;
use crate::core::shards::SearchFrom;
use crate::core::slots::{SlotKey, Slots};
use crate::handle::query::{Listing, QueryRun, QueryStep};
use crate::handle::routes::{Access, not_good};
use crate::handle::sources::owner_of;
use crate::limits::{
    BUFFER_KEPT_BYTES_MAX, QUERIES_PER_TENANT_MAX, QUERIES_RUNNING_MAX, QUERIES_WAITING_MAX, QUERY_STEPS_PER_TURN,
    STREAM_BYTES_MIN,
};
use crate::net::connections::{Asked, Connections, Handled};
use crate::wire::http::Head;
use crate::wire::status::Problem;

/// The route of queries' disk operations; shards have the routes below it.
pub const QUERY_ROUTE: Route = Route(u8::MAX);

/// Bits of a search's own ticket: a place among the parts of one fetch.
const OPERATION_BITS: u32 = 16;

struct Query {
    asked: Asked,
    run: QueryRun,
    is_ready: bool,
}

impl Query {
    /// Whether what it must see is there, and its client takes what it makes. One whose client has gone goes to its end.
    fn may_go_on(&self, connections: &Connections<Context>) -> bool {
        let has_room = self.run.output_bytes() < STREAM_BYTES_MIN || connections.can_stream(&self.asked);
        !connections.is_open(self.asked.connection) || (has_room && connections.is_due(&self.asked))
    }
}

pub struct Queries {
    running: Slots<Query>,
    /// How many of the running ones are whose.
    running_by_tenant: Vec<(Tenant, usize)>,
    ready: VecDeque<SlotKey>,
    parked: Vec<SlotKey>,
    waiting: VecDeque<(Asked, QueryRun)>,
    ops: Vec<DiskOp>,
    piece: Vec<u8>,
}

impl Queries {
    pub fn new() -> Queries {
        Queries {
            running: Slots::new(QUERIES_RUNNING_MAX),
            running_by_tenant: Vec::new(),
            ready: VecDeque::new(),
            parked: Vec::new(),
            waiting: VecDeque::new(),
            ops: Vec::new(),
            piece: Vec::new(),
        }
    }

    /// Whether the next turn has something to do for a query, whatever comes.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.next_waiting().is_some()
    }

    pub fn owner_answered(&mut self, ticket: u64, answer: ActiveAnswer) {
        let key = SlotKey::of_ticket(ticket);
        if let Some(query) = self.running.get_mut(key) {
            query.run.owner_answered(answer);
            self.make_ready(key);
        }
    }

    pub fn disk_done(&mut self, mut done: DiskDone) {
        let key = SlotKey::of_ticket(done.ticket >> OPERATION_BITS);
        done.ticket &= (1 << OPERATION_BITS) - 1;
        if let Some(query) = self.running.get_mut(key) {
            query.run.disk_done(done);
            self.make_ready(key);
        }
    }

    fn start(&mut self, asked: Asked, run: QueryRun) -> Result<(), Problem> {
        // Never past one that waits: on one connection the later may depend on the earlier, and would keep its place.
        if self.waiting.is_empty() && self.has_place_for(run.access.tenant) {
            self.run(asked, run);
        } else if self.waiting.len() < QUERIES_WAITING_MAX {
            self.waiting.push_back((asked, run));
        } else {
            return Err(Problem::overloaded("too many queries wait for their turn"));
        }
        Ok(())
    }

    fn start_waiting(&mut self) {
        while let Some((asked, run)) = self.next_waiting().and_then(|place| self.waiting.remove(place)) {
            self.run(asked, run);
        }
    }

    /// The first one that may run.
    fn next_waiting(&self) -> Option<usize> {
        self.waiting.iter().position(|(_, run)| self.has_place_for(run.access.tenant))
    }

    fn has_place_for(&self, tenant: Tenant) -> bool {
        let is_below = |(of, count): &(Tenant, usize)| *of != tenant || *count < QUERIES_PER_TENANT_MAX;
        !self.running.is_full() && self.running_by_tenant.iter().all(is_below)
    }

    fn run(&mut self, asked: Asked, run: QueryRun) {
        let tenant = run.access.tenant;
        let Ok(key) = self.running.insert(Query { asked, run, is_ready: false }) else { panic!("there was a place") };
        match self.running_by_tenant.iter_mut().find(|(of, _)| *of == tenant) {
            Some((_, count)) => *count += 1,
            None => self.running_by_tenant.push((tenant, 1)),
        }
        self.make_ready(key);
    }

    fn end(&mut self, key: SlotKey) -> Option<Query> {
        let query = self.running.take(key)?;
        let tenant = query.run.access.tenant;
        let place = self.running_by_tenant.iter().position(|(of, _)| *of == tenant).expect("what runs is counted");
        self.running_by_tenant[place].1 -= 1;
        if self.running_by_tenant[place].1 == 0 {
            self.running_by_tenant.swap_remove(place);
        }
        Some(query)
    }

    fn make_ready(&mut self, key: SlotKey) {
        if let Some(query) = self.running.get_mut(key)
            && !std::mem::replace(&mut query.is_ready, true)
        {
            self.ready.push_back(key);
        }
    }

    /// Hands a query's reads to the ring.
    fn submit(&mut self, key: SlotKey, ring: &mut Ring) {
        for mut op in self.ops.drain(..) {
            let (DiskOp::Read { ticket, .. } | DiskOp::Write { ticket, .. } | DiskOp::Sync { ticket, .. }) = &mut op;
            assert!(*ticket < 1 << OPERATION_BITS);
            *ticket |= key.to_ticket() << OPERATION_BITS;
            ring.disk(QUERY_ROUTE.tag(op));
        }
    }
}

impl CoreHost {
    pub(super) fn query(
        &mut self,
        asked: Asked,
        access: Access,
        head: &Head<'_>,
        listing: Listing,
    ) -> Result<Handled, Box<Problem>> {
        let run = QueryRun::begin(head, access, &self.credentials, &self.keys, listing)?;
        self.queries.start(asked, run)?;
        Ok(Handled::Later)
    }

    /// Works on each query that can go on, for one bite.
    pub(super) fn work_on_queries(&mut self, connections: &mut Connections<Context>, ring: &mut Ring) {
        for key in std::mem::take(&mut self.queries.parked) {
            let Some(query) = self.queries.running.get_mut(key) else { continue };
            if query.may_go_on(connections) {
                self.queries.make_ready(key);
            } else {
                self.queries.parked.push(key);
            }
        }
        self.queries.start_waiting();
        for _ in 0..self.queries.ready.len() {
            let Some(key) = self.queries.ready.pop_front() else { break };
            self.work_on_query(key, connections, ring);
        }
    }

    fn work_on_query(&mut self, key: SlotKey, connections: &mut Connections<Context>, ring: &mut Ring) {
        for _ in 0..QUERY_STEPS_PER_TURN {
            let Some(query) = self.queries.running.get_mut(key) else { return };
            query.is_ready = false;
            if !query.may_go_on(connections) {
                self.queries.parked.push(key);
                return;
            }
            if !connections.is_open(query.asked.connection) {
                self.queries.end(key);
                return;
            }
            let Access { tenant, slot, generation, .. } = query.run.access;
            if !self.credentials.still_valid(slot, generation) || !self.credentials.is_active(owner_of(tenant)) {
                self.end_in_failure(key, &not_good(), connections);
                return;
            }
            if query.run.output_bytes() >= STREAM_BYTES_MIN {
                let asked = query.asked;
                query.run.put_piece(&mut self.queries.piece, &asked.reply, false);
                self.stream_piece(&asked, false, connections);
                continue;
            }
            let step = query.run.step(&self.keys, &mut self.queries.ops);
            self.queries.submit(key, ring);
            match step {
                Ok(QueryStep::Ask(request)) => match self.ask_owner(key, request) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(problem) => return self.end_in_failure(key, &problem, connections),
                },
                Ok(QueryStep::Wait) => return,
                Ok(QueryStep::Grown) => {}
                Ok(QueryStep::Done) => return self.end_in_answer(key, connections),
                Err(problem) => return self.end_in_failure(key, &problem, connections),
            }
        }
        self.queries.make_ready(key);
    }

    /// `true`: the owner is this core, and the answer is there already.
    fn ask_owner(&mut self, key: SlotKey, request: ActiveRequest) -> Result<bool, Problem> {
        let Some(query) = self.queries.running.get_mut(key) else { return Ok(false) };
        let shard = query.run.access.shard;
        let owner = self.shard_owners[shard.0 as usize];
        let ticket = key.to_ticket();
        if owner == self.core {
            let answer = self.shards.search(shard, SearchFrom { core: self.core, ticket }, request);
            let is_there = answer.is_some();
            if let Some(answer) = answer {
                query.run.owner_answered(answer);
            }
            return Ok(is_there);
        }
        match self.peers.ask(owner, Message::Search { from: self.core, ticket, shard, request }) {
            Ok(()) => Ok(false),
            Err(_) => Err(Problem::overloaded("the tenant's core has too much to do")),
        }
    }

    fn end_in_answer(&mut self, key: SlotKey, connections: &mut Connections<Context>) {
        let Some(Query { asked, mut run, .. }) = self.queries.end(key) else { return };
        if run.has_begun_to_leave() {
            run.put_piece(&mut self.queries.piece, &asked.reply, true);
            self.stream_piece(&asked, true, connections);
        } else {
            connections.answer(&asked, |out, reply| run.put_whole(out, reply));
        }
    }

    /// Says what went wrong if nothing has been said yet; otherwise only the connection's end can say it.
    fn end_in_failure(&mut self, key: SlotKey, problem: &Problem, connections: &mut Connections<Context>) {
        let Some(Query { asked, run, .. }) = self.queries.end(key) else { return };
        if run.has_begun_to_leave() {
            connections.abort(asked.connection);
        } else {
            connections.answer(&asked, |out, reply| problem.respond(out, reply));
        }
    }

    fn stream_piece(&mut self, asked: &Asked, is_last: bool, connections: &mut Connections<Context>) {
        connections.stream(asked, &self.queries.piece, is_last);
        self.queries.piece.clear();
        self.queries.piece.shrink_to(BUFFER_KEPT_BYTES_MAX);
    }
}
