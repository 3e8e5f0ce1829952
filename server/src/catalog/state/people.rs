//! People and their sessions, as all records together say. A session is a key like any other to the rest of the state;
//! what is here is whose it is, since when, and which token it had before.
//!
//! Invariant: a user number is never reused; every address and name belongs to one user; every session is a live key of
//! its user's tenant and role, and goes from memory when it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ringlog_engine::ids::{Micros, Tenant};

use super::{KeyEntry, State, StateError, credential_row, prefix};
use crate::auth::delta::{Change, CredentialKind, SYSTEM_TENANT};
use crate::auth::password::StoredHash;
use crate::auth::role::Role;
use crate::auth::secret::Digest;
use crate::auth::session::{LoginName, Session, Standing};
use crate::catalog::records::{
    Actor, NewKey, SessionEnded, SessionRefreshed, SessionStarted, UserCreated, UserDeleted, UserRoleSet,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserEntry {
    pub number: u32,
    pub tenant: u32,
    pub created_at: Micros,
    pub email: String,
    pub username: Option<String>,
    pub role: Role,
    pub password: StoredHash,
}

impl UserEntry {
    /// What to call them: their name, or the address of those who chose none.
    pub fn name(&self) -> &str {
        self.username.as_deref().unwrap_or(&self.email)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEntry {
    pub user: u32,
    pub session: Session,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct People {
    last_user: u32,
    users: BTreeMap<u32, UserEntry>,
    by_email: HashMap<String, u32>,
    by_username: HashMap<String, u32>,
    by_tenant: BTreeSet<(u32, u32)>,
    /// By the number of their key.
    sessions: BTreeMap<u64, SessionEntry>,
    by_user: BTreeSet<(u32, u64)>,
    by_expiry: BTreeSet<(i64, u64)>,
    /// Sessions by the token that their last refresh replaced, by the first eight bytes of its digest.
    by_replaced: HashMap<u64, u64>,
}

impl People {
    fn put_user(&mut self, body: &UserCreated, at: Micros) {
        let password = StoredHash::parse(&body.password_hash).expect("a hash is checked before it is put");
        self.last_user = body.user;
        self.by_email.insert(body.email.clone(), body.user);
        if let Some(username) = &body.username {
            self.by_username.insert(username.clone(), body.user);
        }
        self.by_tenant.insert((body.tenant, body.user));
        let entry = UserEntry {
            number: body.user,
            tenant: body.tenant,
            created_at: at,
            email: body.email.clone(),
            username: body.username.clone(),
            role: body.role,
            password,
        };
        self.users.insert(body.user, entry);
    }

    fn remove_user(&mut self, number: u32) {
        let Some(user) = self.users.remove(&number) else { return };
        self.by_email.remove(&user.email);
        if let Some(username) = &user.username {
            self.by_username.remove(username);
        }
        self.by_tenant.remove(&(user.tenant, number));
    }

    /// After the sessions in it have ended.
    pub(super) fn remove_tenant(&mut self, tenant: u32) {
        let users: Vec<u32> = self.numbers_in(tenant).collect();
        users.into_iter().for_each(|user| self.remove_user(user));
    }

    fn numbers_in(&self, tenant: u32) -> impl Iterator<Item = u32> {
        self.by_tenant.range((tenant, 0)..=(tenant, u32::MAX)).map(|(_, user)| *user)
    }

    fn numbers_of(&self, user: u32) -> impl Iterator<Item = u64> {
        self.by_user.range((user, 0)..=(user, u64::MAX)).map(|(_, session)| *session)
    }

    fn put_session(&mut self, number: u64, entry: SessionEntry) {
        self.by_user.insert((entry.user, number));
        self.by_expiry.insert((entry.session.expires_at.0, number));
        if let Some(previous) = &entry.session.previous {
            self.by_replaced.insert(prefix(previous), number);
        }
        self.sessions.insert(number, entry);
    }

    pub(super) fn remove_session(&mut self, number: u64) {
        let Some(entry) = self.sessions.remove(&number) else { return };
        self.by_user.remove(&(entry.user, number));
        self.by_expiry.remove(&(entry.session.expires_at.0, number));
        if let Some(previous) = &entry.session.previous {
            let place = prefix(previous);
            if self.by_replaced.get(&place) == Some(&number) {
                self.by_replaced.remove(&place);
            }
        }
    }
}

fn expiry(key: &NewKey) -> Micros {
    Micros(key.expires_at.expect("a session's expiry is checked before it is put"))
}

impl State {
    // ----- what can follow -----

    pub(super) fn check_user(&self, body: &UserCreated) -> Result<(), StateError> {
        if body.user != self.next_user() {
            return Err(StateError::UserNumber);
        }
        if body.tenant != SYSTEM_TENANT.0 {
            self.check_tenant_is_there(body.tenant)?;
        }
        let is_taken = body.username.as_ref().is_some_and(|name| self.people.by_username.contains_key(name));
        if is_taken || self.people.by_email.contains_key(&body.email) {
            return Err(StateError::UserTaken);
        }
        StoredHash::parse(&body.password_hash).map(|_| ()).map_err(|_| StateError::PasswordHash)
    }

    fn check_user_in(&self, user: u32, tenant: u32) -> Result<(), StateError> {
        self.user(user).filter(|entry| entry.tenant == tenant).map(|_| ()).ok_or(StateError::NoSuchUser)
    }

    pub(super) fn check_role_set(&self, body: &UserRoleSet) -> Result<(), StateError> {
        self.check_user_in(body.user, body.tenant)
    }

    pub(super) fn check_user_deleted(&self, body: &UserDeleted) -> Result<(), StateError> {
        self.check_user_in(body.user, body.tenant)
    }

    pub(super) fn check_session_started(&self, body: &SessionStarted) -> Result<(), StateError> {
        self.check_session_key(body.user, &body.key)?;
        let ends: BTreeSet<u64> = body.ends.iter().copied().collect();
        if ends.len() != body.ends.len() || !ends.iter().all(|number| self.people.sessions.contains_key(number)) {
            return Err(StateError::NoSuchSession);
        }
        match &body.password_hash {
            Some(hash) => StoredHash::parse(hash).map(|_| ()).map_err(|_| StateError::PasswordHash),
            None => Ok(()),
        }
    }

    pub(super) fn check_session_refreshed(&self, body: &SessionRefreshed) -> Result<(), StateError> {
        self.session(body.old).filter(|entry| entry.user == body.user).ok_or(StateError::NoSuchSession)?;
        self.check_session_key(body.user, &body.new)
    }

    pub(super) fn check_session_ended(&self, body: &SessionEnded) -> Result<(), StateError> {
        self.check_user_in(body.user, body.tenant)?;
        self.session(body.session).filter(|entry| entry.user == body.user).map(|_| ()).ok_or(StateError::NoSuchSession)
    }

    fn check_session_key(&self, user: u32, key: &NewKey) -> Result<(), StateError> {
        let user = self.user(user).ok_or(StateError::NoSuchUser)?;
        if key.kind != CredentialKind::Session || key.expires_at.is_none() {
            return Err(StateError::KeyKind);
        }
        if key.tenant != user.tenant {
            return Err(StateError::KeyTenant);
        }
        if key.role != user.role {
            return Err(StateError::KeyRole);
        }
        self.check_key(key)
    }

    // ----- what follows -----

    pub(super) fn put_user(&mut self, body: &UserCreated, at: Micros) -> Vec<Change> {
        self.people.put_user(body, at);
        Vec::new()
    }

    pub(super) fn set_role(&mut self, body: &UserRoleSet) -> Vec<Change> {
        let user = self.people.users.get_mut(&body.user).expect("a user is checked before they are changed");
        user.role = body.role;
        let mut changes = Vec::new();
        for number in self.people.numbers_of(body.user) {
            let key: &mut KeyEntry = self.keys.get_mut(&number).expect("a session is a key");
            key.made.role = body.role;
            changes.push(Change::Credential(credential_row(key)));
        }
        changes.extend(self.creator_changed(Actor::User(body.user)));
        changes
    }

    pub(super) fn delete_user(&mut self, body: &UserDeleted) -> Vec<Change> {
        let sessions: Vec<u64> = self.people.numbers_of(body.user).collect();
        let keys = self.made_by(Actor::User(body.user));
        let changes = sessions.into_iter().chain(keys).flat_map(|key| self.end(key)).collect();
        self.people.remove_user(body.user);
        changes
    }

    pub(super) fn start_session(&mut self, body: &SessionStarted, at: Micros) -> Vec<Change> {
        let session = Session { proof: body.key.proof, previous: None, started_at: at, expires_at: expiry(&body.key) };
        if let Some(hash) = &body.password_hash {
            let user = self.people.users.get_mut(&body.user).expect("a user is checked before they log in");
            user.password = StoredHash::parse(hash).expect("a hash is checked before it is put");
        }
        // Put first: the slot that it names was the next one before any of those that end gave theirs back.
        let put = self.put_key(&body.key, None, at);
        self.people.put_session(body.key.key, SessionEntry { user: body.user, session });
        let ends: Vec<Change> = body.ends.iter().map(|ended| self.revoke(*ended)).collect();
        [put].into_iter().chain(ends).collect()
    }

    pub(super) fn refresh_session(&mut self, body: &SessionRefreshed, at: Micros) -> Vec<Change> {
        let old = self.people.sessions[&body.old].session;
        let session = Session {
            proof: body.new.proof,
            previous: Some(old.proof),
            started_at: old.started_at,
            expires_at: expiry(&body.new),
        };
        let put = self.put_key(&body.new, None, at);
        let ended = self.revoke(body.old);
        self.people.put_session(body.new.key, SessionEntry { user: body.user, session });
        vec![put, ended]
    }

    // ----- what there is -----

    /// The number of the next user; 1 as long as there never was one.
    pub fn next_user(&self) -> u32 {
        self.people.last_user + 1
    }

    pub fn user(&self, number: u32) -> Option<&UserEntry> {
        self.people.users.get(&number)
    }

    pub fn user_named(&self, name: &LoginName) -> Option<&UserEntry> {
        let number = match name {
            LoginName::Email(email) => self.people.by_email.get(email.as_str()),
            LoginName::Username(name) => self.people.by_username.get(name.as_str()),
        };
        self.user(*number?)
    }

    /// A tenant's users with a greater number, by number.
    pub fn users_after(&self, tenant: Tenant, number: u32) -> impl Iterator<Item = &UserEntry> {
        self.people.numbers_in(tenant.0).filter(move |user| number < *user).map(|user| &self.people.users[&user])
    }

    pub fn user_count(&self, tenant: Tenant) -> usize {
        self.people.numbers_in(tenant.0).count()
    }

    pub fn session(&self, number: u64) -> Option<&SessionEntry> {
        self.people.sessions.get(&number)
    }

    /// A user's sessions that have not ended, oldest key first. Some may have expired.
    pub fn sessions_of(&self, user: u32) -> impl Iterator<Item = (u64, &SessionEntry)> {
        self.people.numbers_of(user).map(|number| (number, &self.people.sessions[&number]))
    }

    /// The session that a token belongs to, or belonged to before its last refresh.
    pub fn session_of_token(&self, presented: &Digest, now: Micros) -> Option<(u64, &SessionEntry)> {
        let place = prefix(presented);
        let found = [self.keys_by_digest.get(&place), self.people.by_replaced.get(&place)];
        let mut sessions = found.into_iter().flatten().filter_map(|number| Some((*number, self.session(*number)?)));
        sessions.find(|(_, entry)| entry.session.standing(presented, now) != Standing::Foreign)
    }

    /// Sessions that have expired and are still kept, the longest expired first.
    pub fn expired_sessions(&self, now: Micros) -> impl Iterator<Item = u64> {
        self.people.by_expiry.iter().take_while(move |(at, _)| *at <= now.0).map(|(_, number)| *number)
    }

    /// Who acts with a key: the person, where it is a session.
    pub fn actor_of(&self, key: u64) -> Actor {
        self.session(key).map_or(Actor::Key(key), |entry| Actor::User(entry.user))
    }
}
