//! What the control plane tells every core: whole rows to put in place, under a rising epoch.
//! A change carries everything that its row holds, so that applying it twice is applying it once.

use std::sync::Arc;

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};
use ringlog_engine::shard::Limits;

use crate::auth::jwt::VerifyingKeys;
use crate::auth::role::{Permission, Permissions, Role};
use crate::auth::secret::Digest;

/// The tenant of those who act for others. It has no events and no shard; the engine's tenants count from 1.
pub const SYSTEM_TENANT: Tenant = Tenant(0);
pub const SYSTEM_TENANT_ID: &str = "system";

#[derive(Debug, Clone, Default)]
pub struct Delta {
    pub epoch: u64,
    pub changes: Vec<Change>,
}

#[derive(Debug, Clone)]
pub enum Change {
    Tenant(TenantRow),
    /// Nothing is left of it. Its number is never another's.
    TenantGone(Tenant),
    Credential(CredentialRow),
    /// Replaces all signing keys: tokens under a key that is not in here are refused.
    SigningKeys(Arc<VerifyingKeys>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantRow {
    pub number: Tenant,
    pub id: Arc<str>,
    pub state: TenantState,
    pub shard: ShardNumber,
    pub quotas: Quotas,
}

/// What a tenant may use; `None` is without limit. Whoever admits its events counts those; requests count where they come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    pub events_per_month: Option<u64>,
    pub stored_bytes: Option<u64>,
    pub requests_per_second: Option<u64>,
}

impl Quotas {
    pub const UNLIMITED: Quotas = Quotas { events_per_month: None, stored_bytes: None, requests_per_second: None };

    /// What the owner of the tenant's shard holds its batches against.
    pub fn limits(&self) -> Limits {
        Limits { events_per_month: self.events_per_month, stored_bytes: self.stored_bytes }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantState {
    Active,
    Suspended,
    /// It is on its way out: for everyone but the control plane, and those who remove what it has stored, it is gone.
    Deleting,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialRow {
    pub slot: u32,
    /// Rises each time the slot gets another credential, so that an old pointer to it finds nothing.
    pub generation: u32,
    /// Its number in the catalog.
    pub key: u64,
    pub tenant: Tenant,
    pub role: Role,
    pub kind: CredentialKind,
    /// What it may do at most, whatever its role and its kind.
    pub scope: Permissions,
    pub state: CredentialState,
    pub expires_at: Option<Micros>,
    /// SHA-256 of a token's `jti`, or of the whole secret where there is no token.
    pub proof: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    Jwt,
    Streaming,
    Bootstrap,
    /// Of a person who has logged in.
    Session,
    /// `tell_` and 32 hex digits: it does what its creator may do, or less.
    Programmatic,
}

impl CredentialKind {
    /// In the order of the variants.
    pub const ALL: [CredentialKind; 5] = [
        CredentialKind::Jwt,
        CredentialKind::Streaming,
        CredentialKind::Bootstrap,
        CredentialKind::Session,
        CredentialKind::Programmatic,
    ];

    /// What a credential of this kind can do at most, whatever its role. Streaming keys lie in apps that people
    /// take apart: they write and nothing else.
    pub const fn ceiling(self) -> Permissions {
        match self {
            CredentialKind::Jwt
            | CredentialKind::Bootstrap
            | CredentialKind::Session
            | CredentialKind::Programmatic => Permissions::ALL,
            CredentialKind::Streaming => Permissions::of(&[Permission::Write]),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialState {
    Active,
    Revoked,
}
