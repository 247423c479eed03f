//! For how long a device may stay: until its passport ends. What CONNECT said is asked about again before that, early and at a
//! moment of each connection's own, and when rules became others; who used an Authentication Method has to renew it by AUTH.
//! Connections whose passport never ends have none of this, unless rules may become others.

#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use authsvc::{Authenticator, Certificate, Decision, DenyReason, Request};
use bytes::Bytes;
use link::Passport;
use mqtt::Connect;
use rand::Rng;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout};

use crate::shared::Shared;

/// The part of a passport's life, in percent, after which it is renewed: a fleet that connected at once is spread over what lies
/// between the two, and further with each round.
const RENEW_AFTER: (u32, u32) = (70, 90);

/// The first wait before authentication that was not available is asked again; doubled each time.
const BACKOFF_MS: u64 = 500;

/// The longest.
const BACKOFF_MS_MAX: u64 = 15_000;

/// The edge's clock of 32 bits is not asked about what is further away; then it is looked at again.
const FAR: Duration = Duration::from_secs(10 * 86_400);

/// No passport lasts longer here: the clock could not count it.
const LIFE_S_MAX: u64 = 1_000_000_000;

type Renewing = Pin<Box<dyn Future<Output = Decision> + Send>>;

/// What is kept of a CONNECT to ask about it again. Holds a password: not for logs.
#[derive(Clone)]
pub(crate) struct Asker {
    /// The whole packet, shared with whoever else keeps it.
    pub(crate) connect: Bytes,
    pub(crate) client_id: Arc<str>,
    /// Address and port, in fewer bytes than a socket address takes.
    pub(crate) peer: (IpAddr, u16),
    pub(crate) is_local: bool,
    pub(crate) listener: Arc<str>,
    pub(crate) certificate: Option<Arc<Certificate>>,
}

impl Asker {
    fn request(&self) -> Option<Request> {
        let frame = mqtt::frame::split(&self.connect, u32::MAX).ok()??;
        let connect = Connect::decode(frame).ok()?;
        Some(Request {
            client_id: self.client_id.clone(),
            username: connect.user_name.map(Into::into),
            password: connect.password.map(Bytes::copy_from_slice),
            peer: self.peer.into(),
            is_local: self.is_local,
            listener: self.listener.clone(),
            certificate: self.certificate.clone(),
            protocol: connect.version,
            clean_start: connect.clean_start,
        })
    }
}

/// What becomes of the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on with this passport.
    Renewed(Arc<Passport>),
    /// It may not stay.
    Denied,
    /// Its passport has ended, and the grace with it.
    Expired,
}

/// Of a connection whose passport ends, or whose rules may become others.
pub(crate) struct Tenure<A> {
    authenticator: Arc<A>,
    /// `None`: only the device can renew it.
    asker: Option<Asker>,
    ends_at: Instant,
    renew_at: Instant,
    /// When there is something to look at, on the edge's clock.
    pub(super) look_ms: u32,
    /// The last round in which it was asked about.
    round: u16,
    failures: u8,
    renewing: Option<Renewing>,
}

impl<A: Authenticator> Tenure<A> {
    /// `None` for a passport that never ends, where rules stay as they are. Without `asker` it is not renewed here. `round` was
    /// on before the passport was asked for.
    pub(crate) fn new(
        passport: &Passport,
        authenticator: &Arc<A>,
        asker: Option<Asker>,
        round: u16,
        shared: &Shared,
    ) -> Option<Box<Self>> {
        if passport.expires_at_s.is_none() && !(asker.is_some() && authenticator.rules_may_change()) {
            return None;
        }
        let now = Instant::now();
        let mut tenure = Box::new(Self {
            authenticator: authenticator.clone(),
            asker,
            ends_at: now,
            renew_at: now,
            look_ms: 0,
            round,
            failures: 0,
            renewing: None,
        });
        tenure.extend(passport, shared).then_some(tenure)
    }

    /// Counts from a new passport. `false` if nothing is to be done about it any more.
    pub(super) fn extend(&mut self, passport: &Passport, shared: &Shared) -> bool {
        let expires_at_s = match passport.expires_at_s {
            Some(expires_at_s) => expires_at_s,
            None if self.asker.is_some() && self.authenticator.rules_may_change() => u64::MAX,
            None => return false,
        };
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_most = since_epoch + Duration::from_secs(LIFE_S_MAX);
        let life = Duration::from_secs(expires_at_s).min(at_most).saturating_sub(since_epoch);
        let now = Instant::now();
        let (earliest, latest) = RENEW_AFTER;
        let (earliest, latest) = (life * earliest / 100, life * latest / 100);
        self.ends_at = now + life;
        self.renew_at = now + rand::rng().random_range(earliest..=latest);
        self.failures = 0;
        self.look_again(now, shared);
        true
    }

    /// Pending while nothing is to be done. The task is woken by what is under way; what is due is the timer's to tell.
    /// `slot` is where its relay is woken.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
        slot: u32,
        now_ms: u32,
    ) -> Poll<Verdict> {
        if self.renewing.is_some() {
            let verdict = self.poll_renewal(cx, shared);
            if verdict.is_ready() {
                if shared.relays.round.calls(slot, self.round) {
                    // Rules became others after that was asked.
                    cx.waker().wake_by_ref();
                }
                return verdict;
            }
        }
        let is_called =
            self.renewing.is_none() && self.asker.is_some() && shared.relays.round.calls(slot, self.round);
        if !is_called && (self.look_ms.wrapping_sub(now_ms) as i32) > 0 {
            return Poll::Pending;
        }
        let now = Instant::now();
        if now >= self.leave_at(shared) {
            return Poll::Ready(Verdict::Expired);
        }
        if self.renewing.is_none()
            && (is_called || now >= self.renew_at)
            && let Some(asker) = &self.asker
        {
            self.round = shared.relays.round.number();
            let seats = shared.renewals.clone();
            let within = shared.config.authenticate_timeout();
            self.renewing = Some(Box::pin(renew(self.authenticator.clone(), asker.clone(), seats, within)));
            self.look_again(now, shared);
            return self.poll_renewal(cx, shared);
        }
        self.look_again(now, shared);
        Poll::Pending
    }

    fn poll_renewal(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Verdict> {
        let (Some(renewing), Some(asker)) = (&mut self.renewing, &self.asker) else { return Poll::Pending };
        let Poll::Ready(decision) = renewing.as_mut().poll(cx) else { return Poll::Pending };
        self.renewing = None;
        match decision {
            Decision::Allow(passport) if passport.client_id == asker.client_id => {
                shared.metrics.passport_renewals.count(("renewed",));
                Poll::Ready(Verdict::Renewed(passport))
            }
            Decision::Deny(reason) if is_undecided(reason) => {
                shared.metrics.passport_renewals.count(("unavailable",));
                let now = Instant::now();
                self.renew_at = now + backoff(self.failures.into());
                self.failures = self.failures.saturating_add(1);
                self.look_again(now, shared);
                Poll::Pending
            }
            Decision::Allow(_) | Decision::Deny(_) => {
                shared.metrics.passport_renewals.count(("denied",));
                Poll::Ready(Verdict::Denied)
            }
        }
    }

    /// When the device has to go.
    fn leave_at(&self, shared: &Shared) -> Instant {
        match &self.asker {
            Some(_) => self.ends_at + Duration::from_millis(shared.config.passport_grace_ms),
            // The device could have renewed it whenever it liked.
            None => self.ends_at,
        }
    }

    fn look_again(&mut self, now: Instant, shared: &Shared) {
        let mut at = self.leave_at(shared);
        if self.asker.is_some() && self.renewing.is_none() {
            at = at.min(self.renew_at);
        }
        // A millisecond more: the clock in milliseconds may be behind by a part of one.
        let wait = at.saturating_duration_since(now).min(FAR).as_millis() as u32 + 1;
        self.look_ms = shared.now_ms().wrapping_add(wait);
    }
}

/// Whether nothing was said about the device. Somebody else's wrong passwords may slow it down.
pub(super) fn is_undecided(reason: DenyReason) -> bool {
    matches!(reason, DenyReason::Unavailable | DenyReason::SlowedDown)
}

/// Asks once more, when it is this connection's turn.
async fn renew<A: Authenticator>(
    authenticator: Arc<A>,
    asker: Asker,
    seats: Arc<Semaphore>,
    within: Duration,
) -> Decision {
    let unavailable = Decision::Deny(DenyReason::Unavailable);
    // Those who wait own no more than their place in the queue.
    let (Ok(_seat), Some(request)) = (seats.acquire().await, asker.request()) else { return unavailable };
    timeout(within, Box::pin(authenticator.authenticate(request))).await.unwrap_or(unavailable)
}

/// How long to wait before it is tried again, the second half of it up to chance.
pub(super) fn backoff(failures: u32) -> Duration {
    let whole = BACKOFF_MS.saturating_mul(1 << failures.min(16)).min(BACKOFF_MS_MAX);
    Duration::from_millis(rand::rng().random_range(whole / 2..=whole))
}
