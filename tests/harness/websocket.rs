//! The client's side of RFC 6455, as little as the tests need; frames can be built wrong on purpose.

use std::io::{Read, Write};

use super::transport::{Incoming, Wire};

/// The sample nonce of RFC 6455 section 1.3 and the answer that belongs to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Bytes of frames that are not whole yet.
#[derive(Default)]
pub(crate) struct WebSocket {
    pending: Vec<u8>,
}

impl WebSocket {
    /// The request that opens a WebSocket.
    pub(crate) fn request(path: &str, extra: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
        )
    }

    /// Sends a request and reads the answer's head.
    pub(crate) fn ask(wire: &mut Wire, request: &str) -> String {
        wire.write_all(request.as_bytes()).unwrap();
        wire.flush().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match wire.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                Ok(_) => break,
                Err(error) => panic!("no answer to the upgrade: {error}"),
            }
        }
        String::from_utf8(head).unwrap()
    }

    pub(crate) fn upgrade(wire: &mut Wire) -> WebSocket {
        let request = Self::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n");
        let answer = Self::ask(wire, &request).to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "switching protocols: {answer}");
        // v5 [MQTT-6.0.0-4]
        assert!(answer.contains("sec-websocket-protocol: mqtt\r\n"), "subprotocol: {answer}");
        assert!(answer.contains(&ACCEPT.to_ascii_lowercase()), "accept key: {answer}");
        WebSocket::default()
    }

    /// One masked frame with this first byte (FIN and opcode).
    pub(crate) fn frame(first: u8, data: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match data.len() {
            length @ 0..=125 => out.push(0x80 | u8::try_from(length).unwrap()),
            length @ 126..=65_535 => {
                out.push(0x80 | 126);
                out.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            length => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend(MASK);
        out.extend(data.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        out
    }

    /// Takes bytes off the wire; answers pings.
    pub(crate) fn receive(&mut self, data: &[u8], wire: &mut Wire) -> Incoming {
        self.feed(data);
        let mut out = Vec::new();
        while let Some((first, payload)) = self.next_frame() {
            match first & 0x0F {
                // v5 [MQTT-6.0.0-1]: binary frames (or their continuation) only.
                0 | 2 => out.extend(payload),
                8 if out.is_empty() => return Incoming::Closed,
                8 => break,
                9 => wire.write_all(&Self::frame(0x8A, &payload)).unwrap(),
                10 => {}
                other => panic!("the server sent a frame of opcode {other}"),
            }
        }
        if out.is_empty() { Incoming::Nothing } else { Incoming::Bytes(out) }
    }

    /// Bytes as they came off the wire.
    pub(crate) fn feed(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// The next whole frame: first byte and payload.
    pub(crate) fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let &[first, second, ..] = self.pending.as_slice() else { return None };
        assert_eq!(second & 0x80, 0, "a server does not mask");
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(self.pending.get(2..4)?.try_into().unwrap()))),
            127 => (10, u64::from_be_bytes(self.pending.get(2..10)?.try_into().unwrap()).try_into().unwrap()),
            length => (2, usize::from(length)),
        };
        let payload = self.pending.get(start..start + length)?.to_vec();
        self.pending.drain(..start + length);
        Some((first, payload))
    }
}
