//! Kernels under the JSON scanner: where does a run of plain string bytes end?
//!
//! Owns the step from bytes to that answer: 8 at a time in portable code, 32 or 64 with vectors where the machine has them.
//! Must never: decide what is valid JSON. A job runs whole inside one kernel, so that the kernel is compiled into it.
//!
//! ```text
//! Job ─► Level::run ─► Job::run::<Portable | Avx2 | Avx512> ─► Kernel::plain_run (inlined)
//! ```

use std::sync::OnceLock;

/// Where a run of plain string bytes ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainRun {
    /// Offset of the first quote, backslash or byte below 0x20; the length of the input if there is none.
    pub end: usize,
    /// Every byte before `end` is ASCII.
    pub is_ascii: bool,
}

/// One way to look for the end of a run. A value of the type proves that the machine can do it.
pub trait Kernel: Copy {
    /// The run that begins at `at`, which lies within `bytes` or at its end.
    fn plain_run(self, bytes: &[u8], at: usize) -> PlainRun;
}

/// Work that is compiled once per kernel. Implementations are `#[inline(always)]`, as is what they call in their loops:
/// a function that stays outside is compiled without the kernel's instructions.
pub trait Job {
    type Output;
    fn run<K: Kernel>(self, kernel: K) -> Self::Output;
}

/// Eight bytes at a time, in plain code.
#[derive(Debug, Clone, Copy)]
pub struct Portable;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

impl Kernel for Portable {
    #[inline(always)]
    fn plain_run(self, bytes: &[u8], at: usize) -> PlainRun {
        let mut at = at;
        let mut seen = 0u64;
        while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*chunk);
            // Quotes become 0x20 and control characters stay below it: one comparison for both. A borrow can only
            // mark bytes behind a true hit, so the lowest mark is right.
            let flipped = word ^ (ONES * 0x02);
            let low = flipped.wrapping_sub(ONES * 0x21) & !flipped;
            let slashes = word ^ (ONES * 0x5c);
            let stops = (low | (slashes.wrapping_sub(ONES) & !slashes)) & HIGHS;
            if stops != 0 {
                let before = stops ^ stops.wrapping_sub(1);
                let end = at + (stops.trailing_zeros() / 8) as usize;
                return PlainRun { end, is_ascii: (seen | (word & before)) & HIGHS == 0 };
            }
            seen |= word;
            at += 8;
        }
        let mut is_ascii = seen & HIGHS == 0;
        while let Some(&byte) = bytes.get(at) {
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                break;
            }
            is_ascii &= byte.is_ascii();
            at += 1;
        }
        PlainRun { end: at, is_ascii }
    }
}

/// The kernels, from the plainest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
        #[cfg(target_arch = "x86_64")]
        return x86::available();
        #[cfg(not(target_arch = "x86_64"))]
        return vec![Level::Portable];
    }

    /// Runs the job with this level, or with the portable one if the machine lacks it.
    #[inline]
    pub fn run<J: Job>(self, job: J) -> J::Output {
        match self {
            Level::Portable => job.run(Portable),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::run_avx2(job),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => x86::run_avx512(job),
        }
    }
}

/// The kernels with vectors.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "vector instructions; every block says what makes it sound")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Job, Kernel, Level, PlainRun, Portable};

    /// Made only after detection.
    #[derive(Debug, Clone, Copy)]
    pub struct Avx2(());

    /// Made only after detection.
    #[derive(Debug, Clone, Copy)]
    pub struct Avx512(());

    impl Avx2 {
        #[inline]
        fn detect() -> Option<Avx2> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2"))
                .then_some(Avx2(()))
        }
    }

    impl Avx512 {
        #[inline]
        fn detect() -> Option<Avx512> {
            (Avx2::detect().is_some()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl"))
            .then_some(Avx512(()))
        }
    }

    pub fn available() -> Vec<Level> {
        let avx2 = Avx2::detect().map(|_| Level::Avx2);
        let avx512 = Avx512::detect().map(|_| Level::Avx512);
        [Some(Level::Portable), avx2, avx512].into_iter().flatten().collect()
    }

    #[inline]
    pub fn run_avx2<J: Job>(job: J) -> J::Output {
        match Avx2::detect() {
            // SAFETY: `detect` has found every feature that `inside_avx2` enables.
            Some(kernel) => unsafe { inside_avx2(job, kernel) },
            None => job.run(Portable),
        }
    }

    #[inline]
    pub fn run_avx512<J: Job>(job: J) -> J::Output {
        match Avx512::detect() {
            // SAFETY: `detect` has found every feature that `inside_avx512` enables.
            Some(kernel) => unsafe { inside_avx512(job, kernel) },
            None => job.run(Portable),
        }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn inside_avx2<J: Job>(job: J, kernel: Avx2) -> J::Output {
        job.run(kernel)
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512vl")]
    fn inside_avx512<J: Job>(job: J, kernel: Avx512) -> J::Output {
        job.run(kernel)
    }

    impl Kernel for Avx2 {
        #[inline(always)]
        fn plain_run(self, bytes: &[u8], at: usize) -> PlainRun {
            let mut at = at;
            let mut is_ascii = true;
            while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
                // SAFETY: `self` exists, so `detect` has found AVX2; the load reads the 32 bytes of `chunk`.
                let (stops, highs) = unsafe {
                    let chunk = _mm256_loadu_si256(chunk.as_ptr().cast());
                    // Quotes become 0x20 and control characters stay below it: one comparison for both.
                    let flipped = _mm256_xor_si256(chunk, _mm256_set1_epi8(0x02));
                    let least = _mm256_min_epu8(flipped, _mm256_set1_epi8(0x20));
                    let low = _mm256_cmpeq_epi8(least, flipped);
                    let slashes = _mm256_cmpeq_epi8(chunk, _mm256_set1_epi8(0x5c));
                    let stops = _mm256_movemask_epi8(_mm256_or_si256(low, slashes)) as u32;
                    (stops, _mm256_movemask_epi8(chunk) as u32)
                };
                if stops != 0 {
                    let before = stops ^ stops.wrapping_sub(1);
                    let end = at + stops.trailing_zeros() as usize;
                    return PlainRun { end, is_ascii: is_ascii & (highs & before == 0) };
                }
                is_ascii &= highs == 0;
                at += 32;
            }
            let tail = Portable.plain_run(bytes, at);
            PlainRun { end: tail.end, is_ascii: is_ascii & tail.is_ascii }
        }
    }

    impl Kernel for Avx512 {
        #[inline(always)]
        fn plain_run(self, bytes: &[u8], at: usize) -> PlainRun {
            let mut at = at;
            let mut is_ascii = true;
            while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<64>()) {
                // SAFETY: `self` exists, so `detect` has found AVX-512 F and BW; the load reads the 64 bytes of `chunk`.
                let (stops, highs) = unsafe {
                    let chunk = _mm512_loadu_si512(chunk.as_ptr().cast());
                    marks(chunk)
                };
                if stops != 0 {
                    let before = stops ^ stops.wrapping_sub(1);
                    let end = at + stops.trailing_zeros() as usize;
                    return PlainRun { end, is_ascii: is_ascii & (highs & before == 0) };
                }
                is_ascii &= highs == 0;
                at += 64;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            let lanes = (1u64 << rest.len()) - 1;
            // SAFETY: `self` exists, so `detect` has found AVX-512 F and BW. `rest` has fewer than 64 bytes, or the loop
            // would not have ended, and lanes behind them are neither read nor can they fault.
            let (stops, highs) = unsafe { marks(_mm512_maskz_loadu_epi8(lanes, rest.as_ptr().cast())) };
            // Lanes behind the input are zero, which is a control character: the first of them ends the run at the latest.
            let before = stops ^ stops.wrapping_sub(1);
            let end = at + stops.trailing_zeros() as usize;
            PlainRun { end, is_ascii: is_ascii & (highs & before == 0) }
        }
    }

    /// Bit masks of the bytes that end a run and of those that are not ASCII.
    ///
    /// # Safety
    /// The machine has AVX-512 F and BW.
    #[inline(always)]
    unsafe fn marks(chunk: __m512i) -> (u64, u64) {
        // SAFETY: the caller has found AVX-512 F and BW.
        unsafe {
            let flipped = _mm512_xor_si512(chunk, _mm512_set1_epi8(0x02));
            let low = _mm512_cmple_epu8_mask(flipped, _mm512_set1_epi8(0x20));
            let slashes = _mm512_cmpeq_epi8_mask(chunk, _mm512_set1_epi8(0x5c));
            (low | slashes, _mm512_movepi8_mask(chunk))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct RunAt<'a>(&'a [u8], usize);

    impl Job for RunAt<'_> {
        type Output = PlainRun;
        #[inline(always)]
        fn run<K: Kernel>(self, kernel: K) -> PlainRun {
            kernel.plain_run(self.0, self.1)
        }
    }

    fn model(bytes: &[u8], at: usize) -> PlainRun {
        let stop = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
        let end = bytes[at..].iter().position(stop).map_or(bytes.len(), |found| at + found);
        PlainRun { end, is_ascii: bytes[at..end].is_ascii() }
    }

    fn check(bytes: &[u8], at: usize) {
        let expected = model(bytes, at);
        for level in Level::available() {
            assert_eq!(level.run(RunAt(bytes, at)), expected, "{level:?} at {at} of {bytes:?}");
        }
    }

    #[test]
    fn every_byte_at_every_place_is_seen_by_every_kernel() {
        for len in [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 130] {
            let mut bytes = vec![b'a'; len];
            check(&bytes, len);
            for place in 0..len {
                for byte in 0..=255 {
                    bytes[place] = byte;
                    check(&bytes, 0);
                }
                check(&bytes, place);
                bytes[place] = b'a';
            }
        }
    }

    #[test]
    fn pairs_of_odd_bytes_do_not_hide_each_other() {
        let odd = [0x00, 0x1f, 0x20, 0x21, b'"', 0x23, 0x5b, b'\\', 0x5d, 0x7f, 0x80, 0xa2, 0xdc, 0xff];
        for first in odd {
            for second in odd {
                for gap in 1..70 {
                    let mut bytes = vec![b'x'; 75];
                    bytes[2] = first;
                    bytes[2 + gap] = second;
                    check(&bytes, 0);
                    check(&bytes, 3);
                }
            }
        }
    }
}
