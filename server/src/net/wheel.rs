//! Deadlines of many connections, coarse and cheap.
//!
//! Owns when a key is due, to within one tick: never early, late by at most a tick and the core's turn. Never cancels:
//! a key whose deadline moved or whose connection is gone is found out when it comes up, by its generation, and
//! either goes back or is dropped. So arming is a push, and a busy connection is touched once per deadline.
//!
//! ```text
//! slots   [ ][ ][x][ ] ... [x][ ]      slot = due tick mod count; an entry of a later turn stays where it is
//!          ▲ swept up to here
//! ```

use crate::limits::{WHEEL_SLOT_COUNT, WHEEL_TICK_US};

/// Whose deadline it is. The generation tells a slot's present tenant from its last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    pub slot: u32,
    pub generation: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: TimerKey,
    due_tick: u64,
}

const WORD_COUNT: usize = WHEEL_SLOT_COUNT / 64;

pub struct Wheel {
    slots: Vec<Vec<Entry>>,
    /// One bit per slot that holds anything, so that a quiet wheel is swept in sixteen steps.
    occupied: [u64; WORD_COUNT],
    /// Every tick up to and including this one has been swept.
    swept_tick: u64,
    len: usize,
}

impl Wheel {
    pub fn new(now_us: u64) -> Self {
        Self {
            slots: (0..WHEEL_SLOT_COUNT).map(|_| Vec::new()).collect(),
            occupied: [0; WORD_COUNT],
            swept_tick: now_us / WHEEL_TICK_US,
            len: 0,
        }
    }

    /// Entries that have not come up yet, stale ones among them.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn insert(&mut self, key: TimerKey, deadline_us: u64) {
        // Rounded up: a deadline must not come up before its time. A past one comes up with the next tick.
        let due_tick = deadline_us.div_ceil(WHEEL_TICK_US).max(self.swept_tick + 1);
        let slot_index = slot_of(due_tick);
        self.slots[slot_index].push(Entry { key, due_tick });
        self.occupied[slot_index / 64] |= 1 << (slot_index % 64);
        self.len += 1;
    }

    /// Hands over every key that is due. What `expire` returns is the key's next deadline, or `None` when it has none
    /// or is stale.
    pub fn advance(&mut self, now_us: u64, mut expire: impl FnMut(TimerKey) -> Option<u64>) {
        let now_tick = now_us / WHEEL_TICK_US;
        if now_tick <= self.swept_tick {
            return;
        }
        let first = self.swept_tick + 1;
        // A sweep longer than one turn of the wheel visits each slot once. Keys that go back land after `now_tick`,
        // so none comes up twice.
        let last = now_tick.min(self.swept_tick + WHEEL_SLOT_COUNT as u64);
        self.swept_tick = now_tick;
        let mut tick = first;
        while let Some(found) = self.next_occupied(tick, last) {
            self.sweep(slot_of(found), now_tick, &mut expire);
            tick = found + 1;
        }
    }

    /// When to look again at the latest: never after the earliest deadline's tick, sometimes before it, when a slot
    /// holds only entries of a later turn. `None` when nothing is armed.
    pub fn next_deadline(&self) -> Option<u64> {
        let first = self.swept_tick + 1;
        self.next_occupied(first, self.swept_tick + WHEEL_SLOT_COUNT as u64).map(|tick| tick * WHEEL_TICK_US)
    }

    fn sweep(&mut self, slot_index: usize, now_tick: u64, expire: &mut impl FnMut(TimerKey) -> Option<u64>) {
        self.occupied[slot_index / 64] &= !(1 << (slot_index % 64));
        let mut entries = std::mem::take(&mut self.slots[slot_index]);
        self.len -= entries.len();
        for entry in entries.drain(..) {
            if entry.due_tick > now_tick {
                self.insert(entry.key, entry.due_tick * WHEEL_TICK_US);
            } else if let Some(deadline_us) = expire(entry.key) {
                self.insert(entry.key, deadline_us);
            }
        }
        // The memory goes back unless something came to lie here meanwhile.
        if self.slots[slot_index].is_empty() {
            self.slots[slot_index] = entries;
        }
    }

    /// The first tick in `first..=last` whose slot holds anything.
    fn next_occupied(&self, first: u64, last: u64) -> Option<u64> {
        let mut tick = first;
        while tick <= last {
            let slot_index = slot_of(tick);
            let bits = self.occupied[slot_index / 64] >> (slot_index % 64);
            if bits != 0 {
                let found = tick + u64::from(bits.trailing_zeros());
                return (found <= last).then_some(found);
            }
            tick += 64 - (slot_index % 64) as u64;
        }
        None
    }
}

fn slot_of(tick: u64) -> usize {
    tick as usize % WHEEL_SLOT_COUNT
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(slot: u32) -> TimerKey {
        TimerKey { slot, generation: 0 }
    }

    fn due(wheel: &mut Wheel, now_us: u64) -> Vec<u32> {
        let mut keys = Vec::new();
        wheel.advance(now_us, |key| {
            keys.push(key.slot);
            None
        });
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_key_comes_up_once_within_a_tick_of_its_deadline() {
        let mut wheel = Wheel::new(0);
        wheel.insert(key(1), 10 * WHEEL_TICK_US);
        wheel.insert(key(2), 10 * WHEEL_TICK_US + 1);
        assert_eq!(wheel.next_deadline(), Some(10 * WHEEL_TICK_US));
        assert!(due(&mut wheel, 10 * WHEEL_TICK_US - 1).is_empty());
        assert_eq!(due(&mut wheel, 10 * WHEEL_TICK_US), [1]);
        assert_eq!(due(&mut wheel, 11 * WHEEL_TICK_US), [2]);
        assert!(due(&mut wheel, 5000 * WHEEL_TICK_US).is_empty());
        assert!(wheel.is_empty() && wheel.next_deadline().is_none());
    }

    #[test]
    fn a_deadline_beyond_one_turn_of_the_wheel_waits_its_turns() {
        let mut wheel = Wheel::new(0);
        let far = (3 * WHEEL_SLOT_COUNT as u64 + 5) * WHEEL_TICK_US;
        wheel.insert(key(1), far);
        assert!(wheel.next_deadline().is_some_and(|at| at <= far));
        for turn in 1..=3 {
            assert!(due(&mut wheel, turn * WHEEL_SLOT_COUNT as u64 * WHEEL_TICK_US).is_empty());
        }
        assert_eq!(due(&mut wheel, far), [1]);
    }

    #[test]
    fn a_past_deadline_comes_up_with_the_next_tick() {
        let mut wheel = Wheel::new(100 * WHEEL_TICK_US);
        wheel.insert(key(1), 3);
        assert_eq!(due(&mut wheel, 101 * WHEEL_TICK_US), [1]);
    }

    #[test]
    fn a_key_that_goes_back_comes_up_again_but_not_in_the_same_sweep() {
        let mut wheel = Wheel::new(0);
        wheel.insert(key(1), WHEEL_TICK_US);
        let mut count = 0;
        wheel.advance(10_000 * WHEEL_TICK_US, |_| {
            count += 1;
            Some(0)
        });
        assert_eq!((count, wheel.len()), (1, 1));
        assert_eq!(due(&mut wheel, 10_001 * WHEEL_TICK_US), [1]);
    }

    proptest! {
        #[test]
        fn the_wheel_agrees_with_a_sorted_list(
            deadlines in prop::collection::vec(0u64..400_000_000, 1..60),
            steps in prop::collection::vec(1u64..90_000_000, 1..40),
        ) {
            let mut wheel = Wheel::new(0);
            for (slot, &deadline) in deadlines.iter().enumerate() {
                wheel.insert(key(slot as u32), deadline);
            }
            let (mut now, mut seen) = (0, vec![false; deadlines.len()]);
            for step in steps {
                now += step;
                for slot in due(&mut wheel, now) {
                    prop_assert!(!std::mem::replace(&mut seen[slot as usize], true));
                    prop_assert!(deadlines[slot as usize] <= now);
                }
                for (slot, &deadline) in deadlines.iter().enumerate() {
                    prop_assert!(seen[slot] || deadline + WHEEL_TICK_US > now, "{} is late", deadline);
                }
                if let Some(next) = wheel.next_deadline() {
                    prop_assert!(next > now - now % WHEEL_TICK_US);
                }
            }
        }
    }
}
