//! What the specification says of single packets, in tiers: the edge answers what is wrong although the worker is behind a link,
//! and what is legal and large passes every bound on its way.

use crate::harness::bytes::{self, Connect, Publish, Will, packet};
use crate::harness::property as p;
use crate::harness::{DEADLINE, Target, Transport, unique};
use crate::tiers::{Shape, Tiers, metric, within};

fn at(tiers: &Tiers) -> Target<'_> {
    Target { server: &tiers.edges[0], transport: Transport::Tcp }
}

#[test]
fn what_is_wrong_or_large_is_answered_in_tiers_as_it_is_in_one_process() {
    let mut tiers = Tiers::start_single(&Shape::new(2, 1));
    a_disconnect_in_error_is_answered(&tiers);
    a_small_client_is_refused(&tiers);
    legal_sizes_pass(&tiers);
    a_bridge_stays_one_when_it_moves(&mut tiers);
}

fn a_disconnect_in_error_is_answered(tiers: &Tiers) {
    let topic = unique("t");
    let mut witness = at(tiers).v5();
    witness.subscribe(&topic, 1);
    for (what, wrong, reason) in [
        ("a code of CONNACK", bytes::disconnect(0x84, &[]), 0x82),
        ("Session Expiry Interval after none", bytes::disconnect(0, &p::four(p::SESSION_EXPIRY, 10)), 0x82),
        ("a property of CONNECT", bytes::disconnect(0, &p::two(p::RECEIVE_MAXIMUM, 1)), 0x81),
        ("a flag", packet(0xE1, &[]), 0x81),
    ] {
        let will = Will::new(&topic, what).qos(1);
        let mut client = at(tiers).connect(&Connect::v5(&unique("c")).will(will));
        client.send(&wrong);
        client.expect_disconnect(reason);
        // v5 [MQTT-3.1.2-8], [MQTT-3.14.4-3]: only a DISCONNECT that is right discards the Will.
        assert_eq!(witness.take().text(), what);
    }
    at(tiers).connect(&Connect::stored(&unique("c"))).leave();
}

fn a_small_client_is_refused(tiers: &Tiers) {
    let small = |bytes| Connect::v5(&unique("c")).with(p::four(p::MAXIMUM_PACKET_SIZE, bytes)).bytes();
    for bytes in [2, 4] {
        let mut client = at(tiers).open();
        client.send(&small(bytes));
        client.expect_close();
    }
    assert_eq!(at(tiers).refused(&small(10), 5).code, 0x95);
}

fn legal_sizes_pass(tiers: &Tiers) {
    let topic = format!("{}/{}", unique("t"), "x".repeat(60_000));
    let mut witness = at(tiers).v5();
    witness.subscribe_with(&topic, 1, &p::variable(p::SUBSCRIPTION_ID, 268_435_455));
    let long = "w".repeat(65_535);
    at(tiers).connect(&Connect::v5(&unique("c")).will(Will::new(&topic, &long).qos(1))).vanish();
    assert_eq!(witness.take().payload.len(), long.len());
    let mut publisher = at(tiers).v5();
    let payload = "p".repeat(1 << 20);
    let alias = p::two(p::TOPIC_ALIAS, 1);
    publisher.publish_as(Publish::new(&topic, "short").with(alias.clone()), 1);
    assert_eq!(witness.take().text(), "short");
    publisher.publish_as(Publish::new("", &payload).with(alias), 1);
    let message = witness.take();
    assert_eq!((message.payload.len(), message.topic.len()), (payload.len(), topic.len()));
}

fn a_bridge_stays_one_when_it_moves(tiers: &mut Tiers) {
    // Mosquitto's bridges: the top bit of the level means Retain As Published and No Local.
    let topic = unique("t");
    let mut bridge = at(tiers).connect(&Connect::new(0x84, &unique("b")).resume());
    assert_eq!(bridge.subscribe(&topic, 1), 1);
    let served = |tiers: &Tiers| -> Vec<f64> {
        tiers.workers.iter().map(|worker| metric(worker, "tidegate_broker_sessions_connected")).collect()
    };
    let by = within("nobody else is connected", DEADLINE, || {
        let served = served(tiers);
        let is_alone = served.iter().sum::<f64>() == 1.0;
        is_alone.then(|| served.iter().position(|&count| count == 1.0)).flatten()
    });
    tiers.kill_worker(by);
    within("a move", DEADLINE, || {
        (metric(&tiers.edges[0], "tidegate_workers_moves_total") >= 1.0).then_some(())
    });
    let mut other = at(tiers).v4();
    other.publish_as(Publish::new(&topic, "kept").retain(), 1);
    assert!(bridge.take().retain);
    bridge.publish(&topic, "own", 1);
    // After the move as well, what it subscribes to is meant so.
    let second = unique("t");
    assert_eq!(bridge.subscribe(&second, 1), 1);
    other.publish_as(Publish::new(&second, "kept too").retain(), 1);
    let message = bridge.take();
    assert_eq!((message.text(), message.retain), ("kept too", true));
}
