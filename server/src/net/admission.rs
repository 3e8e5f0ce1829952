//! Who is let in at a listener's door: how many at once, how many from one address, and when accepting goes on after
//! the machine had no room.
//!
//! Must never: let one address take every place.

use std::collections::HashMap;
use std::net::IpAddr;

use ringlog_engine::io::Ring;

use crate::limits::{ACCEPT_PAUSE_US, CONNECTIONS_PER_IP_MAX};

#[derive(Debug)]
pub struct Admission {
    open_count: usize,
    open_count_max: usize,
    open_by_peer: HashMap<IpAddr, usize>,
    /// Listeners that accept again later, and when.
    paused: Vec<u32>,
    accept_at_us: Option<u64>,
}

impl Admission {
    pub fn new(open_count_max: usize) -> Admission {
        Admission {
            open_count: 0,
            open_count_max,
            open_by_peer: HashMap::new(),
            paused: Vec::new(),
            accept_at_us: None,
        }
    }

    pub fn open_count(&self) -> usize {
        self.open_count
    }

    /// Takes a place, if there is one.
    pub fn enter(&mut self, peer: IpAddr) -> bool {
        let count = self.open_by_peer.get(&peer).copied().unwrap_or_default();
        if self.open_count >= self.open_count_max || count >= CONNECTIONS_PER_IP_MAX {
            return false;
        }
        self.open_count += 1;
        self.open_by_peer.insert(peer, count + 1);
        true
    }

    pub fn leave(&mut self, peer: IpAddr) {
        self.open_count -= 1;
        if let Some(count) = self.open_by_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.open_by_peer.remove(&peer);
            }
        }
    }

    /// A listener has stopped accepting.
    pub fn failed(&mut self, listener: u32, error: &std::io::Error, now_us: u64) {
        tracing::warn!(%error, "accepting has paused");
        self.paused.push(listener);
        self.accept_at_us = Some(now_us + ACCEPT_PAUSE_US);
    }

    pub fn on_time(&mut self, ring: &mut Ring, now_us: u64) {
        if self.accept_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.accept_at_us = None;
            for listener in self.paused.drain(..) {
                ring.listen_again(listener);
            }
        }
    }

    pub fn deadline(&self) -> Option<u64> {
        self.accept_at_us
    }
}
