//! CONNECT is read here, once, and answered: whether its Will Message is acceptable, and what CONNACK promises.

use std::sync::Arc;

use link::{Limits, Outgoing, Passport};
use mqtt::{ConnAck, Connect, PropertiesBuf, Property, ProtocolVersion, QoS, ReasonCode};
use state::{Message, UnixMs, Will};

use crate::authorize::bounds::{Bound, Bounds};
use crate::authorize::principal::owner_of;
use crate::authorize::{Authority, Publication};
use crate::config::BrokerConfig;
use crate::session::{Opening, Outputs, Session};

/// What a CONNECT asks for.
pub(crate) struct Terms {
    pub version: ProtocolVersion,
    /// The client is a bridge that cannot say how it means its subscriptions.
    pub is_bridge: bool,
    /// Clean Start; before MQTT 5, Clean Session.
    pub clean_start: bool,
    pub will: Option<Will>,
    /// What the Will Message takes of what its session may hold.
    pub will_bytes: u32,
    /// Session Expiry Interval asked for, seconds; `None` before MQTT 5.
    pub expiry_wanted_s: Option<u32>,
    /// Session Expiry Interval granted, seconds.
    pub expiry_s: u32,
    /// Receive Maximum.
    pub receive_maximum: u16,
    /// Topic Alias Maximum.
    pub topic_alias_max: u16,
    /// Maximum Packet Size, bytes.
    pub packet_bytes_max: u32,
    /// Request Response Information.
    pub wants_response_information: bool,
    /// Request Problem Information.
    pub wants_reasons: bool,
}

impl Terms {
    /// Reads them, with the defaults of section 3.1.2.11.
    pub(crate) fn read(
        connect: &Connect<'_>,
        passport: &Passport,
        config: &BrokerConfig,
        now: UnixMs,
    ) -> Self {
        let is_v5 = connect.version.is_v5();
        let mut terms = Self {
            version: connect.version,
            is_bridge: connect.is_bridge,
            clean_start: connect.clean_start,
            will: connect.will.as_ref().map(|will| will_of(will, passport, now)),
            will_bytes: connect.will.as_ref().map_or(0, bytes_of_will),
            expiry_wanted_s: is_v5.then_some(0),
            expiry_s: if is_v5 || connect.clean_start { 0 } else { config.session_expiry_v3_s },
            receive_maximum: u16::MAX,
            topic_alias_max: 0,
            packet_bytes_max: u32::MAX,
            wants_response_information: false,
            wants_reasons: is_v5,
        };
        for property in &connect.properties {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    terms.expiry_wanted_s = Some(seconds);
                    terms.expiry_s = seconds;
                }
                Property::ReceiveMaximum(max) => terms.receive_maximum = max,
                Property::TopicAliasMaximum(max) => terms.topic_alias_max = max,
                Property::MaximumPacketSize(bytes) => terms.packet_bytes_max = bytes,
                Property::RequestResponseInformation(wanted) => terms.wants_response_information = wanted,
                Property::RequestProblemInformation(wanted) => terms.wants_reasons = wanted,
                _ => {}
            }
        }
        terms.expiry_s = terms.expiry_s.min(config.session_expiry_max_s);
        terms
    }

    /// The Will Message as what is published when it is due.
    pub(crate) fn publication(&self) -> Option<Publication<'_>> {
        self.will.as_ref().map(|will| (&*will.message).into())
    }
}

fn will_of(will: &mqtt::Will<'_>, passport: &Passport, now: UnixMs) -> Will {
    let properties = will.properties.publish_summary();
    let message = Message::new(will.topic, &properties.forwardable, will.payload, will.qos, will.retain, now)
        .with_expiry(properties.message_expiry_s);
    let message = if will.retain { message.with_owner(owner_of(passport)) } else { message };
    Will { message: Arc::new(message), delay_s: properties.will_delay_s.unwrap_or(0) }
}

fn bytes_of_will(will: &mqtt::Will<'_>) -> u32 {
    let bytes = will.topic.len() + will.payload.len() + will.properties.as_bytes().len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// What CONNACK tells of this one connection.
pub(crate) struct Told<'a> {
    /// The Client Identifier that the server assigned.
    pub assigned_client_id: Option<&'a str>,
    /// Server Keep Alive, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// The outcome of enhanced authentication.
    pub authentication: Option<&'a link::AuthenticationOutcome>,
    /// What its passport bounds it by.
    pub limits: Option<&'a Limits>,
}

impl<'a> Told<'a> {
    /// As the edge asks.
    pub(crate) fn by_edge(open: &'a link::Open) -> Self {
        Self {
            assigned_client_id: open.assigned_client_id.as_deref(),
            server_keep_alive_s: open.server_keep_alive_s,
            authentication: open.authentication.as_ref(),
            limits: open.passport.limits.as_deref(),
        }
    }

    fn of(opening: &'a Opening) -> Self {
        Self {
            assigned_client_id: opening.assigned.then_some(&opening.client_id),
            server_keep_alive_s: opening.server_keep_alive_s,
            authentication: opening.authentication.as_ref(),
            limits: opening.passport.limits.as_deref(),
        }
    }
}

impl Session {
    /// Writes the CONNACK that refuses a connection. Nothing may follow it.
    // v5 [MQTT-3.2.2-6]
    pub(crate) fn refuse(terms: &Terms, reason: ReasonCode, out: &mut Outgoing) {
        let connack = ConnAck::new(false, reason);
        if connack.encoded_len(terms.version) <= terms.packet_bytes_max as usize {
            connack.encode(terms.version, out.buffer());
        }
    }

    /// Whether the Will Message may be published when it is due.
    ///
    /// # Errors
    /// The Reason Code for CONNACK.
    pub(crate) fn check_will(
        terms: &Terms,
        authority: &Authority,
        config: &BrokerConfig,
    ) -> Result<(), ReasonCode> {
        if let Some(bound) = Self::bound_of_will(terms, authority, config) {
            return Err(bound.reason_code());
        }
        match terms.publication() {
            Some(will) if !authority.may_publish(will) => Err(ReasonCode::NotAuthorized),
            _ => Ok(()),
        }
    }

    /// The bound that the Will Message is beyond.
    pub(crate) fn bound_of_will(
        terms: &Terms,
        authority: &Authority,
        config: &BrokerConfig,
    ) -> Option<Bound> {
        let bounds = Bounds::new(config, authority.limits());
        let is_too_large = terms.will_bytes as usize > bounds.session_bytes_max();
        bounds.exceeded_by(terms.publication()?).or(is_too_large.then_some(Bound::SessionBytes))
    }

    /// Whether the client takes the CONNACK that would accept it.
    ///
    /// # Errors
    /// Packet too large, when that would be over the client's Maximum Packet Size.
    // v5 [MQTT-3.1.2-24]
    pub(crate) fn check_connack(
        terms: &Terms,
        told: &Told<'_>,
        config: &BrokerConfig,
    ) -> Result<(), ReasonCode> {
        if !terms.version.is_v5() {
            return Ok(());
        }
        let mut properties = PropertiesBuf::new();
        promise(told, terms, config, &mut properties);
        let properties = properties.as_properties();
        let connack = ConnAck { session_present: false, reason: ReasonCode::Success, properties };
        match connack.encoded_len(terms.version) <= terms.packet_bytes_max as usize {
            true => Ok(()),
            false => Err(ReasonCode::PacketTooLarge),
        }
    }

    /// Writes the CONNACK that accepts.
    ///
    /// # Errors
    /// Packet too large, when it would be over the client's Maximum Packet Size; nothing is written.
    // v5 [MQTT-3.1.4-5]
    pub(crate) fn put_connack(
        &self,
        opening: &Opening,
        terms: &Terms,
        out: &mut Outputs<'_>,
    ) -> Result<(), ReasonCode> {
        let present = opening.stored.as_ref().is_some_and(|owned| owned.present);
        let mut properties = PropertiesBuf::new();
        if self.version.is_v5() {
            promise(&Told::of(opening), terms, &self.config, &mut properties);
        }
        let needed = properties.clone();
        let wants_prefix = self.version.is_v5() && terms.wants_response_information;
        let prefix = Some(&opening.client_id).filter(|_| wants_prefix).and_then(|id| response_prefix(id));
        if let Some(prefix) = &prefix {
            properties.push(Property::ResponseInformation(prefix));
        }
        for properties in [&properties, &needed] {
            let properties = properties.as_properties();
            let connack = ConnAck { session_present: present, reason: ReasonCode::Success, properties };
            if self.fits(connack.encoded_len(self.version)) {
                connack.encode(self.version, out.wire.buffer());
                return Ok(());
            }
        }
        Err(ReasonCode::PacketTooLarge)
    }
}

/// What the topics may begin with by which a client is answered: no other client has that, by convention. It grants nothing: the
/// passport's rules decide. What has a wildcard can be no part of a Topic Name.
// v5 [MQTT-3.1.2-28]
pub(super) fn response_prefix(client_id: &str) -> Option<String> {
    (!client_id.contains(['+', '#'])).then(|| format!("response/{client_id}"))
}

/// What differs from the defaults of section 3.2.2.3.
fn promise(told: &Told<'_>, terms: &Terms, config: &BrokerConfig, properties: &mut PropertiesBuf) {
    if terms.expiry_wanted_s != Some(terms.expiry_s) {
        properties.push(Property::SessionExpiryInterval(terms.expiry_s));
    }
    properties.push(Property::ReceiveMaximum(config.receive_maximum));
    let bounds = Bounds::new(config, told.limits);
    properties.push(Property::MaximumPacketSize(bounds.packet_bytes_max()));
    // v5 [MQTT-3.2.2-9]
    if bounds.qos_max() < QoS::ExactlyOnce {
        properties.push(Property::MaximumQoS(bounds.qos_max()));
    }
    if !bounds.retain() {
        properties.push(Property::RetainAvailable(false));
    }
    if let Some(client_id) = told.assigned_client_id {
        // v5 [MQTT-3.2.2-16]
        properties.push(Property::AssignedClientIdentifier(client_id));
    }
    if config.topic_alias_max > 0 {
        properties.push(Property::TopicAliasMaximum(config.topic_alias_max));
    }
    if !bounds.shared_subscriptions() {
        properties.push(Property::SharedSubscriptionAvailable(false));
    }
    if let Some(seconds) = told.server_keep_alive_s {
        properties.push(Property::ServerKeepAlive(seconds));
    }
    if let Some(authentication) = told.authentication {
        // v5 [MQTT-4.12.0-5]
        properties.push(Property::AuthenticationMethod(&authentication.method));
        if let Some(data) = &authentication.data {
            properties.push(Property::AuthenticationData(data));
        }
    }
}
