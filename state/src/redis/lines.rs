//! Retained messages of one topic that have to come one after the other, since the first of them may have to wait for a seat.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::{Done, Message};

/// What waits for its turn.
pub(super) struct Waiting {
    pub(super) message: Arc<Message>,
    pub(super) done: Done<()>,
}

/// By topic, as keys have it, what waits behind a message that may need a seat. A topic without such a message has no line.
#[derive(Default)]
pub(super) struct RetainLines(Mutex<HashMap<Vec<u8>, VecDeque<Waiting>, RandomState>>);

impl RetainLines {
    /// Lines up if there is a line at the topic, and begins one with `begins`. Answers what need not wait.
    pub(super) fn enter(&self, topic: &[u8], waiting: Waiting, begins: bool) -> Option<Waiting> {
        let mut lines = self.0.lock();
        if let Some(line) = lines.get_mut(topic) {
            line.push_back(waiting);
            return None;
        }
        if begins {
            lines.insert(topic.to_vec(), VecDeque::new());
        }
        Some(waiting)
    }

    /// The next one in a line, which ends with the last.
    pub(super) fn next(&self, topic: &[u8]) -> Option<Waiting> {
        let mut lines = self.0.lock();
        let next = lines.get_mut(topic)?.pop_front();
        if next.is_none() {
            lines.remove(topic);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use mqtt::QoS;

    use super::*;

    fn waiting(payload: &str) -> Waiting {
        let message = Message::new("t", &[], payload.as_bytes(), QoS::AtMostOnce, true, 0);
        Waiting { message: Arc::new(message), done: Box::new(|_| ()) }
    }

    fn said(waiting: Option<Waiting>) -> Option<String> {
        waiting.map(|waiting| String::from_utf8_lossy(waiting.message.payload_slice()).into_owned())
    }

    #[test]
    fn what_comes_behind_one_that_may_wait_comes_after_it() {
        let lines = RetainLines::default();
        assert_eq!(said(lines.enter(b"t", waiting("0"), false)), Some("0".to_owned()), "nobody waits");
        assert_eq!(said(lines.enter(b"t", waiting("1"), true)), Some("1".to_owned()));
        assert!(lines.enter(b"t", waiting("2"), false).is_none());
        assert!(lines.enter(b"t", waiting("3"), true).is_none());
        assert_eq!(said(lines.enter(b"u", waiting("4"), false)), Some("4".to_owned()), "another topic");
        assert_eq!(
            [lines.next(b"t"), lines.next(b"t")].map(said),
            [Some("2".to_owned()), Some("3".to_owned())]
        );
        assert!(lines.next(b"t").is_none(), "the line ends");
        assert_eq!(said(lines.enter(b"t", waiting("5"), false)), Some("5".to_owned()));
    }
}
