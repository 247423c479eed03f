//! What a principal has of what it may have so many of: how a seat is called. What is done with seats: [`super::seats`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::keys::Bucket;
use crate::Principal;

/// What was known to be in use so lately is not looked at: longer than any claim is valid, so that what is still to be stored under
/// a seat does not lose it.
pub(super) const SEAT_AGE: Duration = Duration::from_secs(15);

/// Whether what is to be stored needs a seat of its principal's, and has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seating {
    NotNeeded,
    Needed,
    /// It was asked for then, and taken later.
    Taken(Instant),
}

impl Seating {
    /// Whether what is stored just now came so late that its seat may have been looked for while it was not there yet.
    pub(super) fn is_late(self) -> bool {
        matches!(self, Self::Taken(asked_at) if asked_at.elapsed() > SEAT_AGE / 2)
    }
}

/// What a seat is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum SeatKind {
    Session = b's',
    Retained = b'r',
}

/// One of a principal's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) principal: Arc<str>,
    pub(super) kind: SeatKind,
    /// Of what it is for: a client, or a topic as keys have it.
    pub(super) name: Vec<u8>,
    /// Tells it from one that is taken later for what has the same name.
    pub(super) token: u64,
}

impl Seat {
    /// For a client's session.
    pub(super) fn of_session(principal: &Principal, client_id: &str, token: u64) -> Self {
        let name = client_id.as_bytes().to_vec();
        Self { principal: Arc::clone(&principal.0), kind: SeatKind::Session, name, token }
    }

    /// For the retained message of a topic.
    pub(super) fn of_retained(principal: &Principal, topic: &[u8], token: u64) -> Self {
        Self { principal: Arc::clone(&principal.0), kind: SeatKind::Retained, name: topic.to_vec(), token }
    }

    /// That of a retained message, from what is stored beside it.
    pub(super) fn of_owner(topic: &[u8], owner: &str) -> Option<Self> {
        let (token, principal) = owner.split_once(':')?;
        Some(Self::of_retained(&Principal(principal.into()), topic, token.parse().ok()?))
    }

    pub(super) fn bucket(&self) -> Bucket {
        Bucket::of_principal(&self.principal)
    }

    /// What the names of all seats of its kind that its principal has begin with, and no other.
    pub(super) fn front(&self) -> Vec<u8> {
        let mut front = format!("{}:{}", self.principal.len(), self.principal).into_bytes();
        front.push(self.kind as u8);
        front
    }

    /// Behind all of these.
    pub(super) fn behind(&self) -> Vec<u8> {
        let mut behind = self.front();
        if let Some(kind) = behind.last_mut() {
            *kind += 1;
        }
        behind
    }

    /// How it is called in its bucket.
    pub(super) fn written(&self) -> Vec<u8> {
        [self.front(), self.name.clone()].concat()
    }

    /// Reads what [`Seat::written`] wrote; nothing if that is damaged.
    pub(super) fn read(written: &[u8], token: u64) -> Option<Self> {
        let colon = written.iter().position(|byte| *byte == b':')?;
        let len: usize = std::str::from_utf8(written.get(..colon)?).ok()?.parse().ok()?;
        let (principal, rest) = written.get(colon + 1..)?.split_at_checked(len)?;
        let (kind, name) = rest.split_first()?;
        let kind = match kind {
            b's' => SeatKind::Session,
            b'r' => SeatKind::Retained,
            _ => return None,
        };
        let principal = std::str::from_utf8(principal).ok()?.into();
        Some(Self { principal, kind, name: name.to_vec(), token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_read_as_they_were_written_and_lie_within_their_principals() {
        let names = ["", "a", "1:a", "a\0", "as", "ä"];
        let all = names.iter().flat_map(|principal| {
            let principal = Principal((*principal).into());
            let retained = Seat::of_retained(&principal, b"t\0x", 7);
            names.map(|name| Seat::of_session(&principal, name, 7)).into_iter().chain([retained])
        });
        let all: Vec<Seat> = all.collect();
        for seat in &all {
            assert_eq!(Seat::read(&seat.written(), 7).as_ref(), Some(seat));
            let range = seat.front()..seat.behind();
            for other in &all {
                let is_of_same = (&other.principal, other.kind) == (&seat.principal, seat.kind);
                assert_eq!(range.contains(&other.written()), is_of_same, "{seat:?} {other:?}");
            }
        }
        for damaged in ["", "1", "x:as", "9:as", "1:a", "1:ax"] {
            assert_eq!(Seat::read(damaged.as_bytes(), 7), None, "{damaged}");
        }
    }
}
