//! A device in the world: its model, its connection, and connections that it has left behind.

use mqtt::{ProtocolVersion, ReasonCode};
use rand::Rng;
use testkit::client::{Client, Noticed, Phase};

use super::{EDGES, World};
use crate::Dice;
use crate::edge::Line;
use crate::oracle::{Connection, End, Oracle};
use crate::will::{self, LastWill};

/// So long after a device gave up waiting for CONNACK, a worker may begin to carry its CONNECT out: a link may stand still for two
/// seconds before it is taken for broken, and a quarter of one is within what clocks differ by.
const LATE_MS: u64 = 2_500;

pub(super) struct Device {
    pub(super) client: Client,
    pub(super) line: Option<Line>,
    /// Which one that is.
    connection: usize,
    /// Connections that another took over, which have not been told.
    pub(super) ghosts: Vec<Line>,
    /// How it was told that the connection ends.
    told: Option<ReasonCode>,
    /// Reads nothing for so many turns.
    rests: u32,
}

impl Device {
    pub(super) fn new(client: Client) -> Self {
        Self { client, line: None, connection: 0, ghosts: Vec::new(), told: None, rests: 0 }
    }

    pub(super) fn can_act(&self) -> bool {
        self.line.is_some() && self.client.phase == Phase::Connected
    }

    /// Within the process of that edge: takes what has come, and sends what is to be sent.
    pub(super) fn take_turn(&mut self, edge: usize, oracle: &mut Oracle, dice: &mut Dice, now_ms: u64) {
        let version = self.client.version;
        let (name, is_clean) = (&self.client.name, self.client.is_clean);
        self.ghosts.retain_mut(|ghost| ghost.edge != edge || !is_told(ghost, version, name, is_clean));
        let Some(line) = self.line.as_mut().filter(|line| line.edge == edge) else { return };
        line.send(&mut self.client.sending);
        if self.rests > 0 {
            self.rests -= 1;
            return;
        }
        if dice.random_ratio(1, 200) {
            self.rests = dice.random_range(1..40);
        }
        let closed = line.receive();
        while let Some(packet) = line.packet() {
            let frame = mqtt::frame::split(&packet, u32::MAX).unwrap().unwrap();
            let noticed = self.client.take(frame);
            self.client.acknowledge();
            match noticed {
                Some(Noticed::Acknowledged(message)) => oracle.acknowledged(message.index),
                Some(Noticed::Connected) => {
                    tracing::info!(
                        client = self.client.name,
                        connection = self.connection,
                        now_ms,
                        "connected"
                    );
                    self.client.fresh_from = oracle.messages();
                    let connection = &mut oracle.connections[self.connection];
                    (connection.is_connected, connection.connected_ms) = (true, Some(now_ms));
                    if self.client.is_clean {
                        let n = connection.client;
                        oracle.abandoned(n);
                    }
                }
                Some(Noticed::NotChanged) => oracle.forget_order(oracle.connections[self.connection].client),
                Some(Noticed::Told(reason)) => self.told = Some(reason),
                Some(Noticed::Refused) | None => {}
            }
        }
        line.send(&mut self.client.sending);
        if let Some(reason) = closed {
            self.closed(reason, oracle, now_ms);
        }
    }

    /// An edge was killed, and with it every connection that was there.
    pub(super) fn edge_died(&mut self, edge: usize, oracle: &mut Oracle, now_ms: u64) {
        self.ghosts.retain(|ghost| ghost.edge != edge);
        if self.line.take_if(|line| line.edge == edge).is_some() {
            self.client.lose();
            oracle.ended(self.connection, End::Unknown, now_ms);
        }
    }

    /// The service has ended the connection. It may do so before CONNACK, and for one that came before another.
    fn closed(&mut self, reason: ReasonCode, oracle: &mut Oracle, now_ms: u64) {
        let connection = &oracle.connections[self.connection];
        let told = self.told.take();
        tracing::info!(client = self.client.name, connection = self.connection, now_ms, ?reason, "closed");
        if self.client.phase == Phase::Connected {
            // Of a clean session that a late CONNECT took over nothing is left when that connection ends too.
            let is_gone = self.client.is_clean && reason == ReasonCode::ServerShuttingDown;
            let is_lost = is_gone || reason == ReasonCode::SessionTakenOver;
            assert!(
                connection.has_rival && is_lost,
                "{}: closed, {reason:?}, told {told:?}",
                self.client.name
            );
        }
        oracle.ended(self.connection, End::Unknown, now_ms);
        self.client.lose();
        self.line = None;
    }
}

/// Whether a connection that was taken over is over, as it should be.
fn is_told(ghost: &mut Line, version: ProtocolVersion, name: &str, is_clean: bool) -> bool {
    let closed = ghost.receive();
    let mut told = None;
    while let Some(packet) = ghost.packet() {
        let frame = mqtt::frame::split(&packet, u32::MAX).unwrap().unwrap();
        if let Ok(mqtt::Packet::Disconnect(disconnect)) =
            mqtt::Packet::decode(version, mqtt::Receiver::Client, frame)
        {
            told = Some(disconnect.reason);
        }
    }
    if let Some(reason) = closed {
        // A clean session may be gone again before the old connection learns that it was taken over.
        let is_gone = is_clean && reason == ReasonCode::ServerShuttingDown;
        // v5 [MQTT-3.1.4-3]
        assert!(
            is_gone || reason == ReasonCode::SessionTakenOver,
            "{name}: the old connection ends, {reason:?}"
        );
        assert_eq!(told, version.is_v5().then_some(reason), "{name}: what the old connection is told");
    }
    closed.is_some()
}

impl World {
    pub(super) fn disturb_device(&mut self) {
        let n = self.dice.random_range(0..self.devices.len());
        if self.devices[n].line.is_none() || self.dice.random_ratio(1, 3) {
            return self.connect(n);
        }
        if self.devices[n].can_act() && self.dice.random_ratio(1, 2) {
            self.hang_up(n, self.dice.clone().random_bool(0.5));
        }
    }

    /// A device connects, at any edge. What it had before is taken over, if it had its session.
    pub(super) fn connect(&mut self, n: usize) {
        let edge = self.dice.random_range(0..EDGES);
        let now_ms = self.now();
        let mut earlier = self.oracle.connections.iter().filter(|earlier| earlier.client == n);
        let may_be_late = |(_, given_up_ms)| now_ms < given_up_ms + LATE_MS;
        let has_rival = earlier.any(|earlier| !earlier.is_connected && earlier.end.is_none_or(may_be_late));
        self.drop_line(n, End::TakenOver);
        self.doubt_end_of(n);
        let device = &mut self.devices[n];
        let index = self.oracle.connections.len();
        let will = self.dice.random_bool(0.6).then(|| LastWill {
            index: index as u32,
            delay_s: if device.client.version.is_v5() { self.dice.random_range(0..3) } else { 0 },
            qos: if self.dice.random_bool(0.7) { mqtt::QoS::ExactlyOnce } else { mqtt::QoS::AtLeastOnce },
        });
        let will = will.filter(|_| n != 0);
        tracing::info!(n, edge, index, now_ms, will = ?will.map(|will| will.delay_s), "connects");
        let connect = will::connect(&mut device.client, will);
        device.line = Some(self.edges[edge].open(edge, &device.client.name, &connect));
        device.connection = index;
        device.told = None;
        device.rests = 0;
        self.oracle.connections.push(Connection {
            client: n,
            edge,
            will,
            is_connected: false,
            began_ms: now_ms,
            connected_ms: None,
            end: None,
            has_rival,
        });
        self.counts[1] += 1;
    }

    /// The end of a connection of which no worker has heard may come after what follows.
    fn doubt_end_of(&mut self, n: usize) {
        let before = self.oracle.connections.iter_mut().rev().filter(|before| before.client == n);
        for connection in before {
            if let Some((end @ End::Well, _)) = &mut connection.end
                && self.edges[connection.edge].metric("workers_closing") > 0
            {
                *end = End::Unknown;
            }
        }
    }

    /// A connection that a newer one takes over, if it has the session; otherwise the device gives it up.
    fn drop_line(&mut self, n: usize, end: End) {
        let now_ms = self.now();
        let device = &mut self.devices[n];
        let Some(line) = device.line.take() else { return };
        tracing::info!(
            n,
            edge = line.edge,
            connection = device.connection,
            now_ms,
            "gives up its connection"
        );
        let is_connected = device.client.phase == Phase::Connected;
        device.client.lose();
        self.oracle.ended(device.connection, end, now_ms);
        if is_connected {
            self.counts[2] += 1;
            device.ghosts.push(line);
        } else {
            self.edges[line.edge].process.run(async { line.close() });
        }
    }

    /// A device ends its connection, with DISCONNECT or without.
    pub(super) fn hang_up(&mut self, n: usize, is_well: bool) {
        let now_ms = self.now();
        let device = &mut self.devices[n];
        let Some(mut line) = device.line.take() else { return };
        let edge = line.edge;
        let mut last = device.client.disconnect();
        let is_well = is_well && device.client.sending.is_empty();
        device.client.lose();
        let is_well = self.edges[edge].process.run(async {
            if is_well {
                line.send(&mut last);
            }
            line.close();
            last.is_empty()
        });
        tracing::info!(n, edge, connection = device.connection, now_ms, is_well, "hangs up");
        self.oracle.ended(device.connection, if is_well { End::Well } else { End::Lost }, now_ms);
    }
}
