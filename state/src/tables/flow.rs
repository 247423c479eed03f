//! Messages into queues and out of them, and the QoS 2 flows from clients.

use std::sync::Arc;

use mqtt::PacketId;

use super::journal::{Change, Dirty};
use super::queue::{Extra, Freed, Page, Slot, thin};
use super::{BodyKey, SessionKey, Tables};
use crate::{
    Delivery, Enqueued, Fence, Message, Number, Origin, Publish, Published, StoreError, Target, WorkerId,
};

/// A message for several sessions is kept once, with references, from this size on: below, a reference costs as much.
pub(crate) const SHARED_BODY_BYTES_MIN: usize = 1024;

/// A message of this size is kept apart even for one session, so that queue records stay small enough to read in pages.
const APART_BODY_BYTES_MIN: usize = 16 * 1024;

impl Tables {
    /// See [`crate::Store::publish`].
    pub(crate) fn publish(&mut self, publish: &Publish, worker: WorkerId) -> Result<Published, StoreError> {
        if let Some(origin) = &publish.origin
            && !self.receive(origin)?
        {
            return Ok(Published { duplicate: true, ..Published::default() });
        }
        let targets = match publish.targets.as_slice() {
            [one] if one.delivery.message.size() < APART_BODY_BYTES_MIN => {
                vec![self.enqueue_inline(one, worker)]
            }
            targets => self.enqueue_many(targets, worker),
        };
        Ok(Published { targets, ..Published::default() })
    }

    /// Remembers a QoS 2 message from a client. False if it came before.
    fn receive(&mut self, origin: &Origin) -> Result<bool, StoreError> {
        let session = self.owned(&origin.fence)?;
        let Err(at) = session.received.binary_search(&origin.packet_id) else { return Ok(false) };
        session.received.insert(at, origin.packet_id);
        let key = session.key();
        self.mark_dirty(key, Dirty { received: true, ..Dirty::default() });
        Ok(true)
    }

    /// See [`crate::Store::forget_received`].
    pub(crate) fn forget_received(&mut self, fence: &Fence, packet_id: PacketId) -> Result<(), StoreError> {
        let session = self.owned(fence)?;
        if let Ok(at) = session.received.binary_search(&packet_id) {
            session.received.remove(at);
            let key = session.key();
            self.mark_dirty(key, Dirty { received: true, ..Dirty::default() });
        }
        Ok(())
    }

    fn enqueue_many(&mut self, targets: &[Target], worker: WorkerId) -> Vec<Enqueued> {
        let mut shared: Option<(BodyKey, Arc<Message>, u32)> = None;
        let answers = targets
            .iter()
            .map(|target| {
                if target.delivery.message.size() < SHARED_BODY_BYTES_MIN {
                    return self.enqueue_inline(target, worker);
                }
                let verdict = self.admit(target);
                if verdict.is_none() {
                    let key = match &mut shared {
                        Some((key, message, references))
                            if Arc::ptr_eq(message, &target.delivery.message) =>
                        {
                            *references += 1;
                            *key
                        }
                        _ => {
                            self.add_body(shared.take());
                            let key = BodyKey(self.new_key());
                            shared = Some((key, Arc::clone(&target.delivery.message), 1));
                            key
                        }
                    };
                    return self.enqueue(target, Some(key), worker);
                }
                verdict.unwrap_or(Enqueued::Gone)
            })
            .collect();
        self.add_body(shared);
        answers
    }

    fn add_body(&mut self, body: Option<(BodyKey, Arc<Message>, u32)>) {
        if let Some((key, message, references)) = body {
            self.journal.note(Change::BodyAdded { key, message: Arc::clone(&message) });
            self.bodies.add(key, message, references);
        }
    }

    fn enqueue_inline(&mut self, target: &Target, worker: WorkerId) -> Enqueued {
        match self.admit(target) {
            None => self.enqueue(target, None, worker),
            Some(refused) => refused,
        }
    }

    /// Why a target gets nothing, `None` if it does get the message.
    fn admit(&self, target: &Target) -> Option<Enqueued> {
        let Some(session) = self.sessions.get(&SessionKey(target.session.incarnation)) else {
            return Some(Enqueued::Gone);
        };
        if session.is_memory_queue {
            return Some(Enqueued::Gone);
        }
        let size = target.delivery.message.size() as u64;
        let is_full = session.queue.live() >= session.limits.messages_max
            || session.queue.bytes() + size > session.limits.bytes_max
            || self.totals.queued_messages >= self.limits.queued_messages_max
            || self.totals.queued_bytes + size > self.limits.queued_bytes_max;
        is_full.then_some(Enqueued::Full)
    }

    fn enqueue(&mut self, target: &Target, body: Option<BodyKey>, worker: WorkerId) -> Enqueued {
        let key = SessionKey(target.session.incarnation);
        let Some(session) = self.sessions.get_mut(&key) else { return Enqueued::Gone };
        let Delivery { message, qos, retain, .. } = &target.delivery;
        let (extra, qos, retain) = (thin(Extra::of(&target.delivery)), *qos, *retain);
        let size = message.size();
        let slot = match body {
            None => Slot::Resident { message: Arc::clone(message), extra, qos, retain },
            Some(body) => {
                Slot::Shared { body, size: u32::try_from(size).unwrap_or(u32::MAX), extra, qos, retain }
            }
        };
        let number = session.queue.push_in_batch(slot, self.batch);
        session.last_batch = self.batch;
        let elsewhere = (session.is_connected() && session.owner != worker).then_some(session.owner);
        if body.is_none() {
            self.resident_bytes += size as u64;
            if self.journal.is_on() && !session.is_listed_resident {
                session.is_listed_resident = true;
                self.resident.push_back(key);
            }
        }
        self.totals.queued_messages += 1;
        self.totals.queued_bytes += size as u64;
        self.journal.note(Change::Enqueued { session: key, number, delivery: target.delivery.clone(), body });
        let number = Number(number);
        elsewhere.map_or(Enqueued::At(number), |owner| Enqueued::Elsewhere(number, owner))
    }

    /// See [`crate::Store::confirm`].
    pub(crate) fn confirm(&self, fence: &Fence) -> Result<(), StoreError> {
        self.look_up(fence).map(drop)
    }

    /// See [`crate::Store::read_queue`].
    pub(crate) fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
    ) -> Result<Page, StoreError> {
        let session = self.look_up(fence)?;
        let mut page = session.queue.read(from.0, messages_max.max(1), bytes_max);
        page.fill(|body| self.bodies.find(body));
        Ok(page)
    }

    /// See [`crate::Store::acknowledge`]. A record that is gone already is no error.
    pub(crate) fn acknowledge(&mut self, fence: &Fence, number: Number) -> Result<(), StoreError> {
        let session = self.owned(fence)?;
        let key = session.key();
        if let Some(freed) = session.queue.acknowledge(number.0) {
            self.free(key, number, &freed);
        }
        Ok(())
    }

    /// See [`crate::Store::mark_released`]. A record that is gone already is no error.
    pub(crate) fn mark_released(&mut self, fence: &Fence, number: Number) -> Result<(), StoreError> {
        let session = self.owned(fence)?;
        let key = session.key();
        if let Some(freed) = session.queue.release(number.0) {
            self.free(key, number, &freed);
        }
        Ok(())
    }

    fn free(&mut self, key: SessionKey, number: Number, freed: &Freed) {
        self.totals.queued_messages -= freed.messages;
        self.totals.queued_bytes -= freed.bytes;
        self.resident_bytes -= freed.resident_bytes;
        if let Some(body) = freed.body {
            self.release_body(body);
        }
        if let Some(mark) = freed.mark {
            self.journal.note(Change::Marked { session: key, number: number.0, mark });
        }
        if freed.head_moved {
            self.mark_dirty(key, Dirty { head: true, ..Dirty::default() });
        }
    }

    pub(super) fn release_body(&mut self, key: BodyKey) {
        if self.bodies.release(key) {
            self.journal.note(Change::BodyGone { key });
        }
    }
}
