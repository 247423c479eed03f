//! The worker's configuration: what it offers to clients and every bound it holds.

use link::SettingError;
use serde::{Deserialize, Serialize};

link::settings! {
    /// What a worker offers and its bounds.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct BrokerConfig {
        /// Receive Maximum announced to clients: QoS 1 and 2 messages that one may have in flight to us.
        pub receive_maximum: u16 = 1024, in 1..;
        /// Upper bound for what a client's own Receive Maximum (65,535 when it sends none; any MQTT 3 client) allows to be in
        /// flight to it.
        pub inflight_max: u16 = 1024, in 1..;
        /// Topic Alias Maximum announced to clients, per connection.
        pub topic_alias_max: u16 = 32;
        /// Topic aliases used towards a client, if it allows them.
        pub outgoing_topic_alias_max: u16 = 32;
        /// Longest Session Expiry Interval, seconds; longer ones are shortened to it (and the client told). 4,294,967,295 is
        /// *never expires*; `never` says the same.
        #[serde(with = "expiry")]
        pub session_expiry_max_s: u32 = u32::MAX;
        /// How long the session of an MQTT 3 client without Clean Session outlives its connection, seconds, or `never`; such a
        /// client cannot say it. At most `session_expiry_max_s`.
        #[serde(with = "expiry")]
        pub session_expiry_v3_s: u32 = 7 * 24 * 60 * 60, in 1..;
        /// Messages queued for one session, unacknowledged ones included. What comes beyond is dropped and counted.
        pub queue_messages_max: usize = 100_000, in 1..;
        /// Bytes queued for one session.
        pub queue_bytes_max: usize = 67_108_864, in 1..;
        /// QoS 0 bytes waiting for one connected client; beyond that QoS 0 is dropped and counted.
        pub qos0_bytes_max: usize = 16_777_216;
        /// Subscriptions of one session; a SUBSCRIBE beyond is answered with 0x97.
        pub subscriptions_max: usize = 10_000, in 1..;
        /// Shared Subscriptions of one session, each of which gets messages of its own; one beyond is answered with 0x97.
        pub shared_groups_max: usize = 1_000, in 1..;
        /// Those of one session that differ in their Share Name only, so that each message is one more for each.
        pub shared_groups_per_filter_max: usize = 16, in 1..;
        /// Bytes of a Topic Name or Topic Filter.
        pub topic_bytes_max: usize = 65_535, in 1..;
        /// Levels of a Topic Name or Topic Filter.
        pub topic_levels_max: usize = 128, in 1..;
        /// Bytes that one session may hold besides messages: the filters of its subscriptions, the topics that Topic Aliases
        /// stand for in both directions, and its Will.
        pub session_bytes_max: usize = 4_194_304, in 1_024..;
        /// Answers that are remembered for one connection about actions that are asked about, about 150 bytes and the topic
        /// each. 0 asks each time.
        pub answers_max: usize = 64, in ..=100_000;
        /// Publish `$SYS/broker/...` every so many seconds; 0 turns it off.
        pub sys_interval_s: u32 = 10;
        /// Shared Subscriptions offered.
        pub shared_subscriptions: bool = true;
        /// Largest packet accepted, announced as Maximum Packet Size; the edge enforces it. Bytes.
        pub packet_bytes_max: u32 = 1_179_648, in 1..;
        /// What who comes with the Client Identifier of somebody else's session gets. The same at all workers of a store.
        /// Default `refuse`.
        pub foreign_session: ForeignSession = ForeignSession::Refuse;
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

impl BrokerConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_bounds("broker")
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
