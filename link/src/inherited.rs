//! Listening sockets that were there before their process: what a process that it replaces, or the system, has handed to it.

use std::net::{SocketAddr, TcpListener};

/// Sockets that listen already, by name. Whoever is to listen at an address of theirs takes it from here and binds nothing.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, TcpListener)>,
}

impl Inherited {
    /// These, with the names that they were handed over by.
    pub fn new(sockets: Vec<(String, TcpListener)>) -> Self {
        Self { sockets }
    }

    /// More of them, behind those that are there.
    pub fn extend(&mut self, others: Self) {
        self.sockets.extend(others.sockets);
    }

    /// The one that listens at `address`; where that leaves the port open, the one of this name.
    pub fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let found = self.sockets.iter().position(|(its_name, socket)| {
            socket.local_addr().is_ok_and(|its| match address.port() {
                0 => its_name == name && its.ip() == address.ip(),
                _ => its == address,
            })
        });
        found.map(|found| self.sockets.swap_remove(found).1)
    }

    /// Those that nobody has taken: name, and address if the system tells it.
    pub fn left(&self) -> impl Iterator<Item = (&str, Option<SocketAddr>)> {
        self.sockets.iter().map(|(name, socket)| (name.as_str(), socket.local_addr().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (TcpListener, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = socket.local_addr().expect("an address");
        (socket, address)
    }

    #[test]
    fn a_socket_goes_to_whoever_listens_at_its_address() {
        let ((first, at_first), (second, at_second)) = (socket(), socket());
        let mut inherited = Inherited::new(vec![("a".to_owned(), first), ("b".to_owned(), second)]);
        assert!(inherited.take("a", SocketAddr::from(([127, 0, 0, 2], at_first.port()))).is_none());
        // A listener may have another name now.
        let taken = inherited.take("a", at_second).expect("it is there");
        assert_eq!(taken.local_addr().expect("an address"), at_second);
        assert!(inherited.take("a", at_second).is_none(), "once");
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        assert!(inherited.take("b", any_port).is_none(), "that one is taken");
        assert_eq!(inherited.left().collect::<Vec<_>>(), [("a", Some(at_first))]);
        assert!(inherited.take("a", any_port).is_some());
    }
}
