//! TLS for devices: the server side of rustls over its unbuffered interface, so that an idle connection keeps the
//! session's keys and no buffers. [`TlsServer`] turns a [`TlsConfig`] into a configuration that can be reloaded,
//! [`TlsAcceptor`] runs handshakes, [`TlsStream`] carries the bytes. Early data (0-RTT) is never accepted: a
//! replayed CONNECT is a takeover.

mod accept;
mod client;
mod config;
mod error;
mod facts;
mod hello;
mod identity;
mod listed;
mod scratch;
mod server;
mod session;
mod stream;
mod subject;
mod telemetry;
mod ticket;
pub(crate) mod writer;

pub use accept::{Accept, TlsAcceptor};
pub use config::{
    CertificateFiles, ClientCertificateConfig, ClientCertificateMode, MinVersion, TicketConfig, TlsConfig,
};
pub use error::{HandshakeFailure, TlsConfigError, TlsError};
pub use facts::TlsFacts;
pub(crate) use listed::Shown;
pub use server::{Application, TlsChange, TlsServer};
pub use stream::TlsStream;
pub use telemetry::TlsMetrics;

#[cfg(test)]
mod tests;
