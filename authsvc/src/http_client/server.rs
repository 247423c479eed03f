//! A real HTTP server for tests: HTTP/1.1 and /2, plain or with TLS, on a free port of loopback; it answers as it is told.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use testkit::authority::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// A server that ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Connections that it took.
    pub(crate) connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
    scheme: &'static str,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    /// Answers with what `answer` makes of a request and its body.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        Self::listen("127.0.0.1:0".parse().unwrap(), None, answer).await
    }

    /// The same at an address, so that one can come back; with TLS if there are `certificates`.
    pub(crate) async fn listen<A, F>(address: SocketAddr, tls: Option<&Certificates>, answer: A) -> Self
    where
        A: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, acceptor) = (Arc::new(AtomicUsize::new(0)), tls.map(Certificates::acceptor));
        let (counted, scheme) = (connections.clone(), if acceptor.is_some() { "https" } else { "http" });
        let accepting = tokio::spawn(async move {
            // Connections end with the server that took them.
            let mut served = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let (answer, acceptor) = (answer.clone(), acceptor.clone());
                served.spawn(async move {
                    match acceptor {
                        None => serve(socket, answer).await,
                        Some(acceptor) => {
                            if let Ok(socket) = acceptor.accept(socket).await {
                                serve(socket, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, accepting, scheme }
    }

    /// Where `path` is.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }
}

async fn serve<S, A, F>(socket: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            let answered = answer(Request::from_parts(head, body)).await;
            Ok::<_, Infallible>(answered.map(Full::new))
        }
    });
    // A client that goes away is part of the tests.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
}

/// A plain answer.
pub(crate) fn answer(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Bytes> {
    let builder = Response::builder().status(status).header("content-type", content_type);
    builder.body(body.into()).unwrap()
}

/// Files of an authority, of a server at 127.0.0.1 and of a client.
pub(crate) struct Certificates {
    authority: Authority,
    wants_client: bool,
}

impl Certificates {
    pub(crate) fn make(wants_client: bool) -> Self {
        let authority = Authority::new("endpoints");
        for (name, subject) in [("server", "127.0.0.1"), ("client", "client.example")] {
            authority.keep(name, &authority.issue(subject, &[subject]));
        }
        Self { authority, wants_client }
    }

    /// One of `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.authority.path(name)
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if self.wants_client {
            let mut roots = RootCertStore::empty();
            roots.add(read(&self.file("ca.pem")).into()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![read(&self.file("server.pem")).into()];
        let key = rustls_pki_types::PrivateKeyDer::Pkcs8(read(&self.file("server.key")).into());
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn read(file: &Path) -> Vec<u8> {
    use files::pem::{Kind, sections};
    let text = std::fs::read(file).unwrap();
    let kind =
        if file.extension().is_some_and(|end| end == "key") { Kind::PrivateKey } else { Kind::Certificate };
    sections(&text, kind).unwrap().remove(0).der
}
