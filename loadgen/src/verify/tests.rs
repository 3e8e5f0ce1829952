//! Runs against a fake server, whose memory is then falsified.

mod million;

use super::verdict::{Finding, Trouble};
use super::*;
use crate::cli::{Cli, Command};
use crate::fake::{BOOTSTRAP_KEY, Behaviour, FakeServer, Stored};
use crate::ledger;
use crate::target::Target;
use clap::Parser;
use std::path::Path;

fn send(server: &FakeServer, ledger: &Path, line: &str) {
    try_send(server, ledger, line).unwrap();
}

fn try_send(server: &FakeServer, ledger: &Path, line: &str) -> Result<(), Failure> {
    try_send_to(&server.url(), ledger, line)
}

fn try_send_to(url: &str, ledger: &Path, line: &str) -> Result<(), Failure> {
    let ledger = ledger.to_str().unwrap();
    let mut words = vec!["ringlog-load", "run", "--quiet", "--closed", "--url", url, "--ledger", ledger];
    words.extend(line.split_ascii_whitespace());
    let Command::Run(args) = Cli::parse_from(words).command else { panic!("not a run") };
    crate::run::tests::run(&args).map(drop)
}

fn judge(server: &FakeServer, ledger: &Path) -> Verdict {
    judge_into(server, ledger, true, None)
}

fn judge_into(server: &FakeServer, ledger: &Path, versions_are_dense: bool, list: Option<&Path>) -> Verdict {
    let client = Client::new(Target::from_url(&server.url()).unwrap(), Duration::from_secs(5));
    let ledger = Ledger::read(ledger).unwrap();
    let judge = Judge::new(&ledger, versions_are_dense, Findings::new(list).unwrap());
    crate::ring::block_on(verify(&ledger, client, 37, judge, false)).unwrap().unwrap()
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
fn tenants_made_with_a_bootstrap_key_are_read_back_with_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, &format!("--count 40 --tenants 2 --batch 1,5 --bootstrap-key {BOOTSTRAP_KEY}"));
    // A run that goes on needs the bootstrap key no more: the ledger has the tenants' own.
    send(&server, &ledger, "--count 40 --batch 1,5");
    let verdict = judge(&server, &ledger);
    assert_eq!(troubles(&verdict), []);
    assert_eq!((verdict.events_read, verdict.runs), (server.event_count() as u64, 2));
    let store = server.store.lock().unwrap();
    assert_eq!((store.made.len(), store.tenant_count), (2, 0));
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
fn a_duplicate_is_noticed() {
    check(|events| events.push(events[10].clone()), &[("duplicated", 1)]);
    check(|events| events.insert(2, events[30].clone()), &[("duplicated", 1)]);
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
    check(|events| events[10].version = 2, &[("changed", 1)]);
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
    // It may be missing where it belongs, but it is not lost.
    check(|events| events[10].key = other_key(&events[10].key), &[("leaked", 1)]);
    check(|events| events.push(Stored { key: other_key(&events[10].key), ..events[10].clone() }), &[("leaked", 1)]);
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

#[test]
fn a_version_that_nobody_has_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, "--count 10 --connections 1");
    // The sample that was there before the first run.
    server.change(|events| events[0].version = 3);
    let verdict = judge(&server, &ledger);
    assert_eq!(troubles(&verdict), [("skipped", 1)]);
    assert_eq!(verdict.examples["skipped"][0].what, "nobody has the versions 1 to 2 of s");
    assert_eq!(troubles(&judge_into(&server, &ledger, false, None)), []);
}

#[test]
fn every_finding_is_listed_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (ledger, list) = (folder.path().join("ledger"), folder.path().join("list"));
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, "--count 60 --connections 1 --entities 1000000");
    server.change(|events| {
        events.truncate(31);
        events[2].payload = "null".into();
    });
    let verdict = judge_into(&server, &ledger, true, Some(&list));
    assert_eq!(troubles(&verdict), [("changed", 1), ("lost", 30)]);
    let lines = std::fs::read_to_string(&list).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 31);
    let changed = serde_json::json!({
        "kind": "changed", "tenant": "onboard-key-1", "position": 3, "id": "id-2", "seq": "0000000000000001",
        "what": "the payload is null",
    });
    assert_eq!(lines[0], changed);
    assert_eq!((&lines[1]["kind"], &lines[1]["seq"]), (&"lost".into(), &"000000000000001e".into()));
    let text = verdict.text();
    assert!(text.contains("FAILED: 31") && text.contains("and 10 more"), "{text}");
    assert!(text.contains("onboard-key-1 at 3 id id-2 seq 0000000000000001: the payload is null"), "{text}");
}

#[test]
fn a_list_that_cannot_be_written_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, "--count 10 --connections 1");
    server.change(Vec::clear);
    let client = Client::new(Target::from_url(&server.url()).unwrap(), Duration::from_secs(5));
    let ledger = Ledger::read(&ledger).unwrap();
    let judge = Judge::new(&ledger, true, Findings::new(Some(Path::new("/dev/full"))).unwrap());
    let failure = crate::ring::block_on(verify(&ledger, client, 37, judge, false)).unwrap().unwrap_err();
    assert!(failure.to_string().contains("the list of findings"), "{failure}");
}

fn verify_main(url: &str, ledger: &Path) -> Result<u8, Failure> {
    let words = ["ringlog-load", "verify", "--quiet", "--url", url, "--ledger", ledger.to_str().unwrap()];
    let Command::Verify(args) = Cli::parse_from(words).command else { panic!("not a verify") };
    main(&args)
}

#[test]
fn exit_codes_tell_the_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    send(&server, &ledger, "--count 10 --connections 1");
    assert_eq!(verify_main(&server.url(), &ledger).unwrap(), 0);
    server.change(|events| drop(events.pop()));
    assert_eq!(verify_main(&server.url(), &ledger).unwrap(), 8);
    // Nobody listens on port 1.
    assert_eq!(verify_main("http://127.0.0.1:1", &ledger).unwrap_err().exit_code(), 7);
    assert_eq!(verify_main(&server.url(), &folder.path().join("none")).unwrap_err().exit_code(), 1);
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(verify_main(&server.url(), &empty).unwrap_err().to_string().ends_with("no run was noted in it"));
}

#[test]
fn child_runs_until_it_is_killed() {
    let Some(ledger) = std::env::var_os(ledger::tests::CHILD) else { return };
    let url = std::env::var("RINGLOG_LOAD_TEST_URL").unwrap();
    try_send_to(&url, Path::new(&ledger), "--connections 4 --depth 2 --batch 1,10 --entities 20 --duration 600")
        .unwrap();
}

#[test]
fn the_ledger_of_a_run_that_was_killed_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger");
    let server = FakeServer::start(Behaviour::Good);
    for round in 1..=2 {
        let mut child = ledger::tests::command_of_test("verify::tests::child_runs_until_it_is_killed", &ledger)
            .env("RINGLOG_LOAD_TEST_URL", server.url())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while server.event_count() < round * 2_000 {
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Requests that were on their way may still be stored, whole, while this reads.
        let verdict = judge(&server, &ledger);
        assert_eq!(troubles(&verdict), [], "{verdict:?}");
        assert_eq!(usize::from(verdict.runs), round);
        assert!(500 < verdict.events_acknowledged, "{verdict:?}");
    }
    assert_eq!(server.store.lock().unwrap().tenant_count, 1);
}

#[test]
fn child_runs_until_its_files_may_not_grow() {
    let Some(ledger) = std::env::var_os(ledger::tests::CHILD) else { return };
    let server = FakeServer::start(Behaviour::Good);
    let failure = try_send(&server, Path::new(&ledger), "--connections 4 --batch 100 --entities 1 --duration 600");
    let failure = failure.unwrap_err().to_string();
    assert!(failure.contains("the ledger cannot be written: File too large"), "{failure}");
    // Whatever the server has was noted before, and nothing that it acknowledged in time is missing.
    let verdict = judge(&server, Path::new(&ledger));
    assert_eq!(troubles(&verdict), []);
    assert!(10_000 < verdict.events_acknowledged, "{verdict:?}");
    eprintln!("the child is content");
}

#[test]
fn a_full_disk_ends_a_run_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let name = "verify::tests::child_runs_until_its_files_may_not_grow";
    let test = ledger::tests::command_of_test(name, &folder.path().join("ledger"));
    // Without the trap the limit is a signal; with it, an error like that of a full disk. The unit is 512 bytes.
    let output = std::process::Command::new("/bin/sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 10240; exec "$0" "$@""#])
        .arg(test.get_program())
        .args(test.get_args())
        .envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("the child is content"), "{text}");
}

fn other_key(key: &str) -> String {
    if key == "key-1" { "key-2".into() } else { "key-1".into() }
}
