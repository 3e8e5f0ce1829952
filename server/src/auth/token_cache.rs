//! Secrets that this core has verified before, so that the next request with one costs a compare and not a MAC.
//! It remembers that bytes were right, never that they still are allowed: the row decides that each time.
//!
//! ```text
//! set = seeded hash of the last 24 bytes ─► 4 tags ─► whole secret, compared in constant time ─► slot, generation
//! ```
//!
//! Only verified secrets get in, so that a flood of forged ones can neither fill nor slow it.

use std::hint::black_box;

use ringlog_engine::ids::Micros;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// 65,536 tokens of about 270 bytes are some 20 MiB a core; more keys than that pay for a MAC now and then.
const SETS: usize = 16_384;
const WAYS: usize = 4;
/// The end of a token is MAC output, the end of a key is random: both spread by themselves.
const TAIL_BYTES: usize = 24;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    pub slot: u32,
    pub generation: u32,
    /// Of the token itself; its row may expire earlier.
    pub expires_at: Micros,
}

pub struct TokenCache {
    seed: u64,
    sets: Vec<Set>,
}

#[derive(Clone, Default)]
struct Set {
    tags: [u64; WAYS],
    used: [bool; WAYS],
    hand: u8,
    ways: [Option<Entry>; WAYS],
}

#[derive(Clone)]
struct Entry {
    secret: Box<[u8]>,
    verified: Verified,
}

impl TokenCache {
    pub fn new(seed: u64) -> TokenCache {
        TokenCache { seed, sets: vec![Set::default(); SETS] }
    }

    pub fn find(&mut self, secret: &[u8]) -> Option<Verified> {
        let tag = self.tag(secret);
        let set = &mut self.sets[set_index(tag)];
        for way in 0..WAYS {
            if set.tags[way] != tag {
                continue;
            }
            if let Some(entry) = &set.ways[way]
                && same_bytes(&entry.secret, secret)
            {
                set.used[way] = true;
                return Some(entry.verified);
            }
        }
        None
    }

    /// Remembers a secret, in the place of what was known of it. Otherwise the one that goes is the next that was not
    /// used since the hand passed.
    pub fn insert(&mut self, secret: &[u8], verified: Verified) {
        let tag = self.tag(secret);
        let set = &mut self.sets[set_index(tag)];
        let is_it = |entry: &Entry| same_bytes(&entry.secret, secret);
        let known = (0..WAYS).find(|way| set.tags[*way] == tag && set.ways[*way].as_ref().is_some_and(is_it));
        let free = || set.ways.iter().position(Option::is_none);
        let way = match known.or_else(free) {
            Some(way) => way,
            None => set.victim(),
        };
        set.tags[way] = tag;
        // Not until it is found again: a secret that comes once does not push out those that come often.
        set.used[way] = false;
        set.ways[way] = Some(Entry { secret: secret.into(), verified });
    }

    pub fn clear(&mut self) {
        self.sets.fill(Set::default());
    }

    fn tag(&self, secret: &[u8]) -> u64 {
        xxh3_64_with_seed(&secret[secret.len().saturating_sub(TAIL_BYTES)..], self.seed)
    }
}

impl Set {
    fn victim(&mut self) -> usize {
        loop {
            let way = usize::from(self.hand) % WAYS;
            self.hand = self.hand.wrapping_add(1);
            if !self.used[way] {
                return way;
            }
            self.used[way] = false;
        }
    }
}

fn set_index(tag: u64) -> usize {
    const { assert!(SETS.is_power_of_two()) };
    tag as usize & (SETS - 1)
}

/// Takes as long for the first byte that differs as for the last. Only the length may show.
fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    let (left_words, left_rest) = left.as_chunks::<8>();
    let (right_words, right_rest) = right.as_chunks::<8>();
    let mut difference = 0;
    for (left, right) in left_words.iter().zip(right_words) {
        difference |= u64::from_le_bytes(*left) ^ u64::from_le_bytes(*right);
    }
    for (left, right) in left_rest.iter().zip(right_rest) {
        difference |= u64::from(left ^ right);
    }
    // Without the box the compiler may leave the loop as soon as a bit is set.
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(slot: u32) -> Verified {
        Verified { slot, generation: 1, expires_at: Micros(i64::MAX) }
    }

    #[test]
    fn every_byte_of_a_secret_counts() {
        let mut cache = TokenCache::new(7);
        let secret: Vec<u8> = (0..101).collect();
        cache.insert(&secret, verified(3));
        assert_eq!(cache.find(&secret), Some(verified(3)));
        for at in 0..secret.len() {
            for bit in 0..8 {
                let mut other = secret.clone();
                other[at] ^= 1 << bit;
                assert_eq!(cache.find(&other), None, "byte {at} bit {bit}");
            }
        }
        assert_eq!(cache.find(&secret[1..]), None);
        assert_eq!(cache.find(b""), None);
        cache.insert(&secret, verified(4));
        assert_eq!(cache.find(&secret), Some(verified(4)));
        cache.clear();
        assert_eq!(cache.find(&secret), None);
    }

    #[test]
    fn the_cache_keeps_its_size_and_what_is_in_use() {
        let mut cache = TokenCache::new(7);
        cache.insert(b"hot-secret-in-constant-use", verified(1));
        for number in 0..4 * (SETS * WAYS) as u32 {
            cache.insert(format!("one of very many secrets {number:020}").as_bytes(), verified(number));
            assert_eq!(cache.find(b"hot-secret-in-constant-use"), Some(verified(1)));
        }
        let kept = cache.sets.iter().flat_map(|set| &set.ways).flatten().count();
        assert!(SETS * WAYS * 9 / 10 < kept, "{kept}");
    }
}
