//! How a link gets to its worker: over TCP, or over whatever stands in its place in a simulation.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection to a worker.
pub trait LinkIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> LinkIo for T {}

/// A connection that is being made. Dropped, it is given up.
pub type Reaching = Pin<Box<dyn Future<Output = io::Result<Box<dyn LinkIo>>> + Send>>;

/// Makes connections to workers.
pub trait Reach: Send + Sync + 'static {
    /// A new connection. Whoever asks sees that it takes no longer than it may.
    fn reach(&self, worker: SocketAddr) -> Reaching;
}

/// Over TCP.
pub(super) struct Tcp;

impl Reach for Tcp {
    fn reach(&self, worker: SocketAddr) -> Reaching {
        Box::pin(async move {
            let io = TcpStream::connect(worker).await?;
            io.set_nodelay(true)?;
            Ok(Box::new(io) as Box<dyn LinkIo>)
        })
    }
}
