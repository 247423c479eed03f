//! The table, and how a server is held against it.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};

use super::{Credential, NOT_AUTHORIZED, Reach, Refusal, Setup};
use crate::harness::bytes::{Connect, PINGREQ, PINGRESP, Publish, V5, Will};
use crate::harness::packet::Packet;
use crate::harness::{Client, DEADLINE, Server, secret, unique};
use crate::interop::text;
use crate::tiers::ask;

/// Topic Names, and whether alice may publish them, also as a Will. `ME` is she.
const PUBLISHES: [(&str, bool); 9] = [
    ("own/ME", true),
    ("own/ME/x", true),
    ("own/ME/x/y", true),
    ("own/bob/x", false),
    ("own/MEE/x", false),
    ("own", false),
    ("shared/x", false),
    ("other", false),
    ("$SYS/broker/x", false),
];

/// What becomes of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covered {
    /// Everything that it can match may be received.
    All,
    /// It reaches past what may be.
    Partly,
    /// Nothing of it, or it is shared and not all of it.
    No,
}

use Covered::{All, No, Partly};

const SUBSCRIBES: [(&str, Covered); 15] = [
    ("own/ME/#", All),
    ("own/ME/+", All),
    ("own/bob/#", No),
    ("own/+/x", Partly),
    ("own/#", Partly),
    ("#", Partly),
    ("+/#", Partly),
    ("$SYS/#", No),
    ("$SYS/broker/uptime", No),
    ("shared/#", All),
    ("shared/+/x", All),
    ("other", No),
    ("$share/g/shared/#", All),
    ("$share/g/own/bob/x", No),
    ("$share/g/#", No),
];

/// What the admin publishes, and whether it reaches alice.
const DELIVERED: [(&str, bool); 7] = [
    ("own/ME/x", true),
    ("own/ME", true),
    ("own/bob/x", false),
    ("own/x", false),
    ("shared/x", true),
    ("shared/y/x", true),
    ("other", false),
];

/// Who tries, where.
pub(super) struct Trial<'a> {
    pub(super) setup: &'a Setup,
    /// Where alice connects, and where the admin does.
    pub(super) servers: [&'a Server; 2],
    version: u8,
}

/// Holds `server` against the table.
pub(super) fn expect(setup: &Setup, server: &Server) {
    expect_at(setup, [server, server]);
    let metrics = ask(server, "/metrics").1;
    secret::expect_none(&format!("{}: /metrics", setup.name), &metrics);
    secret::expect_none(&setup.name, &server.log());
}

/// The same with two servers, of which alice connects to the first.
pub(super) fn expect_at(setup: &Setup, servers: [&Server; 2]) {
    for &version in setup.alice.versions() {
        let trial = Trial { setup, servers, version };
        trial.refuses();
        trial.judges_publishes();
        trial.judges_wills();
        trial.judges_subscribes();
        trial.judges_mosquitto();
    }
}

impl Trial<'_> {
    /// With the name of alice.
    fn of(&self, topic: &str) -> String {
        topic.replace("ME", &self.setup.alice_is)
    }

    fn said(&self, refusal: Refusal) -> u8 {
        if self.version == V5 { refusal.0 } else { refusal.1 }
    }

    /// What this says of itself when something is wrong.
    fn case(&self, what: &str) -> String {
        format!("{}, version {}: {what}", self.setup.name, self.version)
    }

    /// What a CONNECT is answered, with the connection.
    fn connect(&self, server: &Server, who: &Credential, connect: Connect) -> (Client, u8) {
        let mut client = who.open(server);
        client.version = self.version;
        client.send(&who.shown(connect).bytes());
        let code = client.expect_connack().code;
        (client, code)
    }

    fn alice(&self) -> Client {
        let connect = Connect::new(self.version, &unique("a"));
        let (client, code) = self.connect(self.servers[0], &self.setup.alice, connect);
        assert_eq!(code, 0, "{}", self.case("alice comes in"));
        client
    }

    /// One who sees everything, of MQTT 5.
    fn admin(&self) -> Client {
        let trial = Trial { version: V5, ..*self };
        let (client, code) = trial.connect(self.servers[1], &self.setup.admin, Connect::v5(&unique("admin")));
        assert_eq!(code, 0, "{}", self.case("the admin comes in"));
        client
    }

    fn refuses(&self) {
        for (who, refusal) in &self.setup.refused {
            if !who.versions().contains(&self.version) {
                continue;
            }
            let connect = Connect::new(self.version, &unique("r"));
            let (mut client, code) = self.connect(self.servers[0], who, connect);
            assert_eq!(code, self.said(*refusal), "{}", self.case(&format!("{who:?} is refused")));
            client.expect_close();
        }
    }

    fn judges_publishes(&self) {
        let (mut admin, mut alice) = (self.admin(), self.alice());
        assert_eq!(admin.subscribe("#", 0), 0, "{}", self.case("the admin sees everything"));
        for qos in [0, 1, 2] {
            for (topic, is_allowed) in PUBLISHES {
                let (topic, payload) = (self.of(topic), format!("QoS {qos} of {topic}"));
                let reason = publish(&mut alice, &topic, &payload, qos);
                let refusal = if self.version == V5 && qos > 0 { 0x87 } else { 0 };
                assert_eq!(reason, if is_allowed { 0 } else { refusal }, "{}", self.case(&payload));
                if is_allowed {
                    assert_eq!(admin.take().text(), payload, "{}", self.case("what arrives"));
                }
            }
        }
        admin.expect_silence();
    }

    fn judges_wills(&self) {
        let mut admin = self.admin();
        admin.subscribe("#", 0);
        for (topic, is_allowed) in PUBLISHES {
            let topic = self.of(topic);
            let connect = Connect::new(self.version, &unique("w")).will(Will::new(&topic, "gone").qos(1));
            let (client, code) = self.connect(self.servers[0], &self.setup.alice, connect);
            let expected = if is_allowed { 0 } else { self.said(NOT_AUTHORIZED) };
            assert_eq!(code, expected, "{}", self.case(&format!("a Will to {topic}")));
            client.vanish();
            if is_allowed {
                assert_eq!(admin.take().topic, topic, "{}", self.case("the Will that arrives"));
            }
        }
        admin.expect_silence();
    }

    fn judges_subscribes(&self) {
        let (mut admin, mut alice) = (self.admin(), self.alice());
        let filters = SUBSCRIBES.map(|(filter, _)| self.of(filter));
        let asked: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
        let refusal = if self.version == V5 { 0x87 } else { 0x80 };
        let expected = SUBSCRIBES.map(|(_, covered)| match covered {
            All => 1,
            Partly if self.setup.reach == Reach::Granted => 1,
            Partly | No => refusal,
        });
        let granted = alice.subscribe_all(&asked, &[]).codes;
        assert_eq!(granted, expected, "{}", self.case(&format!("{filters:?}")));

        let end = self.of("own/ME/end");
        for topic in DELIVERED.map(|(topic, _)| self.of(topic)).iter().chain([&end]) {
            admin.publish(topic, topic, 1);
        }
        let delivered: BTreeSet<_> =
            DELIVERED.iter().filter(|(_, is_allowed)| *is_allowed).map(|(topic, _)| self.of(topic)).collect();
        assert_eq!(received_until(&mut alice, &end), delivered, "{}", self.case("what alice is given"));
    }

    /// The same by Mosquitto's clients: what they print, and what arrives.
    fn judges_mosquitto(&self) {
        let mut admin = self.admin();
        for topic in ["own/ME/kept", "own/bob/kept"] {
            admin.publish_as(Publish::new(self.of(topic), "kept").retain(), 1);
        }
        assert_eq!(admin.subscribe("own/+/pub", 0), 0);
        let mut running = Vec::new();
        for qos in ["0", "1", "2"] {
            for (topic, is_allowed) in [("own/ME/pub", true), ("own/bob/pub", false)] {
                let topic = self.of(topic);
                let program = self.spawn("mosquitto_pub", &["-q", qos, "-t", &topic, "-m", qos]);
                let is_told = !is_allowed && self.version == V5 && qos != "0";
                running.push((program, format!("{topic} with QoS {qos}"), "Not authorized", is_told));
            }
        }
        for (filter, is_allowed) in [("own/ME/kept", true), ("own/bob/#", false), ("$share/g/#", false)] {
            let filter = self.of(filter);
            let program = self.spawn("mosquitto_sub", &["-t", &filter, "-C", "1", "-W", "20"]);
            running.push((program, filter, "All subscription requests were denied", !is_allowed));
        }
        for (program, what, told, is_told) in running {
            let output = program.wait_with_output().unwrap();
            let said = text(&output);
            let what = self.case(&format!("mosquitto with {what}: {said}"));
            assert_eq!(said.contains(told), is_told, "{what}");
            if told.starts_with("All") {
                assert_eq!(said.contains("kept"), !is_told, "{what}");
            }
        }
        let arrived: BTreeSet<String> = (0..3).map(|_| admin.take().text().to_owned()).collect();
        let expected = ["0", "1", "2"].map(str::to_owned).into();
        assert_eq!(arrived, expected, "{}", self.case("what mosquitto_pub published"));
        admin.expect_silence();
        for topic in ["own/ME/kept", "own/bob/kept"] {
            admin.publish_as(Publish::new(self.of(topic), "").retain(), 1);
        }
    }

    fn spawn(&self, program: &str, arguments: &[&str]) -> Child {
        let mut command = self.setup.alice.mosquitto(program, self.servers[0], self.version);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("Mosquitto's clients (Debian's package mosquitto-clients)")
    }
}

/// Publishes once and returns the Reason Code of a refusal, 0 where there is none.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u8 {
    let reason = client.publish_and_see(Publish::new(topic, payload), qos);
    if reason < 0x80 { 0 } else { reason }
}

/// The topics of everything that comes before a message of `end`, however often, and behind it until a PINGREQ is answered.
fn received_until(client: &mut Client, end: &str) -> BTreeSet<String> {
    let mut topics = BTreeSet::new();
    let mut has_ended = false;
    loop {
        let Ok(packet) = client.poll(DEADLINE) else { panic!("no {end}; until now {topics:?}") };
        if is_pingresp(&packet) {
            return topics;
        }
        let publish = packet.publish(client.version);
        client.acknowledge(&publish);
        if publish.topic != end {
            topics.insert(publish.topic);
        } else if !has_ended {
            has_ended = true;
            client.send(PINGREQ);
        }
    }
}

fn is_pingresp(packet: &Packet) -> bool {
    packet.bytes() == PINGRESP
}
