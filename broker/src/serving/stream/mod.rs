//! One device's conversation with this worker, in the same process: drives the session, has its effects done, and feeds
//! it what comes back. The edge's connection task runs it; there is no task, channel or socket of its own.

mod last_words;
mod linked;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use link::{CloseCause, Event, Open, Outgoing, Passport};
use mqtt::frame::Frame;
use mqtt::{Connect, PacketType, ReasonCode};
use state::{Delivery, Number, ResumeRefusal, StoreError};
use tokio::sync::oneshot;

use crate::authorize::Authority;
use crate::authorize::authorizer::Ruling;
use crate::authorize::bounds::Bound;
use crate::authorize::principal::client_id_of;
use crate::directory::succession::{ClaimSlot, Granted, NotGranted, Unserved};
use crate::directory::{Attachment, SessionHandle, recycle};
use crate::hub::Hub;
use crate::hub::work::claim::Wanted;
use crate::hub::work::departure::Departure;
use crate::metrics::tally;
use crate::serving::asking::refusal_by;
use crate::serving::disconnect::Leaving;
use crate::serving::{Rare, Serving};
use crate::session::handler::connect::{Terms, Told};
use crate::session::{Closing, Effect, Input, Opening, Outputs, Session, WillFate};
use last_words::Takeover;
pub(crate) use linked::{Phase, Taken};

thread_local! {
    /// Two lists of effects, reused by every session that this thread drives.
    static EFFECTS: RefCell<(Vec<Effect>, Vec<Effect>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// A device's stream. See [`link::Stream`].
pub struct WorkerStream {
    hub: Arc<Hub>,
    state: State,
    /// To be told when the session is let go.
    departure: Option<Arc<Departure>>,
    takeover: Takeover,
}

#[expect(clippy::large_enum_variant, reason = "nearly all streams are served, most of the time")]
enum State {
    /// The store has been asked for the session, or is when its Will was asked about.
    AwaitingClaim(Box<Pending>),
    Serving(Serving),
    Ended(ReasonCode),
}

struct Pending {
    open: Open,
    terms: Terms,
    wanted: Wanted,
    slot: ClaimSlot,
    /// The Will was asked about; the store is asked when that is answered.
    asked: Option<oneshot::Receiver<Ruling>>,
    /// Nothing was asked of the store: this is the answer.
    refused: Option<ReasonCode>,
    /// The store was asked on behalf of somebody whom the passport is not about any more.
    is_anothers: bool,
}

impl Pending {
    /// Whom its session may be granted to, and who has gone.
    fn unserved(&self) -> Unserved {
        Unserved { expiry_s: self.terms.expiry_s, resume: self.open.resume.is_some() }
    }
}

impl WorkerStream {
    /// Asks for the session of this CONNECT, which is that of `open`. With `yields`, when another connection has its session, it
    /// waits for the device's last words, which its edge is to be asked for.
    pub(crate) fn open(hub: Arc<Hub>, open: Open, connect: &Connect<'_>, yields: bool) -> Self {
        hub.clock.tick();
        let terms = Terms::read(connect, &open.passport, &hub.config, hub.now());
        let wanted = Wanted::new(&open, connect.client_id, &terms, &hub.config, yields);
        let slot = ClaimSlot::default();
        let refused = open.resume.is_none().then(|| refuse_early(&hub, &open, &terms)).flatten();
        let is_to_ask = refused.is_none() && open.resume.is_none();
        let asked = is_to_ask.then(|| hub.ask_about_will(&open, &terms)).flatten();
        if refused.is_none() && asked.is_none() {
            hub.claim(&wanted, &slot);
        }
        let pending = Pending { open, terms, wanted, slot, asked, refused, is_anothers: false };
        let takeover = if yields { Takeover::Asks } else { Takeover::Ends };
        Self { hub, state: State::AwaitingClaim(Box::new(pending)), departure: None, takeover }
    }

    /// One that is over: the edge should not have let its CONNECT pass.
    pub(crate) fn malformed(hub: Arc<Hub>) -> Self {
        let state = State::Ended(ReasonCode::MalformedPacket);
        Self { hub, state, departure: None, takeover: Takeover::Ends }
    }

    /// Opens the session once the store has granted it.
    fn begin(&mut self, granted: Result<Granted, NotGranted>, out: &mut Outgoing) {
        let State::AwaitingClaim(pending) =
            std::mem::replace(&mut self.state, State::Ended(ReasonCode::Success))
        else {
            return;
        };
        let Pending { open, terms, .. } = &*pending;
        let granted = match granted {
            Ok(granted) => granted,
            Err(error) => {
                let reason = match error.reason_code() {
                    // Another connection asked for the session later. CONNACK cannot say so, and the edge is not to ask again.
                    ReasonCode::SessionTakenOver if open.resume.is_none() => ReasonCode::ServerBusy,
                    reason => reason,
                };
                let client_id = &*open.passport.client_id;
                let is_foreign = matches!(error, NotGranted::NotResumed(ResumeRefusal::Foreign));
                if is_foreign {
                    self.hub.metrics.sessions_foreign.inc();
                }
                if open.resume.is_some() {
                    tracing::debug!(client_id, %error, "a connection does not go on here");
                } else {
                    if is_foreign {
                        let principal = &*open.passport.subject;
                        tracing::debug!(client_id, principal, "the session is another principal's");
                    } else if matches!(error, NotGranted::Store(StoreError::PrincipalQuota)) {
                        self.hub.metrics.limit(Bound::Sessions);
                        let principal = &*open.passport.subject;
                        tracing::debug!(client_id, principal, %error, "no session");
                    } else {
                        tracing::warn!(client_id, %error, "no session from the store");
                    }
                    Session::refuse(terms, reason, out);
                }
                self.state = State::Ended(reason);
                return;
            }
        };
        if pending.is_anothers {
            self.hub.let_go(&granted, pending.unserved(), 0);
            if open.resume.is_none() {
                Session::refuse(terms, ReasonCode::NotAuthorized, out);
            }
            self.state = State::Ended(ReasonCode::NotAuthorized);
            return;
        }
        let fence = granted.owned.as_ref().map(|owned| owned.fence.clone());
        let sent = granted.owned.as_ref().map_or(Number(0), |owned| owned.sent);
        let opening = Opening {
            client_id: client_id_of(&granted.handle.client_id),
            assigned: open.assigned_client_id.is_some(),
            passport: Arc::clone(&open.passport),
            server_keep_alive_s: open.server_keep_alive_s,
            authentication: open.authentication.clone(),
            stored: granted.owned,
            memory_queue: granted.handle.stored.is_none(),
            resume: open.resume.clone(),
            now: self.hub.now(),
        };
        let goes_on = opening.resume.is_some();
        let will = terms.will.clone();
        let rare =
            (fence.is_some() || will.is_some()).then(|| Box::new(Rare { fence, will, ..Rare::default() }));
        let (mut effects, spare) = take_effects();
        let mut outputs = Outputs { wire: out, effects: &mut effects };
        match Session::open(opening, terms, &self.hub.config, &mut outputs) {
            Ok(session) => {
                self.hub.metrics.sessions_opened.inc();
                let connected = self.hub.metrics.sessions_connected.inc() + 1;
                let connected = u64::try_from(connected).unwrap_or(0);
                self.hub.connected_max.fetch_max(connected, Ordering::Relaxed);
                let mut serving = Serving::new(session, granted.handle, granted.attachment, rare);
                serving.revoke(&self.hub);
                if let Some(resume) = open.resume.as_ref().filter(|resume| !resume.retained_due.is_empty()) {
                    serving.resume_retained(&self.hub, &resume.retained_due);
                }
                self.state = State::Serving(serving);
                self.run(effects, spare, out);
            }
            Err(reason) => {
                put_effects(effects, spare);
                // A connection that was accepted before ends here, and its Will is due.
                let authority = Authority::new(Arc::clone(&open.passport));
                let is_due = goes_on && terms.publication().is_some_and(|will| authority.may_publish(will));
                let will = if is_due { WillFate::Publish } else { WillFate::Drop };
                let closing = Closing { reason, will, expiry_s: terms.expiry_s };
                self.leave((&granted.handle, granted.attachment), rare, &closing, sent, 0, Vec::new());
                self.state = State::Ended(reason);
            }
        }
    }

    /// Goes on with a CONNECT whose Will was asked about, once that is answered.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let State::AwaitingClaim(pending) = &mut self.state else { return Poll::Ready(()) };
        let Some(asked) = &mut pending.asked else { return Poll::Ready(()) };
        let ruling = std::task::ready!(Pin::new(asked).poll(cx)).unwrap_or(Ruling::NONE);
        pending.asked = None;
        pending.refused = refusal_by(ruling, &pending.open, &pending.terms);
        if pending.refused.is_none() {
            self.hub.claim(&pending.wanted, &pending.slot);
        }
        Poll::Ready(())
    }

    /// Answers CONNECT with an error.
    fn refuse(&mut self, reason: ReasonCode, out: &mut Outgoing) {
        if let State::AwaitingClaim(pending) = &self.state {
            Session::refuse(&pending.terms, reason, out);
        }
        self.state = State::Ended(reason);
    }

    fn drive(&mut self, input: Input<'_>, out: &mut Outgoing) {
        let State::Serving(serving) = &mut self.state else { return };
        let (mut effects, spare) = take_effects();
        serving.session.handle(input, self.hub.now(), &mut Outputs { wire: out, effects: &mut effects });
        self.run(effects, spare, out);
    }

    /// Has effects done, and what they lead to at once.
    fn run(&mut self, effects: Vec<Effect>, next: Vec<Effect>, out: &mut Outgoing) {
        self.run_for(0, effects, next, out);
    }

    /// As [`WorkerStream::run`] for the effects of frame `frame` of the edge, of which the first change of the stored queue
    /// is the one that it asks for. Answers `frame` if there was none.
    fn run_for(
        &mut self,
        mut frame: u64,
        mut effects: Vec<Effect>,
        mut next: Vec<Effect>,
        out: &mut Outgoing,
    ) -> u64 {
        while !effects.is_empty() {
            for effect in effects.drain(..) {
                let State::Serving(serving) = &mut self.state else { break };
                let mut outputs = Outputs { wire: out, effects: &mut next };
                match effect {
                    Effect::Publish(packet_id, message) => {
                        serving.publish(&self.hub, packet_id, &message, &mut outputs);
                    }
                    Effect::Close(closing) => self.end(&closing, 0),
                    effect => {
                        let done_by =
                            if effect.is_acknowledgement() { std::mem::take(&mut frame) } else { 0 };
                        serving.perform(&self.hub, done_by, effect, &mut outputs);
                    }
                }
            }
            std::mem::swap(&mut effects, &mut next);
        }
        put_effects(effects, next);
        if let State::Serving(serving) = &self.state {
            serving.tell_waiting(&self.hub);
        }
        frame
    }

    /// Ends the session's connection, which may go on at another worker for `grace_ms`.
    fn end(&mut self, closing: &Closing, grace_ms: u64) {
        let ended = State::Ended(closing.reason);
        let State::Serving(mut serving) = std::mem::replace(&mut self.state, ended) else { return };
        self.hub.metrics.sessions_connected.dec();
        tracing::debug!(client_id = &*serving.handle.client_id, reason = ?closing.reason, "session left");
        let sent = serving.session.sent();
        // The device's connection may have gone on at another worker, which the claim there has told.
        let goes_on = grace_ms > 0 || (self.hub.cluster.is_shared() && closing.will == WillFate::TakenOver);
        let shared = serving.session.take_shared(goes_on);
        self.leave((&serving.handle, serving.attachment), serving.rare, closing, sent, grace_ms, shared);
    }

    fn leave(
        &mut self,
        (handle, attachment): (&Arc<SessionHandle>, Attachment),
        rare: Option<Box<Rare>>,
        closing: &Closing,
        sent: Number,
        grace_ms: u64,
        shared: Vec<Delivery>,
    ) {
        let departure = self.departure.take();
        let leaving = Leaving { attachment, closing, sent, grace_ms, departure, shared };
        self.hub.leave(handle, rare, leaving);
    }

    /// Hands the session what waits in its mailbox, as far as the device has room.
    fn take_items(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<()> {
        loop {
            let State::Serving(serving) = &mut self.state else { return Poll::Ready(()) };
            let backlog = serving.take_backlog();
            let had_backlog = backlog.is_some();
            let (mut items, mut bytes) = match backlog {
                Some(backlog) => backlog,
                None => match serving.handle.poll_take(serving.attachment, cx) {
                    Ok(Some(items)) => items,
                    Ok(None) => return Poll::Pending,
                    Err(_) => {
                        self.lose_session(out);
                        return Poll::Ready(());
                    }
                },
            };
            let (mut effects, spare) = take_effects();
            while let Some(item) = items.pop_front() {
                bytes = bytes.saturating_sub(item.bytes());
                let outputs = Outputs { wire: out, effects: &mut effects };
                serving.take_item(&self.hub, item, outputs);
                serving.revoke_late(&self.hub);
                if out.len() >= budget {
                    break;
                }
            }
            self.run(effects, spare, out);
            if let State::Serving(serving) = &mut self.state
                && (had_backlog || !items.is_empty())
            {
                let left = if items.is_empty() { 0 } else { bytes };
                serving.handle.set_backlog(serving.attachment, left);
            }
            if items.is_empty() {
                recycle(items);
            } else if let State::Serving(serving) = &mut self.state {
                serving.rare().backlog = (items, bytes);
            }
            if out.len() >= budget {
                return Poll::Ready(());
            }
        }
    }
}

/// What must not cost a stored session its owner, so it is looked at before the store is asked.
fn refuse_early(hub: &Hub, open: &Open, terms: &Terms) -> Option<ReasonCode> {
    let authority = Authority::new(Arc::clone(&open.passport));
    if let Some(bound) = Session::bound_of_will(terms, &authority, &hub.config) {
        hub.metrics.limit(bound);
    }
    Session::check_will(terms, &authority, &hub.config)
        .and_then(|()| Session::check_connack(terms, &Told::by_edge(open), &hub.config))
        .err()
}

fn take_effects() -> (Vec<Effect>, Vec<Effect>) {
    EFFECTS.with_borrow_mut(std::mem::take)
}

fn put_effects(effects: Vec<Effect>, spare: Vec<Effect>) {
    debug_assert!(effects.is_empty() && spare.is_empty());
    EFFECTS.with_borrow_mut(|kept| *kept = (effects, spare));
}

impl link::Stream for WorkerStream {
    fn begin_turn(&mut self) {
        self.hub.clock.tick();
    }

    fn send(&mut self, packet: Frame<'_>, out: &mut Outgoing) -> Result<(), ReasonCode> {
        self.drive(Input::Packet(packet), out);
        match &self.state {
            State::Ended(reason) => Err(*reason),
            _ => Ok(()),
        }
    }

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        // The answers arrive in the mailbox, which wakes the task.
        match &self.state {
            State::AwaitingClaim(_) => Poll::Pending,
            State::Serving(serving) if serving.is_taken_over => Poll::Ready(()),
            State::Serving(serving)
                if serving.is_holding
                    || serving.awaiting_store >= u32::from(self.hub.config.receive_maximum) =>
            {
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn takes(&mut self, packet: PacketType) -> bool {
        match &mut self.state {
            State::Serving(serving) => serving.is_taken_over || serving.takes(packet),
            _ => true,
        }
    }

    fn looks_ahead(&self) -> bool {
        matches!(&self.state, State::Serving(serving) if serving.asks())
    }

    fn clears(&mut self, packet: Frame<'_>) -> bool {
        match &mut self.state {
            State::Serving(serving) => serving.clears(&self.hub, packet),
            _ => true,
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, budget: usize) -> Poll<Event> {
        let before = out.len();
        std::task::ready!(self.poll_asked(cx));
        if let State::AwaitingClaim(pending) = &self.state {
            if let Some(reason) = pending.refused {
                self.refuse(reason, out);
            } else {
                let granted = std::task::ready!(pending.slot.poll(cx));
                self.begin(granted, out);
            }
        } else if before < budget {
            self.drive_if_waiting(out);
        }
        if before < budget {
            let _pending = self.take_items(cx, out, budget);
        }
        tally::flush(&self.hub.metrics);
        match &self.state {
            State::Ended(reason) => Poll::Ready(Event::Closed(*reason)),
            _ if out.len() > before => Poll::Ready(Event::Wrote),
            _ => Poll::Pending,
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, out: &mut Outgoing) -> Poll<ReasonCode> {
        if let State::Serving(serving) = &mut self.state {
            serving.shed(&self.hub);
            match serving.handle.poll_end(serving.attachment, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(reason)) => self.drive(Input::End(reason), out),
                Poll::Ready(Err(_)) => self.lose_session(out),
            }
        }
        match &self.state {
            State::Ended(reason) => Poll::Ready(*reason),
            _ => Poll::Pending,
        }
    }

    fn renew(&mut self, passport: Arc<Passport>) {
        let is_other = match &self.state {
            State::AwaitingClaim(pending) => pending.open.passport.subject != passport.subject,
            State::Serving(serving) => serving.session.authority.subject() != &*passport.subject,
            State::Ended(_) => return,
        };
        if is_other {
            return self.refuse_other();
        }
        if let State::AwaitingClaim(pending) = &mut self.state {
            pending.wanted.passport = Arc::clone(&passport);
            pending.open.passport = passport;
            return;
        }
        let mut none = Outgoing::new();
        self.drive(Input::Renewed(passport), &mut none);
        if let State::Serving(serving) = &mut self.state {
            serving.ask_anew();
            serving.revoke(&self.hub);
        }
    }

    fn close(mut self, _cause: CloseCause) {
        self.lost(0);
    }
}

impl WorkerStream {
    /// Retained messages that wait for room: the device has taken what was written.
    fn drive_if_waiting(&mut self, out: &mut Outgoing) {
        let State::Serving(serving) = &self.state else { return };
        if serving.session.retained_open || serving.session.waits_for_room() {
            self.drive(Input::Writable, out);
        }
    }

    fn lost(&mut self, grace_ms: u64) {
        // A Will may be due so long after this.
        self.hub.clock.tick();
        match &self.state {
            State::Serving(serving) => {
                let closing = serving.session.connection_lost();
                self.end(&closing, grace_ms);
            }
            State::AwaitingClaim(_) => self.abandon(grace_ms),
            State::Ended(_) => {}
        }
    }

    /// The new passport is about somebody else, whose session this is not.
    fn refuse_other(&mut self) {
        match &mut self.state {
            State::AwaitingClaim(pending) => pending.is_anothers = true,
            State::Serving(serving) => {
                serving.handle.answer(serving.attachment, Input::End(ReasonCode::NotAuthorized).into());
            }
            State::Ended(_) => {}
        }
    }

    /// The device went before the store answered: the session is let go when it does.
    fn abandon(&mut self, grace_ms: u64) {
        let ended = State::Ended(ReasonCode::Success);
        let State::AwaitingClaim(pending) = std::mem::replace(&mut self.state, ended) else { return };
        if let Some(granted) = pending.slot.abandon(grace_ms) {
            self.hub.let_go(&granted, pending.unserved(), grace_ms);
        }
    }
}

impl Drop for WorkerStream {
    fn drop(&mut self) {
        self.lost(0);
    }
}
