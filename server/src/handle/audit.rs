//! The audit log as admins read it: newest first, by time, actor and action.

use serde_json::{Value, json};

use crate::auth::secret::hex;
use crate::catalog::audit::{AuditEvent, AuditPage, AuditQuery};
use crate::catalog::command::What;
use crate::catalog::records::Actor;
use crate::handle::body::{invalid, number, parameters};
use crate::handle::control::Asking;
use crate::handle::tenants::moment;
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::wire::status::Problem;
use crate::wire::time::parse_moment;

pub fn read(asking: &Asking<'_>) -> Result<What, Problem> {
    let [since, until, actor, action, limit, cursor] =
        parameters(asking.query, ["since", "until", "actor", "action", "limit", "cursor"])?;
    let moment = |param, text: Option<std::borrow::Cow<'_, str>>| {
        text.map(|text| parse_moment(&text).map_err(|error| invalid(param, error.to_string()))).transpose()
    };
    let actor = match actor {
        Some(text) => {
            let fix = "send server, anonymous, key:N, or user:N";
            Some(Actor::parse(&text).ok_or_else(|| invalid("actor", "there is no such actor").fix(fix))?)
        }
        None => None,
    };
    let query = AuditQuery {
        since: moment("since", since)?,
        until: moment("until", until)?,
        actor,
        action: action.map(|action| action.into_owned()),
        before: cursor.map(|text| number("cursor", &text, 1, u64::MAX)).transpose()?,
        limit: match limit {
            Some(text) => number("limit", &text, 1, PAGE_ITEMS_MAX as u64)? as usize,
            None => PAGE_ITEMS_DEFAULT,
        },
    };
    Ok(What::ReadAudit { tenant: asking.caller.tenant, query })
}

pub fn page(page: &AuditPage) -> Value {
    let mut body = json!({
        "events": page.events.iter().map(event).collect::<Vec<_>>(),
        "count": page.events.len(),
        "has_more": page.next.is_some(),
    });
    if let Some(next) = page.next {
        body["next_cursor"] = json!(next.to_string());
    }
    body
}

fn event(event: &AuditEvent) -> Value {
    let AuditEvent { number, record, digest, tenant, actor_name } = event;
    let mut body = json!({
        "number": number,
        "at": moment(record.at),
        "actor": record.origin.actor.to_string(),
        "action": record.body.kind(),
        "outcome": record.outcome.name(),
        "target": record.body.entity(),
        "detail": record.body.detail(),
        "prev": hex(&record.prev),
        "hash": hex(digest),
    });
    if let Some(name) = actor_name {
        body["actor_name"] = json!(name);
    }
    if let Some(source) = record.origin.source {
        body["source"] = json!(source.to_string());
    }
    if let Some(request_id) = &record.origin.request_id {
        body["request_id"] = json!(request_id);
    }
    if let Some((number, id)) = tenant {
        body["tenant_id"] = json!(id);
        body["workspace_id"] = json!(format!("ws-{}", number.0));
    }
    body
}
