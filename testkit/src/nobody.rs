//! An address at which nobody listens, and nobody will: a port that was free a moment ago may be another test's by now.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of loopback that refuses every connection as long as this is there.
#[derive(Debug)]
pub struct Nobody(Socket);

impl Nobody {
    /// Takes a port.
    #[must_use]
    pub fn here() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        Self(socket)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }
}
