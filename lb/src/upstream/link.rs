//! One link that is up: the state machine of its edge's end, the devices on it, and what follows from what comes. Its driver
//! and the relays of its devices share it; it is locked for as long as one call of [`EdgeEnd`] takes. While it is locked only
//! a [`super::mail::Mail`] may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use link::mux::{
    DevicePacket, EdgeEnd, EdgeEvent, LinkError, NotSent, OpenFlows, OtherEnd, Replay, SendError, Settings,
    Unfinished,
};
use link::wire::{OpenBody, RefuseReason, StreamId};
use link::{CloseCause, Outgoing, Voucher};
use mqtt::{Frame, OwnedFrame};
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use super::device::Device;
use super::route::Place;
use super::worker::{Placed, Worker};

/// One stream of one link.
#[derive(Clone)]
pub(super) struct LinkStream {
    pub(super) link: Arc<Link>,
    pub(super) stream: StreamId,
}

impl PartialEq for LinkStream {
    fn eq(&self, other: &Self) -> bool {
        self.stream == other.stream && Arc::ptr_eq(&self.link, &other.link)
    }
}

impl Place for LinkStream {
    type Worker = Arc<Worker>;
    type Carried = Carried;

    fn worker(&self) -> Arc<Worker> {
        self.link.worker.clone()
    }

    fn tells_end(carried: &Carried) -> bool {
        carried.replay.ends_with_close()
    }
}

/// What one stream leaves to the next.
#[derive(Default)]
pub(super) struct Carried {
    /// What the next worker is sent before anything else.
    pub(super) replay: Replay,
    /// The flows that are open, as packets passed.
    pub(super) flows: OpenFlows,
}

/// What a stream that was taken off its link leaves behind.
pub(super) struct LeftBehind {
    /// For the device, before anything else that comes.
    pub(super) packets: Vec<OwnedFrame>,
    /// For the next stream.
    pub(super) carried: Carried,
}

/// What has to be done about a device without the link being locked.
pub(super) enum Effect {
    /// HELLO came.
    Ready(OtherEnd),
    /// The worker has the session.
    Opened(StreamId, Arc<Device>),
    /// The worker does not take the session.
    Refused { stream: StreamId, device: Arc<Device>, reason: RefuseReason, packet: Bytes, carried: Carried },
    /// The worker has ended the connection.
    Closed(StreamId, Arc<Device>),
    /// The worker knows that the device is gone.
    Finished(StreamId, Arc<Device>),
    /// The link has room for packets that wait.
    Sendable(StreamId, Arc<Device>),
    /// The worker is about to leave; all devices on the link.
    Draining(Duration, Vec<Arc<Device>>),
    /// The worker is without its store, or has it again.
    Store { is_away: bool },
}

/// What a turn of the driver brought.
#[derive(Default)]
pub(super) struct Happened {
    pub(super) effects: Vec<Effect>,
    pub(super) wakers: Vec<Waker>,
}

/// The link.
pub(super) struct Link {
    pub(super) worker: Arc<Worker>,
    since: Instant,
    state: Mutex<State>,
    is_ready: AtomicBool,
    is_draining: AtomicBool,
    is_over: AtomicBool,
    /// The worker is without its store.
    is_store_away: AtomicBool,
    /// Few identifiers are left, and another link takes its place.
    is_worn: AtomicBool,
    streams: AtomicUsize,
    /// Something is to be written since the driver looked.
    is_dirty: AtomicBool,
    driver: AtomicWaker,
    /// What makes passports for this worker without a signature for each.
    pub(super) voucher: OnceLock<Voucher>,
}

struct State {
    end: EdgeEnd,
    tenants: HashMap<StreamId, Tenant, foldhash::fast::RandomState>,
}

/// Whose stream it is.
struct Tenant {
    device: Arc<Device>,
    /// The flows that are open, as packets passed.
    flows: OpenFlows,
    _placed: Placed,
}

impl State {
    /// In the order of their streams, so that a run can be repeated.
    fn all_devices(&self) -> Vec<Arc<Device>> {
        let mut tenants: Vec<_> = self.tenants.iter().collect();
        tenants.sort_unstable_by_key(|(stream, _)| stream.0);
        tenants.into_iter().map(|(_, tenant)| tenant.device.clone()).collect()
    }

    /// Takes a stream that is no longer in the state machine off the link.
    fn remove(&mut self, unfinished: Unfinished) -> Option<(Arc<Device>, LeftBehind)> {
        let Unfinished { stream, replay, packets, .. } = unfinished;
        let Tenant { device, flows, .. } = self.tenants.remove(&stream)?;
        Some((device, LeftBehind { packets, carried: Carried { replay, flows } }))
    }
}

impl Link {
    pub(super) fn new(worker: Arc<Worker>, settings: Settings, now: Duration) -> Self {
        let state = State { end: EdgeEnd::new(settings, now), tenants: HashMap::default() };
        Self {
            worker,
            since: Instant::now(),
            state: Mutex::new(state),
            is_ready: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_store_away: AtomicBool::new(false),
            is_worn: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
            is_dirty: AtomicBool::new(true),
            driver: AtomicWaker::new(),
            voucher: OnceLock::new(),
        }
    }

    /// How long ago it was connected.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    pub(super) fn is_store_away(&self) -> bool {
        self.is_store_away.load(Ordering::Acquire)
    }

    pub(super) fn is_worn(&self) -> bool {
        self.is_worn.load(Ordering::Acquire)
    }

    pub(super) fn takes_streams(&self) -> bool {
        self.is_ready() && !self.is_draining() && !self.is_over.load(Ordering::Acquire)
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Asks for the session of `device`.
    ///
    /// # Errors
    /// The link opens no stream; what was handed over.
    pub(super) fn open(
        &self,
        open: Box<OpenBody>,
        carried: Carried,
        device: &Arc<Device>,
    ) -> Result<StreamId, Carried> {
        let placed = Placed::new(&self.worker);
        let Carried { replay, flows } = carried;
        let mut state = self.state.lock();
        let stream = match state.end.open(open, replay) {
            Ok(stream) => stream,
            Err(not_opened) => return Err(Carried { replay: not_opened.replay, flows }),
        };
        state.tenants.insert(stream, Tenant { device: device.clone(), flows, _placed: placed });
        self.streams.store(state.tenants.len(), Ordering::Relaxed);
        if state.end.is_worn() {
            // Its driver sees to another.
            self.is_worn.store(true, Ordering::Release);
        }
        drop(state);
        self.touch();
        Ok(stream)
    }

    /// Sends a packet of a device, which is `frame`, and has it followed among the open flows before anything that answers it can come.
    pub(super) fn send(
        &self,
        stream: StreamId,
        packet: DevicePacket,
        frame: Frame<'_>,
    ) -> Result<(), NotSent> {
        let mut state = self.state.lock();
        state.end.send(stream, packet)?;
        if !frame.is_qos0_publish()
            && let Some(tenant) = state.tenants.get_mut(&stream)
        {
            tenant.flows.pass_from_device(frame);
        }
        drop(state);
        self.touch();
        Ok(())
    }

    pub(super) fn renew(&self, stream: StreamId, token: Bytes) -> Result<(), SendError> {
        let result = self.state.lock().end.renew(stream, token);
        self.touch();
        result
    }

    pub(super) fn close(&self, stream: StreamId, cause: CloseCause) {
        self.state.lock().end.close(stream, cause);
        self.touch();
    }

    /// The device has taken packets that cost so much.
    pub(super) fn give_credit(&self, stream: StreamId, cost: u32) {
        self.state.lock().end.give_back(stream, cost);
        self.touch();
    }

    /// Takes a stream off the link; `None` when it is over and an effect says so.
    pub(super) fn give_up(&self, stream: StreamId) -> Option<LeftBehind> {
        let mut state = self.state.lock();
        let removed = state.end.give_up(stream).and_then(|unfinished| state.remove(unfinished));
        self.streams.store(state.tenants.len(), Ordering::Relaxed);
        drop(state);
        self.touch();
        removed.map(|(_, left)| left)
    }

    /// Whether nothing is under way on a stream, in either direction.
    pub(super) fn is_idle(&self, stream: StreamId) -> bool {
        let state = self.state.lock();
        state.end.is_idle(stream) && state.tenants.get(&stream).is_some_and(|tenant| tenant.flows.is_empty())
    }

    /// Those whose streams are here.
    pub(super) fn devices(&self) -> Vec<Arc<Device>> {
        self.state.lock().all_devices()
    }

    /// Takes what was read from the socket.
    pub(super) fn receive(
        &self,
        now: Duration,
        bytes: &mut BytesMut,
        turn: &mut Happened,
    ) -> Result<(), LinkError> {
        let mut state = self.state.lock();
        let outcome = state.end.receive(now, bytes);
        self.take_events(&mut state, turn);
        outcome
    }

    /// What the clock asks for, what is to be written (when nothing waits in `out`), and when to look again.
    pub(super) fn turn(
        &self,
        now: Duration,
        out: &mut Outgoing,
        turn: &mut Happened,
        cx: &Context<'_>,
    ) -> Result<Duration, LinkError> {
        self.driver.register(cx.waker());
        self.is_dirty.store(false, Ordering::SeqCst);
        let mut state = self.state.lock();
        state.end.tick(now)?;
        if out.is_empty() {
            *out = std::mem::take(state.end.outgoing());
        }
        self.take_events(&mut state, turn);
        Ok(state.end.wake_at())
    }

    /// The link is over: its devices, in the order of their streams, and what those leave.
    pub(super) fn abandon(&self) -> Vec<(StreamId, Arc<Device>, LeftBehind)> {
        self.is_over.store(true, Ordering::Release);
        let mut state = self.state.lock();
        let all = state.end.abandon();
        self.streams.store(0, Ordering::Relaxed);
        let left = all.into_iter().filter_map(|unfinished| {
            let stream = unfinished.stream;
            let (device, left) = state.remove(unfinished)?;
            Some((stream, device, left))
        });
        left.collect()
    }

    /// Has the driver look what is to be written.
    fn touch(&self) {
        if !self.is_dirty.swap(true, Ordering::SeqCst) {
            self.driver.wake();
        }
    }

    fn take_events(&self, state: &mut State, turn: &mut Happened) {
        while let Some(event) = state.end.poll_event() {
            self.take_event(state, event, turn);
        }
        self.streams.store(state.tenants.len(), Ordering::Relaxed);
    }

    fn take_event(&self, state: &mut State, event: EdgeEvent, turn: &mut Happened) {
        let effect = match event {
            EdgeEvent::Ready(peer) => {
                self.is_ready.store(true, Ordering::Release);
                Effect::Ready(peer)
            }
            EdgeEvent::Draining { within } => {
                self.is_draining.store(true, Ordering::Release);
                Effect::Draining(within, state.all_devices())
            }
            EdgeEvent::Store { is_away } => {
                self.is_store_away.store(is_away, Ordering::Release);
                Effect::Store { is_away }
            }
            EdgeEvent::Packet { stream, packet, cost } => {
                let Some(tenant) = state.tenants.get_mut(&stream) else { return };
                let mut mail = tenant.device.mail.lock();
                if mail.put(packet, cost, &mut tenant.flows) {
                    turn.wakers.extend(mail.waker());
                } else {
                    state.end.give_back(stream, cost);
                }
                return;
            }
            EdgeEvent::Yield { stream } => {
                let Some(tenant) = state.tenants.get(&stream) else { return };
                let mut mail = tenant.device.mail.lock();
                mail.yields = true;
                turn.wakers.extend(mail.waker());
                return;
            }
            EdgeEvent::Opened { stream, connack } => {
                let Some(Tenant { device, .. }) = state.tenants.get(&stream) else { return };
                if !connack.is_empty() {
                    device.learn_connack(&connack);
                    let mut mail = device.mail.lock();
                    mail.put_connack(&connack);
                    turn.wakers.extend(mail.waker());
                }
                Effect::Opened(stream, device.clone())
            }
            EdgeEvent::Closed { stream, reason, packet } => {
                let Some(Tenant { device, .. }) = state.tenants.remove(&stream) else { return };
                let mut mail = device.mail.lock();
                mail.end(reason, &packet);
                turn.wakers.extend(mail.waker());
                drop(mail);
                Effect::Closed(stream, device)
            }
            EdgeEvent::Refused { stream, reason, packet, replay } => {
                let Some(Tenant { device, flows, .. }) = state.tenants.remove(&stream) else { return };
                let carried = Carried { replay, flows };
                Effect::Refused { stream, device, reason, packet, carried }
            }
            EdgeEvent::Finished { stream } => {
                let Some(tenant) = state.tenants.remove(&stream) else { return };
                Effect::Finished(stream, tenant.device)
            }
            EdgeEvent::Sendable { stream } => {
                let Some(tenant) = state.tenants.get(&stream) else { return };
                Effect::Sendable(stream, tenant.device.clone())
            }
        };
        turn.effects.push(effect);
    }
}
