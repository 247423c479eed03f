//! Reassembly of a byte stream. Packets that lie whole in a chunk are lent from the chunk; only a packet that is cut off
//! is copied, into a buffer that exists no longer than it is needed. An idle connection holds none.

use std::ops::ControlFlow;

use super::{Flags, Frame, Header};
use crate::error::DecodeError;
use crate::packet_type::PacketType;
use crate::version::ProtocolVersion;

/// The buffer never reserves more than what has arrived and this many bytes, whatever Remaining Length claims.
pub const RESERVE_BYTES_MAX: usize = 64 * 1024;

/// The least that is reserved for a packet in pieces, unless the packet is shorter.
const RESERVE_BYTES_MIN: usize = 512;

/// The bytes of a stream that have arrived but do not make a whole Control Packet yet.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    partial: Vec<u8>,
}

impl FrameBuffer {
    /// An empty buffer; allocates nothing.
    pub const fn new() -> Self {
        Self { partial: Vec::new() }
    }

    /// Bytes held back.
    pub const fn buffered(&self) -> usize {
        self.partial.len()
    }

    /// Bytes allocated; 0 when nothing is held back.
    pub const fn allocated(&self) -> usize {
        self.partial.capacity()
    }

    /// The Control Packets in what was held back followed by `chunk`, one by one.
    ///
    /// When the iteration is dropped, the rest is kept for the next call; whole packets that were not asked for are then
    /// kept as well, and come first next time (`frames(&[], ..)` resumes without new bytes). After an error nothing is kept:
    /// the stream cannot be read on.
    pub fn frames<'b>(&'b mut self, chunk: &'b [u8], packet_size_max: u32) -> Frames<'b> {
        Frames { buffer: self, lent: 0, chunk, packet_size_max, flags: Flags::Unused }
    }

    /// Calls `on_frame` with each Control Packet in what was held back followed by `chunk`, and keeps the rest. On `Break` it
    /// stops and keeps what follows that packet; `push(&[], ..)` resumes.
    ///
    /// # Errors
    /// As [`super::split`]; the packets before the fault have been handed out, and nothing is kept.
    pub fn push<B>(
        &mut self,
        chunk: &[u8],
        packet_size_max: u32,
        mut on_frame: impl FnMut(Frame<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, DecodeError> {
        let mut frames = self.frames(chunk, packet_size_max);
        while let Some(frame) = frames.next_frame()? {
            if let ControlFlow::Break(value) = on_frame(frame) {
                return Ok(ControlFlow::Break(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// The Control Packets of one chunk; see [`FrameBuffer::frames`].
#[derive(Debug)]
pub struct Frames<'b> {
    buffer: &'b mut FrameBuffer,
    /// Bytes at the front of the buffer that have been handed out.
    lent: usize,
    /// Bytes that have not been handed out or copied.
    chunk: &'b [u8],
    packet_size_max: u32,
    flags: Flags,
}

impl Frames<'_> {
    /// On a connection of `version`: its rule for the flags of a first byte holds before the rest has come.
    pub fn of_version(mut self, version: ProtocolVersion) -> Self {
        self.flags = match version {
            ProtocolVersion::V31 => Flags::Unused,
            ProtocolVersion::V311 | ProtocolVersion::V5 => Flags::Reserved,
        };
        self
    }

    /// The next Control Packet; `None` when more bytes are needed.
    ///
    /// # Errors
    /// As [`super::split`]. The stream cannot be read on: what follows is dropped, and further calls give `None`.
    #[inline]
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if self.lent == self.buffer.partial.len() {
            if self.lent > 0 {
                // Freed, not cleared: most connections are idle most of the time.
                self.buffer.partial = Vec::new();
                self.lent = 0;
            }
            return self.next_in_chunk();
        }
        self.next_in_buffer()
    }

    /// The type of the next Control Packet, if a byte of it is there and says one. It is not checked any further.
    #[inline]
    pub fn next_type(&self) -> Option<PacketType> {
        let first_byte = self.buffer.partial.get(self.lent).or_else(|| self.chunk.first())?;
        PacketType::from_first_byte(*first_byte)
    }

    /// The Control Packet that [`Frames::next_frame`] will give, without taking it.
    ///
    /// # Errors
    /// As [`Frames::next_frame`] would have.
    pub fn peek_frame(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        if self.lent < self.buffer.partial.len() {
            let Some(len) = self.next_in_buffer()?.map(|frame| frame.raw.len()) else { return Ok(None) };
            self.lent -= len;
        }
        let bytes = match &self.buffer.partial[self.lent..] {
            [] => self.chunk,
            held => held,
        };
        match Header::parse(bytes, self.packet_size_max, self.flags)? {
            Some(header) if header.total <= bytes.len() => Ok(Some(header.frame(&bytes[..header.total]))),
            _ => Ok(None),
        }
    }

    fn next_in_chunk(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        match Header::parse(self.chunk, self.packet_size_max, self.flags) {
            Ok(Some(header)) if header.total <= self.chunk.len() => {
                let (raw, rest) = self.chunk.split_at(header.total);
                self.chunk = rest;
                Ok(Some(header.frame(raw)))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(self.abandon(error)),
        }
    }

    fn next_in_buffer(&mut self) -> Result<Option<Frame<'_>>, DecodeError> {
        // Each turn copies from the chunk, so a header in pieces costs five turns at most.
        loop {
            let held = self.buffer.partial.len() - self.lent;
            let bytes = &self.buffer.partial[self.lent..];
            let header = match Header::parse(bytes, self.packet_size_max, self.flags) {
                Ok(header) => header,
                Err(error) => return Err(self.abandon(error)),
            };
            let wanted = header.map_or(1, |header| header.total.saturating_sub(held));
            if let Some(header) = header.filter(|_| wanted == 0) {
                let start = self.lent;
                self.lent += header.total;
                return Ok(Some(header.frame(&self.buffer.partial[start..self.lent])));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
            self.take(wanted);
        }
    }

    /// Moves up to `wanted` bytes from the chunk into the buffer.
    fn take(&mut self, wanted: usize) {
        let (taken, rest) = self.chunk.split_at(wanted.min(self.chunk.len()));
        let partial = &mut self.buffer.partial;
        partial.drain(..std::mem::take(&mut self.lent));
        if partial.capacity() - partial.len() < taken.len() {
            // Ahead by as much as has arrived: a claimed length alone costs its sender more than it costs us.
            let ahead = (partial.len() + taken.len()).clamp(RESERVE_BYTES_MIN, RESERVE_BYTES_MAX);
            partial.reserve_exact(wanted.min(ahead.max(taken.len())));
        }
        partial.extend_from_slice(taken);
        self.chunk = rest;
    }

    fn abandon(&mut self, error: DecodeError) -> DecodeError {
        self.chunk = &[];
        self.lent = 0;
        self.buffer.partial = Vec::new();
        error
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        let partial = &mut self.buffer.partial;
        if self.lent == partial.len() {
            *partial = self.chunk.to_vec();
        } else {
            partial.drain(..self.lent);
            partial.reserve_exact(self.chunk.len());
            partial.extend_from_slice(self.chunk);
        }
    }
}
