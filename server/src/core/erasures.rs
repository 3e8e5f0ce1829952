//! Deleted tenants on their way out: what the shards of this core hold of them is removed, and once nothing is left the
//! catalog is told, which gives their ids back.
//!
//! Owns who is being removed from this core's shards. That somebody is to be removed is the catalog's to know: a shard does
//! not remember it, so that it is said after each start for every tenant whose end the catalog has not recorded. Must
//! never: tell the catalog before the tenant's events and its rejects are both gone from the disk.
//!
//! ```text
//! snapshot, Delta: deleting ─► erase ─► shard ─ files are rewritten ─► is_erased ─► control thread ─► Delta: gone
//!                                                                          └─◄─ said again until it is heard ─┘
//! ```

use std::collections::BTreeMap;

use ringlog_engine::ids::{ShardNumber, Tenant};

use crate::auth::delta::{Change, Delta, TenantRow, TenantState};
use crate::core::host::CoreHost;
use crate::handle::sources::{owner_of, shadow_of};
use crate::limits::{ERASED_TOLD_EVERY_US, ERASED_TOLD_MAX, ERASURES_LOOK_EVERY_US, ERASURES_LOOKED_AT_MAX};

/// Who is being removed from the shards of a core.
#[derive(Debug, Default)]
pub struct Erasures {
    /// By number: the tenant's shard.
    under_way: BTreeMap<u32, ShardNumber>,
    /// Those of which the catalog has been told and may not have got to it, and when it is told again.
    told: BTreeMap<u32, u64>,
    look_at_us: u64,
    /// The number from which on the next look goes.
    look_from: u32,
    /// Sealed segments that each shard could not write again, as far as has been said.
    said_unreadable: BTreeMap<ShardNumber, u64>,
}

impl Erasures {
    /// `false`: it is under way already.
    fn begin(&mut self, shard: ShardNumber, tenant: Tenant) -> bool {
        if self.under_way.contains_key(&tenant.0) {
            return false;
        }
        self.under_way.insert(tenant.0, shard);
        self.look_at_us = 0;
        true
    }

    /// The catalog knows that it is gone. It may have been on another core's shard.
    fn end(&mut self, tenant: Tenant) {
        self.under_way.remove(&tenant.0);
        self.told.remove(&tenant.0);
    }

    pub fn is_look_due(&self, now_us: u64) -> bool {
        !self.under_way.is_empty() && self.look_at_us <= now_us
    }

    /// Whether more segments of a shard than was said are not written again: what is deleted stays in them.
    fn is_news(&mut self, shard: ShardNumber, unreadable: u64) -> bool {
        let said = self.said_unreadable.entry(shard).or_default();
        std::mem::replace(said, unreadable) != unreadable
    }

    /// Tells of tenants that are gone, and of few at a time: logins and revocations wait in the same queue. The others have
    /// their turn when the catalog has got to those, and who could not be told of is told of later.
    fn look(
        &mut self,
        now_us: u64,
        is_gone: impl Fn(ShardNumber, Tenant) -> bool,
        mut tell: impl FnMut(Tenant) -> bool,
    ) {
        if !self.is_look_due(now_us) {
            return;
        }
        self.told.retain(|_, again_at_us| now_us < *again_at_us);
        let mut left = ERASURES_LOOKED_AT_MAX;
        let mut next = 0;
        for (&number, &shard) in self.under_way.range(self.look_from..) {
            if left == 0 || ERASED_TOLD_MAX <= self.told.len() {
                next = number;
                break;
            }
            left -= 1;
            let tenant = Tenant(number);
            if !self.told.contains_key(&number) && is_gone(shard, tenant) && tell(tenant) {
                self.told.insert(number, now_us + ERASED_TOLD_EVERY_US);
            }
        }
        self.look_from = next;
        self.look_at_us = now_us + ERASURES_LOOK_EVERY_US;
    }

    /// When there is something to look at.
    pub fn due_at_us(&self) -> Option<u64> {
        (!self.under_way.is_empty()).then_some(self.look_at_us)
    }
}

impl CoreHost {
    /// Has the shards of this core remove who is deleted. After the delta is in force: nobody is let in any more who would
    /// store something.
    pub(super) fn set_erasures(&mut self, delta: &Delta) {
        for change in &delta.changes {
            match change {
                Change::Tenant(row) if row.state == TenantState::Deleting => self.begin_erasure(row),
                Change::TenantGone(tenant) => self.erasures.end(*tenant),
                Change::Tenant(_) | Change::Credential(_) | Change::SigningKeys(_) => {}
            }
        }
    }

    fn begin_erasure(&mut self, row: &TenantRow) {
        let is_here = self.shard_owners[row.shard.0 as usize] == self.core;
        if is_here && self.erasures.begin(row.shard, row.number) {
            for tenant in [row.number, shadow_of(row.number)] {
                self.shards.erase(row.shard, tenant);
            }
        }
    }

    pub(super) fn look_at_erasures(&mut self) {
        if !self.erasures.is_look_due(self.now.monotonic_us) {
            return;
        }
        for (shard, stats) in self.shards.stats() {
            let unreadable = stats.segments_not_rewritten;
            if self.erasures.is_news(shard, unreadable) {
                tracing::warn!(
                    shard = shard.0,
                    segments = unreadable,
                    "sealed segments cannot be read, so that events of deleted tenants stay in them and their removal does \
                     not end: look at the disk; they are passed over until a restart, which tries again"
                );
            }
        }
        let (shards, control, wall) = (&self.shards, &self.control, self.now.wall);
        let is_gone = |shard, number| [number, shadow_of(number)].iter().all(|tenant| shards.is_erased(shard, *tenant));
        self.erasures.look(self.now.monotonic_us, is_gone, |tenant| control.erased(tenant, wall).is_ok());
    }

    /// Whether something may still be kept for a tenant, or for the tenant that it holds the rejects of.
    pub(super) fn is_kept(&self, tenant: Tenant) -> bool {
        self.credentials.tenant(owner_of(tenant)).is_some_and(|row| row.state != TenantState::Deleting)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    const SHARD: ShardNumber = ShardNumber(3);

    fn under_way(tenants: impl IntoIterator<Item = u32>) -> Erasures {
        let mut erasures = Erasures::default();
        for tenant in tenants {
            assert!(erasures.begin(SHARD, Tenant(tenant)));
        }
        erasures
    }

    fn told(erasures: &mut Erasures, now_us: u64, gone: &[u32]) -> Vec<u32> {
        let mut told = Vec::new();
        let is_gone = |shard, tenant: Tenant| shard == SHARD && gone.contains(&tenant.0);
        erasures.look(now_us, is_gone, |tenant| {
            told.push(tenant.0);
            true
        });
        told
    }

    #[test]
    fn the_catalog_is_told_of_who_is_gone_and_again_until_it_is_heard() {
        let mut erasures = under_way([7, 9]);
        assert!(!erasures.begin(SHARD, Tenant(7)));
        assert_eq!(erasures.due_at_us(), Some(0));
        assert!(told(&mut erasures, 5, &[]).is_empty());
        assert_eq!(erasures.due_at_us(), Some(5 + ERASURES_LOOK_EVERY_US));
        assert!(told(&mut erasures, 6, &[7]).is_empty(), "it was looked at a moment ago");
        let first_us = 5 + ERASURES_LOOK_EVERY_US;
        assert_eq!(told(&mut erasures, first_us, &[7]), [7]);
        assert_eq!(told(&mut erasures, first_us + ERASURES_LOOK_EVERY_US, &[7, 9]), [9]);
        assert_eq!(told(&mut erasures, first_us + ERASED_TOLD_EVERY_US, &[7, 9]), [7]);
        [7, 8, 9].into_iter().for_each(|tenant| erasures.end(Tenant(tenant)));
        assert_eq!(erasures.due_at_us(), None);
    }

    #[test]
    fn a_segment_that_cannot_be_read_is_said_once() {
        let mut erasures = Erasures::default();
        let other = ShardNumber(4);
        assert!(!erasures.is_news(SHARD, 0));
        assert!(erasures.is_news(SHARD, 1) && !erasures.is_news(SHARD, 1));
        assert!(!erasures.is_news(other, 0) && erasures.is_news(other, 1));
        assert!(erasures.is_news(SHARD, 3) && !erasures.is_news(SHARD, 3));
    }

    #[test]
    fn who_could_not_be_told_is_told_at_the_next_look() {
        let mut erasures = under_way([7]);
        erasures.look(0, |_, _| true, |_| false);
        assert_eq!(told(&mut erasures, ERASURES_LOOK_EVERY_US, &[7]), [7]);
    }

    #[test]
    fn of_many_that_end_together_few_wait_for_the_catalog_and_none_is_left_out() {
        let gone: Vec<u32> = (0..5 * ERASED_TOLD_MAX as u32).collect();
        let mut erasures = under_way(gone.iter().copied());
        let look_us = |look: u64| look * ERASURES_LOOK_EVERY_US;
        let first = told(&mut erasures, 0, &gone);
        assert_eq!(first, gone[..ERASED_TOLD_MAX]);
        assert!(told(&mut erasures, look_us(1), &gone).is_empty(), "the catalog has got to none of them");
        erasures.end(Tenant(first[3]));
        assert_eq!(told(&mut erasures, look_us(2), &gone), [gone[ERASED_TOLD_MAX]]);

        // Those that the catalog never hears of do not keep the others from their turn.
        let mut all = first;
        for round in 1..10 {
            let now = told(&mut erasures, look_us(3) + round * ERASED_TOLD_EVERY_US, &gone);
            assert!(now.len() <= ERASED_TOLD_MAX);
            all.extend(now);
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all, gone);
    }

    #[test]
    fn of_many_each_has_its_turn_and_one_look_is_bounded() {
        let count = 3 * ERASURES_LOOKED_AT_MAX as u32;
        let mut erasures = under_way(0..count);
        let (looks, seen) = (Cell::new(0), RefCell::new(vec![false; count as usize]));
        for round in 0..3 {
            looks.set(0);
            let is_gone = |_, tenant: Tenant| {
                looks.set(looks.get() + 1);
                seen.borrow_mut()[tenant.0 as usize] = true;
                false
            };
            erasures.look(round * ERASURES_LOOK_EVERY_US, is_gone, |_| unreachable!("none is gone"));
            assert_eq!(looks.get(), ERASURES_LOOKED_AT_MAX);
        }
        assert!(seen.borrow().iter().all(|seen| *seen));
    }
}
