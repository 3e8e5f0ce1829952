//! Scoped keys of a tenant: minted, listed, rotated and revoked by its admins, and by each key for itself.
//! Must never: give more than the giver has or for longer than the giver has it, or show a key a second time.

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, CredentialState, SYSTEM_TENANT, SYSTEM_TENANT_ID};
use crate::auth::jwt::TokenId;
use crate::auth::role::{Permission, Role};
use crate::catalog::command::{Answer, Authority, Call, Done, KeyView, Minted, Refused, Whose};
use crate::catalog::control::Control;
use crate::catalog::log::CatalogLog;
use crate::catalog::name::Name;
use crate::catalog::records::{Body, KeyRevoked, KeyRotated, NewKey, Origin};
use crate::catalog::state::KeyEntry;
use crate::limits::{KEYS_PER_TENANT_MAX, KEYS_SWEPT_MAX};

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

impl<L: CatalogLog> Control<L> {
    pub(super) fn mint_key(
        &mut self,
        by: Authority,
        call: &Call,
        whose: &Whose,
        name: &Name,
        role: Role,
        expires_in_days: Option<u32>,
    ) -> Answer {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        if !role.permissions().is_subset_of(by.permissions) {
            return Err(Refused::RoleAboveOwn);
        }
        let wanted = expires_in_days.map(|days| call.at.0 + i64::from(days) * DAY_US);
        let expires_at = wanted.or(self.giver_ends_at(by));
        self.check_outlived(by, expires_at)?;
        if self.named_keys(tenant, name.as_str()).any(|key| key.is_live(call.at)) {
            return Err(Refused::KeyExists);
        }
        self.sweep(tenant, CredentialKind::Jwt, call.at)?;
        self.check_room(tenant, CredentialKind::Jwt)?;
        let token_id = TokenId::random();
        let mut key = self.new_key(tenant.0, CredentialKind::Jwt, role, name.as_str(), token_id.proof())?;
        key.expires_at = expires_at;
        self.commit_for(by, call, Body::KeyMinted(key.clone()))?;
        Ok(self.minted(&key, &token_id, call, None))
    }

    pub(super) fn list_keys(&self, by: Authority, whose: &Whose, now: Micros) -> Answer {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        let keys = self.state().keys_of(tenant, CredentialKind::Jwt);
        Ok(Done::Keys(keys.map(|key| view(key, now)).collect()))
    }

    pub(super) fn rotate_key(
        &mut self,
        by: Authority,
        call: &Call,
        whose: &Whose,
        name: &str,
        grace_seconds: u32,
    ) -> Answer {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        let is_current = |key: &&KeyEntry| key.is_live(call.at) && key.replaced_by.is_none();
        let old = self.named_keys(tenant, name).find(is_current).ok_or(Refused::NoKey)?.made.clone();
        if !old.role.permissions().is_subset_of(by.permissions) {
            return Err(Refused::RoleAboveOwn);
        }
        self.rotate(by, call, &old, grace_seconds)
    }

    /// Every key of that name, also one that lives on beside its successor.
    pub(super) fn revoke_key(&mut self, by: Authority, call: &Call, whose: &Whose, name: &str) -> Answer {
        by.needs(Permission::Admin)?;
        let tenant = self.target(by, whose)?;
        let keys: Vec<u64> = self.named_keys(tenant, name).map(|key| key.made.key).collect();
        if keys.is_empty() {
            return Err(Refused::NoKey);
        }
        for (ended, key) in keys.into_iter().enumerate() {
            let outcome = self.commit_for(by, call, Body::KeyRevoked(KeyRevoked { key }));
            // Half of it is done: whatever stopped the other half, it is not as if nothing had been.
            outcome.map_err(|refused| if ended == 0 { refused } else { Refused::OutcomeUnknown })?;
        }
        Ok(Done::Revoked)
    }

    pub(super) fn rotate_self(&mut self, by: Authority, call: &Call, grace_seconds: u32) -> Answer {
        let own = self.own_key(by)?;
        // A programmatic key is revoked, and another made.
        if by.kind != CredentialKind::Jwt {
            return Err(Refused::NotHere(by.kind));
        }
        if own.replaced_by.is_some() {
            return Err(Refused::KeyReplaced);
        }
        let old = own.made.clone();
        self.rotate(by, call, &old, grace_seconds)
    }

    pub(super) fn revoke_self(&mut self, by: Authority, call: &Call) -> Answer {
        let key = self.own_key(by)?.made.key;
        self.commit_for(by, call, Body::KeyRevoked(KeyRevoked { key }))?;
        Ok(Done::Revoked)
    }

    /// The caller's key, if it is one that was made here: a file's or a configuration's key would come back from there.
    fn own_key(&self, by: Authority) -> Result<&KeyEntry, Refused> {
        match by.kind {
            CredentialKind::Jwt | CredentialKind::Programmatic => self.state().key(by.key).ok_or(Refused::NoKey),
            CredentialKind::Streaming | CredentialKind::Bootstrap | CredentialKind::Session => {
                Err(Refused::NotHere(by.kind))
            }
        }
    }

    /// When the keys that `by` gives have to end. A person's session lasts a day, and long keys are made with one as a
    /// matter of course: only a key that was itself to end binds what it gives.
    fn giver_ends_at(&self, by: Authority) -> Option<i64> {
        match by.kind {
            CredentialKind::Jwt | CredentialKind::Programmatic | CredentialKind::Streaming => {
                self.state().key(by.key)?.ends_at()
            }
            CredentialKind::Session | CredentialKind::Bootstrap => None,
        }
    }

    /// Refused, and not cut: whoever asks for a year and gets a week finds out in a week.
    pub(super) fn check_outlived(&self, by: Authority, expires_at: Option<i64>) -> Result<(), Refused> {
        match self.giver_ends_at(by) {
            Some(ends_at) if expires_at.is_none_or(|at| ends_at < at) => {
                Err(Refused::OutlivesOwn { ends_at: Micros(ends_at) })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The new key has the old one's name, role and expiry: a rotation gives nothing that was not there, and to nobody who
    /// has less of it.
    fn rotate(&mut self, by: Authority, call: &Call, old: &NewKey, grace_seconds: u32) -> Answer {
        let tenant = Tenant(old.tenant);
        self.check_outlived(by, old.expires_at)?;
        let ends_at = match grace_seconds {
            0 => None,
            seconds => {
                self.sweep(tenant, old.kind, call.at)?;
                self.check_room(tenant, old.kind)?;
                let graced = call.at.0 + i64::from(seconds) * SECOND_US;
                Some(old.expires_at.map_or(graced, |expires_at| graced.min(expires_at)))
            }
        };
        let token_id = TokenId::random();
        let mut new = self.new_key(old.tenant, old.kind, old.role, &old.name, token_id.proof())?;
        new.expires_at = old.expires_at;
        let body = KeyRotated { old: old.key, old_expires_at: ends_at, new: new.clone() };
        self.commit_for(by, call, Body::KeyRotated(body))?;
        Ok(self.minted(&new, &token_id, call, Some((old.key, ends_at.map(Micros)))))
    }

    /// Expired keys keep their places until somebody needs one.
    pub(super) fn sweep(&mut self, tenant: Tenant, kind: CredentialKind, now: Micros) -> Result<(), Refused> {
        let expired: Vec<u64> = self
            .state()
            .keys_of(tenant, kind)
            .filter(|key| !key.is_live(now))
            .map(|key| key.made.key)
            .take(KEYS_SWEPT_MAX)
            .collect();
        for key in expired {
            // It may have ended with the one before it.
            if self.state().key(key).is_some_and(|entry| entry.state == CredentialState::Active) {
                self.commit(Body::KeyRevoked(KeyRevoked { key }), Origin::server(), now)?;
            }
        }
        Ok(())
    }

    pub(super) fn check_room(&self, tenant: Tenant, kind: CredentialKind) -> Result<(), Refused> {
        let count = self.state().keys_of(tenant, kind).take(KEYS_PER_TENANT_MAX).count();
        if count < KEYS_PER_TENANT_MAX { Ok(()) } else { Err(Refused::TooManyKeys { limit: KEYS_PER_TENANT_MAX }) }
    }

    fn named_keys<'a>(&'a self, tenant: Tenant, name: &'a str) -> impl Iterator<Item = &'a KeyEntry> {
        self.state().keys_of(tenant, CredentialKind::Jwt).filter(move |key| key.made.name == name)
    }

    fn minted(&self, key: &NewKey, token_id: &TokenId, call: &Call, replaces: Option<(u64, Option<Micros>)>) -> Done {
        let tenant = Tenant(key.tenant);
        let tenant_id = match self.state().tenant(tenant) {
            Some(entry) => entry.made.id.clone(),
            None => {
                assert_eq!(tenant, SYSTEM_TENANT);
                SYSTEM_TENANT_ID.to_owned()
            }
        };
        let api_key = self.token(key, &tenant_id, token_id, call.at);
        let entry = self.state().key(key.key).expect("it was put there a moment ago");
        Done::Minted(Minted { api_key, view: view(entry, call.at), tenant_id, replaces })
    }
}

fn view(key: &KeyEntry, now: Micros) -> KeyView {
    KeyView {
        number: key.made.key,
        name: key.made.name.clone(),
        role: key.made.role,
        created_at: key.created_at,
        expires_at: key.made.expires_at.map(Micros),
        replaced_by: key.replaced_by,
        is_expired: !key.is_live(now),
    }
}
