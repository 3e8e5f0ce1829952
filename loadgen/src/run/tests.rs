//! Whole runs, against servers of this crate's own.

use super::*;
use crate::cli::{Cli, Command};
use crate::fake::{BOOTSTRAP_KEY, Behaviour, FakeServer};
use crate::result::RunResult;
use clap::Parser;
use serde_json::json;
use std::sync::atomic::Ordering;

/// One point, without signals and without progress.
pub fn run(args: &RunArgs) -> Result<RunResult, Failure> {
    let plan = Plan::from_args(args)?;
    Prepared::new(args)?.measure(&plan, &mut |_| {})
}

/// The loop is closed where the line does not say otherwise.
pub fn arguments(url: &str, line: &str) -> RunArgs {
    let mut words = vec!["ringlog-load", "run", "--quiet", "--url", url];
    words.extend(line.split_ascii_whitespace());
    if !words.contains(&"--rate") && !words.contains(&"--neither") {
        words.push("--closed");
    }
    words.retain(|word| *word != "--neither");
    let Command::Run(args) = Cli::parse_from(words).command else { panic!("not a run") };
    *args
}

fn try_run(server: &FakeServer, line: &str) -> Result<RunResult, Failure> {
    run(&arguments(&server.url(), line))
}

fn run_against(server: &FakeServer, line: &str) -> RunResult {
    try_run(server, line).unwrap()
}

fn errors(result: &RunResult) -> Vec<&str> {
    result.errors.keys().map(String::as_str).collect()
}

#[test]
fn a_good_server_is_measured() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--count 300 --connections 4 --batch 1,10 --tenants 3");
    assert_eq!((result.requests_good, result.error_count), (300, 0));
    assert_eq!(result.requests_measured, 300);
    assert_eq!(result.loop_kind, "closed");
    // Each of the three tenants begins with one sample event.
    assert_eq!(result.events_good as usize, server.event_count() - 3);
    assert!(300 < result.events_good);
    assert!(0.0 < result.service_p50_us && result.service_p50_us <= result.service_max_us);
    assert_eq!(result.response_p50_us, None);
}

#[test]
fn with_a_bootstrap_key_tenants_are_made_without_limits() {
    let server = FakeServer::start(Behaviour::Good);
    let line = format!("--count 30 --tenants 3 --tenant-prefix mine --bootstrap-key {BOOTSTRAP_KEY}");
    let result = run_against(&server, &line);
    assert_eq!((result.requests_good, result.error_count), (30, 0));
    let store = server.store.lock().unwrap();
    let made: Vec<_> = store.made.iter().map(|made| (&made["id"], &made["tier"])).collect();
    let expected = ["mine-0", "mine-1", "mine-2"].map(|id| (json!(id), json!("unlimited")));
    assert_eq!(made, expected.iter().map(|(id, tier)| (id, tier)).collect::<Vec<_>>());
    assert_eq!(store.tenant_count, 0, "nobody onboarded");
    for event in &store.events {
        assert!(event.key.starts_with("key-of-mine-"), "{}", event.key);
    }
}

#[test]
fn a_wrong_bootstrap_key_ends_the_run() {
    let server = FakeServer::start(Behaviour::Good);
    let failure = try_run(&server, "--count 1 --bootstrap-key not-the-key").unwrap_err();
    assert_eq!(failure.exit_code(), 4, "{failure}");
    assert_eq!(server.event_count(), 0);
}

#[test]
fn pipelined_requests_are_all_answered() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--count 500 --connections 2 --depth 16 --batch 3");
    assert_eq!((result.requests_good, result.error_count), (500, 0));
    assert_eq!(server.event_count(), 1501);
}

/// What the socket does not take at once must wait, without holding up the answers.
#[test]
fn requests_larger_than_a_socket_takes_are_all_answered() {
    let server = FakeServer::start(Behaviour::Good);
    let line = "--count 24 --connections 2 --depth 12 --batch 400 --event-bytes 2000 --entities 1000000";
    let result = run_against(&server, line);
    assert_eq!((result.requests_good, result.error_count), (24, 0));
    assert_eq!(server.event_count(), 24 * 400 + 1);
}

#[test]
fn many_connections_have_their_descriptors() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--count 300 --connections 300 --accept-any-2xx");
    assert_eq!((result.requests_good, result.error_count), (300, 0));
}

#[test]
fn a_run_ends_after_its_duration() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--duration 0.2 --warmup 0.05 --connections 2");
    assert!((0.2..0.25).contains(&result.seconds), "{}", result.seconds);
    assert!(0 < result.requests_measured && result.requests_measured < result.requests_good);
    assert_eq!(result.error_count, 0);
}

#[test]
fn a_stop_file_ends_a_run_early() {
    let server = FakeServer::start(Behaviour::Good);
    let file = tempfile::NamedTempFile::new().unwrap();
    let result = run_against(&server, &format!("--duration 60 --warmup 0 --stop-file {}", file.path().display()));
    assert!(result.seconds < 10.0, "{result:?}");
    assert_eq!(result.error_count, 0);
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
    let result = run_against(&server, "--rate 1000 --duration 1 --warmup 0 --connections 4");
    assert_eq!(result.loop_kind, "open");
    // Of the 1000 requests, 400 were meant to be sent while nobody answered, and waited for 0 to 400 ms, evenly:
    // so 1 % of all waited for more than 390 ms, and 10 % for more than 300 ms.
    assert!(380_000.0 < result.response_p99_us.unwrap(), "{result:?}");
    assert!(290_000.0 < result.operations[0].op_response_us.unwrap().p90, "{result:?}");
    assert!(399_000.0 < result.response_max_us.unwrap(), "{result:?}");
    assert!(result.service_p99_us < 100_000.0, "{result:?}");
    assert_eq!(result.requests_good + result.error_count, 1000, "the schedule goes on while the server stands still");
}

#[test]
fn the_closed_loop_hides_a_stall() {
    let server = FakeServer::start(Behaviour::Stall { request: 300, for_ms: 400 });
    let result = run_against(&server, "--count 2000 --connections 4");
    assert!(400_000.0 <= result.service_max_us, "{result:?}");
    assert!(result.service_p99_us < 100_000.0, "{result:?}");
}

#[test]
fn the_open_loop_keeps_its_schedule() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--rate 5000 --batch 10 --count 200 --connections 3");
    assert_eq!((result.requests_good, result.error_count), (200, 0));
    // 200 requests of ten events at 5000 events a second take 0.398 s from the first to the last.
    assert!(0.398 <= result.seconds, "{result:?}");
}

#[test]
fn garbage_is_an_error() {
    let server = FakeServer::start(Behaviour::Garbage);
    let result = run_against(&server, "--count 10 --connections 2");
    assert_eq!(errors(&result), ["malformed answer"]);
    assert_eq!((result.requests_good, result.error_count), (0, 2));
}

#[test]
fn an_answer_that_is_no_acknowledgement_is_an_error() {
    let server = FakeServer::start(Behaviour::Thanks);
    let result = run_against(&server, "--count 10 --connections 2");
    assert_eq!(errors(&result), ["answer that is no acknowledgement"]);
    assert_eq!(result.error_count, 10);
    let unread = run_against(&server, "--count 10 --connections 2 --accept-any-2xx");
    assert_eq!((unread.requests_good, unread.error_count), (10, 0));
}

#[test]
fn every_request_is_counted_when_the_server_closes() {
    let server = FakeServer::start(Behaviour::CloseAt { every: 10 });
    let result = run_against(&server, "--count 95 --connections 1 --reconnect");
    assert_eq!((result.requests_good, result.errors["closed by server"]), (86, 9));
    assert_eq!(result.reconnects, 9);
    let ended = run_against(&server, "--count 95 --connections 1");
    assert_eq!(ended.error_count, 1, "without --reconnect the first close ends it");
    assert!(ended.partial && !result.partial);
}

#[test]
fn a_schedule_without_connections_is_counted_as_not_sent() {
    let server = FakeServer::start(Behaviour::CloseAt { every: 50 });
    let result = run_against(&server, "--rate 1000 --count 400 --connections 4");
    // Connections end one after the other; whatever was meant for them afterwards is counted.
    assert!(0 < result.errors["not sent"], "{result:?}");
    assert_eq!(result.requests_good + result.error_count, 400, "{result:?}");
}

#[test]
fn a_close_that_was_announced_is_no_error() {
    let server = FakeServer::start(Behaviour::Polite);
    let result = run_against(&server, "--count 20 --connections 2");
    assert_eq!((result.requests_good, result.error_count), (20, 0));
}

#[test]
fn silence_ends_in_a_timeout() {
    let server = FakeServer::start(Behaviour::Silent);
    let result = run_against(&server, "--count 4 --connections 2 --timeout 0.1");
    assert_eq!(result.errors["timeout"], 2);
    assert_eq!(result.requests_good, 0);
    let line = "--rate 1000 --duration 0.2 --warmup 0 --connections 2 --timeout 0.05 --reconnect";
    let open = run_against(&server, line);
    assert!(open.error_count.abs_diff(200) < 5, "the unanswered and the unsent are all counted: {open:?}");
}

#[test]
fn refusals_are_counted_by_their_code() {
    let server = FakeServer::start(Behaviour::Limited);
    let result = run_against(&server, "--count 20 --connections 1");
    assert_eq!((result.requests_good, result.errors["status 429 rate_limited"]), (10, 10));
}

#[test]
fn a_server_that_is_not_there_is_unavailable() {
    // Nobody listens on port 1.
    let gone = "http://127.0.0.1:1";
    for line in ["--count 1", "--count 1 --key k --connections 2", "--count 1 --raw GET /"] {
        let failure = run(&arguments(gone, line)).unwrap_err();
        assert_eq!(failure.exit_code(), 7);
        assert!(failure.to_string().contains("127.0.0.1:1") && failure.to_string().contains("is the server up"));
    }
}

#[test]
fn any_request_can_be_sent() {
    let folder = tempfile::tempdir().unwrap();
    let body = folder.path().join("body");
    std::fs::write(&body, "anything").unwrap();
    let server = FakeServer::start(Behaviour::Good);
    let line = format!("--raw POST /raw --body {} --header x:y --batch 100 --count 10", body.display());
    let result = run_against(&server, &line);
    assert_eq!((result.requests_good, result.events_good, result.error_count), (10, 1000, 0));
}

#[test]
fn queries_are_measured() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--query --query-limit 5 --count 10");
    assert_eq!((result.requests_good, result.error_count), (10, 0));
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
fn a_line_that_makes_no_sense_is_refused_with_what_is_wrong() {
    let server = FakeServer::start(Behaviour::Good);
    let check = |line: &str, word: &str| {
        let failure = try_run(&server, line).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{line}: {failure}");
        assert!(failure.to_string().contains(word), "{line}: {failure}");
    };
    check("--neither", "--rate");
    check("--neither", "--closed");
    check("--rate 0", "--rate");
    check("--rate -5", "--rate");
    check("--batch 0", "--batch");
    check("--connections 0", "--connections");
    check("--depth 0", "--depth");
    check("--count 0", "--count");
    check("--duration 0", "--duration");
    check("--event-bytes 10", "--event-bytes");
    check("--event-size gamma:3", "--event-size");
    check("--header x", "--header");
    check("--threads 0", "--threads");
    check("--threads 1000 --connections 1000", "CPUs");
    check("--threads 2 --connections 1", "--connections");
    check("--cpus 100000", "--cpus");
    check("--mix unknown=1", "by-entity");
    check("--mix newest=1 --batch 10", "--batch");
    check("--entity-skew zipf", "--entity-skew");
    check("--tenant-skew zipf:0", "--tenant-skew");
    check("--raw post /x", "capitals");
    check("--raw POST x", "begin with /");
    check("--raw POST / --body-text {sequence}", "{now_ms}");
    check("--lines-path events", "--lines-path");
    check("--mix newest --ledger /nonexistent/ledger", "--ledger");
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    for line in [
        "--rate 5 --closed",
        "--closed --arrivals poisson",
        "--closed --mix single --query",
        "--closed --query --ledger x",
        "--closed --raw GET / --ledger x",
        "--closed --body x",
        "--closed --event-bytes 300 --event-size fixed:300",
        "--closed --key k --tenants 2",
        "--rate x",
    ] {
        let words = ["ringlog-load", "run"].into_iter().chain(line.split(' '));
        assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
    }
}

#[test]
fn a_key_that_is_not_accepted_is_said_before_the_run() {
    let server = FakeServer::start(Behaviour::Locked);
    let failure = try_run(&server, "--count 1 --key wrong").unwrap_err();
    assert_eq!(failure.exit_code(), 4);
    assert!(failure.to_string().contains("key-0"), "{failure}");
    let failure = try_run(&server, "--count 1").unwrap_err();
    assert!(failure.to_string().contains("--key"), "{failure}");
}

#[test]
fn both_latencies_are_told_and_agree_with_the_histograms() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--rate 2000 --count 200 --connections 4 --arrivals poisson");
    assert_eq!((result.loop_kind.as_str(), result.arrivals.as_deref()), ("open", Some("poisson")));
    assert!(result.service_p50_us <= result.response_p50_us.unwrap(), "{result:?}");
    assert!(result.response_p50_us.unwrap() <= result.response_p99_us.unwrap());
    assert!(result.send_lag_p99_us.is_some() && !result.partial);
    assert!(result.service_histogram.starts_with("HISTF"));
    assert!(result.response_histogram.unwrap().starts_with("HISTF"));
    let closed = run_against(&server, "--count 20");
    assert_eq!((closed.arrivals, closed.response_histogram, closed.send_lag_p99_us), (None, None, None));
}

#[test]
fn a_mix_is_sent_by_its_ratio_and_told_apart() {
    let server = FakeServer::start(Behaviour::Good);
    let line = "--count 1000 --connections 4 --mix single=60,batch=20,lines=10,newest=5,by-entity=5 --batch 7                 --tenants 3 --tenant-skew zipf:1.2 --entity-skew zipf:1 --event-size lognormal:250,0.3 --query-limit 3";
    let result = run_against(&server, line);
    assert_eq!((result.requests_good, result.error_count), (1000, 0), "{result:?}");
    let names: Vec<&str> = result.operations.iter().map(|operation| operation.name.as_str()).collect();
    assert_eq!(names, ["single", "batch", "lines", "newest", "by-entity"]);
    let requests: Vec<u64> = result.operations.iter().map(|operation| operation.op_requests).collect();
    assert_eq!(requests.iter().sum::<u64>(), 1000);
    for (sent, expected) in requests.iter().zip([600, 200, 100, 50, 50]) {
        assert!(sent.abs_diff(expected) < 60, "{requests:?}");
    }
    assert_eq!(result.operations[1].op_events, 7 * requests[1]);
    assert_eq!(server.event_count() as u64, 3 + result.events_good);
}

#[test]
fn several_threads_share_the_work() {
    let server = FakeServer::start(Behaviour::Good);
    let threads = std::thread::available_parallelism().unwrap().get().min(2);
    let closed = run_against(&server, &format!("--count 301 --connections 5 --threads {threads}"));
    assert_eq!((closed.requests_good, closed.error_count, closed.threads), (301, 0, threads as u32));
    let line = format!("--rate 1000 --count 101 --connections 5 --threads {threads}");
    let open = run_against(&server, &line);
    assert_eq!((open.requests_good, open.error_count), (101, 0));
    // 101 requests at 1000 a second take 0.1 s from the first to the last.
    assert!(0.1 <= open.seconds, "{open:?}");
}

#[test]
fn several_points_can_be_measured_with_what_was_prepared_once() {
    let server = FakeServer::start(Behaviour::Good);
    let mut prepared = Prepared::new(&arguments(&server.url(), "--connections 2")).unwrap();
    let mut plan = Plan {
        rate: Some(1000.0),
        arrivals: crate::cli::run::Arrivals::Uniform,
        warmup_seconds: 0.0,
        seconds: None,
        count: Some(50),
    };
    for rate in [1000.0, 2000.0] {
        plan.rate = Some(rate);
        let result = prepared.measure(&plan, &mut |_| {}).unwrap();
        assert_eq!((result.requests_good, result.offered_per_second), (50, Some(rate)));
    }
    let mut bodies = server.store.lock().unwrap().bodies.clone();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 100, "no sequence number is used twice");
}

#[test]
fn a_run_that_is_stopped_is_partial_and_still_has_its_result() {
    let server = FakeServer::start(Behaviour::Good);
    let mut prepared = Prepared::new(&arguments(&server.url(), "--connections 2")).unwrap();
    let plan = Plan::from_args(&arguments(&server.url(), "--rate 500 --duration 600 --warmup 0")).unwrap();
    let stops = prepared.stops();
    let mut told = Vec::new();
    let result = prepared
        .measure(&plan, &mut |progress| {
            told.push(*progress);
            stops.store(true, Ordering::Relaxed);
        })
        .unwrap();
    assert!(result.partial && 0 < result.requests_good, "{result:?}");
    // What was due at that very moment may have gone unsent.
    assert!(errors(&result).iter().all(|kind| *kind == "not sent"), "{result:?}");
    assert!((1.0..600.0).contains(&result.seconds), "{result:?}");
    assert!(!told[0].is_warm_up && told[0].latencies.is_some() && 0.0 < told[0].events_per_second);
    assert_eq!(result.series.request_rate.len(), result.seconds as usize);
    assert_eq!(result.series.p99.len(), result.series.request_rate.len());
}

#[test]
fn an_interval_log_is_written() {
    let server = FakeServer::start(Behaviour::Good);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    run_against(&server, &format!("--rate 1000 --count 100 --hlog {}", path.display()));
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("Tag=service,") && text.contains("Tag=response,"), "{text}");
    assert!(text.starts_with('#'), "{text}");
}

#[test]
fn the_server_says_who_it_is() {
    let server = FakeServer::start(Behaviour::Good);
    let said = run_against(&server, "--count 1").server;
    assert_eq!(
        (said.version.as_deref(), said.durability.as_deref(), said.io.as_deref()),
        (Some("9.9"), Some("commit"), Some("uring"))
    );
    assert_eq!(said.url, server.url());
}

#[test]
fn a_result_survives_being_kept() {
    let server = FakeServer::start(Behaviour::Good);
    let result = run_against(&server, "--count 5");
    let text = serde_json::to_string(&result).unwrap();
    let again: RunResult = serde_json::from_str(&text).unwrap();
    assert_eq!((again.requests_good, again.errors, again.batch), (5, result.errors, result.batch));
    assert_eq!((again.service_histogram, again.command), (result.service_histogram, result.command));
    assert_eq!(again.operations[0].name, "single");
    assert!(text.starts_with(r#"{"schema":"ringlog-load.run.v1","#), "{text}");
}

#[test]
fn raw_requests_are_made_from_templates() {
    let server = FakeServer::start(Behaviour::Good);
    let line = "--raw POST /raw/{uuid} --body-text {event} --header x-seq:{seq} --count 20 --connections 2";
    let result = run_against(&server, line);
    assert_eq!((result.requests_good, result.error_count), (20, 0));
    let mut bodies = server.store.lock().unwrap().bodies.clone();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 20);
    assert!(bodies.iter().all(|body| serde_json::from_slice::<serde_json::Value>(body).is_ok()));
}
