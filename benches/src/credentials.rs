//! A core's table of credentials, as large as a bench wants it.

use ringlog_engine::ids::{Micros, ShardNumber, Tenant};
use ringlog_server::auth::credentials::Credentials;
use ringlog_server::auth::delta::{
    Change, CredentialKind, CredentialRow, CredentialState, Delta, Quotas, TenantRow, TenantState,
};
use ringlog_server::auth::jwt::{Subject, TokenId, TokenSigner, VerifyingKeys};
use ringlog_server::auth::role::{Permissions, Role};
use ringlog_server::auth::secret::{Secret, hex};

/// When all of this happens.
pub const NOW: Micros = Micros(1_790_000_000_000_000);
const TENANT: Tenant = Tenant(1);
const KID: &str = "k1";
const SIGNING_SECRET: &[u8] = b"only a bench signs with this one";

/// Where the numbers of keys begin that were good once, of those that never were, and of programmatic keys.
const REVOKED_FROM: u64 = 1 << 48;
const UNKNOWN_FROM: u64 = 1 << 52;
const PROGRAMMATIC_FROM: u64 = 1 << 56;

/// How many credentials of each kind.
pub struct Counts {
    /// The number of the first of each kind: tables that have no key in common begin at different ones.
    pub first: u64,
    /// As many as this are live, and as many again revoked.
    pub streaming: u32,
    pub programmatic: u32,
    pub tokens: u32,
}

/// A table and the tokens in it.
pub struct Table {
    pub credentials: Credentials,
    pub tokens: Vec<String>,
}

/// The streaming key of this number: as spread as a random one, and the same in each run.
pub fn streaming_key(number: u64) -> String {
    let halves = [mixed(2 * number + 1), mixed(2 * number + 2)];
    hex(&halves.map(u64::to_le_bytes).concat())
}

/// A key that was good once.
pub fn revoked_key(number: u64) -> String {
    streaming_key(REVOKED_FROM + number)
}

/// A key that never was.
pub fn unknown_key(number: u64) -> String {
    streaming_key(UNKNOWN_FROM + number)
}

pub fn programmatic_key(number: u64) -> String {
    format!("tell_{}", streaming_key(PROGRAMMATIC_FROM + number))
}

/// Steele, Lea and Flood's SplitMix64: each number of a row becomes 64 bits that look random.
pub fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

impl Table {
    /// Streaming keys from [`streaming_key`] `first` on, as many from [`revoked_key`] `first` on, programmatic keys from
    /// [`programmatic_key`] `first` on, and tokens.
    pub fn new(counts: Counts) -> Table {
        let row = |slot, kind, state, proof| {
            Change::Credential(CredentialRow {
                slot,
                generation: 1,
                key: u64::from(slot) + 1,
                tenant: TENANT,
                role: Role::Developer,
                kind,
                scope: Permissions::ALL,
                state,
                expires_at: None,
                proof,
            })
        };
        let keys = VerifyingKeys::new([(KID, SIGNING_SECRET)]);
        let mut changes = vec![Change::SigningKeys(keys.into()), Change::Tenant(tenant())];
        let mut slots = 0..;
        let mut slots_of = |count: u32| slots.by_ref().take(count as usize).zip(counts.first..).collect::<Vec<_>>();
        let proof = |key: String| Secret::new(key).digest();
        for (slot, number) in slots_of(counts.streaming) {
            changes.push(row(slot, CredentialKind::Streaming, CredentialState::Active, proof(streaming_key(number))));
        }
        for (slot, number) in slots_of(counts.streaming) {
            changes.push(row(slot, CredentialKind::Streaming, CredentialState::Revoked, proof(revoked_key(number))));
        }
        for (slot, number) in slots_of(counts.programmatic) {
            let proof = proof(programmatic_key(number));
            changes.push(row(slot, CredentialKind::Programmatic, CredentialState::Active, proof));
        }
        let signer = TokenSigner::new(KID, SIGNING_SECRET);
        let mut tokens = Vec::new();
        for (slot, _) in slots_of(counts.tokens) {
            let id = TokenId::random();
            changes.push(row(slot, CredentialKind::Jwt, CredentialState::Active, id.proof()));
            tokens.push(signer.mint(&subject(slot), &id));
        }
        let credentials = Credentials::new(u128::from(mixed(counts.first)), &Delta { epoch: 1, changes });
        Table { credentials, tokens }
    }
}

fn tenant() -> TenantRow {
    TenantRow {
        number: TENANT,
        id: "default".into(),
        state: TenantState::Active,
        shard: ShardNumber(0),
        quotas: Quotas::UNLIMITED,
    }
}

fn subject(slot: u32) -> Subject<'static> {
    Subject {
        name: "key:7",
        tenant_id: "default",
        role: Role::Developer,
        slot,
        generation: 1,
        issued_at: NOW,
        expires_at: None,
    }
}
