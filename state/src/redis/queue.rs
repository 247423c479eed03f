//! Reads a session's queue, and settles its records and the identifiers received from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use mqtt::PacketId;

use super::change::{Outcome, QueueChange, Settled};
use super::codec;
use super::engine::Engine;
use super::keys::Bucket;
use super::op::{ReadAnswer, Result};
use super::operations::{ConfirmOp, ForgetOp, ReadQueueOp, TailsOp};
use crate::{Done, Fence, Number, QueuePage, Queued, StoreError, StoredSession};

/// Sessions that one operation looks at.
const TAILS_MAX: usize = 64;

impl Engine {
    /// See [`crate::Store::confirm`].
    pub(super) fn confirm(self: &Arc<Self>, fence: &Fence, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let op = ConfirmOp { fence }.on(&self.keys.of_client(client_id));
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            answer.accepted(StoreError::NoSession).map(drop)
        });
    }

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
        let (messages_max, bytes_max) = (messages_max.max(1) as u64, bytes_max as u64);
        let op = ReadQueueOp { fence, from, messages_max, bytes_max }.on(&self.keys.of_client(client_id));
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

    /// See [`crate::Store::tails`].
    pub(super) fn tails(
        self: &Arc<Self>,
        sessions: Vec<Arc<StoredSession>>,
        done: Done<Vec<Option<Number>>>,
    ) {
        let Some(done) = self.admit(done) else { return };
        let engine = Arc::clone(self);
        self.runtime.spawn(async move { done(engine.read_tails(&sessions).await) });
    }

    async fn read_tails(self: &Arc<Self>, sessions: &[Arc<StoredSession>]) -> Result<Vec<Option<Number>>> {
        let mut by_bucket: BTreeMap<Bucket, Vec<usize>> = BTreeMap::new();
        for (at, session) in sessions.iter().enumerate() {
            by_bucket.entry(Bucket::of_client(&session.client_id)).or_default().push(at);
        }
        let mut asked = Vec::new();
        for (bucket, members) in by_bucket {
            for some in members.chunks(TAILS_MAX) {
                let some_sessions = || some.iter().filter_map(|at| sessions.get(*at));
                let keys = some_sessions().map(|it| self.keys.of_client(&it.client_id).session());
                let incarnations = some_sessions().map(|it| it.incarnation.to_string().into_bytes());
                let op = TailsOp { incarnations: incarnations.collect() }.on(keys.collect());
                asked.push((some.to_vec(), self.ask(bucket, op)));
            }
        }
        let mut tails = vec![None; sessions.len()];
        for (members, asked) in asked {
            for (at, tail) in members.into_iter().zip(asked.answer().await?.list()?) {
                if let Some(place) = tails.get_mut(at) {
                    *place = Some(Number(tail.count()?)).filter(|tail| tail.0 > 0);
                }
            }
        }
        Ok(tails)
    }

    /// See [`crate::Store::acknowledge`] and [`crate::Store::mark_released`].
    pub(super) fn settle(self: &Arc<Self>, fence: &Fence, number: Number, to: Settled, done: Done<()>) {
        let Some(done) = self.admit(done) else { return };
        let bucket = Bucket::of_client(&fence.session.client_id);
        let change = QueueChange::Settle { fence: fence.clone(), number, to };
        self.change(bucket, change, move |outcomes| {
            done(outcomes.and_then(|outcomes| match outcomes.first() {
                Some(Outcome::Settled) => Ok(()),
                Some(Outcome::Fenced) => Err(StoreError::Fenced),
                Some(Outcome::NoSession) => Err(StoreError::NoSession),
                _ => Err(StoreError::Damaged { what: "answer about a record" }),
            }));
        });
    }

    /// See [`crate::Store::forget_received`].
    pub(super) fn forget_received(self: &Arc<Self>, fence: &Fence, packet_id: PacketId, done: Done<()>) {
        let client_id = &fence.session.client_id;
        let op = ForgetOp { fence, packet_id }.on(&self.keys.of_client(client_id));
        self.one(Bucket::of_client(client_id), op, done, |_, answer| {
            answer.accepted(StoreError::NoSession).map(|_| ())
        });
    }
}
