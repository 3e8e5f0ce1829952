//! Whole sweeps without a server: results come from a formula, time from a counter.

use super::*;
use crate::kept::tests::run_result;

const PLAN: Plan = Plan {
    range: Range { from: 1000.0, to: 1e9, step: 2.0, precision: 0.05 },
    p99_us_max: 10_000.0,
    point_seconds: 8.0,
    half_seconds: 18.0,
    seconds_max: 600.0,
    unit: "events",
};

struct Swept {
    result: SweepResult,
    told: Vec<String>,
    /// Rates, and whether it was the half run.
    measured: Vec<(f64, bool)>,
}

struct Formula<'a> {
    plan: Plan,
    server: &'a dyn Fn(f64) -> RunResult,
    seconds: f64,
    told: Vec<String>,
    measured: Vec<(f64, bool)>,
    interrupt_at: usize,
}

impl Bench for Formula<'_> {
    fn measure(&mut self, rate: f64, is_half: bool) -> Result<Option<RunResult>, Failure> {
        self.seconds += if is_half { self.plan.half_seconds } else { self.plan.point_seconds };
        if self.measured.len() == self.interrupt_at {
            return Ok(None);
        }
        self.measured.push((rate, is_half));
        Ok(Some(RunResult { offered_per_second: Some(rate), ..(self.server)(rate) }))
    }

    fn elapsed_seconds(&self) -> f64 {
        self.seconds
    }

    fn tell(&mut self, line: &str) {
        self.told.push(line.to_owned());
    }
}

fn sweep(plan: Plan, server: impl Fn(f64) -> RunResult) -> Swept {
    sweep_until(plan, usize::MAX, server)
}

fn sweep_until(plan: Plan, interrupt_at: usize, server: impl Fn(f64) -> RunResult) -> Swept {
    let mut bench =
        Formula { plan, server: &server, seconds: 0.0, told: Vec::new(), measured: Vec::new(), interrupt_at };
    let (course, end, half) = conduct(plan, &mut bench).unwrap();
    let result = course.finish(end, 1, "ringlog-load sweep".to_owned(), half);
    Swept { result, told: bench.told, measured: bench.measured }
}

/// Fast up to 50,000, too slow beyond.
fn server(rate: f64) -> RunResult {
    run_result(rate, if rate <= 50_000.0 { 2000.0 } else { 50_000.0 })
}

#[test]
fn a_sweep_ends_with_the_run_at_half_of_the_knee() {
    let Swept { result, measured, .. } = sweep(PLAN, server);
    let knee = result.knee_per_second.unwrap();
    assert!(result.knee_found);
    assert!(knee <= 50_000.0 && 50_000.0 <= knee * 1.05, "{knee}");
    assert_eq!(measured.last(), Some(&(knee / 2.0, true)));
    assert_eq!(measured.iter().filter(|(_, is_half)| *is_half).count(), 1);
    assert_eq!(result.half.as_ref().unwrap().offered_per_second, Some(knee / 2.0));
    assert_eq!(result.points.len(), measured.len() - 1);
    let text = sweep_text(&result);
    assert!(text.contains("KNEE: 49,") || text.contains("KNEE: 50,000"), "{text}");
    assert!(text.contains("at half of it, 24,") || text.contains("at half of it, 25,000"), "{text}");
}

#[test]
fn the_loader_as_the_limit_is_said_plainly() {
    let Swept { result, .. } =
        sweep(PLAN, |rate| RunResult { send_lag_p99_us: Some(rate / 20.0), ..run_result(rate, 100.0) });
    assert!(!result.knee_found);
    let text = sweep_text(&result);
    assert!(text.contains("NO KNEE: the knee was not found: the load generator was the limit"), "{text}");
    assert!(text.contains("at least 19,") || text.contains("at least 20,000"), "{text}");
    assert!(result.points.iter().any(|point| point.verdict == "bound by the loader"));
}

#[test]
fn nothing_good_has_no_half() {
    let Swept { result, measured, .. } = sweep(PLAN, |_| run_result(100.0, 50.0));
    assert_eq!((result.knee_per_second, result.half.is_none()), (None, true));
    assert_eq!(measured, [(1000.0, false), (1000.0, false)]);
    assert!(result.ended_by.contains("begin lower with --from"), "{}", result.ended_by);
    assert_eq!(result.points[0].verdict, "behind");
}

#[test]
fn a_sweep_keeps_its_time_with_the_half_run() {
    let Swept { result, measured, .. } = sweep(Plan { seconds_max: 60.0, ..PLAN }, server);
    // 5 points of 8 s and a half run of 18 s are 58 s; a sixth point would be too much.
    assert_eq!(measured.len(), 6);
    assert!(!result.knee_found);
    assert_eq!(result.knee_per_second, Some(16_000.0));
    assert_eq!(result.ended_by, "the knee was not found in --max-seconds 60");
}

#[test]
fn an_interrupted_sweep_says_what_it_knows() {
    let Swept { result, measured, .. } = sweep_until(PLAN, 3, server);
    assert_eq!(measured, [(1000.0, false), (2000.0, false), (4000.0, false)]);
    assert_eq!((result.knee_per_second, result.knee_found, result.half.is_none()), (Some(4000.0), false, true));
    assert_eq!(result.ended_by, "it was interrupted before the knee was found");
}

#[test]
fn arrivals_by_chance_are_not_the_fault_of_the_server() {
    let few = |rate: f64| RunResult {
        events_per_second: rate * 0.95,
        arrivals: Some("poisson".to_owned()),
        requests_measured: (rate / 2.0) as u64,
        ..server(rate)
    };
    let Swept { result, .. } = sweep(PLAN, few);
    // 3 % less than 98 % are three standard deviations of 10,000 requests.
    assert_eq!(result.points[0].verdict, "good");
    assert!(result.points.iter().any(|point| point.verdict == "behind"));
    assert!((19_000.0..20_100.0).contains(&result.knee_per_second.unwrap()), "{:?}", result.knee_per_second);
}

#[test]
fn what_was_not_sent_is_being_behind_and_no_error() {
    let waiting = |count: u64, achieved: f64| RunResult {
        error_count: count,
        errors: [("not sent".to_owned(), count)].into(),
        ..run_result(achieved, 100.0)
    };
    let few = sweep(Plan { range: Range { to: 1000.0, ..PLAN.range }, ..PLAN }, |rate| waiting(3, rate));
    assert_eq!((few.result.points[0].verdict.as_str(), few.result.points[0].point_errors), ("good", 0));
    let many = sweep(PLAN, |rate| waiting(5000, rate / 2.0));
    assert_eq!(many.measured.len(), 2, "it had its second chance");
    assert_eq!(many.result.points[0].verdict, "behind");
}

#[test]
fn every_point_is_announced_and_judged() {
    let Swept { told, measured, .. } = sweep(PLAN, server);
    assert_eq!(told[0], "point 1: 1,000 events/s for 8 s (up the ladder)");
    assert_eq!(told[1], "  good: achieved 1,000, p99 2.00 ms, 0 errors");
    assert_eq!(told.len(), 2 * (measured.len() - 1) + 1);
    let again = told.iter().find(|line| line.contains("again")).unwrap();
    assert!(again.contains("64,000 events/s for 8 s (again: one bad measurement decides nothing)"), "{again}");
    assert!(told.iter().any(|line| line.contains("(between 32,000 and 64,000)")));
    assert!(told.iter().any(|line| line.contains("the best so far, once more")));
}

#[test]
fn where_there_are_no_events_requests_are_counted() {
    let plan = Plan { unit: "requests", ..PLAN };
    let Swept { result, told, .. } = sweep(plan, |rate| RunResult {
        events_per_second: 0.0,
        requests_per_second: rate,
        error_count: u64::from(3000.0 < rate),
        ..run_result(0.0, 100.0)
    });
    assert!(result.knee_found);
    assert!((2850.0..=3000.0).contains(&result.knee_per_second.unwrap()));
    assert!(told[0].contains("requests/s"));
}

#[test]
fn a_sweep_is_kept_and_read_back() {
    let Swept { result, .. } = sweep(PLAN, server);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, crate::kept::tests::line(&result)).unwrap();
    let kept = crate::kept::read(file.path()).unwrap();
    let crate::kept::Kept::Sweep(back) = &kept[0] else { panic!("not a sweep") };
    assert_eq!((back.points.len(), back.knee_per_second), (result.points.len(), result.knee_per_second));
}
