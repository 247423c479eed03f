//! Bad input: whatever arrives, the server lives, its memory stays bounded and others are served.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::bytes::{self, Connect, Publish, Will, field, packet, varint};
use crate::harness::property as p;
use crate::harness::transport::{Wire, tcp};
use crate::harness::websocket::WebSocket;
use crate::harness::{Client, Server, Target, Transport, unique};

fn at(server: &Server, transport: Transport) -> Target<'_> {
    Target { server, transport }
}

/// Bytes from a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// A pair of honest clients whose round trips are timed while something else goes on.
struct Pair {
    publisher: Client,
    subscriber: Client,
    topic: String,
    times: Vec<Duration>,
}

impl Pair {
    fn new(server: &Server) -> Pair {
        let topic = unique("pair");
        let (publisher, mut subscriber) = (at(server, Transport::Tcp).v5(), at(server, Transport::Tls).v5());
        subscriber.subscribe(&topic, 1);
        Pair { publisher, subscriber, topic, times: Vec::new() }
    }

    fn round_trip(&mut self) {
        let start = Instant::now();
        self.publisher.publish(&self.topic, "x", 1);
        self.subscriber.take();
        self.times.push(start.elapsed());
    }

    /// Nine of ten round trips took less than this; a machine that stands still for a moment makes few of them slow.
    fn expect_nine_of_ten_within(&mut self, limit: Duration) {
        self.times.sort_unstable();
        let nine_of_ten = self.times[self.times.len() * 9 / 10];
        assert!(nine_of_ten < limit, "a tenth of the round trips took {nine_of_ten:?} and more");
    }
}

fn growth_kib(server: &Server, before: u64) -> u64 {
    server.resident_kib().saturating_sub(before)
}

/// Typical packets of one conversation.
fn conversation() -> Vec<Vec<u8>> {
    vec![
        Connect::v5(&unique("c")).will(Will::new("w", "x").qos(1)).with(p::pair("k", "v")).bytes(),
        bytes::subscribe(1, &p::variable(p::SUBSCRIPTION_ID, 5), &[("a/+", 2), ("$share/g/b", 1)]),
        Publish::new("a/b", "hello").qos2(7).with(p::two(p::TOPIC_ALIAS, 1)).bytes(),
        bytes::ack(bytes::PUBREL, 7),
        Publish::new("", "hello").qos1(8).with(p::two(p::TOPIC_ALIAS, 1)).bytes(),
        bytes::unsubscribe(2, &["a/+"]),
        bytes::PINGREQ.to_vec(),
        bytes::disconnect(4, &p::text(p::REASON_STRING, "bye")),
    ]
}

#[test]
fn random_bytes_do_no_harm() {
    let server = Server::start("[edge]\nconnect_timeout_ms = 5000\n");
    let mut pair = Pair::new(&server);
    pair.round_trip();
    let before = server.resident_kib();
    let mut noise = Noise(0x5EED);
    for round in 0..1_500 {
        let transport = if round % 10 == 0 { Transport::ALL[round / 10 % 4] } else { Transport::Tcp };
        let mut client = at(&server, transport).open();
        if round % 2 == 0 {
            client.send(&Connect::v5(&unique("c")).bytes());
        }
        let length = 1 + noise.below(400);
        let mut junk = noise.bytes(length);
        if round % 3 == 0 {
            // A right first byte and length lead deeper.
            junk = packet(noise.bytes(1)[0], &[&junk]);
        }
        client.send(&junk);
        if round % 50 == 0 {
            pair.round_trip();
        }
        client.vanish();
    }
    pair.round_trip();
    assert!(server.is_alive(), "{}", server.log());
    let growth = growth_kib(&server, before);
    assert!(growth < 48 * 1024, "resident memory grew by {growth} KiB");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn mutated_conversations_do_no_harm() {
    let server = Server::start("");
    let mut noise = Noise(0xC0FFEE);
    for _ in 0..1_500 {
        let mut all = conversation().concat();
        for _ in 0..=noise.below(4) {
            let place = noise.below(all.len());
            match noise.below(3) {
                0 => all[place] = noise.bytes(1)[0],
                1 => drop(all.remove(place)),
                _ => all.insert(place, noise.bytes(1)[0]),
            }
        }
        let mut client = at(&server, Transport::Tcp).open();
        client.send(&all);
        let _ = client.poll(Duration::from_millis(2));
        client.vanish();
    }
    Pair::new(&server).round_trip();
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn connections_that_break_off_anywhere_leave_nothing() {
    let server = Server::start("");
    let all = conversation().concat();
    for length in 0..all.len() {
        let mut client = at(&server, Transport::Tcp).open();
        client.send(&all[..length]);
        client.vanish();
    }
    Pair::new(&server).round_trip();
    // Every session of those connections ends with them.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = scrape(&server);
        let connected: f64 = value(&metrics, "connections_open").unwrap_or(0.0);
        if connected <= 2.0 {
            return;
        }
        assert!(Instant::now() < deadline, "{connected} connections are still counted");
        std::thread::yield_now();
    }
}

fn scrape(server: &Server) -> String {
    let mut socket = tcp(server.address_of("admin"));
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// The sum of the samples of the metric whose name contains this.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let samples: Vec<f64> = metrics
        .lines()
        .filter(|line| {
            !line.starts_with('#') && line.split(['{', ' ']).next().is_some_and(|n| n.contains(name))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    (!samples.is_empty()).then(|| samples.iter().sum())
}

#[test]
fn lengths_that_are_only_claimed_cost_nothing() {
    let server = Server::start("");
    let before = server.resident_kib();
    let mut held = Vec::new();
    for _ in 0..300 {
        // Just under the largest packet: announced, and then nothing comes.
        let mut client = at(&server, Transport::Tcp).v5();
        client.send(&[&[0x30][..], &varint(1_000_000), &field("topic"), b"\0abc"].concat());
        held.push(client);
    }
    let mut pair = Pair::new(&server);
    pair.round_trip();
    let growth = growth_kib(&server, before);
    assert!(growth < 300 * 64, "300 claims of 1 MB made memory grow by {growth} KiB");
    // Over the bound it is refused at once.
    let mut client = at(&server, Transport::Tcp).v5();
    client.send(&[&[0x30][..], &varint(268_435_455)].concat());
    client.expect_disconnect(0x95);
    let mut client = at(&server, Transport::Tcp).open();
    client.send(&[&[0x10][..], &varint(268_435_455), &field("MQTT"), &[5, 2]].concat());
    assert_eq!(client.expect_connack().code, 0x95);
    client.expect_close();
}

#[test]
fn topics_of_very_many_levels_are_refused_and_cost_nothing() {
    let server = Server::start("");
    let mut pair = Pair::new(&server);
    pair.round_trip();
    let before = server.resident_kib();
    let deep = "/".repeat(65_535);
    for _ in 0..20 {
        // Twenty times 65,536 levels: over a million.
        let mut client = at(&server, Transport::Tcp).v5();
        assert_eq!(client.subscribe(&deep, 0), 0x8F);
        assert_eq!(client.subscribe(&format!("{}#", "+/".repeat(32_767)), 0), 0x8F);
        client.send(&Publish::new(&deep, "x").qos1(1).bytes());
        assert_eq!(client.expect_reply(bytes::PUBACK, 1).reason, 0x90);
        client.send(&Publish::new(&deep, "x").bytes());
        client.expect_disconnect(0x90);
        pair.round_trip();
    }
    let growth = growth_kib(&server, before);
    assert!(growth < 16 * 1024, "resident memory grew by {growth} KiB");
}

#[test]
fn wildcards_in_every_level_do_not_multiply() {
    let server = Server::start("");
    let mut client = at(&server, Transport::Tcp).v5();
    // All the ways to write twelve levels with and without a wildcard: 4,096 filters match the one topic.
    let filters: Vec<String> = (0..4_096u32)
        .map(|bits| {
            (0..12).map(|level| if bits >> level & 1 == 1 { "+" } else { "a" }).collect::<Vec<_>>().join("/")
        })
        .collect();
    for chunk in filters.chunks(512) {
        let pairs: Vec<(&str, u8)> = chunk.iter().map(|filter| (filter.as_str(), 0)).collect();
        client.subscribe_all(&pairs, &[]);
    }
    let start = Instant::now();
    for _ in 0..20 {
        client.send(&Publish::new(["a"; 12].join("/"), "x").bytes());
        client.expect_message("x");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "20 messages took {:?}", start.elapsed());
}

/// A ClientHello that stops in the middle.
fn half_client_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    hello.extend([7; 60]);
    hello
}

#[test]
fn slow_handshakes_are_ended_and_slow_nobody() {
    let server = Server::start("[edge]\nconnect_timeout_ms = 3000\n");
    let mut pair = Pair::new(&server);
    pair.round_trip();
    let before = server.resident_kib();
    let half_upgrade = WebSocket::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n");
    let half_upgrade = half_upgrade.as_bytes()[..100].to_vec();
    let half_connect = Connect::v5("c").bytes()[..9].to_vec();
    let stages: [(Transport, Vec<u8>); 7] = [
        (Transport::Tcp, Vec::new()),
        (Transport::Tcp, half_connect),
        (Transport::Tls, Vec::new()),
        (Transport::Tls, half_client_hello()),
        (Transport::Ws, Vec::new()),
        (Transport::Ws, half_upgrade),
        (Transport::Wss, half_client_hello()),
    ];
    let start = Instant::now();
    let mut sockets: Vec<(TcpStream, usize)> = Vec::new();
    for _ in 0..60 {
        for (stage, (transport, bytes)) in stages.iter().enumerate() {
            let mut socket = tcp(server.address(*transport));
            socket.write_all(bytes).unwrap();
            sockets.push((socket, stage));
        }
        pair.round_trip();
    }
    // One byte at a time does not buy more time.
    let mut trickle = tcp(server.address(Transport::Tcp));
    let connect = Connect::v5("trickle").will(Will::new("t", &"x".repeat(60_000))).bytes();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(4) {
        let _ = trickle.write(&connect[sent..=sent]);
        sent += 1;
        pair.round_trip();
        pair.round_trip();
    }
    for (socket, stage) in &mut sockets {
        socket.set_read_timeout(Some(Duration::from_secs(9))).unwrap();
        let closed = drained(socket);
        assert!(closed, "stage {stage} is still open after {:?}", start.elapsed());
    }
    assert!(drained(&mut trickle), "a CONNECT byte by byte is still open");
    // And over TLS, with the upgrade or the CONNECT cut short.
    for (transport, bytes) in [(Transport::Tls, &connect[..9]), (Transport::Wss, b"GET /mqtt HT")] {
        let mut wire = Wire::open(&server, transport);
        wire.write_all(bytes).unwrap();
        wire.flush().unwrap();
        let start = Instant::now();
        let mut rest = Vec::new();
        let _ = wire.read_to_end(&mut rest);
        assert!(start.elapsed() < Duration::from_secs(9), "{transport:?}: {:?}", start.elapsed());
    }
    let growth = growth_kib(&server, before);
    assert!(growth < 32 * 1024, "resident memory grew by {growth} KiB");
    pair.expect_nine_of_ten_within(Duration::from_secs(1));
}

/// Reads to the end; `false` if the peer keeps the connection open.
fn drained(socket: &mut TcpStream) -> bool {
    let mut buffer = [0; 512];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                );
            }
        }
    }
}

#[test]
fn half_closed_connections_are_ended() {
    // The peer will send nothing more, which ends an MQTT connection as a network failure does.
    let server = Server::start("");
    let mut witness = at(&server, Transport::Tcp).v5();
    witness.subscribe("gone/+", 0);
    for transport in Transport::ALL {
        let will = Will::new(&format!("gone/{transport:?}"), "half");
        let mut client = at(&server, transport).connect(&Connect::v5(&unique("c")).will(will));
        client.stream.wire.socket().shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(witness.expect_message("half").topic, format!("gone/{transport:?}"));
        client.expect_close();
    }
}
