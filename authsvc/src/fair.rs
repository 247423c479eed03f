//! A queue in which nobody gets in the way of others by asking often: sources take turns. Of one source the newest comes
//! first, and one that asks for the first time comes before those that have had their turn. When too much waits, the
//! oldest of the source that has most goes.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// Items that wait, by the digest of where they come from.
pub(crate) struct FairQueue<T> {
    /// Newest at the back; never empty.
    waiting: HashMap<u64, VecDeque<T>>,
    /// Every source of `waiting` once; the next one in front.
    turns: VecDeque<u64>,
    /// The same by how much waits.
    by_length: BTreeSet<(usize, u64)>,
    len: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { waiting: HashMap::new(), turns: VecDeque::new(), by_length: BTreeSet::new(), len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds one.
    pub(crate) fn push(&mut self, source: u64, item: T) {
        let waiting = self.waiting.entry(source).or_insert_with(|| {
            self.turns.push_front(source);
            VecDeque::new()
        });
        waiting.push_back(item);
        let length = waiting.len();
        self.len += 1;
        self.recount(source, length - 1, length);
    }

    /// Takes the newest of the source whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let source = self.turns.pop_front()?;
        let item = self.take(source, VecDeque::pop_back);
        if self.waiting.contains_key(&source) {
            self.turns.push_back(source);
        }
        item
    }

    /// Takes what is given up first when there are too many.
    pub(crate) fn shed(&mut self) -> Option<T> {
        match self.by_length.last() {
            Some((length, source)) if *length > 1 => self.take(*source, VecDeque::pop_front),
            // All have one: whose turn would come last.
            _ => {
                let source = self.turns.pop_back()?;
                self.take(source, VecDeque::pop_front)
            }
        }
    }

    fn take(&mut self, source: u64, one: impl FnOnce(&mut VecDeque<T>) -> Option<T>) -> Option<T> {
        let waiting = self.waiting.get_mut(&source)?;
        let item = one(waiting)?;
        let length = waiting.len();
        if length == 0 {
            self.waiting.remove(&source);
        }
        self.len -= 1;
        self.recount(source, length + 1, length);
        Some(item)
    }

    fn recount(&mut self, source: u64, before: usize, after: usize) {
        self.by_length.remove(&(before, source));
        if after > 0 {
            self.by_length.insert((after, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn popped(queue: &mut FairQueue<u32>) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn sources_take_turns_and_the_newest_comes_first() {
        let mut queue = FairQueue::default();
        for item in 10..15 {
            queue.push(1, item);
        }
        queue.push(2, 20);
        queue.push(2, 21);
        assert_eq!(popped(&mut queue), [21, 14, 20, 13, 12, 11, 10]);
        assert_eq!((queue.len(), queue.turns.len(), queue.by_length.len()), (0, 0, 0));
    }

    #[test]
    fn who_asks_most_gives_way() {
        let mut queue = FairQueue::default();
        queue.push(2, 20);
        for item in 10..14 {
            queue.push(1, item);
        }
        queue.push(3, 30);
        assert_eq!([queue.shed(), queue.shed(), queue.shed()], [Some(10), Some(11), Some(12)]);
        assert_eq!(queue.shed(), Some(20), "then the one that waits longest");
        assert_eq!(popped(&mut queue), [30, 13]);
        assert_eq!(queue.shed(), None);
    }

    #[test]
    fn who_comes_anew_is_before_those_who_had_their_turn() {
        let mut queue = FairQueue::default();
        for item in 10..13 {
            queue.push(1, item);
        }
        assert_eq!(queue.pop(), Some(12));
        queue.push(2, 20);
        queue.push(1, 13);
        assert_eq!(popped(&mut queue), [20, 13, 11, 10]);
    }
}
