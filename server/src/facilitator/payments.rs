//! Which payments are under way and which were settled, by their digests, for all cores together.
//!
//! Invariant: a payment is never in both, and `order` holds what is settled, oldest first. The oldest are forgotten.

use std::collections::{HashSet, VecDeque};

use crate::limits::SETTLED_PAYMENTS_KEPT_MAX;

type Digest = [u8; 32];

#[derive(Debug, Default)]
pub struct Payments {
    under_way: HashSet<Digest>,
    settled: HashSet<Digest>,
    order: VecDeque<Digest>,
}

impl Payments {
    /// `false`: it is under way already, or was settled.
    pub fn begin(&mut self, payment: Digest) -> bool {
        !self.settled.contains(&payment) && self.under_way.insert(payment)
    }

    pub fn end(&mut self, payment: Digest, is_settled: bool) {
        assert!(self.under_way.remove(&payment), "a payment ends that had not begun");
        if is_settled {
            if self.order.len() == SETTLED_PAYMENTS_KEPT_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.settled.remove(&oldest);
            }
            self.settled.insert(payment);
            self.order.push_back(payment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        digest
    }

    #[test]
    fn a_payment_buys_once() {
        let mut payments = Payments::default();
        assert!(payments.begin(digest(1)) && payments.begin(digest(2)));
        assert!(!payments.begin(digest(1)), "under way");
        payments.end(digest(1), false);
        assert!(payments.begin(digest(1)), "it was not settled");
        payments.end(digest(1), true);
        assert!(!payments.begin(digest(1)), "settled");
        assert!(!payments.begin(digest(2)));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut payments = Payments::default();
        for number in 0..=SETTLED_PAYMENTS_KEPT_MAX {
            assert!(payments.begin(digest(number)));
            payments.end(digest(number), true);
        }
        assert_eq!(
            (payments.settled.len(), payments.order.len()),
            (SETTLED_PAYMENTS_KEPT_MAX, SETTLED_PAYMENTS_KEPT_MAX)
        );
        assert!(!payments.begin(digest(1)));
        assert!(payments.begin(digest(0)));
    }
}
