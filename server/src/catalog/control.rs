//! The control plane's one writer: checks a change, makes it durable, takes it in, and keeps what cores must hear.
//! Time is an argument here; threads and cores are `thread`'s business.
//!
//! After a failed append nobody knows what is on disk: it latches, and every later change is refused until a restart.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};

use crate::auth::delta::{Change, CredentialKind, Delta};
use crate::auth::jwt::{Subject, TokenId, TokenSigner, VerifyingKeys};
use crate::auth::role::Role;
use crate::auth::secret::{Digest, Secret};
use crate::auth::secret_file::NamedSecret;
use crate::auth::tenant_id::Email;
use crate::catalog::change_limit::ChangeLimit;
use crate::catalog::log::{CatalogError, CatalogLog};
use crate::catalog::name::{Name, NameError};
use crate::catalog::onboard_limit::OnboardLimit;
use crate::catalog::records::{Actor, Body, NewKey, Origin, Record, TenantCreated, TenantErased, chain_digest};
use crate::catalog::state::{ONBOARD_KEY_NAME, State, StateError};
use crate::catalog::tiers::Tier;

/// What the first seed's page promises a self-service tenant.
const ONBOARD_TIER: Tier = Tier::Free;

#[derive(Debug, Clone, Copy)]
pub struct ControlSettings {
    pub shard_count: u32,
    /// Per address; 0 is without limit.
    pub onboard_per_hour: u32,
}

/// A checked request to onboard.
#[derive(Debug, Clone)]
pub struct Onboard {
    email: Email,
    name: Name,
    /// The peer, or what a trusted proxy says it is.
    pub source: IpAddr,
    pub request_id: String,
    /// When the request came, by both clocks of the core that took it.
    pub at: Micros,
    pub monotonic_us: u64,
}

impl Onboard {
    /// Without a name, the tenant is called by what stands before the `@`.
    pub fn new(
        email: Email,
        name: Option<&str>,
        source: IpAddr,
        request_id: String,
        at: Micros,
        monotonic_us: u64,
    ) -> Result<Onboard, NameError> {
        let name = Name::parse(name.unwrap_or(email.local()))?;
        Ok(Onboard { email, name, source, request_id, at, monotonic_us })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Onboarded {
    pub tenant: Tenant,
    pub tenant_id: String,
    pub shard: ShardNumber,
    pub api_key: Secret,
    pub tier: &'static str,
    pub events_quota: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnboardError {
    /// The address, or its id, has a tenant.
    TenantExists,
    RateLimited {
        retry_after_seconds: u64,
        per_hour: u32,
    },
    /// No more tenants or keys fit, or the disk has no room. Nothing was changed.
    Full,
    /// It may be stored, and is not known everywhere. A restart decides.
    OutcomeUnknown,
}

/// Why a catalog cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    Log(CatalogError),
    /// A tenant lives on a shard beyond the count: the count was lowered.
    ShardGone {
        tenant: u32,
        shard: u32,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Log(error) => error.fmt(f),
            OpenError::ShardGone { tenant, shard } => {
                write!(f, "tenant {tenant} lives on shard {shard}: the number of shards can be raised, never lowered")
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// Why a change was not made.
#[derive(Debug)]
pub enum ChangeError {
    /// It cannot follow what is there. Nothing was changed.
    State(StateError),
    Log(CatalogError),
    /// An earlier change failed in the middle.
    Latched,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::State(error) => error.fmt(f),
            ChangeError::Log(error) => error.fmt(f),
            ChangeError::Latched => {
                write!(f, "an earlier change failed in the middle: restart to find out what is stored")
            }
        }
    }
}

impl std::error::Error for ChangeError {}

pub struct Control<L> {
    log: L,
    state: State,
    limit: OnboardLimit,
    pub(super) changes: ChangeLimit,
    /// Logins and refreshes, by user.
    pub(super) session_changes: ChangeLimit,
    /// When keys were used that no record tells of yet, and since when there are such.
    pub(super) used: HashMap<u64, Micros>,
    pub(super) used_since: Option<Micros>,
    /// Where streaming keys stand, once it was read.
    pub(super) keys_file: Option<PathBuf>,
    tenants_by_shard: Vec<u32>,
    /// What `signer` and `verifying` were made of.
    secrets: Vec<NamedSecret>,
    signer: Option<TokenSigner>,
    verifying: Arc<VerifyingKeys>,
    /// What cores have not heard yet.
    pending: Vec<Change>,
    epoch: u64,
    latched: bool,
}

impl<L: CatalogLog> Control<L> {
    /// Replays the log. The catalog cannot sign anything before `set_up`.
    pub fn open(mut log: L, settings: ControlSettings) -> Result<Control<L>, OpenError> {
        assert!(0 < settings.shard_count);
        let mut state = State::default();
        log.replay(&mut |bytes| {
            let at = state.record_count() + 1;
            let damaged = |why: &dyn fmt::Display| CatalogError::Damaged(format!("record {at}: {why}"));
            let record = Record::decode(bytes).map_err(|error| damaged(&error))?;
            state.apply(&record, chain_digest(bytes)).map_err(|error| damaged(&error))?;
            Ok(())
        })
        .map_err(OpenError::Log)?;
        let mut tenants_by_shard = vec![0; settings.shard_count as usize];
        for entry in state.tenants() {
            let (tenant, shard) = (entry.made.number, entry.made.shard);
            match tenants_by_shard.get_mut(shard as usize) {
                Some(count) => *count += 1,
                None => return Err(OpenError::ShardGone { tenant, shard }),
            }
        }
        Ok(Control {
            log,
            state,
            limit: OnboardLimit::new(settings.onboard_per_hour),
            changes: ChangeLimit::default(),
            session_changes: ChangeLimit::default(),
            used: HashMap::new(),
            used_since: None,
            keys_file: None,
            tenants_by_shard,
            secrets: Vec::new(),
            signer: None,
            verifying: Arc::default(),
            pending: Vec::new(),
            epoch: 1,
            latched: false,
        })
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn log(&mut self) -> &mut L {
        &mut self.log
    }

    /// Everything that cores must know as of now: what `Credentials::new` begins with.
    pub fn snapshot(&mut self) -> Delta {
        // They are in the snapshot.
        self.pending.clear();
        let mut changes = self.state.snapshot();
        changes.push(Change::SigningKeys(Arc::clone(&self.verifying)));
        Delta { epoch: self.epoch, changes }
    }

    /// What changed since the last one, under the next epoch.
    pub fn take_delta(&mut self) -> Option<Delta> {
        if self.pending.is_empty() {
            return None;
        }
        self.epoch += 1;
        Some(Delta { epoch: self.epoch, changes: std::mem::take(&mut self.pending) })
    }

    /// Makes a tenant with its first key. Durable when it returns; no core has heard of it yet.
    pub fn onboard(&mut self, request: &Onboard) -> Result<Onboarded, OnboardError> {
        // Addresses that exist count too, or this would be a way to try out whole lists of them.
        if let Err(retry) = self.limit.admit(request.source, request.monotonic_us) {
            let per_hour = self.limit.per_hour();
            return Err(OnboardError::RateLimited { retry_after_seconds: retry.seconds, per_hour });
        }
        let id = request.email.tenant_id();
        let is_taken = self.state.tenant_by_email(request.email.as_str()).is_some();
        if is_taken || self.state.tenant_by_id(&id).is_some() {
            return Err(OnboardError::TenantExists);
        }
        let number = self.state.next_tenant();
        let token_id = TokenId::random();
        let key = self
            .new_key(number, CredentialKind::Jwt, Role::Developer, ONBOARD_KEY_NAME, token_id.proof())
            .map_err(|_| OnboardError::Full)?;
        let shard = self.least_loaded_shard();
        let body = TenantCreated {
            number,
            id: id.clone(),
            name: request.name.as_str().to_owned(),
            email: Some(request.email.as_str().to_owned()),
            tier: ONBOARD_TIER.name().to_owned(),
            events_quota: ONBOARD_TIER.quotas().events_per_month,
            shard,
            key: Some(key.clone()),
        };
        let origin = Origin {
            actor: Actor::Anonymous,
            source: Some(request.source),
            request_id: Some(request.request_id.clone()),
        };
        self.commit(Body::TenantCreated(body), origin, request.at).map_err(|error| match error {
            ChangeError::State(StateError::EmailTaken | StateError::TenantIdTaken) => OnboardError::TenantExists,
            ChangeError::State(_) | ChangeError::Log(CatalogError::Full) => OnboardError::Full,
            ChangeError::Log(_) | ChangeError::Latched => OnboardError::OutcomeUnknown,
        })?;
        let api_key = self.token(&key, &id, &token_id, request.at);
        Ok(Onboarded {
            tenant: Tenant(number),
            tenant_id: id,
            shard: ShardNumber(shard),
            api_key,
            tier: ONBOARD_TIER.name(),
            events_quota: ONBOARD_TIER.quotas().events_per_month,
        })
    }

    /// The text of a key that is about to be shown, once.
    pub(super) fn token(&self, key: &NewKey, tenant_id: &str, token_id: &TokenId, at: Micros) -> Secret {
        let subject = Subject {
            name: &format!("key:{}", key.key),
            tenant_id,
            role: key.role,
            slot: key.slot,
            generation: key.generation,
            issued_at: at,
            expires_at: key.expires_at.map(Micros),
        };
        let signer = self.signer.as_ref().expect("a catalog serves requests after set_up only");
        Secret::new(signer.mint(&subject, token_id))
    }

    /// The record's fields of a key that is about to be made.
    pub(super) fn new_key(
        &self,
        tenant: u32,
        kind: CredentialKind,
        role: Role,
        name: &str,
        proof: Digest,
    ) -> Result<NewKey, ChangeError> {
        let (slot, generation) = self.state.next_slot().ok_or(ChangeError::State(StateError::KeysFull))?;
        let key = self.state.next_key();
        Ok(NewKey { key, slot, generation, tenant, kind, role, name: name.to_owned(), proof, expires_at: None })
    }

    /// Checks, makes durable, takes in. The order is the promise.
    pub(super) fn commit(&mut self, body: Body, origin: Origin, at: Micros) -> Result<(), ChangeError> {
        if self.latched {
            return Err(ChangeError::Latched);
        }
        self.state.check(&body).map_err(ChangeError::State)?;
        // A clock that was set back does not put a record before its predecessor.
        let at = at.max(self.state.last_at());
        let record = Record { at, origin, outcome: body.outcome(), prev: self.state.head(), body };
        let bytes = record.encode();
        if let Err(error) = self.log.append(&bytes, &record.body.entity(), record.body.kind()) {
            self.latched = error != CatalogError::Full;
            return Err(ChangeError::Log(error));
        }
        match &record.body {
            Body::TenantCreated(tenant) => self.tenants_by_shard[tenant.shard as usize] += 1,
            Body::TenantErased(TenantErased { tenant }) => {
                let entry = self.state.tenant(Tenant(*tenant)).expect("it was checked before it was written");
                self.tenants_by_shard[entry.made.shard as usize] -= 1;
            }
            _ => {}
        }
        let changes = self.state.apply(&record, chain_digest(&bytes)).expect("it was checked before it was written");
        self.pending.extend(changes);
        Ok(())
    }

    /// The first signs, and all verify.
    pub(super) fn sign_with(&mut self, secrets: &[NamedSecret]) {
        // Every core forgets what it has verified when it hears of new ones.
        if self.secrets == secrets {
            return;
        }
        self.secrets = secrets.to_vec();
        let pairs = || secrets.iter().map(|named| (named.kid.as_str(), named.secret.expose().as_bytes()));
        let (kid, bytes) = pairs().next().expect("there is a secret to sign with");
        self.signer = Some(TokenSigner::new(kid, bytes));
        self.verifying = Arc::new(VerifyingKeys::new(pairs()));
        self.pending.push(Change::SigningKeys(Arc::clone(&self.verifying)));
    }

    /// The first of those that have the fewest tenants.
    pub(super) fn least_loaded_shard(&self) -> u32 {
        let least = self.tenants_by_shard.iter().enumerate().min_by_key(|(_, count)| **count);
        least.expect("there is at least one shard").0 as u32
    }

    #[cfg(test)]
    pub(super) fn into_log(self) -> L {
        self.log
    }
}

#[cfg(test)]
mod tests;
