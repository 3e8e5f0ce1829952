//! Which request goes where, and who may: decided from the head, before one byte of the body is asked for.
//!
//! Owns the one table of routes. Order of refusals: path, method, credential, permission, tenant, media type, encoding; that a
//! tenant asks too often is said before all that follows its credential.
//! A request that may not be made learns nothing about what it asked for.

use std::net::IpAddr;
use std::sync::Arc;

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};

use crate::auth::credentials::{ActingError, AuthError, Credentials, Presented, Principal};
use crate::auth::delta::SYSTEM_TENANT;
use crate::auth::role::Permission;
use crate::catalog::notes::NoteKind;
use crate::handle::sources::{self, SourceEndpoint, V1_PREFIX};
use crate::handle::x402::Due;
use crate::limits::{BODY_BYTES_MAX, CONTROL_BODY_BYTES_MAX, EVENT_BYTES_MAX};
use crate::wire::http::{Head, Method, PlusSign, percent_decode};
use crate::wire::status::{ErrorCode, Problem};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    Source(SourceEndpoint),
    Query,
    /// What was sent and not stored.
    Rejects,
    /// What a tenant has used of what it may.
    Usage,
    Onboard,
    Health,
    Ready,
    Metrics,
    /// What is priced.
    PricedRoutes,
    Control(ControlEndpoint),
    Account(AccountEndpoint),
    /// OPTIONS of a path that answers to these.
    Methods(&'static str),
}

/// What is asked of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlEndpoint {
    CreateTenant,
    ListTenants,
    GetTenant,
    ChangeTenant,
    DeleteTenant,
    ActivateTenant,
    DeactivateTenant,
    TenantStats,
    GetQuotas,
    SetQuotas,
    MintKey,
    ListKeys,
    RotateKey,
    RevokeKey,
    RotateSelf,
    RevokeSelf,
    MakeApiKey,
    ListApiKeys,
    RevokeApiKey,
    ListWorkspaceApiKeys,
    RevokeWorkspaceApiKey,
    MakeStreamingKey,
    ListStreamingKeys,
    DeleteStreamingKey,
    ReadAudit,
    WhoAmI,
    LogOut,
    ListUsers,
    SetUserRole,
    DeleteUser,
}

/// What is asked of it without a credential, or with a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountEndpoint {
    SetUp,
    SetUpStatus,
    LogIn,
    Refresh,
    CreateUser,
}

/// What a route asks of a request's credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Open to all.
    Nothing,
    /// Any credential, for itself.
    Credential,
    /// The permission, in a tenant that holds events: the credential's own, or the one that an operator names.
    Tenant(Permission),
    /// The permission, in the credential's own tenant. An operator may name one, or none yet.
    Scope(Permission),
    /// The permission, by one who acts for others.
    Operator(Permission),
    /// Nothing from this machine itself, or one who acts for others.
    OwnMachine,
    /// Nothing from this machine itself, or the permission metrics in the system tenant: these numbers are of all tenants.
    Monitor,
}

/// Who makes a request for a tenant's events.
#[derive(Debug, Clone)]
pub struct Access {
    pub tenant: Tenant,
    pub tenant_id: Arc<str>,
    pub shard: ShardNumber,
    /// The credential, for everyone who has to ask again whether it is still good.
    pub slot: u32,
    pub generation: u32,
}

/// Who asks the control plane. It looks the credential up again.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub slot: u32,
    pub generation: u32,
    /// Where it acts. Absent for those who act for others and have named no tenant.
    pub tenant: Option<Tenant>,
}

#[derive(Debug, Clone)]
pub enum Who {
    Anyone,
    Tenant(Access),
    Caller(Caller),
}

/// A request that was let in.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub endpoint: Endpoint,
    /// What the audit log calls it.
    pub route: &'static str,
    pub who: Who,
    /// What stands in the path at the place of `{}`.
    pub target: Option<Box<str>>,
    /// A payment to be settled before it is carried out.
    pub due: Option<Box<Due>>,
}

/// Something about a request that the audit log must know.
#[derive(Debug, Clone, Copy)]
pub struct Noticed {
    pub kind: NoteKind,
    /// The credential, by slot and generation.
    pub credential: Option<(u32, u32)>,
    pub tenant: Option<Tenant>,
    pub route: &'static str,
    pub permission: Option<Permission>,
}

/// What is decided about a request, and what of it is worth a note.
pub struct Decided {
    /// Whose credential it has, if it has a good one: the request counts for that tenant, whatever becomes of it.
    pub tenant: Option<Tenant>,
    pub outcome: Result<(usize, Admitted), Problem>,
    pub noticed: Option<Noticed>,
}

pub struct Route {
    /// `{}` stands for one segment.
    pub path: &'static str,
    pub method: Method,
    pub endpoint: Endpoint,
    pub need: Need,
    body_bytes_max: usize,
    /// Whether the path has a `{}`: those that have none are found by a comparison.
    has_target: bool,
    /// What the path answers to, for refusals and OPTIONS.
    allow: &'static str,
    /// What the audit log calls it.
    name: &'static str,
}

const fn route(
    name: &'static str,
    path: &'static str,
    method: Method,
    allow: &'static str,
    need: Need,
    endpoint: Endpoint,
) -> Route {
    let body_bytes_max = match endpoint {
        Source(S::Event) => EVENT_BYTES_MAX,
        Source(_) => BODY_BYTES_MAX,
        _ => CONTROL_BODY_BYTES_MAX,
    };
    Route { path, method, endpoint, need, body_bytes_max, has_target: has_target(path), allow, name }
}

const fn has_target(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'{' {
            return true;
        }
        at += 1;
    }
    false
}

/// A route, told once: its method, its path, what the path answers to, what it needs, what it is.
macro_rules! routes {
    ($($word:literal $path:literal [$allow:literal] $need:expr => $endpoint:expr,)+) => {
        [$(route(concat!($word, " ", $path), $path, method($word), concat!($allow, ", OPTIONS"), $need, $endpoint),)+]
    };
}

const fn method(word: &str) -> Method {
    match word.as_bytes() {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        _ => panic!("a method that no route has"),
    }
}

use AccountEndpoint as A;
use ControlEndpoint as C;
use Endpoint::{Account, Control, Source};
use Permission::{Admin, ManageTenants, Read, Write};
use SourceEndpoint as S;

/// The one table. What data takes stands first: a path is looked for from the top.
pub const ROUTES: [Route; 50] = routes![
    "POST" "/api/v1/events" ["POST"] Need::Tenant(Write) => Source(S::Event),
    "POST" "/api/v1/events/batch" ["POST"] Need::Tenant(Write) => Source(S::EventBatch),
    "POST" "/v1/events" ["POST"] Need::Tenant(Write) => Source(S::Events),
    "POST" "/v1/logs" ["POST"] Need::Tenant(Write) => Source(S::Logs),
    "POST" "/v1/ingest" ["POST"] Need::Tenant(Write) => Source(S::Frame),
    "POST" "/otlp/v1/logs" ["POST"] Need::Tenant(Write) => Source(S::Otlp),
    "POST" "/ingest/ndjson" ["POST"] Need::Tenant(Write) => Source(S::Shipper),
    "GET" "/api/v1/events/query" ["GET, HEAD"] Need::Tenant(Read) => Endpoint::Query,
    "GET" "/api/v1/rejects" ["GET, HEAD"] Need::Tenant(Read) => Endpoint::Rejects,
    "GET" "/api/v1/usage" ["GET, HEAD"] Need::Tenant(Read) => Endpoint::Usage,
    "GET" "/health" ["GET, HEAD"] Need::Nothing => Endpoint::Health,
    "GET" "/ready" ["GET, HEAD"] Need::Nothing => Endpoint::Ready,
    "GET" "/metrics" ["GET, HEAD"] Need::Monitor => Endpoint::Metrics,
    "GET" "/x402/routes" ["GET, HEAD"] Need::Nothing => Endpoint::PricedRoutes,
    "POST" "/api/v1/onboard/start" ["POST"] Need::Nothing => Endpoint::Onboard,
    "POST" "/api/v1/tenants" ["GET, HEAD, POST"] Need::Operator(ManageTenants) => Control(C::CreateTenant),
    "GET" "/api/v1/tenants" ["GET, HEAD, POST"] Need::Operator(ManageTenants) => Control(C::ListTenants),
    "GET" "/api/v1/tenants/{}" ["GET, HEAD, PUT, DELETE"] Need::Operator(ManageTenants) => Control(C::GetTenant),
    "PUT" "/api/v1/tenants/{}" ["GET, HEAD, PUT, DELETE"] Need::Operator(ManageTenants) => Control(C::ChangeTenant),
    "DELETE" "/api/v1/tenants/{}" ["GET, HEAD, PUT, DELETE"] Need::Operator(ManageTenants) => Control(C::DeleteTenant),
    "GET" "/api/v1/tenants/{}/stats" ["GET, HEAD"] Need::Operator(ManageTenants) => Control(C::TenantStats),
    "GET" "/api/v1/tenants/{}/quotas" ["GET, HEAD, PUT"] Need::Operator(ManageTenants) => Control(C::GetQuotas),
    "PUT" "/api/v1/tenants/{}/quotas" ["GET, HEAD, PUT"] Need::Operator(ManageTenants) => Control(C::SetQuotas),
    "POST" "/api/v1/tenants/{}/activate" ["POST"] Need::Operator(ManageTenants) => Control(C::ActivateTenant),
    "POST" "/api/v1/tenants/{}/deactivate" ["POST"] Need::Operator(ManageTenants) => Control(C::DeactivateTenant),
    "POST" "/api/v1/teams/agent-keys" ["GET, HEAD, POST"] Need::Scope(Admin) => Control(C::MintKey),
    "GET" "/api/v1/teams/agent-keys" ["GET, HEAD, POST"] Need::Scope(Admin) => Control(C::ListKeys),
    "DELETE" "/api/v1/teams/agent-keys/{}" ["DELETE"] Need::Scope(Admin) => Control(C::RevokeKey),
    "POST" "/api/v1/teams/agent-keys/{}/rotate" ["POST"] Need::Scope(Admin) => Control(C::RotateKey),
    "DELETE" "/api/v1/auth/keys/self" ["DELETE"] Need::Credential => Control(C::RevokeSelf),
    "POST" "/api/v1/auth/keys/self/rotate" ["POST"] Need::Credential => Control(C::RotateSelf),
    "POST" "/api/v1/user/apikeys" ["GET, HEAD, POST"] Need::Scope(Read) => Control(C::MakeApiKey),
    "GET" "/api/v1/user/apikeys" ["GET, HEAD, POST"] Need::Scope(Read) => Control(C::ListApiKeys),
    "DELETE" "/api/v1/user/apikeys/{}" ["DELETE"] Need::Scope(Read) => Control(C::RevokeApiKey),
    "GET" "/api/v1/admin/apikeys" ["GET, HEAD"] Need::Scope(Admin) => Control(C::ListWorkspaceApiKeys),
    "DELETE" "/api/v1/admin/apikeys/{}" ["DELETE"] Need::Scope(Admin) => Control(C::RevokeWorkspaceApiKey),
    "POST" "/api/v1/admin/streaming-keys" ["GET, HEAD, POST"] Need::Scope(Admin) => Control(C::MakeStreamingKey),
    "GET" "/api/v1/admin/streaming-keys" ["GET, HEAD, POST"] Need::Scope(Admin) => Control(C::ListStreamingKeys),
    "DELETE" "/api/v1/admin/streaming-keys/{}" ["DELETE"] Need::Scope(Admin) => Control(C::DeleteStreamingKey),
    "GET" "/api/v1/audit/events" ["GET, HEAD"] Need::Scope(Admin) => Control(C::ReadAudit),
    "POST" "/api/v1/auth/login" ["POST"] Need::Nothing => Account(A::LogIn),
    "POST" "/api/v1/auth/refresh" ["POST"] Need::Nothing => Account(A::Refresh),
    "POST" "/api/v1/auth/logout" ["POST"] Need::Credential => Control(C::LogOut),
    "GET" "/api/v1/auth/me" ["GET, HEAD"] Need::Credential => Control(C::WhoAmI),
    "POST" "/api/v1/auth/setup" ["POST"] Need::OwnMachine => Account(A::SetUp),
    "GET" "/api/v1/auth/setup/status" ["GET, HEAD"] Need::Nothing => Account(A::SetUpStatus),
    "POST" "/api/v1/auth/users" ["GET, HEAD, POST"] Need::Scope(Admin) => Account(A::CreateUser),
    "GET" "/api/v1/auth/users" ["GET, HEAD, POST"] Need::Scope(Admin) => Control(C::ListUsers),
    "PUT" "/api/v1/auth/users/{}" ["PUT, DELETE"] Need::Scope(Admin) => Control(C::SetUserRole),
    "DELETE" "/api/v1/auth/users/{}" ["PUT, DELETE"] Need::Scope(Admin) => Control(C::DeleteUser),
];

impl Route {
    fn answers_to(&self, method: Method) -> bool {
        method == self.method || (method == Method::Head && self.method == Method::Get)
    }

    /// What stands in `path` at the place of `{}`, if the path is this route's.
    fn find<'a>(&self, path: &'a str) -> Option<Option<&'a str>> {
        if !self.has_target {
            return (self.path == path).then_some(None);
        }
        let (before, behind) = self.path.split_once("{}")?;
        let target = path.strip_prefix(before)?.strip_suffix(behind)?;
        (!target.is_empty() && !target.contains('/')).then_some(Some(target))
    }

    fn needs(&self) -> Option<Permission> {
        match self.need {
            Need::Nothing | Need::Credential | Need::OwnMachine => None,
            Need::Monitor => Some(Permission::Metrics),
            Need::Tenant(permission) | Need::Scope(permission) | Need::Operator(permission) => Some(permission),
        }
    }
}

/// Whether a method and a whole path, without a part that varies, are a route.
pub fn has(method: &str, path: &str) -> bool {
    ROUTES.iter().any(|route| !route.has_target && route.path == path && route.method.as_str() == method)
}

/// Lets a request in, with the largest body that it may have, or says why not.
pub fn admit(head: &Head<'_>, peer: IpAddr, credentials: &mut Credentials, now: Micros) -> Decided {
    let path = head.path();
    let mut at_path = ROUTES.iter().filter_map(|route| Some((route, route.find(path)?))).peekable();
    let Some((first, _)) = at_path.peek() else {
        return refused(Problem::new(ErrorCode::NotFound, "there is nothing at this path"), None);
    };
    let allow = first.allow;
    if head.method() == Method::Options {
        let admitted = Admitted {
            endpoint: Endpoint::Methods(allow),
            route: "OPTIONS",
            who: Who::Anyone,
            target: None,
            due: None,
        };
        return Decided { tenant: None, outcome: Ok((CONTROL_BODY_BYTES_MAX, admitted)), noticed: None };
    }
    let Some((route, target)) = at_path.find(|(route, _)| route.answers_to(head.method())) else {
        return refused(Problem::method_not_allowed(allow), None);
    };
    let mut tenant = None;
    let (who, noticed) = match authorize(head, peer, route, credentials, now, &mut tenant) {
        Ok(authorized) => authorized,
        Err(refusal) => return Decided { tenant, ..*refusal },
    };
    let content = match route.method {
        Method::Post | Method::Put => check_content(head, route.endpoint),
        _ => Ok(()),
    };
    let target = match target.map(|target| percent_decode(target, PlusSign::IsItself)) {
        None => None,
        Some(Some(target)) => Some(Box::from(&*target)),
        Some(None) => {
            let problem = Problem::new(ErrorCode::BadRequest, "the path is not percent-encoded UTF-8");
            return Decided { tenant, ..refused(problem, noticed) };
        }
    };
    let admitted = Admitted { endpoint: route.endpoint, route: route.name, who, target, due: None };
    Decided { tenant, outcome: content.map(|()| (route.body_bytes_max, admitted)), noticed }
}

fn refused(problem: Problem, noticed: Option<Noticed>) -> Decided {
    Decided { tenant: None, outcome: Err(problem), noticed }
}

/// Who makes the request, and whether the audit log wants to know. `whose` becomes the tenant of a good credential.
fn authorize(
    head: &Head<'_>,
    peer: IpAddr,
    route: &'static Route,
    credentials: &mut Credentials,
    now: Micros,
    whose: &mut Option<Tenant>,
) -> Result<(Who, Option<Noticed>), Box<Decided>> {
    let is_open = match route.need {
        Need::Nothing => true,
        Need::OwnMachine | Need::Monitor if presented(head).secret() != Err(AuthError::Missing) => false,
        Need::OwnMachine | Need::Monitor if is_from_this_machine(head, peer) => true,
        Need::OwnMachine | Need::Monitor => return Err(Box::new(refused(not_from_here(), None))),
        _ => false,
    };
    if is_open {
        return Ok((Who::Anyone, None));
    }
    let principal = authenticate(head, credentials, now).map_err(|(problem, is_attempt)| {
        let (kind, route) = (NoteKind::AuthenticationFailed, route.name);
        let noticed = Noticed { kind, credential: None, tenant: None, route, permission: None };
        Box::new(refused(problem, is_attempt.then_some(noticed)))
    })?;
    *whose = Some(principal.tenant);
    let (slot, generation) = (principal.slot, principal.generation);
    let notice = |kind, tenant| Noticed {
        kind,
        credential: Some((slot, generation)),
        tenant: Some(tenant),
        route: route.name,
        permission: route.needs(),
    };
    let denied = |problem| Box::new(refused(problem, Some(notice(NoteKind::PermissionDenied, principal.tenant))));
    if let Some(permission) = route.needs().filter(|permission| !principal.may(*permission)) {
        return Err(denied(no_permission(permission)));
    }
    let is_operator = principal.acts_for_others();
    if route.need == Need::OwnMachine {
        // It is about no tenant that a request could name.
        let who = Who::Caller(Caller { slot, generation, tenant: None });
        return if is_operator { Ok((who, None)) } else { Err(denied(not_an_operator())) };
    }
    if route.need == Need::Monitor {
        let is_watcher = principal.tenant == SYSTEM_TENANT;
        let who = Who::Caller(Caller { slot, generation, tenant: None });
        return if is_watcher { Ok((who, None)) } else { Err(denied(not_of_the_system())) };
    }
    let named = credentials.acting_tenant(&principal, head.x_tenant_id().map(text), head.x_workspace_id().map(text));
    let named = match named {
        Ok(row) => Some(row),
        Err(ActingError::Forbidden) => return Err(denied(tenant_forbidden())),
        // Not every route is about a tenant.
        Err(_) if matches!(route.need, Need::Operator(_) | Need::Credential) => None,
        // A suspended tenant has no events for anybody; its keys and its log are the operator's business.
        Err(ActingError::Suspended(tenant)) if matches!(route.need, Need::Scope(_)) => credentials.tenant(tenant),
        Err(ActingError::Unnamed) if matches!(route.need, Need::Scope(_)) => None,
        Err(error) => return Err(Box::new(refused(no_tenant(error), None))),
    };
    let caller = |tenant| Who::Caller(Caller { slot, generation, tenant });
    // A look at what is others', or at what only an admin may see. A change has a record of its own.
    let used = |tenant| (route.method == Method::Get).then(|| notice(NoteKind::AdminRightUsed, tenant));
    let tenant = named.map(|row| row.number);
    match route.need {
        Need::Nothing | Need::OwnMachine | Need::Monitor => unreachable!("such routes are decided above"),
        Need::Credential => Ok((caller(Some(principal.tenant)), None)),
        Need::Operator(_) if !is_operator => Err(denied(not_an_operator())),
        Need::Operator(_) => Ok((caller(None), used(principal.tenant))),
        Need::Scope(permission) => {
            // What everybody may see of what is theirs is no right to speak of.
            let is_special = is_operator || permission == Admin;
            let noticed = used(tenant.unwrap_or(principal.tenant)).filter(|_| is_special);
            Ok((caller(tenant), noticed))
        }
        Need::Tenant(_) => {
            let row = named.expect("a request that names no tenant is refused");
            if row.number == SYSTEM_TENANT {
                // It has no shard to hold an event.
                let message = "the system tenant has no events";
                return Err(Box::new(refused(Problem::new(ErrorCode::TenantForbidden, message), None)));
            }
            let access =
                Access { tenant: row.number, tenant_id: Arc::clone(&row.id), shard: row.shard, slot, generation };
            let noticed = is_operator.then(|| notice(NoteKind::AdminRightUsed, row.number));
            Ok((Who::Tenant(access), noticed))
        }
    }
}

/// Whose credential it is. The flag says that one was tried.
fn authenticate(head: &Head<'_>, credentials: &mut Credentials, now: Micros) -> Result<Principal, (Problem, bool)> {
    credentials.authenticate(presented(head), now).map_err(|error| match error {
        AuthError::Missing => (Problem::new(ErrorCode::Unauthorized, "a key is needed and none was sent"), false),
        AuthError::Conflicting => {
            (Problem::new(ErrorCode::Unauthorized, "two different keys were sent; send one"), true)
        }
        AuthError::Refused => (not_good(), true),
    })
}

fn presented<'a>(head: &Head<'a>) -> Presented<'a> {
    if head.path().starts_with(V1_PREFIX) {
        return Presented::by_precedence(head.authorization(), head.x_api_key(), head.query());
    }
    let mut presented = Presented::none();
    if let Some(value) = head.authorization() {
        presented = presented.authorization(value);
    }
    if let Some(value) = head.x_api_key() {
        presented = presented.api_key(value);
    }
    presented
}

/// What proxies add, and what a browser adds for a page: whoever asks then is not the one at the other end of the socket.
const ASKS_FOR_ANOTHER: [&str; 8] = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "Via",
    "CF-Connecting-IP",
    "Origin",
];

fn is_from_this_machine(head: &Head<'_>, peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback() && ASKS_FOR_ANOTHER.iter().all(|name| head.header(name).is_none())
}

fn not_from_here() -> Problem {
    let message = "without a key this is for the server's own machine, and not through a proxy";
    Problem::new(ErrorCode::Unauthorized, message).fix("ask from the server's own machine, or send the bootstrap key")
}

/// The one answer for a credential that is none, or none any more.
pub fn not_good() -> Problem {
    Problem::new(ErrorCode::Unauthorized, "the key is not known, or not good any more")
}

pub fn no_permission(permission: Permission) -> Problem {
    let message = format!("this needs the permission {}, which the key does not have", permission.name());
    Problem::new(ErrorCode::Forbidden, message).text("permission", permission.name())
}

pub fn not_an_operator() -> Problem {
    Problem::new(ErrorCode::Forbidden, "tenants are managed with the bootstrap key, or by an admin of system")
        .fix("use the bootstrap key, or a key with the role admin in the tenant system")
}

fn not_of_the_system() -> Problem {
    Problem::new(ErrorCode::Forbidden, "these numbers are of all tenants, and the key is one tenant's")
        .fix("ask from the server's own machine, or use a key of the tenant system, with the role readonly")
}

pub fn tenant_forbidden() -> Problem {
    Problem::new(ErrorCode::TenantForbidden, "the tenant that the request names is not the key's own")
}

pub fn no_tenant(error: ActingError) -> Problem {
    match error {
        ActingError::Forbidden => tenant_forbidden(),
        ActingError::Unknown => Problem::new(ErrorCode::NotFound, "the tenant that the request names does not exist"),
        ActingError::Unnamed => {
            Problem::new(ErrorCode::BadRequest, "this key acts for others: name the tenant by X-Tenant-ID")
                .fix("send the header X-Tenant-ID: ID, or X-Workspace-ID: ws-N")
        }
        ActingError::Suspended(_) => Problem::new(ErrorCode::TenantSuspended, "the tenant is suspended"),
    }
}

/// What is not text is nobody's name.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value).unwrap_or("\u{fffd}")
}

/// Bodies are JSON, as they are. A client that does not say so is believed: the body is validated anyway.
fn check_content(head: &Head<'_>, endpoint: Endpoint) -> Result<(), Problem> {
    // What is behind these looks for itself, or takes anything.
    if let Source(S::Events | S::Logs | S::Frame | S::Otlp | S::Shipper) = endpoint {
        return Ok(());
    }
    if let Some(content_type) = head.content_type() {
        let essence = content_type.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let is_json = essence.is_empty() || essence.eq_ignore_ascii_case(b"application/json");
        let is_lines = endpoint == Source(S::EventBatch) && sources::has_lines(head);
        if !is_json && !is_lines {
            return Err(Problem::unsupported_media_type("application/json"));
        }
    }
    if matches!(endpoint, Source(_)) {
        return Ok(());
    }
    match head.content_encoding() {
        Some(encoding) if !encoding.trim_ascii().eq_ignore_ascii_case(b"identity") && !encoding.is_empty() => {
            Err(Problem::unsupported_encoding("identity"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
