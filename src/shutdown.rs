//! Signals: the first SIGTERM or SIGINT asks for an orderly end, the second ends at once; SIGHUP reads files again. Those that
//! programs use to ask each other for something (SIGUSR1, SIGUSR2) mean nothing here and end nothing.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::stderr;

/// Exit code of an end that was cut short by a second signal.
const INTERRUPTED: i32 = 130;

/// Takes from signals that mean nothing here, and from SIGHUP before there is something to read again, their default effect,
/// which is to end the process. SIGPIPE has none since the start of the program.
pub(crate) fn outlive_others() -> io::Result<()> {
    // A signal that was listened for once has no default effect any more, whatever becomes of the listener.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Read certificates and the password file again when they have settled.
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
        stderr::finish();
        std::process::exit(INTERRUPTED);
    }
}
