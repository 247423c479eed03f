//! One epoll loop per thread. A turn reads every ready socket once, hands the packets to the scenario, and writes once per
//! connection that has something to say.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use super::connection::{Connection, Stage};
use super::dial::Dial;
use mqtt::{Disconnect, Packet, ProtocolVersion, ReasonCode, Receiver, frame};

use super::packet::{self, ConnectOptions};
use super::transport::{PARTIAL_BYTES_MAX, Scratch};
use super::websocket::Unframed;

const EVENTS_PER_TURN: usize = 4_096;

/// A connection of this reactor. Numbers are given from 0 on; those of closed connections are given again.
pub(crate) type ConnectionId = usize;

/// What happens on connections, told to a scenario.
pub(crate) trait Handler {
    /// A packet arrived; answers go to `link.out`.
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>);
    /// The connection is gone and its number free. `error` is `None` when the close was expected.
    fn closed(&mut self, id: ConnectionId, error: Option<io::Error>);
}

/// The connection that a packet arrived on.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    /// Its number.
    pub(crate) id: ConnectionId,
    /// Bytes appended here leave at the end of the turn.
    pub(crate) out: &'a mut Vec<u8>,
    /// When the bytes were read, in nanoseconds on the reactor's clock.
    pub(crate) now_ns: u64,
    /// When the connection was opened, on the same clock.
    pub(crate) opened_ns: u64,
    /// Whether TLS resumed a session.
    pub(crate) resumed: bool,
}

/// Connections and their sockets.
pub(crate) struct Reactor {
    poll: Poll,
    events: Events,
    connections: Vec<Option<Connection>>,
    free: Vec<ConnectionId>,
    to_flush: Vec<ConnectionId>,
    scratch: Scratch,
    started: Instant,
    dialled: u32,
}

impl Reactor {
    /// An empty reactor whose clock starts at `started`.
    ///
    /// # Errors
    /// When epoll is not to be had.
    pub(crate) fn new(started: Instant) -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_PER_TURN),
            connections: Vec::new(),
            free: Vec::new(),
            to_flush: Vec::new(),
            scratch: Scratch::default(),
            started,
            dialled: 0,
        })
    }

    /// Serves at most so many connections in a turn.
    #[must_use]
    pub(crate) fn with_turns_of(mut self, events: usize) -> Self {
        self.events = Events::with_capacity(events);
        self
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Starts a connection that will send CONNECT by itself.
    ///
    /// # Errors
    /// When no socket can be made.
    pub(crate) fn open(&mut self, dial: &Dial, options: &ConnectOptions) -> io::Result<ConnectionId> {
        let source = dial.source_of(self.dialled);
        self.dialled += 1;
        self.open_from(dial, source, options)
    }

    /// As [`Self::open`], from the given source address.
    ///
    /// # Errors
    /// When no socket can be made.
    pub(crate) fn open_from(
        &mut self,
        dial: &Dial,
        source: Option<Ipv4Addr>,
        options: &ConnectOptions,
    ) -> io::Result<ConnectionId> {
        let opened_ns = self.now_ns();
        let mut transport = dial.start(source)?;
        let id = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(transport.socket(), Token(id), interest)?;
        let connect = packet::connect(options, dial.login.as_ref());
        let websocket = dial.websocket();
        let connection = Connection::new(transport, websocket, options.version, &connect, opened_ns);
        self.connections[id] = Some(connection);
        Ok(id)
    }

    /// Bytes appended to the result leave with the next [`Self::flush`].
    pub(crate) fn out(&mut self, id: ConnectionId) -> Option<&mut Vec<u8>> {
        let connection = self.connections.get_mut(id)?.as_mut()?;
        if !connection.queued {
            connection.queued = true;
            self.to_flush.push(id);
        }
        Some(&mut connection.out)
    }

    /// Queues DISCONNECT; the broker closes.
    pub(crate) fn disconnect(&mut self, id: ConnectionId) {
        if let Some(out) = self.out(id) {
            Disconnect::new(ReasonCode::NormalDisconnection).encode(ProtocolVersion::V311, out);
        }
        if let Some(Some(connection)) = self.connections.get_mut(id) {
            connection.stage = Stage::AwaitingClose;
            if let Some(websocket) = &mut connection.websocket {
                websocket.close_after();
            }
        }
    }

    /// Connections that have not closed.
    #[must_use]
    pub(crate) fn live(&self) -> usize {
        self.connections.len() - self.free.len()
    }

    /// Waits for events, at most for `timeout`, and handles them. Answers are queued, not yet written.
    ///
    /// # Errors
    /// When epoll fails.
    pub(crate) fn turn(&mut self, handler: &mut impl Handler, timeout: Duration) -> io::Result<()> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(1));
        for event in &events {
            let id = event.token().0;
            if event.is_writable() {
                self.writable(id, handler);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.readable(id, event.is_read_closed(), handler);
            }
        }
        self.events = events;
        Ok(())
    }

    /// Writes what is queued.
    pub(crate) fn flush(&mut self, handler: &mut impl Handler) {
        let mut ids = std::mem::take(&mut self.to_flush);
        for id in ids.drain(..) {
            if let Some(Some(connection)) = self.connections.get_mut(id) {
                connection.queued = false;
                if connection.stage != Stage::AwaitingTcp && !connection.blocked {
                    self.write(id, handler);
                }
            }
        }
        self.to_flush = ids;
    }

    fn writable(&mut self, id: ConnectionId, handler: &mut impl Handler) {
        let Some(Some(connection)) = self.connections.get_mut(id) else {
            return;
        };
        if connection.stage == Stage::AwaitingTcp {
            let socket = connection.transport.socket();
            match socket.take_error() {
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return self.close(id, Some(error), handler),
            }
            if socket.peer_addr().is_err() {
                return;
            }
            connection.stage = Stage::AwaitingConnack;
        } else if !connection.blocked {
            return;
        }
        self.write(id, handler);
    }

    fn write(&mut self, id: ConnectionId, handler: &mut impl Handler) {
        let Some(Some(connection)) = self.connections.get_mut(id) else {
            return;
        };
        match connection.send() {
            Ok(all) => connection.blocked = !all,
            Err(error) => self.close(id, Some(error), handler),
        }
    }

    /// Reads until the socket is empty. A short read means that it is; only a close that was announced must be read too,
    /// because no further event would tell of it.
    fn readable(&mut self, id: ConnectionId, to_the_end: bool, handler: &mut impl Handler) {
        loop {
            let Some(Some(connection)) = self.connections.get_mut(id) else {
                return;
            };
            let kept = connection.partial.len();
            self.scratch.plain[..kept].copy_from_slice(&connection.partial);
            let received = match connection.transport.receive(&mut self.scratch, kept) {
                Ok(received) => received,
                Err(error) => return self.close(id, Some(error), handler),
            };
            let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let arrived = &mut self.scratch.plain[kept..kept + received.plain];
            let unframed = match &mut connection.websocket {
                None => Ok(Unframed { bytes: received.plain, closed: false }),
                Some(websocket) => websocket.unframe(arrived),
            };
            let unframed = match unframed {
                Ok(unframed) => unframed,
                Err(error) => return self.close(id, Some(error), handler),
            };
            let input = &self.scratch.plain[..kept + unframed.bytes];
            if let Err(error) = parse(connection, id, input, now_ns, handler) {
                return self.close(id, Some(error), handler);
            }
            if connection.wants_write() && !connection.queued {
                connection.queued = true;
                self.to_flush.push(id);
            }
            if received.closed || unframed.closed {
                let expected = connection.stage == Stage::AwaitingClose;
                let error = (!expected).then(|| io::Error::from(io::ErrorKind::UnexpectedEof));
                return self.close(id, error, handler);
            }
            let more = received.more || (to_the_end && received.any);
            if !more {
                return;
            }
        }
    }

    /// Drops a connection without a word.
    pub(crate) fn close(&mut self, id: ConnectionId, error: Option<io::Error>, handler: &mut impl Handler) {
        if let Some(mut connection) = self.connections.get_mut(id).and_then(Option::take) {
            let _ = self.poll.registry().deregister(connection.transport.socket());
            let expected = connection.stage == Stage::AwaitingClose;
            self.free.push(id);
            handler.closed(id, error.filter(|_| !expected));
        }
    }
}

fn parse(
    connection: &mut Connection,
    id: ConnectionId,
    input: &[u8],
    now_ns: u64,
    handler: &mut impl Handler,
) -> io::Result<()> {
    let (opened_ns, version) = (connection.opened_ns, connection.version);
    let mut at = 0;
    while let Some(frame) = frame::split(&input[at..], frame::PACKET_SIZE_MAX).map_err(io::Error::other)? {
        at += frame.raw.len();
        let packet = Packet::decode(version, Receiver::Client, frame).map_err(io::Error::other)?;
        let resumed = matches!(packet, Packet::ConnAck(_)) && connection.is_resumed();
        if connection.stage == Stage::AwaitingConnack {
            connection.stage = Stage::Open;
        }
        handler.packet(&mut Link { id, out: &mut connection.out, now_ns, opened_ns, resumed }, packet);
    }
    let rest = &input[at..];
    if rest.len() > PARTIAL_BYTES_MAX {
        return Err(io::Error::other("packet from the broker is longer than the read buffer"));
    }
    connection.partial.clear();
    connection.partial.extend_from_slice(rest);
    Ok(())
}
