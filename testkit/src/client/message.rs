//! Messages of a simulation: a payload says which one it is.

use mqtt::QoS;

/// The topic of what nobody published under one of ours: a Will.
pub const ELSEWHERE: usize = usize::MAX;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// By number: `t/0` and so on.
    pub topic: usize,
    /// With which it is published, or came.
    pub qos: QoS,
    /// Which one it is. What is published later has a higher one.
    pub index: u32,
    /// Bytes of its payload, at least 4.
    pub size: usize,
}

impl Message {
    /// Its topic.
    pub fn topic_name(self) -> String {
        format!("t/{}", self.topic)
    }

    /// Its payload, which begins with its index.
    pub fn payload(self) -> Vec<u8> {
        let mut payload = self.index.to_be_bytes().to_vec();
        payload.resize(self.size.max(4), 7);
        payload
    }

    /// The message that came so.
    ///
    /// # Panics
    /// When the payload is not of ours.
    pub fn read(topic: &str, qos: QoS, payload: &[u8]) -> Self {
        let index = u32::from_be_bytes(payload[..4].try_into().unwrap());
        let topic = topic.strip_prefix("t/").and_then(|topic| topic.parse().ok()).unwrap_or(ELSEWHERE);
        Self { topic, qos, index, size: payload.len() }
    }
}
