//! One TLS session without a socket: ciphertext in, plaintext out, and the other way round, over rustls's unbuffered
//! connection. Owns what must wait between calls and nothing else; all three buffers are unallocated while idle.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use tokio::io::ReadBuf;

use super::error::TlsError;
use super::scratch::{BATCH_BYTES_MAX, Loan, PARTIAL_BYTES_MAX, RECORD_BYTES_MAX};
use super::{hello, identity};

/// Records of early data that is not accepted wait in `incoming` until the client goes on, and rustls, which is shown all of that with
/// each read, counts them each time. They are bounded by what may wait there.
const EARLY_BYTES_SKIPPED_MAX: u32 = 512 * 1024;

/// Bytes that wait, and how many of them have gone.
#[derive(Default)]
pub(super) struct Ciphertext {
    bytes: Vec<u8>,
    gone: usize,
}

impl Ciphertext {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// Forgets the first `count` bytes of the rest, and the buffer once all have gone.
    pub(super) fn consume(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

/// The state of one session.
pub(super) struct Session {
    pub(super) tls: UnbufferedServerConnection,
    /// The configuration, until the client's first message is there.
    config: Option<Arc<ServerConfig>>,
    /// Whether clients are refused that offer application protocols of which none is served.
    alpn_strict: bool,
    /// Ciphertext not used up: a partial record, or records of a handshake message that is not whole. rustls keeps
    /// offsets into it, so every call must see it again from its first byte.
    pub(super) incoming: Vec<u8>,
    /// Plaintext for which the caller had no room.
    pub(super) plaintext: Ciphertext,
    /// Ciphertext that the socket has not taken.
    pub(super) outgoing: Ciphertext,
    /// `outgoing` holds only session tickets, which may leave with the first data.
    pub(super) outgoing_may_wait: bool,
    /// The peer sent `close_notify`.
    pub(super) peer_closed: bool,
    /// We sent `close_notify`.
    pub(super) close_sent: bool,
    /// A fatal error was found: rustls must not see another byte.
    pub(super) failed: bool,
    /// The fatal error, until a read reports it: plaintext that came before it goes first.
    pub(super) fault: Option<Box<TlsError>>,
    /// Server Name Indication, until the facts are taken.
    pub(super) server_name: Option<Box<str>>,
}

/// Where plaintext goes: the caller's buffer, then what waits.
struct Sink<'a, 'b> {
    out: &'a mut ReadBuf<'b>,
    waiting: &'a mut Ciphertext,
}

impl Sink<'_, '_> {
    fn accept(&mut self, bytes: &[u8]) {
        let fits = bytes.len().min(self.out.remaining());
        self.out.put_slice(&bytes[..fits]);
        if fits < bytes.len() {
            self.waiting.append(&bytes[fits..]);
        }
    }
}

impl Session {
    pub(super) fn new(config: Arc<ServerConfig>, alpn_strict: bool) -> Result<Self, TlsError> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(Arc::clone(&config))?,
            config: Some(config),
            alpn_strict,
            incoming: Vec::new(),
            plaintext: Ciphertext::default(),
            outgoing: Ciphertext::default(),
            outgoing_may_wait: false,
            peer_closed: false,
            close_sent: false,
            failed: false,
            fault: None,
            server_name: None,
        })
    }

    /// Hands waiting plaintext to the caller. Returns whether there was any.
    pub(super) fn read_waiting(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.plaintext.is_empty() {
            return false;
        }
        let rest = self.plaintext.rest();
        let fits = rest.len().min(out.remaining());
        out.put_slice(&rest[..fits]);
        self.plaintext.consume(fits);
        true
    }

    /// Decrypts every whole record of `input`, which begins with what [`Session::incoming`] held, and keeps the rest.
    /// Messages of the session itself are queued in `outgoing`, an alert too when this fails.
    pub(super) fn receive(&mut self, input: &mut [u8], out: &mut ReadBuf<'_>) -> Result<(), TlsError> {
        let handshaking = self.tls.is_handshaking();
        if handshaking {
            identity::forget_server_name();
            if !self.follow_wishes(input)? {
                return self.keep(input);
            }
        }
        let used = self.open_records(input, out).inspect_err(|_| self.fail())?;
        if handshaking {
            self.server_name = identity::take_server_name().or(self.server_name.take());
        }
        self.keep(&input[used..])
    }

    /// Keeps what was not used up.
    fn keep(&mut self, rest: &[u8]) -> Result<(), TlsError> {
        if rest.len() > PARTIAL_BYTES_MAX {
            self.fail();
            return Err(TlsError::TooLarge);
        }
        if rest.is_empty() {
            self.incoming = Vec::new();
        } else {
            self.incoming.clear();
            self.incoming.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Starts anew with the client's order of cipher suites where the server's would burden it, and without application protocols
    /// where it knows none of those that are served: a device that offers what another server wanted is to get in. `false` while its
    /// first message is not whole.
    fn follow_wishes(&mut self, first: &[u8]) -> Result<bool, TlsError> {
        let Some(config) = &self.config else { return Ok(true) };
        let Some(wishes) = hello::glance(first, &config.alpn_protocols) else { return Ok(false) };
        let follows_order = config.ignore_client_order && wishes.chacha20;
        let drops_alpn = wishes.foreign_protocols && !self.alpn_strict;
        if follows_order || drops_alpn || wishes.early_data {
            let mut following = ServerConfig::clone(config);
            following.ignore_client_order &= !follows_order;
            if drops_alpn {
                following.alpn_protocols = Vec::new();
            }
            if wishes.early_data {
                // rustls accepts none with tickets of this kind, and none that it has not stored; it is how much it skips.
                following.max_early_data_size = EARLY_BYTES_SKIPPED_MAX;
            }
            self.tls = UnbufferedServerConnection::new(Arc::new(following))?;
        }
        self.config = None;
        Ok(true)
    }

    fn open_records(&mut self, input: &mut [u8], out: &mut ReadBuf<'_>) -> Result<usize, TlsError> {
        let mut sink = Sink { out, waiting: &mut self.plaintext };
        let mut used = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(&mut input[used..]);
            let more = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        sink.accept(record.payload);
                    }
                    true
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    encode_message(|room| message.encode(room), &mut self.outgoing)?;
                    true
                }
                // `outgoing` leaves before anything that is encrypted later.
                ConnectionState::TransmitTlsData(transmit) => {
                    transmit.done();
                    true
                }
                ConnectionState::PeerClosed => {
                    self.peer_closed = true;
                    true
                }
                ConnectionState::Closed => {
                    self.peer_closed = true;
                    false
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => false,
                // Early data is never offered, so none can be accepted.
                _ => return Err(TlsError::Internal(rustls::Error::HandshakeNotComplete)),
            };
            used += discard;
            if !more {
                return Ok(used);
            }
        }
    }

    /// Marks the session as failed and queues the alert that rustls made, if it made one.
    fn fail(&mut self) {
        self.failed = true;
        self.incoming = Vec::new();
        // With something to send, rustls looks at no input: it must not see the faulty record again.
        while self.tls.wants_write() {
            let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut message)), .. } =
                self.tls.process_tls_records(&mut [])
            else {
                return;
            };
            if encode_message(|room| message.encode(room), &mut self.outgoing).is_err() {
                return;
            }
        }
    }

    /// Encrypts up to 64 KB of `plain` into `out` behind its first `used` bytes. Returns how many bytes of plaintext
    /// were taken; `used` grows by the ciphertext.
    pub(super) fn seal(
        &mut self,
        plain: &[IoSlice<'_>],
        out: &mut Loan,
        used: &mut usize,
    ) -> Result<usize, TlsError> {
        let mut source = Gather { slices: plain, offset: 0 };
        let mut taken = 0;
        let mut gathered = None;
        while taken < BATCH_BYTES_MAX {
            let chunk = source.next_chunk(&mut gathered);
            if chunk.is_empty() {
                break;
            }
            self.seal_record(chunk, out, used).inspect_err(|_| self.failed = true)?;
            taken += chunk.len();
        }
        Ok(taken)
    }

    fn seal_record(&mut self, plain: &[u8], out: &mut Loan, used: &mut usize) -> Result<(), TlsError> {
        self.with_traffic(out, used, |traffic, room| traffic.encrypt(plain, room))
    }

    /// Queues `close_notify`, once.
    pub(super) fn close(&mut self) -> Result<(), TlsError> {
        if self.close_sent || self.failed || self.tls.is_handshaking() {
            return Ok(());
        }
        self.close_sent = true;
        let mut out = Loan::outgoing();
        let mut used = 0;
        self.with_traffic(&mut out, &mut used, write_close_notify).inspect_err(|_| self.failed = true)?;
        self.outgoing.append(&out[..used]);
        Ok(())
    }

    /// Brings the connection to where it can send and calls `write` with room enough.
    fn with_traffic(
        &mut self,
        out: &mut Loan,
        used: &mut usize,
        write: impl Fn(&mut Traffic<'_>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), TlsError> {
        loop {
            let UnbufferedStatus { state, .. } = self.tls.process_tls_records(&mut self.incoming);
            match state? {
                ConnectionState::WriteTraffic(mut traffic) => loop {
                    match write(&mut traffic, &mut out[*used..]) {
                        Ok(count) => {
                            *used += count;
                            return Ok(());
                        }
                        Err(EncryptError::InsufficientSize(room)) => out.reserve(*used + room.required_size),
                        Err(EncryptError::EncryptExhausted) => return Err(TlsError::Closed),
                    }
                },
                ConnectionState::EncodeTlsData(mut message) => loop {
                    match message.encode(&mut out[*used..]) {
                        Ok(count) => {
                            *used += count;
                            break;
                        }
                        Err(EncodeError::InsufficientSize(room)) => out.reserve(*used + room.required_size),
                        Err(EncodeError::AlreadyEncoded) => break,
                    }
                },
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::PeerClosed => self.peer_closed = true,
                // Whole records were all used up by `receive`, so nothing else can be next.
                _ => return Err(TlsError::Closed),
            }
        }
    }
}

type Traffic<'c> = rustls::unbuffered::WriteTraffic<'c, rustls::server::ServerConnectionData>;

fn write_close_notify(traffic: &mut Traffic<'_>, room: &mut [u8]) -> Result<usize, EncryptError> {
    traffic.queue_close_notify(room)
}

fn encode_message(
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
    outgoing: &mut Ciphertext,
) -> Result<(), TlsError> {
    let start = outgoing.bytes.len();
    loop {
        match encode(&mut outgoing.bytes[start..]) {
            Ok(count) => {
                outgoing.bytes.truncate(start + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(room)) => outgoing.bytes.resize(start + room.required_size, 0),
            Err(EncodeError::AlreadyEncoded) => return Ok(()),
        }
    }
}

/// Walks a list of slices in chunks of at most one record, copying only where a chunk spans slices.
struct Gather<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    offset: usize,
}

impl<'a> Gather<'a, '_> {
    fn next_chunk<'s>(&mut self, gathered: &'s mut Option<Loan>) -> &'s [u8]
    where
        'a: 's,
    {
        self.skip_empty();
        let Some((first, others)) = self.slices.split_first() else { return &[] };
        let first = &first[self.offset..];
        if first.len() >= RECORD_BYTES_MAX || others.iter().all(|slice| slice.is_empty()) {
            let count = first.len().min(RECORD_BYTES_MAX);
            self.offset += count;
            return &first[..count];
        }
        let room = gathered.get_or_insert_with(Loan::gathered);
        let mut filled = 0;
        while filled < RECORD_BYTES_MAX {
            self.skip_empty();
            let Some(first) = self.slices.first() else { break };
            let rest = &first[self.offset..];
            let count = rest.len().min(RECORD_BYTES_MAX - filled);
            room[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            self.offset += count;
        }
        &room[..filled]
    }

    fn skip_empty(&mut self) {
        while let Some((first, others)) = self.slices.split_first() {
            if self.offset < first.len() {
                return;
            }
            self.slices = others;
            self.offset = 0;
        }
    }
}
