//! A number of places that no one source takes from all others: the last quarter is for those that have less than a quarter. A fleet
//! behind one address has three quarters, and who comes from elsewhere still comes in. Nobody waits.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// The places. Clones are the same.
#[derive(Clone)]
pub(crate) struct Shares(Arc<TakenShares>);

struct TakenShares {
    places: usize,
    taken: Mutex<TakenPlaces>,
}

#[derive(Default)]
struct TakenPlaces {
    all: usize,
    /// By the digest of who has them; no more entries than places.
    by_source: HashMap<u64, usize>,
}

/// One place, until it is dropped.
pub(crate) struct Share {
    shares: Arc<TakenShares>,
    source: u64,
}

impl Shares {
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(TakenShares { places, taken: Mutex::default() }))
    }

    /// A place for `source`, if there is one.
    pub(crate) fn take(&self, source: u64) -> Option<Share> {
        let (places, quarter) = (self.0.places, self.0.places / 4);
        let mut taken = self.0.taken.lock();
        let own = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= places || (taken.all >= places - quarter && own >= quarter) {
            return None;
        }
        taken.all += 1;
        taken.by_source.insert(source, own + 1);
        Some(Share { shares: self.0.clone(), source })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken.lock();
        taken.all -= 1;
        let Some(own) = taken.by_source.get_mut(&self.source) else { return };
        *own -= 1;
        if *own == 0 {
            taken.by_source.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_leaves_a_quarter_to_others() {
        let shares = Shares::new(8);
        let crowd: Vec<_> = std::iter::from_fn(|| shares.take(1)).collect();
        assert_eq!(crowd.len(), 6);
        let others = [2, 3].map(|source| shares.take(source));
        assert!(others.iter().all(Option::is_some) && shares.take(4).is_none(), "all are taken");
        drop(crowd);
        drop(others);
        let taken = shares.0.taken.lock();
        assert_eq!((taken.all, taken.by_source.len()), (0, 0));
    }

    #[test]
    fn few_places_are_all_for_whoever_comes() {
        for places in 1..4 {
            let shares = Shares::new(places);
            assert_eq!(std::iter::from_fn(|| shares.take(1)).take(9).collect::<Vec<_>>().len(), places);
        }
    }
}
