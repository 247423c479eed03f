//! Who has to go: users, clients, tokens and certificates that were revoked, by an operator or by a source that has changed.
//! Edges follow the list, end the connections that it is about, and refuse new ones until an entry ends. An entry is told for a
//! while after its end, so that who follows late misses nothing. It is told here, too, that rules have changed, so that what
//! connected clients may do is asked about anew.

mod feed;
mod file;
mod list;
mod order;
mod target;
#[cfg(test)]
mod tests;

pub(crate) use feed::Feed;
pub use list::{Revocation, Revocations, Told};
pub use order::{RevokeError, RevokeOrder};
pub use target::{Bearer, RevokeReason, Target};

/// Longest time for which something may be revoked: a year.
pub(crate) const REVOKED_S_MAX: u64 = 31_536_000;
