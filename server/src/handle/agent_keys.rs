//! Scoped keys as a tenant's admins see them. A key itself stands in one answer, once.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::role::Role;
use crate::catalog::command::{KeyView, Minted, What, Whose};
use crate::catalog::name::Name;
use crate::handle::body::{bounded, invalid, name, object, object_or_nothing, parameters, role};
use crate::handle::control::Asking;
use crate::handle::routes::ControlEndpoint;
use crate::handle::tenants::moment;
use crate::limits::{KEY_DAYS_MAX, KEY_GRACE_SECONDS_MAX};
use crate::wire::status::Problem;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(default)]
    expires_in_days: Option<u64>,
    #[serde(borrow, default)]
    tenant_id: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotate<'a> {
    #[serde(default)]
    grace_seconds: u64,
    #[serde(borrow, default)]
    tenant_id: Option<Cow<'a, str>>,
}

/// A key that its owner did not scope may write and read, as the first seed's may.
const ROLE_DEFAULT: Role = Role::ServiceAccount;

pub fn read(asking: &Asking<'_>) -> Result<What, Problem> {
    use ControlEndpoint as C;
    let whose = |named: Option<Cow<'_, str>>| Whose { tenant: asking.caller.tenant, named: named.map(Cow::into_owned) };
    let rotate = || -> Result<(u32, Option<Cow<'_, str>>), Problem> {
        let body: Rotate<'_> = object_or_nothing(asking.body)?;
        let most = u64::from(KEY_GRACE_SECONDS_MAX);
        Ok((bounded("grace_seconds", Some(body.grace_seconds), 0, most)? as u32, body.tenant_id))
    };
    Ok(match asking.endpoint {
        C::MintKey => {
            let new: New<'_> = object(asking.body)?;
            let days = |days| bounded("expires_in_days", Some(days), 1, u64::from(KEY_DAYS_MAX));
            What::MintKey {
                name: key_name(&new.name)?,
                role: new.role.map_or(Ok(ROLE_DEFAULT), |text| role(&text))?,
                expires_in_days: new.expires_in_days.map(days).transpose()?.map(|days| days as u32),
                whose: whose(new.tenant_id),
            }
        }
        C::ListKeys => {
            let [tenant_id] = parameters(asking.query, ["tenant_id"])?;
            What::ListKeys { whose: whose(tenant_id) }
        }
        C::RotateKey => {
            let (grace_seconds, named) = rotate()?;
            What::RotateKey { whose: whose(named), name: asking.target.to_owned(), grace_seconds }
        }
        C::RevokeKey => {
            let [tenant_id] = parameters(asking.query, ["tenant_id"])?;
            What::RevokeKey { whose: whose(tenant_id), name: asking.target.to_owned() }
        }
        C::RotateSelf => What::RotateSelf { grace_seconds: rotate()?.0 },
        C::RevokeSelf => What::RevokeSelf,
        other => unreachable!("{other:?} is not about keys"),
    })
}

/// A key's name stands in paths, where these never mean themselves.
fn key_name(text: &str) -> Result<Name, Problem> {
    let name = name(text)?;
    if name.as_str().contains(['/', '\\']) || name.as_str().trim_matches('.').is_empty() {
        return Err(invalid("name", "a key's name has no slash and no backslash, and is not dots alone"));
    }
    Ok(name)
}

pub fn minted(minted: &Minted) -> Value {
    let mut body = view(&minted.view);
    body["key"] = json!(minted.api_key.expose());
    body["api_key"] = json!(minted.api_key.expose());
    body["tenant_id"] = json!(minted.tenant_id);
    if let Some((old, ends_at)) = minted.replaces {
        body["replaces"] = json!({ "key_id": key_id(old), "expires_at": ends_at.map(moment) });
    }
    body
}

pub fn list(keys: &[KeyView]) -> Value {
    json!({ "agent_keys": keys.iter().map(view).collect::<Vec<_>>(), "count": keys.len() })
}

fn view(key: &KeyView) -> Value {
    let status = match (key.is_expired, key.replaced_by) {
        (true, _) => "expired",
        (false, Some(_)) => "replaced",
        (false, None) => "active",
    };
    let mut body = json!({
        "name": key.name,
        "key_id": key_id(key.number),
        "role": key.role.name(),
        "status": status,
        "created_at": moment(key.created_at),
        "expires_at": key.expires_at.map(moment),
    });
    if let Some(by) = key.replaced_by {
        body["replaced_by"] = json!(key_id(by));
    }
    body
}

fn key_id(number: u64) -> String {
    format!("key_{number}")
}
