//! Which numbers of a stream are done, in whatever order they get there: everything through one number, and ranges beyond.

use std::collections::BTreeMap;

/// A set of numbers from 1 on that is dense at its beginning. Its ranges are at most as many as numbers that are not done.
#[derive(Debug, Default)]
pub(super) struct Done {
    through: u64,
    /// First to last of each range beyond; none touches another or `through`.
    beyond: BTreeMap<u64, u64>,
}

impl Done {
    /// Everything up to this is done.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// Adds `number`, and answers whether it is new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        if number <= self.through {
            return false;
        }
        let before = self.beyond.range(..=number).next_back().map(|(&first, &last)| (first, last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = match before {
            Some((first, last)) if last + 1 == number => first,
            _ => number,
        };
        let last = self.beyond.remove(&(number + 1)).unwrap_or(number);
        if first == self.through + 1 {
            self.beyond.remove(&first);
            self.through = last;
        } else {
            self.beyond.insert(first, last);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_order_gives_the_same_as_a_plain_set(numbers in proptest::collection::vec(1_u64..30, 0..60)) {
            let (mut done, mut plain) = (Done::default(), BTreeSet::new());
            for number in numbers {
                prop_assert_eq!(done.insert(number), plain.insert(number));
                let dense = (1..).take_while(|n| plain.contains(n)).count() as u64;
                prop_assert_eq!(done.through(), dense);
                let ranges: Vec<u64> = done.beyond.iter().flat_map(|(&first, &last)| first..=last).collect();
                let rest: Vec<u64> = plain.range(dense + 1..).copied().collect();
                prop_assert_eq!(ranges, rest);
            }
        }
    }
}
