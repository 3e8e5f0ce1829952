//! `compare`: what became better or worse from one group of runs to another, and how sure that is.

mod bootstrap;
mod likeness;
mod metric;

use crate::failure::{EXIT_VERIFICATION_FAILED, Failure};
use crate::figures;
use crate::kept::{self, Kept};
use crate::report;
use crate::result::RunResult;
use bootstrap::{Interval, RUNS_MIN, Sample};
use clap::Args;
use metric::{Better, METRICS, Metric, Threshold};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub const COMPARE_SCHEMA: &str = "ringlog-load.compare.v1";

pub const EXAMPLES: &str = "\
EXAMPLES

  Five runs of each build, one line per run, and what changed:
    for i in 1 2 3 4 5; do ringlog-load run --rate 50000 --json - >> old.json; done
    for i in 1 2 3 4 5; do ringlog-load run --rate 50000 --json - >> new.json; done
    ringlog-load compare old.json new.json

  In a script; the exit code is 8 when p99 rose by more than a tenth or the rate fell by more than 5 %:
    ringlog-load compare old.json new.json --fail-if 'response_p99>+10%' --fail-if 'events_per_second<-5%'

  Different batch sizes, knowingly:
    ringlog-load compare batch-10.json batch-100.json --force

  The ratio is B over A of the means over the runs. Its interval of 95 % comes from 4000 resamples with a fixed seed.
  A verdict needs 3 runs on each side; with 3 the interval holds the truth in about 9 of 10 cases, from 4 on in 19 of
  20. With one run each the seconds of the runs take the place of runs: that understates the spread between runs.
  --fail-if looks at the ratio itself, not at its interval.";

#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// What it was: one result per line, as `run --json` writes it
    #[arg(value_name = "A.json")]
    pub a: PathBuf,
    /// What it is
    #[arg(value_name = "B.json")]
    pub b: PathBuf,
    /// Compare although the workloads differ
    #[arg(long)]
    pub force: bool,
    /// End with exit code 8 when this happened, as in 'response_p99>+10%'; may be repeated
    #[arg(long, value_name = "CHANGE", value_parser = Threshold::parse)]
    pub fail_if: Vec<Threshold>,
    /// Begins the resampling: the same seed gives the same intervals
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the comparison as one line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

#[derive(Debug, Serialize)]
pub struct Comparison {
    pub schema: &'static str,
    pub durability: String,
    pub a: Side,
    pub b: Side,
    pub warnings: Vec<String>,
    /// What the intervals come from: `runs`, or `seconds` of one run each.
    pub spread_of: &'static str,
    pub rows: Vec<Row>,
    /// The thresholds that were crossed.
    pub tripped: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Side {
    pub file: String,
    pub runs: usize,
    pub server: String,
    pub durability: String,
}

/// Times are microseconds.
#[derive(Debug, Serialize)]
pub struct Row {
    pub metric: &'static str,
    /// The mean over the runs, or over the seconds of one run.
    pub a_mean: f64,
    pub b_mean: f64,
    /// B over A; absent where A is nothing.
    pub ratio: Option<f64>,
    pub ratio_low: Option<f64>,
    pub ratio_high: Option<f64>,
    /// `better`, `worse`, `cannot tell`; `more` or `fewer` where neither is better.
    pub verdict: &'static str,
    pub why: &'static str,
}

pub fn main(args: &CompareArgs) -> Result<u8, Failure> {
    let comparison = compare(args)?;
    report::publish(&comparison, &comparison_text(&comparison), args.json.as_deref())?;
    Ok(if comparison.tripped.is_empty() { 0 } else { EXIT_VERIFICATION_FAILED })
}

pub fn compare(args: &CompareArgs) -> Result<Comparison, Failure> {
    let (a, b) = (runs_of(&args.a)?, runs_of(&args.b)?);
    let differences = likeness::differences(&a, &b);
    if !differences.is_empty() && !args.force {
        let list = differences.join("\n  ");
        return Err(Failure::Usage(format!("these runs are not comparable (--force does it anyway):\n  {list}")));
    }
    let mut warnings: Vec<String> =
        differences.iter().map(|difference| format!("COMPARED BY FORCE: {difference}")).collect();
    warnings.extend(likeness::warnings(&a, &b));
    let is_one_each = a.len() == 1 && b.len() == 1;
    let rows: Vec<Row> = METRICS.iter().filter_map(|metric| row(metric, &a, &b, args.seed)).collect();
    let mut tripped = Vec::new();
    for threshold in &args.fail_if {
        let name = threshold.metric.name;
        let row = rows.iter().find(|row| row.metric == name).ok_or_else(|| {
            Failure::Usage(format!("--fail-if {}: not every run has a {name}, so it cannot be judged", threshold.text))
        })?;
        if threshold.trips(row.ratio.unwrap_or(f64::NAN)) {
            tripped.push(threshold.text.clone());
        }
    }
    Ok(Comparison {
        schema: COMPARE_SCHEMA,
        durability: likeness::durability_line(&a, &b),
        a: side(&args.a, &a),
        b: side(&args.b, &b),
        warnings,
        spread_of: if is_one_each { "seconds" } else { "runs" },
        rows,
        tripped,
    })
}

fn runs_of(path: &Path) -> Result<Vec<RunResult>, Failure> {
    let not_a_run =
        || Failure::Usage(format!("{} holds a sweep: compare takes runs (a sweep is for `plot`)", path.display()));
    let runs = kept::read(path)?.into_iter().map(|kept| match kept {
        Kept::Run(run) => Ok(*run),
        Kept::Sweep(_) => Err(not_a_run()),
    });
    runs.collect()
}

fn side(path: &Path, runs: &[RunResult]) -> Side {
    let server = |run: &RunResult| run.server.version.clone().unwrap_or_else(|| "version unknown".to_owned());
    Side {
        file: path.display().to_string(),
        runs: runs.len(),
        server: likeness::distinct(runs, server),
        durability: likeness::durability(runs),
    }
}

/// Nothing where not every run has the figure.
fn row(metric: &'static Metric, a: &[RunResult], b: &[RunResult], seed: u64) -> Option<Row> {
    let (of_a, of_b) = (metric.of_runs(a)?, metric.of_runs(b)?);
    let seconds = match (a, b) {
        ([a], [b]) => metric.of_seconds(a).zip(metric.of_seconds(b)),
        _ => None,
    };
    let is_of_seconds = seconds.is_some();
    let (of_a, of_b) = seconds.unwrap_or((of_a, of_b));
    let (sample_a, sample_b) = match is_of_seconds {
        true => (Sample::Seconds(&of_a), Sample::Seconds(&of_b)),
        false => (Sample::Runs(&of_a), Sample::Runs(&of_b)),
    };
    let interval = bootstrap::interval(sample_a, sample_b, seed);
    let (a_mean, b_mean) = (bootstrap::mean(&of_a), bootstrap::mean(&of_b));
    let ratio = Some(b_mean / a_mean).filter(|ratio| ratio.is_finite());
    let (verdict, why) = verdict(metric.better, interval, a.len().min(b.len()));
    Some(Row {
        metric: metric.name,
        a_mean,
        b_mean,
        ratio,
        ratio_low: interval.map(|interval| interval.low),
        ratio_high: interval.map(|interval| interval.high),
        verdict,
        why,
    })
}

fn verdict(better: Better, interval: Option<Interval>, runs: usize) -> (&'static str, &'static str) {
    const CANNOT_TELL: &str = "cannot tell";
    if runs < RUNS_MIN {
        return (CANNOT_TELL, "fewer than 3 runs on a side");
    }
    let Some(interval) = interval else {
        return (CANNOT_TELL, "no ratio to nothing");
    };
    if interval.contains(1.0) {
        return (CANNOT_TELL, "the interval contains 1");
    }
    let has_risen = 1.0 < interval.low;
    let verdict = match (better, has_risen) {
        (Better::Higher, true) | (Better::Lower, false) => "better",
        (Better::Higher, false) | (Better::Lower, true) => "worse",
        (Better::Neither, true) => "more",
        (Better::Neither, false) => "fewer",
    };
    (verdict, "")
}

pub fn comparison_text(comparison: &Comparison) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {}", comparison.durability);
    for (name, side) in [("A", &comparison.a), ("B", &comparison.b)] {
        let plural = if side.runs == 1 { "run" } else { "runs" };
        let _ = writeln!(text, "  {name}: {}, {} {plural}, server {}", side.file, side.runs, side.server);
    }
    for warning in &comparison.warnings {
        let _ = writeln!(text, "  WARNING: {warning}");
    }
    if comparison.spread_of == "seconds" {
        let _ = writeln!(
            text,
            "  One run each: figures are means over the seconds where those are kept, and the intervals come from the\n  \
             seconds too. That understates the spread between runs: repeat the runs to know."
        );
    }
    let _ = writeln!(text, "\n  {:<22} {:>12} {:>12}  {:>6}  {:<16} verdict", "", "A", "B", "B/A", "95 % interval");
    for row in &comparison.rows {
        let is_time = Metric::named(row.metric).is_some_and(|metric| metric.is_time);
        let figure = |value: f64| match is_time {
            true if value < 100.0 => format!("{value:.2} us"),
            true => report::time(value),
            false => figures::rate(value),
        };
        let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
        let interval = match (row.ratio_low, row.ratio_high) {
            (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
            _ => "-".to_owned(),
        };
        let why = if row.why.is_empty() { String::new() } else { format!(": {}", row.why) };
        let _ = writeln!(
            text,
            "  {:<22} {:>12} {:>12}  {ratio:>6}  {interval:<16} {}{why}",
            row.metric,
            figure(row.a_mean),
            figure(row.b_mean),
            row.verdict
        );
    }
    for tripped in &comparison.tripped {
        let _ = writeln!(text, "\n  FAILED: {tripped}");
    }
    text
}

#[cfg(test)]
mod tests;
