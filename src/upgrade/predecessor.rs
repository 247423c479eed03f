//! The process before this one, as the new one sees it: asked for its listening sockets at once, and for its place when everything
//! else is ready.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link::Inherited;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::wire::{Channel, FORMAT, Message};
use crate::exit::Failure;

/// How long a process may take to answer which does nothing else for that.
const ANSWER: Duration = Duration::from_secs(5);

/// Between two attempts to reach one that has just closed.
const RETRY: Duration = Duration::from_millis(20);

/// It has been found, and has handed its sockets over.
pub(super) struct Predecessor {
    channel: Channel,
    path: PathBuf,
    pid: i32,
    within: Duration,
}

impl Predecessor {
    /// Asks whoever listens at `path`; `None` if nobody does.
    pub(super) async fn find(path: &Path, command: &str) -> Result<Option<(Self, Inherited)>, Failure> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let Some(channel) = connect(path).await? else { return Ok(None) };
            match Self::ask(channel, path, command, deadline).await {
                // One that ends in good order: it is not there any more in a moment.
                Err(Unanswered::Gone) if Instant::now() < deadline => sleep(RETRY).await,
                Err(Unanswered::Gone) => return Err(complaint(path, "the process there answers nothing")),
                Err(Unanswered::Failed(failure)) => return Err(failure),
                Ok(found) => return Ok(Some(found)),
            }
        }
    }

    async fn ask(
        mut channel: Channel,
        path: &Path,
        command: &str,
        deadline: Instant,
    ) -> Result<(Self, Inherited), Unanswered> {
        let failed = |what: String| Unanswered::Failed(complaint(path, &what));
        let (uid, pid) = channel.peer().map_err(|error| failed(error.to_string()))?;
        if !is_trusted(uid) {
            return Err(failed(format!(
                "it belongs to process {pid} of user {uid}, which is neither this one nor root"
            )));
        }
        let hello = Message::Hello {
            format: FORMAT,
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command: command.to_owned(),
        };
        let answer = async {
            channel.send(&hello).await?;
            channel.receive().await
        };
        match timeout_at(deadline, answer).await {
            Ok(Ok(Message::Sockets { names, within_ms, .. })) => {
                let sockets = channel.take_sockets().map_err(|error| failed(error.to_string()))?;
                if sockets.len() != names.len() {
                    return Err(failed(
                        "the process there names other sockets than it hands over".to_owned(),
                    ));
                }
                tracing::info!(pid, sockets = names.len(), "another process is to be replaced");
                let inherited = Inherited::new(names.into_iter().zip(sockets).collect());
                let within = Duration::from_millis(within_ms) + ANSWER;
                Ok((Self { channel, path: path.to_owned(), pid, within }, inherited))
            }
            Ok(Ok(Message::Refused(why))) => {
                Err(failed(format!("process {pid} does not give its place: {why}")))
            }
            Ok(Ok(_)) => Err(failed(format!("process {pid} says something else"))),
            Ok(Err(error)) if is_end(&error) => Err(Unanswered::Gone),
            Ok(Err(error)) => Err(failed(format!("process {pid}: {error}"))),
            Err(_) => Err(failed(format!(
                "process {pid} does not answer; end it (kill -9 {pid}) if it does not come back by itself"
            ))),
        }
    }

    /// Whether it has ended meanwhile.
    pub(super) fn has_gone(&self) -> bool {
        self.channel.has_gone()
    }

    /// Waits until it has made room. Whatever it held alone can be taken then.
    pub(super) async fn take_over(&mut self) -> Result<(), Failure> {
        let given = async {
            self.channel.send(&Message::Prepared).await?;
            self.channel.receive().await
        };
        match timeout(self.within, given).await {
            Ok(Ok(Message::Yours)) => Ok(()),
            Ok(Err(error)) if is_end(&error) => {
                tracing::warn!(pid = self.pid, "the process that was to be replaced has ended");
                Ok(())
            }
            Ok(Ok(_)) => Err(self.complaint("says something else")),
            Ok(Err(error)) => Err(self.complaint(&error.to_string())),
            Err(_) => Err(self.complaint("does not make room")),
        }
    }

    /// Tells it that this one serves, and waits for it to stop accepting; one that stands still is told when it goes on.
    pub(super) async fn serving(mut self) {
        let pid = self.pid;
        let told = async move {
            if self.channel.send(&Message::Serving).await.is_ok() {
                // Whatever it answers, and whether it does: it is over.
                let _ = self.channel.receive().await;
            }
        };
        // Goes on beyond this: closing would tell that this process is not there.
        let mut telling = tokio::spawn(told);
        if timeout(ANSWER, &mut telling).await.is_err() {
            tracing::warn!(pid, "the process that was replaced does not answer, and may hold connections");
        }
    }

    fn complaint(&self, what: &str) -> Failure {
        complaint(&self.path, &format!("process {} {what}; it goes on to serve", self.pid))
    }
}

enum Unanswered {
    /// It has closed.
    Gone,
    Failed(Failure),
}

async fn connect(path: &Path) -> Result<Option<Channel>, Failure> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Failure::usage(line(path, "this is no socket; name one that can be made")));
        }
        _ => {}
    }
    match timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(Some(Channel::new(stream))),
        Ok(Err(error)) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            Ok(None)
        }
        Ok(Err(error)) => Err(complaint(path, &error.to_string())),
        Err(_) => Err(complaint(path, "the process there does not answer")),
    }
}

/// Whether a user may do with this process what it likes.
pub(super) fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn complaint(path: &Path, what: &str) -> Failure {
    Failure::unavailable(line(path, what))
}

fn line(path: &Path, what: &str) -> String {
    format!("runtime.upgrade_socket = {:?}: {what}", path.display().to_string())
}
