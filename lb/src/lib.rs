//! The edge: listeners, TLS, WebSocket, admission, authentication and the relay between devices and workers. It frames
//! Control Packets and owns Keep Alive; it does not parse payloads and knows no sessions. Start at [`Edge::start`].

mod admission;
mod config;
mod edge;
#[cfg(test)]
mod fake;
mod handshake;
mod listener;
mod metrics;
mod proxy;
mod reason;
mod relay;
mod reply;
mod report;
mod round;
mod seats;
mod shared;
mod succession;
pub mod tls;
mod transport;
mod unsent;
pub mod upstream;
pub mod websocket;

pub use config::{EdgeConfig, ListenerConfig, ListenerKind, ProxyProtocol};
pub use edge::{Certificates, Edge, EdgeError};
pub use proxy::{Prefix, PrefixError};
pub use unsent::Relief;
