//! Onboarding: an e-mail address becomes a tenant with a key, without anybody's help.
//!
//! Owns the shape of the question and of the answer, which is the first thing that a newcomer sees: the commands in it
//! work as they stand. Must never: let an answer with a key into a cache.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::auth::tenant_id::Email;
use crate::catalog::control::{Onboard, OnboardError, Onboarded};
use crate::handle::body::{invalid, object};
use crate::wire::response::{ContentType, HeaderValue, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    email: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
}

/// Where and when a request came in.
#[derive(Debug, Clone, Copy)]
pub struct CameIn {
    pub client: IpAddr,
    pub at: ringlog_engine::ids::Micros,
    pub monotonic_us: u64,
}

pub fn read(body: &[u8], reply: &ReplyTo, came_in: CameIn) -> Result<Onboard, Problem> {
    let body: Body<'_> = object(body).map_err(|problem| problem.fix("send {\"email\":\"name@example.com\"}"))?;
    let email = body.email.ok_or_else(|| Problem::new(ErrorCode::InvalidEmail, "email is missing"))?;
    let email = Email::parse(&email).map_err(|error| Problem::new(ErrorCode::InvalidEmail, error.to_string()))?;
    let request_id = reply.request_id.as_str().to_owned();
    Onboard::new(email, body.name.as_deref(), came_in.client, request_id, came_in.at, came_in.monotonic_us).map_err(
        |error| {
            invalid("name", error.to_string())
                .fix("leave the name out, or send 1 to 128 characters without control characters")
        },
    )
}

/// The authority that the client called us by, if it can stand in a command as it is.
pub fn authority(host: Option<&str>) -> &str {
    let is_plain = |host: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']' | b'_');
        !host.is_empty() && host.bytes().all(plain)
    };
    host.filter(is_plain).unwrap_or("127.0.0.1:3900")
}

#[derive(Serialize)]
struct Answer<'a> {
    api_key: &'a str,
    tenant_id: &'a str,
    tier: &'a str,
    events_quota: Option<u64>,
    getting_started: GettingStarted,
}

/// Commands to paste. Addresses with brackets are quoted, for the shells that would expand them.
#[derive(Serialize)]
struct GettingStarted {
    ingest_event: String,
    query_events: String,
    query_by_type: String,
}

/// Appends the whole answer.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, host: &str, made: &Onboarded) {
    let key = made.api_key.expose();
    let auth = format!("-H 'Authorization: Bearer {key}'");
    let post = |path: &str, body: &str| {
        format!("curl -sS -X POST 'http://{host}{path}' {auth} -H 'Content-Type: application/json' -d '{body}'")
    };
    let get = |path: &str| format!("curl -sS 'http://{host}{path}' {auth}");
    let event = r#"{"event_type":"user.signed_up","entity_id":"user-1","payload":{"plan":"free"}}"#;
    let answer = Answer {
        api_key: key,
        tenant_id: &made.tenant_id,
        tier: made.tier,
        events_quota: made.events_quota,
        getting_started: GettingStarted {
            ingest_event: post("/api/v1/events", event),
            query_events: get("/api/v1/events/query?limit=10"),
            query_by_type: get("/api/v1/events/query?event_type=user.signed_up"),
        },
    };
    let body = serde_json::to_vec(&answer).expect("strings and numbers are JSON");
    let mut response = Response::begin(out, 201, reply);
    response.content_type(ContentType::Json).header("Cache-Control", &HeaderValue::from_static("no-store"));
    response.with_body(&body);
}

pub fn refused(error: OnboardError) -> Problem {
    match error {
        OnboardError::TenantExists => {
            Problem::new(ErrorCode::TenantExists, "a tenant with this e-mail address exists already")
        }
        OnboardError::RateLimited { retry_after_seconds, per_hour } => {
            Problem::new(ErrorCode::RateLimited, "too many tenants were asked for from this address")
                .retry_after(u32::try_from(retry_after_seconds).unwrap_or(u32::MAX))
                .text("scope", "address")
                .rate_limit(
                    format!("\"onboard\";r=0;t={retry_after_seconds}"),
                    format!("\"onboard\";q={per_hour};w=3600"),
                )
        }
        OnboardError::Full => Problem::new(ErrorCode::StorageFull, "there is no room for another tenant"),
        OnboardError::OutcomeUnknown => {
            Problem::new(ErrorCode::OutcomeUnknown, "the tenant may or may not have been made").text("scope", "catalog")
        }
    }
}
