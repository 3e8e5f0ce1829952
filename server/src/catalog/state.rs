//! The catalog in memory: what all records together say. It changes by [`State::apply`] and in no other way, so that
//! a replay gives what the last life had; it reads no clock, no file and no randomness.
//!
//! Invariant: tenant numbers and key numbers rise by one and are never reused; a slot's generation rises by one with
//! each key in it; every id, address and key belongs to one tenant. A tenant that is erased gives its id and address back;
//! whatever opened something in it names its number or a slot's generation, neither of which anybody else ever has.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::ops::Bound;

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};

use crate::auth::credentials::{CREDENTIALS_MAX, TENANTS_MAX};
use crate::auth::delta::{
    Change, CredentialKind, CredentialRow, CredentialState, Quotas, SYSTEM_TENANT, SYSTEM_TENANT_ID, TenantRow,
    TenantState,
};
use crate::auth::jwt::SIGNING_KEYS_MAX;
use crate::auth::programmatic::{KeyId, Scope};
use crate::auth::role::{Permissions, Role};
use crate::auth::secret::Digest;
use crate::catalog::records::{
    Actor, Body, CHAIN_START, KeyRotated, KeysUsed, NewKey, ProgrammaticKeyMinted, Record, TenantChanged, TenantCreated,
};
use crate::catalog::tiers::{Overrides, Tier};

mod people;

use people::People;
pub use people::{SessionEntry, UserEntry};

/// The name of the key that comes with a tenant that onboards.
pub const ONBOARD_KEY_NAME: &str = "onboard";
/// The same, as the first data directories have it.
const ONBOARD_KEY_NAME_AT_FIRST: &str = "onboarding";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantEntry {
    pub created_at: Micros,
    pub updated_at: Micros,
    pub state: TenantState,
    pub tier: Tier,
    pub overrides: Overrides,
    /// With the name that it has.
    pub made: TenantCreated,
}

impl TenantEntry {
    pub fn quotas(&self) -> Quotas {
        self.overrides.over(self.tier)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    pub created_at: Micros,
    pub state: CredentialState,
    /// The key that took its place, while it lives on beside that one.
    pub replaced_by: Option<u64>,
    /// With the expiry that it has, and the role.
    pub made: NewKey,
    /// What a key that lives by its creator has besides.
    pub programmatic: Option<Box<Programmatic>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programmatic {
    pub id: KeyId,
    pub prefix: String,
    pub description: Option<String>,
    pub has_workspace: bool,
    pub scope: Scope,
    /// The credential that it was asked for with.
    pub creator: Actor,
    /// When that one ends, which ends this key, too.
    pub creator_expires_at: Option<i64>,
    /// As it was recorded last.
    pub last_used_at: Option<Micros>,
}

impl KeyEntry {
    /// Whether the key still opens something at `now`, as far as the key itself goes.
    pub fn is_live(&self, now: Micros) -> bool {
        self.state == CredentialState::Active && self.ends_at().is_none_or(|at| now.0 < at)
    }

    /// What it may do, as far as the key itself goes.
    pub fn permissions(&self) -> Permissions {
        self.made.role.permissions().intersection(self.made.kind.ceiling()).intersection(self.scope().ceiling())
    }

    pub fn scope(&self) -> Scope {
        self.programmatic.as_ref().map_or(Scope::Inherit, |programmatic| programmatic.scope)
    }

    /// When it ends, by itself or with its creator.
    pub fn ends_at(&self) -> Option<i64> {
        let with_creator = self.programmatic.as_ref().and_then(|programmatic| programmatic.creator_expires_at);
        [self.made.expires_at, with_creator].into_iter().flatten().min()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    generation: u32,
    /// Of this generation.
    key: u64,
    is_free: bool,
}

/// Why a record cannot follow what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// Its `prev` is not the hash of the record before.
    Chain,
    TenantNumber,
    TenantIdTaken,
    EmailTaken,
    NoSuchTenant,
    TenantDeleted,
    /// Only what is being deleted can be erased.
    TenantNotDeleted,
    TenantsFull,
    Tier,
    KeyNumber,
    KeyTenant,
    KeyKind,
    KeyRole,
    Slot,
    KeysFull,
    ProofTaken,
    NoSuchKey,
    AlreadyRevoked,
    SigningSecretTaken,
    SigningSecretsFull,
    NoSuchSigningSecret,
    UserNumber,
    UserTaken,
    NoSuchUser,
    PasswordHash,
    NoSuchSession,
    /// The credential that a key is to live by is not there, or has ended.
    Creator,
    KeyIdTaken,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateError::Chain => "it does not name the hash of the record before it",
            StateError::TenantNumber => "it skips or reuses a tenant's number",
            StateError::TenantIdTaken => "its tenant id belongs to another tenant",
            StateError::EmailTaken => "its e-mail address belongs to another tenant",
            StateError::NoSuchTenant => "its tenant does not exist",
            StateError::TenantDeleted => "its tenant is deleted",
            StateError::TenantNotDeleted => "its tenant is not being deleted",
            StateError::Tier => "its tier does not exist",
            StateError::TenantsFull => "there are as many tenants as there can be",
            StateError::KeyNumber => "it skips or reuses a key's number",
            StateError::KeyTenant => "its key is for another tenant",
            StateError::KeyKind => "its key is of another kind",
            StateError::KeyRole => "its key has another role than the one that it replaces",
            StateError::Slot => "its slot is not the next one",
            StateError::KeysFull => "there are as many live keys as there can be",
            StateError::ProofTaken => "the same key exists already",
            StateError::NoSuchKey => "its key does not exist",
            StateError::AlreadyRevoked => "its key is revoked already",
            StateError::SigningSecretTaken => "its signing secret exists already",
            StateError::SigningSecretsFull => "there are as many signing secrets as there can be",
            StateError::NoSuchSigningSecret => "its signing secret is not in use",
            StateError::UserNumber => "it skips or reuses a user's number",
            StateError::UserTaken => "its address or name belongs to another user",
            StateError::NoSuchUser => "its user does not exist",
            StateError::PasswordHash => "its password hash is none",
            StateError::NoSuchSession => "its session does not exist",
            StateError::Creator => "its creator is not there, or has ended",
            StateError::KeyIdTaken => "its id belongs to another key",
        })
    }
}

impl std::error::Error for StateError {}

#[derive(Debug, PartialEq, Eq)]
pub struct State {
    head: Digest,
    last_at: Micros,
    record_count: u64,
    /// By number, from 1. Those that were erased are not among them.
    tenants: BTreeMap<u32, TenantEntry>,
    last_tenant: u32,
    /// What they were called.
    erased_tenants: BTreeMap<u32, String>,
    tenants_by_id: HashMap<String, u32>,
    tenants_by_email: HashMap<String, u32>,
    keys: BTreeMap<u64, KeyEntry>,
    last_key: u64,
    people: People,
    /// Keys that are not revoked, by tenant and kind.
    keys_by_tenant: BTreeSet<(u32, CredentialKind, u64)>,
    /// Live keys that are found by their digest, by its first eight bytes: what the cores index them by.
    keys_by_digest: HashMap<u64, u64>,
    /// Live programmatic keys.
    keys_by_id: HashMap<KeyId, u64>,
    /// The same, by the credential that they live by.
    keys_by_creator: BTreeSet<(Actor, u64)>,
    slots: Vec<Slot>,
    /// The longest free first, so that a slot's generations last.
    free_slots: VecDeque<u32>,
    bootstrap: Option<u64>,
    kids: Vec<String>,
}

impl Default for State {
    fn default() -> State {
        State {
            head: CHAIN_START,
            last_at: Micros(0),
            record_count: 0,
            tenants: BTreeMap::new(),
            last_tenant: 0,
            erased_tenants: BTreeMap::new(),
            tenants_by_id: HashMap::new(),
            tenants_by_email: HashMap::new(),
            keys: BTreeMap::new(),
            last_key: 0,
            people: People::default(),
            keys_by_tenant: BTreeSet::new(),
            keys_by_digest: HashMap::new(),
            keys_by_id: HashMap::new(),
            keys_by_creator: BTreeSet::new(),
            slots: Vec::new(),
            free_slots: VecDeque::new(),
            bootstrap: None,
            kids: Vec::new(),
        }
    }
}

impl State {
    /// Takes a record in, whose bytes have `digest`, and returns what cores must hear of it. An error changes nothing.
    pub fn apply(&mut self, record: &Record, digest: Digest) -> Result<Vec<Change>, StateError> {
        if record.prev != self.head {
            return Err(StateError::Chain);
        }
        self.check(&record.body)?;
        self.head = digest;
        self.last_at = self.last_at.max(record.at);
        self.record_count += 1;
        Ok(match &record.body {
            Body::SigningSecretCreated(body) => {
                self.kids.push(body.kid.clone());
                Vec::new()
            }
            Body::SigningSecretRetired(body) => {
                self.kids.retain(|kid| *kid != body.kid);
                Vec::new()
            }
            Body::TenantCreated(body) => self.put_tenant(body, record.at),
            Body::TenantChanged(body) => self.change_tenant(body.tenant, record.at, |entry| put_changed(entry, body)),
            Body::TenantStateSet(body) => self.change_tenant(body.tenant, record.at, |entry| entry.state = body.state),
            Body::TenantQuotasSet(body) => {
                self.change_tenant(body.tenant, record.at, |entry| entry.overrides = body.overrides)
            }
            Body::TenantDeleted(body) => self.delete_tenant(body.tenant, record.at),
            Body::TenantErased(body) => vec![self.erase_tenant(body.tenant)],
            Body::KeyMinted(key) => vec![self.put_key(key, None, record.at)],
            Body::ProgrammaticKeyMinted(body) => vec![self.put_programmatic(body, record.at)],
            Body::KeyRotated(body) => self.rotate_key(body, record.at),
            Body::KeyRevoked(body) => self.end(body.key),
            Body::KeysUsed(body) => {
                self.put_used(body);
                Vec::new()
            }
            Body::BootstrapKeySet(key) => {
                let put = self.put_key(key, None, record.at);
                let old = self.bootstrap.replace(key.key);
                old.map(|old| self.end(old)).unwrap_or_default().into_iter().chain([put]).collect()
            }
            Body::UserCreated(body) => self.put_user(body, record.at),
            Body::UserRoleSet(body) => self.set_role(body),
            Body::UserDeleted(body) => self.delete_user(body),
            Body::SessionStarted(body) => self.start_session(body, record.at),
            Body::SessionRefreshed(body) => self.refresh_session(body, record.at),
            Body::SessionEnded(body) => vec![self.revoke(body.session)],
            Body::PermissionDenied(_)
            | Body::AuthenticationFailed(_)
            | Body::AdminRightUsed(_)
            | Body::Skipped { .. } => Vec::new(),
        })
    }

    /// Whether a record with this body could follow. Asked before it is made durable.
    pub fn check(&self, body: &Body) -> Result<(), StateError> {
        match body {
            Body::SigningSecretCreated(body) if self.kids.contains(&body.kid) => Err(StateError::SigningSecretTaken),
            Body::SigningSecretCreated(_) if SIGNING_KEYS_MAX <= self.kids.len() => Err(StateError::SigningSecretsFull),
            Body::SigningSecretRetired(body) if !self.kids.contains(&body.kid) => Err(StateError::NoSuchSigningSecret),
            Body::SigningSecretCreated(_)
            | Body::SigningSecretRetired(_)
            | Body::PermissionDenied(_)
            | Body::AuthenticationFailed(_)
            | Body::AdminRightUsed(_)
            | Body::KeysUsed(_)
            | Body::Skipped { .. } => Ok(()),
            Body::TenantCreated(body) => self.check_tenant(body),
            Body::TenantChanged(body) => self.check_tenant_is_there(body.tenant),
            Body::TenantStateSet(body) if body.state == TenantState::Deleting => Err(StateError::TenantDeleted),
            Body::TenantStateSet(body) => self.check_tenant_is_there(body.tenant),
            Body::TenantQuotasSet(body) => self.check_tenant_is_there(body.tenant),
            Body::TenantDeleted(body) => self.check_tenant_is_there(body.tenant),
            Body::TenantErased(body) => match self.check_tenant_is_there(body.tenant) {
                Err(StateError::TenantDeleted) => Ok(()),
                Err(error) => Err(error),
                Ok(()) => Err(StateError::TenantNotDeleted),
            },
            Body::KeyMinted(key) => {
                if is_made_otherwise(key.kind) {
                    return Err(StateError::KeyKind);
                }
                if key.tenant != SYSTEM_TENANT.0 {
                    self.check_tenant_is_there(key.tenant)?;
                }
                self.check_key(key)
            }
            Body::ProgrammaticKeyMinted(body) => self.check_programmatic(body),
            Body::KeyRotated(body) => self.check_rotation(body),
            Body::BootstrapKeySet(key) => {
                if key.kind != CredentialKind::Bootstrap {
                    return Err(StateError::KeyKind);
                }
                if key.tenant != SYSTEM_TENANT.0 {
                    return Err(StateError::KeyTenant);
                }
                self.check_key(key)
            }
            Body::KeyRevoked(body) => match self.keys.get(&body.key) {
                None => Err(StateError::NoSuchKey),
                Some(key) if key.state == CredentialState::Revoked => Err(StateError::AlreadyRevoked),
                Some(key) if key.made.kind == CredentialKind::Session => Err(StateError::KeyKind),
                Some(_) => Ok(()),
            },
            Body::UserCreated(body) => self.check_user(body),
            Body::UserRoleSet(body) => self.check_role_set(body),
            Body::UserDeleted(body) => self.check_user_deleted(body),
            Body::SessionStarted(body) => self.check_session_started(body),
            Body::SessionRefreshed(body) => self.check_session_refreshed(body),
            Body::SessionEnded(body) => self.check_session_ended(body),
        }
    }

    fn check_tenant_is_there(&self, number: u32) -> Result<(), StateError> {
        match self.tenants.get(&number) {
            None => Err(StateError::NoSuchTenant),
            Some(entry) if entry.state == TenantState::Deleting => Err(StateError::TenantDeleted),
            Some(_) => Ok(()),
        }
    }

    fn check_programmatic(&self, body: &ProgrammaticKeyMinted) -> Result<(), StateError> {
        let key = &body.key;
        if key.kind != CredentialKind::Programmatic {
            return Err(StateError::KeyKind);
        }
        if key.tenant != SYSTEM_TENANT.0 {
            self.check_tenant_is_there(key.tenant)?;
        }
        if self.creator(body.creator).is_none() {
            return Err(StateError::Creator);
        }
        if self.keys_by_id.contains_key(&body.id) {
            return Err(StateError::KeyIdTaken);
        }
        self.check_key(key)
    }

    fn check_rotation(&self, body: &KeyRotated) -> Result<(), StateError> {
        let old = self.keys.get(&body.old).ok_or(StateError::NoSuchKey)?;
        if old.state == CredentialState::Revoked {
            return Err(StateError::AlreadyRevoked);
        }
        if old.made.tenant != body.new.tenant {
            return Err(StateError::KeyTenant);
        }
        if old.made.kind != body.new.kind || is_made_otherwise(old.made.kind) {
            return Err(StateError::KeyKind);
        }
        if old.made.role != body.new.role {
            return Err(StateError::KeyRole);
        }
        self.check_key(&body.new)
    }

    fn check_tenant(&self, body: &TenantCreated) -> Result<(), StateError> {
        if body.number != self.next_tenant() {
            return Err(StateError::TenantNumber);
        }
        if TENANTS_MAX <= body.number as usize {
            return Err(StateError::TenantsFull);
        }
        if Tier::parse(&body.tier).is_none() {
            return Err(StateError::Tier);
        }
        if self.tenants_by_id.contains_key(&body.id) || body.id == SYSTEM_TENANT_ID {
            return Err(StateError::TenantIdTaken);
        }
        if body.email.as_ref().is_some_and(|email| self.tenants_by_email.contains_key(email)) {
            return Err(StateError::EmailTaken);
        }
        match &body.key {
            Some(key) if key.tenant != body.number => Err(StateError::KeyTenant),
            Some(key) if is_made_otherwise(key.kind) => Err(StateError::KeyKind),
            Some(key) => self.check_key(key),
            None => Ok(()),
        }
    }

    fn check_key(&self, key: &NewKey) -> Result<(), StateError> {
        if key.key != self.next_key() {
            return Err(StateError::KeyNumber);
        }
        let (slot, generation) = self.next_slot().ok_or(StateError::KeysFull)?;
        if (key.slot, key.generation) != (slot, generation) {
            return Err(StateError::Slot);
        }
        if key.kind != CredentialKind::Jwt && self.keys_by_digest.contains_key(&prefix(&key.proof)) {
            return Err(StateError::ProofTaken);
        }
        Ok(())
    }

    fn put_tenant(&mut self, body: &TenantCreated, at: Micros) -> Vec<Change> {
        self.tenants_by_id.insert(body.id.clone(), body.number);
        if let Some(email) = &body.email {
            self.tenants_by_email.insert(email.clone(), body.number);
        }
        let made = TenantCreated { key: None, ..body.clone() };
        let tier = Tier::parse(&body.tier).expect("a tier is checked before it is put");
        let (state, overrides) = (TenantState::Active, Overrides::default());
        let entry = TenantEntry { created_at: at, updated_at: at, state, tier, overrides, made };
        let row = Change::Tenant(tenant_row(&entry));
        self.last_tenant = body.number;
        self.tenants.insert(body.number, entry);
        let key = body.key.clone().map(|mut key| {
            if key.name == ONBOARD_KEY_NAME_AT_FIRST {
                key.name = ONBOARD_KEY_NAME.to_owned();
            }
            self.put_key(&key, None, at)
        });
        [row].into_iter().chain(key).collect()
    }

    fn change_tenant(&mut self, number: u32, at: Micros, change: impl FnOnce(&mut TenantEntry)) -> Vec<Change> {
        let entry = self.tenants.get_mut(&number).expect("a tenant is checked before it is changed");
        change(entry);
        entry.updated_at = at;
        vec![Change::Tenant(tenant_row(entry))]
    }

    fn delete_tenant(&mut self, number: u32, at: Micros) -> Vec<Change> {
        let mut changes = self.change_tenant(number, at, |entry| entry.state = TenantState::Deleting);
        let keys: Vec<u64> = self.keys_in(number).collect();
        changes.extend(keys.into_iter().flat_map(|key| self.end(key)));
        self.people.remove_tenant(number);
        changes
    }

    /// The last of it. Its keys and people went when it was deleted, and nothing was made for it since.
    fn erase_tenant(&mut self, number: u32) -> Change {
        let entry = self.tenants.remove(&number).expect("a tenant is checked before it is erased");
        assert!(self.keys_in(number).next().is_none() && self.user_count(Tenant(number)) == 0);
        self.tenants_by_id.remove(&entry.made.id);
        if let Some(email) = &entry.made.email {
            self.tenants_by_email.remove(email);
        }
        self.erased_tenants.insert(number, entry.made.id);
        Change::TenantGone(Tenant(number))
    }

    fn rotate_key(&mut self, body: &KeyRotated, at: Micros) -> Vec<Change> {
        let mut changes = vec![self.put_key(&body.new, None, at)];
        match body.old_expires_at {
            None => changes.extend(self.end(body.old)),
            Some(expires_at) => {
                let old = self.keys.get_mut(&body.old).expect("a key is checked before it is rotated");
                old.made.expires_at = Some(expires_at);
                old.replaced_by = Some(body.new.key);
                changes.push(Change::Credential(credential_row(old)));
                changes.extend(self.creator_changed(Actor::Key(body.old)));
            }
        }
        changes
    }

    fn put_programmatic(&mut self, body: &ProgrammaticKeyMinted, at: Micros) -> Change {
        let (role, creator_expires_at) =
            self.creator(body.creator).expect("a creator is checked before its key is put");
        let scope = match &body.permissions {
            None => Scope::Inherit,
            Some(permissions) => Scope::Only(Permissions::of(permissions)),
        };
        let programmatic = Programmatic {
            id: body.id,
            prefix: body.prefix.clone(),
            description: body.description.clone(),
            has_workspace: body.has_workspace,
            scope,
            creator: body.creator,
            creator_expires_at,
            last_used_at: None,
        };
        self.keys_by_id.insert(body.id, body.key.key);
        self.keys_by_creator.insert((body.creator, body.key.key));
        let key = NewKey { role, ..body.key.clone() };
        self.put_key(&key, Some(Box::new(programmatic)), at)
    }

    /// The role that keys of this creator have, and when they end with it; nothing if it has ended.
    fn creator(&self, creator: Actor) -> Option<(Role, Option<i64>)> {
        match creator {
            Actor::Key(key) => {
                let entry = self.keys.get(&key).filter(|entry| entry.state == CredentialState::Active)?;
                Some((entry.made.role, entry.ends_at()))
            }
            Actor::User(user) => self.user(user).map(|user| (user.role, None)),
            Actor::Server | Actor::Anonymous => None,
        }
    }

    /// Brings the keys that live by a creator, and those that live by them, to what it is now.
    fn creator_changed(&mut self, creator: Actor) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut changed = vec![creator];
        while let Some(creator) = changed.pop() {
            let (role, expires_at) = self.creator(creator).expect("keys end with their creator");
            for number in self.made_by(creator) {
                let entry = self.keys.get_mut(&number).expect("keys never go from the catalog");
                entry.made.role = role;
                if let Some(programmatic) = &mut entry.programmatic {
                    programmatic.creator_expires_at = expires_at;
                }
                changes.push(Change::Credential(credential_row(entry)));
                changed.push(Actor::Key(number));
            }
        }
        changes
    }

    fn made_by(&self, creator: Actor) -> Vec<u64> {
        self.keys_by_creator.range((creator, 0)..=(creator, u64::MAX)).map(|(_, key)| *key).collect()
    }

    fn put_used(&mut self, body: &KeysUsed) {
        for (key, at) in &body.used {
            if let Some(programmatic) = self.keys.get_mut(key).and_then(|entry| entry.programmatic.as_mut()) {
                programmatic.last_used_at = programmatic.last_used_at.max(Some(Micros(*at)));
            }
        }
    }

    fn put_key(&mut self, key: &NewKey, programmatic: Option<Box<Programmatic>>, at: Micros) -> Change {
        let slot = Slot { generation: key.generation, key: key.key, is_free: false };
        match self.slots.get_mut(key.slot as usize) {
            Some(free) => {
                *free = slot;
                let first = self.free_slots.pop_front();
                assert_eq!(first, Some(key.slot));
            }
            None => self.slots.push(slot),
        }
        if key.kind != CredentialKind::Jwt {
            self.keys_by_digest.insert(prefix(&key.proof), key.key);
        }
        self.keys_by_tenant.insert((key.tenant, key.kind, key.key));
        let state = CredentialState::Active;
        let entry = KeyEntry { created_at: at, state, replaced_by: None, made: key.clone(), programmatic };
        let row = credential_row(&entry);
        self.last_key = key.key;
        self.keys.insert(key.key, entry);
        Change::Credential(row)
    }

    /// Ends a key, and every key that lives by it.
    fn end(&mut self, number: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut ending = vec![number];
        while let Some(number) = ending.pop() {
            if self.keys.get(&number).is_some_and(|key| key.state == CredentialState::Active) {
                ending.extend(self.made_by(Actor::Key(number)));
                changes.push(self.revoke(number));
            }
        }
        changes
    }

    fn revoke(&mut self, number: u64) -> Change {
        let key = self.keys.get_mut(&number).expect("a key is checked before it is revoked");
        key.state = CredentialState::Revoked;
        let row = credential_row(key);
        self.keys_by_tenant.remove(&(key.made.tenant, key.made.kind, number));
        if key.made.kind != CredentialKind::Jwt {
            self.keys_by_digest.remove(&prefix(&key.made.proof));
        }
        if let Some(programmatic) = &key.programmatic {
            self.keys_by_id.remove(&programmatic.id);
            self.keys_by_creator.remove(&(programmatic.creator, number));
        }
        if self.bootstrap == Some(number) {
            self.bootstrap = None;
        }
        let slot = &mut self.slots[row.slot as usize];
        slot.is_free = true;
        // A slot whose generations are used up rests for ever.
        if slot.generation < u32::MAX {
            self.free_slots.push_back(row.slot);
        }
        if row.kind == CredentialKind::Session {
            self.keys.remove(&number);
            self.people.remove_session(number);
        }
        Change::Credential(row)
    }

    pub fn head(&self) -> Digest {
        self.head
    }

    pub fn last_at(&self) -> Micros {
        self.last_at
    }

    pub fn record_count(&self) -> u64 {
        self.record_count
    }

    pub fn next_tenant(&self) -> u32 {
        self.last_tenant + 1
    }

    pub fn next_key(&self) -> u64 {
        self.last_key + 1
    }

    /// Slot and generation of the next key, unless all are in use.
    pub fn next_slot(&self) -> Option<(u32, u32)> {
        match self.free_slots.front() {
            Some(slot) => Some((*slot, self.slots[*slot as usize].generation + 1)),
            None if self.slots.len() < CREDENTIALS_MAX => Some((self.slots.len() as u32, 1)),
            None => None,
        }
    }

    /// Every tenant, by number.
    pub fn tenants(&self) -> impl Iterator<Item = &TenantEntry> {
        self.tenants.values()
    }

    /// Every tenant with a greater number, by number.
    pub fn tenants_after(&self, number: u32) -> impl Iterator<Item = &TenantEntry> {
        self.tenants.range((Bound::Excluded(number), Bound::Unbounded)).map(|(_, entry)| entry)
    }

    pub fn tenant(&self, number: Tenant) -> Option<&TenantEntry> {
        self.tenants.get(&number.0)
    }

    /// Whether there is or was one with this number.
    pub fn has_had_tenant(&self, number: Tenant) -> bool {
        (1..=self.last_tenant).contains(&number.0)
    }

    /// What the tenant with this number is called, or was.
    pub fn id_of_tenant(&self, number: Tenant) -> Option<&str> {
        if number == SYSTEM_TENANT {
            return Some(SYSTEM_TENANT_ID);
        }
        let known = self.tenants.get(&number.0).map(|entry| &entry.made.id);
        known.or_else(|| self.erased_tenants.get(&number.0)).map(String::as_str)
    }

    /// Finds a tenant that is not deleted by its id, or by its number as `ws-N`.
    pub fn tenant_named(&self, name: &str) -> Option<&TenantEntry> {
        self.tenant_or_deleting(name).filter(|entry| entry.state != TenantState::Deleting)
    }

    /// The same, and those whose events are still being removed.
    pub fn tenant_or_deleting(&self, name: &str) -> Option<&TenantEntry> {
        let by_number = || {
            let digits = name.strip_prefix("ws-").filter(|digits| !digits.starts_with(['0', '+']))?;
            self.tenants.get(&digits.parse().ok()?)
        };
        self.tenant_by_id(name).or_else(by_number)
    }

    pub fn tenant_by_id(&self, id: &str) -> Option<&TenantEntry> {
        self.tenants.get(self.tenants_by_id.get(id)?)
    }

    pub fn tenant_by_email(&self, email: &str) -> Option<&TenantEntry> {
        self.tenants.get(self.tenants_by_email.get(email)?)
    }

    /// Every key that ever was, by number, but for sessions that have ended.
    pub fn keys(&self) -> impl Iterator<Item = &KeyEntry> {
        self.keys.values()
    }

    pub fn key(&self, number: u64) -> Option<&KeyEntry> {
        self.keys.get(&number)
    }

    /// A programmatic key that has not been revoked.
    pub fn key_by_id(&self, id: KeyId) -> Option<&KeyEntry> {
        self.keys.get(self.keys_by_id.get(&id)?)
    }

    /// Whose key this is: whoever made it, or made the key that it was made with.
    pub fn owner(&self, entry: &KeyEntry) -> Actor {
        let mut entry = entry;
        loop {
            match entry.programmatic.as_ref().map(|programmatic| programmatic.creator) {
                None => return self.actor_of(entry.made.key),
                Some(Actor::Key(creator)) => entry = &self.keys[&creator],
                Some(creator) => return creator,
            }
        }
    }

    /// The keys that live by a creator, and those that live by them.
    pub fn living_by(&self, creator: Actor) -> Vec<&KeyEntry> {
        let mut found = Vec::new();
        let mut creators = vec![creator];
        while let Some(creator) = creators.pop() {
            for number in self.made_by(creator) {
                found.push(&self.keys[&number]);
                creators.push(Actor::Key(number));
            }
        }
        found
    }

    /// Whether a key is `ancestor`, or lives by it.
    pub fn lives_by(&self, entry: &KeyEntry, ancestor: u64) -> bool {
        let mut entry = entry;
        loop {
            if entry.made.key == ancestor {
                return true;
            }
            match entry.programmatic.as_ref().map(|programmatic| programmatic.creator) {
                Some(Actor::Key(creator)) => entry = &self.keys[&creator],
                _ => return false,
            }
        }
    }

    /// The key that a credential's slot and generation mean: what a core knows of it.
    pub fn key_in(&self, slot: u32, generation: u32) -> Option<&KeyEntry> {
        let slot = self.slots.get(slot as usize).filter(|slot| slot.generation == generation)?;
        self.keys.get(&slot.key)
    }

    /// A tenant's keys of one kind that are not revoked, oldest first. Some may have expired.
    pub fn keys_of(&self, tenant: Tenant, kind: CredentialKind) -> impl Iterator<Item = &KeyEntry> {
        let range = (tenant.0, kind, 0)..=(tenant.0, kind, u64::MAX);
        self.keys_by_tenant.range(range).map(|(_, _, key)| &self.keys[key])
    }

    fn keys_in(&self, tenant: u32) -> impl Iterator<Item = u64> {
        let of_tenant = move |(of, _, _): &&(u32, CredentialKind, u64)| *of == tenant;
        let from = (tenant, CredentialKind::Jwt, 0);
        self.keys_by_tenant.range(from..).take_while(of_tenant).map(|(_, _, key)| *key)
    }

    /// Whose business a record is: a tenant's number, the system's for its keys, or nobody's but the operator's.
    pub fn tenant_of(&self, body: &Body) -> Option<u32> {
        let of_key = |key: &u64| self.keys.get(key).map(|entry| entry.made.tenant);
        match body {
            Body::TenantCreated(body) => Some(body.number),
            Body::TenantChanged(body) => Some(body.tenant),
            Body::TenantStateSet(body) => Some(body.tenant),
            Body::TenantQuotasSet(body) => Some(body.tenant),
            Body::TenantDeleted(body) => Some(body.tenant),
            Body::TenantErased(body) => Some(body.tenant),
            Body::KeyMinted(body) | Body::BootstrapKeySet(body) => Some(body.tenant),
            Body::KeyRotated(body) => Some(body.new.tenant),
            Body::KeyRevoked(body) => of_key(&body.key),
            Body::UserCreated(body) => Some(body.tenant),
            Body::UserRoleSet(body) => Some(body.tenant),
            Body::UserDeleted(body) => Some(body.tenant),
            Body::SessionStarted(body) => Some(body.key.tenant),
            Body::SessionRefreshed(body) => Some(body.new.tenant),
            Body::SessionEnded(body) => Some(body.tenant),
            Body::ProgrammaticKeyMinted(body) => Some(body.key.tenant),
            Body::PermissionDenied(body) | Body::AuthenticationFailed(body) | Body::AdminRightUsed(body) => body.tenant,
            Body::SigningSecretCreated(_)
            | Body::SigningSecretRetired(_)
            | Body::KeysUsed(_)
            | Body::Skipped { .. } => None,
        }
    }

    pub fn bootstrap(&self) -> Option<&KeyEntry> {
        self.keys.get(&self.bootstrap?)
    }

    /// The names of the secrets that sign or verify.
    pub fn kids(&self) -> &[String] {
        &self.kids
    }

    /// Everything that a core must know, but for the signing secrets, which are not in here.
    pub fn snapshot(&self) -> Vec<Change> {
        let system = TenantRow {
            number: SYSTEM_TENANT,
            id: SYSTEM_TENANT_ID.into(),
            state: TenantState::Active,
            shard: ShardNumber(0),
            quotas: Quotas::UNLIMITED,
        };
        let tenants = self.tenants.values().map(tenant_row);
        // A streaming key that was taken back is known as long as nothing has its slot: its tenant is told who still tries.
        let has_tenant = |key: &KeyEntry| self.tenants.contains_key(&key.made.tenant);
        let is_told = move |key: &KeyEntry| key.made.kind == CredentialKind::Streaming && has_tenant(key);
        let is_known = move |slot: &Slot, key: &KeyEntry| !slot.is_free || is_told(key);
        let keys = self
            .slots
            .iter()
            .filter_map(move |slot| self.keys.get(&slot.key).filter(|key| is_known(slot, key)).map(credential_row));
        [Change::Tenant(system)]
            .into_iter()
            .chain(tenants.map(Change::Tenant))
            .chain(keys.map(Change::Credential))
            .collect()
    }
}

/// Whether such keys have records of their own.
fn is_made_otherwise(kind: CredentialKind) -> bool {
    matches!(kind, CredentialKind::Bootstrap | CredentialKind::Session | CredentialKind::Programmatic)
}

fn put_changed(entry: &mut TenantEntry, changed: &TenantChanged) {
    if let Some(name) = &changed.name {
        entry.made.name.clone_from(name);
    }
    entry.tier = changed.tier.unwrap_or(entry.tier);
}

fn tenant_row(entry: &TenantEntry) -> TenantRow {
    TenantRow {
        number: Tenant(entry.made.number),
        id: entry.made.id.as_str().into(),
        state: entry.state,
        shard: ShardNumber(entry.made.shard),
        quotas: entry.quotas(),
    }
}

fn credential_row(entry: &KeyEntry) -> CredentialRow {
    CredentialRow {
        slot: entry.made.slot,
        generation: entry.made.generation,
        key: entry.made.key,
        tenant: Tenant(entry.made.tenant),
        role: entry.made.role,
        kind: entry.made.kind,
        scope: entry.scope().ceiling(),
        state: entry.state,
        expires_at: entry.ends_at().map(Micros),
        proof: entry.made.proof,
    }
}

fn prefix(digest: &Digest) -> u64 {
    u64::from_le_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests;
