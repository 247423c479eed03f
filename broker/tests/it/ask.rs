//! Actions that rules leave to who is asked: their packet and what is behind it wait, nobody else does, and the answer is remembered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use broker::{AskedAction, Authorizer, BrokerConfig, Question, Reply, Ruling, Verdict};
use link::{Action, Effect, Passport, Rule, Stream};
use mqtt::QoS;
use state::MemoryStore;

use crate::device::{Device, Got, How, World};

/// Keeps questions until the test answers them.
#[derive(Clone, Default)]
struct Oracle(Arc<Mutex<Vec<(Question, Reply)>>>);

impl Authorizer for Oracle {
    fn ask(&self, question: Question, reply: Reply) {
        self.0.lock().unwrap().push((question, reply));
    }
}

const FOREVER: Duration = Duration::from_secs(3600);

impl Oracle {
    fn of(world: &World) -> Self {
        let oracle = Self::default();
        world.broker.ask_by(Arc::new(oracle.clone()));
        oracle
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Answers the oldest question, which is returned.
    fn answer(&self, verdict: Verdict) -> Question {
        self.answer_for(verdict, FOREVER)
    }

    fn answer_for(&self, verdict: Verdict, lifetime: Duration) -> Question {
        let (question, reply) = self.0.lock().unwrap().remove(0);
        reply.send(Ruling { verdict, lifetime });
        question
    }
}

const YES: Verdict = Verdict::Allow(QoS::ExactlyOnce);

/// `free/#` without a question, everything else by one; what the oracle has no say in goes by the last rule, for `open/#`.
fn asking(how: &How<'_>) -> Passport {
    let rule = |effect, topic: &str| Rule::new(effect, Action::All, vec![topic.into()]);
    let rules = [rule(Effect::Allow, "free/#"), rule(Effect::Ask, "#"), rule(Effect::Allow, "open/#")].into();
    Passport { rules, ..how.passport() }
}

fn connect(world: &World, how: &How<'_>) -> Device {
    let mut device = Device::connect_with(&world.broker, how, asking(how));
    assert!(matches!(device.got(), Some(Got::ConnAck { code: 0, .. })));
    device
}

fn free(world: &World, client_id: &str) -> Device {
    let mut device = world.connect(&How::clean(client_id));
    device.got();
    device
}

/// The Reason Code of the next PUBACK; 0x10 is "no subscribers".
fn puback(device: &mut Device) -> Option<u8> {
    match device.got()? {
        Got::Other { first_byte: 0x40, body } => Some(body.get(2).copied().unwrap_or(0)),
        other => panic!("{other:?}"),
    }
}

fn codes(device: &mut Device) -> Option<Vec<u8>> {
    match device.got()? {
        Got::Other { first_byte: 0x90, body } => Some(body[3..].to_vec()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_that_is_asked_about_waits_with_what_is_behind_it_and_nobody_else_does() {
    let world = World::new().await;
    let oracle = Oracle::of(&world);
    let mut watcher = free(&world, "watcher");
    watcher.subscribe("#", 0);
    watcher.drain();
    for how in [How::clean("device"), How::stored("device")] {
        let mut device = connect(&world, &how);
        device.publish("free/1", b"before", QoS::AtLeastOnce, false);
        device.publish("asked", b"asked", QoS::AtLeastOnce, false);
        device.publish("free/2", b"behind", QoS::AtLeastOnce, false);
        device.publish("asked", b"again", QoS::AtMostOnce, false);
        assert_eq!(puback(&mut device), Some(0));
        assert_eq!((device.got(), oracle.waiting()), (None, 1));
        let mut other = free(&world, "other");
        other.publish("free/3", b"other", QoS::AtLeastOnce, false);
        assert_eq!(puback(&mut other), Some(0));
        assert_eq!(watcher.payloads(), [b"before".to_vec(), b"other".to_vec()]);
        let question = oracle.answer(YES);
        assert_eq!((&*question.topic, question.action), ("asked", AskedAction::Publish));
        assert_eq!((question.qos, question.retain), (QoS::AtLeastOnce, false));
        assert_eq!((puback(&mut device), puback(&mut device)), (Some(0), Some(0)));
        // Another QoS is another question.
        assert_eq!(oracle.waiting(), 1);
        oracle.answer(YES);
        device.drain();
        assert_eq!(watcher.payloads(), [b"asked".to_vec(), b"behind".to_vec(), b"again".to_vec()]);
        for _ in 0..3 {
            device.publish("asked", b"x", QoS::AtLeastOnce, false);
            assert_eq!(puback(&mut device), Some(0));
        }
        assert_eq!((watcher.payloads().len(), oracle.waiting()), (3, 0), "it is remembered");
        device.disconnect();
    }
}

#[tokio::test]
async fn each_answer_has_its_reason_code() {
    let world = World::new().await;
    let oracle = Oracle::of(&world);
    let mut device = connect(&world, &How::clean("device"));
    for (verdict, code, granted) in [
        (YES, 0x10, 2),
        (Verdict::Allow(QoS::AtMostOnce), 0x10, 0),
        (Verdict::Deny, 0x87, 0x87),
        (Verdict::Ignore, 0x87, 0x87),
        (Verdict::Unavailable, 0x83, 0x83),
    ] {
        let topic = format!("{verdict:?}").replace(['(', ')'], "");
        device.publish(&topic, b"x", QoS::AtLeastOnce, false);
        assert_eq!((device.got(), &*oracle.answer(verdict).topic), (None, &*topic));
        assert_eq!(puback(&mut device), Some(code), "{verdict:?}");
        device.subscribe(&format!("$share/g/{topic}"), 2);
        assert_eq!((device.got(), &*oracle.answer(verdict).topic), (None, &*topic));
        assert_eq!(codes(&mut device), Some(vec![granted]), "{verdict:?}");
    }
    device.publish("open/a", b"x", QoS::AtLeastOnce, false);
    oracle.answer(Verdict::Ignore);
    assert_eq!(puback(&mut device), Some(0x10), "the rule behind decides");
    device.publish("lost", b"x", QoS::AtLeastOnce, false);
    oracle.0.lock().unwrap().clear();
    assert_eq!(puback(&mut device), Some(0x83), "who was asked forgot it");
    device.publish("$SYS/x", b"x", QoS::AtLeastOnce, false);
    assert_eq!((puback(&mut device), oracle.waiting()), (Some(0x87), 0), "that is nobody's to allow");
}

#[tokio::test]
async fn without_anybody_to_ask_such_actions_are_refused() {
    let world = World::new().await;
    let mut device = connect(&world, &How::clean("device"));
    device.publish("asked", b"x", QoS::AtLeastOnce, false);
    assert_eq!(puback(&mut device), Some(0x83));
    device.subscribe("asked", 1);
    assert_eq!(codes(&mut device), Some(vec![0x83]));
}

#[tokio::test]
async fn filters_of_one_subscribe_are_asked_about_one_by_one_and_few_at_a_time() {
    let world = World::new().await;
    let oracle = Oracle::of(&world);
    for how in [How::clean("device"), How::stored("device")] {
        let mut device = connect(&world, &how);
        let filters: Vec<String> = (0..100).map(|n| format!("f/{n}")).collect();
        let list: Vec<u8> =
            filters.iter().flat_map(|f| [&[0, f.len() as u8], f.as_bytes(), &[1]].concat()).collect();
        let length = list.len() + 3;
        let head = [0x82, (length % 128) as u8 | 0x80, (length / 128) as u8, 0, 9, 0];
        device.send(&[&head[..], &list].concat());
        device.publish("free/x", b"behind", QoS::AtLeastOnce, false);
        let mut asked = 0;
        while oracle.waiting() > 0 {
            assert!(oracle.waiting() <= 16 && device.got().is_none());
            while oracle.waiting() > 0 {
                oracle.answer_for(if asked % 2 == 0 { YES } else { Verdict::Deny }, Duration::ZERO);
                asked += 1;
            }
            device.pump();
        }
        assert_eq!(asked, 100);
        let expected: Vec<u8> = (0..100).map(|n| if n % 2 == 0 { 1 } else { 0x87 }).collect();
        assert_eq!(codes(&mut device), Some(expected));
        assert_eq!(puback(&mut device), Some(0x10));
        device.subscribe("f/0", 1);
        assert_eq!((device.got(), oracle.waiting()), (None, 1), "for this once");
        oracle.answer(YES);
        assert_eq!(codes(&mut device), Some(vec![1]));
        device.disconnect();
    }
}

#[tokio::test]
async fn a_will_is_asked_about_before_the_session_is_taken() {
    let world = World::new().await;
    let oracle = Oracle::of(&world);
    let mut before = free(&world, "device");
    let how = How { will: Some(("asked/will", 0)), ..How::clean("device") };
    for (verdict, code) in [(Verdict::Deny, 0x87), (Verdict::Unavailable, 0x88), (Verdict::Ignore, 0x87)] {
        let mut device = Device::connect_with(&world.broker, &how, asking(&how));
        assert_eq!((device.got(), oracle.waiting()), (None, 1));
        oracle.answer(verdict);
        assert!(matches!(device.got(), Some(Got::ConnAck { code: got, .. }) if got == code), "{verdict:?}");
        assert_eq!((before.got(), before.closed), (None, None), "it has its session still");
    }
    let mut gone = Device::connect_with(&world.broker, &how, asking(&how));
    gone.lose();
    oracle.answer(YES);
    assert_eq!((before.got(), before.closed), (None, None));
    let mut watcher = free(&world, "watcher");
    watcher.subscribe("#", 0);
    watcher.drain();
    let mut device = Device::connect_with(&world.broker, &how, asking(&how));
    assert_eq!(&*oracle.answer(YES).topic, "asked/will");
    assert!(matches!(device.got(), Some(Got::ConnAck { code: 0, .. })));
    device.lose();
    assert_eq!(watcher.payloads(), [b"gone".to_vec()]);
}

#[tokio::test]
async fn a_renewed_passport_has_everything_asked_about_again() {
    let world = World::new().await;
    let oracle = Oracle::of(&world);
    let how = How::clean("device");
    let mut device = connect(&world, &how);
    device.publish("asked", b"x", QoS::AtLeastOnce, false);
    oracle.answer(YES);
    assert_eq!(puback(&mut device), Some(0x10));
    device.stream.as_mut().unwrap().renew(Arc::new(asking(&how)));
    device.publish("asked", b"x", QoS::AtLeastOnce, false);
    assert_eq!((device.got(), oracle.waiting()), (None, 1));
    // While it waits, another comes: the answer was about the one before.
    device.stream.as_mut().unwrap().renew(Arc::new(asking(&how)));
    oracle.answer(YES);
    assert_eq!((device.got(), oracle.waiting()), (None, 1));
    oracle.answer(Verdict::Deny);
    assert_eq!(puback(&mut device), Some(0x87));
}

#[tokio::test]
async fn no_more_than_so_many_answers_are_remembered() {
    let config = BrokerConfig { answers_max: 10, sys_interval_s: 0, ..BrokerConfig::default() };
    let world = World::with(config, MemoryStore::new()).await;
    let oracle = Oracle::of(&world);
    let mut device = connect(&world, &How::clean("device"));
    for n in 0..10_000 {
        device.publish(&n.to_string(), b"x", QoS::AtLeastOnce, false);
        assert_eq!(oracle.waiting(), 1, "{n}");
        oracle.answer(YES);
        assert_eq!(puback(&mut device), Some(0x10));
    }
    for (topic, asked) in [("9999", 0), ("9991", 0), ("0", 1)] {
        device.publish(topic, b"x", QoS::AtLeastOnce, false);
        assert_eq!(oracle.waiting(), asked, "{topic}");
    }
}
