//! When requests are meant to be sent: fixed before the first one, whatever the server does.

use crate::cli::run::Arrivals;
use crate::corpus::Rng;

/// One thread's part of a schedule. Times are nanoseconds since the run's origin.
#[derive(Debug)]
pub struct Schedule {
    start_at: u64,
    /// Nanoseconds from one of this thread's requests to the next, on average.
    gap: f64,
    /// Requests that are left.
    left: u64,
    next_at: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Of `index` from 0 on: no error adds up over the length of a run.
    Uniform {
        index: u64,
        phase: f64,
    },
    Poisson {
        rng: Rng,
        elapsed: f64,
    },
}

impl Schedule {
    /// `requests_per_second` of all threads together; uniform arrivals go to the threads in turn, Poisson ones split
    /// into independent processes of which each has its share of the rate.
    pub fn new(
        arrivals: Arrivals,
        requests_per_second: f64,
        start_at: u64,
        (thread, thread_count): (usize, usize),
        count: u64,
        seed: u64,
    ) -> Self {
        let gap = thread_count as f64 * 1e9 / requests_per_second;
        let kind = match arrivals {
            Arrivals::Uniform => Kind::Uniform { index: 0, phase: gap * thread as f64 / thread_count as f64 },
            Arrivals::Poisson => {
                Kind::Poisson { rng: Rng::stream(seed ^ 0x7363_6865_6475_6c65, 0, thread as u32), elapsed: 0.0 }
            }
        };
        let mut schedule = Self { start_at, gap, left: count, next_at: 0, kind };
        schedule.place_next();
        schedule
    }

    /// The next request; `u64::MAX` when there is none.
    pub fn next_at(&self) -> u64 {
        self.next_at
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn advance(&mut self) {
        self.left = self.left.saturating_sub(1);
        if let Kind::Uniform { index, .. } = &mut self.kind {
            *index += 1;
        }
        self.place_next();
    }

    fn place_next(&mut self) {
        let after_start = match &mut self.kind {
            Kind::Uniform { index, phase } => *index as f64 * self.gap + *phase,
            Kind::Poisson { rng, elapsed } => {
                *elapsed -= (1.0 - rng.unit()).ln() * self.gap;
                *elapsed
            }
        };
        self.next_at = if self.left == 0 { u64::MAX } else { self.start_at + after_start as u64 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: Arrivals, threads: usize, count: u64) -> Vec<u64> {
        let mut all = Vec::new();
        for thread in 0..threads {
            let mut schedule = Schedule::new(arrivals, 1000.0, 5_000_000, (thread, threads), count, 1);
            while schedule.next_at() != u64::MAX {
                all.push(schedule.next_at());
                schedule.advance();
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn uniform_arrivals_are_evenly_spaced_over_all_threads() {
        for threads in [1, 2, 4] {
            let times = times(Arrivals::Uniform, threads, 20);
            assert_eq!(times.len(), threads * 20);
            for (index, at) in times.iter().enumerate() {
                assert_eq!(*at, 5_000_000 + index as u64 * 1_000_000);
            }
        }
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_senders() {
        let times = times(Arrivals::Poisson, 2, 20_000);
        let seconds = (times[times.len() - 1] - 5_000_000) as f64 / 1e9;
        let rate = times.len() as f64 / seconds;
        assert!((970.0..1030.0).contains(&rate), "{rate}");
        let gaps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        // The standard deviation of exponential gaps is their mean.
        assert!((0.95..1.05).contains(&(variance.sqrt() / mean)), "{variance}");
        // A share of 1/e of the gaps is longer than the mean.
        let longer = gaps.iter().filter(|gap| mean < **gap).count() as f64 / gaps.len() as f64;
        assert!((0.355..0.381).contains(&longer), "{longer}");
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        assert_eq!(times(Arrivals::Poisson, 3, 100), times(Arrivals::Poisson, 3, 100));
    }
}
