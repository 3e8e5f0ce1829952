//! How many changes one tenant, or one person, may make in a minute: each is a durable record that is never forgotten,
//! and a key that rotates itself in a loop would fill the disk. Operators are not counted: what they do, they do to their own server.
//! Nor are revocations.

use std::collections::HashMap;

use ringlog_engine::ids::Micros;

use crate::limits::TENANT_CHANGES_PER_MINUTE_MAX;

const MINUTE_US: i64 = 60_000_000;

#[derive(Debug, Default)]
pub struct ChangeLimit {
    minute: i64,
    /// Of this minute, so that it is as long as there were changes in it.
    counts: HashMap<u32, u32>,
}

impl ChangeLimit {
    /// Counts a change, or says in how many seconds there is room for another.
    pub fn admit(&mut self, number: u32, at: Micros) -> Result<(), u64> {
        let minute = at.0.div_euclid(MINUTE_US);
        // A clock that is set back does not give what was used up.
        if self.minute < minute {
            self.minute = minute;
            self.counts.clear();
        }
        let count = self.counts.entry(number).or_default();
        if *count < TENANT_CHANGES_PER_MINUTE_MAX {
            *count += 1;
            return Ok(());
        }
        let left_us = (self.minute + 1) * MINUTE_US - at.0;
        Err((left_us.clamp(1, MINUTE_US) as u64).div_ceil(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_minute_is_used_up_and_comes_again() {
        let mut limit = ChangeLimit::default();
        let start = 100 * MINUTE_US;
        for _ in 0..TENANT_CHANGES_PER_MINUTE_MAX {
            assert_eq!(limit.admit(1, Micros(start)), Ok(()));
        }
        assert_eq!(limit.admit(1, Micros(start)), Err(60));
        assert_eq!(limit.admit(1, Micros(start + MINUTE_US - 1)), Err(1));
        assert_eq!(limit.admit(1, Micros(start - MINUTE_US)), Err(60), "the clock was set back");
        assert_eq!(limit.admit(2, Micros(start)), Ok(()));
        assert_eq!(limit.admit(1, Micros(start + MINUTE_US)), Ok(()));
        assert_eq!(limit.counts.len(), 1);
    }
}
