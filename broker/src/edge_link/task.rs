//! The task of one link: reads, lets the streams do what there is to do, and writes it all at once.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use link::mux::{LinkError, WorkerEnd, WorkerEvent};
use link::wire::{self, RefuseReason, StreamId};
use link::{CloseCause, Outgoing};
use mqtt::ReasonCode;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::blocked::Blocked;
use super::ready::{Ready, StreamWaker};
use super::server::Shared;
use super::slot::{Outcome, Slot};

/// Bytes read at once, and how often in one turn.
const READ_BYTES: usize = 64 << 10;
const READS_MAX: usize = 4;

/// OPEN frames taken in one turn: each takes up to a tenth of a millisecond, in which nobody else on the link is served.
const OPENS_MAX: usize = 4;

/// How long the edge may take to say HELLO.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// For so long it has to be so that this worker is without its store, before an edge is told.
const STORE_NEWS_AFTER: Duration = Duration::from_millis(400);

/// How often passports are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);

/// For so long a device that comes back by another edge waits for what it said last by this one. An edge that runs answers within
/// milliseconds, on a machine that is overloaded within some hundreds. One that stands still delays none of its devices for longer,
/// and none once its link is over, which is two seconds after its last sign of life.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// Slices of one vectored write.
const SLICES: usize = 64;

/// Why a link is over.
#[derive(Debug, Error)]
pub(super) enum LinkEnd {
    /// The edge closed it.
    #[error("the edge closed the link")]
    Closed,
    /// This worker has lost its sessions.
    #[error("the links of this worker were cut")]
    Cut,
    /// It did not say HELLO in time.
    #[error("no HELLO within {} s", HELLO_TIMEOUT.as_secs())]
    NoHello,
    /// A fault of the edge, or silence.
    #[error("the edge broke the protocol, or is silent")]
    Link(#[source] LinkError),
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// One link.
pub(super) struct Task<S> {
    shared: Arc<Shared>,
    socket: S,
    end: WorkerEnd,
    started: Instant,
    is_ready: bool,
    buffer: BytesMut,
    streams: HashMap<StreamId, Box<Slot>, RandomState>,
    ready: Arc<Ready>,
    /// Streams that have something to do in this turn.
    turn: Vec<StreamId>,
    opening: VecDeque<(StreamId, Box<wire::OpenBody>)>,
    blocked: Blocked,
    /// Streams whose last words the edge was asked for, and until when others wait for them.
    yielding: VecDeque<(Instant, StreamId)>,
    /// Where sessions write; empty between them.
    scratch: Outgoing,
    timer: Pin<Box<Sleep>>,
    sweep_at: Instant,
    /// What the edge was told last.
    is_store_away: bool,
    /// Since when something else is so.
    store_news_at: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Task<S> {
    pub(super) fn new(shared: Arc<Shared>, socket: S, ready: Arc<Ready>) -> Self {
        let started = Instant::now();
        Self {
            socket,
            end: WorkerEnd::new(shared.settings.clone(), Duration::ZERO),
            shared,
            started,
            is_ready: false,
            buffer: BytesMut::new(),
            streams: HashMap::default(),
            ready,
            turn: Vec::new(),
            opening: VecDeque::new(),
            blocked: Blocked::default(),
            yielding: VecDeque::new(),
            scratch: Outgoing::new(),
            timer: Box::pin(sleep_until(started + HELLO_TIMEOUT)),
            sweep_at: started + SWEEP_INTERVAL,
            is_store_away: false,
            store_news_at: None,
        }
    }

    /// Serves the link until it is over. Dropping it is losing the link: its devices may go on elsewhere.
    pub(super) async fn run(mut self) -> LinkEnd {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEnd> {
        match self.turn(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        let orders = self.ready.begin_turn();
        let has_more = self.read(cx)?;
        if orders.is_cut {
            return Err(LinkEnd::Cut);
        }
        if let Some(within) = orders.drain {
            self.end.drain(within);
        }
        // What a device has said on its old stream comes before its new one, if that is on this link too.
        self.serve();
        self.take_opens();
        self.serve();
        self.sweep();
        self.tell_store();
        while self.write(cx)? {
            // Room on the link, and streams that waited for it.
            self.take_events();
            self.serve();
        }
        self.keep_time(cx)?;
        if has_more || !self.opening.is_empty() {
            cx.waker().wake_by_ref();
        }
        self.ready.register(cx);
        Ok(())
    }

    /// Takes what has come. Answers whether there may be more.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        for _ in 0..READS_MAX {
            self.buffer.reserve(READ_BYTES);
            let read = pin!(self.socket.read_buf(&mut self.buffer)).poll(cx);
            match read {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(0)) => return Err(LinkEnd::Closed),
                Poll::Ready(Ok(_)) => {}
                // As an edge's process ends, its TLS says nothing.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Err(LinkEnd::Closed);
                }
                Poll::Ready(Err(error)) => return Err(LinkEnd::Io(error)),
            }
            let now = self.started.elapsed();
            let outcome = self.end.receive(now, &mut self.buffer);
            self.take_events();
            let turned_away = self.end.take_turned_away();
            if turned_away > 0 {
                let refused = self.shared.metrics.opens_refused.of((RefuseReason::Draining,));
                refused.inc_by(turned_away);
            }
            outcome.map_err(LinkEnd::Link)?;
        }
        Ok(true)
    }

    fn take_events(&mut self) {
        while let Some(event) = self.end.poll_event() {
            match event {
                WorkerEvent::Ready(peer) => {
                    self.is_ready = true;
                    tracing::info!(edge = &*peer.hello.id, "link is up");
                }
                WorkerEvent::Open { stream, open } => self.opening.push_back((stream, open)),
                WorkerEvent::Packet { stream, number, packet, cost } => {
                    if let Some(slot) = self.streams.get_mut(&stream) {
                        slot.push_packet(number, packet, cost);
                    }
                }
                WorkerEvent::Passport { stream, token } => self.renew(stream, token),
                // The other worker may never get it: the store keeps the session for as long as after a lost link.
                WorkerEvent::Close { stream, number: 0, .. } => self.lose(stream),
                WorkerEvent::Close { stream, number, ending } => {
                    debug_assert!(matches!(
                        ending,
                        wire::Ending::Device(CloseCause::Abnormal | CloseCause::Shutdown)
                    ));
                    if let Some(slot) = self.streams.get_mut(&stream) {
                        slot.push_close(number);
                    }
                }
                WorkerEvent::Sendable { stream } => {
                    if let Some(slot) = self.streams.get(&stream) {
                        slot.list();
                    }
                }
                WorkerEvent::LinkSendable => self.unblock(),
            }
        }
    }

    /// The device of a stream goes on elsewhere.
    fn lose(&mut self, stream: StreamId) {
        self.opening.retain(|(opening, _)| *opening != stream);
        if let Some(slot) = self.remove(stream) {
            slot.hand_over(self.shared.config.handoff_grace_ms);
        }
    }

    fn remove(&mut self, stream: StreamId) -> Option<Box<Slot>> {
        let mut slot = self.streams.remove(&stream)?;
        self.blocked.forget(&mut slot.blocked_at);
        Some(slot)
    }

    fn unblock(&mut self) {
        for stream in self.blocked.streams() {
            if let Some(slot) = self.streams.get(&stream) {
                slot.list();
            }
        }
    }

    fn take_opens(&mut self) {
        for _ in 0..OPENS_MAX {
            let Some((stream, open)) = self.opening.pop_front() else { return };
            let waker = StreamWaker::new(stream, &self.ready);
            let yields = self.end.can_ask_to_yield();
            match self.shared.open(stream, open, waker, yields) {
                Ok(slot) => {
                    slot.list();
                    self.streams.insert(stream, Box::new(slot));
                }
                Err(reason) => self.refuse(stream, reason),
            }
        }
    }

    fn refuse(&mut self, stream: StreamId, reason: RefuseReason) {
        self.shared.metrics.opens_refused.count((reason,));
        self.end.refuse(stream, reason, None);
    }

    fn renew(&mut self, stream: StreamId, token: Bytes) {
        if let Some((_, open)) = self.opening.iter_mut().find(|(opening, _)| *opening == stream) {
            open.passport = token;
            return;
        }
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        match self.shared.verify(&token, false) {
            Ok(passport) if passport.client_id == slot.client_id => slot.renew(Arc::new(passport)),
            _ => {
                tracing::warn!(client_id = &*slot.client_id, "a renewed passport is not accepted");
                self.end_stream(stream, ReasonCode::NotAuthorized);
            }
        }
    }

    fn end_stream(&mut self, stream: StreamId, reason: ReasonCode) {
        let Some(slot) = self.streams.get_mut(&stream) else { return };
        let outcome = slot.end(reason, &mut self.end, &mut self.scratch);
        self.settle(stream, outcome);
    }

    /// Lets every stream that has something to do, do it.
    fn serve(&mut self) {
        let mut turn = std::mem::take(&mut self.turn);
        self.ready.take(&mut turn);
        for stream in turn.drain(..) {
            let Some(slot) = self.streams.get_mut(&stream) else { continue };
            let outcome = slot.serve(&mut self.end, &mut self.scratch);
            if slot.take_asked() {
                self.yielding.push_back((Instant::now() + LAST_WORDS_WITHIN, stream));
            }
            let (is_blocked, has_sent) = (slot.is_blocked(), slot.take_sent());
            self.blocked.note(stream, &mut slot.blocked_at, is_blocked, has_sent);
            self.settle(stream, outcome);
        }
        self.turn = turn;
    }

    fn settle(&mut self, stream: StreamId, outcome: Outcome) {
        match outcome {
            Outcome::Stays => return,
            Outcome::Refused(reason) => self.shared.metrics.opens_refused.count((reason,)),
            Outcome::Over => {}
        }
        self.remove(stream);
    }

    /// Ends the connections whose passport is not honoured any more, and those that were taken over and have no last words.
    fn sweep(&mut self) {
        if Instant::now() < self.sweep_at {
            return;
        }
        self.sweep_at = Instant::now() + SWEEP_INTERVAL;
        let now_s = self.shared.honoured_s();
        let expired = |slot: &Slot| slot.expires_at_s.is_some_and(|at_s| at_s <= now_s);
        let expired: Vec<_> =
            self.streams.iter().filter(|(_, slot)| expired(slot)).map(|(stream, _)| *stream).collect();
        for stream in expired {
            self.end_stream(stream, ReasonCode::NotAuthorized);
        }
        let mut yielding: Vec<_> =
            self.streams.iter().filter(|(_, slot)| slot.is_yielding()).map(|(stream, _)| *stream).collect();
        yielding.sort_unstable_by_key(|stream| stream.0);
        for stream in yielding {
            let Some(slot) = self.streams.get_mut(&stream) else { continue };
            let outcome = slot.look(&mut self.end, &mut self.scratch);
            self.settle(stream, outcome);
        }
    }

    /// Lets those begin that have waited long enough for the last words of others.
    fn end_waits(&mut self) {
        let now = Instant::now();
        while let Some((_, stream)) = self.yielding.pop_front_if(|(until, _)| *until <= now) {
            if let Some(slot) = self.streams.get(&stream) {
                slot.let_next_begin();
            }
        }
        if self.yielding.is_empty() {
            self.yielding = VecDeque::new();
        }
    }

    /// When there is something to do whatever comes.
    fn wake_at(&self) -> Instant {
        let wake_at = (self.started + self.end.wake_at()).min(self.sweep_at);
        self.yielding.front().map_or(wake_at, |(until, _)| wake_at.min(*until))
    }

    /// Tells the edge when this worker is without its store, so that its devices may go where there is one. Signs of life have
    /// the link look often enough.
    fn tell_store(&mut self) {
        let is_away = self.shared.is_store_away(self.is_store_away);
        if !self.is_ready || is_away == self.is_store_away {
            self.store_news_at = None;
            return;
        }
        // A process that stood still finds that its lease has lapsed before it could renew it.
        if self.store_news_at.get_or_insert_with(Instant::now).elapsed() >= STORE_NEWS_AFTER {
            self.is_store_away = is_away;
            self.end.tell_store(is_away);
        }
    }

    /// Writes what there is. Answers whether something was written and streams may have got room.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, LinkEnd> {
        let mut has_written = false;
        loop {
            let out = self.end.outgoing();
            if out.is_empty() {
                out.shrink();
                break;
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = out.slices(&mut slices);
            match Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..used]) {
                Poll::Ready(Ok(0)) => return Err(LinkEnd::Io(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => out.advance(written),
                Poll::Ready(Err(error)) => return Err(LinkEnd::Io(error)),
                Poll::Pending => break,
            }
            has_written = true;
        }
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.socket).poll_flush(cx) {
            return Err(LinkEnd::Io(error));
        }
        Ok(has_written && !self.blocked.is_empty())
    }

    fn keep_time(&mut self, cx: &mut Context<'_>) -> Result<(), LinkEnd> {
        loop {
            let mut deadline = self.wake_at();
            if !self.is_ready {
                deadline = deadline.min(self.started + HELLO_TIMEOUT);
            }
            if self.timer.deadline() > deadline {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            let now = Instant::now();
            if !self.is_ready && now >= self.started + HELLO_TIMEOUT {
                return Err(LinkEnd::NoHello);
            }
            self.end.tick(now - self.started).map_err(LinkEnd::Link)?;
            self.sweep();
            self.end_waits();
            while self.write(cx)? {
                self.take_events();
                self.serve();
            }
            let next = self.wake_at();
            self.timer.as_mut().reset(next.max(now + Duration::from_millis(1)));
        }
    }
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        self.end.abandon();
        let mut streams: Vec<_> = self.streams.drain().collect();
        // So that a run can be repeated.
        streams.sort_unstable_by_key(|(stream, _)| stream.0);
        for (_, slot) in streams {
            self.shared.metrics.streams_lost.inc();
            slot.hand_over(self.shared.config.handoff_grace_ms);
        }
    }
}
