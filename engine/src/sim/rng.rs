//! Randomness that a seed decides: xoshiro256** (Blackman and Vigna 2018, "Scrambled Linear Pseudorandom Number
//! Generators"), its state expanded from the seed by SplitMix64.
//!
//! Must never: be used for anything secret. It is predictable on purpose.

use std::ops::Range;

/// A stream of numbers that is the same for the same seed, on every machine.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    state: [u64; 4],
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        let mut expand = seed;
        let state = std::array::from_fn(|_| {
            expand = expand.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(expand)
        });
        Rng { seed, state }
    }

    /// An independent stream. It depends on the seed and the label alone, not on what was drawn so far,
    /// so that one more draw in one part of a simulation leaves the other parts as they were.
    pub fn fork(&self, label: &str) -> Rng {
        let mut seed = mix(self.seed ^ 0x6a09_e667_f3bc_c909);
        for byte in label.bytes() {
            seed = mix(seed ^ u64::from(byte));
        }
        Rng::new(seed)
    }

    /// Any 64 bits.
    pub fn draw(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number below `n`, which must not be 0. The bias is under `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(0 < n);
        ((u128::from(self.draw()) * u128::from(n)) >> 64) as u64
    }

    /// A number in the range, which must not be empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end);
        range.start + self.below(range.end - range.start)
    }

    /// An index into `len` things.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True `numerator` times in `denominator`.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// Any order, each equally likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }

    pub fn fill(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(8) {
            chunk.copy_from_slice(&self.draw().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// SplitMix64's finaliser: every bit of the input reaches every bit of the output, and no two inputs meet.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_algorithm_is_the_published_one() {
        // First outputs of the reference C code from the state 1, 2, 3, 4.
        let mut rng = Rng { seed: 0, state: [1, 2, 3, 4] };
        assert_eq!([rng.draw(), rng.draw(), rng.draw()], [11520, 0, 1509978240]);
    }

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (mut a, mut b, mut c) = (Rng::new(7), Rng::new(7), Rng::new(8));
        let numbers = |rng: &mut Rng| (0..100).map(|_| rng.draw()).collect::<Vec<_>>();
        let first = numbers(&mut a);
        assert_eq!(first, numbers(&mut b));
        assert_ne!(first, numbers(&mut c));
    }

    #[test]
    fn a_fork_depends_on_seed_and_label_alone() {
        let mut rng = Rng::new(7);
        let before = rng.fork("disk").draw();
        rng.draw();
        assert_eq!(before, rng.fork("disk").draw());
        assert_ne!(before, rng.fork("load").draw());
        assert_ne!(before, Rng::new(8).fork("disk").draw());
    }

    #[test]
    fn below_and_range_stay_inside_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let mut seen = [0u32; 7];
        for _ in 0..7000 {
            seen[rng.below(7) as usize] += 1;
            assert!((3..5).contains(&rng.range(3..5)));
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn chance_is_about_right_and_exact_at_the_ends() {
        let mut rng = Rng::new(2);
        let hits = (0..10_000).filter(|_| rng.chance(1, 4)).count();
        assert!((2300..2700).contains(&hits), "{hits}");
        assert!((0..100).all(|_| !rng.chance(0, 3) && rng.chance(3, 3)));
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut rng = Rng::new(3);
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn fill_reaches_a_ragged_end() {
        let mut bytes = [0u8; 1001];
        Rng::new(4).fill(&mut bytes);
        assert!(bytes[992..].iter().any(|&byte| byte != 0));
    }
}
