//! The worker's configuration: what it offers to clients and every bound it holds.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Least of [`BrokerConfig::session_bytes_max`].
const SESSION_BYTES_MIN: usize = 1_024;

/// Most of [`BrokerConfig::answers_max`].
const ANSWERS_MAX: usize = 100_000;

/// What a worker offers and its bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// Receive Maximum announced to clients: QoS 1 and 2 messages that one may have in flight to us. 1 to 65,535;
    /// default 1,024.
    pub receive_maximum: u16,
    /// Upper bound for what a client's own Receive Maximum (65,535 when it sends none; any MQTT 3 client) allows to be in
    /// flight to it. 1 to 65,535; default 1,024.
    pub inflight_max: u16,
    /// Topic Alias Maximum announced to clients, per connection. 0 to 65,535; default 32.
    pub topic_alias_max: u16,
    /// Topic aliases used towards a client, if it allows them. 0 to 65,535; default 32.
    pub outgoing_topic_alias_max: u16,
    /// Longest Session Expiry Interval, seconds; longer ones are shortened to it (and the client told). 4,294,967,295 is
    /// *never expires*, the default; `never` says the same.
    #[serde(with = "expiry")]
    pub session_expiry_max_s: u32,
    /// How long the session of an MQTT 3 client without Clean Session outlives its connection, seconds, or `never`; such a
    /// client cannot say it. At most `session_expiry_max_s`. At least 1; default 604,800 (7 days).
    #[serde(with = "expiry")]
    pub session_expiry_v3_s: u32,
    /// Messages queued for one session, unacknowledged ones included. What comes beyond is dropped and counted. At least
    /// 1; default 100,000.
    pub queue_messages_max: usize,
    /// Bytes queued for one session. At least 1; default 64 MiB.
    pub queue_bytes_max: usize,
    /// QoS 0 bytes waiting for one connected client; beyond that QoS 0 is dropped and counted. Default 16 MiB.
    pub qos0_bytes_max: usize,
    /// Subscriptions of one session; a SUBSCRIBE beyond is answered with 0x97. At least 1; default 10,000.
    pub subscriptions_max: usize,
    /// Shared Subscriptions of one session, each of which gets messages of its own; one beyond is answered with 0x97. At least 1;
    /// default 1,000.
    pub shared_groups_max: usize,
    /// Those of one session that differ in their Share Name only, so that each message is one more for each. At least 1; default
    /// 16.
    pub shared_groups_per_filter_max: usize,
    /// Bytes of a Topic Name or Topic Filter. 1 to 65,535; default 65,535.
    pub topic_bytes_max: usize,
    /// Levels of a Topic Name or Topic Filter. 1 to 65,535; default 128.
    pub topic_levels_max: usize,
    /// Bytes that one session may hold besides messages: the filters of its subscriptions, the topics that Topic Aliases stand for
    /// in both directions, and its Will. At least 1,024; default 4 MiB.
    pub session_bytes_max: usize,
    /// Answers that are remembered for one connection about actions that are asked about, about 150 bytes and the topic each. At
    /// most 100,000; default 64; 0 asks each time.
    pub answers_max: usize,
    /// Publish `$SYS/broker/...` every so many seconds; 0 turns it off. Default 10.
    pub sys_interval_s: u32,
    /// Shared Subscriptions offered. Default true.
    pub shared_subscriptions: bool,
    /// Largest packet accepted, announced as Maximum Packet Size; the edge enforces it. Bytes; default 1,179,648.
    pub packet_bytes_max: u32,
    /// What who comes with the Client Identifier of somebody else's session gets. The same at all workers of a store. Default
    /// `refuse`.
    pub foreign_session: ForeignSession,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            receive_maximum: 1024,
            inflight_max: 1024,
            topic_alias_max: 32,
            outgoing_topic_alias_max: 32,
            session_expiry_max_s: u32::MAX,
            session_expiry_v3_s: 7 * 24 * 60 * 60,
            queue_messages_max: 100_000,
            queue_bytes_max: 64 << 20,
            qos0_bytes_max: 16 << 20,
            subscriptions_max: 10_000,
            shared_groups_max: 1_000,
            shared_groups_per_filter_max: 16,
            topic_bytes_max: 65_535,
            topic_levels_max: 128,
            session_bytes_max: 4 << 20,
            answers_max: 64,
            sys_interval_s: 10,
            shared_subscriptions: true,
            packet_bytes_max: 1_179_648,
            foreign_session: ForeignSession::Refuse,
        }
    }
}

/// What becomes of a CONNECT whose Client Identifier has a session that is another principal's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignSession {
    /// It is refused with 0x85.
    #[default]
    Refuse,
    /// Each principal has sessions of its own, whatever they are called.
    Separate,
}

/// Where the messages for a clean session wait, when workers share a store. The session itself, that is its subscriptions
/// and its Will, is in the store in either case, so that its device can move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CleanSessions {
    /// In the memory of the worker that it is connected to: what waits there, or is not acknowledged, is lost with it.
    #[default]
    Memory,
    /// In the store, as for any session.
    Store,
}

/// A value that is out of its bounds.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("broker.{key} = {value}: {expected}")]
pub struct BrokerConfigError {
    /// The key under `broker`.
    pub key: &'static str,
    /// What it was set to.
    pub value: u64,
    /// What it may be.
    pub expected: &'static str,
}

impl BrokerConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), BrokerConfigError> {
        let at_least_one = [
            ("receive_maximum", u64::from(self.receive_maximum)),
            ("inflight_max", u64::from(self.inflight_max)),
            ("queue_messages_max", self.queue_messages_max as u64),
            ("queue_bytes_max", self.queue_bytes_max as u64),
            ("subscriptions_max", self.subscriptions_max as u64),
            ("shared_groups_max", self.shared_groups_max as u64),
            ("shared_groups_per_filter_max", self.shared_groups_per_filter_max as u64),
            ("topic_bytes_max", self.topic_bytes_max as u64),
            ("topic_levels_max", self.topic_levels_max as u64),
            ("packet_bytes_max", u64::from(self.packet_bytes_max)),
            ("session_expiry_v3_s", u64::from(self.session_expiry_v3_s)),
        ];
        for (key, value) in at_least_one {
            if value == 0 {
                return Err(BrokerConfigError { key, value, expected: "must be at least 1" });
            }
        }
        if self.session_bytes_max < SESSION_BYTES_MIN {
            let value = self.session_bytes_max as u64;
            let expected = "must be at least 1024";
            return Err(BrokerConfigError { key: "session_bytes_max", value, expected });
        }
        if self.answers_max > ANSWERS_MAX {
            let value = self.answers_max as u64;
            return Err(BrokerConfigError { key: "answers_max", value, expected: "must be at most 100000" });
        }
        Ok(())
    }
}

/// Seconds until a session expires, in which `never` can be said.
mod expiry {
    use std::fmt;

    use serde::de::{Error, Unexpected, Visitor};
    use serde::{Deserializer, Serializer};
    use state::EXPIRY_NEVER;

    const NEVER: &str = "never";

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(seconds: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(*seconds)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_any(Seconds)
    }

    struct Seconds;

    impl Visitor<'_> for Seconds {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("seconds up to 4294967295, or \"never\"")
        }

        fn visit_i64<E: Error>(self, seconds: i64) -> Result<u32, E> {
            u32::try_from(seconds).map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))
        }

        fn visit_u64<E: Error>(self, seconds: u64) -> Result<u32, E> {
            u32::try_from(seconds).map_err(|_| E::invalid_value(Unexpected::Unsigned(seconds), &self))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<u32, E> {
            if text == NEVER { Ok(EXPIRY_NEVER) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
        }
    }
}
