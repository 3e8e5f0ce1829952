//! Room for the entries of the window: numbered slots in chunks, so that growing moves nothing and what becomes empty is given back.

use crate::format::key_run::KeyEntry;

const CHUNK_SLOTS: usize = 1024;
/// No slot: the end of a list.
pub const NO_SLOT: u32 = u32::MAX;

/// One remembered batch, and the tenant's next one. Of a slot that is free, `next` is the next free one of its chunk.
#[derive(Debug, Clone, Copy)]
pub struct Slot {
    pub entry: KeyEntry,
    pub next: u32,
}

/// Invariant: `used` counts the slots that are neither free nor beyond the end of `slots`.
#[derive(Debug)]
struct Chunk {
    slots: Vec<Slot>,
    free: u32,
    used: usize,
    is_roomy: bool,
}

/// Invariant: every chunk that has room and is marked so is in `roomy`, once.
#[derive(Debug, Default)]
pub struct Slots {
    chunks: Vec<Chunk>,
    roomy: Vec<u32>,
}

impl Slots {
    pub fn get(&self, number: u32) -> &Slot {
        &self.chunks[number as usize / CHUNK_SLOTS].slots[number as usize % CHUNK_SLOTS]
    }

    pub fn get_mut(&mut self, number: u32) -> &mut Slot {
        &mut self.chunks[number as usize / CHUNK_SLOTS].slots[number as usize % CHUNK_SLOTS]
    }

    /// Takes a slot for an entry; its number.
    pub fn take(&mut self, entry: KeyEntry) -> u32 {
        let chunk_index = self.roomy_chunk();
        let chunk = &mut self.chunks[chunk_index];
        chunk.used += 1;
        let slot = Slot { entry, next: NO_SLOT };
        if chunk.free != NO_SLOT {
            let number = chunk.free;
            let place = &mut chunk.slots[number as usize % CHUNK_SLOTS];
            chunk.free = std::mem::replace(place, slot).next;
            return number;
        }
        if chunk.slots.capacity() == 0 {
            chunk.slots.reserve_exact(CHUNK_SLOTS);
        }
        chunk.slots.push(slot);
        (chunk_index * CHUNK_SLOTS + chunk.slots.len() - 1) as u32
    }

    /// Gives a slot back.
    pub fn free(&mut self, number: u32) {
        let chunk_index = number as usize / CHUNK_SLOTS;
        let chunk = &mut self.chunks[chunk_index];
        assert!(chunk.used > 0);
        chunk.used -= 1;
        if chunk.used == 0 {
            chunk.slots = Vec::new();
            chunk.free = NO_SLOT;
        } else {
            chunk.slots[number as usize % CHUNK_SLOTS].next = chunk.free;
            chunk.free = number;
        }
        if !chunk.is_roomy {
            chunk.is_roomy = true;
            self.roomy.push(chunk_index as u32);
        }
    }

    /// Chunks that have memory.
    #[cfg(test)]
    pub fn chunk_count(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.slots.capacity() > 0).count()
    }

    fn roomy_chunk(&mut self) -> usize {
        while let Some(&last) = self.roomy.last() {
            let chunk = &mut self.chunks[last as usize];
            if chunk.used < CHUNK_SLOTS {
                return last as usize;
            }
            chunk.is_roomy = false;
            self.roomy.pop();
        }
        self.chunks.push(Chunk { slots: Vec::new(), free: NO_SLOT, used: 0, is_roomy: true });
        self.roomy.push(self.chunks.len() as u32 - 1);
        self.chunks.len() - 1
    }
}
