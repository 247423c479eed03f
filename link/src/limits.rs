//! Bounds of one client and of its principal, brought along by the passport. What a worker or an edge is configured with holds
//! besides: the tighter of the two counts.

use serde::{Deserialize, Serialize};

macro_rules! limits {
    ($($(#[$meta:meta])* $key:ident: $type:ty $(, in $bounds:expr)?;)*) => {
        crate::settings! {
            /// Bounds; `None` where there is none. What is not known is passed over, so that edges and workers of different versions
            /// understand each other.
            #[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
            #[serde(default)]
            pub struct Limits {
                $(
                    $(#[$meta])*
                    #[serde(skip_serializing_if = "Option::is_none")]
                    pub $key: Option<$type> = None $(, in $bounds)?;
                )*
            }
        }

        impl Limits {
            /// These, and where they say nothing those of `other`.
            #[must_use]
            pub fn or(self, other: &Self) -> Self {
                Self { $($key: self.$key.or(other.$key)),* }
            }
        }
    };
}

limits! {
    /// Connections of the principal at one edge. Not looked at for clients without a subject.
    connections_max: u32, in 1..;
    /// Stored sessions of the principal. Not looked at for clients without a subject.
    sessions_max: u32, in 1..;
    /// Retained messages of the principal. Not looked at for clients without a subject.
    retained_messages_max: u32, in 1..;
    /// The largest packet that a connection may send, CONNECT apart; bytes.
    packet_bytes_max: u32, in 128..;
    /// PUBLISH packets that a connection may send in a second.
    received_messages_per_s: u32, in 1..;
    /// Bytes of packets that a connection may send in a second.
    received_bytes_per_s: u32, in 1_024..;
    /// Bytes of packets that a connection is sent in a second.
    sent_bytes_per_s: u32, in 1_024..;
    /// For how long a connection may be held back without a pause, because it sends more than the rates allow, before it is
    /// ended; seconds. `None`: for ever.
    held_back_max_s: u32, in 1..;
    /// Subscriptions of a session.
    subscriptions_max: u32, in 1..;
    /// Shared Subscriptions of a session. 0 for none at all.
    shared_groups_max: u32;
    /// Shared Subscriptions of a session that differ in their Share Name only. 0 for none at all.
    shared_groups_per_filter_max: u32;
    /// The highest QoS of what is published and of what is subscribed to.
    qos_max: u8, in ..=2;
    /// Whether messages to be retained may be published.
    retain: bool;
    /// Messages queued for a session.
    queue_messages_max: u64, in 1..;
    /// Bytes queued for a session.
    queue_bytes_max: u64, in 1..;
    /// Bytes of a Topic Name or Topic Filter.
    topic_bytes_max: u32, in 1..;
    /// Levels of a Topic Name or Topic Filter.
    topic_levels_max: u32, in 1..;
    /// Bytes that a session may hold besides messages: filters, topics of Topic Aliases, its Will.
    session_bytes_max: u32, in 1_024..;
}

impl Limits {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
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
        assert!(all.check_bounds("").is_ok() && !all.is_empty() && Limits::default().is_empty());
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
            assert_eq!(limits.check_bounds("").unwrap_err().key, key);
        }
        assert!(serde_json::from_str::<Limits>(r#"{"shared_groups_max":0,"of_tomorrow":[1]}"#).is_ok());
        assert!(serde_json::from_str::<Limits>(r#"{"qos_max":-1}"#).is_err());
    }
}
