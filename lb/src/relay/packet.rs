//! What becomes of each Control Packet from a device: most go to the worker, PINGREQ and AUTH end here.

use authsvc::Authenticator;
use link::{Outgoing, Stream};
use mqtt::{Frame, Packet, PacketType, Property, PropertyId, ProtocolVersion, ReasonCode, Receiver};

use super::Relay;
use super::enhanced::Enhanced;
use super::pace::Passage;
use crate::reason::CloseReason;
use crate::transport::Wire;

/// From this size on, bytes of an incomplete packet count as a sign of life, so that a large packet on a slow network
/// outlives its Keep Alive while dripping single bytes do not. The specification counts whole packets only.
const ALIVE_BYTES: usize = 1_024;

/// PINGRESP. v5 [MQTT-3.12.4-1]
const PINGRESP: [u8; 2] = [0xD0, 0];

impl<T, S, A> Relay<T, S, A>
where
    T: Wire,
    S: Stream,
    A: Authenticator,
{
    /// Deals with the packets that `chunk` completes, and with those that were kept back, as far as the worker takes them.
    pub(super) fn handle(&mut self, chunk: &[u8], out: &mut Outgoing, now: u32) {
        let Some(stream) = &mut self.stream else { return };
        let held = self.frames.buffered();
        let rules = Rules { is_v5: self.version.is_v5(), has_expiry: self.terms.has_expiry() };
        let shared = self.admitted.shared();
        let configured = shared.config.packet_bytes_max;
        let packet_bytes_max =
            self.pace.as_ref().map_or(configured, |pace| pace.packet_bytes_max(configured));
        let mut packets = 0;
        let mut end = None;
        let mut frames = self.frames.frames(chunk, packet_bytes_max).of_version(self.version);
        while end.is_none() {
            let next_type = frames.next_type();
            if next_type.is_some_and(|packet_type| !stream.takes(packet_type)) {
                (self.has_whole, self.is_paused) = (true, true);
                break;
            }
            if let (Some(pace), Some(packet_type)) = (&mut self.pace, next_type) {
                let admission = pace.admit(packet_type, shared, now);
                if admission != Passage::Passes {
                    (self.has_whole, self.is_paused) = (true, true);
                    end = (admission == Passage::HeldTooLong).then_some(CloseReason::TooFast);
                    break;
                }
            }
            if stream.looks_ahead() {
                match frames.peek_frame() {
                    Ok(Some(frame)) if !stream.clears(frame) => {
                        (self.has_whole, self.is_paused) = (true, true);
                        break;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        end = Some(CloseReason::BadPacket(error.reason_code()));
                        break;
                    }
                }
            }
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    packets += 1;
                    if let Some(pace) = &mut self.pace {
                        pace.spend(frame.packet_type(), frame.raw.len());
                    }
                    end = on_frame(frame, stream, &mut self.enhanced, rules, out).err();
                }
                Ok(None) => break,
                Err(error) => {
                    let reason = error.reason_code();
                    if reason == ReasonCode::PacketTooLarge && packet_bytes_max < configured {
                        shared.metrics.limited.count(("packet_bytes_max",));
                    }
                    end = Some(CloseReason::BadPacket(reason));
                }
            }
        }
        drop(frames);
        self.received_bytes += chunk.len() as u32;
        self.received_packets += packets;
        if packets > 0 || chunk.len() >= ALIVE_BYTES {
            self.received_ms = now;
        }
        let holds = self.frames.buffered();
        if holds != held {
            self.tell_held();
        }
        if let Some(reason) = end {
            self.close(reason, out, now);
        }
    }
}

/// What packets are judged by.
#[derive(Clone, Copy)]
struct Rules {
    is_v5: bool,
    /// CONNECT has a Session Expiry Interval above 0.
    has_expiry: bool,
}

/// One packet. An error ends the connection.
#[inline]
fn on_frame<S: Stream, A: Authenticator>(
    frame: Frame<'_>,
    stream: &mut S,
    enhanced: &mut Option<Box<Enhanced<A>>>,
    Rules { is_v5, has_expiry }: Rules,
    out: &mut Outgoing,
) -> Result<(), CloseReason> {
    match frame.packet_type() {
        PacketType::Publish
        | PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubRel
        | PacketType::PubComp
        | PacketType::Subscribe
        | PacketType::Unsubscribe => stream.send(frame, out).map_err(CloseReason::Worker),
        PacketType::PingReq => {
            if !frame.body().is_empty() || (is_v5 && !frame.minimal_length) {
                return Err(CloseReason::BadPacket(ReasonCode::MalformedPacket));
            }
            out.put_slice(&PINGRESP);
            Ok(())
        }
        // The worker does what it says: a Reason Code of 0x00 discards the Will. Its answer would come too late, behind a
        // link, so that what is wrong in MQTT 5 is answered here. What comes after it is not looked at. v5 [MQTT-3.14.4-1]
        PacketType::Disconnect => {
            if is_v5 {
                check_disconnect(frame, has_expiry).map_err(CloseReason::BadPacket)?;
            }
            match stream.send(frame, out) {
                Err(reason) if reason.is_error() => Err(CloseReason::Worker(reason)),
                _ => Err(CloseReason::ClientDisconnect),
            }
        }
        PacketType::Auth if is_v5 => match enhanced {
            Some(enhanced) => enhanced.on_auth(frame).map_err(CloseReason::BadPacket),
            // v5 [MQTT-4.12.0-7]
            None => Err(CloseReason::BadPacket(ReasonCode::ProtocolError)),
        },
        // The type is reserved before MQTT 5.
        PacketType::Auth => Err(CloseReason::BadPacket(ReasonCode::MalformedPacket)),
        // A second CONNECT, v5 [MQTT-3.1.0-2]; the rest only a server sends.
        PacketType::Connect
        | PacketType::ConnAck
        | PacketType::SubAck
        | PacketType::UnsubAck
        | PacketType::PingResp => Err(CloseReason::BadPacket(ReasonCode::ProtocolError)),
    }
}

/// Whether a DISCONNECT of MQTT 5 is as it must be.
fn check_disconnect(frame: Frame<'_>, has_expiry: bool) -> Result<(), ReasonCode> {
    let packet = Packet::decode(ProtocolVersion::V5, Receiver::Server, frame);
    let Packet::Disconnect(disconnect) = packet.map_err(|error| error.reason_code())? else {
        return Err(ReasonCode::ProtocolError);
    };
    match disconnect.properties.find(PropertyId::SessionExpiryInterval) {
        // v5 section 3.14.2.2.2
        Some(Property::SessionExpiryInterval(seconds)) if seconds > 0 && !has_expiry => {
            Err(ReasonCode::ProtocolError)
        }
        _ => Ok(()),
    }
}
