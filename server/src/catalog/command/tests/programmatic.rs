//! Programmatic and streaming keys against a whole catalog: whose they are, what they live by, what ends them.

use super::*;
use crate::auth::last_used::Used;
use crate::auth::programmatic::{KeyId, Scope};
use crate::catalog::programmatic_keys::{AskProgrammatic, DoneProgrammatic, ProgrammaticView, Wanted};
use crate::catalog::streaming_keys::{AskStreaming, DoneStreaming, StreamingView};

fn wanted(name: &str) -> Wanted {
    Wanted { name: name.into(), description: None, scope: Scope::Inherit, expires_at: None }
}

fn only(permissions: &[Permission]) -> Scope {
    Scope::Only(Permissions::of(permissions))
}

impl Catalog {
    fn make(&mut self, key: &str, whose: Whose, wanted: Wanted) -> Result<(String, ProgrammaticView), Refused> {
        match self.call(key, What::Programmatic(AskProgrammatic::Make { whose, wanted }))? {
            Done::Programmatic(DoneProgrammatic::Made { key, view }) => Ok((key.expose().to_owned(), view)),
            other => panic!("{other:?}"),
        }
    }

    fn names(&mut self, key: &str, ask: AskProgrammatic) -> Result<Vec<String>, Refused> {
        self.views(key, ask).map(|views| views.into_iter().map(|view| view.name).collect())
    }

    fn views(&mut self, key: &str, ask: AskProgrammatic) -> Result<Vec<ProgrammaticView>, Refused> {
        match self.call(key, What::Programmatic(ask))? {
            Done::Programmatic(DoneProgrammatic::List(views)) => Ok(views),
            other => panic!("{other:?}"),
        }
    }

    fn own(&mut self, key: &str) -> Vec<String> {
        self.names(key, AskProgrammatic::ListOwn { named: None }).unwrap()
    }

    fn revoke_own(&mut self, key: &str, id: KeyId) -> Result<(), Refused> {
        self.call(key, What::Programmatic(AskProgrammatic::RevokeOwn { id })).map(|_| ())
    }

    fn permissions(&mut self, key: &str) -> Vec<Permission> {
        let who = self.who(key).expect("the core lets it in");
        Permission::ALL.into_iter().filter(|permission| who.may(*permission)).collect()
    }

    fn minted_key(&mut self, admin: &str, name: &str, role: Role) -> String {
        self.mint(admin, own(), name, role, None).unwrap().api_key.expose().to_owned()
    }
}

#[test]
fn a_key_is_its_makers_and_another_finds_no_trace_of_it() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    catalog.tenant("umbrella");
    let (admin, foreign) = (catalog.admin("acme"), catalog.admin("umbrella"));
    let developer = catalog.minted_key(&admin, "dev", Role::Developer);
    let (key, view) = catalog.make(&developer, own(), wanted("CI")).unwrap();
    assert_eq!(key[..9], view.prefix);
    assert_eq!((view.owner, view.workspace, view.scope), (Actor::Key(4), None, Scope::Inherit));
    assert_eq!(catalog.permissions(&key), catalog.permissions(&developer));
    let (_, scoped) = catalog.make(&developer, named("ws-1"), wanted("scoped")).unwrap();
    assert_eq!(scoped.workspace, Some(Tenant(1)));

    let mut catalog = catalog.restart();
    for whose in [&developer, &key] {
        assert_eq!(catalog.own(whose), ["CI", "scoped"]);
    }
    assert!(catalog.own(&admin).is_empty() && catalog.own(&foreign).is_empty());
    let all = |whose| AskProgrammatic::ListAll { whose };
    assert_eq!(catalog.names(&admin, all(own())).unwrap(), ["CI", "scoped"]);
    assert!(catalog.names(&foreign, all(own())).unwrap().is_empty());
    assert_eq!(catalog.names(BOOTSTRAP, all(named("acme"))).unwrap(), ["CI", "scoped"]);
    assert_eq!(catalog.names(&foreign, all(named("acme"))).unwrap_err(), Refused::TenantForbidden);
    assert_eq!(catalog.names(&developer, all(own())).unwrap_err(), Refused::Permission(Permission::Admin));

    // By one who may not, an id is one that nobody has.
    let absent = KeyId::random();
    for (id, expected) in [(view.id, Refused::OthersKey), (absent, Refused::NoKey)] {
        for whose in [&admin, &foreign] {
            assert_eq!(catalog.revoke_own(whose, id).unwrap_err(), expected);
        }
        let any = What::Programmatic(AskProgrammatic::RevokeAny { whose: own(), id });
        assert_eq!(catalog.call(&foreign, any).unwrap_err(), expected);
    }
    catalog.revoke_own(&developer, view.id).unwrap();
    assert!(catalog.who(&key).is_none());
    assert_eq!(catalog.revoke_own(&developer, view.id).unwrap_err(), Refused::NoKey);
    catalog.call(&admin, What::Programmatic(AskProgrammatic::RevokeAny { whose: own(), id: scoped.id })).unwrap();
    let mut catalog = catalog.restart();
    assert!(catalog.who(&key).is_none() && catalog.own(&developer).is_empty());
}

#[test]
fn a_key_ends_with_whoever_made_it() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let admin = catalog.admin("acme");
    let live = |catalog: &mut Catalog, keys: &[&String]| keys.iter().filter(|key| catalog.who(key).is_some()).count();
    // Revoked.
    let developer = catalog.minted_key(&admin, "dev", Role::Developer);
    let (first, view) = catalog.make(&developer, own(), wanted("first")).unwrap();
    let (second, _) = catalog.make(&first, own(), wanted("second")).unwrap();
    let (other, _) = catalog.make(&developer, own(), wanted("other")).unwrap();
    assert_eq!(catalog.own(&second), ["first", "second", "other"]);
    catalog.revoke_own(&developer, view.id).unwrap();
    assert_eq!(live(&mut catalog, &[&first, &second]), 0);
    assert!(catalog.who(&other).is_some());
    catalog.call(&admin, What::RevokeKey { whose: own(), name: "dev".into() }).unwrap();
    assert!(catalog.who(&other).is_none());

    // Rotated, at once and with a grace.
    let developer = catalog.minted_key(&admin, "dev", Role::Developer);
    let (first, _) = catalog.make(&developer, own(), wanted("first")).unwrap();
    let next = minted(catalog.call(&developer, What::RotateSelf { grace_seconds: 0 }).unwrap());
    assert!(catalog.who(&first).is_none());
    let developer = next.api_key.expose().to_owned();
    let (first, _) = catalog.make(&developer, own(), wanted("first")).unwrap();
    let (second, _) = catalog.make(&first, own(), wanted("second")).unwrap();
    catalog.call(&developer, What::RotateSelf { grace_seconds: 60 }).unwrap();
    let mut catalog = catalog.restart();
    catalog.now += 59_999_999;
    assert_eq!(live(&mut catalog, &[&developer, &first, &second]), 3);
    catalog.now += 1;
    assert_eq!(live(&mut catalog, &[&developer, &first, &second]), 0);

    // Expired, also for the control plane.
    let brief = catalog.mint(&admin, own(), "brief", Role::Admin, Some(1)).unwrap().api_key.expose().to_owned();
    let (first, _) = catalog.make(&brief, own(), wanted("first")).unwrap();
    let who = catalog.who(&first).unwrap();
    catalog.now += DAY;
    assert!(catalog.who(&first).is_none());
    let late = catalog.call_as((who.slot, who.generation), What::ListKeys { whose: own() });
    assert_eq!(late.unwrap_err(), Refused::Unauthorized);
    let views = catalog.views(&admin, AskProgrammatic::ListAll { whose: own() }).unwrap();
    assert!(!views.is_empty() && views.iter().all(|view| !view.is_live));
    // Their places are free again, whichever of them goes first.
    catalog.make(&admin, own(), wanted("new")).unwrap();
    assert_eq!(catalog.names(&admin, AskProgrammatic::ListAll { whose: own() }).unwrap(), ["new"]);

    // With its tenant.
    let (last, _) = catalog.make(&admin, own(), wanted("last")).unwrap();
    catalog.call(BOOTSTRAP, What::DeleteTenant { named: "acme".into(), confirm: "acme".into() }).unwrap();
    assert!(catalog.who(&last).is_none());
    assert!(catalog.restart().who(&last).is_none());
}

#[test]
fn an_operators_key_is_for_one_workspace_and_ends_with_the_operators_key() {
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    for whose in [own(), named("system")] {
        assert_eq!(catalog.make(BOOTSTRAP, whose, wanted("x")).unwrap_err(), Refused::TenantUnnamed);
    }
    assert_eq!(catalog.make(BOOTSTRAP, named("nobody"), wanted("x")).unwrap_err(), Refused::NoTenant);
    let (key, view) = catalog.make(BOOTSTRAP, named("acme"), wanted("x")).unwrap();
    assert_eq!(view.workspace, Some(Tenant(1)));
    let who = catalog.who(&key).unwrap();
    assert!((who.tenant, who.role) == (Tenant(1), Role::Admin) && !who.acts_for_others());
    let tenants = catalog.call(&key, What::ListTenants { after: 0, limit: 1 });
    assert_eq!(tenants.unwrap_err(), Refused::NotAnOperator);
    assert_eq!(catalog.own(BOOTSTRAP), ["x"]);

    let next = Secret::new("another-bootstrap-key");
    let control = &mut catalog.control;
    let digest = next.digest();
    let new = control.new_key(0, CredentialKind::Bootstrap, Role::Admin, "bootstrap", digest).unwrap();
    control.commit(Body::BootstrapKeySet(new), Origin::server(), Micros(1)).unwrap();
    catalog.publish();
    assert!(catalog.who(&key).is_none());
    assert!(catalog.restart().who(&key).is_none());
}

#[test]
fn permissions_restrict_and_are_never_beyond_the_givers() {
    use Permission::{Admin, Metrics, Read, Write};
    let mut catalog = Catalog::new();
    catalog.tenant("acme");
    let admin = catalog.admin("acme");
    let developer = catalog.minted_key(&admin, "dev", Role::Developer);
    let scoped = |scope| Wanted { scope, ..wanted("cut") };
    let refused = catalog.make(&developer, own(), scoped(only(&[Read, Admin])));
    assert_eq!(refused.unwrap_err(), Refused::BeyondOwn(Admin));
    let (whole, whole_view) = catalog.make(&developer, own(), wanted("whole")).unwrap();
    let (cut, view) = catalog.make(&developer, own(), scoped(only(&[Read, Metrics]))).unwrap();
    assert_eq!(catalog.permissions(&cut), [Read, Metrics]);
    // What it inherits is what it has.
    let (child, _) = catalog.make(&cut, own(), wanted("child")).unwrap();
    assert_eq!(catalog.permissions(&child), [Read, Metrics]);
    assert_eq!(catalog.make(&cut, own(), scoped(only(&[Write]))).unwrap_err(), Refused::BeyondOwn(Write));

    let mut catalog = catalog.restart();
    assert_eq!(catalog.permissions(&child), [Read, Metrics]);
    // It sees to itself and to what was made with it, and not to its owner's other keys.
    assert_eq!(catalog.own(&cut), ["cut", "child"]);
    assert_eq!(catalog.revoke_own(&cut, whole_view.id).unwrap_err(), Refused::OthersKey);
    assert_eq!(catalog.revoke_own(&child, view.id).unwrap_err(), Refused::OthersKey);
    let (writer, _) = catalog.make(&developer, own(), scoped(only(&[Write]))).unwrap();
    let listed = catalog.names(&writer, AskProgrammatic::ListOwn { named: None });
    assert_eq!(listed.unwrap_err(), Refused::Permission(Read));
    // An admin's key that may not admin is none.
    let (reader, _) = catalog.make(&admin, own(), scoped(only(&[Read]))).unwrap();
    let minting = catalog.mint(&reader, own(), "x", Role::ReadOnly, None);
    assert_eq!(minting.unwrap_err(), Refused::Permission(Admin));
    catalog.revoke_own(&cut, view.id).unwrap();
    assert!(catalog.who(&cut).is_none() && catalog.who(&child).is_none() && catalog.who(&whole).is_some());
    catalog.call(&whole, What::RevokeSelf).unwrap();
    assert!(catalog.who(&whole).is_none());
    assert_eq!(
        catalog.call(&writer, What::RotateSelf { grace_seconds: 0 }).unwrap_err(),
        Refused::NotHere(CredentialKind::Programmatic)
    );
}

#[test]
fn a_key_ends_when_it_was_to() {
    let mut catalog = Catalog::new();
    let key = catalog.onboard("a@x.com");
    let expires_at = Some(Micros(catalog.now + 5_000_000));
    let (brief, view) = catalog.make(&key, own(), Wanted { expires_at, ..wanted("brief") }).unwrap();
    assert_eq!(view.expires_at, expires_at);
    let mut catalog = catalog.restart();
    catalog.now += 4_999_999;
    assert!(catalog.who(&brief).is_some());
    catalog.now += 1;
    assert!(catalog.who(&brief).is_none());
}

#[test]
fn when_a_key_was_used_is_shown_and_outlives_a_restart() {
    let mut catalog = Catalog::new();
    let key = catalog.onboard("a@x.com");
    let (used, _) = catalog.make(&key, own(), wanted("used")).unwrap();
    let (idle, _) = catalog.make(&key, own(), wanted("idle")).unwrap();
    let last_used = |catalog: &mut Catalog| -> Vec<Option<i64>> {
        let views = catalog.views(&key, AskProgrammatic::ListOwn { named: None }).unwrap();
        views.into_iter().map(|view| view.last_used_at.map(|at| at.0)).collect()
    };
    assert_eq!(last_used(&mut catalog), [None, None]);
    let who = catalog.who(&used).unwrap();
    let other = catalog.who(&key).unwrap();
    let note = |who: &Principal, at| Used { slot: who.slot, generation: who.generation, at: Micros(at) };
    let records = catalog.control.state().record_count();
    for at in 0..100 {
        let stale = Used { generation: 99, ..note(&who, 900) };
        catalog.control.take_used(&[note(&who, at), note(&other, at), stale]);
    }
    assert_eq!(catalog.control.state().record_count(), records, "no write for a use");
    assert_eq!(last_used(&mut catalog), [Some(99), None]);
    catalog.control.record_uses();
    assert_eq!(catalog.control.state().record_count(), records + 1);
    let mut catalog = catalog.restart();
    assert_eq!(last_used(&mut catalog), [Some(99), None]);
    // An hour of uses is one record, too.
    let records = catalog.control.state().record_count();
    for minute in 0..=60 {
        let at = 1_000 + minute * 60_000_000;
        let used = [note(&who, at)];
        catalog.control.take_used(&used);
    }
    assert_eq!(catalog.control.state().record_count(), records + 1);
    assert!(catalog.who(&idle).is_some());
}

struct Streams {
    catalog: Catalog,
    directory: tempfile::TempDir,
}

impl Streams {
    fn new() -> Streams {
        let mut streams = Streams { catalog: Catalog::new(), directory: tempfile::tempdir().unwrap() };
        std::fs::write(streams.file(), "# mine\n").unwrap();
        streams.catalog.control.keys_file = Some(streams.file());
        streams
    }

    fn file(&self) -> std::path::PathBuf {
        self.directory.path().join("apikeys.conf")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    fn make(&mut self, key: &str, name: &str) -> Result<(String, StreamingView), Refused> {
        let ask = AskStreaming::Make { whose: own(), name: name.into() };
        match self.catalog.call(key, What::Streaming(ask))? {
            Done::Streaming(DoneStreaming::Made { key, view }) => Ok((key.expose().to_owned(), view)),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, key: &str, number: Option<u64>, name: &str) -> Result<(), Refused> {
        let ask = AskStreaming::Delete { whose: own(), number, name: name.into() };
        self.catalog.call(key, What::Streaming(ask)).map(|_| ())
    }

    fn names(&mut self, key: &str) -> Result<Vec<String>, Refused> {
        match self.catalog.call(key, What::Streaming(AskStreaming::List { whose: own() }))? {
            Done::Streaming(DoneStreaming::List(keys)) => Ok(keys.into_iter().map(|key| key.name).collect()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn streaming_keys_are_made_and_deleted_in_the_file_and_in_force() {
    let mut streams = Streams::new();
    streams.catalog.tenant("acme");
    streams.catalog.tenant("umbrella");
    let (admin, foreign) = (streams.catalog.admin("acme"), streams.catalog.admin("umbrella"));
    let (key, view) = streams.make(&admin, "mobile").unwrap();
    assert_eq!(streams.text(), format!("# mine\n{key}:1:mobile\n"));
    assert_eq!(streams.catalog.permissions(&key), [Permission::Write]);
    assert_eq!(streams.make(&admin, "mobile").unwrap_err(), Refused::KeyExists);
    // Another tenant's names are not felt, and its keys are not there.
    let (second, _) = streams.make(&foreign, "mobile").unwrap();
    assert_eq!(streams.delete(&foreign, Some(view.number), "x").unwrap_err(), Refused::OthersKey);
    assert_eq!(
        (streams.names(&admin).unwrap(), streams.names(&foreign).unwrap()),
        (vec!["mobile".to_owned()], vec!["mobile".to_owned()])
    );
    // The file says what the catalog knows: reading it again changes nothing.
    let keys = crate::catalog::keys_file::parse(&streams.text()).unwrap();
    let changed = streams.catalog.control.match_keys_file(&streams.file(), &keys, Micros(1)).unwrap();
    assert_eq!((changed.added, changed.revoked), (0, 0));

    streams.delete(&admin, None, "mobile").unwrap();
    assert_eq!(streams.text(), format!("# mine\n{second}:2:mobile\n"));
    assert!(streams.catalog.who(&key).is_none() && streams.catalog.who(&second).is_some());
    assert_eq!(streams.delete(&admin, Some(view.number), "mobile").unwrap_err(), Refused::NoKey);
    // A streaming key sees to none, and neither does a developer's.
    let developer = streams.catalog.minted_key(&admin, "dev", Role::Developer);
    for key in [&second, &developer] {
        assert_eq!(streams.make(key, "x").unwrap_err(), Refused::Permission(Permission::Admin));
    }
    let refused = streams.catalog.make(&second, own(), wanted("x"));
    assert_eq!(refused.unwrap_err(), Refused::Permission(Permission::Read));
}

#[test]
fn a_broken_key_file_is_not_changed_and_tells_a_tenant_nothing() {
    let mut streams = Streams::new();
    streams.catalog.tenant("acme");
    let admin = streams.catalog.admin("acme");
    let (key, _) = streams.make(&admin, "mobile").unwrap();
    let broken = format!("{}nonsense\n", streams.text());
    std::fs::write(streams.file(), &broken).unwrap();
    assert_eq!(streams.make(&admin, "other").unwrap_err(), Refused::KeysFile);
    assert_eq!(streams.delete(&admin, None, "mobile").unwrap_err(), Refused::KeysFile);
    assert_eq!(streams.text(), broken);
    assert!(streams.catalog.who(&key).is_some());
    // Two of one name are told apart by their ids.
    let twin = "e".repeat(32);
    std::fs::write(streams.file(), format!("{key}:1:mobile\n{twin}:1:mobile\n")).unwrap();
    let keys = crate::catalog::keys_file::parse(&streams.text()).unwrap();
    streams.catalog.control.match_keys_file(&streams.file(), &keys, Micros(1)).unwrap();
    streams.catalog.publish();
    assert_eq!(streams.delete(&admin, None, "mobile").unwrap_err(), Refused::AmbiguousKey);
}
