//! Retained messages of one topic that have to come one after the other, since the first of them may have to wait for a seat.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use super::op::Result;
use super::order::give_guarded;
use crate::{Done, Message, Principal};

/// What waits for its turn.
pub(super) struct Waiting {
    pub(super) message: Arc<Message>,
    pub(super) done: Done<()>,
    /// Receivers of the messages that this one takes the place of before they were stored.
    pub(super) replaced: Vec<Done<()>>,
}

impl Waiting {
    pub(super) fn new(message: Arc<Message>, done: Done<()>) -> Self {
        Self { message, done, replaced: Vec::new() }
    }

    /// Tells all, in the order in which they came.
    pub(super) fn answer(self, result: &Result<()>) {
        for done in self.replaced.into_iter().chain([self.done]) {
            give_guarded(|| done(result.clone()));
        }
    }

    /// Whose seat it may need.
    fn seated(&self) -> Option<&Principal> {
        needs_seat(&self.message).map(|(principal, _)| principal)
    }

    /// Whether it takes the place of another one that waits right before it: both may need a seat of the same principal's.
    fn replaces(&self, before: &Self) -> bool {
        self.seated().is_some_and(|principal| before.seated() == Some(principal))
    }

    fn size(&self) -> u64 {
        self.message.size() as u64
    }
}

/// Whose seat a message needs, and how many there are of that kind; nothing if it needs none, as one that clears its topic.
pub(super) fn needs_seat(message: &Message) -> Option<(&Principal, u64)> {
    let owner = message.owner().filter(|owner| !owner.principal.0.is_empty())?;
    let messages_max = owner.messages_max.filter(|_| !message.payload_slice().is_empty())?;
    Some((&owner.principal, messages_max))
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

    /// The next one in a line, which ends with the last, and the bytes of the messages that wait no more. What one user retains
    /// for a topic faster than it can be stored leaves the line as one: the last, which every one before it would have been replaced by.
    pub(super) fn next(&self, topic: &[u8]) -> Option<(Waiting, u64)> {
        let mut lines = self.0.lock();
        let line = lines.get_mut(topic)?;
        let Some(mut next) = line.pop_front() else {
            lines.remove(topic);
            return None;
        };
        let mut bytes = next.size();
        while let Some(later) = line.pop_front_if(|later| later.replaces(&next)) {
            bytes += later.size();
            let mut replaced = next.replaced;
            replaced.push(next.done);
            next = Waiting { replaced, ..later };
        }
        Some((next, bytes))
    }
}

#[cfg(test)]
mod tests {
    use mqtt::QoS;

    use super::*;
    use crate::Owner;

    fn waiting(payload: &str) -> Waiting {
        let message = Message::new("t", &[], payload.as_bytes(), QoS::AtMostOnce, true, 0);
        Waiting::new(Arc::new(message), Box::new(|_| ()))
    }

    fn text(waiting: &Waiting) -> String {
        String::from_utf8_lossy(waiting.message.payload_slice()).into_owned()
    }

    fn said(waiting: Option<&Waiting>) -> Option<String> {
        waiting.map(text)
    }

    fn next_said(lines: &RetainLines) -> Option<String> {
        said(lines.next(b"t").map(|(next, _)| next).as_ref())
    }

    #[test]
    fn what_comes_behind_one_that_may_wait_comes_after_it() {
        let lines = RetainLines::default();
        assert_eq!(
            said(lines.enter(b"t", waiting("0"), false).as_ref()),
            Some("0".to_owned()),
            "nobody waits"
        );
        assert_eq!(said(lines.enter(b"t", waiting("1"), true).as_ref()), Some("1".to_owned()));
        assert!(lines.enter(b"t", waiting("2"), false).is_none());
        assert!(lines.enter(b"t", waiting("3"), true).is_none());
        assert_eq!(
            said(lines.enter(b"u", waiting("4"), false).as_ref()),
            Some("4".to_owned()),
            "another topic"
        );
        assert_eq!([next_said(&lines), next_said(&lines)], [Some("2".to_owned()), Some("3".to_owned())]);
        assert_eq!(next_said(&lines), None, "the line ends");
        assert_eq!(said(lines.enter(b"t", waiting("5"), false).as_ref()), Some("5".to_owned()));
    }

    #[test]
    fn what_one_user_retains_again_and_again_leaves_the_line_as_the_last_of_it() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let lines = RetainLines::default();
        let enter = |user: &str, payload: &str| {
            let owner = Owner { principal: Principal(user.into()), messages_max: Some(9) };
            let message =
                Message::new("t", &[], payload.as_bytes(), QoS::AtMostOnce, true, 0).with_owner(owner);
            let (name, told) = (format!("{user} {payload}"), Arc::clone(&told));
            let done = move |_| {
                told.lock().push(name.clone());
                assert_ne!(name, "alice 2", "a panic of its own");
            };
            lines.enter(b"t", Waiting::new(Arc::new(message), Box::new(done)), true)
        };
        assert!(enter("alice", "0").is_some());
        for (user, payload) in
            [("alice", "1"), ("alice", "2"), ("alice", "3"), ("bob", "4"), ("bob", ""), ("bob", "5")]
        {
            assert!(enter(user, payload).is_none());
        }
        let (next, bytes) = lines.next(b"t").expect("some wait");
        assert_eq!((text(&next), bytes), ("3".to_owned(), 3 * next.size()));
        next.answer(&Ok(()));
        assert_eq!(*told.lock(), ["alice 1", "alice 2", "alice 3"]);
        let left: Vec<_> = std::iter::from_fn(|| next_said(&lines)).collect();
        assert_eq!(left, ["4", "", "5"], "neither over others nor over what takes it away");
    }
}
