//! What a record can say: one struct for each kind, and the one table of their names.
//! A kind is never changed: what is new is a field that may be absent, or a kind of its own. Must never: hold a secret.

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::auth::delta::{CredentialKind, TenantState};
use crate::auth::programmatic::KeyId;
use crate::auth::role::{Permission, Role};
use crate::auth::secret::Digest;
use crate::catalog::people_records::{
    SessionEnded, SessionRefreshed, SessionStarted, UserCreated, UserDeleted, UserRoleSet,
};
use crate::catalog::records::{Actor, Outcome, RecordError, hex_digest};
use crate::catalog::tiers::{Overrides, Tier};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    SigningSecretCreated(SigningSecretCreated),
    /// Tokens under it are refused from here on.
    SigningSecretRetired(SigningSecretRetired),
    TenantCreated(TenantCreated),
    TenantChanged(TenantChanged),
    TenantStateSet(TenantStateSet),
    /// Replaces every override that was there before.
    TenantQuotasSet(TenantQuotasSet),
    /// Takes every key of the tenant with it. What it has stored is removed from here on.
    TenantDeleted(TenantDeleted),
    /// Nothing that it has stored is there any more. Its id and address can be another's, its number never.
    TenantErased(TenantErased),
    KeyMinted(NewKey),
    KeyRotated(KeyRotated),
    KeyRevoked(KeyRevoked),
    ProgrammaticKeyMinted(ProgrammaticKeyMinted),
    /// When keys were used last, as far as it was known.
    KeysUsed(KeysUsed),
    /// Replaces the bootstrap key that was there before.
    BootstrapKeySet(NewKey),
    UserCreated(UserCreated),
    UserRoleSet(UserRoleSet),
    UserDeleted(UserDeleted),
    SessionStarted(SessionStarted),
    SessionRefreshed(SessionRefreshed),
    SessionEnded(SessionEnded),
    /// Someone was told that they may not.
    PermissionDenied(Noted),
    /// Credentials that were none, again and again from one address.
    AuthenticationFailed(Noted),
    /// A right over others was used to look at something.
    AdminRightUsed(Noted),
    /// A record of a later version, which says of itself that it may be passed over.
    Skipped {
        kind: String,
    },
}

/// The name of a signing secret. The secret itself never comes here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningSecretCreated {
    pub kid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningSecretRetired {
    pub kid: String,
}

/// A tenant and its first key are one record: a crash cannot leave a tenant that nobody has a key for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantCreated {
    pub number: u32,
    pub id: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    pub tier: String,
    /// What its tier allowed when it was made. The tier decides, not this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events_quota: Option<u64>,
    pub shard: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<NewKey>,
}

/// What is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantChanged {
    pub tenant: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantStateSet {
    pub tenant: u32,
    /// Deletion has a kind of its own.
    pub state: TenantState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantQuotasSet {
    pub tenant: u32,
    pub overrides: Overrides,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantDeleted {
    pub tenant: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantErased {
    pub tenant: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// Of this key, from 1, never reused.
    pub key: u64,
    pub slot: u32,
    pub generation: u32,
    pub tenant: u32,
    pub kind: CredentialKind,
    pub role: Role,
    pub name: String,
    #[serde(with = "hex_digest")]
    pub proof: Digest,
    /// Microseconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// The new key and the end of the old one are one record: no crash leaves a tenant with neither.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRotated {
    pub old: u64,
    /// When the old key ends, in microseconds since the epoch. Absent: it is revoked by this record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_expires_at: Option<i64>,
    pub new: NewKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRevoked {
    pub key: u64,
}

/// A key that lives by its creator: it has no more than that one's role, and ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgrammaticKeyMinted {
    /// The role is the creator's at that moment.
    pub key: NewKey,
    pub id: KeyId,
    /// Its first characters, for people.
    pub prefix: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether a workspace was named for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_workspace: bool,
    /// Absent: everything that its creator may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<Permission>>,
    /// The credential that it was asked for with.
    pub creator: Actor,
}

/// Key numbers and microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysUsed {
    pub used: Vec<(u64, i64)>,
}

/// Something that was noticed and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// Whose business it is; absent: the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<u32>,
    /// The route's own text, never the client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// How often since the record before it of the same kind, actor and route.
    pub count: u64,
    /// Notes of any kind that the rate did not let through before this one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u64,
}

fn hide_proofs(value: &mut serde_json::Value) {
    if let serde_json::Value::Object(members) = value {
        members.remove("proof");
        members.remove("password_hash");
        members.values_mut().for_each(hide_proofs);
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Body {
    pub fn kind(&self) -> &str {
        match self {
            Body::SigningSecretCreated(_) => "signing_secret_created",
            Body::SigningSecretRetired(_) => "signing_secret_retired",
            Body::TenantCreated(_) => "tenant_created",
            Body::TenantChanged(_) => "tenant_changed",
            Body::TenantStateSet(_) => "tenant_state_set",
            Body::TenantQuotasSet(_) => "tenant_quotas_set",
            Body::TenantDeleted(_) => "tenant_deleted",
            Body::TenantErased(_) => "tenant_erased",
            Body::KeyMinted(_) => "key_minted",
            Body::KeyRotated(_) => "key_rotated",
            Body::KeyRevoked(_) => "key_revoked",
            Body::ProgrammaticKeyMinted(_) => "programmatic_key_minted",
            Body::KeysUsed(_) => "keys_used",
            Body::BootstrapKeySet(_) => "bootstrap_key_set",
            Body::UserCreated(_) => "user_created",
            Body::UserRoleSet(_) => "user_role_set",
            Body::UserDeleted(_) => "user_deleted",
            Body::SessionStarted(_) => "session_started",
            Body::SessionRefreshed(_) => "session_refreshed",
            Body::SessionEnded(_) => "session_ended",
            Body::PermissionDenied(_) => "permission_denied",
            Body::AuthenticationFailed(_) => "authentication_failed",
            Body::AdminRightUsed(_) => "admin_right_used",
            Body::Skipped { kind } => kind,
        }
    }

    /// What the record is about, as an entity of the log.
    pub fn entity(&self) -> String {
        let of = |tenant: u32| format!("tenant:{tenant}");
        let user = |user: u32| format!("user:{user}");
        match self {
            Body::SigningSecretCreated(body) => format!("signing-secret:{}", body.kid),
            Body::SigningSecretRetired(body) => format!("signing-secret:{}", body.kid),
            Body::TenantCreated(body) => of(body.number),
            Body::TenantChanged(body) => of(body.tenant),
            Body::TenantStateSet(body) => of(body.tenant),
            Body::TenantQuotasSet(body) => of(body.tenant),
            Body::TenantDeleted(body) => of(body.tenant),
            Body::TenantErased(body) => of(body.tenant),
            Body::KeyMinted(body) | Body::BootstrapKeySet(body) => format!("key:{}", body.key),
            Body::KeyRotated(body) => format!("key:{}", body.old),
            Body::KeyRevoked(body) => format!("key:{}", body.key),
            Body::UserCreated(body) => user(body.user),
            Body::UserRoleSet(body) => user(body.user),
            Body::UserDeleted(body) => user(body.user),
            Body::SessionStarted(body) => user(body.user),
            Body::SessionRefreshed(body) => user(body.user),
            Body::SessionEnded(body) => user(body.user),
            Body::ProgrammaticKeyMinted(body) => format!("key:{}", body.key.key),
            Body::KeysUsed(_) => "server".to_owned(),
            Body::PermissionDenied(body) | Body::AuthenticationFailed(body) | Body::AdminRightUsed(body) => {
                body.tenant.map_or("server".to_owned(), of)
            }
            Body::Skipped { kind } => kind.clone(),
        }
    }

    /// Whether the thing that the record tells of was done.
    pub fn outcome(&self) -> Outcome {
        match self {
            Body::PermissionDenied(_) => Outcome::Denied,
            Body::AuthenticationFailed(_) => Outcome::Failed,
            _ => Outcome::Ok,
        }
    }

    /// Whether an older version may pass over it: it decides nothing.
    pub fn is_skippable(&self) -> bool {
        matches!(
            self,
            Body::PermissionDenied(_) | Body::AuthenticationFailed(_) | Body::AdminRightUsed(_) | Body::KeysUsed(_)
        )
    }

    /// What the record says, for people. Without the digests of keys and the hashes of passwords: they help nobody who reads.
    pub fn detail(&self) -> serde_json::Value {
        let mut detail = match self {
            Body::Skipped { .. } => return serde_json::Value::Null,
            body => serde_json::from_str(body.to_json().get()).expect("it was JSON a moment ago"),
        };
        hide_proofs(&mut detail);
        detail
    }

    pub(super) fn to_json(&self) -> Box<RawValue> {
        let json = match self {
            Body::SigningSecretCreated(body) => to_raw_value(body),
            Body::SigningSecretRetired(body) => to_raw_value(body),
            Body::TenantCreated(body) => to_raw_value(body),
            Body::TenantChanged(body) => to_raw_value(body),
            Body::TenantStateSet(body) => to_raw_value(body),
            Body::TenantQuotasSet(body) => to_raw_value(body),
            Body::TenantDeleted(body) => to_raw_value(body),
            Body::TenantErased(body) => to_raw_value(body),
            Body::KeyMinted(body) | Body::BootstrapKeySet(body) => to_raw_value(body),
            Body::KeyRotated(body) => to_raw_value(body),
            Body::KeyRevoked(body) => to_raw_value(body),
            Body::UserCreated(body) => to_raw_value(body),
            Body::UserRoleSet(body) => to_raw_value(body),
            Body::UserDeleted(body) => to_raw_value(body),
            Body::SessionStarted(body) => to_raw_value(body),
            Body::SessionRefreshed(body) => to_raw_value(body),
            Body::SessionEnded(body) => to_raw_value(body),
            Body::ProgrammaticKeyMinted(body) => to_raw_value(body),
            Body::KeysUsed(body) => to_raw_value(body),
            Body::PermissionDenied(body) | Body::AuthenticationFailed(body) | Body::AdminRightUsed(body) => {
                to_raw_value(body)
            }
            Body::Skipped { kind } => unreachable!("a {kind} record is read, never written"),
        };
        json.expect("numbers and strings have a JSON form")
    }

    pub(super) fn from_json(kind: String, json: &str, is_skippable: bool) -> Result<Body, RecordError> {
        fn read<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, RecordError> {
            serde_json::from_str(json).map_err(|error| RecordError::Malformed(error.to_string()))
        }
        Ok(match kind.as_str() {
            "signing_secret_created" => Body::SigningSecretCreated(read(json)?),
            "signing_secret_retired" => Body::SigningSecretRetired(read(json)?),
            "tenant_created" => Body::TenantCreated(read(json)?),
            "tenant_changed" => Body::TenantChanged(read(json)?),
            "tenant_state_set" => Body::TenantStateSet(read(json)?),
            "tenant_quotas_set" => Body::TenantQuotasSet(read(json)?),
            "tenant_deleted" => Body::TenantDeleted(read(json)?),
            "tenant_erased" => Body::TenantErased(read(json)?),
            "key_minted" => Body::KeyMinted(read(json)?),
            "key_rotated" => Body::KeyRotated(read(json)?),
            "key_revoked" => Body::KeyRevoked(read(json)?),
            "programmatic_key_minted" => Body::ProgrammaticKeyMinted(read(json)?),
            "keys_used" => Body::KeysUsed(read(json)?),
            "bootstrap_key_set" => Body::BootstrapKeySet(read(json)?),
            "user_created" => Body::UserCreated(read(json)?),
            "user_role_set" => Body::UserRoleSet(read(json)?),
            "user_deleted" => Body::UserDeleted(read(json)?),
            "session_started" => Body::SessionStarted(read(json)?),
            "session_refreshed" => Body::SessionRefreshed(read(json)?),
            "session_ended" => Body::SessionEnded(read(json)?),
            "permission_denied" => Body::PermissionDenied(read(json)?),
            "authentication_failed" => Body::AuthenticationFailed(read(json)?),
            "admin_right_used" => Body::AdminRightUsed(read(json)?),
            _ if is_skippable => Body::Skipped { kind },
            _ => return Err(RecordError::UnknownKind(kind)),
        })
    }
}
