//! Connections of an edge beside each other: who is woken and who has to go, who comes after whom, how many a principal has, and
//! whose devices leave much unread or packets incomplete.

mod holder;
mod incomplete;
mod relays;
mod round;
mod seats;
mod succession;
mod unread;

pub(crate) use self::holder::Holder;
pub(crate) use self::incomplete::Arriving;
pub(crate) use self::relays::Relays;
pub use self::relays::Relief;
pub(crate) use self::seats::{Seat, Seats};
pub(crate) use self::succession::{NoTurn, Successions, Tenancy};
pub(crate) use self::unread::STEP_BYTES;
