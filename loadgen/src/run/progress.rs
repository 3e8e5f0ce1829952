//! What is told while a run goes on: one line a second, in place on a terminal.

use std::io::{IsTerminal, Write};

/// Of the last second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    pub p50_us: f64,
    pub p99_us: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    pub is_warm_up: bool,
    /// Seconds since the beginning of the warm-up or of the measured time.
    pub elapsed_seconds: f64,
    /// Until its end; `None` where a count ends the run.
    pub left_seconds: Option<f64>,
    pub events_per_second: f64,
    pub requests_per_second: f64,
    /// From the intended send in an open loop, from the actual one in a closed loop.
    pub latencies: Option<Latencies>,
    pub error_count: u64,
}

/// Prints progress on standard error.
#[derive(Debug)]
pub struct Printer {
    is_quiet: bool,
    in_place: bool,
    has_line: bool,
}

impl Printer {
    pub fn new(is_quiet: bool) -> Self {
        Self { is_quiet, in_place: std::io::stderr().is_terminal(), has_line: false }
    }

    pub fn tell(&mut self, progress: &Progress) {
        if self.is_quiet {
            return;
        }
        let line = line(progress);
        let mut err = std::io::stderr().lock();
        // Nobody is harmed when progress cannot be shown.
        let _ = match self.in_place {
            true => write!(err, "\r\x1b[2K{line}").and_then(|()| err.flush()),
            false => writeln!(err, "{line}"),
        };
        self.has_line = true;
    }

    /// What follows begins on a line of its own.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.has_line) && self.in_place {
            eprintln!();
        }
    }
}

fn line(progress: &Progress) -> String {
    let phase = if progress.is_warm_up { "warm-up" } else { "measured" };
    let left = progress.left_seconds.map_or(String::new(), |left| format!(" ({left:.0} s left)"));
    let latencies = progress.latencies.map_or("p50 -  p99 -".to_owned(), |latencies| {
        format!("p50 {}  p99 {}", crate::report::time(latencies.p50_us), crate::report::time(latencies.p99_us))
    });
    format!(
        "{phase} {:5.0} s{left}  {:>9.0} events/s  {:>8.0} requests/s  {latencies}  {} errors",
        progress.elapsed_seconds, progress.events_per_second, progress.requests_per_second, progress.error_count
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rates_latencies_errors_and_time() {
        let progress = Progress {
            is_warm_up: false,
            elapsed_seconds: 3.0,
            left_seconds: Some(7.0),
            events_per_second: 50_000.0,
            requests_per_second: 5000.0,
            latencies: Some(Latencies { p50_us: 81.0, p99_us: 1200.0 }),
            error_count: 2,
        };
        assert_eq!(
            line(&progress),
            "measured     3 s (7 s left)      50000 events/s      5000 requests/s  p50 81 us  p99 1.20 ms  2 errors"
        );
        let starting = Progress { is_warm_up: true, left_seconds: None, latencies: None, ..progress };
        assert!(line(&starting).starts_with("warm-up     3 s  "), "{}", line(&starting));
    }
}
