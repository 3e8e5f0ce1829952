//! Requests to the control plane: a body and a path become a command, and what came of it becomes an answer.
//!
//! Owns the one way there and back; what tenants, keys and the audit log look like has a file each. Must never: let an
//! answer with a key into a cache, or tell more of another tenant's things than of what is not there.

use std::net::IpAddr;

use ringlog_engine::ids::Micros;
use serde_json::Value;

use crate::auth::delta::CredentialKind;
use crate::catalog::command::{Answer, Call, Command, Done, Refused};
use crate::handle::onboard;
use crate::handle::routes::{self, Caller, ControlEndpoint};
use crate::handle::{accounts, agent_keys, apikeys, audit, body, streaming_keys, tenants, users};
use crate::limits::TENANT_CHANGES_PER_MINUTE_MAX;
use crate::wire::response::{ContentType, HeaderValue, ReplyTo, Response};
use crate::wire::status::{ErrorCode, Problem};

/// A request that was let in, as its handler sees it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    pub endpoint: ControlEndpoint,
    pub caller: Caller,
    /// What the path names.
    pub target: &'a str,
    pub query: Option<&'a str>,
    pub body: &'a [u8],
}

pub fn read(asking: &Asking<'_>, source: IpAddr, reply: &ReplyTo, at: Micros) -> Result<Command, Problem> {
    use ControlEndpoint as C;
    let what = match asking.endpoint {
        C::CreateTenant
        | C::ListTenants
        | C::GetTenant
        | C::ChangeTenant
        | C::DeleteTenant
        | C::ActivateTenant
        | C::DeactivateTenant
        | C::TenantStats
        | C::GetQuotas
        | C::SetQuotas => tenants::read(asking)?,
        C::MintKey | C::ListKeys | C::RotateKey | C::RevokeKey | C::RotateSelf | C::RevokeSelf => {
            agent_keys::read(asking)?
        }
        C::MakeApiKey | C::ListApiKeys | C::RevokeApiKey | C::ListWorkspaceApiKeys | C::RevokeWorkspaceApiKey => {
            apikeys::read(asking, at)?
        }
        C::MakeStreamingKey | C::ListStreamingKeys | C::DeleteStreamingKey => streaming_keys::read(asking)?,
        C::ReadAudit => audit::read(asking)?,
        C::WhoAmI | C::LogOut | C::ListUsers | C::SetUserRole | C::DeleteUser => users::read(asking)?,
    };
    let Caller { slot, generation, .. } = asking.caller;
    let call = Call { slot, generation, source, request_id: reply.request_id.as_str().to_owned(), at };
    Ok(Command { call, what })
}

/// Whether what comes behind it on a connection may depend on it.
pub fn is_change(endpoint: ControlEndpoint) -> bool {
    use ControlEndpoint as C;
    !matches!(
        endpoint,
        C::ListTenants
            | C::GetTenant
            | C::TenantStats
            | C::GetQuotas
            | C::ListKeys
            | C::ListApiKeys
            | C::ListWorkspaceApiKeys
            | C::ListStreamingKeys
            | C::ReadAudit
            | C::WhoAmI
            | C::ListUsers
    )
}

/// Appends the whole answer.
pub fn answer(out: &mut Vec<u8>, reply: &ReplyTo, endpoint: ControlEndpoint, answer: &Answer) {
    use ControlEndpoint as C;
    let done = match answer {
        Ok(done) => done,
        Err(refused) => return problem(refused).respond(out, reply),
    };
    let body = match done {
        // Without what is used: a change that was made must not fail for what else could be told.
        Done::Tenant(tenant) if endpoint == C::SetQuotas => tenants::quotas(tenant),
        Done::Tenant(tenant) => tenants::tenant(tenant),
        Done::Tenants { tenants, next } => tenants::list(tenants, *next),
        Done::Minted(minted) => agent_keys::minted(minted),
        Done::Keys(keys) => agent_keys::list(keys),
        Done::Programmatic(done) => {
            let (status, body) = apikeys::answer(done);
            return put_bytes(out, reply, status, &body);
        }
        Done::Streaming(done) => streaming_keys::body(done),
        Done::Audit(page) => audit::page(page),
        Done::Person(person) => users::person(person),
        Done::People { people, total, next } => users::list(people, *total, *next),
        Done::Revoked => {
            let mut response = Response::begin(out, 204, reply);
            response.header("Cache-Control", &HeaderValue::from_static("no-store"));
            return response.without_body();
        }
        Done::Onboarded(_) | Done::Stats { .. } | Done::LoggedIn(_) | Done::Refreshed { .. } | Done::SetUpNeeded(_) => {
            unreachable!("these have answers of their own")
        }
    };
    let status = match endpoint {
        C::CreateTenant | C::MintKey | C::RotateKey | C::RotateSelf | C::MakeStreamingKey => 201,
        // What it held goes later.
        C::DeleteTenant => 202,
        _ => 200,
    };
    put(out, reply, status, &body);
}

/// Appends the whole answer.
pub(super) fn put(out: &mut Vec<u8>, reply: &ReplyTo, status: u16, body: &Value) {
    put_bytes(out, reply, status, body.to_string().as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, reply: &ReplyTo, status: u16, body: &[u8]) {
    let mut response = Response::begin(out, status, reply);
    response.content_type(ContentType::Json).header("Cache-Control", &HeaderValue::from_static("no-store"));
    response.with_body(body);
}

/// Why something was not done, as its caller is told.
pub fn problem(refused: &Refused) -> Problem {
    let forbidden = |message: &'static str| Problem::new(ErrorCode::Forbidden, message);
    match refused {
        Refused::Onboard(error) => onboard::refused(*error),
        Refused::Unauthorized => routes::not_good(),
        Refused::Permission(permission) => routes::no_permission(*permission),
        Refused::NotAnOperator => routes::not_an_operator(),
        Refused::NotHere(CredentialKind::Session) => forbidden("a session is not a key").fix("log out instead"),
        Refused::NotHere(_) => forbidden("a key of this kind is changed where it was made")
            .fix("change a streaming key in the key file, and the bootstrap key in the configuration"),
        Refused::RoleAboveOwn => forbidden("the role has permissions that the key does not have")
            .fix("ask for a role with no more permissions than your own"),
        Refused::BeyondOwn(permission) => {
            let message =
                format!("a key cannot have {}, which the key that asks for it does not have", permission.name());
            Problem::new(ErrorCode::Forbidden, message)
                .text("permission", permission.name())
                .fix("ask for permissions of your own, or for none to have what you have")
        }
        Refused::OutlivesOwn { ends_at } => {
            let ends_at = tenants::moment(*ends_at);
            let message = format!("a key cannot outlive the key that gives it, which ends at {ends_at}");
            Problem::new(ErrorCode::Forbidden, message).text("expires_at_max", ends_at).fix(
                "ask for an earlier end or for none to have your own, or ask with a session or a key that ends no earlier; \
                 what lasts longer than you do can rotate itself",
            )
        }
        Refused::TenantForbidden => routes::tenant_forbidden(),
        Refused::TenantUnnamed => routes::no_tenant(crate::auth::credentials::ActingError::Unnamed)
            .fix("send the header X-Tenant-ID: ID, or tenant_id in the body"),
        Refused::NotConfirmed => {
            Problem::new(ErrorCode::InvalidParameter, "a tenant is deleted only if its id is repeated")
                .text("param", "confirm")
                .fix("repeat the tenant's id: ?confirm=ID")
        }
        Refused::NoTenant => Problem::new(ErrorCode::NotFound, "there is no such tenant"),
        Refused::NoKey | Refused::OthersKey => Problem::new(ErrorCode::NotFound, "there is no such key"),
        Refused::TenantExists => Problem::new(ErrorCode::AlreadyExists, "a tenant with this id exists already"),
        Refused::KeyExists => Problem::new(ErrorCode::AlreadyExists, "a key with this name exists already")
            .fix("choose another name, or rotate the key that has it"),
        Refused::AmbiguousKey => Problem::new(ErrorCode::AlreadyExists, "several keys have this name")
            .fix("name the key by its id, which the list shows"),
        Refused::KeyName => body::invalid("name", "a streaming key cannot have this name")
            .fix("send 1 to 100 characters, none of them a control character"),
        Refused::KeysFile => Problem::new(ErrorCode::Internal, "the key file could not be changed, and was not")
            .fix("ask the operator to look into the server's log"),
        Refused::KeyReplaced => Problem::new(ErrorCode::AlreadyExists, "the key has been rotated already")
            .fix("use the key that replaced it"),
        Refused::TooManyKeys { limit } => {
            Problem::new(ErrorCode::QuotaExceeded, "the tenant has as many keys as it can")
                .fix("revoke keys that are not used")
                .number("limit", *limit as u64)
        }
        Refused::RateLimited { retry_after_seconds } => {
            Problem::new(ErrorCode::RateLimited, "the tenant's keys were changed too often")
                .retry_after(u32::try_from(*retry_after_seconds).unwrap_or(u32::MAX))
                .text("scope", "tenant")
                .rate_limit(
                    format!("\"changes\";r=0;t={retry_after_seconds}"),
                    format!("\"changes\";q={TENANT_CHANGES_PER_MINUTE_MAX};w=60"),
                )
        }
        Refused::InvalidCredentials => accounts::invalid_credentials(),
        Refused::TokenRefused => accounts::refused_token(),
        Refused::AlreadySetUp => Problem::new(ErrorCode::AlreadyExists, "the set-up is done already")
            .fix("log in, or have an admin make you a user"),
        Refused::NotASession => forbidden("only a session is logged out")
            .fix("end a key with DELETE /api/v1/auth/keys/self, or in the key file"),
        Refused::NoUser | Refused::OthersUser => Problem::new(ErrorCode::NotFound, "there is no such user"),
        Refused::UserExists => Problem::new(ErrorCode::AlreadyExists, "the address or the user name has an account"),
        Refused::TooManyUsers { limit } => {
            Problem::new(ErrorCode::QuotaExceeded, "the tenant has as many users as it can")
                .fix("delete users that are not there any more")
                .number("limit", *limit as u64)
        }
        Refused::Oneself => {
            forbidden("nobody deletes themselves, or changes their own role").fix("have another admin do it")
        }
        Refused::TooManyLogins { retry_after_seconds } => {
            Problem::new(ErrorCode::RateLimited, "this user logged in or refreshed too often")
                .retry_after(u32::try_from(*retry_after_seconds).unwrap_or(u32::MAX))
                .text("scope", "user")
        }
        Refused::Busy => Problem::overloaded("too many passwords wait to be checked"),
        Refused::Full => Problem::new(ErrorCode::StorageFull, "there is no room for another change"),
        Refused::Unreadable => Problem::new(ErrorCode::DataDamaged, "the audit log cannot be read back")
            .fix("ask the operator to run `ringlog audit verify`"),
        Refused::OutcomeUnknown => {
            Problem::new(ErrorCode::OutcomeUnknown, "the change may or may not have been made").text("scope", "catalog")
        }
    }
}

/// The control plane has more to do than it can.
pub fn busy() -> Problem {
    Problem::overloaded("too many changes wait to be made")
}
