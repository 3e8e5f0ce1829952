//! Tenants, as operators make, change and end them.

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, TenantState};
use crate::catalog::command::{Answer, Authority, Call, Done, Refused};
use crate::catalog::control::{ChangeError, Control};
use crate::catalog::log::CatalogLog;
use crate::catalog::name::Name;
use crate::catalog::records::{
    Body, Origin, TenantChanged, TenantCreated, TenantDeleted, TenantErased, TenantQuotasSet, TenantStateSet,
};
use crate::catalog::state::TenantEntry;
use crate::catalog::tiers::{Overrides, Tier};

impl<L: CatalogLog> Control<L> {
    pub(super) fn create_tenant(&mut self, by: Authority, call: &Call, id: &str, name: &Name, tier: Tier) -> Answer {
        by.needs_operator()?;
        let number = self.state().next_tenant();
        let body = TenantCreated {
            number,
            id: id.to_owned(),
            name: name.as_str().to_owned(),
            email: None,
            tier: tier.name().to_owned(),
            events_quota: tier.quotas().events_per_month,
            shard: self.least_loaded_shard(),
            key: None,
        };
        self.commit_for(by, call, Body::TenantCreated(body))?;
        Ok(self.tenant_of_number(number))
    }

    /// With those whose events are still being removed.
    pub(super) fn list_tenants(&self, by: Authority, after: u32, limit: usize) -> Answer {
        by.needs_operator()?;
        let mut there = self.state().tenants_after(after);
        let tenants: Vec<TenantEntry> = there.by_ref().take(limit).cloned().collect();
        let next = there.next().and(tenants.last()).map(|entry| entry.made.number);
        Ok(Done::Tenants { tenants, next })
    }

    /// Also one whose events are still being removed: that it is not found any more tells that they are.
    pub(super) fn get_tenant(&self, by: Authority, named: &str) -> Answer {
        by.needs_operator()?;
        let entry = self.state().tenant_or_deleting(named).ok_or(Refused::NoTenant)?;
        Ok(Done::Tenant(Box::new(entry.clone())))
    }

    /// What is in force comes with the tenant.
    pub(super) fn get_quotas(&self, by: Authority, named: &str) -> Answer {
        let number = self.number_of(by, named)?;
        Ok(self.tenant_of_number(number))
    }

    pub(super) fn change_tenant(
        &mut self,
        by: Authority,
        call: &Call,
        named: &str,
        name: Option<&Name>,
        tier: Option<Tier>,
    ) -> Answer {
        let number = self.number_of(by, named)?;
        let name = name.map(|name| name.as_str().to_owned());
        self.commit_for(by, call, Body::TenantChanged(TenantChanged { tenant: number, name, tier }))?;
        Ok(self.tenant_of_number(number))
    }

    /// Setting what is set already is no change, and answers as if it were one.
    pub(super) fn set_tenant_state(&mut self, by: Authority, call: &Call, named: &str, state: TenantState) -> Answer {
        let number = self.number_of(by, named)?;
        if self.state().tenant(Tenant(number)).is_some_and(|entry| entry.state != state) {
            self.commit_for(by, call, Body::TenantStateSet(TenantStateSet { tenant: number, state }))?;
        }
        Ok(self.tenant_of_number(number))
    }

    /// Its keys end with it. What it has stored is removed by its shard, which then says so. Deleting what is being deleted
    /// is no change, and answers as if it were one.
    pub(super) fn delete_tenant(&mut self, by: Authority, call: &Call, named: &str, confirm: &str) -> Answer {
        by.needs_operator()?;
        let entry = self.state().tenant_or_deleting(named).ok_or(Refused::NoTenant)?;
        if entry.made.id != confirm {
            return Err(Refused::NotConfirmed);
        }
        let (number, state) = (entry.made.number, entry.state);
        if state != TenantState::Deleting {
            self.commit_for(by, call, Body::TenantDeleted(TenantDeleted { tenant: number }))?;
        }
        Ok(self.tenant_of_number(number))
    }

    /// A shard has removed everything that a deleted tenant had stored. It says so until it hears that this is known, so
    /// that what is known already is no change: `false`.
    pub fn tenant_erased(&mut self, tenant: Tenant, at: Micros) -> Result<bool, ChangeError> {
        match self.state().tenant(tenant).map(|entry| entry.state) {
            Some(TenantState::Deleting) => {
                let body = Body::TenantErased(TenantErased { tenant: tenant.0 });
                self.commit(body, Origin::server(), at).map(|()| true)
            }
            Some(TenantState::Active | TenantState::Suspended) | None => Ok(false),
        }
    }

    pub(super) fn set_quotas(&mut self, by: Authority, call: &Call, named: &str, overrides: Overrides) -> Answer {
        let number = self.number_of(by, named)?;
        self.commit_for(by, call, Body::TenantQuotasSet(TenantQuotasSet { tenant: number, overrides }))?;
        Ok(self.tenant_of_number(number))
    }

    pub(super) fn tenant_stats(&self, by: Authority, named: &str, now: Micros) -> Answer {
        let number = self.number_of(by, named)?;
        let count = |kind| self.state().keys_of(Tenant(number), kind).filter(|key| key.is_live(now)).count();
        let keys = count(CredentialKind::Jwt) + count(CredentialKind::Programmatic);
        let streaming_keys = count(CredentialKind::Streaming);
        match self.tenant_of_number(number) {
            Done::Tenant(tenant) => Ok(Done::Stats { tenant, keys, streaming_keys }),
            other => unreachable!("a tenant is asked for, and found {other:?}"),
        }
    }

    fn number_of(&self, by: Authority, named: &str) -> Result<u32, Refused> {
        by.needs_operator()?;
        self.state().tenant_named(named).map(|entry| entry.made.number).ok_or(Refused::NoTenant)
    }

    fn tenant_of_number(&self, number: u32) -> Done {
        let entry = self.state().tenant(Tenant(number)).expect("it was found a moment ago");
        Done::Tenant(Box::new(entry.clone()))
    }
}
