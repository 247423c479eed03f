//! What tests ask of a store, as values to be changed, and a way to ask it as a function is called.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mqtt::{ProtocolVersion, QoS};

use crate::{
    Claim, ConnectionId, Delivery, Done, EXPIRY_NEVER, Message, Principal, Publish, QueueLimits, StoreError,
    StoredSession, SubscriptionIds, Target, Via,
};

/// An answer that takes longer is a bug.
const WITHIN: Duration = Duration::from_secs(20);

/// A claim, for connection 1, of a session that never expires and whose queue has no bounds.
pub fn claim(client_id: &str) -> Claim {
    Claim {
        client_id: Arc::from(client_id),
        principal: Principal::default(),
        connection_id: ConnectionId(1),
        clean_start: false,
        create: true,
        expiry_s: EXPIRY_NEVER,
        will: None,
        limits: QueueLimits { messages_max: u64::MAX, bytes_max: u64::MAX },
        protocol: ProtocolVersion::V5,
        receive_maximum: 20,
        memory_queue: false,
        resume: false,
        attempt: 1,
        age_ms: 0,
        valid_ms: None,
        principal_sessions_max: None,
        will_wait_ms: 0,
        now: 1,
    }
}

/// A delivery of a message by a subscription, with this QoS.
pub fn delivery(message: &Arc<Message>, qos: QoS) -> Delivery {
    Delivery {
        message: Arc::clone(message),
        qos,
        retain: false,
        subscription_ids: SubscriptionIds::NONE,
        via: Via::Subscription,
    }
}

/// A message to stored sessions with its own QoS, without an origin.
pub fn publish_to(sessions: &[&Arc<StoredSession>], message: &Arc<Message>) -> Publish {
    let target = |session: &&Arc<StoredSession>| Target {
        session: Arc::clone(session),
        delivery: delivery(message, message.qos()),
        share: None,
    };
    Publish {
        message: Arc::clone(message),
        origin: None,
        identity: None,
        targets: sessions.iter().map(target).collect(),
    }
}

/// Calls, and leaves the answer for later.
pub fn begin<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> Receiver<Result<T, StoreError>> {
    let (sender, receiver) = channel();
    call(Box::new(move |answer| {
        sender.send(answer).ok();
    }));
    receiver
}

/// Waits for an answer.
///
/// # Errors
/// What the store answers.
///
/// # Panics
/// When there is none in time.
pub fn take<T>(answer: &Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.recv_timeout(WITHIN).expect("an answer in time")
}

/// Calls and waits for the answer.
///
/// # Errors
/// What the store answers.
///
/// # Panics
/// When there is none in time.
pub fn wait<T: Send + 'static>(call: impl FnOnce(Done<T>)) -> Result<T, StoreError> {
    take(&begin(call))
}
