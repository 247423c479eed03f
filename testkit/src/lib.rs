//! What the tests of several packages stand on. It knows the codec, the link and the store, and none of the tiers above them, so that
//! these can use it in tests beside their code, too.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that meets the unexpected stops at once"
)]

pub mod authority;
pub mod client;
pub mod connection;
pub mod dice;
pub mod directory;
pub mod front;
pub mod metrics;
pub mod nobody;
pub mod seeds;
