//! Frames (RFC 6455 section 5) on bytes: headers, masks, and the reader that turns a buffer of frames into the bytes
//! they carry, in place. Knows no socket.

use super::error::WsError;

/// Payload of a control frame, bytes (RFC 6455 section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;
/// Payload of a data frame, bytes. Nothing is held for it: the bound only ends nonsense early.
const FRAME_BYTES_MAX: u64 = 1 << 32;
/// Header of a masked frame, bytes.
const HEADER_BYTES_MAX: usize = 14;
/// Header of a frame to the client, which has no mask, bytes.
pub(super) const SENT_HEADER_BYTES_MAX: usize = 10;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Result<Self, WsError> {
        match bits {
            0x0 => Ok(Self::Continuation),
            // v5 [MQTT-6.0.0-1]
            0x1 => Err(WsError::TextFrame),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xA => Ok(Self::Pong),
            _ => Err(WsError::ReservedOpcode),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xA,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a frame from the client.
struct Header {
    last: bool,
    opcode: Opcode,
    length: u64,
    mask: [u8; 4],
    /// Bytes of the header itself.
    size: usize,
}

/// Parses a header; `None` if it is not whole. What can be refused by the first two bytes is refused by them.
fn parse_header(bytes: &[u8]) -> Result<Option<Header>, WsError> {
    let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() else { return Ok(None) };
    if first & 0x70 != 0 {
        return Err(WsError::ReservedBit);
    }
    let last = first & 0x80 != 0;
    let opcode = Opcode::parse(first & 0x0F)?;
    if second & 0x80 == 0 {
        return Err(WsError::Unmasked);
    }
    let short = second & 0x7F;
    if opcode.is_control() {
        if !last {
            return Err(WsError::FragmentedControl);
        }
        if usize::from(short) > CONTROL_BYTES_MAX {
            return Err(WsError::LongControl);
        }
    }
    let (length, rest) = match short {
        126 => {
            let Some((length, rest)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (u64::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let Some((length, rest)) = rest.split_first_chunk::<8>() else { return Ok(None) };
            (u64::from_be_bytes(*length), rest)
        }
        short => (u64::from(short), rest),
    };
    let minimum = match short {
        126 => 126,
        127 => 1 << 16,
        _ => 0,
    };
    if length < minimum || length >> 63 != 0 {
        return Err(WsError::BadLength);
    }
    if length > FRAME_BYTES_MAX {
        return Err(WsError::FrameTooLarge);
    }
    let Some((&mask, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { last, opcode, length, mask, size: bytes.len() - rest.len() }))
}

/// Writes the header of a whole, unmasked frame and returns its size.
pub(super) fn encode_header(opcode: Opcode, length: usize, out: &mut [u8; SENT_HEADER_BYTES_MAX]) -> usize {
    out[0] = 0x80 | opcode.bits();
    if let Ok(short) = u8::try_from(length)
        && short < 126
    {
        out[1] = short;
        2
    } else if let Ok(medium) = u16::try_from(length) {
        out[1] = 126;
        out[2..4].copy_from_slice(&medium.to_be_bytes());
        4
    } else {
        out[1] = 127;
        out[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        10
    }
}

/// Appends a whole, unmasked control frame.
pub(super) fn append_control(opcode: Opcode, payload: &[u8], out: &mut Vec<u8>) {
    let payload = &payload[..payload.len().min(CONTROL_BYTES_MAX)];
    let mut header = [0; SENT_HEADER_BYTES_MAX];
    let size = encode_header(opcode, payload.len(), &mut header);
    out.extend_from_slice(&header[..size]);
    out.extend_from_slice(payload);
}

/// Takes the mask off and returns it turned to where the next bytes go on.
fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(bytes) = <&mut [u8; 8]>::try_from(word) {
            *bytes = (u64::from_ne_bytes(*bytes) ^ wide).to_ne_bytes();
        }
    }
    let tail = words.into_remainder();
    for (byte, key) in tail.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    let mut turned = mask;
    turned.rotate_left(tail.len() % 4);
    turned
}

/// What the client asks for besides carrying data.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// A ping to answer with this payload.
    Ping(Box<[u8]>),
    /// A close frame with its status, if it had one.
    Close(Option<u16>),
}

/// The payload of a control frame on its way in.
struct Partial {
    opcode: Opcode,
    payload: Vec<u8>,
}

/// Reads frames. Its state between calls is the place within a frame; only a control frame in pieces has a buffer.
#[derive(Default)]
pub(super) struct FrameReader {
    remaining: u64,
    mask: [u8; 4],
    header: [u8; HEADER_BYTES_MAX],
    header_size: u8,
    /// Between the first and the last fragment of a message.
    in_message: bool,
    control: Option<Box<Partial>>,
}

impl FrameReader {
    /// Whether the end of the stream here would cut a frame.
    pub(super) fn is_within_frame(&self) -> bool {
        self.remaining > 0 || self.header_size > 0
    }

    /// Reads the frames in `bytes`, moving what data frames carry to its front. `carried` counts those bytes, also
    /// when this fails. Control frames go to `control`; it says whether to go on.
    pub(super) fn read(
        &mut self,
        bytes: &mut [u8],
        carried: &mut usize,
        mut control: impl FnMut(Control) -> bool,
    ) -> Result<(), WsError> {
        let mut at = 0;
        while at < bytes.len() {
            if self.remaining == 0 {
                at += self.read_header(&bytes[at..])?;
                if self.remaining > 0 || self.header_size > 0 {
                    continue;
                }
            } else {
                let count =
                    usize::try_from(self.remaining).map_or(usize::MAX, |rest| rest).min(bytes.len() - at);
                self.remaining -= count as u64;
                if let Some(partial) = &mut self.control {
                    self.mask = unmask(&mut bytes[at..at + count], self.mask);
                    partial.payload.extend_from_slice(&bytes[at..at + count]);
                } else {
                    bytes.copy_within(at..at + count, *carried);
                    self.mask = unmask(&mut bytes[*carried..*carried + count], self.mask);
                    *carried += count;
                }
                at += count;
            }
            if self.remaining == 0
                && let Some(partial) = self.control.take()
                && let Some(asked) = finish_control(*partial)?
                && !control(asked)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a header from the front of `bytes` and returns how many of them it took.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, WsError> {
        let before = usize::from(self.header_size);
        if before == 0
            && let Some(header) = parse_header(bytes)?
        {
            let size = header.size;
            self.begin(&header)?;
            return Ok(size);
        }
        let fresh = bytes.len().min(HEADER_BYTES_MAX - before);
        self.header[before..before + fresh].copy_from_slice(&bytes[..fresh]);
        let Some(header) = parse_header(&self.header[..before + fresh])? else {
            // A header that is not whole is shorter than the longest one, so all of `bytes` is in it.
            self.header_size = u8::try_from(before + fresh).map_err(|_| WsError::BadLength)?;
            return Ok(fresh);
        };
        self.header_size = 0;
        self.begin(&header)?;
        Ok(header.size - before)
    }

    fn begin(&mut self, header: &Header) -> Result<(), WsError> {
        self.remaining = header.length;
        self.mask = header.mask;
        match header.opcode {
            Opcode::Binary if self.in_message => return Err(WsError::UnfinishedMessage),
            Opcode::Continuation if !self.in_message => return Err(WsError::UnexpectedContinuation),
            Opcode::Binary | Opcode::Continuation => self.in_message = !header.last,
            opcode => self.control = Some(Box::new(Partial { opcode, payload: Vec::new() })),
        }
        Ok(())
    }
}

fn finish_control(partial: Partial) -> Result<Option<Control>, WsError> {
    match partial.opcode {
        Opcode::Ping => Ok(Some(Control::Ping(partial.payload.into_boxed_slice()))),
        Opcode::Close => parse_close(&partial.payload).map(|status| Some(Control::Close(status))),
        _ => Ok(None),
    }
}

/// Reads the status of a close frame (RFC 6455 sections 5.5.1 and 7.4).
fn parse_close(payload: &[u8]) -> Result<Option<u16>, WsError> {
    if payload.is_empty() {
        return Ok(None);
    }
    let Some((status, text)) = payload.split_first_chunk::<2>() else { return Err(WsError::BadClose) };
    let status = u16::from_be_bytes(*status);
    let is_allowed = matches!(status, 1000..=1003 | 1007..=1014 | 3000..=4999);
    if !is_allowed || std::str::from_utf8(text).is_err() {
        return Err(WsError::BadClose);
    }
    Ok(Some(status))
}
