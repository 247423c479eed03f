//! Retained messages: by bucket of their first two levels, a hash of the messages and a sorted set of the topics. A filter
//! that fixes both levels reads one bucket, others all of them, in pages that are matched here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use redis::Value;

use super::codec;
use super::engine::{Asked, Engine, add, random, read};
use super::keys::{Bucket, RETAINED_BUCKETS};
use super::lines::{Waiting, needs_seat};
use super::op::{Kind, Op, ReadAnswer, Result};
use super::operations::{ForgetExpiredOp, RetainOp, RetainedCountsOp, TopicsOp, ValuesOp, word};
use super::order::{Gate, Pending};
use super::seat::{Seat, Seating};
use crate::{Cursor, Done, Message, RetainedPage, StoreError, UnixMs};

/// Separates levels in the sorted sets; sorts before everything that a Topic Name may hold. v5 [MQTT-1.5.4-2]
const SEPARATOR: u8 = 0;
/// Topics that one command lists.
const TOPICS_MAX: usize = 512;
/// Messages that one operation reads, if they are not too large: see the function.
const VALUES_MAX: usize = 32;
/// A page ends after the messages with which it has so many bytes.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Buckets that are listed at the same time.
const BUCKETS_AT_ONCE: u16 = 16;
/// A page ends after this many topics, however few of them match.
const VISITS_MAX: usize = 16 * 1024;

impl Engine {
    /// See [`crate::Store::retain`].
    pub(super) fn retain(self: &Arc<Self>, message: Arc<Message>, done: Done<()>) {
        let Some(done) = self.admit(done) else { return };
        let topic = key_of(message.topic());
        let (begins, bytes) = (needs_seat(&message).is_some(), message.size() as u64);
        // Before it can be taken out of a line.
        self.waiting_bytes.fetch_add(bytes, Ordering::SeqCst);
        if let Some(first) = self.retain_lines.enter(&topic, Waiting::new(message, done), begins) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
            self.retain_next(topic, first);
        }
    }

    /// Retains it. If it may need a seat, what comes behind it waits for its end.
    fn retain_next(self: &Arc<Self>, topic: Vec<u8>, next: Waiting) {
        let seating = match needs_seat(&next.message) {
            None => Seating::NotNeeded,
            Some(_) => Seating::Needed,
        };
        self.try_retain(topic, next, seating, random());
    }

    fn try_retain(self: &Arc<Self>, topic: Vec<u8>, next: Waiting, seating: Seating, token: u64) {
        let bucket = Bucket::of_topic_key(&topic);
        let op = self.retain_op(&topic, &next.message, seating, token);
        self.submit(vec![Gate::Bucket(bucket)], |ticket| {
            let engine = Arc::clone(self);
            let then = Box::new(move |answer: Result<Value>| {
                if matches!(&answer, Ok(Value::BulkString(said)) if *said == [word::UNSEATED]) {
                    engine.order.complete(ticket, Box::new(|| ()));
                    return engine.seat_retained(topic, next, token);
                }
                let result = answer
                    .and_then(|answer| answer.accepted(StoreError::RetainedQuota))
                    .and_then(|answer| engine.retained_changed(&topic, answer));
                if result.is_ok()
                    && seating.is_late()
                    && let Some((principal, _)) = needs_seat(&next.message)
                {
                    let seat = Seat::of_retained(principal, &topic, token);
                    engine.take_seat(seat, u64::MAX, Box::new(|_| ()));
                }
                engine.order.complete(ticket, Box::new(move || next.answer(&result)));
                if seating != Seating::NotNeeded {
                    engine.go_on_in_line(&topic);
                }
            });
            vec![(bucket, Pending::Op(op, then))]
        });
    }

    fn retain_op(&self, topic: &[u8], message: &Message, seat: Seating, token: u64) -> Op {
        let record = match seat {
            _ if message.payload_slice().is_empty() => Vec::new(),
            Seating::NotNeeded => codec::message(message),
            Seating::Needed | Seating::Taken(_) => codec::seated(message),
        };
        let bytes = read(&self.counts.retained_bytes);
        let is_clear = record.is_empty();
        let op = RetainOp {
            topic: topic.to_vec(),
            record,
            size: message.size() as u64,
            may_add: read(&self.counts.retained_messages) < self.config.retained_messages_max,
            bytes_max: self.config.retained_bytes_max.saturating_sub(bytes),
            seat,
            token,
            principal: needs_seat(message).map_or("", |(principal, _)| &principal.0),
        };
        let mut op = op.on(&self.keys.of_retained(Bucket::of_topic_key(topic)));
        if is_clear {
            // It may empty the set of topics, which nothing behind it in its call could use while the slot moves.
            op.kind = Kind::Alone;
        }
        op
    }

    /// Takes a seat for a message, then retains it.
    fn seat_retained(self: &Arc<Self>, topic: Vec<u8>, next: Waiting, token: u64) {
        let Some((principal, seats_max)) = needs_seat(&next.message) else { return };
        let seat = Seat::of_retained(principal, &topic, token);
        let engine = Arc::clone(self);
        let asked_at = Instant::now();
        let then = move |taken: Result<bool>| match taken {
            Ok(true) => engine.try_retain(topic, next, Seating::Taken(asked_at), token),
            refused => {
                next.answer(&Err(refused.err().unwrap_or(StoreError::RetainedQuota)));
                engine.go_on_in_line(&topic);
            }
        };
        self.take_seat(seat, seats_max, Box::new(then));
    }

    /// Retains what comes next in the line of a topic, up to what may need a seat.
    fn go_on_in_line(self: &Arc<Self>, topic: &[u8]) {
        while let Some((next, bytes)) = self.retain_lines.next(topic) {
            self.waiting_bytes.fetch_sub(bytes, Ordering::SeqCst);
            let ends = needs_seat(&next.message).is_some();
            self.retain_next(topic.to_vec(), next);
            if ends {
                return;
            }
        }
    }

    /// Takes a change of a topic's messages and bytes into the counts, and a seat out that is in use no more.
    fn retained_changed(self: &Arc<Self>, topic: &[u8], change: Value) -> Result<()> {
        let [messages, bytes, owner] = change.tuple()?;
        self.add_retained(messages.number()?, bytes.number()?);
        owner.maybe().map_or(Ok(()), |owner| self.leave_retained(topic, owner))
    }

    /// A message is retained no more, or another one is.
    pub(super) fn leave_retained(self: &Arc<Self>, topic: &[u8], owner: Value) -> Result<()> {
        const DAMAGED: StoreError = StoreError::Damaged { what: "owner of a retained message" };
        self.leave_seat(&Seat::of_owner(topic, &owner.text()?).ok_or(DAMAGED)?);
        Ok(())
    }

    /// Takes messages and bytes into the counts.
    pub(super) fn add_retained(&self, messages: i64, bytes: i64) {
        add(&self.counts.retained_messages, messages);
        add(&self.counts.retained_bytes, bytes);
    }

    /// Begins to read the counts of a bucket.
    pub(super) fn ask_retained_counts(self: &Arc<Self>, bucket: Bucket) -> Asked {
        self.ask(bucket, RetainedCountsOp {}.on(&self.keys.of_retained(bucket)))
    }

    /// Ends what [`Engine::ask_retained_counts`] began.
    pub(super) async fn add_retained_counts(&self, asked: Asked) -> Result<()> {
        let [messages, bytes] = asked.answer().await?.tuple()?;
        self.add_retained(messages.number()?, bytes.number()?);
        Ok(())
    }

    /// See [`crate::Store::retained`].
    pub(super) fn retained(
        self: &Arc<Self>,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    ) {
        let Some(done) = self.admit(done) else { return };
        let walk = Walk {
            engine: Arc::clone(self),
            filter: RangeFilter::new(filter),
            messages_max: messages_max.max(1),
            now,
            visits: 0,
            bytes: 0,
            page: RetainedPage::default(),
        };
        self.runtime.spawn(async move { done(walk.run(cursor).await) });
    }
}

/// The reading of one page.
struct Walk {
    engine: Arc<Engine>,
    filter: RangeFilter,
    messages_max: usize,
    now: UnixMs,
    visits: usize,
    /// Of the messages of the page.
    bytes: usize,
    page: RetainedPage,
}

impl Walk {
    async fn run(mut self, cursor: Option<Cursor>) -> Result<RetainedPage> {
        let buckets = self.filter.buckets();
        let (mut first, mut after) = match cursor {
            None => (*buckets.start(), None),
            Some(cursor) => {
                let (bucket, topic) = read_cursor(&cursor)?;
                (bucket, Some(topic))
            }
        };
        while first <= *buckets.end() {
            let last = first.saturating_add(BUCKETS_AT_ONCE - 1).min(*buckets.end());
            let asked: Vec<Asked> = (first..=last)
                .map(|bucket| {
                    let after = if bucket == first { after.take() } else { None };
                    self.ask_topics(bucket, after.as_deref())
                })
                .collect();
            for (bucket, mut asked) in (first..=last).zip(asked) {
                loop {
                    let topics = read_topics(asked.answer().await?)?;
                    let more = topics.len() >= TOPICS_MAX;
                    let last_topic = topics.last().cloned();
                    if let Some(stopped_after) = self.take(bucket, topics).await? {
                        self.page.next = Some(write_cursor(bucket, &stopped_after));
                        return Ok(self.page);
                    }
                    match last_topic {
                        Some(topic) if more => asked = self.ask_topics(bucket, Some(&topic)),
                        _ => break,
                    }
                }
            }
            first = last.saturating_add(1);
        }
        Ok(self.page)
    }

    fn ask_topics(&self, bucket: u16, after: Option<&[u8]>) -> Asked {
        let bucket = Bucket::Retained(bucket);
        let (from, to) = self.filter.range();
        let from = after.map_or(from, |topic| [b"(", topic].concat());
        let op = TopicsOp { from, to, topics_max: TOPICS_MAX as u64 };
        self.engine.ask(bucket, op.on(&self.engine.keys.of_retained(bucket)))
    }

    /// Adds what matches to the page. Answers the topic after which it is full.
    async fn take(&mut self, bucket: u16, topics: Vec<Vec<u8>>) -> Result<Option<Vec<u8>>> {
        let bucket = Bucket::Retained(bucket);
        self.visits += topics.len();
        let last = topics.last().cloned();
        let matching: Vec<Vec<u8>> = topics.into_iter().filter(|topic| self.filter.matches(topic)).collect();
        let mut rest = matching.as_slice();
        while !rest.is_empty() {
            let room = self.messages_max - self.page.messages.len();
            let Some(asked) = rest.get(..room.min(VALUES_MAX).min(rest.len())) else { break };
            let op = ValuesOp { topics: asked.to_vec() }.on(&self.engine.keys.of_retained(bucket));
            let values = self.engine.ask(bucket, op).answer().await?.list()?;
            // Those that are missing are asked for again.
            let Some((taken, later)) = rest.split_at_checked(values.len()) else {
                return Err(StoreError::Damaged { what: "retained messages" });
            };
            let mut expired = Vec::new();
            for (topic, value) in taken.iter().zip(values) {
                let Some(value) = value.maybe() else { continue };
                let record = value.bytes()?;
                let message = codec::read_message(&record)?;
                if message.is_expired(self.now) {
                    expired.push((topic, record));
                } else {
                    self.bytes += message.size();
                    self.page.messages.push(message);
                }
            }
            self.forget(bucket, expired).await?;
            rest = later;
            let is_full = self.page.messages.len() >= self.messages_max || self.bytes >= PAGE_BYTES_MAX;
            if is_full && let Some(last_taken) = taken.last() {
                return Ok(Some(last_taken.clone()));
            }
        }
        Ok(last.filter(|_| self.visits >= VISITS_MAX))
    }

    /// Removes messages that have expired, unless they were replaced.
    async fn forget(&self, bucket: Bucket, expired: Vec<(&Vec<u8>, Vec<u8>)>) -> Result<()> {
        let asked: Vec<(&Vec<u8>, Asked)> = expired
            .into_iter()
            .map(|(topic, record)| {
                let op = ForgetExpiredOp { topic, record };
                (topic, self.engine.ask(bucket, op.on(&self.engine.keys.of_retained(bucket))))
            })
            .collect();
        for (topic, asked) in asked {
            self.engine.retained_changed(topic, asked.answer().await?)?;
        }
        Ok(())
    }
}

fn read_topics(answer: Value) -> Result<Vec<Vec<u8>>> {
    answer.list()?.into_iter().map(ReadAnswer::bytes).collect()
}

fn write_cursor(bucket: u16, topic: &[u8]) -> Cursor {
    Cursor([&bucket.to_be_bytes(), topic].concat().into())
}

fn read_cursor(cursor: &Cursor) -> Result<(u16, Vec<u8>)> {
    let (bucket, topic) = cursor.0.split_first_chunk().ok_or(StoreError::Damaged { what: "cursor" })?;
    Ok((u16::from_be_bytes(*bucket), topic.to_vec()))
}

fn key_of(topic: &str) -> Vec<u8> {
    topic.bytes().map(|byte| if byte == b'/' { SEPARATOR } else { byte }).collect()
}

/// A Topic Filter, split into levels.
struct RangeFilter {
    levels: Vec<Vec<u8>>,
    /// It ends in `#`, which is not among the levels.
    is_open: bool,
    /// Levels before the first wildcard.
    literal: usize,
}

impl RangeFilter {
    fn new(filter: &str) -> Self {
        let mut levels: Vec<Vec<u8>> = filter.split('/').map(|level| level.as_bytes().to_vec()).collect();
        let is_open = levels.last().is_some_and(|level| level == b"#");
        if is_open {
            levels.pop();
        }
        let literal = levels.iter().take_while(|level| *level != b"+").count();
        Self { levels, is_open, literal }
    }

    /// The levels before the first wildcard.
    fn prefix(&self) -> Vec<u8> {
        self.levels.get(..self.literal).unwrap_or_default().join(&SEPARATOR)
    }

    /// The buckets that can hold a match.
    fn buckets(&self) -> std::ops::RangeInclusive<u16> {
        let is_exact = self.literal == self.levels.len() && !self.is_open;
        if !is_exact && self.literal < 2 {
            return 0..=RETAINED_BUCKETS - 1;
        }
        let first_two = self.levels.get(..self.literal.min(2)).unwrap_or_default().join(&b'/');
        let Bucket::Retained(bucket) = Bucket::of_topic(&String::from_utf8_lossy(&first_two)) else {
            return 0..=RETAINED_BUCKETS - 1;
        };
        bucket..=bucket
    }

    /// Where matches are in a sorted set, as ZRANGEBYLEX takes it.
    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        if self.literal == 0 {
            return (b"-".to_vec(), b"+".to_vec());
        }
        let prefix = self.prefix();
        let from = [b"[", prefix.as_slice()].concat();
        if self.literal == self.levels.len() && !self.is_open {
            return (from.clone(), from);
        }
        // Nothing else lies between a topic and the levels below it.
        (from, [b"(", prefix.as_slice(), &[SEPARATOR + 1]].concat())
    }

    fn matches(&self, topic: &[u8]) -> bool {
        // v5 [MQTT-4.7.2-1]
        if self.literal == 0 && topic.first() == Some(&b'$') {
            return false;
        }
        let mut found = topic.split(|byte| *byte == SEPARATOR);
        for wanted in &self.levels {
            match found.next() {
                Some(level) if wanted == b"+" || wanted == level => {}
                _ => return false,
            }
        }
        self.is_open || found.next().is_none()
    }
}
