//! Whole sweeps, against servers of this crate's own.

use super::*;
use crate::cli::{Cli, Command};
use crate::fake::{Behaviour, FakeServer};
use crate::kept::{self, Kept};
use crate::result::SweepResult;
use clap::Parser;

fn arguments(server: &FakeServer, line: &str) -> SweepArgs {
    let url = server.url();
    let words = ["ringlog-load", "sweep", "--quiet", "--url", &url].into_iter().chain(line.split_ascii_whitespace());
    let Command::Sweep(args) = Cli::parse_from(words).command else { panic!("not a sweep") };
    *args
}

/// Exit code and result of a sweep as short as can be.
fn sweep(server: &FakeServer, line: &str) -> (u8, SweepResult) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let short = "--duration 0.1 --half-duration 0.1 --warmup 0 --settle 0";
    let line = format!("{short} --json {} {line}", file.path().display());
    let code = main(&arguments(server, &line)).unwrap();
    let Some(Kept::Sweep(sweep)) = kept::read(file.path()).unwrap().pop() else { panic!("not a sweep") };
    (code, *sweep)
}

#[test]
fn a_sweep_up_to_its_last_rate_measures_at_half_of_it() {
    let server = FakeServer::start(Behaviour::Good);
    // The bounds are far away, so that a busy machine does not decide.
    let (code, sweep) = sweep(&server, "--p99 60s --from 100 --to 200");
    let offered: Vec<f64> = sweep.points.iter().map(|point| point.offered).collect();
    assert!(offered.starts_with(&[100.0]), "{offered:?}");
    let has_good = sweep.points.iter().any(|point| point.verdict == "good");
    assert!(code == 1 || (has_good && offered.contains(&sweep.knee_per_second.unwrap())), "{sweep:?}");
    assert_eq!(code == 0, sweep.half.is_some());
    if let (Some(best), Some(half)) = (sweep.knee_per_second, &sweep.half) {
        assert_eq!(half.offered_per_second, Some(best / 2.0));
        assert_eq!((half.loop_kind.as_str(), half.error_count), ("open", 0));
    }
}

#[test]
fn refusals_are_no_good_rate() {
    let server = FakeServer::start(Behaviour::Limited);
    let (code, sweep) = sweep(&server, "--from 200 --connections 1");
    assert_eq!((code, sweep.knee_per_second, sweep.knee_found), (1, None, false));
    assert!(sweep.points.iter().all(|point| 0 < point.point_errors), "{:?}", sweep.points);
    assert!(sweep.half.is_none());
}

#[test]
fn flags_that_are_for_a_run_are_refused() {
    let server = FakeServer::start(Behaviour::Good);
    for (line, expected) in [
        ("--rate 5", "--rate is for a run"),
        ("--closed", "--closed is for a run"),
        ("--count 5", "--count is for a run"),
        ("--ledger x", "--ledger is for a run"),
        ("--hlog x", "--hlog is for a run"),
        ("--from 0", "--from and --to must be"),
        ("--from 10 --to 5", "--from and --to must be"),
        ("--step 1", "--step must be"),
        ("--precision 0", "--precision must be"),
        ("--duration 0", "--duration must be"),
        ("--max-seconds 10", "--max-seconds must be 24 at least"),
    ] {
        let failure = main(&arguments(&server, line)).unwrap_err();
        assert_eq!(failure.exit_code(), 2, "{line}");
        assert!(failure.to_string().starts_with(expected), "{failure}");
    }
}

#[test]
fn help_shows_what_a_sweep_takes_and_hides_what_it_refuses() {
    let error = Cli::try_parse_from(["ringlog-load", "sweep", "--help"]).unwrap_err().to_string();
    for flag in ["--p99", "--from", "--max-seconds", "--connections", "--batch", "(default 5)"] {
        assert!(error.contains(flag), "{flag}");
    }
    for flag in ["--rate <", "--closed", "--count", "--ledger", "--hlog"] {
        assert!(!error.contains(flag), "{flag}");
    }
}
