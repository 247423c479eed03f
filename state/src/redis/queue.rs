//! Reads a session's queue, and settles its records and the identifiers received from it.

use std::sync::Arc;

use mqtt::PacketId;

use super::codec;
use super::engine::{Engine, add};
use super::keys::Bucket;
use super::op::{Answer, Kind, Op};
use crate::{Done, Fence, Number, QueuePage, Queued, StoreError};

impl Engine {
    /// See [`crate::Store::read_queue`].
    pub(super) fn read_queue(
        self: &Arc<Self>,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    ) {
        let client_id = &fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.queue(client_id)];
        let op = Op::new("read_queue", Kind::Read, keys)
            .fence(fence)
            .arg(from.0)
            .arg(messages_max.max(1) as u64)
            .arg(bytes_max as u64);
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            let mut values = answer.accepted(StoreError::NoSession)?.list()?.into_iter();
            let damaged = StoreError::Damaged { what: "queue page" };
            let mut page =
                QueuePage { next: Number(values.next().ok_or(damaged)?.count()?), records: Vec::new() };
            while let (Some(number), Some(record)) = (values.next(), values.next()) {
                let number = Number(number.count()?);
                page.records.push(Queued { number, record: codec::read_record(&record.bytes()?)? });
            }
            Ok(page)
        });
    }

    /// See [`crate::Store::acknowledge`] and [`crate::Store::mark_released`], which `name` tells apart.
    pub(super) fn settle(
        self: &Arc<Self>,
        name: &'static str,
        fence: &Fence,
        number: Number,
        done: Done<()>,
    ) {
        let client_id = &fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.queue(client_id)];
        let op = Op::new(name, Kind::Write, keys).fence(fence).arg(number.0);
        self.one(Bucket::of_client(client_id), op, done, |engine, answer| {
            let [records, bytes] = answer.accepted(StoreError::NoSession)?.tuple()?;
            add(&engine.counts.queued_messages, -records.number()?);
            add(&engine.counts.queued_bytes, -bytes.number()?);
            Ok(())
        });
    }

    /// See [`crate::Store::forget_received`].
    pub(super) fn forget_received(self: &Arc<Self>, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let keys = vec![self.keys.session(client_id), self.keys.received(client_id)];
        let op = Op::new("forget", Kind::Write, keys).fence(fence).arg(u64::from(packet_id.as_u16()));
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            answer.accepted(StoreError::NoSession).map(|_| ())
        });
    }
}
