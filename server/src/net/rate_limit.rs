//! How fast a tenant may ask: a token bucket, and the headers that tell a client about it.
//! Whole numbers on microseconds, nothing rounds in anybody's favour; time is an argument and must be monotonic, so that
//! setting the clock gives nothing away.
//!
//! ```text
//! requests ▲ burst ┬───────╮
//!          │       │ take  │  per_second come back each second
//!          │     0 └───────┴─► refused, with the moment at which it fits
//! ```

/// Requests are counted in millionths: a microsecond brings `per_second` of them back.
const UNIT: u64 = 1_000_000;
const SECOND_US: u64 = 1_000_000;

/// What one is allowed: `per_second` for ever, and `burst` at once after a rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Rate {
    /// `None` if either is 0: that would be nothing at all, which is a state of a tenant and not a rate.
    pub const fn new(per_second: u32, burst: u32) -> Option<Rate> {
        if per_second == 0 || burst == 0 { None } else { Some(Rate { per_second, burst }) }
    }

    const fn full(self) -> u64 {
        self.burst as u64 * UNIT
    }

    /// The value of `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11, section 3). The draft knows a quota in a
    /// window and no burst: this is the shortest window that is in whole seconds and whose quota is no less than the
    /// burst. `policy` must have only characters that stand in a quoted string as they are.
    pub fn policy_header(self, policy: &str) -> String {
        let window_s = self.burst.div_ceil(self.per_second);
        let quota = u64::from(self.per_second) * u64::from(window_s);
        format!("\"{policy}\";q={quota};w={window_s}")
    }
}

/// What is left of one's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    level: u64,
    at_us: u64,
}

/// What a request leaves, or what there is for one that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub requests: u32,
    /// Until there is one more; 0 if there cannot be more.
    pub one_more_in_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub left: Left,
    /// Until the same request fits, if no other comes in between. Not 0.
    pub fits_in_us: u64,
}

impl Bucket {
    pub fn full(rate: Rate, now_us: u64) -> Bucket {
        Bucket { level: rate.full(), at_us: now_us }
    }

    /// Takes `count` requests' worth, or nothing. More than the burst counts as the burst: otherwise it would never fit.
    /// The rate may have changed since the last time.
    pub fn take(&mut self, rate: Rate, count: u32, now_us: u64) -> Result<Left, Refused> {
        self.refill(rate, now_us);
        let wanted = u64::from(count.min(rate.burst)) * UNIT;
        if self.level < wanted {
            let fits_in_us = (wanted - self.level).div_ceil(u64::from(rate.per_second));
            return Err(Refused { left: self.left(rate), fits_in_us });
        }
        self.level -= wanted;
        Ok(self.left(rate))
    }

    /// Whether forgetting this bucket would change nothing.
    pub fn is_full(&self, rate: Rate, now_us: u64) -> bool {
        let mut at_now = *self;
        at_now.refill(rate, now_us);
        at_now.level == rate.full()
    }

    fn refill(&mut self, rate: Rate, now_us: u64) {
        // Cores read the clock at different moments: one may be a little older than what stands here.
        let elapsed_us = now_us.saturating_sub(self.at_us);
        let missing = rate.full().saturating_sub(self.level);
        let full_in_us = missing.div_ceil(u64::from(rate.per_second));
        self.level =
            if full_in_us <= elapsed_us { rate.full() } else { self.level + elapsed_us * u64::from(rate.per_second) };
        self.at_us = self.at_us.max(now_us);
    }

    fn left(&self, rate: Rate) -> Left {
        let whole = self.level / UNIT;
        let requests = u32::try_from(whole).expect("a level is at most a burst, which is 32 bits wide");
        if rate.full() <= self.level {
            return Left { requests, one_more_in_us: 0 };
        }
        let one_more_in_us = ((whole + 1) * UNIT - self.level).div_ceil(u64::from(rate.per_second));
        Left { requests, one_more_in_us }
    }
}

impl Left {
    /// The value of `RateLimit` (section 4): within `t` seconds there are no more than `r`. Both are whole, so `t` is at
    /// least 1.
    pub fn header(self, policy: &str) -> String {
        format!("\"{policy}\";r={};t={}", self.requests, whole_seconds(self.one_more_in_us))
    }

    /// The draft (6.2) lets the headers be left out while there is plenty: they are said below a fifth of the burst.
    pub fn is_worth_saying(self, rate: Rate) -> bool {
        u64::from(self.requests) * 5 < u64::from(rate.burst)
    }
}

impl Refused {
    /// The value of `Retry-After`: after it the request fits. Never before the end of the window that [`Left::header`]
    /// gives, as section 6 asks.
    pub fn retry_after_s(self) -> u32 {
        whole_seconds(self.fits_in_us)
    }
}

/// Rounded up, so that nobody comes too early; at least 1, since 0 reads as "at once".
pub fn whole_seconds(us: u64) -> u32 {
    u32::try_from(us.div_ceil(SECOND_US).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Rate = Rate::new(10, 20).unwrap();

    fn refused(requests: u32, one_more_in_us: u64, fits_in_us: u64) -> Result<Left, Refused> {
        Err(Refused { left: Left { requests, one_more_in_us }, fits_in_us })
    }

    #[test]
    fn a_burst_passes_and_the_next_waits_for_its_share_of_a_second() {
        let mut bucket = Bucket::full(FREE, 7);
        for left in (0..20).rev() {
            assert_eq!(bucket.take(FREE, 1, 7), Ok(Left { requests: left, one_more_in_us: 100_000 }));
        }
        assert_eq!(bucket.take(FREE, 1, 7), refused(0, 100_000, 100_000));
        assert_eq!(bucket.take(FREE, 1, 100_006), refused(0, 1, 1));
        assert_eq!(bucket.take(FREE, 1, 100_007), Ok(Left { requests: 0, one_more_in_us: 100_000 }));
        assert!(bucket.take(FREE, 1, 100_008).is_err());
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let mut bucket = Bucket::full(FREE, 0);
        bucket.take(FREE, 20, 0).unwrap();
        for at in 0..100_000 {
            assert!(bucket.take(FREE, 1, at).is_err());
        }
        assert!(bucket.take(FREE, 1, 100_000).is_ok());
    }

    #[test]
    fn no_microsecond_is_lost_however_often_one_asks() {
        // 7 a second does not divide a second: every rounding would show.
        let rate = Rate::new(7, 1).unwrap();
        for step_us in [1, 3, 999, 142_857, 142_858] {
            let mut bucket = Bucket::full(rate, 0);
            let admitted =
                (0..=2_000_000).step_by(step_us).filter(|at| bucket.take(rate, 1, *at as u64).is_ok()).count();
            // Asking at every multiple of the step is late by less than a step each time.
            let expected = 1 + 2_000_000 / (1_000_000usize.div_ceil(7)).next_multiple_of(step_us);
            assert!(expected <= admitted && admitted <= 15, "{step_us}: {expected} {admitted}");
        }
    }

    #[test]
    fn in_the_long_run_it_is_the_rate_and_at_once_it_is_the_burst() {
        let rate = Rate::new(1000, 50).unwrap();
        let mut bucket = Bucket::full(rate, 0);
        let admitted = (0..10_000_000u64).step_by(100).filter(|at| bucket.take(rate, 1, *at).is_ok()).count();
        assert_eq!(admitted, 50 + 9_999);
    }

    #[test]
    fn a_batch_is_taken_whole_or_not_at_all() {
        let mut bucket = Bucket::full(FREE, 0);
        assert_eq!(bucket.take(FREE, 15, 0).unwrap().requests, 5);
        assert_eq!(bucket.take(FREE, 6, 0), refused(5, 100_000, 100_000));
        assert_eq!(bucket.take(FREE, 5, 0).unwrap().requests, 0);
        assert_eq!(bucket.take(FREE, 1_000, 2_000_000).unwrap().requests, 0);
        assert_eq!(bucket.take(FREE, 1_000, 2_000_000), refused(0, 100_000, 2_000_000));
    }

    #[test]
    fn time_that_steps_back_gives_and_takes_nothing() {
        let mut bucket = Bucket::full(FREE, 1_000_000);
        bucket.take(FREE, 20, 1_000_000).unwrap();
        assert!(bucket.take(FREE, 1, 500_000).is_err());
        assert!(bucket.take(FREE, 1, 1_099_999).is_err());
        assert!(bucket.take(FREE, 1, 1_100_000).is_ok());
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_request() {
        let mut bucket = Bucket::full(FREE, 0);
        let small = Rate::new(1, 2).unwrap();
        assert_eq!(bucket.take(small, 1, 0).unwrap().requests, 1);
        assert_eq!(bucket.take(FREE, 1, 0).unwrap().requests, 0);
        assert_eq!(bucket.take(FREE, 1, 60_000_000).unwrap().requests, 19);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let rate = Rate::new(u32::MAX, u32::MAX).unwrap();
        let mut bucket = Bucket::full(rate, 0);
        assert_eq!(bucket.take(rate, u32::MAX, u64::MAX).unwrap().requests, 0);
        let slow = Rate::new(1, u32::MAX).unwrap();
        let mut bucket = Bucket::full(slow, 0);
        bucket.take(slow, u32::MAX, 0).unwrap();
        assert_eq!(bucket.take(slow, u32::MAX, 0).unwrap_err().retry_after_s(), u32::MAX);
        assert!(bucket.is_full(slow, u64::MAX));
    }

    #[test]
    fn a_bucket_at_rest_is_as_good_as_none() {
        let mut bucket = Bucket::full(FREE, 0);
        assert!(bucket.is_full(FREE, 0));
        bucket.take(FREE, 1, 0).unwrap();
        assert!(!bucket.is_full(FREE, 99_999));
        assert!(bucket.is_full(FREE, 100_000));
    }

    #[test]
    fn headers_are_as_the_draft_writes_them() {
        for (per_second, burst, expected) in [
            (10, 20, "\"tenant\";q=20;w=2"),
            (10, 25, "\"tenant\";q=30;w=3"),
            (1000, 20, "\"tenant\";q=1000;w=1"),
            (1, 60, "\"tenant\";q=60;w=60"),
            (u32::MAX, u32::MAX, "\"tenant\";q=4294967295;w=1"),
        ] {
            assert_eq!(Rate::new(per_second, burst).unwrap().policy_header("tenant"), expected);
        }
        let mut bucket = Bucket::full(FREE, 0);
        assert_eq!(bucket.take(FREE, 11, 0).unwrap().header("tenant"), "\"tenant\";r=9;t=1");
        let slow = Rate::new(1, 5).unwrap();
        let mut bucket = Bucket::full(slow, 0);
        bucket.take(slow, 5, 0).unwrap();
        let refused = bucket.take(slow, 3, 100_000).unwrap_err();
        assert_eq!((refused.left.header("tenant").as_str(), refused.retry_after_s()), ("\"tenant\";r=0;t=1", 3));
    }

    #[test]
    fn headers_are_said_when_little_is_left() {
        let left = |requests| Left { requests, one_more_in_us: 1 };
        assert!(left(0).is_worth_saying(FREE) && left(3).is_worth_saying(FREE));
        assert!(!left(4).is_worth_saying(FREE) && !left(20).is_worth_saying(FREE));
    }

    #[test]
    fn seconds_are_rounded_up_and_never_zero() {
        for (us, expected) in [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2), (59_999_999, 60), (u64::MAX, u32::MAX)] {
            assert_eq!(whole_seconds(us), expected, "{us}");
        }
    }

    #[test]
    fn nothing_at_all_is_not_a_rate() {
        assert_eq!((Rate::new(0, 1), Rate::new(1, 0)), (None, None));
    }
}
