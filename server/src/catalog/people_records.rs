//! What records say of people: who there is, and when a session of theirs begins, goes on and ends.
//! A password is here as its Argon2id hash, and a token as its SHA-256. Must never: hold either itself.

use serde::{Deserialize, Serialize};

use crate::auth::role::Role;
use crate::catalog::body::NewKey;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserCreated {
    /// Of this user, from 1, never reused.
    pub user: u32,
    pub tenant: u32,
    /// In its one spelling. Nobody else has it.
    pub email: String,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    pub role: Role,
    /// A PHC string.
    pub password_hash: String,
}

/// Takes effect on every session of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserRoleSet {
    pub user: u32,
    pub tenant: u32,
    pub role: Role,
}

/// Takes every session of theirs with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserDeleted {
    pub user: u32,
    pub tenant: u32,
}

/// A login, and what makes room for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionStarted {
    pub user: u32,
    /// Of the kind session, with the user's role, and with an expiry.
    pub key: NewKey,
    /// Sessions that end by it: expired ones, and the user's oldest where there are too many. Named here, so that no
    /// later rule about them changes what a replay gives.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<u64>,
    /// The same password under what hashes cost by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_hash: Option<String>,
}

/// The new token and the end of the old one are one record: no crash leaves somebody with neither, or with both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRefreshed {
    pub user: u32,
    pub old: u64,
    pub new: NewKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionEnded {
    pub user: u32,
    pub tenant: u32,
    pub session: u64,
    pub why: SessionEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionEnd {
    LoggedOut,
    /// A token that a refresh had replaced was refreshed once more: two hold what one was given.
    Replayed,
}
