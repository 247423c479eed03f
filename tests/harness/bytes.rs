//! Builders of raw packets. They write what they are told, legal or not; only lengths are filled in.

use super::property;

pub(crate) const V31: u8 = 3;
pub(crate) const V311: u8 = 4;
pub(crate) const V5: u8 = 5;

/// A Variable Byte Integer in its shortest form.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value % 128).unwrap();
        value /= 128;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// Two bytes of length, then the bytes: a UTF-8 Encoded String or Binary Data.
pub(crate) fn field(data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    let mut out = u16::try_from(data.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(data);
    out
}

/// A packet: first byte, Remaining Length, body.
pub(crate) fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

/// A Will Message for [`Connect::will`].
#[derive(Clone)]
pub(crate) struct Will {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    properties: Vec<u8>,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &str) -> Self {
        Will { topic: topic.into(), payload: payload.into(), qos: 0, retain: false, properties: Vec::new() }
    }
    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }
    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }
    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }
    pub(crate) fn delay(self, seconds: u32) -> Self {
        self.with(property::four(property::WILL_DELAY, seconds))
    }
}

/// A CONNECT packet.
#[derive(Clone)]
pub(crate) struct Connect {
    version_byte: u8,
    client_id: Vec<u8>,
    clean: bool,
    keep_alive: u16,
    properties: Vec<u8>,
    will: Option<Will>,
    user_name: Option<String>,
    password: Option<Vec<u8>>,
}

impl Connect {
    pub(crate) fn new(version: u8, client_id: &str) -> Self {
        Connect {
            version_byte: version,
            client_id: client_id.into(),
            clean: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            user_name: None,
            password: None,
        }
    }
    pub(crate) fn v5(client_id: &str) -> Self {
        Self::new(V5, client_id)
    }
    pub(crate) fn v4(client_id: &str) -> Self {
        Self::new(V311, client_id)
    }
    /// MQTT 5 with Clean Start off and a session that outlives the connection.
    pub(crate) fn stored(client_id: &str) -> Self {
        Self::v5(client_id).resume().with(property::four(property::SESSION_EXPIRY, 300))
    }
    /// Clean Start (v5) or Clean Session (v3) off.
    pub(crate) fn resume(mut self) -> Self {
        self.clean = false;
        self
    }
    pub(crate) fn clean(mut self) -> Self {
        self.clean = true;
        self
    }
    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }
    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.extend(property);
        self
    }
    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.user_name = Some(name.into());
        self.password = Some(password.into());
        self
    }
    pub(crate) fn password_only(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }
    pub(crate) fn user_only(mut self, name: &str) -> Self {
        self.user_name = Some(name.into());
        self
    }
    /// The protocol version, without the bridge bit that Mosquitto's bridges set.
    pub(crate) fn version(&self) -> u8 {
        self.version_byte & 0x7F
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let v5 = self.version() == V5;
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags |= u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        let mut body = field(if self.version() == V31 { "MQIsdp" } else { "MQTT" });
        body.push(self.version_byte);
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if v5 {
            body.extend(property::block(&self.properties));
        }
        body.extend(field(&self.client_id));
        if let Some(will) = &self.will {
            if v5 {
                body.extend(property::block(&will.properties));
            }
            body.extend(field(&will.topic));
            body.extend(field(&will.payload));
        }
        if let Some(name) = &self.user_name {
            body.extend(field(name));
        }
        if let Some(password) = &self.password {
            body.extend(field(password));
        }
        packet(0x10, &[&body])
    }
}

/// A PUBLISH packet.
#[derive(Clone)]
pub(crate) struct Publish {
    topic: Vec<u8>,
    payload: Vec<u8>,
    qos: u8,
    id: u16,
    dup: bool,
    retain: bool,
    properties: Option<Vec<u8>>,
}

impl Publish {
    /// QoS 0 and MQTT 5 until told otherwise.
    pub(crate) fn new(topic: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Self {
        Publish {
            topic: topic.as_ref().to_vec(),
            payload: payload.as_ref().to_vec(),
            qos: 0,
            id: 0,
            dup: false,
            retain: false,
            properties: Some(Vec::new()),
        }
    }
    /// In the form of 3.1 and 3.1.1, which have no properties.
    pub(crate) fn v3(mut self) -> Self {
        self.properties = None;
        self
    }
    /// QoS 1 with this Packet Identifier.
    pub(crate) fn qos1(mut self, id: u16) -> Self {
        self.qos = 1;
        self.id = id;
        self
    }
    /// QoS 2 with this Packet Identifier.
    pub(crate) fn qos2(mut self, id: u16) -> Self {
        self.qos = 2;
        self.id = id;
        self
    }
    pub(crate) fn dup(mut self) -> Self {
        self.dup = true;
        self
    }
    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }
    pub(crate) fn with(mut self, property: Vec<u8>) -> Self {
        self.properties.get_or_insert_default().extend(property);
        self
    }
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let first = 0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if let Some(properties) = &self.properties {
            body.extend(property::block(properties));
        }
        packet(first, &[&body, &self.payload])
    }
}

/// A SUBSCRIBE packet of MQTT 5: filters with their Subscription Options.
pub(crate) fn subscribe(id: u16, properties: &[u8], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(property::block(properties));
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    packet(0x82, &[&body])
}

/// A SUBSCRIBE packet of MQTT 3.1 and 3.1.1.
pub(crate) fn subscribe_v3(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(field(filter));
        body.push(*qos);
    }
    packet(0x82, &[&body])
}

/// An UNSUBSCRIBE packet of MQTT 5.
pub(crate) fn unsubscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    for filter in filters {
        body.extend(field(filter));
    }
    packet(0xA2, &[&body])
}

/// An UNSUBSCRIBE packet of MQTT 3.1 and 3.1.1.
pub(crate) fn unsubscribe_v3(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend(field(filter));
    }
    packet(0xA2, &[&body])
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) in its short form, which means success.
pub(crate) fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes()])
}

/// The same with a Reason Code.
pub(crate) fn ack_reason(first: u8, id: u16, reason: u8) -> Vec<u8> {
    packet(first, &[&id.to_be_bytes(), &[reason]])
}

/// A DISCONNECT packet of MQTT 5.
pub(crate) fn disconnect(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xE0, &[&[reason], &property::block(properties)])
}

/// An AUTH packet.
pub(crate) fn auth(reason: u8, properties: &[u8]) -> Vec<u8> {
    packet(0xF0, &[&[reason], &property::block(properties)])
}

pub(crate) const PINGREQ: &[u8] = &[0xC0, 0x00];
pub(crate) const PINGRESP: &[u8] = &[0xD0, 0x00];
/// DISCONNECT in its short form: normal disconnection.
pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0x00];
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
