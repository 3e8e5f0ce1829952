//! The turn of a core: what came in, what is made of it, what goes out, and one wait.
//!
//! Owns the order of a turn and the clock. Must never: know what a request is about; that is the host's.
//!
//! ```text
//! mailbox ─► completions ─► requests ─► timers ─► work ─► answers ─► peers are woken ─► submit and wait
//! ```

use std::time::Duration;

use ringlog_engine::ids::Micros;
use ringlog_engine::io::clock::{monotonic_us, wall_us};
use ringlog_engine::io::{Completion, DiskDone, Ring};
use ringlog_engine::shard::Now;

use crate::net::connections::Service;
use crate::net::sockets::Sockets;
use crate::net::streams::StreamService;

/// What a core does besides its sockets.
pub trait Host: Service + StreamService + Sized {
    /// Begins a turn: takes what others have sent. Nothing has been read from a socket yet.
    fn begin(&mut self, now: Moment, sockets: &mut Sockets<Self>, ring: &mut Ring);

    fn disk_done(&mut self, done: DiskDone);

    /// There are datagrams to take.
    fn datagrams_ready(&mut self, token: u32);

    /// Does what the turn has brought, and says until when nothing more is to be done: monotonic, or `None` for ever.
    fn work(&mut self, now: Moment, sockets: &mut Sockets<Self>, ring: &mut Ring) -> Option<u64>;

    /// Ends a turn: answers are with the ring, and others hear of what they were sent.
    fn end(&mut self, sockets: &mut Sockets<Self>, ring: &mut Ring) -> Next;

    /// Announces that the core is about to wait. `false`: it must not.
    fn prepare_wait(&mut self) -> bool;

    fn awake(&mut self);

    /// Feeds what was measured into the next turns.
    fn pace(&mut self) -> &mut Pace;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Wait,
    /// There is more to do already.
    Turn,
    Over,
}

/// When a turn began, by every clock there is.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    pub monotonic_us: u64,
    pub wall: Micros,
    /// Unix time that never runs backwards: what connections count with.
    pub unix_us: u64,
}

/// Ties the clocks together.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// From the monotonic clock to `unix_us`.
    offset_us: u64,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { offset_us: (wall_us().max(0) as u64).saturating_sub(monotonic_us()) }
    }

    pub fn now(self) -> Moment {
        let monotonic_us = monotonic_us();
        Moment { monotonic_us, wall: Micros(wall_us()), unix_us: monotonic_us + self.offset_us }
    }

    fn monotonic(self, unix_us: u64) -> u64 {
        unix_us.saturating_sub(self.offset_us)
    }
}

/// How busy a core is and what its commits cost, as moving averages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    busy_permille: f64,
    commit_cost_us: f64,
}

/// How much time `busy_permille` looks back at. A guess: many turns of a busy core, and too short for a client to see.
const BUSY_WINDOW_US: f64 = 20_000.0;
/// The weight of one commit in `commit_cost_us`.
const COMMIT_WEIGHT: f64 = 1.0 / 16.0;

impl Pace {
    /// One turn: how long it worked, and how long it took with its wait.
    pub fn turned(&mut self, busy_us: u64, total_us: u64) {
        if total_us > 0 {
            let sample = busy_us as f64 * 1000.0 / total_us as f64;
            let weight = (total_us as f64 / BUSY_WINDOW_US).min(1.0);
            self.busy_permille += (sample - self.busy_permille) * weight;
        }
    }

    /// One submission that carried block writes.
    pub fn committed(&mut self, cost_us: u64) {
        self.commit_cost_us += (cost_us as f64 - self.commit_cost_us) * COMMIT_WEIGHT;
    }

    pub fn now(&self, now: Moment) -> Now {
        Now {
            monotonic_us: now.monotonic_us,
            wall: now.wall,
            busy_permille: self.busy_permille as u64,
            commit_cost_us: self.commit_cost_us as u64,
        }
    }
}

/// Turns until the host is over.
pub fn turn_until_over<H: Host>(host: &mut H, sockets: &mut Sockets<H>, ring: &mut Ring, clock: Clock) {
    let mut now = clock.now();
    loop {
        host.begin(now, sockets, ring);
        while let Some(completion) = ring.next() {
            match completion {
                Completion::Disk(done) => host.disk_done(done),
                Completion::Woken => {}
                Completion::DatagramsReady { token } => host.datagrams_ready(token),
                other => sockets.on_completion(other, ring, host, now.unix_us),
            }
        }
        sockets.on_time(ring, now.unix_us);
        let work_at_us = host.work(now, sockets, ring);
        sockets.flush(ring, host, now.unix_us);
        let next = host.end(sockets, ring);
        if next == Next::Over {
            return;
        }
        let net_at_us = sockets.deadline().map(|at_us| clock.monotonic(at_us));
        let deadline_us = [work_at_us, net_at_us].into_iter().flatten().min();
        let waits_from_us = monotonic_us();
        let may_wait = next == Next::Wait && host.prepare_wait();
        let timeout = if may_wait {
            deadline_us.map(|at_us| Duration::from_micros(at_us.saturating_sub(waits_from_us)))
        } else {
            Some(Duration::ZERO)
        };
        ring.wait(timeout).expect("waiting on a ring of our own");
        host.awake();
        let began_us = now.monotonic_us;
        now = clock.now();
        host.pace().turned(waits_from_us.saturating_sub(began_us), now.monotonic_us - began_us);
    }
}
