//! What a run counts. Each thread fills one interval at a time and hands it over when its second is over; the run adds
//! the intervals up. So every request is recorded once, and no thread waits for another.
//!
//! Times are nanoseconds since the run's origin.

use crate::result::Quantiles;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// An hour; longer waits are counted as one.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;
pub const INTERVAL_NS: u64 = 1_000_000_000;

/// Which second an interval is: 0 is the first that is measured, below it is the warm-up.
pub type Second = i64;
/// What comes after the measured time: late answers.
pub const AFTERWARDS: Second = Second::MAX;

/// Of one kind of request.
#[derive(Debug, Clone)]
pub struct OperationStats {
    /// From the sending of a request to its answer.
    pub service: Histogram<u64>,
    /// From the moment a request was meant to be sent to its answer. Open loop only.
    pub response: Histogram<u64>,
    /// Good answers that came within the measured time.
    pub requests_measured: u64,
    pub events_measured: u64,
    pub errors: u64,
}

#[derive(Debug, Clone)]
pub struct Stats {
    pub operations: Vec<OperationStats>,
    /// How much later than possible this program sent: its own slowness, not the server's. Open loop only.
    pub send_lag: Histogram<u64>,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of the whole run, with the warm-up.
    pub requests_good: u64,
    pub events_good: u64,
    pub reconnects: u64,
    /// Failed requests and failed connects of the whole run, by kind.
    pub errors: BTreeMap<String, u64>,
}

impl OperationStats {
    fn new() -> Self {
        Self { service: histogram(), response: histogram(), requests_measured: 0, events_measured: 0, errors: 0 }
    }
}

impl Stats {
    pub fn new(operation_count: usize) -> Self {
        Self {
            operations: (0..operation_count).map(|_| OperationStats::new()).collect(),
            send_lag: histogram(),
            bytes_sent: 0,
            bytes_received: 0,
            requests_good: 0,
            events_good: 0,
            reconnects: 0,
            errors: BTreeMap::new(),
        }
    }

    /// An error that belongs to no request, as a connect that failed.
    pub fn error(&mut self, kind: &str) {
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }

    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.operations.iter_mut().zip(&other.operations) {
            add(&mut sum.service, &part.service);
            add(&mut sum.response, &part.response);
            sum.requests_measured += part.requests_measured;
            sum.events_measured += part.events_measured;
            sum.errors += part.errors;
        }
        add(&mut self.send_lag, &other.send_lag);
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.requests_good += other.requests_good;
        self.events_good += other.events_good;
        self.reconnects += other.reconnects;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    pub fn requests_measured(&self) -> u64 {
        self.operations.iter().map(|operation| operation.requests_measured).sum()
    }

    pub fn events_measured(&self) -> u64 {
        self.operations.iter().map(|operation| operation.events_measured).sum()
    }

    /// Over all kinds of requests.
    pub fn service(&self) -> Histogram<u64> {
        sum_of(self.operations.iter().map(|operation| &operation.service))
    }

    pub fn response(&self) -> Histogram<u64> {
        sum_of(self.operations.iter().map(|operation| &operation.response))
    }
}

fn sum_of<'a>(parts: impl Iterator<Item = &'a Histogram<u64>>) -> Histogram<u64> {
    let mut sum = histogram();
    parts.for_each(|part| add(&mut sum, part));
    sum
}

fn add(sum: &mut Histogram<u64>, part: &Histogram<u64>) {
    if !part.is_empty() {
        sum.add(part).expect("all histograms have the same bounds");
    }
}

pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants in range")
}

pub fn us_at(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1e3
}

pub fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    Quantiles {
        p50: us_at(histogram, 0.5),
        p90: us_at(histogram, 0.9),
        p99: us_at(histogram, 0.99),
        p999: us_at(histogram, 0.999),
        max: us_at(histogram, 1.0),
    }
}

/// One interval of one thread.
#[derive(Debug)]
pub struct Interval {
    pub second: Second,
    pub stats: Stats,
}

/// Where a thread counts: the interval that is going on, and when it ends.
#[derive(Debug)]
pub struct Tally {
    pub stats: Stats,
    second: Second,
    ends_at: u64,
    operation_count: usize,
}

impl Tally {
    /// Before the first second: everything that happens while connections are opened.
    pub fn new(operation_count: usize) -> Self {
        Self { stats: Stats::new(operation_count), second: Second::MIN, ends_at: u64::MAX, operation_count }
    }

    /// From now on seconds are counted from `from`.
    pub fn begin(&mut self, now: u64, window: (u64, u64)) {
        self.ends_at = 0;
        (self.second, self.ends_at) = second_at(now, window);
    }

    /// The interval that is over by now, if one is.
    pub fn turn(&mut self, now: u64, window: (u64, u64)) -> Option<Interval> {
        if now < self.ends_at {
            return None;
        }
        let (second, ends_at) = second_at(now, window);
        let over = self.take();
        (self.second, self.ends_at) = (second, ends_at);
        Some(over)
    }

    /// What has been counted since the last turn.
    pub fn take(&mut self) -> Interval {
        let stats = std::mem::replace(&mut self.stats, Stats::new(self.operation_count));
        Interval { second: self.second, stats }
    }
}

/// The second that `now` lies in, and when it ends.
fn second_at(now: u64, (from, to): (u64, u64)) -> (Second, u64) {
    if to <= now {
        return (AFTERWARDS, u64::MAX);
    }
    let second = (now as i64 - from as i64).div_euclid(INTERVAL_NS as i64);
    let ends_at = from as i64 + (second + 1) * INTERVAL_NS as i64;
    (second, (ends_at as u64).min(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the histogram says, against the value itself, for many values of very different sizes.
    #[test]
    fn histograms_agree_with_exact_quantiles() {
        let mut values: Vec<u64> = Vec::new();
        let mut state = 1_u64;
        for _ in 0..50_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // From a microsecond to a second, evenly over the logarithm.
            values.push((1000.0 * 1e6_f64.powf((state >> 11) as f64 / (1_u64 << 53) as f64)) as u64);
        }
        let mut parts = [histogram(), histogram(), histogram()];
        values.iter().enumerate().for_each(|(index, value)| parts[index % 3].record(*value).unwrap());
        let sum = sum_of(parts.iter());
        values.sort_unstable();
        for quantile in [0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0] {
            let rank = ((quantile * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1] as f64;
            let told = sum.value_at_quantile(quantile) as f64;
            assert!((told - exact).abs() <= exact / 1000.0, "{quantile}: {told} for {exact}");
        }
    }

    #[test]
    fn every_count_is_in_exactly_one_interval() {
        let window = (1_500_000_000, 3_700_000_000);
        let mut tally = Tally::new(1);
        tally.begin(0, window);
        let mut seen = BTreeMap::new();
        for now in (0..5_000_000_000_u64).step_by(100_000_000) {
            if let Some(over) = tally.turn(now, window) {
                *seen.entry(over.second).or_insert(0) += over.stats.requests_good;
            }
            tally.stats.requests_good += 1;
        }
        let rest = tally.take();
        *seen.entry(rest.second).or_insert(0) += rest.stats.requests_good;
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            [(-2, 5), (-1, 10), (0, 10), (1, 10), (2, 2), (AFTERWARDS, 13)]
        );
    }

    #[test]
    fn errors_add_up_by_kind() {
        let (mut sum, mut part) = (Stats::new(1), Stats::new(1));
        sum.error("timeout");
        part.error("timeout");
        part.error("closed by server");
        sum.add(&part);
        assert_eq!((sum.errors["timeout"], sum.errors["closed by server"], sum.error_count()), (2, 1, 3));
    }
}
