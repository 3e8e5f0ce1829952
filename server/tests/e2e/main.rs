//! The real binary over real sockets, on both ways of asking the kernel. Slow next to unit tests, so each test holds a
//! theme; what a connection does with time and with broken bytes in detail is `http_protocol`'s business.

#![expect(clippy::unwrap_used, reason = "the whole crate is a test")]

mod attempts;
mod authorization;
mod broken_sources;
mod cli;
mod erasure;
mod events;
mod harness;
mod http;
mod http_sources;
mod idempotency;
mod identity;
mod keys;
mod lifecycle;
mod people;
mod protocol;
mod queries;
mod quotas;
mod rates;
mod rejects;
mod revocation;
mod sdk;
mod seeds;
mod snippets;
mod sources;
mod tell_sdk;
mod tenants;
mod x402;

/// Makes each function a test on io_uring and one on the fallback.
macro_rules! on_both {
    ($($name:ident,)+) => {
        mod uring {
            $(#[test] fn $name() { super::$name(crate::harness::Io::Uring) })+
        }
        mod fallback {
            $(#[test] fn $name() { super::$name(crate::harness::Io::Fallback) })+
        }
    };
}
pub(crate) use on_both;
