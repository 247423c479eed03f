//! What both ends have in common: HELLO, signs of life, frames out of bytes, and what waits to be written.

use std::time::Duration;

use bytes::BytesMut;
use mqtt::OwnedFrame;

use super::liveness::{Liveness, Verdict};
use super::{LinkError, OUTGOING_BYTES_MAX, OtherEnd, Settings};
use crate::Outgoing;
use crate::wire::{self, Decoded, FEATURES, Frame, Hello, Kind, StreamId};

#[derive(Debug)]
pub(super) struct Transport {
    pub(super) settings: Settings,
    pub(super) out: Outgoing,
    /// `None` until HELLO came.
    pub(super) peer: Option<OtherEnd>,
    pub(super) is_over: bool,
    liveness: Liveness,
    pings: u64,
    /// Something was put among what is to be sent, since the last tick.
    has_said: bool,
    /// Bytes that the last call of `take` left with the caller.
    left_over: usize,
}

impl Transport {
    pub(super) fn new(settings: Settings, now: Duration) -> Self {
        let hello = Frame::Hello(Hello {
            versions: settings.versions,
            features: FEATURES,
            id: settings.id.clone(),
            window_bytes: settings.window_bytes,
            packet_bytes_max: settings.limits.packet_bytes_max,
            handoff_grace_ms: settings.handoff_grace_ms,
            passport_key: settings.passport_key,
        });
        let mut out = Outgoing::new();
        hello.encode_shared(StreamId::LINK, &mut out);
        Self {
            settings,
            out,
            peer: None,
            is_over: false,
            liveness: Liveness::new(now),
            pings: 0,
            has_said: true,
            left_over: 0,
        }
    }

    pub(super) fn put(&mut self, stream: StreamId, frame: &Frame) {
        if !self.is_over {
            frame.encode_shared(stream, &mut self.out);
            self.has_said = true;
        }
    }

    /// Adds a PACKET.
    pub(super) fn put_packet(&mut self, stream: StreamId, number: u64, packet: &OwnedFrame) {
        if !self.is_over {
            wire::encode_packet(stream, number, &packet.raw, &mut self.out);
            self.has_said = true;
        }
    }

    /// Whether no PACKET may be added.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= OUTGOING_BYTES_MAX
    }

    /// To be called when bytes may have been added to `bytes`.
    pub(super) fn heard(&mut self, now: Duration, bytes: &BytesMut) -> Result<(), LinkError> {
        if self.is_over {
            return Err(LinkError::Over);
        }
        if bytes.len() > self.left_over {
            self.liveness.heard(now);
        }
        Ok(())
    }

    /// The next frame that is not answered here; `None` when more bytes are needed.
    pub(super) fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<(StreamId, Frame)>, LinkError> {
        loop {
            let decoded = wire::decode(bytes, &self.settings.limits).map_err(LinkError::Wire)?;
            let Some(decoded) = decoded else {
                self.left_over = bytes.len();
                return Ok(None);
            };
            match decoded {
                Decoded::Skipped { .. } if self.peer.is_some() => {}
                Decoded::Skipped { kind } => return Err(LinkError::Wire(wire::WireError::UnknownKind(kind))),
                Decoded::Frame(stream, Frame::Hello(hello)) if self.peer.is_none() => {
                    self.peer = Some(self.greet(&hello)?);
                    return Ok(Some((stream, Frame::Hello(hello))));
                }
                Decoded::Frame(stream, frame) if self.peer.is_none() || frame.kind() == Kind::Hello => {
                    return Err(LinkError::Unexpected { kind: frame.kind(), stream });
                }
                Decoded::Frame(stream, Frame::Ping { token }) => {
                    // What waits is a sign of life, and an end that asks and does not read must not fill memory.
                    if !self.is_full() {
                        self.put(stream, &Frame::Pong { token });
                    }
                }
                Decoded::Frame(_, Frame::Pong { .. }) => {}
                Decoded::Frame(stream, frame) => return Ok(Some((stream, frame))),
            }
        }
    }

    fn greet(&self, hello: &Hello) -> Result<OtherEnd, LinkError> {
        let (ours, theirs) = (self.settings.versions, hello.versions);
        let version = ours.agree(theirs).ok_or(LinkError::NoCommonVersion { ours, theirs })?;
        Ok(OtherEnd { hello: hello.clone(), version, features: hello.features & FEATURES })
    }

    pub(super) fn tick(&mut self, now: Duration) -> Result<(), LinkError> {
        if self.is_over {
            return Err(LinkError::Over);
        }
        // What waits will be a sign of life, too.
        let has_said = std::mem::take(&mut self.has_said) || !self.out.is_empty();
        match self.liveness.tick(now, has_said) {
            Verdict::Fine => {}
            Verdict::Ask => {
                self.pings += 1;
                self.put(StreamId::LINK, &Frame::Ping { token: self.pings });
            }
            Verdict::Dead => {
                self.is_over = true;
                return Err(LinkError::Silent);
            }
        }
        Ok(())
    }

    pub(super) fn wake_at(&self) -> Duration {
        self.liveness.wake_at()
    }
}
