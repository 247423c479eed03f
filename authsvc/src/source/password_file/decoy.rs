//! What unknown users are taken for: somebody as it is in the file. If all of them looked alike, or all like the first
//! record, then users with other parameters could be told from those that do not exist.

use std::collections::BTreeMap;

use crate::scram::hmac;

/// How often each shape of record occurs in a file.
#[derive(Clone, Debug)]
pub(crate) struct Shapes<T> {
    counts: BTreeMap<T, u64>,
    total: u64,
}

impl<T> Default for Shapes<T> {
    fn default() -> Self {
        Self { counts: BTreeMap::new(), total: 0 }
    }
}

impl<T: Ord> Shapes<T> {
    /// Counts one more.
    pub(crate) fn add(&mut self, shape: T) {
        *self.counts.entry(shape).or_insert(0) += 1;
        self.total += 1;
    }

    /// One of them for an unknown `user`, as often as it occurs, and always the same for the same file: with another user
    /// in it few are drawn otherwise. `None` if there are none.
    pub(crate) fn draw(&self, key: &[u8; 32], user: &str) -> Option<&T> {
        let [a, b, c, d, e, f, g, h, ..] = hmac(key, &[b"shape", user.as_bytes()]);
        let place = u128::from(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
        let place = (place * u128::from(self.total)) >> 64;
        let mut passed = 0;
        self.counts.iter().find_map(|(shape, count)| {
            passed += u128::from(*count);
            (place < passed).then_some(shape)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_drawn_as_often_as_they_occur_and_always_the_same() {
        let mut shapes = Shapes::default();
        assert_eq!(shapes.draw(&[1; 32], "nobody"), None);
        (0..30).for_each(|_| shapes.add(4096));
        (0..10).for_each(|_| shapes.add(100_000));
        let drawn: Vec<_> = (0..1000).map(|n| *shapes.draw(&[1; 32], &n.to_string()).unwrap()).collect();
        let dear = drawn.iter().filter(|shape| **shape == 100_000).count();
        assert!((180..320).contains(&dear), "a quarter: {dear}");
        shapes.add(4096);
        let again = (0..1000).filter(|n| shapes.draw(&[1; 32], &n.to_string()) == Some(&drawn[*n])).count();
        assert!(again > 980, "one more user changes few: {again}");
    }
}
