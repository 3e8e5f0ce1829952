//! A core of the server: its shards, its table of credentials, and everything that is under way.
//!
//! Owns the life of a core from its first request to its last answer. The two large kinds of work have a file each:
//! `appends` and `queries`.
//!
//! ```text
//! Serving ─Stop─► Draining ─every core has drained, or time is up─► Closing ─shards are settled─► Over
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use ringlog_engine::host::Route;
use ringlog_engine::ids::{Micros, ShardNumber};
use ringlog_engine::io::clock::monotonic_us;
use ringlog_engine::io::{DiskDone, Ring};
use ringlog_engine::shard::Durability;

use crate::auth::credentials::Credentials;
use crate::auth::secret::random;
use crate::catalog::notes::{Note, NoteKind};
use crate::catalog::thread::{Acks, ControlHandle};
use crate::core::appends::Appends;
use crate::core::controls::{Controls, Reached};
use crate::core::erasures::Erasures;
use crate::core::mailbox::{Mailbox, Message};
use crate::core::metrics::Metrics;
use crate::core::notes::Notes;
use crate::core::paid_routes::PaidRoutes;
use crate::core::peers::Peers;
use crate::core::queries::{QUERY_ROUTE, Queries};
use crate::core::rates::Rates;
use crate::core::rejects::Rejects;
use crate::core::setup::CoreSetup;
use crate::core::shards::{OwnedShards, SearchFrom, ShardsOutcome};
use crate::core::sources::{SYSLOG_DATAGRAMS, Sources};
use crate::core::turns::{Host, Moment, Next, Pace};
use crate::core::usage::Counts;
use crate::handle::health::{self, Health};
use crate::handle::query::{Listing, QueryKeys};
use crate::handle::routes::{self, Access, Admitted, Decided, Endpoint, Noticed, Who};
use crate::handle::sources::{self, shadow_of};
use crate::limits::{CLOSE_WITHIN_US, DRAIN_WITHIN_US, MESSAGES_PER_TURN, SECOND_US, STREAM_DRAIN_WITHIN_US};
use crate::net::connections::{Asked, Handled, Service};
use crate::net::http1::{Decision, Request};
use crate::net::sockets::{HTTP_LISTENER, Sockets};
use crate::wire::cors::{self, Cors};
use crate::wire::forwarded::TrustedProxies;
use crate::wire::http::Head;
use crate::wire::params::CursorKey;
use crate::wire::response::ReplyTo;
use crate::wire::status::{ErrorCode, Problem};

/// What a connection keeps of a head while the body arrives.
pub type Context = Admitted;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Serving,
    Draining { cut_at_us: u64, until_us: u64, is_drained: bool },
    Closing { until_us: u64 },
}

pub struct CoreHost {
    pub(super) core: usize,
    pub(super) shards: OwnedShards,
    pub(super) shard_owners: Arc<[usize]>,
    pub(super) credentials: Credentials,
    pub(super) peers: Peers,
    pub(super) appends: Appends,
    pub(super) queries: Queries,
    pub(super) keys: QueryKeys,
    pub(super) durability: Durability,
    /// Something has come up since the last work that the next one must do.
    pub(super) has_news: bool,
    pub(super) controls: Controls,
    pub(super) counts: Counts,
    pub(super) erasures: Erasures,
    pub(super) rates: Arc<Rates>,
    pub(super) paid_routes: PaidRoutes,
    pub(super) rejects: Rejects,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sources: Sources,
    trusted_proxies: TrustedProxies,
    cors: Cors,
    notes: Notes,
    mailbox: Mailbox,
    acks: Arc<Acks>,
    pub(super) control: ControlHandle,
    outcome: ShardsOutcome,
    read_only_shards: Vec<ShardNumber>,
    listeners: Vec<u32>,
    /// Of the end: turns until nobody is let in any more, and one in which those come up whom the ring had let in.
    listening_turns: u8,
    life: Life,
    /// Cores that have drained, this one among them.
    drained_count: usize,
    version: &'static str,
    io_notice: String,
    pub(super) started_us: u64,
    pub(super) now: Moment,
    pace: Pace,
}

impl CoreHost {
    pub fn new(setup: CoreSetup, shards: OwnedShards, listeners: Vec<u32>, io_notice: String, now: Moment) -> CoreHost {
        let fingerprint = setup.dir.fingerprint();
        let event_id = setup.dir.event_id_key();
        let shard_count = setup.shard_owners.len();
        let mut host = CoreHost {
            core: setup.core,
            shards,
            shard_owners: setup.shard_owners,
            credentials: Credentials::new(u128::from_le_bytes(random()), &setup.catalog),
            peers: Peers::new(setup.addresses),
            appends: Appends::new(fingerprint),
            queries: Queries::new(),
            keys: QueryKeys { cursor: CursorKey::new(&setup.cursor_secret), event_id, fingerprint },
            durability: setup.durability,
            has_news: false,
            controls: Controls::default(),
            counts: Counts::new(),
            erasures: Erasures::default(),
            rates: setup.rates,
            paid_routes: PaidRoutes::new(setup.pricing, setup.facilitator),
            rejects: Rejects::default(),
            sources: Sources::new(shard_count, setup.syslog_workspace, setup.metrics.of_core(setup.core)),
            metrics: setup.metrics,
            trusted_proxies: setup.trusted_proxies,
            cors: setup.cors,
            notes: Notes::default(),
            mailbox: setup.mailbox,
            acks: setup.acks,
            control: setup.control,
            outcome: ShardsOutcome::default(),
            read_only_shards: Vec::new(),
            listeners,
            listening_turns: 3,
            life: Life::Serving,
            drained_count: 0,
            version: setup.version,
            io_notice,
            started_us: now.monotonic_us,
            now,
            pace: Pace::default(),
        };
        // Before the first request: an open shard limits nobody.
        host.set_limits(&setup.catalog);
        host.set_erasures(&setup.catalog);
        host
    }

    /// Takes one message. Nothing else happens in between.
    fn take(&mut self, message: Message, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) {
        match message {
            Message::Append { from, ticket, shard, slot, generation, batch } => {
                self.append_for_peer(from, ticket, shard, (slot, generation), batch);
            }
            Message::Rejected { shard, batch } => self.append_rejects(shard, batch),
            Message::AppendHeld { from, ticket, shard, credential, batch } => {
                self.hold_for_peer(from, ticket, shard, credential, batch);
            }
            Message::Appended { ack } => self.appended(ack, &mut sockets.http),
            Message::AppendRevoked { ticket, batch } => self.append_revoked(ticket, batch, &mut sockets.http),
            Message::Search { from, ticket, shard, request } => {
                let from = SearchFrom { core: from, ticket };
                if let Some(answer) = self.shards.search(shard, from, request) {
                    self.peers.answer(from.core, Message::Searched { ticket, answer });
                }
            }
            Message::Searched { ticket, answer } => self.queries.owner_answered(ticket, answer),
            Message::Delta(delta) => {
                self.credentials.apply(&delta);
                self.set_limits(&delta);
                self.set_erasures(&delta);
                self.acks.acknowledge(self.core, self.credentials.epoch());
            }
            Message::Controlled { ticket, answer } => self.controlled(ticket, *answer, &mut sockets.http),
            Message::Paid { ticket, outcome } => self.paid(ticket, *outcome, &mut sockets.http),
            Message::CountEvents { from, ticket, shard, tenant } => {
                let from = SearchFrom { core: from, ticket };
                if let Some(counts) = self.shards.count_events(shard, from, tenant, self.now.wall) {
                    self.peers.answer(from.core, Message::EventsCounted { ticket, counts });
                }
            }
            Message::EventsCounted { ticket, counts } => self.counted(ticket, counts, &mut sockets.http),
            Message::ShardReadOnly { shard } => self.read_only_shards.push(shard),
            Message::Drained => self.drained_count += 1,
            Message::Stop => self.stop(sockets, ring),
        }
    }

    // ----- control -----

    /// Tells the audit log of something, at the rate that it takes.
    pub(super) fn notice(&mut self, noticed: &Noticed, peer: IpAddr, request_id: &str) {
        let now = (self.now.wall, self.now.monotonic_us);
        if let Some(note) = self.notes.notice(noticed, peer, request_id, now) {
            self.tell(note);
        }
    }

    fn tell(&mut self, note: Note) {
        if self.control.note(note.clone()).is_err() {
            self.notes.lost(&note);
        }
    }

    fn tell_what_is_due(&mut self) {
        while let Some(note) = self.notes.due(self.now.monotonic_us) {
            if let Some(note) = note {
                self.tell(note);
            }
        }
    }

    /// Best effort: what the control plane has no room for is not told.
    fn tell_what_was_used(&mut self, now: Moment) {
        if let Some(used) = self.credentials.take_used(Micros(now.monotonic_us as i64)) {
            let _ = self.control.used(used);
        }
    }

    /// Holds what was decided against rates, and tells of what is worth it.
    fn let_in(
        &mut self,
        decided: Decided,
        head: &Head<'_>,
        peer: IpAddr,
        reply: &ReplyTo,
    ) -> Result<(usize, Admitted), Problem> {
        if let Some(tenant) = decided.tenant {
            self.check_rate(tenant, head)?;
        }
        if let Some(noticed) = decided.noticed {
            let client = self.trusted_proxies.client_of(peer, head);
            self.notice(&noticed, client, reply.request_id.as_str());
            if noticed.kind == NoteKind::AuthenticationFailed {
                self.check_guesses(client)?;
            }
        }
        decided.outcome
    }

    /// Answers what was refused at once. Who named another's tenant is told of.
    fn settle(
        &mut self,
        outcome: Result<Handled, Box<Problem>>,
        asked: &Asked,
        access: &Access,
        peer: IpAddr,
        request: &Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Handled {
        let problem = match outcome {
            Ok(handled) => return handled,
            Err(problem) => problem,
        };
        if problem.code() == ErrorCode::TenantForbidden {
            let reached = Reached {
                client: self.trusted_proxies.client_of(peer, &request.head),
                route: request.context.route,
                credential: (access.slot, access.generation),
                tenant: Some(access.tenant),
            };
            self.note_denial(reached, asked);
        }
        refuse(&sources::worded(*problem, &request.head), asked, answer)
    }

    pub(super) fn health(&self) -> Health<'_> {
        Health {
            version: self.version,
            uptime_secs: (self.now.monotonic_us - self.started_us) / SECOND_US,
            durability: self.durability,
            io: &self.io_notice,
            read_only_shards: &self.read_only_shards,
        }
    }

    // ----- the end -----

    fn stop(&mut self, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) {
        if self.life != Life::Serving {
            return;
        }
        let now_us = self.now.monotonic_us;
        self.life = Life::Draining {
            cut_at_us: now_us + STREAM_DRAIN_WITHIN_US,
            until_us: now_us + DRAIN_WITHIN_US,
            is_drained: false,
        };
        if let Some(http) = self.listeners.iter().position(|token| *token == HTTP_LISTENER) {
            ring.stop_listening(self.listeners.swap_remove(http));
        }
        sockets.http.drain();
        sockets.streams.drain(self.now.unix_us);
        self.stop_sources();
    }

    /// Lets in the streams that have connected before the stop, then nobody. `true`: that is done.
    fn stop_listening(&mut self, ring: &mut Ring) -> bool {
        if self.listening_turns == 0 {
            return true;
        }
        self.listening_turns -= 1;
        self.has_news = true;
        if self.listening_turns == 1 {
            for token in self.listeners.drain(..) {
                ring.stop_listening(token);
            }
        }
        false
    }

    /// Goes on towards the end as far as it can. `true`: it is reached.
    fn live_on(&mut self, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) -> bool {
        let now_us = self.now.monotonic_us;
        match self.life {
            Life::Serving => false,
            Life::Draining { cut_at_us, until_us, is_drained } if cut_at_us <= now_us => {
                self.life = Life::Draining { cut_at_us: u64::MAX, until_us, is_drained };
                sockets.streams.cut(ring, self, self.now.unix_us);
                self.has_news = true;
                false
            }
            Life::Draining { cut_at_us, until_us, mut is_drained } => {
                let has_stopped = self.stop_listening(ring);
                let is_late = until_us <= now_us;
                if is_late {
                    sockets.http.close_all(ring);
                    let cut_streams = sockets.streams.close_all(ring);
                    self.tell_what_is_lost(cut_streams);
                }
                // Others may still ask for what this core's shards hold: they close when nobody is left to ask.
                let is_done = has_stopped && sockets.is_empty() && self.sources.is_inlet_done();
                if !is_drained && (is_late || is_done) {
                    is_drained = true;
                    self.tell_all_rejects();
                    self.life = Life::Draining { cut_at_us, until_us, is_drained };
                    self.drained_count += 1;
                    for core in (0..self.peers.count()).filter(|core| *core != self.core) {
                        self.peers.answer(core, Message::Drained);
                    }
                }
                if is_late || (is_drained && self.drained_count == self.peers.count()) {
                    self.life = Life::Closing { until_us: now_us + CLOSE_WITHIN_US };
                    self.shards.close();
                    self.has_news = true;
                }
                false
            }
            Life::Closing { until_us } => until_us <= now_us || (self.shards.is_settled() && !self.has_news),
        }
    }

    fn end_at_us(&self) -> Option<u64> {
        match self.life {
            Life::Serving => None,
            Life::Draining { cut_at_us, until_us, .. } => Some(cut_at_us.min(until_us)),
            Life::Closing { until_us } => Some(until_us),
        }
    }
}

/// Answers with a refusal at once.
pub(super) fn refuse(problem: &Problem, asked: &Asked, answer: &mut Vec<u8>) -> Handled {
    problem.respond(answer, &asked.reply);
    Handled::Now
}

impl Service for CoreHost {
    type Context = Context;

    fn decide(&mut self, head: &Head<'_>, peer: IpAddr, reply: &mut ReplyTo) -> Decision<Admitted> {
        reply.cors = self.cors.headers(head);
        let decided = routes::admit(head, peer, &mut self.credentials, self.now.wall);
        match self.let_in(decided, head, peer, reply) {
            Ok((body_bytes_max, mut context)) => match self.paid_routes.charge(head, &mut context) {
                Ok(()) => Decision::Accept { body_bytes_max, context },
                // In x402's words, whatever the path.
                Err(problem) => Decision::Reject(problem),
            },
            Err(problem) => Decision::Reject(Box::new(sources::worded(problem, head))),
        }
    }

    fn handle(
        &mut self,
        asked: Asked,
        peer: IpAddr,
        mut request: Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Handled {
        if let Some(due) = request.context.due.take() {
            return self.hold_for_payment(asked, peer, request, *due, answer);
        }
        let who = std::mem::replace(&mut request.context.who, Who::Anyone);
        match (request.context.endpoint, who) {
            (Endpoint::Source(endpoint), Who::Tenant(access)) => {
                let client = self.trusted_proxies.client_of(peer, &request.head);
                let outcome = self.append(asked, endpoint, &access, client, &request, answer);
                self.settle(outcome, &asked, &access, peer, &request, answer)
            }
            (Endpoint::Query, Who::Tenant(access)) => {
                let outcome = self.query(asked, access.clone(), &request.head, Listing::Events);
                self.settle(outcome, &asked, &access, peer, &request, answer)
            }
            (Endpoint::Rejects, Who::Tenant(access)) => {
                let shadow = Access { tenant: shadow_of(access.tenant), ..access.clone() };
                let outcome = self.query(asked, shadow, &request.head, Listing::Rejects);
                self.settle(outcome, &asked, &access, peer, &request, answer)
            }
            (Endpoint::Usage, Who::Tenant(access)) => self.usage(asked, &access, answer),
            (Endpoint::Control(endpoint), Who::Caller(caller)) => {
                let client = self.trusted_proxies.client_of(peer, &request.head);
                self.control(asked, client, (endpoint, caller), &request, answer)
            }
            (Endpoint::Account(endpoint), who) => {
                let client = self.trusted_proxies.client_of(peer, &request.head);
                self.account(asked, client, (endpoint, &who), &request, answer)
            }
            (Endpoint::Source(_) | Endpoint::Query | Endpoint::Rejects | Endpoint::Usage | Endpoint::Control(_), _) => {
                unreachable!("the table of routes says what each of them needs")
            }
            (Endpoint::Onboard, _) => {
                let client = self.trusted_proxies.client_of(peer, &request.head);
                self.onboard(asked, client, &request, answer)
            }
            (Endpoint::Health, _) => {
                health::answer(answer, &asked.reply, &self.health());
                Handled::Now
            }
            (Endpoint::Metrics, _) => self.answer_metrics(&asked, answer),
            (Endpoint::Ready, _) => {
                health::answer_ready(answer, &asked.reply);
                Handled::Now
            }
            (Endpoint::PricedRoutes, _) => {
                self.paid_routes.list(answer, &asked.reply);
                Handled::Now
            }
            (Endpoint::Methods(allow), _) => {
                cors::respond_to_options(answer, &asked.reply, &request.head, allow);
                Handled::Now
            }
        }
    }
}

impl Host for CoreHost {
    fn begin(&mut self, now: Moment, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) {
        // A clock that was set back must not bring expired credentials back.
        let wall = Micros(now.wall.0.max(self.now.wall.0));
        self.now = Moment { wall, ..now };
        for _ in 0..MESSAGES_PER_TURN {
            let Some(message) = self.mailbox.next() else { break };
            self.take(message, sockets, ring);
        }
    }

    fn disk_done(&mut self, done: DiskDone) {
        let (route, done) = Route::untag(done);
        if route == QUERY_ROUTE {
            self.queries.disk_done(done);
        } else {
            self.shards.disk_done(ShardNumber(u32::from(route.0)), done);
        }
    }

    fn datagrams_ready(&mut self, token: u32) {
        assert!(token == SYSLOG_DATAGRAMS);
        self.sources.datagrams_ready();
    }

    fn work(&mut self, now: Moment, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) -> Option<u64> {
        self.has_news = false;
        self.pass_gates();
        let mut outcome = std::mem::take(&mut self.outcome);
        self.shards.turn(ring, self.pace.now(now), &mut outcome);
        if outcome.has_committed {
            // At once, and alone: the disk starts sooner, and what it costs can be told from what answers cost.
            let from_us = monotonic_us();
            ring.submit().expect("the ring takes what the shards' windows bound");
            self.pace.committed(monotonic_us() - from_us);
        }
        for ack in outcome.acks.drain(..) {
            self.append_ended(ack, &mut sockets.http);
        }
        for (from, answer) in outcome.searched.drain(..) {
            if from.core == self.core {
                self.queries.owner_answered(from.ticket, answer);
            } else {
                self.peers.answer(from.core, Message::Searched { ticket: from.ticket, answer });
            }
        }
        for (from, counts) in outcome.counted.drain(..) {
            self.count_ended(from, counts, &mut sockets.http);
        }
        for shard in outcome.latched.drain(..) {
            self.read_only_shards.push(shard);
            for core in (0..self.peers.count()).filter(|core| *core != self.core) {
                self.peers.answer(core, Message::ShardReadOnly { shard });
            }
        }
        let deadline_us = outcome.deadline_us;
        self.outcome = outcome;
        self.work_on_queries(&mut sockets.http, ring);
        self.work_on_sources(sockets, ring);
        self.tell_due_rejects();
        self.tell_what_is_due();
        self.tell_what_was_used(now);
        self.look_at_erasures();
        let used_at_us = self.credentials.used_due_at().map(|at| at.0.unsigned_abs());
        let own = [self.end_at_us(), self.notes.due_at_us(), self.sources.deadline(), self.rejects.due_at_us()];
        let more = [deadline_us, used_at_us, self.erasures.due_at_us()];
        more.into_iter().chain(own).flatten().min()
    }

    fn end(&mut self, sockets: &mut Sockets<CoreHost>, ring: &mut Ring) -> Next {
        let is_over = self.live_on(sockets, ring);
        let has_unsent = self.peers.wake(ring);
        if is_over {
            let used = self.credentials.take_all_used();
            if !used.is_empty() {
                let _ = self.control.used(used);
            }
            // The last wake-ups leave with it.
            let _ = ring.submit();
            Next::Over
        } else if self.has_news || has_unsent || self.queries.has_work() {
            Next::Turn
        } else {
            Next::Wait
        }
    }

    fn prepare_wait(&mut self) -> bool {
        self.mailbox.prepare_wait()
    }

    fn awake(&mut self) {
        self.mailbox.awake();
    }

    fn pace(&mut self) -> &mut Pace {
        &mut self.pace
    }
}
