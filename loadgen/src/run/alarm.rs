//! Wakes a lane when its schedule wants something. The runtime's own timers tick once per millisecond; this one is exact.

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

/// A timer cannot be set to nothing; below this the next look is as good.
const NAP_NS_MIN: u64 = 500;

#[derive(Debug)]
pub struct Alarm {
    timer: OwnedFd,
    /// Nanoseconds since the run's origin.
    set_for: u64,
}

impl Alarm {
    pub fn new() -> io::Result<Self> {
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        Ok(Self { timer, set_for: u64::MAX })
    }

    /// What becomes readable when the alarm goes off.
    pub fn ticks(&self) -> io::Result<File> {
        Ok(File::from(self.timer.try_clone()?))
    }

    pub fn set(&mut self, now: u64, at: u64) {
        let nap = at.saturating_sub(now).max(NAP_NS_MIN);
        let it_value = Timespec { tv_sec: (nap / 1_000_000_000) as i64, tv_nsec: (nap % 1_000_000_000) as i64 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)
            .expect("the descriptor is a timer and the time is in range");
        self.set_for = at;
    }

    /// Brings the alarm forward. One that has gone off already is on its way to whoever waits for it.
    pub fn bring_forward(&mut self, now: u64, at: u64) {
        if now < self.set_for && at < self.set_for {
            self.set(now, at);
        }
    }
}
