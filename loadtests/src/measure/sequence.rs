//! Checks the numbers of one publisher's messages as one subscriber sees them: what is missing, repeated or out of order.
//! Memory is bounded: of gaps beyond [`GAPS_MAX`] the oldest is forgotten, and a message that fills it later counts as a duplicate.

use std::ops::Range;

const GAPS_MAX: usize = 1_024;

/// What the arrival of one message meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The number that was expected.
    InOrder,
    /// The numbers in between have not been seen (yet).
    Gap(Range<u64>),
    /// A number that was missing arrived after a later one: out of order.
    Late,
    /// Seen before.
    Duplicate,
}

/// The numbers seen so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct SequenceCheck {
    next: u64,
    missing: Vec<Range<u64>>,
}

impl SequenceCheck {
    /// Takes note of message number `sequence`.
    #[inline]
    pub(crate) fn observe(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            return Arrival::InOrder;
        }
        self.observe_unexpected(sequence)
    }

    #[cold]
    fn observe_unexpected(&mut self, sequence: u64) -> Arrival {
        if sequence > self.next {
            let gap = self.next..sequence;
            self.next = sequence + 1;
            if self.missing.len() == GAPS_MAX {
                self.missing.remove(0);
            }
            self.missing.push(gap.clone());
            return Arrival::Gap(gap);
        }
        let Some(at) = self.missing.iter().position(|gap| gap.contains(&sequence)) else {
            return Arrival::Duplicate;
        };
        let gap = self.missing.swap_remove(at);
        for part in [gap.start..sequence, sequence + 1..gap.end] {
            if !part.is_empty() {
                self.missing.push(part);
            }
        }
        Arrival::Late
    }
}

/// Counts over any number of publishers and subscribers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Different messages that arrived, once per subscriber.
    pub(crate) delivered: u64,
    /// Messages that arrived again.
    pub(crate) duplicates: u64,
    /// Messages that arrived after one with a higher number.
    pub(crate) reordered: u64,
}

impl Tally {
    /// Adds one arrival.
    #[inline]
    pub(crate) fn add(&mut self, arrival: &Arrival) {
        match arrival {
            Arrival::InOrder | Arrival::Gap(_) => self.delivered += 1,
            Arrival::Late => {
                self.delivered += 1;
                self.reordered += 1;
            }
            Arrival::Duplicate => self.duplicates += 1,
        }
    }

    /// Adds another tally.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: &[u64]) -> (SequenceCheck, Tally) {
        let (mut check, mut tally) = (SequenceCheck::default(), Tally::default());
        for number in numbers {
            tally.add(&check.observe(*number));
        }
        (check, tally)
    }

    #[test]
    fn an_unbroken_run_is_clean() {
        let (check, tally) = run(&[0, 1, 2, 3]);
        assert_eq!(check.next, 4);
        assert_eq!(tally, Tally { delivered: 4, duplicates: 0, reordered: 0 });
    }

    #[test]
    fn a_gap_names_what_is_missing() {
        let mut check = SequenceCheck::default();
        assert_eq!(check.observe(0), Arrival::InOrder);
        assert_eq!(check.observe(5), Arrival::Gap(1..5));
        assert_eq!(check.observe(6), Arrival::InOrder);
    }

    #[test]
    fn a_missing_message_that_arrives_later_is_out_of_order_and_not_a_duplicate() {
        let (_, tally) = run(&[0, 4, 2, 1, 3, 5]);
        assert_eq!(tally, Tally { delivered: 6, duplicates: 0, reordered: 3 });
    }

    #[test]
    fn a_message_seen_twice_is_a_duplicate_even_if_it_was_late() {
        let (_, tally) = run(&[0, 0, 3, 1, 1, 3, 2]);
        assert_eq!(tally, Tally { delivered: 4, duplicates: 3, reordered: 2 });
    }

    #[test]
    fn gaps_are_bounded() {
        let mut check = SequenceCheck::default();
        for number in 0..10_000 {
            check.observe(number * 2 + 1);
        }
        assert_eq!(check.missing.len(), GAPS_MAX);
        assert_eq!(check.observe(0), Arrival::Duplicate);
    }
}
