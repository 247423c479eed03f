//! Nanoseconds per message through the worker alone: a publisher's frames in, a subscriber's frames out, in turns of 32
//! messages of 256 bytes, without sockets. `cargo run --release -p tidegate-broker --example routing`

use std::hint::black_box;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use broker::{Broker, BrokerConfig, WorkerStream};
use bytes::{Bytes, BytesMut};
use link::{Outgoing, Stream, Upstream};
use mqtt::frame;
use mqtt::{ProtocolVersion, QoS};
use prometheus_client::registry::Registry;
use testkit::connection::{self, bytes_of};

const TURNS: u32 = 20_000;
const WINDOW: u16 = 32;
const PAYLOAD: [u8; 256] = [7; 256];

fn connect(broker: &Broker, id: u128) -> (WorkerStream, Outgoing) {
    let client_id = format!("client-{id}");
    let packet = bytes_of(&connection::connect(ProtocolVersion::V311, &client_id));
    let mut stream = broker.open(connection::open(id, &client_id, packet));
    let mut out = Outgoing::new();
    recv(&mut stream, &mut out);
    out.advance(out.len());
    (stream, out)
}

fn recv(stream: &mut WorkerStream, out: &mut Outgoing) {
    let mut cx = Context::from_waker(Waker::noop());
    stream.begin_turn();
    while let Poll::Ready(event) = stream.poll_recv(&mut cx, out, 1 << 20) {
        assert_eq!(event, link::Event::Wrote);
        if out.len() >= 1 << 20 {
            break;
        }
    }
}

fn send_all(stream: &mut WorkerStream, mut bytes: &[u8], out: &mut Outgoing) {
    while let Some(packet) = frame::split(bytes, u32::MAX).expect("valid frames") {
        bytes = &bytes[packet.raw.len()..];
        stream.send(packet, out).expect("accepted");
    }
}

/// Acknowledges everything that is in `out`, as a client would, and empties it.
fn answer(out: &mut Outgoing) -> Bytes {
    let mut replies = BytesMut::new();
    let mut bytes = out.chunk();
    while let Some(packet) = frame::split(bytes, u32::MAX).expect("valid frames") {
        bytes = &bytes[packet.raw.len()..];
        let head = packet.raw[0];
        let id = match head >> 4 {
            3 if head & 6 != 0 => {
                let body = packet.body();
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                [body[at], body[at + 1]]
            }
            5 | 6 => [packet.body()[0], packet.body()[1]],
            _ => continue,
        };
        let reply = match head >> 4 {
            3 if head & 6 == 2 => 0x40,
            3 => 0x50,
            5 => 0x62,
            _ => 0x70,
        };
        replies.extend_from_slice(&[reply, 2, id[0], id[1]]);
    }
    out.advance(out.len());
    replies.freeze()
}

fn run(broker: &Broker, qos: QoS) {
    let base = 10 * u128::from(qos as u8);
    let (mut subscriber, mut to_subscriber) = connect(broker, base + 1);
    let (mut publisher, mut to_publisher) = connect(broker, base + 2);
    let topic = format!("bench/{}", qos as u8);
    let filter =
        [&[0, 1, 0, u8::try_from(topic.len()).expect("short")], topic.as_bytes(), &[qos as u8]].concat();
    let subscribe = [&[0x82, u8::try_from(filter.len()).expect("short")], &*filter].concat();
    send_all(&mut subscriber, &subscribe, &mut to_subscriber);
    recv(&mut subscriber, &mut to_subscriber);
    to_subscriber.advance(to_subscriber.len());
    let mut batch = BytesMut::new();
    for id in 1..=WINDOW {
        connection::publish(&topic, &PAYLOAD, qos, id).encode(ProtocolVersion::V311, &mut batch);
    }
    let started = Instant::now();
    for _ in 0..TURNS {
        send_all(&mut publisher, &batch, &mut to_publisher);
        loop {
            recv(&mut subscriber, &mut to_subscriber);
            let replies = answer(&mut to_subscriber);
            send_all(&mut subscriber, &replies, &mut to_subscriber);
            let replies = answer(&mut to_publisher);
            send_all(&mut publisher, &replies, &mut to_publisher);
            if black_box(&to_subscriber).is_empty() && to_publisher.is_empty() {
                break;
            }
        }
    }
    let messages = TURNS * u32::from(WINDOW);
    println!("{qos:?}: {} ns per message", started.elapsed().as_nanos() / u128::from(messages));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker = runtime
        .block_on(Broker::start(
            BrokerConfig::default(),
            Arc::new(state::MemoryStore::new()),
            &mut Registry::default(),
        ))
        .expect("a worker");
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        run(&broker, qos);
    }
}
