//! The WebSocket transport, plain and over TLS: subprotocol, frames, boundaries.

use std::io::Write;

use crate::harness::bytes::{Connect, PINGREQ, PINGRESP, Publish};
use crate::harness::transport::{Incoming, Wire};
use crate::harness::websocket::WebSocket;
use crate::harness::{DEADLINE, Server, Target, Transport, shared, unique};

/// A connection after CONNACK on which frames are made by hand.
struct Framed {
    wire: Wire,
    socket: WebSocket,
}

impl Framed {
    fn open(server: &Server, transport: Transport) -> Framed {
        let mut wire = Wire::open(server, transport);
        let socket = WebSocket::upgrade(&mut wire);
        Framed { wire, socket }
    }

    fn connected(server: &Server, transport: Transport) -> Framed {
        let mut framed = Framed::open(server, transport);
        framed.frame(0x82, &Connect::v5(&unique("c")).bytes());
        assert_eq!(framed.receive().first(), Some(&0x20));
        framed
    }

    fn frame(&mut self, first: u8, data: &[u8]) {
        self.raw(&WebSocket::frame(first, data));
    }

    fn raw(&mut self, data: &[u8]) {
        self.wire.write_all(data).unwrap();
        self.wire.flush().unwrap();
    }

    /// The next MQTT bytes, or nothing if the connection is closed.
    fn receive(&mut self) -> Vec<u8> {
        use std::io::Read;
        self.wire.socket().set_read_timeout(Some(DEADLINE)).unwrap();
        loop {
            let mut buffer = [0; 4_096];
            let count = match self.wire.read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing within {DEADLINE:?}")
                }
                Err(_) => 0,
            };
            if count == 0 {
                return Vec::new();
            }
            match self.socket.receive(&buffer[..count], &mut self.wire) {
                Incoming::Bytes(bytes) => return bytes,
                Incoming::Closed => return Vec::new(),
                Incoming::Nothing => {}
            }
        }
    }

    fn expect_close(&mut self) {
        // An MQTT 5 DISCONNECT may come first.
        let last = self.receive();
        if !last.is_empty() {
            assert_eq!(last[0], 0xE0, "{last:02x?}");
            assert!(self.receive().is_empty());
        }
    }
}

fn both(test: impl Fn(&'static Server, Transport)) {
    for transport in [Transport::Ws, Transport::Wss] {
        test(shared(), transport);
    }
}

#[test]
fn subprotocol_mqtt_is_selected() {
    // v5 [MQTT-6.0.0-3], [MQTT-6.0.0-4]: from a list, too, and the 3.1 name is answered by itself.
    both(|server, transport| {
        let extra = "Sec-WebSocket-Protocol: chat, mqtt\r\n";
        let answer = WebSocket::ask(&mut Wire::open(server, transport), &WebSocket::request("/mqtt", extra));
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{answer}");
    });
}

#[test]
fn upgrade_without_the_subprotocol_is_refused() {
    both(|server, transport| {
        for extra in ["", "Sec-WebSocket-Protocol: chat\r\n"] {
            let answer =
                WebSocket::ask(&mut Wire::open(server, transport), &WebSocket::request("/mqtt", extra));
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        }
    });
}

#[test]
fn what_is_no_upgrade_is_refused() {
    both(|server, transport| {
        let protocol = "Sec-WebSocket-Protocol: mqtt\r\n";
        let whole = WebSocket::request("/mqtt", protocol);
        let requests = [
            WebSocket::request("/elsewhere", protocol),
            whole.replace("GET", "POST"),
            whole.replace("Version: 13", "Version: 12"),
            whole.replace("Upgrade: websocket\r\n", ""),
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        ];
        for request in &requests {
            let answer = WebSocket::ask(&mut Wire::open(server, transport), request);
            assert!(answer.starts_with("HTTP/1.1 4"), "{request}\n{answer}");
        }
    });
}

#[test]
fn packets_may_span_and_share_frames() {
    // v5 [MQTT-6.0.0-2]
    both(|server, transport| {
        let topic = unique("t");
        let mut framed = Framed::open(server, transport);
        let subscribe = crate::harness::bytes::subscribe(1, &[], &[(&topic, 0)]);
        let publish = Publish::new(&topic, "hello").bytes();
        let bytes =
            [Connect::v5(&unique("c")).bytes(), subscribe, publish.clone(), PINGREQ.to_vec()].concat();
        // The first byte alone, then pieces of seven, then the rest in fragments of one message.
        framed.frame(0x82, &bytes[..1]);
        for piece in bytes[1..22].chunks(7) {
            framed.frame(0x82, piece);
        }
        framed.frame(0x02, &bytes[22..30]);
        framed.frame(0x00, &[]);
        framed.frame(0x00, &bytes[30..31]);
        framed.frame(0x80, &bytes[31..]);
        let mut received = Vec::new();
        let wanted_tail = [publish.as_slice(), &[0x90, 4, 0, 1, 0, 0], PINGRESP];
        while !wanted_tail.iter().all(|part| received.windows(part.len()).any(|window| window == *part)) {
            let more = framed.receive();
            assert!(!more.is_empty(), "closed after {received:02x?}");
            received.extend(more);
        }
        assert_eq!(received[0], 0x20);
    });
}

#[test]
fn text_frames_close_the_connection() {
    // v5 [MQTT-6.0.0-1]
    both(|server, transport| {
        let mut framed = Framed::open(server, transport);
        framed.frame(0x81, &Connect::v5(&unique("c")).bytes());
        assert!(framed.receive().is_empty(), "no CONNACK for a text frame");
        let mut framed = Framed::connected(server, transport);
        framed.frame(0x81, PINGREQ);
        framed.expect_close();
    });
}

#[test]
fn unmasked_frames_close_the_connection() {
    // RFC 6455 section 5.1
    both(|server, transport| {
        let mut framed = Framed::connected(server, transport);
        framed.raw(&[0x82, 2, 0xC0, 0]);
        framed.expect_close();
    });
}

#[test]
fn malformed_frames_close_the_connection() {
    // RFC 6455 sections 5.2, 5.4 and 5.5: reserved bits and opcodes, long or fragmented control frames, a stray continuation.
    both(|server, transport| {
        let frames = [
            WebSocket::frame(0xC2, PINGREQ),
            WebSocket::frame(0x83, PINGREQ),
            WebSocket::frame(0x89, &[0; 126]),
            WebSocket::frame(0x09, b"x"),
            WebSocket::frame(0x80, PINGREQ),
        ];
        for frame in &frames {
            let mut framed = Framed::connected(server, transport);
            framed.raw(frame);
            framed.expect_close();
        }
    });
}

#[test]
fn ping_frames_are_answered() {
    // RFC 6455 section 5.5.3, between the frames of a packet as well.
    both(|server, transport| {
        let mut framed = Framed::connected(server, transport);
        framed.frame(0x02, &PINGREQ[..1]);
        framed.frame(0x89, b"are you there");
        framed.frame(0x80, &PINGREQ[1..]);
        let (mut pong, mut pingresp) = (false, false);
        let mut received = Vec::new();
        while !(pong && pingresp) {
            use std::io::Read;
            let mut buffer = [0; 256];
            let count = framed.wire.read(&mut buffer).unwrap();
            assert!(count > 0, "closed");
            received.extend_from_slice(&buffer[..count]);
            pong = received.windows(15).any(|window| window == b"\x8A\x0Dare you there");
            pingresp = received.windows(4).any(|window| window == [0x82, 2, 0xD0, 0]);
        }
    });
}

#[test]
fn close_frame_is_answered_and_ends_the_connection() {
    // RFC 6455 section 5.5.1; without a DISCONNECT the Will is published. v5 [MQTT-3.1.2-8]
    both(|server, transport| {
        let topic = unique("t");
        let mut witness = Target { server, transport }.v5();
        witness.subscribe(&topic, 0);
        let mut framed = Framed::open(server, transport);
        let will = crate::harness::bytes::Will::new(&topic, "gone");
        framed.frame(0x82, &Connect::v5(&unique("c")).will(will).bytes());
        assert_eq!(framed.receive().first(), Some(&0x20));
        framed.frame(0x88, &1000u16.to_be_bytes());
        assert!(framed.receive().is_empty());
        witness.expect_message("gone");
    });
}
