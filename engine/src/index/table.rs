//! Open addressing from a hash to a small number, for keys that live elsewhere.
//!
//! Owns only slots; whoever owns the keys compares them. Hashes come in already mixed. Iteration does not exist,
//! so nothing can depend on the order of a table.

use crate::io::{huge_vec, prefetch};

const EMPTY: u64 = 0;

/// Invariant: fewer than half of the slots are taken; a slot holds `number + 1` below the 32 bits of the hash that decide
/// where it stands. So most other keys are told apart without looking at them, and slots move without their keys.
#[derive(Debug)]
pub struct HashTable {
    slots: Vec<u64>,
    taken: usize,
}

impl Default for HashTable {
    fn default() -> HashTable {
        HashTable { slots: vec![EMPTY; SLOTS_MIN], taken: 0 }
    }
}

impl HashTable {
    pub fn new() -> HashTable {
        HashTable::default()
    }

    pub fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.taken = 0;
    }

    /// Asks the memory for where a search from `hash` begins.
    pub fn fetch(&self, hash: u64) {
        prefetch(&self.slots[self.home(tag(hash))]);
    }

    /// The number that a search from `hash` looks at first.
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        let slot = self.slots[self.home(tag(hash))];
        (slot as u32).checked_sub(1)
    }

    /// The number whose key is equal, searched from `hash`.
    pub fn find(&self, hash: u64, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let tag = tag(hash);
        let mut at = self.home(tag);
        loop {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            if slot & TAG_MASK == tag && is_equal(slot as u32 - 1) {
                return Some(slot as u32 - 1);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds a number that is not there.
    pub fn insert(&mut self, hash: u64, number: u32) {
        if (self.taken + 1) * 2 > self.slots.len() {
            self.resize(self.slots.len() * 2);
        }
        self.taken += 1;
        self.place(tag(hash) | u64::from(number + 1));
    }

    /// Removes a number that is there. Later slots of the same run move up, so that no search stops short of them:
    /// growing the table has put them in any order.
    pub fn remove(&mut self, hash: u64, number: u32) {
        let mask = self.slots.len() - 1;
        let mut hole = self.home(tag(hash));
        while self.slots[hole] as u32 != number + 1 {
            assert!(self.slots[hole] != EMPTY);
            hole = (hole + 1) & mask;
        }
        let mut at = (hole + 1) & mask;
        while self.slots[at] != EMPTY {
            let home = self.home(self.slots[at]);
            // Slots between its home and where it is hold others: it may fill the hole if that lies among them.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.slots[hole] = EMPTY;
        self.taken -= 1;
    }

    /// Gives memory back when hardly any slot is taken. Growing again costs no more than it did.
    pub fn shrink(&mut self) {
        if SLOTS_MIN < self.slots.len() && self.taken * 16 < self.slots.len() {
            self.resize(self.slots.len() / 4);
        }
    }

    fn resize(&mut self, slot_count: usize) {
        // On huge pages: a large table is read at random, and small pages would cost more than the memory itself.
        let mut slots: Vec<u64> = huge_vec(slot_count);
        slots.resize(slot_count, EMPTY);
        let slots = std::mem::replace(&mut self.slots, slots);
        for slot in slots.into_iter().filter(|&slot| slot != EMPTY) {
            self.place(slot);
        }
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home(slot);
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// Where the search for a slot begins: its upper bits, scaled to the table.
    fn home(&self, slot: u64) -> usize {
        let upper = slot >> 32;
        ((upper * self.slots.len() as u64) >> 32) as usize
    }
}

const SLOTS_MIN: usize = 64;
const TAG_MASK: u64 = !0 << 32;

/// Fibonacci hashing: fingerprints are uniform already, small integers are not. The upper half of the product is the best of it.
fn tag(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) & TAG_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_found_and_nothing_else() {
        let keys: Vec<u64> = (0..5_000).map(|i| i * 7).collect();
        let mut table = HashTable::new();
        for (number, &key) in keys.iter().enumerate() {
            table.insert(key, number as u32);
        }
        for (number, &key) in keys.iter().enumerate() {
            assert_eq!(table.find(key, |n| keys[n as usize] == key), Some(number as u32));
        }
        assert_eq!(table.find(1, |n| keys[n as usize] == 1), None);
    }

    #[test]
    fn a_table_that_empties_shrinks_and_still_finds() {
        let mut table = HashTable::new();
        (0..10_000u32).for_each(|number| table.insert(u64::from(number), number));
        let grown = table.slots.len();
        for number in 0..9_990u32 {
            table.remove(u64::from(number), number);
            table.shrink();
        }
        assert!(table.slots.len() <= 256 && 256 < grown);
        assert!(
            (0..10_000u32).all(|number| table.find(u64::from(number), |n| n == number).is_some() == (9_990 <= number))
        );
    }

    #[test]
    fn a_removed_number_hides_no_other() {
        let keys: Vec<u64> = (0..2_000).map(|i| i % 37).collect();
        let mut table = HashTable::new();
        for number in 0..2_000u32 {
            table.insert(keys[number as usize], number);
        }
        for number in (0..2_000u32).filter(|number| number % 3 == 0) {
            table.remove(keys[number as usize], number);
        }
        for number in 0..2_000u32 {
            let found = table.find(keys[number as usize], |n| n == number);
            assert_eq!(found.is_some(), number % 3 != 0);
        }
    }
}
