//! Whether the machine let a thread run when it wanted to.
//!
//! Send lag shows a thread that was kept from its CPU only while connections are idle: when all of them wait, answers
//! that lie unread look like a slow server. The kernel knows better: it counts how long a thread was ready to run and
//! did not. Needs `/proc` and a kernel with scheduling statistics; without them nothing is claimed.

use std::fs::File;
use std::os::unix::fs::FileExt;

#[derive(Debug)]
pub struct Starvation {
    /// `ran waited slices`, in nanoseconds.
    statistics: Option<File>,
    looked_at: u64,
    waited_ns: u64,
    measured_ns: u64,
    starved_ns: u64,
}

impl Starvation {
    /// Of the thread that calls this.
    pub fn new(now: u64) -> Self {
        let statistics = File::open("/proc/thread-self/schedstat").ok();
        let mut starvation = Self { statistics, looked_at: now, waited_ns: 0, measured_ns: 0, starved_ns: 0 };
        starvation.waited_ns = starvation.read().unwrap_or_default();
        starvation
    }

    /// Looks again; counts where `is_measured`.
    pub fn look(&mut self, now: u64, is_measured: bool) {
        let Some(waited_ns) = self.read() else { return };
        let (elapsed, waited) = (now.saturating_sub(self.looked_at), waited_ns.saturating_sub(self.waited_ns));
        (self.looked_at, self.waited_ns) = (now, waited_ns);
        if is_measured {
            self.measured_ns += elapsed;
            self.starved_ns += waited;
        }
    }

    /// The share of the measured time that the thread was ready to run and waited for a CPU, in per cent.
    pub fn percent(&self) -> Option<f64> {
        (0 < self.measured_ns).then(|| 100.0 * self.starved_ns as f64 / self.measured_ns as f64)
    }

    fn read(&self) -> Option<u64> {
        let mut text = [0; 96];
        let bytes = self.statistics.as_ref()?.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..bytes]).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn it_is_the_share_of_the_measured_time() {
        let mut statistics = tempfile::tempfile().unwrap();
        statistics.write_all(b"5 1000000 3").unwrap();
        let copy = statistics.try_clone().unwrap();
        let mut starvation =
            Starvation { statistics: Some(copy), looked_at: 0, waited_ns: 0, measured_ns: 0, starved_ns: 0 };
        starvation.look(10_000_000, false);
        statistics.write_all_at(b"5 3000000 4", 0).unwrap();
        starvation.look(20_000_000, true);
        assert_eq!(starvation.percent(), Some(20.0));
        starvation.look(60_000_000, true);
        assert_eq!(starvation.percent(), Some(4.0));
    }

    #[test]
    fn what_the_kernel_does_not_say_is_not_claimed() {
        let mut unknown = Starvation { statistics: None, looked_at: 0, waited_ns: 0, measured_ns: 0, starved_ns: 0 };
        unknown.look(10_000_000, true);
        assert_eq!(unknown.percent(), None);
        let mut warming_up = Starvation::new(0);
        warming_up.look(10_000_000, false);
        assert_eq!(warming_up.percent(), None);
    }
}
