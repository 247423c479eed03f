//! Connections to one address of the service, up in time or not at all, TLS included.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use files::Snapshot;
use hyper::Uri;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig as TlsConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::config::ClientConfig;
use crate::AuthError;
use crate::named::Named;
use crate::watched::Watched;
use crate::wire::PROTOCOLS;

/// What edges do TLS with, if they do.
pub(super) type Tls = Arc<Watched<Arc<TlsConfig>>>;

/// Reads what `config` names for TLS, and again when it changes.
pub(super) fn open_tls(config: &ClientConfig) -> Result<Option<Tls>, AuthError> {
    let Some(ca_file) = config.ca_file.clone() else { return Ok(None) };
    let pair = config.certificate_file.clone().zip(config.key_file.clone());
    let mut paths = vec![ca_file.clone()];
    paths.extend(pair.iter().flat_map(|(certificate, key)| [certificate.clone(), key.clone()]));
    let parse = move |found: &Snapshot, _: Option<&Arc<TlsConfig>>| tls(&ca_file, pair.as_ref(), found);
    Ok(Some(Arc::new(Watched::open("certificates for the service of authentication", &paths, parse)?)))
}

fn tls(
    ca_file: &std::path::Path,
    pair: Option<&(PathBuf, PathBuf)>,
    found: &Snapshot,
) -> Result<Arc<TlsConfig>, AuthError> {
    let authorities = Named::new("authsvc", "ca_file", ca_file);
    let builder = TlsConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| authorities.unusable(&error))?
        .with_root_certificates(authorities.roots(found)?);
    let mut config = match pair {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = Named::new("authsvc", "certificate_file", certificate);
            let key = Named::new("authsvc", "key_file", key).private_key(found)?;
            builder
                .with_client_auth_cert(certificate.certificates(found)?, key)
                .map_err(|error| certificate.unusable(&error))?
        }
    };
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// A connection, with TLS or without.
type Socket = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Connects to one address, whatever a request names.
#[derive(Clone)]
pub(super) struct ServiceConnector {
    pub(super) address: SocketAddr,
    /// With the name that the certificate has to bear.
    pub(super) tls: Option<(Tls, ServerName<'static>)>,
    pub(super) timeout: Duration,
}

impl ServiceConnector {
    async fn connect(self) -> io::Result<Socket> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        let Some((tls, name)) = self.tls else { return Ok(stream.into()) };
        let connector = TlsConnector::from((*tls.current()).clone());
        Ok(connector.connect(name, TokioIo::new(stream)).await?.into())
    }
}

impl Service<Uri> for ServiceConnector {
    type Response = Socket;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let within = connector.timeout;
            let connected = tokio::time::timeout(within, connector.connect()).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}
