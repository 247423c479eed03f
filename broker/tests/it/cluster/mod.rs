//! Several workers over one store: what one accepts reaches the subscribers of all.

mod fenced;
mod lease;
mod membership;
mod message;
mod share;
pub(crate) mod simulation;
mod subscribe;
mod succession;
mod world;
