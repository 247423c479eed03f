//! Connections of principals that may have so many at once at this edge, counted by Client Identifier: one that comes anew is not
//! one more while the edge still has the connection before it.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use link::Passport;
use parking_lot::Mutex;

/// How many connections each client of a principal has.
type Clients = HashMap<Arc<str>, u32>;

/// Connections by principal and Client Identifier.
#[derive(Default)]
pub(crate) struct Seats(Mutex<HashMap<Arc<str>, Clients, RandomState>>);

/// A connection that counts, until it is dropped.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    principal: Arc<str>,
    client_id: Arc<str>,
}

/// The principal has as many connections as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoSeat;

impl Seat {
    /// Counts a connection in; `None` for one that does not count: its principal may have any number, or there is none.
    ///
    /// # Errors
    /// There are as many as there may be.
    pub(crate) fn take(seats: &Arc<Seats>, passport: &Passport) -> Result<Option<Self>, NoSeat> {
        match bound(passport) {
            None => Ok(None),
            Some(max) => Self::count_in(seats, passport, max).map(Some).ok_or(NoSeat),
        }
    }

    /// The same for a connection that is here already, whatever the bound.
    pub(crate) fn keep(seats: &Arc<Seats>, passport: &Passport) -> Option<Self> {
        bound(passport).and_then(|_| Self::count_in(seats, passport, u32::MAX))
    }

    fn count_in(seats: &Arc<Seats>, passport: &Passport, max: u32) -> Option<Self> {
        let (principal, client_id) = (passport.subject.clone(), passport.client_id.clone());
        {
            let mut all = seats.0.lock();
            let taken = all.entry(principal.clone()).or_default();
            if taken.len() >= max as usize && !taken.contains_key(&client_id) {
                return None;
            }
            *taken.entry(client_id.clone()).or_default() += 1;
        }
        Some(Self { seats: seats.clone(), principal, client_id })
    }
}

fn bound(passport: &Passport) -> Option<u32> {
    let max = passport.limits.as_ref()?.connections_max?;
    (!passport.subject.is_empty()).then_some(max)
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.seats.0.lock();
        let Some(taken) = seats.get_mut(&self.principal) else { return };
        if let Some(count) = taken.get_mut(&self.client_id) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.client_id);
            }
        }
        if taken.is_empty() {
            seats.remove(&self.principal);
        }
    }
}

#[cfg(test)]
mod tests {
    use link::Limits;

    use super::*;

    fn passport(subject: &str, client_id: &str, connections_max: Option<u32>) -> Passport {
        let limits = Some(Arc::new(Limits { connections_max, ..Limits::default() }));
        Passport { limits, ..Passport::unrestricted(subject.into(), client_id.into()) }
    }

    #[test]
    fn a_principal_has_so_many_connections_and_each_client_one_of_them() {
        let seats = Arc::new(Seats::default());
        let take = |subject, client_id| Seat::take(&seats, &passport(subject, client_id, Some(2)));
        let first = take("alice", "a").unwrap().unwrap();
        let second = take("alice", "b").unwrap().unwrap();
        assert!(take("alice", "c").is_err());
        let again = take("alice", "a").unwrap().expect("it takes the place of the first");
        assert!(take("bob", "c").is_ok(), "another principal");
        drop(first);
        assert!(take("alice", "c").is_err(), "the second one of this client is still there");
        drop(second);
        let third = take("alice", "c").unwrap().unwrap();
        let kept = Seat::keep(&seats, &passport("alice", "d", Some(2))).expect("whatever the bound");
        drop((again, third, kept));
        assert!(seats.0.lock().is_empty());
    }

    #[test]
    fn who_is_not_bounded_or_nobody_does_not_count() {
        let seats = Arc::new(Seats::default());
        for passport in [passport("alice", "a", None), passport("", "a", Some(1))] {
            assert!(Seat::take(&seats, &passport).unwrap().is_none());
            assert!(Seat::keep(&seats, &passport).is_none());
        }
        assert!(seats.0.lock().is_empty());
    }
}
