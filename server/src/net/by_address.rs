//! What is remembered of network addresses: how fast each asks, and how often it came with a bad credential.
//! The memory is fixed, and an address whose row remembers something never loses it to another: a flood of addresses
//! cannot wash an attacker's record away.
//!
//! ```text
//! address ─► whole IPv4, or the /64 of an IPv6 ─► keyed hash ─► one set: 8 rows + 1 that is shared
//!            known? its row ─ no ─► a row that is empty or at rest? taken ─ no ─► the shared row
//! ```
//!
//! A row at rest says the same as no row, so that taking it changes nothing for whoever had it. While all eight are busy,
//! further addresses of the set share one row: they are counted together, and never not at all.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::net::rate_limit::{Bucket, Left, Rate, Refused, whole_seconds};

/// 4,096 addresses at once and 512 shared rows: below half a megabyte.
const SETS: usize = 512;
const WAYS: usize = 8;

/// The part of an address that is one customer's: whoever has an IPv6 address has its whole /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Customer {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl Customer {
    fn of(address: IpAddr) -> Customer {
        match address.to_canonical() {
            IpAddr::V4(address) => Customer::V4(address.octets()),
            IpAddr::V6(address) => Customer::V6(*address.octets().first_chunk().expect("an IPv6 address has 16 bytes")),
        }
    }
}

/// Rows by customer.
struct Table<R> {
    /// Random, so that nobody can choose addresses that meet in one set.
    key: [u64; 2],
    sets: Vec<Set<R>>,
}

struct Set<R> {
    rows: [Option<(Customer, R)>; WAYS],
    shared: R,
}

impl<R: Copy> Table<R> {
    fn new(key: [u64; 2], sets: usize, fresh: R) -> Table<R> {
        let set = || Set { rows: [None; WAYS], shared: fresh };
        Table { key, sets: std::iter::repeat_with(set).take(sets).collect() }
    }

    /// The row that counts for this address: its own, or the one that it shares. Looks at nine rows at most.
    fn row(&mut self, address: IpAddr, fresh: R, is_at_rest: impl Fn(&R) -> bool) -> &mut R {
        let customer = Customer::of(address);
        let index = self.set_index(customer);
        let set = &mut self.sets[index];
        let known = set.rows.iter().position(|row| row.as_ref().is_some_and(|(owner, _)| *owner == customer));
        let free = || set.rows.iter().position(|row| row.as_ref().is_none_or(|(_, row)| is_at_rest(row)));
        match (known, known.or_else(free)) {
            (Some(_), Some(way)) => &mut set.rows[way].as_mut().expect("it was found there").1,
            (_, Some(way)) => &mut set.rows[way].insert((customer, fresh)).1,
            (_, None) => &mut set.shared,
        }
    }

    fn set_index(&self, customer: Customer) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        std::hash::Hash::hash(&customer, &mut hasher);
        (hasher.finish() % self.sets.len() as u64) as usize
    }
}

/// One rate for each address.
pub struct AddressRates {
    rate: Rate,
    table: Table<Bucket>,
}

impl AddressRates {
    /// `key` is random, and the core's own.
    pub fn new(key: [u64; 2], rate: Rate, now_us: u64) -> AddressRates {
        AddressRates { rate, table: Table::new(key, SETS, Bucket::full(rate, now_us)) }
    }

    pub fn take(&mut self, address: IpAddr, count: u32, now_us: u64) -> Result<Left, Refused> {
        let rate = self.rate;
        let fresh = Bucket::full(rate, now_us);
        self.table.row(address, fresh, |bucket| bucket.is_full(rate, now_us)).take(rate, count, now_us)
    }
}

/// Bad credentials of one address that are answered as such in any minute; further ones get a 429.
pub const FAILURES_PER_MINUTE: usize = 10;
const MINUTE_US: u64 = 60_000_000;

/// How long until a bad credential is answered as such again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    pub retry_after_s: u32,
}

/// Who guesses: ten bad credentials in a minute from one address turn further failures from there into 429.
///
/// Ask it only when a credential was found bad: a good one never comes here, so that nobody is locked out by a neighbour
/// behind the same address. Loopback is exempt: whoever is there can read more than a guess tells.
pub struct BadCredentials {
    table: Table<Failures>,
}

impl BadCredentials {
    /// `key` is random.
    pub fn new(key: [u64; 2]) -> BadCredentials {
        BadCredentials { table: Table::new(key, SETS, Failures::NONE) }
    }

    /// Counts a failure, unless it is one too many. Those do not count: who stops for a minute is heard again.
    pub fn failed(&mut self, address: IpAddr, now_us: u64) -> Result<(), Limited> {
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        self.table.row(address, Failures::NONE, |failures| failures.is_at_rest(now_us)).count(now_us)
    }

    /// For what is worth guessing, and dear to check: a password is not looked at while this says `Limited`.
    pub fn check(&mut self, address: IpAddr, now_us: u64) -> Result<(), Limited> {
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        self.table.row(address, Failures::NONE, |failures| failures.is_at_rest(now_us)).check(now_us)
    }
}

/// The moments of the last ten failures, in a ring: `next` is the oldest of them once there are ten.
#[derive(Debug, Clone, Copy)]
struct Failures {
    at_us: [u64; FAILURES_PER_MINUTE],
    next: u8,
    count: u8,
}

impl Failures {
    const NONE: Failures = Failures { at_us: [0; FAILURES_PER_MINUTE], next: 0, count: 0 };

    fn check(&self, now_us: u64) -> Result<(), Limited> {
        if usize::from(self.count) < FAILURES_PER_MINUTE {
            return Ok(());
        }
        match (self.at_us[usize::from(self.next)] + MINUTE_US).saturating_sub(now_us) {
            0 => Ok(()),
            left_us => Err(Limited { retry_after_s: whole_seconds(left_us) }),
        }
    }

    fn count(&mut self, now_us: u64) -> Result<(), Limited> {
        self.check(now_us)?;
        self.at_us[usize::from(self.next)] = now_us;
        self.next = (self.next + 1) % FAILURES_PER_MINUTE as u8;
        self.count = (self.count + 1).min(FAILURES_PER_MINUTE as u8);
        Ok(())
    }

    fn is_at_rest(&self, now_us: u64) -> bool {
        let filled = &self.at_us[..usize::from(self.count)];
        filled.iter().all(|at_us| at_us + MINUTE_US <= now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: u64 = 1_000_000;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    /// All addresses meet in one set.
    fn one_set() -> BadCredentials {
        BadCredentials { table: Table::new([1, 2], 1, Failures::NONE) }
    }

    fn failed_at(guesses: &mut BadCredentials, from: &str, second: u64) -> Result<(), u32> {
        guesses.failed(address(from), second * SECOND_US).map_err(|limited| limited.retry_after_s)
    }

    #[test]
    fn the_eleventh_failure_in_a_minute_is_limited_until_the_first_is_a_minute_old() {
        let mut guesses = BadCredentials::new([1, 2]);
        for second in 0..10 {
            assert_eq!(failed_at(&mut guesses, "192.0.2.1", second * 6), Ok(()));
        }
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 54), Err(6));
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 59), Err(1));
        assert_eq!(failed_at(&mut guesses, "192.0.2.2", 59), Ok(()));
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 60), Ok(()));
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 60), Err(6));
    }

    #[test]
    fn nine_in_any_minute_are_never_limited() {
        let mut guesses = BadCredentials::new([1, 2]);
        for failure in 0..1000 {
            assert!(guesses.failed(address("192.0.2.1"), failure * MINUTE_US / 9).is_ok(), "{failure}");
        }
    }

    #[test]
    fn limited_failures_do_not_make_it_longer() {
        let mut guesses = BadCredentials::new([1, 2]);
        for _ in 0..10 {
            assert_eq!(failed_at(&mut guesses, "192.0.2.1", 0), Ok(()));
        }
        for second in 0..60 {
            assert_eq!(failed_at(&mut guesses, "192.0.2.1", second), Err(60 - second as u32));
        }
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 60), Ok(()));
    }

    #[test]
    fn a_password_is_not_looked_at_while_the_address_is_limited() {
        let mut guesses = BadCredentials::new([1, 2]);
        let from = address("192.0.2.1");
        for _ in 0..10 {
            assert!(guesses.check(from, 0).is_ok());
            assert!(guesses.failed(from, 0).is_ok());
        }
        assert_eq!(guesses.check(from, SECOND_US), Err(Limited { retry_after_s: 59 }));
        assert!(guesses.check(from, MINUTE_US).is_ok());
    }

    #[test]
    fn loopback_is_exempt_in_each_of_its_forms() {
        let mut guesses = BadCredentials::new([1, 2]);
        for from in ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
            for _ in 0..100 {
                assert!(guesses.failed(address(from), 0).is_ok(), "{from}");
                assert!(guesses.check(address(from), 0).is_ok(), "{from}");
            }
        }
    }

    #[test]
    fn addresses_of_one_customer_count_together() {
        let mut guesses = BadCredentials::new([1, 2]);
        for number in 0..10 {
            assert_eq!(failed_at(&mut guesses, &format!("2001:db8::{number:x}"), 0), Ok(()));
        }
        assert_eq!(failed_at(&mut guesses, "2001:db8:0:0:ffff::1", 0), Err(60));
        assert_eq!(failed_at(&mut guesses, "2001:db8:0:1::1", 0), Ok(()));
        for _ in 0..5 {
            assert_eq!(failed_at(&mut guesses, "192.0.2.1", 0), Ok(()));
            assert_eq!(failed_at(&mut guesses, "::ffff:192.0.2.1", 0), Ok(()));
        }
        assert_eq!(failed_at(&mut guesses, "192.0.2.1", 0), Err(60));
    }

    #[test]
    fn a_flood_of_addresses_does_not_wash_a_record_away() {
        let mut guesses = one_set();
        let attacker = address("192.0.2.1");
        while guesses.failed(attacker, 0).is_ok() {}
        for number in 0..10_000 {
            let _ = guesses.failed(v4(number), u64::from(number));
        }
        assert!(guesses.failed(attacker, MINUTE_US - 1).is_err());
    }

    #[test]
    fn any_number_of_addresses_gets_a_bounded_number_of_answers() {
        let mut guesses = one_set();
        let answered = (0..100_000).filter(|number| guesses.failed(v4(*number), u64::from(*number)).is_ok()).count();
        // Eight rows count one failure each; all addresses after those share ten.
        assert_eq!(answered, WAYS + FAILURES_PER_MINUTE);
        let again = (0..100_000).filter(|number| guesses.failed(v4(*number % 8), 200_000).is_ok()).count();
        assert_eq!(again, WAYS * (FAILURES_PER_MINUTE - 1));
    }

    #[test]
    fn a_row_at_rest_is_taken_and_a_busy_one_is_not() {
        let mut guesses = one_set();
        for number in 0..WAYS as u32 {
            assert!(guesses.failed(v4(number), u64::from(number)).is_ok());
        }
        let has_row = |guesses: &BadCredentials, number| {
            let customer = Customer::of(v4(number));
            guesses.table.sets[0].rows.iter().flatten().any(|(owner, _)| *owner == customer)
        };
        assert!(guesses.failed(v4(100), MINUTE_US - 1).is_ok());
        assert!(!has_row(&guesses, 100) && has_row(&guesses, 0));
        assert!(guesses.failed(v4(100), MINUTE_US).is_ok());
        assert!(has_row(&guesses, 100) && !has_row(&guesses, 0) && has_row(&guesses, 1));
    }

    #[test]
    fn each_address_has_its_own_rate() {
        let rate = Rate::new(1, 3).unwrap();
        let mut rates = AddressRates::new([1, 2], rate, 0);
        for left in [2, 1, 0] {
            assert_eq!(rates.take(address("192.0.2.1"), 1, 0).unwrap().requests, left);
        }
        assert_eq!(rates.take(address("192.0.2.1"), 1, 0).unwrap_err().retry_after_s(), 1);
        assert_eq!(rates.take(address("192.0.2.2"), 1, 0).unwrap().requests, 2);
        assert!(rates.take(address("192.0.2.1"), 1, SECOND_US).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_does_not_fill_a_bucket() {
        let rate = Rate::new(1, 60).unwrap();
        let mut rates = AddressRates { rate, table: Table::new([1, 2], 1, Bucket::full(rate, 0)) };
        assert!(rates.take(address("192.0.2.1"), 60, 0).is_ok());
        let admitted = (0..10_000).filter(|number| rates.take(v4(*number), 60, 0).is_ok()).count();
        assert_eq!(admitted, WAYS);
        assert_eq!(rates.take(address("192.0.2.1"), 1, 0).unwrap_err().retry_after_s(), 1);
    }

    #[test]
    fn the_table_is_as_large_as_it_says() {
        assert!(SETS * size_of::<Set<Failures>>() < 512 << 10);
        assert!(SETS * size_of::<Set<Bucket>>() < 512 << 10);
    }

    #[test]
    fn addresses_spread_over_the_sets() {
        let table = Table::new([3, 4], SETS, Failures::NONE);
        let mut counts = vec![0; SETS];
        for number in 0..SETS as u32 * 16 {
            counts[table.set_index(Customer::of(v4(number)))] += 1;
        }
        assert!(counts.iter().all(|count| (1..64).contains(count)));
    }
}
