//! Open addressing from a hash to a small number, for keys that live elsewhere.
//!
//! Owns only slots; whoever owns the keys compares them. Hashes come in already mixed. Iteration does not exist,
//! so nothing can depend on the order of a table.

use crate::io::huge_vec;

const EMPTY: u64 = 0;

/// Invariant: fewer than half of the slots are taken; a slot holds `number + 1` below 32 bits of the hash, so that most
/// other keys are told apart without looking at them.
#[derive(Debug)]
pub struct HashTable {
    slots: Vec<u64>,
    taken: usize,
}

impl Default for HashTable {
    fn default() -> HashTable {
        HashTable { slots: vec![EMPTY; 64], taken: 0 }
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

    /// The number that a search from `hash` looks at first. Calling this for many hashes before searching for any lets
    /// the memory answer them together.
    pub fn first_candidate(&self, hash: u64) -> Option<u32> {
        let slot = self.slots[home(hash, self.slots.len() - 1)];
        (slot as u32).checked_sub(1)
    }

    /// The number whose key is equal, searched from `hash`.
    pub fn find(&self, hash: u64, is_equal: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let tag = tag(hash);
        let mut at = home(hash, mask);
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

    /// Adds a number that is not there. `hash_of` gives the hash of any number that is, should the table grow.
    pub fn insert(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        if (self.taken + 1) * 2 > self.slots.len() {
            // On huge pages: a large table is read at random, and small pages would cost more than the memory itself.
            let mut bigger: Vec<u64> = huge_vec(self.slots.len() * 2);
            bigger.resize(self.slots.len() * 2, EMPTY);
            let slots = std::mem::replace(&mut self.slots, bigger);
            for slot in slots.into_iter().filter(|&slot| slot != EMPTY) {
                self.place(hash_of(slot as u32 - 1), slot);
            }
        }
        self.taken += 1;
        self.place(hash, tag(hash) | u64::from(number + 1));
    }

    /// Removes a number that is there. Later slots of the same run move up, so that no search stops short of them:
    /// growing the table has put them in any order.
    pub fn remove(&mut self, hash: u64, number: u32, hash_of: impl Fn(u32) -> u64) {
        let mask = self.slots.len() - 1;
        let mut hole = home(hash, mask);
        while self.slots[hole] as u32 != number + 1 {
            assert!(self.slots[hole] != EMPTY);
            hole = (hole + 1) & mask;
        }
        let mut at = (hole + 1) & mask;
        while self.slots[at] != EMPTY {
            let home = home(hash_of(self.slots[at] as u32 - 1), mask);
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

    fn place(&mut self, hash: u64, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = home(hash, mask);
        while self.slots[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }
}

const TAG_MASK: u64 = !0 << 32;

/// Fibonacci hashing: fingerprints are uniform already, small integers are not.
fn spread(hash: u64) -> u64 {
    hash.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn home(hash: u64, mask: usize) -> usize {
    (spread(hash) >> 24) as usize & mask
}

/// Bits that the place in the table does not depend on, for tables of up to 2^16 slots, and hardly for larger ones.
fn tag(hash: u64) -> u64 {
    spread(hash.rotate_left(32)) & TAG_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_found_and_nothing_else() {
        let keys: Vec<u64> = (0..5_000).map(|i| i * 7).collect();
        let mut table = HashTable::new();
        for (number, &key) in keys.iter().enumerate() {
            table.insert(key, number as u32, |n| keys[n as usize]);
        }
        for (number, &key) in keys.iter().enumerate() {
            assert_eq!(table.find(key, |n| keys[n as usize] == key), Some(number as u32));
        }
        assert_eq!(table.find(1, |n| keys[n as usize] == 1), None);
    }

    #[test]
    fn a_removed_number_hides_no_other() {
        let keys: Vec<u64> = (0..2_000).map(|i| i % 37).collect();
        let mut table = HashTable::new();
        for number in 0..2_000u32 {
            table.insert(keys[number as usize], number, |n| keys[n as usize]);
        }
        for number in (0..2_000u32).filter(|number| number % 3 == 0) {
            table.remove(keys[number as usize], number, |n| keys[n as usize]);
        }
        for number in 0..2_000u32 {
            let found = table.find(keys[number as usize], |n| n == number);
            assert_eq!(found.is_some(), number % 3 != 0);
        }
    }
}
