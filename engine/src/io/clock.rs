//! Clocks and randomness of the real machine. The engine itself takes time as an argument; its hosts read it here.

use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds of CLOCK_MONOTONIC: for deadlines and spans, never stored.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// Microseconds since the Unix epoch: for time stamps that are stored.
#[expect(clippy::disallowed_methods, reason = "this is where the machine's clock enters")]
pub fn wall_us() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        // A clock before 1970 is a broken clock; events then carry the epoch itself and stay in order.
        Err(_) => 0,
    }
}

/// Fills `into` with bytes from the kernel's random source.
///
/// # Panics
/// If the kernel has none to give: nothing that follows could be secret or unique.
pub fn random_bytes(into: &mut [u8]) {
    let mut filled = 0;
    while filled < into.len() {
        match rustix::rand::getrandom(&mut into[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("getrandom: {errno}"),
        }
    }
}

/// A random 64-bit number from the kernel.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    random_bytes(&mut bytes);
    u64::from_le_bytes(bytes)
}
