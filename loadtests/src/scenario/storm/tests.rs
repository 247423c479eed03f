//! The scenario against a small broker of its own that does to each device what the test says.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use clap::Parser;
use mqtt::{AckKind, ConnAck, ProtocolVersion, ReasonCode, Receiver, frame};
use serde_json::Value;

use super::*;
use crate::options::{Cli, Command};

/// What the broker does with the first attempt of a device. Later ones are let in.
#[derive(Clone, Copy)]
enum First {
    LetIn,
    Silence,
    Refuse,
    Close,
    ThrowOut,
}

fn first(client_id: &str) -> First {
    match client_id.rsplit('-').next() {
        _ if client_id.contains("-pair-") => First::LetIn,
        Some("0") => First::Silence,
        Some("1") => First::Refuse,
        Some("2") => First::Close,
        Some("3") => First::ThrowOut,
        _ => First::LetIn,
    }
}

type Attempts = Arc<Mutex<HashMap<String, u32>>>;
/// Sockets by Topic Filter.
type Subscribers = Arc<Mutex<HashMap<String, TcpStream>>>;

fn serve(mut socket: TcpStream, attempts: &Attempts, subscribers: &Subscribers) {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        while let Some(frame) = frame::split(&bytes, frame::PACKET_SIZE_MAX).unwrap() {
            let (raw, length) = (frame.raw.to_vec(), frame.raw.len());
            let mut out = Vec::new();
            match mqtt::Packet::decode(ProtocolVersion::V311, Receiver::Server, frame).unwrap() {
                mqtt::Packet::Connect(connect) => {
                    let mut attempts = attempts.lock().unwrap();
                    let attempt = attempts.entry(connect.client_id.to_owned()).or_default();
                    *attempt += 1;
                    let first = if *attempt == 1 { first(connect.client_id) } else { First::LetIn };
                    let reason = match first {
                        First::Silence => ReasonCode::Success,
                        First::Refuse => ReasonCode::NotAuthorized,
                        First::Close => return,
                        First::LetIn | First::ThrowOut => ReasonCode::Success,
                    };
                    if !matches!(first, First::Silence) {
                        ConnAck::new(false, reason).encode(ProtocolVersion::V311, &mut out);
                    }
                    socket.write_all(&out).unwrap();
                    if matches!(first, First::ThrowOut) {
                        return;
                    }
                }
                mqtt::Packet::Subscribe(subscribe) => {
                    let (filter, _) = subscribe.iter().next().unwrap();
                    let copy = socket.try_clone().unwrap();
                    subscribers.lock().unwrap().insert(filter.to_owned(), copy);
                    out.extend([0x90, 3, 0, 1, 1]);
                    socket.write_all(&out).unwrap();
                }
                mqtt::Packet::Publish(publish) => {
                    let subscriber = &subscribers.lock().unwrap()[publish.topic];
                    let mut subscriber = subscriber;
                    subscriber.write_all(&raw).unwrap();
                    crate::net::packet::acknowledge(AckKind::PubAck, publish.packet_id.unwrap(), &mut out);
                    socket.write_all(&out).unwrap();
                }
                _ => {}
            }
            bytes.drain(..length);
        }
        match socket.read(&mut buffer) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

/// The port of a broker that lives as long as the test.
fn broker() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (attempts, subscribers) = (Attempts::default(), Subscribers::default());
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let (attempts, subscribers) = (attempts.clone(), subscribers.clone());
            std::thread::spawn(move || serve(socket, &attempts, &subscribers));
        }
    });
    port
}

fn figures(line: &str) -> Value {
    let Command::Storm(args) = Cli::parse_from(line.split_ascii_whitespace()).command else {
        panic!("not storm");
    };
    let report = run(&args).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    report.write_json(file.path()).unwrap();
    serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap()
}

#[test]
fn every_device_comes_back_and_each_failure_is_counted_once() {
    let port = broker();
    let read = figures(&format!(
        "tidegate-load storm --port {port} --devices 20 --threads 2 --timeout 0.5 --retry 0.2 --jitter 0.1 --hold 1 --seconds 20 \
         --pairs 2 --pair-rate 50 --calm 0.5"
    ));
    let expected = [
        ("back", 20),
        ("attempts", 24),
        ("admitted", 21),
        ("timed_out", 1),
        ("broken", 1),
        ("refused", 1),
        ("refused_0x87", 1),
        ("thrown_out", 1),
        ("pairs_lost", 0),
        ("pairs_closed", 0),
    ];
    for (name, value) in expected {
        assert_eq!(read[name], value, "{name}: {read:#}");
    }
    // The one that met silence tries again 0.2 to 0.3 s after 0.5 s.
    let all_s = read["back_all_s"].as_f64().unwrap();
    assert!((0.7..10.0).contains(&all_s), "{read:#}");
    assert!(read["pairs_calm_p50_us"].is_u64() && read["pairs_storm_p50_us"].is_u64(), "{read:#}");
}

#[test]
fn a_storm_that_does_not_end_is_ended() {
    // Nobody accepts: the kernel completes the TCP handshakes, and no CONNACK comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let read = figures(&format!(
        "tidegate-load storm --port {port} --devices 3 --timeout 0.2 --retry 0.1 --hold 0 --seconds 1"
    ));
    assert_eq!(read["back"], 0);
    assert_eq!(read["back_all_s"], Value::Null);
    assert!(read["timed_out"].as_u64().unwrap() >= 3, "{read:#}");
}
