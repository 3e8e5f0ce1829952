//! Onboarding, and what a failing log or a later version's record does.

use super::*;
use crate::auth::credentials::{Credentials, Presented};
use crate::catalog::log::MemoryLog;
use crate::catalog::records::CHAIN_START;

const SETTINGS: ControlSettings = ControlSettings { shard_count: 3, onboard_per_hour: 5 };

fn signing_secret() -> NamedSecret {
    NamedSecret { kid: "k1".into(), secret: Secret::new("0123456789abcdef0123456789abcdef") }
}

fn control() -> Control<MemoryLog> {
    let mut control = Control::open(MemoryLog::default(), SETTINGS).unwrap();
    control.sign_with(&[signing_secret()]);
    control
}

fn request(email: &str, source: &str) -> Onboard {
    let email = Email::parse(email).unwrap();
    Onboard::new(email, None, source.parse().unwrap(), "r-1".into(), Micros(1_000_000), 0).unwrap()
}

#[test]
fn onboarding_gives_a_key_that_opens_the_tenant() {
    let mut control = control();
    let made = control.onboard(&request("Agent@Your-Company.com", "10.0.0.1")).unwrap();
    assert_eq!(made.tenant_id, "onboard-agent-at-your-company-com");
    assert_eq!((made.tier, made.events_quota), ("free", Some(100_000)));
    let mut credentials = Credentials::new(1, &Delta::default());
    let delta = control.take_delta().unwrap();
    credentials.apply(&delta);
    assert!(control.take_delta().is_none());
    let presented = Presented::none().authorization(made.api_key.expose().as_bytes());
    let principal = credentials.authenticate(presented, Micros(2)).unwrap();
    assert_eq!((principal.tenant, principal.role), (made.tenant, Role::Developer));
    assert_eq!(*credentials.tenant(made.tenant).unwrap().id, *made.tenant_id);
    assert_eq!(credentials.tenant(made.tenant).unwrap().shard, made.shard);
    assert_eq!(credentials.tenant(made.tenant).unwrap().quotas.events_per_month, Some(100_000));
}

#[test]
fn an_address_onboards_once_in_any_spelling() {
    let mut control = control();
    control.onboard(&request("a@x.com", "10.0.0.1")).unwrap();
    for again in ["a@x.com", "A@X.COM"] {
        assert_eq!(control.onboard(&request(again, "10.0.0.2")), Err(OnboardError::TenantExists));
    }
    control.onboard(&request("b@x.com", "10.0.0.2")).unwrap();
    assert_eq!(control.state().tenants().count(), 2);
}

#[test]
fn tenants_spread_over_shards_and_numbers_rise() {
    let mut control = control();
    let made: Vec<_> = (0..7)
        .map(|number| control.onboard(&request(&format!("a{number}@x.com"), &format!("10.0.0.{number}"))).unwrap())
        .map(|made| (made.tenant.0, made.shard.0))
        .collect();
    assert_eq!(made, [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2), (7, 0)]);
}

#[test]
fn the_sixth_call_from_an_address_waits_even_for_what_exists() {
    let mut control = control();
    for _ in 0..5 {
        let _ = control.onboard(&request("a@x.com", "10.0.0.1"));
    }
    let refused = control.onboard(&request("b@x.com", "10.0.0.1"));
    assert_eq!(refused, Err(OnboardError::RateLimited { retry_after_seconds: 3600, per_hour: 5 }));
    assert!(control.onboard(&request("b@x.com", "10.0.0.2")).is_ok());
}

#[test]
fn a_restart_knows_every_tenant_and_key() {
    let mut control = control();
    let made = control.onboard(&request("a@x.com", "10.0.0.1")).unwrap();
    let head = control.state().head();
    let log = control.into_log();
    // A tenant and its key are one record.
    assert_eq!(log.records.len(), 1);
    let mut control = Control::open(log, SETTINGS).unwrap();
    control.sign_with(&[signing_secret()]);
    assert_eq!(control.state().head(), head);
    let mut credentials = Credentials::new(1, &control.snapshot());
    let presented = Presented::none().authorization(made.api_key.expose().as_bytes());
    assert!(credentials.authenticate(presented, Micros(2)).is_ok());
    assert_eq!(control.onboard(&request("a@x.com", "10.0.0.1")), Err(OnboardError::TenantExists));
    assert_eq!(control.onboard(&request("b@x.com", "10.0.0.1")).unwrap().shard.0, 1);
}

#[test]
fn records_say_who_and_when_and_hold_no_secret() {
    let mut control = control();
    let made = control.onboard(&request("a@x.com", "10.0.0.1")).unwrap();
    let mut late = request("b@x.com", "10.0.0.1");
    late.at = Micros(5);
    control.onboard(&late).unwrap();
    let log = control.into_log();
    let records: Vec<_> = log.records.iter().map(|bytes| Record::decode(bytes).unwrap()).collect();
    assert_eq!(records[0].origin.actor, Actor::Anonymous);
    assert_eq!(records[0].origin.source, Some("10.0.0.1".parse().unwrap()));
    assert_eq!(records[0].origin.request_id.as_deref(), Some("r-1"));
    assert_eq!((records[0].prev, records[1].prev), (CHAIN_START, chain_digest(&log.records[0])));
    assert_eq!(records[1].at, records[0].at, "a clock that was set back does not turn time around");
    for part in made.api_key.expose().split('.').skip(1) {
        assert!(!String::from_utf8_lossy(&log.records[0]).contains(part));
    }
}

#[test]
fn a_changed_or_missing_record_is_noticed_at_start() {
    let mut control = control();
    for number in 0..4 {
        control.onboard(&request(&format!("a{number}@x.com"), "10.0.0.1")).unwrap();
    }
    let log = control.into_log();
    let opens = |log: MemoryLog| Control::open(log, SETTINGS).is_ok();
    assert!(opens(log.clone()));
    for at in 0..3 {
        let mut missing = log.clone();
        missing.records.remove(at);
        assert!(!opens(missing), "{at} missing");
        let mut swapped = log.clone();
        swapped.records.swap(at, at + 1);
        assert!(!opens(swapped), "{at} swapped");
        let mut changed = log.clone();
        let text = String::from_utf8(changed.records[at].clone()).unwrap();
        changed.records[at] = text.replace("10.0.0.1", "10.0.0.9").into_bytes();
        assert!(!opens(changed), "{at} changed");
    }
    let mut later = log.clone();
    later.records.push(br#"{"v":2}"#.to_vec());
    assert!(!opens(later));
}

#[test]
fn shards_can_be_added_and_not_taken_away() {
    let mut control = control();
    for number in 0..3 {
        control.onboard(&request(&format!("a{number}@x.com"), "10.0.0.1")).unwrap();
    }
    let log = control.into_log();
    let fewer = ControlSettings { shard_count: 2, ..SETTINGS };
    assert!(matches!(Control::open(log.clone(), fewer), Err(OpenError::ShardGone { tenant: 3, shard: 2 })));
    let more = ControlSettings { shard_count: 4, ..SETTINGS };
    assert_eq!(Control::open(log, more).unwrap().least_loaded_shard(), 3);
}

struct FailingLog {
    inner: MemoryLog,
    next: Option<CatalogError>,
}

impl CatalogLog for FailingLog {
    fn append(&mut self, record: &[u8], entity: &str, kind: &str) -> Result<(), CatalogError> {
        match self.next.take() {
            Some(error) => Err(error),
            None => self.inner.append(record, entity, kind),
        }
    }

    fn replay(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        self.inner.replay(each)
    }

    fn read_before(&mut self, before: u64, count: usize, each: &mut dyn FnMut(u64, &[u8])) -> Result<(), CatalogError> {
        self.inner.read_before(before, count, each)
    }
}

#[test]
fn a_failed_append_latches_and_a_full_disk_does_not() {
    let log = FailingLog { inner: MemoryLog::default(), next: None };
    let mut control = Control::open(log, SETTINGS).unwrap();
    control.sign_with(&[signing_secret()]);
    let _ = control.snapshot();
    control.log.next = Some(CatalogError::Full);
    assert_eq!(control.onboard(&request("a@x.com", "10.0.0.1")), Err(OnboardError::Full));
    assert!(control.onboard(&request("a@x.com", "10.0.0.1")).is_ok());
    control.take_delta().unwrap();
    control.log.next = Some(CatalogError::OutcomeUnknown("a failed sync".into()));
    for _ in 0..2 {
        assert_eq!(control.onboard(&request("b@x.com", "10.0.0.1")), Err(OnboardError::OutcomeUnknown));
    }
    assert!(control.take_delta().is_none());
    assert_eq!(control.log.inner.records.len(), 1);
}

#[test]
fn without_a_name_a_tenant_is_called_by_what_stands_before_the_at() {
    let make = |name: Option<&str>| {
        let email = Email::parse("some.one@x.com").unwrap();
        let made = Onboard::new(email, name, "::1".parse().unwrap(), String::new(), Micros(0), 0);
        made.map(|request| request.name.as_str().to_owned())
    };
    assert_eq!(make(None).unwrap(), "some.one");
    assert_eq!(make(Some(" My Production App ")).unwrap(), "My Production App");
    assert_eq!(make(Some("  ")), Err(NameError::Empty));
}
