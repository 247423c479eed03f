//! What the edge asks of a byte stream, whatever is under it: reading, writing, and moving from the runtime of handshakes
//! to the one of connected devices.

use std::io;
use std::mem::MaybeUninit;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::tls::TlsStream;
use crate::websocket::WsStream;

/// A byte stream to a device as its relay sees it.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin {
    /// Whether the system has received something that was not read, or the end. Reading says so only when the runtime has heard
    /// of it, which may be a moment later.
    fn has_unread(&self) -> bool;

    /// Whether the system takes more for the peer. Writing says so only when the runtime has heard of it, as with reading.
    fn has_room(&self) -> bool;

    /// Whether the peer has closed or reset the connection, whatever it sent before that and was not read.
    fn has_gone(&self) -> bool;
}

impl Wire for TcpStream {
    fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let peeked = SockRef::from(self).peek(&mut byte);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn has_room(&self) -> bool {
        is_any(self, PollFlags::OUT, PollFlags::OUT)
    }

    fn has_gone(&self) -> bool {
        is_any(self, PollFlags::RDHUP, PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
    }
}

/// Whether the system says one of `flags` of a socket when it is asked about `asked`.
fn is_any(socket: &TcpStream, asked: PollFlags, flags: PollFlags) -> bool {
    let mut asked = [PollFd::new(socket, asked)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&at_once)).is_ok() && asked[0].revents().intersects(flags)
}

impl<IO: Wire> Wire for TlsStream<IO> {
    fn has_unread(&self) -> bool {
        self.get_ref().has_unread()
    }

    fn has_room(&self) -> bool {
        self.get_ref().has_room()
    }

    fn has_gone(&self) -> bool {
        self.get_ref().has_gone()
    }
}

impl<IO: Wire> Wire for WsStream<IO> {
    fn has_unread(&self) -> bool {
        self.get_ref().has_unread()
    }

    fn has_room(&self) -> bool {
        self.get_ref().has_room()
    }

    fn has_gone(&self) -> bool {
        self.get_ref().has_gone()
    }
}

/// One in memory, where nothing is late.
#[cfg(test)]
impl Wire for tokio::io::DuplexStream {
    fn has_unread(&self) -> bool {
        false
    }

    fn has_room(&self) -> bool {
        false
    }

    fn has_gone(&self) -> bool {
        false
    }
}

/// A byte stream to a device that carries MQTT and nothing else.
pub(crate) trait Transport: Wire + Send + Sized + 'static {
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
