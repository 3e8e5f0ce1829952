//! How fast each tenant may ask, whichever cores it asks: one number for each tenant, which all cores move on together.
//!
//! The number is the moment at which the tenant's bucket is full again. A request moves it on by its share of a second, and
//! is refused where that would be further ahead than a burst. Nobody waits for anybody: who loses a race looks again. Time
//! is an argument and must be monotonic.
//!
//! ```text
//!      now                  full again          now + burst
//!  ─────┼─────── used ──────────┼──── left ──────────┼─────►
//!                               └─► one request       └ never beyond
//! ```
//!
//! It is the bucket of `rate_limit` told by its end, so that one word holds it: shares are whole nanoseconds, rounded up,
//! which is exact for every tier.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::net::rate_limit::{Left, Rate, Refused};

const SECOND_NS: u64 = 1_000_000_000;

/// Tenants whose numbers are made together, when the first of them asks: 32 KiB.
const CHUNK_TENANTS: usize = 4096;

pub struct TenantRates {
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl TenantRates {
    /// For tenants whose numbers are below `tenants_max`.
    pub fn new(tenants_max: usize) -> TenantRates {
        TenantRates { chunks: (0..tenants_max.div_ceil(CHUNK_TENANTS)).map(|_| OnceLock::new()).collect() }
    }

    /// Takes one request's worth out of a tenant's bucket, or nothing. The rate may have changed since the last time.
    pub fn take(&self, tenant: usize, rate: Rate, now_us: u64) -> Result<Left, Refused> {
        let chunk =
            self.chunks[tenant / CHUNK_TENANTS].get_or_init(|| (0..CHUNK_TENANTS).map(|_| AtomicU64::new(0)).collect());
        take(&chunk[tenant % CHUNK_TENANTS], rate, now_us)
    }
}

fn take(full_at_ns: &AtomicU64, rate: Rate, now_us: u64) -> Result<Left, Refused> {
    let share_ns = SECOND_NS.div_ceil(u64::from(rate.per_second));
    let burst_ns = share_ns * u64::from(rate.burst);
    let now_ns = now_us.saturating_mul(1_000);
    let latest_ns = now_ns.saturating_add(burst_ns);
    let mut known_ns = full_at_ns.load(Ordering::Relaxed);
    loop {
        // Another core's clock may be a little ahead of this one's: then there is a little less left.
        let after_ns = known_ns.max(now_ns).saturating_add(share_ns);
        if latest_ns < after_ns {
            let fits_in_us = (after_ns - latest_ns).div_ceil(1_000);
            return Err(Refused { left: Left { requests: 0, one_more_in_us: fits_in_us }, fits_in_us });
        }
        match full_at_ns.compare_exchange_weak(known_ns, after_ns, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(left(latest_ns - after_ns, share_ns)),
            Err(found) => known_ns = found,
        }
    }
}

/// After a request something is always missing, so that there can be one more.
fn left(left_ns: u64, share_ns: u64) -> Left {
    let requests = u32::try_from(left_ns / share_ns).expect("what is left is less than a burst, which is 32 bits wide");
    Left { requests, one_more_in_us: (share_ns - left_ns % share_ns).div_ceil(1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::rate_limit::Bucket;

    const FREE: Rate = Rate::new(2_000, 4_000).unwrap();

    #[test]
    fn it_is_the_bucket_of_one_core_for_every_tier() {
        for per_second in [1, 2_000, 5_000, 10_000, 50_000] {
            let rate = Rate::new(per_second, per_second * 2).unwrap();
            let (shared, mut own) = (AtomicU64::new(0), Bucket::full(rate, 0));
            let share_us = 1_000_000 / u64::from(per_second);
            let (mut now_us, mut random) = (0, 1_u64);
            let mut refused = 0;
            for number in 0..350_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Four times as fast as the rate until the burst is used up, then half as fast, then fast again.
                let pause_us_max = if number % 300_000 < 200_000 { share_us / 2 } else { share_us * 4 };
                now_us += (random >> 33) % pause_us_max;
                let (one, other) = (take(&shared, rate, now_us), own.take(rate, 1, now_us));
                assert_eq!(one, other, "{per_second} a second at {now_us}");
                refused += u32::from(one.is_err());
            }
            assert!(0 < refused && refused < 200_000, "{refused}");
        }
    }

    #[test]
    fn many_cores_take_one_burst_and_no_more() {
        let rates = TenantRates::new(10_000);
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..2_000).filter(|_| rates.take(5_000, FREE, 77).is_ok()).count();
            let cores: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            cores.into_iter().map(|core| core.join().unwrap()).sum()
        });
        assert_eq!(taken, 4_000);
        // The next one fits half a millisecond later, and for all of them there is one.
        assert_eq!(rates.take(5_000, FREE, 77).unwrap_err().fits_in_us, 500);
        assert!(rates.take(5_000, FREE, 576).is_err());
        assert!(rates.take(5_000, FREE, 577).is_ok());
        assert!(rates.take(5_000, FREE, 577).is_err());
    }

    #[test]
    fn tenants_do_not_know_of_each_other() {
        let rates = TenantRates::new(10_000);
        let one = Rate::new(1, 1).unwrap();
        for tenant in [0, 1, 4_095, 4_096, 9_999] {
            assert!(rates.take(tenant, one, 0).is_ok(), "{tenant}");
            assert!(rates.take(tenant, one, 0).is_err(), "{tenant}");
        }
    }

    #[test]
    fn a_rate_that_does_not_divide_a_second_is_never_exceeded() {
        let rate = Rate::new(7, 14).unwrap();
        let cell = AtomicU64::new(0);
        let admitted = (0..10_000_000_u64).step_by(100).filter(|at| take(&cell, rate, *at).is_ok()).count();
        assert_eq!(admitted, 14 + 69);
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_request() {
        let cell = AtomicU64::new(0);
        while take(&cell, FREE, 0).is_ok() {}
        let slow = Rate::new(1, 2).unwrap();
        assert_eq!(take(&cell, slow, 0).unwrap_err().retry_after_s(), 1);
        assert!(take(&cell, slow, 1_000_000).is_ok());
        assert!(take(&cell, slow, 1_000_000).is_err());
        assert_eq!(take(&cell, FREE, 3_000_000).unwrap().requests, 3_999);
    }

    #[test]
    fn a_clock_that_is_behind_gives_nothing_away() {
        let cell = AtomicU64::new(0);
        let one = Rate::new(1, 1).unwrap();
        assert!(take(&cell, one, 5_000_000).is_ok());
        assert_eq!(take(&cell, one, 4_999_000).unwrap_err().fits_in_us, 1_001_000);
        assert!(take(&cell, one, 6_000_000).is_ok());
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let widest = Rate::new(u32::MAX, u32::MAX).unwrap();
        assert!(take(&AtomicU64::new(0), widest, 0).is_ok());
        let slowest = Rate::new(1, u32::MAX).unwrap();
        assert!(take(&AtomicU64::new(0), slowest, u64::MAX / 2_000).is_ok());
        assert!(take(&AtomicU64::new(u64::MAX), slowest, 0).is_err());
    }
}
