//! The worker's end of links: where edges connect, and what a stream of a link does to a session. The protocol is in
//! `docs/link.md` and its state machine in [`link::mux`]; nothing here knows what a session does with a packet. Start
//! reading at [`LinkServer`], then `task.rs` (one link) and `slot.rs` (one device on it).

mod accept;
mod blocked;
mod config;
mod cut;
mod metrics;
mod ready;
mod server;
mod slot;
mod task;

pub use accept::Accept;
pub use config::LinkConfig;
pub use server::{LinkCertificates, LinkServer, LinkStartError};
