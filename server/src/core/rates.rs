//! How often a tenant may ask, and how often somebody may come with a key that is none.
//!
//! Owns the counters that all cores share: a client's connections are spread over the cores, and what is promised of it holds
//! for all of them together. Must never: refuse a good credential for what others did, or wait for anybody on the way of
//! a request that has one.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use ringlog_engine::ids::Tenant;
use ringlog_engine::io::clock::random_u64;

use crate::auth::credentials::TENANTS_MAX;
use crate::core::host::CoreHost;
use crate::handle::sources::V1_PREFIX;
use crate::net::by_address::{AddressRates, BadCredentials, FAILURES_PER_MINUTE, Limited};
use crate::net::rate_limit::{Rate, Refused};
use crate::net::tenant_rates::TenantRates;
use crate::wire::http::Head;
use crate::wire::status::{ErrorCode, Problem};

/// What `RateLimit` calls them.
const TENANT_POLICY: &str = "tenant";
const GUESS_POLICY: &str = "credentials";
const LOGIN_POLICY: &str = "login";

/// Logins and set-ups of one address: each costs a password hash, and a household needs few.
const LOGIN_RATE: Rate = Rate::new(1, 20).expect("neither is 0");

/// Counted by all cores together.
pub struct Rates {
    tenants: TenantRates,
    /// Behind a lock, which failures take and nothing else: it is held for the look at nine rows.
    guesses: Mutex<BadCredentials>,
    logins: Mutex<Logins>,
}

/// Requests with a password, by address.
struct Logins {
    all: AddressRates,
    failed: BadCredentials,
}

impl Default for Rates {
    fn default() -> Rates {
        let random = || [random_u64(), random_u64()];
        let logins = Logins { all: AddressRates::new(random(), LOGIN_RATE, 0), failed: BadCredentials::new(random()) };
        let guesses = Mutex::new(BadCredentials::new(random()));
        Rates { tenants: TenantRates::new(TENANTS_MAX), guesses, logins: Mutex::new(logins) }
    }
}

impl Rates {
    /// Counts a credential that was none, or says that there were too many.
    fn failed(&self, address: IpAddr, now_us: u64) -> Result<(), Limited> {
        // The table holds no invariant that a panic could break: a row is one assignment.
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner).failed(address, now_us)
    }

    /// Before anything of a request with a password is looked at: such a request is dear. Loopback is exempt, as it is
    /// where failures are counted.
    fn check_login(&self, address: IpAddr, now_us: u64) -> Result<(), Problem> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.failed.check(address, now_us).map_err(|limited| too_many_failed_logins(limited.retry_after_s))?;
        if address.to_canonical().is_loopback() {
            return Ok(());
        }
        logins.all.take(address, 1, now_us).map(drop).map_err(too_many_logins)
    }

    fn login_failed(&self, address: IpAddr, now_us: u64) -> Result<(), Problem> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        logins.failed.failed(address, now_us).map_err(|limited| too_many_failed_logins(limited.retry_after_s))
    }
}

impl CoreHost {
    /// Counts a request of the tenant whose credential it has, or says that it has asked too often.
    pub(super) fn check_rate(&self, tenant: Tenant, head: &Head<'_>) -> Result<(), Problem> {
        self.take_rate(tenant).map_err(|(rate, refused)| too_often(head.path(), rate, refused))
    }

    /// Takes one request's worth out of what the tenant may ask, or nothing.
    pub(super) fn take_rate(&self, tenant: Tenant) -> Result<(), (Rate, Refused)> {
        let row = self.credentials.tenant(tenant);
        let Some(per_second) = row.and_then(|row| row.quotas.requests_per_second) else { return Ok(()) };
        let rate = rate_of(per_second);
        let taken = self.rates.tenants.take(tenant.0 as usize, rate, self.now.monotonic_us);
        taken.map(drop).map_err(|refused| (rate, refused))
    }

    /// Counts a login or a set-up, or says that there were too many.
    pub(super) fn check_login(&self, client: IpAddr) -> Result<(), Problem> {
        self.rates.check_login(client, self.now.monotonic_us)
    }

    /// Counts a login that failed.
    pub(super) fn count_failed_login(&self, client: IpAddr) -> Result<(), Problem> {
        self.rates.login_failed(client, self.now.monotonic_us)
    }

    /// Counts a credential that was none.
    pub(super) fn check_guesses(&self, client: IpAddr) -> Result<(), Problem> {
        self.rates.failed(client, self.now.monotonic_us).map_err(|limited| too_many_guesses(limited.retry_after_s))
    }
}

/// A burst of two seconds, for every tier: what clients that wake up together send at once.
fn rate_of(per_second: u64) -> Rate {
    // 0 is refused where a rate is set; a log may hold one from before.
    let per_second = u32::try_from(per_second.clamp(1, u64::from(u32::MAX / 2))).expect("it is clamped to 31 bits");
    Rate::new(per_second, per_second * 2).expect("neither is 0")
}

fn too_often(path: &str, rate: Rate, refused: Refused) -> Problem {
    let code = if path.starts_with(V1_PREFIX) { ErrorCode::Overloaded } else { ErrorCode::RateLimited };
    Problem::new(code, "the tenant asks more often than it may")
        .retry_after(refused.retry_after_s())
        .text("scope", "tenant")
        .rate_limit(refused.left.header(TENANT_POLICY), rate.policy_header(TENANT_POLICY))
}

fn too_many_guesses(retry_after_s: u32) -> Problem {
    Problem::new(
        ErrorCode::RateLimited,
        "too many keys that are not known, or not good any more, came from this address",
    )
    .fix("send a valid key, which is never refused by this, or wait for the time in Retry-After")
    .retry_after(retry_after_s)
    .text("scope", "address")
    .rate_limit(failures_left(GUESS_POLICY, retry_after_s), failures_policy(GUESS_POLICY))
}

fn too_many_failed_logins(retry_after_s: u32) -> Problem {
    Problem::new(ErrorCode::RateLimited, "too many logins from this address have failed")
        .retry_after(retry_after_s)
        .text("scope", "address")
        .rate_limit(failures_left(LOGIN_POLICY, retry_after_s), failures_policy(LOGIN_POLICY))
}

fn too_many_logins(refused: Refused) -> Problem {
    Problem::new(ErrorCode::RateLimited, "too many logins and set-ups come from this address")
        .retry_after(refused.retry_after_s())
        .text("scope", "address")
        .rate_limit(refused.left.header(LOGIN_POLICY), LOGIN_RATE.policy_header(LOGIN_POLICY))
}

fn failures_left(policy: &str, retry_after_s: u32) -> String {
    format!("\"{policy}\";r=0;t={retry_after_s}")
}

fn failures_policy(policy: &str) -> String {
    format!("\"{policy}\";q={FAILURES_PER_MINUTE};w=60")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::cors::CorsHeaders;
    use crate::wire::response::{Persistence, ReplyTo, RequestId};

    fn answer(problem: &Problem) -> String {
        let reply = ReplyTo {
            request_id: RequestId::from_client(b"r").unwrap(),
            persistence: Persistence::KeepAlive,
            head_only: false,
            may_chunk: true,
            cors: CorsHeaders::default(),
        };
        let mut out = Vec::new();
        problem.respond(&mut out, &reply);
        String::from_utf8(out).unwrap()
    }

    fn refused(path: &str) -> String {
        let (rates, rate) = (Rates::default(), rate_of(2_000));
        let refused = std::iter::repeat_with(|| rates.tenants.take(7, rate, 0)).find_map(Result::err).unwrap();
        answer(&too_often(path, rate, refused))
    }

    #[test]
    fn a_limited_request_is_429_and_on_the_second_surface_503() {
        let limits = ["Retry-After: 1", "RateLimit: \"tenant\";r=0;t=1", "RateLimit-Policy: \"tenant\";q=4000;w=2"];
        for (path, status) in
            [("/api/v1/events", "HTTP/1.1 429 "), ("/v1/ingest", "HTTP/1.1 503 "), ("/v1beta", "HTTP/1.1 429 ")]
        {
            let text = refused(path);
            assert!(text.starts_with(status), "{path}: {text}");
            for line in limits {
                assert!(text.contains(&format!("\r\n{line}\r\n")), "{path}: {line} is missing from {text}");
            }
            assert!(text.contains("\"scope\":\"tenant\"") && text.contains("\"retry_after\":1"), "{text}");
        }
    }

    #[test]
    fn any_number_is_a_rate() {
        for (per_second, policy) in [
            (0, "\"t\";q=2;w=2"),
            (1, "\"t\";q=2;w=2"),
            (2_000, "\"t\";q=4000;w=2"),
            (u64::MAX, "\"t\";q=4294967294;w=2"),
        ] {
            assert_eq!(rate_of(per_second).policy_header("t"), policy, "{per_second}");
        }
    }

    #[test]
    fn logins_are_counted_by_address_whether_they_succeed_or_not() {
        let rates = Rates::default();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert!((0..LOGIN_RATE.burst).all(|_| rates.check_login(one, 0).is_ok()));
        let text = answer(&rates.check_login(one, 0).unwrap_err());
        assert!(text.starts_with("HTTP/1.1 429 ") && text.contains("\r\nRetry-After: 1\r\n"), "{text}");
        assert!(text.contains("RateLimit-Policy: \"login\";q=20;w=20"), "{text}");
        assert!(rates.check_login(one, 1_000_000).is_ok());

        let other: IpAddr = "192.0.2.2".parse().unwrap();
        assert!((0..FAILURES_PER_MINUTE).all(|_| rates.login_failed(other, 0).is_ok()));
        let text = answer(&rates.check_login(other, 0).unwrap_err());
        assert!(text.contains("RateLimit-Policy: \"login\";q=10;w=60"), "{text}");

        let loopback: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!((0..1000).all(|_| rates.login_failed(loopback, 0).is_ok() && rates.check_login(loopback, 0).is_ok()));
    }

    #[test]
    fn guesses_are_counted_by_address_and_told_apart() {
        let rates = Rates::default();
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        assert!((0..FAILURES_PER_MINUTE).all(|_| rates.failed(one, 0).is_ok()));
        let limited = rates.failed(one, 0).unwrap_err();
        assert!(rates.failed(other, 0).is_ok());
        let text = answer(&too_many_guesses(limited.retry_after_s));
        assert!(text.starts_with("HTTP/1.1 429 ") && text.contains("\r\nRetry-After: 60\r\n"), "{text}");
        assert!(text.contains("RateLimit-Policy: \"credentials\";q=10;w=60"), "{text}");
    }
}
