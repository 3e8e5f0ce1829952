//! What people ask of a simulated catalog: accounts, logins, refreshes, and what their admins do to them.

use ringlog_engine::ids::{Micros, Tenant};

use super::super::Violation;
use super::super::promises::{Holder, OneOf, PromisedUser, Standing, Token, Told};
use super::super::running::Running;
use super::super::world::World;
use super::{DAY_US, named};
use crate::auth::delta::CredentialKind;
use crate::auth::password::Password;
use crate::auth::password_thread::Verified;
use crate::auth::programmatic::{KeyId, Scope};
use crate::auth::role::Role;
use crate::auth::secret::{Secret, sha256};
use crate::auth::session::LoginName;
use crate::auth::tenant_id::Email;
use crate::catalog::accounts::{Account, AccountWhat, LoggedIn, NewUser, Prepared, Worked};
use crate::catalog::command::{Done, What, Whose};
use crate::catalog::programmatic_keys::{AskProgrammatic, DoneProgrammatic, Wanted};

const PASSWORD: &str = "correct horse";

/// Far from where the oldest session of somebody has to go.
const TOKENS_PER_USER: usize = 20;
const KEYS_PER_USER: usize = 4;

impl World {
    pub(super) fn create_user(&mut self, running: &mut Running) -> Result<(), Violation> {
        let email = format!("p{}@x.com", self.fresh_number());
        let address = Email::parse(&email).expect("an address");
        let is_first = running.control.state().next_user() == 1;
        let (caller, tenant, role, what) = if is_first {
            (None, 1, Role::Admin, AccountWhat::SetUp { email: address })
        } else {
            let Some((tenant, id)) = self.some_tenant() else { return Ok(()) };
            let Some(by) = self.operator(running) else { return Ok(()) };
            let caller = running.who(&by, Micros(self.now)).map(|who| (who.slot, who.generation));
            let role = Role::ALL[self.rng.index(Role::ALL.len())];
            let new = NewUser { whose: named(&id), email: address, username: None, role };
            (caller, tenant, role, AccountWhat::CreateUser(new))
        };
        let (told, answer) = self.account(running, caller, what, Some(PASSWORD))?;
        let mut known = OneOf::known(None);
        known.change(Some(role), told);
        self.promises.users.insert(email.clone(), PromisedUser { tenant, role: known });
        if let Some(Done::LoggedIn(made)) = answer {
            self.keep_session(email, tenant, &made.token, made.expires_at);
        }
        Ok(())
    }

    pub(super) fn log_in(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(email) = self.some_user() else { return Ok(()) };
        let holder = Holder::User(email.clone());
        if TOKENS_PER_USER < self.promises.tokens.iter().filter(|token| token.holder == holder).count() {
            return Ok(());
        }
        let is_right = self.rng.chance(4, 5);
        let what = AccountWhat::LogIn { name: Some(login(&email)) };
        let (_, answer) = self.account(running, None, what, Some(if is_right { PASSWORD } else { "wrong horse" }))?;
        if let Some(Done::LoggedIn(made)) = answer {
            let LoggedIn { token, expires_at, .. } = *made;
            if !is_right {
                return Err(format!("{email} logs in with a wrong password"));
            }
            let tenant = self.promises.users[&email].tenant;
            self.keep_session(email, tenant, &token, expires_at);
        }
        Ok(())
    }

    /// Mostly with a token that opens, sometimes with one that a refresh has replaced.
    pub(super) fn refresh(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(old) = self.some_token(CredentialKind::Session) else { return Ok(()) };
        let replaced = self.promises.tokens.iter().position(|token| token.successor.is_some());
        let old = replaced.filter(|_| self.rng.chance(1, 3)).unwrap_or(old);
        let token = self.promises.tokens[old].clone();
        let what = AccountWhat::Refresh { proof: sha256(&[token.text.as_bytes()]) };
        let (told, answer) = self.account(running, None, what, None)?;
        if let Some(successor) = token.successor {
            // It ends the session, if that has not gone on since.
            let is_last = self.promises.tokens[successor].successor.is_none();
            let told = if told == Told::Refused { Told::Unknown } else { told };
            if is_last {
                self.promises.tokens[successor].standing.change(Standing::Ended, told);
            }
            return match answer {
                Some(_) => Err("a token that was replaced is refreshed".to_owned()),
                None => Ok(()),
            };
        }
        self.promises.tokens[old].standing.change(Standing::Ended, told);
        if let (Some(Done::Refreshed { token: new, expires_at }), Holder::User(email)) = (answer, token.holder) {
            self.keep_session(email, token.tenant, &new, expires_at);
            self.promises.tokens[old].successor = Some(self.promises.tokens.len() - 1);
        }
        Ok(())
    }

    pub(super) fn log_out(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(session) = self.some_token(CredentialKind::Session) else { return Ok(()) };
        let by = self.promises.tokens[session].text.clone();
        let (told, _) = self.command(running, &by, What::LogOut)?;
        self.promises.tokens[session].standing.change(Standing::Ended, told);
        Ok(())
    }

    /// A key that lives by the person, and outlives the session that it was made in.
    pub(super) fn make_programmatic_key(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(session) = self.some_token(CredentialKind::Session) else { return Ok(()) };
        let Token { text: by, tenant, holder, .. } = self.promises.tokens[session].clone();
        let made = |token: &&Token| (token.kind, &token.holder) == (CredentialKind::Programmatic, &holder);
        if KEYS_PER_USER < self.promises.tokens.iter().filter(made).count() {
            return Ok(());
        }
        let expires_at = self.rng.chance(1, 3).then(|| self.now + DAY_US);
        let wanted = Wanted {
            name: format!("key {}", self.fresh_number()),
            description: None,
            scope: Scope::Inherit,
            expires_at: expires_at.map(Micros),
        };
        let whose = Whose { tenant: Some(Tenant(tenant)), named: None };
        let what = What::Programmatic(AskProgrammatic::Make { whose, wanted });
        let (_, answer) = self.command(running, &by, what)?;
        if let Some(Done::Programmatic(DoneProgrammatic::Made { key, view })) = answer {
            self.promises.tokens.push(Token {
                text: key.expose().to_owned(),
                kind: CredentialKind::Programmatic,
                tenant,
                name: view.id.to_string(),
                holder,
                kid: None,
                number: None,
                standing: OneOf::known(Standing::Until(expires_at)),
                successor: None,
            });
        }
        Ok(())
    }

    /// By the key itself, as whoever finds a key may end it.
    pub(super) fn revoke_programmatic_key(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(key) = self.some_token(CredentialKind::Programmatic) else { return Ok(()) };
        let Token { text, name, .. } = self.promises.tokens[key].clone();
        let id = KeyId::parse(&name).expect("it is the id of a key");
        let what = What::Programmatic(AskProgrammatic::RevokeOwn { id });
        let (told, _) = self.command(running, &text, what)?;
        self.promises.tokens[key].standing.change(Standing::Ended, told);
        Ok(())
    }

    pub(super) fn set_user_role(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(email) = self.some_user() else { return Ok(()) };
        let (tenant, user) = self.number_of_user(running, &email);
        let role = Role::ALL[self.rng.index(Role::ALL.len())];
        let whose = Whose { tenant: Some(Tenant(tenant)), named: None };
        let (told, _) = self.operate(running, What::SetUserRole { whose, user, role })?;
        let of_user = self.promises.users.get_mut(&email).expect("it was found a moment ago");
        of_user.role.change(Some(role), told);
        Ok(())
    }

    pub(super) fn delete_user(&mut self, running: &mut Running) -> Result<(), Violation> {
        let Some(email) = self.some_user() else { return Ok(()) };
        let (tenant, user) = self.number_of_user(running, &email);
        let whose = Whose { tenant: Some(Tenant(tenant)), named: None };
        let (told, _) = self.operate(running, What::DeleteUser { whose, user })?;
        let of_user = self.promises.users.get_mut(&email).expect("it was found a moment ago");
        of_user.role.change(None, told);
        Ok(())
    }

    /// As the control thread does, with a password thread that is done at once.
    fn account(
        &mut self,
        running: &mut Running,
        caller: Option<(u32, u32)>,
        what: AccountWhat,
        password: Option<&str>,
    ) -> Result<(Told, Option<Done>), Violation> {
        let request_id = self.request_id();
        let account = Account {
            caller,
            source: [10, 0, 0, 7].into(),
            request_id: request_id.clone(),
            at: Micros(self.now),
            what,
            password: None,
        };
        let password = password.map(|text| Password::presented(text).expect("a password"));
        let answer = match (running.control.prepare(&account), password) {
            (Prepared::Answer(answer), _) => answer,
            (Prepared::Hash, Some(password)) => {
                let hash = self.hasher.hash(&password);
                running.control.finish(&account, Worked::Hashed(hash))
            }
            (Prepared::Verify(against), Some(password)) => {
                let verdict = self.hasher.verify(against.as_ref(), &password);
                let verified = Verified { verdict, renewed: None };
                running.control.finish(&account, Worked::Verified { against, verified })
            }
            (Prepared::Hash | Prepared::Verify(_), None) => unreachable!("a password comes with what needs one"),
        };
        self.hear(running, &request_id, answer)
    }

    fn some_user(&mut self) -> Option<String> {
        let there: Vec<&String> = self.promises.users.keys().collect();
        (!there.is_empty()).then(|| there[self.rng.index(there.len())].clone())
    }

    fn number_of_user(&self, running: &Running, email: &str) -> (u32, Option<u32>) {
        let user = running.control.state().user_named(&login(email)).map(|user| user.number);
        (self.promises.users[email].tenant, user)
    }

    fn keep_session(&mut self, email: String, tenant: u32, token: &Secret, expires_at: Micros) {
        self.promises.tokens.push(Token {
            text: token.expose().to_owned(),
            kind: CredentialKind::Session,
            tenant,
            name: email.clone(),
            holder: Holder::User(email),
            kid: None,
            number: None,
            standing: OneOf::known(Standing::Until(Some(expires_at.0))),
            successor: None,
        });
    }
}

fn login(email: &str) -> LoginName {
    LoginName::parse(email).expect("an address is a login name")
}
