//! Where to connect to, as whom, and from which loopback address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Protocol, Socket, Type};

use super::packet::Login;
use super::transport::Transport;
use super::websocket::WebSocket;

/// Connections that share one source address; well below the ephemeral ports there are.
const CONNECTIONS_PER_SOURCE: u32 = 4_000;

/// How TLS connections are made.
#[derive(Debug, Clone)]
pub(crate) struct TlsDial {
    /// Versions, trust and session store.
    pub(crate) config: Arc<ClientConfig>,
    /// Name to ask for.
    pub(crate) server_name: ServerName<'static>,
}

/// How connections to the broker are made.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The broker's listener.
    pub(crate) address: SocketAddr,
    /// TLS, or plain TCP.
    pub(crate) tls: Option<TlsDial>,
    /// Path to ask for over a WebSocket, or MQTT without one.
    pub(crate) websocket_path: Option<String>,
    /// User Name and Password of every CONNECT.
    pub(crate) login: Option<Login>,
    /// First of the source addresses, or the system's choice. A loopback address; the next ones follow it.
    pub(crate) source: Option<Ipv4Addr>,
}

impl Dial {
    /// The source address of connection number `number`: connections are spread over as many as their ports need.
    #[must_use]
    pub(crate) fn source_of(&self, number: u32) -> Option<Ipv4Addr> {
        self.source.map(|first| Ipv4Addr::from_bits(u32::from(first) + number / CONNECTIONS_PER_SOURCE))
    }

    /// A WebSocket that is not open yet, if one is wanted.
    #[must_use]
    pub(super) fn websocket(&self) -> Option<Box<WebSocket>> {
        let path = self.websocket_path.as_ref()?;
        Some(Box::new(WebSocket::new(&self.address.to_string(), path)))
    }

    /// Starts connecting, from `source` if it is given.
    ///
    /// # Errors
    /// When a socket cannot be made, bound or connected.
    pub(crate) fn start(&self, source: Option<Ipv4Addr>) -> io::Result<Transport> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        match socket.connect(&self.address.into()) {
            Ok(()) => {}
            Err(error) if is_in_progress(&error) => {}
            Err(error) => return Err(error),
        }
        let socket = TcpStream::from_std(socket.into());
        let Some(tls) = &self.tls else {
            return Ok(Transport::Tcp(socket));
        };
        let mut session =
            ClientConnection::new(tls.config.clone(), tls.server_name.clone()).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Transport::Tls(Box::new((socket, session))))
    }
}

/// EINPROGRESS has no [`io::ErrorKind`] on stable.
fn is_in_progress(error: &io::Error) -> bool {
    const EINPROGRESS: i32 = 115;
    error.raw_os_error() == Some(EINPROGRESS) || error.kind() == io::ErrorKind::WouldBlock
}

/// A source address of its own for this run, so that ports of an earlier run in TIME-WAIT do not matter.
#[must_use]
pub(crate) fn fresh_source() -> Ipv4Addr {
    Ipv4Addr::new(127, rand::random_range(1..=250), rand::random_range(0..=200), rand::random_range(1..=250))
}
