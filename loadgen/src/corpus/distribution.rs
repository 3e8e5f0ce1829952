//! How sizes and choices are spread: what the command line says of them, and draws from a seeded generator.

use super::Rng;
use crate::failure::Failure;

pub const EVENT_BYTES_MIN: usize = 150;
pub const EVENT_BYTES_MAX: usize = 65_536;
/// Beyond this nearly everything is the first choice. A guess.
const EXPONENT_MAX: f64 = 10.0;

/// How large events are, in bytes of JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// Both ends included.
    Uniform(usize, usize),
    /// Mean and standard deviation; cut off at the smallest and the largest event.
    Normal(f64, f64),
    /// Median, and the standard deviation of the logarithm; cut off likewise.
    LogNormal(f64, f64),
    /// Sizes and their weights.
    List(Vec<(usize, f64)>),
}

impl Sizes {
    /// `bytes` on average, a fifth up or down.
    pub fn around(bytes: usize) -> Result<Self, Failure> {
        if !(EVENT_BYTES_MIN..=EVENT_BYTES_MAX).contains(&bytes) {
            return Err(Failure::Usage(format!("--event-bytes must be {EVENT_BYTES_MIN} to {EVENT_BYTES_MAX}")));
        }
        Ok(Self::Uniform(bytes - bytes / 5, bytes + bytes / 5))
    }

    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("--event-size {text}: {why}"));
        let within = |bytes: usize| {
            let is_within = (EVENT_BYTES_MIN..=EVENT_BYTES_MAX).contains(&bytes);
            is_within.then_some(bytes).ok_or_else(|| wrong("an event has 150 to 65536 bytes"))
        };
        let size = |text: &str| within(text.trim().parse().map_err(|_| wrong("a size must be a whole number"))?);
        let two = |text: &str| {
            let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
            match numbers.as_deref() {
                Some(&[first, second]) if 0.0 <= second && second.is_finite() && first.is_finite() => {
                    within(first as usize)?;
                    Ok((first, second))
                }
                _ => Err(wrong("two numbers are expected, as in normal:220,30 or lognormal:220,0.5")),
            }
        };
        match text.split_once(':') {
            Some(("fixed", bytes)) => size(bytes).map(|bytes| Self::Uniform(bytes, bytes)),
            Some(("uniform", range)) => match range.split_once('-') {
                Some((low, high)) if size(low)? <= size(high)? => Ok(Self::Uniform(size(low)?, size(high)?)),
                _ => Err(wrong("a range is expected, as in uniform:180-260")),
            },
            Some(("normal", numbers)) => two(numbers).map(|(mean, deviation)| Self::Normal(mean, deviation)),
            Some(("lognormal", numbers)) => two(numbers).map(|(median, sigma)| Self::LogNormal(median, sigma)),
            Some(_) => Err(wrong("known are fixed, uniform, normal, lognormal, or a list such as 200=70,2000=30")),
            None => {
                let mut list = Vec::new();
                for part in text.split(',') {
                    let (bytes, weight) = part.split_once('=').unwrap_or((part, "1"));
                    let weight: f64 = weight.trim().parse().map_err(|_| wrong("a weight must be a number"))?;
                    if !(weight.is_finite() && 0.0 < weight) {
                        return Err(wrong("a weight must be above 0"));
                    }
                    list.push((size(bytes)?, weight));
                }
                Ok(Self::List(list))
            }
        }
    }

    pub fn draw(&self, rng: &mut Rng) -> usize {
        let bytes = match self {
            Self::Uniform(low, high) => return low + rng.below((high - low + 1) as u64) as usize,
            Self::Normal(mean, deviation) => mean + deviation * rng.normal(),
            Self::LogNormal(median, sigma) => median * (sigma * rng.normal()).exp(),
            Self::List(list) => {
                let mut left = rng.unit() * list.iter().map(|(_, weight)| weight).sum::<f64>();
                for (bytes, weight) in list {
                    left -= weight;
                    if left < 0.0 {
                        return *bytes;
                    }
                }
                return list[list.len() - 1].0;
            }
        };
        (bytes.round() as usize).clamp(EVENT_BYTES_MIN, EVENT_BYTES_MAX)
    }
}

/// How one of `n` is chosen.
#[derive(Debug, Clone)]
pub enum Choice {
    Uniform(u64),
    Zipf(Zipf),
}

impl Choice {
    /// `flag` is named in the error.
    pub fn parse(flag: &str, text: &str, n: u64) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("{flag} {text}: {why}"));
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform(n)),
            Some(("zipf", exponent)) => match exponent.parse() {
                Ok(exponent) if 0.0 < exponent && exponent <= EXPONENT_MAX => Ok(Self::Zipf(Zipf::new(n, exponent))),
                _ => Err(wrong("the exponent must be above 0 and at most 10")),
            },
            _ => Err(wrong("expected uniform or zipf:EXPONENT, as in zipf:1.1")),
        }
    }

    /// From 0, which is the most frequent.
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        match self {
            Self::Uniform(n) => rng.below(*n),
            Self::Zipf(zipf) => zipf.draw(rng),
        }
    }
}

/// Rank k of n with a probability in proportion to k^-exponent, exactly, without a table: rejection-inversion
/// (Hörmann and Derflinger, 1996). The area under a smooth hat is inverted; few draws fall outside the bars.
#[derive(Debug, Clone)]
pub struct Zipf {
    n: f64,
    exponent: f64,
    area_first: f64,
    area_last: f64,
    sure: f64,
}

impl Zipf {
    pub fn new(n: u64, exponent: f64) -> Self {
        let mut zipf = Self { n: n as f64, exponent, area_first: 0.0, area_last: 0.0, sure: 0.0 };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(zipf.n + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.area(2.5) - zipf.height(2.0));
        zipf
    }

    pub fn draw(&self, rng: &mut Rng) -> u64 {
        loop {
            let area = self.area_last + rng.unit() * (self.area_first - self.area_last);
            let x = self.inverse(area);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.sure || self.area(rank + 0.5) - self.height(rank) <= area {
                return rank as u64 - 1;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of the height from 1 to x.
    fn area(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        // The quotient is 0/0 where the exponent is 1; its limit is 1.
        if t.abs() < 1e-8 { log * (1.0 + t / 2.0) } else { log * t.exp_m1() / t }
    }

    fn inverse(&self, area: f64) -> f64 {
        let t = (area * (1.0 - self.exponent)).max(-1.0);
        let log = if t.abs() < 1e-8 { area * (1.0 - t / 2.0) } else { area * t.ln_1p() / t };
        log.exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_each_rank_as_often_as_its_weight_says() {
        for (n, exponent) in [(1, 1.0), (2, 1.0), (10, 0.5), (10, 1.0), (10, 1.1), (50, 2.0)] {
            const DRAWS: usize = 200_000;
            let zipf = Zipf::new(n, exponent);
            let mut rng = Rng::new(7);
            let mut counts = vec![0_usize; n as usize];
            for _ in 0..DRAWS {
                counts[zipf.draw(&mut rng) as usize] += 1;
            }
            let total: f64 = (1..=n).map(|rank| (rank as f64).powf(-exponent)).sum();
            for (index, count) in counts.iter().enumerate() {
                let expected = ((index + 1) as f64).powf(-exponent) / total * DRAWS as f64;
                // Five standard deviations: the seed is fixed, so this either always holds or never.
                assert!((*count as f64 - expected).abs() <= 5.0 * expected.sqrt(), "{n} {exponent}: {index} {count}");
            }
        }
    }

    #[test]
    fn zipf_stays_within_its_bounds_for_large_numbers() {
        let zipf = Zipf::new(u64::from(u32::MAX), 1.01);
        let mut rng = Rng::new(1);
        assert!((0..100_000).all(|_| zipf.draw(&mut rng) < u64::from(u32::MAX)));
    }

    #[test]
    fn sizes_are_spread_as_they_say() {
        let check = |text: &str, mean_min: f64, mean_max: f64, low: usize, high: usize| {
            let sizes = Sizes::parse(text).unwrap();
            let mut rng = Rng::new(3);
            let drawn: Vec<usize> = (0..20_000).map(|_| sizes.draw(&mut rng)).collect();
            let mean = drawn.iter().sum::<usize>() as f64 / drawn.len() as f64;
            assert!((mean_min..=mean_max).contains(&mean), "{text}: {mean}");
            assert!(drawn.iter().all(|bytes| (low..=high).contains(bytes)), "{text}");
        };
        check("fixed:220", 220.0, 220.0, 220, 220);
        check("uniform:180-260", 219.0, 221.0, 180, 260);
        check("normal:500,50", 498.0, 502.0, 200, 800);
        // The mean of a log-normal is its median times e to half of the variance.
        check("lognormal:1000,0.5", 1120.0, 1146.0, 150, 65_536);
        check("200=70,2000=30", 715.0, 765.0, 200, 2000);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["fixed", "fixed:x", "fixed:10", "uniform:300-200", "normal:220", "gamma:1", "200=0", "", "200=x"] {
            assert!(matches!(Sizes::parse(text), Err(Failure::Usage(_))), "{text}");
        }
        for text in ["zipf", "zipf:0", "zipf:-1", "zipf:x", "other", ""] {
            assert!(matches!(Choice::parse("--entity-skew", text, 5), Err(Failure::Usage(_))), "{text}");
        }
        assert!(Choice::parse("--entity-skew", "zipf:1", 5).is_ok());
    }
}
