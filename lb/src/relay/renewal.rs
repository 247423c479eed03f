//! How a connection goes on to be allowed: a device that authenticates anew, and a passport that is renewed.

use std::sync::Arc;
use std::task::{Context, Poll};

use authsvc::Authenticator;
use link::{Outgoing, Passport, Stream};
use mqtt::ReasonCode;

use super::enhanced::Outcome;
use super::tenure::{Tenure, Verdict};
use super::{Relay, Wire};
use crate::connections::Tenancy;
use crate::reason::CloseReason;
use crate::reply;

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// Goes on with re-authentication, if one is under way.
    pub(super) fn re_authenticate(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) {
        let Some(enhanced) = &mut self.enhanced else { return };
        match enhanced.poll(cx) {
            Poll::Pending => {}
            Poll::Ready(Outcome::Continue(data)) => {
                if !enhanced.put(out, |method, out| reply::auth_continue(method, &data, out)) {
                    self.close(CloseReason::BadPacket(ReasonCode::PacketTooLarge), out, now);
                }
            }
            // Before it is told that it has succeeded: a worker would not go on with a passport of somebody else.
            Poll::Ready(Outcome::Renewed(passport, _)) if !is_of(self.tenancy.as_ref(), &passport) => {
                self.close(CloseReason::ReAuthentication, out, now);
            }
            Poll::Ready(Outcome::Renewed(passport, data)) => {
                if !enhanced.put(out, |method, out| reply::auth_success(method, data.as_deref(), out)) {
                    return self.close(CloseReason::BadPacket(ReasonCode::PacketTooLarge), out, now);
                }
                if self.tenure.is_none() {
                    let authenticator = enhanced.authenticator();
                    self.tenure = Tenure::new(&passport, authenticator, None, 0, self.admitted.shared());
                }
                self.renew(passport, now);
            }
            Poll::Ready(Outcome::Failed) => self.close(CloseReason::ReAuthentication, out, now),
            Poll::Ready(Outcome::Undecided) => self.close(CloseReason::ReAuthenticationUndecided, out, now),
        }
    }

    /// Renews the passport when it is time, and ends the connection of a device that may not stay.
    pub(super) fn check_tenure(&mut self, cx: &mut Context<'_>, out: &mut Outgoing, now: u32) {
        let Some(tenure) = &mut self.tenure else { return };
        match tenure.poll(cx, self.admitted.shared(), self.slot, now) {
            Poll::Pending => {}
            Poll::Ready(Verdict::Renewed(passport)) => self.renew(passport, now),
            Poll::Ready(Verdict::Denied) => self.close(CloseReason::PassportDenied, out, now),
            Poll::Ready(Verdict::Expired) => self.close(CloseReason::PassportExpired, out, now),
        }
    }

    fn renew(&mut self, passport: Arc<Passport>, now: u32) {
        self.keep_pace_with(&passport, now);
        if let Some(tenancy) = &self.tenancy {
            tenancy.renew(passport.token_id.as_ref());
        }
        self.tenure.take_if(|tenure| !tenure.extend(&passport, self.admitted.shared()));
        if let Some(stream) = &mut self.stream {
            stream.renew(passport);
        }
    }
}

/// Whether a passport is of the user whose connection it is.
fn is_of(tenancy: Option<&Tenancy>, passport: &Passport) -> bool {
    tenancy.is_none_or(|tenancy| tenancy.holder().subject == passport.subject)
}
