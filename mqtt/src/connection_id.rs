//! How one Network Connection is told from all others.

/// What an edge calls one connection of one device; random, unique for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u128);
