//! MQTT over WebSocket (v5 section 6, RFC 6455): the upgrade is hyper's, the frames are ours. No message is put
//! together: binary frames are a stream of bytes, unmasked in the caller's buffer, and an idle connection keeps none.

mod error;
mod frame;
mod stream;
mod upgrade;

pub use error::{Refusal, WsError};
pub use stream::WsStream;
pub use upgrade::{WebSocketConfig, accept};

#[cfg(test)]
mod tests;
