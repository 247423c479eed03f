//! Where links come from: a TCP listener, or whatever stands in its place in a simulation.

use std::future::Future;
use std::io;

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

impl Accept for TcpListener {
    type Io = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (socket, _) = TcpListener::accept(self).await?;
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "a link goes without TCP_NODELAY");
        }
        Ok(socket)
    }
}
