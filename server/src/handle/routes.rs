//! Which request goes where, and who may: decided from the head, before one byte of the body is asked for.
//!
//! Owns the one table of routes. Order of refusals: path, method, credential, permission, tenant, media type, encoding.
//! A request that may not be made learns nothing about what it asked for.

use std::sync::Arc;

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};

use crate::auth::credentials::{ActingError, AuthError, Credentials, Presented};
use crate::auth::delta::SYSTEM_TENANT;
use crate::auth::role::Permission;
use crate::limits::{BODY_BYTES_MAX, CONTROL_BODY_BYTES_MAX, EVENT_BYTES_MAX};
use crate::wire::http::{Head, Method};
use crate::wire::status::{ErrorCode, Problem};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Event,
    EventBatch,
    Query,
    Onboard,
    Health,
    Ready,
    /// OPTIONS of a path that answers to these.
    Methods(&'static str),
}

/// Who makes a request, and for whom.
#[derive(Debug, Clone)]
pub struct Access {
    pub tenant: Tenant,
    pub tenant_id: Arc<str>,
    pub shard: ShardNumber,
    /// The credential, for everyone who has to ask again whether it is still good.
    pub slot: u32,
    pub generation: u32,
}

/// A request that was let in.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub endpoint: Endpoint,
    /// `None` on routes that are open to all.
    pub access: Option<Access>,
}

struct Route {
    path: &'static str,
    method: Method,
    endpoint: Endpoint,
    /// `None`: open to all.
    permission: Option<Permission>,
    body_bytes_max: usize,
}

const fn route(path: &'static str, method: Method, endpoint: Endpoint, permission: Option<Permission>) -> Route {
    let body_bytes_max = match endpoint {
        Endpoint::Event => EVENT_BYTES_MAX,
        Endpoint::EventBatch => BODY_BYTES_MAX,
        _ => CONTROL_BODY_BYTES_MAX,
    };
    Route { path, method, endpoint, permission, body_bytes_max }
}

const ROUTES: [Route; 6] = [
    route("/api/v1/events", Method::Post, Endpoint::Event, Some(Permission::Write)),
    route("/api/v1/events/batch", Method::Post, Endpoint::EventBatch, Some(Permission::Write)),
    route("/api/v1/events/query", Method::Get, Endpoint::Query, Some(Permission::Read)),
    route("/api/v1/onboard/start", Method::Post, Endpoint::Onboard, None),
    route("/health", Method::Get, Endpoint::Health, None),
    route("/ready", Method::Get, Endpoint::Ready, None),
];

impl Route {
    const fn allow(&self) -> &'static str {
        match self.method {
            Method::Get => "GET, HEAD, OPTIONS",
            _ => "POST, OPTIONS",
        }
    }

    fn answers_to(&self, method: Method) -> bool {
        method == self.method || (method == Method::Head && self.method == Method::Get)
    }
}

/// Lets a request in, with the largest body that it may have, or says why not.
pub fn admit(head: &Head<'_>, credentials: &mut Credentials, now: Micros) -> Result<(usize, Admitted), Problem> {
    let path = head.path();
    let route = ROUTES
        .iter()
        .find(|route| route.path == path)
        .ok_or_else(|| Problem::new(ErrorCode::NotFound, "there is nothing at this path"))?;
    if head.method() == Method::Options {
        let endpoint = Endpoint::Methods(route.allow());
        return Ok((CONTROL_BODY_BYTES_MAX, Admitted { endpoint, access: None }));
    }
    if !route.answers_to(head.method()) {
        return Err(Problem::method_not_allowed(route.allow()));
    }
    let access = match route.permission {
        Some(permission) => Some(authorize(head, permission, credentials, now)?),
        None => None,
    };
    if route.method == Method::Post {
        check_content(head)?;
    }
    Ok((route.body_bytes_max, Admitted { endpoint: route.endpoint, access }))
}

fn authorize(
    head: &Head<'_>,
    permission: Permission,
    credentials: &mut Credentials,
    now: Micros,
) -> Result<Access, Problem> {
    let mut presented = Presented::none();
    if let Some(value) = head.authorization() {
        presented = presented.authorization(value);
    }
    if let Some(value) = head.x_api_key() {
        presented = presented.api_key(value);
    }
    let principal = credentials.authenticate(presented, now).map_err(|error| {
        let message = match error {
            AuthError::Missing => "a key is needed and none was sent",
            AuthError::Conflicting => "two different keys were sent; send one",
            AuthError::Refused => "the key is not known, or not good any more",
        };
        Problem::new(ErrorCode::Unauthorized, message)
    })?;
    if !principal.may(permission) {
        let message = format!("this needs the permission {}, which the key does not have", permission.name());
        return Err(Problem::new(ErrorCode::Forbidden, message).text("permission", permission.name()));
    }
    let forbidden =
        || Problem::new(ErrorCode::TenantForbidden, "the tenant that the request names is not the key's own");
    let row = credentials
        .acting_tenant(&principal, head.x_tenant_id().map(text), head.x_workspace_id().map(text))
        .map_err(|error| match error {
            ActingError::Forbidden => forbidden(),
            ActingError::Unknown => {
                Problem::new(ErrorCode::NotFound, "the tenant that the request names does not exist")
            }
            ActingError::Unnamed => {
                Problem::new(ErrorCode::BadRequest, "this key acts for others: name the tenant by X-Tenant-ID")
                    .fix("send the header X-Tenant-ID: ID, or X-Workspace-ID: ws-N")
            }
            ActingError::Suspended => Problem::new(ErrorCode::TenantSuspended, "the tenant is suspended"),
        })?;
    if row.number == SYSTEM_TENANT {
        // It has no shard to hold an event.
        return Err(Problem::new(ErrorCode::TenantForbidden, "the system tenant has no events"));
    }
    Ok(Access {
        tenant: row.number,
        tenant_id: Arc::clone(&row.id),
        shard: row.shard,
        slot: principal.slot,
        generation: principal.generation,
    })
}

/// What is not text is nobody's name.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("\u{fffd}")
}

/// Bodies are JSON, as they are. A client that does not say so is believed: the body is validated anyway.
fn check_content(head: &Head<'_>) -> Result<(), Problem> {
    if let Some(content_type) = head.content_type() {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        if !essence.is_empty() && !essence.eq_ignore_ascii_case(b"application/json") {
            return Err(Problem::unsupported_media_type("application/json"));
        }
    }
    match head.content_encoding() {
        Some(encoding) if !encoding.trim_ascii().eq_ignore_ascii_case(b"identity") && !encoding.is_empty() => {
            Err(Problem::unsupported_encoding("identity"))
        }
        _ => Ok(()),
    }
}
