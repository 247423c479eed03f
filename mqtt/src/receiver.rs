//! Which way a packet travels.

/// The end that receives a packet. Some packets, properties and Reason Codes travel in one direction only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Receiver {
    /// The packet came from a client.
    Server,
    /// The packet came from a server.
    Client,
}
