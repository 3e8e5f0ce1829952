//! What can follow what, and that a replay gives what the last life had.

use super::*;
use crate::auth::role::Role;
use crate::catalog::records::{
    KeyRevoked, Origin, Outcome, SigningSecretCreated, TenantDeleted, TenantErased, chain_digest,
};

#[derive(Default)]
struct Catalog {
    state: State,
    records: Vec<Record>,
}

impl Catalog {
    fn put(&mut self, body: Body) -> Result<Vec<Change>, StateError> {
        let at = Micros(self.records.len() as i64);
        let record = Record { at, origin: Origin::server(), outcome: Outcome::Ok, prev: self.state.head(), body };
        let changes = self.state.apply(&record, chain_digest(&record.encode()))?;
        self.records.push(record);
        Ok(changes)
    }

    fn key(&self, tenant: u32, kind: CredentialKind) -> NewKey {
        let key = self.state.next_key();
        let (slot, generation) = self.state.next_slot().unwrap();
        let role = Role::Developer;
        NewKey { key, slot, generation, tenant, kind, role, name: "k".into(), proof: [key as u8; 32], expires_at: None }
    }

    fn tenant(&self, id: &str, email: Option<&str>) -> TenantCreated {
        TenantCreated {
            number: self.state.next_tenant(),
            id: id.into(),
            name: id.into(),
            email: email.map(str::to_owned),
            tier: "free".into(),
            events_quota: Some(1),
            shard: 0,
            key: None,
        }
    }
}

fn filled() -> Catalog {
    let mut catalog = Catalog::default();
    catalog.put(Body::SigningSecretCreated(SigningSecretCreated { kid: "k1".into() })).unwrap();
    catalog.put(Body::BootstrapKeySet(catalog.key(0, CredentialKind::Bootstrap))).unwrap();
    catalog.put(Body::TenantCreated(catalog.tenant("default", None))).unwrap();
    catalog.put(Body::KeyMinted(catalog.key(1, CredentialKind::Streaming))).unwrap();
    let key = NewKey { tenant: 2, ..catalog.key(1, CredentialKind::Jwt) };
    let tenant = TenantCreated { key: Some(key), ..catalog.tenant("acme", Some("a@b.c")) };
    catalog.put(Body::TenantCreated(tenant)).unwrap();
    catalog
}

#[test]
fn what_is_put_is_found() {
    let catalog = filled();
    assert_eq!(catalog.state.tenant_by_id("acme").unwrap().made.number, 2);
    assert_eq!(catalog.state.tenant_by_email("a@b.c").unwrap().made.id, "acme");
    assert_eq!(catalog.state.bootstrap().unwrap().made.key, 1);
    assert_eq!(catalog.state.keys().count(), 3);
    assert_eq!(catalog.state.kids(), ["k1"]);
    // System, two tenants, three keys.
    assert_eq!(catalog.state.snapshot().len(), 6);
}

#[test]
fn a_streaming_key_that_was_taken_back_is_told_of_until_its_slot_has_another() {
    let mut catalog = filled();
    let states = |catalog: &Catalog| -> Vec<(u64, CredentialState)> {
        let rows = catalog.state.snapshot();
        let of_row = |change: Change| match change {
            Change::Credential(row) => Some((row.key, row.state)),
            _ => None,
        };
        rows.into_iter().filter_map(of_row).collect()
    };
    use CredentialState::{Active, Revoked};
    assert_eq!(states(&catalog), [(1, Active), (2, Active), (3, Active)]);
    catalog.put(Body::KeyRevoked(KeyRevoked { key: 2 })).unwrap();
    catalog.put(Body::KeyRevoked(KeyRevoked { key: 3 })).unwrap();
    // Who still tries a token is nobody's business.
    assert_eq!(states(&catalog), [(1, Active), (2, Revoked)]);
    catalog.put(Body::KeyMinted(catalog.key(1, CredentialKind::Streaming))).unwrap();
    assert_eq!(states(&catalog), [(1, Active), (4, Active)]);
}

#[test]
fn what_cannot_follow_is_refused_and_changes_nothing() {
    let mut catalog = filled();
    let before = format!("{:?}", catalog.state);
    let tenant = |id, email| catalog.tenant(id, email);
    let key = catalog.key(2, CredentialKind::Jwt);
    let streaming = catalog.key(2, CredentialKind::Streaming);
    let wrong = [
        (Body::TenantCreated(TenantCreated { number: 2, ..tenant("x", None) }), StateError::TenantNumber),
        (Body::TenantCreated(TenantCreated { number: 4, ..tenant("x", None) }), StateError::TenantNumber),
        (Body::TenantCreated(tenant("acme", None)), StateError::TenantIdTaken),
        (Body::TenantCreated(tenant("system", None)), StateError::TenantIdTaken),
        (Body::TenantCreated(tenant("x", Some("a@b.c"))), StateError::EmailTaken),
        (Body::TenantCreated(TenantCreated { key: Some(key.clone()), ..tenant("x", None) }), StateError::KeyTenant),
        (Body::KeyMinted(NewKey { tenant: 9, ..key.clone() }), StateError::NoSuchTenant),
        (Body::KeyMinted(NewKey { key: 1, ..key.clone() }), StateError::KeyNumber),
        (Body::KeyMinted(NewKey { slot: 0, ..key.clone() }), StateError::Slot),
        (Body::KeyMinted(NewKey { generation: 2, ..key.clone() }), StateError::Slot),
        (Body::KeyMinted(NewKey { proof: [2; 32], ..streaming.clone() }), StateError::ProofTaken),
        (Body::KeyMinted(NewKey { kind: CredentialKind::Bootstrap, ..key.clone() }), StateError::KeyKind),
        (Body::BootstrapKeySet(streaming), StateError::KeyKind),
        (Body::BootstrapKeySet(NewKey { kind: CredentialKind::Bootstrap, ..key }), StateError::KeyTenant),
        (Body::KeyRevoked(KeyRevoked { key: 9 }), StateError::NoSuchKey),
        (Body::SigningSecretCreated(SigningSecretCreated { kid: "k1".into() }), StateError::SigningSecretTaken),
    ];
    for (body, expected) in wrong {
        assert_eq!(catalog.put(body.clone()).unwrap_err(), expected, "{body:?}");
    }
    assert_eq!(format!("{:?}", catalog.state), before);
}

#[test]
fn a_record_out_of_the_chain_is_refused() {
    let catalog = filled();
    let mut state = State::default();
    for record in &catalog.records[1..] {
        assert_eq!(state.apply(record, [1; 32]).unwrap_err(), StateError::Chain);
    }
    // A changed record breaks the chain at the next one.
    state.apply(&catalog.records[0], chain_digest(b"something else")).unwrap();
    assert_eq!(state.apply(&catalog.records[1], [1; 32]).unwrap_err(), StateError::Chain);
}

#[test]
fn a_replay_gives_the_same_state() {
    let mut catalog = filled();
    catalog.put(Body::KeyRevoked(KeyRevoked { key: 2 })).unwrap();
    catalog.put(Body::BootstrapKeySet(catalog.key(0, CredentialKind::Bootstrap))).unwrap();
    catalog.put(Body::KeyMinted(catalog.key(2, CredentialKind::Jwt))).unwrap();
    let mut state = State::default();
    for record in &catalog.records {
        let bytes = record.encode();
        state.apply(&Record::decode(&bytes).unwrap(), chain_digest(&bytes)).unwrap();
    }
    assert_eq!(format!("{:?}", state.snapshot()), format!("{:?}", catalog.state.snapshot()));
    assert_eq!((state.head(), state.record_count()), (catalog.state.head(), catalog.state.record_count()));
}

#[test]
fn a_revoked_keys_slot_is_reused_under_a_new_generation() {
    let mut catalog = filled();
    catalog.put(Body::KeyRevoked(KeyRevoked { key: 2 })).unwrap();
    assert_eq!(catalog.put(Body::KeyRevoked(KeyRevoked { key: 2 })).unwrap_err(), StateError::AlreadyRevoked);
    assert_eq!(catalog.state.next_slot(), Some((1, 2)));
    let key = catalog.key(1, CredentialKind::Streaming);
    catalog.put(Body::KeyMinted(key)).unwrap();
    assert_eq!(catalog.state.next_slot(), Some((3, 1)));
}

#[test]
fn a_new_bootstrap_key_revokes_the_old_one() {
    let mut catalog = filled();
    let changes = catalog.put(Body::BootstrapKeySet(catalog.key(0, CredentialKind::Bootstrap))).unwrap();
    let states: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Credential(row) => (row.slot, row.state),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(states, [(0, CredentialState::Revoked), (3, CredentialState::Active)]);
    assert_eq!(catalog.state.bootstrap().unwrap().made.key, 4);
    assert_eq!(catalog.state.next_slot(), Some((0, 2)));
}

fn programmatic(catalog: &Catalog, creator: u64) -> ProgrammaticKeyMinted {
    ProgrammaticKeyMinted {
        key: catalog.key(2, CredentialKind::Programmatic),
        id: KeyId::random(),
        prefix: "tell_a1b2".into(),
        description: None,
        has_workspace: false,
        permissions: None,
        creator: Actor::Key(creator),
    }
}

#[test]
fn a_programmatic_key_follows_its_creators_role() {
    let mut catalog = filled();
    // The key of acme; one made with it, and one made with that.
    let (creator, first, second) = (3, 4, 5);
    catalog.put(Body::ProgrammaticKeyMinted(programmatic(&catalog, creator))).unwrap();
    catalog.put(Body::ProgrammaticKeyMinted(programmatic(&catalog, first))).unwrap();
    assert_eq!(catalog.state.keys[&second].made.role, Role::Developer);
    let entry = catalog.state.keys.get_mut(&creator).unwrap();
    entry.made.role = Role::ReadOnly;
    entry.made.expires_at = Some(77);
    let changes = catalog.state.creator_changed(Actor::Key(creator));
    let rows: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Credential(row) => (row.role, row.expires_at, row.state),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(rows, [(Role::ReadOnly, Some(Micros(77)), CredentialState::Active); 2]);
    assert_eq!(catalog.state.owner(&catalog.state.keys[&second]), Actor::Key(creator));
    // The end of the first is the end of all, told at once.
    assert_eq!(catalog.put(Body::KeyRevoked(KeyRevoked { key: creator })).unwrap().len(), 3);
    assert!(catalog.state.keys_by_id.is_empty() && catalog.state.keys_by_creator.is_empty());
    let again = catalog.put(Body::KeyRevoked(KeyRevoked { key: second }));
    assert_eq!(again.unwrap_err(), StateError::AlreadyRevoked);
}

#[test]
fn a_programmatic_key_needs_a_creator_that_lives_and_an_id_of_its_own() {
    let mut catalog = filled();
    let body = programmatic(&catalog, 3);
    let wrong = [
        (ProgrammaticKeyMinted { creator: Actor::Key(9), ..body.clone() }, StateError::Creator),
        (ProgrammaticKeyMinted { creator: Actor::Server, ..body.clone() }, StateError::Creator),
        (ProgrammaticKeyMinted { key: catalog.key(2, CredentialKind::Jwt), ..body.clone() }, StateError::KeyKind),
        (
            ProgrammaticKeyMinted { key: catalog.key(9, CredentialKind::Programmatic), ..body.clone() },
            StateError::NoSuchTenant,
        ),
    ];
    for (body, error) in wrong {
        assert_eq!(catalog.put(Body::ProgrammaticKeyMinted(body)).unwrap_err(), error);
    }
    assert_eq!(catalog.put(Body::KeyMinted(body.key.clone())).unwrap_err(), StateError::KeyKind);
    catalog.put(Body::ProgrammaticKeyMinted(body.clone())).unwrap();
    let again = ProgrammaticKeyMinted { id: body.id, ..programmatic(&catalog, 3) };
    assert_eq!(catalog.put(Body::ProgrammaticKeyMinted(again)).unwrap_err(), StateError::KeyIdTaken);
    catalog.put(Body::KeyRevoked(KeyRevoked { key: 3 })).unwrap();
    let late = programmatic(&catalog, 3);
    assert_eq!(catalog.put(Body::ProgrammaticKeyMinted(late)).unwrap_err(), StateError::Creator);
}

#[test]
fn an_erased_tenant_gives_its_id_and_address_back_and_never_its_number() {
    let mut catalog = filled();
    catalog.put(Body::KeyMinted(catalog.key(2, CredentialKind::Streaming))).unwrap();
    let erased = |tenant| Body::TenantErased(TenantErased { tenant });
    let deleted = Body::TenantDeleted(TenantDeleted { tenant: 2 });
    // It is deleted first, and what is deleted is still somebody.
    assert_eq!(catalog.put(erased(2)).unwrap_err(), StateError::TenantNotDeleted);
    assert_eq!(catalog.put(erased(9)).unwrap_err(), StateError::NoSuchTenant);
    catalog.put(deleted.clone()).unwrap();
    assert_eq!(catalog.put(deleted.clone()).unwrap_err(), StateError::TenantDeleted);
    let taken = [("acme", None, StateError::TenantIdTaken), ("x", Some("a@b.c"), StateError::EmailTaken)];
    for (id, email, error) in taken {
        let tenant = catalog.tenant(id, email);
        assert_eq!(catalog.put(Body::TenantCreated(tenant)).unwrap_err(), error);
    }
    assert!(catalog.state.tenant_named("acme").is_none());
    assert_eq!(catalog.state.tenant_or_deleting("ws-2").unwrap().made.id, "acme");

    let changes = catalog.put(erased(2)).unwrap();
    assert!(matches!(changes[..], [Change::TenantGone(Tenant(2))]), "{changes:?}");
    assert_eq!(catalog.put(erased(2)).unwrap_err(), StateError::NoSuchTenant);
    assert_eq!(catalog.put(deleted).unwrap_err(), StateError::NoSuchTenant);
    assert!(catalog.state.tenant_or_deleting("acme").is_none() && catalog.state.tenant_or_deleting("ws-2").is_none());
    // Only those who are left, and nothing of those who are not.
    let is_of = |change: &Change, tenant| match change {
        Change::Tenant(row) => row.number == tenant,
        Change::Credential(row) => row.tenant == tenant,
        Change::TenantGone(_) | Change::SigningKeys(_) => false,
    };
    let rows = catalog.state.snapshot();
    assert!(rows.iter().any(|row| is_of(row, Tenant(1))) && !rows.iter().any(|row| is_of(row, Tenant(2))), "{rows:?}");

    assert_eq!(catalog.state.next_tenant(), 3);
    let again = catalog.tenant("acme", Some("a@b.c"));
    catalog.put(Body::TenantCreated(again)).unwrap();
    assert_eq!(catalog.state.tenant_by_email("a@b.c").unwrap().made.number, 3);
    // Who reads old records is still told what it was called.
    let known = [0, 2, 3, 4].map(|number| catalog.state.id_of_tenant(Tenant(number)));
    assert_eq!(known, [Some("system"), Some("acme"), Some("acme"), None]);
    let had = [0, 1, 2, 3, 4].map(|number| catalog.state.has_had_tenant(Tenant(number)));
    assert_eq!(had, [false, true, true, true, false]);
}

#[test]
fn the_last_tenants_number_is_not_given_out_again_by_a_replay() {
    let mut catalog = filled();
    catalog.put(Body::TenantDeleted(TenantDeleted { tenant: 2 })).unwrap();
    catalog.put(Body::TenantErased(TenantErased { tenant: 2 })).unwrap();
    let mut state = State::default();
    for record in &catalog.records {
        state.apply(record, chain_digest(&record.encode())).unwrap();
    }
    assert_eq!(state, catalog.state);
    assert_eq!(state.next_tenant(), 3);
}
