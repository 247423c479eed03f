//! An edge that ends: where it sends its devices, and how another process goes on with its listening sockets.

use super::*;
use crate::shared::Phase;

/// DISCONNECT 0x9C and CONNACK 0x9C with the Server Reference `b:1`.
const GO_TO_B: &[u8] = b"\xE0\x08\x9C\x06\x1C\0\x03b:1";
const TRY_B: &[u8] = b"\x20\x09\0\x9C\x06\x1C\0\x03b:1";

async fn connected(address: SocketAddr, packet: &[u8], connack: &[u8]) -> TcpStream {
    let mut device = dial(address).await;
    device.write_all(packet).await.expect("written");
    expect(&mut device, connack).await;
    device
}

// v5 section 4.13
#[tokio::test]
async fn devices_and_newcomers_are_sent_on_while_an_edge_ends() {
    let (edge, _worker, address) = start(|config| {
        config.drain_server_reference = Some("b:1".to_owned());
        config.drain_per_s = Some(2);
    });
    let v5 = connected(address, &connect(5), CONNACK_5).await;
    // A Maximum Packet Size of 9: DISCONNECT with the reference has 10 bytes. v5 [MQTT-3.1.2-24]
    let narrow = connect_as(5, "narrow", 0x02, b"\x27\0\0\0\x09", "");
    let narrow_one = connected(address, &narrow, CONNACK_5).await;
    let v3 = connected(address, &connect_as(4, "three", 0x02, b"", ""), CONNACK_3).await;
    let shared = edge.shared.clone();
    let drained = tokio::spawn(edge.drain(Duration::from_secs(30)));
    eventually("it ends", || shared.phase() == Phase::Draining).await;
    for (packet, answer) in [
        (connect_as(5, "late", 0x02, b"", ""), TRY_B),
        (narrow, b"\x20\x03\0\x9C\0"),
        (connect_as(4, "late", 0x02, b"", ""), b"\x20\x02\0\x03"),
    ] {
        expect_end(connected(address, &packet, answer).await, b"").await;
    }
    expect_end(v5, GO_TO_B).await;
    expect_end(narrow_one, b"\xE0\x01\x8B").await;
    expect_end(v3, b"").await;
    assert_eq!(drained.await.expect("drained"), 0);
    let refused = TcpStream::connect(address).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn who_was_accepted_is_answered_before_the_edge_gives_way() {
    // Where devices go for good is no matter for those who come back at once.
    let (mut edge, worker, address) = start(|config| {
        config.drain_server_reference = Some("b:1".to_owned());
        config.drain_server_moved = true;
    });
    let served = connected(address, &connect(5), CONNACK_5).await;
    let late = connect_as(5, "late", 0x02, b"", "");
    let mut half = dial(address).await;
    half.write_all(&late[..5]).await.expect("written");
    eventually("both are accepted", || edge.connections() == 2).await;
    let mut inherited = Inherited::new(edge.take_sockets());
    let given_way = tokio::spawn(edge.give_way(Duration::from_secs(30), false));
    expect_end(served, b"\xE0\x01\x8B").await;
    // Nobody accepts it for now.
    let mut waiting = dial(address).await;
    waiting.write_all(&connect(4)).await.expect("written");
    half.write_all(&late[5..]).await.expect("written");
    expect(&mut half, CONNACK_5).await;
    expect_end(half, b"\xE0\x01\x8B").await;
    assert_eq!(given_way.await.expect("it has gone"), 0);
    assert_eq!(worker.sessions().len(), 2);
    let mut config = EdgeConfig { handshake_threads: 1, ..EdgeConfig::default() };
    config.listeners.insert("renamed".into(), ListenerConfig::new(address, ListenerKind::Mqtt));
    let next = Edge::start_with(
        &mut inherited,
        config,
        FakeWorker::default(),
        Arc::new(FakeAuthenticator),
        &mut Registry::default(),
    )
    .expect("started");
    assert_eq!((next.addresses()["renamed"], inherited.left().count()), (address, 0));
    expect(&mut waiting, CONNACK_3).await;
}

#[tokio::test]
async fn a_client_that_says_nothing_does_not_hold_up_who_gives_way() {
    let (edge, _worker, address) = start(|_| {});
    let silent = dial(address).await;
    eventually("it is accepted", || edge.connections() == 1).await;
    let since = Instant::now();
    assert_eq!(edge.give_way(Duration::from_millis(100), false).await, 1);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    expect_end(silent, b"").await;
}
