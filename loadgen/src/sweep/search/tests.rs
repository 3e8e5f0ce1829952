//! The search, against servers that are formulas.

use super::*;
use std::collections::BTreeMap;

const RANGE: Range = Range { from: 1000.0, to: 1e9, step: 2.0, precision: 0.05 };
const P99_US_MAX: f64 = 10_000.0;

/// Waiting behind one server with a fixed time per event: the mean wait of M/D/1, and a p99 of five times that.
fn queue(offered: f64, capacity: f64) -> Evidence {
    let load = offered / capacity;
    let service_us = 1e6 / capacity;
    let wait_us = if load < 1.0 { service_us * load / (2.0 * (1.0 - load)) } else { 1e6 };
    Evidence {
        offered,
        achieved: offered.min(capacity),
        response_p99_us: 200.0 + 5.0 * wait_us,
        send_lag_p99_us: 10.0,
        errors: 0,
        chance: 0.0,
        loader_bound: false,
    }
}

struct Outcome {
    end: End,
    best: Option<f64>,
    asked: Vec<(f64, Why)>,
}

impl Outcome {
    fn rates(&self) -> Vec<f64> {
        self.asked.iter().map(|(rate, _)| *rate).collect()
    }

    fn asked_for(&self, rate: f64) -> usize {
        self.asked.iter().filter(|(asked, _)| *asked == rate).count()
    }
}

fn find_in(range: Range, time_for: usize, mut server: impl FnMut(f64, usize) -> Evidence) -> Outcome {
    let mut search = Search::new(range);
    let mut asked = Vec::new();
    loop {
        match search.next(asked.len() < time_for) {
            Step::End(end) => return Outcome { end, best: search.best(), asked },
            Step::Measure { rate, why } => {
                assert!(asked.len() < 200, "the search does not end: {asked:?}");
                search.record(rate, server(rate, asked.len()).judge(P99_US_MAX));
                asked.push((rate, why));
            }
        }
    }
}

fn find(server: impl FnMut(f64, usize) -> Evidence) -> Outcome {
    find_in(RANGE, usize::MAX, server)
}

#[test]
fn each_reason_has_its_verdict() {
    let good = queue(1000.0, 100_000.0);
    assert_eq!(good.judge(P99_US_MAX), Verdict::Good);
    let check = |evidence: Evidence, expected: Verdict| assert_eq!(evidence.judge(P99_US_MAX), expected);
    check(Evidence { response_p99_us: P99_US_MAX, ..good }, Verdict::Good);
    check(Evidence { response_p99_us: P99_US_MAX + 1.0, ..good }, Verdict::TooSlow);
    check(Evidence { response_p99_us: f64::NAN, ..good }, Verdict::TooSlow);
    check(Evidence { achieved: 980.0, ..good }, Verdict::Good);
    check(Evidence { achieved: 979.0, ..good }, Verdict::Behind);
    check(Evidence { achieved: 951.0, chance: 0.01, ..good }, Verdict::Good);
    check(Evidence { achieved: 949.0, chance: 0.01, ..good }, Verdict::Behind);
    check(Evidence { errors: 1, ..good }, Verdict::Errors);
    check(Evidence { send_lag_p99_us: 1000.0, ..good }, Verdict::Good);
    check(Evidence { send_lag_p99_us: 1001.0, ..good }, Verdict::LoaderBound);
    check(Evidence { loader_bound: true, errors: 9, ..good }, Verdict::LoaderBound);
}

#[test]
fn the_knee_of_a_queue_is_found_within_the_precision() {
    for capacity in [3_000.0, 47_000.0, 100_000.0, 1_234_567.0] {
        let outcome = find(|rate, _| queue(rate, capacity));
        // Found by trying every rate: where the formula crosses the bound, or falls behind.
        let truth = (1..2_000_000)
            .map(f64::from)
            .take_while(|&rate| queue(rate, capacity).judge(P99_US_MAX) == Verdict::Good)
            .last()
            .unwrap();
        let knee = outcome.best.unwrap();
        assert_eq!(outcome.end, End::Knee);
        assert!(knee <= truth && truth <= knee * 1.05, "{knee} and {truth}");
        assert_eq!(outcome.asked_for(knee), 2, "the knee is measured twice");
    }
}

#[test]
fn the_ladder_doubles_then_the_search_halves() {
    let outcome = find(|rate, _| queue(rate, 5_000.0));
    let up = [1000.0, 2000.0, 4000.0, 8000.0, 8000.0];
    let between = [6000.0, 6000.0, 5000.0, 5000.0, 4500.0, 4750.0, 4875.0, 4875.0, 4750.0];
    assert_eq!(outcome.rates(), [&up[..], &between[..]].concat());
    assert_eq!(outcome.asked[4].1, Why::Again);
    assert_eq!(outcome.asked[5].1, Why::Between { good: 4000.0, bad: 8000.0 });
    assert_eq!(outcome.asked[13], (4750.0, Why::Confirm));
}

#[test]
fn a_server_that_never_breaks_is_the_limit_of_the_loader() {
    let loader = 300_000.0;
    let outcome =
        find(|rate, _| Evidence { send_lag_p99_us: if loader < rate { 5000.0 } else { 20.0 }, ..queue(rate, 1e9) });
    assert_eq!(outcome.end, End::LoaderBound);
    let best = outcome.best.unwrap();
    assert!(best <= loader && loader <= best * 1.05, "the lower bound is as high as it can be: {best}");
}

#[test]
fn a_knee_below_the_limit_of_the_loader_is_still_found() {
    let outcome = find(|rate, _| Evidence {
        send_lag_p99_us: if 180_000.0 < rate { 5000.0 } else { 20.0 },
        ..queue(rate, 150_000.0)
    });
    assert_eq!(outcome.end, End::Knee);
    assert!((140_000.0..150_000.0).contains(&outcome.best.unwrap()));
}

#[test]
fn the_end_of_the_range_is_no_knee() {
    let outcome = find_in(Range { to: 6000.0, ..RANGE }, usize::MAX, |rate, _| queue(rate, 1e9));
    assert_eq!(outcome.end, End::NeverBroke);
    assert_eq!(outcome.best, Some(6000.0));
    assert_eq!(outcome.rates(), [1000.0, 2000.0, 4000.0, 6000.0, 6000.0]);
}

#[test]
fn a_first_rate_that_fails_ends_it() {
    let outcome = find(|rate, _| queue(rate, 500.0));
    assert_eq!((outcome.end, outcome.best), (End::NothingGood, None));
    assert_eq!(outcome.rates(), [1000.0, 1000.0], "it had its second chance");
    let slow_loader = find(|rate, _| Evidence { loader_bound: true, ..queue(rate, 1e9) });
    assert_eq!((slow_loader.end, slow_loader.best), (End::LoaderBound, None));
}

#[test]
fn one_bad_measurement_does_not_end_the_ladder() {
    for outlier in 0..12 {
        for bad in [Verdict::TooSlow, Verdict::Behind, Verdict::LoaderBound] {
            let outcome = find(|rate, number| match (number == outlier, bad) {
                (false, _) => queue(rate, 100_000.0),
                (true, Verdict::TooSlow) => Evidence { response_p99_us: 1e6, ..queue(rate, 100_000.0) },
                (true, Verdict::Behind) => Evidence { achieved: 1.0, ..queue(rate, 100_000.0) },
                (true, _) => Evidence { loader_bound: true, ..queue(rate, 100_000.0) },
            });
            assert_eq!(outcome.end, End::Knee, "measurement {outlier} was {bad:?}");
            let knee = outcome.best.unwrap();
            assert!((90_000.0..100_000.0).contains(&knee), "measurement {outlier} was {bad:?}: {knee}");
        }
    }
}

#[test]
fn a_rate_that_was_good_by_luck_is_no_knee() {
    // 128,000 is beyond what it can do, and is good the first time nevertheless.
    let mut seen = BTreeMap::new();
    let outcome = find(|rate, _| {
        let times = seen.entry(rate as u64).or_insert(0);
        *times += 1;
        let lucky = rate == 128_000.0 && *times == 1;
        queue(rate, if lucky { 1e9 } else { 100_000.0 })
    });
    assert_eq!(outcome.end, End::Knee);
    assert!((90_000.0..100_000.0).contains(&outcome.best.unwrap()), "{:?}", outcome.best);
    assert_eq!(outcome.asked_for(128_000.0), 3, "once by luck, and two that were not good");
}

#[test]
fn errors_beyond_a_rate_are_the_knee_at_once() {
    let outcome = find(|rate, _| Evidence { errors: u64::from(20_000.0 < rate), ..queue(rate, 1e9) });
    assert_eq!(outcome.end, End::Knee);
    let knee = outcome.best.unwrap();
    assert!(knee <= 20_000.0 && 20_000.0 <= knee * 1.05, "{knee}");
    assert_eq!(outcome.asked_for(32_000.0), 1, "a lost request is no noise");
}

#[test]
fn time_that_is_up_leaves_a_lower_bound() {
    let outcome = find_in(RANGE, 3, |rate, _| queue(rate, 1e9));
    assert_eq!((outcome.end, outcome.best), (End::TimeIsUp, Some(4000.0)));
    let none = find_in(RANGE, 0, |rate, _| queue(rate, 1e9));
    assert_eq!((none.end, none.best), (End::TimeIsUp, None));
}

#[test]
fn a_search_among_tiny_rates_ends() {
    let range = Range { from: 0.5, to: 1e9, step: 2.0, precision: 0.001 };
    let outcome = find_in(range, usize::MAX, |rate, _| Evidence { errors: u64::from(1.3 < rate), ..queue(rate, 1e9) });
    assert_eq!(outcome.end, End::Knee);
    assert!((1.298..=1.3).contains(&outcome.best.unwrap()), "{:?}", outcome.best);
}
