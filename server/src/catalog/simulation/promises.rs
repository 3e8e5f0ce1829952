//! What was promised in answers, in the words of those who asked: which credential opens what, what a tenant may use, who
//! somebody is. It is made from questions and answers alone, and knows nothing of records.

use std::collections::BTreeMap;

use ringlog_engine::ids::{Micros, Tenant};

use super::Violation;
use super::running::Running;
use crate::auth::delta::{CredentialKind, SYSTEM_TENANT, TenantState};
use crate::auth::role::Role;
use crate::auth::session::LoginName;
use crate::catalog::tiers::{Overrides, Tier};

/// What somebody who asked for a change knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Done,
    Refused,
    /// It may have happened.
    Unknown,
}

/// All that something may be. After an answer that is one thing; without one, the change may have happened or not.
#[derive(Debug, Clone)]
pub struct OneOf<T>(Vec<T>);

impl<T: Clone + PartialEq + std::fmt::Debug> OneOf<T> {
    pub fn known(value: T) -> OneOf<T> {
        OneOf(vec![value])
    }

    pub fn change(&mut self, to: T, told: Told) {
        self.change_each(told, |value| value.clone_from(&to));
    }

    /// Changes a part of whatever it is.
    pub fn change_each(&mut self, told: Told, change: impl Fn(&mut T)) {
        let before = match told {
            Told::Done => std::mem::take(&mut self.0),
            Told::Refused => return,
            Told::Unknown => self.0.clone(),
        };
        for mut value in before {
            change(&mut value);
            if !self.0.contains(&value) {
                self.0.push(value);
            }
        }
    }

    /// It was seen that `fits` holds. False if it was said that it does not.
    pub fn learn(&mut self, fits: impl Fn(&T) -> bool) -> bool {
        self.0.retain(fits);
        !self.0.is_empty()
    }

    /// What it is, if that is known.
    pub fn get(&self) -> Option<&T> {
        match self.0.as_slice() {
            [value] => Some(value),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Ended,
    /// Opens until then, or for good.
    Until(Option<i64>),
}

impl Standing {
    fn opens(self, now: i64) -> bool {
        match self {
            Standing::Ended => false,
            Standing::Until(ends_at) => ends_at.is_none_or(|ends_at| now < ends_at),
        }
    }
}

/// Whose role a credential has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Itself(Role),
    /// By the address.
    User(String),
}

#[derive(Debug, Clone)]
pub struct Token {
    pub text: String,
    pub kind: CredentialKind,
    pub tenant: u32,
    pub name: String,
    pub holder: Holder,
    /// The secret that signed it.
    pub kid: Option<String>,
    /// Of the key, where it has one that others name it by.
    pub number: Option<u64>,
    pub standing: OneOf<Standing>,
    /// The token that a refresh gave for it.
    pub successor: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantTerms {
    pub state: TenantState,
    pub name: String,
    pub tier: Tier,
    pub overrides: Overrides,
}

#[derive(Debug, Clone)]
pub struct PromisedTenant {
    pub id: String,
    /// `None`: it is erased.
    pub terms: OneOf<Option<TenantTerms>>,
}

impl PromisedTenant {
    pub fn new(id: String, terms: TenantTerms) -> PromisedTenant {
        PromisedTenant { id, terms: OneOf::known(Some(terms)) }
    }

    /// Its state, if that is known and it is there.
    pub fn state(&self) -> Option<TenantState> {
        self.terms.get().and_then(|terms| terms.as_ref()).map(|terms| terms.state)
    }

    pub fn is_erased(&self) -> bool {
        self.terms.get() == Some(&None)
    }
}

#[derive(Debug, Clone)]
pub struct PromisedUser {
    pub tenant: u32,
    /// `None`: there is no such user.
    pub role: OneOf<Option<Role>>,
}

#[derive(Clone, Default)]
pub struct Promises {
    pub tokens: Vec<Token>,
    /// By number.
    pub tenants: BTreeMap<u32, PromisedTenant>,
    /// By address.
    pub users: BTreeMap<String, PromisedUser>,
    /// Requests that were answered as done, in order, by the id that their record must have.
    pub requests: Vec<String>,
}

impl Promises {
    /// Compares every promise with what a core and the catalog say, and learns what nobody knew.
    pub fn check(&mut self, running: &mut Running, now: i64) -> Result<(), Violation> {
        for (number, tenant) in &mut self.tenants {
            let entry = running.control.state().tenant(Tenant(*number));
            let found = entry.map(|entry| TenantTerms {
                state: entry.state,
                name: entry.made.name.clone(),
                tier: entry.tier,
                overrides: entry.overrides,
            });
            let promised = tenant.terms.clone();
            let is_called = running.control.state().id_of_tenant(Tenant(*number)) == Some(tenant.id.as_str());
            if !is_called || !tenant.terms.learn(|terms| *terms == found) {
                return Err(format!("tenant {} is {found:?}, promised {promised:?}", tenant.id));
            }
            let in_force = running.core.tenant(Tenant(*number)).map(|row| (row.state, row.quotas));
            if in_force != found.as_ref().map(|found| (found.state, found.overrides.over(found.tier))) {
                return Err(format!("cores know {in_force:?} of tenant {}, which is {found:?}", tenant.id));
            }
        }
        for (email, user) in &mut self.users {
            let named = LoginName::parse(email).expect("an address is a login name");
            let found = running.control.state().user_named(&named).map(|entry| entry.role);
            let promised = user.role.clone();
            // A tenant that is deleted takes its people with it.
            let is_right = if is_there(&self.tenants, user.tenant) {
                user.role.learn(|role| *role == found)
            } else {
                found.is_none()
            };
            if !is_right {
                return Err(format!("user {email} is {found:?}, promised {promised:?}"));
            }
        }
        for token in &mut self.tokens {
            check_token(token, &self.tenants, &self.users, running, now)?;
        }
        Ok(())
    }
}

fn is_there(tenants: &BTreeMap<u32, PromisedTenant>, number: u32) -> bool {
    let state = tenants.get(&number).and_then(PromisedTenant::state);
    number == SYSTEM_TENANT.0 || state.is_some_and(|state| state != TenantState::Deleting)
}

fn is_active(tenants: &BTreeMap<u32, PromisedTenant>, number: u32) -> bool {
    let state = tenants.get(&number).and_then(PromisedTenant::state);
    number == SYSTEM_TENANT.0 || state == Some(TenantState::Active)
}

/// After tenants and users: what they are is known.
fn check_token(
    token: &mut Token,
    tenants: &BTreeMap<u32, PromisedTenant>,
    users: &BTreeMap<String, PromisedUser>,
    running: &mut Running,
    now: i64,
) -> Result<(), Violation> {
    let role = match &token.holder {
        Holder::Itself(role) => Some(*role),
        Holder::User(email) => users[email].role.get().copied().flatten(),
    };
    let is_signed = token.kid.as_ref().is_none_or(|kid| running.signs(kid));
    let found = running.who(&token.text, Micros(now)).map(|who| (who.tenant.0, who.role));
    let called = format!("{:?} {} of tenant {}", token.kind, token.name, token.tenant);
    let Some(role) = role.filter(|_| is_signed && is_active(tenants, token.tenant)) else {
        // Whatever stands in its way hides whether it has ended, too.
        return if found.is_none() { Ok(()) } else { Err(format!("{called} opens: nothing lets it in any more")) };
    };
    let promised = token.standing.clone();
    if !token.standing.learn(|standing| standing.opens(now) == found.is_some()) {
        return Err(format!("{called} is {found:?}, promised {promised:?}"));
    }
    match found {
        Some(found) if found != (token.tenant, role) => Err(format!("{called} is {found:?}, promised {role:?}")),
        _ => Ok(()),
    }
}
