//! One device: connects, subscribes, publishes numbered messages at QoS 0, 1 and 2 in turn, takes what comes, and notes all of it
//! in its account. A connection that ends is noted and made again, at another edge if its own is gone.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::account::Account;
use super::wire::{Trust, Wire};
use crate::harness::bytes::{self, Connect, PINGREQ, PUBACK, PUBCOMP, PUBREC, PUBREL, V5, Will, ack};
use crate::harness::packet::Packet;
use crate::harness::property;
use crate::harness::server::Server;
use crate::harness::transport::Transport;

/// Messages of one device that are not acknowledged yet; at this many it waits.
const WINDOW: usize = 30;
const RETRY: Duration = Duration::from_millis(50);
/// Longer than any test, so that a stored session lives through it.
const EXPIRY_S: u32 = 3600;
/// Topics of Will Messages begin with it.
pub(crate) const WILL_STEM: &str = "will/";

/// What a device is and does.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) client_id: String,
    pub(crate) version: u8,
    /// A session that outlives the connection.
    pub(crate) stored: bool,
    pub(crate) transport: Transport,
    /// The edge that it tries first, by its place in the list.
    pub(crate) edge: usize,
    pub(crate) filters: Vec<String>,
    /// It publishes to this with `/0`, `/1` and `/2`, the QoS, behind it.
    pub(crate) topic: Option<String>,
    /// Between two messages.
    pub(crate) interval: Duration,
    /// Between two PINGREQ.
    pub(crate) ping: Duration,
    /// It connects again when its connection has ended.
    pub(crate) returns: bool,
    /// It has a Will Message at QoS 1 for `will/` with its Client Identifier behind, with this delay in seconds.
    pub(crate) will_delay_s: Option<u32>,
}

impl Plan {
    fn connect(&self) -> Connect {
        let mut connect = Connect::new(self.version, &self.client_id).keep_alive(30);
        if self.stored {
            connect = connect.resume();
        }
        if self.version == V5 && self.stored {
            connect = connect.with(property::four(property::SESSION_EXPIRY, EXPIRY_S));
        }
        if let Some(delay) = self.will_delay_s {
            let will = Will::new(&format!("{WILL_STEM}{}", self.client_id), &self.client_id).qos(1);
            connect = connect.will(if self.version == V5 && delay > 0 { will.delay(delay) } else { will });
        }
        connect
    }
}

/// What a whole fleet does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Connected, and publishing nothing new.
    Quiet,
    /// Publishing.
    Load,
}

/// What one device is told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Cut the connection without a word and do not come back.
    Vanish,
    /// DISCONNECT and do not come back.
    Leave,
}

/// What the devices of a fleet share.
pub(crate) struct Scene {
    pub(super) start: Instant,
    /// Where each edge listens; `None` while it is known to be gone.
    pub(super) edges: Mutex<Vec<Option<Place>>>,
    pub(super) trust: Trust,
    /// Name and password of all of them.
    pub(super) user: Option<(String, String)>,
}

/// Where an edge listens, by transport.
pub(crate) type Place = Vec<(Transport, SocketAddr)>;

/// The listeners of an edge that the devices use.
pub(crate) fn place(edge: &Server) -> Place {
    [Transport::Tcp, Transport::Tls, Transport::Wss]
        .map(|transport| (transport, edge.address(transport)))
        .into()
}

/// One publication that is not acknowledged yet.
struct Flow {
    id: u16,
    topic: String,
    qos: usize,
    number: usize,
    released: bool,
    since: Instant,
}

pub(super) struct Device {
    pub(super) plan: Arc<Plan>,
    pub(super) scene: Arc<Scene>,
    pub(super) account: Arc<Mutex<Account>>,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) ready: Arc<AtomicBool>,
    open: VecDeque<Flow>,
    unreleased: HashSet<u16>,
    next_id: u16,
    next_qos: usize,
    pinged: Option<Instant>,
    was_here: bool,
    said: String,
}

impl Device {
    pub(super) fn new(
        plan: Arc<Plan>,
        scene: Arc<Scene>,
        account: Arc<Mutex<Account>>,
        phase: watch::Receiver<Phase>,
        orders: mpsc::UnboundedReceiver<Order>,
        ready: Arc<AtomicBool>,
    ) -> Self {
        Self {
            plan,
            scene,
            account,
            phase,
            orders,
            ready,
            open: VecDeque::new(),
            unreleased: HashSet::new(),
            next_id: 1,
            next_qos: 0,
            pinged: None,
            was_here: false,
            said: String::new(),
        }
    }

    /// Until it is ordered to go.
    pub(super) async fn run(mut self) {
        loop {
            let (mut wire, packets) = self.connect().await;
            match self.converse(&mut wire, packets).await {
                Ok(()) => return,
                Err(error) => {
                    let how = format!("{error} {}", self.said);
                    let at = self.scene.start.elapsed();
                    self.account().closes.push((at, how));
                    self.ready.store(false, Ordering::Relaxed);
                    if !self.plan.returns {
                        return;
                    }
                }
            }
        }
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where to try, by how often it was tried before.
    fn address(&self, attempt: usize) -> Option<SocketAddr> {
        let edges = self.scene.edges.lock().unwrap();
        let count = edges.len();
        let place = edges[(self.plan.edge + attempt) % count].as_ref()?;
        place.iter().find(|(transport, _)| *transport == self.plan.transport).map(|(_, address)| *address)
    }

    async fn connect(&mut self) -> (Wire, Vec<Packet>) {
        for attempt in 0.. {
            if let Some(address) = self.address(attempt)
                && let Ok(Some(done)) = self.try_connect(address).await
            {
                return done;
            }
            tokio::time::sleep(RETRY).await;
        }
        unreachable!("it tries for ever")
    }

    /// `None` if the CONNECT was refused.
    async fn try_connect(&mut self, address: SocketAddr) -> io::Result<Option<(Wire, Vec<Packet>)>> {
        let mut wire = Wire::open(address, self.plan.transport, &self.scene.trust).await?;
        let mut connect = self.plan.connect();
        if let Some((user, password)) = &self.scene.user {
            connect = connect.user(user, password);
        }
        wire.write(&connect.bytes()).await?;
        let mut packets = loop {
            let packets = wire.read().await?;
            if !packets.is_empty() {
                break packets;
            }
        };
        let connack = packets.remove(0).connack(self.plan.version);
        if connack.code != 0 {
            return Ok(None);
        }
        self.said.clear();
        self.pinged = None;
        let mut out = Vec::new();
        if connack.session_present {
            self.account().sessions_resumed += 1;
            self.was_here = true;
            // v5 [MQTT-4.4.0-1], [MQTT-4.6.0-1]
            for flow in &self.open {
                out.extend(if flow.released { ack(PUBREL, flow.id) } else { self.message(flow, true) });
            }
        } else {
            if self.was_here && self.plan.stored {
                self.account().sessions_lost += 1;
            }
            self.was_here = self.plan.stored;
            self.open.clear();
            self.account().open = 0;
            self.unreleased.clear();
        }
        if !connack.session_present && !self.plan.filters.is_empty() {
            let filters: Vec<(&str, u8)> =
                self.plan.filters.iter().map(|filter| (filter.as_str(), 2)).collect();
            out.extend(if self.plan.version == V5 {
                bytes::subscribe(u16::MAX, &[], &filters)
            } else {
                bytes::subscribe_v3(u16::MAX, &filters)
            });
        } else {
            self.ready.store(true, Ordering::Relaxed);
        }
        wire.write(&out).await?;
        Ok(Some((wire, packets)))
    }

    /// `Ok` when it was ordered to go.
    async fn converse(&mut self, wire: &mut Wire, first: Vec<Packet>) -> io::Result<()> {
        let mut turns = tokio::time::interval(self.plan.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pings = tokio::time::interval(self.plan.ping);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut out = Vec::new();
        for packet in first {
            self.take(&packet, &mut out);
        }
        loop {
            if !out.is_empty() {
                wire.write(&out).await?;
                out.clear();
            }
            let loads = *self.phase.borrow() == Phase::Load && self.ready.load(Ordering::Relaxed);
            let publishes = loads && self.plan.topic.is_some() && self.open.len() < WINDOW;
            tokio::select! {
                packets = wire.read() => {
                    for packet in packets? {
                        self.take(&packet, &mut out);
                    }
                }
                _ = turns.tick(), if publishes => self.publish(&mut out),
                _ = pings.tick() => self.ping(&mut out),
                _ = self.phase.changed() => {}
                order = self.orders.recv() => {
                    if let Some(Order::Leave) = order {
                        wire.write(bytes::DISCONNECT).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    fn ping(&mut self, out: &mut Vec<u8>) {
        match self.pinged {
            // Counts although no answer may ever come.
            Some(since) => {
                let mut account = self.account();
                account.ping = account.ping.max(since.elapsed());
            }
            None => {
                self.pinged = Some(Instant::now());
                out.extend(PINGREQ);
            }
        }
    }

    fn message(&self, flow: &Flow, repeated: bool) -> Vec<u8> {
        let sent_us = (flow.since - self.scene.start).as_micros();
        let message = bytes::Publish::new(&flow.topic, format!("{} {sent_us}", flow.number));
        let message = match flow.qos {
            0 => message,
            1 => message.qos1(flow.id),
            _ => message.qos2(flow.id),
        };
        let message = if repeated { message.dup() } else { message };
        if self.plan.version == V5 { message.bytes() } else { message.v3().bytes() }
    }

    fn publish(&mut self, out: &mut Vec<u8>) {
        let qos = self.next_qos;
        self.next_qos = (qos + 1) % 3;
        let topic = format!("{}/{qos}", self.plan.topic.as_deref().unwrap_or_default());
        let number = {
            let mut account = self.account();
            let numbers = account.published.entry(topic.clone()).or_default();
            numbers.push(false);
            numbers.len() - 1
        };
        let id = if qos == 0 { 0 } else { self.next_id };
        let flow = Flow { id, topic, qos, number, released: false, since: Instant::now() };
        out.extend(self.message(&flow, false));
        if qos > 0 {
            // The last one is for SUBSCRIBE.
            self.next_id = if id == u16::MAX - 1 { 1 } else { id + 1 };
            self.open.push_back(flow);
            self.account().open = self.open.len();
        }
    }

    fn take(&mut self, packet: &Packet, out: &mut Vec<u8>) {
        match packet.first & 0xF0 {
            0x30 => self.deliver(packet, out),
            0x40 | 0x50 | 0x70 => self.acknowledged(packet, out),
            0x60 => {
                let id = packet.reply(PUBREL, self.plan.version).id;
                self.unreleased.remove(&id);
                out.extend(ack(PUBCOMP, id));
            }
            0x90 => {
                let granted = packet.suback(self.plan.version);
                assert!(granted.codes.iter().all(|code| *code == 2), "{granted:?}");
                self.ready.store(true, Ordering::Relaxed);
            }
            0xD0 => {
                if let Some(since) = self.pinged.take() {
                    let mut account = self.account();
                    account.ping = account.ping.max(since.elapsed());
                }
            }
            0xE0 => self.said = format!("after DISCONNECT {:#04x}", packet.disconnect().reason),
            other => panic!("{other:#04x} for a device"),
        }
    }

    fn deliver(&mut self, packet: &Packet, out: &mut Vec<u8>) {
        let publish = packet.publish(self.plan.version);
        match publish.qos {
            0 => {}
            1 => out.extend(ack(PUBACK, publish.id)),
            _ => {
                out.extend(ack(PUBREC, publish.id));
                if !self.unreleased.insert(publish.id) {
                    self.account().sent_again += 1;
                    return;
                }
            }
        }
        let mut account = self.account();
        if publish.topic.starts_with(WILL_STEM) {
            *account.wills.entry(publish.topic).or_default() += 1;
            return;
        }
        let numbers =
            publish.text().split_once(' ').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (number, sent_us): (usize, u64) = numbers.expect("a number and a time");
        let took = self.scene.start.elapsed().saturating_sub(Duration::from_micros(sent_us));
        let is_first = account.received.entry(publish.topic).or_default().take(number);
        if is_first && publish.qos > 0 {
            account.delivery = account.delivery.max(took);
        }
    }

    fn acknowledged(&mut self, packet: &Packet, out: &mut Vec<u8>) {
        let reply = packet.reply(packet.first, self.plan.version);
        let refuses = reply.reason >= 0x80;
        if refuses {
            *self.account().refused.entry(reply.reason).or_default() += 1;
        }
        let wanted = if packet.first == PUBACK { 1 } else { 2 };
        let place = self.open.iter().position(|flow| flow.id == reply.id && flow.qos == wanted);
        if packet.first == PUBREC && !refuses {
            out.extend(ack(PUBREL, reply.id));
        }
        let Some(place) = place else {
            self.account().stray += 1;
            return;
        };
        if packet.first == PUBREC && !refuses {
            if self.open[place].released {
                self.account().stray += 1;
            }
            self.open[place].released = true;
            // Acknowledged means kept from here on.
            let (topic, number) = (self.open[place].topic.clone(), self.open[place].number);
            self.account().acknowledge(&topic, number);
            return;
        }
        let Some(flow) = self.open.remove(place) else { return };
        let mut account = self.account();
        account.open = self.open.len();
        account.acknowledgement = account.acknowledgement.max(flow.since.elapsed());
        if !refuses {
            account.acknowledge(&flow.topic, flow.number);
        }
    }
}
