//! What a caller asks of the control plane, what comes back, and the one way from the one to the other.
//! Must never: act on what a core knew of the caller. The caller is looked up again, where every change is known.
//!
//! ```text
//! Command ─► authority ─► tenants | agent_keys | programmatic_keys | streaming_keys | users | audit ─► commit ─► Answer
//! ```

use std::net::IpAddr;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{CredentialKind, SYSTEM_TENANT, SYSTEM_TENANT_ID, TenantState};
use crate::auth::role::{Permission, Permissions, Role};
use crate::auth::secret::Secret;
use crate::catalog::accounts::LoggedIn;
use crate::catalog::audit::{AuditPage, AuditQuery};
use crate::catalog::control::{ChangeError, Control, OnboardError, Onboarded};
use crate::catalog::log::{CatalogError, CatalogLog};
use crate::catalog::name::Name;
use crate::catalog::programmatic_keys::{AskProgrammatic, DoneProgrammatic};
use crate::catalog::records::{Body, Origin};
use crate::catalog::state::{StateError, TenantEntry};
use crate::catalog::streaming_keys::{AskStreaming, DoneStreaming};
use crate::catalog::tiers::{Overrides, Tier};
use crate::catalog::users::Person;

/// Who asks, from where, and when.
#[derive(Debug, Clone)]
pub struct Call {
    /// The credential, as the core let it in.
    pub slot: u32,
    pub generation: u32,
    pub source: IpAddr,
    pub request_id: String,
    pub at: Micros,
}

#[derive(Debug, Clone)]
pub struct Command {
    pub call: Call,
    pub what: What,
}

/// Tenants are named by their id, or as `ws-N`.
#[derive(Debug, Clone)]
pub enum What {
    CreateTenant {
        id: String,
        name: Name,
        tier: Tier,
    },
    ListTenants {
        after: u32,
        limit: usize,
    },
    GetTenant {
        named: String,
    },
    ChangeTenant {
        named: String,
        name: Option<Name>,
        tier: Option<Tier>,
    },
    SetTenantState {
        named: String,
        state: TenantState,
    },
    /// `confirm` is its id, once more.
    DeleteTenant {
        named: String,
        confirm: String,
    },
    SetQuotas {
        named: String,
        overrides: Overrides,
    },
    TenantStats {
        named: String,
    },
    GetQuotas {
        named: String,
    },
    MintKey {
        whose: Whose,
        name: Name,
        role: Role,
        expires_in_days: Option<u32>,
    },
    ListKeys {
        whose: Whose,
    },
    RotateKey {
        whose: Whose,
        name: String,
        grace_seconds: u32,
    },
    RevokeKey {
        whose: Whose,
        name: String,
    },
    RotateSelf {
        grace_seconds: u32,
    },
    RevokeSelf,
    Programmatic(AskProgrammatic),
    Streaming(AskStreaming),
    ReadAudit {
        tenant: Option<Tenant>,
        query: AuditQuery,
    },
    WhoAmI,
    LogOut,
    ListUsers {
        whose: Whose,
        after: u32,
        limit: usize,
    },
    /// A user that cannot be anybody is `None`.
    SetUserRole {
        whose: Whose,
        user: Option<u32>,
        role: Role,
    },
    DeleteUser {
        whose: Whose,
        user: Option<u32>,
    },
}

/// For which tenant something is meant.
#[derive(Debug, Clone, Default)]
pub struct Whose {
    /// By the credential, or by a header.
    pub tenant: Option<Tenant>,
    /// By the body.
    pub named: Option<String>,
}

/// What a caller is told of a key. The key itself only when it is made.
#[derive(Debug, Clone)]
pub struct KeyView {
    pub number: u64,
    pub name: String,
    pub role: Role,
    pub created_at: Micros,
    pub expires_at: Option<Micros>,
    pub replaced_by: Option<u64>,
    pub is_expired: bool,
}

#[derive(Debug, Clone)]
pub struct Minted {
    pub api_key: Secret,
    pub view: KeyView,
    pub tenant_id: String,
    /// The key that this one replaces, and when that one ends: at once, if nothing is said.
    pub replaces: Option<(u64, Option<Micros>)>,
}

/// What was asked for has happened.
#[derive(Debug, Clone)]
pub enum Done {
    Onboarded(Onboarded),
    Tenant(Box<TenantEntry>),
    Tenants { tenants: Vec<TenantEntry>, next: Option<u32> },
    Stats { tenant: Box<TenantEntry>, keys: usize, streaming_keys: usize },
    Minted(Minted),
    Keys(Vec<KeyView>),
    Programmatic(DoneProgrammatic),
    Streaming(DoneStreaming),
    Audit(AuditPage),
    LoggedIn(Box<LoggedIn>),
    Refreshed { token: Secret, expires_at: Micros },
    SetUpNeeded(bool),
    Person(Box<Person>),
    People { people: Vec<Person>, total: usize, next: Option<u32> },
    Revoked,
}

/// What was asked for has not happened, but for `OutcomeUnknown`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Onboard(OnboardError),
    /// The credential has ended on the way.
    Unauthorized,
    /// The credential does not have it.
    Permission(Permission),
    /// Only those who act for others may.
    NotAnOperator,
    /// A key of this kind ends where it was made.
    NotHere(CredentialKind),
    RoleAboveOwn,
    /// A key was to have a permission that its giver does not have.
    BeyondOwn(Permission),
    /// A key was to end later than the one that gives it, or never.
    OutlivesOwn {
        ends_at: Micros,
    },
    TenantForbidden,
    TenantUnnamed,
    NotConfirmed,
    NoTenant,
    NoKey,
    /// Told as `NoKey`: there is one, and it is not the caller's to end.
    OthersKey,
    TenantExists,
    KeyExists,
    /// More than one key has this name.
    AmbiguousKey,
    /// A streaming key cannot have this name.
    KeyName,
    /// The key file cannot be read or changed, and was not.
    KeysFile,
    /// The key that is to be rotated has been replaced, and lives on for its grace only.
    KeyReplaced,
    TooManyKeys {
        limit: usize,
    },
    RateLimited {
        retry_after_seconds: u64,
    },
    /// Unknown name, wrong password, closed tenant: one answer for all.
    InvalidCredentials,
    /// The token that is to be refreshed is not good, or not any more.
    TokenRefused,
    AlreadySetUp,
    /// Only a session is logged out.
    NotASession,
    NoUser,
    /// Told as `NoUser`: there is one, in another tenant.
    OthersUser,
    /// The address or the name has an account.
    UserExists,
    TooManyUsers {
        limit: usize,
    },
    /// Nobody deletes themselves, or changes their own role.
    Oneself,
    /// One person's sessions began or went on too often.
    TooManyLogins {
        retry_after_seconds: u64,
    },
    /// Too many passwords wait to be checked.
    Busy,
    /// Nothing more fits, or the disk has no room. Nothing was changed.
    Full,
    /// The catalog's log cannot be read back.
    Unreadable,
    /// It may be stored, and is not known everywhere. A restart decides.
    OutcomeUnknown,
}

impl Refused {
    /// Whether somebody reached for what is not theirs, which the audit log has to know.
    pub fn is_denial(&self) -> bool {
        matches!(
            self,
            Refused::Permission(_)
                | Refused::NotAnOperator
                | Refused::RoleAboveOwn
                | Refused::BeyondOwn(_)
                | Refused::OutlivesOwn { .. }
                | Refused::TenantForbidden
                | Refused::OthersKey
                | Refused::OthersUser
        )
    }
}

pub type Answer = Result<Done, Refused>;

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Refused {
        match error {
            ChangeError::State(StateError::NoSuchTenant | StateError::TenantDeleted) => Refused::NoTenant,
            ChangeError::State(StateError::TenantIdTaken) => Refused::TenantExists,
            ChangeError::State(StateError::NoSuchKey | StateError::AlreadyRevoked) => Refused::NoKey,
            ChangeError::State(StateError::UserTaken) => Refused::UserExists,
            ChangeError::State(StateError::NoSuchUser) => Refused::NoUser,
            ChangeError::State(StateError::NoSuchSession) => Refused::TokenRefused,
            ChangeError::State(_) | ChangeError::Log(CatalogError::Full) => Refused::Full,
            ChangeError::Log(_) | ChangeError::Latched => Refused::OutcomeUnknown,
        }
    }
}

/// What a caller may do, as of all that has been changed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Authority {
    pub key: u64,
    pub tenant: u32,
    pub kind: CredentialKind,
    pub permissions: Permissions,
}

impl Authority {
    pub fn is_operator(&self) -> bool {
        self.tenant == SYSTEM_TENANT.0 && self.permissions.contains(Permission::Admin)
    }

    pub fn needs(&self, permission: Permission) -> Result<(), Refused> {
        if self.permissions.contains(permission) { Ok(()) } else { Err(Refused::Permission(permission)) }
    }

    /// Tenants are the operators' business, whatever an admin of one of them is called.
    pub fn needs_operator(&self) -> Result<(), Refused> {
        self.needs(Permission::ManageTenants)?;
        if self.is_operator() { Ok(()) } else { Err(Refused::NotAnOperator) }
    }
}

impl<L: CatalogLog> Control<L> {
    /// Does what is asked, if the caller may. A change is durable when it returns; no core has heard of it yet.
    pub fn carry_out(&mut self, command: &Command) -> Answer {
        let call = &command.call;
        let by = self.authority(call)?;
        match &command.what {
            What::CreateTenant { id, name, tier } => self.create_tenant(by, call, id, name, *tier),
            What::ListTenants { after, limit } => self.list_tenants(by, *after, *limit),
            What::GetTenant { named } => self.get_tenant(by, named),
            What::ChangeTenant { named, name, tier } => self.change_tenant(by, call, named, name.as_ref(), *tier),
            What::SetTenantState { named, state } => self.set_tenant_state(by, call, named, *state),
            What::DeleteTenant { named, confirm } => self.delete_tenant(by, call, named, confirm),
            What::SetQuotas { named, overrides } => self.set_quotas(by, call, named, *overrides),
            What::TenantStats { named } => self.tenant_stats(by, named, call.at),
            What::GetQuotas { named } => self.get_quotas(by, named),
            What::MintKey { whose, name, role, expires_in_days } => {
                self.mint_key(by, call, whose, name, *role, *expires_in_days)
            }
            What::ListKeys { whose } => self.list_keys(by, whose, call.at),
            What::RotateKey { whose, name, grace_seconds } => self.rotate_key(by, call, whose, name, *grace_seconds),
            What::RevokeKey { whose, name } => self.revoke_key(by, call, whose, name),
            What::RotateSelf { grace_seconds } => self.rotate_self(by, call, *grace_seconds),
            What::RevokeSelf => self.revoke_self(by, call),
            What::Programmatic(ask) => self.programmatic(by, call, ask),
            What::Streaming(ask) => self.streaming(by, call, ask),
            What::ReadAudit { tenant, query } => self.read_audit(by, *tenant, query).map(Done::Audit),
            What::WhoAmI => self.who_am_i(by),
            What::LogOut => self.log_out(by, call),
            What::ListUsers { whose, after, limit } => self.list_users(by, whose, *after, *limit),
            What::SetUserRole { whose, user, role } => self.set_user_role(by, call, whose, *user, *role),
            What::DeleteUser { whose, user } => self.delete_user(by, call, whose, *user),
        }
    }

    /// The core has asked the same, a moment ago and by what it knew then.
    pub(super) fn authority(&self, call: &Call) -> Result<Authority, Refused> {
        let state = self.state();
        let entry = state.key_in(call.slot, call.generation).filter(|entry| entry.is_live(call.at));
        let entry = entry.ok_or(Refused::Unauthorized)?;
        let (made, permissions) = (&entry.made, entry.permissions());
        let is_active = made.tenant == SYSTEM_TENANT.0
            || state.tenant(Tenant(made.tenant)).is_some_and(|tenant| tenant.state == TenantState::Active);
        if !is_active {
            return Err(Refused::Unauthorized);
        }
        Ok(Authority { key: made.key, tenant: made.tenant, kind: made.kind, permissions })
    }

    pub(super) fn commit_for(&mut self, by: Authority, call: &Call, body: Body) -> Result<(), Refused> {
        // Never a revocation: who makes many changes must not keep another from ending their key. Each needs something
        // that was made, so that they are as few as that.
        if !matches!(body, Body::KeyRevoked(_) | Body::SessionEnded(_) | Body::UserDeleted(_)) {
            self.admit_change(by, call)?;
        }
        self.commit_as(by, call, body)
    }

    /// Counts a change against the caller's tenant.
    pub(super) fn admit_change(&mut self, by: Authority, call: &Call) -> Result<(), Refused> {
        if by.is_operator() {
            return Ok(());
        }
        let admitted = self.changes.admit(by.tenant, call.at);
        admitted.map_err(|retry_after_seconds| Refused::RateLimited { retry_after_seconds })
    }

    /// In the caller's name, and uncounted.
    pub(super) fn commit_as(&mut self, by: Authority, call: &Call, body: Body) -> Result<(), Refused> {
        let actor = self.state().actor_of(by.key);
        let origin = Origin { actor, source: Some(call.source), request_id: Some(call.request_id.clone()) };
        self.commit(body, origin, call.at).map_err(Refused::from)
    }

    /// The tenant that something is meant for. One that the caller may not act for must look like one that is not there.
    pub(super) fn target(&self, by: Authority, whose: &Whose) -> Result<Tenant, Refused> {
        let named = whose.named.as_deref().map(|name| self.tenant_or_system(name));
        if !by.is_operator() {
            let own = Tenant(by.tenant);
            let is_own = |tenant: Option<Tenant>| tenant == Some(own);
            let matches = whose.tenant.is_none_or(|tenant| tenant == own) && named.is_none_or(is_own);
            return if matches { Ok(own) } else { Err(Refused::TenantForbidden) };
        }
        let tenant = match (whose.tenant, named) {
            (None, None) => return Err(Refused::TenantUnnamed),
            (Some(tenant), None) => tenant,
            (None, Some(named)) => named.ok_or(Refused::NoTenant)?,
            (Some(tenant), Some(named)) if named == Some(tenant) => tenant,
            (Some(_), Some(_)) => return Err(Refused::TenantForbidden),
        };
        if tenant == SYSTEM_TENANT {
            return Ok(tenant);
        }
        // Also a suspended one: whoever suspends a tenant may want to see to its keys before it is activated.
        match self.state().tenant(tenant).map(|entry| entry.state) {
            Some(TenantState::Active | TenantState::Suspended) => Ok(tenant),
            Some(TenantState::Deleting) | None => Err(Refused::NoTenant),
        }
    }

    fn tenant_or_system(&self, name: &str) -> Option<Tenant> {
        if name == SYSTEM_TENANT_ID {
            return Some(SYSTEM_TENANT);
        }
        self.state().tenant_named(name).map(|entry| Tenant(entry.made.number))
    }
}

#[cfg(test)]
pub(super) mod tests;
