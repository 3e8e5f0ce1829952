//! Kernels under the JSON scanner: which bytes can end or break a string?
//!
//! Owns the step from bytes to one bit per byte: quote, backslash, control character. 8 bytes at a time in portable code, 32 or
//! 64 with vectors where the machine has them. Must never: decide what is valid JSON.
//!
//! ```text
//! body    {"a":"x\n"}         a window of it becomes bits, far ahead of the cursor: taking the next bit of a word is one step
//! stops   0101010010110..     for the machine, where looking for it in the string's bytes would be a chain of a dozen
//! ```

use std::sync::OnceLock;

/// Bytes that one word of bits stands for.
pub const CHUNK_BYTES: usize = 64;
/// Chunks whose bits are made at once: 4 KiB of body stay in the first-level cache with their bits, and are enough for one
/// call to serve many events.
pub const WINDOW_CHUNKS: usize = 64;

/// One bit per byte of a part of the body, lowest bit first.
#[derive(Debug)]
pub struct Window {
    stops: [u64; WINDOW_CHUNKS],
}

impl Default for Window {
    fn default() -> Window {
        Window { stops: [0; WINDOW_CHUNKS] }
    }
}

impl Window {
    /// The bits of a chunk of the window.
    #[inline(always)]
    pub fn stops(&self, chunk_index: usize) -> u64 {
        self.stops[chunk_index % WINDOW_CHUNKS]
    }

    /// Makes the bits of `bytes`, as far as the window reaches. A bit stands at the end of `bytes`, too, if that is within.
    /// What the chunks behind the end hold does not count.
    #[inline]
    pub fn fill(&mut self, level: Level, bytes: &[u8]) {
        match level {
            Level::Portable => self.fill_portable(bytes),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::fill_avx2(self, bytes),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::fill_avx512(self, bytes),
        }
    }

    #[inline(never)]
    fn fill_portable(&mut self, bytes: &[u8]) {
        let (chunks, tail) = bytes.as_chunks::<CHUNK_BYTES>();
        let mut places = self.stops.iter_mut();
        for (chunk, place) in chunks.iter().zip(&mut places) {
            *place = portable_stops(chunk);
        }
        if let Some(place) = places.next() {
            *place = portable_stops(&padded(tail));
        }
    }
}

/// The end of the input as a whole chunk. The zeros behind it are control characters: the first marks the end.
#[inline(always)]
fn padded(tail: &[u8]) -> [u8; CHUNK_BYTES] {
    let mut chunk = [0; CHUNK_BYTES];
    chunk[..tail.len()].copy_from_slice(tail);
    chunk
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LOWS: u64 = 0x7f7f_7f7f_7f7f_7f7f;
const HIGHS: u64 = 0x8080_8080_8080_8080;

#[inline(always)]
fn portable_stops(chunk: &[u8; CHUNK_BYTES]) -> u64 {
    let mut stops = 0;
    for (index, bytes) in chunk.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*bytes);
        // Quotes become 0x20 and control characters stay below it: one comparison for both. No sum carries over.
        let flipped = word ^ (ONES * 0x02);
        let not_low = ((flipped & LOWS) + ONES * (0x80 - 0x21)) | flipped;
        let slashes = word ^ (ONES * 0x5c);
        let not_slash = ((slashes & LOWS) + LOWS) | slashes;
        let marks = !(not_low & not_slash) & HIGHS;
        // Brings the eight marks together in the highest byte.
        let gathered = (marks >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        stops |= gathered << (index * 8);
    }
    stops
}

/// Which kernel makes the bits. A level that the machine lacks must not be chosen; `available` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best level of this machine.
    #[inline]
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Level::available().last().copied().unwrap_or(Level::Portable))
    }

    /// Every level that this machine can run, the plainest first.
    pub fn available() -> Vec<Level> {
        let mut levels = vec![Level::Portable];
        #[cfg(target_arch = "x86_64")]
        levels.extend(x86::available());
        levels
    }
}

/// The kernels with vectors.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says what makes it sound")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHUNK_BYTES, Level, Window, padded};

    fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
    }

    fn has_avx512() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
    }

    pub fn available() -> impl Iterator<Item = Level> {
        let avx2 = has_avx2().then_some(Level::Avx2);
        let avx512 = has_avx512().then_some(Level::Avx512);
        [avx2, avx512].into_iter().flatten()
    }

    #[inline]
    pub fn fill_avx2(window: &mut Window, bytes: &[u8]) {
        assert!(has_avx2());
        // SAFETY: the machine has AVX2, by the line above.
        unsafe { avx2(window, bytes) }
    }

    #[inline]
    pub fn fill_avx512(window: &mut Window, bytes: &[u8]) {
        assert!(has_avx512());
        // SAFETY: the machine has AVX-512 F and BW, by the line above.
        unsafe { avx512(window, bytes) }
    }

    #[target_feature(enable = "avx2")]
    fn avx2(window: &mut Window, bytes: &[u8]) {
        let (chunks, tail) = bytes.as_chunks::<CHUNK_BYTES>();
        let mut places = window.stops.iter_mut();
        for (chunk, place) in chunks.iter().zip(&mut places) {
            *place = avx2_stops(chunk);
        }
        if let Some(place) = places.next() {
            *place = avx2_stops(&padded(tail));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn avx2_stops(chunk: &[u8; CHUNK_BYTES]) -> u64 {
        let (low, high) = chunk.split_at(32);
        // SAFETY: `low` and `high` are 32 bytes each, and the loads need no alignment.
        let (low, high) =
            unsafe { (_mm256_loadu_si256(low.as_ptr().cast()), _mm256_loadu_si256(high.as_ptr().cast())) };
        u64::from(avx2_marks(low)) | u64::from(avx2_marks(high)) << 32
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn avx2_marks(bytes: __m256i) -> u32 {
        // Quotes become 0x20 and control characters stay below it: one comparison for both.
        let flipped = _mm256_xor_si256(bytes, _mm256_set1_epi8(0x02));
        let low = _mm256_cmpeq_epi8(_mm256_min_epu8(flipped, _mm256_set1_epi8(0x20)), flipped);
        let slashes = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(0x5c));
        _mm256_movemask_epi8(_mm256_or_si256(low, slashes)) as u32
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512(window: &mut Window, bytes: &[u8]) {
        let (chunks, tail) = bytes.as_chunks::<CHUNK_BYTES>();
        let mut places = window.stops.iter_mut();
        for (chunk, place) in chunks.iter().zip(&mut places) {
            // SAFETY: `chunk` is 64 bytes, and the load needs no alignment.
            let bytes = unsafe { _mm512_loadu_si512(chunk.as_ptr().cast()) };
            *place = avx512_marks(bytes);
        }
        if let Some(place) = places.next() {
            let lanes = (1u64 << tail.len()) - 1;
            // SAFETY: `tail` has fewer than 64 bytes; lanes behind them are neither read nor can they fault.
            let bytes = unsafe { _mm512_maskz_loadu_epi8(lanes, tail.as_ptr().cast()) };
            *place = avx512_marks(bytes);
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn avx512_marks(bytes: __m512i) -> u64 {
        let flipped = _mm512_xor_si512(bytes, _mm512_set1_epi8(0x02));
        let low = _mm512_cmple_epu8_mask(flipped, _mm512_set1_epi8(0x20));
        low | _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(0x5c))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares every kernel with a loop over the bytes.
    fn check(bytes: &[u8]) {
        const REACH: usize = WINDOW_CHUNKS * CHUNK_BYTES;
        let is_stop = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
        for level in Level::available() {
            let mut window = Window { stops: [u64::MAX; WINDOW_CHUNKS] };
            window.fill(level, bytes);
            for place in 0..REACH.min(bytes.len() + 1) {
                let found = window.stops(place / CHUNK_BYTES) >> (place % CHUNK_BYTES) & 1 == 1;
                assert_eq!(found, bytes.get(place).is_none_or(is_stop), "{level:?} at {place}: {bytes:?}");
            }
        }
    }

    #[test]
    fn every_byte_at_every_place_is_seen_by_every_kernel() {
        for len in [0, 1, 7, 8, 63, 64, 65, 130] {
            let mut bytes = vec![b'a'; len];
            check(&bytes);
            for place in 0..len {
                for byte in [0x00, 0x1f, 0x20, 0x21, b'"', 0x23, 0x5b, b'\\', 0x5d, 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                    bytes[place] = byte;
                    check(&bytes);
                }
                bytes[place] = b'a';
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        check(&all);
    }

    #[test]
    fn neighbours_do_not_disturb_each_other() {
        let odd = [0x00, 0x1f, 0x20, 0x21, b'"', 0x23, 0x5b, b'\\', 0x5d, 0x7f, 0x80, 0xa2, 0xdc, 0xff];
        for first in odd {
            for second in odd {
                let mut bytes = vec![first, second];
                bytes.extend(odd);
                bytes.extend([second, first, first, second]);
                check(&bytes);
            }
        }
    }

    #[test]
    fn a_window_reaches_as_far_as_it_says() {
        for len in [4032, 4095, 4096, 4097, 10_000] {
            let mut bytes: Vec<u8> = (0..len).map(|index| if index % 11 == 0 { b'"' } else { b'x' }).collect();
            check(&bytes);
            bytes[len - 1] = 0xc3;
            check(&bytes);
        }
    }
}
