//! Carries the bytes of one link: reads, hands over, writes what all devices have to say in one go, and sees that the worker is
//! alive. One future, polled when the socket, a device or the clock has something.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use link::Outgoing;
use link::mux::LinkError;
use link::wire::StreamId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Duration, Instant, Sleep, sleep_until};

use super::link::{Effect, Happened, Link, LinkStream};
use super::pool::Pool;
use crate::io::poll_write_all;

/// Room for what is read at once, bytes.
const READ_BYTES: usize = 64 * 1024;

/// Reads in one turn; then others have theirs.
const READS_MAX: usize = 8;

/// Why a link ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    /// The socket failed, or the worker closed it.
    #[error("the connection is lost")]
    Io(#[source] io::Error),
    /// The worker, or its silence, ended it.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No HELLO came in time.
    #[error("the worker does not answer")]
    NoHello,
    /// Another link has taken its place, and nobody is there any more.
    #[error("the link was replaced")]
    Worn,
    /// The worker is no longer wanted, and nobody is there any more.
    #[error("the worker is not needed any more")]
    Retired,
}

/// What drives a link. Ready when that is over.
pub(super) struct Driver<T> {
    pool: Arc<Pool>,
    link: Arc<Link>,
    io: T,
    input: BytesMut,
    out: Outgoing,
    is_unflushed: bool,
    timer: Pin<Box<Sleep>>,
    armed: Instant,
    ready_by: Instant,
    /// Has another link take the place of this one, once it is worn.
    replace: Option<Box<dyn FnOnce() + Send>>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(
        pool: Arc<Pool>,
        link: Arc<Link>,
        io: T,
        ready_by: Instant,
        replace: Box<dyn FnOnce() + Send>,
    ) -> Self {
        let armed = Instant::now();
        Self {
            pool,
            link,
            io,
            input: BytesMut::new(),
            out: Outgoing::new(),
            is_unflushed: false,
            timer: Box::pin(sleep_until(armed)),
            armed,
            ready_by,
            replace: Some(replace),
        }
    }

    /// Whether another link has taken the place of this one.
    pub(super) fn is_replaced(&self) -> bool {
        self.replace.is_none()
    }

    fn at(&self, stream: StreamId) -> LinkStream {
        LinkStream { link: self.link.clone(), stream }
    }

    fn read(&mut self, cx: &mut Context<'_>, turn: &mut Happened) -> Result<(), LinkEnd> {
        for _ in 0..READS_MAX {
            self.input.reserve(READ_BYTES);
            let read = poll_read_more(&mut self.io, cx, &mut self.input);
            match read {
                Poll::Pending => {
                    if self.input.is_empty() {
                        // An idle link owns no buffer.
                        self.input = BytesMut::new();
                    }
                    return Ok(());
                }
                Poll::Ready(Ok(0)) => {
                    return Err(LinkEnd::Io(io::ErrorKind::UnexpectedEof.into()));
                }
                Poll::Ready(Ok(_)) => {
                    let now = self.pool.elapsed();
                    self.link.receive(now, &mut self.input, turn)?;
                }
                Poll::Ready(Err(error)) => return Err(LinkEnd::Io(error)),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn write(&mut self, cx: &mut Context<'_>, turn: &mut Happened) -> Result<Duration, LinkEnd> {
        loop {
            let wake_at = self.link.turn(self.pool.elapsed(), &mut self.out, turn, cx)?;
            if self.out.is_empty() && !self.is_unflushed {
                return Ok(wake_at);
            }
            let mut written = 0;
            match poll_write_all(&mut self.io, cx, &mut self.out, &mut written) {
                Poll::Ready(Ok(())) => self.is_unflushed = false,
                Poll::Ready(Err(error)) => return Err(LinkEnd::Io(error)),
                Poll::Pending => {
                    self.is_unflushed = true;
                    return Ok(wake_at);
                }
            }
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>, turn: &mut Happened) -> Result<(), LinkEnd> {
        // What has come before the clock is asked counts as a sign of life.
        self.read(cx, turn)?;
        let wake_at = self.write(cx, turn)?;
        if self.link.is_worn()
            && let Some(replace) = self.replace.take()
        {
            tracing::info!(worker = %self.link.worker.address, "link has used up its stream identifiers and is replaced");
            replace();
        }
        let mut due = self.pool.instant(wake_at);
        if !self.link.is_ready() {
            if Instant::now() >= self.ready_by {
                return Err(LinkEnd::NoHello);
            }
            due = due.min(self.ready_by);
        }
        if self.link.streams() == 0 {
            if self.link.worker.is_retired() {
                return Err(LinkEnd::Retired);
            }
            if self.link.is_worn() && self.link.worker.has_fresh_link() {
                return Err(LinkEnd::Worn);
            }
        }
        if due < self.armed || self.armed <= Instant::now() {
            self.armed = due;
            self.timer.as_mut().reset(due);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Ok(())
    }

    /// What follows for devices, without any lock of the link.
    fn apply(&self, effects: Vec<Effect>) {
        let link = &self.link;
        for effect in effects {
            match effect {
                Effect::Ready(peer) => {
                    self.pool.learn_grace(&link.worker, peer.hello.handoff_grace_ms);
                    if let Some(signer) = &self.pool.devices.signer
                        && let Some(voucher) = signer.vouch(&peer.hello.passport_key)
                    {
                        link.voucher.get_or_init(|| voucher);
                    }
                    self.pool.link_up(link);
                }
                Effect::Opened(stream, device) => device.opened(self.at(stream)),
                Effect::Closed(stream, device) | Effect::Finished(stream, device) => {
                    device.finished(self.at(stream));
                }
                Effect::Sendable(stream, device) => device.send_on(self.at(stream)),
                Effect::Refused { stream, device, reason, packet, carried } => {
                    device.refused(self.at(stream), reason, &packet, carried);
                }
                Effect::Store { is_away } => {
                    tracing::debug!(worker = %link.worker.address, is_away, "the worker's store");
                    self.pool.changed();
                }
                Effect::Draining(within, devices) => {
                    tracing::info!(worker = %link.worker.address, ?within, devices = devices.len(), "worker leaves");
                    self.pool.changed();
                    self.pool.devices.agenda.push(self.pool.devices.chance.shuffled(devices));
                }
            }
        }
    }
}

/// Reads into the spare room of `input`.
fn poll_read_more<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let mut future = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(io, input));
    future.as_mut().poll(cx)
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Driver<T> {
    type Output = LinkEnd;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        let this = self.get_mut();
        let mut turn = Happened::default();
        let outcome = this.turn(cx, &mut turn);
        this.apply(turn.effects);
        turn.wakers.into_iter().for_each(std::task::Waker::wake);
        match outcome {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }
}

/// However a link ends, its devices are taken off it: also when its task is dropped.
impl<T> Drop for Driver<T> {
    fn drop(&mut self) {
        let mut looking = Vec::new();
        for (stream, device, left) in self.link.abandon() {
            let at = LinkStream { link: self.link.clone(), stream };
            if device.lost(at, left) {
                looking.push(device);
            }
        }
        self.pool.link_down(&self.link, looking.len());
        self.pool.devices.agenda.push(self.pool.devices.chance.shuffled(looking));
    }
}
