//! Wills that are published long after their CONNECT, here and by other workers.

use std::time::Duration;

use broker::ClusterSettings;
use mqtt::{Packet, ProtocolVersion, QoS, Receiver, frame};
use tokio::time::{sleep, timeout};

use super::world::{Cluster, subscribe};
use crate::device::{Device, How};

/// The Message Expiry Interval of the Wills, seconds.
const INTERVAL_S: u32 = 20;

/// How long their clients stay connected.
const LATER: Duration = Duration::from_secs(60);

/// The intervals of the PUBLISH packets that have come, with their payloads.
fn intervals(device: &mut Device) -> Vec<(Vec<u8>, Option<u32>)> {
    let interval = |bytes: bytes::Bytes| {
        let packet = frame::split(&bytes, u32::MAX).unwrap().unwrap();
        let Ok(Packet::Publish(publish)) = Packet::decode(ProtocolVersion::V5, Receiver::Client, packet)
        else {
            return None;
        };
        Some((publish.payload.to_vec(), publish.properties.publish_summary().message_expiry_s))
    };
    std::iter::from_fn(|| device.got_raw()).filter_map(interval).collect()
}

/// The Will has come once, with its interval as it was, but for the second that the worker's clock may be behind.
fn assert_fresh(device: &mut Device, what: &str) {
    let got = intervals(device);
    let [(payload, Some(interval_s))] = &got[..] else { panic!("{what}: {got:?}") };
    assert_eq!(payload, b"gone", "{what}");
    assert!((INTERVAL_S - 2..=INTERVAL_S).contains(interval_s), "{what}: {interval_s}");
}

fn device<'a>(qos: QoS, retain: bool, of: &How<'a>) -> How<'a> {
    How {
        will: Some(("will/x", 0)),
        will_qos: qos,
        will_retain: retain,
        will_expiry_s: Some(INTERVAL_S),
        ..of.clone()
    }
}

// v5 section 3.1.3.2.4
#[tokio::test(start_paused = true)]
async fn the_expiry_interval_of_a_will_begins_when_it_is_published() {
    for (qos, retain) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
        .into_iter()
        .flat_map(|qos| [(qos, false), (qos, true)])
    {
        for how in [How::clean("c"), How::stored("s")] {
            let what = format!("{qos:?}, retain {retain}, {}", how.client_id);
            let cluster = Cluster::new();
            let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
            let mut here = one.join(&How::clean("here")).await;
            let mut there = two.join(&How::stored("there")).await;
            for witness in [&mut here, &mut there] {
                subscribe(witness, "will/#", 2).await;
            }
            let mut device = one.join(&device(qos, retain, &how)).await;
            sleep(LATER).await;
            device.lose();
            sleep(Duration::from_secs(1)).await;
            assert_fresh(&mut here, &what);
            assert_fresh(&mut there, &what);
            let mut late = two.join(&How::clean("late")).await;
            subscribe(&mut late, "will/#", 2).await;
            sleep(Duration::from_secs(1)).await;
            match retain {
                true => assert_fresh(&mut late, &what),
                false => assert!(intervals(&mut late).is_empty(), "{what}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_expiry_interval_of_a_will_begins_when_another_worker_publishes_it() {
    let cluster = Cluster::new();
    // The clock of sessions does not stand still as the test's does.
    let settings = ClusterSettings { handoff_grace_ms: 0, ..ClusterSettings::default() };
    let (one, two) = (cluster.worker("one").await, cluster.worker_with("two", settings).await);
    let mut witness = two.join(&How::clean("witness")).await;
    subscribe(&mut witness, "will/#", 1).await;
    let _device = one.join(&device(QoS::AtLeastOnce, true, &How::stored("s"))).await;
    sleep(LATER).await;
    one.broker.stop();
    one.memory.store().hold();
    let burial = async {
        while intervals(&mut witness).is_empty() {
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(LATER, burial).await.expect("the Will is published");
    let mut late = two.join(&How::clean("late")).await;
    subscribe(&mut late, "will/#", 1).await;
    sleep(Duration::from_secs(1)).await;
    assert_fresh(&mut late, "retained");
}
