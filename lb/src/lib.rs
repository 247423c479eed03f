//! The edge: listeners, TLS, WebSocket, admission, authentication and the relay between devices and workers. It frames
//! Control Packets and owns Keep Alive; it does not parse payloads and knows no sessions. Start at [`Edge::start`].

mod admission;
mod config;
mod connections;
mod edge;
#[cfg(test)]
mod fake;
mod handshake;
mod io;
mod listener;
mod proxy;
mod reason;
mod relay;
mod reply;
mod shared;
mod telemetry;
pub mod tls;
mod transport;
pub mod upstream;
pub mod websocket;

pub use config::{EdgeConfig, ListenerConfig, ListenerKind, ProxyProtocol};
pub use connections::Relief;
pub use edge::{Certificates, Edge, EdgeError};
pub use proxy::{Prefix, PrefixError};
