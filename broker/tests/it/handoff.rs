//! Connections that go on at another worker, over one store: the device must not see it, in whatever state its flows are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::{CleanSessions, ClusterSettings, LinkConfig};
use bytes::Bytes;
use link::wire::RefuseReason;
use mqtt::{QoS, ReasonCode};
use state::{
    Cluster, Heard, MemoryCluster, MemoryStore, Message, Noted, PublishingSession, Stamp, Store, WorkerId,
};
use testkit::front::Asked;
use tokio::task::JoinHandle;

use crate::device::{Got, How};
use crate::edge::{Adrift, Edge, Worker};
use crate::moody::Moody;

fn other(first_byte: u8, id: u8) -> Got {
    Got::Other { first_byte, body: vec![0, id] }
}

fn publish(payload: &[u8], qos: u8, id: u16) -> Got {
    let id = (qos > 0).then_some(id);
    Got::Publish { topic: "t".into(), payload: payload.into(), qos, dup: false, retain: false, id }
}

/// Two workers that share a store, with a link to each.
struct World {
    workers: [Worker; 2],
    second: Edge,
    cluster: MemoryCluster,
    _clock: Clock,
}

/// The clock of the store that is shared.
pub(crate) struct Clock(JoinHandle<()>);

impl Clock {
    pub(crate) fn of(cluster: &MemoryCluster) -> Self {
        let (cluster, started) = (cluster.clone(), Instant::now());
        Self(tokio::spawn(async move {
            loop {
                cluster.tick(u64::try_from(started.elapsed().as_millis()).unwrap());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }))
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl World {
    async fn new() -> (Self, Edge) {
        Self::with(CleanSessions::Memory).await
    }

    async fn with(clean_sessions: CleanSessions) -> (Self, Edge) {
        Self::over(clean_sessions, |store| Arc::new(store)).await
    }

    /// With another store in front of the first worker's.
    async fn over(
        clean_sessions: CleanSessions,
        front: impl FnOnce(MemoryStore) -> Arc<dyn Store>,
    ) -> (Self, Edge) {
        let cluster = MemoryCluster::new();
        let clock = Clock::of(&cluster);
        let settings = ClusterSettings { clean_sessions, ..ClusterSettings::default() };
        let config = LinkConfig { handoff_grace_ms: 1000, ..LinkConfig::default() };
        let workers = [
            Worker::sharing_over(&cluster, config.clone(), settings.clone(), front).await,
            Worker::sharing(&cluster, config, settings).await,
        ];
        let first = Edge::dial(&workers[0]).await;
        let second = Edge::dial(&workers[1]).await;
        (Self { workers, second, cluster, _clock: clock }, first)
    }

    /// The store answers the first worker no more.
    fn hold(&self) {
        self.workers[0].store.hold();
    }

    /// The first worker's link is cut while answers of the store are held, and the device goes on at the second.
    async fn move_device(&mut self, first: Edge) {
        let mut adrift = first.cut();
        self.workers[0].store.let_go();
        self.go_on(adrift.remove("device").unwrap()).await;
    }

    async fn go_on(&mut self, adrift: Adrift) {
        self.second.resume("device", adrift);
        self.second.until("the resume", |edge| edge.device("device").is_resumed).await;
    }

    /// Somebody publishes by the second worker, and has the answer.
    async fn publish(&mut self, qos: u8, payload: &[u8]) {
        if !self.second.devices.contains_key("publisher") {
            self.second.connect(&How::clean("publisher")).await;
        }
        self.second.publish("publisher", qos, 1, "t", payload);
        match qos {
            1 => assert_eq!(self.second.got("publisher").await, other(0x40, 1)),
            2 => {
                assert_eq!(self.second.got("publisher").await, other(0x50, 1));
                self.second.acknowledge("publisher", 0x62, 1);
                assert_eq!(self.second.got("publisher").await, other(0x70, 1));
            }
            _ => {}
        }
    }
}

async fn subscribed(edge: &mut Edge, how: &How<'_>) {
    edge.connect(how).await;
    edge.subscribe("device", 9, "t", 2);
    assert_eq!(edge.got("device").await, Got::Other { first_byte: 0x90, body: vec![0, 9, 0, 2] });
}

#[tokio::test]
async fn a_publish_that_was_not_answered_is_answered_by_the_next_worker() {
    let (mut world, mut first) = World::new().await;
    first.connect(&How::stored("device")).await;
    world.hold();
    first.publish("device", 1, 1, "t", b"a");
    first.publish("device", 2, 2, "t", b"b");
    first.settle().await;
    world.move_device(first).await;
    let (a, b) = (world.second.got("device").await, world.second.got("device").await);
    assert_eq!(
        [a, b],
        [
            Got::Other { first_byte: 0x40, body: vec![0, 1, 0x10] },
            Got::Other { first_byte: 0x50, body: vec![0, 2] },
        ]
    );
    world.second.acknowledge("device", 0x62, 2);
    assert_eq!(world.second.got("device").await, other(0x70, 2));
}

#[tokio::test]
async fn qos_2_arrives_once_wherever_the_link_is_cut() {
    // Before and after the store has answered PUBLISH, and PUBREL.
    for (cut, how) in (0..8).map(|n| (n / 2, [How::stored("device"), How::clean("device")][n % 2].clone())) {
        let (mut world, mut first) = World::new().await;
        world.second.connect(&How::stored("subscriber")).await;
        world.second.subscribe("subscriber", 9, "t", 2);
        world.second.got("subscriber").await;
        first.connect(&how).await;
        if cut == 0 {
            world.hold();
        }
        first.publish("device", 2, 7, "t", b"once");
        if cut > 1 {
            assert_eq!(first.got("device").await, other(0x50, 7));
            if cut == 2 {
                world.hold();
            }
            first.acknowledge("device", 0x62, 7);
        }
        match cut {
            0 | 2 => first.settle().await,
            1 => first.until("PUBREC", |edge| edge.device("device").packets.len() == 1).await,
            _ => {}
        }
        let is_answered = cut == 3 && first.got("device").await == other(0x70, 7);
        let mut adrift = first.cut().remove("device").unwrap();
        world.workers[0].store.let_go();
        let came = adrift.device.packets.len();
        assert_eq!(came, usize::from(cut == 1), "cut {cut}");
        adrift.device.packets.clear();
        world.go_on(adrift).await;
        if cut == 0 {
            assert_eq!(world.second.got("device").await, other(0x50, 7));
        }
        if cut < 2 {
            world.second.acknowledge("device", 0x62, 7);
        }
        if !is_answered {
            assert_eq!(world.second.got("device").await, other(0x70, 7), "cut {cut}");
        }
        assert!(world.second.drain("device").await.is_empty());
        let got: Vec<_> = world.second.drain("subscriber").await;
        let came = got.iter().filter(|got| matches!(got, Got::Publish { .. })).count();
        assert_eq!(came, 1, "cut {cut}: {got:?}");
    }
}

#[tokio::test]
async fn what_the_device_has_is_not_sent_again_and_the_rest_without_dup() {
    let (mut world, mut first) = World::new().await;
    subscribed(&mut first, &How { receive_maximum: 2, ..How::stored("device") }).await;
    first.connect(&How::clean("local")).await;
    for n in 1..=4 {
        first.publish("local", 1, n, "t", &[n]);
        assert_eq!(first.got("local").await, other(0x40, n));
    }
    // Two are with the device, two wait for its Receive Maximum.
    assert_eq!(first.got("device").await, publish(&[1], 1, 1));
    assert_eq!(first.got("device").await, publish(&[2], 1, 2));
    world.move_device(first).await;
    assert!(world.second.drain("device").await.is_empty(), "the window is full");
    world.second.acknowledge("device", 0x40, 1);
    assert_eq!(world.second.got("device").await, publish(&[3], 1, 3));
    world.second.acknowledge("device", 0x40, 2);
    assert_eq!(world.second.got("device").await, publish(&[4], 1, 4));
    world.second.acknowledge("device", 0x40, 3);
    world.second.acknowledge("device", 0x40, 4);
    assert!(world.second.drain("device").await.is_empty());
    world.publish(1, b"live").await;
    assert_eq!(world.second.got("device").await, publish(b"live", 1, 5));
}

#[tokio::test]
async fn acknowledgements_that_the_first_worker_lost_count_at_the_second() {
    let (mut world, mut first) = World::new().await;
    subscribed(&mut first, &How::stored("device")).await;
    first.connect(&How::clean("local")).await;
    for n in 1..=3 {
        let qos = if n == 1 { 1 } else { 2 };
        first.publish("local", qos, n, "t", &[n]);
        first.got("local").await;
        assert_eq!(first.got("device").await, publish(&[n], qos, n.into()));
    }
    first.acknowledge("device", 0x50, 3);
    assert_eq!(first.got("device").await, other(0x62, 3));
    // The worker dies without having read these.
    first.acknowledge("device", 0x40, 1);
    first.acknowledge("device", 0x50, 2);
    first.acknowledge("device", 0x70, 3);
    world.move_device(first).await;
    assert_eq!(world.second.got("device").await, other(0x62, 2));
    assert!(world.second.drain("device").await.is_empty());
    world.second.acknowledge("device", 0x70, 2);
    world.second.drain("device").await;
    let queued = world.workers[1].store.stats().queued_messages;
    assert_eq!(queued, 0, "all is acknowledged");
}

#[tokio::test]
async fn a_subscription_that_was_not_answered_is_made_by_the_next_worker() {
    for how in [How::stored("device"), How::clean("device")] {
        let (mut world, mut first) = World::new().await;
        first.connect(&how).await;
        world.hold();
        first.subscribe("device", 9, "t", 1);
        first.settle().await;
        world.move_device(first).await;
        assert_eq!(world.second.got("device").await, Got::Other { first_byte: 0x90, body: vec![0, 9, 0, 1] });
        world.publish(1, b"x").await;
        assert_eq!(world.second.got("device").await, publish(b"x", 1, 1));
    }
}

#[tokio::test]
async fn a_clean_session_goes_on_with_its_subscriptions() {
    for clean_sessions in [CleanSessions::Memory, CleanSessions::Store] {
        let (mut world, mut first) = World::with(clean_sessions).await;
        subscribed(&mut first, &How::clean("device")).await;
        first.connect(&How::clean("local")).await;
        first.publish("local", 2, 1, "t", b"a");
        first.got("local").await;
        assert_eq!(first.got("device").await, publish(b"a", 2, 1));
        first.acknowledge("device", 0x50, 1);
        world.move_device(first).await;
        world.publish(1, b"b").await;
        let mut got = vec![world.second.got("device").await, world.second.got("device").await];
        got.sort_by_key(|got| matches!(got, Got::Publish { .. }));
        assert_eq!(got, [other(0x62, 1), publish(b"b", 1, 2)], "{clean_sessions:?}");
        world.second.acknowledge("device", 0x70, 1);
        world.second.acknowledge("device", 0x40, 2);
        world.second.send("device", &[0xE0, 0]);
        world.second.until("the end", |edge| edge.device("device").closed.is_some()).await;
        world.second.close("publisher");
        world.second.until("the end", |edge| edge.device("publisher").is_finished).await;
        // What was local goes when its grace is over.
        assert_eq!(world.workers[1].store.stats().sessions, 1);
    }
}

#[tokio::test]
async fn the_will_waits_for_the_device_to_go_on() {
    let (mut world, mut first) = World::new().await;
    let how = How { will: Some(("t", 0)), ..How::clean("device") };
    world.second.connect(&How::clean("watcher")).await;
    world.second.subscribe("watcher", 1, "t", 0);
    world.second.got("watcher").await;
    first.connect(&how).await;
    world.move_device(first).await;
    world.second.serve_for(Duration::from_millis(1500)).await;
    assert!(world.second.drain("watcher").await.is_empty(), "the device is connected");
    // Its next link is lost too, and it goes on nowhere.
    let World { workers, second, .. } = world;
    let mut third = Edge::dial(&workers[1]).await;
    third.connect(&How::clean("other watcher")).await;
    third.subscribe("other watcher", 1, "t", 0);
    third.got("other watcher").await;
    drop(second);
    assert_eq!(third.got("other watcher").await, publish(b"gone", 0, 0));
}

#[tokio::test]
async fn a_device_that_left_while_it_had_no_worker_has_left() {
    let (mut world, mut first) = World::new().await;
    let how = How { will: Some(("t", 0)), ..How::stored("device") };
    world.second.connect(&How::clean("watcher")).await;
    world.second.subscribe("watcher", 1, "t", 0);
    world.second.got("watcher").await;
    first.connect(&how).await;
    first.close("device");
    let adrift = first.cut().remove("device").unwrap();
    world.go_on(adrift).await;
    assert_eq!(world.second.got("watcher").await, publish(b"gone", 0, 0));
    world.second.until("the close", |edge| edge.device("device").is_finished).await;
}

#[tokio::test]
async fn a_connection_that_was_taken_over_does_not_go_on() {
    let (mut world, mut first) = World::new().await;
    first.connect(&How::stored("device")).await;
    let adrift = first.cut().remove("device").unwrap();
    world.second.connect(&How::stored("device")).await;
    let newer = world.second.devices.remove("device").unwrap();
    world.second.resume("device", adrift);
    world.second.until("a refusal", |edge| edge.device("device").refused.is_some()).await;
    assert_eq!(world.second.device("device").refused, Some(RefuseReason::TakenOver));
    world.second.devices.insert("device".into(), newer);
    assert!(world.second.drain("device").await.is_empty());
}

#[tokio::test]
async fn a_session_that_is_gone_does_not_go_on() {
    let (mut world, mut first) = World::new().await;
    first.connect(&How::clean("device")).await;
    let adrift = first.cut().remove("device").unwrap();
    let stored = world.workers[0].store.clone();
    world.second.until("the end of its grace", |_| stored.stats().sessions == 0).await;
    world.second.resume("device", adrift);
    world.second.until("a refusal", |edge| edge.device("device").refused.is_some()).await;
    assert_eq!(world.second.device("device").refused, Some(RefuseReason::SessionGone));
}

#[tokio::test]
async fn topic_aliases_of_the_device_are_known_to_the_next_worker() {
    let (mut world, mut first) = World::new().await;
    first.connect(&How::stored("device")).await;
    // Topic t, Topic Alias 3.
    first.send("device", &[0x30, 8, 0, 1, b't', 3, 0x23, 0, 3, b'x']);
    assert!(first.drain("device").await.is_empty());
    let mut adrift = first.cut().remove("device").unwrap();
    adrift.device.aliases.insert(3, "t".to_owned());
    world.second.connect(&How::clean("watcher")).await;
    world.second.subscribe("watcher", 1, "t", 0);
    world.second.got("watcher").await;
    world.go_on(adrift).await;
    world.second.send("device", &[0x30, 7, 0, 0, 3, 0x23, 0, 3, b'y']);
    assert_eq!(world.second.got("watcher").await, publish(b"y", 0, 0));
}

#[tokio::test]
async fn a_device_that_connects_at_another_worker_ends_its_old_connection() {
    for how in [How::stored("device"), How::clean("device")] {
        let (mut world, mut first) = World::new().await;
        first.connect(&How { will: Some(("t", 0)), ..how.clone() }).await;
        world.second.connect(&How::clean("watcher")).await;
        world.second.subscribe("watcher", 1, "t", 0);
        world.second.got("watcher").await;
        world.second.connect(&how).await;
        first.until("the end", |edge| edge.device("device").closed.is_some()).await;
        let (reason, packet) = first.device("device").closed.clone().unwrap();
        assert_eq!((reason, packet[2]), (ReasonCode::SessionTakenOver, 0x8E));
        assert_eq!(world.second.got("watcher").await, publish(b"gone", 0, 0));
        // It is published once, and the new connection goes on.
        world.second.publish("device", 0, 0, "t", b"on");
        assert_eq!(world.second.got("watcher").await, publish(b"on", 0, 0));
        assert!(world.second.drain("watcher").await.is_empty());
    }
}

#[tokio::test]
async fn a_connection_comes_back_to_the_worker_that_it_left() {
    for how in [How::stored("device"), How::clean("device")] {
        let (mut world, mut first) = World::new().await;
        subscribed(&mut first, &how).await;
        let adrift = first.give_up("device");
        world.go_on(adrift).await;
        let adrift = world.second.give_up("device");
        first.resume("device", adrift);
        first.until("the resume", |edge| edge.device("device").is_resumed).await;
        world.publish(1, b"x").await;
        assert_eq!(first.got("device").await, publish(b"x", 1, 1));
        // What the second worker had to say to the first is said by now.
        world.publish(1, b"y").await;
        assert_eq!(first.got("device").await, publish(b"y", 1, 2));
        first.acknowledge("device", 0x40, 1);
        first.acknowledge("device", 0x40, 2);
        assert!(first.drain("device").await.is_empty());
    }
}

// ARCHITECTURE, rule 30.
#[tokio::test]
async fn qos_0_that_may_have_come_before_the_move_does_not_come_after_it() {
    let (mut world, mut first) = World::new().await;
    subscribed(&mut first, &How::stored("device")).await;
    world.move_device(first).await;
    world.second.connect(&How::clean("other")).await;
    world.second.subscribe("other", 9, "t", 2);
    assert_eq!(world.second.got("other").await, Got::Other { first_byte: 0x90, body: vec![0, 9, 0, 2] });
    let third = world.cluster.worker("third");
    for (number, at_us) in [(1, 1), (2, u64::MAX)] {
        let stamp = Stamp {
            sender: third.id(),
            number,
            publisher: Some(PublishingSession { incarnation: 99, epoch: 1 }),
            at_us,
        };
        let message = Arc::new(Message::new("t", &[], &[number as u8], QoS::AtMostOnce, false, 0));
        let noted = Noted::Message { stamp, message, is_plain: true, shares: Vec::new() };
        third.post(WorkerId(2), vec![noted], Box::new(|heard| assert_eq!(heard.unwrap(), Heard::Yes)));
    }
    assert_eq!(world.second.got("device").await, publish(&[2], 0, 0));
    assert_eq!(
        world.second.got("other").await,
        publish(&[1], 0, 0),
        "one that has just begun may miss nothing"
    );
    assert_eq!(world.second.got("other").await, publish(&[2], 0, 0));
}

/// A device at the first worker, whose store takes what `mood` says, and a subscriber of what it publishes.
async fn publisher_over(mood: impl Fn(Asked) -> bool + Send + Sync + 'static) -> (World, Edge) {
    let (mut world, mut first) =
        World::over(CleanSessions::Memory, |store| Arc::new(Moody::new(store, mood))).await;
    world.second.connect(&How::stored("subscriber")).await;
    world.second.subscribe("subscriber", 9, "t", 2);
    world.second.got("subscriber").await;
    first.connect(&How::stored("device")).await;
    (world, first)
}

/// Moves the device to the second worker, where it gets this, and back to the first.
async fn there_and_back(world: &mut World, first: &mut Edge, got_there: &Got) {
    let adrift = first.give_up("device");
    world.go_on(adrift).await;
    assert_eq!(world.second.got("device").await, *got_there);
    let adrift = world.second.give_up("device");
    first.resume("device", adrift);
    first.until("the resume", |edge| edge.device("device").is_resumed).await;
}

// What the first worker could not ask of the store in time it asks when the device is back, by another stream.
#[tokio::test]
async fn what_was_asked_before_the_device_came_back_is_answered_to_nobody() {
    for (call, qos, answer) in
        [(Asked::Publish, 1, 0x40), (Asked::Publish, 2, 0x50), (Asked::Forget, 2, 0x70)]
    {
        let (is_away, refused, taken) =
            (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mood = {
            let (is_away, refused, taken) = (is_away.clone(), refused.clone(), taken.clone());
            move |asked| {
                let takes = asked != call || !is_away.load(Ordering::SeqCst);
                if asked == call {
                    if takes { &taken } else { &refused }.fetch_add(1, Ordering::SeqCst);
                }
                takes
            }
        };
        let (mut world, mut first) = publisher_over(mood).await;
        first.publish("device", qos, 7, "t", b"x");
        if call == Asked::Forget {
            assert_eq!(first.got("device").await, other(0x50, 7));
            first.acknowledge("device", 0x62, 7);
        }
        first.until("a refusal", |_| refused.load(Ordering::SeqCst) > 0).await;
        there_and_back(&mut world, &mut first, &other(answer, 7)).await;
        is_away.store(false, Ordering::SeqCst);
        first.until("that it is asked", |_| taken.load(Ordering::SeqCst) > 0).await;
        // Whatever comes of it is here before the answer to what comes later.
        first.settle().await;
        assert_eq!(first.device("device").closed, None, "{call:?} {qos}");
        assert_eq!(first.drain("device").await, [], "{call:?} {qos}");
    }
}

// ARCHITECTURE, rule 7.
#[tokio::test]
async fn what_may_have_been_sent_and_has_not_arrived_comes_without_dup() {
    let (mut world, mut first) = World::new().await;
    subscribed(&mut first, &How::stored("device")).await;
    // The first worker may send it as soon as it is told, and the edge does not read.
    for qos in 1..=2 {
        world.publish(qos, &[qos]).await;
    }
    world.move_device(first).await;
    for qos in 1..=2 {
        assert_eq!(world.second.got("device").await, publish(&[qos], qos, qos.into()));
    }
}

// ARCHITECTURE, rule 7.
#[tokio::test]
async fn the_next_worker_is_bound_by_the_connack_that_the_device_has() {
    // Receive Maximum 1, and no Topic Alias Maximum: less than this worker would have said.
    let connack = Bytes::from_static(b"\x20\x06\0\0\x03\x21\0\x01");
    for exceeds in [ReasonCode::ReceiveMaximumExceeded, ReasonCode::TopicAliasInvalid] {
        let (mut world, mut first) = World::new().await;
        first.connect(&How::stored("device")).await;
        let mut adrift = first.cut().remove("device").unwrap();
        adrift.device.connack = Some(connack.clone());
        world.go_on(adrift).await;
        if exceeds == ReasonCode::TopicAliasInvalid {
            world.second.send("device", &[0x30, 8, 0, 1, b't', 3, 0x23, 0, 3, b'x']);
        } else {
            world.workers[1].store.hold();
            world.second.publish("device", 2, 1, "t", b"x");
            world.second.publish("device", 2, 2, "t", b"x");
        }
        world.second.until("the end", |edge| edge.device("device").closed.is_some()).await;
        let (reason, _) = world.second.device("device").closed.clone().unwrap();
        assert_eq!(reason, exceeds);
    }
}

// ARCHITECTURE, rule 10.
#[tokio::test]
async fn a_clean_session_that_moved_is_known_to_all_workers_before_it_goes_on() {
    let (mut world, mut first) = World::new().await;
    let third = Worker::sharing(&world.cluster, LinkConfig::default(), ClusterSettings::default()).await;
    let mut there = Edge::dial(&third).await;
    there.connect(&How::clean("other")).await;
    subscribed(&mut first, &How::clean("device")).await;
    // It stands still, and believes what it knows until its lease ends.
    third.store.hold();
    world.move_device(first).await;
    there.publish("other", 1, 1, "t", b"x");
    there.settle().await;
    third.store.let_go();
    assert_eq!(there.got("other").await, other(0x40, 1));
    assert_eq!(world.second.got("device").await, publish(b"x", 1, 1));
}

// ARCHITECTURE, rule 10.
#[tokio::test]
async fn what_waits_for_a_clean_session_moves_with_it_when_it_is_in_the_store() {
    let (mut world, mut first) = World::with(CleanSessions::Store).await;
    subscribed(&mut first, &How { receive_maximum: 1, ..How::clean("device") }).await;
    first.connect(&How::clean("local")).await;
    for n in 1..=3 {
        first.publish("local", 1, n, "t", &[n]);
        assert_eq!(first.got("local").await, other(0x40, n));
    }
    assert_eq!(first.got("device").await, publish(&[1], 1, 1));
    world.move_device(first).await;
    for n in 2..=3 {
        world.second.acknowledge("device", 0x40, u16::from(n) - 1);
        assert_eq!(world.second.got("device").await, publish(&[n], 1, n.into()));
    }
}

// The answer to what an earlier stream asked is not one to a new message with the same Packet Identifier.
#[tokio::test]
async fn a_message_is_not_acknowledged_by_the_answer_to_one_from_before_the_device_came_back() {
    let (allowed, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mood = {
        let (allowed, refused) = (allowed.clone(), refused.clone());
        move |asked| {
            let less = |left: usize| left.checked_sub(1);
            let takes = asked != Asked::Publish
                || allowed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
            refused.fetch_add(usize::from(!takes), Ordering::SeqCst);
            takes
        }
    };
    let (mut world, mut first) = publisher_over(mood).await;
    first.publish("device", 1, 7, "t", b"before");
    first.until("a refusal", |_| refused.load(Ordering::SeqCst) > 0).await;
    there_and_back(&mut world, &mut first, &other(0x40, 7)).await;
    first.publish("device", 1, 7, "t", b"after");
    first.settle().await;
    // The store takes the first of the two, and then refuses the second.
    refused.store(0, Ordering::SeqCst);
    allowed.store(1, Ordering::SeqCst);
    first
        .until("a refusal of the second", |_| {
            allowed.load(Ordering::SeqCst) == 0 && refused.load(Ordering::SeqCst) > 0
        })
        .await;
    first.settle().await;
    assert!(first.device("device").packets.is_empty(), "it is not in the store");
    allowed.store(usize::MAX, Ordering::SeqCst);
    assert_eq!(first.got("device").await, other(0x40, 7));
}

// ARCHITECTURE, rule 31: on the next worker, what is replayed obeys it too.
#[tokio::test]
async fn what_follows_a_request_waits_for_it_at_the_next_worker_too() {
    for how in [How::stored("device"), How::clean("device")] {
        let (mut world, mut first) = World::new().await;
        first.connect(&how).await;
        world.hold();
        first.subscribe("device", 1, "t", 1);
        first.publish("device", 1, 2, "t", b"own");
        first.settle().await;
        assert!(first.device("device").packets.is_empty());
        let mut adrift = first.cut();
        assert_eq!(adrift["device"].replay.len(), 2);
        world.workers[1].store.hold();
        world.second.resume("device", adrift.remove("device").unwrap());
        world.second.settle().await;
        // One answer at a time: the resume's, then SUBSCRIBE's.
        world.workers[0].store.let_go();
        world.workers[1].store.let_go();
        assert_eq!(world.second.got("device").await, Got::Other { first_byte: 0x90, body: vec![0, 1, 0, 1] });
        let got = [world.second.got("device").await, world.second.got("device").await];
        assert!(got.contains(&other(0x40, 2)) && got.contains(&publish(b"own", 1, 1)), "{got:?}");
        // And the same for UNSUBSCRIBE.
        world.second.acknowledge("device", 0x40, 1);
        world.second.send("device", &[0xA2, 6, 0, 3, 0, 0, 1, b't']);
        world.second.publish("device", 1, 4, "t", b"not");
        assert_eq!(world.second.got("device").await, Got::Other { first_byte: 0xB0, body: vec![0, 3, 0, 0] });
        assert_eq!(world.second.got("device").await, Got::Other { first_byte: 0x40, body: vec![0, 4, 0x10] });
        assert_eq!(world.second.drain("device").await, []);
    }
}

// v5 [MQTT-3.3.1-1]
#[tokio::test]
async fn what_an_earlier_connection_may_have_got_comes_with_dup_after_a_move_too() {
    let (mut world, mut first) = World::new().await;
    subscribed(&mut first, &How::stored("device")).await;
    for n in 1..=3 {
        world.publish(1, &[n]).await;
        assert_eq!(first.got("device").await, publish(&[n], 1, n.into()));
    }
    first.close("device");
    first.until("the close is durable", |edge| edge.device("device").is_finished).await;
    // A new connection gets one message at a time.
    first.connect(&How { receive_maximum: 1, ..How::stored("device") }).await;
    let again = |n: u8| match publish(&[n], 1, n.into()) {
        Got::Publish { topic, payload, qos, retain, id, .. } => {
            Got::Publish { topic, payload, qos, retain, id, dup: true }
        }
        other => other,
    };
    assert_eq!(first.got("device").await, again(1));
    world.publish(1, &[4]).await;
    world.move_device(first).await;
    for n in 1..=3 {
        world.second.acknowledge("device", 0x40, n);
        let next = n as u8 + 1;
        let got = world.second.got("device").await;
        assert_eq!(got, if next <= 3 { again(next) } else { publish(&[next], 1, next.into()) });
    }
}
