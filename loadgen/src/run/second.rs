//! Adds the threads' intervals up: second by second for the series and the log, and over the whole run.
//!
//! A second is closed once every thread is past it; until then it waits, so that memory does not grow with the run.

use super::progress::Latencies;
use crate::failure::Failure;
use crate::hlog::{self, Slice};
use crate::result::Series;
use crate::stats::{AFTERWARDS, INTERVAL_NS, Interval, Second, Stats, us_at};
use std::collections::BTreeMap;
use std::time::Duration;

/// A second that every thread is past.
#[derive(Debug, Clone, Copy)]
pub struct Closed {
    pub second: Second,
    pub events: u64,
    pub requests: u64,
    pub latencies: Option<Latencies>,
}

#[derive(Debug)]
pub struct Seconds {
    pub total: Stats,
    pub log_lines: String,
    is_open_loop: bool,
    keeps_log: bool,
    operation_count: usize,
    /// How far each thread has come.
    heard_of: Vec<Second>,
    waiting: BTreeMap<Second, Stats>,
    /// One row for each measured second, from 0 on.
    series: Series,
}

impl Seconds {
    pub fn new(operation_count: usize, thread_count: usize, is_open_loop: bool, keeps_log: bool) -> Self {
        Self {
            total: Stats::new(operation_count),
            log_lines: String::new(),
            is_open_loop,
            keeps_log,
            operation_count,
            heard_of: vec![Second::MIN; thread_count],
            waiting: BTreeMap::new(),
            series: Series::default(),
        }
    }

    pub fn take(&mut self, thread: usize, interval: &Interval) {
        self.total.add(&interval.stats);
        self.waiting.entry(interval.second).or_insert_with(|| Stats::new(self.operation_count)).add(&interval.stats);
        self.heard_of[thread] = self.heard_of[thread].max(interval.second);
    }

    /// Nothing more comes from this thread.
    pub fn thread_ended(&mut self, thread: usize) {
        self.heard_of[thread] = Second::MAX;
    }

    /// The seconds that every thread is past by now, oldest first.
    pub fn close(&mut self) -> Result<Vec<Closed>, Failure> {
        let everybody_at = self.heard_of.iter().copied().min().unwrap_or(Second::MAX);
        let mut closed = Vec::new();
        while let Some(entry) = self.waiting.first_entry()
            && *entry.key() <= everybody_at
        {
            let (second, stats) = entry.remove_entry();
            closed.push(self.close_one(second, &stats)?);
        }
        Ok(closed)
    }

    fn close_one(&mut self, second: Second, stats: &Stats) -> Result<Closed, Failure> {
        let (service, response) = (stats.service(), stats.response());
        let (requests, events) = (stats.requests_measured(), stats.events_measured());
        let shown = if self.is_open_loop { &response } else { &service };
        let latencies =
            (!shown.is_empty()).then(|| Latencies { p50_us: us_at(shown, 0.5), p99_us: us_at(shown, 0.99) });
        if 0 <= second && second != AFTERWARDS {
            // A second in which no thread counted anything is still a second.
            while (self.series.event_rate.len() as Second) < second {
                self.push_row(0, 0, 0, [0.0; 3]);
            }
            let row = [0.5, 0.99, 1.0].map(|quantile| us_at(shown, quantile));
            self.push_row(events, requests, stats.error_count(), row);
        }
        if self.keeps_log && !service.is_empty() {
            let rows = self.series.event_rate.len() as u64;
            let starts_after = Duration::from_secs(if second == AFTERWARDS { rows } else { second.max(0) as u64 });
            let response = self.is_open_loop.then_some(response);
            let slice = Slice { starts_after, length: Duration::from_nanos(INTERVAL_NS), service, response };
            self.log_lines.push_str(&hlog::lines(&slice)?);
        }
        // Before the measured time all good answers are of interest, though none of them counts.
        let (requests, events) = if second < 0 { (stats.requests_good, stats.events_good) } else { (requests, events) };
        Ok(Closed { second, events, requests, latencies })
    }

    fn push_row(&mut self, events: u64, requests: u64, errors: u64, [p50, p99, max]: [f64; 3]) {
        let series = &mut self.series;
        series.event_rate.push(events as f64);
        series.request_rate.push(requests as f64);
        series.error_rate.push(errors as f64);
        series.p50.push(p50);
        series.p99.push(p99);
        series.max.push(max);
    }

    /// The series of the seconds that are whole.
    pub fn into_series(mut self, measured_ns: u64) -> Series {
        let whole = (measured_ns / INTERVAL_NS) as usize;
        let series = &mut self.series;
        for column in [
            &mut series.event_rate,
            &mut series.request_rate,
            &mut series.error_rate,
            &mut series.p50,
            &mut series.p99,
            &mut series.max,
        ] {
            column.truncate(whole);
        }
        self.series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(second: Second, requests: u64) -> Interval {
        let mut stats = Stats::new(1);
        stats.operations[0].requests_measured = requests;
        stats.operations[0].service.record(1000).unwrap();
        Interval { second, stats }
    }

    #[test]
    fn a_second_is_closed_when_every_thread_is_past_it() {
        let mut seconds = Seconds::new(1, 2, false, false);
        let closed = |seconds: &mut Seconds| {
            seconds.close().unwrap().iter().map(|closed| (closed.second, closed.requests)).collect::<Vec<_>>()
        };
        seconds.take(0, &interval(0, 3));
        seconds.take(0, &interval(1, 4));
        assert_eq!(closed(&mut seconds), []);
        seconds.take(1, &interval(0, 5));
        assert_eq!(closed(&mut seconds), [(0, 8)]);
        seconds.thread_ended(1);
        assert_eq!(closed(&mut seconds), [(1, 4)]);
        seconds.take(0, &interval(3, 1));
        assert_eq!(closed(&mut seconds), [(3, 1)]);
        assert_eq!(seconds.total.requests_measured(), 13);
        let series = seconds.into_series(3_500_000_000);
        assert_eq!(series.request_rate, [8.0, 4.0, 0.0]);
        assert_eq!(series.p50.len(), 3);
    }
}
