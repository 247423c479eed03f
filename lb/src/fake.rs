//! A worker and an authenticator for tests: they record what they are told and do what they are asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use authsvc::{Authenticator, Decision, DenyReason, Exchange, Request, Step};
use bytes::Bytes;
use link::{CloseCause, Event, Limits, Open, Outgoing, Passport, Stream, Upstream};
use mqtt::{ConnAck, Connect, Frame, PacketType, ProtocolVersion, ReasonCode};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde::de::value::MapDeserializer;

use crate::admission::Admitted;
use crate::config::{EdgeConfig, ListenerConfig, ListenerKind};
use crate::listener::Listener;
use crate::shared::Shared;
use crate::telemetry::metrics::Metrics;

/// How long anything in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A worker that remembers every session it was asked to open.
#[derive(Clone, Default)]
pub(crate) struct FakeWorker {
    sessions: Arc<Mutex<Vec<Arc<FakeSession>>>>,
    /// CONNACK is left to the test.
    pub(crate) holds_connack: bool,
    /// So are the answers to SUBSCRIBE packets, which hold what follows them until then.
    pub(crate) holds_requests: bool,
}

impl FakeWorker {
    pub(crate) fn sessions(&self) -> Vec<Arc<FakeSession>> {
        self.sessions.lock().clone()
    }

    pub(crate) async fn session(&self, index: usize) -> Arc<FakeSession> {
        eventually("a session", || self.sessions.lock().len() > index).await;
        self.sessions.lock()[index].clone()
    }
}

/// One session of [`FakeWorker`].
pub(crate) struct FakeSession {
    pub(crate) open: Open,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    packets: Vec<Bytes>,
    outbox: VecDeque<Bytes>,
    end: Option<ReasonCode>,
    is_full: bool,
    /// Takes packets again once the outbox has been asked.
    makes_room: bool,
    /// A SUBSCRIBE waits for [`FakeSession::answer`].
    holds_requests: bool,
    /// One does: no PUBLISH, SUBSCRIBE or DISCONNECT is taken.
    is_asked: bool,
    closed: Option<CloseCause>,
    renewed: usize,
    waker: Option<Waker>,
}

impl FakeSession {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Has `bytes` for the device.
    pub(crate) fn push(&self, bytes: impl Into<Bytes>) {
        self.change(|state| state.outbox.push_back(bytes.into()));
    }

    /// Ends the session.
    pub(crate) fn end(&self, reason: ReasonCode) {
        self.change(|state| state.end = Some(reason));
    }

    /// Takes no more packets, or takes them again.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.change(|state| state.is_full = is_full);
    }

    /// Makes room in the middle of a turn: when the outbox is asked.
    pub(crate) fn make_room(&self) {
        self.change(|state| state.makes_room = true);
    }

    /// Answers SUBSCRIBE, with `bytes` for the device.
    pub(crate) fn answer(&self, bytes: impl Into<Bytes>) {
        self.change(|state| {
            state.outbox.push_back(bytes.into());
            state.makes_room = true;
        });
    }

    pub(crate) fn packets(&self) -> Vec<Bytes> {
        self.state.lock().packets.clone()
    }

    pub(crate) fn closed(&self) -> Option<CloseCause> {
        self.state.lock().closed
    }

    pub(crate) fn renewed(&self) -> usize {
        self.state.lock().renewed
    }

    /// What waits for the device.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().outbox.iter().map(Bytes::len).sum()
    }
}

impl Upstream for FakeWorker {
    type Stream = FakeStream;

    fn open(&self, open: Open) -> FakeStream {
        let frame = mqtt::frame::split(&open.connect, u32::MAX).expect("framed").expect("whole");
        let version = Connect::decode(frame).expect("validated").version;
        let mut state = State { holds_requests: self.holds_requests, ..State::default() };
        if !self.holds_connack {
            state.outbox.push_back(connack(version));
        }
        let session = Arc::new(FakeSession { open, state: Mutex::new(state) });
        self.sessions.lock().push(session.clone());
        FakeStream { session }
    }
}

pub(crate) fn connack(version: ProtocolVersion) -> Bytes {
    let mut out = Vec::new();
    ConnAck::new(false, ReasonCode::Success).encode(version, &mut out);
    out.into()
}

/// The edge's end of a [`FakeSession`]. PUBLISH at QoS 1 with Packet Identifier 1 is acknowledged at once; a PUBLISH to topic
/// `bad` ends the connection with 0x90.
pub(crate) struct FakeStream {
    session: Arc<FakeSession>,
}

impl Stream for FakeStream {
    fn send(&mut self, packet: Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode> {
        self.session.state.lock().packets.push(Bytes::copy_from_slice(packet.raw));
        match packet.packet_type() {
            PacketType::Publish if packet.body().starts_with(b"\0\x03bad") => {
                out.put_slice(b"\xE0\x01\x90");
                Err(ReasonCode::TopicNameInvalid)
            }
            PacketType::Subscribe => {
                let mut state = self.session.state.lock();
                state.is_asked = state.holds_requests;
                Ok(())
            }
            PacketType::Publish if packet.first_byte() & 0x06 == 0x02 => {
                out.put_slice(b"\x40\x02\0\x01");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn takes(&mut self, packet: PacketType) -> bool {
        let mut state = self.session.state.lock();
        let depends = matches!(packet, PacketType::Publish | PacketType::Subscribe | PacketType::Disconnect);
        let waits = state.is_asked && depends;
        state.is_full |= waits;
        !waits
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.session.state.lock();
        if state.is_full {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<Event> {
        let mut state = self.session.state.lock();
        if std::mem::take(&mut state.makes_room) {
            (state.is_full, state.is_asked) = (false, false);
        }
        if let Some(bytes) = state.outbox.pop_front_if(|_| out.len() < budget) {
            out.put_bytes(bytes);
            while let Some(bytes) = state.outbox.pop_front_if(|bytes| out.len() + bytes.len() <= budget) {
                out.put_bytes(bytes);
            }
            return Poll::Ready(Event::Wrote);
        }
        if let Some(reason) = state.end {
            return Poll::Ready(Event::Closed(reason));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<ReasonCode> {
        let mut state = self.session.state.lock();
        match state.end {
            Some(reason) => {
                out.put_slice(&[0xE0, 1, reason.as_u8()]);
                Poll::Ready(reason)
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn waiting_bytes(&self) -> usize {
        self.session.queued()
    }

    fn renew(&mut self, _passport: Arc<Passport>) {
        self.session.state.lock().renewed += 1;
    }

    fn close(self, cause: CloseCause) {
        self.session.state.lock().closed = Some(cause);
    }
}

/// Refuses user `mallory`, lets user `single` have one connection, never answers about user `stuck`, and knows the Authentication Method `TWO-STEP`, to which the
/// client has to answer `yes`, or `as other` to be the user of that name.
pub(crate) struct FakeAuthenticator;

fn passport(request: &Request) -> Arc<Passport> {
    let is_bounded = request.username.as_deref() == Some("single");
    let limits = is_bounded.then(|| Arc::new(Limits { connections_max: Some(1), ..Limits::default() }));
    Arc::new(Passport { limits, ..Passport::unrestricted("someone".into(), request.client_id.clone()) })
}

impl Authenticator for FakeAuthenticator {
    type Exchange = TwoStep;

    async fn authenticate(&self, request: Request) -> Decision {
        match request.username.as_deref() {
            Some("mallory") => Decision::Deny(DenyReason::BadCredentials),
            Some("stuck") => std::future::pending().await,
            _ => Decision::Allow(passport(&request)),
        }
    }

    fn begin(&self, method: &str, request: Request) -> Option<TwoStep> {
        (method == "TWO-STEP").then_some(TwoStep { request, is_asked: false })
    }
}

pub(crate) struct TwoStep {
    request: Request,
    is_asked: bool,
}

impl Exchange for TwoStep {
    async fn step(&mut self, data: Option<&[u8]>) -> Step {
        if !std::mem::replace(&mut self.is_asked, true) {
            return Step::Continue(Bytes::from_static(b"really?"));
        }
        match data {
            Some(b"yes") => Step::Done(passport(&self.request), Some(Bytes::from_static(b"well"))),
            // Like a mechanism that names its user itself: the name of the request must be the same.
            Some(b"as other") if self.request.username.as_deref().is_none_or(|name| name == "other") => {
                Step::Done(passport(&self.request), None)
            }
            _ => Step::Deny(DenyReason::NotAuthorized),
        }
    }
}

impl ListenerConfig {
    /// A listener with every other key at its default.
    pub(crate) fn new(bind: SocketAddr, kind: ListenerKind) -> Self {
        let given = [("bind", bind.to_string()), ("kind", "mqtt".to_owned())];
        let given = MapDeserializer::<_, serde::de::value::Error>::new(given.into_iter());
        Self { kind, ..Self::deserialize(given).expect("what must be given") }
    }
}

/// A place among the connections of an edge that has no listener.
pub(crate) fn admitted(config: EdgeConfig) -> Admitted<Listener> {
    let shared = Arc::new(Shared::new(config, Metrics::register(&mut Registry::default())));
    let config = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
    let listener = Arc::new(Listener::new("test", config, None, shared));
    Admitted::admit(&listener).expect("room")
}
