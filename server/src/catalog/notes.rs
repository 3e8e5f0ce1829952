//! What cores notice and nobody asked to change: refusals, failed credentials, and looks at what is others'.
//! A note becomes a record like any other, behind the changes that wait. It is never worth refusing one of those.

use std::net::IpAddr;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::role::Permission;
use crate::catalog::control::Control;
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{Actor, Body, Noted, Origin};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoteKind {
    PermissionDenied,
    AuthenticationFailed,
    AdminRightUsed,
}

#[derive(Debug, Clone)]
pub struct Note {
    pub kind: NoteKind,
    /// The credential, by slot and generation, where there was one.
    pub credential: Option<(u32, u32)>,
    pub tenant: Option<Tenant>,
    /// The table's own text.
    pub route: Option<&'static str>,
    pub permission: Option<Permission>,
    /// Of the last time.
    pub source: IpAddr,
    pub request_id: String,
    pub at: Micros,
    /// How often since the last note of this kind about the same.
    pub count: u64,
    /// Notes that were not written since the last one that was.
    pub missed: u64,
}

impl<L: CatalogLog> Control<L> {
    /// Records what was noticed. Nobody waits for it, so a failure is for the server's log.
    pub fn take_note(&mut self, note: &Note) {
        let key = note.credential.and_then(|(slot, generation)| self.state().key_in(slot, generation));
        let actor = key.map_or(Actor::Anonymous, |entry| self.state().actor_of(entry.made.key));
        let noted = Noted {
            tenant: note.tenant.map(|tenant| tenant.0),
            route: note.route.map(str::to_owned),
            permission: note.permission.map(|permission| permission.name().to_owned()),
            count: note.count,
            missed: note.missed,
        };
        let body = match note.kind {
            NoteKind::PermissionDenied => Body::PermissionDenied(noted),
            NoteKind::AuthenticationFailed => Body::AuthenticationFailed(noted),
            NoteKind::AdminRightUsed => Body::AdminRightUsed(noted),
        };
        let origin = Origin { actor, source: Some(note.source), request_id: Some(note.request_id.clone()) };
        if let Err(error) = self.commit(body, origin, note.at) {
            tracing::warn!("the audit log misses a note: {error}");
        }
    }
}
