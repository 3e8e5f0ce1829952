//! Who a run sends as: tenants it makes itself, keys it was given, or those of the ledger it continues.
//!
//! With a bootstrap key it makes tenants without limits; without one they onboard, and have what their tier has.

use crate::cli::RunArgs;
use crate::client::Client;
use crate::failure::Failure;
use crate::ledger::{Ledger, LedgerWriter, Tenant, id_hash};
use crate::verify::readback;
use serde::Deserialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// More events than this before the first run are not worth remembering one by one: use a fresh tenant.
const BASELINE_EVENTS_MAX: usize = 1_000_000;

/// A tenant's key, as both ways to one show it.
#[derive(Deserialize)]
struct Made {
    tenant_id: String,
    api_key: String,
}

pub async fn prepare(
    args: &RunArgs,
    client: &mut Client,
    ledger: Option<(LedgerWriter, &Ledger)>,
) -> Result<Vec<Tenant>, Failure> {
    if let Some((_, known)) = &ledger
        && !known.tenants.is_empty()
    {
        return Ok(known.tenants.clone());
    }
    let mut tenants = Vec::new();
    if args.key.is_empty() {
        let prefix = args.tenant_prefix.clone().unwrap_or_else(fresh_prefix);
        for index in 0..args.tenants {
            let name = format!("{prefix}-{index}");
            tenants.push(match &args.bootstrap_key {
                Some(key) => make(client, key, &name).await?,
                None => onboard(client, &format!("{name}@load.test")).await?,
            });
        }
    } else {
        let named = args.key.iter().enumerate();
        tenants.extend(named.map(|(index, key)| Tenant { id: format!("key-{index}"), key: key.clone() }));
    }
    if let Some((mut writer, _)) = ledger {
        for (index, tenant) in tenants.iter().enumerate() {
            let mut ids = Vec::new();
            readback::for_each_event(client, &tenant.key, 10_000, |event| ids.push(id_hash(&event.id))).await?;
            if BASELINE_EVENTS_MAX < ids.len() {
                return Err(Failure::Usage(format!("tenant {} holds too many events for a new ledger", tenant.id)));
            }
            writer.tenant(tenant);
            writer.baseline(index as u16, &ids);
        }
        writer.flush().map_err(Failure::io("ledger"))?;
    }
    Ok(tenants)
}

async fn onboard(client: &mut Client, email: &str) -> Result<Tenant, Failure> {
    let body = serde_json::json!({ "email": email, "name": "ringlog-load" }).to_string();
    let answer = client.post("/api/v1/onboard/start", None, &body).await?.into_good()?;
    tenant_of(email, &answer)
}

/// A tenant that nothing limits, and a key of it that may write and read back.
pub async fn make(client: &mut Client, bootstrap_key: &str, id: &str) -> Result<Tenant, Failure> {
    let tenant = serde_json::json!({ "id": id, "name": "ringlog-load", "tier": "unlimited" }).to_string();
    client.post("/api/v1/tenants", Some(bootstrap_key), &tenant).await?.into_good()?;
    let key = serde_json::json!({ "name": "ringlog-load", "role": "serviceaccount", "tenant_id": id }).to_string();
    let answer = client.post("/api/v1/teams/agent-keys", Some(bootstrap_key), &key).await?.into_good()?;
    tenant_of(id, &answer)
}

fn tenant_of(asked_for: &str, answer: &[u8]) -> Result<Tenant, Failure> {
    let made: Made = serde_json::from_slice(answer)
        .map_err(|error| Failure::Other(format!("making {asked_for}: the answer has no key: {error}")))?;
    Ok(Tenant { id: made.tenant_id, key: made.api_key })
}

/// Two runs must not ask for the same address.
pub fn fresh_prefix() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("load-{:x}-{:x}", since_epoch.as_millis(), std::process::id())
}
