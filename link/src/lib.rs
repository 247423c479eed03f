//! Between edge and worker: what the one asks of the other ([`Upstream`]), the passport, and the bytes that go back to a
//! device. In one process the worker implements [`Upstream`] itself and no socket is involved; between processes there are
//! [`wire`] and [`mux`].

pub mod mux;
mod outgoing;
mod passport;
mod upstream;
pub mod wire;

pub use outgoing::{Outgoing, SHARED_BYTES_MIN};
pub use passport::{Action, Effect, Passport, Rule};
pub use upstream::{AuthenticationOutcome, CloseCause, ConnectionId, Event, Open, Peer, Stream, Upstream};
