//! Whole runs, against servers of this crate's own.

use super::*;
use crate::cli::{Cli, Command};
use crate::fake::{Behaviour, FakeServer};
use clap::Parser;

fn try_run(server: &FakeServer, line: &str) -> Result<Summary, Failure> {
    try_run_at(&server.url(), line)
}

fn try_run_at(url: &str, line: &str) -> Result<Summary, Failure> {
    let mut words = vec!["ringlog-load", "run", "--quiet", "--url", url];
    words.extend(line.split_ascii_whitespace());
    let Command::Run(args) = Cli::parse_from(words).command else { panic!("not a run") };
    check(&args)?;
    crate::ring::block_on(run(&args))?
}

fn run_against(server: &FakeServer, line: &str) -> Summary {
    try_run(server, line).unwrap()
}

fn errors(summary: &Summary) -> Vec<&str> {
    summary.errors.keys().map(String::as_str).collect()
}

#[test]
fn a_good_server_is_measured() {
    let server = FakeServer::start(Behaviour::Good);
    let summary = run_against(&server, "--count 300 --connections 4 --batch 1,10 --tenants 3");
    assert_eq!((summary.requests_good, summary.error_count), (300, 0));
    assert_eq!(summary.requests_measured, 300);
    assert_eq!(summary.loop_kind, "closed");
    // Each of the three tenants begins with one sample event.
    assert_eq!(summary.events_good as usize, server.event_count() - 3);
    assert!(300 < summary.events_good);
    assert!(0.0 < summary.service_p50_us && summary.service_p50_us <= summary.service_max_us);
    assert_eq!(summary.response_p50_us, None);
}

#[test]
fn pipelined_requests_are_all_answered() {
    let server = FakeServer::start(Behaviour::Good);
    let summary = run_against(&server, "--count 500 --connections 2 --depth 16 --batch 3");
    assert_eq!((summary.requests_good, summary.error_count), (500, 0));
    assert_eq!(server.event_count(), 1501);
}

#[test]
fn a_run_ends_after_its_duration() {
    let server = FakeServer::start(Behaviour::Good);
    let summary = run_against(&server, "--duration 0.2 --warmup 0.05 --connections 2");
    assert!((0.2..0.25).contains(&summary.seconds), "{}", summary.seconds);
    assert!(0 < summary.requests_measured && summary.requests_measured < summary.requests_good);
    assert_eq!(summary.error_count, 0);
}

#[test]
fn a_stop_file_ends_a_run_early() {
    let server = FakeServer::start(Behaviour::Good);
    let file = tempfile::NamedTempFile::new().unwrap();
    let summary = run_against(&server, &format!("--duration 60 --warmup 0 --stop-file {}", file.path().display()));
    assert!(summary.seconds < 10.0, "{summary:?}");
    assert_eq!(summary.error_count, 0);
}

#[test]
fn the_same_seed_sends_the_same_bytes() {
    let bodies = |seed: u64| {
        let server = FakeServer::start(Behaviour::Good);
        run_against(&server, &format!("--count 40 --connections 1 --batch 1,5 --seed {seed}"));
        std::mem::take(&mut server.store.lock().unwrap().bodies).split_off(1)
    };
    assert_eq!(bodies(7), bodies(7));
    assert_ne!(bodies(7), bodies(8));
}

#[test]
fn the_open_loop_shows_a_stall() {
    let server = FakeServer::start(Behaviour::Stall { request: 300, for_ms: 400 });
    let summary = run_against(&server, "--rate 1000 --duration 1 --warmup 0 --connections 4");
    assert_eq!(summary.loop_kind, "open");
    // A third of the requests were meant to be sent while nobody answered.
    assert!(100_000.0 < summary.response_p99_us.unwrap(), "{summary:?}");
    assert!(summary.service_p99_us < 100_000.0, "{summary:?}");
    assert!((900.0..1100.0).contains(&summary.requests_per_second), "{summary:?}");
}

#[test]
fn the_closed_loop_hides_a_stall() {
    let server = FakeServer::start(Behaviour::Stall { request: 300, for_ms: 400 });
    let summary = run_against(&server, "--count 2000 --connections 4");
    assert!(400_000.0 <= summary.service_max_us, "{summary:?}");
    assert!(summary.service_p99_us < 100_000.0, "{summary:?}");
}

#[test]
fn the_open_loop_keeps_its_schedule() {
    let server = FakeServer::start(Behaviour::Good);
    let summary = run_against(&server, "--rate 5000 --batch 10 --count 200 --connections 3");
    assert_eq!((summary.requests_good, summary.error_count), (200, 0));
    // 200 requests of ten events at 5000 events a second take 0.398 s from the first to the last.
    assert!((0.398..0.6).contains(&summary.seconds), "{summary:?}");
}

#[test]
fn garbage_is_an_error() {
    let server = FakeServer::start(Behaviour::Garbage);
    let summary = run_against(&server, "--count 10 --connections 2");
    assert_eq!(errors(&summary), ["malformed answer"]);
    assert_eq!((summary.requests_good, summary.error_count), (0, 2));
}

#[test]
fn an_answer_that_is_no_acknowledgement_is_an_error() {
    let server = FakeServer::start(Behaviour::Thanks);
    let summary = run_against(&server, "--count 10 --connections 2");
    assert_eq!(errors(&summary), ["answer that is no acknowledgement"]);
    assert_eq!(summary.error_count, 10);
    let unread = run_against(&server, "--count 10 --connections 2 --accept-any-2xx");
    assert_eq!((unread.requests_good, unread.error_count), (10, 0));
}

#[test]
fn every_request_is_counted_when_the_server_closes() {
    let server = FakeServer::start(Behaviour::CloseAt { every: 10 });
    let summary = run_against(&server, "--count 95 --connections 1 --reconnect");
    assert_eq!((summary.requests_good, summary.errors["closed by server"]), (86, 9));
    assert_eq!(summary.reconnects, 9);
    let ended = run_against(&server, "--count 95 --connections 1");
    assert_eq!(ended.error_count, 1, "without --reconnect the first close ends it");
}

#[test]
fn a_schedule_without_connections_is_counted_as_not_sent() {
    let server = FakeServer::start(Behaviour::CloseAt { every: 50 });
    let summary = run_against(&server, "--rate 1000 --count 400 --connections 4");
    // Connections end one after the other; whatever was meant for them afterwards is counted.
    assert!(0 < summary.errors["not sent"], "{summary:?}");
    assert_eq!(summary.requests_good + summary.error_count, 400, "{summary:?}");
}

#[test]
fn a_close_that_was_announced_is_no_error() {
    let server = FakeServer::start(Behaviour::Polite);
    let summary = run_against(&server, "--count 20 --connections 2");
    assert_eq!((summary.requests_good, summary.error_count), (20, 0));
}

#[test]
fn silence_ends_in_a_timeout() {
    let server = FakeServer::start(Behaviour::Silent);
    let summary = run_against(&server, "--count 4 --connections 2 --timeout 0.1");
    assert_eq!(summary.errors["timeout"], 2);
    assert_eq!(summary.requests_good, 0);
    let line = "--rate 1000 --duration 0.2 --warmup 0 --connections 2 --timeout 0.05 --reconnect";
    let open = run_against(&server, line);
    assert!(open.error_count.abs_diff(200) < 5, "the unanswered and the unsent are all counted: {open:?}");
}

#[test]
fn refusals_are_counted_by_their_code() {
    let server = FakeServer::start(Behaviour::Limited);
    let summary = run_against(&server, "--count 20 --connections 1");
    assert_eq!((summary.requests_good, summary.errors["status 429 rate_limited"]), (10, 10));
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    // Nobody listens on port 1.
    let gone = "http://127.0.0.1:1";
    assert_eq!(try_run_at(gone, "--count 1").unwrap_err().exit_code(), 7);
    let summary = try_run_at(gone, "--count 1 --key k --connections 2").unwrap();
    assert_eq!(summary.errors["connect: refused"], 2);
}

#[test]
fn any_request_can_be_sent() {
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, "anything").unwrap();
    let server = FakeServer::start(Behaviour::Good);
    let line = format!("--raw POST /raw --body {} --header x:y --batch 100 --count 10", body.display());
    let summary = run_against(&server, &line);
    assert_eq!((summary.requests_good, summary.events_good, summary.error_count), (10, 1000, 0));
}

#[test]
fn queries_are_measured() {
    let server = FakeServer::start(Behaviour::Good);
    let summary = run_against(&server, "--query --query-limit 5 --count 10");
    assert_eq!((summary.requests_good, summary.error_count), (10, 0));
    let by_entity = run_against(&server, "--query --query-entity --count 10");
    assert_eq!((by_entity.requests_good, by_entity.error_count), (10, 0));
}

#[test]
fn the_machine_is_asked() {
    let server = FakeServer::start(Behaviour::Good);
    let line = format!("--count 50 --server-pid {}", std::process::id());
    assert!(run_against(&server, &line).server_cpu_us_per_event.is_some());
    assert!(try_run(&server, "--count 1 --device no-such-device").is_err());
}

#[test]
fn nonsense_is_refused() {
    let server = FakeServer::start(Behaviour::Good);
    for line in ["--batch 0", "--connections 0", "--rate 0", "--event-bytes 10", "--header x", "--depth 0"] {
        assert_eq!(try_run(&server, line).unwrap_err().exit_code(), 2, "{line}");
    }
}
