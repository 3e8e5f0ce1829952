//! Scales: from a value to its place, and which values are written beside the axis.

use crate::figures;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Logarithmic,
}

#[derive(Debug, Clone)]
pub struct Axis {
    pub title: String,
    pub scale: Scale,
    pub low: f64,
    pub high: f64,
    /// Value and label, ascending; an empty label is a faint line only.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Where a value lies: 0 at the low end, 1 at the high one.
    pub fn share(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// Latency in microseconds, a decade at least; ends on 1, 2 or 5.
    pub fn latency(title: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = bounds(values.into_iter().filter(|us| us.is_finite()).map(|us| us.max(1.0)));
        let (mut low, mut high) = (round_down(low), round_up(high));
        while high < low * 10.0 {
            high = round_up(high * 1.5);
            low = if high < low * 10.0 { round_down(low * 0.75).max(1.0) } else { low };
        }
        let ticks = logarithmic_ticks(low, high, 100.0, round_time);
        Self { title: title.to_owned(), scale: Scale::Logarithmic, low, high, ticks }
    }

    /// Rates where each is a multiple of the last.
    pub fn rates(title: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (low, high) = bounds(values.into_iter().filter(|rate| 0.0 < *rate));
        let (low, high) = (round_down(low * 0.95), round_up(high * 1.05));
        let ticks = logarithmic_ticks(low, high, 10_000.0, figures::rate);
        Self { title: title.to_owned(), scale: Scale::Logarithmic, low, high, ticks }
    }

    /// From 0 to a little above the highest, in even steps.
    pub fn from_zero(title: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (_, high) = bounds(values.into_iter().chain([0.0, 1e-9]));
        let step = round_up(high / 6.0);
        let count = (high * 1.02 / step).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|index| {
            let value = f64::from(index) * step;
            (value, figures::rate(value))
        });
        Self { title: title.to_owned(), scale: Scale::Linear, low: 0.0, high: count * step, ticks: ticks.collect() }
    }

    /// Shares of the requests, so that each step to the right is one more nine: placed at 1 / (1 - share).
    pub fn percentiles(count_max: f64) -> Self {
        let decades = count_max.max(10.0).log10().ceil() as usize;
        let mut ticks = vec![(1.0, "0 %".to_owned()), (2.0, "50 %".to_owned()), (10.0, "90 %".to_owned())];
        for decade in 2..=decades {
            let nines = "9".repeat(decade - 2);
            let label = if nines.is_empty() { "99 %".to_owned() } else { format!("99.{nines} %") };
            ticks.push((10f64.powi(decade as i32), label));
        }
        Self {
            title: "share of requests that were faster (each step is one more nine)".to_owned(),
            scale: Scale::Logarithmic,
            low: 1.0,
            high: 10f64.powi(decades as i32),
            ticks,
        }
    }
}

/// A time of few digits, without decimals where it needs none.
fn round_time(us: f64) -> String {
    let (divisor, unit) = if us < 999.5 {
        (1.0, "us")
    } else if us < 999_500.0 {
        (1e3, "ms")
    } else {
        (1e6, "s")
    };
    format!("{} {unit}", figures::rate(us / divisor))
}

/// Of what is finite; 1 to 1 when nothing is.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low <= high { (low, high) } else { (1.0, 1.0) }
}

fn logarithmic_ticks(low: f64, high: f64, crowded: f64, label: impl Fn(f64) -> String) -> Vec<(f64, String)> {
    // Where they would crowd, only the first of each decade is written, and the rest is a faint line.
    let is_wide = crowded < high / low;
    let mut ticks = Vec::new();
    let mut decade = low.log10().floor() as i32;
    while 10f64.powi(decade) <= high * 1.000_001 {
        for digit in [1.0, 2.0, 5.0] {
            let value = digit * 10f64.powi(decade);
            if low * 0.999_999 <= value && value <= high * 1.000_001 {
                let is_written = digit == 1.0 || !is_wide;
                ticks.push((value, if is_written { label(value) } else { String::new() }));
            }
        }
        decade += 1;
    }
    ticks
}

/// The next of 1, 2, 5, 10, 20, .. that is not below.
fn round_up(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let digits = [1.0, 2.0, 5.0, 10.0];
    let digit = digits.into_iter().find(|digit| value <= digit * decade * 1.000_001);
    digit.unwrap_or(10.0) * decade
}

/// The last of 1, 2, 5, 10, 20, .. that is not above.
fn round_down(value: f64) -> f64 {
    let decade = 10f64.powf(value.log10().floor());
    let digits = [5.0, 2.0];
    let digit = digits.into_iter().find(|digit| digit * decade <= value * 1.000_001);
    digit.unwrap_or(1.0) * decade
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, label)| label.as_str()).filter(|label| !label.is_empty()).collect()
    }

    #[test]
    fn ends_are_round() {
        for (value, up, down) in
            [(1.0, 1.0, 1.0), (1.1, 2.0, 1.0), (4.9, 5.0, 2.0), (70.0, 100.0, 50.0), (0.3, 0.5, 0.2)]
        {
            assert!((round_up(value) / up - 1.0).abs() < 1e-9, "{value} up to {}", round_up(value));
            assert!((round_down(value) / down - 1.0).abs() < 1e-9, "{value} down to {}", round_down(value));
        }
    }

    #[test]
    fn every_nine_is_one_step() {
        let axis = Axis::percentiles(50_000.0);
        assert_eq!(labels(&axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
        let step = |from: f64, to: f64| axis.share(to) - axis.share(from);
        assert!((step(10.0, 100.0) - step(1000.0, 10_000.0)).abs() < 1e-9);
        assert_eq!((axis.share(1.0), axis.share(1e5), axis.share(1e9)), (0.0, 1.0, 1.0));
    }

    #[test]
    fn latencies_are_labelled_with_units() {
        assert_eq!(
            labels(&Axis::latency("x", [90.0, 1500.0])),
            ["50 us", "100 us", "200 us", "500 us", "1 ms", "2 ms"]
        );
        assert_eq!(labels(&Axis::latency("x", [90.0, 2e6])), ["100 us", "1 ms", "10 ms", "100 ms", "1 s"]);
        let narrow = Axis::latency("x", [100.0, 110.0]);
        assert!(narrow.low * 10.0 <= narrow.high && narrow.low <= 100.0 && 110.0 <= narrow.high, "{narrow:?}");
        let with_gap = Axis::latency("x", [f64::NAN, 90.0, 1500.0]);
        assert_eq!((with_gap.low, with_gap.high), (50.0, 2000.0));
        assert!(Axis::latency("x", []).low < Axis::latency("x", []).high);
    }

    #[test]
    fn rates_are_labelled_while_there_is_room() {
        let few = Axis::rates("x", [1000.0, 12_000.0]);
        assert_eq!(labels(&few), ["500", "1,000", "2,000", "5,000", "10,000", "20,000"]);
        assert_eq!(
            labels(&Axis::rates("x", [2.0, 2e6])),
            ["1", "10", "100", "1,000", "10,000", "100,000", "1,000,000"]
        );
    }

    #[test]
    fn a_linear_axis_begins_at_zero() {
        let axis = Axis::from_zero("x", [48_000.0, 52_000.0]);
        assert_eq!(labels(&axis), ["0", "10,000", "20,000", "30,000", "40,000", "50,000", "60,000"]);
        assert_eq!((axis.share(0.0), axis.share(30_000.0)), (0.0, 0.5));
        assert!(0.0 < Axis::from_zero("x", []).high);
    }
}
