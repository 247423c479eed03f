//! What the simulation asks of the store beside the session's effects, whatever answers are held.

use std::sync::{Arc, Mutex};

use mqtt::ProtocolVersion;
use state::{
    Claim, ConnectionId, EXPIRY_NEVER, Fence, MemoryStore, Number, Owned, Principal, QueueLimits, Record,
    Store,
};

use super::client::Message;

pub(super) const NOW: u64 = 1_000_000;

/// A claim of a session that outlives its connections.
pub(super) fn wanted(client_id: &str, connection: u128, receive_maximum: u16) -> Claim {
    Claim {
        client_id: client_id.into(),
        principal: Principal::default(),
        connection_id: ConnectionId(connection),
        clean_start: false,
        create: true,
        expiry_s: EXPIRY_NEVER,
        will: None,
        limits: QueueLimits { messages_max: u64::MAX, bytes_max: u64::MAX },
        protocol: ProtocolVersion::V5,
        receive_maximum,
        memory_queue: false,
        resume: false,
        attempt: 1,
        age_ms: 0,
        valid_ms: None,
        principal_sessions_max: None,
        will_wait_ms: 0,
        now: NOW,
    }
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
