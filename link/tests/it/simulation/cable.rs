//! One link: both ends, the bytes under way, and a witness that reads all of them and knows nothing of the ends' insides.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use link::Outgoing;
use link::mux::{EdgeEnd, Settings, WorkerEnd, packet_cost};
use link::wire::{Decoded, Frame, FrameLimits, StreamId, decode};
use testkit::dice::{Dice, Throw as _};

use super::world::{KEPT_BYTES_MAX, KEPT_COUNT_MAX, WINDOW_BYTES};

/// Reads frames at one place of the cable.
#[derive(Default)]
struct Witness(BytesMut);

impl Witness {
    fn read(&mut self, bytes: &[u8]) -> Vec<(StreamId, Frame)> {
        self.0.extend_from_slice(bytes);
        let mut frames = Vec::new();
        while let Some(decoded) =
            decode(&mut self.0, &FrameLimits::default()).expect("the ends speak the protocol")
        {
            match decoded {
                Decoded::Frame(stream, frame) => frames.push((stream, frame)),
                Decoded::Skipped { kind } => panic!("nobody sends kind {kind}"),
            }
        }
        frames
    }
}

/// One direction.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: BytesMut,
    arrived: BytesMut,
    written: Witness,
    delivered: Witness,
    /// Credit of each stream as the sender can know it.
    credit: HashMap<StreamId, i64>,
}

impl Pipe {
    /// Moves a part of what waits into the pipe, and checks that packets have credit.
    pub(super) fn write(&mut self, out: &mut Outgoing, dice: &mut Dice) -> Vec<(StreamId, Frame)> {
        let chunk = out.chunk();
        let n = chunk.len().min(1 + dice.below(300));
        let frames = self.written.read(&chunk[..n]);
        self.bytes.extend_from_slice(&chunk[..n]);
        out.advance(n);
        for (stream, frame) in &frames {
            if let Frame::Packet { packet, .. } = frame {
                let credit = self.credit.entry(*stream).or_insert(WINDOW_BYTES.into());
                assert!(*credit > 0, "a packet on {stream:?} without credit");
                *credit -= i64::from(packet_cost(packet.len()));
            }
        }
        frames
    }

    /// Moves a part of the pipe to its end; `None` when there was nothing.
    pub(super) fn deliver(&mut self, dice: &mut Dice) -> Option<Vec<(StreamId, Frame)>> {
        if self.bytes.is_empty() {
            return None;
        }
        let n = self.bytes.len().min(1 + dice.below(300));
        let chunk = self.bytes.split_to(n);
        self.arrived.extend_from_slice(&chunk);
        Some(self.delivered.read(&chunk))
    }

    /// The other direction has delivered these.
    pub(super) fn learn(&mut self, frames: &[(StreamId, Frame)]) {
        for (stream, frame) in frames {
            if let Frame::Window { credit_bytes } = frame {
                *self.credit.entry(*stream).or_insert(WINDOW_BYTES.into()) += i64::from(*credit_bytes);
            }
        }
    }

    pub(super) fn arrived(&mut self) -> &mut BytesMut {
        &mut self.arrived
    }
}

/// One link between the edge and one worker.
pub(super) struct Cable {
    pub(super) edge: EdgeEnd,
    pub(super) worker: WorkerEnd,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    pub(super) is_ready: bool,
    /// Nothing moves until then.
    pub(super) paused_until: Duration,
    /// When a worker that drains is gone.
    pub(super) leaves_at: Option<Duration>,
    pub(super) edge_heard_at: Duration,
    pub(super) worker_heard_at: Duration,
}

impl Cable {
    pub(super) fn new(now: Duration) -> Self {
        let settings = |name| Settings {
            window_bytes: WINDOW_BYTES,
            kept_bytes_max: KEPT_BYTES_MAX,
            kept_count_max: KEPT_COUNT_MAX,
            ..Settings::new(name)
        };
        Self {
            edge: EdgeEnd::new(settings("edge"), now),
            worker: WorkerEnd::new(settings("worker"), now),
            up: Pipe::default(),
            down: Pipe::default(),
            is_ready: false,
            paused_until: Duration::ZERO,
            leaves_at: None,
            edge_heard_at: now,
            worker_heard_at: now,
        }
    }
}
