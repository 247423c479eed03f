//! A device that keeps its session: what it has in flight, what it is subscribed to, and what it got.

use std::collections::{BTreeMap, HashSet};

use broker::Broker;
use bytes::BytesMut;
use mqtt::{PacketId, ProtocolVersion, PublishHead, QoS};

use crate::device::{Device, Got, How};

/// The filters that devices subscribe to and withdraw from.
pub(super) const FILTERS: [&str; 3] = ["t/0", "t/1", "t/+"];

/// Where a subscription stands, as the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Off,
    Subscribing,
    On,
    Unsubscribing,
}

/// What a device has sent and is not done with.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) message: usize,
    topic: String,
    payload: [u8; 4],
    qos: QoS,
    /// PUBREC came.
    is_received: bool,
}

pub(super) struct Client {
    pub(super) name: String,
    pub(super) device: Option<Device>,
    pub(super) worker: usize,
    pub(super) is_connected: bool,
    has_session: bool,
    next_id: u16,
    /// By the order in which they were sent.
    flights: BTreeMap<u64, (u16, Flight)>,
    sent: u64,
    pub(super) wishes: [Wish; 3],
    /// Subscribed for good, and answered.
    pub(super) share: Option<bool>,
    changes: BTreeMap<u16, usize>,
    /// QoS 2 messages that were received and are not released.
    unreleased: HashSet<u16>,
    pub(super) got: Vec<usize>,
    /// With QoS 0, by connection.
    pub(super) got_qos_0: Vec<Vec<usize>>,
}

/// What a device noticed.
pub(super) enum Noticed {
    Acknowledged(usize),
    Closed,
}

impl Client {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            device: None,
            worker: 0,
            is_connected: false,
            has_session: false,
            next_id: 0,
            flights: BTreeMap::new(),
            sent: 0,
            wishes: [Wish::Off; 3],
            share: None,
            changes: BTreeMap::new(),
            unreleased: HashSet::new(),
            got: Vec::new(),
            got_qos_0: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self, worker: usize, broker: &Broker) {
        let how = How { receive_maximum: 8, ..How::stored(&self.name) };
        self.device = Some(Device::connect(broker, &how));
        self.worker = worker;
        self.is_connected = false;
        self.changes.clear();
        self.got_qos_0.push(Vec::new());
    }

    pub(super) fn lose(&mut self) {
        if let Some(mut device) = self.device.take() {
            device.lose();
        }
        self.is_connected = false;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn publish(&mut self, message: usize, topic: &str, qos: QoS) {
        let id = self.id();
        let payload = u32::try_from(message).unwrap().to_be_bytes();
        let flight = Flight { message, topic: topic.to_owned(), payload, qos, is_received: false };
        self.send_publish(id, &flight, false);
        if qos != QoS::AtMostOnce {
            self.sent += 1;
            self.flights.insert(self.sent, (id, flight));
        }
    }

    /// Asks for a change of a subscription: on, or off.
    pub(super) fn change(&mut self, filter: usize, is_on: bool) {
        self.wishes[filter] = match (is_on, self.wishes[filter]) {
            (true, Wish::On) => Wish::On,
            (true, _) => Wish::Subscribing,
            (false, _) => Wish::Unsubscribing,
        };
        self.send_change(filter);
    }

    fn send_change(&mut self, filter: usize) {
        let id = self.id();
        let (hi, lo) = ((id >> 8) as u8, id as u8);
        self.changes.insert(id, filter);
        let text = FILTERS.get(filter).copied().unwrap_or("$share/g/t/+");
        let length = u8::try_from(text.len()).unwrap();
        let is_off = self.wishes.get(filter) == Some(&Wish::Unsubscribing);
        let packet = if is_off {
            [&[0xa2, length + 5, hi, lo, 0, 0, length], text.as_bytes()].concat()
        } else {
            [&[0x82, length + 6, hi, lo, 0, 0, length], text.as_bytes(), &[2]].concat()
        };
        self.send(&packet);
    }

    fn id(&mut self) -> u16 {
        loop {
            self.next_id = self.next_id.wrapping_add(1).max(1);
            let id = self.next_id;
            if !self.flights.values().any(|(other, _)| *other == id) && !self.changes.contains_key(&id) {
                return id;
            }
        }
    }

    fn send_publish(&mut self, id: u16, flight: &Flight, dup: bool) {
        let mut packet = BytesMut::new();
        let head = PublishHead {
            dup,
            qos: flight.qos,
            retain: false,
            topic: &flight.topic,
            packet_id: (flight.qos != QoS::AtMostOnce).then(|| PacketId::new(id)).flatten(),
            alias: None,
            message_expiry_remaining_s: None,
            subscription_ids: &[],
            properties: &[],
            payload_len: flight.payload.len(),
        };
        assert!(head.encode_into(ProtocolVersion::V5, &mut packet));
        packet.extend_from_slice(&flight.payload);
        self.send(&packet);
    }

    fn send(&mut self, packet: &[u8]) {
        if let Some(device) = self.device.as_mut().filter(|device| device.closed.is_none()) {
            device.send(packet);
        }
    }

    /// Takes what has come, and acknowledges it.
    pub(super) fn pump(&mut self) -> Vec<Noticed> {
        let mut noticed = Vec::new();
        while let Some(got) = self.device.as_mut().and_then(Device::got) {
            self.take(got, &mut noticed);
        }
        if self.device.as_ref().is_some_and(|device| device.closed.is_some()) {
            self.device = None;
            self.is_connected = false;
            noticed.push(Noticed::Closed);
        }
        noticed
    }

    fn take(&mut self, got: Got, noticed: &mut Vec<Noticed>) {
        match got {
            Got::ConnAck { session_present, code: 0 } => {
                assert!(session_present || !self.has_session, "the session of {} is lost", self.name);
                self.has_session = true;
                self.is_connected = true;
                self.resume();
            }
            // The store did not answer the claim.
            Got::ConnAck { .. } => {}
            Got::Publish { payload, qos, id, .. } => {
                let message = u32::from_be_bytes(payload.try_into().unwrap()) as usize;
                match (qos, id) {
                    (1, Some(id)) => {
                        self.got.push(message);
                        self.acknowledge(0x40, id);
                    }
                    (2, Some(id)) => {
                        if self.unreleased.insert(id) {
                            self.got.push(message);
                        }
                        self.acknowledge(0x50, id);
                    }
                    _ => self.got_qos_0.last_mut().unwrap().push(message),
                }
            }
            Got::Other { first_byte, body } => {
                let id = body.get(..2).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
                let is_refused = body.get(2).is_some_and(|code| *code >= 0x80);
                self.take_answer(first_byte, id, is_refused, noticed);
            }
        }
    }

    fn take_answer(&mut self, first_byte: u8, id: u16, is_refused: bool, noticed: &mut Vec<Noticed>) {
        match first_byte {
            0x40 | 0x50 => {
                let Some((at, flight)) = self
                    .flights
                    .iter_mut()
                    .find_map(|(at, (other, flight))| (*other == id).then_some((*at, flight)))
                else {
                    if first_byte == 0x50 {
                        self.acknowledge(0x62, id);
                    }
                    return;
                };
                assert!(!is_refused, "{} was refused a message", self.name);
                noticed.push(Noticed::Acknowledged(flight.message));
                if first_byte == 0x40 {
                    self.flights.remove(&at);
                } else {
                    flight.is_received = true;
                    self.acknowledge(0x62, id);
                }
            }
            0x70 => self.flights.retain(|_, (other, _)| *other != id),
            0x62 => {
                self.unreleased.remove(&id);
                self.acknowledge(0x70, id);
            }
            0x90 | 0xb0 => {
                let Some(filter) = self.changes.remove(&id) else { return };
                let Some(wish) = self.wishes.get_mut(filter) else {
                    self.share = Some(true);
                    return;
                };
                // A later change of the same subscription may be under way.
                if !self.changes.values().any(|other| *other == filter) {
                    *wish = if first_byte == 0x90 { Wish::On } else { Wish::Off };
                }
            }
            _ => {}
        }
    }

    fn acknowledge(&mut self, first_byte: u8, id: u16) {
        self.send(&[first_byte, 2, (id >> 8) as u8, id as u8]);
    }

    /// Sends again what was not acknowledged, in order, and asks again for what was not answered.
    fn resume(&mut self) {
        for (id, flight) in self.flights.values().cloned().collect::<Vec<_>>() {
            if flight.is_received {
                self.acknowledge(0x62, id);
            } else {
                self.send_publish(id, &flight, true);
            }
        }
        for filter in 0..FILTERS.len() {
            if matches!(self.wishes[filter], Wish::Subscribing | Wish::Unsubscribing) {
                self.send_change(filter);
            }
        }
        if self.share == Some(false) {
            self.send_change(FILTERS.len());
        }
    }
}
