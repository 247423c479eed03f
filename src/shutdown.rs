//! Signals: the first SIGTERM or SIGINT asks for an orderly end, the second ends at once; SIGHUP reads files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of an end that was cut short by a second signal.
const INTERRUPTED: i32 = 130;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Read certificates and the password file again.
    Reload,
    /// End in good order.
    Stop,
}

/// The signals that are listened for. From its making on they no longer have their default effect.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to listen. Must be called in a runtime.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next thing asked for. Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Ends the process when [`Asked::Stop`] comes once more.
    pub(crate) async fn exit_on_next_stop(mut self) {
        while self.next().await != Asked::Stop {}
        tracing::warn!("second signal, ending at once");
        std::process::exit(INTERRUPTED);
    }
}
