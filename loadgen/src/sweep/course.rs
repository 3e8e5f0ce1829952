//! One sweep as it happens: the search, the points that were measured, the time that is left, and what is told.

use crate::failure::Failure;
use crate::figures::rate;
use crate::report::time;
use crate::result::{RunResult, SWEEP_SCHEMA, SweepPoint, SweepResult};
use crate::sweep::search::{End, Evidence, Range, Search, Step, Verdict, Why};
use std::fmt::Write;

/// How a sweep goes about it. Times are seconds.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub range: Range,
    pub p99_us_max: f64,
    /// One point with its warm-up and the rest before it.
    pub point_seconds: f64,
    /// The run at half of the knee, with the same.
    pub half_seconds: f64,
    pub seconds_max: f64,
    /// `events` or `requests`: what is counted.
    pub unit: &'static str,
}

/// Requests that were still waiting for a connection at the end. Nothing happened to them: whether there are too many
/// shows in the rate that was achieved.
const NOT_SENT: &str = "not sent";

#[derive(Debug)]
pub struct Course {
    plan: Plan,
    search: Search,
    points: Vec<SweepPoint>,
}

impl Course {
    pub fn new(plan: Plan) -> Self {
        Self { plan, search: Search::new(plan.range), points: Vec::new() }
    }

    /// The half run must fit into the time as well.
    pub fn next(&self, elapsed_seconds: f64) -> Step {
        let needed = self.plan.point_seconds + self.plan.half_seconds;
        self.search.next(elapsed_seconds + needed <= self.plan.seconds_max)
    }

    pub fn announcement(&self, rate_next: f64, why: Why) -> String {
        let why = match why {
            Why::Ladder => "up the ladder".to_owned(),
            Why::Between { good, bad } => format!("between {} and {}", rate(good), rate(bad)),
            Why::Again => "again: one bad measurement decides nothing".to_owned(),
            Why::Confirm => "the best so far, once more".to_owned(),
        };
        let Plan { unit, point_seconds, .. } = self.plan;
        let number = self.points.len() + 1;
        format!("point {number}: {} {unit}/s for {point_seconds:.0} s ({why})", rate(rate_next))
    }

    pub fn record(&mut self, offered: f64, result: &RunResult) -> &SweepPoint {
        let evidence = evidence(offered, result, self.plan.unit);
        let verdict = evidence.judge(self.plan.p99_us_max);
        self.search.record(offered, verdict);
        self.points.push(point(&evidence, result, verdict));
        self.points.last().expect("one was pushed just before")
    }

    pub fn half_of_the_knee(&self) -> Option<f64> {
        self.search.best().map(|best| best / 2.0)
    }

    pub fn finish(self, end: End, started_unix_ms: u64, command: String, half: Option<RunResult>) -> SweepResult {
        SweepResult {
            schema: SWEEP_SCHEMA.to_owned(),
            started_unix_ms,
            command,
            rates_of: self.plan.unit.to_owned(),
            p99_us_max: self.plan.p99_us_max,
            knee_per_second: self.search.best(),
            knee_found: end == End::Knee,
            ended_by: self.reason(end),
            points: self.points,
            half,
        }
    }

    fn reason(&self, end: End) -> String {
        let Plan { unit, range, seconds_max, p99_us_max, .. } = self.plan;
        match end {
            End::Knee => "the rates above do not keep the bound".to_owned(),
            End::LoaderBound => "the knee was not found: the load generator was the limit, not the server; \
                                 give it --threads and --cpus of its own, or another machine"
                .to_owned(),
            End::NothingGood => format!(
                "not even the lowest rate, {} {unit}/s, kept p99 under {}: begin lower with --from, or raise --p99",
                rate(range.from),
                time(p99_us_max)
            ),
            End::NeverBroke => format!("the knee was not found: it is above --to, {} {unit}/s", rate(range.to)),
            End::TimeIsUp => format!("the knee was not found in --max-seconds {seconds_max}"),
            End::Interrupted => "it was interrupted before the knee was found".to_owned(),
        }
    }
}

fn evidence(offered: f64, result: &RunResult, unit: &str) -> Evidence {
    Evidence {
        offered,
        achieved: if unit == "events" { result.events_per_second } else { result.requests_per_second },
        // A point without an answer has no time; it is behind, and not fast.
        response_p99_us: result.response_p99_us.unwrap_or(f64::INFINITY),
        send_lag_p99_us: result.send_lag_p99_us.unwrap_or(0.0),
        errors: result.error_count - result.errors.get(NOT_SENT).copied().unwrap_or_default(),
        chance: chance(result),
        loader_bound: result.loader_bound,
    }
}

/// Poisson's arrivals vary as their number does, and so do the events where requests of several sizes are mixed; and
/// one request may lie on either side of the edges of the measured time.
fn chance(result: &RunResult) -> f64 {
    let is_random = result.arrivals.as_deref() == Some("poisson");
    let is_mixed = 1 < result.batch.len() || 1 < result.operations.len();
    let variance = f64::from(u8::from(is_random) + u8::from(is_mixed));
    let requests = result.requests_measured.max(1) as f64;
    (variance / requests + 1.0 / (requests * requests)).sqrt()
}

fn point(evidence: &Evidence, result: &RunResult, verdict: Verdict) -> SweepPoint {
    SweepPoint {
        offered: evidence.offered,
        achieved: evidence.achieved,
        response_p50: result.response_p50_us.unwrap_or(0.0),
        response_p99: result.response_p99_us.unwrap_or(0.0),
        response_p999: result.response_p999_us.unwrap_or(0.0),
        service_p99: result.service_p99_us,
        send_lag_p99: evidence.send_lag_p99_us,
        point_errors: evidence.errors,
        cpu_us_per_event: result.server_cpu_us_per_event,
        verdict: verdict.name().to_owned(),
    }
}

pub fn point_text(point: &SweepPoint) -> String {
    let lag = if point.verdict == Verdict::LoaderBound.name() {
        format!(", send lag p99 {}", time(point.send_lag_p99))
    } else {
        String::new()
    };
    format!(
        "  {}: achieved {}, p99 {}, {} errors{lag}",
        point.verdict,
        rate(point.achieved),
        time(point.response_p99),
        point.point_errors
    )
}

/// Where a point comes from, and the time.
pub trait Bench {
    /// Measures at this rate for so many seconds; nothing when that was interrupted, and then the sweep ends.
    fn measure(&mut self, rate: f64, is_half: bool) -> Result<Option<RunResult>, Failure>;
    /// Since the sweep began.
    fn elapsed_seconds(&self) -> f64;
    fn tell(&mut self, line: &str);
}

/// Runs the whole sweep: to its end, then once at half of what it found.
pub fn conduct(plan: Plan, bench: &mut impl Bench) -> Result<(Course, End, Option<RunResult>), Failure> {
    let mut course = Course::new(plan);
    let end = loop {
        match course.next(bench.elapsed_seconds()) {
            Step::End(end) => break end,
            Step::Measure { rate, why } => {
                bench.tell(&course.announcement(rate, why));
                let Some(result) = bench.measure(rate, false)? else { break End::Interrupted };
                let text = point_text(course.record(rate, &result));
                bench.tell(&text);
            }
        }
    };
    let half = match course.half_of_the_knee() {
        Some(half_rate) if end != End::Interrupted => {
            let Plan { unit, half_seconds, .. } = plan;
            bench.tell(&format!("half of the best: {} {unit}/s for {half_seconds:.0} s", rate(half_rate)));
            bench.measure(half_rate, true)?
        }
        _ => None,
    };
    Ok((course, end, half))
}

pub fn sweep_text(sweep: &SweepResult) -> String {
    let unit = &sweep.rates_of;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "  {:>12} {:>12}  {:>9} {:>9} {:>9}  {:>9} {:>9} {:>7}  verdict",
        format!("{unit}/s"),
        "achieved",
        "p50",
        "p99",
        "p99.9",
        "send lag",
        "CPU/event",
        "errors"
    );
    let mut points: Vec<&SweepPoint> = sweep.points.iter().collect();
    points.sort_by(|one, other| one.offered.total_cmp(&other.offered));
    for point in points {
        let cpu = point.cpu_us_per_event.map_or("-".to_owned(), |us| format!("{us:.2} us"));
        let _ = writeln!(
            text,
            "  {:>12} {:>12}  {:>9} {:>9} {:>9}  {:>9} {cpu:>9} {:>7}  {}",
            rate(point.offered),
            rate(point.achieved),
            time(point.response_p50),
            time(point.response_p99),
            time(point.response_p999),
            time(point.send_lag_p99),
            point.point_errors,
            point.verdict
        );
    }
    let bound = time(sweep.p99_us_max);
    let _ = match sweep.knee_per_second {
        Some(knee) if sweep.knee_found => {
            writeln!(text, "\n  KNEE: {} {unit}/s with response p99 under {bound} and no errors", rate(knee))
        }
        Some(knee) => writeln!(
            text,
            "\n  NO KNEE: {}\n  at least {} {unit}/s with response p99 under {bound} and no errors",
            sweep.ended_by,
            rate(knee)
        ),
        None => writeln!(text, "\n  NO KNEE: {}", sweep.ended_by),
    };
    if let Some(half) = &sweep.half {
        let or_nothing = |us: Option<f64>| us.map_or("-".to_owned(), time);
        let _ = writeln!(
            text,
            "  at half of it, {} {unit}/s: response p50 {}  p99 {}  p99.9 {}  max {}, {} errors",
            half.offered_per_second.map_or("-".to_owned(), rate),
            or_nothing(half.response_p50_us),
            or_nothing(half.response_p99_us),
            or_nothing(half.response_p999_us),
            or_nothing(half.response_max_us),
            half.error_count
        );
    }
    text
}

#[cfg(test)]
mod tests;
