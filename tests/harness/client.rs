//! A raw MQTT client: it sends the bytes it is given and states what must come back.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use testkit::authority::Issued;

use super::bytes::{self, PUBACK, PUBCOMP, PUBREC, PUBREL, V5};
use super::packet::{Connack, Granted, Packet, Publish, Reply};
use super::server::Server;
use super::transport::{Incoming, Stream, Transport};
use super::{DEADLINE, PROMPT, unique};

/// One device connection.
pub(crate) struct Client {
    pub(crate) stream: Stream,
    /// The protocol version by which answers are read.
    pub(crate) version: u8,
    received: Vec<u8>,
    closed: bool,
}

impl Client {
    pub(crate) fn open(server: &Server, transport: Transport) -> Client {
        Client { stream: Stream::open(server, transport), version: V5, received: Vec::new(), closed: false }
    }

    /// A connection over TLS with a client certificate.
    pub(crate) fn open_as(server: &Server, transport: Transport, identity: &Issued) -> Client {
        let stream = Stream::open_as(server, transport, identity);
        Client { stream, version: V5, received: Vec::new(), closed: false }
    }

    /// A connection from this address of loopback; a server tells clients apart by it.
    pub(crate) fn open_from(source: Ipv4Addr, address: SocketAddr) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connecting = async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from((source, 0))).unwrap();
            socket.connect(address).await.expect("connect to the server under test").into_std().unwrap()
        };
        let socket = runtime.block_on(connecting);
        socket.set_nonblocking(false).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        Client { stream: Stream::over(socket), version: V5, received: Vec::new(), closed: false }
    }

    /// A connection to a server that may be down.
    pub(crate) fn try_open(address: SocketAddr) -> Option<Client> {
        let socket = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        socket.set_nodelay(true).ok()?;
        socket.set_write_timeout(Some(DEADLINE)).ok()?;
        Some(Client { stream: Stream::over(socket), version: V5, received: Vec::new(), closed: false })
    }

    /// Sends bytes as they are. That the server has closed shows at the next read.
    pub(crate) fn send(&mut self, data: &[u8]) {
        if self.stream.write(data).is_err() {
            self.closed = true;
        }
    }

    /// Waits until `deadline` for the next packet; `Err(true)` if the connection was closed, `Err(false)` if nothing came.
    pub(crate) fn poll_until(&mut self, deadline: Instant) -> Result<Packet, bool> {
        loop {
            if let Some(packet) = Packet::split_off(&mut self.received) {
                return Ok(packet);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stream.read(left) {
                Incoming::Bytes(data) => self.received.extend(data),
                Incoming::Closed => return Err(true),
                Incoming::Nothing if self.closed => return Err(true),
                Incoming::Nothing if left.is_zero() => return Err(false),
                Incoming::Nothing => {}
            }
        }
    }

    /// As `poll_until`, for this long.
    pub(crate) fn poll(&mut self, wait: Duration) -> Result<Packet, bool> {
        self.poll_until(Instant::now() + wait)
    }

    pub(crate) fn read_packet(&mut self) -> Packet {
        match self.poll(DEADLINE) {
            Ok(packet) => packet,
            Err(true) => panic!("the server closed the connection where a packet was due"),
            Err(false) => panic!("no packet within {DEADLINE:?}"),
        }
    }

    /// The next packet is exactly these bytes.
    pub(crate) fn expect(&mut self, wanted: &[u8]) {
        let packet = self.read_packet().bytes();
        assert_eq!(packet, wanted, "got {packet:02x?}, wanted {wanted:02x?}");
    }

    /// The server closes the connection promptly, and sends nothing before it: not because some time-out has passed.
    pub(crate) fn expect_close(&mut self) {
        self.expect_close_within(PROMPT);
    }

    /// The same, by then.
    pub(crate) fn expect_close_within(&mut self, limit: Duration) {
        match self.poll(limit) {
            Ok(packet) => panic!("{packet:02x?} where the connection should be closed"),
            Err(true) => {}
            Err(false) => panic!("the connection is still open after {limit:?}"),
        }
    }

    pub(crate) fn expect_connack(&mut self) -> Connack {
        let version = self.version;
        self.read_packet().connack(version)
    }

    /// DISCONNECT with this Reason Code, then the close.
    pub(crate) fn expect_disconnect(&mut self, reason: u8) -> Reply {
        let reply = self.read_packet().disconnect();
        assert_eq!(reply.reason, reason, "DISCONNECT {:#04x}, wanted {reason:#04x}", reply.reason);
        self.expect_close();
        reply
    }

    /// The error is told as this version can: DISCONNECT with the Reason Code (v5) or nothing (v3), then the close.
    pub(crate) fn expect_dropped(&mut self, reason: u8) {
        if self.version == V5 {
            self.expect_disconnect(reason);
        } else {
            self.expect_close();
        }
    }

    pub(crate) fn expect_publish(&mut self) -> Publish {
        let version = self.version;
        self.read_packet().publish(version)
    }

    /// The next packet is a PUBLISH with this payload.
    pub(crate) fn expect_message(&mut self, payload: &str) -> Publish {
        let publish = self.expect_publish();
        assert_eq!(publish.text(), payload);
        publish
    }

    /// The next packet is this kind of acknowledgement for this Packet Identifier.
    pub(crate) fn expect_reply(&mut self, first: u8, id: u16) -> Reply {
        let version = self.version;
        let reply = self.read_packet().reply(first, version);
        assert_eq!(reply.id, id, "the Packet Identifier of {reply:?}");
        reply
    }

    /// The same, and it reports success (0x10, no matching subscribers, is one).
    pub(crate) fn expect_success(&mut self, first: u8, id: u16) {
        let reply = self.expect_reply(first, id);
        assert!(reply.reason < 0x80, "{reply:?}");
    }

    /// Subscribes to one filter and returns the code granted.
    pub(crate) fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(filter, options, &[])
    }

    /// The same with properties.
    pub(crate) fn subscribe_with(&mut self, filter: &str, options: u8, properties: &[u8]) -> u8 {
        let granted = self.subscribe_all(&[(filter, options)], properties);
        granted.codes[0]
    }

    /// Subscribes to several filters in one packet.
    pub(crate) fn subscribe_all(&mut self, filters: &[(&str, u8)], properties: &[u8]) -> Granted {
        let version = self.version;
        self.send(&if version == V5 {
            bytes::subscribe(0x5353, properties, filters)
        } else {
            bytes::subscribe_v3(0x5353, filters)
        });
        let granted = self.read_packet().suback(version);
        assert_eq!(granted.id, 0x5353);
        assert_eq!(granted.codes.len(), filters.len());
        granted
    }

    pub(crate) fn unsubscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        let version = self.version;
        self.send(&if version == V5 {
            bytes::unsubscribe(0x5555, filters)
        } else {
            bytes::unsubscribe_v3(0x5555, filters)
        });
        let granted = self.read_packet().unsuback(version);
        assert_eq!(granted.id, 0x5555);
        granted.codes
    }

    /// Publishes at QoS 0, 1 or 2 and completes the flow.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str, qos: u8) {
        self.publish_as(bytes::Publish::new(topic, payload), qos);
    }

    /// The same with whatever the builder was given (retain, properties).
    pub(crate) fn publish_as(&mut self, publish: bytes::Publish, qos: u8) {
        let reason = self.try_publish(publish, qos);
        assert!(reason < 0x80, "the message is refused with {reason:#04x}");
    }

    /// The same for a message that may be refused, also in silence: then the connection goes on. Answers the Reason Code of PUBACK or
    /// PUBREC, 0 where there is none.
    pub(crate) fn publish_and_see(&mut self, publish: bytes::Publish, qos: u8) -> u8 {
        let reason = self.try_publish(publish, qos);
        if qos == 0 {
            self.expect_alive();
        }
        reason
    }

    fn try_publish(&mut self, publish: bytes::Publish, qos: u8) -> u8 {
        let publish = if self.version == V5 { publish } else { publish.v3() };
        let id = 0x5050;
        match qos {
            0 => {
                self.send(&publish.bytes());
                return 0;
            }
            1 => self.send(&publish.qos1(id).bytes()),
            _ => self.send(&publish.qos2(id).bytes()),
        }
        let answer = if qos == 1 { PUBACK } else { PUBREC };
        let reason = self.expect_reply(answer, id).reason;
        if answer == PUBREC && reason < 0x80 {
            self.send(&bytes::ack(PUBREL, id));
            self.expect_success(PUBCOMP, id);
        }
        reason
    }

    /// Takes one message and completes its flow.
    pub(crate) fn take(&mut self) -> Publish {
        let publish = self.expect_publish();
        self.acknowledge(&publish);
        publish
    }

    /// Completes the flow of a message that was received.
    pub(crate) fn acknowledge(&mut self, publish: &Publish) {
        match publish.qos {
            0 => {}
            1 => self.send(&bytes::ack(PUBACK, publish.id)),
            _ => {
                self.send(&bytes::ack(PUBREC, publish.id));
                self.expect_success(PUBREL, publish.id);
                self.send(&bytes::ack(PUBCOMP, publish.id));
            }
        }
    }

    /// Fails if anything that `publisher` sent before is still on its way to this client: a marker by the same publisher comes next.
    pub(crate) fn expect_silence_from(&mut self, publisher: &mut Client) {
        let topic = unique("mark");
        assert_eq!(self.subscribe(&topic, 0), 0, "the subscription to the marker");
        publisher.publish(&topic, "marker", 0);
        let publish = self.expect_publish();
        assert_eq!(publish.text(), "marker", "nothing else was to arrive: {publish:?}");
        self.unsubscribe(&[&topic]);
    }

    /// Fails if anything is under way to this client that it caused itself: the answer to a SUBSCRIBE comes next.
    pub(crate) fn expect_silence(&mut self) {
        let topic = unique("mark");
        self.subscribe(&topic, 0);
        self.unsubscribe(&[&topic]);
    }

    /// The connection answers a PINGREQ: it is alive, and nothing else was waiting.
    pub(crate) fn expect_alive(&mut self) {
        self.send(bytes::PINGREQ);
        self.expect(bytes::PINGRESP);
    }

    /// DISCONNECT with normal disconnection; waits until the server has closed.
    pub(crate) fn leave(mut self) {
        self.send(bytes::DISCONNECT);
        self.expect_close();
    }

    /// The system keeps hardly anything of what the client does not read.
    pub(crate) fn keeps_little(&self) {
        rustix::net::sockopt::set_socket_recv_buffer_size(self.stream.wire.socket(), 4_096).unwrap();
    }

    /// Closes the socket without a DISCONNECT, as a network failure would.
    pub(crate) fn vanish(self) {
        let _ = self.stream.wire.socket().shutdown(std::net::Shutdown::Both);
    }
}
