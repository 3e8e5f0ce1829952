//! Runs against a fake server, whose memory is then falsified.

use super::*;
use crate::cli::{Cli, Command};
use crate::fake::{Behaviour, FakeServer, Stored};
use crate::target::Target;
use clap::Parser;
use std::path::Path;

fn send(server: &FakeServer, ledger: &Path, line: &str) {
    let (url, ledger) = (server.url(), ledger.to_str().unwrap());
    let mut words = vec!["ringlog-load", "run", "--quiet", "--closed", "--url", &url, "--ledger", ledger];
    words.extend(line.split_ascii_whitespace());
    let Command::Run(args) = Cli::parse_from(words).command else { panic!("not a run") };
    crate::run::tests::run(&args).unwrap();
}

fn judge(server: &FakeServer, ledger: &Path) -> Verdict {
    let client = Client::new(Target::from_url(&server.url()).unwrap(), Duration::from_secs(5));
    let ledger = Ledger::read(ledger).unwrap();
    crate::ring::block_on(verify(&ledger, client, 37, true)).unwrap().unwrap()
}

fn troubles(verdict: &Verdict) -> Vec<(&'static str, u64)> {
    verdict.trouble.iter().filter(|(_, count)| 0 < **count).map(|(name, count)| (*name, *count)).collect()
}

/// Sends to a good server, lets `change` falsify what it holds, and compares what is found.
/// Events 0 and 1 are the samples of the two tenants; one connection each sends batches of 1 and 5.
fn check(change: impl FnOnce(&mut Vec<Stored>), expected: &[(&'static str, u64)]) {
    check_batches("1,5", change, expected);
}

fn check_batches(sizes: &str, change: impl FnOnce(&mut Vec<Stored>), expected: &[(&'static str, u64)]) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, &format!("--count 60 --connections 2 --tenants 2 --entities 1000000 --batch {sizes}"));
    assert_eq!(troubles(&judge(&server, &ledger)), [], "an honest server");
    server.change(change);
    assert_eq!(troubles(&judge(&server, &ledger)), expected);
}

#[test]
fn an_honest_server_passes_over_several_runs() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    for cursors in [false, true] {
        server.store.lock().unwrap().gives_cursors = cursors;
        send(&server, &ledger, "--count 100 --connections 4 --depth 4 --tenants 3 --batch 1,10 --entities 20");
        let verdict = judge(&server, &ledger);
        assert_eq!(troubles(&verdict), []);
        assert_eq!(verdict.events_read, server.event_count() as u64);
        assert_eq!(verdict.events_acknowledged + 3, verdict.events_read);
        assert_eq!(verdict.runs, 1 + u16::from(cursors));
    }
    assert_eq!(server.store.lock().unwrap().tenant_count, 3, "the second run used the keys of the first");
}

#[test]
fn requests_without_an_answer_may_be_stored_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::CloseAt { every: 10 });
    send(&server, &ledger, "--count 100 --connections 2 --batch 1,10 --reconnect");
    let stored = judge(&server, &ledger);
    assert_eq!(troubles(&stored), []);
    assert!(0 < stored.unknown_present);

    let silent = FakeServer::start(Behaviour::Silent);
    let ledger = folder.path().join("silent");
    send(&silent, &ledger, "--count 3 --connections 3 --batch 10 --timeout 0.05");
    let absent = judge(&silent, &ledger);
    assert_eq!((troubles(&absent), absent.unknown_absent), (vec![], 30));
}

#[test]
fn refused_requests_must_not_be_stored() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Limited);
    send(&server, &ledger, "--count 20 --connections 1");
    let verdict = judge(&server, &ledger);
    assert_eq!((troubles(&verdict), verdict.events_refused), (vec![], 10));
}

#[test]
fn a_part_of_a_request_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::CloseAt { every: 20 });
    send(&server, &ledger, "--count 20 --connections 1 --batch 10");
    assert_eq!(troubles(&judge(&server, &ledger)), []);
    server.change(|events| events.truncate(events.len() - 3));
    assert_eq!(troubles(&judge(&server, &ledger)), [("torn", 1)]);
}

#[test]
fn lost_events_are_noticed() {
    check(|events| events.truncate(events.len() - 2), &[("lost", 2)]);
}

#[test]
fn lost_events_from_before_the_ledger_are_noticed() {
    check(|events| drop(events.remove(0)), &[("lost", 1)]);
}

#[test]
fn a_duplicate_is_noticed_twice_over() {
    // The copy also bears a version that its entity has already had.
    check(|events| events.push(events[10].clone()), &[("duplicated", 1), ("reordered", 1)]);
}

#[test]
fn a_duplicate_under_a_new_id_is_noticed() {
    check(|events| events.push(Stored { id: "new".into(), version: 2, ..events[10].clone() }), &[("duplicated", 1)]);
}

#[test]
fn a_changed_payload_is_noticed() {
    check(|events| events[10].payload = events[10].payload.replacen(r#""n":"#, r#""n": "#, 1), &[("changed", 1)]);
    check(|events| events[10].payload = "null".into(), &[("changed", 1)]);
    check(|events| events[10].metadata = "{}".into(), &[("changed", 1)]);
    check(|events| events[10].event_type = "other".into(), &[("changed", 1)]);
    check(|events| events[10].id = "other".into(), &[("changed", 1)]);
    check(|events| events[10].entity = "e-fffffff0".into(), &[("changed", 1)]);
}

#[test]
fn a_changed_version_is_noticed() {
    check(|events| events[10].version = 2, &[("changed", 1), ("reordered", 1)]);
}

#[test]
fn an_invented_event_is_noticed() {
    let invented = |events: &mut Vec<Stored>| {
        let payload = r#"{"seq":"0990000000000001"}"#.to_owned();
        events.push(Stored { id: "new".into(), entity: "new".into(), version: 1, payload, ..events[10].clone() });
    };
    check(invented, &[("invented", 1)]);
}

#[test]
fn an_event_of_another_tenant_is_noticed() {
    // It is missing where it belongs, but it is not lost.
    check(|events| events[10].key = other_key(&events[10].key), &[("misplaced", 1)]);
}

#[test]
fn an_event_after_later_ones_is_noticed() {
    let to_the_end = |events: &mut Vec<Stored>| {
        let first = events.remove(2);
        events.push(first);
    };
    check_batches("1", to_the_end, &[("reordered", 1)]);
}

#[test]
fn events_of_a_batch_out_of_order_are_noticed() {
    check_batches("5", |events| events.swap(3, 4), &[("reordered", 1)]);
}

fn other_key(key: &str) -> String {
    if key == "key-1" { "key-2".into() } else { "key-1".into() }
}
