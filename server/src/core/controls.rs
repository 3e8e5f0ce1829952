//! Requests to the control plane on their way: from a core to the control thread, and back to whoever asked.
//!
//! Owns who waits for which answer. Must never: wait for the control thread, which may be waiting for this core.
//!
//! ```text
//! request ─► Command ─► control thread ─► durable ─► every core has it ─► Controlled ─► answer
//!                                                     (what a tenant has stored) ─► usage ─► answer
//! ```

use std::net::IpAddr;

use ringlog_engine::ids::{ShardNumber, Tenant};

use crate::catalog::command::{Answer, Done, Refused};
use crate::catalog::notes::NoteKind;
use crate::catalog::state::TenantEntry;
use crate::catalog::thread::{Busy, ControlHandle, Reply};
use crate::core::host::{Context, CoreHost, refuse};
use crate::core::mailbox::Message;
use crate::core::slots::{SlotKey, Slots};
use crate::handle::accounts;
use crate::handle::control::{self, Asking};
use crate::handle::onboard::{self, CameIn};
use crate::handle::routes::{AccountEndpoint, Admitted, Caller, ControlEndpoint, Noticed, Who};
use crate::handle::usage::About;
use crate::limits::{AUDITS_IN_FLIGHT_MAX, CONTROLS_IN_FLIGHT_MAX};
use crate::net::connections::{Asked, Connections, Handled};
use crate::net::http1::Request;
use crate::wire::status::Problem;

/// Who waits for an answer.
struct Waiter {
    asked: Asked,
    what: Waited,
}

enum Waited {
    /// With what the client calls us.
    Onboard {
        authority: String,
    },
    Control(ControlEndpoint, Reached),
    /// With where it came from: failed logins are counted by that.
    Account(AccountEndpoint, IpAddr, Option<Reached>),
}

/// Who reached for what, should it not be theirs.
#[derive(Debug, Clone, Copy)]
pub struct Reached {
    pub client: IpAddr,
    pub route: &'static str,
    /// The credential, by slot and generation.
    pub credential: (u32, u32),
    pub tenant: Option<Tenant>,
}

impl Reached {
    fn new(caller: &Caller, client: IpAddr, request: &Request<'_, Admitted>) -> Reached {
        let credential = (caller.slot, caller.generation);
        Reached { client, route: request.context.route, credential, tenant: caller.tenant }
    }
}

pub struct Controls {
    waiters: Slots<Waiter>,
    /// Readers of the audit log among them.
    audit_count: usize,
}

impl Default for Controls {
    fn default() -> Controls {
        Controls { waiters: Slots::new(CONTROLS_IN_FLIGHT_MAX), audit_count: 0 }
    }
}

impl CoreHost {
    pub(super) fn onboard(
        &mut self,
        asked: Asked,
        client: IpAddr,
        request: &Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Handled {
        let came_in = CameIn { client, at: self.now.wall, monotonic_us: self.now.monotonic_us };
        let onboard = match onboard::read(request.body, &asked.reply, came_in) {
            Ok(onboard) => onboard,
            Err(problem) => return refuse(&problem, &asked, answer),
        };
        let authority = onboard::authority(request.head.host()).to_owned();
        let waiter = Waiter { asked, what: Waited::Onboard { authority } };
        match self.ask_control(waiter, |control, reply| control.onboard(onboard, reply)) {
            Ok(()) => Handled::Later,
            Err(Busy) => refuse(&control::busy(), &asked, answer),
        }
    }

    pub(super) fn control(
        &mut self,
        asked: Asked,
        client: IpAddr,
        (endpoint, caller): (ControlEndpoint, Caller),
        request: &Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Handled {
        let target = request.context.target.as_deref().unwrap_or_default();
        let asking = Asking { endpoint, caller, target, query: request.head.query(), body: request.body };
        let command = match control::read(&asking, client, &asked.reply, self.now.wall) {
            Ok(command) => command,
            Err(problem) => return refuse(&problem, &asked, answer),
        };
        let is_audit = endpoint == ControlEndpoint::ReadAudit;
        if is_audit && AUDITS_IN_FLIGHT_MAX <= self.controls.audit_count {
            return refuse(&Problem::overloaded("too many read the audit log"), &asked, answer);
        }
        let reached = Reached::new(&caller, client, request);
        let waiter = Waiter { asked, what: Waited::Control(endpoint, reached) };
        match self.ask_control(waiter, |control, reply| control.command(command, reply)) {
            Ok(()) if control::is_change(endpoint) => Handled::LaterChanged,
            Ok(()) => {
                self.controls.audit_count += usize::from(is_audit);
                Handled::Later
            }
            Err(Busy) => refuse(&control::busy(), &asked, answer),
        }
    }

    /// Requests that carry a password, or have no credential.
    pub(super) fn account(
        &mut self,
        asked: Asked,
        peer: IpAddr,
        (endpoint, who): (AccountEndpoint, &Who),
        request: &Request<'_, Admitted>,
        answer: &mut Vec<u8>,
    ) -> Handled {
        // Before anything of it is looked at: a password is dear to check.
        if matches!(endpoint, AccountEndpoint::LogIn | AccountEndpoint::SetUp)
            && let Err(problem) = self.check_login(peer)
        {
            return refuse(&problem, &asked, answer);
        }
        let account = match accounts::read(endpoint, who, request.body, (peer, &asked.reply, self.now.wall)) {
            Ok(account) => account,
            Err(problem) => return refuse(&problem, &asked, answer),
        };
        let reached = match who {
            Who::Caller(caller) => Some(Reached::new(caller, peer, request)),
            Who::Anyone | Who::Tenant(_) => None,
        };
        let waiter = Waiter { asked, what: Waited::Account(endpoint, peer, reached) };
        match self.ask_control(waiter, |control, reply| control.account(account, reply)) {
            Ok(()) if endpoint == AccountEndpoint::SetUpStatus => Handled::Later,
            Ok(()) => Handled::LaterChanged,
            Err(Busy) => refuse(&control::busy(), &asked, answer),
        }
    }

    /// Tells the audit log of what was refused past the table of routes.
    pub(super) fn note_denial(&mut self, reached: Reached, asked: &Asked) {
        let Reached { client, route, credential, tenant } = reached;
        let kind = NoteKind::PermissionDenied;
        let noticed = Noticed { kind, credential: Some(credential), tenant, route, permission: None };
        self.notice(&noticed, client, asked.reply.request_id.as_str());
    }

    /// Counts a login that failed, and tells the audit log of many.
    fn login_failed(&mut self, peer: IpAddr, asked: &Asked) -> Result<(), Problem> {
        let noticed = Noticed {
            kind: NoteKind::AuthenticationFailed,
            credential: None,
            tenant: None,
            route: "POST /api/v1/auth/login",
            permission: None,
        };
        self.notice(&noticed, peer, asked.reply.request_id.as_str());
        self.count_failed_login(peer)
    }

    fn ask_control(
        &mut self,
        waiter: Waiter,
        submit: impl FnOnce(&ControlHandle, Reply<Answer>) -> Result<(), Busy>,
    ) -> Result<(), Busy> {
        let key = self.controls.waiters.insert(waiter).map_err(|_| Busy)?;
        let ticket = key.to_ticket();
        let address = self.peers.address(self.core).clone();
        let reply = move |answer: Answer| {
            // A core that has gone has nobody left to tell.
            let _ = address.send(Message::Controlled { ticket, answer: Box::new(answer) });
        };
        let submitted = submit(&self.control, Box::new(reply));
        if submitted.is_err() {
            self.controls.waiters.take(key);
        }
        submitted
    }

    pub(super) fn controlled(&mut self, ticket: u64, answer: Answer, connections: &mut Connections<Context>) {
        let Some(Waiter { asked, what }) = self.controls.waiters.take(SlotKey::of_ticket(ticket)) else { return };
        let answer = match (&what, answer) {
            (_, Ok(Done::Stats { tenant, keys, streaming_keys })) => {
                let place = place_of(&tenant);
                return self.count(asked, About::Stats { tenant, keys, streaming_keys }, place, connections);
            }
            (Waited::Control(ControlEndpoint::GetQuotas, _), Ok(Done::Tenant(tenant))) => {
                let place = place_of(&tenant);
                return self.count(asked, About::Quotas { tenant }, place, connections);
            }
            (_, answer) => answer,
        };
        if matches!(what, Waited::Control(ControlEndpoint::ReadAudit, _)) {
            self.controls.audit_count -= 1;
        }
        if let (Waited::Control(_, reached) | Waited::Account(_, _, Some(reached)), Err(refused)) = (&what, &answer)
            && refused.is_denial()
        {
            self.note_denial(*reached, &asked);
        }
        if let (Waited::Account(_, peer, _), Err(Refused::InvalidCredentials)) = (&what, &answer)
            && let Err(problem) = self.login_failed(*peer, &asked)
        {
            return connections.answer(&asked, |out, reply| problem.respond(out, reply));
        }
        connections.answer(&asked, |out, reply| match (&what, &answer) {
            (Waited::Onboard { authority }, Ok(Done::Onboarded(made))) => onboard::answer(out, reply, authority, made),
            (Waited::Onboard { .. }, Err(refused)) => control::problem(refused).respond(out, reply),
            (Waited::Onboard { .. }, Ok(other)) => unreachable!("onboarding is not answered by {other:?}"),
            (Waited::Control(endpoint, _), answer) => control::answer(out, reply, *endpoint, answer),
            (Waited::Account(endpoint, ..), answer) => accounts::answer(out, reply, *endpoint, answer),
        });
    }
}

/// Whose shard knows what a tenant has stored.
fn place_of(tenant: &TenantEntry) -> (ShardNumber, Tenant) {
    (ShardNumber(tenant.made.shard), Tenant(tenant.made.number))
}
