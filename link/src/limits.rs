//! Bounds of one client and of its principal, brought along by the passport. What a worker or an edge is configured with holds
//! besides: the tighter of the two counts.

use serde::{Deserialize, Serialize};

/// Bounds; `None` where there is none. What is not known is passed over, so that edges and workers of different versions
/// understand each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections of the principal at one edge. At least 1. Not looked at for clients without a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u32>,
    /// Stored sessions of the principal. At least 1. Not looked at for clients without a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions_max: Option<u32>,
    /// Retained messages of the principal. At least 1. Not looked at for clients without a subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retained_messages_max: Option<u32>,
    /// The largest packet that a connection may send, CONNECT apart; bytes. At least 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet_bytes_max: Option<u32>,
    /// PUBLISH packets that a connection may send in a second. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_messages_per_s: Option<u32>,
    /// Bytes of packets that a connection may send in a second. At least 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes_per_s: Option<u32>,
    /// Bytes of packets that a connection is sent in a second. At least 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_bytes_per_s: Option<u32>,
    /// For how long a connection may be held back without a pause, because it sends more than the rates allow, before it is
    /// ended; seconds. At least 1. `None`: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_max_s: Option<u32>,
    /// Subscriptions of a session. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subscriptions_max: Option<u32>,
    /// Shared Subscriptions of a session. 0 for none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_groups_max: Option<u32>,
    /// Shared Subscriptions of a session that differ in their Share Name only. 0 for none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_groups_per_filter_max: Option<u32>,
    /// The highest QoS of what is published and of what is subscribed to. At most 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_max: Option<u8>,
    /// Whether messages to be retained may be published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain: Option<bool>,
    /// Messages queued for a session. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_messages_max: Option<u64>,
    /// Bytes queued for a session. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_bytes_max: Option<u64>,
    /// Bytes of a Topic Name or Topic Filter. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_bytes_max: Option<u32>,
    /// Levels of a Topic Name or Topic Filter. At least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_levels_max: Option<u32>,
    /// Bytes that a session may hold besides messages: filters, topics of Topic Aliases, its Will. At least 1,024.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_bytes_max: Option<u32>,
}

impl Limits {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These, and where they say nothing those of `other`.
    #[must_use]
    pub fn or(self, other: &Self) -> Self {
        Self {
            connections_max: self.connections_max.or(other.connections_max),
            sessions_max: self.sessions_max.or(other.sessions_max),
            retained_messages_max: self.retained_messages_max.or(other.retained_messages_max),
            packet_bytes_max: self.packet_bytes_max.or(other.packet_bytes_max),
            received_messages_per_s: self.received_messages_per_s.or(other.received_messages_per_s),
            received_bytes_per_s: self.received_bytes_per_s.or(other.received_bytes_per_s),
            sent_bytes_per_s: self.sent_bytes_per_s.or(other.sent_bytes_per_s),
            held_back_max_s: self.held_back_max_s.or(other.held_back_max_s),
            subscriptions_max: self.subscriptions_max.or(other.subscriptions_max),
            shared_groups_max: self.shared_groups_max.or(other.shared_groups_max),
            shared_groups_per_filter_max: self
                .shared_groups_per_filter_max
                .or(other.shared_groups_per_filter_max),
            qos_max: self.qos_max.or(other.qos_max),
            retain: self.retain.or(other.retain),
            queue_messages_max: self.queue_messages_max.or(other.queue_messages_max),
            queue_bytes_max: self.queue_bytes_max.or(other.queue_bytes_max),
            topic_bytes_max: self.topic_bytes_max.or(other.topic_bytes_max),
            topic_levels_max: self.topic_levels_max.or(other.topic_levels_max),
            session_bytes_max: self.session_bytes_max.or(other.session_bytes_max),
        }
    }

    /// Whether each is one that a client could live with.
    ///
    /// # Errors
    /// The first that is not: its key, and what it must be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let least = |bound: Option<u32>| bound.map(u64::from);
        let at_least = [
            ("connections_max", least(self.connections_max), 1),
            ("sessions_max", least(self.sessions_max), 1),
            ("retained_messages_max", least(self.retained_messages_max), 1),
            ("packet_bytes_max", least(self.packet_bytes_max), 128),
            ("received_messages_per_s", least(self.received_messages_per_s), 1),
            ("received_bytes_per_s", least(self.received_bytes_per_s), 1_024),
            ("sent_bytes_per_s", least(self.sent_bytes_per_s), 1_024),
            ("held_back_max_s", least(self.held_back_max_s), 1),
            ("subscriptions_max", least(self.subscriptions_max), 1),
            ("queue_messages_max", self.queue_messages_max, 1),
            ("queue_bytes_max", self.queue_bytes_max, 1),
            ("topic_bytes_max", least(self.topic_bytes_max), 1),
            ("topic_levels_max", least(self.topic_levels_max), 1),
            ("session_bytes_max", least(self.session_bytes_max), 1_024),
        ];
        for (key, value, min) in at_least {
            if value.is_some_and(|value| value < min) {
                return Err((key, format!("must be at least {min}")));
            }
        }
        if self.qos_max.is_some_and(|qos| qos > 2) {
            return Err(("qos_max", "must be 0, 1 or 2".to_owned()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_first_counts() {
        let first = Limits { qos_max: Some(1), retain: Some(false), ..Limits::default() };
        let second = Limits { qos_max: Some(0), sessions_max: Some(3), ..Limits::default() };
        let expected =
            Limits { qos_max: Some(1), retain: Some(false), sessions_max: Some(3), ..Limits::default() };
        assert_eq!(first.or(&second), expected);
        // With every key set, so that none is forgotten.
        let all = r#"{"connections_max":1,"sessions_max":2,"retained_messages_max":3,"packet_bytes_max":128,"received_messages_per_s":4,
            "received_bytes_per_s":1024,"sent_bytes_per_s":1024,"held_back_max_s":7,"subscriptions_max":8,"shared_groups_max":9,
            "shared_groups_per_filter_max":10,"qos_max":1,"retain":false,"queue_messages_max":12,"queue_bytes_max":13,
            "topic_bytes_max":14,"topic_levels_max":15,"session_bytes_max":1024}"#;
        let all: Limits = serde_json::from_str(all).unwrap();
        assert_eq!(Limits::default().or(&all), all);
        assert_eq!(all.clone().or(&Limits::default()), all);
        let written = serde_json::to_value(&all).unwrap();
        assert_eq!(written.as_object().unwrap().len(), 18);
        assert!(all.check().is_ok() && !all.is_empty() && Limits::default().is_empty());
    }

    #[test]
    fn what_nobody_could_live_with_is_named() {
        for (text, key) in [
            (r#"{"connections_max":0}"#, "connections_max"),
            (r#"{"packet_bytes_max":127}"#, "packet_bytes_max"),
            (r#"{"received_bytes_per_s":1023}"#, "received_bytes_per_s"),
            (r#"{"queue_bytes_max":0}"#, "queue_bytes_max"),
            (r#"{"qos_max":3}"#, "qos_max"),
        ] {
            let limits: Limits = serde_json::from_str(text).unwrap();
            assert_eq!(limits.check().unwrap_err().0, key);
        }
        assert!(serde_json::from_str::<Limits>(r#"{"shared_groups_max":0,"of_tomorrow":[1]}"#).is_ok());
        assert!(serde_json::from_str::<Limits>(r#"{"qos_max":-1}"#).is_err());
    }
}
