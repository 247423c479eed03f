//! What bounds one session: what the worker is configured with, tightened by what the passport says.

use link::Limits;
use mqtt::{QoS, ReasonCode, topic};

use crate::authorize::Publication;
use crate::config::BrokerConfig;

/// The bounds of one session. Without limits in its passport, looking at them costs a comparison each.
#[derive(Clone, Copy)]
pub(crate) struct Bounds<'a> {
    config: &'a BrokerConfig,
    limits: Option<&'a Limits>,
}

/// A bound that a client has met; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Sessions,
    RetainedMessages,
    Subscriptions,
    SharedGroups,
    SharedGroupsPerFilter,
    QoS,
    Retain,
    TopicBytes,
    TopicLevels,
    SessionBytes,
    Memory,
}

impl Bound {
    /// As the key is called.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Sessions => "sessions_max",
            Self::RetainedMessages => "retained_messages_max",
            Self::Subscriptions => "subscriptions_max",
            Self::SharedGroups => "shared_groups_max",
            Self::SharedGroupsPerFilter => "shared_groups_per_filter_max",
            Self::QoS => "qos_max",
            Self::Retain => "retain",
            Self::TopicBytes => "topic_bytes_max",
            Self::TopicLevels => "topic_levels_max",
            Self::SessionBytes => "session_bytes_max",
            Self::Memory => "memory_max_bytes",
        }
    }

    /// For PUBLISH, and for a Will in CONNECT.
    // v5 [MQTT-3.2.2-11], [MQTT-3.2.2-12], [MQTT-3.2.2-13], [MQTT-3.2.2-14]
    pub(crate) fn reason_code(self) -> ReasonCode {
        match self {
            Self::QoS => ReasonCode::QoSNotSupported,
            Self::Retain => ReasonCode::RetainNotSupported,
            Self::TopicBytes | Self::TopicLevels => ReasonCode::TopicNameInvalid,
            _ => ReasonCode::QuotaExceeded,
        }
    }

    /// For SUBACK.
    pub(crate) fn of_filter(self) -> ReasonCode {
        match self {
            Self::TopicBytes | Self::TopicLevels => ReasonCode::TopicFilterInvalid,
            _ => ReasonCode::QuotaExceeded,
        }
    }

    /// Whether a PUBLISH beyond it ends the connection, since no acknowledgement can say so.
    pub(crate) fn ends_connection(self) -> bool {
        matches!(self, Self::QoS | Self::Retain)
    }

    /// What is wrong in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Sessions => "too many sessions",
            Self::RetainedMessages => "too many retained messages",
            Self::Subscriptions => "too many subscriptions",
            Self::SharedGroups | Self::SharedGroupsPerFilter => "too many Shared Subscriptions",
            Self::QoS => "over the Maximum QoS",
            Self::Retain => "retained messages are not available",
            Self::TopicBytes => "too long a topic",
            Self::TopicLevels => "too many topic levels",
            Self::SessionBytes => "too many bytes in one session",
            Self::Memory => "too much memory",
        }
    }
}

impl<'a> Bounds<'a> {
    /// Those of a client whose passport says this.
    pub(crate) fn new(config: &'a BrokerConfig, limits: Option<&'a Limits>) -> Self {
        Self { config, limits }
    }

    fn tighter(self, configured: usize, limit: fn(&Limits) -> Option<u32>) -> usize {
        match self.limits.and_then(limit) {
            None => configured,
            Some(limit) => configured.min(limit as usize),
        }
    }

    pub(crate) fn subscriptions_max(self) -> usize {
        self.tighter(self.config.subscriptions_max, |limits| limits.subscriptions_max)
    }

    pub(crate) fn shared_groups_max(self) -> usize {
        self.tighter(self.config.shared_groups_max, |limits| limits.shared_groups_max)
    }

    pub(crate) fn shared_groups_per_filter_max(self) -> usize {
        self.tighter(self.config.shared_groups_per_filter_max, |limits| limits.shared_groups_per_filter_max)
    }

    /// Whether Shared Subscriptions are offered at all.
    pub(crate) fn shared_subscriptions(self) -> bool {
        let none = |limits: &Limits| {
            limits.shared_groups_max == Some(0) || limits.shared_groups_per_filter_max == Some(0)
        };
        self.config.shared_subscriptions && !self.limits.is_some_and(none)
    }

    pub(crate) fn packet_bytes_max(self) -> u32 {
        let limit = self.limits.and_then(|limits| limits.packet_bytes_max);
        self.config.packet_bytes_max.min(limit.unwrap_or(u32::MAX))
    }

    pub(crate) fn queue_messages_max(self) -> usize {
        let limit = self.limits.and_then(|limits| limits.queue_messages_max).unwrap_or(u64::MAX);
        self.config.queue_messages_max.min(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    pub(crate) fn queue_bytes_max(self) -> usize {
        let limit = self.limits.and_then(|limits| limits.queue_bytes_max).unwrap_or(u64::MAX);
        self.config.queue_bytes_max.min(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    pub(crate) fn session_bytes_max(self) -> usize {
        self.tighter(self.config.session_bytes_max, |limits| limits.session_bytes_max)
    }

    /// Maximum QoS.
    pub(crate) fn qos_max(self) -> QoS {
        match self.limits.and_then(|limits| limits.qos_max) {
            Some(0) => QoS::AtMostOnce,
            Some(1) => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    /// Retain Available.
    pub(crate) fn retain(self) -> bool {
        self.limits.is_none_or(|limits| limits.retain != Some(false))
    }

    /// The bound that a message, or a Will, is beyond.
    #[inline]
    pub(crate) fn exceeded_by(self, publication: Publication<'_>) -> Option<Bound> {
        let Publication { topic, qos, retain } = publication;
        if self.limits.is_some() {
            if qos > self.qos_max() {
                return Some(Bound::QoS);
            }
            if retain && !self.retain() {
                return Some(Bound::Retain);
            }
        }
        self.exceeded_by_topic(topic, 0)
    }

    /// The bound that a Topic Name or Topic Filter is beyond; `share_levels` of its levels are those of a Shared Subscription and
    /// do not count.
    #[inline]
    pub(crate) fn exceeded_by_topic(self, topic: &str, share_levels: usize) -> Option<Bound> {
        if topic.len() > self.tighter(self.config.topic_bytes_max, |limits| limits.topic_bytes_max) {
            return Some(Bound::TopicBytes);
        }
        // A topic of no more bytes than that cannot have more levels.
        let levels_max =
            self.tighter(self.config.topic_levels_max, |limits| limits.topic_levels_max) + share_levels;
        let is_deep = topic.len() >= levels_max && topic::levels(topic).count() > levels_max;
        is_deep.then_some(Bound::TopicLevels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tighter_bound_counts() {
        let config = BrokerConfig {
            subscriptions_max: 5,
            topic_levels_max: 3,
            queue_bytes_max: 100,
            ..BrokerConfig::default()
        };
        let limits = Limits {
            subscriptions_max: Some(7),
            topic_levels_max: Some(2),
            queue_bytes_max: Some(10),
            queue_messages_max: Some(u64::MAX),
            packet_bytes_max: Some(200),
            ..Limits::default()
        };
        let bounds = Bounds::new(&config, Some(&limits));
        assert_eq!((bounds.subscriptions_max(), bounds.queue_bytes_max()), (5, 10));
        assert_eq!((bounds.queue_messages_max(), bounds.packet_bytes_max()), (100_000, 200));
        assert_eq!(bounds.exceeded_by_topic("a/b/c", 0), Some(Bound::TopicLevels));
        assert_eq!(bounds.exceeded_by_topic("a/b/c", 1), None);
        assert_eq!(Bounds::new(&config, None).exceeded_by_topic("a/b/c", 0), None);
    }

    #[test]
    fn a_message_is_measured_by_quality_retain_and_topic() {
        let config = BrokerConfig::default();
        let limits =
            Limits { qos_max: Some(1), retain: Some(false), topic_bytes_max: Some(4), ..Limits::default() };
        let exceeded = |limits: Option<&Limits>, topic, qos, retain| {
            Bounds::new(&config, limits).exceeded_by(Publication { topic, qos, retain })
        };
        for (topic, qos, retain, bound) in [
            ("abcd", QoS::AtLeastOnce, false, None),
            ("abcd", QoS::ExactlyOnce, false, Some(Bound::QoS)),
            ("abcd", QoS::AtMostOnce, true, Some(Bound::Retain)),
            ("abcde", QoS::AtMostOnce, false, Some(Bound::TopicBytes)),
        ] {
            assert_eq!(exceeded(Some(&limits), topic, qos, retain), bound);
            assert_eq!(exceeded(None, topic, qos, retain), None);
        }
    }
}
