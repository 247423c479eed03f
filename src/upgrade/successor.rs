//! The process after this one, as the one that serves sees it: it is handed the listening sockets, says when it is ready, and has
//! this one's place when it serves. One that goes before that changes nothing.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::predecessor::is_trusted;
use super::wire::{Channel, FORMAT, Message, SOCKETS_MAX};
use super::{Outcome, Sockets, Upgrades};

/// By when somebody who connects must have said what it is.
const HELLO: Duration = Duration::from_secs(5);

/// Pause after accept failed, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who connects while so many do waits.
const CANDIDATES_MAX: usize = 16;

/// Between two complaints about one that does not begin to serve.
const BEGIN: Duration = Duration::from_secs(30);

/// How two processes stand to each other while one follows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Both can serve; the old one goes when the new one does.
    Beside,
    /// There can be one only: the old one has to end first.
    Instead {
        /// How long that may take at most.
        within: Duration,
    },
}

/// The socket of `runtime.upgrade_socket`, which nobody finds yet.
pub(crate) struct Door {
    listener: UnixListener,
    path: PathBuf,
    /// Where it is until it is opened.
    made: PathBuf,
    /// The file, by device and number.
    identity: (u64, u64),
}

impl Door {
    /// Makes the socket beside its place, for this user only.
    pub(crate) fn make(path: &Path) -> io::Result<Self> {
        let mut made = path.as_os_str().to_owned();
        made.push(format!(".{}", std::process::id()));
        let made = PathBuf::from(made);
        // One of an earlier process with this number.
        let _ = std::fs::remove_file(&made);
        let listener = UnixListener::bind(&made)?;
        std::fs::set_permissions(&made, Permissions::from_mode(0o600))?;
        let found = std::fs::symlink_metadata(&made)?;
        Ok(Self { listener, path: path.to_owned(), made, identity: (found.dev(), found.ino()) })
    }

    /// Puts it in its place, where the one of another process may be.
    fn open(&self) -> io::Result<()> {
        std::fs::rename(&self.made, &self.path)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let is_own = |path: &Path| {
            std::fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
        };
        for path in [&self.made, &self.path] {
            if is_own(path) {
                // It is of no use to anybody.
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// What candidates are told, and what about.
struct Post {
    command: &'static str,
    way: Way,
    sockets: Arc<Sockets>,
    upgrades: Upgrades,
    /// The process that is at it; 0 for none.
    at_it: AtomicU32,
    found: mpsc::Sender<Successor>,
}

/// Waits for a process that is to take this one's place.
pub(crate) struct Successors {
    found: mpsc::Receiver<Successor>,
    waiting: Option<(Arc<Door>, JoinHandle<()>)>,
}

impl Successors {
    /// Nobody can.
    pub(crate) fn none() -> Self {
        Self { found: mpsc::channel(1).1, waiting: None }
    }

    /// Opens the door. Must be called in a runtime.
    pub(crate) fn wait(
        door: Door,
        command: &'static str,
        way: Way,
        sockets: Arc<Sockets>,
        upgrades: Upgrades,
    ) -> Self {
        if let Err(error) = door.open() {
            // The process serves; that it cannot be replaced is no reason to end.
            tracing::error!(path = %door.path.display(), %error, "runtime.upgrade_socket cannot be put in its place");
            return Self::none();
        }
        let (sender, found) = mpsc::channel(1);
        let post = Post { command, way, sockets, upgrades, at_it: AtomicU32::new(0), found: sender };
        let door = Arc::new(door);
        let waiting = tokio::spawn(accept(door.clone(), Arc::new(post)));
        Self { found, waiting: Some((door, waiting)) }
    }

    /// The next process that is to have this one's place: with [`Way::Beside`] it serves, with [`Way::Instead`] it is ready to.
    /// Cancel safe.
    pub(crate) async fn next(&mut self) -> Successor {
        match self.found.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Lets nobody in any more, and lets go of the sockets. As long as the answer is there, whoever comes waits for it to go, and tries
    /// again then.
    pub(crate) async fn close(self) -> Option<Arc<Door>> {
        let (door, waiting) = self.waiting?;
        waiting.abort();
        // An error says that it was aborted.
        let _ = waiting.await;
        Some(door)
    }
}

async fn accept(door: Arc<Door>, post: Arc<Post>) {
    let mut candidates = JoinSet::new();
    loop {
        let next = door.listener.accept();
        tokio::select! {
            Some(_) = candidates.join_next(), if !candidates.is_empty() => {}
            accepted = next, if candidates.len() < CANDIDATES_MAX => match accepted {
                Ok((stream, _)) => {
                    candidates.spawn(serve(stream, post.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "upgrade: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn serve(stream: UnixStream, post: Arc<Post>) {
    let mut channel = Channel::new(stream);
    let (uid, pid) = channel.peer().unwrap_or((u32::MAX, 0));
    let heard = if is_trusted(uid) {
        timeout(HELLO, channel.receive()).await
    } else {
        return refuse(&post, uid, pid);
    };
    let Ok(Ok(Message::Hello { format, pid, version, command })) = heard else {
        return refuse(&post, uid, pid);
    };
    let at_it = post.at_it.compare_exchange(0, pid, Ordering::SeqCst, Ordering::SeqCst);
    let why = match at_it {
        Err(other) => format!("process {other} is about to have it"),
        Ok(_) if format != FORMAT => format!("it speaks version {FORMAT} of this, not {format}"),
        Ok(_) if command != post.command => format!("it runs tidegate {}, not {command}", post.command),
        Ok(_) if post.sockets.len() > SOCKETS_MAX => format!("it has more than {SOCKETS_MAX} sockets"),
        Ok(_) => {
            let place = AtPost(post);
            tracing::info!(pid, version, "another process prepares to take over");
            if stay(channel, pid, &place.0).await.is_none() {
                tracing::warn!(pid, "the process that was to take over has gone; this one goes on");
                place.0.upgrades.count(Outcome::GivenUp);
            }
            return;
        }
    };
    let _place = at_it.is_ok().then(|| AtPost(post.clone()));
    tracing::warn!(pid, why, "another process may not take over");
    post.upgrades.count(Outcome::Refused);
    // It may have gone.
    let _ = timeout(HELLO, channel.send(&Message::Refused(why))).await;
}

fn refuse(post: &Post, uid: u32, pid: i32) {
    tracing::warn!(uid, pid, "upgrade: a connection from something that may not take over");
    post.upgrades.count(Outcome::Refused);
}

/// The place of the one process that may be at it.
struct AtPost(Arc<Post>);

impl Drop for AtPost {
    fn drop(&mut self) {
        self.0.at_it.store(0, Ordering::SeqCst);
    }
}

/// Goes along with a process until it has what it came for; `None` if it has gone before.
async fn stay(mut channel: Channel, pid: u32, post: &Post) -> Option<()> {
    let within = match post.way {
        Way::Beside => Duration::ZERO,
        Way::Instead { within } => within,
    };
    let names = post.sockets.iter().map(|(name, _)| name.clone()).collect();
    let within_ms = within.as_millis() as u64;
    let sockets = Message::Sockets { pid: std::process::id(), names, within_ms };
    channel.send_with(&sockets, &post.sockets).await.ok()?;
    let Ok(Message::Prepared) = channel.receive().await else { return None };
    if post.way == Way::Beside {
        channel.send(&Message::Yours).await.ok()?;
        let Ok(Message::Serving) = channel.receive().await else { return None };
    }
    // It may have given up while this process stood still.
    if channel.has_gone() {
        return None;
    }
    let (over, ended) = tokio::sync::oneshot::channel();
    post.found.send(Successor { channel, pid, over: Some(over) }).await.ok()?;
    // Nobody else is let in while this one is at it.
    ended.await.ok()
}

/// A process that is to have this one's place.
pub(crate) struct Successor {
    channel: Channel,
    pid: u32,
    /// Told when it has it; dropped when it has not.
    over: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Successor {
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Gives it what this process held alone. Whether it serves; otherwise it has gone, and has nothing any more.
    pub(crate) async fn give(&mut self) -> bool {
        if self.channel.send(&Message::Yours).await.is_err() {
            return false;
        }
        loop {
            match timeout(BEGIN, self.channel.receive()).await {
                Ok(Ok(Message::Serving)) => return true,
                Ok(_) => {
                    // It may be there and speak nonsense; what it holds is free when it is gone.
                    self.channel.gone().await;
                    return false;
                }
                // There must not be two: as long as it is there, this process waits.
                Err(_) => {
                    tracing::error!(
                        pid = self.pid,
                        "the process that takes over does not begin to serve; to have this one go on, end it"
                    );
                }
            }
        }
    }

    /// This process accepts nobody any more.
    pub(crate) async fn done(mut self) {
        if let Some(over) = self.over.take() {
            // Nobody waits any more if the door was closed.
            let _ = over.send(());
        }
        // It may not wait for it.
        let _ = timeout(HELLO, self.channel.send(&Message::Done)).await;
    }
}
