//! Retained messages, ordered level by level, so that a wildcard visits what it matches and seeks over what it does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::share_of;
use crate::{Cursor, Message, Principal, RetainedPage, StoreError, UnixMs};

/// Entries and seeks per page beyond those that match, so that a filter that matches little holds nobody up.
const VISITS_MAX: usize = 4096;

/// Messages that have expired and are removed in one go.
const EXPIRED_MAX: usize = 4096;

/// Separates levels in keys; sorts before everything that a Topic Name may hold. v5 [MQTT-1.5.4-2]
const SEPARATOR: u8 = 0;

/// Bounds of the retained messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedLimits {
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

/// What setting a retained message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetainChange {
    Set,
    Removed,
    Nothing,
}

/// The retained messages.
#[derive(Debug)]
pub(crate) struct Retained {
    limits: RetainedLimits,
    /// By Topic Name, with [`SEPARATOR`] for `/`.
    by_topic: BTreeMap<Arc<[u8]>, Arc<Message>>,
    /// Keys of those that expire, by when they do.
    by_expiry: BTreeSet<(UnixMs, Arc<[u8]>)>,
    bytes: u64,
    /// What each principal has, of whom that is known.
    by_owner: HashMap<Principal, Held>,
}

/// What somebody has retained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    messages: u64,
    bytes: u64,
}

impl Retained {
    pub(crate) fn new(limits: RetainedLimits) -> Self {
        let (by_topic, by_expiry) = (BTreeMap::new(), BTreeSet::new());
        Self { limits, by_topic, by_expiry, bytes: 0, by_owner: HashMap::new() }
    }

    pub(crate) fn len(&self) -> u64 {
        self.by_topic.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets the retained message of a topic, or removes it when the payload is empty. Where there is no room, messages that had
    /// expired when this one came give way: these are answered, too.
    pub(crate) fn retain(
        &mut self,
        message: &Arc<Message>,
    ) -> (Result<RetainChange, StoreError>, Vec<Arc<Message>>) {
        let first = self.set(Arc::clone(message));
        if first.is_ok() {
            return (first, Vec::new());
        }
        let expired = self.take_expired(message.published_at());
        if expired.is_empty() { (first, expired) } else { (self.set(Arc::clone(message)), expired) }
    }

    /// Sets or removes, as there is room. v5 [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    fn set(&mut self, message: Arc<Message>) -> Result<RetainChange, StoreError> {
        let key = key_of(message.topic());
        if message.payload_slice().is_empty() {
            return Ok(if self.remove_key(&key) { RetainChange::Removed } else { RetainChange::Nothing });
        }
        let size = message.size() as u64;
        let old_size = self.by_topic.get(&key).map(|old| old.size() as u64);
        let messages = self.len() + u64::from(old_size.is_none());
        let bytes = self.bytes - old_size.unwrap_or(0) + size;
        let grown = Held { messages: messages - self.len(), bytes: bytes.saturating_sub(self.bytes) };
        if messages > self.limits.messages_max
            || (bytes > self.limits.bytes_max && grown.bytes > 0)
            || self.is_beyond_owner(&key, &message)
            || self.is_beyond_share(&message, grown)
        {
            return Err(StoreError::RetainedQuota);
        }
        self.put(key, message);
        Ok(RetainChange::Set)
    }

    fn put(&mut self, key: Arc<[u8]>, message: Arc<Message>) {
        let size = message.size() as u64;
        self.bytes += size;
        if let Some(owner) = message.owner() {
            let held = self.by_owner.entry(owner.principal.clone()).or_default();
            *held = Held { messages: held.messages + 1, bytes: held.bytes + size };
        }
        let expires_at = message.expires_at();
        if let Some(old) = self.by_topic.insert(Arc::clone(&key), message) {
            self.forget(&key, &old);
        }
        if let Some(at) = expires_at {
            self.by_expiry.insert((at, key));
        }
    }

    /// A message is not retained any more.
    fn forget(&mut self, key: &Arc<[u8]>, old: &Message) {
        let size = old.size() as u64;
        self.bytes -= size;
        if let Some(at) = old.expires_at() {
            self.by_expiry.remove(&(at, Arc::clone(key)));
        }
        let Some(owner) = old.owner() else { return };
        if let Some(held) = self.by_owner.get_mut(&owner.principal) {
            *held = Held { messages: held.messages - 1, bytes: held.bytes - size };
            if held.messages == 0 {
                self.by_owner.remove(&owner.principal);
            }
        }
    }

    /// Whether this would be one more of its owner's than there may be.
    fn is_beyond_owner(&self, key: &[u8], message: &Message) -> bool {
        let owned = message.owner().and_then(|owner| Some((&owner.principal, owner.messages_max?)));
        let Some((principal, max)) = owned else { return false };
        let before = self.by_topic.get(key).and_then(|old| old.owner());
        let is_one_more = before.is_none_or(|before| before.principal != *principal);
        is_one_more && self.by_owner.get(principal).map_or(0, |held| held.messages) >= max
    }

    /// Whether this would be too much of its owner while there is little room, by so much more than there is.
    fn is_beyond_share(&self, message: &Message, grown: Held) -> bool {
        let Some(owner) = message.owner() else { return false };
        let held = self.by_owner.get(&owner.principal).copied().unwrap_or_default();
        let is_beyond = |all: u64, all_max: u64, of_owner: u64| {
            // The last of them are for those who have few.
            share_of(all_max).is_some_and(|share| all > all_max - share && of_owner > share)
        };
        let messages = held.messages + grown.messages;
        let bytes = held.bytes + grown.bytes;
        (grown.messages > 0 && is_beyond(self.len() + grown.messages, self.limits.messages_max, messages))
            || (grown.bytes > 0 && is_beyond(self.bytes + grown.bytes, self.limits.bytes_max, bytes))
    }

    /// Puts a message back, whatever the bounds are now.
    pub(crate) fn restore(&mut self, message: Arc<Message>) {
        self.put(key_of(message.topic()), message);
    }

    /// Removes the message of a topic if it has expired.
    pub(crate) fn remove_expired(&mut self, topic: &str, now: UnixMs) -> bool {
        let key = key_of(topic);
        self.by_topic.get(&key).is_some_and(|message| message.is_expired(now)) && self.remove_key(&key)
    }

    /// Whether [`Retained::take_expired`] would find something.
    pub(crate) fn has_expired(&self, now: UnixMs) -> bool {
        self.by_expiry.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Removes messages that have expired, the oldest first, and answers them; many are not all removed at once.
    pub(crate) fn take_expired(&mut self, now: UnixMs) -> Vec<Arc<Message>> {
        let mut expired = Vec::new();
        while expired.len() < EXPIRED_MAX && self.has_expired(now) {
            let Some((_, key)) = self.by_expiry.pop_first() else { break };
            expired.extend(self.take_key(&key));
        }
        expired
    }

    fn remove_key(&mut self, key: &[u8]) -> bool {
        self.take_key(key).is_some()
    }

    fn take_key(&mut self, key: &[u8]) -> Option<Arc<Message>> {
        let (key, old) = self.by_topic.remove_entry(key)?;
        self.forget(&key, &old);
        Some(old)
    }

    /// A page of what matches `filter`, and the expired messages that were met.
    pub(crate) fn read(
        &self,
        filter: &str,
        cursor: Option<&Cursor>,
        messages_max: usize,
        now: UnixMs,
    ) -> (RetainedPage, Vec<Arc<Message>>) {
        let filter = Filter::new(filter);
        let mut page = RetainedPage::default();
        let mut expired = Vec::new();
        let mut at = match cursor {
            Some(cursor) => ReadFrom::After(cursor.0.to_vec()),
            None => ReadFrom::From(filter.first_key()),
        };
        let mut visits_left = VISITS_MAX.max(messages_max.saturating_mul(2));
        loop {
            let mut last: Option<&[u8]> = None;
            let mut seek = None;
            for (key, message) in self.by_topic.range::<[u8], _>(at.bounds()) {
                if visits_left == 0 || page.messages.len() >= messages_max.max(1) {
                    page.next = Some(last.map_or_else(|| at.to_cursor(), |key| Cursor(key.into())));
                    return (page, expired);
                }
                visits_left -= 1;
                match filter.judge(key) {
                    Verdict::Matches if message.is_expired(now) => expired.push(Arc::clone(message)),
                    Verdict::Matches => page.messages.push(Arc::clone(message)),
                    Verdict::Seek(to) => {
                        seek = Some(to);
                        break;
                    }
                    Verdict::Done => return (page, expired),
                }
                last = Some(key);
            }
            match seek {
                Some(to) => at = ReadFrom::From(to),
                None => return (page, expired),
            }
        }
    }
}

/// Where to read on.
enum ReadFrom {
    From(Vec<u8>),
    After(Vec<u8>),
}

impl ReadFrom {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        let from = match self {
            Self::From(key) => Bound::Included(key.as_slice()),
            Self::After(key) => Bound::Excluded(key.as_slice()),
        };
        (from, Bound::Unbounded)
    }

    /// A cursor stands *after* its bytes.
    fn to_cursor(&self) -> Cursor {
        match self {
            Self::After(key) => Cursor(key.as_slice().into()),
            Self::From(key) => {
                let mut key = key.clone();
                // Just before `key`: no Topic Name holds the byte 0xFF.
                match key.pop() {
                    Some(0) | None => {}
                    Some(last) => key.extend([last - 1, 0xFF]),
                }
                Cursor(key.into())
            }
        }
    }
}

/// What a key is to a filter.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Matches,
    /// It does not match, nor does anything before this key.
    Seek(Vec<u8>),
    /// Neither it nor anything after it matches.
    Done,
}

/// A Topic Filter, split into levels.
struct Filter<'a> {
    levels: Vec<&'a [u8]>,
    /// It ends in `#`, which is not among the levels.
    is_open: bool,
}

impl<'a> Filter<'a> {
    fn new(filter: &'a str) -> Self {
        let mut levels: Vec<&[u8]> = filter.split('/').map(str::as_bytes).collect();
        let is_open = levels.last().is_some_and(|level| *level == b"#");
        if is_open {
            levels.pop();
        }
        Self { levels, is_open }
    }

    /// The literal levels that every match begins with.
    fn first_key(&self) -> Vec<u8> {
        let literal: Vec<&[u8]> = self.levels.iter().copied().take_while(|level| *level != b"+").collect();
        literal.join(&SEPARATOR)
    }

    fn judge(&self, key: &[u8]) -> Verdict {
        let starts_wild = self.levels.first().map_or(self.is_open, |level| *level == b"+");
        // v5 [MQTT-4.7.2-1]
        if starts_wild && key.first() == Some(&b'$') {
            return Verdict::Seek(vec![b'$' + 1]);
        }
        let mut start = 0;
        for (depth, wanted) in self.levels.iter().enumerate() {
            if start > key.len() {
                // The key ends above this level: what lies below it comes next.
                let mut to = key.to_vec();
                to.push(SEPARATOR);
                if *wanted != b"+" {
                    to.extend_from_slice(wanted);
                }
                return Verdict::Seek(to);
            }
            let rest = key.get(start..).unwrap_or_default();
            let len = rest.iter().position(|byte| *byte == SEPARATOR).unwrap_or(rest.len());
            let level = rest.get(..len).unwrap_or_default();
            if *wanted != b"+" && level != *wanted {
                return self.seek_level(key, start, depth, level < *wanted);
            }
            start += len + 1;
        }
        if self.is_open || start > key.len() {
            return Verdict::Matches;
        }
        // It has more levels than the filter: go past all that lies below the level that is too deep.
        past(key.get(..start).unwrap_or_default())
    }

    /// The next key that can match, when the level at `start` does not equal the literal one.
    fn seek_level(&self, key: &[u8], start: usize, depth: usize, is_before: bool) -> Verdict {
        let mut prefix = key.get(..start).unwrap_or_default().to_vec();
        if is_before {
            prefix.extend_from_slice(self.levels.get(depth).copied().unwrap_or_default());
            return Verdict::Seek(prefix);
        }
        // Beyond it: the nearest `+` above this level takes its next value.
        past(&prefix)
    }
}

/// Past every key that begins with `prefix`, which ends in a separator; done if there is no level above.
fn past(prefix: &[u8]) -> Verdict {
    let mut to = prefix.to_vec();
    if to.pop().is_none() {
        return Verdict::Done;
    }
    to.push(SEPARATOR + 1);
    Verdict::Seek(to)
}

fn key_of(topic: &str) -> Arc<[u8]> {
    topic.bytes().map(|byte| if byte == b'/' { SEPARATOR } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use mqtt::QoS;

    use super::*;
    use crate::Owner;

    fn of(owner: &str, topic: &str, messages_max: Option<u64>) -> Arc<Message> {
        let owner = Owner { principal: Principal(owner.into()), messages_max };
        Arc::new(Message::new(topic, &[], b"x", QoS::AtMostOnce, true, 0).with_owner(owner))
    }

    fn retained(messages_max: u64, bytes_max: u64) -> Retained {
        Retained::new(RetainedLimits { messages_max, bytes_max })
    }

    #[test]
    fn the_last_of_the_room_is_for_those_who_have_little() {
        let size = of("greedy", "g/00", None).size() as u64;
        for mut retained in [retained(20, u64::MAX), retained(u64::MAX, 20 * size)] {
            let accepted = (0..40).filter(|n| retained.set(of("greedy", &format!("g/{n:02}"), None)).is_ok());
            assert_eq!(accepted.count(), 18);
            assert!(retained.set(of("greedy", "g/00", None)).is_ok(), "replaced");
            assert!(
                retained.set(of("good", "o/00", None)).is_ok()
                    && retained.set(of("good", "o/01", None)).is_ok()
            );
            assert!(retained.set(of("other", "o/02", None)).is_err(), "full");
            // What is taken from one by another counts there.
            assert!(retained.set(of("good", "g/00", None)).is_ok());
            assert_eq!(retained.by_owner[&Principal("good".into())].messages, 3);
            assert!(retained.set(Arc::new(Message::new("g/01", &[], b"", QoS::AtMostOnce, true, 0))).is_ok());
            assert_eq!(retained.by_owner[&Principal("greedy".into())].messages, 16);
            assert!(retained.set(of("greedy", "g/50", None)).is_err());
            assert!(retained.set(of("other", "o/02", None)).is_ok());
        }
    }

    #[test]
    fn a_principal_has_so_many_wherever_there_is_room() {
        let mut retained = retained(1_000, u64::MAX);
        let accepted = (0..9).filter(|n| retained.set(of("a", &format!("t/{n}"), Some(3))).is_ok());
        assert_eq!(accepted.count(), 3);
        assert!(retained.set(of("a", "t/0", Some(3))).is_ok(), "replaced");
        assert!(retained.set(of("b", "t/9", Some(3))).is_ok());
        for n in 0..9 {
            retained
                .set(Arc::new(Message::new(&format!("t/{n}"), &[], b"", QoS::AtMostOnce, true, 0)))
                .unwrap();
        }
        assert_eq!(retained.by_owner.len(), 1, "who has none is forgotten");
    }

    fn expiring(topic: &str, at: UnixMs, expiry_s: Option<u32>) -> Arc<Message> {
        Arc::new(Message::new(topic, &[], b"x", QoS::AtMostOnce, true, at).with_expiry(expiry_s))
    }

    #[test]
    fn what_has_expired_makes_room() {
        let mut retained = retained(3, u64::MAX);
        let topics = |expired: &[Arc<Message>]| -> Vec<String> {
            expired.iter().map(|message| message.topic().to_owned()).collect()
        };
        for (topic, expiry_s) in [("a", Some(20)), ("b", Some(10)), ("b", Some(30)), ("c", None)] {
            let (outcome, expired) = retained.retain(&expiring(topic, 0, expiry_s));
            assert!(outcome.is_ok() && expired.is_empty());
        }
        assert_eq!(retained.by_expiry.len(), 2, "what was replaced expires no more");
        let (outcome, expired) = retained.retain(&expiring("d", 19_999, None));
        assert!(outcome.is_err() && expired.is_empty());
        let (outcome, expired) = retained.retain(&expiring("d", 20_000, None));
        assert_eq!((outcome.ok(), topics(&expired)), (Some(RetainChange::Set), vec!["a".to_owned()]));
        assert!(!retained.has_expired(29_999) && retained.has_expired(30_000));
        assert_eq!(topics(&retained.take_expired(30_000)), ["b"]);
        assert_eq!((retained.len(), retained.by_expiry.len()), (2, 0));
    }

    #[test]
    fn what_expires_at_once_is_removed_in_several_goes() {
        let mut retained = retained(u64::MAX, u64::MAX);
        for n in 0..=EXPIRED_MAX {
            assert!(retained.set(expiring(&format!("t/{n}"), 0, Some(1))).is_ok());
        }
        assert_eq!(retained.take_expired(1000).len(), EXPIRED_MAX);
        assert_eq!(retained.take_expired(1000).len(), 1);
        assert_eq!((retained.len(), retained.bytes()), (0, 0));
    }
}
