//! A set of hashes in about 9 bits per key, that answers "certainly not" or "perhaps" (0.4 % wrongly "perhaps").
//!
//! Owns the binary fuse filter with three probes and 8-bit fingerprints (Graf and Lemire 2022, "Binary Fuse Filters:
//! Fast and Smaller Than Xor Filters"). Must never: say "certainly not" of a key that it was built from.
//!
//! ```text
//! 0        8                12                     16           20        24
//! seed u64 segment_len u32  segment_count_len u32  array_len    key_count fingerprints, array_len bytes
//! ```
//! All little-endian. `array_len` = `segment_count_len` + 2 segments; a key's three slots lie in three successive
//! segments. With `array_len` 0 the filter is constant: nothing for no keys, everything otherwise.

/// Bytes before the fingerprints.
pub const FILTER_HEADER_BYTES: usize = 24;

/// 2^18 slots: beyond this, longer segments no longer help and cost cache misses (the paper's reference code).
const SEGMENT_LEN_MAX: u32 = 1 << 18;

/// A seed fails less than one time in ten for small sets and almost never for large ones.
const ATTEMPTS_MAX: u32 = 64;

/// After this many failures in a row the array grows by an eighth.
const ATTEMPTS_PER_GROWTH: u32 = 8;

/// Builds a filter over the keys, which are left sorted and without duplicates.
///
/// The same keys and seed give the same bytes. It always succeeds: if no seed fits, the filter says "perhaps" to all.
pub fn build(keys: &mut Vec<u64>, seed: u64) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    let Ok(key_count) = u32::try_from(keys.len()) else {
        return constant(seed, u32::MAX);
    };
    if key_count == 0 {
        return constant(seed, 0);
    }
    let mut work = Construction::default();
    for attempt in 0..ATTEMPTS_MAX {
        let Some(layout) = Layout::for_keys(key_count, attempt / ATTEMPTS_PER_GROWTH) else { break };
        let seed = murmur(seed.wrapping_add(u64::from(attempt)));
        if work.peel(keys, seed, &layout) {
            let mut bytes = header(seed, &layout, key_count);
            bytes.resize(FILTER_HEADER_BYTES + layout.array_len as usize, 0);
            work.assign(&layout, &mut bytes[FILTER_HEADER_BYTES..]);
            return bytes;
        }
    }
    constant(seed, key_count)
}

/// A filter where it lies: in a mapped file, a block, a buffer.
#[derive(Debug, Clone, Copy)]
pub struct FilterRef<'a> {
    seed: u64,
    segment_len: u32,
    segment_count_len: u32,
    key_count: u32,
    fingerprints: &'a [u8],
}

impl<'a> FilterRef<'a> {
    /// `None` unless the bytes are exactly one filter of consistent shape. Whether the fingerprints are those that were
    /// written is for the checksum around them to say; wrong ones give wrong answers, never a panic.
    pub fn parse(bytes: &'a [u8]) -> Option<FilterRef<'a>> {
        let (header, fingerprints) = bytes.split_first_chunk::<FILTER_HEADER_BYTES>()?;
        let field = |at: usize| -> Option<u32> { Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?)) };
        let seed = u64::from_le_bytes(*header.first_chunk::<8>()?);
        let (segment_len, segment_count_len, array_len, key_count) = (field(8)?, field(12)?, field(16)?, field(20)?);
        if fingerprints.len() as u64 != u64::from(array_len) {
            return None;
        }
        let shape_is_valid = if array_len == 0 {
            segment_len == 0 && segment_count_len == 0
        } else {
            segment_len.is_power_of_two()
                && segment_count_len != 0
                && segment_count_len % segment_len == 0
                && u64::from(segment_count_len) + 2 * u64::from(segment_len) == u64::from(array_len)
        };
        shape_is_valid.then_some(FilterRef { seed, segment_len, segment_count_len, key_count, fingerprints })
    }

    /// True for every key of the set, and for about 0.4 % of all others.
    pub fn may_contain(&self, key: u64) -> bool {
        if self.fingerprints.is_empty() {
            return self.key_count != 0;
        }
        let hash = murmur(key.wrapping_add(self.seed));
        // In bounds for any valid shape: the first slot is below `segment_count_len`, the other two are in the next segments.
        let [a, b, c] = slots(hash, self.segment_len, self.segment_count_len);
        let found = self.fingerprints[a as usize] ^ self.fingerprints[b as usize] ^ self.fingerprints[c as usize];
        found == fingerprint(hash)
    }

    /// Distinct keys that the filter was built from.
    pub fn key_count(&self) -> u32 {
        self.key_count
    }
}

struct Layout {
    segment_len: u32,
    segment_count_len: u32,
    array_len: u32,
}

impl Layout {
    /// The paper's sizes, an eighth larger for each growth. `None` if slots would not be numbered in 32 bits.
    fn for_keys(key_count: u32, growths: u32) -> Option<Layout> {
        let keys = f64::from(key_count);
        let exponent = (keys.ln() / 3.33f64.ln() + 2.25).floor();
        let segment_len = if exponent < 18.0 { 1u32 << exponent as u32 } else { SEGMENT_LEN_MAX };
        let factor = if key_count < 2 { 1.0 } else { (0.875 + 0.25 * 1e6f64.ln() / keys.ln()).max(1.125) };
        let capacity = (keys * factor).round() as u64;
        let capacity = capacity + capacity * u64::from(growths) / 8;
        let segment_count = capacity.div_ceil(u64::from(segment_len)).saturating_sub(2).max(1) + u64::from(growths);
        let segment_count_len = segment_count * u64::from(segment_len);
        Some(Layout {
            segment_len,
            segment_count_len: u32::try_from(segment_count_len).ok()?,
            array_len: u32::try_from(segment_count_len + 2 * u64::from(segment_len)).ok()?,
        })
    }
}

/// Memory of one construction, kept from one attempt to the next.
#[derive(Default)]
struct Construction {
    /// The keys' hashes, ordered by the segment of their first slot: the peeling then walks memory forwards.
    hashes: Vec<u64>,
    /// Per slot, how many keys that are not yet peeled lie in it, and the xor of their hashes.
    counts: Vec<u32>,
    xors: Vec<u64>,
    /// Slots with exactly one key.
    alone: Vec<u32>,
    /// Peeled keys in order, each with which of its three slots it had alone.
    peeled: Vec<(u64, u8)>,
}

impl Construction {
    /// Takes away, again and again, a key that is alone in one of its slots. False if some keys always share all of theirs.
    fn peel(&mut self, keys: &[u64], seed: u64, layout: &Layout) -> bool {
        self.order_by_segment(keys, seed, layout);
        let array_len = layout.array_len as usize;
        self.counts.clear();
        self.counts.resize(array_len, 0);
        self.xors.clear();
        self.xors.resize(array_len, 0);
        for &hash in &self.hashes {
            for slot in slots(hash, layout.segment_len, layout.segment_count_len) {
                self.counts[slot as usize] += 1;
                self.xors[slot as usize] ^= hash;
            }
        }
        self.alone.clear();
        self.alone.extend((0..layout.array_len).filter(|&slot| self.counts[slot as usize] == 1));
        self.peeled.clear();
        while let Some(slot) = self.alone.pop() {
            if self.counts[slot as usize] != 1 {
                continue;
            }
            let hash = self.xors[slot as usize];
            for (which, other) in (0..).zip(slots(hash, layout.segment_len, layout.segment_count_len)) {
                self.counts[other as usize] -= 1;
                self.xors[other as usize] ^= hash;
                if other == slot {
                    self.peeled.push((hash, which));
                } else if self.counts[other as usize] == 1 {
                    self.alone.push(other);
                }
            }
        }
        self.peeled.len() == keys.len()
    }

    /// In reverse order each key's own slot is free when its turn comes, and is chosen so that the three slots add up.
    fn assign(&self, layout: &Layout, fingerprints: &mut [u8]) {
        for &(hash, which) in self.peeled.iter().rev() {
            let [a, b, c] = slots(hash, layout.segment_len, layout.segment_count_len).map(|slot| slot as usize);
            let sum = fingerprint(hash) ^ fingerprints[a] ^ fingerprints[b] ^ fingerprints[c];
            // The own slot is still 0, so that it adds nothing to the sum.
            fingerprints[[a, b, c][usize::from(which)]] = sum;
        }
    }

    /// A counting sort, by the leading bits that decide the segment.
    fn order_by_segment(&mut self, keys: &[u64], seed: u64, layout: &Layout) {
        let segment_count = layout.segment_count_len / layout.segment_len;
        let shift = 64 - segment_count.next_power_of_two().trailing_zeros().max(1);
        let mut starts = vec![0u32; 1 + (1 << (64 - shift))];
        for &key in keys {
            starts[1 + (murmur(key.wrapping_add(seed)) >> shift) as usize] += 1;
        }
        for bucket in 1..starts.len() {
            starts[bucket] += starts[bucket - 1];
        }
        self.hashes.clear();
        self.hashes.resize(keys.len(), 0);
        for &key in keys {
            let hash = murmur(key.wrapping_add(seed));
            let place = &mut starts[(hash >> shift) as usize];
            self.hashes[*place as usize] = hash;
            *place += 1;
        }
    }
}

/// Three slots in three successive segments, of which `segment_len` is a power of two.
fn slots(hash: u64, segment_len: u32, segment_count_len: u32) -> [u32; 3] {
    let mask = segment_len - 1;
    let first = ((u128::from(hash) * u128::from(segment_count_len)) >> 64) as u32;
    let second = (first + segment_len) ^ ((hash >> 18) as u32 & mask);
    let third = (first + 2 * segment_len) ^ (hash as u32 & mask);
    [first, second, third]
}

fn fingerprint(hash: u64) -> u8 {
    (hash ^ (hash >> 32)) as u8
}

/// MurmurHash3's 64-bit finaliser. Distinct keys stay distinct.
fn murmur(value: u64) -> u64 {
    let value = (value ^ (value >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let value = (value ^ (value >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

fn header(seed: u64, layout: &Layout, key_count: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FILTER_HEADER_BYTES + layout.array_len as usize);
    bytes.extend_from_slice(&seed.to_le_bytes());
    for field in [layout.segment_len, layout.segment_count_len, layout.array_len, key_count] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes
}

fn constant(seed: u64, key_count: u32) -> Vec<u8> {
    header(seed, &Layout { segment_len: 0, segment_count_len: 0, array_len: 0 }, key_count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Rng;

    fn random_keys(count: usize, seed: u64) -> Vec<u64> {
        let mut rng = Rng::new(seed);
        (0..count).map(|_| rng.draw()).collect()
    }

    /// Builds, checks every key, and gives the filter's bytes.
    fn check(mut keys: Vec<u64>, seed: u64) -> Vec<u8> {
        let bytes = build(&mut keys, seed);
        let filter = FilterRef::parse(&bytes).unwrap();
        assert_eq!(filter.key_count() as usize, keys.len());
        for &key in &keys {
            assert!(filter.may_contain(key), "{} keys, seed {seed}, key {key}", keys.len());
        }
        bytes
    }

    #[test]
    fn every_key_is_found_in_sets_of_0_to_2000() {
        for count in 0..2000 {
            check(random_keys(count, count as u64), 1);
            check((0..count as u64).collect(), 2);
        }
    }

    #[test]
    fn an_empty_set_contains_nothing() {
        let bytes = check(Vec::new(), 1);
        assert_eq!(bytes.len(), FILTER_HEADER_BYTES);
        assert!(!(0..1000).any(|key| FilterRef::parse(&bytes).unwrap().may_contain(key)));
    }

    #[test]
    fn duplicates_count_once() {
        let bytes = check(vec![5, 5, 5, 6, 6, 5], 1);
        assert_eq!(FilterRef::parse(&bytes).unwrap().key_count(), 2);
    }

    #[test]
    fn tiny_and_extreme_keys_work() {
        for seed in 0..200 {
            check(vec![0], seed);
            check(vec![0, u64::MAX], seed);
            check(vec![1, 2, 3], seed);
        }
    }

    #[test]
    fn a_million_keys_are_found_small_and_rarely_confused() {
        let bytes = check(random_keys(1_000_000, 9), 3);
        assert!(bytes.len() < 1_180_000, "{}", bytes.len());
        let filter = FilterRef::parse(&bytes).unwrap();
        let wrong = random_keys(1_000_000, 10).into_iter().filter(|&key| filter.may_contain(key)).count();
        assert!(wrong < 6000, "{wrong} of a million");
    }

    #[test]
    fn small_sets_are_rarely_confused_too() {
        let mut wrong = 0;
        for count in 1..1000 {
            let bytes = build(&mut random_keys(count, count as u64), 1);
            let filter = FilterRef::parse(&bytes).unwrap();
            wrong += random_keys(1000, !(count as u64)).into_iter().filter(|&key| filter.may_contain(key)).count();
        }
        assert!(wrong < 6000, "{wrong} of a million");
    }

    #[test]
    fn the_same_keys_and_seed_give_the_same_bytes() {
        let mut backwards = random_keys(500, 1);
        backwards.reverse();
        assert_eq!(check(random_keys(500, 1), 4), check(backwards, 4));
        assert_ne!(check(random_keys(500, 1), 4), check(random_keys(500, 1), 5));
    }

    #[test]
    fn growth_makes_room() {
        let base = Layout::for_keys(1000, 0).unwrap();
        let grown = Layout::for_keys(1000, 3).unwrap();
        assert!(base.array_len < grown.array_len);
        assert!(Layout::for_keys(u32::MAX, 0).is_none());
        assert!(FilterRef::parse(&constant(1, u32::MAX)).unwrap().may_contain(77));
    }

    #[test]
    fn hostile_bytes_never_panic() {
        let mut rng = Rng::new(11);
        let good = check(random_keys(300, 1), 1);
        for round in 0..50_000u64 {
            let mut bytes = if round % 2 == 0 {
                good.clone()
            } else {
                let mut random = vec![0; rng.index(80)];
                rng.fill(&mut random);
                random
            };
            for _ in 0..rng.below(4) {
                if !bytes.is_empty() {
                    let at = if rng.chance(3, 4) { rng.index(bytes.len().min(24)) } else { rng.index(bytes.len()) };
                    bytes[at] = if rng.chance(1, 2) { rng.draw() as u8 } else { [0, 1, 0x80, 0xff][rng.index(4)] };
                }
            }
            if rng.chance(1, 8) {
                bytes.truncate(rng.index(bytes.len() + 1));
            }
            if let Some(filter) = FilterRef::parse(&bytes) {
                for _ in 0..20 {
                    filter.may_contain(rng.draw());
                }
            }
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let shape = |segment_len: u32, segment_count_len: u32, array_len: u32, bytes: usize| {
            let mut filter = header(1, &Layout { segment_len, segment_count_len, array_len }, 5);
            filter.resize(FILTER_HEADER_BYTES + bytes, 0);
            FilterRef::parse(&filter).is_some()
        };
        assert!(shape(4, 8, 16, 16));
        assert!(shape(0, 0, 0, 0));
        assert!(!shape(4, 8, 16, 15));
        assert!(!shape(4, 8, 16, 17));
        assert!(!shape(4, 8, 12, 12));
        assert!(!shape(3, 9, 15, 15));
        assert!(!shape(4, 6, 14, 14));
        assert!(!shape(4, 0, 8, 8));
        assert!(!shape(0, 0, 8, 8));
        assert!(!shape(4, 8, 0, 0));
        assert!(!shape(1 << 31, 1 << 31, 1 << 31, 0));
    }

    #[test]
    #[ignore = "prints a time: cargo test --release -p ringlog-engine filter -- --ignored --nocapture"]
    #[expect(clippy::disallowed_methods, reason = "a measurement, run by hand")]
    fn time_to_build_a_million_keys() {
        let mut keys = random_keys(1_000_000, 9);
        let started = std::time::Instant::now();
        let bytes = build(&mut keys, 3);
        println!("1M keys: {:?}, {} bytes", started.elapsed(), bytes.len());
        let filter = FilterRef::parse(&bytes).unwrap();
        let started = std::time::Instant::now();
        let found = random_keys(1_000_000, 10).into_iter().filter(|&key| filter.may_contain(key)).count();
        println!("1M probes with their keys made: {:?}, {found} wrong", started.elapsed());
    }
}
