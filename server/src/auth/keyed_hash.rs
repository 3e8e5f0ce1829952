//! A presented secret's 128 bits, under a key that each core draws for itself and never shows: by them a core finds and
//! recognises what it has verified before (`recognised`; why this is enough: decision 17).
//! Two texts, however they were chosen, have the same bits for one key in 2^127, and nobody who does not have the key can
//! choose where a text is looked for. Takes the same time for all texts of one length. Must never: leave the process.
//!
//! ```text
//! up to 39 bytes ─► 5 words ───────────────────────────────┐
//! longer         ─► NH, 2 × 128 bits, and the length: 5 words ─┴─► multiply-shift, 2 × 64 bits
//! ```

use siphasher::sip128::SipHasher24;

use crate::auth::presented::CREDENTIAL_BYTES_MAX;

const END_WORDS: usize = 5;
/// With the mark that ends it. Streaming and programmatic keys have 32 and 37 bytes.
const SHORT_BYTES_MAX: usize = 8 * END_WORDS - 1;
const PAIR_BYTES: usize = 16;
/// Two for each pair of the longest text and of its rest, and two more for the second sum.
const WORDS: usize = 2 * (CREDENTIAL_BYTES_MAX / PAIR_BYTES + 1) + 2;

pub struct KeyedHash {
    short: MultiplyShift,
    long: MultiplyShift,
    words: Box<[u64; WORDS]>,
}

impl KeyedHash {
    /// `seed` is random. The keys are what SipHash makes of it and of 0, 1, 2, ...
    pub fn new(seed: u128) -> KeyedHash {
        let expand = SipHasher24::new_with_key(&seed.to_le_bytes());
        let mut keys = (0u64..).map(|number| u128::from(expand.hash(&number.to_le_bytes())));
        let mut key = || keys.next().expect("it does not end");
        KeyedHash {
            short: MultiplyShift::new(&mut key),
            long: MultiplyShift::new(&mut key),
            words: Box::new(std::array::from_fn(|_| key() as u64)),
        }
    }

    /// # Panics
    /// If the secret is longer than any that is looked at.
    pub fn of(&self, secret: &[u8]) -> u128 {
        if secret.len() <= SHORT_BYTES_MAX {
            return self.short.of(marked(secret));
        }
        let [first, second] = self.sums(secret);
        let [first, second] = [first, second].map(|sum| [sum as u64, (sum >> 64) as u64]);
        self.long.of([first[0], first[1], second[0], second[1], secret.len() as u64])
    }

    /// NH with words of 64 bits and a Toeplitz key, from "UMAC: fast and secure message authentication" (Black, Halevi,
    /// Krawczyk, Krovetz, Rogaway, 1999): two texts of one length have one sum in common for one key in 2^64, and both for
    /// one in 2^128.
    fn sums(&self, text: &[u8]) -> [u128; 2] {
        assert!(text.len() <= CREDENTIAL_BYTES_MAX);
        let (pairs, rest) = text.as_chunks::<PAIR_BYTES>();
        let mut end = [0; PAIR_BYTES];
        end[..rest.len()].copy_from_slice(rest);
        let mut sums = [0u128; 2];
        let keys = self.words.as_chunks::<2>().0;
        for (pair, keys) in pairs.iter().chain([&end]).zip(keys.windows(2)) {
            let both = u128::from_le_bytes(*pair);
            let words = [both as u64, (both >> 64) as u64];
            for (sum, key) in sums.iter_mut().zip(keys) {
                let factors = [words[0].wrapping_add(key[0]), words[1].wrapping_add(key[1])];
                *sum = sum.wrapping_add(u128::from(factors[0]) * u128::from(factors[1]));
            }
        }
        sums
    }
}

/// A short text and a byte that no text ends with otherwise, so that no two become the same words.
fn marked(text: &[u8]) -> [u64; END_WORDS] {
    let (whole, rest) = text.as_chunks::<8>();
    let mut end = [0; 8];
    end[..rest.len()].copy_from_slice(rest);
    end[rest.len()] = 1;
    let mut words = [0; END_WORDS];
    for (word, bytes) in words.iter_mut().zip(whole) {
        *word = u64::from_le_bytes(*bytes);
    }
    words[whole.len()] = u64::from_le_bytes(end);
    words
}

/// Dietzfelbinger's multiply-shift for vectors (Thorup, "High speed hashing for integers and strings", 2015, section 3.5):
/// each half is strongly universal, so that what a text hashes to says nothing about any other one text.
struct MultiplyShift {
    /// One for each word and one that is added, for each half.
    keys: [[u128; END_WORDS + 1]; 2],
}

impl MultiplyShift {
    fn new(mut key: impl FnMut() -> u128) -> MultiplyShift {
        MultiplyShift { keys: std::array::from_fn(|_| std::array::from_fn(|_| key())) }
    }

    fn of(&self, words: [u64; END_WORDS]) -> u128 {
        let half = |keys: &[u128; END_WORDS + 1]| {
            let products = words.iter().zip(keys).map(|(word, key)| key.wrapping_mul(u128::from(*word)));
            products.fold(keys[END_WORDS], u128::wrapping_add) >> 64
        };
        half(&self.keys[0]) << 64 | half(&self.keys[1])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The sums as the paper writes them, in another's arithmetic.
    #[test]
    fn long_texts_are_summed_as_the_paper_has_it() {
        let hash = KeyedHash::new(5);
        let text: Vec<u8> = (0..100u8).map(|at| at.wrapping_mul(37)).collect();
        let mut padded = text.clone();
        padded.resize(112, 0);
        let word = |at: usize| u64::from_le_bytes(*padded[8 * at..].first_chunk().unwrap());
        let mut expected = [0u128; 2];
        for (pass, sum) in expected.iter_mut().enumerate() {
            for pair in 0..7 {
                let key = |at: usize| u128::from(hash.words[2 * (pair + pass) + at]);
                let factor = |at: usize| (u128::from(word(2 * pair + at)) + key(at)) % (1 << 64);
                *sum = sum.wrapping_add(factor(0) * factor(1));
            }
        }
        assert_eq!(hash.sums(&text), expected);
    }

    #[test]
    fn every_bit_and_the_length_count() {
        let hash = KeyedHash::new(7);
        for len in [0, 1, 16, 32, 37, SHORT_BYTES_MAX, 40, 48, 49, 101, 270, 271, CREDENTIAL_BYTES_MAX] {
            let text: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut seen = HashSet::from([hash.of(&text)]);
            for bit in 0..8 * len {
                let mut other = text.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                assert!(seen.insert(hash.of(&other)), "{len} bytes, bit {bit}");
            }
            for zeros in 1..=16.min(CREDENTIAL_BYTES_MAX - len) {
                let mut longer = text.clone();
                longer.resize(len + zeros, 0);
                assert!(seen.insert(hash.of(&longer)), "{len} bytes and {zeros} zeros");
            }
        }
    }

    #[test]
    fn another_seed_is_another_hash() {
        let hashes = [0, 1, 1 << 64].map(KeyedHash::new);
        for text in [&b"short"[..], &[7; 300]] {
            let found: HashSet<u128> = hashes.iter().map(|hash| hash.of(text)).collect();
            assert_eq!(found.len(), 3);
            assert_eq!(hashes[1].of(text), KeyedHash::new(1).of(text));
        }
    }

    #[test]
    fn the_upper_halves_of_the_sums_are_the_hash() {
        let mut next = 0u64;
        let hash = MultiplyShift::new(|| {
            next += 1;
            u128::from(next.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(!next.wrapping_mul(77))
        });
        let words = [u64::MAX, 1 << 63, 0x0123_4567_89ab_cdef, 0, 7];
        let expected = hash.keys.map(|keys| {
            // With digits of 32 bits, as on paper.
            let digits = |number: u128| [0, 32, 64, 96].map(|shift| number >> shift & 0xffff_ffff);
            let mut sum = digits(keys[END_WORDS]);
            for (word, key) in words.iter().zip(keys) {
                for (left, word) in digits(u128::from(*word)).into_iter().enumerate() {
                    for (right, key) in digits(key).into_iter().enumerate().take(4 - left) {
                        sum[left + right] += (word * key) & 0xffff_ffff;
                        if left + right < 3 {
                            sum[left + right + 1] += (word * key) >> 32;
                        }
                    }
                }
            }
            let mut carry = 0;
            let sum = sum.map(|digit| {
                let whole = digit + carry;
                carry = whole >> 32;
                whole & 0xffff_ffff
            });
            sum[3] << 32 | sum[2]
        });
        assert_eq!(hash.of(words), expected[0] << 64 | expected[1]);
    }

    /// With 4096 texts in 64 places, each is expected to have 64 of them: 8 is the standard deviation.
    #[test]
    fn similar_texts_lie_everywhere() {
        let hash = KeyedHash::new(11);
        for len in [32, 37, 262] {
            let mut counts = [0; 64];
            for number in 0..4096 {
                counts[(hash.of(format!("{number:0len$}").as_bytes()) >> 122) as usize] += 1;
            }
            assert!(counts.iter().all(|count| (24..=104).contains(count)), "{len}: {counts:?}");
        }
    }
}
