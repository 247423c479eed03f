//! Where links come from: TCP sockets, or whatever stands in its place in a simulation.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use link::Bind;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// Takes connections of edges.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Dropped before it is ready, none is lost.
    ///
    /// # Errors
    /// None can be taken now; one may later.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// The sockets that a worker listens on.
pub(super) struct Sockets(Vec<TcpListener>);

impl Sockets {
    /// Binds all addresses of `listen`. Must be called in a runtime.
    pub(super) fn bind(listen: &Bind) -> Result<Self, (SocketAddr, io::Error)> {
        let bind = |address: SocketAddr| {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        listen.bind_each(bind, TcpListener::local_addr).map(Self)
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, (SocketAddr, io::Error)> {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        self.0.iter().map(|socket| socket.local_addr().map_err(|error| (unknown, error))).collect()
    }
}

impl Accept for Sockets {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let any = |cx: &mut Context<'_>| {
            let mut polled = self.0.iter().map(|socket| socket.poll_accept(cx));
            polled.find(Poll::is_ready).unwrap_or(Poll::Pending)
        };
        let (socket, _) = poll_fn(any).await?;
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a link goes without TCP_NODELAY");
        }
        Ok(socket)
    }
}
