//! Messages of syslog over UDP: the datagrams of one turn become one batch for each tenant.
//!
//! What has no room is not taken, and waits with the kernel; what does not fit there either the kernel drops and counts.

use std::collections::VecDeque;

use ringlog_engine::io::Ring;

use crate::core::host::CoreHost;
use crate::core::sources::counters::{Refusal, SourceKind};
use crate::core::sources::{Open, SYSLOG_DATAGRAMS, Sender, Wait};
use crate::limits::{DATAGRAM_BYTES_MAX, DATAGRAMS_PER_TURN, SYSLOG_OPEN_BATCHES_MAX};
use crate::wire::syslog::framing;

#[derive(Debug, Default)]
pub struct Inlet {
    /// The kernel has datagrams, as far as is known.
    is_ready: bool,
    /// Empty until the first datagram comes.
    buffer: Vec<u8>,
    /// Batches of different tenants, the last of each still open. More than one of them only where tenants take turns.
    open: VecDeque<Open>,
    /// Batches under way.
    pub(super) in_flight: usize,
    waits_until_us: Option<u64>,
    is_stopping: bool,
    is_stopped: bool,
}

impl Inlet {
    pub fn ready(&mut self) {
        self.is_ready = true;
    }

    /// Takes what the kernel has, and then nothing more.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.is_ready = true;
    }

    /// Told to stop, and nothing is left or under way.
    pub fn is_done(&self) -> bool {
        self.is_stopped && self.open.is_empty() && self.in_flight == 0
    }

    pub fn deadline(&self) -> Option<u64> {
        self.waits_until_us
    }

    pub fn unsent(&self) -> usize {
        self.open.len()
    }
}

impl CoreHost {
    /// Takes the datagrams of a turn. What could not be sent the last time goes first.
    pub(super) fn take_datagrams(&mut self, ring: &mut Ring) {
        let now_us = self.now.monotonic_us;
        if self.sources.inlet.waits_until_us.is_some_and(|at_us| now_us < at_us) {
            return;
        }
        self.sources.inlet.waits_until_us = None;
        let mut open = std::mem::take(&mut self.sources.inlet.open);
        let mut is_sent = self.send_datagrams(&mut open);
        if is_sent && self.sources.inlet.is_ready {
            let mut buffer = std::mem::take(&mut self.sources.inlet.buffer);
            buffer.resize(DATAGRAM_BYTES_MAX, 0);
            for _ in 0..DATAGRAMS_PER_TURN {
                let Some(datagram) = ring.take_datagram(SYSLOG_DATAGRAMS, &mut buffer) else {
                    self.sources.inlet.is_ready = false;
                    break;
                };
                let Some(message) = framing::datagram(&buffer[..datagram.bytes]) else { continue };
                if datagram.is_truncated {
                    self.refuse_cut(SourceKind::SyslogDatagram, Refusal::Oversized, message);
                    continue;
                }
                let peer = datagram.from.ip().to_canonical();
                self.put_message(&mut open, SourceKind::SyslogDatagram, peer, message);
                if SYSLOG_OPEN_BATCHES_MAX <= open.len() {
                    break;
                }
            }
            self.sources.inlet.buffer = buffer;
            is_sent = self.send_datagrams(&mut open);
        }
        self.sources.inlet.open = open;
        let inlet = &mut self.sources.inlet;
        // More of them wait; requests get their turn in between.
        self.has_news |= is_sent && inlet.is_ready;
        if inlet.is_stopping && !inlet.is_ready && !inlet.is_stopped {
            inlet.is_stopped = true;
            ring.forget_datagrams(SYSLOG_DATAGRAMS);
        }
    }

    /// `false`: some of them have no room.
    fn send_datagrams(&mut self, open: &mut VecDeque<Open>) -> bool {
        while let Some(first) = open.pop_front() {
            match self.send_open(Sender::Datagrams, SourceKind::SyslogDatagram, first) {
                Ok(()) => self.sources.inlet.in_flight += 1,
                Err((first, wait)) => {
                    open.push_front(first);
                    self.sources.counters.of(SourceKind::SyslogDatagram).pauses.add(1);
                    // Whatever makes room makes a turn.
                    self.sources.inlet.waits_until_us = match wait {
                        Wait::Until { at_us } => Some(at_us),
                        Wait::Room(_) => None,
                    };
                    return false;
                }
            }
        }
        true
    }
}
