//! Devices that outlive their worker.

use std::collections::BTreeSet;

use ::link::CloseCause;
use ::link::FlowState;
use ::link::wire::RefuseReason;
use mqtt::QoS;
use tokio::time::{Duration, Instant};

use super::device::{TestDevice, publish, publish_by};
use super::{Setup, packet};
use crate::fake::{PATIENCE, eventually};
use crate::upstream::mover::UNREAD_BYTES_MAX;

/// Subsequent messages of `device`, all acknowledged once and all in the store.
pub(super) async fn publishes_well(setup: &Setup, mut device: TestDevice, count: u16) -> TestDevice {
    assert_eq!(device.publish_all(count, 16).await, vec![1; count.into()]);
    let stored: BTreeSet<_> = setup.store.published.lock()[&device.connection].iter().cloned().collect();
    assert_eq!(stored.len(), usize::from(count));
    device
}

#[tokio::test]
async fn no_acknowledgement_is_lost_or_doubled_while_links_are_cut() {
    let setup = Setup::new(3).await;
    let mut publishing = Vec::new();
    for connection in 0..20 {
        let (mut device, _) = setup.device(connection).await;
        publishing.push(tokio::spawn(async move { (device.publish_all(2_000, 16).await, device) }));
    }
    for turn in 0..12 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let fake = &setup.fakes[turn % 3];
        // In part of the cuts the worker has answered and not yet reported.
        fake.manner(|manner| manner.reports_nothing = turn % 2 == 0);
        fake.cut();
    }
    for (connection, publishing) in publishing.into_iter().enumerate() {
        let (acknowledged, _device) = publishing.await.expect("finished");
        assert_eq!(acknowledged, vec![1; 2_000]);
        let published = setup.store.published.lock()[&(connection as u128)].clone();
        let mut seen = BTreeSet::new();
        let firsts: Vec<_> = published.into_iter().filter(|payload| seen.insert(payload.clone())).collect();
        assert!(firsts.is_sorted() && firsts.len() == 2_000, "each in its order");
    }
    assert!(setup.metric("workers_moves_total{reason=\"lost\",outcome=\"moved\"}") > 10.0);
    eventually("all moves are done", || setup.metric("workers_moving") == 0.0).await;
}

#[tokio::test]
async fn a_device_whose_worker_dies_goes_on_at_another() {
    let mut setup = Setup::new(2).await;
    let (device, place) = setup.device(7).await;
    let dead = setup.fakes.remove(place);
    dead.kill().await;
    let mut device = publishes_well(&setup, device, 100).await;
    let opens = setup.fakes[0].opens();
    let resume = opens[0].resume.as_ref().expect("a resume");
    assert_eq!(&resume.connack[..2], b"\x20\x06");
    assert!(device.next_within(Duration::from_millis(50)).await.is_none(), "no second CONNACK");
    device.close(CloseCause::Abnormal);
    eventually("the end", || setup.store.closed.lock().len() == 1).await;
}

#[tokio::test]
async fn a_worker_that_stands_still_is_left_after_two_seconds() {
    let mut setup = Setup::new(2).await;
    let (device, place) = setup.device(7).await;
    let hung = setup.fakes.remove(place);
    let started = Instant::now();
    hung.stand();
    publishes_well(&setup, device, 100).await;
    assert!(started.elapsed() >= Duration::from_millis(1_900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_worker_that_leaves_loses_its_devices_one_by_one_and_none_of_them() {
    let setup = Setup::new(2).await;
    let mut devices = Vec::new();
    for connection in 0..50 {
        devices.push(setup.device(connection).await);
    }
    setup.fakes[0].drain();
    let moving = devices.iter().filter(|(_, place)| *place == 0).count();
    assert!(moving > 5);
    eventually("all have moved", || {
        setup.fakes[1].opens().iter().filter(|open| open.resume.is_some()).count() == moving
    })
    .await;
    let mut well = Vec::new();
    for (device, _) in devices {
        well.push(publishes_well(&setup, device, 10).await);
    }
    assert!(setup.store.closed.lock().is_empty());
}

#[tokio::test]
async fn a_worker_that_leaves_alone_keeps_its_devices_until_there_is_another() {
    let setup = Setup::new(1).await;
    let (device, _) = setup.device(7).await;
    setup.fakes[0].drain();
    eventually("it is known to leave", || setup.metric("workers_healthy") == 0.0).await;
    let device = publishes_well(&setup, device, 50).await;
    assert_eq!(setup.fakes[0].opens().len(), 1);
    drop(device);
}

#[tokio::test]
async fn refusals_for_good_end_the_connection_with_their_reason() {
    for (refusal, code) in
        [(RefuseReason::SessionGone, 0x8B), (RefuseReason::TakenOver, 0x8E), (RefuseReason::Passport, 0x87)]
    {
        let setup = Setup::new(1).await;
        let (mut device, _) = setup.device(7).await;
        setup.fakes[0].manner(|manner| manner.refuses = Some(refusal));
        setup.fakes[0].cut();
        assert_eq!(packet(device.next().await), &[0xE0, 1, code][..]);
        let opens = setup.fakes[0].opens().len();
        assert_eq!(opens, 2, "it is not tried again");
        drop(device);
        assert_eq!(setup.workers.stop(PATIENCE).await, 0);
    }
}

#[tokio::test]
async fn refusals_for_now_are_tried_elsewhere_and_later() {
    for refusal in [RefuseReason::Overloaded, RefuseReason::StoreAway, RefuseReason::Draining] {
        let setup = Setup::new(2).await;
        let (device, place) = setup.device(7).await;
        setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.refuses = Some(refusal)));
        setup.fakes[place].cut();
        eventually("both were asked", || {
            setup.fakes.iter().all(|fake| fake.opens().iter().any(|open| open.resume.is_some()))
        })
        .await;
        setup.fakes[1 - place].manner(|manner| manner.refuses = None);
        publishes_well(&setup, device, 20).await;
    }
}

#[tokio::test]
async fn a_device_that_no_worker_takes_in_time_is_told_to_connect_anew() {
    let setup = Setup::with(1, |config| config.handoff_timeout_ms = 1_000).await;
    let (mut device, _) = setup.device(7).await;
    setup.fakes[0].manner(|manner| manner.refuses = Some(RefuseReason::Overloaded));
    setup.fakes[0].cut();
    assert_eq!(packet(device.next().await), &b"\xE0\x01\x8B"[..]);
    assert_eq!(setup.metric("workers_moves_total{reason=\"lost\",outcome=\"timeout\"}"), 1.0);
}

#[tokio::test]
async fn the_deadline_stands_still_while_the_store_is_away() {
    let setup = Setup::with(1, |config| config.handoff_timeout_ms = 1_000).await;
    let (device, _) = setup.device(7).await;
    setup.fakes[0].manner(|manner| manner.refuses = Some(RefuseReason::StoreAway));
    setup.fakes[0].cut();
    let started = Instant::now();
    eventually("twice the deadline", || started.elapsed() > Duration::from_millis(2_500)).await;
    setup.fakes[0].manner(|manner| manner.refuses = None);
    publishes_well(&setup, device, 20).await;
}

#[tokio::test]
async fn a_connect_whose_worker_dies_is_repeated_elsewhere() {
    let setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.is_mute = true));
    let mut device = TestDevice::begin(&setup.workers, 7);
    eventually("it was asked for", || setup.fakes.iter().any(|fake| !fake.opens().is_empty())).await;
    let place = setup.place(7);
    setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.is_mute = false));
    setup.fakes[place].cut();
    assert_eq!(packet(device.next().await)[0], 0x20);
    assert!(setup.fakes.iter().flat_map(super::FakeWorker::opens).all(|open| open.resume.is_none()));
    publishes_well(&setup, device, 10).await;
}

#[tokio::test]
async fn a_refused_connect_gets_a_connack() {
    let setup = Setup::new(1).await;
    setup.fakes[0].manner(|manner| manner.refuses = Some(RefuseReason::Passport));
    let mut device = TestDevice::begin(&setup.workers, 7);
    assert_eq!(packet(device.next().await), &b"\x20\x03\x00\x87\x00"[..]);
}

#[tokio::test]
async fn a_worker_that_does_not_answer_a_resume_is_passed_over() {
    let setup = Setup::with(3, |config| config.resume_timeout_ms = 200).await;
    let (device, place) = setup.device(7).await;
    setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.is_mute = true));
    setup.fakes[place].cut();
    let asked = |fake: &super::FakeWorker| fake.opens().iter().any(|open| open.resume.is_some());
    eventually("somebody was asked", || setup.fakes.iter().any(asked)).await;
    let mute = setup.fakes.iter().position(asked).expect("one");
    for (at, fake) in setup.fakes.iter().enumerate() {
        fake.manner(|manner| manner.is_mute = at == mute);
    }
    publishes_well(&setup, device, 10).await;
}

#[tokio::test]
async fn the_next_worker_knows_flows_aliases_and_what_is_to_come_first() {
    let mut setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| fake.manner(|manner| manner.topic_alias_max = 4));
    let (mut device, place) = setup.device(7).await;
    device.send(&publish_by(QoS::AtLeastOnce, 1, "a", Some(1), b"1")).await;
    assert_eq!(packet(device.next().await)[0], 0x40);
    // To the device: one awaits PUBACK, one PUBCOMP; from it: one QoS 2 flow.
    setup.fakes[place].push(7, publish(QoS::AtLeastOnce, 11, b"x"));
    setup.fakes[place].push(7, publish(QoS::ExactlyOnce, 12, b"y"));
    device.next().await;
    device.next().await;
    device.send(&b"\x50\x02\0\x0C"[..].into()).await;
    setup.fakes[place].push(7, &b"\x62\x02\0\x0C"[..]);
    assert_eq!(packet(device.next().await)[0], 0x62);
    device.send(&publish(QoS::ExactlyOnce, 2, b"2")).await;
    assert_eq!(packet(device.next().await)[0], 0x50);
    setup.fakes[place].manner(|manner| manner.holds_packets = true);
    device.send(&publish_by(QoS::AtLeastOnce, 3, "", Some(1), b"3")).await;
    device.send(&publish_by(QoS::AtLeastOnce, 4, "b", Some(1), b"4")).await;
    eventually("they have come", || setup.fakes[place].packets(7).len() == 5).await;
    let other = 1 - place;
    setup.fakes[other].manner(|manner| manner.holds_packets = true);
    let dead = setup.fakes.remove(place);
    dead.kill().await;
    let next = &setup.fakes[0];
    eventually("the replay", || next.packets(7).len() == 2).await;
    let replay =
        [publish_by(QoS::AtLeastOnce, 3, "a", None, b"3"), publish_by(QoS::AtLeastOnce, 4, "b", None, b"4")];
    assert_eq!(next.packets(7), replay);
    let open = next.opens().pop().expect("one");
    let resume = open.resume.expect("a resume");
    let flows: Vec<_> = resume.flows.iter().map(|flow| (flow.packet_id.as_u16(), flow.state)).collect();
    assert_eq!(flows, [(11, FlowState::AwaitingPuback), (12, FlowState::AwaitingPubcomp)]);
    assert_eq!(resume.inbound_qos2.iter().map(|id| id.as_u16()).collect::<Vec<_>>(), [2]);
    assert_eq!(resume.backlog, 2);
    let aliases: Vec<_> = resume.topic_aliases.iter().map(|alias| (alias.alias, &*alias.topic)).collect();
    assert_eq!(aliases, [(1, "b")]);
    // By alias again: the new worker knows it.
    device.send(&publish_by(QoS::AtLeastOnce, 5, "", Some(1), b"5")).await;
    eventually("the next", || next.packets(7).len() == 3).await;
    assert_eq!(next.packets(7)[2], publish_by(QoS::AtLeastOnce, 5, "", Some(1), b"5"));
}

#[tokio::test]
async fn while_a_device_has_no_worker_it_may_go_on_up_to_a_bound() {
    let mut setup = Setup::with(1, |config| config.backoff_max_ms = 125).await;
    let (mut device, _) = setup.device(7).await;
    setup.fakes[0].manner(|manner| manner.topic_alias_max = 0);
    let dead = setup.fakes.remove(0);
    let address = dead.address;
    dead.kill().await;
    eventually("it has no worker", || setup.metric("workers_moving") == 1.0).await;
    for _ in 0..2_000 {
        device.push(&publish(QoS::AtMostOnce, 1, &[0; 1_000])).expect("taken or dropped");
    }
    assert!(setup.metric("workers_qos0_dropped_total") > 1_000.0);
    assert!(device.is_ready().await, "QoS 0 does not stop it");
    let mut sent: u16 = 0;
    while device.is_ready().await {
        sent += 1;
        device.push(&publish(QoS::AtLeastOnce, sent, &[0; 1_000])).expect("taken");
        assert!(sent < 1_000, "it never stops");
    }
    let again = super::FakeWorker::start_at(address, &setup.store, None).await;
    for number in 1..=sent {
        assert_eq!(packet(device.next().await), [&[0x40, 2][..], &number.to_be_bytes()].concat());
    }
    assert!(device.is_ready().await);
    again.kill().await;
}

#[tokio::test]
async fn what_came_from_a_worker_that_died_reaches_the_device_first() {
    let mut setup = Setup::new(2).await;
    let (mut device, place) = setup.device(7).await;
    device.push(&publish(QoS::AtLeastOnce, 1, b"a")).expect("taken");
    let shared = device.shared();
    eventually("the answer is at the edge", || !shared.mail.lock().is_empty()).await;
    let dead = setup.fakes.remove(place);
    dead.kill().await;
    eventually("it has moved", || {
        setup.metric("workers_moves_total{reason=\"lost\",outcome=\"moved\"}") == 1.0
    })
    .await;
    setup.fakes[0].push(7, publish(QoS::AtMostOnce, 1, b"later"));
    assert_eq!(packet(device.next().await), &b"\x40\x02\0\x01"[..]);
    assert_eq!(packet(device.next().await)[0], 0x30);
    assert!(setup.fakes[0].packets(7).is_empty(), "what is answered is not sent again");
}

#[tokio::test]
async fn packets_by_alias_that_no_link_took_are_told_the_next_worker_in_full() {
    let mut setup = Setup::new(2).await;
    setup.fakes.iter().for_each(|fake| {
        fake.manner(|manner| {
            manner.topic_alias_max = 4;
            manner.holds_packets = true;
        });
    });
    let (mut device, place) = setup.device(7).await;
    let mut expected = Vec::new();
    let mut id = 0;
    while device.is_ready().await {
        id += 1;
        let topic = if id == 1 { "a" } else { "" };
        device.push(&publish_by(QoS::AtLeastOnce, id, topic, Some(1), &[0; 2_000])).expect("taken");
        expected.push(publish_by(QoS::AtLeastOnce, id, "a", None, &[0; 2_000]));
    }
    device.push(&publish_by(QoS::AtLeastOnce, id + 1, "b", Some(1), b"")).expect("taken");
    expected.push(publish_by(QoS::AtLeastOnce, id + 1, "b", None, b""));
    let other = 1 - place;
    setup.fakes[other].manner(|manner| manner.holds_packets = false);
    let dead = setup.fakes.remove(place);
    dead.kill().await;
    eventually("all have come", || setup.fakes[0].packets(7).len() == expected.len()).await;
    assert!(setup.fakes[0].packets(7) == expected);
}

#[tokio::test]
async fn a_device_that_was_held_back_goes_on_when_its_worker_is_gone() {
    let mut setup = Setup::new(1).await;
    setup.fakes[0].manner(|manner| manner.holds_packets = true);
    let (mut device, _) = setup.device(7).await;
    let mut id = 0;
    while device.is_ready().await {
        id += 1;
        device.push(&publish(QoS::AtLeastOnce, id, &[0; 2_000])).expect("taken");
    }
    let dead = setup.fakes.remove(0);
    let ready = tokio::spawn(async move { device.ready().await });
    tokio::task::yield_now().await;
    dead.kill().await;
    // PINGREQ is read only then.
    tokio::time::timeout(PATIENCE, ready).await.expect("it may send while it has no worker").expect("ready");
}

#[tokio::test]
async fn a_device_that_reads_nothing_is_not_given_a_window_by_every_worker() {
    // With two links it could be at the other before anybody looks.
    let setup = Setup::with(1, |config| {
        config.backoff_max_ms = 125;
        config.links_per_worker = 1;
    })
    .await;
    let (mut device, _) = setup.device(7).await;
    let shared = device.shared();
    let unread = || shared.mail.lock().len();
    let attempt = || shared.lock().0.open.attempt;
    let is_moving = || shared.lock().0.route.summary().is_moving;
    let mut sent = 0;
    for _ in 0..12 {
        if !is_moving() {
            let before = unread();
            setup.fakes[0].push(7, publish(QoS::AtMostOnce, 1, &[0; 60_000]));
            eventually("it is at the edge", || unread() > before).await;
            sent += 1;
        }
        let asked = attempt();
        setup.fakes[0].cut();
        eventually("it has moved or is held back", || {
            attempt() > asked && (!is_moving() || unread() > UNREAD_BYTES_MAX)
        })
        .await;
        setup.all_up(1).await;
    }
    assert!(is_moving() && unread() < 400_000, "{}", unread());
    for _ in 0..sent {
        assert_eq!(packet(device.next().await)[0], 0x30);
    }
    publishes_well(&setup, device, 3).await;
}
