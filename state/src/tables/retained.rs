//! Retained messages, ordered level by level, so that a wildcard visits what it matches and seeks over what it does not.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::{Cursor, Message, RetainedPage, StoreError, UnixMs};

/// Entries and seeks per page beyond those that match, so that a filter that matches little holds nobody up.
const VISITS_MAX: usize = 4096;

/// Separates levels in keys; sorts before everything that a Topic Name may hold. v5 [MQTT-1.5.4-2]
const SEPARATOR: u8 = 0;

/// Bounds of the retained messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedLimits {
    pub(crate) messages_max: u64,
    pub(crate) bytes_max: u64,
}

impl RetainedLimits {
    pub(crate) const NONE: Self = Self { messages_max: u64::MAX, bytes_max: u64::MAX };
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
    by_topic: BTreeMap<Box<[u8]>, Arc<Message>>,
    bytes: u64,
}

impl Retained {
    pub(crate) fn new(limits: RetainedLimits) -> Self {
        Self { limits, by_topic: BTreeMap::new(), bytes: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        self.by_topic.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sets the retained message of a topic, or removes it when the payload is empty. v5 [MQTT-3.3.1-5] [MQTT-3.3.1-6]
    pub(crate) fn set(&mut self, message: Arc<Message>) -> Result<RetainChange, StoreError> {
        let key = key_of(message.topic());
        if message.payload_slice().is_empty() {
            return Ok(if self.remove_key(&key) { RetainChange::Removed } else { RetainChange::Nothing });
        }
        let size = message.size() as u64;
        let old_size = self.by_topic.get(&key).map(|old| old.size() as u64);
        let messages = self.len() + u64::from(old_size.is_none());
        let bytes = self.bytes - old_size.unwrap_or(0) + size;
        if messages > self.limits.messages_max || (bytes > self.limits.bytes_max && bytes > self.bytes) {
            return Err(StoreError::RetainedQuota);
        }
        self.bytes = bytes;
        self.by_topic.insert(key, message);
        Ok(RetainChange::Set)
    }

    /// Puts a message back, whatever the bounds are now.
    pub(crate) fn restore(&mut self, message: Arc<Message>) {
        self.bytes += message.size() as u64;
        if let Some(old) = self.by_topic.insert(key_of(message.topic()), message) {
            self.bytes -= old.size() as u64;
        }
    }

    /// Removes the message of a topic if it has expired.
    pub(crate) fn remove_expired(&mut self, topic: &str, now: UnixMs) -> bool {
        let key = key_of(topic);
        self.by_topic.get(&key).is_some_and(|message| message.is_expired(now)) && self.remove_key(&key)
    }

    fn remove_key(&mut self, key: &[u8]) -> bool {
        let Some(old) = self.by_topic.remove(key) else { return false };
        self.bytes -= old.size() as u64;
        true
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
            Some(cursor) => Position::After(cursor.0.to_vec()),
            None => Position::From(filter.first_key()),
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
                Some(to) => at = Position::From(to),
                None => return (page, expired),
            }
        }
    }
}

/// Where to read on.
enum Position {
    From(Vec<u8>),
    After(Vec<u8>),
}

impl Position {
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

fn key_of(topic: &str) -> Box<[u8]> {
    topic.bytes().map(|byte| if byte == b'/' { SEPARATOR } else { byte }).collect()
}
