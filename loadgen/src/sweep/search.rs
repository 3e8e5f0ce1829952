//! The search for the knee: which rate to measure next, and when to stop. It knows no clock and no server.
//!
//! Up a ladder until a rate does not keep the bound, then halfway between the best and the worst until the two are
//! close, then the best once more. One bad measurement decides nothing: a rate that was good once is good, and as soon
//! as one of its measurements was not, two of three alike decide. Only errors count at once: a request that was lost
//! or refused is no noise. What the load generator was too slow for says nothing about the server, so it bounds the
//! search from above and never makes a knee.
//!
//! ```text
//! rate   1 k    2 k    4 k    8 k            6 k    5 k    5.5 k      5.5 k
//!        good   good   good   slow, slow     slow.. good   good   ..  good (confirmed)
//! ```

use crate::result::SEND_LAG_P99_US_MAX;

/// Less than this share of the offered rate, and the server has fallen behind.
pub const ACHIEVED_MIN: f64 = 0.98;

/// So many standard deviations of chance are not the server's fault.
const CHANCE_MAX: f64 = 3.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Good,
    TooSlow,
    Behind,
    Errors,
    LoaderBound,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::TooSlow => "too slow",
            Self::Behind => "behind",
            Self::Errors => "errors",
            Self::LoaderBound => "bound by the loader",
        }
    }
}

/// What the verdict on a measurement hangs on.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    pub offered: f64,
    pub achieved: f64,
    pub response_p99_us: f64,
    pub send_lag_p99_us: f64,
    pub errors: u64,
    /// How far the achieved rate lies from the offered one by chance alone, as a share: one standard deviation.
    pub chance: f64,
    /// The run's own word for it; the send lag is looked at as well.
    pub loader_bound: bool,
}

impl Evidence {
    pub fn judge(&self, p99_us_max: f64) -> Verdict {
        // Figures that are not numbers are not good either.
        let is_under = |value: f64, max: f64| value <= max;
        if self.loader_bound || !is_under(self.send_lag_p99_us, SEND_LAG_P99_US_MAX) {
            Verdict::LoaderBound
        } else if 0 < self.errors {
            Verdict::Errors
        } else if !is_under(self.offered * (ACHIEVED_MIN - CHANCE_MAX * self.chance), self.achieved) {
            Verdict::Behind
        } else if !is_under(self.response_p99_us, p99_us_max) {
            Verdict::TooSlow
        } else {
            Verdict::Good
        }
    }
}

/// Rates are events a second, or requests a second where there are no events.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    pub from: f64,
    pub to: f64,
    /// From one rung of the ladder to the next; above 1.
    pub step: f64,
    /// How close the best and the worst rate must come, as a share of the best.
    pub precision: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Why {
    Ladder,
    Between {
        good: f64,
        bad: f64,
    },
    /// A measurement of this rate was not good: two of three alike decide.
    Again,
    Confirm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Knee,
    LoaderBound,
    NothingGood,
    NeverBroke,
    TimeIsUp,
    Interrupted,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Measure { rate: f64, why: Why },
    End(End),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Undecided,
    Good,
    Failed,
    LoaderBound,
}

/// One rate and what its measurements said.
#[derive(Debug, Clone, Copy)]
struct Trial {
    rate: f64,
    good: u32,
    failed: u32,
    loader_bound: u32,
    had_errors: bool,
}

impl Trial {
    fn fate(&self) -> Fate {
        let counts = (self.good, self.failed, self.loader_bound);
        match counts {
            _ if self.had_errors => Fate::Failed,
            (_, 2.., _) => Fate::Failed,
            (_, _, 2..) => Fate::LoaderBound,
            (2.., _, _) | (1, 0, 0) => Fate::Good,
            // One of each kind: nothing can be said about the server.
            (1, 1, 1) => Fate::LoaderBound,
            _ => Fate::Undecided,
        }
    }

    fn is_confirmed(&self) -> bool {
        2 <= self.good
    }
}

#[derive(Debug)]
pub struct Search {
    range: Range,
    trials: Vec<Trial>,
}

impl Search {
    pub fn new(range: Range) -> Self {
        assert!(0.0 < range.from && range.from <= range.to);
        assert!(1.0 < range.step);
        assert!(0.0 < range.precision);
        Self { range, trials: Vec::new() }
    }

    pub fn record(&mut self, rate: f64, verdict: Verdict) {
        let trial_index = self.trials.iter().position(|trial| trial.rate == rate).unwrap_or_else(|| {
            self.trials.push(Trial { rate, good: 0, failed: 0, loader_bound: 0, had_errors: false });
            self.trials.len() - 1
        });
        let trial = &mut self.trials[trial_index];
        match verdict {
            Verdict::Good => trial.good += 1,
            Verdict::LoaderBound => trial.loader_bound += 1,
            Verdict::TooSlow | Verdict::Behind => trial.failed += 1,
            Verdict::Errors => {
                trial.failed += 1;
                trial.had_errors = true;
            }
        }
    }

    /// The highest rate that is good, below every rate that is not.
    pub fn best(&self) -> Option<f64> {
        self.best_trial().map(|trial| trial.rate)
    }

    /// `time_is_left` for one more measurement.
    pub fn next(&self, time_is_left: bool) -> Step {
        let step = self.wish();
        if matches!(step, Step::Measure { .. }) && !time_is_left { Step::End(End::TimeIsUp) } else { step }
    }

    fn wish(&self) -> Step {
        let measure = |rate: f64, why: Why| Step::Measure { rate, why };
        if let Some(trial) = self.trials.iter().find(|trial| trial.fate() == Fate::Undecided) {
            return measure(trial.rate, Why::Again);
        }
        let Range { from, to, step, precision } = self.range;
        match (self.best_trial(), self.ceiling()) {
            (None, None) => measure(from, Why::Ladder),
            (None, Some(ceiling)) if ceiling.fate() == Fate::LoaderBound => Step::End(End::LoaderBound),
            (None, Some(_)) => Step::End(End::NothingGood),
            (Some(best), None) if best.rate < to => measure((best.rate * step).min(to), Why::Ladder),
            (Some(best), Some(ceiling)) if best.rate * (1.0 + precision) < ceiling.rate => {
                measure(middle(best.rate, ceiling.rate), Why::Between { good: best.rate, bad: ceiling.rate })
            }
            (Some(best), _) if !best.is_confirmed() => measure(best.rate, Why::Confirm),
            (Some(_), None) => Step::End(End::NeverBroke),
            (Some(_), Some(ceiling)) if ceiling.fate() == Fate::LoaderBound => Step::End(End::LoaderBound),
            (Some(_), Some(_)) => Step::End(End::Knee),
        }
    }

    fn ceiling(&self) -> Option<&Trial> {
        let is_bad = |trial: &&Trial| matches!(trial.fate(), Fate::Failed | Fate::LoaderBound);
        self.trials.iter().filter(is_bad).min_by(|one, other| one.rate.total_cmp(&other.rate))
    }

    fn best_trial(&self) -> Option<&Trial> {
        let ceiling = self.ceiling().map_or(f64::INFINITY, |trial| trial.rate);
        let is_good = |trial: &&Trial| trial.fate() == Fate::Good && trial.rate < ceiling;
        self.trials.iter().filter(is_good).max_by(|one, other| one.rate.total_cmp(&other.rate))
    }
}

/// A whole number where one lies between the two.
fn middle(good: f64, bad: f64) -> f64 {
    let middle = f64::midpoint(good, bad);
    if good < middle.round() && middle.round() < bad { middle.round() } else { middle }
}

#[cfg(test)]
mod tests;
