//! The edge: listeners, TLS, WebSocket, admission and the relay.

pub mod tls;
pub mod websocket;
