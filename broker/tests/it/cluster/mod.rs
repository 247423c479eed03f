//! Several workers over one store: what one accepts reaches the subscribers of all.

mod fenced;
mod lease;
mod membership;
mod message;
mod share;
mod subscribe;
mod succession;
mod will;
mod world;
