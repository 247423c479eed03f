//! How many connections each source may have at a time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::source::Source;

/// The connections of each source.
pub(crate) struct SourceConnections {
    max: usize,
    taken: Mutex<HashMap<Source, usize, RandomState>>,
}

/// One connection among those of its source, until it is dropped.
pub(crate) struct SourceConnection {
    connections: Arc<SourceConnections>,
    source: Source,
}

impl SourceConnections {
    /// So many for each; `None` when there is no limit.
    pub(crate) fn new(max: usize) -> Option<Arc<Self>> {
        (max > 0).then(|| Arc::new(Self { max, taken: Mutex::default() }))
    }

    /// A place, if the source has one left. Loopback needs none, which is `Ok(None)`.
    pub(crate) fn take(self: &Arc<Self>, peer: SocketAddr) -> Result<Option<Box<SourceConnection>>, Full> {
        if peer.ip().to_canonical().is_loopback() {
            return Ok(None);
        }
        let source = Source::of(peer);
        let mut connections = self.taken.lock();
        let taken = connections.entry(source).or_default();
        if *taken >= self.max {
            return Err(Full);
        }
        *taken += 1;
        Ok(Some(Box::new(SourceConnection { connections: Arc::clone(self), source })))
    }
}

/// The source has as many connections as it may.
#[derive(Debug)]
pub(crate) struct Full;

impl Drop for SourceConnection {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.connections.taken.lock().entry(self.source) {
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
    fn a_source_has_so_many_places_and_they_are_used_again() {
        let connections = SourceConnections::new(2).expect("a limit");
        let peer = |text: &str| SocketAddr::new(text.parse().expect("an address"), 1);
        let take = |text: &str| connections.take(peer(text));
        let first = take("192.0.2.1").expect("the first");
        let _second = take("::ffff:192.0.2.1").expect("the second");
        assert!(take("192.0.2.1").is_err());
        let other = take("2001:db8::1").expect("another source");
        drop(first);
        assert!(take("192.0.2.1").is_ok());
        assert!((0..9).all(|_| take("127.0.0.1").is_ok_and(|place| place.is_none())));
        drop(other);
        assert_eq!(connections.taken.lock().len(), 1);
        assert!(SourceConnections::new(0).is_none());
    }
}
