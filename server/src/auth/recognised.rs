//! Secrets that this core has verified before, with all that the next check of one needs in 32 bytes of one cache line.
//! An entry is its row's shadow: the row is changed and the entry is gone, so that nothing is right here that is no longer
//! right there. Only verified secrets get in, at most one for a slot: a flood of others can neither fill nor slow it.
//!
//! ```text
//! secret ─► keyed hash: 128 bits ─► home, by its upper 32 ─► entry, entry, empty     all 128 compared, in constant time
//! slot, tag (the same upper 32) ─► home ─► the entry that has this slot ─► taken out
//! ```
//!
//! Linear probing over a table that is at most two thirds full, without graves: what stood behind an entry moves up. It is
//! as large as what is in use needs, whatever else there is: few pages are looked up where few keys are used.

use ringlog_engine::ids::{Micros, Tenant};
use ringlog_engine::io::huge_vec;
use subtle::ConstantTimeEq;

use crate::auth::credentials::TENANTS_MAX;
use crate::auth::delta::CredentialKind;
use crate::auth::keyed_hash::KeyedHash;
use crate::auth::role::{Permissions, Role};

const ENTRIES_MIN: usize = 64;
const EMPTY_SLOT: u32 = u32::MAX;
const SECOND_US: i64 = 1_000_000;

/// What a check that was made leaves for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    pub slot: u32,
    pub generation: u32,
    pub tenant: Tenant,
    pub role: Role,
    pub kind: CredentialKind,
    pub scope: Permissions,
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Entry {
    hash: u128,
    slot: u32,
    generation: u32,
    /// In whole seconds, not later than the moment when the row or the token ends.
    good_until_s: u32,
    /// Tenant, role, kind and scope.
    who: u32,
}

/// Two to a cache line, and none across two.
const _: () = assert!(size_of::<Entry>() == 32);

const EMPTY: Entry = Entry { hash: 0, slot: EMPTY_SLOT, generation: 0, good_until_s: 0, who: 0 };

pub struct Recognised {
    key: KeyedHash,
    entries: Vec<Entry>,
    count: usize,
}

impl Recognised {
    /// `seed` is random, and the core's own.
    pub fn new(seed: u128) -> Recognised {
        Recognised { key: KeyedHash::new(seed), entries: vec![EMPTY; ENTRIES_MIN], count: 0 }
    }

    pub fn hash(&self, secret: &[u8]) -> u128 {
        self.key.of(secret)
    }

    /// What is known of a secret, unless that has ended, or ends within a second: then its row must say.
    pub fn find(&self, hash: u128, now: Micros) -> Option<Known> {
        let mut at = self.home(tag(hash));
        loop {
            let entry = &self.entries[at];
            if entry.hash.ct_eq(&hash).into() {
                return (now.0 < i64::from(entry.good_until_s) * SECOND_US).then(|| entry.known());
            }
            if entry.slot == EMPTY_SLOT {
                return None;
            }
            at = self.after(at);
        }
    }

    /// Remembers a secret that was verified. Forget what its slot had before: the table grows by what it holds.
    pub fn learn(&mut self, hash: u128, known: &Known, expires_at: Micros) {
        if 2 * self.entries.len() < 3 * (self.count + 1) {
            self.grow();
        }
        self.place(Entry::new(hash, known, expires_at));
    }

    fn place(&mut self, entry: Entry) {
        let mut at = self.home(entry.tag());
        while self.entries[at].slot != EMPTY_SLOT && self.entries[at].hash != entry.hash {
            at = self.after(at);
        }
        self.count += usize::from(self.entries[at].slot == EMPTY_SLOT);
        self.entries[at] = entry;
    }

    /// Takes out what is known of a slot's secret; `tag` is that of the last hash that was learnt for it.
    pub fn forget(&mut self, slot: u32, tag: u32) {
        let mut hole = self.home(tag);
        while self.entries[hole].slot != slot {
            if self.entries[hole].slot == EMPTY_SLOT {
                return;
            }
            hole = self.after(hole);
        }
        let mut at = self.after(hole);
        while self.entries[at].slot != EMPTY_SLOT {
            // It may move up if that does not put it before its home.
            if self.steps(hole, at) <= self.steps(self.home(self.entries[at].tag()), at) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.entries[hole] = EMPTY;
        self.count -= 1;
    }

    pub fn clear(&mut self) {
        self.entries = vec![EMPTY; ENTRIES_MIN];
        self.count = 0;
    }

    /// From front to back in both tables, since homes keep their order: no entry is looked for.
    fn grow(&mut self) {
        let entry_count = 2 * self.entries.len();
        // On huge pages: it is hit at random.
        let mut entries = huge_vec(entry_count);
        entries.resize(entry_count, EMPTY);
        let entries = std::mem::replace(&mut self.entries, entries);
        self.count = 0;
        for entry in entries.into_iter().filter(|entry| entry.slot != EMPTY_SLOT) {
            self.place(entry);
        }
    }

    /// Where the search for a hash begins.
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.entries.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.entries.len() { 0 } else { at + 1 }
    }

    /// How far `to` is behind `from`, round the end.
    fn steps(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.entries.len() - from }
    }
}

/// The part of a hash that its place follows from.
pub fn tag(hash: u128) -> u32 {
    (hash >> 96) as u32
}

impl Entry {
    fn new(hash: u128, known: &Known, expires_at: Micros) -> Entry {
        const { assert!(TENANTS_MAX == 1 << 20) };
        let bits = [(known.role as u32, 2), (known.kind as u32, 3), (u32::from(known.scope.bits()), 7)];
        let who = bits.iter().fold(known.tenant.0, |who, (bits, width)| who << width | bits);
        let good_until_s = u32::try_from((expires_at.0 / SECOND_US).max(0)).unwrap_or(u32::MAX);
        assert_ne!(known.slot, EMPTY_SLOT);
        Entry { hash, slot: known.slot, generation: known.generation, good_until_s, who }
    }

    fn known(&self) -> Known {
        Known {
            slot: self.slot,
            generation: self.generation,
            tenant: Tenant(self.who >> 12),
            role: Role::ALL[(self.who >> 10 & 3) as usize],
            kind: CredentialKind::ALL[(self.who >> 7 & 7) as usize],
            scope: Permissions::from_bits(self.who as u8 & 0x7f),
        }
    }

    fn tag(&self) -> u32 {
        tag(self.hash)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const NOW: Micros = Micros(1_790_000_000_000_000);
    const NEVER: Micros = Micros(i64::MAX);

    fn known(slot: u32) -> Known {
        Known {
            slot,
            generation: slot ^ 5,
            tenant: Tenant(slot % TENANTS_MAX as u32),
            role: Role::ALL[slot as usize % 4],
            kind: CredentialKind::ALL[slot as usize % 5],
            scope: Permissions::from_bits(slot as u8 & 0x7f),
        }
    }

    #[test]
    fn what_was_learnt_is_found_whole_until_it_is_forgotten() {
        let mut recognised = Recognised::new(7);
        let secrets: Vec<String> = (0..1000).map(|slot| format!("the secret of slot {slot}")).collect();
        let hashes: Vec<u128> = secrets.iter().map(|secret| recognised.hash(secret.as_bytes())).collect();
        for (slot, hash) in (0..).zip(&hashes) {
            assert_eq!(recognised.find(*hash, NOW), None);
            recognised.learn(*hash, &known(slot), NEVER);
        }
        let all = [known(0), known(TENANTS_MAX as u32 - 1), known(0x00ff_ffff)];
        for known in all {
            assert_eq!(Entry::new(1, &known, NEVER).known(), known);
        }
        for (slot, hash) in (0..).zip(&hashes) {
            assert_eq!(recognised.find(*hash, NOW), Some(known(slot)));
            for bit in 0..128 {
                assert_eq!(recognised.find(hash ^ 1 << bit, NOW), None);
            }
            recognised.forget(slot, tag(*hash));
            assert_eq!(recognised.find(*hash, NOW), None);
        }
        assert!(recognised.entries.iter().all(|entry| entry.slot == EMPTY_SLOT));
    }

    /// Hashes with few different homes, so that entries stand in each other's way and round the end of the table.
    #[test]
    fn a_crowded_table_agrees_with_a_map() {
        let mut recognised = Recognised::new(7);
        let mut model: HashMap<u32, u128> = HashMap::new();
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..20_000u128 {
            let slot = random(40) as u32;
            if let Some(old) = model.remove(&slot) {
                recognised.forget(slot, tag(old));
            } else {
                let home = [0u32, 1, 2, 0x8000_0000, 0xfe00_0000, 0xffff_ffff][random(6) as usize];
                let hash = u128::from(home) << 96 | round;
                recognised.learn(hash, &known(slot), NEVER);
                model.insert(slot, hash);
            }
            // Of a slot that has nothing, whatever the tag.
            recognised.forget(41, random(1 << 32) as u32);
            let count = recognised.entries.iter().filter(|entry| entry.slot != EMPTY_SLOT).count();
            assert_eq!((count, recognised.count, recognised.entries.len()), (model.len(), model.len(), ENTRIES_MIN));
            for (slot, hash) in &model {
                assert_eq!(recognised.find(*hash, NOW), Some(known(*slot)));
            }
        }
    }

    #[test]
    fn the_last_second_is_the_rows_to_judge() {
        let mut recognised = Recognised::new(7);
        let at = |seconds: i64, us: i64| Micros(seconds * SECOND_US + us);
        for (expires_at, last_good) in [
            (at(2000, 0), Some(at(2000, -1))),
            (at(2000, 999_999), Some(at(2000, -1))),
            (at(0, 999_999), None),
            (Micros(-5), None),
            (Micros(i64::MIN), None),
            (NEVER, Some(at(i64::from(u32::MAX), -1))),
        ] {
            recognised.learn(1, &known(0), expires_at);
            let found = |now| recognised.find(1, now).is_some();
            assert!(last_good.is_none_or(|last| found(last) && !found(Micros(last.0 + 1))), "{expires_at:?}");
            assert!(last_good.is_some() || !found(Micros(0)), "{expires_at:?}");
        }
    }

    #[test]
    fn it_grows_with_what_it_holds_and_is_never_full() {
        let mut recognised = Recognised::new(7);
        let hashes: Vec<u128> = (0..5_000u32).map(|slot| recognised.hash(&slot.to_le_bytes())).collect();
        for (slot, hash) in (0..).zip(&hashes) {
            assert_eq!(recognised.find(*hash, NOW), None);
            // Again is not once more.
            recognised.learn(*hash, &known(slot), NEVER);
            recognised.learn(*hash, &known(slot), NEVER);
            assert_eq!(recognised.count, slot as usize + 1);
            assert!(3 * recognised.count <= 2 * recognised.entries.len());
            assert_eq!(recognised.find(hashes[slot as usize / 2], NOW), Some(known(slot / 2)));
        }
        assert_eq!(recognised.entries.len(), 8192);
        for (slot, hash) in (0..).zip(&hashes) {
            assert_eq!(recognised.find(*hash, NOW), Some(known(slot)));
        }
        // What comes and goes takes no more room.
        for (slot, hash) in (0..).zip(&hashes).cycle().take(20_000) {
            recognised.forget(slot, tag(*hash));
            recognised.learn(*hash, &known(slot), NEVER);
        }
        assert_eq!(recognised.entries.len(), 8192);
        recognised.clear();
        assert_eq!((recognised.count, recognised.entries.len()), (0, ENTRIES_MIN));
        assert!(hashes.iter().all(|hash| recognised.find(*hash, NOW).is_none()));
    }
}
