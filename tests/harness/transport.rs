//! Byte streams to a server: TCP, TLS, and WebSocket over either.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use testkit::authority::Issued;

use super::DEADLINE;
use super::server::Server;
use super::websocket::WebSocket;

/// How a client reaches the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    pub(crate) const ALL: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

    /// The listener's name in the configuration and in the addresses file.
    pub(crate) fn listener(self) -> &'static str {
        match self {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }
}

/// TCP or TLS.
pub(crate) enum Wire {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    pub(crate) fn open(server: &Server, transport: Transport) -> Wire {
        let socket = tcp(server.address(transport));
        match transport {
            Transport::Tcp | Transport::Ws => Wire::Tcp(socket),
            Transport::Tls | Transport::Wss => {
                Wire::Tls(Box::new(tls(server, socket, transport, None).expect("TLS handshake")))
            }
        }
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Wire::Tcp(socket) => socket,
            Wire::Tls(stream) => &stream.sock,
        }
    }
}

/// A TCP connection with time-outs, so that no test hangs.
pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&address, DEADLINE).expect("connect to the server under test");
    socket.set_nodelay(true).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

fn tls(
    server: &Server,
    socket: TcpStream,
    transport: Transport,
    identity: Option<&Issued>,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(server.ca_file()).expect("the server's CA file") {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(Issued { der, key_der, .. }) => {
            let key = PrivateKeyDer::try_from(key_der.clone()).unwrap();
            config.with_client_auth_cert(vec![der.clone().into()], key).unwrap()
        }
    };
    let alpn: &[u8] = if transport == Transport::Wss { b"http/1.1" } else { b"mqtt" };
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(socket) => socket.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Tcp(socket) => socket.write(data),
            Wire::Tls(stream) => stream.write(data),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Tcp(socket) => socket.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}

/// What reading brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Bytes(Vec<u8>),
    Closed,
    Nothing,
}

/// The MQTT byte stream over a transport.
pub(crate) struct Stream {
    pub(crate) wire: Wire,
    websocket: Option<WebSocket>,
}

impl Stream {
    pub(crate) fn open(server: &Server, transport: Transport) -> Stream {
        let mut wire = Wire::open(server, transport);
        let websocket = match transport {
            Transport::Ws | Transport::Wss => Some(WebSocket::upgrade(&mut wire)),
            Transport::Tcp | Transport::Tls => None,
        };
        Stream { wire, websocket }
    }

    /// Over TLS with a client certificate, which the server takes.
    pub(crate) fn open_as(server: &Server, transport: Transport, identity: &Issued) -> Stream {
        let socket = tcp(server.address(transport));
        let mut wire =
            Wire::Tls(Box::new(tls(server, socket, transport, Some(identity)).expect("TLS handshake")));
        let websocket = (transport == Transport::Wss).then(|| WebSocket::upgrade(&mut wire));
        Stream { wire, websocket }
    }

    /// The server does not take a client certificate. In TLS 1.3 it says so after the client's handshake.
    pub(crate) fn expect_refused(server: &Server, transport: Transport, identity: &Issued) {
        let Ok(mut stream) = tls(server, tcp(server.address(transport)), transport, Some(identity)) else {
            return;
        };
        let error = stream.read(&mut [0]).expect_err("an alert");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    }

    /// Plain MQTT over a socket that is there already.
    pub(crate) fn over(socket: TcpStream) -> Stream {
        Stream { wire: Wire::Tcp(socket), websocket: None }
    }

    /// Writes MQTT bytes, in one binary frame on a WebSocket.
    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &self.websocket {
            Some(_) => self.wire.write_all(&WebSocket::frame(0x82, data))?,
            None => self.wire.write_all(data)?,
        }
        self.wire.flush()
    }

    /// Waits at most this long for MQTT bytes.
    pub(crate) fn read(&mut self, wait: Duration) -> Incoming {
        self.wire.socket().set_read_timeout(Some(wait.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 65_536];
        match self.wire.read(&mut buffer) {
            Ok(0) => Incoming::Closed,
            Ok(count) => match &mut self.websocket {
                Some(websocket) => websocket.receive(&buffer[..count], &mut self.wire),
                None => Incoming::Bytes(buffer[..count].to_vec()),
            },
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Incoming::Nothing,
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::UnexpectedEof => Incoming::Closed,
                _ => panic!("read from the server: {error}"),
            },
        }
    }
}
