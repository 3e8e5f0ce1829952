//! A core's own table of credentials and tenants: who is this, and is it still so?
//! It changes by deltas only, at the start of a turn; it waits for nothing and shares nothing with other cores.
//!
//! ```text
//! seen before ─► recognised: all of it in one cache line ────────────────────┐
//! token  ─► header, MAC, claims ─► slot, generation ┐                        ├─► tenant's state ─► Principal
//! key    ─► SHA-256 ─► index ─► slot                ┴─► row ─► proof, expiry ┘
//! ```
//!
//! The cost of a check does not depend on how many keys there are, nor its time on how much of a guess is right.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::io::huge_vec;

use crate::auth::delta::{
    Change, CredentialKind, CredentialRow, CredentialState, Delta, SYSTEM_TENANT, TenantRow, TenantState,
};
use crate::auth::jwt::VerifyingKeys;
use crate::auth::last_used::{LastUsed, Used};
pub use crate::auth::presented::{AuthError, Presented};
use crate::auth::recognised::{Known, Recognised, tag};
use crate::auth::role::{Permission, Permissions, Role};
use crate::auth::secret::{Digest, canonical, same_digest, sha256, streaming_key_text};

/// Slots are handed out densely, so a table is as long as there ever were live credentials at once.
pub const CREDENTIALS_MAX: usize = 1 << 24;
/// The engine's ceiling for one shard; numbers are dense.
pub const TENANTS_MAX: usize = 1 << 20;
const NEVER: Micros = Micros(i64::MAX);

/// Who asks: what a request carries to the owner of its tenant's shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub tenant: Tenant,
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

/// One cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Row {
    proof: Digest,
    expires_at: Micros,
    tenant: Tenant,
    generation: u32,
    /// Its number in the catalog, or 0 where that has no room here.
    key: u32,
    /// Where what this core knows of its secret is found, once it has seen that.
    tag: u32,
    role: Role,
    kind: CredentialKind,
    scope: Permissions,
    state: CredentialState,
}

/// A million keys are 64 MB a core, and as much again once that core has seen them all.
const _: () = assert!(size_of::<Row>() == 64);

/// What an empty slot holds, and what a key that is not found is compared with, so that a miss costs what a hit costs.
const VACANT: Row = Row {
    proof: [0; 32],
    expires_at: Micros(0),
    tenant: SYSTEM_TENANT,
    generation: 0,
    key: 0,
    tag: 0,
    role: Role::ReadOnly,
    kind: CredentialKind::Streaming,
    scope: Permissions::NONE,
    state: CredentialState::Revoked,
};

type SlotsByDigest = HashMap<u64, u32, BuildHasherDefault<DigestPrefix>>;

/// A secret that is right, whether or not it still is allowed.
struct Verified {
    slot: u32,
    generation: u32,
    /// Of the token itself; its row may expire earlier.
    expires_at: Micros,
}

pub struct Credentials {
    epoch: u64,
    rows: Vec<Row>,
    /// First eight bytes of a live key's SHA-256. Only keys that we made or were given by the operator get in.
    slots_by_digest: SlotsByDigest,
    /// The same of streaming keys that were taken back, until their slots have others. Apart, so that a check cannot tell
    /// such a key from one that never was.
    taken_back: SlotsByDigest,
    tenants: Vec<Option<TenantRow>>,
    tenants_by_id: HashMap<Arc<str>, Tenant>,
    keys: VerifyingKeys,
    recognised: Recognised,
    last_used: LastUsed,
}

impl Credentials {
    /// `seed` is random, and the core's own.
    pub fn new(seed: u128, snapshot: &Delta) -> Credentials {
        let mut credentials = Credentials {
            epoch: 0,
            rows: Vec::new(),
            slots_by_digest: HashMap::default(),
            taken_back: HashMap::default(),
            tenants: Vec::new(),
            tenants_by_id: HashMap::new(),
            keys: VerifyingKeys::default(),
            recognised: Recognised::new(seed),
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
                    self.recognised.clear();
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
        let principal = self.check(&streaming_key_text(key), now).ok_or(AuthError::Refused)?;
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
        let digest = sha256(&[&streaming_key_text(key)]);
        let found = [&self.slots_by_digest, &self.taken_back].into_iter().find_map(|slots| slots.get(&prefix(&digest)));
        let slot = *found?;
        let row = &self.rows[slot as usize];
        let is_it = same_digest(&row.proof, &digest) && row.kind == CredentialKind::Streaming;
        is_it.then_some((row.tenant, slot, row.generation))
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
        let hash = self.recognised.hash(secret);
        if let Some(known) = self.recognised.find(hash, now) {
            return self.principal(known);
        }
        let verified = if self.keys.is_token(secret) { self.check_token(secret)? } else { self.check_key(secret)? };
        let (row, _) = self.live_row(verified.slot, verified.generation)?;
        let expires_at = row.expires_at.min(verified.expires_at);
        if expires_at <= now {
            return None;
        }
        let known = Known {
            slot: verified.slot,
            generation: row.generation,
            tenant: row.tenant,
            role: row.role,
            kind: row.kind,
            scope: row.scope,
        };
        // It may have come in another spelling, or as another token of the same row.
        let old_tag = std::mem::replace(&mut self.rows[verified.slot as usize].tag, tag(hash));
        self.recognised.forget(verified.slot, old_tag);
        self.recognised.learn(hash, &known, expires_at);
        self.principal(known)
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

    fn principal(&self, known: Known) -> Option<Principal> {
        self.is_active(known.tenant).then_some(Principal {
            tenant: known.tenant,
            role: known.role,
            kind: known.kind,
            scope: known.scope,
            slot: known.slot,
            generation: known.generation,
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
            self.grow_rows(index + 1);
        }
        let old = &self.rows[index];
        self.recognised.forget(row.slot, old.tag);
        let old = prefix(&old.proof);
        for slots in [&mut self.slots_by_digest, &mut self.taken_back] {
            if slots.get(&old) == Some(&row.slot) {
                slots.remove(&old);
            }
        }
        let new = prefix(&row.proof);
        match (row.kind, row.state) {
            (CredentialKind::Jwt, _) => {}
            (_, CredentialState::Active) => {
                self.slots_by_digest.insert(new, row.slot);
                self.taken_back.remove(&new);
            }
            // It opens nothing, and its tenant is told who still tries. The same key may be good again elsewhere.
            (CredentialKind::Streaming, CredentialState::Revoked) => {
                if !self.slots_by_digest.contains_key(&new) {
                    self.taken_back.entry(new).or_insert(row.slot);
                }
            }
            (_, CredentialState::Revoked) => {}
        }
        self.rows[index] = Row {
            proof: row.proof,
            expires_at: row.expires_at.unwrap_or(NEVER),
            tenant: row.tenant,
            generation: row.generation,
            key: u32::try_from(row.key).unwrap_or(0),
            tag: 0,
            role: row.role,
            kind: row.kind,
            scope: row.scope,
            state: row.state,
        };
    }

    /// On huge pages: rows are hit at random.
    fn grow_rows(&mut self, len: usize) {
        if self.rows.capacity() < len {
            let mut rows = huge_vec(len.max(2 * self.rows.capacity()));
            rows.extend_from_slice(&self.rows);
            self.rows = rows;
        }
        self.rows.resize(len, VACANT);
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
