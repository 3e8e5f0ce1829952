//! What people ask who have no credential yet, or who bring a password: set-up, login, refresh, a new user.
//! A password is hashed or checked on its own thread between two halves: the first says what has to be done with it, the
//! second makes the change, and believes nothing that the first one saw.
//!
//! ```text
//! Account ─► prepare ─► Answer (refused, or no password needed)
//!                   └─► Hash, Verify ─► password thread ─► Worked ─► finish ─► Answer
//! ```
//!
//! Must never: take longer, or answer otherwise, for an address that has no account than for a wrong password.

use std::net::IpAddr;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, SYSTEM_TENANT, TenantState};
use crate::auth::password::{Password, StoredHash, Verdict};
use crate::auth::password_thread::Verified;
use crate::auth::role::Role;
use crate::auth::secret::{Digest, Secret};
use crate::auth::session::{LoginName, RefreshError, Session, Username, random_token, sessions_to_end};
use crate::auth::tenant_id::Email;
use crate::catalog::command::{Answer, Call, Done, Refused, Whose};
use crate::catalog::control::Control;
use crate::catalog::keys_file::FileKey;
use crate::catalog::keys_file_edit;
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{
    Actor, Body, Origin, SessionEnd, SessionEnded, SessionRefreshed, SessionStarted, UserCreated,
};
use crate::catalog::state::{SessionEntry, UserEntry};
use crate::catalog::users::Person;
use crate::limits::SESSIONS_SWEPT_MAX;

/// The workspace whose first admin the set-up makes.
const SET_UP_TENANT: Tenant = Tenant(1);

#[derive(Debug)]
pub struct Account {
    /// The credential, by slot and generation, where one was needed.
    pub caller: Option<(u32, u32)>,
    pub source: IpAddr,
    pub request_id: String,
    pub at: Micros,
    pub what: AccountWhat,
    /// Goes to the password thread, once.
    pub password: Option<Password>,
}

#[derive(Debug)]
pub enum AccountWhat {
    IsSetUpNeeded,
    SetUp {
        email: Email,
    },
    /// A name that cannot be anybody's is `None`.
    LogIn {
        name: Option<LoginName>,
    },
    /// By the SHA-256 of the presented token.
    Refresh {
        proof: Digest,
    },
    CreateUser(NewUser),
}

#[derive(Debug)]
pub struct NewUser {
    pub whose: Whose,
    pub email: Email,
    pub username: Option<Username>,
    pub role: Role,
}

/// What comes before the change.
pub enum Prepared {
    Answer(Answer),
    Hash,
    /// Nobody's is `None`.
    Verify(Option<StoredHash>),
}

/// What the password thread did.
pub enum Worked {
    Hashed(StoredHash),
    Verified { against: Option<StoredHash>, verified: Verified },
}

/// Somebody has a token.
#[derive(Debug, Clone)]
pub struct LoggedIn {
    pub token: Secret,
    pub person: Person,
    pub expires_at: Micros,
    /// With the set-up only.
    pub streaming_key: Option<Secret>,
}

impl Account {
    fn call(&self) -> Option<Call> {
        let (slot, generation) = self.caller?;
        let request_id = self.request_id.clone();
        Some(Call { slot, generation, source: self.source, request_id, at: self.at })
    }

    fn origin(&self, actor: Actor) -> Origin {
        Origin { actor, source: Some(self.source), request_id: Some(self.request_id.clone()) }
    }
}

impl<L: CatalogLog> Control<L> {
    pub fn prepare(&mut self, account: &Account) -> Prepared {
        match &account.what {
            AccountWhat::IsSetUpNeeded => Prepared::Answer(Ok(Done::SetUpNeeded(self.is_set_up_needed()))),
            AccountWhat::Refresh { proof } => Prepared::Answer(self.refresh(account, proof)),
            AccountWhat::LogIn { name } => {
                let user = name.as_ref().and_then(|name| self.state().user_named(name));
                Prepared::Verify(user.map(|user| user.password.clone()))
            }
            AccountWhat::SetUp { .. } => match self.may_set_up(account) {
                Ok(_) => Prepared::Hash,
                Err(refused) => Prepared::Answer(Err(refused)),
            },
            AccountWhat::CreateUser(new) => {
                let may = account.call().ok_or(Refused::Unauthorized).and_then(|call| self.may_create_user(&call, new));
                match may {
                    Ok(_) => Prepared::Hash,
                    Err(refused) => Prepared::Answer(Err(refused)),
                }
            }
        }
    }

    /// Makes the change. It is durable when this returns; no core has heard of it yet.
    pub fn finish(&mut self, account: &Account, worked: Worked) -> Answer {
        match (&account.what, worked) {
            (AccountWhat::LogIn { name }, Worked::Verified { against, verified }) => {
                self.log_in(account, name.as_ref(), against.as_ref(), verified)
            }
            (AccountWhat::SetUp { email }, Worked::Hashed(hash)) => self.set_up_people(account, email, &hash),
            (AccountWhat::CreateUser(new), Worked::Hashed(hash)) => {
                let call = account.call().ok_or(Refused::Unauthorized)?;
                self.create_user(&call, new, &hash)
            }
            (what, _) => unreachable!("the password thread was asked for something else than {what:?} needs"),
        }
    }

    // ----- set-up -----

    fn is_set_up_needed(&self) -> bool {
        self.state().next_user() == 1
    }

    /// Who sets up, if there is still somebody to make.
    fn may_set_up(&self, account: &Account) -> Result<Actor, Refused> {
        let actor = match account.call() {
            // Whether a stranger may is decided where their address is known.
            None => Actor::Anonymous,
            Some(call) => {
                let by = self.authority(&call)?;
                by.needs_operator()?;
                self.state().actor_of(by.key)
            }
        };
        if self.is_set_up_needed() { Ok(actor) } else { Err(Refused::AlreadySetUp) }
    }

    fn set_up_people(&mut self, account: &Account, email: &Email, hash: &StoredHash) -> Answer {
        let actor = self.may_set_up(account)?;
        let number = self.state().next_user();
        let body = UserCreated {
            user: number,
            tenant: SET_UP_TENANT.0,
            email: email.as_str().to_owned(),
            username: None,
            role: Role::Admin,
            password_hash: hash.to_phc(),
        };
        self.commit(Body::UserCreated(body), account.origin(actor), account.at)?;
        let streaming_key = self.first_streaming_key(account.at);
        // The account is there: who is told of a failure can log in with it.
        let logged_in = self.start_session(account, number, None).map_err(|_| Refused::OutcomeUnknown)?;
        Ok(Done::LoggedIn(Box::new(LoggedIn { streaming_key, ..logged_in })))
    }

    /// The first key of the workspace in the key file, or a new one there. A key file that cannot be used keeps nobody
    /// from setting up.
    fn first_streaming_key(&mut self, at: Micros) -> Option<Secret> {
        let path = self.keys_file.clone()?;
        let missing = |why: &dyn std::fmt::Display| {
            tracing::warn!("{}: the set-up gives no streaming key: {why}", path.display());
        };
        let mut keys = keys_file_edit::list(&path).map_err(|error| missing(&error)).ok()?;
        let key = match keys.iter().find(|key| key.tenant == SET_UP_TENANT) {
            Some(key) => key.secret.clone(),
            None => {
                let secret = Secret::random_streaming_key();
                let key = FileKey { secret: secret.clone(), tenant: SET_UP_TENANT, name: String::new() };
                keys_file_edit::add(&path, &key).map_err(|error| missing(&error)).ok()?;
                keys.push(key);
                secret
            }
        };
        // It must open something when it is shown.
        self.match_keys_file(&path, &keys, at).map_err(|error| missing(&error)).ok()?;
        Some(key)
    }

    // ----- sessions -----

    fn log_in(
        &mut self,
        account: &Account,
        name: Option<&LoginName>,
        against: Option<&StoredHash>,
        verified: Verified,
    ) -> Answer {
        let user = name.and_then(|name| self.state().user_named(name));
        // What was checked says nothing about somebody who has changed or gone since.
        let user = user.filter(|user| Some(&user.password) == against && self.is_open(user.tenant));
        let (Some(user), Verdict::Right { .. }) = (user.map(|user| user.number), verified.verdict) else {
            return Err(Refused::InvalidCredentials);
        };
        let logged_in = self.start_session(account, user, verified.renewed.as_ref())?;
        Ok(Done::LoggedIn(Box::new(logged_in)))
    }

    fn start_session(
        &mut self,
        account: &Account,
        user: u32,
        renewed: Option<&StoredHash>,
    ) -> Result<LoggedIn, Refused> {
        self.admit_session(user, account.at)?;
        let user = self.state().user(user).expect("somebody who is let in exists").clone();
        let token = random_token();
        let session = Session::start(&token, account.at);
        let mut key = self.new_key(user.tenant, CredentialKind::Session, user.role, user.name(), session.proof)?;
        key.expires_at = Some(session.expires_at.0);
        let ends = self.sessions_to_end(user.number, account.at);
        let password_hash = renewed.map(StoredHash::to_phc);
        let body = SessionStarted { user: user.number, key, ends, password_hash };
        self.commit(Body::SessionStarted(body), account.origin(Actor::User(user.number)), account.at)?;
        let person = self.person(&user);
        Ok(LoggedIn { token, person, expires_at: session.expires_at, streaming_key: None })
    }

    /// Expired ones of anybody, so that they never pile up, and the user's oldest where there are too many.
    fn sessions_to_end(&self, user: u32, now: Micros) -> Vec<u64> {
        let mut ends: Vec<u64> = self.state().expired_sessions(now).take(SESSIONS_SWEPT_MAX).collect();
        let kept: Vec<(u64, Session)> = self
            .state()
            .sessions_of(user)
            .filter(|(number, _)| !ends.contains(number))
            .map(|(number, entry)| (number, entry.session))
            .collect();
        let sessions: Vec<Session> = kept.iter().map(|(_, session)| *session).collect();
        ends.extend(sessions_to_end(&sessions).into_iter().map(|index| kept[index].0));
        ends
    }

    fn refresh(&mut self, account: &Account, proof: &Digest) -> Answer {
        let found = self.state().session_of_token(proof, account.at);
        let (number, SessionEntry { user, session }) =
            found.map(|(number, entry)| (number, *entry)).ok_or(Refused::TokenRefused)?;
        let user: UserEntry = self.state().user(user).expect("a session is somebody's").clone();
        let token = random_token();
        let next = match session.refresh(proof, &token, account.at) {
            Ok(next) if self.is_open(user.tenant) => next,
            Ok(_) | Err(RefreshError::Refused) => return Err(Refused::TokenRefused),
            Err(RefreshError::Replayed) => {
                let why = SessionEnd::Replayed;
                let ended = SessionEnded { user: user.number, tenant: user.tenant, session: number, why };
                self.commit(Body::SessionEnded(ended), account.origin(Actor::Anonymous), account.at)?;
                return Err(Refused::TokenRefused);
            }
        };
        self.admit_session(user.number, account.at)?;
        let mut new = self.new_key(user.tenant, CredentialKind::Session, user.role, user.name(), next.proof)?;
        new.expires_at = Some(next.expires_at.0);
        let body = SessionRefreshed { user: user.number, old: number, new };
        self.commit(Body::SessionRefreshed(body), account.origin(Actor::User(user.number)), account.at)?;
        Ok(Done::Refreshed { token, expires_at: next.expires_at })
    }

    /// Each is a record that stays, so that one person makes so many in a minute.
    fn admit_session(&mut self, user: u32, at: Micros) -> Result<(), Refused> {
        let admitted = self.session_changes.admit(user, at);
        admitted.map_err(|retry_after_seconds| Refused::TooManyLogins { retry_after_seconds })
    }

    fn is_open(&self, tenant: u32) -> bool {
        tenant == SYSTEM_TENANT.0
            || self.state().tenant(Tenant(tenant)).is_some_and(|entry| entry.state == TenantState::Active)
    }
}

#[cfg(test)]
mod tests;
