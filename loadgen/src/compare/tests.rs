//! Whole comparisons, of files that are written here.

use super::*;
use crate::cli::{Cli, Command};
use crate::kept::tests::{line, run_result};
use crate::result::Series;
use clap::Parser;
use tempfile::TempDir;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new(a: &[RunResult], b: &[RunResult]) -> Self {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        files.write("a.json", &a.iter().map(line).collect::<String>());
        files.write("b.json", &b.iter().map(line).collect::<String>());
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn args(&self, flags: &[&str]) -> CompareArgs {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let words = ["ringlog-load".to_owned(), "compare".to_owned(), path("a.json"), path("b.json")];
        let words = words.into_iter().chain(flags.iter().map(|flag| (*flag).to_owned()));
        let Command::Compare(args) = Cli::parse_from(words).command else { panic!("not a comparison") };
        args
    }

    fn compare(&self, flags: &[&str]) -> Result<Comparison, Failure> {
        compare(&self.args(flags))
    }

    fn refusal(&self, flags: &[&str]) -> String {
        let failure = self.compare(flags).unwrap_err();
        assert_eq!(failure.exit_code(), 2);
        failure.to_string().replace(&self.folder.path().display().to_string(), "")
    }
}

/// Runs with these p99s, in microseconds, and a rate that does not change.
fn runs(p99s: &[f64]) -> Vec<RunResult> {
    p99s.iter().map(|&p99| run_result(50_000.0, p99)).collect()
}

fn row_of<'a>(comparison: &'a Comparison, metric: &str) -> &'a Row {
    comparison.rows.iter().find(|row| row.metric == metric).unwrap()
}

const STEADY: [f64; 4] = [1000.0, 1010.0, 990.0, 1000.0];

#[test]
fn a_known_ratio_is_found() {
    let faster = STEADY.map(|p99| p99 * 0.8);
    let comparison = Files::new(&runs(&STEADY), &runs(&faster)).compare(&[]).unwrap();
    let row = row_of(&comparison, "response_p99");
    assert_eq!((row.a_mean, row.b_mean, row.ratio), (1000.0, 800.0, Some(0.8)));
    // Four runs a side: the whole range of the resamples.
    assert!((792.0 / 1010.0..0.8).contains(&row.ratio_low.unwrap()));
    assert!((0.8..=808.0 / 990.0).contains(&row.ratio_high.unwrap()));
    assert_eq!(row.verdict, "better");
    let back = Files::new(&runs(&faster), &runs(&STEADY)).compare(&[]).unwrap();
    assert_eq!(row_of(&back, "response_p99").verdict, "worse");
    assert_eq!(row_of(&back, "events_per_second").verdict, "cannot tell");
}

#[test]
fn the_same_runs_cannot_be_told_apart() {
    let comparison = Files::new(&runs(&STEADY), &runs(&STEADY)).compare(&[]).unwrap();
    assert_eq!(comparison.rows.len(), METRICS.len());
    for row in &comparison.rows {
        assert_eq!((row.ratio, row.verdict, row.why), (Some(1.0), "cannot tell", "the interval contains 1"), "{row:?}");
    }
    assert!(comparison.warnings.is_empty(), "{:?}", comparison.warnings);
    assert!(comparison.tripped.is_empty());
}

#[test]
fn a_rate_is_better_when_higher_and_flushes_are_neither() {
    let with = |rate: f64, flushes: f64| RunResult { flushes_per_second: Some(flushes), ..run_result(rate, 1000.0) };
    let a: Vec<RunResult> = [1000.0, 1001.0, 1002.0].map(|rate| with(rate, rate)).into();
    let b: Vec<RunResult> = [2000.0, 2001.0, 2002.0].map(|rate| with(rate, rate)).into();
    let comparison = Files::new(&a, &b).compare(&[]).unwrap();
    assert_eq!(row_of(&comparison, "events_per_second").verdict, "better");
    assert_eq!(row_of(&comparison, "requests_per_second").verdict, "better");
    assert_eq!(row_of(&comparison, "flushes_per_second").verdict, "more");
}

#[test]
fn fewer_than_three_runs_conclude_nothing() {
    let comparison = Files::new(&runs(&STEADY), &runs(&[100.0, 101.0])).compare(&[]).unwrap();
    let row = row_of(&comparison, "response_p99");
    assert_eq!((row.verdict, row.why), ("cannot tell", "fewer than 3 runs on a side"));
    assert!(row.ratio_high.unwrap() < 0.2, "the interval is shown nevertheless");
}

#[test]
fn one_run_each_is_compared_by_its_seconds_and_says_so() {
    let with_seconds = |p99s: &[f64]| RunResult {
        series: Series { p99: p99s.to_vec(), ..run_result(50_000.0, 1000.0).series },
        ..run_result(50_000.0, 1000.0)
    };
    let a = with_seconds(&[900.0, 1100.0].repeat(10));
    let b = with_seconds(&[1800.0, 2200.0].repeat(10));
    let comparison = Files::new(&[a], &[b]).compare(&[]).unwrap();
    let row = row_of(&comparison, "response_p99");
    assert_eq!((row.a_mean, row.b_mean, row.ratio), (1000.0, 2000.0, Some(2.0)));
    assert!(1.0 < row.ratio_low.unwrap() && row.ratio_low < row.ratio_high);
    assert_eq!((row.verdict, row.why), ("cannot tell", "fewer than 3 runs on a side"));
    // The seconds are of the response time, and the highest percentile has none.
    for metric in ["service_p99", "response_p999", "server_cpu_per_event"] {
        assert_eq!(row_of(&comparison, metric).ratio_low, None, "{metric}");
    }
    let text = comparison_text(&comparison);
    assert!(text.contains("understates the spread between runs"), "{text}");
}

#[test]
fn durability_is_always_the_first_line() {
    let lazy = |runs: Vec<RunResult>| -> Vec<RunResult> {
        let mut runs = runs;
        runs.iter_mut().for_each(|run| run.server.durability = Some("memory".to_owned()));
        runs
    };
    let first = |files: Files| comparison_text(&files.compare(&[]).unwrap()).lines().next().unwrap().trim().to_owned();
    assert_eq!(first(Files::new(&runs(&STEADY), &runs(&STEADY))), "durability: sync on both sides");
    assert_eq!(
        first(Files::new(&runs(&STEADY), &lazy(runs(&STEADY)))),
        "DURABILITY DIFFERS: A sync, B memory: the two do not promise the same"
    );
    let mut silent = runs(&STEADY);
    silent.iter_mut().for_each(|run| run.server.durability = None);
    assert!(first(Files::new(&silent, &silent)).starts_with("DURABILITY: A unknown, B unknown"));
}

#[test]
fn different_workloads_are_refused_unless_forced() {
    let base = || run_result(50_000.0, 1000.0);
    let others = [
        ("loop: open in the first run of A, closed in a run of B", RunResult { loop_kind: "closed".into(), ..base() }),
        ("batch: [10] in", RunResult { batch: vec![100], ..base() }),
        ("bytes per event: 220 in", RunResult { event_bytes: 400, ..base() }),
        ("connections: 64 in", RunResult { connections: 8, ..base() }),
        ("depth: 1 in", RunResult { depth: 4, ..base() }),
        ("mix of requests: batch in", RunResult { operations: Vec::new(), ..base() }),
        ("arrivals: uniform in", RunResult { arrivals: Some("poisson".into()), ..base() }),
        ("offered rate: 50,000 in", RunResult { offered_per_second: Some(60_000.0), ..base() }),
    ];
    for (expected, other) in others {
        let files = Files::new(&[base()], &[base(), other]);
        let refusal = files.refusal(&[]);
        assert!(refusal.starts_with("these runs are not comparable (--force does it anyway):"), "{refusal}");
        assert!(refusal.contains(expected), "{refusal}");
        let forced = files.compare(&["--force"]).unwrap();
        assert!(forced.warnings[0].starts_with("COMPARED BY FORCE: ") && forced.warnings[0].contains(expected));
    }
    // Another seed, and what comes of it.
    let nearly = RunResult { offered_per_second: Some(50_001.0), event_bytes: 221, seed: 9, ..base() };
    assert!(Files::new(&[base()], &[nearly]).compare(&[]).is_ok());
}

#[test]
fn runs_that_say_less_than_they_seem_are_flagged() {
    let mut b = runs(&STEADY);
    b[0].loader_bound = true;
    b[1].partial = true;
    b[2].error_count = 4;
    b.iter_mut().for_each(|run| run.machine.cpu_count = 8);
    let comparison = Files::new(&runs(&STEADY), &b).compare(&[]).unwrap();
    assert_eq!(
        comparison.warnings,
        [
            "B: 1 of 4 runs bound by the loader: what they show is a lower bound",
            "B: 1 of 4 runs ended before their time",
            "B: 1 of 4 runs had errors",
            "machines differ: A 2 x Model 1, B 8 x Model 1",
        ]
    );
    assert!(comparison_text(&comparison).contains("WARNING: B: 1 of 4 runs bound by the loader"));
}

#[test]
fn a_threshold_that_is_crossed_ends_with_eight() {
    let slower = STEADY.map(|p99| p99 * 1.2);
    let files = Files::new(&runs(&STEADY), &runs(&slower));
    let flags = ["--fail-if", "response_p99>+10%", "--fail-if", "response_p99>+25%"];
    assert_eq!(files.compare(&flags).unwrap().tripped, ["response_p99>+10%"]);
    let json = files.folder.path().join("out.json").display().to_string();
    assert_eq!(main(&files.args(&["--fail-if", "response_p99>+10%", "--json", &json])).unwrap(), 8);
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&kept["schema"], &kept["tripped"][0]), (&COMPARE_SCHEMA.into(), &"response_p99>+10%".into()));
    assert_eq!(main(&files.args(&["--fail-if", "response_p99>+25%"])).unwrap(), 0);
}

#[test]
fn a_threshold_that_cannot_be_judged_is_no_pass() {
    let mut b = runs(&STEADY);
    b[3].server_cpu_us_per_event = None;
    let files = Files::new(&runs(&STEADY), &b);
    let refusal = files.refusal(&["--fail-if", "server_cpu_per_event>+10%"]);
    let expected = "not every run has a server_cpu_per_event, so it cannot be judged";
    assert_eq!(refusal, format!("--fail-if server_cpu_per_event>+10%: {expected}"));
    assert!(files.compare(&[]).unwrap().rows.iter().all(|row| row.metric != "server_cpu_per_event"));
}

#[test]
fn files_that_are_no_runs_are_refused() {
    let files = Files::new(&runs(&STEADY), &runs(&STEADY));
    files.write("b.json", &(line(&run_result(1.0, 1.0)) + "nonsense\n"));
    assert!(files.refusal(&[]).starts_with("/b.json, line 2: not a result in JSON"));
    files.write("b.json", "");
    assert!(files.refusal(&[]).starts_with("/b.json is empty"));
    let sweep = r#"{"schema":"ringlog-load.sweep.v1","started_unix_ms":1,"command":"","rates_of":"events","p99_us_max":1,
        "knee_per_second":null,"knee_found":false,"ended_by":"","points":[],"half":null}"#;
    files.write("b.json", &sweep.replace('\n', ""));
    assert!(files.refusal(&[]).contains("/b.json holds a sweep"));
}

#[test]
fn the_table_shows_every_figure() {
    let faster = STEADY.map(|p99| p99 * 0.8);
    let text = comparison_text(&Files::new(&runs(&STEADY), &runs(&faster)).compare(&[]).unwrap());
    let row = text.lines().find(|line| line.trim_start().starts_with("response_p99 ")).unwrap();
    let words: Vec<&str> = row.split_ascii_whitespace().collect();
    assert_eq!(words[..6], ["response_p99", "1.00", "ms", "800", "us", "0.800"]);
    assert!(row.ends_with("better"), "{row}");
    assert!(text.contains("cannot tell: the interval contains 1"), "{text}");
}
