//! QoS 1 and 2 messages from the client: acknowledgements in the order of the PUBLISH packets, and which identifiers of
//! QoS 2 flows are taken.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use mqtt::{PacketId, QoS, ReasonCode};

/// Room for flows that is kept when there is none; anything larger is given back.
const FLOWS_KEPT_MAX: usize = 64;

/// How far a QoS 2 flow from the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// PUBLISH came; PUBREC is sent when the message is where it must be.
    Publishing,
    /// PUBLISH came and is refused with this; PUBREC is sent when the store has forgotten the identifier.
    Refusing(ReasonCode),
    /// PUBREC was sent.
    AwaitingPubrel,
    /// PUBREL came; PUBCOMP is sent when the store has forgotten the identifier.
    Forgetting,
    /// PUBREL came for an identifier that is not known here. The store may have it from a connection before, as a message
    /// that was not seen to be routed to the end, and forgets it before the client uses it again.
    ForgettingStray,
}

/// A QoS 2 flow from the client.
#[derive(Clone, Copy, Debug)]
struct Received {
    receipt: Receipt,
    /// Whether it began on this connection: only then it counts against our Receive Maximum.
    counts: bool,
}

/// An acknowledgement that is owed.
#[derive(Clone, Copy, Debug)]
struct OwedAnswer {
    id: PacketId,
    qos: QoS,
    answer: Option<ReasonCode>,
}

/// Flows from the client. Exists only while there are any.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// In the order of the PUBLISH packets.
    owed: VecDeque<OwedAnswer>,
    received: HashMap<PacketId, Received, RandomState>,
    /// What counts against our Receive Maximum.
    inflight: usize,
}

impl Inbound {
    /// What may not exceed our Receive Maximum: messages of this connection without PUBACK, PUBCOMP, or PUBREC with an
    /// error.
    // v5 [MQTT-3.3.4-7]
    pub(crate) fn inflight(&self) -> usize {
        self.inflight
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty() && self.received.is_empty()
    }

    /// An acknowledgement is owed; `answer` if it is known already.
    pub(crate) fn owe(&mut self, id: PacketId, qos: QoS, answer: Option<ReasonCode>) {
        self.inflight += usize::from(qos == QoS::AtLeastOnce);
        self.owed.push_back(OwedAnswer { id, qos, answer });
    }

    /// How far the QoS 2 flow of `id` is.
    pub(crate) fn receipt(&self, id: PacketId) -> Option<Receipt> {
        if self.received.is_empty() {
            return None;
        }
        self.received.get(&id).map(|received| received.receipt)
    }

    /// A QoS 2 flow begins.
    pub(crate) fn begin(&mut self, id: PacketId) {
        let before = self.received.insert(id, Received { receipt: Receipt::Publishing, counts: true });
        debug_assert!(before.is_none());
        self.inflight += 1;
    }

    /// A QoS 2 flow goes on that began on an earlier connection.
    pub(crate) fn restore(&mut self, id: PacketId) {
        self.received.insert(id, Received { receipt: Receipt::AwaitingPubrel, counts: false });
    }

    /// A message that came on an earlier connection came again: PUBREC is owed for it. Answers whether that is so; otherwise
    /// nothing changes.
    pub(crate) fn begin_again(&mut self, id: PacketId) -> bool {
        let Some(received) = self.received.get_mut(&id).filter(|received| !received.counts) else {
            return false;
        };
        received.receipt = Receipt::Publishing;
        self.owe(id, QoS::ExactlyOnce, None);
        true
    }

    /// A QoS 2 message is refused with `code`: PUBREC is owed, and is answered by [`Inbound::refused`].
    pub(crate) fn refuse(&mut self, id: PacketId, code: ReasonCode) {
        self.begin(id);
        self.advance(id, Receipt::Refusing(code));
        self.owe(id, QoS::ExactlyOnce, None);
    }

    /// PUBREC may refuse the QoS 2 message of `id`, and ends its flow.
    pub(crate) fn refused(&mut self, id: PacketId, code: ReasonCode) {
        self.advance(id, Receipt::Publishing);
        self.answer(id, QoS::ExactlyOnce, code);
    }

    /// Identifiers of flows that began on an earlier connection, or that nobody knows.
    pub(crate) fn restored(&self) -> usize {
        self.received.values().filter(|received| !received.counts).count()
    }

    /// Sets how far the QoS 2 flow of `id` is.
    pub(crate) fn advance(&mut self, id: PacketId, receipt: Receipt) {
        if let Some(received) = self.received.get_mut(&id) {
            received.receipt = receipt;
        }
    }

    /// The QoS 2 flow of `id` is over.
    pub(crate) fn forget(&mut self, id: PacketId) {
        let counted = self.received.remove(&id).is_some_and(|received| received.counts);
        self.inflight -= usize::from(counted);
        self.trim();
    }

    /// The oldest acknowledgement of this kind that has no answer gets this one.
    pub(crate) fn answer(&mut self, id: PacketId, qos: QoS, code: ReasonCode) {
        let mut same = self.owed.iter_mut().filter(|owed| owed.id == id && owed.qos == qos);
        if let Some(owed) = same.find(|owed| owed.answer.is_none()) {
            owed.answer = Some(code);
        }
    }

    /// Takes the next acknowledgement that can be sent.
    pub(crate) fn next_answer(&mut self) -> Option<(PacketId, QoS, ReasonCode)> {
        let front = self.owed.front()?;
        let answered = (front.id, front.qos, front.answer?);
        self.owed.pop_front();
        self.inflight -= usize::from(answered.1 == QoS::AtLeastOnce);
        if answered.1 == QoS::ExactlyOnce && self.receipt(answered.0) == Some(Receipt::Publishing) {
            if answered.2.is_error() {
                // v5 [MQTT-4.3.3-9]
                self.forget(answered.0);
            } else {
                self.advance(answered.0, Receipt::AwaitingPubrel);
            }
        }
        self.trim();
        Some(answered)
    }

    /// After a burst: memory goes back when the last flow is over.
    fn trim(&mut self) {
        if self.is_empty()
            && (self.owed.capacity() > FLOWS_KEPT_MAX || self.received.capacity() > FLOWS_KEPT_MAX)
        {
            *self = Self::default();
        }
    }

    /// Acknowledgements that are owed.
    pub(crate) fn owed(&self) -> usize {
        self.owed.len()
    }

    /// Whether `id` belongs to a flow; walks what is owed.
    pub(crate) fn uses(&self, id: PacketId) -> bool {
        self.receipt(id).is_some() || self.owed.iter().any(|owed| owed.id == id)
    }

    /// Panics where the parts contradict each other.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let qos1 = self.owed.iter().filter(|owed| owed.qos == QoS::AtLeastOnce).count();
        let qos2 = self.received.values().filter(|received| received.counts).count();
        assert_eq!(self.inflight, qos1 + qos2, "flows that count");
        assert!(self.owed.front().is_none_or(|owed| owed.answer.is_none()), "what can be sent was sent");
        for (id, Received { receipt, .. }) in &self.received {
            let owed = self.owed.iter().any(|owed| owed.id == *id && owed.qos == QoS::ExactlyOnce);
            let owes = matches!(receipt, Receipt::Publishing | Receipt::Refusing(_));
            assert!(!owes || owed, "PUBREC for {id} is owed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    #[test]
    fn acknowledgements_keep_the_order_of_the_messages() {
        let mut inbound = Inbound::default();
        inbound.owe(id(1), QoS::AtLeastOnce, None);
        inbound.owe(id(2), QoS::AtLeastOnce, None);
        inbound.answer(id(2), QoS::AtLeastOnce, ReasonCode::Success);
        assert_eq!(inbound.next_answer(), None);
        assert_eq!(inbound.inflight(), 2);
        inbound.answer(id(1), QoS::AtLeastOnce, ReasonCode::NoMatchingSubscribers);
        assert_eq!(inbound.next_answer(), Some((id(1), QoS::AtLeastOnce, ReasonCode::NoMatchingSubscribers)));
        assert_eq!(inbound.next_answer(), Some((id(2), QoS::AtLeastOnce, ReasonCode::Success)));
        assert!(inbound.is_empty());
    }
}
