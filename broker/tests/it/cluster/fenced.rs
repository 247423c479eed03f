//! Writes that the store refuses because the session is not the connection's any more.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use mqtt::{QoS, ReasonCode};
use parking_lot::Mutex;
use state::{Burial, Cluster as _, Position};
use tokio::time::sleep;

use super::world::{Cluster, Worker, publish, subscribe, within};
use crate::device::{Device, Got, How};

/// What a device sends that has the store change its session; it is given identifiers of messages that it has got.
type Write = fn(&mut Device, [u16; 2]);

const WRITES: [(&str, Write); 5] = [
    ("PUBLISH", |device, _| {
        device.publish("b", b"1", QoS::ExactlyOnce, false);
    }),
    ("SUBSCRIBE", |device, _| device.subscribe("b", 1)),
    ("UNSUBSCRIBE", |device, _| device.unsubscribe("a")),
    ("PUBACK", |device, [id, _]| device.acknowledge(0x40, id)),
    ("PUBREC", |device, [_, id]| device.acknowledge(0x50, id)),
];

/// A device that has a message with QoS 1 and one with QoS 2, of which it has acknowledged neither.
async fn device(worker: &Worker, client_id: &str) -> (Device, [u16; 2]) {
    let mut device = worker.join(&How::stored(client_id)).await;
    subscribe(&mut device, "a", 2).await;
    let mut publisher = worker.join(&How::clean("publisher")).await;
    publish(&mut publisher, "a", b"1").await;
    publisher.publish("a", b"2", QoS::ExactlyOnce, false);
    let mut ids = [0; 2];
    for (id, expected) in ids.iter_mut().zip(1..) {
        let got = device.wait().await;
        let Got::Publish { qos, id: Some(packet_id), .. } = got else { panic!("{got:?}") };
        assert_eq!(qos, expected);
        *id = packet_id;
    }
    (device, ids)
}

// ARCHITECTURE, rule 4: the device goes on at another worker when this one has cut its links.
#[tokio::test(start_paused = true)]
async fn a_worker_that_was_taken_for_dead_ends_no_connection_as_taken_over() {
    for (name, write) in WRITES {
        let cluster = Cluster::new();
        let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
        let (device, ids) = device(&one, "device").await;
        let device = Arc::new(Mutex::new(device));
        let (cut, told) = mpsc::channel();
        let cut_off = Arc::clone(&device);
        one.broker.on_expelled(move || {
            let mut device = cut_off.lock();
            cut.send((device.drain(), device.closed)).unwrap();
            device.lose();
        });
        let (worker, handed_on) = (one.memory.id(), Position::default());
        let burial = Burial { worker, silent_ms: 0, grace_ms: 10_000, now: 0, handed_on };
        two.memory.bury(burial, Box::new(|left| assert!(left.unwrap().is_empty())));
        write(&mut device.lock(), ids);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(told.try_recv(), Ok((vec![], None)), "{name}");
        assert!(told.try_recv().is_err(), "{name}: it has joined again");
    }
}

// ARCHITECTURE, rule 3. The answer to the claim was lost, so that nobody told it.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_taken_over_learns_it_by_whatever_it_does() {
    for (name, write) in WRITES {
        let cluster = Cluster::new();
        let (one, two) = (cluster.worker("one").await, cluster.worker("two").await);
        let (mut device, ids) = device(&one, "device").await;
        two.take_session("device");
        assert_eq!(within(&mut device, 2000).await, [], "{name}");
        write(&mut device, ids);
        let got = within(&mut device, 2000).await;
        assert!(
            matches!(&got[..], [Got::Other { first_byte: 0xe0, body }] if body[0] == 0x8e),
            "{name}: {got:?}"
        );
        assert_eq!(device.closed, Some(ReasonCode::SessionTakenOver), "{name}");
    }
}
