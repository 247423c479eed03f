//! Messages of a simulation: a payload says which one it is.

use mqtt::QoS;

/// Topics from here on are `r/0` and so on, and their messages are retained.
pub const RETAINED: usize = 8;

/// The topic of what nobody published under one of ours: a Will.
pub const ELSEWHERE: usize = usize::MAX;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// By number: `t/0` and so on, `r/0` and so on from [`RETAINED`].
    pub topic: usize,
    /// With which it is published, or came.
    pub qos: QoS,
    /// Which one it is. What is published later has a higher one.
    pub index: u32,
    /// Bytes of its payload, at least 4; none if it clears what is retained.
    pub size: usize,
}

impl Message {
    /// Its topic.
    pub fn topic_name(self) -> String {
        match self.topic.checked_sub(RETAINED) {
            Some(retained) => format!("r/{retained}"),
            None => format!("t/{}", self.topic),
        }
    }

    /// Whether it is retained.
    pub fn is_retained(self) -> bool {
        (RETAINED..ELSEWHERE).contains(&self.topic)
    }

    /// Its payload, which begins with its index.
    pub fn payload(self) -> Vec<u8> {
        if self.clears() {
            return Vec::new();
        }
        let mut payload = self.index.to_be_bytes().to_vec();
        payload.resize(self.size.max(4), 7);
        payload
    }

    /// Whether nothing is retained after it. Which one it is its payload does not say then.
    pub fn clears(self) -> bool {
        self.is_retained() && self.size == 0
    }

    /// The message that came so.
    ///
    /// # Panics
    /// When the payload is not of ours: neither empty nor one that says which it is.
    pub fn read(topic: &str, qos: QoS, payload: &[u8]) -> Self {
        let index = if payload.is_empty() { 0 } else { u32::from_be_bytes(payload[..4].try_into().unwrap()) };
        let number = |topic: &str| topic.parse::<usize>().ok();
        let live = topic.strip_prefix("t/").and_then(number);
        let retained = || topic.strip_prefix("r/").and_then(number).map(|number| RETAINED + number);
        let topic = live.or_else(retained).unwrap_or(ELSEWHERE);
        Self { topic, qos, index, size: payload.len() }
    }
}
