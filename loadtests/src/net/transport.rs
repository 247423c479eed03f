//! Bytes in and out of one socket, with TLS or without. One system call per direction and turn.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use rustls::ClientConnection;

/// Bytes read from a socket with one call.
const RECEIVE_BYTES: usize = 128 * 1024;
/// Room for what one call can bring, a TLS record that was incomplete before it, and a partial packet.
const PLAIN_BYTES: usize = 1024 * 1024;
/// A partial packet may not be longer than this.
pub(crate) const PARTIAL_BYTES_MAX: usize = PLAIN_BYTES - 2 * RECEIVE_BYTES;

/// Buffers that all connections of a thread share.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Plaintext; packets are parsed here.
    pub(crate) plain: Vec<u8>,
    cipher: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { plain: vec![0; PLAIN_BYTES], cipher: vec![0; RECEIVE_BYTES] }
    }
}

/// What one call brought.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    /// Bytes of plaintext in the scratch buffer.
    pub(crate) plain: usize,
    /// Whether the socket held anything.
    pub(crate) any: bool,
    /// Whether the socket may hold more.
    pub(crate) more: bool,
    /// Whether the peer has closed.
    pub(crate) closed: bool,
}

/// A socket.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<(TcpStream, ClientConnection)>),
}

impl Transport {
    /// The socket, for registration.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(tls) => &mut tls.0,
        }
    }

    /// The TLS session, if there is one.
    #[must_use]
    pub(crate) fn tls(&self) -> Option<&ClientConnection> {
        match self {
            Self::Tcp(_) => None,
            Self::Tls(tls) => Some(&tls.1),
        }
    }

    /// Reads once from the socket into `scratch.plain` from `at` on.
    ///
    /// # Errors
    /// Socket errors and TLS alerts; an empty socket is not an error.
    pub(crate) fn receive(&mut self, scratch: &mut Scratch, at: usize) -> io::Result<Received> {
        match self {
            Self::Tcp(socket) => {
                let room = &mut scratch.plain[at..at + RECEIVE_BYTES];
                let got = read_once(socket, room)?;
                Ok(got.received(got.bytes))
            }
            Self::Tls(tls) => {
                let (socket, session) = &mut **tls;
                let got = read_once(socket, &mut scratch.cipher)?;
                let plain = decrypt(session, &scratch.cipher[..got.bytes], &mut scratch.plain[at..])?;
                Ok(got.received(plain))
            }
        }
    }

    /// Writes what is in `out` from `sent` on and whatever TLS itself has to say. Returns whether all of it left.
    ///
    /// # Errors
    /// Socket errors; a full socket is not an error.
    pub(crate) fn send(&mut self, out: &mut Vec<u8>, sent: &mut usize) -> io::Result<bool> {
        match self {
            Self::Tcp(socket) => {
                if *sent < out.len() {
                    *sent += would_block_is_zero(socket.write(&out[*sent..]))?;
                }
                if *sent < out.len() {
                    return Ok(false);
                }
            }
            Self::Tls(tls) => {
                let (socket, session) = &mut **tls;
                session.writer().write_all(out)?;
                while session.wants_write() {
                    if would_block_is_zero(session.write_tls(socket))? == 0 {
                        out.clear();
                        return Ok(false);
                    }
                }
            }
        }
        out.clear();
        *sent = 0;
        Ok(true)
    }
}

struct Got {
    bytes: usize,
    closed: bool,
}

impl Got {
    fn received(&self, plain: usize) -> Received {
        Received { plain, any: self.bytes > 0, more: self.bytes == RECEIVE_BYTES, closed: self.closed }
    }
}

fn read_once(socket: &mut TcpStream, room: &mut [u8]) -> io::Result<Got> {
    loop {
        return match socket.read(room) {
            Ok(bytes) => Ok(Got { bytes, closed: bytes == 0 }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got { bytes: 0, closed: false }),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

fn would_block_is_zero(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

fn decrypt(session: &mut ClientConnection, mut cipher: &[u8], plain: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while !cipher.is_empty() {
        session.read_tls(&mut cipher)?;
        let state = session.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let read = session.reader().read(&mut plain[length..])?;
            if read == 0 {
                return Err(io::Error::other("no room for decrypted bytes"));
            }
            length += read;
            left -= read.min(left);
        }
    }
    Ok(length)
}
