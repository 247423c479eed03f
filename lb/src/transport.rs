//! What the edge asks of a byte stream, whatever is under it: reading, writing, and moving from the runtime of handshakes
//! to the one of connected devices.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::tls::TlsStream;
use crate::websocket::WsStream;

/// A byte stream to a device that carries MQTT and nothing else.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// Deregisters the socket from the runtime that it is on and registers it with another.
    fn rehome(self, runtime: &Handle) -> io::Result<Self>;
}

impl Transport for TcpStream {
    fn rehome(self, runtime: &Handle) -> io::Result<Self> {
        let socket = self.into_std()?;
        let _entered = runtime.enter();
        Self::from_std(socket)
    }
}

impl<IO: Transport> Transport for TlsStream<IO> {
    fn rehome(self, runtime: &Handle) -> io::Result<Self> {
        self.map_io(|io| io.rehome(runtime))
    }
}

impl<IO: Transport> Transport for WsStream<IO> {
    fn rehome(self, runtime: &Handle) -> io::Result<Self> {
        self.map_io(|io| io.rehome(runtime))
    }
}
