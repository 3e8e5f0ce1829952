//! A core's own table of credentials and tenants: who is this, and is it still so?
//! It changes by deltas only, at the start of a turn; it waits for nothing and shares nothing with other cores.
//!
//! ```text
//! token  ─► header, MAC, claims ─► slot, generation ┐
//! key    ─► SHA-256 ─► index ─► slot                ├─► row ─► proof, state, expiry ─► tenant's state ─► Principal
//! seen before ─► cache ─► slot, generation          ┘
//! ```
//!
//! The cost of a check does not depend on how many keys there are, nor its time on how much of a guess is right.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use ringlog_engine::ids::{Micros, Tenant};

use crate::auth::delta::{
    Change, CredentialKind, CredentialRow, CredentialState, Delta, SYSTEM_TENANT, TenantRow, TenantState,
};
use crate::auth::jwt::VerifyingKeys;
use crate::auth::last_used::{LastUsed, Used};
pub use crate::auth::presented::{AuthError, Presented};
use crate::auth::role::{Permission, Permissions, Role};
use crate::auth::secret::{Digest, canonical, hex, same_digest, sha256};
use crate::auth::token_cache::{TokenCache, Verified};

/// Slots are handed out densely, so a table is as long as there ever were live credentials at once.
pub const CREDENTIALS_MAX: usize = 1 << 24;
/// The engine's ceiling for one shard; numbers are dense.
pub const TENANTS_MAX: usize = 1 << 20;
const NEVER: Micros = Micros(i64::MAX);

/// Who asks: what a request carries to the owner of its tenant's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: Tenant,
    pub tenant_id: Arc<str>,
    pub role: Role,
    pub kind: CredentialKind,
    pub scope: Permissions,
    pub slot: u32,
    pub generation: u32,
}

impl Principal {
    pub fn may(&self, permission: Permission) -> bool {
        let allowed = self.role.permissions().intersection(self.kind.ceiling()).intersection(self.scope);
        allowed.contains(permission)
    }

    /// Whether this is one who names the tenant it acts for.
    pub fn acts_for_others(&self) -> bool {
        self.tenant == SYSTEM_TENANT && self.may(Permission::Admin)
    }
}

/// Why a request cannot be for the tenant that its headers name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActingError {
    /// It names another than its credential's own, or two different ones.
    Forbidden,
    /// One who acts for others named a tenant that does not exist.
    Unknown,
    /// One who acts for others named none.
    Unnamed,
    /// One who acts for others named this one, which is suspended.
    Suspended(Tenant),
}

#[derive(Clone, Copy)]
struct Row {
    proof: Digest,
    expires_at: Micros,
    tenant: Tenant,
    generation: u32,
    /// Its number in the catalog, or 0 where that has no room here.
    key: u32,
    role: Role,
    kind: CredentialKind,
    scope: Permissions,
    state: CredentialState,
}

/// Ten million keys are 560 MB a core.
const _: () = assert!(size_of::<Row>() == 56);

/// What an empty slot holds, and what a key that is not found is compared with, so that a miss costs what a hit costs.
const VACANT: Row = Row {
    proof: [0; 32],
    expires_at: Micros(0),
    tenant: SYSTEM_TENANT,
    generation: 0,
    key: 0,
    role: Role::ReadOnly,
    kind: CredentialKind::Streaming,
    scope: Permissions::NONE,
    state: CredentialState::Revoked,
};

pub struct Credentials {
    epoch: u64,
    rows: Vec<Row>,
    /// First eight bytes of a key's SHA-256. Only keys that we made or were given by the operator get in; a streaming key
    /// that was taken back stays until its slot has another.
    slots_by_digest: HashMap<u64, u32, BuildHasherDefault<DigestPrefix>>,
    tenants: Vec<Option<TenantRow>>,
    tenants_by_id: HashMap<Arc<str>, Tenant>,
    keys: VerifyingKeys,
    cache: TokenCache,
    last_used: LastUsed,
}

impl Credentials {
    /// `seed` is random, and the core's own.
    pub fn new(seed: u64, snapshot: &Delta) -> Credentials {
        let mut credentials = Credentials {
            epoch: 0,
            rows: Vec::new(),
            slots_by_digest: HashMap::default(),
            tenants: Vec::new(),
            tenants_by_id: HashMap::new(),
            keys: VerifyingKeys::default(),
            cache: TokenCache::new(seed),
            last_used: LastUsed::new(),
        };
        credentials.apply(snapshot);
        credentials
    }

    /// Puts a delta's rows in place. Call it at the start of a turn, then acknowledge [`Credentials::epoch`].
    pub fn apply(&mut self, delta: &Delta) {
        assert!(self.epoch <= delta.epoch);
        for change in &delta.changes {
            match change {
                Change::Tenant(row) => self.put_tenant(row),
                Change::TenantGone(number) => self.remove_tenant(*number),
                Change::Credential(row) => self.put_credential(row),
                Change::SigningKeys(keys) => {
                    self.keys = VerifyingKeys::clone(keys);
                    // What was verified under a key that may be gone.
                    self.cache.clear();
                }
            }
        }
        self.epoch = delta.epoch;
    }

    /// The epoch of the last delta that was applied.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn authenticate(&mut self, presented: Presented<'_>, now: Micros) -> Result<Principal, AuthError> {
        let principal = self.check(presented.secret()?, now).ok_or(AuthError::Refused)?;
        if principal.kind == CredentialKind::Programmatic {
            self.last_used.note(principal.slot, principal.generation, now);
        }
        Ok(principal)
    }

    /// Which programmatic keys were used, for whoever keeps it: at most once a minute, by any clock that is always the
    /// same.
    pub fn take_used(&mut self, now: Micros) -> Option<Vec<Used>> {
        self.last_used.take_due(now)
    }

    /// When [`Credentials::take_used`] has something, by its clock.
    pub fn used_due_at(&self) -> Option<Micros> {
        self.last_used.due_at()
    }

    /// What was used and not told yet, at shutdown.
    pub fn take_all_used(&mut self) -> Vec<Used> {
        self.last_used.take_all()
    }

    /// The same check for protocols that carry a streaming key as 16 bytes.
    pub fn authenticate_streaming_key(&mut self, key: &[u8; 16], now: Micros) -> Result<Principal, AuthError> {
        let principal = self.check(hex(key).as_bytes(), now).ok_or(AuthError::Refused)?;
        match principal.kind {
            CredentialKind::Streaming => Ok(principal),
            CredentialKind::Jwt
            | CredentialKind::Bootstrap
            | CredentialKind::Session
            | CredentialKind::Programmatic => Err(AuthError::Refused),
        }
    }

    /// Whether a request that was authenticated earlier may still be admitted. The owner of the shard asks this.
    pub fn still_valid(&self, slot: u32, generation: u32) -> bool {
        self.live_row(slot, generation).is_some()
    }

    /// Whose streaming key this is, or was: slot and generation with it. What was taken back is known until its slot has
    /// another, and no longer.
    pub fn whose_streaming_key(&self, key: &[u8; 16]) -> Option<(Tenant, u32, u32)> {
        let Verified { slot, generation, .. } = self.check_key(hex(key).as_bytes())?;
        let row = &self.rows[slot as usize];
        (row.kind == CredentialKind::Streaming).then_some((row.tenant, slot, generation))
    }

    /// What the catalog calls the credential that a slot holds or held last.
    pub fn key_number(&self, slot: u32, generation: u32) -> Option<u64> {
        let row = self.rows.get(slot as usize).filter(|row| row.generation == generation)?;
        (row.key != 0).then_some(u64::from(row.key))
    }

    /// What kind of credential a slot holds.
    pub fn kind(&self, slot: u32) -> Option<CredentialKind> {
        self.rows.get(slot as usize).map(|row| row.kind)
    }

    /// Whether anything may be done in a tenant. Who acts for others must ask this beside [`Credentials::still_valid`].
    pub fn is_active(&self, number: Tenant) -> bool {
        self.tenant(number).is_some_and(|row| row.state == TenantState::Active)
    }

    pub fn tenant(&self, number: Tenant) -> Option<&TenantRow> {
        self.tenants.get(number.0 as usize)?.as_ref()
    }

    /// Finds a tenant by its id or by its number as `ws-N`.
    pub fn tenant_named(&self, name: &str) -> Option<&TenantRow> {
        match self.tenants_by_id.get(name) {
            Some(number) => self.tenant(*number),
            None => self.tenant(Tenant(workspace_number(name.strip_prefix("ws-")?)?)),
        }
    }

    /// The tenant that a request is for: `X-Tenant-ID` (an id or `ws-N`) and `X-Workspace-ID` (`ws-N` or `N`) must
    /// match the credential's own, unless it is one that acts for others.
    pub fn acting_tenant(
        &self,
        principal: &Principal,
        tenant_header: Option<&str>,
        workspace_header: Option<&str>,
    ) -> Result<&TenantRow, ActingError> {
        let by_tenant = tenant_header.map(|name| self.tenant_named(name.trim_ascii()));
        let by_workspace = workspace_header.map(|name| {
            let name = name.trim_ascii();
            self.tenant(Tenant(workspace_number(name.strip_prefix("ws-").unwrap_or(name))?))
        });
        let own = self.tenant(principal.tenant);
        if !principal.acts_for_others() {
            // Another's tenant and one that is not there must look alike.
            let matches = |named: Option<Option<&TenantRow>>| match named {
                None => true,
                Some(row) => row.is_some_and(|row| row.number == principal.tenant),
            };
            let matched = matches(by_tenant) && matches(by_workspace);
            return own.filter(|_| matched).ok_or(ActingError::Forbidden);
        }
        let named = match (by_tenant, by_workspace) {
            (None, None) => return Err(ActingError::Unnamed),
            (Some(one), None) | (None, Some(one)) => one.ok_or(ActingError::Unknown)?,
            (Some(one), Some(other)) => {
                let (one, other) = (one.ok_or(ActingError::Unknown)?, other.ok_or(ActingError::Unknown)?);
                if one.number != other.number {
                    return Err(ActingError::Forbidden);
                }
                one
            }
        };
        match named.state {
            TenantState::Active => Ok(named),
            TenantState::Suspended => Err(ActingError::Suspended(named.number)),
            TenantState::Deleting => Err(ActingError::Unknown),
        }
    }

    fn check(&mut self, secret: &[u8], now: Micros) -> Option<Principal> {
        let is_token = self.keys.is_token(secret);
        if let Some(verified) = self.cache.find(secret) {
            let principal = self.principal(verified, now);
            // A token names its slot: what it pointed at once and points at no more, it will not again. A key that was
            // taken back can be given once more, and then it has another.
            if is_token || principal.is_some() {
                return principal;
            }
        }
        let verified = if is_token { self.check_token(secret)? } else { self.check_key(secret)? };
        let principal = self.principal(verified, now)?;
        self.cache.insert(secret, verified);
        Some(principal)
    }

    fn check_token(&self, token: &[u8]) -> Option<Verified> {
        let pointer = self.keys.verify(token)?;
        let row = self.rows.get(pointer.slot as usize)?;
        let is_it = same_digest(&row.proof, &pointer.proof);
        (is_it && row.kind == CredentialKind::Jwt).then_some(Verified {
            slot: pointer.slot,
            generation: pointer.generation,
            expires_at: pointer.expires_at.unwrap_or(NEVER),
        })
    }

    fn check_key(&self, key: &[u8]) -> Option<Verified> {
        let digest = sha256(&[&canonical(key)]);
        let found = self.slots_by_digest.get(&prefix(&digest)).copied();
        let row = found.map_or(&VACANT, |slot| &self.rows[slot as usize]);
        let is_it = same_digest(&row.proof, &digest);
        let slot = found?;
        is_it.then_some(Verified { slot, generation: row.generation, expires_at: NEVER })
    }

    fn principal(&self, verified: Verified, now: Micros) -> Option<Principal> {
        let (row, tenant) = self.live_row(verified.slot, verified.generation)?;
        if row.expires_at <= now || verified.expires_at <= now {
            return None;
        }
        Some(Principal {
            tenant: row.tenant,
            tenant_id: Arc::clone(&tenant.id),
            role: row.role,
            kind: row.kind,
            scope: row.scope,
            slot: verified.slot,
            generation: verified.generation,
        })
    }

    fn live_row(&self, slot: u32, generation: u32) -> Option<(&Row, &TenantRow)> {
        let row = self.rows.get(slot as usize)?;
        let tenant = self.tenant(row.tenant)?;
        let live =
            row.generation == generation && row.state == CredentialState::Active && tenant.state == TenantState::Active;
        live.then_some((row, tenant))
    }

    fn put_tenant(&mut self, row: &TenantRow) {
        let index = row.number.0 as usize;
        assert!(index < TENANTS_MAX);
        if self.tenants.len() <= index {
            self.tenants.resize(index + 1, None);
        }
        // A copy of its own: a count that all cores share would travel between their caches at every request.
        let row = TenantRow { id: Arc::from(&*row.id), ..row.clone() };
        self.tenants_by_id.insert(Arc::clone(&row.id), row.number);
        self.tenants[index] = Some(row);
    }

    /// Its credentials have ended before it.
    fn remove_tenant(&mut self, number: Tenant) {
        let Some(row) = self.tenants.get_mut(number.0 as usize).and_then(Option::take) else { return };
        self.tenants_by_id.remove(&row.id);
    }

    fn put_credential(&mut self, row: &CredentialRow) {
        let index = row.slot as usize;
        assert!(index < CREDENTIALS_MAX);
        if self.rows.len() <= index {
            self.rows.resize(index + 1, VACANT);
        }
        let old = prefix(&self.rows[index].proof);
        if self.slots_by_digest.get(&old) == Some(&row.slot) {
            self.slots_by_digest.remove(&old);
        }
        match (row.kind, row.state) {
            (CredentialKind::Jwt, _) => {}
            (_, CredentialState::Active) => {
                self.slots_by_digest.insert(prefix(&row.proof), row.slot);
            }
            // It opens nothing, and its tenant is told who still tries. The same key may be good again elsewhere.
            (CredentialKind::Streaming, CredentialState::Revoked) => {
                self.slots_by_digest.entry(prefix(&row.proof)).or_insert(row.slot);
            }
            (_, CredentialState::Revoked) => {}
        }
        self.rows[index] = Row {
            proof: row.proof,
            expires_at: row.expires_at.unwrap_or(NEVER),
            tenant: row.tenant,
            generation: row.generation,
            key: u32::try_from(row.key).unwrap_or(0),
            role: row.role,
            kind: row.kind,
            scope: row.scope,
            state: row.state,
        };
    }
}

fn workspace_number(digits: &str) -> Option<u32> {
    // The system tenant has no number that a client could name, and numbers have one spelling.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

fn prefix(digest: &Digest) -> u64 {
    u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

/// The first bytes of a SHA-256 are spread as well as any hash would spread them.
#[derive(Default)]
struct DigestPrefix(u64);

impl Hasher for DigestPrefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("the index is keyed by u64");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests;
