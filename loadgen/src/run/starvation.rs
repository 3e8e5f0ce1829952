//! Whether the machine let a thread run when it wanted to.
//!
//! Send lag shows a thread that was kept from its CPU only while connections are idle: when all of them wait, answers
//! that lie unread look like a slow server. The kernel knows better: it counts how long a thread was ready to run and
//! did not. Needs `/proc` and a kernel with scheduling statistics; without them nothing is claimed.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Waking up takes some microseconds each time and is no starvation: this much of the time since the last look is.
const STARVED_SHARE: f64 = 0.2;
const STARVED_NS_MIN: u64 = 1_000_000;

#[derive(Debug)]
pub struct Starvation {
    /// `ran waited slices`, in nanoseconds.
    statistics: Option<File>,
    looked_at: u64,
    waited_ns: u64,
    looks: u64,
    starved: u64,
}

impl Starvation {
    /// Of the thread that calls this.
    pub fn new(now: u64) -> Self {
        let statistics = File::open("/proc/thread-self/schedstat").ok();
        let mut starvation = Self { statistics, looked_at: now, waited_ns: 0, looks: 0, starved: 0 };
        starvation.waited_ns = starvation.read().unwrap_or_default();
        starvation
    }

    /// Looks again; counts where `is_measured`.
    pub fn look(&mut self, now: u64, is_measured: bool) {
        let Some(waited_ns) = self.read() else { return };
        let (elapsed, waited) = (now.saturating_sub(self.looked_at), waited_ns.saturating_sub(self.waited_ns));
        (self.looked_at, self.waited_ns) = (now, waited_ns);
        if is_measured {
            self.looks += 1;
            self.starved += u64::from(is_starved(elapsed, waited));
        }
    }

    /// The share of looks at which the thread had been kept waiting, in per cent.
    pub fn percent(&self) -> Option<f64> {
        (0 < self.looks).then(|| 100.0 * self.starved as f64 / self.looks as f64)
    }

    fn read(&self) -> Option<u64> {
        let mut text = [0; 96];
        let bytes = self.statistics.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..bytes]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

fn is_starved(elapsed_ns: u64, waited_ns: u64) -> bool {
    STARVED_NS_MIN <= waited_ns && STARVED_SHARE * elapsed_ns as f64 <= waited_ns as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_up_is_no_starvation() {
        assert!(!is_starved(10_000_000, 900_000));
        assert!(!is_starved(10_000_000, 1_900_000));
        assert!(is_starved(10_000_000, 2_000_000));
        assert!(!is_starved(1_000_000, 500_000));
        // Kept away for so long that the look itself came late.
        assert!(is_starved(110_000_000, 100_000_000));
    }

    #[test]
    fn what_the_kernel_does_not_say_is_not_claimed() {
        let mut unknown = Starvation { statistics: None, looked_at: 0, waited_ns: 0, looks: 0, starved: 0 };
        unknown.look(10_000_000, true);
        assert_eq!(unknown.percent(), None);
        let mut warming_up = Starvation::new(0);
        warming_up.look(10_000_000, false);
        assert_eq!(warming_up.percent(), None);
    }
}
