//! What a server wants to know of the properties of a PUBLISH or a Will, found in one scan.

use std::borrow::Cow;

use super::{Properties, Property};
use crate::property_id::PropertyId;

/// The properties of a PUBLISH (or of a Will), read once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator; `None` when absent.
    pub payload_is_text: Option<bool>,
    /// Message Expiry Interval in seconds. 0 is legal: the message is gone unless it can leave at once.
    pub message_expiry_s: Option<u32>,
    /// Topic Alias, never 0.
    pub topic_alias: Option<u16>,
    /// Will Delay Interval in seconds; only in a Will.
    pub will_delay_s: Option<u32>,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// The properties that a server passes on unaltered, encoded and in order: all but Topic Alias, Message Expiry Interval,
    /// Subscription Identifier and Will Delay Interval. Borrowed when none of those is present.
    pub forwardable: Cow<'a, [u8]>,
}

const NOT_FORWARDED: u64 = PropertyId::TopicAlias.bit()
    | PropertyId::MessageExpiryInterval.bit()
    | PropertyId::SubscriptionIdentifier.bit()
    | PropertyId::WillDelayInterval.bit();

impl<'a> Properties<'a> {
    /// The summary of a PUBLISH or of a Will. One scan; allocates only when some property must not be forwarded and others
    /// must.
    pub fn publish_summary(&self) -> PublishProperties<'a> {
        let mut summary = PublishProperties::default();
        if self.raw.is_empty() {
            return summary;
        }
        for property in self {
            match property {
                Property::PayloadFormatIndicator(is_text) => summary.payload_is_text = Some(is_text),
                Property::MessageExpiryInterval(seconds) => summary.message_expiry_s = Some(seconds),
                Property::TopicAlias(alias) => summary.topic_alias = Some(alias),
                Property::WillDelayInterval(seconds) => summary.will_delay_s = Some(seconds),
                Property::ResponseTopic(topic) => summary.response_topic = Some(topic),
                Property::CorrelationData(data) => summary.correlation_data = Some(data),
                Property::ContentType(content) => summary.content_type = Some(content),
                _ => {}
            }
        }
        summary.forwardable = self.forwardable();
        summary
    }

    /// The properties of a PUBLISH or a Will that a server passes on unaltered, as in [`PublishProperties::forwardable`].
    /// v5 [MQTT-3.3.2-4], v5 [MQTT-3.3.2-15..18], v5 [MQTT-3.3.2-20]
    pub fn forwardable(&self) -> Cow<'a, [u8]> {
        if self.present & NOT_FORWARDED == 0 {
            return Cow::Borrowed(self.raw);
        }
        if self.present & !NOT_FORWARDED == 0 {
            return Cow::Borrowed(&[]);
        }
        let kept = self.raw_iter().filter(|raw| raw.id.bit() & NOT_FORWARDED == 0);
        let mut bytes = Vec::with_capacity(self.raw.len());
        kept.for_each(|raw| bytes.extend_from_slice(raw.whole));
        Cow::Owned(bytes)
    }

    /// The Subscription Identifiers in order; only a PUBLISH to a client may carry several.
    pub fn subscription_ids(&self) -> impl Iterator<Item = u32> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }
}
