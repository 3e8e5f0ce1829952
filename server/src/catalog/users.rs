//! Users of a tenant: made, listed, given another role and deleted by its admins; who one is, and logging out.
//! Must never: give more than the giver has, or let an admin see or touch another tenant's users.

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::password::StoredHash;
use crate::auth::role::{Permission, Role};
use crate::catalog::accounts::NewUser;
use crate::catalog::command::{Answer, Authority, Call, Done, Refused, Whose};
use crate::catalog::control::Control;
use crate::catalog::log::CatalogLog;
use crate::catalog::records::{Body, SessionEnd, SessionEnded, UserCreated, UserDeleted, UserRoleSet};
use crate::catalog::state::UserEntry;
use crate::limits::USERS_PER_TENANT_MAX;

/// Who somebody is: a user, or a key that says so of itself.
#[derive(Debug, Clone)]
pub struct Person {
    /// `user_N` or `key_N`.
    pub id: String,
    pub name: String,
    /// Keys have none.
    pub email: Option<String>,
    pub role: Role,
    pub tenant_id: String,
    pub created_at: Micros,
}

impl<L: CatalogLog> Control<L> {
    /// Where and by whom a user may be made, if they may.
    pub(super) fn may_create_user(&self, call: &Call, new: &NewUser) -> Result<(Authority, Tenant), Refused> {
        let by = self.authority(call)?;
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, &new.whose)?;
        if !new.role.permissions().is_subset_of(by.permissions) {
            return Err(Refused::RoleAboveOwn);
        }
        if USERS_PER_TENANT_MAX <= self.state().user_count(tenant) {
            return Err(Refused::TooManyUsers { limit: USERS_PER_TENANT_MAX });
        }
        Ok((by, tenant))
    }

    pub(super) fn create_user(&mut self, call: &Call, new: &NewUser, hash: &StoredHash) -> Answer {
        let (by, tenant) = self.may_create_user(call, new)?;
        let number = self.state().next_user();
        let body = UserCreated {
            user: number,
            tenant: tenant.0,
            email: new.email.as_str().to_owned(),
            username: new.username.as_ref().map(|name| name.as_str().to_owned()),
            role: new.role,
            password_hash: hash.to_phc(),
        };
        self.commit_for(by, call, Body::UserCreated(body))?;
        Ok(self.person_numbered(number))
    }

    pub(super) fn list_users(&self, by: Authority, whose: &Whose, after: u32, limit: usize) -> Answer {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        let mut there = self.state().users_after(tenant, after);
        let page: Vec<&UserEntry> = there.by_ref().take(limit).collect();
        let next = there.next().and(page.last()).map(|user| user.number);
        let people = page.into_iter().map(|user| self.person(user)).collect();
        Ok(Done::People { people, total: self.state().user_count(tenant), next })
    }

    /// Takes effect on every session of theirs.
    pub(super) fn set_user_role(
        &mut self,
        by: Authority,
        call: &Call,
        whose: &Whose,
        user: Option<u32>,
        role: Role,
    ) -> Answer {
        let (user, tenant) = self.other_user(by, whose, user)?;
        if !role.permissions().is_subset_of(by.permissions) {
            return Err(Refused::RoleAboveOwn);
        }
        self.commit_for(by, call, Body::UserRoleSet(UserRoleSet { user, tenant, role }))?;
        Ok(self.person_numbered(user))
    }

    /// Every session of theirs ends.
    pub(super) fn delete_user(&mut self, by: Authority, call: &Call, whose: &Whose, user: Option<u32>) -> Answer {
        let (user, tenant) = self.other_user(by, whose, user)?;
        self.commit_for(by, call, Body::UserDeleted(UserDeleted { user, tenant }))?;
        Ok(Done::Revoked)
    }

    pub(super) fn log_out(&mut self, by: Authority, call: &Call) -> Answer {
        let Some(entry) = self.state().session(by.key) else { return Err(Refused::NotASession) };
        let why = SessionEnd::LoggedOut;
        let body = SessionEnded { user: entry.user, tenant: by.tenant, session: by.key, why };
        self.commit_for(by, call, Body::SessionEnded(body))?;
        Ok(Done::Revoked)
    }

    pub(super) fn who_am_i(&self, by: Authority) -> Answer {
        if let Some(entry) = self.state().session(by.key) {
            return Ok(self.person_numbered(entry.user));
        }
        let key = self.state().key(by.key).ok_or(Refused::Unauthorized)?;
        let person = Person {
            id: format!("key_{}", by.key),
            name: key.made.name.clone(),
            email: None,
            role: key.made.role,
            tenant_id: self.id_of_tenant(by.tenant),
            created_at: key.created_at,
        };
        Ok(Done::Person(Box::new(person)))
    }

    /// A user of the tenant who is not the caller: nobody locks themselves out, and a tenant keeps an admin.
    fn other_user(&self, by: Authority, whose: &Whose, user: Option<u32>) -> Result<(u32, u32), Refused> {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        let user = user.and_then(|user| self.state().user(user)).ok_or(Refused::NoUser)?;
        if user.tenant != tenant.0 {
            return Err(Refused::OthersUser);
        }
        if self.state().session(by.key).is_some_and(|own| own.user == user.number) {
            return Err(Refused::Oneself);
        }
        if !user.role.permissions().is_subset_of(by.permissions) {
            return Err(Refused::RoleAboveOwn);
        }
        Ok((user.number, user.tenant))
    }

    fn person_numbered(&self, number: u32) -> Done {
        let user = self.state().user(number).expect("it was found a moment ago");
        Done::Person(Box::new(self.person(user)))
    }

    pub(super) fn person(&self, user: &UserEntry) -> Person {
        Person {
            id: format!("user_{}", user.number),
            name: user.name().to_owned(),
            email: Some(user.email.clone()),
            role: user.role,
            tenant_id: self.id_of_tenant(user.tenant),
            created_at: user.created_at,
        }
    }

    fn id_of_tenant(&self, number: u32) -> String {
        self.state().id_of_tenant(Tenant(number)).expect("a person is of a tenant that is there").to_owned()
    }
}
