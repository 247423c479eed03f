//! TLS against tokio-rustls's client: the fixtures; one module per behaviour.

mod authority;
mod early_data;
mod expiry;
mod handshake;
mod reload;
mod resumption;
mod staple;
mod transfer;
mod verification;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use files::Snapshot;
use rustls::client::Resumption;
use rustls::{CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion, version};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::server::TlsChange;
use super::*;
use authority::{Authority, Configured as _, Issued};

pub(in crate::tls::tests) const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A server with one certificate for `localhost`, and what is needed to trust it.
pub(in crate::tls::tests) struct Fixture {
    pub(in crate::tls::tests) authority: Authority,
    pub(in crate::tls::tests) config: TlsConfig,
}

impl Fixture {
    pub(in crate::tls::tests) fn new() -> Self {
        let authority = Authority::new("Tidegate test CA");
        let issued = authority.issue("localhost", &["localhost"]);
        let certificates = vec![authority.store("server", &issued)];
        Self { authority, config: TlsConfig { certificates, ..TlsConfig::default() } }
    }

    pub(in crate::tls::tests) fn server(&self) -> TlsServer {
        TlsServer::load(self.config.clone(), Application::Mqtt).unwrap()
    }

    pub(in crate::tls::tests) fn client(&self) -> Client {
        Client {
            roots: self.authority.roots(),
            versions: BOTH.to_vec(),
            alpn: None,
            identity: None,
            first_suite: None,
        }
    }
}

/// Takes the files as they are now.
pub(in crate::tls::tests) fn reload(server: &TlsServer) -> Result<TlsChange, TlsConfigError> {
    let prepared = server.prepare(&Snapshot::take(server.files()), SystemTime::now())?;
    Ok(server.take(prepared))
}

/// A client in the making.
#[derive(Clone)]
pub(in crate::tls::tests) struct Client {
    pub(in crate::tls::tests) roots: RootCertStore,
    pub(in crate::tls::tests) versions: Vec<&'static SupportedProtocolVersion>,
    pub(in crate::tls::tests) alpn: Option<&'static [u8]>,
    pub(in crate::tls::tests) identity: Option<Issued>,
    pub(in crate::tls::tests) first_suite: Option<CipherSuite>,
}

impl Client {
    pub(in crate::tls::tests) fn with_version(mut self, version: &'static SupportedProtocolVersion) -> Self {
        self.versions = vec![version];
        self
    }

    pub(in crate::tls::tests) fn with_identity(mut self, identity: &Issued) -> Self {
        self.identity = Some(identity.clone());
        self
    }

    /// The configuration; what is made from one shares its tickets.
    pub(in crate::tls::tests) fn config(&self) -> Arc<ClientConfig> {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        if let Some(first) = self.first_suite {
            provider.cipher_suites.sort_by_key(|suite| suite.suite() != first);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(issued) => {
                let chain = vec![CertificateDer::from(issued.der.clone())];
                let key = PrivateKeyDer::try_from(issued.key_der.clone()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.resumption = Resumption::in_memory_sessions(8);
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}

/// Both ends of a connection, or why either failed.
pub(in crate::tls::tests) struct Outcome<IO = DuplexStream> {
    pub(in crate::tls::tests) server: Result<TlsStream<IO>, TlsError>,
    pub(in crate::tls::tests) client: io::Result<ClientStream<DuplexStream>>,
}

impl<IO> Outcome<IO> {
    pub(in crate::tls::tests) fn unwrap(self) -> (TlsStream<IO>, ClientStream<DuplexStream>) {
        (self.server.unwrap(), self.client.unwrap())
    }
}

pub(in crate::tls::tests) async fn connect(acceptor: &TlsAcceptor, client: Arc<ClientConfig>) -> Outcome {
    connect_through(acceptor, client, "localhost", 64 * 1024, |io| io).await
}

/// Connects over a pipe of `pipe_bytes`, the server's end of it wrapped.
pub(in crate::tls::tests) async fn connect_through<IO: AsyncRead + AsyncWrite + Unpin>(
    acceptor: &TlsAcceptor,
    client: Arc<ClientConfig>,
    name: &'static str,
    pipe_bytes: usize,
    wrap: impl FnOnce(DuplexStream) -> IO,
) -> Outcome<IO> {
    let (near, far) = duplex(pipe_bytes);
    let connecting = TlsConnector::from(client).connect(ServerName::try_from(name).unwrap(), far);
    let (server, client) = tokio::join!(acceptor.accept(wrap(near)), connecting);
    Outcome { server, client }
}

/// A transport that gives and takes at most so many bytes at a time, and is never ready twice in a row.
pub(in crate::tls::tests) struct Trickle {
    pub(in crate::tls::tests) io: DuplexStream,
    pub(in crate::tls::tests) bytes_max: usize,
    is_turn: bool,
}

impl Trickle {
    pub(in crate::tls::tests) fn new(io: DuplexStream, bytes_max: usize) -> Self {
        Self { io, bytes_max, is_turn: false }
    }

    fn take_turn(&mut self, cx: &Context<'_>) -> bool {
        self.is_turn = !self.is_turn;
        if !self.is_turn {
            cx.waker().wake_by_ref();
        }
        self.is_turn
    }
}

impl AsyncRead for Trickle {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.take_turn(cx) {
            return Poll::Pending;
        }
        let limit = self.bytes_max.min(out.remaining());
        let mut part = ReadBuf::new(out.initialize_unfilled_to(limit));
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut part);
        let count = part.filled().len();
        out.advance(count);
        polled
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.take_turn(cx) {
            return Poll::Pending;
        }
        let count = self.bytes_max.min(bytes.len());
        Pin::new(&mut self.io).poll_write(cx, &bytes[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Bytes that differ from place to place.
pub(in crate::tls::tests) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8 ^ (place / 251) as u8).collect()
}

/// The version that a connection speaks.
pub(in crate::tls::tests) fn version_of(version: &SupportedProtocolVersion) -> ProtocolVersion {
    version.version
}
