//! How many connections each source may have at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::source::Source;

/// The connections of each source.
pub(crate) struct Seats {
    max: usize,
    taken: Mutex<HashMap<Source, usize, RandomState>>,
}

/// One connection among those of its source, until it is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    source: Source,
}

impl Seats {
    /// So many for each; `None` when there is no limit.
    pub(crate) fn new(max: usize) -> Option<Arc<Self>> {
        (max > 0).then(|| Arc::new(Self { max, taken: Mutex::default() }))
    }

    /// A seat, if the source has one left. Loopback needs none, which is `Ok(None)`.
    pub(crate) fn take(self: &Arc<Self>, peer: SocketAddr) -> Result<Option<Box<Seat>>, Full> {
        if peer.ip().to_canonical().is_loopback() {
            return Ok(None);
        }
        let source = Source::of(peer);
        let mut seats = self.taken.lock();
        let taken = seats.entry(source).or_default();
        if *taken >= self.max {
            return Err(Full);
        }
        *taken += 1;
        Ok(Some(Box::new(Seat { seats: Arc::clone(self), source })))
    }
}

/// The source has as many connections as it may.
#[derive(Debug)]
pub(crate) struct Full;

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.seats.taken.lock().entry(self.source) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_so_many_seats_and_they_are_used_again() {
        let seats = Seats::new(2).expect("a limit");
        let peer = |text: &str| SocketAddr::new(text.parse().expect("an address"), 1);
        let take = |text: &str| seats.take(peer(text));
        let first = take("192.0.2.1").expect("the first");
        let _second = take("::ffff:192.0.2.1").expect("the second");
        assert!(take("192.0.2.1").is_err());
        let other = take("2001:db8::1").expect("another source");
        drop(first);
        assert!(take("192.0.2.1").is_ok());
        assert!((0..9).all(|_| take("127.0.0.1").is_ok_and(|seat| seat.is_none())));
        drop(other);
        assert_eq!(seats.taken.lock().len(), 1);
        assert!(Seats::new(0).is_none());
    }
}
