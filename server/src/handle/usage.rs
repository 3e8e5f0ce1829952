//! What a tenant has used of what it may: for the tenant itself, for operators, and in the refusal of what would be more.
//!
//! Owns the one shape of it: `used`, `quota` (`null` is without limit) and `reset_at` (`null` is never) for each type of
//! usage. Must never: count.

use std::sync::Arc;

use ringlog_engine::ids::Micros;
use ringlog_engine::shard::{QuotaKind, Usage};
use serde_json::{Value, json};

use crate::auth::delta::Quotas;
use crate::catalog::state::TenantEntry;
use crate::handle::control::put;
use crate::handle::tenants::{self, moment};
use crate::wire::response::ReplyTo;
use crate::wire::status::{ErrorCode, Problem};

const EVENTS_PER_MONTH: &str = "events_per_month";
const STORED_BYTES: &str = "stored_bytes";

/// What an answer says beside the counts.
#[derive(Debug)]
pub enum About {
    /// For the tenant itself.
    Own {
        tenant_id: Arc<str>,
        quotas: Quotas,
    },
    Quotas {
        tenant: Box<TenantEntry>,
    },
    Stats {
        tenant: Box<TenantEntry>,
        keys: usize,
        streaming_keys: usize,
    },
}

/// Appends the whole answer. `events_kept` are those that can still be read.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, about: &About, usage: &Usage, events_kept: u64) {
    let mut body = match about {
        About::Own { tenant_id, quotas } => json!({ "tenant_id": &**tenant_id, "quotas": tenants::in_force(quotas) }),
        About::Quotas { tenant } => tenants::quotas(tenant),
        About::Stats { tenant, keys, streaming_keys } => {
            let mut body = tenants::stats(tenant, *keys, *streaming_keys);
            body["events_total"] = json!(usage.stored_events);
            body["events_stored"] = json!(events_kept);
            body
        }
    };
    let quotas = match about {
        About::Own { quotas, .. } => *quotas,
        About::Quotas { tenant } | About::Stats { tenant, .. } => tenant.quotas(),
    };
    body["usage"] = used(&quotas, usage);
    put(out, reply, 200, &body);
}

fn used(quotas: &Quotas, usage: &Usage) -> Value {
    json!({
        EVENTS_PER_MONTH: {
            "used": usage.events_this_month,
            "quota": quotas.events_per_month,
            "reset_at": moment(usage.resets_at),
        },
        STORED_BYTES: { "used": usage.stored_bytes, "quota": quotas.stored_bytes, "reset_at": null },
    })
}

/// Why a batch was refused that would have taken its tenant over a quota.
pub fn exceeded(kind: QuotaKind, used: u64, quota: u64, resets_at: Option<Micros>) -> Problem {
    let (usage_type, what) = match kind {
        QuotaKind::EventsPerMonth => (EVENTS_PER_MONTH, "events of this month"),
        QuotaKind::StoredBytes => (STORED_BYTES, "stored bytes"),
    };
    let message = format!("the tenant has {used} of its {quota} {what}, and this would be more than there is room for");
    let problem = Problem::new(ErrorCode::QuotaExceeded, message)
        .text("usage_type", usage_type)
        .number("used", used)
        .number("quota", quota);
    match resets_at {
        Some(at) => problem.text("reset_at", moment(at)),
        None => problem.null("reset_at").fix("raise the tenant's quota"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: &Problem) -> Value {
        let mut out = Vec::new();
        problem.push_body(&mut out, "r");
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_refusal_has_five_members_whatever_is_used_up() {
        // 2026-12-01T00:00:00Z.
        let december = Micros(1_796_083_200_000_000);
        for (kind, resets_at, usage_type, reset_at) in [
            (QuotaKind::EventsPerMonth, Some(december), "events_per_month", json!("2026-12-01T00:00:00.000000Z")),
            (QuotaKind::StoredBytes, None, "stored_bytes", Value::Null),
        ] {
            let problem = exceeded(kind, 9_998, 10_000, resets_at);
            assert_eq!(problem.code().status(), 402);
            let body = body(&problem);
            let members = ["error", "usage_type", "used", "quota", "reset_at"].map(|name| body.get(name).cloned());
            let expected = [json!("quota_exceeded"), json!(usage_type), json!(9_998), json!(10_000), reset_at];
            assert_eq!(members, expected.map(Some));
            assert_eq!(body["retryable"], false);
        }
    }
}
