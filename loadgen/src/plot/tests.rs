//! Whole pictures, of files that are written here: well-formed, complete, and true to their data.

use super::*;
use crate::cli::{Cli, Command};
use crate::kept::tests::{line, run_result};
use crate::result::{SWEEP_SCHEMA, SweepPoint};
use clap::Parser;
use tempfile::TempDir;

struct Files {
    folder: TempDir,
}

impl Files {
    fn new(files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Self { folder }
    }

    /// Words that end in `.json` or `.svg` are files of the folder.
    fn args(&self, line: &str) -> PlotArgs {
        let words = line.split_ascii_whitespace().map(|word| match word.rsplit_once('.') {
            Some((_, "json" | "svg")) => self.folder.path().join(word).display().to_string(),
            _ => word.to_owned(),
        });
        let words = ["ringlog-load".to_owned(), "plot".to_owned()].into_iter().chain(words);
        let Command::Plot(args) = Cli::parse_from(words).command else { panic!("not a plot") };
        args
    }

    fn draw(&self, line: &str) -> String {
        let svg = draw(&self.args(&format!("{line} -o -"))).unwrap();
        check_is_well_formed(&svg);
        svg
    }

    fn refusal(&self, line: &str) -> String {
        let failure = draw(&self.args(&format!("{line} -o -"))).unwrap_err();
        failure.to_string().replace(&format!("{}/", self.folder.path().display()), "")
    }
}

/// Every tag is closed in its order, attributes are quoted, and no stray `&` or `<` is left.
fn check_is_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        check_entities(&rest[..start]);
        let end = start + rest[start..].find('>').expect("a tag that does not end");
        let tag = &rest[start + 1..end];
        assert!(!tag.contains('<'), "a tag in a tag: {tag}");
        assert!(tag.matches('"').count().is_multiple_of(2), "quotes: {tag}");
        check_entities(tag);
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "left open: {open:?}, after the end: {rest:?}");
}

fn check_entities(text: &str) {
    for part in text.split('&').skip(1) {
        assert!(["amp;", "lt;", "gt;", "quot;"].iter().any(|name| part.starts_with(name)), "a stray &: {text}");
    }
}

/// The names of all groups of a class, in order.
fn names(svg: &str, class: &str) -> Vec<String> {
    let begin = format!("<g class=\"{class}\" data-name=\"");
    svg.split(&begin).skip(1).map(|rest| rest[..rest.find('"').unwrap()].to_owned()).collect()
}

/// The places of every polyline.
fn polylines(svg: &str) -> Vec<Vec<(f64, f64)>> {
    let places = |text: &str| {
        let pairs = text.split(' ').map(|pair| pair.split_once(',').unwrap());
        pairs.map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).collect()
    };
    svg.split("<polyline points=\"").skip(1).map(|rest| places(&rest[..rest.find('"').unwrap()])).collect()
}

fn point(offered: f64, p99: f64, verdict: &str) -> SweepPoint {
    SweepPoint {
        offered,
        achieved: offered,
        response_p50: p99 / 4.0,
        response_p99: p99,
        response_p999: p99 * 3.0,
        service_p99: p99 / 2.0,
        send_lag_p99: 20.0,
        point_errors: 0,
        cpu_us_per_event: None,
        verdict: verdict.to_owned(),
    }
}

fn sweep_result() -> SweepResult {
    SweepResult {
        schema: SWEEP_SCHEMA.to_owned(),
        started_unix_ms: 1,
        command: "ringlog-load sweep --p99 10ms".to_owned(),
        rates_of: "events".to_owned(),
        p99_us_max: 10_000.0,
        knee_per_second: Some(24_000.0),
        knee_found: true,
        ended_by: "the rates above do not keep the bound".to_owned(),
        points: vec![
            point(8000.0, 600.0, "good"),
            point(16_000.0, 900.0, "good"),
            point(32_000.0, 80_000.0, "too slow"),
            point(32_000.0, 90_000.0, "too slow"),
            point(24_000.0, 4000.0, "good"),
            point(24_000.0, 5000.0, "good"),
        ],
        half: Some(run_result(12_000.0, 800.0)),
    }
}

#[test]
fn one_run_shows_response_and_service_time() {
    let svg = Files::new(&[("a.json", line(&run_result(50_000.0, 2000.0)))]).draw("a.json");
    let expected = ["response time, from the intended send", "service time, from the actual send"];
    assert_eq!(names(&svg, "series"), expected);
    assert_eq!(names(&svg, "legend"), expected);
    for label in ["50 %", "90 %", "99 %", "99.9 %", "1 ms", "Latency by percentile", ">latency<"] {
        assert!(svg.contains(label), "{label}");
    }
    for note in ["open loop at 50,000 events/s, uniform arrivals; ", "durability: sync", "server 0.1.0, io uring"] {
        assert!(svg.contains(note), "{note}");
    }
    for line in polylines(&svg) {
        assert!(100 < line.len());
        // To the right and up: places grow downwards.
        assert!(line.is_sorted_by(|one, other| one.0 < other.0 && other.1 <= one.1));
    }
}

#[test]
fn several_files_lie_over_each_other_with_a_legend() {
    let lazy = |mut run: RunResult| {
        run.server.durability = Some("memory".to_owned());
        run.loader_bound = true;
        run
    };
    let files = Files::new(&[
        ("a.json", line(&run_result(50_000.0, 2000.0)) + &line(&run_result(50_000.0, 2100.0))),
        ("b.json", line(&lazy(run_result(50_000.0, 900.0)))),
    ]);
    let svg = files.draw("a.json b.json");
    let (a, b) = ("a.json (2 runs): durability: sync", "b.json: durability: memory, BOUND BY THE LOADER");
    assert_eq!(names(&svg, "series"), [a, a, b]);
    assert_eq!(names(&svg, "legend"), [a, b]);
    assert_eq!(polylines(&svg).len(), 3);
    assert!(svg.contains(">response time<"));
    assert!(!svg.contains("; durability: sync;"), "what is not shared is no note");
    // One colour per file.
    assert_eq!(svg.matches("stroke=\"#0072b2\" stroke-width=\"2\" stroke-linejoin").count(), 2);
    assert_eq!(svg.matches("stroke=\"#d55e00\" stroke-width=\"2\" stroke-linejoin").count(), 1);
}

#[test]
fn a_closed_loop_says_that_it_is_one() {
    let closed = RunResult {
        loop_kind: "closed".to_owned(),
        arrivals: None,
        offered_per_second: None,
        response_histogram: None,
        ..run_result(50_000.0, 2000.0)
    };
    let files = Files::new(&[("a.json", line(&closed)), ("b.json", line(&run_result(50_000.0, 2000.0)))]);
    let alone = files.draw("a.json");
    assert!(alone.contains("closed loop (hides stalls)") && alone.contains(">service time<"));
    assert_eq!(names(&alone, "series").len(), 1);
    let both = files.draw("a.json b.json");
    assert!(both.contains("response time (open loop), service time (closed, dashed)"));
    assert!(names(&both, "legend")[0].starts_with("a.json: closed loop"), "{:?}", names(&both, "legend"));
}

#[test]
fn a_sweep_shows_its_knee_and_its_bound() {
    let svg = Files::new(&[("s.json", line(&sweep_result()))]).draw("s.json");
    let expected = ["response time p99.9", "response time p99", "response time p50"];
    assert_eq!(names(&svg, "series"), expected);
    assert_eq!(names(&svg, "mark"), ["knee 24,000/s", "bound of p99: 10.00 ms"]);
    // Six measurements of three figures; the six of the rate that failed are hollow.
    assert_eq!(svg.matches("<circle").count(), 18);
    assert_eq!(svg.matches("fill=\"#ffffff\" stroke=").count(), 6);
    // Four rates each, ascending.
    for line in polylines(&svg) {
        assert_eq!(line.len(), 4);
        assert!(line.is_sorted_by(|one, other| one.0 < other.0));
    }
    assert!(svg.contains("durability: sync") && svg.contains("offered rate, events per second"));
}

#[test]
fn a_sweep_without_a_knee_says_why() {
    let limited = SweepResult {
        knee_found: false,
        ended_by: "the knee was not found: the load generator was the limit".to_owned(),
        points: vec![point(8000.0, 600.0, "good"), point(16_000.0, 900.0, "bound by the loader")],
        knee_per_second: Some(8000.0),
        ..sweep_result()
    };
    let files = Files::new(&[("s.json", line(&limited)), ("t.json", line(&sweep_result()))]);
    let svg = files.draw("s.json");
    assert!(names(&svg, "mark")[0].starts_with("no knee, at least 8,000/s"));
    assert!(svg.contains("the load generator was the limit"));
    assert_eq!(svg.matches("<circle").count(), 3, "the other three are crosses");
    let both = files.draw("s.json t.json");
    assert_eq!(names(&both, "series").len(), 6);
    assert_eq!(names(&both, "mark").len(), 3, "two knees, and one bound of both");
}

#[test]
fn time_goes_to_the_right_and_gaps_stay_gaps() {
    let mut run = run_result(50_000.0, 2000.0);
    run.series.p99[4] = 0.0;
    run.series.error_rate[4] = 12.0;
    let svg = Files::new(&[("a.json", line(&run))]).draw("a.json --kind time");
    let expected = ["events per second", "errors per second", "slowest request", "p99", "p50"];
    assert_eq!(names(&svg, "series"), expected);
    let lines = polylines(&svg);
    // Six: the line of p99 is interrupted.
    assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 10, 4, 5, 10]);
    assert!(lines.iter().all(|line| line.is_sorted_by(|one, other| one.0 < other.0)));
}

#[test]
fn text_from_files_and_from_the_command_line_is_escaped() {
    let mut run = run_result(50_000.0, 2000.0);
    run.server.durability = Some("<script>alert(\"&\")</script>".to_owned());
    let files = Files::new(&[("a&b.json", line(&run)), ("<b>.json", line(&run_result(50_000.0, 9.0)))]);
    let svg = files.draw("a&b.json <b>.json --title <p>&");
    assert!(!svg.contains("<script>") && !svg.contains("<p>") && !svg.contains("<b>"));
    assert!(svg.contains("durability: &lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;"), "{svg}");
    assert!(svg.contains("&lt;p&gt;&amp;"));
}

#[test]
fn what_cannot_be_drawn_is_refused_with_its_place() {
    let blind = RunResult { response_histogram: None, ..run_result(1.0, 2000.0) };
    let broken = RunResult { response_histogram: Some("!".to_owned()), ..run_result(1.0, 2000.0) };
    let mut short = run_result(1.0, 2000.0);
    short.series = Default::default();
    let files = Files::new(&[
        ("run.json", line(&run_result(1.0, 2000.0))),
        ("sweep.json", line(&sweep_result())),
        ("failed.json", line(&SweepResult { half: None, points: Vec::new(), ..sweep_result() })),
        ("blind.json", line(&run_result(1.0, 2000.0)) + &line(&blind)),
        ("broken.json", line(&broken)),
        ("short.json", line(&short)),
        ("empty.json", String::new()),
    ]);
    for (command, expected) in [
        ("gone.json", "gone.json: No such file"),
        ("empty.json", "empty.json is empty"),
        ("blind.json", "blind.json, result 2: no histogram of the response time"),
        ("broken.json", "broken.json, result 1: a histogram that is not base64"),
        ("short.json --kind time", "short.json, result 1: no seconds"),
        ("run.json sweep.json", "runs and sweeps in one picture"),
        ("run.json --kind rate", "run.json holds runs"),
        ("sweep.json --kind time", "sweep.json, result 1: a sweep has no seconds"),
        ("failed.json --kind percentiles", "failed.json, result 1: this sweep found no good rate"),
        ("failed.json", "failed.json, result 1: a sweep without a point"),
    ] {
        let refusal = files.refusal(command);
        assert!(refusal.starts_with(expected), "{command}: {refusal}");
    }
    files.draw("run.json sweep.json --kind percentiles");
}

#[test]
fn the_picture_is_written_where_it_is_wanted() {
    let files = Files::new(&[("a.json", line(&run_result(50_000.0, 2000.0)))]);
    assert_eq!(main(&files.args("a.json -o out.svg")).unwrap(), 0);
    check_is_well_formed(&std::fs::read_to_string(files.folder.path().join("out.svg")).unwrap());
    assert!(main(&files.args("a.json -o no/such/folder.svg")).is_err());
}
