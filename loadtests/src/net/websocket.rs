//! The client's side of a WebSocket (RFC 6455) over one connection: the upgrade, binary frames out, frames from the broker taken
//! apart in place. Extensions and text frames are not spoken.

use std::io;

/// The sample nonce of RFC 6455 section 1.3, and the answer that belongs to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// A server has to unmask whatever the key is; one key for all costs this tool no random numbers.
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// The broker's answer to the upgrade may not be longer than this.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
const CONTROL_BYTES_MAX: u64 = 125;

const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;
const FIN: u8 = 0x80;
/// Status code 1000.
const NORMAL_CLOSURE: [u8; 2] = [0x03, 0xE8];

/// What is left of received bytes once the frames around them are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unframed {
    /// MQTT bytes at the head of the buffer.
    pub(crate) bytes: usize,
    /// Whether the broker said that it closes.
    pub(crate) closed: bool,
}

/// One WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    /// The broker's answer as far as it is here; `None` once the WebSocket is open.
    answer: Option<Vec<u8>>,
    /// Whether Close follows what is framed next.
    closes: bool,
    /// Bytes for the socket.
    pub(super) framed: Vec<u8>,
    /// Head of the frame that arrives, as far as it is here.
    head: Vec<u8>,
    opcode: u8,
    /// Bytes of the payload that are still to come.
    left: u64,
    /// Payload of a control frame, as far as it is here.
    control: Vec<u8>,
}

impl WebSocket {
    /// A WebSocket whose first bytes ask for `path`.
    #[must_use]
    pub(crate) fn new(host: &str, path: &str) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        Self {
            answer: Some(Vec::new()),
            closes: false,
            framed: request.into_bytes(),
            head: Vec::new(),
            opcode: BINARY,
            left: 0,
            control: Vec::new(),
        }
    }

    /// Moves `out` into one binary frame, once the broker has let the WebSocket open; until then it stays where it is.
    pub(super) fn frame(&mut self, out: &mut Vec<u8>) {
        if self.answer.is_none() && !out.is_empty() {
            append_frame(&mut self.framed, BINARY, out);
            out.clear();
            if std::mem::take(&mut self.closes) {
                append_frame(&mut self.framed, CLOSE, &NORMAL_CLOSURE);
            }
        }
    }

    /// Has Close follow the bytes that are framed next.
    pub(super) fn close_after(&mut self) {
        self.closes = true;
    }

    /// Whether bytes wait for the socket.
    #[must_use]
    pub(super) fn wants_write(&self) -> bool {
        !self.framed.is_empty()
    }

    /// Takes bytes from the socket and leaves the MQTT bytes among them at the head of `bytes`.
    ///
    /// # Errors
    /// When the upgrade was refused, or a frame is not one that a server may send.
    pub(super) fn unframe(&mut self, bytes: &mut [u8]) -> io::Result<Unframed> {
        let mut from = self.take_answer(bytes)?;
        let (mut to, mut closed) = (0, false);
        while from < bytes.len() {
            if self.left == 0 {
                self.head.push(bytes[from]);
                from += 1;
                self.read_head()?;
            } else {
                let ready = (bytes.len() - from).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if self.is_control() {
                    self.control.extend_from_slice(&bytes[from..from + ready]);
                } else {
                    bytes.copy_within(from..from + ready, to);
                    to += ready;
                }
                from += ready;
                self.left -= ready as u64;
            }
            if self.left == 0 && self.head.is_empty() {
                closed |= self.end_frame();
            }
        }
        Ok(Unframed { bytes: to, closed })
    }

    /// Takes the answer to the upgrade off the head of `bytes` and returns where it ends.
    fn take_answer(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(answer) = &mut self.answer else {
            return Ok(0);
        };
        for (at, byte) in bytes.iter().enumerate() {
            answer.push(*byte);
            if answer.ends_with(b"\r\n\r\n") {
                let text = String::from_utf8_lossy(answer).into_owned();
                if !text.starts_with("HTTP/1.1 101") || !text.contains(ACCEPT) {
                    let line = text.lines().next().unwrap_or_default();
                    return Err(io::Error::other(format!("the WebSocket was refused: {line}")));
                }
                self.answer = None;
                return Ok(at + 1);
            }
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer to the upgrade does not end"));
        }
        Ok(bytes.len())
    }

    /// Starts a frame if its head is whole.
    fn read_head(&mut self) -> io::Result<()> {
        let length = match *self.head.as_slice() {
            [_, second, ..] if second & 0x80 != 0 => return Err(io::Error::other("the broker masks frames")),
            [_, short @ 0..=125] => u64::from(short),
            [_, 126, high, low] => u64::from(u16::from_be_bytes([high, low])),
            [_, 127, a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => return Ok(()),
        };
        self.opcode = self.head.first().map_or(BINARY, |first| first & 0x0F);
        if self.is_control() && length > CONTROL_BYTES_MAX {
            return Err(io::Error::other("a control frame is too long"));
        }
        self.left = length;
        self.head.clear();
        Ok(())
    }

    fn is_control(&self) -> bool {
        self.opcode & 0x8 != 0
    }

    /// Answers a control frame that is whole; `true` for Close.
    fn end_frame(&mut self) -> bool {
        let control = std::mem::take(&mut self.control);
        match std::mem::replace(&mut self.opcode, BINARY) {
            PING => append_frame(&mut self.framed, PONG, &control),
            CLOSE => return true,
            _ => {}
        }
        false
    }
}

fn append_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(FIN | opcode);
    let length = payload.len();
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => out.push(0x80 | short),
        (_, Ok(medium)) => {
            out.push(0x80 | 126);
            out.extend(medium.to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend((length as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n").into_bytes()
    }

    fn open() -> WebSocket {
        let mut socket = WebSocket::new("localhost", "/mqtt");
        socket.framed.clear();
        socket.unframe(&mut answer()).unwrap();
        socket
    }

    /// A frame as a server writes it.
    fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![FIN | opcode];
        match payload.len() {
            short @ 0..=125 => out.push(u8::try_from(short).unwrap()),
            medium @ 126..=65_535 => {
                out.push(126);
                out.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                out.push(127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend(payload);
        out
    }

    #[test]
    fn payloads_come_out_of_frames_however_they_are_cut() {
        let payloads: Vec<Vec<u8>> =
            [0, 1, 125, 126, 70_000].iter().map(|length| vec![b'm'; *length]).collect();
        let mut stream = answer();
        for payload in &payloads {
            stream.extend(server_frame(BINARY, payload));
            stream.extend(server_frame(PING, b"hi"));
        }
        for piece in [1, 3, 4_096, stream.len()] {
            let mut socket = WebSocket::new("localhost", "/mqtt");
            socket.framed.clear();
            let mut got = Vec::new();
            for bytes in stream.chunks(piece) {
                let mut bytes = bytes.to_vec();
                let unframed = socket.unframe(&mut bytes).unwrap();
                assert!(!unframed.closed);
                got.extend_from_slice(&bytes[..unframed.bytes]);
            }
            assert_eq!(got, payloads.concat());
            // Each ping has its pong: head, mask and two bytes.
            assert_eq!(socket.framed.len(), payloads.len() * 8);
        }
    }

    #[test]
    fn nothing_is_framed_before_the_broker_agrees() {
        let mut socket = WebSocket::new("localhost", "/mqtt");
        assert!(socket.framed.starts_with(b"GET /mqtt HTTP/1.1\r\n"));
        let (before, mut out) = (socket.framed.len(), b"connect".to_vec());
        socket.frame(&mut out);
        assert_eq!((out.len(), socket.framed.len()), (7, before));
        let mut socket = open();
        socket.frame(&mut out);
        assert!(out.is_empty());
        assert_eq!(socket.framed[..2], [FIN | BINARY, 0x80 | 7]);
        assert_eq!(socket.framed[6] ^ MASK[0], b'c');
        let before = socket.framed.len();
        socket.close_after();
        socket.frame(&mut b"go".to_vec());
        assert_eq!(socket.framed[before + 8..before + 10], [FIN | CLOSE, 0x80 | 2]);
    }

    #[test]
    fn a_close_and_a_refusal_are_told() {
        let mut both = [server_frame(BINARY, b"x"), server_frame(CLOSE, &[3, 232])].concat();
        assert_eq!(open().unframe(&mut both).unwrap(), Unframed { bytes: 1, closed: true });
        let mut socket = WebSocket::new("localhost", "/mqtt");
        let refused = socket.unframe(&mut b"HTTP/1.1 503 Service Unavailable\r\n\r\n".to_vec());
        assert!(refused.unwrap_err().to_string().ends_with("503 Service Unavailable"));
        let mut masked = vec![FIN | BINARY, 0x81, 0, 0, 0, 0, b'x'];
        assert!(open().unframe(&mut masked).is_err());
    }
}
