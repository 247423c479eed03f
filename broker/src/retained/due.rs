//! Which retained messages a session is still to get, as one worker tells it to the next by way of the edge: filters, and how far
//! each of them has been read. What is on its way to the device when a worker goes may come again; nothing is left out.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use link::wire::RETAINED_BYTES_MAX;
use state::{Cursor, Number};

/// Where reading a filter goes on; `None` for its begin.
pub(crate) type Position = Option<Cursor>;

/// What the edge is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DueNews {
    /// Beside what it was told before, not in place of that.
    pub is_more: bool,
    /// As [`decode`] reads it; empty for nothing.
    pub due: Bytes,
}

/// What the edge knows, and what of that is not so any more.
#[derive(Debug, Default)]
pub(crate) struct DueLedger {
    /// The edge keeps something.
    is_told: bool,
    /// As many of the filters that wait, the last ones, are not told.
    untold: usize,
    /// What it was told lacks something.
    has_gap: bool,
    /// Something has come to its end since it was told.
    is_stale: bool,
    /// Bytes of messages handed to the session since then.
    handed_bytes: usize,
    /// Pages that were handed to the session and that the edge may not have, the first one first.
    behind: Vec<Behind>,
}

/// A page that was handed to the session.
#[derive(Debug)]
struct Behind {
    filter: Arc<str>,
    /// Where it begins.
    position: Position,
    /// It is sent when everything below this number of the session's queue is; 0 for a queue in the store.
    until: Number,
}

impl DueLedger {
    /// The edge of a session that goes on here keeps what it told.
    pub(crate) fn of_a_resume() -> Self {
        Self { is_told: true, ..Self::default() }
    }

    /// One filter more waits, behind all others.
    pub(crate) fn line_up(&mut self) {
        self.untold += 1;
    }

    /// One that the edge was told of begins anew, behind all others.
    pub(crate) fn begin_again(&mut self) {
        self.has_gap = true;
    }

    /// A message was handed to the session.
    pub(crate) fn hand_in(&mut self, bytes: usize) {
        self.handed_bytes += bytes;
    }

    /// All of a page that began there was handed to the session, which has sent it when everything below `until` is sent.
    pub(crate) fn page_ends(&mut self, filter: &Arc<str>, began: &Position, until: Number) {
        self.behind.push(Behind { filter: Arc::clone(filter), position: began.clone(), until });
        self.is_stale = true;
    }

    /// The session is not subscribed to these any more.
    pub(crate) fn forget(&mut self, is_gone: impl Fn(&str) -> bool) {
        self.behind.retain(|page| !is_gone(&page.filter));
        // Nobody knows which of those that are left were told.
        self.has_gap |= self.untold > 0;
    }

    /// Filters have come to their end, or were forgotten; so many still wait.
    pub(crate) fn leave(&mut self, waiting: usize) {
        if self.untold > waiting {
            // What was handed in of one of them was never told.
            self.untold = waiting;
            self.has_gap = true;
        }
        self.is_stale = true;
    }

    /// What the edge is to be told now, if anything. `waiting` are the filters that wait, with where the page begins that is being
    /// handed in. The edge has everything below `sent` of the session's queue, of one in the store everything; `None` when nobody
    /// knows.
    ///
    /// What was added is told at once, what came to its end only when that is no more bytes than the messages were: a client with
    /// many subscriptions would otherwise cost as much as their square.
    pub(crate) fn news<'a>(
        &'a mut self,
        sent: Option<Number>,
        waiting: impl DoubleEndedIterator<Item = (&'a Arc<str>, &'a Position)> + ExactSizeIterator + Clone,
    ) -> Option<DueNews> {
        if !(self.is_told || self.has_gap) && self.untold == 0 && self.behind.is_empty() {
            return None;
        }
        if let Some(sent) = sent {
            self.behind.retain(|page| page.until > sent);
        }
        if waiting.len() == 0 && self.behind.is_empty() {
            sent?;
            let was_told = std::mem::take(self).is_told;
            return was_told.then(|| DueNews { is_more: false, due: Bytes::new() });
        }
        if self.untold > 0 && !self.has_gap {
            let due = encode(waiting.rev().take(std::mem::take(&mut self.untold)).rev());
            self.is_told = true;
            return Some(DueNews { is_more: true, due });
        }
        if !(self.has_gap || self.is_stale && sent.is_some()) {
            return None;
        }
        let behind = self.behind.iter().map(|page| (&page.filter, &page.position));
        let all = behind.chain(waiting);
        if !self.has_gap && !fits(all.clone(), self.handed_bytes) {
            return None;
        }
        let due = encode(firsts(all).into_iter());
        self.is_stale = !self.behind.is_empty();
        (self.has_gap, self.untold, self.handed_bytes) = (false, 0, 0);
        self.is_told = true;
        Some(DueNews { is_more: false, due })
    }
}

/// Bytes of one filter with its position.
fn encoded_len((filter, position): (&Arc<str>, &Position)) -> usize {
    8 + filter.len() + position.as_ref().map_or(0, |Cursor(cursor)| cursor.len())
}

/// Whether all of these are no more than so many bytes.
fn fits<'a>(filters: impl Iterator<Item = (&'a Arc<str>, &'a Position)>, bytes: usize) -> bool {
    let mut left = bytes;
    for filter in filters {
        let Some(rest) = left.checked_sub(encoded_len(filter)) else { return false };
        left = rest;
    }
    true
}

/// Each filter once, where the first of it begins that is due.
fn firsts<'a>(
    filters: impl Iterator<Item = (&'a Arc<str>, &'a Position)>,
) -> Vec<(&'a Arc<str>, &'a Position)> {
    let mut at: HashMap<&str, usize> = HashMap::new();
    let mut firsts: Vec<(&Arc<str>, &Position)> = Vec::new();
    for (filter, position) in filters {
        match at.entry(filter) {
            Entry::Vacant(entry) => {
                entry.insert(firsts.len());
                firsts.push((filter, position));
            }
            // It was asked for again.
            Entry::Occupied(entry) if position.is_none() => firsts[*entry.get()].1 = position,
            Entry::Occupied(_) => {}
        }
    }
    firsts
}

/// As many of these as an edge keeps.
fn encode<'a>(filters: impl Iterator<Item = (&'a Arc<str>, &'a Position)>) -> Bytes {
    let mut out = BytesMut::new();
    for (filter, position) in filters {
        if out.len() + encoded_len((filter, position)) > RETAINED_BYTES_MAX {
            break;
        }
        let cursor = position.as_ref().map_or(&[][..], |Cursor(cursor)| cursor);
        for bytes in [filter.as_bytes(), cursor] {
            out.put_u32(bytes.len() as u32);
            out.put_slice(bytes);
        }
    }
    out.freeze()
}

/// What another worker told, as far as it can be read.
pub(crate) fn decode(mut due: &[u8]) -> Vec<(Arc<str>, Position)> {
    let mut filters = Vec::new();
    while let Some(filter) = take_bytes(&mut due)
        && let Some(cursor) = take_bytes(&mut due)
        && let Ok(filter) = std::str::from_utf8(filter)
    {
        filters.push((filter.into(), (!cursor.is_empty()).then(|| Cursor(cursor.into()))));
    }
    filters
}

fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = from.try_get_u32().ok()?;
    from.split_off(..usize::try_from(len).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Waiting = Vec<(Arc<str>, Position)>;

    const NOTHING: Option<Number> = Some(Number(0));
    const ALL: Option<Number> = Some(Number(u64::MAX));
    const BLOCKED: Option<Number> = None;

    fn waiting(filters: &[&str]) -> Waiting {
        filters.iter().map(|filter| ((*filter).into(), None)).collect()
    }

    fn at(filter: &str, at: u8) -> (Arc<str>, Position) {
        (filter.into(), Some(Cursor([at].into())))
    }

    fn news(told: &mut DueLedger, sent: Option<Number>, waiting: &Waiting) -> Option<(bool, Vec<String>)> {
        let news = told.news(sent, waiting.iter().map(|(filter, position)| (filter, position)))?;
        let name = |(filter, position): (Arc<str>, Position)| match position {
            Some(Cursor(at)) => format!("{filter} from {}", at[0]),
            None => filter.to_string(),
        };
        Some((news.is_more, decode(&news.due).into_iter().map(name).collect()))
    }

    fn all(filters: &[&str]) -> Option<(bool, Vec<String>)> {
        Some((false, filters.iter().map(|filter| (*filter).to_owned()).collect()))
    }

    fn more(filters: &[&str]) -> Option<(bool, Vec<String>)> {
        all(filters).map(|(_, filters)| (true, filters))
    }

    #[test]
    fn nothing_is_told_of_a_session_that_gets_none() {
        let mut told = DueLedger::default();
        assert_eq!(news(&mut told, ALL, &waiting(&[])), None);
        // It has got all before anybody could be told.
        told.line_up();
        told.page_ends(&"a".into(), &None, Number(1));
        told.leave(0);
        assert_eq!(news(&mut told, ALL, &waiting(&[])), None);
    }

    #[test]
    fn what_is_added_is_told_at_once_and_that_all_is_sent_when_it_is() {
        let mut told = DueLedger::default();
        let mut line = waiting(&["a"]);
        told.line_up();
        assert_eq!(news(&mut told, BLOCKED, &line), more(&["a"]));
        line.extend(waiting(&["b", "c"]));
        told.line_up();
        told.line_up();
        assert_eq!(news(&mut told, BLOCKED, &line), more(&["b", "c"]));
        assert_eq!(news(&mut told, ALL, &line), None);

        for filter in ["a", "b", "c"] {
            line.remove(0);
            told.page_ends(&filter.into(), &None, Number(4));
            told.leave(line.len());
        }
        assert_eq!(news(&mut told, BLOCKED, &line), None);
        assert_eq!(news(&mut told, Some(Number(3)), &line), None);
        assert_eq!(news(&mut told, Some(Number(4)), &line), all(&[]));
        assert_eq!(news(&mut told, ALL, &line), None);
    }

    #[test]
    fn what_was_handed_in_counts_as_due_until_the_edge_has_it() {
        let mut told = DueLedger::default();
        told.line_up();
        // The whole filter came at once, but the device takes nothing.
        told.hand_in(1000);
        told.page_ends(&"a".into(), &None, Number(8));
        told.leave(0);
        assert_eq!(news(&mut told, BLOCKED, &waiting(&[])), all(&["a"]));
        told.line_up();
        assert_eq!(news(&mut told, BLOCKED, &waiting(&["b"])), more(&["b"]));
        told.hand_in(1000);
        assert_eq!(news(&mut told, ALL, &waiting(&["b"])), all(&["b"]));
    }

    #[test]
    fn what_was_asked_for_again_begins_at_the_begin() {
        let mut told = DueLedger::default();
        told.line_up();
        told.page_ends(&"a".into(), &at("a", 1).1, Number(8));
        told.begin_again();
        assert_eq!(news(&mut told, BLOCKED, &vec![at("b", 2), ("a".into(), None)]), all(&["a", "b from 2"]));
        told.begin_again();
        assert_eq!(news(&mut told, BLOCKED, &vec![at("a", 2)]), all(&["a from 1"]));
    }

    #[test]
    fn what_was_unsubscribed_from_is_not_due() {
        let mut told = DueLedger::default();
        told.page_ends(&"a".into(), &None, Number(8));
        told.line_up();
        told.forget(|filter| filter != "b");
        told.leave(1);
        assert_eq!(news(&mut told, BLOCKED, &waiting(&["b"])), all(&["b"]));
    }

    #[test]
    fn how_far_reading_has_come_is_told_where_that_is_cheaper_than_the_messages() {
        let mut told = DueLedger::of_a_resume();
        told.page_ends(&"a".into(), &None, Number(2));
        told.hand_in(3);
        assert_eq!(news(&mut told, ALL, &vec![at("a", 1)]), None);
        told.hand_in(1000);
        assert_eq!(news(&mut told, ALL, &vec![at("a", 1)]), all(&["a from 1"]));
        told.page_ends(&"a".into(), &at("a", 1).1, Number(3));
        told.page_ends(&"a".into(), &at("a", 2).1, Number(4));
        told.hand_in(1000);
        assert_eq!(news(&mut told, BLOCKED, &vec![at("a", 3)]), None, "the device has not taken it");
        assert_eq!(news(&mut told, Some(Number(3)), &vec![at("a", 3)]), all(&["a from 2"]));
        told.hand_in(1000);
        assert_eq!(news(&mut told, ALL, &vec![at("a", 3)]), all(&["a from 3"]));
        told.hand_in(1000);
        assert_eq!(news(&mut told, NOTHING, &vec![at("a", 3)]), None, "nothing has come to its end");
    }

    #[test]
    fn no_more_is_told_than_an_edge_keeps_and_what_cannot_be_read_is_left() {
        let filters: Waiting = (0..4000).map(|number| (format!("filter/{number}").into(), None)).collect();
        let due = encode(filters.iter().map(|(filter, position)| (filter, position)));
        assert!(due.len() <= RETAINED_BYTES_MAX && decode(&due)[..] == filters[..decode(&due).len()]);
        assert_eq!(decode(&due[..due.len() - 1]).len(), decode(&due).len() - 1);
        assert_eq!(decode(b"\0\0\0\x01\xFF\0\0\0\0"), []);
        assert_eq!(decode(&[0xFF; 9]), []);
    }
}
