//! QoS 1 and 2 messages to the client: what was sent and is not acknowledged, as one byte per number, and what waits.
//! No packet is encoded here; see [`super::delivery`].

use std::collections::{BTreeMap, VecDeque};

use mqtt::{PacketId, QoS};
use state::{Delivery, Number, Queued, Record};

use super::number::{PACKET_IDS, distance};

/// Room for flights that is kept when there is none; anything larger is given back.
const FLIGHTS_KEPT_MAX: usize = 64;

/// What is awaited for a number that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flight {
    /// Nothing: acknowledged, or never to be sent.
    Done,
    /// PUBLISH with QoS 1 was sent.
    AwaitingPuback,
    /// PUBLISH with QoS 2 was sent.
    AwaitingPubrec,
    /// PUBREC came; PUBREL is sent when the store has it.
    AwaitingStore,
    /// PUBREL was sent.
    AwaitingPubcomp,
    /// The connection goes on here: PUBREC came, and no PUBREL was sent.
    OwingPubrel,
    /// The connection goes on here, and this number was not among its open flows: it is acknowledged, or was never sent. The
    /// store knows.
    Unknown,
}

/// All numbers of one session. Those in `flights` come first, then the ones that wait, then (stored sessions) those that
/// are only in the store.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The number of the first flight; with no flight, the next one to be sent.
    head: Number,
    /// From `head` on, without gaps.
    flights: VecDeque<Flight>,
    /// Flights that are open.
    inflight: u32,
    /// Numbers from here on have not been taken in.
    expected: Number,
    waiting: Option<Box<Waiting>>,
}

/// What waits; and, of a queue in memory, what was sent and goes to other members of a share if it is not acknowledged.
#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Queued>,
    bytes: usize,
    shared: BTreeMap<Number, Delivery>,
}

impl Outbound {
    /// Nothing sent, nothing waiting; numbers begin at `head`.
    pub(crate) fn new(head: Number) -> Self {
        Self { head, flights: VecDeque::new(), inflight: 0, expected: head, waiting: None }
    }

    /// The numbers of a connection that goes on here, from `head` on, with its open flows in any order.
    pub(crate) fn resume(head: Number, flows: impl Iterator<Item = (PacketId, Flight)>) -> Self {
        let mut outbound = Self::new(head);
        let mut flows: Vec<_> = flows.map(|(id, flight)| (distance(head, id), flight)).collect();
        flows.sort_unstable_by_key(|(ahead, _)| *ahead);
        for (ahead, flight) in flows {
            outbound.doubt(Number(head.0 + ahead));
            outbound.flights.push_back(flight);
            outbound.inflight += 1;
        }
        outbound
    }

    /// All numbers before `number` that are not known may have been sent.
    pub(crate) fn doubt(&mut self, number: Number) {
        for _ in self.next().0..number.0 {
            self.flights.push_back(Flight::Unknown);
        }
    }

    /// The number of the flight that an acknowledgement is for which came before the connection went on here, if the session
    /// has sent no number from `sent` on: one of those that are not known.
    pub(crate) fn find_doubted(&mut self, id: PacketId, sent: Number) -> Option<Number> {
        let number = Number(self.head.0 + distance(self.head, id));
        if number >= sent {
            return None;
        }
        self.doubt(Number(number.0 + 1));
        (self.flight(number) == Some(Flight::Unknown)).then_some(number)
    }

    /// What is known of `number`; `Done` for one before the head, `None` for one that was not sent.
    pub(crate) fn flight(&self, number: Number) -> Option<Flight> {
        let Some(ahead) = number.0.checked_sub(self.head.0) else { return Some(Flight::Done) };
        self.flights.get(usize::try_from(ahead).ok()?).copied()
    }

    /// Flights owing PUBREL, by number, in order.
    pub(crate) fn owing_pubrel(&self) -> Vec<Number> {
        let owing = (self.head.0..).zip(&self.flights).filter(|(_, flight)| **flight == Flight::OwingPubrel);
        owing.map(|(number, _)| Number(number)).collect()
    }

    /// The store has none of the numbers from `from` to before `to` that are not known.
    pub(crate) fn dispel(&mut self, from: Number, to: Number) {
        for number in from.0..to.0.min(self.next().0) {
            if self.flight(Number(number)) == Some(Flight::Unknown) {
                self.set(Number(number), Flight::Done);
            }
        }
        self.trim();
    }

    /// The next number to be sent.
    pub(crate) fn next(&self) -> Number {
        Number(self.head.0 + self.flights.len() as u64)
    }

    /// The first number that has not been taken in.
    pub(crate) fn expected(&self) -> Number {
        self.expected
    }

    /// All numbers before `number` are taken in, or left out: it is the next that is expected.
    pub(crate) fn advance_to(&mut self, number: Number) {
        debug_assert!(number >= self.expected);
        self.expected = number;
    }

    /// Messages sent and not acknowledged, those included of which only PUBCOMP is awaited.
    pub(crate) fn inflight(&self) -> u32 {
        self.inflight
    }

    /// Messages that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.queue.len())
    }

    /// Bytes of the messages that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Whether `number` can be told apart from every unacknowledged one by its Packet Identifier.
    // v5 [MQTT-2.2.1-4]
    pub(crate) fn has_identifier_for(&self, number: Number) -> bool {
        self.flights.is_empty() || number.0 - self.head.0 < PACKET_IDS
    }

    /// Adds the next number to those that wait.
    pub(crate) fn wait(&mut self, queued: Queued) {
        debug_assert!(queued.number >= self.expected);
        self.expected = Number(queued.number.0 + 1);
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += size(&queued.record);
        waiting.queue.push_back(queued);
    }

    /// The first that waits.
    pub(crate) fn first_waiting(&self) -> Option<&Queued> {
        self.waiting.as_ref()?.queue.front()
    }

    /// Takes the first that waits.
    pub(crate) fn take_waiting(&mut self) -> Option<Queued> {
        let waiting = self.waiting.as_mut()?;
        let queued = waiting.queue.pop_front()?;
        waiting.bytes -= size(&queued.record);
        self.drop_waiting_if_empty();
        Some(queued)
    }

    fn drop_waiting_if_empty(&mut self) {
        self.waiting.take_if(|waiting| waiting.queue.is_empty() && waiting.shared.is_empty());
    }

    /// Keeps a message that was sent, until it is acknowledged.
    pub(crate) fn keep_shared(&mut self, number: Number, delivery: Delivery) {
        self.waiting.get_or_insert_default().shared.insert(number, delivery);
    }

    /// Takes the messages that were kept, then those that wait, in order; each with whether it was sent.
    pub(crate) fn take_all(&mut self) -> Vec<(bool, Delivery)> {
        let Some(waiting) = self.waiting.take() else { return Vec::new() };
        let unsent = waiting.queue.into_iter().filter_map(|queued| match queued.record {
            Record::Message(delivery) => Some((false, delivery)),
            Record::Released => None,
        });
        waiting.shared.into_values().map(|delivery| (true, delivery)).chain(unsent).collect()
    }

    /// Notes `number` as sent, or as never to be sent (`Done`). The numbers that were left out before it are done.
    pub(crate) fn launch(&mut self, number: Number, flight: Flight) {
        if number < self.next() {
            debug_assert_eq!(self.flight(number), Some(Flight::Unknown));
            self.set(number, flight);
            self.trim();
            return;
        }
        if self.flights.is_empty() {
            if flight == Flight::Done {
                self.head = Number(number.0 + 1);
                return;
            }
            self.head = number;
        }
        for _ in self.next().0..number.0 {
            self.flights.push_back(Flight::Done);
        }
        self.flights.push_back(flight);
        self.inflight += u32::from(flight != Flight::Done);
    }

    /// The flight with this Packet Identifier, if one is under way.
    pub(crate) fn find(&mut self, id: PacketId) -> Option<(Number, &mut Flight)> {
        let ahead = distance(self.head, id);
        let flight = self.flights.get_mut(usize::try_from(ahead).ok()?)?;
        flight.is_open().then_some((Number(self.head.0 + ahead), flight))
    }

    /// The flight with this number, if one is under way.
    pub(crate) fn find_number(&mut self, number: Number) -> Option<&mut Flight> {
        let ahead = number.0.checked_sub(self.head.0)?;
        self.flights.get_mut(usize::try_from(ahead).ok()?).filter(|flight| flight.is_open())
    }

    /// The flight with this number is over.
    pub(crate) fn complete(&mut self, number: Number) {
        if let Some(waiting) = &mut self.waiting
            && waiting.shared.remove(&number).is_some()
        {
            self.drop_waiting_if_empty();
        }
        self.set(number, Flight::Done);
        self.trim();
    }

    /// Sets what is awaited for a number that was sent or is not known.
    pub(crate) fn set(&mut self, number: Number, flight: Flight) {
        let Some(ahead) = number.0.checked_sub(self.head.0) else { return };
        let Some(slot) = usize::try_from(ahead).ok().and_then(|at| self.flights.get_mut(at)) else { return };
        self.inflight -= u32::from(slot.is_open());
        self.inflight += u32::from(flight.is_open());
        *slot = flight;
    }

    fn trim(&mut self) {
        while self.flights.front() == Some(&Flight::Done) {
            self.flights.pop_front();
            self.head.0 += 1;
        }
        if self.flights.is_empty() && self.flights.capacity() > FLIGHTS_KEPT_MAX {
            self.flights = VecDeque::new();
        }
    }

    /// Gives memory back that nothing uses.
    pub(crate) fn shrink(&mut self) {
        if self.flights.is_empty() {
            self.flights = VecDeque::new();
        }
    }

    /// Panics where the parts contradict each other.
    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        let inflight = self.flights.iter().filter(|flight| flight.is_open()).count();
        assert_eq!(self.inflight as usize, inflight, "flights under way");
        assert_ne!(self.flights.front(), Some(&Flight::Done), "the head is unacknowledged");
        assert!(self.flights.len() as u64 <= PACKET_IDS, "identifiers are unique");
        let Some(waiting) = &self.waiting else { return };
        assert!(!waiting.queue.is_empty() || !waiting.shared.is_empty(), "an empty queue is given back");
        assert_eq!(waiting.bytes, waiting.queue.iter().map(|queued| size(&queued.record)).sum::<usize>());
        let mut next = Number(0);
        for queued in &waiting.queue {
            assert!(queued.number >= next, "numbers grow");
            next = Number(queued.number.0 + 1);
        }
        assert!(next <= self.expected, "what waits was taken in");
    }
}

impl Flight {
    /// Whether an acknowledgement is awaited.
    fn is_open(self) -> bool {
        !matches!(self, Self::Done | Self::Unknown)
    }

    /// What is awaited after PUBLISH with this QoS.
    pub(crate) fn after_publish(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Done,
            QoS::AtLeastOnce => Self::AwaitingPuback,
            QoS::ExactlyOnce => Self::AwaitingPubrec,
        }
    }
}

fn size(record: &Record) -> usize {
    match record {
        Record::Message(delivery) => delivery.message.size(),
        Record::Released => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_out_of_order_keep_the_head_until_it_is_acknowledged() {
        let mut outbound = Outbound::new(Number(1));
        outbound.advance_to(Number(4));
        for n in 1..4 {
            outbound.launch(Number(n), Flight::AwaitingPuback);
        }
        outbound.complete(Number(2));
        outbound.check_invariants();
        assert_eq!((outbound.inflight(), outbound.head), (2, Number(1)));
        assert!(outbound.find(PacketId::new(2).unwrap()).is_none());
        outbound.complete(Number(1));
        assert_eq!((outbound.inflight(), outbound.head), (1, Number(3)));
        let (number, flight) = outbound.find(PacketId::new(3).unwrap()).unwrap();
        assert_eq!((number, *flight), (Number(3), Flight::AwaitingPuback));
        outbound.check_invariants();
    }

    #[test]
    fn numbers_left_out_take_an_identifier_but_no_window() {
        let mut outbound = Outbound::new(Number(5));
        outbound.advance_to(Number(20));
        outbound.launch(Number(7), Flight::AwaitingPubrec);
        outbound.launch(Number(10), Flight::AwaitingPuback);
        outbound.launch(Number(11), Flight::Done);
        outbound.check_invariants();
        assert_eq!((outbound.head, outbound.next(), outbound.inflight()), (Number(7), Number(12), 2));
        outbound.complete(Number(7));
        assert_eq!(outbound.head, Number(10));
        outbound.complete(Number(10));
        assert_eq!((outbound.head, outbound.next()), (Number(12), Number(12)));
        outbound.check_invariants();
    }

    #[test]
    fn a_connection_that_goes_on_has_flights_at_their_numbers_and_doubts_the_rest() {
        let id = |n| PacketId::new(n).unwrap();
        let flows = [(id(65_535), Flight::AwaitingPuback), (id(2), Flight::OwingPubrel)];
        let mut outbound = Outbound::resume(Number(65_534), flows.into_iter());
        outbound.check_invariants();
        assert_eq!((outbound.inflight(), outbound.next()), (2, Number(65_538)));
        assert_eq!(outbound.owing_pubrel(), [Number(65_537)]);
        assert!(outbound.find(id(1)).is_none());
        assert_eq!(outbound.find_doubted(id(1), Number(65_540)), Some(Number(65_536)));
        assert_eq!(outbound.find_doubted(id(4), Number(65_540)), Some(Number(65_539)));
        assert_eq!(outbound.find_doubted(id(5), Number(65_540)), None);
        outbound.complete(Number(65_536));
        outbound.dispel(Number(65_534), Number(65_535));
        assert_eq!(outbound.flight(Number(65_534)), Some(Flight::Done));
        outbound.launch(Number(65_538), Flight::AwaitingPuback);
        outbound.check_invariants();
        assert_eq!((outbound.head, outbound.inflight()), (Number(65_535), 3));
    }

    #[test]
    fn a_number_waits_while_its_identifier_is_taken() {
        let mut outbound = Outbound::new(Number(1));
        outbound.advance_to(Number(100_000));
        outbound.launch(Number(1), Flight::AwaitingPuback);
        assert!(outbound.has_identifier_for(Number(PACKET_IDS)));
        assert!(!outbound.has_identifier_for(Number(PACKET_IDS + 1)));
        outbound.complete(Number(1));
        assert!(outbound.has_identifier_for(Number(PACKET_IDS + 1)));
    }
}
