//! Commands against a whole catalog and a core's table: who may, what follows, and what a restart knows of it.

mod programmatic;

use super::*;
use crate::auth::credentials::{Credentials, Presented, Principal};
use crate::auth::programmatic::Scope;
use crate::auth::secret::Secret;
use crate::auth::secret_file::NamedSecret;
use crate::auth::tenant_id::Email;
use crate::catalog::control::{ControlSettings, Onboard};
use crate::catalog::keys_file::FileKey;
use crate::catalog::log::MemoryLog;
use crate::catalog::programmatic_keys::Wanted;
use crate::catalog::records::{Actor, NewKey};
use crate::catalog::tiers::Ceiling;
use crate::limits::{KEYS_PER_TENANT_MAX, KEYS_SWEPT_MAX};

const SETTINGS: ControlSettings = ControlSettings { shard_count: 2, onboard_per_hour: 0 };
pub(in crate::catalog) const BOOTSTRAP: &str = "a-bootstrap-key-of-mine";
const DAY: i64 = 86_400_000_000;

fn signing_secret() -> NamedSecret {
    NamedSecret { kid: "k1".into(), secret: Secret::new("0123456789abcdef0123456789abcdef") }
}

pub(in crate::catalog) struct Catalog {
    pub control: Control<MemoryLog>,
    pub core: Credentials,
    pub now: i64,
}

impl Catalog {
    pub fn new() -> Catalog {
        let mut catalog = Catalog::open(MemoryLog::default());
        let digest = Secret::new(BOOTSTRAP).digest();
        let control = &mut catalog.control;
        let key = control.new_key(0, CredentialKind::Bootstrap, Role::Admin, "bootstrap", digest).unwrap();
        control.commit(Body::BootstrapKeySet(key), Origin::server(), Micros(1)).unwrap();
        catalog.publish();
        catalog
    }

    fn open(log: MemoryLog) -> Catalog {
        let mut control = Control::open(log, SETTINGS).unwrap();
        control.sign_with(&[signing_secret()]);
        let core = Credentials::new(1, &control.snapshot());
        Catalog { control, core, now: 1_000_000_000_000_000 }
    }

    pub fn restart(self) -> Catalog {
        let now = self.now;
        Catalog { now, ..Catalog::open(self.control.into_log()) }
    }

    /// What the control thread does between a change and its answer.
    pub fn publish(&mut self) {
        if let Some(delta) = self.control.take_delta() {
            self.core.apply(&delta);
        }
    }

    fn onboard(&mut self, email: &str) -> String {
        let at = Micros(self.now);
        let request =
            Onboard::new(Email::parse(email).unwrap(), None, "::1".parse().unwrap(), "r".into(), at, 1).unwrap();
        let made = self.control.onboard(&request).unwrap();
        self.publish();
        made.api_key.expose().to_owned()
    }

    pub fn who(&mut self, key: &str) -> Option<Principal> {
        self.core.authenticate(Presented::none().authorization(key.as_bytes()), Micros(self.now)).ok()
    }

    /// As a core would ask, with the credential that it found.
    pub fn call(&mut self, key: &str, what: What) -> Answer {
        let principal = self.who(key).expect("the core lets it in");
        self.call_as((principal.slot, principal.generation), what)
    }

    fn call_as(&mut self, (slot, generation): (u32, u32), what: What) -> Answer {
        let call = Call {
            slot,
            generation,
            source: "10.0.0.7".parse().unwrap(),
            request_id: "r-7".into(),
            at: Micros(self.now),
        };
        let answer = self.control.carry_out(&Command { call, what });
        self.publish();
        answer
    }

    pub fn tenant(&mut self, id: &str) -> TenantEntry {
        let what = What::CreateTenant { id: id.into(), name: name(id), tier: Tier::Free };
        match self.call(BOOTSTRAP, what).unwrap() {
            Done::Tenant(entry) => *entry,
            other => panic!("{other:?}"),
        }
    }

    fn mint(
        &mut self,
        key: &str,
        whose: Whose,
        called: &str,
        role: Role,
        days: Option<u32>,
    ) -> Result<Minted, Refused> {
        let what = What::MintKey { whose, name: name(called), role, expires_in_days: days };
        self.call(key, what).map(minted)
    }

    pub fn admin(&mut self, tenant: &str) -> String {
        let made = self.mint(BOOTSTRAP, named(tenant), "admin", Role::Admin, None).unwrap();
        made.api_key.expose().to_owned()
    }

    fn keys(&mut self, key: &str) -> Vec<KeyView> {
        match self.call(key, What::ListKeys { whose: Whose::default() }).unwrap() {
            Done::Keys(keys) => keys,
            other => panic!("{other:?}"),
        }
    }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn named(id: &str) -> Whose {
    Whose { tenant: None, named: Some(id.to_owned()) }
}

fn own() -> Whose {
    Whose::default()
}

fn minted(done: Done) -> Minted {
    match done {
        Done::Minted(minted) => minted,
        other => panic!("{other:?}"),
    }
}

#[test]
fn operators_make_change_and_end_tenants() {
    let mut catalog = Catalog::new();
    assert_eq!(catalog.tenant("acme").made.number, 1);
    assert_eq!(catalog.tenant("umbrella").made.number, 2);
    let again = What::CreateTenant { id: "acme".into(), name: name("x"), tier: Tier::Free };
    assert_eq!(catalog.call(BOOTSTRAP, again).unwrap_err(), Refused::TenantExists);
    let change = What::ChangeTenant { named: "ws-1".into(), name: Some(name("Acme")), tier: Some(Tier::Scale) };
    catalog.call(BOOTSTRAP, change).unwrap();
    let overrides = Overrides { stored_bytes: Some(Ceiling::At(9)), ..Overrides::default() };
    catalog.call(BOOTSTRAP, What::SetQuotas { named: "acme".into(), overrides }).unwrap();
    let row = catalog.core.tenant_named("acme").unwrap().quotas;
    assert_eq!((row.events_per_month, row.stored_bytes), (Some(50_000_000), Some(9)));

    let mut catalog = catalog.restart();
    let Ok(Done::Tenant(entry)) = catalog.call(BOOTSTRAP, What::GetTenant { named: "acme".into() }) else { panic!() };
    assert_eq!((entry.made.name.as_str(), entry.tier, entry.overrides), ("Acme", Tier::Scale, overrides));
    assert_eq!(catalog.core.tenant_named("acme").unwrap().quotas, row);
    let list = |catalog: &mut Catalog, after, limit| match catalog.call(BOOTSTRAP, What::ListTenants { after, limit }) {
        Ok(Done::Tenants { tenants, next }) => {
            (tenants.iter().map(|entry| entry.made.number).collect::<Vec<_>>(), next)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(list(&mut catalog, 0, 10), (vec![1, 2], None));
    assert_eq!(list(&mut catalog, 0, 1), (vec![1], Some(1)));
    assert_eq!(list(&mut catalog, 1, 1), (vec![2], None));

    let key = catalog.admin("acme");
    let delete = |named: &str, confirm: &str| What::DeleteTenant { named: named.into(), confirm: confirm.into() };
    for (named, confirm) in [("acme", ""), ("acme", "Acme"), ("ws-1", "ws-1"), ("acme", "umbrella")] {
        assert_eq!(catalog.call(BOOTSTRAP, delete(named, confirm)).unwrap_err(), Refused::NotConfirmed);
    }
    assert!(catalog.who(&key).is_some());
    catalog.call(BOOTSTRAP, delete("ws-1", "acme")).unwrap();
    assert!(catalog.who(&key).is_none());
    for what in [
        What::SetTenantState { named: "acme".into(), state: TenantState::Active },
        What::GetTenant { named: "nobody".into() },
        What::GetQuotas { named: "acme".into() },
        What::TenantStats { named: "acme".into() },
        What::ListKeys { whose: named("acme") },
    ] {
        assert_eq!(catalog.call(BOOTSTRAP, what).unwrap_err(), Refused::NoTenant);
    }
    // That it is being removed can be watched.
    for named in ["acme", "ws-1"] {
        let Ok(Done::Tenant(entry)) = catalog.call(BOOTSTRAP, What::GetTenant { named: named.into() }) else {
            panic!()
        };
        assert_eq!(entry.state, TenantState::Deleting);
    }
    let records = catalog.control.state().record_count();
    catalog.call(BOOTSTRAP, delete("acme", "acme")).unwrap();
    assert_eq!(catalog.control.state().record_count(), records, "what is so already is no change");
    assert_eq!(catalog.call(BOOTSTRAP, delete("acme", "")).unwrap_err(), Refused::NotConfirmed);
    // As long as that lasts, its id is its own.
    let again = What::CreateTenant { id: "acme".into(), name: name("x"), tier: Tier::Free };
    assert_eq!(catalog.call(BOOTSTRAP, again).unwrap_err(), Refused::TenantExists);
    let mut catalog = catalog.restart();
    assert!(catalog.who(&key).is_none());
    assert_eq!(list(&mut catalog, 0, 10), (vec![1, 2], None));
    assert_eq!(catalog.tenant("third").made.number, 3);
}

#[test]
fn nothing_of_an_erased_tenant_works_for_another_of_its_id() {
    let mut catalog = Catalog::new();
    let onboarded = catalog.onboard("me@x.com");
    let id = "onboard-me-at-x-com";
    let programmatic = {
        let wanted = Wanted { name: "k".into(), description: None, scope: Scope::Inherit, expires_at: None };
        let what = What::Programmatic(AskProgrammatic::Make { whose: own(), wanted });
        match catalog.call(&onboarded, what) {
            Ok(Done::Programmatic(DoneProgrammatic::Made { key, .. })) => key.expose().to_owned(),
            other => panic!("{other:?}"),
        }
    };
    let admin = catalog.admin(id);
    let streaming = "ab".repeat(16);
    let line = FileKey { secret: Secret::new(streaming.as_str()), tenant: Tenant(1), name: String::new() };
    let file = || "apikeys.conf".as_ref();
    catalog.control.match_keys_file(file(), std::slice::from_ref(&line), Micros(1)).unwrap();
    catalog.publish();
    let old = [onboarded, programmatic, admin, streaming.clone()];
    assert!(old.iter().all(|key| catalog.who(key).is_some()));
    let pointers: Vec<_> = old.iter().map(|key| catalog.who(key).map(|who| (who.slot, who.generation))).collect();

    catalog.call(BOOTSTRAP, What::DeleteTenant { named: id.into(), confirm: id.into() }).unwrap();
    assert!(catalog.core.tenant_named(id).is_some_and(|row| row.state == TenantState::Deleting));
    assert!(catalog.control.tenant_erased(Tenant(1), Micros(2)).unwrap());
    catalog.publish();
    assert!(!catalog.control.tenant_erased(Tenant(1), Micros(3)).unwrap(), "it is said again, and known");
    assert!(catalog.control.take_delta().is_none());
    assert!(catalog.core.tenant_named(id).is_none() && catalog.core.tenant(Tenant(1)).is_none());
    for what in [
        What::GetTenant { named: id.into() },
        What::GetTenant { named: "ws-1".into() },
        What::DeleteTenant { named: id.into(), confirm: id.into() },
    ] {
        assert_eq!(catalog.call(BOOTSTRAP, what).unwrap_err(), Refused::NoTenant);
    }

    // The same address, and so the same id; its keys get the slots that the old ones had.
    let fresh = catalog.onboard("me@x.com");
    for _ in 0..2 {
        // The key file still has a line for the old one, and nobody minds.
        catalog.control.match_keys_file(file(), std::slice::from_ref(&line), Micros(4)).unwrap();
        catalog.publish();
        let who = catalog.who(&fresh).expect("the new tenant's key opens");
        let row = catalog.core.tenant(who.tenant).expect("whoever is let in has a tenant");
        assert_eq!((who.tenant, row.id.to_string()), (Tenant(2), id.into()));
        for (key, pointer) in old.iter().zip(&pointers) {
            assert!(catalog.who(key).is_none());
            let late = catalog.call_as(pointer.unwrap(), What::ListKeys { whose: own() });
            assert_eq!(late.unwrap_err(), Refused::Unauthorized);
        }
        catalog = catalog.restart();
    }
    assert_eq!(catalog.core.whose_streaming_key(&[0xab; 16]), None);

    // The audit log tells the two apart, by their numbers.
    let what = What::ReadAudit { tenant: None, query: AuditQuery { limit: 50, ..AuditQuery::default() } };
    let Ok(Done::Audit(page)) = catalog.call(BOOTSTRAP, what) else { panic!() };
    let erased = page.events.iter().find(|event| event.record.body.kind() == "tenant_erased").unwrap();
    assert_eq!((erased.record.origin.actor, &erased.tenant), (Actor::Server, &Some((Tenant(1), id.into()))));
    let created = page.events.iter().filter(|event| event.record.body.kind() == "tenant_created");
    let created: Vec<_> = created.map(|event| event.tenant.clone()).collect();
    assert_eq!(created, [Some((Tenant(2), id.to_owned())), Some((Tenant(1), id.to_owned()))]);
}

#[test]
fn an_erased_tenant_makes_room_on_its_shard() {
    let mut catalog = Catalog::new();
    let shards: Vec<u32> = ["a", "b", "c"].map(|id| catalog.tenant(id).made.shard).into();
    assert_eq!(shards, [0, 1, 0]);
    for (number, id) in [(1, "a"), (3, "c")] {
        catalog.call(BOOTSTRAP, What::DeleteTenant { named: id.into(), confirm: id.into() }).unwrap();
        catalog.control.tenant_erased(Tenant(number), Micros(2)).unwrap();
    }
    assert_eq!(["d", "e"].map(|id| catalog.tenant(id).made.shard), [0, 0]);
    let mut catalog = catalog.restart();
    assert_eq!(["f", "g"].map(|id| catalog.tenant(id).made.shard), [1, 0]);
}

#[test]
fn a_suspended_tenant_is_refused_until_it_is_activated() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let key = catalog.admin("acme");
    let pointer = catalog.who(&key).map(|who| (who.slot, who.generation)).unwrap();
    let set = |state| What::SetTenantState { named: "acme".into(), state };
    catalog.call(BOOTSTRAP, set(TenantState::Suspended)).unwrap();
    assert!(catalog.who(&key).is_none());
    // One that a core had let in before gets no further.
    let late = catalog.call_as(pointer, What::ListKeys { whose: own() });
    assert_eq!(late.unwrap_err(), Refused::Unauthorized);
    // Whoever suspended it may see to its keys, which open nothing yet.
    let made = catalog.mint(BOOTSTRAP, named("acme"), "x", Role::Admin, None).unwrap();
    assert!(catalog.who(made.api_key.expose()).is_none());
    catalog.call(BOOTSTRAP, What::RevokeKey { whose: named("acme"), name: "x".into() }).unwrap();
    let records = catalog.control.state().record_count();
    catalog.call(BOOTSTRAP, set(TenantState::Suspended)).unwrap();
    assert_eq!(catalog.control.state().record_count(), records, "what is so already is no change");
    let mut catalog = catalog.restart();
    assert!(catalog.who(&key).is_none());
    catalog.call(BOOTSTRAP, set(TenantState::Active)).unwrap();
    assert!(catalog.who(&key).is_some());
}

#[test]
fn an_admin_mints_for_its_own_tenant_and_an_operator_for_any() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    catalog.tenant("umbrella");
    let admin = catalog.admin("acme");
    for role in Role::ALL {
        let made = catalog.mint(&admin, own(), role.name(), role, None).unwrap_or_else(|error| {
            assert_eq!((role, &error), (Role::Admin, &Refused::KeyExists));
            catalog.mint(&admin, own(), "another", role, None).unwrap()
        });
        let who = catalog.who(made.api_key.expose()).unwrap();
        assert_eq!((who.role, who.tenant, made.tenant_id.as_str()), (role, Tenant(1), "acme"));
    }
    for whose in ["acme", "ws-1"] {
        assert_eq!(catalog.mint(&admin, named(whose), "admin", Role::Admin, None).unwrap_err(), Refused::KeyExists);
    }
    // Another's tenant and one that is not there look alike.
    for whose in ["umbrella", "ws-2", "nobody", "system", "ws-0"] {
        let refused = catalog.mint(&admin, named(whose), "x", Role::ReadOnly, None);
        assert_eq!(refused.unwrap_err(), Refused::TenantForbidden, "{whose}");
    }
    assert_eq!(catalog.mint(BOOTSTRAP, own(), "x", Role::Admin, None).unwrap_err(), Refused::TenantUnnamed);
    let both = Whose { tenant: Some(Tenant(1)), named: Some("umbrella".into()) };
    assert_eq!(catalog.mint(BOOTSTRAP, both, "x", Role::Admin, None).unwrap_err(), Refused::TenantForbidden);

    // An admin of system acts for others as the bootstrap key does; another role there does not.
    let root = catalog.mint(BOOTSTRAP, named("system"), "root", Role::Admin, None).unwrap();
    assert!(catalog.mint(root.api_key.expose(), named("umbrella"), "admin", Role::Admin, None).is_ok());
    let lesser = catalog.mint(BOOTSTRAP, named("system"), "lesser", Role::Developer, None).unwrap();
    let refused = catalog.call(lesser.api_key.expose(), What::ListTenants { after: 0, limit: 1 });
    assert_eq!(refused.unwrap_err(), Refused::Permission(Permission::ManageTenants));
}

#[test]
fn whoever_lacks_a_right_changes_nothing() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let admin = catalog.admin("acme");
    let head = catalog.control.state().head();
    let tenants = [
        What::CreateTenant { id: "mine".into(), name: name("x"), tier: Tier::Unlimited },
        What::ListTenants { after: 0, limit: 1 },
        What::GetTenant { named: "acme".into() },
        What::ChangeTenant { named: "acme".into(), name: None, tier: Some(Tier::Unlimited) },
        What::SetTenantState { named: "acme".into(), state: TenantState::Suspended },
        What::DeleteTenant { named: "acme".into(), confirm: "acme".into() },
        What::SetQuotas { named: "acme".into(), overrides: Overrides::default() },
        What::TenantStats { named: "acme".into() },
        What::GetTenant { named: "nobody".into() },
    ];
    for what in &tenants {
        assert_eq!(catalog.call(&admin, what.clone()).unwrap_err(), Refused::NotAnOperator, "{what:?}");
    }
    assert_eq!(catalog.control.state().head(), head);
    let keys = [
        What::MintKey { whose: own(), name: name("x"), role: Role::ReadOnly, expires_in_days: None },
        What::ListKeys { whose: own() },
        What::RotateKey { whose: own(), name: "admin".into(), grace_seconds: 0 },
        What::RevokeKey { whose: own(), name: "admin".into() },
        What::ReadAudit { tenant: None, query: AuditQuery::default() },
    ];
    for role in [Role::Developer, Role::ReadOnly, Role::ServiceAccount] {
        let key = catalog.mint(&admin, own(), role.name(), role, None).unwrap();
        let head = catalog.control.state().head();
        for what in tenants.iter().chain(&keys) {
            let refused = catalog.call(key.api_key.expose(), what.clone()).unwrap_err();
            assert!(matches!(refused, Refused::Permission(_)), "{role:?} {what:?} {refused:?}");
        }
        assert_eq!(catalog.control.state().head(), head);
    }
}

#[test]
fn a_rotated_key_ends_at_once_or_after_its_grace() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let admin = catalog.admin("acme");
    let first = catalog.mint(&admin, own(), "ci", Role::Developer, Some(30)).unwrap();
    let rotate = |grace_seconds| What::RotateKey { whose: own(), name: "ci".into(), grace_seconds };
    let second = minted(catalog.call(&admin, rotate(60)).unwrap());
    assert_eq!((second.view.role, second.view.expires_at), (Role::Developer, first.view.expires_at));
    assert!(catalog.who(first.api_key.expose()).is_some() && catalog.who(second.api_key.expose()).is_some());
    // In its grace it can do what it could, but not give itself another life.
    let again = catalog.call(first.api_key.expose(), What::RotateSelf { grace_seconds: 0 });
    assert_eq!(again.unwrap_err(), Refused::KeyReplaced);
    let mut catalog = catalog.restart();
    catalog.now += 59_999_999;
    assert!(catalog.who(first.api_key.expose()).is_some());
    catalog.now += 1;
    assert!(catalog.who(first.api_key.expose()).is_none());
    let third = minted(catalog.call(&admin, rotate(0)).unwrap());
    assert!(catalog.who(second.api_key.expose()).is_none());
    assert!(catalog.who(third.api_key.expose()).is_some());
    // A grace never outlasts the key's own time.
    catalog.now = first.view.expires_at.unwrap().0 - 5_000_000;
    let last = minted(catalog.call(&admin, rotate(60)).unwrap());
    assert_eq!(last.replaces, Some((third.view.number, first.view.expires_at)));
    catalog.now += 5_000_000;
    assert!(catalog.who(third.api_key.expose()).is_none() && catalog.who(last.api_key.expose()).is_none());
    assert_eq!(catalog.call(&admin, rotate(0)).unwrap_err(), Refused::NoKey);
}

#[test]
fn a_revoked_name_opens_nothing_and_is_free_again() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    catalog.tenant("umbrella");
    let (admin, other) = (catalog.admin("acme"), catalog.admin("umbrella"));
    let first = catalog.mint(&admin, own(), "ci", Role::Developer, None).unwrap();
    let rotate = What::RotateKey { whose: own(), name: "ci".into(), grace_seconds: 3600 };
    let second = minted(catalog.call(&admin, rotate).unwrap());
    let revoke = || What::RevokeKey { whose: own(), name: "ci".into() };
    // The other tenant's key of that name is as absent as one of no tenant.
    assert_eq!(catalog.call(&other, revoke()).unwrap_err(), Refused::NoKey);
    catalog.call(&admin, revoke()).unwrap();
    for key in [&first, &second] {
        assert!(catalog.who(key.api_key.expose()).is_none());
    }
    assert_eq!(catalog.call(&admin, revoke()).unwrap_err(), Refused::NoKey);
    catalog.mint(&admin, own(), "ci", Role::ReadOnly, None).unwrap();
    let mut catalog = catalog.restart();
    assert!(catalog.who(first.api_key.expose()).is_none() && catalog.who(second.api_key.expose()).is_none());
    let names: Vec<_> = catalog.keys(&admin).into_iter().map(|key| (key.name, key.role)).collect();
    assert_eq!(names, [("admin".to_owned(), Role::Admin), ("ci".to_owned(), Role::ReadOnly)]);
}

#[test]
fn a_self_service_key_rotates_and_revokes_itself() {
    let mut catalog = Catalog::new();
    let first = catalog.onboard("a@x.com");
    let old = catalog.who(&first).unwrap();
    let second = minted(catalog.call(&first, What::RotateSelf { grace_seconds: 0 }).unwrap());
    assert_eq!((second.view.name.as_str(), second.view.role), ("onboard", Role::Developer));
    assert!(catalog.who(&first).is_none());
    // The old credential's place is another's now, and its pointer says nothing there.
    let late = catalog.call_as((old.slot, old.generation), What::RotateSelf { grace_seconds: 0 });
    assert_eq!(late.unwrap_err(), Refused::Unauthorized);
    let second = second.api_key.expose().to_owned();
    catalog.call(&second, What::RevokeSelf).unwrap();
    assert!(catalog.who(&second).is_none());
    let mut catalog = catalog.restart();
    assert!(catalog.who(&second).is_none());
    assert_eq!(catalog.call(BOOTSTRAP, What::RevokeSelf).unwrap_err(), Refused::NotHere(CredentialKind::Bootstrap));
}

#[test]
fn a_tenant_has_so_many_keys_and_expired_ones_make_room() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let admin = catalog.admin("acme");
    for number in 1..KEYS_PER_TENANT_MAX {
        catalog.now += 1_000_000;
        catalog.mint(&admin, own(), &format!("k{number}"), Role::ReadOnly, Some(1)).unwrap();
    }
    let full = Refused::TooManyKeys { limit: KEYS_PER_TENANT_MAX };
    assert_eq!(catalog.mint(&admin, own(), "more", Role::ReadOnly, None).unwrap_err(), full);
    let rotate = |grace_seconds| What::RotateKey { whose: own(), name: "k1".into(), grace_seconds };
    assert_eq!(catalog.call(&admin, rotate(60)).unwrap_err(), full);
    assert!(catalog.call(&admin, rotate(0)).is_ok());
    catalog.now += DAY;
    // An expired name is free, too.
    catalog.mint(&admin, own(), "k2", Role::ReadOnly, None).unwrap();
    assert_eq!(catalog.keys(&admin).len(), KEYS_PER_TENANT_MAX - KEYS_SWEPT_MAX + 1);
    assert!(catalog.restart().keys(&admin).iter().any(|key| key.is_expired));
}

#[test]
fn a_key_that_rotates_in_a_loop_is_slowed_down_and_can_still_be_revoked() {
    let mut catalog = Catalog::new();
    let mut key = catalog.onboard("a@x.com");
    let admin = catalog.admin("ws-1");
    let rotate = || What::RotateSelf { grace_seconds: 0 };
    for _ in 0..crate::limits::TENANT_CHANGES_PER_MINUTE_MAX {
        key = minted(catalog.call(&key, rotate()).unwrap()).api_key.expose().to_owned();
    }
    let records = catalog.control.state().record_count();
    assert!(matches!(catalog.call(&key, rotate()).unwrap_err(), Refused::RateLimited { retry_after_seconds: 1..=60 }));
    assert_eq!(catalog.control.state().record_count(), records);
    assert!(catalog.who(&key).is_some());
    assert!(matches!(catalog.mint(&admin, own(), "x", Role::ReadOnly, None), Err(Refused::RateLimited { .. })));
    // By its tenant's admin, in the same minute.
    catalog.call(&admin, What::RevokeKey { whose: own(), name: "onboard".into() }).unwrap();
    assert!(catalog.who(&key).is_none());
    catalog.now += 60_000_000;
    assert!(catalog.mint(&admin, own(), "x", Role::ReadOnly, None).is_ok());
}

#[test]
fn a_role_is_never_above_its_givers() {
    // No role but admin may mint; a credential of less than a role still cannot give one.
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let by = Authority {
        key: 1,
        tenant: 1,
        kind: CredentialKind::Jwt,
        permissions: Permissions::of(&[Permission::Admin, Permission::Read, Permission::Metrics]),
    };
    let call = Call { slot: 0, generation: 1, source: "::1".parse().unwrap(), request_id: "r".into(), at: Micros(1) };
    for role in Role::ALL {
        let outcome = catalog.control.mint_key(by, &call, &own(), &name(role.name()), role, None);
        let expected = (role != Role::ReadOnly).then_some(Refused::RoleAboveOwn);
        assert_eq!(outcome.err(), expected, "{role:?}");
    }
}

#[test]
fn what_a_key_gives_ends_no_later_than_it_does() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let lasting = catalog.admin("acme");
    catalog.mint(&lasting, own(), "lasting ci", Role::Developer, None).unwrap();
    let month = catalog.mint(&lasting, own(), "month", Role::Admin, Some(30)).unwrap();
    let ends_at = month.view.expires_at.unwrap();
    let month = month.api_key.expose().to_owned();
    let outlives = Refused::OutlivesOwn { ends_at };
    let records = catalog.control.state().record_count();
    for days in [31, 366] {
        let refused = catalog.mint(&month, own(), "longer", Role::ReadOnly, Some(days));
        assert_eq!(refused.unwrap_err(), outlives, "{days}");
    }
    // Whose key that lasts would be in its hands, by its new text.
    for name in ["lasting ci", "admin"] {
        let rotate = What::RotateKey { whose: own(), name: name.into(), grace_seconds: 0 };
        assert_eq!(catalog.call(&month, rotate).unwrap_err(), outlives, "{name}");
    }
    let wanted = |expires_at| Wanted { name: "p".into(), description: None, scope: Scope::Inherit, expires_at };
    let make = |catalog: &mut Catalog, key: &str, expires_at| -> Result<_, Refused> {
        let ask = AskProgrammatic::Make { whose: own(), wanted: wanted(expires_at) };
        match catalog.call(key, What::Programmatic(ask))? {
            Done::Programmatic(DoneProgrammatic::Made { key, view }) => Ok((key.expose().to_owned(), view)),
            other => panic!("{other:?}"),
        }
    };
    let later = Some(Micros(ends_at.0 + 1));
    assert_eq!(make(&mut catalog, &month, later).unwrap_err(), outlives);
    assert_eq!(catalog.control.state().record_count(), records);

    // Without an end it has its giver's, and so has what it gives in turn.
    let same = catalog.mint(&month, own(), "same", Role::Admin, Some(30)).unwrap();
    let unsaid = catalog.mint(&month, own(), "unsaid", Role::Admin, None).unwrap();
    let sooner = catalog.mint(&month, own(), "sooner", Role::Admin, Some(7)).unwrap();
    assert_eq!([same.view.expires_at, unsaid.view.expires_at], [Some(ends_at); 2]);
    let sooner_end = sooner.view.expires_at.unwrap();
    assert_eq!(sooner_end.0, catalog.now + 7 * DAY);
    let child = catalog.mint(sooner.api_key.expose(), own(), "child", Role::Admin, None).unwrap();
    assert_eq!(child.view.expires_at, Some(sooner_end));
    let (programmatic, view) = make(&mut catalog, &month, None).unwrap();
    assert_eq!(view.expires_at, Some(ends_at));
    let refused = catalog.mint(&programmatic, own(), "by programmatic", Role::ReadOnly, Some(31));
    assert_eq!(refused.unwrap_err(), outlives);
    let by_programmatic = catalog.mint(&programmatic, own(), "by programmatic", Role::ReadOnly, None).unwrap();
    assert_eq!(by_programmatic.view.expires_at, Some(ends_at));
    assert_eq!(make(&mut catalog, &programmatic, later).unwrap_err(), outlives);

    // Rotating itself gives it no more time, by whichever path, nor does what is left of it in its grace.
    let rotate = What::RotateKey { whose: own(), name: "month".into(), grace_seconds: 60 };
    let again = minted(catalog.call(&month, rotate).unwrap());
    assert_eq!(again.view.expires_at, Some(ends_at));
    let graced = Micros(catalog.now + 60_000_000);
    let in_grace = catalog.mint(&month, own(), "in grace", Role::ReadOnly, None).unwrap();
    assert_eq!(in_grace.view.expires_at, Some(graced));
    let rotate = What::RotateKey { whose: own(), name: "month".into(), grace_seconds: 0 };
    assert_eq!(catalog.call(&month, rotate).unwrap_err(), Refused::OutlivesOwn { ends_at: graced });
    let last = minted(catalog.call(again.api_key.expose(), What::RotateSelf { grace_seconds: 0 }).unwrap());
    assert_eq!(last.view.expires_at, Some(ends_at));

    // A key without an end is bound by nothing, and the operator by nobody.
    assert!(catalog.mint(&lasting, own(), "longer", Role::ReadOnly, Some(366)).is_ok());
    assert!(catalog.mint(BOOTSTRAP, named("acme"), "longest", Role::Admin, None).unwrap().view.expires_at.is_none());
    let mut catalog = catalog.restart();
    catalog.now = ends_at.0;
    for key in [&last, &same, &unsaid, &sooner, &child, &by_programmatic, &in_grace] {
        assert!(catalog.who(key.api_key.expose()).is_none(), "{}", key.view.name);
    }
    assert!(catalog.who(&programmatic).is_none() && catalog.who(&lasting).is_some());
}

#[test]
fn everything_is_in_the_audit_log_of_those_whose_business_it_is() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    catalog.tenant("umbrella");
    let (acme, umbrella) = (catalog.admin("acme"), catalog.admin("umbrella"));
    catalog.mint(&acme, own(), "ci", Role::ReadOnly, None).unwrap();
    catalog.call(&acme, What::RevokeKey { whose: own(), name: "ci".into() }).unwrap();
    let read = |catalog: &mut Catalog, key: &str, tenant, query: AuditQuery| match catalog
        .call(key, What::ReadAudit { tenant, query })
    {
        Ok(Done::Audit(page)) => Ok(page),
        Err(refused) => Err(refused),
        other => panic!("{other:?}"),
    };
    let all = || AuditQuery { limit: 100, ..AuditQuery::default() };
    let actions = |page: &AuditPage| -> Vec<String> {
        page.events.iter().map(|event| event.record.body.kind().to_owned()).collect()
    };
    let own_page = read(&mut catalog, &acme, None, all()).unwrap();
    assert_eq!(actions(&own_page), ["key_revoked", "key_minted", "key_minted", "tenant_created"]);
    assert!(own_page.next.is_none());
    assert!(own_page.events.iter().all(|event| event.tenant == Some((Tenant(1), "acme".into()))));
    let event = &own_page.events[0];
    assert_eq!(event.actor_name.as_deref(), Some("admin"));
    assert_eq!(event.record.origin.source, Some("10.0.0.7".parse().unwrap()));
    assert_eq!(event.record.origin.request_id.as_deref(), Some("r-7"));
    assert!(!event.record.body.detail().to_string().contains("proof"));
    assert!(!own_page.events[1].record.body.detail().to_string().contains("proof"));

    assert_eq!(actions(&read(&mut catalog, &umbrella, None, all()).unwrap()), ["key_minted", "tenant_created"]);
    assert_eq!(read(&mut catalog, &umbrella, Some(Tenant(1)), all()).unwrap_err(), Refused::TenantForbidden);
    let whole = read(&mut catalog, BOOTSTRAP, None, all()).unwrap();
    assert_eq!(whole.events.len() as u64, catalog.control.state().record_count());
    // Each names the one before it.
    for pair in whole.events.windows(2) {
        assert_eq!((pair[0].record.prev, pair[0].number), (pair[1].digest, pair[1].number + 1));
    }
    assert_eq!(actions(&read(&mut catalog, BOOTSTRAP, Some(Tenant(2)), all()).unwrap()).len(), 2);

    let minted = AuditQuery { action: Some("key_minted".into()), ..all() };
    assert_eq!(read(&mut catalog, BOOTSTRAP, None, minted).unwrap().events.len(), 3);
    let by_bootstrap = AuditQuery { actor: Some(Actor::Key(1)), ..all() };
    assert_eq!(read(&mut catalog, &acme, None, by_bootstrap).unwrap().events.len(), 2);
    let later = AuditQuery { since: Some(Micros(catalog.now + 1)), ..all() };
    assert!(read(&mut catalog, BOOTSTRAP, None, later).unwrap().events.is_empty());
    let earlier = AuditQuery { until: Some(Micros(1)), ..all() };
    assert_eq!(actions(&read(&mut catalog, BOOTSTRAP, None, earlier).unwrap()), ["bootstrap_key_set"]);

    // Each record has its own time here, so that a bound falls between any two.
    catalog.now += 10;
    for number in 0..9 {
        catalog.now += 10;
        catalog.mint(&acme, own(), &format!("k{number}"), Role::ReadOnly, None).unwrap();
        let until = AuditQuery { until: Some(Micros(catalog.now - 1)), ..all() };
        let since = AuditQuery { since: Some(Micros(catalog.now)), ..all() };
        let later = read(&mut catalog, BOOTSTRAP, None, since).unwrap().events.len();
        let earlier = read(&mut catalog, BOOTSTRAP, None, until).unwrap().events.len();
        assert_eq!((later, (later + earlier) as u64), (1, catalog.control.state().record_count()));
    }
    let whole = read(&mut catalog, BOOTSTRAP, None, all()).unwrap();

    let mut paged = Vec::new();
    let mut before = None;
    loop {
        let page = read(&mut catalog, BOOTSTRAP, None, AuditQuery { before, limit: 2, ..all() }).unwrap();
        paged.extend(page.events.iter().map(|event| event.number));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.events.iter().map(|event| event.number).collect::<Vec<_>>());
}

#[test]
fn a_page_of_the_audit_log_is_bounded_by_what_it_looks_at() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let acme = catalog.admin("acme");
    let records = crate::limits::AUDIT_SCAN_RECORDS_MAX as u64 + 10;
    for _ in 0..records {
        let noted = crate::catalog::records::Noted { tenant: None, route: None, permission: None, count: 1, missed: 0 };
        catalog.control.commit(Body::AuthenticationFailed(noted), Origin::server(), Micros(1)).unwrap();
    }
    let mut read = |before| {
        let query = AuditQuery { limit: 10, before, ..AuditQuery::default() };
        match catalog.call(&acme, What::ReadAudit { tenant: None, query }) {
            Ok(Done::Audit(page)) => page,
            other => panic!("{other:?}"),
        }
    };
    let first = read(None);
    assert!(first.events.is_empty());
    let second = read(first.next);
    assert_eq!((second.events.len(), second.next), (2, None));
}

#[test]
fn the_first_data_directories_first_key_has_todays_name() {
    let mut catalog = Catalog::new();
    let key: NewKey = catalog.control.new_key(1, CredentialKind::Jwt, Role::Developer, "onboarding", [7; 32]).unwrap();
    let body = crate::catalog::records::TenantCreated {
        number: 1,
        id: "onboard-a-at-x-com".into(),
        name: "a".into(),
        email: Some("a@x.com".into()),
        tier: "free".into(),
        events_quota: Some(100_000),
        shard: 0,
        key: Some(key),
    };
    catalog.control.commit(Body::TenantCreated(body), Origin::server(), Micros(1)).unwrap();
    catalog.publish();
    let mut catalog = catalog.restart();
    let Ok(Done::Keys(keys)) = catalog.call(BOOTSTRAP, What::ListKeys { whose: named("ws-1") }) else { panic!() };
    assert_eq!(keys[0].name, "onboard");
}
