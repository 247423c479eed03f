//! From an accepted socket to an opened session: the first byte, PROXY protocol, TLS, WebSocket, CONNECT, authentication, each
//! with its deadline, and a look whether the peer is there before what is expensive. Runs on the handshake threads; the future is gone when the device is connected.

mod authenticate;
mod client_id;
mod gate;
mod peek;
mod refuse;
mod room;

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;

use authsvc::{Authenticator, Certificate, Request};
use bytes::{Bytes, BytesMut};
use link::{ConnectionId, Open, Passport, Peer, Upstream};
use mqtt::{Connect, OwnedFrame, PacketType, ProtocolVersion, ReasonCode};
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout, timeout_at};

use self::authenticate::{Authenticated, Unauthenticated};
use self::client_id::Identity;
pub(crate) use self::gate::Gate;
use self::gate::{line_of, opening};
use self::peek::{PeekError, Peeked};
use crate::admission::{Admitted, Line, Opening, Source, Turn, Underway, stretch};
use crate::config::EdgeConfig;
use crate::connections::Seat;
use crate::connections::{Holder, Tenancy};
use crate::listener::Listener;
use crate::proxy;
use crate::reason::{HandshakeFailure, HandshakeStage};
use crate::relay::{Asker, Enhanced, Handover, Pace, Tenure, Terms};
use crate::reply::{self, Direction};
use crate::telemetry::report::Report;
use crate::tls::{Accept, Shown, TlsError, TlsServer, TlsStream};
use crate::transport::{Transport, Wire};
use crate::websocket::{self, WsError};

/// What a client that has closed the connection may have sent behind CONNECT; beyond that it is served like one that has not.
const LAST_WORDS_BYTES_MAX: usize = 65_536;

/// Where and why a handshake ended.
struct Failed(HandshakeStage, HandshakeFailure);

/// One connection on its way.
struct Arrival<U, A> {
    gate: Arc<Gate<U, A>>,
    admitted: Admitted<Listener>,
    underway: Underway,
    peer: SocketAddr,
    /// The peer, where it is known from a load balancer.
    behind: Arc<OnceLock<SocketAddr>>,
    /// It is known to be on this machine.
    is_local: bool,
    /// By when CONNECT is complete.
    deadline: Instant,
    certificate: Option<Arc<Certificate>>,
    shown: Option<Arc<Shown>>,
    /// The round of other rules that was on when it came.
    round: u16,
    /// Its place among the connections of its principal, if those are bounded.
    seat: Option<Seat>,
}

/// Serves one accepted connection until its session is opened or it is refused.
pub(crate) async fn run<U: Upstream, A: Authenticator>(
    gate: Arc<Gate<U, A>>,
    io: TcpStream,
    peer: SocketAddr,
    admitted: Admitted<Listener>,
    underway: Underway,
) {
    let listener = admitted.door().clone();
    let deadline = underway.since() + listener.shared.config.connect_timeout();
    let (is_local, round) = (is_loopback(peer), listener.shared.relays.round.number());
    let given_up = underway.given_up();
    let behind = Arc::<OnceLock<SocketAddr>>::default();
    let arrival = Arrival {
        gate,
        admitted,
        underway,
        peer,
        behind: behind.clone(),
        is_local,
        deadline,
        certificate: None,
        shown: None,
        round,
        seat: None,
    };
    let ended = tokio::select! {
        biased;
        () = given_up.wait() => return,
        ended = arrival.shake_hands(io) => ended,
    };
    if let Err(Failed(stage, failure)) = ended {
        let peer = behind.get().copied().unwrap_or(peer);
        listener.shared.metrics.handshake_failures.count((stage.label(), failure.label()));
        let report = Report { listener: &listener.name, peer, client_id: None, user: None };
        listener.shared.reports.failed(&report, stage, failure);
        tracing::debug!(
            listener = %listener.name,
            %peer,
            stage = stage.label(),
            reason = failure.label(),
            "handshake failed"
        );
    }
}

/// Waits for one stage until `deadline`.
async fn stage<O, E>(
    stage: HandshakeStage,
    deadline: Instant,
    work: impl Future<Output = Result<O, E>>,
    failure: impl FnOnce(E) -> HandshakeFailure,
) -> Result<O, Failed> {
    match timeout_at(deadline, work).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(Failed(stage, failure(error))),
        Err(_) => Err(Failed(stage, HandshakeFailure::Timeout)),
    }
}

impl<U: Upstream, A: Authenticator> Arrival<U, A> {
    async fn shake_hands(mut self, mut io: TcpStream) -> Result<(), Failed> {
        let listener = self.admitted.door().clone();
        self.first_byte(&io).await?;
        if listener.config.is_trusted(self.peer.ip()) {
            let header = proxy::read_header(&mut io);
            let failure = |error| match error {
                proxy::ProxyError::Io(_) => HandshakeFailure::ConnectionLost,
                _ => HandshakeFailure::Invalid,
            };
            let source = stage(HandshakeStage::ProxyHeader, self.deadline, header, failure).await?;
            // Who is not named is behind the load balancer, wherever that is; and what another machine calls its own
            // loopback is not ours.
            self.is_local &= source.is_some_and(is_loopback);
            self.peer = source.unwrap_or(self.peer);
            // Nobody else sets it.
            let _ = self.behind.set(self.peer);
            self.underway.belongs_to(Source::of(self.peer));
            if let Err(reason) = self.admitted.comes_from(self.peer) {
                listener.shared.metrics.shed.count((reason.label(),));
                return Ok(());
            }
            if let Some(reason) = self.underway.bound_source() {
                listener.shared.metrics.shed.count((reason.label(),));
            }
        }
        match (&listener.tls, listener.config.kind.is_websocket()) {
            (None, false) => self.connect(io).await,
            (None, true) => self.upgrade(io, &listener).await,
            (Some(tls), is_websocket) => {
                let io = self.secure(io, tls).await?;
                if is_websocket { self.upgrade(io, &listener).await } else { self.connect(io).await }
            }
        }
    }

    /// Waits until the client says something, which until then costs a socket.
    async fn first_byte(&mut self, io: &TcpStream) -> Result<(), Failed> {
        const STAGE: HandshakeStage = HandshakeStage::FirstByte;
        let by = self.deadline.min(self.underway.since() + self.config().first_byte_timeout());
        let lost = |_| HandshakeFailure::ConnectionLost;
        // Peeking, since the runtime takes a socket for readable until it has looked.
        if stage(STAGE, by, io.peek(&mut [0]), lost).await? == 0 {
            return Err(Failed(STAGE, HandshakeFailure::ConnectionLost));
        }
        self.underway.progress();
        Ok(())
    }

    /// Does the TLS handshake.
    async fn secure(&mut self, io: TcpStream, tls: &TlsServer) -> Result<TlsStream<TcpStream>, Failed> {
        let failed = |error: TlsError| HandshakeFailure::Tls(error.failure());
        let mut accept = tls.acceptor().accept(io);
        let mut done = None;
        while done.is_none() && accept.before_signature().is_some() {
            done = self.sign(&mut accept).await?;
        }
        self.underway.progress();
        let rest = async {
            match done {
                Some(done) => done,
                None => accept.await,
            }
        };
        let mut io = stage(HandshakeStage::Tls, self.deadline, rest, failed).await?;
        let facts = io.facts().map_err(|error| Failed(HandshakeStage::Tls, failed(error)))?;
        self.certificate = facts.certificate;
        let shown = tls.shown(&mut io).map_err(|error| Failed(HandshakeStage::Tls, failed(error)))?;
        self.shown = shown.map(Arc::new);
        Ok(io)
    }

    /// Does the part of a TLS handshake that keeps a core busy, when it has a turn and the client is still there.
    async fn sign(
        &self,
        accept: &mut Accept<TcpStream>,
    ) -> Result<Option<Result<TlsStream<TcpStream>, TlsError>>, Failed> {
        const STAGE: HandshakeStage = HandshakeStage::Tls;
        let lost = |_| HandshakeFailure::ConnectionLost;
        if let Some(io) = accept.before_signature() {
            stage(STAGE, self.deadline, io.readable(), lost).await?;
        }
        let _turn = self.turn(STAGE).await?;
        if accept.before_signature().is_some_and(Wire::has_gone) {
            return Err(Failed(STAGE, HandshakeFailure::ConnectionLost));
        }
        Ok(poll_fn(|cx| match Pin::new(&mut *accept).poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        })
        .await)
    }

    /// Waits for a turn, no longer than a client would.
    async fn turn(&self, stage: HandshakeStage) -> Result<Turn, Failed> {
        let by = self.deadline.min(self.underway.since() + self.config().admission_wait());
        let turn = self.admitted.shared().admission.turns.turn(self.underway.source(), Line::New);
        let turn = timeout_at(by, turn).await.map_err(|_| Failed(stage, HandshakeFailure::Overload))?;
        // Behind everything else that this thread can do: handshakes that have had their turn are to end before others begin, and who
        // has come by then is newer.
        tokio::task::yield_now().await;
        stretch::give_way();
        Ok(turn)
    }

    /// Does the WebSocket upgrade, then goes on with CONNECT.
    async fn upgrade<T: Transport>(self, io: T, listener: &Listener) -> Result<(), Failed> {
        let failed = |error| match error {
            WsError::Http(_) => HandshakeFailure::ConnectionLost,
            _ => HandshakeFailure::Invalid,
        };
        let accept = Box::pin(websocket::accept(io, &listener.websocket));
        let io = stage(HandshakeStage::WebSocket, self.deadline, accept, failed).await?;
        self.connect(io).await
    }

    /// Reads CONNECT and decides about it.
    async fn connect<T: Transport>(mut self, mut io: T) -> Result<(), Failed> {
        stretch::give_way();
        let failed = |failure| Err(Failed(HandshakeStage::Connect, failure));
        let shared = self.admitted.door().shared.clone();
        let peeked = match timeout_at(self.deadline, peek::connect(&mut io, &shared)).await {
            Ok(Ok(peeked)) => peeked,
            Ok(Err(PeekError::Lost(_))) => return failed(HandshakeFailure::ConnectionLost),
            // v5 [MQTT-3.1.0-1]
            Ok(Err(PeekError::NotConnect)) => {
                self.tell_refused(None, ReasonCode::ProtocolError);
                return failed(HandshakeFailure::Invalid);
            }
            Ok(Err(PeekError::NoRoom)) => {
                self.tell_refused(None, ReasonCode::QuotaExceeded);
                return failed(HandshakeFailure::Refused);
            }
            Ok(Err(PeekError::Malformed(error, level))) => {
                self.tell_refused(None, error.reason_code());
                self.refuse(io, refuse::answer_to_fault(error, level)).await;
                return failed(HandshakeFailure::Invalid);
            }
            Err(_) => return failed(HandshakeFailure::Timeout),
        };
        self.underway.progress();
        let Peeked { connect: packet, mut pipelined } = peeked;
        if has_gone_without_a_word(&mut io, &mut pipelined).await {
            return failed(HandshakeFailure::ConnectionLost);
        }
        let connect = match Connect::decode(packet.as_frame()) {
            Ok(connect) => connect,
            Err(error) => {
                let level = refuse::level_of(&packet.raw);
                self.tell_refused(None, error.reason_code());
                self.refuse(io, refuse::answer_to_fault(error, level)).await;
                return failed(HandshakeFailure::Invalid);
            }
        };
        // A client that takes no CONNACK at all, not even one that refuses.
        if reply::refusal(connect.version, ReasonCode::PacketTooLarge).len()
            > reply::packet_bytes_max(&connect)
        {
            self.refuse_connect(io, &connect, ReasonCode::PacketTooLarge).await;
            return failed(HandshakeFailure::Refused);
        }
        if let Some(direction) = shared.refers() {
            self.refer(io, &connect, direction).await;
            return failed(HandshakeFailure::Refused);
        }
        let identity = client_id::identify(
            connect.client_id,
            connect.clean_start,
            connect.version,
            self.config().client_id_bytes_max,
        );
        let is_short = self.admitted.shared().relays.unread.is_short_of_memory();
        match identity {
            Ok(_) if is_short => {
                self.admitted.shared().metrics.limited.count(("memory_max_bytes",));
                self.refuse_connect(io, &connect, ReasonCode::QuotaExceeded).await;
                failed(HandshakeFailure::Refused)
            }
            Ok(identity) => self.authenticate(io, &packet, connect, pipelined, identity).await,
            Err(reason) => {
                self.refuse_connect(io, &connect, reason).await;
                failed(HandshakeFailure::Refused)
            }
        }
    }

    async fn authenticate<T: Transport>(
        mut self,
        mut io: T,
        packet: &OwnedFrame,
        connect: Connect<'_>,
        mut pipelined: BytesMut,
        identity: Identity,
    ) -> Result<(), Failed> {
        let request = self.request(&connect, &identity);
        let authenticator = &*self.gate.authenticator;
        let within = self.config().authenticate_timeout();
        let method = authenticate::method(&connect);
        let result = match method {
            None => timeout(within, authenticate::ask(authenticator, request)).await,
            Some(method) => {
                let shared = self.admitted.shared();
                let exchange =
                    authenticate::exchange(authenticator, request, method, &mut io, &mut pipelined, shared);
                timeout(within, Box::pin(exchange)).await
            }
        };
        let failed = |failure| Err(Failed(HandshakeStage::Authentication, failure));
        let (reason, failure) = match result {
            Ok(Ok(authenticated)) => {
                self.underway.progress();
                let line = line_of(&connect, &identity);
                let opening = opening(self.admitted.shared(), self.underway.source(), line).await;
                if has_gone_without_a_word(&mut io, &mut pipelined).await {
                    return failed(HandshakeFailure::ConnectionLost);
                }
                let holder = self.holder(&authenticated.passport);
                if opening.is_none() {
                    (ReasonCode::ServerBusy, HandshakeFailure::Timeout)
                } else if self.admitted.shared().successions.revoked(&holder).is_some() {
                    (ReasonCode::Banned, HandshakeFailure::Refused)
                } else if !self.is_seated(&authenticated.passport) {
                    (ReasonCode::QuotaExceeded, HandshakeFailure::Refused)
                } else if let Some(tenancy) = Tenancy::begin(&self.admitted.shared().successions, holder) {
                    let handed = (authenticated, tenancy, opening);
                    return self.open(io, packet, &connect, pipelined, identity, handed);
                } else {
                    // Its client has connected anew meanwhile; if it is another client, that one is to try again.
                    (ReasonCode::ServerBusy, HandshakeFailure::Refused)
                }
            }
            Ok(Err(Unauthenticated::Gone)) => return failed(HandshakeFailure::ConnectionLost),
            Ok(Err(Unauthenticated::Refused(reason))) => (reason, HandshakeFailure::Refused),
            Err(_) => (ReasonCode::ServerUnavailable, HandshakeFailure::Timeout),
        };
        self.refuse_connect(io, &connect, reason).await;
        failed(failure)
    }

    /// Opens the session and hands the connection over to its relay.
    fn open<T: Transport>(
        mut self,
        io: T,
        packet: &OwnedFrame,
        connect: &Connect<'_>,
        pipelined: BytesMut,
        identity: Identity,
        (authenticated, tenancy, opening): (Authenticated, Tenancy, Option<Opening>),
    ) -> Result<(), Failed> {
        let Authenticated { passport, outcome } = authenticated;
        let pace = Pace::new(&passport, self.seat.take(), self.admitted.shared().now_ms());
        let server_keep_alive_s = server_keep_alive(self.config(), connect);
        let enhanced = authenticate::method(connect).map(|authenticate::Method { name: method, .. }| {
            // Who it is stays so, whether CONNECT named the user or the exchange did.
            let subject = Some(passport.subject.clone()).filter(|subject| !subject.is_empty());
            let mut request = self.request(connect, &identity);
            request.username = subject.or(request.username);
            let packet_bytes_max = reply::packet_bytes_max(connect);
            Box::new(Enhanced::new(self.gate.authenticator.clone(), method.into(), packet_bytes_max, request))
        });
        // A copy as long as the packet: the buffer that it was read into is larger.
        let mut packet = packet.raw.to_vec();
        // Of MQTT 3.1, which does not use its flags.
        packet[0] = PacketType::Connect.first_byte();
        let packet = Bytes::from(packet);
        let asker = enhanced.is_none().then(|| Asker {
            connect: packet.clone(),
            client_id: passport.client_id.clone(),
            peer: (self.peer.ip(), self.peer.port()),
            is_local: self.is_local,
            listener: self.admitted.door().name.clone(),
            certificate: self.certificate.clone(),
        });
        let tenure =
            Tenure::new(&passport, &self.gate.authenticator, asker, self.round, self.admitted.shared());
        let open = Open {
            connection_id: ConnectionId(rand::random()),
            attempt: 1,
            peer: Peer {
                address: self.peer,
                listener: self.admitted.door().name.clone(),
                certificate_subject: self.certificate.as_ref().map(|certificate| certificate.subject.clone()),
            },
            passport,
            connect: packet,
            assigned_client_id: identity.is_assigned.then_some(identity.client_id),
            server_keep_alive_s,
            authentication: outcome,
            resume: None,
        };
        let lost = |_| Failed(HandshakeStage::Authentication, HandshakeFailure::ConnectionLost);
        let io = io.rehome(&self.gate.devices).map_err(lost)?;
        let terms = Terms::of(connect, self.config());
        let handover = Handover {
            admitted: self.admitted,
            tenancy,
            version: connect.version,
            keep_alive_s: server_keep_alive_s.unwrap_or(connect.keep_alive_s),
            terms,
            pipelined: pipelined.freeze(),
            enhanced,
            tenure,
            pace,
            opening,
        };
        self.underway.succeed();
        self.gate.serve_in_turn(io, open, handover);
        Ok(())
    }

    /// Whether its principal may have one connection more, which it is from then on.
    fn is_seated(&mut self, passport: &Passport) -> bool {
        if let Ok(seat) = Seat::take(&self.admitted.shared().seats, passport) {
            self.seat = seat;
            return true;
        }
        self.admitted.shared().metrics.limited.count(("connections_max",));
        let (client_id, principal) = (&*passport.client_id, &*passport.subject);
        tracing::debug!(client_id, principal, "a principal has as many connections as it may have");
        false
    }

    /// Refuses a CONNECT that is as it must be.
    async fn refuse_connect<T: Transport>(self, io: T, connect: &Connect<'_>, reason: ReasonCode) {
        self.tell_refused(Some(connect), reason);
        let fits = reply::refusal(connect.version, reason).len() <= reply::packet_bytes_max(connect);
        if !fits {
            self.admitted.shared().metrics.refused.count((reason.label(),));
        }
        self.refuse(io, fits.then_some((connect.version, reason))).await;
    }

    /// Tells a client where the devices of this edge go, which ends.
    async fn refer<T: Transport>(self, mut io: T, connect: &Connect<'_>, direction: Direction<'_>) {
        let linger = Duration::from_millis(self.config().linger_ms);
        self.admitted.shared().metrics.refused.count((direction.reason.label(),));
        // As in `refuse`.
        drop(self.underway);
        refuse::tell(&mut io, Some(direction.connack(connect)), linger).await;
    }

    async fn refuse<T: Transport>(self, mut io: T, answer: Option<(ProtocolVersion, ReasonCode)>) {
        let linger = Duration::from_millis(self.config().linger_ms);
        if let Some((_, reason)) = answer {
            self.admitted.shared().metrics.refused.count((reason.label(),));
        }
        // No longer under way, so that a lingering client holds up nobody.
        drop(self.underway);
        refuse::refuse(&mut io, answer, linger).await;
    }

    /// Has it said that CONNECT is refused, and whose it is as far as it could be read.
    fn tell_refused(&self, connect: Option<&Connect<'_>>, reason: ReasonCode) {
        let report = Report {
            listener: &self.admitted.door().name,
            peer: self.peer,
            client_id: connect.map(|connect| connect.client_id),
            user: connect.and_then(|connect| connect.user_name),
        };
        self.admitted.shared().reports.refused(&report, reason);
    }

    /// Who the connection is from now on.
    fn holder(&self, passport: &Passport) -> Holder {
        Holder {
            client_id: passport.client_id.clone(),
            subject: passport.subject.clone(),
            token_id: Mutex::new(passport.token_id.clone()),
            certificate: self.certificate.clone(),
            peer: self.peer,
            shown: self.shown.clone(),
            since: self.underway.since().into_std(),
        }
    }

    fn request(&self, connect: &Connect<'_>, identity: &Identity) -> Request {
        Request {
            client_id: identity.client_id.clone(),
            username: connect.user_name.map(Into::into),
            password: connect.password.map(Bytes::copy_from_slice),
            peer: self.peer,
            is_local: self.is_local,
            listener: self.admitted.door().name.clone(),
            certificate: self.certificate.clone(),
            protocol: connect.version,
            clean_start: connect.clean_start,
        }
    }

    fn config(&self) -> &EdgeConfig {
        &self.admitted.shared().config
    }
}

/// Whether the client has closed the connection and said nothing behind CONNECT: nobody would read CONNACK, and its session is
/// left to who has it.
async fn has_gone_without_a_word<T: Transport>(io: &mut T, pipelined: &mut BytesMut) -> bool {
    if !pipelined.is_empty() || !io.has_gone() {
        return false;
    }
    // What it has sent is here; reading ends.
    while pipelined.len() < LAST_WORDS_BYTES_MAX {
        match io.read_buf(pipelined).await {
            Ok(count) if count > 0 => {}
            _ => return pipelined.is_empty(),
        }
    }
    false
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// The Keep Alive to impose. Earlier versions cannot be told one, so that theirs stays.
// v5 [MQTT-3.1.2-21]
fn server_keep_alive(config: &EdgeConfig, connect: &Connect<'_>) -> Option<u16> {
    let max = config.keep_alive_max_s;
    let asked = connect.keep_alive_s;
    (connect.version.is_v5() && max > 0 && (asked == 0 || asked > max)).then_some(max)
}
