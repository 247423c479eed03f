//! An Application Message as it waits, travels and is stored: one allocation for topic, properties and payload, shared
//! by everyone it is delivered to. What differs per subscriber is in [`Delivery`].

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use mqtt::QoS;

use crate::Principal;

/// Milliseconds since the Unix epoch, by the clock of a store: that was the wall clock once, and is not set with it.
pub type UnixMs = u64;

/// Whose a message is that is to be retained: they are counted by that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who published it.
    pub principal: Principal,
    /// Retained messages that the principal may have, this one included. `None`: any number.
    pub messages_max: Option<u64>,
}

/// An Application Message that a server has accepted. Immutable; share it by [`Arc`]. Equal is what says the same, whoever said
/// it.
#[derive(Clone, Debug)]
pub struct Message {
    /// Topic Name, then properties, then payload.
    bytes: Bytes,
    topic_len: u16,
    properties_len: u32,
    qos: QoS,
    retain: bool,
    published_at: UnixMs,
    /// 0: never.
    expires_at: UnixMs,
    owner: Option<Box<Owner>>,
}

impl PartialEq for Message {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts() && self.header() == other.header()
    }
}

impl Eq for Message {}

impl Message {
    /// Copies the parts of a PUBLISH into one allocation.
    ///
    /// `properties` is the validated slice that is forwarded unchanged: no Topic Alias, no Message Expiry Interval, no
    /// Subscription Identifier. `topic` is at most 65,535 bytes, which the codec has checked.
    pub fn new(
        topic: &str,
        properties: &[u8],
        payload: &[u8],
        qos: QoS,
        retain: bool,
        published_at: UnixMs,
    ) -> Self {
        let mut bytes = BytesMut::with_capacity(topic.len() + properties.len() + payload.len());
        bytes.put_slice(topic.as_bytes());
        bytes.put_slice(properties);
        bytes.put_slice(payload);
        Self {
            bytes: bytes.freeze(),
            topic_len: u16::try_from(topic.len()).unwrap_or(u16::MAX),
            properties_len: u32::try_from(properties.len()).unwrap_or(u32::MAX),
            qos,
            retain,
            published_at,
            expires_at: 0,
            owner: None,
        }
    }

    /// Sets whose it is.
    #[must_use]
    pub fn with_owner(mut self, owner: Owner) -> Self {
        self.owner = Some(Box::new(owner));
        self
    }

    /// Whose it is, if that is known: of messages that are to be retained.
    pub fn owner(&self) -> Option<&Owner> {
        self.owner.as_deref()
    }

    /// Sets the Message Expiry Interval, in seconds from the time of publishing.
    #[must_use]
    pub fn with_expiry(mut self, interval_s: Option<u32>) -> Self {
        self.expires_at = interval_s.map_or(0, |s| self.published_at + u64::from(s) * 1000);
        self
    }

    /// The same message, published anew at `now`: its Message Expiry Interval begins then.
    #[must_use]
    pub fn published_again(&self, now: UnixMs) -> Self {
        let interval = |at: UnixMs| at.saturating_sub(self.published_at);
        let expires_at = self.expires_at().map_or(0, |at| now.saturating_add(interval(at)));
        Self { published_at: now, expires_at, ..self.clone() }
    }

    /// The Topic Name.
    pub fn topic(&self) -> &str {
        let topic = self.bytes.get(..usize::from(self.topic_len)).unwrap_or_default();
        std::str::from_utf8(topic).unwrap_or_default()
    }

    /// The encoded properties that are forwarded unchanged; empty for messages from MQTT 3.
    pub fn properties(&self) -> &[u8] {
        let start = usize::from(self.topic_len);
        self.bytes.get(start..start + self.properties_len as usize).unwrap_or_default()
    }

    /// The payload, sharing this message's memory.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(self.payload_start()..)
    }

    /// The payload, borrowed.
    pub fn payload_slice(&self) -> &[u8] {
        self.bytes.get(self.payload_start()..).unwrap_or_default()
    }

    /// The QoS it was published with.
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Whether it was published with RETAIN set.
    pub fn retain(&self) -> bool {
        self.retain
    }

    /// When a server accepted it.
    pub fn published_at(&self) -> UnixMs {
        self.published_at
    }

    /// When it expires, `None` for never.
    pub fn expires_at(&self) -> Option<UnixMs> {
        (self.expires_at != 0).then_some(self.expires_at)
    }

    /// Whether its Message Expiry Interval has passed at `now`.
    pub fn is_expired(&self, now: UnixMs) -> bool {
        self.expires_at != 0 && self.expires_at <= now
    }

    /// The Message Expiry Interval to send at `now`, in seconds, rounded up so that a live message never says 0. No more than
    /// it was published with, whatever `now` is.
    // v5 [MQTT-3.3.2-6]
    pub fn expiry_remaining_s(&self, now: UnixMs) -> Option<u32> {
        let left = self.expires_at()?.saturating_sub(now.max(self.published_at)).div_ceil(1000);
        Some(u32::try_from(left).unwrap_or(u32::MAX))
    }

    /// Bytes that it keeps in memory, for accounting against queue bounds.
    pub fn size(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// The three parts as they were laid out by [`Message::new`], with the length of topic and properties: what a store
    /// writes down.
    pub fn parts(&self) -> (&Bytes, u16, u32) {
        (&self.bytes, self.topic_len, self.properties_len)
    }

    /// Rebuilds a message from what [`Message::parts`] gave; `None` if the lengths do not fit the bytes or the topic is
    /// not UTF-8.
    pub fn from_parts(
        bytes: Bytes,
        topic_len: u16,
        properties_len: u32,
        header: MessageHeader,
    ) -> Option<Self> {
        let start = usize::from(topic_len);
        std::str::from_utf8(bytes.get(..start)?).ok()?;
        bytes.get(start..start.checked_add(properties_len as usize)?)?;
        let MessageHeader { qos, retain, published_at, expires_at } = header;
        Some(Self {
            bytes,
            topic_len,
            properties_len,
            qos,
            retain,
            published_at,
            expires_at: expires_at.unwrap_or(0),
            owner: None,
        })
    }

    /// The fields beside the bytes.
    pub fn header(&self) -> MessageHeader {
        MessageHeader {
            qos: self.qos,
            retain: self.retain,
            published_at: self.published_at,
            expires_at: self.expires_at(),
        }
    }

    fn payload_start(&self) -> usize {
        usize::from(self.topic_len) + self.properties_len as usize
    }
}

/// The fields of a [`Message`] beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageHeader {
    /// The QoS it was published with.
    pub qos: QoS,
    /// Whether it was published with RETAIN set.
    pub retain: bool,
    /// When a server accepted it.
    pub published_at: UnixMs,
    /// When it expires, `None` for never.
    pub expires_at: Option<UnixMs>,
}

/// The Subscription Identifiers of the matching subscriptions of one session; usually none, which costs no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionIds(Option<Box<[u32]>>);

impl SubscriptionIds {
    /// None at all.
    pub const NONE: Self = Self(None);

    /// From a list; an empty list costs nothing.
    pub fn from_slice(ids: &[u32]) -> Self {
        Self((!ids.is_empty()).then(|| ids.into()))
    }

    /// The identifiers, in no significant order.
    pub fn as_slice(&self) -> &[u32] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// A message on its way to one session: what that session's subscriptions make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message, shared.
    pub message: Arc<Message>,
    /// The smaller of the published and the granted QoS.
    // v5 [MQTT-3.8.4-8]
    pub qos: QoS,
    /// The RETAIN flag to send.
    pub retain: bool,
    /// Subscription Identifiers to send.
    pub subscription_ids: SubscriptionIds,
    /// How it came to the session.
    pub via: Via,
}

/// How a message came to a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// It was published while a subscription of the session matched.
    #[default]
    Subscription,
    /// It was retained when the session subscribed. What is published meanwhile outdates it, wherever it waits.
    Retained,
    /// The session was chosen among the members of this share, the whole `$share/...` string. Other members get what it
    /// leaves.
    Share(Arc<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_published_again_has_its_interval_before_it_and_its_owner() {
        let owner = Owner { principal: Principal("alice".into()), messages_max: Some(3) };
        let message =
            Message::new("t", &[1, 2], b"x", QoS::ExactlyOnce, true, 1_000).with_owner(owner.clone());
        let again = message.published_again(90_000);
        assert_eq!((again.published_at(), again.expires_at(), again.owner()), (90_000, None, Some(&owner)));
        assert_eq!(again.parts(), message.parts());
        let again = message.with_expiry(Some(60)).published_again(90_000);
        assert_eq!((again.expires_at(), again.expiry_remaining_s(90_000)), (Some(150_000), Some(60)));
    }

    #[test]
    fn what_remains_is_no_more_than_what_was_asked() {
        // v5 [MQTT-3.3.2-6], whatever clock asks.
        let message = Message::new("t", &[], b"x", QoS::AtLeastOnce, false, 1_000_000).with_expiry(Some(300));
        for (now, left_s) in [(1_000_000, 300), (1_000_001, 300), (1_060_000, 240), (0, 300), (2_000_000, 0)]
        {
            assert_eq!(message.expiry_remaining_s(now), Some(left_s), "at {now}");
        }
    }
}
