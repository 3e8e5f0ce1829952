//! What a core lets in, before and after each kind of change.

use ringlog_engine::ids::ShardNumber;

use super::*;
use crate::auth::delta::Quotas;
use crate::auth::jwt::{Subject, TokenId, TokenSigner};
use crate::auth::secret::Secret;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const STREAMING: &str = "000102030405060708090a0b0c0d0e0f";
const BOOTSTRAP: &str = "rl_bk_0123456789012345678901234567890123456789012";
const NOW: Micros = Micros(1_000_000_000);

struct Fixture {
    credentials: Credentials,
    token: String,
    token_row: CredentialRow,
    epoch: u64,
}

fn tenant_row(number: u32, id: &str, state: TenantState) -> TenantRow {
    TenantRow { number: Tenant(number), id: id.into(), state, shard: ShardNumber(0), quotas: Quotas::UNLIMITED }
}

fn fixture() -> Fixture {
    let id = TokenId::random();
    let token_row = CredentialRow {
        slot: 0,
        generation: 1,
        key: 1,
        tenant: Tenant(2),
        role: Role::Developer,
        kind: CredentialKind::Jwt,
        scope: Permissions::ALL,
        state: CredentialState::Active,
        expires_at: None,
        proof: id.proof(),
    };
    let key_row = |slot, tenant, role, kind, secret: &str| CredentialRow {
        slot,
        key: u64::from(slot) + 1,
        tenant: Tenant(tenant),
        role,
        kind,
        proof: Secret::new(secret).digest(),
        ..token_row.clone()
    };
    let keys = VerifyingKeys::new([("k1", SECRET)]);
    let snapshot = Delta {
        epoch: 1,
        changes: vec![
            Change::SigningKeys(Arc::new(keys)),
            Change::Tenant(tenant_row(0, "system", TenantState::Active)),
            Change::Tenant(tenant_row(1, "default", TenantState::Active)),
            Change::Tenant(tenant_row(2, "acme", TenantState::Active)),
            Change::Credential(token_row.clone()),
            Change::Credential(key_row(1, 1, Role::ServiceAccount, CredentialKind::Streaming, STREAMING)),
            Change::Credential(key_row(2, 0, Role::Admin, CredentialKind::Bootstrap, BOOTSTRAP)),
        ],
    };
    let token = mint(&id, 0, 1, None);
    Fixture { credentials: Credentials::new(7, &snapshot), token, token_row, epoch: 1 }
}

fn mint(id: &TokenId, slot: u32, generation: u32, expires_at: Option<Micros>) -> String {
    let subject = Subject {
        name: "key:1",
        tenant_id: "acme",
        role: Role::Developer,
        slot,
        generation,
        issued_at: NOW,
        expires_at,
    };
    TokenSigner::new("k1", SECRET).mint(&subject, id)
}

impl Fixture {
    fn check(&mut self, secret: &str) -> Result<Principal, AuthError> {
        self.check_at(secret, NOW)
    }

    fn check_at(&mut self, secret: &str, now: Micros) -> Result<Principal, AuthError> {
        self.credentials.authenticate(Presented::none().authorization(secret.as_bytes()), now)
    }

    fn change(&mut self, change: Change) {
        self.epoch += 1;
        self.credentials.apply(&Delta { epoch: self.epoch, changes: vec![change] });
        assert_eq!(self.credentials.epoch(), self.epoch);
    }
}

#[test]
fn each_kind_of_credential_is_its_tenants() {
    let mut fixture = fixture();
    let token = format!("Bearer {}", fixture.token);
    // The second round comes from the cache.
    for _ in 0..2 {
        let developer = fixture.check(&token).unwrap();
        assert_eq!((developer.tenant, developer.role), (Tenant(2), Role::Developer));
        assert!(developer.may(Permission::ManageSchemas) && !developer.may(Permission::Admin));
        assert!(!developer.acts_for_others());

        let streaming = fixture.check(STREAMING).unwrap();
        assert_eq!(streaming.tenant, Tenant(1));
        assert!(streaming.may(Permission::Write) && !streaming.may(Permission::Read));
        assert_eq!(fixture.check(&STREAMING.to_uppercase()).unwrap(), streaming);
        let bytes = *(0..16).collect::<Vec<u8>>().first_chunk::<16>().unwrap();
        assert_eq!(fixture.credentials.authenticate_streaming_key(&bytes, NOW).unwrap(), streaming);

        let bootstrap = fixture.check(BOOTSTRAP).unwrap();
        assert_eq!(bootstrap.tenant, SYSTEM_TENANT);
        assert!(bootstrap.acts_for_others() && bootstrap.may(Permission::ManageTenants));
    }
}

#[test]
fn what_is_not_right_is_refused_in_one_way() {
    let mut fixture = fixture();
    let good = fixture.token.clone();
    let other = mint(&TokenId::random(), 0, 1, None);
    for wrong in [
        "x",
        "rl_bk_",
        &BOOTSTRAP[..48],
        &BOOTSTRAP.to_uppercase(),
        "000102030405060708090a0b0c0d0e10",
        &STREAMING[1..],
        &good[..good.len() - 1],
        &good[1..],
        // Well signed: another jti, no such row, an older generation, a row of another kind.
        &other,
        &mint(&TokenId::random(), 99, 1, None),
        &mint(&TokenId::random(), u32::MAX, 1, None),
        &mint(&TokenId::random(), 1, 1, None),
    ] {
        for _ in 0..2 {
            assert_eq!(fixture.check(wrong), Err(AuthError::Refused), "{wrong}");
        }
    }
    assert_eq!(fixture.credentials.authenticate(Presented::none(), NOW), Err(AuthError::Missing));
    let two = Presented::none().authorization(good.as_bytes()).api_key(STREAMING.as_bytes());
    assert_eq!(fixture.credentials.authenticate(two, NOW), Err(AuthError::Conflicting));
}

#[test]
fn a_revocation_reaches_the_cache_and_the_admit_check() {
    let mut fixture = fixture();
    let token = fixture.token.clone();
    let principal = fixture.check(&token).unwrap();
    assert!(fixture.credentials.still_valid(principal.slot, principal.generation));
    let revoked = CredentialRow { state: CredentialState::Revoked, ..fixture.token_row.clone() };
    fixture.change(Change::Credential(revoked));
    assert_eq!(fixture.check(&token), Err(AuthError::Refused));
    assert!(!fixture.credentials.still_valid(principal.slot, principal.generation));
    assert!(!fixture.credentials.still_valid(99, 0));
}

#[test]
fn a_reused_slot_does_not_revive_its_old_token() {
    let mut fixture = fixture();
    let old = fixture.token.clone();
    fixture.check(&old).unwrap();
    let id = TokenId::random();
    let next = CredentialRow { generation: 2, proof: id.proof(), ..fixture.token_row.clone() };
    fixture.change(Change::Credential(next));
    assert_eq!(fixture.check(&old), Err(AuthError::Refused));
    assert_eq!(fixture.check(&mint(&id, 0, 1, None)), Err(AuthError::Refused));
    assert_eq!(fixture.check(&mint(&id, 0, 2, None)).unwrap().generation, 2);
    assert!(!fixture.credentials.still_valid(0, 1));
}

#[test]
fn whose_a_key_was_is_known_until_its_slot_has_another() {
    let mut fixture = fixture();
    let key = std::array::from_fn(|index| index as u8);
    let whose = |fixture: &Fixture| fixture.credentials.whose_streaming_key(&key);
    assert_eq!((whose(&fixture), fixture.credentials.key_number(1, 1)), (Some((Tenant(1), 1, 1)), Some(2)));
    assert_eq!(fixture.credentials.whose_streaming_key(&[9; 16]), None);
    assert_eq!((fixture.credentials.key_number(1, 2), fixture.credentials.key_number(99, 1)), (None, None));
    let row = |slot, generation, key, secret: &str, state| CredentialRow {
        slot,
        generation,
        key,
        tenant: Tenant(1),
        kind: CredentialKind::Streaming,
        proof: Secret::new(secret).digest(),
        state,
        ..fixture.token_row.clone()
    };
    let revoked = row(1, 1, 2, STREAMING, CredentialState::Revoked);
    let again = row(5, 1, 6, STREAMING, CredentialState::Active);
    let next = row(1, 2, 7, "another", CredentialState::Active);
    let ended = row(5, 1, 6, STREAMING, CredentialState::Revoked);
    fixture.change(Change::Credential(revoked.clone()));
    assert_eq!(fixture.check(STREAMING), Err(AuthError::Refused));
    assert_eq!((whose(&fixture), fixture.credentials.key_number(1, 1)), (Some((Tenant(1), 1, 1)), Some(2)));
    // Given again, it is good by its new slot, in whichever order a core hears of both.
    fixture.change(Change::Credential(again));
    fixture.change(Change::Credential(revoked));
    assert_eq!(fixture.check(STREAMING).unwrap().slot, 5);
    fixture.change(Change::Credential(next));
    assert_eq!((whose(&fixture), fixture.credentials.key_number(1, 1)), (Some((Tenant(1), 5, 1)), None));
    fixture.change(Change::Credential(ended));
    assert_eq!(fixture.check(STREAMING), Err(AuthError::Refused));
    assert_eq!(whose(&fixture), Some((Tenant(1), 5, 1)));
    fixture.change(Change::Credential(CredentialRow { key: u64::MAX, ..fixture.token_row.clone() }));
    assert_eq!(fixture.credentials.key_number(0, 1), None);
}

/// While keys come, so that the tables grow with some of them in use, and while they go.
#[test]
fn of_many_keys_each_ends_alone() {
    const KEYS: u32 = 2000;
    let mut fixture = fixture();
    let key = |number: u32| format!("{number:032x}");
    let row = |number: u32, state| {
        Change::Credential(CredentialRow {
            slot: 3 + number,
            key: 10 + u64::from(number),
            tenant: Tenant(1),
            kind: CredentialKind::Streaming,
            proof: Secret::new(key(number)).digest(),
            state,
            ..fixture.token_row.clone()
        })
    };
    let put: Vec<Change> = (0..KEYS).map(|number| row(number, CredentialState::Active)).collect();
    let taken_back: Vec<Change> = (0..KEYS).map(|number| row(number, CredentialState::Revoked)).collect();
    for (number, change) in (0..).zip(put) {
        assert_eq!(fixture.check(&key(number)), Err(AuthError::Refused));
        fixture.change(change);
        for number in [number, number / 2] {
            assert_eq!(fixture.check(&key(number)).unwrap().slot, 3 + number);
        }
    }
    for (number, change) in (0..).zip(taken_back) {
        assert!(fixture.check(&key(number)).is_ok());
        fixture.change(change);
        assert_eq!(fixture.check(&key(number)), Err(AuthError::Refused));
        let next = (number + 1) % KEYS;
        assert_eq!(fixture.check(&key(next)).is_ok(), number < next);
    }
}

#[test]
fn one_key_in_two_spellings_is_one_key() {
    let mut fixture = fixture();
    let (lower, upper) = ("ab".repeat(16), "AB".repeat(16));
    let row = |state| {
        Change::Credential(CredentialRow {
            slot: 3,
            kind: CredentialKind::Streaming,
            proof: Secret::new(lower.clone()).digest(),
            state,
            ..fixture.token_row.clone()
        })
    };
    let (put, taken_back) = (row(CredentialState::Active), row(CredentialState::Revoked));
    fixture.change(put);
    for _ in 0..2 {
        assert_eq!(fixture.check(&lower), fixture.check(&upper));
        assert_eq!(fixture.check(&upper).unwrap().slot, 3);
    }
    fixture.change(taken_back);
    for spelling in [lower, upper] {
        assert_eq!(fixture.check(&spelling), Err(AuthError::Refused));
    }
}

#[test]
fn a_replaced_bootstrap_key_is_dead_at_once() {
    let mut fixture = fixture();
    fixture.check(BOOTSTRAP).unwrap();
    let next = CredentialRow {
        slot: 2,
        generation: 2,
        tenant: SYSTEM_TENANT,
        role: Role::Admin,
        kind: CredentialKind::Bootstrap,
        proof: Secret::new("another-bootstrap-key").digest(),
        ..fixture.token_row.clone()
    };
    fixture.change(Change::Credential(next));
    assert_eq!(fixture.check(BOOTSTRAP), Err(AuthError::Refused));
    assert!(fixture.check("another-bootstrap-key").unwrap().acts_for_others());
    assert_eq!(fixture.credentials.slots_by_digest.len(), 2);
}

#[test]
fn a_key_that_was_taken_back_and_given_again_is_good_again() {
    let mut fixture = fixture();
    assert_eq!(fixture.check(STREAMING).unwrap().slot, 1);
    let row = |slot, state| CredentialRow {
        slot,
        tenant: Tenant(1),
        role: Role::ServiceAccount,
        kind: CredentialKind::Streaming,
        state,
        proof: Secret::new(STREAMING).digest(),
        ..fixture.token_row.clone()
    };
    let (revoked, again) = (row(1, CredentialState::Revoked), row(3, CredentialState::Active));
    fixture.change(Change::Credential(revoked));
    assert_eq!(fixture.check(STREAMING), Err(AuthError::Refused));
    fixture.change(Change::Credential(again));
    for _ in 0..2 {
        assert_eq!(fixture.check(STREAMING).unwrap().slot, 3);
    }
}

#[test]
fn expiry_is_seen_in_the_row_and_in_the_token() {
    let mut fixture = fixture();
    let id = TokenId::random();
    let until = |seconds: i64| Micros(seconds * 1_000_000);
    let row = CredentialRow { proof: id.proof(), expires_at: Some(until(2000)), ..fixture.token_row.clone() };
    fixture.change(Change::Credential(row));
    let by_row = mint(&id, 0, 1, None);
    let by_token = mint(&id, 0, 1, Some(until(1500)));
    for _ in 0..2 {
        assert!(fixture.check_at(&by_row, Micros(until(2000).0 - 1)).is_ok());
        assert_eq!(fixture.check_at(&by_row, until(2000)), Err(AuthError::Refused));
        assert!(fixture.check_at(&by_token, Micros(until(1500).0 - 1)).is_ok());
        assert_eq!(fixture.check_at(&by_token, until(1500)), Err(AuthError::Refused));
    }
}

#[test]
fn a_suspended_tenants_keys_rest_and_come_back() {
    let mut fixture = fixture();
    let token = fixture.token.clone();
    fixture.check(&token).unwrap();
    fixture.change(Change::Tenant(tenant_row(2, "acme", TenantState::Suspended)));
    assert_eq!(fixture.check(&token), Err(AuthError::Refused));
    assert!(!fixture.credentials.still_valid(0, 1));
    assert!(fixture.check(STREAMING).is_ok());
    fixture.change(Change::Tenant(tenant_row(2, "acme", TenantState::Active)));
    assert!(fixture.check(&token).is_ok());
}

#[test]
fn a_retired_signing_key_empties_the_cache() {
    let mut fixture = fixture();
    let token = fixture.token.clone();
    fixture.check(&token).unwrap();
    let keys = VerifyingKeys::new([("k2", SECRET)]);
    fixture.change(Change::SigningKeys(Arc::new(keys)));
    assert_eq!(fixture.check(&token), Err(AuthError::Refused));
}

#[test]
fn headers_may_name_only_the_own_tenant_unless_one_acts_for_others() {
    use ActingError::{Forbidden, Suspended, Unknown, Unnamed};
    let mut fixture = fixture();
    fixture.change(Change::Tenant(tenant_row(3, "rests", TenantState::Suspended)));
    let developer = fixture.check(&fixture.token.clone()).unwrap();
    let bootstrap = fixture.check(BOOTSTRAP).unwrap();
    let check = |principal: &Principal, tenant: Option<&str>, workspace: Option<&str>| {
        fixture.credentials.acting_tenant(principal, tenant, workspace).map(|row| row.number.0)
    };
    for (tenant, workspace, own, others) in [
        (None, None, Ok(2), Err(Unnamed)),
        (Some("acme"), None, Ok(2), Ok(2)),
        (Some("ws-2"), None, Ok(2), Ok(2)),
        (None, Some("ws-2"), Ok(2), Ok(2)),
        (None, Some(" 2 "), Ok(2), Ok(2)),
        (Some("acme"), Some("ws-2"), Ok(2), Ok(2)),
        (Some("default"), None, Err(Forbidden), Ok(1)),
        (None, Some("ws-1"), Err(Forbidden), Ok(1)),
        (Some("acme"), Some("ws-1"), Err(Forbidden), Err(Forbidden)),
        (Some("nobody"), None, Err(Forbidden), Err(Unknown)),
        (None, Some("ws-9"), Err(Forbidden), Err(Unknown)),
        (Some("2"), None, Err(Forbidden), Err(Unknown)),
        (Some(""), None, Err(Forbidden), Err(Unknown)),
        (None, Some("ws-02"), Err(Forbidden), Err(Unknown)),
        (None, Some("ws-0"), Err(Forbidden), Err(Unknown)),
        (None, Some("0"), Err(Forbidden), Err(Unknown)),
        (None, Some("ws-99999999999"), Err(Forbidden), Err(Unknown)),
        (None, Some("+2"), Err(Forbidden), Err(Unknown)),
        (Some("rests"), None, Err(Forbidden), Err(Suspended(Tenant(3)))),
    ] {
        assert_eq!(check(&developer, tenant, workspace), own, "own {tenant:?} {workspace:?}");
        assert_eq!(check(&bootstrap, tenant, workspace), others, "others {tenant:?} {workspace:?}");
    }
}

#[test]
fn a_programmatic_key_does_what_its_scope_leaves_of_a_role() {
    let mut fixture = fixture();
    let key = crate::auth::programmatic::random_key();
    let row = |scope, role, state| CredentialRow {
        slot: 3,
        kind: CredentialKind::Programmatic,
        role,
        scope,
        state,
        proof: key.digest(),
        ..fixture.token_row.clone()
    };
    let (read, all) = (Permissions::of(&[Permission::Read]), Permissions::ALL);
    let cases = [
        (row(all, Role::Admin, CredentialState::Active), Some((true, true))),
        (row(read, Role::Admin, CredentialState::Active), Some((true, false))),
        // Its creator lost a role.
        (row(all, Role::ServiceAccount, CredentialState::Active), Some((true, false))),
        (row(read, Role::ServiceAccount, CredentialState::Active), Some((true, false))),
        (row(all, Role::Admin, CredentialState::Revoked), None),
    ];
    for (row, expected) in cases {
        fixture.change(Change::Credential(row));
        for _ in 0..2 {
            let found = fixture.check(key.expose());
            let may = found.map(|who| (who.may(Permission::Read), who.may(Permission::Admin)));
            assert_eq!(may.ok(), expected);
        }
    }
    // It is no streaming key, and shows its use once.
    assert_eq!(fixture.credentials.take_used(Micros(0)), None);
    let used = fixture.credentials.take_all_used();
    assert_eq!(used.iter().map(|used| (used.slot, used.at)).collect::<Vec<_>>(), [(3, NOW)]);
    fixture.check(STREAMING).unwrap();
    assert!(fixture.credentials.take_all_used().is_empty());
}

#[test]
fn a_random_key_opens_nothing() {
    let mut fixture = fixture();
    for _ in 0..20_000 {
        assert!(fixture.check(Secret::random_streaming_key().expose()).is_err());
    }
}

/// `cargo test --release -p ringlog --lib -- --ignored --nocapture cost_of_a_check`
#[test]
#[ignore = "prints a measurement"]
fn cost_of_a_check() {
    for key_count in [16, 10_000, 1_000_000] {
        let ids: Vec<TokenId> = (0..key_count).map(|_| TokenId::random()).collect();
        let template = fixture().token_row;
        let mut changes: Vec<Change> = ids
            .iter()
            .enumerate()
            .map(|(slot, id)| {
                Change::Credential(CredentialRow { slot: slot as u32, proof: id.proof(), ..template.clone() })
            })
            .collect();
        changes.push(Change::Tenant(tenant_row(2, "acme", TenantState::Active)));
        changes.push(Change::SigningKeys(Arc::new(VerifyingKeys::new([("k1", SECRET)]))));
        let streaming = Secret::new(STREAMING);
        changes.push(Change::Credential(CredentialRow {
            slot: key_count as u32,
            kind: CredentialKind::Streaming,
            proof: streaming.digest(),
            ..template
        }));
        let mut credentials = Credentials::new(7, &Delta { epoch: 1, changes });
        let tokens: Vec<String> =
            ids.iter().take(20_000).enumerate().map(|(slot, id)| mint(id, slot as u32, 1, None)).collect();
        let rounds = 200_000;
        let mut measure = |what: &str, secrets: &[String], valid: bool| {
            for round in 0..3 {
                let begin = ringlog_engine::io::clock::monotonic_us();
                for at in 0..rounds {
                    let value = secrets[at % secrets.len()].as_bytes();
                    let answer = credentials.authenticate(Presented::none().authorization(value), NOW);
                    assert_eq!(answer.is_ok(), valid);
                }
                let spent = ringlog_engine::io::clock::monotonic_us() - begin;
                if round == 2 {
                    println!("{key_count:>8} keys, {what}: {} ns", spent * 1000 / rounds as u64);
                }
            }
        };
        let hot: Vec<String> = tokens.iter().take(16).map(|token| format!("Bearer {token}")).collect();
        println!("token of {} bytes", tokens[0].len());
        measure("16 hot tokens, cached", &hot, true);
        measure("all tokens in turn, cached", &tokens, true);
        measure("one streaming key, cached", &[STREAMING.to_owned()], true);
        measure("unknown streaming key", &["f".repeat(32)], false);
        let forged: Vec<String> = hot.iter().map(|token| format!("{}A{}", &token[..60], &token[61..])).collect();
        measure("forged tokens, MAC refused", &forged, false);
        let begin = ringlog_engine::io::clock::monotonic_us();
        for token in tokens.iter().cycle().take(20_000) {
            assert!(credentials.check_token(token.as_bytes()).is_some());
        }
        let spent = ringlog_engine::io::clock::monotonic_us() - begin;
        println!("{key_count:>8} keys, token not cached: {} ns", spent * 1000 / 20_000);
    }
}
