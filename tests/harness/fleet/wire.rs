//! The MQTT byte stream of a device that shares its thread with others: TCP, TLS and WebSocket over TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::packet::Packet;
use crate::harness::transport::Transport;
use crate::harness::websocket::WebSocket;

/// How long a connection may take until MQTT can be spoken.
const DIAL_DEADLINE: Duration = Duration::from_secs(20);

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What TLS connections of devices need.
#[derive(Clone)]
pub(crate) struct Trust {
    mqtt: Arc<ClientConfig>,
    http: Arc<ClientConfig>,
}

impl Trust {
    /// Trusts the authority in this file.
    pub(crate) fn read(ca_file: &Path) -> Trust {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca_file).expect("the servers' CA file") {
            roots.add(certificate.unwrap()).unwrap();
        }
        let config = |alpn: &[u8]| {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            Arc::new(config)
        };
        Trust { mqtt: config(b"mqtt"), http: config(b"http/1.1") }
    }
}

/// An open connection.
pub(crate) struct Wire {
    io: Box<dyn Io>,
    websocket: Option<WebSocket>,
    received: Vec<u8>,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects, with TLS and the WebSocket upgrade where the transport has them.
    pub(crate) async fn open(address: SocketAddr, transport: Transport, trust: &Trust) -> io::Result<Wire> {
        let dialled = tokio::time::timeout(DIAL_DEADLINE, Self::dial(address, transport, trust)).await;
        dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn dial(address: SocketAddr, transport: Transport, trust: &Trust) -> io::Result<Wire> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut io: Box<dyn Io> = match transport {
            Transport::Tcp | Transport::Ws => Box::new(socket),
            Transport::Tls => Box::new(TlsConnector::from(trust.mqtt.clone()).connect(name, socket).await?),
            Transport::Wss => Box::new(TlsConnector::from(trust.http.clone()).connect(name, socket).await?),
        };
        let websocket = match transport {
            Transport::Ws | Transport::Wss => Some(upgrade(&mut io).await?),
            Transport::Tcp | Transport::Tls => None,
        };
        Ok(Wire { io, websocket, received: Vec::new(), buffer: vec![0; 4096] })
    }

    /// Writes MQTT bytes, in one binary frame on a WebSocket.
    pub(crate) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &self.websocket {
            Some(_) => self.io.write_all(&WebSocket::frame(0x82, data)).await?,
            None => self.io.write_all(data).await?,
        }
        self.io.flush().await
    }

    /// The packets that the next read completes, possibly none; an error when the connection has ended. Cancel safe.
    pub(crate) async fn read(&mut self) -> io::Result<Vec<Packet>> {
        let count = self.io.read(&mut self.buffer).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match &mut self.websocket {
            None => self.received.extend_from_slice(&self.buffer[..count]),
            Some(websocket) => {
                websocket.feed(&self.buffer[..count]);
                while let Some((first, payload)) = websocket.next_frame() {
                    match first & 0x0F {
                        // v5 [MQTT-6.0.0-1]: binary frames (or their continuation) only.
                        0 | 2 => self.received.extend(payload),
                        8 => return Err(io::ErrorKind::ConnectionAborted.into()),
                        other => panic!("the server sent a frame of opcode {other}"),
                    }
                }
            }
        }
        Ok(std::iter::from_fn(|| Packet::split_off(&mut self.received)).collect())
    }
}

async fn upgrade(io: &mut Box<dyn Io>) -> io::Result<WebSocket> {
    let request = WebSocket::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    Ok(WebSocket::default())
}
