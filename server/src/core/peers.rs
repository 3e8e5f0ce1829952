//! What a core sends to the others: posted at once, and each of them woken once a turn.
//!
//! Must never: lose an answer that somebody waits for, or wait for room in a mailbox.

use std::collections::VecDeque;

use ringlog_engine::io::Ring;

use crate::core::mailbox::{Address, Message};

pub struct Peers {
    addresses: Vec<Address>,
    /// Has been sent something this turn.
    is_touched: Vec<bool>,
    /// Answers that found a full mailbox. As many as there are questions under way, at most.
    unsent: VecDeque<(usize, Message)>,
}

impl Peers {
    pub fn new(addresses: Vec<Address>) -> Peers {
        Peers { is_touched: vec![false; addresses.len()], addresses, unsent: VecDeque::new() }
    }

    pub fn count(&self) -> usize {
        self.addresses.len()
    }

    pub fn address(&self, core: usize) -> &Address {
        &self.addresses[core]
    }

    /// Sends what the sender can do without. Gives it back if there is no room.
    pub fn ask(&mut self, core: usize, message: Message) -> Result<(), Message> {
        self.addresses[core].post(message)?;
        self.is_touched[core] = true;
        Ok(())
    }

    /// Sends what the other core waits for: later, if there is no room.
    pub fn answer(&mut self, core: usize, message: Message) {
        if let Err(message) = self.ask(core, message) {
            self.unsent.push_back((core, message));
        }
    }

    /// Wakes everyone who was sent something. `true`: something could not be sent yet.
    pub fn wake(&mut self, ring: &mut Ring) -> bool {
        for _ in 0..self.unsent.len() {
            let Some((core, message)) = self.unsent.pop_front() else { break };
            self.answer(core, message);
        }
        for (address, is_touched) in self.addresses.iter().zip(&mut self.is_touched) {
            if std::mem::take(is_touched) {
                address.wake_from(ring);
            }
        }
        !self.unsent.is_empty()
    }
}
