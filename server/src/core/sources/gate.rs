//! The gate of one shard, on the core that owns it: where batches of sources wait that nobody is answered for.
//!
//! Owns their order. Whoever sends a batch through here sends the next one without waiting for an answer, so that a batch that
//! finds no room must neither be lost nor be overtaken: it waits here, and everything behind it waits behind it.
//!
//! ```text
//! push ─► waiting ─pass─► shard ─answered─► its sender
//!            ▲              │ no room
//!            └── in order ──┘
//!
//! Open ─no room─► Settling ─all inside are answered─► Resting ─time is up─► Probing (one at a time) ─stored─► Open
//! ```

use std::collections::VecDeque;

use ringlog_engine::event::EventBatch;

use crate::limits::GATE_BYTES_MAX;

/// A batch and who is told of it.
#[derive(Debug)]
pub struct Held<T> {
    pub who: T,
    pub batch: EventBatch,
}

/// What became of one that was let pass.
pub enum Passing<T> {
    Inside,
    /// There is no room, for so long.
    NotNow(Held<T>, u64),
    /// It was refused, and its sender knows.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Settling { rest_us: u64 },
    Resting { until_us: u64 },
    Probing,
}

#[derive(Debug)]
pub struct Gate<T> {
    waiting: VecDeque<Held<T>>,
    /// Found no room inside, in the order in which they went.
    returned: Vec<Held<T>>,
    inside_count: usize,
    inside_bytes: usize,
    state: State,
}

impl<T> Gate<T> {
    pub fn new() -> Gate<T> {
        Gate { waiting: VecDeque::new(), returned: Vec::new(), inside_count: 0, inside_bytes: 0, state: State::Open }
    }

    pub fn push(&mut self, held: Held<T>) {
        self.waiting.push_back(held);
    }

    /// Lets pass what may, in order.
    pub fn pass(&mut self, now_us: u64, mut admit: impl FnMut(Held<T>) -> Passing<T>) {
        loop {
            match self.state {
                State::Settling { .. } => return,
                State::Resting { until_us } if now_us < until_us => return,
                State::Resting { .. } => self.state = State::Probing,
                State::Probing if 0 < self.inside_count => return,
                State::Probing | State::Open => {}
            }
            let Some(front) = self.waiting.front() else { return };
            let bytes = front.batch.records().len();
            if 0 < self.inside_count && GATE_BYTES_MAX < self.inside_bytes + bytes {
                return;
            }
            let held = self.waiting.pop_front().expect("it has a front");
            match admit(held) {
                Passing::Inside => {
                    self.inside_count += 1;
                    self.inside_bytes += bytes;
                }
                Passing::NotNow(held, rest_us) => {
                    self.waiting.push_front(held);
                    self.state = State::Resting { until_us: now_us + rest_us };
                    return;
                }
                Passing::Refused => {}
            }
        }
    }

    /// One that was inside has its answer.
    pub fn answered(&mut self, batch: &EventBatch, now_us: u64) {
        self.leave(batch);
        if self.state == State::Probing {
            self.state = State::Open;
        }
        self.settle(now_us);
    }

    /// One that was inside has found no room, and is tried again after so long. Told in the order in which they went in.
    pub fn came_back(&mut self, held: Held<T>, rest_us: u64, now_us: u64) {
        self.leave(&held.batch);
        self.returned.push(held);
        self.state = State::Settling { rest_us };
        self.settle(now_us);
    }

    /// When `pass` wants to be called again although nothing has changed.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Resting { until_us } if !self.waiting.is_empty() => Some(until_us),
            _ => None,
        }
    }

    /// Batches that wait, with nobody to be told that they do.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.returned.len()
    }

    fn leave(&mut self, batch: &EventBatch) {
        self.inside_count -= 1;
        self.inside_bytes -= batch.records().len();
    }

    /// Once all are back that went in together, those that found no room stand in front again.
    fn settle(&mut self, now_us: u64) {
        if let State::Settling { rest_us } = self.state
            && self.inside_count == 0
        {
            for held in self.returned.drain(..).rev() {
                self.waiting.push_front(held);
            }
            self.state = State::Resting { until_us: now_us + rest_us };
        }
    }
}

#[cfg(test)]
mod tests {
    use ringlog_engine::event::{EventInput, FingerprintKey, Source};
    use ringlog_engine::ids::Tenant;

    use super::*;

    fn batch() -> EventBatch {
        let mut batch = EventBatch::new(Tenant(1), Source::Tcp, FingerprintKey(1));
        batch.push(EventInput::new("a", "b", b"{}")).unwrap();
        batch
    }

    /// A gate of numbered batches, and a shard with room for some.
    struct Rig {
        gate: Gate<u32>,
        inside: VecDeque<Held<u32>>,
        stored: Vec<u32>,
        now_us: u64,
    }

    impl Rig {
        fn with(numbers: std::ops::Range<u32>) -> Rig {
            let mut rig = Rig { gate: Gate::new(), inside: VecDeque::new(), stored: Vec::new(), now_us: 0 };
            rig.push(numbers);
            rig
        }

        fn push(&mut self, numbers: std::ops::Range<u32>) {
            numbers.for_each(|who| self.gate.push(Held { who, batch: batch() }));
        }

        fn pass(&mut self) {
            let Rig { gate, inside, .. } = self;
            gate.pass(self.now_us, |held| {
                inside.push_back(held);
                Passing::Inside
            });
        }

        /// The shard answers everything: what is `full` finds no room, and comes back before others are stored, as it does.
        fn answer(&mut self, full: impl Fn(u32) -> bool) {
            let (full, stored): (Vec<_>, Vec<_>) = self.inside.drain(..).partition(|held| full(held.who));
            for held in full {
                self.gate.came_back(held, 100, self.now_us);
            }
            for held in stored {
                self.gate.answered(&held.batch, self.now_us);
                self.stored.push(held.who);
            }
        }
    }

    #[test]
    fn what_finds_no_room_goes_again_before_all_that_follows() {
        let mut rig = Rig::with(0..5);
        rig.pass();
        assert_eq!(rig.inside.len(), 5);
        rig.push(5..8);
        rig.answer(|who| 2 <= who);
        assert_eq!(rig.stored, [0, 1]);
        rig.pass();
        assert!(rig.inside.is_empty());
        assert_eq!(rig.gate.deadline(), Some(100));
        // One alone tries first, and again, and then all of them.
        for until_us in [200, 300] {
            rig.now_us += 100;
            rig.pass();
            assert_eq!(rig.inside.iter().map(|held| held.who).collect::<Vec<_>>(), [2]);
            rig.answer(|_| true);
            assert_eq!(rig.gate.deadline(), Some(until_us));
        }
        rig.now_us += 100;
        for _ in 0..2 {
            rig.pass();
            rig.answer(|_| false);
        }
        assert_eq!(rig.stored, [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((rig.gate.len(), rig.gate.deadline()), (0, None));
    }

    #[test]
    fn nothing_passes_while_some_are_still_inside() {
        let mut rig = Rig::with(0..3);
        rig.pass();
        let (first, second) = (rig.inside.pop_front().unwrap(), rig.inside.pop_front().unwrap());
        rig.gate.came_back(second, 100, 0);
        rig.now_us = 1_000;
        rig.pass();
        rig.gate.answered(&first.batch, rig.now_us);
        rig.pass();
        assert_eq!((rig.inside.len(), rig.gate.deadline()), (1, None));
        let third = rig.inside.pop_front().unwrap();
        rig.gate.came_back(third, 100, rig.now_us);
        assert_eq!(rig.gate.deadline(), Some(1_100));
        rig.now_us = 1_100;
        for _ in 0..2 {
            rig.pass();
            rig.answer(|_| false);
        }
        assert_eq!(rig.stored, [1, 2]);
    }

    #[test]
    fn one_that_is_not_let_in_is_the_first_of_the_next_time() {
        let mut rig = Rig::with(0..3);
        let mut asked = Vec::new();
        rig.gate.pass(0, |held| {
            asked.push(held.who);
            if held.who == 1 { Passing::NotNow(held, 50) } else { Passing::Inside }
        });
        assert_eq!(asked, [0, 1]);
        rig.gate.answered(&batch(), 10);
        rig.gate.pass(49, |_| panic!("it rests"));
        rig.gate.pass(50, |held| {
            asked.push(held.who);
            Passing::Refused
        });
        assert_eq!(asked, [0, 1, 1, 2]);
    }

    #[test]
    fn bytes_inside_are_bounded_and_a_large_one_goes_alone() {
        let large = || {
            let mut batch = batch();
            let payload = vec![b' '; 1 << 20];
            while batch.records().len() < GATE_BYTES_MAX / 3 {
                batch.push(EventInput::new("a", "b", &payload)).unwrap();
            }
            batch
        };
        let mut gate = Gate::new();
        (0..4).for_each(|who| gate.push(Held { who, batch: large() }));
        let mut inside = Vec::new();
        let pass = |gate: &mut Gate<u32>, inside: &mut Vec<Held<u32>>| {
            gate.pass(0, |held| {
                inside.push(held);
                Passing::Inside
            });
        };
        pass(&mut gate, &mut inside);
        assert_eq!((inside.len(), gate.len()), (2, 2));
        gate.answered(&inside.remove(0).batch, 0);
        pass(&mut gate, &mut inside);
        assert_eq!((inside.len(), gate.len()), (2, 1));
    }
}
