//! Appends on their way: from a body to the owner of the tenant's shard, and back to whoever asked.
//!
//! Owns who waits for which batch, and the batches' memory. Must never: admit for a credential that is no longer good,
//! or answer a request twice. Batches of sources, which nobody is answered for, pass through `sources`.
//!
//! ```text
//! request ─► batch ─┬─► shard of this core ────────────────────► append_ended ─► appended ─► answer
//!                   └─► Append ─► owner ─► append_ended ─► Appended ─► appended ─► answer
//! ```

use std::net::IpAddr;

use ringlog_engine::event::{EventBatch, FingerprintKey, Source};
use ringlog_engine::ids::{Micros, Position, ShardNumber, Tenant};
use ringlog_engine::shard::{Ack, AppendError, Appended, Durability};

use crate::auth::delta::CredentialKind;
use crate::core::host::{Context, CoreHost};
use crate::core::kept::Kept;
use crate::core::mailbox::Message;
use crate::core::slots::{SlotKey, Slots};
use crate::core::sources::counters::{Failed, Refusal, SourceKind, failed, refused_for_good};
use crate::core::sources::{OnItsWay, Passed, Writer};
use crate::handle::events::{self, Ids};
use crate::handle::routes::{Access, Admitted, not_good};
use crate::handle::sources::{self, Body, Scratch, SourceEndpoint, Stored, Taken};
use crate::limits::{APPENDING_BYTES_MAX, APPENDS_IN_FLIGHT_MAX};
use crate::net::connections::{Asked, Connections, Handled};
use crate::net::http1::Request;
use crate::wire::response;
use crate::wire::status::Problem;

/// What an answer is made with that no batch is behind.
const NOTHING_APPENDED: Appended = Appended { first_position: Position(0), received_at: Micros(0), is_replay: false };

/// Who waits for a batch.
#[derive(Debug)]
pub(super) enum Waiter {
    Request {
        asked: Asked,
        taken: Taken,
        writer: Writer,
        bytes: usize,
    },
    Peer {
        core: usize,
        ticket: u64,
    },
    /// What becomes of it is nobody's business.
    Nobody,
    /// A source's, sent to another core.
    Sent(OnItsWay),
    /// A source's, in a shard of this core.
    Passed(Passed),
}

/// Who on this core asked for an append.
enum Asking {
    Request { asked: Asked, taken: Taken, writer: Writer },
    Source(OnItsWay),
}

pub struct Appends {
    pub(super) waiters: Slots<Waiter>,
    /// Of this core's own requests.
    bytes_in_flight: usize,
    kept: Kept,
    fingerprint: FingerprintKey,
    scratch: Scratch,
    ids: Ids,
}

impl Appends {
    pub fn new(fingerprint: FingerprintKey) -> Appends {
        Appends {
            waiters: Slots::new(APPENDS_IN_FLIGHT_MAX),
            bytes_in_flight: 0,
            kept: Kept::default(),
            fingerprint,
            scratch: Scratch::default(),
            ids: Ids::new(),
        }
    }

    pub(super) fn fingerprint(&self) -> FingerprintKey {
        self.fingerprint
    }

    pub(super) fn take_batch(&mut self, tenant: Tenant, source: Source) -> EventBatch {
        match self.kept.take() {
            Some(mut batch) => {
                batch.reset(tenant, source);
                batch
            }
            None => EventBatch::new(tenant, source, self.fingerprint),
        }
    }

    pub(super) fn keep(&mut self, batch: EventBatch) {
        self.kept.keep(batch);
    }
}

impl CoreHost {
    /// Reads a body and sends its events on their way.
    pub(super) fn append(
        &mut self,
        asked: Asked,
        endpoint: SourceEndpoint,
        access: &Access,
        client: IpAddr,
        request: &Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Result<Handled, Box<Problem>> {
        let mut batch = self.appends.take_batch(access.tenant, Source::Http);
        let body = Body {
            endpoint,
            head: &request.head,
            bytes: request.body,
            tenant_id: &access.tenant_id,
            client,
            seed: self.appends.fingerprint.0,
        };
        let (credentials, wall) = (&mut self.credentials, self.now.wall);
        let mut rejected = Vec::new();
        let taken = sources::read(
            &body,
            &mut self.appends.scratch,
            &mut batch,
            |key| match credentials.authenticate_streaming_key(key, wall) {
                Ok(principal) => {
                    principal.slot == access.slot
                        || credentials.kind(access.slot) != Some(CredentialKind::Streaming)
                            && principal.tenant == access.tenant
                }
                Err(_) => false,
            },
            |bytes, outcome| rejected = sources::rejected(bytes, outcome),
        );
        if !rejected.is_empty() {
            self.keep_rejects(access, SourceKind::of_endpoint(endpoint), &asked, rejected);
        }
        let sent = match taken {
            Ok(taken) if taken.is_answered_at_once(&batch) => {
                let durability = self.durability_word();
                let stored = Stored { batch: &batch, appended: NOTHING_APPENDED, durability };
                taken.answer(answer, &asked.reply, &stored, &self.keys.event_id, &mut self.appends.ids);
                self.appends.keep(batch);
                return Ok(Handled::Now);
            }
            Ok(taken) => self.send_off(asked, taken, access, batch),
            Err(refused) => Err((batch, Box::new(refused.problem))),
        };
        match sent {
            Ok(()) => Ok(Handled::LaterChanged),
            Err((batch, problem)) => {
                self.appends.keep(batch);
                Err(problem)
            }
        }
    }

    /// Hands a batch to the owner of its shard, or gives it back.
    fn send_off(
        &mut self,
        asked: Asked,
        taken: Taken,
        access: &Access,
        batch: EventBatch,
    ) -> Result<(), (EventBatch, Box<Problem>)> {
        let (bytes, shape) = (batch.records().len(), taken.shape());
        let (kind, request_id) = (SourceKind::of_body(&taken), asked.reply.request_id);
        let credential = (access.slot, access.generation);
        let writer = Writer { tenant: access.tenant, shard: access.shard, credential: Some(credential) };
        if self.appends.bytes_in_flight + bytes > APPENDING_BYTES_MAX {
            return Err((batch, Box::new(Problem::overloaded("too many events wait to be stored"))));
        }
        let Ok(key) = self.appends.waiters.insert(Waiter::Request { asked, taken, writer, bytes }) else {
            return Err((batch, Box::new(Problem::overloaded("too many requests wait to be stored"))));
        };
        let owner = self.shard_owners[access.shard.0 as usize];
        let sent = if owner == self.core {
            self.admit(key, access.shard, credential, batch).map_err(|(batch, error)| {
                if let Some(why) = error.map_or(Some(Refusal::Revoked), refused_for_good) {
                    self.reject_request(&writer, kind, why, &batch, request_id);
                }
                let problem = error.map_or_else(not_good, |error| events::not_appended(error, shape, &batch));
                (batch, Box::new(problem))
            })
        } else {
            let message = Message::Append {
                from: self.core,
                ticket: key.to_ticket(),
                shard: access.shard,
                slot: access.slot,
                generation: access.generation,
                batch,
            };
            self.peers.ask(owner, message).map_err(|message| {
                let Message::Append { batch, .. } = message else { unreachable!("what was sent comes back") };
                (batch, Box::new(Problem::overloaded("the tenant's core has too much to do")))
            })
        };
        match sent {
            Ok(()) => self.appends.bytes_in_flight += bytes,
            Err(_) => drop(self.appends.waiters.take(key)),
        }
        sent
    }

    /// The last look before a batch gets its place: `Err(None)` if its credential or tenant is not good any more.
    fn admit(
        &mut self,
        key: SlotKey,
        shard: ShardNumber,
        (slot, generation): (u32, u32),
        batch: EventBatch,
    ) -> Result<(), (EventBatch, Option<AppendError>)> {
        if !self.credentials.is_active(batch.tenant()) || !self.credentials.still_valid(slot, generation) {
            return Err((batch, None));
        }
        self.has_news = true;
        self.shards.append(shard, key.to_ticket(), batch).map_err(|(batch, error)| (batch, Some(error)))
    }

    /// Appends for a request that came in on another core.
    pub(super) fn append_for_peer(
        &mut self,
        core: usize,
        ticket: u64,
        shard: ShardNumber,
        credential: (u32, u32),
        batch: EventBatch,
    ) {
        let refused = match self.appends.waiters.insert(Waiter::Peer { core, ticket }) {
            Ok(key) => match self.admit(key, shard, credential, batch) {
                Ok(()) => return,
                Err(refused) => {
                    self.appends.waiters.take(key);
                    refused
                }
            },
            Err(_) => (batch, Some(AppendError::Overloaded)),
        };
        let message = match refused {
            (batch, Some(error)) => Message::Appended { ack: Ack { ticket, batch, result: Err(error) } },
            (batch, None) => Message::AppendRevoked { ticket, batch },
        };
        self.peers.answer(core, message);
    }

    /// Appends without anybody who waits for it, in a shard of this core.
    pub(super) fn append_for_nobody(&mut self, shard: ShardNumber, batch: EventBatch) {
        let Ok(key) = self.appends.waiters.insert(Waiter::Nobody) else { return self.appends.keep(batch) };
        self.has_news = true;
        if let Err((batch, _)) = self.shards.append(shard, key.to_ticket(), batch) {
            self.appends.waiters.take(key);
            self.appends.keep(batch);
        }
    }

    /// A shard of this core has answered: here, or to the core that asked.
    pub(super) fn append_ended(&mut self, ack: Ack, connections: &mut Connections<Context>) {
        let key = SlotKey::of_ticket(ack.ticket);
        match *self.appends.waiters.get_mut(key).expect("every append has its waiter") {
            Waiter::Peer { core, ticket } => {
                self.appends.waiters.take(key);
                self.peers.answer(core, Message::Appended { ack: Ack { ticket, ..ack } });
            }
            Waiter::Nobody => {
                self.appends.waiters.take(key);
                self.appends.keep(ack.batch);
            }
            Waiter::Passed(passed) => {
                self.appends.waiters.take(key);
                self.passed_ended(passed, ack);
            }
            Waiter::Request { .. } | Waiter::Sent(_) => self.appended(ack, connections),
        }
    }

    /// What became of a batch that came in on this core.
    pub(super) fn appended(&mut self, ack: Ack, connections: &mut Connections<Context>) {
        let (asked, taken, writer) = match self.asker_of(ack.ticket) {
            Asking::Request { asked, taken, writer } => (asked, taken, writer),
            Asking::Source(on_its_way) => {
                let result = ack.result.map_err(failed);
                return self.source_ended(&on_its_way, ack.batch, result);
            }
        };
        let durability = self.durability_word();
        let appends = &mut self.appends;
        match &ack.result {
            Ok(appended) => {
                self.sources.count_stored(SourceKind::of_body(&taken), &ack.batch, appended);
                let stored = Stored { batch: &ack.batch, appended: *appended, durability };
                connections.answer(&asked, |out, reply| {
                    taken.answer(out, reply, &stored, &self.keys.event_id, &mut appends.ids);
                });
            }
            Err(error) => {
                let problem = taken.worded(events::not_appended(*error, taken.shape(), &ack.batch));
                connections.answer(&asked, |out, reply| problem.respond(out, reply));
                if let Some(why) = refused_for_good(*error) {
                    let (kind, request_id) = (SourceKind::of_body(&taken), asked.reply.request_id);
                    self.reject_request(&writer, kind, why, &ack.batch, request_id);
                }
            }
        }
        self.appends.keep(ack.batch);
    }

    pub(super) fn append_revoked(&mut self, ticket: u64, batch: EventBatch, connections: &mut Connections<Context>) {
        match self.asker_of(ticket) {
            Asking::Request { asked, taken, writer } => {
                let problem = taken.worded(not_good());
                connections.answer(&asked, |out, reply| problem.respond(out, reply));
                let (kind, request_id) = (SourceKind::of_body(&taken), asked.reply.request_id);
                self.reject_request(&writer, kind, Refusal::Revoked, &batch, request_id);
                self.appends.keep(batch);
            }
            Asking::Source(on_its_way) => {
                self.source_ended(&on_its_way, batch, Err(Failed::Refused(Refusal::Revoked)));
            }
        }
    }

    /// What an answer may say of what it is about.
    fn durability_word(&self) -> response::Durability {
        match self.durability {
            Durability::Commit => response::Durability::Disk,
            Durability::Interval { .. } | Durability::Memory => response::Durability::Memory,
        }
    }

    fn asker_of(&mut self, ticket: u64) -> Asking {
        match self.appends.waiters.take(SlotKey::of_ticket(ticket)) {
            Some(Waiter::Request { asked, taken, writer, bytes }) => {
                self.appends.bytes_in_flight -= bytes;
                Asking::Request { asked, taken, writer }
            }
            Some(Waiter::Sent(on_its_way)) => Asking::Source(on_its_way),
            Some(Waiter::Peer { .. } | Waiter::Nobody | Waiter::Passed(_)) | None => {
                panic!("an answer that nobody waits for")
            }
        }
    }
}
