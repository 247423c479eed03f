//! A whole edge over real sockets, with a worker that only records.

mod descriptors;
mod incomplete;
mod openings;
mod succession;
mod transport;
mod turns;

use std::io;
use std::time::Duration;

use link::CloseCause;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::{ListenerKind, ProxyProtocol};
use crate::fake::{FakeAuthenticator, FakeWorker, PATIENCE, eventually};

const CONNACK_5: &[u8] = b"\x20\x03\0\0\0";
const CONNACK_3: &[u8] = b"\x20\x02\0\0";

/// CONNECT of client `a`, Keep Alive 60.
fn connect(level: u8) -> Vec<u8> {
    connect_as(level, "a", 0x02, b"", "")
}

/// CONNECT with flags, MQTT 5 properties and, if there is one, a User Name.
fn connect_as(level: u8, client_id: &str, flags: u8, properties: &[u8], user_name: &str) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat();
    let name = if level == 3 { "MQIsdp" } else { "MQTT" };
    let flags = flags | if user_name.is_empty() { 0 } else { 0x80 };
    let mut body = [&string(name)[..], &[level, flags, 0, 60]].concat();
    if level == 5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(string(client_id));
    if !user_name.is_empty() {
        body.extend(string(user_name));
    }
    let length = body.len();
    assert!(length < 1 << 14);
    let header = if length < 128 {
        vec![0x10, length as u8]
    } else {
        vec![0x10, (length % 128) as u8 | 0x80, (length / 128) as u8]
    };
    [header, body].concat()
}

fn start(change: impl FnOnce(&mut EdgeConfig)) -> (Edge, FakeWorker, SocketAddr) {
    let mut config = EdgeConfig { handshake_threads: 1, ..EdgeConfig::default() };
    let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
    config.listeners.insert("plain".into(), listener);
    change(&mut config);
    let worker = FakeWorker::default();
    let edge = Edge::start(config, worker.clone(), Arc::new(FakeAuthenticator), &mut Registry::default())
        .expect("started");
    let address = edge.addresses()["plain"];
    (edge, worker, address)
}

async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connected")
}

async fn expect(device: &mut TcpStream, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    timeout(PATIENCE, device.read_exact(&mut read)).await.expect("in time").expect("read");
    assert_eq!(read, bytes);
}

/// Reads what is left, and that the connection closes.
async fn expect_end(mut device: TcpStream, bytes: &[u8]) {
    let mut rest = Vec::new();
    timeout(PATIENCE, device.read_to_end(&mut rest)).await.expect("in time").expect("closed");
    assert_eq!(rest, bytes);
}

#[tokio::test]
async fn devices_of_all_versions_connect_and_are_relayed() {
    let (edge, worker, address) = start(|_| {});
    for (index, (level, connack)) in [(3, CONNACK_3), (4, CONNACK_3), (5, CONNACK_5)].into_iter().enumerate()
    {
        let mut device = dial(address).await;
        device.write_all(&connect(level)).await.expect("written");
        expect(&mut device, connack).await;
        device.write_all(b"\xC0\0\x32\x06\0\x01t\0\x01\0").await.expect("written");
        expect(&mut device, b"\xD0\0\x40\x02\0\x01").await;
        let session = worker.session(index).await;
        assert_eq!(session.open.connect, connect(level));
        assert_eq!(session.open.peer.address, device.local_addr().expect("address"));
        assert_eq!(&*session.open.peer.listener, "plain");
        session.push(&b"\x30\x05\0\x01t\0x"[..]);
        expect(&mut device, b"\x30\x05\0\x01t\0x").await;
        device.write_all(b"\xE0\0").await.expect("written");
        expect_end(device, b"").await;
        eventually("the close", || session.closed() == Some(CloseCause::Abnormal)).await;
    }
    eventually("nobody is left", || edge.connections() == 0).await;
}

#[tokio::test]
async fn connect_and_what_follows_may_be_cut_anywhere() {
    let (_edge, _worker, address) = start(|_| {});
    let stream = [connect(5), b"\xC0\0\x32\x06\0\x01t\0\x01\0".to_vec()].concat();
    let answer = [CONNACK_5, b"\xD0\0\x40\x02\0\x01"].concat();
    for cut in 0..stream.len() {
        let mut device = dial(address).await;
        device.set_nodelay(true).expect("set");
        device.write_all(&stream[..cut]).await.expect("written");
        tokio::task::yield_now().await;
        device.write_all(&stream[cut..]).await.expect("written");
        expect(&mut device, &answer).await;
    }
}

#[tokio::test]
async fn faulty_connects_are_refused_in_their_version() {
    let (_edge, worker, address) = start(|config| config.client_id_bytes_max = 23);
    let long = "x".repeat(24);
    let mut trailing_5 = connect(5);
    trailing_5[1] += 1;
    trailing_5.push(0);
    let mut trailing_4 = connect(4);
    trailing_4[1] += 1;
    trailing_4.push(0);
    let mut flags_5 = connect(5);
    flags_5[0] |= 1;
    let mut level_6 = connect(5);
    level_6[8] = 6;
    let mut level_2 = connect(4);
    level_2[8] = 2;
    for (packet, answer) in [
        (trailing_5, &b"\x20\x03\0\x81\0"[..]),
        (trailing_4, b""),
        (flags_5, b"\x20\x03\0\x81\0"),
        (level_6, b"\x20\x03\0\x84\0"),
        (level_2, b"\x20\x02\0\x01"),
        (connect_as(5, &long, 2, b"", ""), b"\x20\x03\0\x85\0"),
        (connect_as(4, &long, 2, b"", ""), b"\x20\x02\0\x02"),
        (connect_as(4, "", 0, b"", ""), b"\x20\x02\0\x02"),
        (connect_as(3, "", 2, b"", ""), b"\x20\x02\0\x02"),
        (connect_as(5, "a", 2, b"", "mallory"), b"\x20\x03\0\x86\0"),
        (connect_as(4, "a", 2, b"", "mallory"), b"\x20\x02\0\x04"),
        // Not CONNECT. v5 [MQTT-3.1.0-1]
        (b"\xC0\0".to_vec(), b""),
        (b"GET /mqtt HTTP/1.1\r\n".to_vec(), b""),
        // Longer than the bound: refused before it comes.
        (b"\x10\xFF\xFF\x7F\0\x04MQTT\x05".to_vec(), b"\x20\x03\0\x95\0"),
    ] {
        let mut device = dial(address).await;
        // What follows a refused CONNECT is not looked at. v5 [MQTT-3.1.4-6]
        device.write_all(&[&packet[..], b"\xC0\0"].concat()).await.expect("written");
        let mut rest = Vec::new();
        match timeout(PATIENCE, device.read_to_end(&mut rest)).await.expect("in time") {
            Ok(_) => {}
            // Closed at once with bytes unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && answer.is_empty() => {}
            Err(error) => panic!("{packet:x?} {error}"),
        }
        assert_eq!(rest, answer, "{packet:x?}");
    }
    assert!(worker.sessions().is_empty());
}

#[tokio::test]
async fn a_missing_client_identifier_is_assigned() {
    let (_edge, worker, address) = start(|_| {});
    for (index, packet) in [connect_as(5, "", 2, b"", ""), connect_as(4, "", 2, b"", "")].iter().enumerate() {
        let mut device = dial(address).await;
        device.write_all(packet).await.expect("written");
        let session = worker.session(index).await;
        let assigned = session.open.assigned_client_id.clone().expect("assigned");
        assert_eq!(session.open.passport.client_id, assigned);
    }
}

#[tokio::test]
async fn server_keep_alive_is_imposed_on_mqtt_5_only() {
    let (_edge, worker, address) = start(|config| config.keep_alive_max_s = 30);
    for (index, (level, imposed)) in [(5, Some(30)), (4, None)].into_iter().enumerate() {
        let mut device = dial(address).await;
        device.write_all(&connect(level)).await.expect("written");
        assert_eq!(worker.session(index).await.open.server_keep_alive_s, imposed);
    }
}

#[tokio::test]
async fn every_stage_before_connect_shares_one_deadline() {
    let (edge, _worker, address) = start(|config| {
        config.connect_timeout_ms = 200;
        let listener = config.listeners.get_mut("plain").expect("listener");
        listener.proxy_protocol = ProxyProtocol::V1v2;
        listener.trusted = vec!["127.0.0.0/8".parse().expect("prefix")];
    });
    let since = Instant::now();
    for start in [&b""[..], b"PROXY TCP4 ", b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN\r\n\x10\x0D\0"] {
        let mut device = dial(address).await;
        device.write_all(start).await.expect("written");
        expect_end(device, b"").await;
    }
    assert!(since.elapsed() >= Duration::from_millis(800));
    eventually("nobody is left", || edge.connections() == 0).await;
}

#[tokio::test]
async fn authentication_has_its_deadline() {
    let (_edge, _worker, address) = start(|config| config.authenticate_timeout_ms = 100);
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, "a", 2, b"", "stuck")).await.expect("written");
    expect_end(device, b"\x20\x03\0\x88\0").await;
}

#[tokio::test]
async fn the_proxied_address_is_the_peer() {
    let (_edge, worker, address) = start(|config| {
        let listener = config.listeners.get_mut("plain").expect("listener");
        listener.proxy_protocol = ProxyProtocol::V1v2;
        listener.trusted = vec!["127.0.0.1".parse().expect("prefix")];
    });
    let mut device = dial(address).await;
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 1883\r\n";
    device.write_all(&[&header[..], &connect(5)].concat()).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    assert_eq!(worker.session(0).await.open.peer.address, "192.0.2.7:4711".parse().expect("address"));
}

#[tokio::test]
async fn the_proxy_protocol_is_not_believed_from_strangers() {
    let (_edge, worker, address) = start(|config| {
        let listener = config.listeners.get_mut("plain").expect("listener");
        listener.proxy_protocol = ProxyProtocol::V1v2;
        listener.trusted = vec!["192.0.2.0/24".parse().expect("prefix")];
    });
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    assert_eq!(worker.session(0).await.open.peer.address, device.local_addr().expect("address"));
    let mut device = dial(address).await;
    device.write_all(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 1883\r\n").await.expect("written");
    let mut byte = [0];
    let read = timeout(PATIENCE, device.read(&mut byte)).await.expect("in time");
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

fn auth(reason: u8, data: &str) -> Vec<u8> {
    let properties = properties("TWO-STEP", data);
    [&[0xF0, 2 + properties.len() as u8, reason, properties.len() as u8], &properties[..]].concat()
}

fn properties(method: &str, data: &str) -> Vec<u8> {
    [&[0x15, 0, method.len() as u8], method.as_bytes(), &[0x16, 0, data.len() as u8], data.as_bytes()]
        .concat()
}

#[tokio::test]
async fn enhanced_authentication_comes_before_connack() {
    let (_edge, worker, address) = start(|_| {});
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, "a", 2, &properties("TWO-STEP", ""), "")).await.expect("written");
    expect(&mut device, &auth(0x18, "really?")).await;
    assert!(worker.sessions().is_empty());
    device.write_all(&auth(0x18, "yes")).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    let outcome = worker.session(0).await.open.authentication.clone().expect("an outcome");
    assert_eq!((&*outcome.method, outcome.data.as_deref()), ("TWO-STEP", Some(&b"well"[..])));
    device.write_all(&auth(0x19, "again")).await.expect("written");
    expect(&mut device, &auth(0x18, "really?")).await;
}

#[tokio::test]
async fn re_authentication_stays_with_the_user_who_connected() {
    let (_edge, worker, address) = start(|_| {});
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, "a", 2, &properties("TWO-STEP", ""), "")).await.expect("written");
    expect(&mut device, &auth(0x18, "really?")).await;
    device.write_all(&auth(0x18, "yes")).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    device.write_all(&auth(0x19, "again")).await.expect("written");
    expect(&mut device, &auth(0x18, "really?")).await;
    device.write_all(&auth(0x18, "as other")).await.expect("written");
    expect_end(device, b"\xE0\x01\x87").await;
    assert_eq!(worker.session(0).await.renewed(), 0);
}

#[tokio::test]
async fn failed_enhanced_authentication_is_refused_by_connack() {
    let (_edge, worker, address) = start(|_| {});
    let mut device = dial(address).await;
    device.write_all(&connect_as(5, "a", 2, &properties("OTHER", ""), "")).await.expect("written");
    expect_end(device, b"\x20\x03\0\x8C\0").await;

    let other_method = [&[0xF0, 13, 0x18, 11][..], &properties("OTHER", "")].concat();
    for (answer, expected) in [
        (auth(0x18, "no"), &b"\x20\x03\0\x87\0"[..]),
        // Re-authentication before CONNACK, another method, another packet. v5 [MQTT-4.12.0-5], v5 [MQTT-3.1.2-30]
        (auth(0x19, "yes"), b"\x20\x03\0\x82\0"),
        (other_method, b"\x20\x03\0\x82\0"),
        (b"\xC0\0".to_vec(), b"\x20\x03\0\x82\0"),
        (b"\xE0\0".to_vec(), b""),
        (b"\xF1\0".to_vec(), b"\x20\x03\0\x81\0"),
    ] {
        let mut device = dial(address).await;
        device.write_all(&connect_as(5, "a", 2, &properties("TWO-STEP", ""), "")).await.expect("written");
        expect(&mut device, &auth(0x18, "really?")).await;
        device.write_all(&answer).await.expect("written");
        expect_end(device, expected).await;
    }
    assert!(worker.sessions().is_empty());
}

#[tokio::test]
async fn connections_over_the_bound_are_closed_and_room_is_used_again() {
    let (edge, _worker, address) = start(|config| config.connections_max = 2);
    let mut first = dial(address).await;
    first.write_all(&connect(5)).await.expect("written");
    expect(&mut first, CONNACK_5).await;
    let idle = dial(address).await;
    eventually("both are counted", || edge.connections() == 2).await;
    expect_end(dial(address).await, b"").await;
    drop(idle);
    eventually("one has gone", || edge.connections() == 1).await;
    let mut second = dial(address).await;
    second.write_all(&connect(5)).await.expect("written");
    expect(&mut second, CONNACK_5).await;
}

#[tokio::test]
async fn silent_connections_up_to_the_bound_keep_nobody_out() {
    let (edge, _worker, address) = start(|config| config.connections_max = 32);
    let mut silent = Vec::new();
    for number in 0..40_usize {
        silent.push(dial(address).await);
        eventually("the silent one is counted", || edge.connections() >= number.min(29)).await;
    }
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    expect_end(silent.remove(0), b"").await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out_and_devices_do_not_count() {
    let (edge, _worker, address) = start(|config| config.handshakes_max = 1);
    let mut devices = Vec::new();
    for number in 0..3 {
        let silent = dial(address).await;
        eventually("the silent one is counted", || edge.connections() == devices.len() + 1).await;
        let mut device = dial(address).await;
        device.write_all(&connect_as(5, &number.to_string(), 0x02, b"", "")).await.expect("written");
        expect(&mut device, CONNACK_5).await;
        devices.push(device);
        expect_end(silent, b"").await;
    }
}

#[tokio::test]
async fn a_listener_has_a_rate_of_its_own() {
    let (_edge, _worker, address) = start(|config| {
        config.listeners.get_mut("plain").expect("listener").connections_per_s = 2;
    });
    let mut served = 0;
    for _ in 0..20 {
        let mut device = dial(address).await;
        // One that is closed at once may be reset.
        let _ = device.write_all(&connect(5)).await;
        let mut connack = [0; 5];
        let read = timeout(PATIENCE, device.read_exact(&mut connack)).await.expect("in time");
        served += usize::from(read.is_ok());
    }
    assert!((2..20).contains(&served), "{served}");
}

#[tokio::test]
async fn a_source_behind_a_load_balancer_has_so_many_connections() {
    let (_edge, _worker, address) = start(|config| {
        config.source_connections_max = 1;
        let listener = config.listeners.get_mut("plain").expect("listener");
        listener.proxy_protocol = ProxyProtocol::V1v2;
        listener.trusted = vec!["127.0.0.1".parse().expect("prefix")];
    });
    let mut devices = Vec::new();
    for (source, is_served) in [("192.0.2.7", true), ("192.0.2.7", false), ("192.0.2.8", true)] {
        let mut device = dial(address).await;
        let header = format!("PROXY TCP4 {source} 10.0.0.1 4711 1883\r\n");
        device.write_all(header.as_bytes()).await.expect("written");
        if is_served {
            device.write_all(&connect_as(5, source, 2, b"", "")).await.expect("written");
            expect(&mut device, CONNACK_5).await;
            devices.push(device);
        } else {
            expect_end(device, b"").await;
        }
    }
}

#[tokio::test]
async fn silence_has_a_deadline_of_its_own() {
    let (edge, _worker, address) = start(|config| config.first_byte_timeout_ms = 100);
    let silent = dial(address).await;
    let mut slow = dial(address).await;
    slow.write_all(b"\x10").await.expect("written");
    expect_end(silent, b"").await;
    slow.write_all(&connect(5)[1..]).await.expect("written");
    expect(&mut slow, CONNACK_5).await;
    assert_eq!(edge.connections(), 1);
}

#[tokio::test]
async fn who_has_gone_is_not_served_unless_it_left_a_word() {
    let (edge, worker, address) = start(|_| {});
    for (behind, is_served) in [(&b""[..], false), (b"\xE0\0", true)] {
        let before = worker.sessions().len();
        let mut device = dial(address).await;
        device.write_all(&[&connect(5)[..], behind].concat()[..10]).await.expect("written");
        device.write_all(&[&connect(5)[..], behind].concat()[10..]).await.expect("written");
        device.shutdown().await.expect("closed");
        expect_end(device, if is_served { CONNACK_5 } else { b"" }).await;
        eventually("nobody is left", || edge.connections() == 0).await;
        assert_eq!(worker.sessions().len() - before, usize::from(is_served));
    }
}

#[tokio::test]
async fn drain_tells_devices_and_refuses_new_ones() {
    let (edge, worker, address) = start(|_| {});
    let mut devices = Vec::new();
    for (level, connack) in [(5, CONNACK_5), (4, CONNACK_3)] {
        let mut device = dial(address).await;
        device.write_all(&connect(level)).await.expect("written");
        expect(&mut device, connack).await;
        devices.push(device);
    }
    let idle = dial(address).await;
    eventually("all are accepted", || edge.connections() == 3).await;
    let drained = tokio::spawn(edge.drain(Duration::from_secs(5)));
    expect_end(idle, b"").await;
    expect_end(devices.remove(0), b"\xE0\x01\x8B").await;
    expect_end(devices.remove(0), b"").await;
    assert_eq!(drained.await.expect("drained"), 0);
    for session in worker.sessions() {
        assert_eq!(session.closed(), Some(CloseCause::Shutdown));
    }
    let refused = TcpStream::connect(address).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn devices_are_told_to_go_at_a_pace_that_suffices() {
    for (drain_per_s, deadline_s, within_ms) in
        [(40, 60, 400..30_000), (0, 60, 0..10_000), (1, 12, 4_800..12_000)]
    {
        let (edge, worker, address) = start(|config| config.drain_per_s = Some(drain_per_s));
        let mut devices = Vec::new();
        for number in 0..24 {
            let mut device = dial(address).await;
            device.write_all(&connect_as(5, &number.to_string(), 0x02, b"", "")).await.expect("written");
            expect(&mut device, CONNACK_5).await;
            devices.push(tokio::spawn(async move {
                let mut rest = Vec::new();
                device.read_to_end(&mut rest).await.expect("closed");
                (rest, Instant::now())
            }));
        }
        let since = Instant::now();
        let drained = tokio::spawn(edge.drain(Duration::from_secs(deadline_s)));
        let mut last = since;
        for device in devices {
            let (rest, at) = device.await.expect("closed");
            assert_eq!(rest, b"\xE0\x01\x8B");
            last = last.max(at);
        }
        assert_eq!(drained.await.expect("drained"), 0);
        let took_ms = (last - since).as_millis();
        assert!(within_ms.contains(&took_ms), "{drain_per_s} a second: {took_ms} ms");
        assert!(worker.sessions().iter().all(|session| session.closed() == Some(CloseCause::Shutdown)));
    }
}

#[tokio::test]
async fn drain_waits_no_longer_than_its_deadline() {
    let (edge, _worker, address) = start(|config| config.linger_ms = 60_000);
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    // The device sees the farewell and does not close.
    let since = Instant::now();
    assert_eq!(edge.drain(Duration::from_millis(100)).await, 1);
    assert!(since.elapsed() < Duration::from_secs(30), "the device may linger for twice as long");
    expect_end(device, b"\xE0\x01\x8B").await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_names_the_listener() {
    let (_edge, _worker, address) = start(|_| {});
    let mut config = EdgeConfig::default();
    config.listeners.insert("second".into(), ListenerConfig::new(address, ListenerKind::Mqtt));
    let error =
        Edge::start(config, FakeWorker::default(), Arc::new(FakeAuthenticator), &mut Registry::default())
            .err()
            .expect("the port is taken");
    assert_eq!(error.to_string(), format!("edge.listeners.second.bind: cannot listen on {address}"));
}

#[tokio::test]
async fn a_device_that_reads_late_gets_everything() {
    let (_edge, worker, address) = start(|_| {});
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    let session = worker.session(0).await;
    for _ in 0..1_000 {
        session.push(vec![0x55; 20_000]);
    }
    // The socket buffers are full, the rest stays with the session.
    let mut last = usize::MAX;
    eventually("the edge stops taking", || {
        std::mem::replace(&mut last, session.queued()) == session.queued()
    })
    .await;
    assert!(session.queued() > 0);
    let mut all = vec![0; 20_000_000];
    timeout(PATIENCE, device.read_exact(&mut all)).await.expect("in time").expect("read");
    assert!(all.iter().all(|&byte| byte == 0x55));
}

#[tokio::test]
async fn metrics_tell_what_happened() {
    let mut registry = Registry::default();
    let mut config = EdgeConfig::default();
    let listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
    config.listeners.insert("plain".into(), listener);
    let edge = Edge::start(config, FakeWorker::default(), Arc::new(FakeAuthenticator), &mut registry)
        .expect("started");
    let address = edge.addresses()["plain"];
    let mut device = dial(address).await;
    device.write_all(&connect(5)).await.expect("written");
    expect(&mut device, CONNACK_5).await;
    device.write_all(b"\xC0\0").await.expect("written");
    expect(&mut device, b"\xD0\0").await;
    let mut refused = dial(address).await;
    refused.write_all(&connect_as(5, "a", 2, b"", "mallory")).await.expect("written");
    expect_end(refused, b"\x20\x03\0\x86\0").await;
    let text = || testkit::metrics::text(&registry);
    assert!(text().contains("edge_connections{listener=\"plain\"} 1"));
    device.write_all(b"\xE0\0").await.expect("written");
    expect_end(device, b"").await;
    eventually("nobody is left", || edge.connections() == 0).await;
    let text = text();
    for line in [
        "edge_connections{listener=\"plain\"} 0",
        "edge_accepted_total{listener=\"plain\"} 2",
        "edge_refused_total{reason=\"bad_user_name_or_password\"} 1",
        "edge_handshake_failures_total{stage=\"authentication\",reason=\"refused\"} 1",
        "edge_closes_total{reason=\"client_disconnect\"} 1",
        "edge_handshake_seconds_count 1",
        "edge_handshakes 0",
        "edge_received_bytes_total 4",
        "edge_received_packets_total 2",
        "edge_sent_bytes_total 7",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}
