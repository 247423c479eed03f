//! The queue of one session: dense numbers from head to tail, a small slot for each. Bodies may be in memory, shared with
//! other queues, or only on disk.

use std::collections::VecDeque;
use std::sync::Arc;

use mqtt::QoS;

use super::BodyKey;
use super::journal::RecordMark;
use crate::{Delivery, Message, Number, QueuePage, Queued, Record, SubscriptionIds, Via};

/// An emptied queue gives its memory back when it has room for more slots than this.
const IDLE_SLOTS_MAX: usize = 64;

/// What few records have, behind one pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) ids: SubscriptionIds,
    pub(crate) via: Via,
}

/// `None`: nothing but what is usual.
pub(super) type ThinExtra = Option<Box<Extra>>;

/// One number of a queue.
#[derive(Debug)]
pub(super) enum Slot {
    /// Done, but an older one is not.
    Acknowledged,
    /// Only PUBREL is outstanding.
    Released,
    /// A message in memory.
    Resident { message: Arc<Message>, extra: ThinExtra, qos: QoS, retain: bool },
    /// A message on disk; whether it came by a share.
    Stored { size: u32, is_shared: bool },
    /// A message whose body is shared with other queues.
    Shared { body: BodyKey, size: u32, extra: ThinExtra, qos: QoS, retain: bool },
}

impl Slot {
    /// Bytes, as [`Message::size`] counts them.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Acknowledged | Self::Released => 0,
            Self::Resident { message, .. } => message.size() as u64,
            Self::Stored { size, .. } | Self::Shared { size, .. } => u64::from(*size),
        }
    }

    /// Whether it is a message that came by a share.
    fn is_shared(&self) -> bool {
        match self {
            Self::Acknowledged | Self::Released => false,
            Self::Stored { is_shared, .. } => *is_shared,
            Self::Resident { extra, .. } | Self::Shared { extra, .. } => is_shared(extra),
        }
    }

    fn shared_size(&self) -> u64 {
        if self.is_shared() { self.size() } else { 0 }
    }

    fn resident_size(&self) -> u64 {
        if matches!(self, Self::Resident { .. }) { self.size() } else { 0 }
    }
}

/// What removing or replacing a record freed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Freed {
    pub(super) messages: u64,
    pub(super) bytes: u64,
    pub(super) resident_bytes: u64,
    pub(super) body: Option<BodyKey>,
    /// The head moved.
    pub(super) head_moved: bool,
    /// The slot's new state is to be written down, because the head did not move past it.
    pub(super) mark: Option<RecordMark>,
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    head: u64,
    slots: VecDeque<Slot>,
    live: u64,
    bytes: u64,
    resident_bytes: u64,
    /// Of messages that came by shares.
    shared_bytes: u64,
    /// No slot below is resident.
    resident_from: u64,
    /// The batch that slots came in last, and the first of them.
    last_batch: (u64, u64),
}

impl Queue {
    /// An empty queue whose next message gets `tail`.
    pub(super) fn new(tail: u64) -> Self {
        Self {
            head: tail,
            slots: VecDeque::new(),
            live: 0,
            bytes: 0,
            resident_bytes: 0,
            shared_bytes: 0,
            resident_from: tail,
            last_batch: (0, tail),
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    pub(super) fn tail(&self) -> u64 {
        self.head + self.slots.len() as u64
    }

    /// Records that are not acknowledged.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        self.resident_bytes
    }

    /// Bytes of messages that came by shares.
    pub(super) fn shared_bytes(&self) -> u64 {
        self.shared_bytes
    }

    /// Appends a slot and gives it the next number.
    pub(super) fn push(&mut self, slot: Slot) -> u64 {
        let number = self.tail();
        self.bytes += slot.size();
        self.resident_bytes += slot.resident_size();
        self.shared_bytes += slot.shared_size();
        if !matches!(slot, Slot::Acknowledged) {
            self.live += 1;
        }
        self.slots.push_back(slot);
        number
    }

    /// As [`Queue::push`], with the batch that writes the slot to disk.
    pub(super) fn push_in_batch(&mut self, slot: Slot, batch: u64) -> u64 {
        let number = self.push(slot);
        if self.last_batch.0 != batch {
            self.last_batch = (batch, number);
        }
        number
    }

    /// Moves the head past acknowledged slots.
    fn advance(&mut self) -> bool {
        let before = self.head;
        while matches!(self.slots.front(), Some(Slot::Acknowledged)) {
            self.slots.pop_front();
            self.head += 1;
        }
        if self.slots.is_empty() && self.slots.capacity() > IDLE_SLOTS_MAX {
            self.slots = VecDeque::new();
        }
        self.resident_from = self.resident_from.max(self.head);
        self.head != before
    }

    /// Moves the head to the oldest record that is not acknowledged.
    pub(super) fn settle(&mut self) {
        self.advance();
    }

    fn slot_mut(&mut self, number: u64) -> Option<&mut Slot> {
        let index = usize::try_from(number.checked_sub(self.head)?).ok()?;
        self.slots.get_mut(index)
    }

    /// Replaces a slot by `mark`; `None` if that changes nothing.
    fn replace(&mut self, number: u64, mark: RecordMark) -> Option<Freed> {
        let slot = self.slot_mut(number)?;
        let (new, messages) = match (mark, &*slot) {
            (_, Slot::Acknowledged) | (RecordMark::Released, Slot::Released) => return None,
            (RecordMark::Released, _) => (Slot::Released, 0),
            (RecordMark::Acknowledged, _) => (Slot::Acknowledged, 1),
        };
        let old = std::mem::replace(slot, new);
        let shared_bytes = old.shared_size();
        let mut freed = Freed {
            messages,
            bytes: old.size(),
            resident_bytes: old.resident_size(),
            mark: Some(mark),
            ..Freed::default()
        };
        if let Slot::Shared { body, .. } = old {
            freed.body = Some(body);
        }
        self.live -= freed.messages;
        self.bytes -= freed.bytes;
        self.resident_bytes -= freed.resident_bytes;
        self.shared_bytes -= shared_bytes;
        Some(freed)
    }

    /// Removes a record; `None` if it is gone already.
    pub(super) fn acknowledge(&mut self, number: u64) -> Option<Freed> {
        let mut freed = self.replace(number, RecordMark::Acknowledged)?;
        if number == self.head {
            freed.head_moved = self.advance();
            freed.mark = None;
        }
        Some(freed)
    }

    /// Turns a record into a PUBREL marker; `None` if it is one, or is gone.
    pub(super) fn release(&mut self, number: u64) -> Option<Freed> {
        self.replace(number, RecordMark::Released)
    }

    /// The bodies that slots share, for each slot that does.
    pub(super) fn shared_bodies(&self) -> impl Iterator<Item = BodyKey> + '_ {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Shared { body, .. } => Some(*body),
            _ => None,
        })
    }

    /// The number after the first `unacknowledged_max` records: nothing from it on can have been sent by an owner that
    /// keeps to that many.
    pub(super) fn sent_bound(&self, unacknowledged_max: u64) -> u64 {
        let mut live = 0;
        for (number, slot) in (self.head..).zip(&self.slots) {
            if live == unacknowledged_max {
                return number;
            }
            live += u64::from(!matches!(slot, Slot::Acknowledged));
        }
        self.tail()
    }

    /// Reads records from `from` on.
    pub(super) fn read(&self, from: u64, messages_max: usize, bytes_max: usize) -> Page {
        let start = from.clamp(self.head, self.tail());
        let mut page = Page { records: Vec::new(), next: Number(start) };
        let mut bytes = 0_u64;
        let skip = usize::try_from(start - self.head).unwrap_or(usize::MAX);
        for (number, slot) in (start..).zip(self.slots.range(skip.min(self.slots.len())..)) {
            if !matches!(slot, Slot::Acknowledged) {
                let full = page.records.len() >= messages_max || bytes + slot.size() > bytes_max as u64;
                if full && !page.records.is_empty() {
                    return page;
                }
                bytes += slot.size();
                page.push(Number(number), slot);
            }
            page.next = Number(number + 1);
        }
        page
    }

    /// The records that came by shares, whatever their QoS; `None` if there are none.
    pub(super) fn shared(&self) -> Option<Page> {
        let mut page = Page { records: Vec::new(), next: Number(self.tail()) };
        for (number, slot) in (self.head..).zip(&self.slots) {
            if slot.is_shared() {
                page.push(Number(number), slot);
            }
        }
        (!page.records.is_empty()).then_some(page)
    }

    /// Turns up to `slots_max` resident slots, oldest first, into stored ones, if they came in batches up to
    /// `committed_batch`. Answers how many were visited, and how many bytes that freed.
    pub(super) fn evict(&mut self, slots_max: usize, committed_batch: u64) -> (usize, u64) {
        let (last_batch, first) = self.last_batch;
        let below = if last_batch > committed_batch { first } else { self.tail() };
        let skip =
            usize::try_from(self.resident_from - self.head).unwrap_or(usize::MAX).min(self.slots.len());
        let slots_max = usize::try_from(below.saturating_sub(self.resident_from))
            .map_or(slots_max, |max| max.min(slots_max));
        let mut freed = 0;
        let mut visited = 0;
        for slot in self.slots.range_mut(skip..).take(slots_max) {
            visited += 1;
            if let Slot::Resident { message, extra, .. } = &*slot {
                let size = message.size();
                freed += size as u64;
                let is_shared = is_shared(extra);
                *slot = Slot::Stored { size: u32::try_from(size).unwrap_or(u32::MAX), is_shared };
            }
        }
        self.resident_from += visited as u64;
        self.resident_bytes -= freed;
        (visited, freed)
    }

    /// Recounts everything, for the invariants.
    #[cfg(all(feature = "testing", debug_assertions))]
    pub(super) fn recount(&self) -> (u64, u64, u64) {
        let shared: u64 = self.slots.iter().map(Slot::shared_size).sum();
        assert_eq!(shared, self.shared_bytes);
        let live = self.slots.iter().filter(|slot| !matches!(slot, Slot::Acknowledged)).count();
        let bytes = self.slots.iter().map(Slot::size).sum();
        let resident = self.slots.iter().map(Slot::resident_size).sum();
        (live as u64, bytes, resident)
    }
}

/// A page of a queue, some of whose bodies may still have to be read.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) records: Vec<PageRecord>,
    pub(crate) next: Number,
}

/// One record of a [`Page`].
#[derive(Debug)]
pub(crate) enum PageRecord {
    /// Complete.
    Ready(Queued),
    /// All of it is on disk.
    OnDisk(Number),
    /// Its body is to be found among the shared ones.
    BodyOnDisk { number: Number, body: BodyKey, extra: Extra, qos: QoS, retain: bool },
}

impl Page {
    fn push(&mut self, number: Number, slot: &Slot) {
        let record = match slot {
            Slot::Acknowledged => return,
            Slot::Released => PageRecord::Ready(Queued { number, record: Record::Released }),
            Slot::Stored { .. } => PageRecord::OnDisk(number),
            Slot::Resident { message, extra, qos, retain } => {
                let delivery = widen(extra).delivery(Arc::clone(message), *qos, *retain);
                PageRecord::Ready(Queued { number, record: Record::Message(delivery) })
            }
            Slot::Shared { body, extra, qos, retain, .. } => {
                let (body, extra, qos, retain) = (*body, widen(extra), *qos, *retain);
                PageRecord::BodyOnDisk { number, body, extra, qos, retain }
            }
        };
        self.records.push(record);
    }

    /// Completes records whose shared body `find` knows.
    pub(super) fn fill(&mut self, find: impl Fn(BodyKey) -> Option<Arc<Message>>) {
        for record in &mut self.records {
            if let PageRecord::BodyOnDisk { number, body, extra, qos, retain } = record
                && let Some(message) = find(*body)
            {
                let delivery = std::mem::take(extra).delivery(message, *qos, *retain);
                *record = PageRecord::Ready(Queued { number: *number, record: Record::Message(delivery) });
            }
        }
    }

    /// Whether nothing has to be read.
    pub(crate) fn is_ready(&self) -> bool {
        self.records.iter().all(|record| matches!(record, PageRecord::Ready(_)))
    }

    /// The page, when nothing has to be read; other records are left out.
    pub(crate) fn into_ready(self) -> QueuePage {
        let records = self
            .records
            .into_iter()
            .filter_map(|record| match record {
                PageRecord::Ready(queued) => Some(queued),
                PageRecord::OnDisk(_) | PageRecord::BodyOnDisk { .. } => None,
            })
            .collect();
        QueuePage { records, next: self.next }
    }
}

impl Extra {
    /// What a delivery has beside its message, QoS and RETAIN flag.
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self { ids: delivery.subscription_ids.clone(), via: delivery.via.clone() }
    }

    /// The delivery that has it.
    pub(crate) fn delivery(self, message: Arc<Message>, qos: QoS, retain: bool) -> Delivery {
        Delivery { message, qos, retain, subscription_ids: self.ids, via: self.via }
    }
}

fn is_shared(extra: &ThinExtra) -> bool {
    extra.as_ref().is_some_and(|extra| matches!(extra.via, Via::Share(_)))
}

fn widen(extra: &ThinExtra) -> Extra {
    extra.as_deref().cloned().unwrap_or_default()
}

/// One pointer for what is usually nothing.
pub(super) fn thin(extra: Extra) -> ThinExtra {
    (extra != Extra::default()).then(|| Box::new(extra))
}
