//! Buffers of a thread, lent to one relay for one turn: an idle connection owns none.

use std::cell::Cell;

use link::Outgoing;

/// Bytes read at once at most.
pub(super) const READ_BYTES: usize = 64 * 1024;

/// Buffers beyond this are given back instead of kept for the next turn.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// What a relay needs during one turn.
pub(super) struct Scratch {
    pub(super) input: Box<[u8]>,
    /// Empty between turns.
    pub(super) out: Outgoing,
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self { input: vec![0; READ_BYTES].into(), out: Outgoing::new() })
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Runs `turn` with the thread's buffers; a turn within a turn gets its own.
pub(super) fn with<R>(turn: impl FnOnce(&mut Scratch) -> R) -> R {
    let mut scratch = SCRATCH.take().unwrap_or_else(Scratch::new);
    let result = turn(&mut scratch);
    if scratch.out.buffer().capacity() > KEPT_BYTES_MAX {
        scratch.out.shrink();
    }
    SCRATCH.set(Some(scratch));
    result
}
