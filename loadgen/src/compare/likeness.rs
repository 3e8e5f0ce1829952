//! Whether two groups of runs may be compared at all, and what a reader must know before believing the ratios.

use crate::figures;
use crate::result::RunResult;

/// Open loops of rates that differ by more are different workloads.
const RATE_DIFFERENCE_MAX: f64 = 0.001;

/// Events are made at random around their size, so that another seed is another mean.
const EVENT_BYTES_DIFFERENCE_MAX: f64 = 0.02;

/// What makes the comparison meaningless; empty when nothing does. `a` and `b` have at least one run each.
pub fn differences(a: &[RunResult], b: &[RunResult]) -> Vec<String> {
    let first = &a[0];
    let mut found: Vec<String> = Vec::new();
    for (side, run) in a.iter().map(|run| ("A", run)).chain(b.iter().map(|run| ("B", run))) {
        let mut unlike = |what: &str, of: &dyn Fn(&RunResult) -> String| {
            let (here, there) = (of(first), of(run));
            if here != there {
                let line = format!("{what}: {here} in the first run of A, {there} in a run of {side}");
                if !found.contains(&line) {
                    found.push(line);
                }
            }
        };
        unlike("loop", &|run| run.loop_kind.clone());
        unlike("arrivals", &|run| run.arrivals.clone().unwrap_or_else(|| "none".to_owned()));
        unlike("batch", &|run| format!("{:?}", run.batch));
        if EVENT_BYTES_DIFFERENCE_MAX < first.event_bytes.abs_diff(run.event_bytes) as f64 / first.event_bytes as f64 {
            unlike("bytes per event", &|run| run.event_bytes.to_string());
        }
        unlike("connections", &|run| run.connections.to_string());
        unlike("depth", &|run| run.depth.to_string());
        unlike("mix of requests", &|run| {
            let names: Vec<&str> = run.operations.iter().map(|operation| operation.name.as_str()).collect();
            names.join(" ")
        });
        let rates = (first.offered_per_second.unwrap_or(0.0), run.offered_per_second.unwrap_or(0.0));
        if rates.0 * RATE_DIFFERENCE_MAX < (rates.0 - rates.1).abs() {
            unlike("offered rate", &|run| run.offered_per_second.map_or("none".to_owned(), figures::rate));
        }
    }
    found
}

/// The first line of every comparison: figures without the same durability are not a comparison of speed.
pub fn durability_line(a: &[RunResult], b: &[RunResult]) -> String {
    let (of_a, of_b) = (durability(a), durability(b));
    if of_a == of_b && of_a != UNKNOWN {
        format!("durability: {of_a} on both sides")
    } else if of_a == UNKNOWN || of_b == UNKNOWN {
        format!("DURABILITY: A {of_a}, B {of_b}: whether both promise the same is not known")
    } else {
        format!("DURABILITY DIFFERS: A {of_a}, B {of_b}: the two do not promise the same")
    }
}

const UNKNOWN: &str = "unknown";

pub fn durability(runs: &[RunResult]) -> String {
    distinct(runs, |run| run.server.durability.clone().unwrap_or_else(|| UNKNOWN.to_owned()))
}

pub fn distinct(runs: &[RunResult], of: impl Fn(&RunResult) -> String) -> String {
    let mut found: Vec<String> = Vec::new();
    for value in runs.iter().map(of) {
        if !found.contains(&value) {
            found.push(value);
        }
    }
    found.join(" and ")
}

/// What weakens the figures without making them meaningless.
pub fn warnings(a: &[RunResult], b: &[RunResult]) -> Vec<String> {
    let mut found = Vec::new();
    for (side, runs) in [("A", a), ("B", b)] {
        let mut count = |what: &str, is_so: &dyn Fn(&RunResult) -> bool| {
            let affected = runs.iter().filter(|run| is_so(run)).count();
            if 0 < affected {
                found.push(format!("{side}: {affected} of {} runs {what}", runs.len()));
            }
        };
        count("bound by the loader: what they show is a lower bound", &|run| run.loader_bound);
        count("ended before their time", &|run| run.partial);
        count("had errors", &|run| 0 < run.error_count);
    }
    let machine = |run: &RunResult| format!("{} x {}", run.machine.cpu_count, run.machine.cpu_model);
    let (of_a, of_b) = (distinct(a, machine), distinct(b, machine));
    if of_a != of_b {
        found.push(format!("machines differ: A {of_a}, B {of_b}"));
    }
    found
}
