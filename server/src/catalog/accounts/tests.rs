//! People against a whole catalog and a core's table: who gets a token, for how long, and what ends it.

use super::*;
use crate::auth::password::tests::cheap_hasher;
use crate::auth::password::{Hasher, StoredHash};
use crate::auth::session::{SESSION_LIFETIME_US, SESSIONS_PER_USER_MAX, TOKEN_LIFETIME_US};
use crate::catalog::command::What;
use crate::catalog::command::tests::{BOOTSTRAP, Catalog};
use crate::limits::TENANT_CHANGES_PER_MINUTE_MAX;

const PASSWORD: &str = "correct horse";
const MINUTE: i64 = 60_000_000;

/// The catalog of a first start, with somebody who hashes at once.
struct People {
    catalog: Catalog,
    hasher: Hasher,
}

impl People {
    fn new() -> People {
        let mut catalog = Catalog::new();
        catalog.tenant("default");
        People { catalog, hasher: cheap_hasher() }
    }

    /// With an admin who has set up.
    fn set_up() -> (People, LoggedIn) {
        let mut people = People::new();
        let admin = logged_in(people.ask(None, set_up("admin@x.com"), Some(PASSWORD)));
        (people, admin)
    }

    fn account(&self, caller: Option<(u32, u32)>, what: AccountWhat, password: Option<&str>) -> Account {
        Account {
            caller,
            source: "10.0.0.7".parse().unwrap(),
            request_id: "r-7".into(),
            at: Micros(self.catalog.now),
            what,
            password: password.map(|text| Password::presented(text).unwrap()),
        }
    }

    fn ask(&mut self, caller: Option<(u32, u32)>, what: AccountWhat, password: Option<&str>) -> Answer {
        let mut account = self.account(caller, what, password);
        let prepared = self.catalog.control.prepare(&account);
        let password = account.password.take();
        let worked = match prepared {
            Prepared::Answer(answer) => {
                self.catalog.publish();
                return answer;
            }
            Prepared::Hash => Worked::Hashed(self.hasher.hash(&password.unwrap())),
            Prepared::Verify(against) => {
                let verdict = self.hasher.verify(against.as_ref(), &password.unwrap());
                Worked::Verified { against, verified: Verified { verdict, renewed: None } }
            }
        };
        let answer = self.catalog.control.finish(&account, worked);
        self.catalog.publish();
        answer
    }

    fn log_in(&mut self, name: &str, password: &str) -> Answer {
        self.ask(None, AccountWhat::LogIn { name: LoginName::parse(name).ok() }, Some(password))
    }

    fn refresh(&mut self, token: &Secret) -> Result<Secret, Refused> {
        match self.ask(None, AccountWhat::Refresh { proof: token.digest() }, None)? {
            Done::Refreshed { token, .. } => Ok(token),
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, by: &Secret, email: &str, role: Role, tenant: Option<&str>) -> Answer {
        let who = self.catalog.who(by.expose()).expect("the core lets it in");
        let new = NewUser {
            whose: Whose { tenant: None, named: tenant.map(str::to_owned) },
            email: Email::parse(email).unwrap(),
            username: None,
            role,
        };
        self.ask(Some((who.slot, who.generation)), AccountWhat::CreateUser(new), Some(PASSWORD))
    }

    fn is_in(&mut self, token: &Secret) -> bool {
        self.catalog.who(token.expose()).is_some()
    }

    fn restart(self) -> People {
        let before = format!("{:?}", self.catalog.control.state().snapshot());
        let catalog = self.catalog.restart();
        assert_eq!(format!("{:?}", catalog.control.state().snapshot()), before);
        People { catalog, ..self }
    }

    /// The newest record's kind.
    fn last_record(&mut self) -> String {
        let query = crate::catalog::audit::AuditQuery { limit: 1, ..Default::default() };
        match self.catalog.call(BOOTSTRAP, What::ReadAudit { tenant: None, query }).unwrap() {
            Done::Audit(page) => page.events[0].record.body.kind().to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

fn set_up(email: &str) -> AccountWhat {
    AccountWhat::SetUp { email: Email::parse(email).unwrap() }
}

fn logged_in(answer: Answer) -> LoggedIn {
    match answer.unwrap() {
        Done::LoggedIn(made) => *made,
        other => panic!("{other:?}"),
    }
}

fn whose() -> Whose {
    Whose::default()
}

#[test]
fn the_first_person_becomes_admin_of_the_first_workspace_once() {
    let (mut people, admin) = People::set_up();
    let who = people.catalog.who(admin.token.expose()).unwrap();
    assert_eq!((who.tenant, who.role, who.kind), (Tenant(1), Role::Admin, CredentialKind::Session));
    assert!(!who.acts_for_others());
    assert_eq!((admin.person.id.as_str(), admin.person.tenant_id.as_str()), ("user_1", "default"));
    for _ in 0..2 {
        let again = people.ask(None, set_up("other@x.com"), Some(PASSWORD));
        assert_eq!(again.unwrap_err(), Refused::AlreadySetUp);
        assert!(matches!(people.ask(None, AccountWhat::IsSetUpNeeded, None), Ok(Done::SetUpNeeded(false))));
        people = people.restart();
    }
    assert!(people.is_in(&admin.token));
    // Two that hash at once: the first that ends is the first.
    let mut people = People::new();
    assert!(matches!(people.ask(None, AccountWhat::IsSetUpNeeded, None), Ok(Done::SetUpNeeded(true))));
    let accounts = ["a@x.com", "b@x.com"].map(|email| people.account(None, set_up(email), None));
    let hash = people.hasher.hash(&Password::presented(PASSWORD).unwrap());
    for account in &accounts {
        assert!(matches!(people.catalog.control.prepare(account), Prepared::Hash));
    }
    let made = accounts.each_ref().map(|account| people.catalog.control.finish(account, Worked::Hashed(hash.clone())));
    assert!(made[0].is_ok());
    assert_eq!(made[1].as_ref().unwrap_err(), &Refused::AlreadySetUp);
}

#[test]
fn a_set_up_with_a_key_needs_an_operators() {
    let mut people = People::new();
    people.catalog.tenant("acme");
    let admin = people.catalog.admin("acme");
    let by = |people: &mut People, key: &str| {
        let who = people.catalog.who(key).unwrap();
        people.ask(Some((who.slot, who.generation)), set_up("a@x.com"), Some(PASSWORD))
    };
    assert_eq!(by(&mut people, &admin).unwrap_err(), Refused::NotAnOperator);
    assert_eq!(logged_in(by(&mut people, BOOTSTRAP)).person.id, "user_1");
}

#[test]
fn only_the_right_password_of_somebody_who_is_there_opens() {
    let (mut people, _) = People::set_up();
    let made = logged_in(people.log_in("ADMIN@x.com", PASSWORD));
    assert!(people.is_in(&made.token));
    assert_eq!(made.expires_at, Micros(people.catalog.now + TOKEN_LIFETIME_US));
    let records = people.catalog.control.state().record_count();
    for (name, password) in
        [("admin@x.com", "correct hors"), ("nobody@x.com", PASSWORD), ("admin", PASSWORD), ("no name at all", PASSWORD)]
    {
        assert_eq!(people.log_in(name, password).unwrap_err(), Refused::InvalidCredentials, "{name}");
    }
    assert_eq!(people.catalog.control.state().record_count(), records);
    // Whatever the name is, somebody's hash or nobody's is computed.
    for (name, is_there) in [("admin@x.com", true), ("nobody@x.com", false), ("no name at all", false)] {
        let account = people.account(None, AccountWhat::LogIn { name: LoginName::parse(name).ok() }, None);
        let Prepared::Verify(against) = people.catalog.control.prepare(&account) else { panic!("{name}") };
        assert_eq!(against.is_some(), is_there, "{name}");
    }
}

#[test]
fn a_password_that_was_right_a_moment_ago_opens_nothing_any_more() {
    let (mut people, admin) = People::set_up();
    people.create(&admin.token, "a@x.com", Role::Developer, None).unwrap();
    let name = LoginName::parse("a@x.com").ok();
    let account = people.account(None, AccountWhat::LogIn { name }, None);
    let Prepared::Verify(against) = people.catalog.control.prepare(&account) else { panic!() };
    let verdict = people.hasher.verify(against.as_ref(), &Password::presented(PASSWORD).unwrap());
    assert_eq!(verdict, Verdict::Right { is_outdated: false });
    // Meanwhile the account goes, and another gets its address.
    people.catalog.call(admin.token.expose(), What::DeleteUser { whose: whose(), user: Some(2) }).unwrap();
    people.create(&admin.token, "a@x.com", Role::Admin, None).unwrap();
    let worked = Worked::Verified { against, verified: Verified { verdict, renewed: None } };
    assert_eq!(people.catalog.control.finish(&account, worked).unwrap_err(), Refused::InvalidCredentials);
}

#[test]
fn an_outdated_hash_is_replaced_with_the_login() {
    let (mut people, _) = People::set_up();
    let name = LoginName::parse("admin@x.com").ok();
    let account = people.account(None, AccountWhat::LogIn { name }, None);
    let Prepared::Verify(against) = people.catalog.control.prepare(&account) else { panic!() };
    let renewed: StoredHash = people.hasher.hash(&Password::presented("another phrase").unwrap());
    let verified = Verified { verdict: Verdict::Right { is_outdated: true }, renewed: Some(renewed) };
    people.catalog.control.finish(&account, Worked::Verified { against, verified }).unwrap();
    let mut people = people.restart();
    assert_eq!(people.log_in("admin@x.com", PASSWORD).unwrap_err(), Refused::InvalidCredentials);
    assert!(people.log_in("admin@x.com", "another phrase").is_ok());
}

#[test]
fn a_refresh_ends_the_old_token_and_its_replay_ends_the_session() {
    let (mut people, admin) = People::set_up();
    let other = logged_in(people.log_in("admin@x.com", PASSWORD));
    let second = people.refresh(&admin.token).unwrap();
    assert!(!people.is_in(&admin.token) && people.is_in(&second));
    // A restart remembers what was replaced.
    let mut people = people.restart();
    let third = people.refresh(&second).unwrap();
    let mut people = people.restart();
    assert!(people.is_in(&third) && !people.is_in(&second));
    // The one before the last is forgotten: it opens nothing, and ends nothing.
    assert_eq!(people.refresh(&admin.token).unwrap_err(), Refused::TokenRefused);
    assert!(people.is_in(&third));
    assert_eq!(people.refresh(&second).unwrap_err(), Refused::TokenRefused);
    assert!(!people.is_in(&third) && people.is_in(&other.token));
    assert_eq!(people.last_record(), "session_ended");
    assert_eq!(people.refresh(&third).unwrap_err(), Refused::TokenRefused);
    assert_eq!(people.refresh(&second).unwrap_err(), Refused::TokenRefused);
    assert_eq!(people.refresh(&Secret::new("rl_st_nonsense")).unwrap_err(), Refused::TokenRefused);
    assert_eq!(people.refresh(&Secret::new(BOOTSTRAP)).unwrap_err(), Refused::TokenRefused);
}

#[test]
fn a_token_lives_for_a_day_and_a_session_for_thirty() {
    let (mut people, admin) = People::set_up();
    let begun = people.catalog.now;
    people.catalog.now += TOKEN_LIFETIME_US - 1;
    assert!(people.is_in(&admin.token));
    let mut token = people.refresh(&admin.token).unwrap();
    people.catalog.now += 1;
    assert!(people.is_in(&token) && !people.is_in(&admin.token));
    while people.catalog.now + TOKEN_LIFETIME_US / 2 < begun + SESSION_LIFETIME_US {
        people.catalog.now += TOKEN_LIFETIME_US / 2;
        token = people.refresh(&token).unwrap();
    }
    people.catalog.now = begun + SESSION_LIFETIME_US - 1;
    assert!(people.is_in(&token));
    people.catalog.now += 1;
    assert!(!people.is_in(&token));
    assert_eq!(people.refresh(&token).unwrap_err(), Refused::TokenRefused);
}

#[test]
fn a_users_sessions_are_so_many_and_expired_ones_do_not_pile_up() {
    let (mut people, admin) = People::set_up();
    let second = logged_in(people.log_in("admin@x.com", PASSWORD));
    for _ in 0..SESSIONS_PER_USER_MAX - 2 {
        people.catalog.now += MINUTE;
        people.log_in("admin@x.com", PASSWORD).unwrap();
    }
    assert!(people.is_in(&admin.token));
    people.catalog.now += MINUTE;
    people.log_in("admin@x.com", PASSWORD).unwrap();
    assert!(!people.is_in(&admin.token) && people.is_in(&second.token));
    let count = |people: &People| people.catalog.control.state().keys().count();
    let full = count(&people);
    people.catalog.now += TOKEN_LIFETIME_US;
    // Whoever logs in, everybody's expired ones go.
    people.catalog.tenant("acme");
    people.create(&Secret::new(BOOTSTRAP), "a@x.com", Role::ReadOnly, Some("acme")).unwrap();
    for _ in 0..SESSIONS_PER_USER_MAX.div_ceil(SESSIONS_SWEPT_MAX) {
        people.log_in("a@x.com", PASSWORD).unwrap();
    }
    assert_eq!(people.catalog.control.state().expired_sessions(Micros(people.catalog.now)).count(), 0);
    assert!(count(&people) < full);
    // For ever: as many slots as there ever were sessions at once.
    for _ in 0..100 {
        people.catalog.now += TOKEN_LIFETIME_US;
        people.log_in("a@x.com", PASSWORD).unwrap();
    }
    assert_eq!(people.catalog.control.state().sessions_of(2).count(), 1);
    assert!(people.restart().catalog.control.state().next_slot().unwrap().0 <= 40);
}

#[test]
fn a_person_logs_in_so_often_in_a_minute() {
    let (mut people, admin) = People::set_up();
    for _ in 1..TENANT_CHANGES_PER_MINUTE_MAX {
        people.log_in("admin@x.com", PASSWORD).unwrap();
    }
    let refused = people.log_in("admin@x.com", PASSWORD).unwrap_err();
    assert!(matches!(refused, Refused::TooManyLogins { retry_after_seconds: 1..=60 }), "{refused:?}");
    people.catalog.now += MINUTE;
    assert!(people.log_in("admin@x.com", PASSWORD).is_ok());
    assert!(!people.is_in(&admin.token), "so many logins have ended the first session");
}

#[test]
fn a_role_changes_and_a_deletion_ends_every_session_at_once() {
    let (mut people, admin) = People::set_up();
    let by = admin.token.expose();
    people.create(&admin.token, "a@x.com", Role::Developer, None).unwrap();
    let sessions = [(); 2].map(|()| logged_in(people.log_in("a@x.com", PASSWORD)).token);
    people.catalog.call(by, What::SetUserRole { whose: whose(), user: Some(2), role: Role::ReadOnly }).unwrap();
    for token in &sessions {
        assert_eq!(people.catalog.who(token.expose()).unwrap().role, Role::ReadOnly);
    }
    let mut people = people.restart();
    let second = people.refresh(&sessions[0]).unwrap();
    assert_eq!(people.catalog.who(second.expose()).unwrap().role, Role::ReadOnly);
    people.catalog.call(by, What::DeleteUser { whose: whose(), user: Some(2) }).unwrap();
    assert!(!people.is_in(&second) && !people.is_in(&sessions[1]) && people.is_in(&admin.token));
    assert_eq!(people.log_in("a@x.com", PASSWORD).unwrap_err(), Refused::InvalidCredentials);
    assert_eq!(people.refresh(&second).unwrap_err(), Refused::TokenRefused);
    let again = people.catalog.call(by, What::DeleteUser { whose: whose(), user: Some(2) });
    assert_eq!(again.unwrap_err(), Refused::NoUser);
    // The address is free, the number is not.
    let Done::Person(person) = people.create(&admin.token, "a@x.com", Role::ReadOnly, None).unwrap() else { panic!() };
    assert_eq!(person.id, "user_3");
    people.restart();
}

#[test]
fn a_tenants_end_is_its_peoples() {
    let (mut people, admin) = People::set_up();
    people.catalog.tenant("acme");
    people.create(&Secret::new(BOOTSTRAP), "a@x.com", Role::Admin, Some("acme")).unwrap();
    let made = logged_in(people.log_in("a@x.com", PASSWORD));
    let state = |state| What::SetTenantState { named: "acme".into(), state };
    people.catalog.call(BOOTSTRAP, state(TenantState::Suspended)).unwrap();
    assert!(!people.is_in(&made.token));
    assert_eq!(people.log_in("a@x.com", PASSWORD).unwrap_err(), Refused::InvalidCredentials);
    assert_eq!(people.refresh(&made.token).unwrap_err(), Refused::TokenRefused);
    people.catalog.call(BOOTSTRAP, state(TenantState::Active)).unwrap();
    assert!(people.is_in(&made.token));
    people.catalog.call(BOOTSTRAP, What::DeleteTenant { named: "acme".into(), confirm: "acme".into() }).unwrap();
    assert!(!people.is_in(&made.token) && people.is_in(&admin.token));
    let mut people = people.restart();
    assert_eq!(people.log_in("a@x.com", PASSWORD).unwrap_err(), Refused::InvalidCredentials);
    assert!(people.create(&admin.token, "a@x.com", Role::ReadOnly, None).is_ok());
}

#[test]
fn admins_see_and_touch_their_own_tenants_users_and_not_themselves() {
    let (mut people, admin) = People::set_up();
    people.catalog.tenant("acme");
    people.create(&Secret::new(BOOTSTRAP), "boss@acme.com", Role::Admin, Some("acme")).unwrap();
    let boss = logged_in(people.log_in("boss@acme.com", PASSWORD)).token;
    people.create(&boss, "dev@acme.com", Role::Developer, None).unwrap();
    let dev = logged_in(people.log_in("dev@acme.com", PASSWORD)).token;
    let taken = people.create(&admin.token, "dev@acme.com", Role::Developer, None);
    assert_eq!(taken.unwrap_err(), Refused::UserExists);
    assert_eq!(people.create(&boss, "x@x.com", Role::Admin, Some("default")).unwrap_err(), Refused::TenantForbidden);
    assert!(matches!(people.create(&dev, "x@x.com", Role::ReadOnly, None), Err(Refused::Permission(_))));
    let list = |people: &mut People, by: &Secret, after| -> Result<(String, usize, Option<u32>), Refused> {
        match people.catalog.call(by.expose(), What::ListUsers { whose: whose(), after, limit: 1 })? {
            Done::People { people, total, next } => Ok((people[0].id.clone(), total, next)),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(list(&mut people, &boss, 0), Ok(("user_2".to_owned(), 2, Some(2))));
    assert_eq!(list(&mut people, &boss, 2), Ok(("user_3".to_owned(), 2, None)));
    assert_eq!(list(&mut people, &admin.token, 0), Ok(("user_1".to_owned(), 1, None)));
    assert!(matches!(list(&mut people, &dev, 0), Err(Refused::Permission(_))));
    let delete = |user| What::DeleteUser { whose: whose(), user };
    for (by, user, expected) in [
        (&boss, Some(1), Refused::OthersUser),
        (&boss, Some(9), Refused::NoUser),
        (&boss, None, Refused::NoUser),
        (&boss, Some(2), Refused::Oneself),
        (&admin.token, Some(3), Refused::OthersUser),
    ] {
        assert_eq!(people.catalog.call(by.expose(), delete(user)).unwrap_err(), expected, "{user:?}");
    }
    let role = What::SetUserRole { whose: whose(), user: Some(2), role: Role::ReadOnly };
    assert_eq!(people.catalog.call(boss.expose(), role).unwrap_err(), Refused::Oneself);
    let whoami = |people: &mut People, by: &str| match people.catalog.call(by, What::WhoAmI).unwrap() {
        Done::Person(person) => (person.id, person.email),
        other => panic!("{other:?}"),
    };
    assert_eq!(whoami(&mut people, dev.expose()), ("user_3".into(), Some("dev@acme.com".into())));
    assert_eq!(whoami(&mut people, BOOTSTRAP), ("key_1".into(), None));
    assert_eq!(people.catalog.call(BOOTSTRAP, What::LogOut).unwrap_err(), Refused::NotASession);
    let rotate = What::RotateSelf { grace_seconds: 0 };
    let refused = people.catalog.call(dev.expose(), rotate).unwrap_err();
    assert_eq!(refused, Refused::NotHere(CredentialKind::Session));
    people.catalog.call(dev.expose(), What::LogOut).unwrap();
    assert!(!people.is_in(&dev) && people.is_in(&boss));
}

#[test]
fn what_cannot_follow_about_people_is_refused_and_changes_nothing() {
    let (mut people, admin) = People::set_up();
    people.catalog.tenant("acme");
    people.create(&Secret::new(BOOTSTRAP), "a@x.com", Role::Developer, Some("acme")).unwrap();
    let state = people.catalog.control.state();
    let before = format!("{state:?}");
    let hash = people.hasher.hash(&Password::presented(PASSWORD).unwrap()).to_phc();
    let user = |email: &str| UserCreated {
        user: state.next_user(),
        tenant: 1,
        email: email.to_owned(),
        username: None,
        role: Role::ReadOnly,
        password_hash: hash.clone(),
    };
    let session = state.session_of_token(&admin.token.digest(), Micros(1)).unwrap().0;
    let key = || {
        let kind = CredentialKind::Session;
        let mut key = people.catalog.control.new_key(2, kind, Role::Developer, "a", [7; 32]).unwrap();
        key.expires_at = Some(people.catalog.now + 1);
        key
    };
    let started = |user, key, ends| Body::SessionStarted(SessionStarted { user, key, ends, password_hash: None });
    let ended =
        |user, tenant, session| Body::SessionEnded(SessionEnded { user, tenant, session, why: SessionEnd::LoggedOut });
    use crate::catalog::records::{KeyRevoked, KeyRotated, NewKey, UserDeleted, UserRoleSet};
    use crate::catalog::state::StateError as E;
    for (body, expected) in [
        (Body::UserCreated(UserCreated { user: 1, ..user("b@x.com") }), E::UserNumber),
        (Body::UserCreated(UserCreated { tenant: 9, ..user("b@x.com") }), E::NoSuchTenant),
        (Body::UserCreated(user("a@x.com")), E::UserTaken),
        (Body::UserCreated(UserCreated { password_hash: "x".into(), ..user("b@x.com") }), E::PasswordHash),
        (Body::UserRoleSet(UserRoleSet { user: 2, tenant: 1, role: Role::Admin }), E::NoSuchUser),
        (Body::UserDeleted(UserDeleted { user: 9, tenant: 1 }), E::NoSuchUser),
        (started(9, key(), vec![]), E::NoSuchUser),
        (started(1, key(), vec![]), E::KeyTenant),
        (started(2, NewKey { role: Role::Admin, ..key() }, vec![]), E::KeyRole),
        (started(2, NewKey { kind: CredentialKind::Jwt, ..key() }, vec![]), E::KeyKind),
        (started(2, NewKey { expires_at: None, ..key() }, vec![]), E::KeyKind),
        (started(2, NewKey { slot: 99, ..key() }, vec![]), E::Slot),
        (started(2, key(), vec![1]), E::NoSuchSession),
        (started(2, key(), vec![session, session]), E::NoSuchSession),
        (Body::SessionRefreshed(SessionRefreshed { user: 2, old: session, new: key() }), E::NoSuchSession),
        (ended(1, 1, 1), E::NoSuchSession),
        (ended(2, 2, session), E::NoSuchSession),
        (ended(1, 2, session), E::NoSuchUser),
        // A session is nobody's key to mint, rotate or revoke.
        (Body::KeyMinted(key()), E::KeyKind),
        (Body::KeyRevoked(KeyRevoked { key: session }), E::KeyKind),
        (Body::KeyRotated(KeyRotated { old: session, old_expires_at: None, new: key() }), E::KeyTenant),
    ] {
        assert_eq!(state.check(&body).unwrap_err(), expected, "{body:?}");
    }
    assert_eq!(format!("{:?}", people.catalog.control.state()), before);
}
