//! How often one address may onboard: so many in any hour, counted exactly. IPv6 counts by /64, which is what one
//! customer has. Time is monotonic: setting the clock forgives nobody and locks nobody out.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

const HOUR_US: u64 = 3_600_000_000;

/// Attempts that are remembered, of all addresses together. Beyond it everyone waits: a flood from everywhere ends here.
const ATTEMPTS_MAX: usize = 65_536;

pub struct OnboardLimit {
    /// 0 is without limit.
    per_hour: u32,
    attempts_max: usize,
    recent: VecDeque<(u64, AddressKey)>,
    by_address: HashMap<AddressKey, VecDeque<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum AddressKey {
    V4([u8; 4]),
    V6([u8; 8]),
}

/// How long until the next attempt can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    pub seconds: u64,
}

impl OnboardLimit {
    pub fn new(per_hour: u32) -> OnboardLimit {
        OnboardLimit { per_hour, attempts_max: ATTEMPTS_MAX, recent: VecDeque::new(), by_address: HashMap::new() }
    }

    pub fn per_hour(&self) -> u32 {
        self.per_hour
    }

    /// Counts an attempt, unless it is one too many. Refused attempts do not count: who waits gets through.
    pub fn admit(&mut self, source: IpAddr, now_us: u64) -> Result<(), RetryAfter> {
        if self.per_hour == 0 {
            return Ok(());
        }
        self.forget(now_us);
        let key = address_key(source);
        let own = self.by_address.get(&key);
        let too_many = own.filter(|attempts| self.per_hour as usize <= attempts.len());
        let first = match too_many {
            Some(attempts) => attempts.front().copied(),
            None if self.attempts_max <= self.recent.len() => self.recent.front().map(|(at, _)| *at),
            None => None,
        };
        if let Some(first) = first {
            // Cores read the clock at different moments, so that one may be a little older than what stands before it.
            let left_us = (first + HOUR_US).saturating_sub(now_us);
            return Err(RetryAfter { seconds: left_us.div_ceil(1_000_000).max(1) });
        }
        self.recent.push_back((now_us, key));
        self.by_address.entry(key).or_default().push_back(now_us);
        Ok(())
    }

    fn forget(&mut self, now_us: u64) {
        while let Some((at, key)) = self.recent.front().copied()
            && at + HOUR_US <= now_us
        {
            self.recent.pop_front();
            let attempts = self.by_address.get_mut(&key).expect("every recent attempt is its address's");
            attempts.pop_front();
            if attempts.is_empty() {
                self.by_address.remove(&key);
            }
        }
    }
}

fn address_key(source: IpAddr) -> AddressKey {
    match source.to_canonical() {
        IpAddr::V4(address) => AddressKey::V4(address.octets()),
        IpAddr::V6(address) => AddressKey::V6(*address.octets().first_chunk().expect("an IPv6 address has 16 bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_US: u64 = 60_000_000;

    fn admit(limit: &mut OnboardLimit, source: &str, minute: u64) -> Result<(), u64> {
        limit.admit(source.parse().unwrap(), minute * MINUTE_US).map_err(|retry| retry.seconds)
    }

    #[test]
    fn the_sixth_in_an_hour_waits_for_the_first_to_pass() {
        let mut limit = OnboardLimit::new(5);
        for minute in 0..5 {
            assert_eq!(admit(&mut limit, "10.0.0.1", minute), Ok(()));
        }
        assert_eq!(admit(&mut limit, "10.0.0.1", 5), Err(55 * 60));
        assert_eq!(admit(&mut limit, "10.0.0.2", 5), Ok(()));
        assert_eq!(admit(&mut limit, "10.0.0.1", 59), Err(60));
        assert_eq!(admit(&mut limit, "10.0.0.1", 60), Ok(()));
        assert_eq!(admit(&mut limit, "10.0.0.1", 60), Err(60));
        assert_eq!(admit(&mut limit, "10.0.0.1", 1000), Ok(()));
        assert_eq!((limit.recent.len(), limit.by_address.len()), (1, 1));
    }

    #[test]
    fn addresses_of_one_customer_count_together() {
        let mut limit = OnboardLimit::new(1);
        assert!(admit(&mut limit, "2001:db8::1", 0).is_ok());
        assert!(admit(&mut limit, "2001:db8::ffff:2", 0).is_err());
        assert!(admit(&mut limit, "2001:db8:0:1::1", 0).is_ok());
        assert!(admit(&mut limit, "10.0.0.1", 0).is_ok());
        assert!(admit(&mut limit, "::ffff:10.0.0.1", 0).is_err());
    }

    #[test]
    fn attempts_may_come_a_little_out_of_order() {
        let mut limit = OnboardLimit::new(1);
        let mut at = |source: &str, now_us| limit.admit(source.parse().unwrap(), now_us).map_err(|retry| retry.seconds);
        assert_eq!(at("10.0.0.1", 100), Ok(()));
        assert_eq!(at("10.0.0.2", 50), Ok(()));
        assert_eq!(at("10.0.0.2", HOUR_US + 70), Err(1));
        assert_eq!(at("10.0.0.2", HOUR_US + 100), Ok(()));
    }

    #[test]
    fn zero_is_no_limit() {
        let mut limit = OnboardLimit::new(0);
        assert!((0..10_000).all(|_| admit(&mut limit, "10.0.0.1", 0).is_ok()));
        assert!(limit.recent.is_empty());
    }

    #[test]
    fn the_table_has_a_ceiling() {
        let mut limit = OnboardLimit { attempts_max: 100, ..OnboardLimit::new(5) };
        for number in 0..100 {
            assert!(admit(&mut limit, &format!("10.0.0.{number}"), 0).is_ok());
        }
        assert_eq!(admit(&mut limit, "10.0.1.1", 1), Err(59 * 60));
        assert!(admit(&mut limit, "10.0.1.1", 60).is_ok());
    }
}
