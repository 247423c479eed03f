//! Topic Aliases of one connection, both ways. They end with the connection, which is all a session core ever sees.
// v5 [MQTT-3.3.2-7]

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Topic Names up to this many bytes are sent as they are: an alias costs three bytes.
const UNALIASED_TOPIC_BYTES_MAX: usize = 4;

/// What the client's aliases stand for.
#[derive(Debug, Default)]
pub(crate) struct ClientAliases {
    /// The topic of alias n at n - 1.
    topics: Vec<Option<Box<str>>>,
    /// Bytes of the topics.
    bytes: usize,
}

impl ClientAliases {
    /// Sets what `alias` stands for. The caller has checked it against the maximum.
    pub(crate) fn set(&mut self, alias: u16, topic: &str) {
        let Some(index) = usize::from(alias).checked_sub(1) else { return };
        if self.topics.len() <= index {
            self.topics.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.topics.get_mut(index)
            && slot.as_deref() != Some(topic)
        {
            let before = slot.replace(topic.into());
            self.bytes = self.bytes + topic.len() - before.map_or(0, |before| before.len());
        }
    }

    /// Bytes of the topics that aliases stand for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What `alias` stands for.
    pub(crate) fn topic(&self, alias: u16) -> Option<&str> {
        self.topics.get(usize::from(alias).checked_sub(1)?)?.as_deref()
    }
}

/// Aliases that we have given to the client: the first topics get one each, until they are used up.
#[derive(Debug, Default)]
pub(crate) struct ServerAliases {
    aliases: HashMap<Box<str>, u16, RandomState>,
    /// Bytes of the topics.
    bytes: usize,
}

/// How a topic is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AliasUse {
    /// The alias; `None`: the topic alone.
    pub alias: Option<u16>,
    /// Whether the client knows the alias already, so that the topic is left out.
    pub known: bool,
}

impl AliasUse {
    /// No alias.
    pub(crate) const NONE: Self = Self { alias: None, known: false };
}

impl ServerAliases {
    /// Bytes of the topics that aliases stand for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether all aliases are given out.
    pub(crate) fn is_full(&self, max: u16) -> bool {
        self.aliases.len() >= usize::from(max)
    }

    /// How `topic` is to be written, given that aliases up to `max` are allowed, and a new one for a topic of so many bytes;
    /// changes nothing.
    // v5 [MQTT-3.3.2-11]
    pub(crate) fn plan(&self, topic: &str, max: u16, bytes_max: usize) -> AliasUse {
        if topic.len() <= UNALIASED_TOPIC_BYTES_MAX {
            return AliasUse::NONE;
        }
        if let Some(&alias) = self.aliases.get(topic) {
            return AliasUse { alias: Some(alias), known: true };
        }
        // At most `max`, which is 16 bits wide.
        let fits = |next: &u16| *next <= max && topic.len() <= bytes_max;
        let next = u16::try_from(self.aliases.len() + 1).ok().filter(fits);
        AliasUse { alias: next, known: false }
    }

    /// The packet that follows `plan` is on its way: the client knows the alias now.
    pub(crate) fn commit(&mut self, topic: &str, plan: AliasUse) {
        if let AliasUse { alias: Some(alias), known: false } = plan {
            self.aliases.insert(topic.into(), alias);
            self.bytes += topic.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_alias_stands_for_the_topic_it_was_last_set_to() {
        let mut aliases = ClientAliases::default();
        assert_eq!(aliases.topic(0), None);
        assert_eq!(aliases.topic(3), None);
        aliases.set(3, "a");
        aliases.set(1, "b");
        aliases.set(3, "c");
        assert_eq!((aliases.topic(1), aliases.topic(2), aliases.topic(3)), (Some("b"), None, Some("c")));
        assert_eq!(aliases.bytes(), 2);
    }

    #[test]
    fn the_first_topics_get_an_alias_and_the_others_none() {
        let mut aliases = ServerAliases::default();
        for (n, topic) in [(1, "topic/1"), (2, "topic/2")] {
            let plan = aliases.plan(topic, 2, 100);
            assert_eq!(plan, AliasUse { alias: Some(n), known: false });
            aliases.commit(topic, plan);
        }
        assert_eq!(aliases.plan("topic/1", 2, 0), AliasUse { alias: Some(1), known: true });
        assert_eq!(aliases.plan("topic/3", 2, 100), AliasUse::NONE);
        assert_eq!(aliases.plan("topic/3", 3, 6), AliasUse::NONE, "no room for its bytes");
        assert_eq!(aliases.plan("abcd", 3, 100), AliasUse::NONE);
        assert_eq!(aliases.bytes(), 14);
    }
}
