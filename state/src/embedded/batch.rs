//! Turns what changed into key-value pairs for one atomic write: records of one queue that come together are written
//! together, and what is overwritten within the batch is written once.

use std::collections::HashMap;

use fjall::Slice;

use super::codec;
use super::layout::{self, Keyspace, Part};
use crate::Delivery;
use crate::tables::journal::{Change, RecordMark, SessionImage};
use crate::tables::{BodyKey, SessionKey};

/// Records are written together up to this many bytes, so that a page of a queue reads little that it does not need.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// One key to write; without a value, to remove.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) keyspace: Keyspace,
    pub(super) key: Slice,
    pub(super) value: Option<Slice>,
}

/// Consecutive records of one queue.
struct Chunk {
    last: u64,
    /// The count, then the records.
    bytes: Vec<u8>,
    count: u16,
}

/// A batch in the making.
#[derive(Default)]
pub(super) struct BatchBuilder {
    puts: Vec<Put>,
    chunks: HashMap<SessionKey, Chunk, foldhash::fast::RandomState>,
    marks: HashMap<SessionKey, Vec<(u64, RecordMark)>, foldhash::fast::RandomState>,
    /// Keys that may be written several times in a batch, and where.
    rewritten: HashMap<(Keyspace, Slice), usize>,
    scratch: Vec<u8>,
}

impl BatchBuilder {
    /// Everything to be written, from the changes in their order. `unique` was never used for a batch before.
    pub(super) fn build(&mut self, changes: &[Change], images: &[SessionImage], unique: u64) -> Vec<Put> {
        for change in changes {
            self.add_change(change);
        }
        for image in images {
            self.add_image(image);
        }
        let chunks: Vec<(SessionKey, Chunk)> = self.chunks.drain().collect();
        for (session, chunk) in chunks {
            self.add_chunk(session, chunk);
        }
        let marks: Vec<(SessionKey, Vec<(u64, RecordMark)>)> = self.marks.drain().collect();
        for (session, marks) in marks {
            let last = marks.iter().map(|(number, _)| *number).max().unwrap_or_default();
            self.scratch.clear();
            codec::put_marks(&mut self.scratch, &marks);
            self.put_scratch(Keyspace::Marks, &layout::marks(session, last, unique));
        }
        self.rewritten.clear();
        std::mem::take(&mut self.puts)
    }

    fn add_change(&mut self, change: &Change) {
        self.scratch.clear();
        match change {
            Change::Enqueued { session, number, delivery, body } => {
                self.add_record(*session, *number, delivery, *body);
            }
            Change::Marked { session, number, mark } => {
                self.marks.entry(*session).or_default().push((*number, *mark));
            }
            Change::Reserved { below } => {
                codec::put_u64(&mut self.scratch, *below);
                self.rewrite(Keyspace::Sessions, &layout::reserved_keys());
            }
            Change::BodyAdded { key, message } => {
                codec::put_message(&mut self.scratch, message);
                self.rewrite(Keyspace::Bodies, &key.0.to_be_bytes());
            }
            Change::BodyGone { key } => self.remove(Keyspace::Bodies, &key.0.to_be_bytes()),
            Change::Subscribed { session, subscription } => {
                codec::put_options(&mut self.scratch, &subscription.options);
                self.rewrite(Keyspace::Subscriptions, &layout::subscription(*session, &subscription.filter));
            }
            Change::Unsubscribed { session, filter } => {
                self.remove(Keyspace::Subscriptions, &layout::subscription(*session, filter));
            }
            Change::SessionGone { session } => {
                for part in [Part::Record, Part::Head, Part::Received, Part::Will] {
                    self.remove(Keyspace::Sessions, &layout::session_part(*session, part));
                }
            }
            Change::OrphanWill { whose, own, message } => {
                let (session, principal) = (&whose.session, whose.principal.as_ref());
                codec::put_orphan(&mut self.scratch, &session.client_id, principal, message);
                self.rewrite(Keyspace::Sessions, &layout::orphan(SessionKey(session.incarnation), *own));
            }
            Change::OrphanWillGone { session, own } => {
                self.remove(Keyspace::Sessions, &layout::orphan(*session, *own));
            }
            Change::Left { left } => {
                codec::put_left(&mut self.scratch, left);
                let session = SessionKey(left.session.incarnation);
                self.rewrite(Keyspace::Sessions, &layout::left(session, left.number));
            }
            Change::LeftGone { session, own } => {
                self.remove(Keyspace::Sessions, &layout::left(*session, *own));
            }
            Change::Retained { message } => {
                codec::put_retained(&mut self.scratch, message);
                self.rewrite(Keyspace::Retained, message.topic().as_bytes());
            }
            Change::RetainedGone { topic } => self.remove(Keyspace::Retained, topic.as_bytes()),
        }
    }

    fn add_record(&mut self, session: SessionKey, number: u64, delivery: &Delivery, body: Option<BodyKey>) {
        let message = &delivery.message;
        let needs = if body.is_none() { message.size() } else { 64 };
        let fresh = || Chunk { last: number, bytes: vec![0, 0], count: 0 };
        let mut chunk = self.chunks.entry(session).or_insert_with(fresh);
        if chunk.bytes.len() + needs > CHUNK_BYTES_MAX && chunk.count > 0 {
            let full = std::mem::replace(chunk, fresh());
            self.add_chunk(session, full);
            chunk = self.chunks.entry(session).or_insert_with(fresh);
        }
        chunk.last = number;
        chunk.count += 1;
        let apart = body.map(|key| (key.0, u32::try_from(message.size()).unwrap_or(u32::MAX)));
        codec::put_record_head(&mut chunk.bytes, delivery, apart);
        if apart.is_none() {
            codec::put_message(&mut chunk.bytes, message);
        }
    }

    fn add_chunk(&mut self, session: SessionKey, mut chunk: Chunk) {
        if let Some(count) = chunk.bytes.first_chunk_mut() {
            *count = chunk.count.to_le_bytes();
        }
        self.puts.push(Put {
            keyspace: Keyspace::Queue,
            key: Slice::from(layout::numbered(session, chunk.last)),
            value: Some(Slice::from(chunk.bytes)),
        });
    }

    fn add_image(&mut self, image: &SessionImage) {
        let key = image.key;
        if let Some(record) = &image.record {
            self.scratch.clear();
            codec::put_session(&mut self.scratch, record);
            self.put_scratch(Keyspace::Sessions, &layout::session_part(key, Part::Record));
        }
        if image.is_head_moved {
            self.scratch.clear();
            codec::put_u64(&mut self.scratch, image.head);
            self.put_scratch(Keyspace::Sessions, &layout::session_part(key, Part::Head));
        }
        if let Some(received) = &image.received {
            self.scratch.clear();
            codec::put_received(&mut self.scratch, received);
            self.put_scratch(Keyspace::Sessions, &layout::session_part(key, Part::Received));
        }
        match &image.will {
            None => {}
            Some(None) => self.remove(Keyspace::Sessions, &layout::session_part(key, Part::Will)),
            Some(Some(will)) => {
                self.scratch.clear();
                codec::put_will(&mut self.scratch, will);
                self.put_scratch(Keyspace::Sessions, &layout::session_part(key, Part::Will));
            }
        }
    }

    /// Writes the scratch buffer under a key that comes once in a batch.
    fn put_scratch(&mut self, keyspace: Keyspace, key: &[u8]) {
        self.puts.push(Put {
            keyspace,
            key: Slice::from(key),
            value: Some(Slice::from(self.scratch.as_slice())),
        });
    }

    /// Writes the scratch buffer under a key that may come again.
    fn rewrite(&mut self, keyspace: Keyspace, key: &[u8]) {
        let value = Some(Slice::from(self.scratch.as_slice()));
        self.replace(Put { keyspace, key: Slice::from(key), value });
    }

    fn remove(&mut self, keyspace: Keyspace, key: &[u8]) {
        self.replace(Put { keyspace, key: Slice::from(key), value: None });
    }

    fn replace(&mut self, put: Put) {
        let at = *self.rewritten.entry((put.keyspace, put.key.clone())).or_insert(self.puts.len());
        match self.puts.get_mut(at) {
            Some(earlier) => *earlier = put,
            None => self.puts.push(put),
        }
    }
}

/// Sessions that a batch makes known or moves, and those that it ends: for compaction.
pub(super) struct QueueMoves {
    pub(super) claimed: Vec<(SessionKey, u64)>,
    pub(super) moved: Vec<(SessionKey, u64)>,
    pub(super) gone: Vec<SessionKey>,
}

impl QueueMoves {
    pub(super) fn of(changes: &[Change], images: &[SessionImage]) -> Self {
        let heads = |wanted: fn(&SessionImage) -> bool| {
            images.iter().filter(|image| wanted(image)).map(|image| (image.key, image.head)).collect()
        };
        let gone = changes
            .iter()
            .filter_map(|change| match change {
                Change::SessionGone { session } => Some(*session),
                _ => None,
            })
            .collect();
        Self {
            claimed: heads(|image| image.record.is_some()),
            moved: heads(|image| image.is_head_moved),
            gone,
        }
    }
}
