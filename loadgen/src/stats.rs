//! What a run counts. Times are nanoseconds since the run's origin.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// An hour; longer waits are counted as one.
const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

#[derive(Debug)]
pub struct Stats {
    /// From the sending of a request to its answer.
    pub service: Histogram<u64>,
    /// From the moment a request was meant to be sent to its answer. Open loop only.
    pub response: Histogram<u64>,
    /// How much later than possible this program sent: its own slowness, not the server's. Open loop only.
    pub send_lag: Histogram<u64>,
    pub requests_in_window: u64,
    pub events_in_window: u64,
    pub bytes_out_in_window: u64,
    pub bytes_in_in_window: u64,
    pub requests_good: u64,
    pub events_good: u64,
    pub reconnects: u64,
    /// Failed requests and failed connects of the whole run, by kind.
    pub errors: BTreeMap<String, u64>,
    pub last_answer_at: u64,
}

impl Stats {
    pub fn new() -> Self {
        Self {
            service: histogram(),
            response: histogram(),
            send_lag: histogram(),
            requests_in_window: 0,
            events_in_window: 0,
            bytes_out_in_window: 0,
            bytes_in_in_window: 0,
            requests_good: 0,
            events_good: 0,
            reconnects: 0,
            errors: BTreeMap::new(),
            last_answer_at: 0,
        }
    }

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
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants in range")
}
