//! Whether two classes of durations differ: Welch's t-test, on everything and on what is left below percentiles.
//!
//! The method is that of dudect (Reparaz, Balasch, Verbauwhede: "Dude, is my code constant time?", DATE 2017): durations
//! have a long tail of interrupts and cache misses that hides small differences, so the test is repeated with the tail
//! cut off at several places, and the largest |t| counts. The places come from both classes together: a cut that looked
//! at the classes would make the difference that it is to find.

/// Percentiles at which the tail is cut, beside no cut at all. Few, since each is another chance to be wrong.
const CUTS: [f64; 7] = [0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.999];

/// With as many samples as are taken here t is normal. One of eight tests, none of them independent, exceeds this by
/// chance once in about 20,000 runs; the usual threshold of leakage tests.
pub const THRESHOLD: f64 = 4.5;

/// Mean and variance of a stream, by Welford's method: the sum of squares of large numbers would lose the difference.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn push(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    fn variance(&self) -> f64 {
        self.squares / (self.count - 1.0)
    }
}

/// What the worst of the tests found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finding {
    pub t: f64,
    /// The share of samples that this test looked at: 1.0 is all of them.
    pub cut: f64,
    /// Mean of the second class less that of the first, in the samples' unit.
    pub difference: f64,
}

impl Finding {
    pub fn is_leak(&self) -> bool {
        THRESHOLD <= self.t.abs()
    }
}

/// Durations of the two classes, in any unit.
pub fn compare(first: &[u64], second: &[u64]) -> Finding {
    let mut all: Vec<u64> = first.iter().chain(second).copied().collect();
    all.sort_unstable();
    let limits = CUTS.map(|cut| (cut, all[((all.len() - 1) as f64 * cut) as usize]));
    let findings = limits.into_iter().chain([(1.0, u64::MAX)]).map(|(cut, limit)| {
        let (t, difference) = welch(&below(first, limit), &below(second, limit));
        Finding { t, cut, difference }
    });
    findings.max_by(|left, right| left.t.abs().total_cmp(&right.t.abs())).expect("there is a test without a cut")
}

fn below(samples: &[u64], limit: u64) -> Moments {
    let mut moments = Moments::default();
    samples.iter().filter(|sample| **sample <= limit).for_each(|sample| moments.push(*sample as f64));
    moments
}

/// t, and the difference of the means. Classes that are too small, or constant and the same, say nothing.
fn welch(first: &Moments, second: &Moments) -> (f64, f64) {
    if first.count < 2.0 || second.count < 2.0 {
        return (0.0, 0.0);
    }
    let difference = second.mean - first.mean;
    let error = (first.variance() / first.count + second.variance() / second.count).sqrt();
    let t = match (error == 0.0, difference == 0.0) {
        (_, true) => 0.0,
        (true, false) => f64::INFINITY.copysign(difference),
        (false, false) => difference / error,
    };
    (t, difference)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::mixed;

    /// About 300 ± 30, with every hundredth somewhere up to 100,000: what a duration looks like.
    fn durations(stream: u64, count: u64, shift: u64) -> Vec<u64> {
        let sample = |at: u64| {
            let bits = mixed(stream << 32 | at);
            let body = 270 + bits % 16 + (bits >> 8) % 16 + (bits >> 16) % 16 + (bits >> 24) % 16;
            if (bits >> 32).is_multiple_of(100) { 1000 + (bits >> 40) % 100_000 } else { body + shift }
        };
        (0..count).map(sample).collect()
    }

    #[test]
    fn t_is_welchs() {
        let moments = |values: &[u64]| below(values, u64::MAX);
        // By hand: means 3 and 6, variances 2.5 and 10, so 3 / sqrt(2.5 / 5 + 10 / 5).
        let (t, difference) = welch(&moments(&[1, 2, 3, 4, 5]), &moments(&[2, 4, 6, 8, 10]));
        assert!((t - 3.0 / 2.5f64.sqrt()).abs() < 1e-12 && difference == 3.0, "{t} {difference}");
        let (t, _) = welch(&moments(&[2, 4, 6, 8, 10]), &moments(&[1, 2, 3, 4, 5]));
        assert!((t + 3.0 / 2.5f64.sqrt()).abs() < 1e-12, "{t}");
    }

    #[test]
    fn what_is_the_same_is_not_a_leak() {
        for stream in 0..100 {
            let finding = compare(&durations(2 * stream, 5000, 0), &durations(2 * stream + 1, 5000, 0));
            assert!(!finding.is_leak(), "{stream}: {finding:?}");
        }
    }

    #[test]
    fn a_small_difference_below_a_long_tail_is_found() {
        let (first, second) = (durations(1, 5000, 0), durations(2, 5000, 2));
        let finding = compare(&first, &second);
        assert!(finding.is_leak() && finding.cut < 1.0 && 1.0 < finding.difference, "{finding:?}");
        // The tail alone would have hidden it.
        let (t, _) = welch(&below(&first, u64::MAX), &below(&second, u64::MAX));
        assert!(t.abs() < THRESHOLD, "{t}");
        assert!(compare(&second, &first).t < -THRESHOLD);
    }

    #[test]
    fn a_difference_in_the_tail_alone_is_found() {
        let mut second = durations(2, 5000, 0);
        second.iter_mut().step_by(20).for_each(|sample| *sample += 10_000);
        assert!(compare(&durations(1, 5000, 0), &second).is_leak());
    }

    #[test]
    fn constants_are_compared_as_what_they_are() {
        assert_eq!(compare(&[5; 100], &[5; 100]).t, 0.0);
        assert_eq!(compare(&[5; 100], &[6; 100]).t, f64::INFINITY);
        assert_eq!(compare(&[5], &[6]).t, 0.0);
    }
}
