//! When keys were last used, without a write per request: a core notes it in memory, coarsely, and hands over what it
//! noted once a minute.
//! Best effort: it is nobody's proof, it is bounded, and it never stands on the way of a request or of durability.
//!
//! ```text
//! request ─► note(slot, generation, now) ─► a minute later, at the end of a turn: take_due ─► control thread ─► merge
//! ```

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use ringlog_engine::ids::Micros;

/// How often a core hands over, and how old what an operator reads may be: `last_used_at` is right to the minute.
pub const HAND_OVER_EVERY_US: i64 = 60_000_000;

/// Keys that one core notes between two hand-overs: 96 KiB. Those beyond it are noted in the next minute.
const NOTED_MAX: usize = 4096;

/// One key that was used. The generation says of which credential in that slot this was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    pub slot: u32,
    pub generation: u32,
    pub at: Micros,
}

/// One core's notes.
pub struct LastUsed {
    noted: HashMap<u32, (u32, Micros), BuildHasherDefault<Slot>>,
    handed_over_at: Option<Micros>,
    missed: u64,
}

impl LastUsed {
    pub fn new() -> LastUsed {
        LastUsed {
            noted: HashMap::with_capacity_and_hasher(NOTED_MAX, BuildHasherDefault::default()),
            handed_over_at: None,
            missed: 0,
        }
    }

    /// Call it for each request that a key was accepted for. Takes no memory beyond its ceiling.
    pub fn note(&mut self, slot: u32, generation: u32, now: Micros) {
        if let Some(noted) = self.noted.get_mut(&slot) {
            // The wall clock may step back: what was noted stays.
            *noted = (generation, now.max(noted.1));
        } else if self.noted.len() < NOTED_MAX {
            self.noted.insert(slot, (generation, now));
        } else {
            self.missed += 1;
        }
    }

    /// What to hand over, at most once a minute. Call it once a turn.
    pub fn take_due(&mut self, now: Micros) -> Option<Vec<Used>> {
        let first = *self.handed_over_at.get_or_insert(now);
        let passed = now.0.saturating_sub(first.0);
        // A clock that stepped back by hours must not silence this for hours.
        let is_due = !(0..HAND_OVER_EVERY_US).contains(&passed);
        if !is_due || self.noted.is_empty() {
            return None;
        }
        self.handed_over_at = Some(now);
        Some(self.take_all())
    }

    /// When [`LastUsed::take_due`] has something, by the clock that it is given; nothing if nothing was used.
    pub fn due_at(&self) -> Option<Micros> {
        let handed_over_at = self.handed_over_at.filter(|_| !self.noted.is_empty())?;
        Some(Micros(handed_over_at.0.saturating_add(HAND_OVER_EVERY_US)))
    }

    /// What is left to hand over at shutdown.
    pub fn take_all(&mut self) -> Vec<Used> {
        self.noted.drain().map(|(slot, (generation, at))| Used { slot, generation, at }).collect()
    }

    /// Uses that found no room, since the start.
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

impl Default for LastUsed {
    fn default() -> LastUsed {
        LastUsed::new()
    }
}

/// Slots are handed out densely by ourselves: a multiplication spreads them, and nobody chooses them.
#[derive(Default)]
struct Slot(u64);

impl Hasher for Slot {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a slot is hashed as one u32")
    }

    fn write_u32(&mut self, slot: u32) {
        // 2^64 divided by the golden ratio; the table looks at the highest and the lowest bits.
        self.0 = (u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = HAND_OVER_EVERY_US;

    fn used(slot: u32, generation: u32, at: i64) -> Used {
        Used { slot, generation, at: Micros(at) }
    }

    fn sorted(batch: Option<Vec<Used>>) -> Vec<Used> {
        let mut batch = batch.unwrap();
        batch.sort_by_key(|used| used.slot);
        batch
    }

    #[test]
    fn many_uses_of_a_key_are_one_note_a_minute() {
        let mut last_used = LastUsed::new();
        assert_eq!(last_used.take_due(Micros(0)), None);
        for at in 0..1000 {
            last_used.note(7, 1, Micros(at));
            last_used.note(9, 4, Micros(at));
            assert_eq!(last_used.take_due(Micros(at)), None);
        }
        assert_eq!((last_used.take_due(Micros(MINUTE - 1)), last_used.due_at()), (None, Some(Micros(MINUTE))));
        assert_eq!(sorted(last_used.take_due(Micros(MINUTE))), [used(7, 1, 999), used(9, 4, 999)]);
        last_used.note(7, 1, Micros(MINUTE + 5));
        assert_eq!(last_used.take_due(Micros(2 * MINUTE - 1)), None);
        assert_eq!(sorted(last_used.take_due(Micros(2 * MINUTE))), [used(7, 1, MINUTE + 5)]);
    }

    #[test]
    fn nothing_is_handed_over_when_nothing_was_used() {
        let mut last_used = LastUsed::new();
        for minute in 0..10 {
            assert_eq!(last_used.take_due(Micros(minute * MINUTE)), None);
        }
        assert!(last_used.take_all().is_empty() && last_used.due_at().is_none());
    }

    #[test]
    fn a_slot_that_got_another_credential_speaks_for_that_one() {
        let mut last_used = LastUsed::new();
        last_used.note(7, 1, Micros(10));
        last_used.note(7, 2, Micros(20));
        assert_eq!(last_used.take_all(), [used(7, 2, 20)]);
    }

    #[test]
    fn a_clock_that_steps_back_neither_rewinds_nor_silences_it() {
        let mut last_used = LastUsed::new();
        assert_eq!(last_used.take_due(Micros(1000 * MINUTE)), None);
        last_used.note(7, 1, Micros(1000 * MINUTE));
        last_used.note(7, 1, Micros(3));
        assert_eq!(last_used.take_due(Micros(3)), Some(vec![used(7, 1, 1000 * MINUTE)]));
        last_used.note(7, 1, Micros(4));
        assert_eq!(last_used.take_due(Micros(4)), None);
        assert_eq!(last_used.take_due(Micros(3 + MINUTE)), Some(vec![used(7, 1, 4)]));
    }

    #[test]
    fn its_memory_has_a_ceiling_and_known_keys_are_noted_beyond_it() {
        let mut last_used = LastUsed::new();
        let capacity = last_used.noted.capacity();
        for slot in 0..NOTED_MAX as u32 + 10 {
            last_used.note(slot, 1, Micros(1));
        }
        last_used.note(0, 1, Micros(2));
        assert_eq!((last_used.noted.len(), last_used.noted.capacity(), last_used.missed()), (NOTED_MAX, capacity, 10));
        let batch = last_used.take_all();
        assert_eq!(batch.len(), NOTED_MAX);
        assert!(batch.contains(&used(0, 1, 2)));
        last_used.note(NOTED_MAX as u32 + 1, 1, Micros(3));
        assert_eq!(last_used.take_all().len(), 1);
    }
}
