//! A bounded table whose keys outlive its entries: what is under way, found again by the ticket that comes back.
//!
//! Owns the generations that tell an entry from the one that had its place before. A key of an entry that is gone finds
//! nothing, for as long as it takes a place to be used 16 million times.

/// Bits of a place and of a generation in a ticket; a query's disk operation has 16 more, and 56 are there.
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;
const PLACE_BITS: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotKey {
    place: u32,
    generation: u32,
}

impl SlotKey {
    /// Forty bits.
    pub fn to_ticket(self) -> u64 {
        u64::from(self.place) << GENERATION_BITS | u64::from(self.generation)
    }

    pub fn of_ticket(ticket: u64) -> SlotKey {
        SlotKey { place: (ticket >> GENERATION_BITS) as u32, generation: ticket as u32 & GENERATION_MASK }
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    entries_max: usize,
}

impl<T> Slots<T> {
    pub fn new(entries_max: usize) -> Slots<T> {
        assert!(entries_max <= 1 << PLACE_BITS);
        Slots { slots: Vec::new(), free: Vec::new(), entries_max }
    }

    pub fn is_full(&self) -> bool {
        self.slots.len() - self.free.len() == self.entries_max
    }

    /// Gives the entry back if there is no place.
    pub fn insert(&mut self, entry: T) -> Result<SlotKey, T> {
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.slots.len() < self.entries_max => {
                self.slots.push(Slot { generation: 0, entry: None });
                self.slots.len() as u32 - 1
            }
            None => return Err(entry),
        };
        let slot = &mut self.slots[place as usize];
        slot.entry = Some(entry);
        Ok(SlotKey { place, generation: slot.generation })
    }

    pub fn get_mut(&mut self, key: SlotKey) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.place as usize)?;
        if slot.generation == key.generation { slot.entry.as_mut() } else { None }
    }

    pub fn take(&mut self, key: SlotKey) -> Option<T> {
        let slot = self.slots.get_mut(key.place as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let entry = slot.entry.take()?;
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        self.free.push(key.place);
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_own_entry_and_never_its_successor() {
        let mut slots = Slots::new(2);
        let first = slots.insert("a").unwrap();
        let second = slots.insert("b").unwrap();
        assert_eq!(slots.insert("c"), Err("c"));
        assert_eq!(slots.take(SlotKey::of_ticket(first.to_ticket())), Some("a"));
        let third = slots.insert("d").unwrap();
        assert_eq!((slots.take(first), slots.get_mut(first)), (None, None));
        assert_eq!((slots.take(third), slots.get_mut(second)), (Some("d"), Some(&mut "b")));
        assert!(!slots.is_full());
    }
}
