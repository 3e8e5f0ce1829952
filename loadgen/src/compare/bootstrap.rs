//! How sure a ratio of two means is: resampling with a seed, so that the same files give the same interval.
//!
//! Few runs spread less in their resamples than in truth, so the interval is taken further out, by what Student's
//! distribution adds for so few (Hesterberg 2015, the expanded percentile interval). With three and four runs a side
//! that is the whole range of the resamples.

/// How many resamples; the ends of an interval lie between the 50th and 51st of 2000.
pub const RESAMPLES: usize = 4000;
/// Fewer runs on a side, and nothing is concluded.
pub const RUNS_MIN: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub fn contains(&self, ratio: f64) -> bool {
        self.low <= ratio && ratio <= self.high
    }
}

/// Where the means of resamples come from.
#[derive(Debug, Clone, Copy)]
pub enum Sample<'a> {
    /// One value per run, each by itself.
    Runs(&'a [f64]),
    /// One value per second of one run: neighbours are alike, so they are drawn in blocks.
    Seconds(&'a [f64]),
}

impl Sample<'_> {
    fn values(&self) -> &[f64] {
        match self {
            Self::Runs(values) | Self::Seconds(values) => values,
        }
    }

    /// How many values count as independent.
    fn independent(&self) -> usize {
        match self {
            Self::Runs(values) => values.len(),
            Self::Seconds(values) => values.len() / block_len(values.len()),
        }
    }

    fn resampled_mean(&self, random: &mut Random) -> f64 {
        let values = self.values();
        let count = values.len();
        let block = match self {
            Self::Runs(_) => 1,
            Self::Seconds(_) => block_len(count),
        };
        let (mut sum, mut taken) = (0.0, 0);
        while taken < count {
            let start = random.below(count);
            let length = block.min(count - taken);
            // The end is followed by the beginning, so that every second is as likely as any other.
            sum += (start..start + length).map(|index| values[index % count]).sum::<f64>();
            taken += length;
        }
        sum / count as f64
    }
}

/// The usual rate of growth for blocks, with at least two seconds.
fn block_len(count: usize) -> usize {
    ((count as f64).cbrt().round() as usize).clamp(2, count.max(2))
}

pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The interval that holds mean(b) / mean(a) in 95 of 100 cases; absent where a side has less than two values or
/// a mean of nothing.
pub fn interval(a: Sample<'_>, b: Sample<'_>, seed: u64) -> Option<Interval> {
    let independent = a.independent().min(b.independent());
    if independent < 2 {
        return None;
    }
    let mut random = Random(seed);
    let mut ratios = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let ratio = b.resampled_mean(&mut random) / a.resampled_mean(&mut random);
        if !ratio.is_finite() {
            return None;
        }
        ratios.push(ratio);
    }
    ratios.sort_by(f64::total_cmp);
    let tail = tail_share(independent);
    let below = (tail * RESAMPLES as f64).floor() as usize;
    Some(Interval { low: ratios[below], high: ratios[RESAMPLES - 1 - below] })
}

/// The share of the resamples beyond each end.
fn tail_share(count: usize) -> f64 {
    // Student's t at 97.5 %, for 1 to 29 degrees of freedom; beyond, the normal one with the first term of the
    // expansion in 1 / degrees.
    const T: [f64; 29] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
    ];
    let degrees = count - 1;
    let t = T.get(degrees - 1).copied().unwrap_or(1.96 + 2.37 / degrees as f64);
    let reach = t * (count as f64 / degrees as f64).sqrt();
    normal_tail(reach)
}

/// The share of the normal distribution above `z`, to seven digits (Abramowitz and Stegun 26.2.17).
fn normal_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let coefficients = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let polynomial = coefficients.iter().fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * polynomial
}

/// SplitMix64: small, and the same everywhere.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly distributed but for a part in 2^50.
    fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.next()) * count as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values around `centre` with a spread of `spread` of it, bell-shaped.
    fn draw(random: &mut Random, count: usize, centre: f64, spread: f64) -> Vec<f64> {
        let mut bell = || (0..12).map(|_| random.below(1 << 30) as f64 / f64::from(1 << 30)).sum::<f64>() - 6.0;
        (0..count).map(|_| centre * (1.0 + spread * bell())).collect()
    }

    /// How many of 400 experiments have the true ratio, 1.2, in their interval.
    fn covered(runs: usize) -> usize {
        let mut random = Random(7);
        let trials = (0..400).filter(|&trial| {
            let a = draw(&mut random, runs, 1000.0, 0.05);
            let b = draw(&mut random, runs, 1200.0, 0.05);
            interval(Sample::Runs(&a), Sample::Runs(&b), trial).unwrap().contains(1.2)
        });
        trials.count()
    }

    #[test]
    fn the_interval_holds_the_truth_as_often_as_it_says() {
        // 95 % of 400 are 380; three runs a side cannot do better than nine in ten.
        for (runs, at_least, at_most) in [(3, 345, 385), (4, 372, 396), (5, 372, 396), (10, 372, 396)] {
            let covered = covered(runs);
            assert!((at_least..=at_most).contains(&covered), "{runs} runs a side: {covered} of 400");
        }
    }

    #[test]
    fn seconds_that_are_alike_widen_the_interval() {
        // Ten seconds slow, ten seconds fast, and so on: far less is known than sixty values suggest.
        let waves: Vec<f64> = (0..60).map(|second| if second / 10 % 2 == 0 { 900.0 } else { 1100.0 }).collect();
        let width = |sample: Sample<'_>| {
            let interval = interval(sample, sample, 1).unwrap();
            interval.high - interval.low
        };
        assert!(1.5 * width(Sample::Runs(&waves)) < width(Sample::Seconds(&waves)));
    }

    #[test]
    fn the_same_seed_gives_the_same_interval() {
        let (a, b) = ([10.0, 11.0, 12.0, 10.5, 11.5], [20.0, 22.0, 21.0, 23.0, 20.5]);
        let of = |seed: u64| interval(Sample::Runs(&a), Sample::Runs(&b), seed).unwrap();
        assert_eq!(of(1), of(1));
        assert!(of(1).contains(mean(&b) / mean(&a)));
    }

    #[test]
    fn values_that_do_not_vary_have_an_interval_without_width() {
        let same = interval(Sample::Runs(&[10.0; 3]), Sample::Runs(&[12.5; 3]), 1);
        assert_eq!(same, Some(Interval { low: 1.25, high: 1.25 }));
    }

    #[test]
    fn three_runs_a_side_give_their_whole_range() {
        let found = interval(Sample::Runs(&[90.0, 100.0, 110.0]), Sample::Runs(&[180.0, 200.0, 220.0]), 1);
        assert_eq!(found, Some(Interval { low: 180.0 / 110.0, high: 220.0 / 90.0 }));
    }

    #[test]
    fn nothing_is_said_about_one_value_or_about_nothing() {
        assert_eq!(interval(Sample::Runs(&[1.0]), Sample::Runs(&[1.0, 2.0]), 1), None);
        assert_eq!(interval(Sample::Runs(&[0.0, 0.0]), Sample::Runs(&[1.0, 2.0]), 1), None);
        assert_eq!(interval(Sample::Seconds(&[1.0, 1.0, 1.0]), Sample::Seconds(&[1.0; 60]), 1), None);
    }

    #[test]
    fn the_tail_of_the_normal_distribution_is_known() {
        for (z, share) in [(1.0, 0.158_655), (1.96, 0.024_998), (3.0, 0.001_349_9)] {
            assert!((normal_tail(z) - share).abs() < 1e-6, "{z}");
        }
        assert!((tail_share(1000) - 0.0249).abs() < 2e-4);
    }
}
