//! TLS for devices: the server side of rustls over its unbuffered interface, so that an idle connection keeps the
//! session's keys and no buffers. [`TlsServer`] turns a [`TlsConfig`] into a configuration that can be reloaded,
//! [`TlsAcceptor`] runs handshakes, [`TlsStream`] carries the bytes. Early data (0-RTT) is never accepted: a
//! replayed CONNECT is a takeover.

mod accept;
mod client;
mod config;
mod error;
mod expiry;
mod facts;
mod hello;
mod identity;
mod ocsp;
mod own;
mod provider;
mod reload;
mod scratch;
mod server;
mod session;
mod stream;
mod subject;
mod telemetry;
mod ticket;
mod trust;

pub use accept::{Accept, TlsAcceptor};
pub use config::{
    CertificateFiles, ClientCertificateConfig, ClientCertificateMode, MinVersion, TicketConfig, TlsConfig,
};
pub use error::{TlsConfigError, TlsError, TlsFailure};
pub use facts::TlsFacts;
pub(crate) use reload::{Refused, Reload, Served, Unusable};
pub use server::{Application, TlsServer};
pub use stream::TlsStream;
pub use telemetry::TlsMetrics;
pub(crate) use trust::Shown;

#[cfg(test)]
mod tests;
