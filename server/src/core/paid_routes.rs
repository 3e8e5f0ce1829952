//! Requests that cost something: asked for their price before their body, held until their payment is settled.
//!
//! Owns the held ones. Must never: carry one out whose payment was not settled, or wait for the facilitator.
//!
//! ```text
//! head ─► charge ─► body ─► held ─► facilitator ─► Paid ─┬─► handled as any other, with its settlement in the answer
//!                                                        └─► refused
//! ```

use std::net::IpAddr;
use std::sync::Arc;

use crate::core::host::{Context, CoreHost, refuse};
use crate::core::mailbox::Message;
use crate::core::slots::{SlotKey, Slots};
use crate::facilitator::{FacilitatorHandle, NotTaken};
use crate::handle::routes::{Admitted, Who, not_good};
use crate::handle::x402::Due;
use crate::handle::x402::due::{Outcome, due};
use crate::handle::x402::pricing::Pricing;
use crate::limits::{PAYMENTS_HELD_BYTES_MAX, PAYMENTS_IN_FLIGHT_MAX};
use crate::net::connections::{Asked, Connections, Handled, Service};
use crate::net::http1::Request;
use crate::wire::http::{Head, HeadIndex, Method};
use crate::wire::response::{ContentType, ReplyTo, Response};
use crate::wire::status::Problem;

/// A whole request, out of the buffers that it came in.
struct Held {
    asked: Asked,
    peer: IpAddr,
    head: Box<[u8]>,
    index: HeadIndex,
    body: Box<[u8]>,
    context: Admitted,
    due: Due,
}

impl Held {
    fn bytes(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

pub struct PaidRoutes {
    pricing: Arc<Pricing>,
    /// Absent where nothing is priced.
    facilitator: Option<FacilitatorHandle>,
    held: Slots<Held>,
    held_bytes: usize,
}

impl PaidRoutes {
    pub fn new(pricing: Arc<Pricing>, facilitator: Option<FacilitatorHandle>) -> PaidRoutes {
        PaidRoutes { pricing, facilitator, held: Slots::new(PAYMENTS_IN_FLIGHT_MAX), held_bytes: 0 }
    }

    /// Asks for the price of what is priced; `context` gets the payment that meets it.
    pub fn charge(&self, head: &Head<'_>, context: &mut Admitted) -> Result<(), Box<Problem>> {
        if self.facilitator.is_some() {
            context.due = due(&self.pricing, head)?;
        }
        Ok(())
    }

    /// The answer to `GET /x402/routes`.
    pub fn list(&self, answer: &mut Vec<u8>, reply: &ReplyTo) {
        let mut response = Response::begin(answer, 200, reply);
        response.content_type(ContentType::Json);
        response.with_body(&self.pricing.routes_body());
    }

    fn take(&mut self, key: SlotKey) -> Option<Held> {
        let held = self.held.take(key)?;
        self.held_bytes -= held.bytes();
        Some(held)
    }
}

impl CoreHost {
    /// Keeps a request, and has its payment verified and settled.
    pub(super) fn hold_for_payment(
        &mut self,
        asked: Asked,
        peer: IpAddr,
        request: Request<'_, Admitted>,
        due: Due,
        answer: &mut Vec<u8>,
    ) -> Handled {
        let facilitator = self.paid_routes.facilitator.clone().expect("a price is asked for where there is one");
        let is_safe = matches!(request.head.method(), Method::Get | Method::Head);
        let bytes = request.head.bytes().len() + request.body.len();
        if PAYMENTS_HELD_BYTES_MAX < self.paid_routes.held_bytes + bytes {
            return refuse(&busy(), &asked, answer);
        }
        let held = Held {
            asked,
            peer,
            head: request.head.bytes().into(),
            index: *request.head.index(),
            body: request.body.into(),
            context: request.context,
            due,
        };
        let Ok(key) = self.paid_routes.held.insert(held) else { return refuse(&busy(), &asked, answer) };
        self.paid_routes.held_bytes += bytes;
        let ticket = key.to_ticket();
        let address = self.peers.address(self.core).clone();
        let reply = move |outcome: Outcome| {
            // A core that has gone has nobody left to tell.
            let _ = address.send(Message::Paid { ticket, outcome: Box::new(outcome) });
        };
        let due = &self.paid_routes.held.get_mut(key).expect("it was just put there").due;
        match facilitator.submit(due, Box::new(reply)) {
            Ok(()) if is_safe => Handled::Later,
            Ok(()) => Handled::LaterChanged,
            Err(not_taken) => {
                let held = self.paid_routes.take(key).expect("nobody else has taken it");
                let problem = match not_taken {
                    NotTaken::UsedAlready => held.due.used_already(),
                    NotTaken::Busy => busy(),
                };
                refuse(&problem, &asked, answer)
            }
        }
    }

    /// The facilitator has spoken. A request that was paid for is carried out even where its client has gone.
    pub(super) fn paid(&mut self, ticket: u64, outcome: Outcome, connections: &mut Connections<Context>) {
        let Some(held) = self.paid_routes.take(SlotKey::of_ticket(ticket)) else { return };
        let Held { asked, peer, head, index, body, context, due } = held;
        let settlement = match due.conclude(outcome) {
            Ok(settlement) => settlement,
            Err(problem) => return connections.answer(&asked, |out, reply| problem.respond(out, reply)),
        };
        connections.add_header(&asked, due.answers_in, &settlement.header());
        if !self.is_still_good(&context.who) {
            return connections.answer(&asked, |out, reply| not_good().respond(out, reply));
        }
        let (head, reply) = (index.over(&head), asked.reply);
        let request = Request { sequence: asked.sequence, head, body: &body, reply, context };
        let mut answer = Vec::new();
        if self.handle(asked, peer, request, &mut answer) == Handled::Now {
            connections.answer(&asked, |out, _| out.extend_from_slice(&answer));
        }
    }

    fn is_still_good(&self, who: &Who) -> bool {
        match who {
            Who::Anyone => true,
            Who::Tenant(access) => {
                self.credentials.still_valid(access.slot, access.generation)
                    && self.credentials.is_active(access.tenant)
            }
            Who::Caller(caller) => self.credentials.still_valid(caller.slot, caller.generation),
        }
    }
}

fn busy() -> Problem {
    Problem::overloaded("too many payments are under way")
}
