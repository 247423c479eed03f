//! Re-authentication of a connected device (v5 section 4.12.1). Other packets flow on while it runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use authsvc::{Authenticator, Exchange, Request, Step};
use bytes::Bytes;
use link::{Outgoing, Passport};
use mqtt::{Frame, ReasonCode};

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
    /// The connection ends. v5 [MQTT-4.12.1-2]
    Failed,
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
        let exchange = match (auth.reason, std::mem::replace(&mut self.run, Run::None)) {
            (ReasonCode::ReAuthenticate, Run::None) => self
                .authenticator
                .begin(&self.method, self.request.clone())
                .ok_or(ReasonCode::NotAuthorized)?,
            (ReasonCode::ContinueAuthentication, Run::AwaitingClient(exchange)) => exchange,
            _ => return Err(ReasonCode::ProtocolError),
        };
        let data = auth.data.map(Bytes::copy_from_slice);
        self.run = Run::Deciding(Box::pin(decide(exchange, data)));
        Ok(())
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
            Step::Deny(_) => Outcome::Failed,
        })
    }
}

async fn decide<E: Exchange>(mut exchange: E, data: Option<Bytes>) -> (E, Step) {
    let step = exchange.step(data.as_deref()).await;
    (exchange, step)
}
