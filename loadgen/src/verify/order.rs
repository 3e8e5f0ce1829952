//! Which events stand out of place: as few as it takes to blame.
//!
//! One event that moved to the front of a feed puts a million others behind it. So what is reported is not everybody
//! who meets a neighbour that should not be there, but the smallest number of events whose removal leaves the rest in
//! order. No input, no output, no state: slices in, places out.

use crate::ledger::Moment;

/// When an event was sent, and when it was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub sent_at: Moment,
    pub acked_at: Moment,
}

/// Places of the events to blame when nobody may stand behind one that was sent after its own acknowledgement.
///
/// A largest orderly rest, one event after the other: for each moment, how many can be kept so that the last sent of
/// them was sent then. An event that was sent at `s` and acknowledged at `a` extends every rest whose moment is at
/// most `a`; those up to `s` become a rest of `s`, those between stay what they are, one larger.
pub fn out_of_place(spans: &[Span]) -> Vec<usize> {
    let mut moments: Vec<Moment> = spans.iter().map(|span| span.sent_at).collect();
    moments.sort_unstable();
    moments.dedup();
    // State 0 is the empty rest; state i + 1 is moment i.
    let mut kept = MaxTree::new(moments.len() + 1);
    let mut came_from = vec![0_u32; spans.len()];
    let states: Vec<(u32, u32)> = spans
        .iter()
        .map(|span| {
            let sent = moments.partition_point(|moment| *moment < span.sent_at) + 1;
            let acked = moments.partition_point(|moment| *moment <= span.acked_at);
            (sent as u32, acked.max(sent) as u32)
        })
        .collect();
    for (&(sent, acked), from) in states.iter().zip(&mut came_from) {
        let (count, best) = kept.max_up_to(sent as usize);
        *from = best as u32;
        kept.add(sent as usize + 1, acked as usize, 1);
        kept.set(sent as usize, count + 1);
    }
    let (_, mut state) = kept.max_up_to(moments.len());
    let mut blamed = Vec::new();
    for (place, &(sent, acked)) in states.iter().enumerate().rev() {
        let (sent, acked) = (sent as usize, acked as usize);
        if state == sent {
            state = came_from[place] as usize;
        } else if state < sent || acked < state {
            blamed.push(place);
        }
    }
    blamed.reverse();
    blamed
}

/// Places of the numbers to blame when each must be larger than all before it.
pub fn not_rising(numbers: &[u64]) -> Vec<usize> {
    // Places of the smallest last number of a rising rest, by its length.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; numbers.len()];
    for (place, &number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|&end| numbers[end] < number);
        if let Some(previous) = length.checked_sub(1) {
            before[place] = ends[previous];
        }
        if length == ends.len() {
            ends.push(place);
        } else {
            ends[length] = place;
        }
    }
    let mut is_kept = vec![false; numbers.len()];
    let mut next = ends.last().copied();
    while let Some(place) = next {
        is_kept[place] = true;
        next = Some(before[place]).filter(|&previous| previous != usize::MAX);
    }
    (0..numbers.len()).filter(|&place| !is_kept[place]).collect()
}

/// Numbers in a row: raise a range, set one, find the largest of the first ones.
struct MaxTree {
    leaf_count: usize,
    /// Of the subtree, without what was added to the nodes above it.
    max: Vec<i64>,
    added: Vec<i64>,
}

/// So far below that no number of events lifts it above 0.
const NONE: i64 = i64::MIN / 2;

impl MaxTree {
    /// The first is 0, the others are not there.
    fn new(count: usize) -> Self {
        let leaf_count = count.next_power_of_two();
        let mut tree = Self { leaf_count, max: vec![NONE; 2 * leaf_count], added: vec![0; 2 * leaf_count] };
        tree.set(0, 0);
        tree
    }

    fn set(&mut self, leaf: usize, value: i64) {
        let mut node = leaf + self.leaf_count;
        let above: i64 = std::iter::successors(Some(node / 2), |up| Some(up / 2))
            .take_while(|&up| 0 < up)
            .map(|up| self.added[up])
            .sum();
        self.max[node] = value - above;
        self.added[node] = 0;
        while 1 < node {
            node /= 2;
            self.max[node] = self.max[2 * node].max(self.max[2 * node + 1]) + self.added[node];
        }
    }

    /// Adds to the leaves `first..=last`; nothing when there are none.
    fn add(&mut self, first: usize, last: usize, value: i64) {
        if first <= last {
            self.add_below(1, 0, self.leaf_count - 1, first, last, value);
        }
    }

    fn add_below(&mut self, node: usize, from: usize, to: usize, first: usize, last: usize, value: i64) {
        if last < from || to < first {
            return;
        }
        if first <= from && to <= last {
            self.max[node] += value;
            self.added[node] += value;
            return;
        }
        let middle = from.midpoint(to);
        self.add_below(2 * node, from, middle, first, last, value);
        self.add_below(2 * node + 1, middle + 1, to, first, last, value);
        self.max[node] = self.max[2 * node].max(self.max[2 * node + 1]) + self.added[node];
    }

    /// The largest of the leaves up to `last`, and one leaf that has it.
    fn max_up_to(&self, last: usize) -> (i64, usize) {
        // From the leaf upwards: on the way, whole subtrees to the left are all within the range.
        let mut node = last + self.leaf_count;
        let (mut best, mut best_node) = (self.max[node], node);
        while 1 < node {
            if !node.is_multiple_of(2) && best < self.max[node - 1] {
                (best, best_node) = (self.max[node - 1], node - 1);
            }
            node /= 2;
            best += self.added[node];
        }
        while best_node < self.leaf_count {
            let left = 2 * best_node;
            best_node = if self.max[left + 1] <= self.max[left] { left } else { left + 1 };
        }
        (best, best_node - self.leaf_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus::Rng;

    fn spans(pairs: &[(u64, u64)]) -> Vec<Span> {
        let moment = |ns: u64| Moment::of_ns(ns);
        pairs.iter().map(|&(sent, acked)| Span { sent_at: moment(sent), acked_at: moment(acked) }).collect()
    }

    fn is_orderly(spans: &[Span]) -> bool {
        (0..spans.len()).all(|later| spans[..later].iter().all(|span| span.sent_at <= spans[later].acked_at))
    }

    #[test]
    fn one_event_is_blamed_and_not_those_that_it_passed() {
        let check = |pairs: &[(u64, u64)], blamed: &[usize]| assert_eq!(out_of_place(&spans(pairs)), blamed);
        check(&[], &[]);
        check(&[(1, 2), (3, 4), (5, 6), (7, 8)], &[]);
        check(&[(7, 8), (1, 2), (3, 4), (5, 6)], &[0]);
        check(&[(3, 4), (5, 6), (7, 8), (1, 2)], &[3]);
        check(&[(9, 10), (3, 4), (5, 6), (7, 8), (1, 2)], &[0, 4]);
        // In flight together: any order is good.
        check(&[(5, 9), (1, 9), (3, 9)], &[]);
        check(&[(2, 3), (1, 2)], &[]);
    }

    #[test]
    fn the_blamed_are_as_few_as_trying_all_finds() {
        let mut rng = Rng::new(5);
        for _ in 0..300 {
            let count = 1 + rng.below(9) as usize;
            let mut pair = || {
                let sent = rng.below(12);
                (sent, sent + rng.below(4))
            };
            let all = spans(&(0..count).map(|_| pair()).collect::<Vec<_>>());
            let blamed = out_of_place(&all);
            let rest = |blames: &dyn Fn(usize) -> bool| -> Vec<Span> {
                all.iter().enumerate().filter(|(place, _)| !blames(*place)).map(|(_, span)| *span).collect()
            };
            assert!(is_orderly(&rest(&|place| blamed.contains(&place))));
            let fewest = (0..1_u32 << count).filter(|set| is_orderly(&rest(&|place| set >> place & 1 == 1)));
            assert_eq!(Some(blamed.len() as u32), fewest.map(u32::count_ones).min());
        }
    }

    #[test]
    fn numbers_that_do_not_rise_are_found() {
        let check = |numbers: &[u64], blamed: &[usize]| assert_eq!(not_rising(numbers), blamed);
        check(&[], &[]);
        check(&[1, 2, 5, 9], &[]);
        check(&[1, 2, 9, 3, 4], &[2]);
        check(&[3, 4, 5, 1], &[3]);
        check(&[1, 2, 2, 3], &[1]);
        check(&[5, 2, 3, 4, 1], &[0, 4]);
    }
}
