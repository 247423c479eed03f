//! Authentication before CONNACK: one question, or for CONNECTs with an Authentication Method the AUTH exchange of v5
//! section 4.12.

use std::sync::Arc;

use authsvc::{Authenticator, Decision, DenyReason, Exchange, Request, Step};
use bytes::BytesMut;
use link::{AuthenticationOutcome, Outgoing, Passport};
use mqtt::{Connect, OwnedFrame, PacketType, Property, PropertyId, ReasonCode};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::room::{NoMore, RoomTaken};
use crate::reply;
use crate::shared::Shared;

/// A client that may connect.
pub(crate) struct Authenticated {
    pub(crate) passport: Arc<Passport>,
    /// For CONNACK, where an Authentication Method was used.
    pub(crate) outcome: Option<AuthenticationOutcome>,
}

/// A client that may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unauthenticated {
    /// CONNACK says so.
    Refused(ReasonCode),
    /// It broke off, by DISCONNECT or by closing.
    Gone,
}

impl From<DenyReason> for Unauthenticated {
    fn from(reason: DenyReason) -> Self {
        Self::Refused(reason.reason_code())
    }
}

impl From<NoMore> for Unauthenticated {
    fn from(reason: NoMore) -> Self {
        match reason {
            NoMore::Lost(_) => Self::Gone,
            NoMore::NoRoom => Self::Refused(ReasonCode::QuotaExceeded),
        }
    }
}

/// What a CONNECT says about enhanced authentication.
#[derive(Clone, Copy)]
pub(crate) struct Method<'a> {
    /// Authentication Method.
    pub(crate) name: &'a str,
    /// Authentication Data.
    data: Option<&'a [u8]>,
    /// The client's Maximum Packet Size, bytes.
    packet_bytes_max: usize,
}

/// The Authentication Method and Data of a CONNECT.
pub(crate) fn method<'a>(connect: &Connect<'a>) -> Option<Method<'a>> {
    let Property::AuthenticationMethod(name) = connect.properties.find(PropertyId::AuthenticationMethod)?
    else {
        return None;
    };
    let data = match connect.properties.find(PropertyId::AuthenticationData) {
        Some(Property::AuthenticationData(data)) => Some(data),
        _ => None,
    };
    Some(Method { name, data, packet_bytes_max: reply::packet_bytes_max(connect) })
}

/// Decides about a CONNECT without an Authentication Method.
pub(crate) async fn ask<A: Authenticator>(
    authenticator: &A,
    request: Request,
) -> Result<Authenticated, Unauthenticated> {
    match authenticator.authenticate(request).await {
        Decision::Allow(passport) => Ok(Authenticated { passport, outcome: None }),
        Decision::Deny(reason) => Err(reason.into()),
    }
}

/// Runs the exchange of a CONNECT with an Authentication Method. `received` holds what the client sent after CONNECT, and
/// afterwards what is left of it.
pub(crate) async fn exchange<A: Authenticator, T: AsyncRead + AsyncWrite + Unpin>(
    authenticator: &A,
    request: Request,
    asked: Method<'_>,
    io: &mut T,
    received: &mut BytesMut,
    shared: &Shared,
) -> Result<Authenticated, Unauthenticated> {
    let mut room = RoomTaken::none(shared);
    // v5 [MQTT-4.12.0-1]
    let method = asked.name;
    let mut exchange = authenticator.begin(method, request).ok_or(DenyReason::BadMethod)?;
    let mut step = exchange.step(asked.data).await;
    loop {
        match step {
            Step::Continue(data) => {
                send_continue(asked, &data, io).await?;
                let answer = read_packet(io, received, shared.config.connect_bytes_max, &mut room).await?;
                let data = client_data(&answer, method)?;
                step = exchange.step(data).await;
            }
            Step::Done(passport, data) => {
                refuse_early_packets(received)?;
                let outcome = AuthenticationOutcome { method: method.into(), data };
                return Ok(Authenticated { passport, outcome: Some(outcome) });
            }
            Step::Deny(reason) => return Err(reason.into()),
        }
    }
}

/// What a client may have sent before it could know CONNACK. v5 [MQTT-3.1.2-30]
fn refuse_early_packets(received: &[u8]) -> Result<(), Unauthenticated> {
    match received.first().map(|&byte| PacketType::from_first_byte(byte)) {
        None | Some(Some(PacketType::Auth | PacketType::Disconnect)) => Ok(()),
        Some(_) => Err(Unauthenticated::Refused(ReasonCode::ProtocolError)),
    }
}

async fn send_continue<T: AsyncWrite + Unpin>(
    asked: Method<'_>,
    data: &[u8],
    io: &mut T,
) -> Result<(), Unauthenticated> {
    let mut out = Outgoing::new();
    reply::auth_continue(asked.name, data, &mut out);
    // v5 [MQTT-3.1.2-24]
    if out.len() > asked.packet_bytes_max {
        return Err(Unauthenticated::Refused(ReasonCode::PacketTooLarge));
    }
    io.write_all(out.buffer()).await.map_err(|_| Unauthenticated::Gone)?;
    io.flush().await.map_err(|_| Unauthenticated::Gone)
}

async fn read_packet<T: AsyncRead + Unpin>(
    io: &mut T,
    received: &mut BytesMut,
    bytes_max: u32,
    room: &mut RoomTaken<'_>,
) -> Result<OwnedFrame, Unauthenticated> {
    loop {
        match mqtt::frame::split_bytes(received, bytes_max) {
            Ok(Some(frame)) => {
                room.hold(received.len()).await;
                return Ok(frame);
            }
            Ok(None) => {}
            Err(error) => return Err(Unauthenticated::Refused(error.reason_code())),
        }
        room.read(io, received).await?;
    }
}

/// The Authentication Data of the client's answer.
fn client_data<'a>(answer: &'a OwnedFrame, method: &str) -> Result<Option<&'a [u8]>, Unauthenticated> {
    match answer.packet_type() {
        PacketType::Auth => {}
        PacketType::Disconnect => return Err(Unauthenticated::Gone),
        // v5 [MQTT-3.1.2-30]
        _ => return Err(Unauthenticated::Refused(ReasonCode::ProtocolError)),
    }
    let auth = reply::decode_auth(answer.as_frame()).map_err(Unauthenticated::Refused)?;
    // v5 [MQTT-4.12.0-3], v5 [MQTT-4.12.0-5]
    if auth.reason != ReasonCode::ContinueAuthentication || auth.method != method {
        return Err(Unauthenticated::Refused(ReasonCode::ProtocolError));
    }
    Ok(auth.data)
}
