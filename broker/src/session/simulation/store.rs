//! What the simulation asks of the store beside the session's effects, whatever answers are held.

use std::sync::{Arc, Mutex};

use state::{Claim, ConnectionId, Fence, MemoryStore, Number, Owned, Record, Store, testing};
use testkit::client::Message;

pub(super) const NOW: u64 = 1_000_000;

/// A claim of a session that outlives its connections.
pub(super) fn wanted(client_id: &str, connection: u128, receive_maximum: u16) -> Claim {
    let connection_id = ConnectionId(connection);
    Claim { connection_id, receive_maximum, now: NOW, ..testing::claim(client_id) }
}

/// Claims a session.
pub(super) fn claim(store: &MemoryStore, claim: Claim) -> Option<Owned> {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    store.claim(claim, Box::new(move |answer| *filled.lock().unwrap() = Some(answer)));
    while slot.lock().unwrap().is_none() && store.step() {}
    let answer = slot.lock().unwrap().take();
    answer.and_then(Result::ok).and_then(|claimed| claimed.session)
}

/// All messages in a queue.
pub(super) fn read_all(store: &MemoryStore, fence: &Fence) -> Vec<Message> {
    let slot = Arc::new(Mutex::new(None));
    let filled = Arc::clone(&slot);
    let done = Box::new(move |page| *filled.lock().unwrap() = Some(page));
    store.read_queue(fence, Number(0), usize::MAX, usize::MAX, done);
    while slot.lock().unwrap().is_none() && store.step() {}
    let page = slot.lock().unwrap().take().expect("an answer").expect("a page");
    let records = page.records.into_iter().filter_map(|queued| match queued.record {
        Record::Message(delivery) => {
            Some(Message::read(delivery.message.topic(), delivery.qos, delivery.message.payload_slice()))
        }
        Record::Released => None,
    });
    records.collect()
}
