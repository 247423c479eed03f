//! What the whole-system tests stand on: the real binary as a process, raw bytes over every transport.
//! Packets are built and read here byte by byte on purpose: a client library would hide violations.

pub(crate) mod bytes;
pub(crate) mod client;
pub(crate) mod directory;
pub(crate) mod endpoint;
#[cfg(feature = "system-tests")]
pub(crate) mod fleet;
pub(crate) mod packet;
pub(crate) mod process;
pub(crate) mod property;
pub(crate) mod reference;
pub(crate) mod scram;
pub(crate) mod secret;
pub(crate) mod server;
pub(crate) mod transport;
pub(crate) mod users;
#[cfg(feature = "system-tests")]
pub(crate) mod wall_clock;
pub(crate) mod websocket;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(crate) use client::Client;
pub(crate) use server::{Server, shared};
pub(crate) use transport::Transport;

/// How long a test waits for anything that must happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How long the answer to something wrong may take: it is due at once, and every time-out that could end the connection in its
/// place is longer. A close that says nothing is known by that alone.
pub(crate) const PROMPT: Duration = Duration::from_secs(5);

/// A server and the transport by which a test talks to it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) server: &'a Server,
    pub(crate) transport: Transport,
}

impl Target<'_> {
    /// A new connection on which nothing was sent yet.
    pub(crate) fn open(&self) -> Client {
        Client::open(self.server, self.transport)
    }

    /// Sends this CONNECT on a new connection and waits for a CONNACK that accepts it.
    pub(crate) fn connect(&self, connect: &bytes::Connect) -> Client {
        self.connect_and_see(connect).0
    }

    /// As `connect`, with the CONNACK.
    pub(crate) fn connect_and_see(&self, connect: &bytes::Connect) -> (Client, packet::Connack) {
        let mut client = self.open();
        client.version = connect.version();
        client.send(&connect.bytes());
        let connack = client.expect_connack();
        assert_eq!(connack.code, 0, "the CONNECT is accepted: {connack:?}");
        (client, connack)
    }

    /// An MQTT 5 connection with Clean Start and a Client Identifier of its own.
    pub(crate) fn v5(&self) -> Client {
        self.connect(&bytes::Connect::v5(&unique("c")))
    }

    /// An MQTT 3.1.1 connection with a clean session and a Client Identifier of its own.
    pub(crate) fn v4(&self) -> Client {
        self.connect(&bytes::Connect::v4(&unique("c")))
    }

    /// Sends this CONNECT on a new connection and returns the CONNACK that refuses it.
    pub(crate) fn refused(&self, connect: &[u8], version: u8) -> packet::Connack {
        let mut client = self.open();
        client.version = version;
        client.send(connect);
        let connack = match client.poll(PROMPT) {
            Ok(packet) => packet.connack(version),
            Err(closed) => panic!("no CONNACK that refuses within {PROMPT:?} (closed: {closed})"),
        };
        assert_ne!(connack.code, 0, "the CONNECT is refused");
        assert!(!connack.session_present, "v5 [MQTT-3.2.2-6] no Session Present in a refusal");
        client.expect_close();
        connack
    }
}

/// A name that nothing else in this run or an earlier one uses, fit for Client Identifiers and topic levels.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{stem}{:x}x{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Looks until there is something to see, and answers it; panics with what `otherwise` says after three times [`DEADLINE`].
pub(crate) fn until<T>(mut look: impl FnMut() -> Option<T>, otherwise: impl Fn() -> String) -> T {
    let deadline = Instant::now() + 3 * DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {}", otherwise());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Lets time pass where time itself is what is tested (Keep Alive, expiry, delay), never to wait for a result.
pub(crate) fn let_pass(time: Duration) {
    std::thread::sleep(time);
}

/// Writes a file as other programs do: under another name, and then in its place.
pub(crate) fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(&next, path).unwrap();
}
