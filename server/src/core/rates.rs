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
use crate::net::by_address::{BadCredentials, FAILURES_PER_MINUTE, Limited};
use crate::net::rate_limit::{Rate, Refused};
use crate::net::tenant_rates::TenantRates;
use crate::wire::http::Head;
use crate::wire::status::{ErrorCode, Problem};

/// What `RateLimit` calls the two.
const TENANT_POLICY: &str = "tenant";
const GUESS_POLICY: &str = "credentials";

/// One surface's clients drop what they sent on any 4xx, and try again on a 503.
const INGEST_PREFIX: &str = "/v1/";

/// Counted by all cores together.
pub struct Rates {
    tenants: TenantRates,
    /// Behind a lock, which failures take and nothing else: it is held for the look at nine rows.
    guesses: Mutex<BadCredentials>,
}

impl Default for Rates {
    fn default() -> Rates {
        let guesses = Mutex::new(BadCredentials::new([random_u64(), random_u64()]));
        Rates { tenants: TenantRates::new(TENANTS_MAX), guesses }
    }
}

impl Rates {
    /// Counts a credential that was none, or says that there were too many.
    fn failed(&self, address: IpAddr, now_us: u64) -> Result<(), Limited> {
        // The table holds no invariant that a panic could break: a row is one assignment.
        self.guesses.lock().unwrap_or_else(PoisonError::into_inner).failed(address, now_us)
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
    let code = if path.starts_with(INGEST_PREFIX) { ErrorCode::Overloaded } else { ErrorCode::RateLimited };
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
    .rate_limit(
        format!("\"{GUESS_POLICY}\";r=0;t={retry_after_s}"),
        format!("\"{GUESS_POLICY}\";q={FAILURES_PER_MINUTE};w=60"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::response::{Persistence, ReplyTo, RequestId};

    fn answer(problem: &Problem) -> String {
        let reply = ReplyTo {
            request_id: RequestId::from_client(b"r").unwrap(),
            persistence: Persistence::KeepAlive,
            head_only: false,
            may_chunk: true,
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
