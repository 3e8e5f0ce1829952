//! Programmatic keys as their owners and a workspace's admins manage them.
//! A key belongs to whoever made it, or made the key that it was made with; it lives by the credential that it was asked
//! for with. Must never: show a key a second time, or tell another's key from one that is not there.

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, CredentialState, SYSTEM_TENANT};
use crate::auth::last_used::Used;
use crate::auth::programmatic::{KeyId, Scope, ScopeError, random_key, shown_prefix};
use crate::auth::role::{Permission, Permissions};
use crate::auth::secret::Secret;
use crate::catalog::command::{Answer, Authority, Call, Done, Refused, Whose};
use crate::catalog::control::Control;
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{Actor, Body, KeyRevoked, KeysUsed, Origin, ProgrammaticKeyMinted};
use crate::catalog::state::KeyEntry;

/// How long uses wait for a record, if the server does not stop before: a crash forgets so much.
const RECORD_USES_EVERY_US: i64 = 3_600_000_000;
/// Keys that one record tells of, at some 30 bytes each.
const USES_PER_RECORD: usize = 512;

#[derive(Debug, Clone)]
pub enum AskProgrammatic {
    Make { whose: Whose, wanted: Wanted },
    ListOwn { named: Option<String> },
    RevokeOwn { id: KeyId },
    ListAll { whose: Whose },
    RevokeAny { whose: Whose, id: KeyId },
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub name: String,
    pub description: Option<String>,
    pub scope: Scope,
    pub expires_at: Option<Micros>,
}

#[derive(Debug, Clone)]
pub enum DoneProgrammatic {
    Made { key: Secret, view: ProgrammaticView },
    List(Vec<ProgrammaticView>),
}

#[derive(Debug, Clone)]
pub struct ProgrammaticView {
    pub id: KeyId,
    pub name: String,
    pub prefix: String,
    pub description: Option<String>,
    pub owner: Actor,
    /// Absent for a key of the owner's own.
    pub workspace: Option<Tenant>,
    pub scope: Scope,
    pub is_live: bool,
    pub last_used_at: Option<Micros>,
    /// By itself or with its creator.
    pub expires_at: Option<Micros>,
    pub created_at: Micros,
}

impl<L: CatalogLog> Control<L> {
    pub(super) fn programmatic(&mut self, by: Authority, call: &Call, ask: &AskProgrammatic) -> Answer {
        match ask {
            AskProgrammatic::Make { whose, wanted } => self.make_programmatic_key(by, call, whose, wanted),
            AskProgrammatic::ListOwn { named } => self.list_own(by, named.as_deref(), call.at),
            AskProgrammatic::RevokeOwn { id } => {
                by.needs(Permission::Read)?;
                let entry = self.state().key_by_id(*id).ok_or(Refused::NoKey)?;
                if !self.may_manage(by, entry) {
                    return Err(Refused::OthersKey);
                }
                let key = entry.made.key;
                self.end_programmatic_key(by, call, key)
            }
            AskProgrammatic::ListAll { whose } => {
                by.needs(Permission::Admin)?;
                let tenant = self.target(by, whose)?;
                let keys = self.state().keys_of(tenant, CredentialKind::Programmatic);
                Ok(list(keys.map(|entry| self.view(entry, call.at)).collect()))
            }
            AskProgrammatic::RevokeAny { whose, id } => {
                by.needs(Permission::Admin)?;
                let tenant = self.target(by, whose)?;
                let entry = self.state().key_by_id(*id).ok_or(Refused::NoKey)?;
                if entry.made.tenant != tenant.0 {
                    return Err(Refused::OthersKey);
                }
                let key = entry.made.key;
                self.end_programmatic_key(by, call, key)
            }
        }
    }

    fn make_programmatic_key(&mut self, by: Authority, call: &Call, whose: &Whose, wanted: &Wanted) -> Answer {
        by.needs(Permission::Read)?;
        let tenant = self.target(by, whose)?;
        if by.is_operator() && tenant == SYSTEM_TENANT {
            // A key that acts for others is minted as one, by name.
            return Err(Refused::TenantUnnamed);
        }
        let asker = self.state().key(by.key).ok_or(Refused::Unauthorized)?;
        let role = asker.made.role;
        let scope = wanted.scope.grant(role, asker.scope()).map_err(|error| match error {
            ScopeError::BeyondOwn(permission) => Refused::BeyondOwn(permission),
            ScopeError::Unknown(word) => unreachable!("{word} is no permission, and was not read as one"),
        })?;
        // Without an end of its own it has its creator's, which is known already and may come closer.
        if wanted.expires_at.is_some() {
            self.check_outlived(by, wanted.expires_at.map(|at| at.0))?;
        }
        self.sweep(tenant, CredentialKind::Programmatic, call.at)?;
        self.check_room(tenant, CredentialKind::Programmatic)?;
        let text = random_key();
        let mut key = self.new_key(tenant.0, CredentialKind::Programmatic, role, &wanted.name, text.digest())?;
        key.expires_at = wanted.expires_at.map(|at| at.0);
        let number = key.key;
        let body = ProgrammaticKeyMinted {
            key,
            id: KeyId::random(),
            prefix: shown_prefix(&text).to_owned(),
            description: wanted.description.clone(),
            has_workspace: whose.named.is_some() || by.is_operator(),
            permissions: match scope {
                Scope::Inherit => None,
                Scope::Only(permissions) => Some(list_of(permissions)),
            },
            // A person's key outlives the session it was asked for with.
            creator: self.state().actor_of(by.key),
        };
        self.commit_for(by, call, Body::ProgrammaticKeyMinted(body))?;
        let entry = self.state().key(number).expect("it was put there a moment ago");
        let view = self.view(entry, call.at);
        Ok(Done::Programmatic(DoneProgrammatic::Made { key: text, view }))
    }

    fn list_own(&self, by: Authority, named: Option<&str>, now: Micros) -> Answer {
        by.needs(Permission::Read)?;
        let tenant = match named {
            None => None,
            Some(name) => {
                let whose = Whose { tenant: None, named: Some(name.to_owned()) };
                Some(self.target(by, &whose)?)
            }
        };
        let state = self.state();
        let own = state.key(by.key).ok_or(Refused::Unauthorized)?;
        let of_own = state.living_by(if is_cut(own) { Actor::Key(by.key) } else { state.owner(own) });
        let itself = [own].into_iter().filter(|own| is_cut(own));
        let mut keys: Vec<&KeyEntry> = itself.chain(of_own).collect();
        keys.retain(|entry| tenant.is_none_or(|tenant| entry.made.tenant == tenant.0));
        keys.sort_by_key(|entry| entry.made.key);
        Ok(list(keys.into_iter().map(|entry| self.view(entry, now)).collect()))
    }

    /// A key that was cut down is not its owner's whole self: it sees to itself, and to what was made with it.
    fn may_manage(&self, by: Authority, entry: &KeyEntry) -> bool {
        let state = self.state();
        state.key(by.key).is_some_and(|own| {
            if is_cut(own) { state.lives_by(entry, by.key) } else { state.owner(entry) == state.owner(own) }
        })
    }

    fn end_programmatic_key(&mut self, by: Authority, call: &Call, key: u64) -> Answer {
        self.commit_for(by, call, Body::KeyRevoked(KeyRevoked { key }))?;
        Ok(Done::Revoked)
    }

    fn view(&self, entry: &KeyEntry, now: Micros) -> ProgrammaticView {
        let programmatic = entry.programmatic.as_ref().expect("a key of this kind is made with what such keys have");
        ProgrammaticView {
            id: programmatic.id,
            name: entry.made.name.clone(),
            prefix: programmatic.prefix.clone(),
            description: programmatic.description.clone(),
            owner: self.state().owner(entry),
            workspace: programmatic.has_workspace.then_some(Tenant(entry.made.tenant)),
            scope: programmatic.scope,
            is_live: entry.is_live(now),
            last_used_at: programmatic.last_used_at.max(self.used.get(&entry.made.key).copied()),
            expires_at: entry.ends_at().map(Micros),
            created_at: entry.created_at,
        }
    }

    /// Takes in what a core noted. A record tells of it later, and of many at once.
    pub fn take_used(&mut self, used: &[Used]) {
        for used in used {
            let entry = self.state().key_in(used.slot, used.generation);
            let Some(key) = entry.filter(|entry| entry.programmatic.is_some()).map(|entry| entry.made.key) else {
                continue;
            };
            let since = *self.used_since.get_or_insert(used.at);
            let at = self.used.entry(key).or_insert(used.at);
            *at = used.at.max(*at);
            if RECORD_USES_EVERY_US <= used.at.0.saturating_sub(since.0) {
                self.record_uses();
            }
        }
    }

    /// Nobody waits for it, so a failure is for the server's log.
    pub fn record_uses(&mut self) {
        self.used_since = None;
        let mut used: Vec<(u64, i64)> = self.used.drain().map(|(key, at)| (key, at.0)).collect();
        used.retain(|(key, _)| self.state().key(*key).is_some_and(|entry| entry.state == CredentialState::Active));
        used.sort_unstable();
        for chunk in used.chunks(USES_PER_RECORD) {
            let at = Micros(chunk.iter().map(|(_, at)| *at).max().unwrap_or_default());
            let body = Body::KeysUsed(KeysUsed { used: chunk.to_vec() });
            if let Err(error) = self.commit(body, Origin::server(), at) {
                tracing::warn!("when keys were used last is not recorded: {error}");
            }
        }
    }
}

fn list(views: Vec<ProgrammaticView>) -> Done {
    Done::Programmatic(DoneProgrammatic::List(views))
}

fn is_cut(entry: &KeyEntry) -> bool {
    entry.scope() != Scope::Inherit
}

fn list_of(permissions: Permissions) -> Vec<Permission> {
    Permission::ALL.into_iter().filter(|permission| permissions.contains(*permission)).collect()
}
