//! What is compared: the name of each figure, where it stands in a result, and which way is better.

use crate::result::RunResult;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
    /// More flushes may be care or waste: the figure alone does not say.
    Neither,
}

#[derive(Debug)]
pub struct Metric {
    /// As in the result, without its unit.
    pub name: &'static str,
    pub is_time: bool,
    pub better: Better,
    of: fn(&RunResult) -> Option<f64>,
    /// The same second by second, where it is kept; of the response time in an open loop.
    seconds: Option<fn(&RunResult) -> &[f64]>,
}

pub const METRICS: [Metric; 9] = [
    Metric {
        name: "events_per_second",
        is_time: false,
        better: Better::Higher,
        of: |run| Some(run.events_per_second).filter(|rate| 0.0 < *rate),
        seconds: Some(|run| &run.series.event_rate),
    },
    Metric {
        name: "requests_per_second",
        is_time: false,
        better: Better::Higher,
        of: |run| Some(run.requests_per_second),
        seconds: Some(|run| &run.series.request_rate),
    },
    Metric {
        name: "response_p50",
        is_time: true,
        better: Better::Lower,
        of: |run| run.response_p50_us,
        seconds: Some(|run| seconds_of_response(run, &run.series.p50)),
    },
    Metric {
        name: "response_p99",
        is_time: true,
        better: Better::Lower,
        of: |run| run.response_p99_us,
        seconds: Some(|run| seconds_of_response(run, &run.series.p99)),
    },
    Metric {
        name: "response_p999",
        is_time: true,
        better: Better::Lower,
        of: |run| run.response_p999_us,
        seconds: None,
    },
    Metric {
        name: "service_p50",
        is_time: true,
        better: Better::Lower,
        of: |run| Some(run.service_p50_us),
        seconds: Some(|run| seconds_of_service(run, &run.series.p50)),
    },
    Metric {
        name: "service_p99",
        is_time: true,
        better: Better::Lower,
        of: |run| Some(run.service_p99_us),
        seconds: Some(|run| seconds_of_service(run, &run.series.p99)),
    },
    Metric {
        name: "server_cpu_per_event",
        is_time: true,
        better: Better::Lower,
        of: |run| run.server_cpu_us_per_event,
        seconds: None,
    },
    Metric {
        name: "flushes_per_second",
        is_time: false,
        better: Better::Neither,
        of: |run| run.flushes_per_second,
        seconds: None,
    },
];

impl Metric {
    /// The names are those of the result; its unit may be there or not.
    pub fn named(name: &str) -> Option<&'static Self> {
        let plain = name.replace("_us", "");
        METRICS.iter().find(|metric| metric.name == plain)
    }

    /// One value per run, where every run has one.
    pub fn of_runs(&self, runs: &[RunResult]) -> Option<Vec<f64>> {
        runs.iter().map(|run| (self.of)(run).filter(|value| value.is_finite())).collect()
    }

    /// The value of each second, where the run has the figure and keeps its seconds. A second without an answer has a
    /// rate, which is none, and no time.
    pub fn of_seconds(&self, run: &RunResult) -> Option<Vec<f64>> {
        (self.of)(run)?;
        let seconds = self.seconds?(run);
        let values: Vec<f64> = seconds.iter().copied().filter(|value| !self.is_time || 0.0 < *value).collect();
        (!values.is_empty()).then_some(values)
    }
}

fn seconds_of_response<'a>(run: &RunResult, seconds: &'a [f64]) -> &'a [f64] {
    if run.loop_kind == "open" { seconds } else { &[] }
}

fn seconds_of_service<'a>(run: &RunResult, seconds: &'a [f64]) -> &'a [f64] {
    if run.loop_kind == "open" { &[] } else { seconds }
}

/// `response_p99>+10%`: what must not happen.
#[derive(Debug, Clone)]
pub struct Threshold {
    pub text: String,
    pub metric: &'static Metric,
    /// The ratio beyond which it trips, and on which side.
    ratio: f64,
    is_above: bool,
}

impl Threshold {
    pub fn trips(&self, ratio: f64) -> bool {
        // A ratio that is no number trips too.
        let is_within = if self.is_above { ratio <= self.ratio } else { self.ratio <= ratio };
        !is_within
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        let why = || {
            let names = METRICS.map(|metric| metric.name).join(", ");
            format!("'response_p99>+10%' or 'events_per_second<-5%' is expected, with one of {names}")
        };
        let sign_at = text.find(['<', '>']).ok_or_else(why)?;
        let (name, rest) = text.split_at(sign_at);
        let is_above = rest.starts_with('>');
        let percent = rest[1..].trim().strip_suffix('%').ok_or_else(why)?;
        let percent: f64 = percent.trim_start_matches('+').parse().map_err(|_| why())?;
        if !(-100.0..=1e6).contains(&percent) || percent.is_sign_negative() == is_above {
            return Err(format!("{text:?} would trip without a change: > takes a rise and < a fall, as in <-5%"));
        }
        let metric = Metric::named(name.trim()).ok_or_else(why)?;
        Ok(Self { text: text.to_owned(), metric, ratio: 1.0 + percent / 100.0, is_above })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_without_an_answer_is_not_a_fast_one() {
        let mut run = crate::kept::tests::run_result(1000.0, 50.0);
        run.series.p99 = vec![50.0, 0.0, 70.0];
        run.series.event_rate = vec![1000.0, 0.0, 1000.0];
        assert_eq!(Metric::named("response_p99").unwrap().of_seconds(&run), Some(vec![50.0, 70.0]));
        assert_eq!(Metric::named("events_per_second").unwrap().of_seconds(&run).unwrap().len(), 3);
        assert_eq!(Metric::named("service_p99").unwrap().of_seconds(&run), None);
    }

    #[test]
    fn thresholds_trip_beyond_their_ratio_only() {
        let rise = Threshold::parse("response_p99>+10%").unwrap();
        assert_eq!(rise.metric.name, "response_p99");
        assert!(!rise.trips(0.5) && !rise.trips(1.1) && rise.trips(1.1001) && rise.trips(f64::NAN));
        let fall = Threshold::parse("events_per_second < -5%").unwrap();
        assert!(!fall.trips(1.5) && !fall.trips(0.95) && fall.trips(0.9499));
        assert!(Threshold::parse("server_cpu_us_per_event>3%").unwrap().trips(1.031));
        assert!(Threshold::parse("service_p99_us>0%").unwrap().trips(1.000_1));
    }

    #[test]
    fn thresholds_that_make_no_sense_are_refused() {
        for text in ["", "response_p99", "response_p99>", "response_p99>10", "speed>10%", "response_p99>ten%"] {
            assert!(
                Threshold::parse(text).unwrap_err().contains("is expected, with one of events_per_second"),
                "{text}"
            );
        }
        for text in ["response_p99>-10%", "events_per_second<5%", "events_per_second<-200%"] {
            assert!(Threshold::parse(text).unwrap_err().contains("would trip without a change"), "{text}");
        }
    }
}
