//! The packets that the edge itself sends and receives: refusing CONNACKs, DISCONNECT, AUTH.

use bytes::{Bytes, BytesMut};
use link::Outgoing;
use mqtt::{
    Auth, ConnAck, Connect, Disconnect, Frame, Packet, PropertiesBuf, Property, PropertyId, ProtocolVersion,
    ReasonCode, Receiver,
};

/// An AUTH packet from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientAuth<'a> {
    pub(crate) reason: ReasonCode,
    pub(crate) method: &'a str,
    pub(crate) data: Option<&'a [u8]>,
}

/// Decodes an AUTH packet.
///
/// # Errors
/// The Reason Code that answers its fault.
pub(crate) fn decode_auth(frame: Frame<'_>) -> Result<ClientAuth<'_>, ReasonCode> {
    match Packet::decode(ProtocolVersion::V5, Receiver::Server, frame) {
        Ok(Packet::Auth(auth)) => {
            let Some(Property::AuthenticationMethod(method)) =
                auth.properties.find(PropertyId::AuthenticationMethod)
            else {
                return Err(ReasonCode::ProtocolError);
            };
            let data = match auth.properties.find(PropertyId::AuthenticationData) {
                Some(Property::AuthenticationData(data)) => Some(data),
                _ => None,
            };
            Ok(ClientAuth { reason: auth.reason, method, data })
        }
        Ok(_) => Err(ReasonCode::ProtocolError),
        Err(error) => Err(error.reason_code()),
    }
}

/// The client's Maximum Packet Size, bytes.
// v5 [MQTT-3.1.2-24]
pub(crate) fn packet_bytes_max(connect: &Connect<'_>) -> usize {
    match connect.properties.find(PropertyId::MaximumPacketSize) {
        Some(Property::MaximumPacketSize(bytes)) => bytes as usize,
        _ => usize::MAX,
    }
}

/// A CONNACK that refuses.
pub(crate) fn refusal(version: ProtocolVersion, reason: ReasonCode) -> Bytes {
    let mut out = BytesMut::with_capacity(8);
    ConnAck::new(false, reason).encode(version, &mut out);
    out.freeze()
}

/// DISCONNECT to an MQTT 5 client.
pub(crate) fn disconnect(reason: ReasonCode, out: &mut Outgoing) {
    Disconnect::new(reason).encode(ProtocolVersion::V5, out.buffer());
}

/// Where devices go from an edge that ends. v5 section 4.13
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction<'a> {
    /// For now, or for good.
    pub(crate) reason: ReasonCode,
    /// The server.
    pub(crate) reference: &'a str,
}

impl Direction<'_> {
    fn properties(self) -> PropertiesBuf {
        let mut properties = PropertiesBuf::new();
        properties.push(Property::ServerReference(self.reference));
        properties
    }

    /// DISCONNECT to an MQTT 5 client.
    pub(crate) fn disconnect(self) -> Bytes {
        let mut out = BytesMut::new();
        let properties = self.properties();
        Disconnect { reason: self.reason, properties: properties.as_properties() }
            .encode(ProtocolVersion::V5, &mut out);
        out.freeze()
    }

    /// The CONNACK that refuses this CONNECT. The reference is left out for a client that takes no packet of that size.
    pub(crate) fn connack(self, connect: &Connect<'_>) -> Bytes {
        if !connect.version.is_v5() {
            return refusal(connect.version, ReasonCode::ServerUnavailable);
        }
        let mut out = BytesMut::new();
        let properties = self.properties();
        ConnAck { properties: properties.as_properties(), ..ConnAck::new(false, self.reason) }
            .encode(connect.version, &mut out);
        if out.len() > packet_bytes_max(connect) {
            return refusal(connect.version, self.reason);
        }
        out.freeze()
    }
}

/// AUTH that asks for more. v5 [MQTT-4.12.0-2]
pub(crate) fn auth_continue(method: &str, data: &[u8], out: &mut Outgoing) {
    auth(ReasonCode::ContinueAuthentication, method, Some(data), out);
}

/// AUTH that ends a re-authentication well.
pub(crate) fn auth_success(method: &str, data: Option<&[u8]>, out: &mut Outgoing) {
    auth(ReasonCode::Success, method, data, out);
}

// v5 [MQTT-4.12.0-5]
fn auth(reason: ReasonCode, method: &str, data: Option<&[u8]>, out: &mut Outgoing) {
    let mut properties = PropertiesBuf::new();
    properties.push(Property::AuthenticationMethod(method));
    if let Some(data) = data {
        properties.push(Property::AuthenticationData(data));
    }
    Auth { reason, properties: properties.as_properties() }.encode(ProtocolVersion::V5, out.buffer());
}
