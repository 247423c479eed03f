//! A descriptor kept in reserve, so that at EMFILE a connection can still be accepted and closed: its device learns at
//! once, and the accept loop does not spin on a connection that it cannot take (hazard 6).

use std::fs::File;

/// One descriptor that can be given up for a moment.
pub(crate) struct Reserve(Option<File>);

impl Reserve {
    pub(crate) fn new() -> Self {
        Self(open())
    }

    /// Gives the descriptor up; `false` if there was none, so that nothing was gained.
    pub(crate) fn spend(&mut self) -> bool {
        self.0.take().is_some()
    }

    /// Takes a descriptor again if there is none in reserve.
    pub(crate) fn restore(&mut self) {
        if self.0.is_none() {
            self.0 = open();
        }
    }
}

fn open() -> Option<File> {
    File::open("/dev/null").ok()
}
