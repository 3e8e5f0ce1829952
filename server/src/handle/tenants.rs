//! Tenants as operators see them.

use std::borrow::Cow;

use ringlog_engine::ids::Micros;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::delta::{Quotas, TenantState};
use crate::auth::tenant_id::check_chosen;
use crate::catalog::command::What;
use crate::catalog::state::TenantEntry;
use crate::catalog::tiers::{Ceiling, Overrides, Tier};
use crate::handle::body::{invalid, name, number, object, parameters};
use crate::handle::control::Asking;
use crate::handle::routes::ControlEndpoint;
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::wire::status::Problem;
use crate::wire::time::format_moment;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tier: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changed<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tier: Option<Cow<'a, str>>,
}

/// Whoever makes a tenant by hand knows for whom it is.
const TIER_DEFAULT: Tier = Tier::Unlimited;

pub fn read(asking: &Asking<'_>) -> Result<What, Problem> {
    use ControlEndpoint as C;
    let named = asking.target.to_owned();
    Ok(match asking.endpoint {
        C::CreateTenant => {
            let new: New<'_> = object(asking.body)?;
            check_chosen(&new.id).map_err(|error| {
                invalid("id", error.to_string()).fix("send 1 to 64 lower-case letters, digits and inner dashes")
            })?;
            let tier = new.tier.map_or(Ok(TIER_DEFAULT), |text| tier(&text))?;
            What::CreateTenant { name: name(new.name.as_ref().unwrap_or(&new.id))?, id: new.id.into_owned(), tier }
        }
        C::ListTenants => {
            let [limit, cursor] = parameters(asking.query, ["limit", "cursor"])?;
            let limit = match limit {
                Some(text) => number("limit", &text, 1, PAGE_ITEMS_MAX as u64)? as usize,
                None => PAGE_ITEMS_DEFAULT,
            };
            let after = match cursor {
                Some(text) => number("cursor", &text, 0, u64::from(u32::MAX))? as u32,
                None => 0,
            };
            What::ListTenants { after, limit }
        }
        C::GetTenant => What::GetTenant { named },
        C::GetQuotas => What::GetQuotas { named },
        C::ChangeTenant => {
            let changed: Changed<'_> = object(asking.body)?;
            let name = changed.name.map(|text| name(&text)).transpose()?;
            let tier = changed.tier.map(|text| tier(&text)).transpose()?;
            if name.is_none() && tier.is_none() {
                return Err(invalid("name", "there is nothing to change").fix("send name, tier or both"));
            }
            What::ChangeTenant { named, name, tier }
        }
        C::DeleteTenant => {
            let [confirm] = parameters(asking.query, ["confirm"])?;
            What::DeleteTenant { named, confirm: confirm.unwrap_or_default().into_owned() }
        }
        C::ActivateTenant => What::SetTenantState { named, state: TenantState::Active },
        C::DeactivateTenant => What::SetTenantState { named, state: TenantState::Suspended },
        C::TenantStats => What::TenantStats { named },
        C::SetQuotas => What::SetQuotas { named, overrides: overrides(asking.body)? },
        other => unreachable!("{other:?} is not about tenants"),
    })
}

fn tier(text: &str) -> Result<Tier, Problem> {
    Tier::parse(text).ok_or_else(|| {
        let known: Vec<&str> = Tier::ALL.iter().map(|tier| tier.name()).collect();
        invalid("tier", "there is no such tier").fix(format!("send one of {}", known.join(", ")))
    })
}

fn overrides(body: &[u8]) -> Result<Overrides, Problem> {
    let overrides: Overrides = object(body)?;
    if overrides.requests_per_second == Some(Ceiling::At(0)) {
        return Err(invalid("requests_per_second", "requests_per_second is at least 1, or unlimited")
            .fix("deactivate the tenant to refuse all of its requests"));
    }
    Ok(overrides)
}

pub fn moment(at: Micros) -> String {
    String::from_utf8_lossy(&format_moment(at)).into_owned()
}

pub fn tenant(entry: &TenantEntry) -> Value {
    let made = &entry.made;
    let mut body = json!({
        "id": made.id,
        "name": made.name,
        "workspace": made.number,
        "workspace_id": format!("ws-{}", made.number),
        "status": status(entry.state),
        "active": entry.state == TenantState::Active,
        "tier": entry.tier.name(),
        "quotas": in_force(&entry.quotas()),
        "created_at": moment(entry.created_at),
        "updated_at": moment(entry.updated_at),
    });
    if let Some(email) = &made.email {
        body["email"] = json!(email);
    }
    body
}

pub fn list(tenants: &[TenantEntry], next: Option<u32>) -> Value {
    let mut body = json!({
        "tenants": tenants.iter().map(tenant).collect::<Vec<_>>(),
        "count": tenants.len(),
        "has_more": next.is_some(),
    });
    if let Some(next) = next {
        body["next_cursor"] = json!(next.to_string());
    }
    body
}

/// `null` is without limit.
pub fn quotas(entry: &TenantEntry) -> Value {
    json!({
        "tenant_id": entry.made.id,
        "tier": entry.tier.name(),
        "quotas": in_force(&entry.quotas()),
        "overrides": entry.overrides,
    })
}

/// What the catalog knows of a tenant.
pub fn stats(entry: &TenantEntry, keys: usize, streaming_keys: usize) -> Value {
    json!({
        "tenant_id": entry.made.id,
        "workspace_id": format!("ws-{}", entry.made.number),
        "status": status(entry.state),
        "tier": entry.tier.name(),
        "quotas": in_force(&entry.quotas()),
        "keys": keys,
        "streaming_keys": streaming_keys,
        "created_at": moment(entry.created_at),
    })
}

pub fn in_force(quotas: &Quotas) -> Value {
    json!({
        "events_per_month": quotas.events_per_month,
        "stored_bytes": quotas.stored_bytes,
        "requests_per_second": quotas.requests_per_second,
    })
}

fn status(state: TenantState) -> &'static str {
    match state {
        TenantState::Active => "active",
        TenantState::Suspended => "suspended",
        TenantState::Deleting => "deleting",
    }
}
