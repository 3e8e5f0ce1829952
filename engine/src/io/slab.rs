//! Numbered places for what an operation in flight owns.
//!
//! Owns the numbering: a slot is used again, under a new generation, so that a number from an earlier life finds nothing.

/// Slots fit into the 24 bits that a completion's tag has for them.
pub(super) const SLOTS_MAX: u32 = 1 << 24;

pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    slots_max: u32,
}

struct Place<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub fn new(slots_max: u32) -> Slab<T> {
        assert!(slots_max <= SLOTS_MAX);
        Slab { places: Vec::new(), free: Vec::new(), slots_max }
    }

    /// The slot and generation of the value, which comes back when all slots are taken.
    pub fn insert(&mut self, value: T) -> Result<(u32, u32), T> {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.places[slot as usize];
            assert!(place.value.is_none());
            place.value = Some(value);
            return Ok((slot, place.generation));
        }
        let slot = self.places.len() as u32;
        if slot >= self.slots_max {
            return Err(value);
        }
        self.places.push(Place { generation: 0, value: Some(value) });
        Ok((slot, 0))
    }

    pub fn get(&self, slot: u32, generation: u32) -> Option<&T> {
        let place = self.places.get(slot as usize)?;
        place.value.as_ref().filter(|_| place.generation == generation)
    }

    pub fn get_mut(&mut self, slot: u32, generation: u32) -> Option<&mut T> {
        let place = self.places.get_mut(slot as usize)?;
        place.value.as_mut().filter(|_| place.generation == generation)
    }

    pub fn remove(&mut self, slot: u32, generation: u32) -> Option<T> {
        let place = self.places.get_mut(slot as usize)?;
        if place.generation != generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(slot);
        Some(value)
    }

    /// Every value with its slot and generation.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, u32, &mut T)> {
        self.places.iter_mut().enumerate().filter_map(|(slot, place)| {
            let generation = place.generation;
            place.value.as_mut().map(|value| (slot as u32, generation, value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_from_an_earlier_life_finds_nothing() {
        let mut slab = Slab::new(2);
        let (slot, generation) = slab.insert('a').unwrap();
        slab.insert('b').unwrap();
        assert_eq!(slab.insert('c'), Err('c'));
        assert_eq!(slab.remove(slot, generation), Some('a'));
        assert_eq!(slab.remove(slot, generation), None);
        let (again, next) = slab.insert('d').unwrap();
        assert_eq!(again, slot);
        assert_eq!(slab.get(slot, generation), None);
        assert_eq!(slab.get_mut(slot, next), Some(&mut 'd'));
        assert_eq!(slab.iter_mut().count(), 2);
    }
}
