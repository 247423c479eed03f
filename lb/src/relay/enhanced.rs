//! Re-authentication of a connected device (v5 section 4.12.1). Other packets flow on while it runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use authsvc::{Authenticator, Exchange, Request, Step};
use bytes::Bytes;
use link::{Outgoing, Passport};
use mqtt::{Frame, ReasonCode};
use tokio::time::sleep;

use super::tenure::{backoff, is_undecided};
use crate::reply;

/// An exchange while it decides; it comes back with its decision.
type Deciding<E> = Pin<Box<dyn Future<Output = (E, Step)> + Send>>;

/// What re-authentication needs, kept for connections whose CONNECT had an Authentication Method.
pub(crate) struct Enhanced<A: Authenticator> {
    /// Of the CONNECT; all AUTH packets repeat it. v5 [MQTT-4.12.0-5]
    pub(crate) method: Arc<str>,
    /// The client's Maximum Packet Size, bytes.
    packet_bytes_max: usize,
    authenticator: Arc<A>,
    /// As for CONNECT, without the password.
    request: Request,
    run: Run<A::Exchange>,
}

enum Run<E> {
    None,
    AwaitingClient(E),
    Deciding(Deciding<E>),
}

/// How re-authentication goes on.
pub(super) enum Outcome {
    /// AUTH 0x18 with this data is due.
    Continue(Bytes),
    /// AUTH 0x00 with this data is due, and the passport is new.
    Renewed(Arc<Passport>, Option<Bytes>),
    /// The device is not who it was; the connection ends. v5 [MQTT-4.12.1-2]
    Failed,
    /// Nobody could say whether it is, in the midst of an exchange; the connection ends, too.
    Undecided,
}

impl<A: Authenticator> Enhanced<A> {
    pub(crate) fn new(
        authenticator: Arc<A>,
        method: Arc<str>,
        packet_bytes_max: usize,
        request: Request,
    ) -> Self {
        let request = Request { password: None, ..request };
        Self { method, packet_bytes_max, authenticator, request, run: Run::None }
    }

    /// Writes an AUTH packet, if the client takes one that long.
    // v5 [MQTT-3.1.2-24]
    pub(super) fn put(&self, out: &mut Outgoing, write: impl FnOnce(&str, &mut Outgoing)) -> bool {
        let mut packet = Outgoing::new();
        write(&self.method, &mut packet);
        let fits = packet.len() <= self.packet_bytes_max;
        if fits {
            out.append(&mut packet);
        }
        fits
    }

    pub(super) fn authenticator(&self) -> &Arc<A> {
        &self.authenticator
    }

    /// Takes an AUTH packet; [`Enhanced::poll`] has what follows from it.
    pub(super) fn on_auth(&mut self, frame: Frame<'_>) -> Result<(), ReasonCode> {
        let auth = reply::decode_auth(frame)?;
        // v5 [MQTT-4.12.0-5], v5 [MQTT-4.12.1-1]
        if auth.method != &*self.method {
            return Err(ReasonCode::ProtocolError);
        }
        let data = auth.data.map(Bytes::copy_from_slice);
        self.run = match (auth.reason, std::mem::replace(&mut self.run, Run::None)) {
            (ReasonCode::ReAuthenticate, Run::None) => {
                let begin = self.beginning();
                let exchange = begin().ok_or(ReasonCode::NotAuthorized)?;
                Run::Deciding(Box::pin(decide_first(exchange, begin, data)))
            }
            (ReasonCode::ContinueAuthentication, Run::AwaitingClient(exchange)) => {
                Run::Deciding(Box::pin(decide(exchange, data)))
            }
            _ => return Err(ReasonCode::ProtocolError),
        };
        Ok(())
    }

    fn beginning(&self) -> impl Fn() -> Option<A::Exchange> + Send + use<A> {
        let (authenticator, method) = (self.authenticator.clone(), self.method.clone());
        let request = self.request.clone();
        move || authenticator.begin(&method, request.clone())
    }

    /// Pending while there is nothing to decide, too.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Run::Deciding(deciding) = &mut self.run else { return Poll::Pending };
        let (exchange, step) = ready!(deciding.as_mut().poll(cx));
        self.run = Run::None;
        Poll::Ready(match step {
            Step::Continue(data) => {
                self.run = Run::AwaitingClient(exchange);
                Outcome::Continue(data)
            }
            Step::Done(passport, data) => Outcome::Renewed(passport, data),
            Step::Deny(reason) if is_undecided(reason) => Outcome::Undecided,
            Step::Deny(_) => Outcome::Failed,
        })
    }
}

/// Asks again as long as nobody can say: the device is here by the passport that it has, and goes when that ends.
async fn decide_first<E: Exchange>(
    mut exchange: E,
    begin: impl Fn() -> Option<E>,
    data: Option<Bytes>,
) -> (E, Step) {
    let mut failures = 0;
    loop {
        let (last, step) = decide(exchange, data.clone()).await;
        if !matches!(step, Step::Deny(reason) if is_undecided(reason)) {
            return (last, step);
        }
        sleep(backoff(failures)).await;
        failures += 1;
        let Some(next) = begin() else { return (last, step) };
        exchange = next;
    }
}

async fn decide<E: Exchange>(mut exchange: E, data: Option<Bytes>) -> (E, Step) {
    let step = exchange.step(data.as_deref()).await;
    (exchange, step)
}
