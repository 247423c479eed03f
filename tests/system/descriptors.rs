//! As many clients as there can be open files: the store has its own, those who are connected go on, and the process is ready.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::harness::bytes::Connect;
use crate::harness::{Client, Server, Target, Transport};
use crate::tiers::{ask, within};

const FILES: u32 = 300;
/// Tables are written, compacted and removed several times.
const MESSAGES: usize = 400;
const MESSAGE_BYTES: usize = 40_000;
const CONFIG: &str = "[state]\nwrite_buffer_bytes = 1048576\n[broker]\nqueue_bytes_max = 1000000000\n";

// HAZARDS 6.
#[test]
fn the_store_goes_on_while_clients_take_all_open_files() {
    let server = Server::start_with_files(FILES, CONFIG);
    let target = Target { server: &server, transport: Transport::Tcp };
    let mut subscriber = target.connect(&Connect::stored("s"));
    subscriber.subscribe("t", 1);
    drop(subscriber);
    let mut publisher = target.v5();
    let mut clients = Vec::new();
    let mut crowd = Vec::new();
    let address = server.address_of("mqtt");
    for number in 0..FILES + 50 {
        // Some are clients, some only connect; who is turned away is closed.
        if number % 2 == 0 {
            if let Some(mut client) = Client::try_open(address) {
                client.send(&Connect::v5(&format!("c{number}")).bytes());
                clients.push(client);
            }
        } else {
            crowd.extend(TcpStream::connect(address));
        }
    }
    let mut connected: Vec<Client> = clients
        .into_iter()
        .filter_map(|mut client| {
            let is_taken =
                client.poll(Duration::from_secs(5)).is_ok_and(|packet| packet.connack(5).code == 0);
            is_taken.then_some(client)
        })
        .collect();
    assert!(connected.len() > 50, "{} are connected", connected.len());
    let payload = "x".repeat(MESSAGE_BYTES);
    let begin = Instant::now();
    for number in 0..MESSAGES {
        publisher.publish("t", &format!("{number} {payload}"), 1);
    }
    for client in &mut connected {
        client.publish("other", "x", 1);
    }
    println!(
        "{MESSAGES} messages acknowledged in {:.1?}, beside {} clients and {} connections",
        begin.elapsed(),
        connected.len(),
        crowd.len()
    );
    assert!(!server.log().contains("cannot write to the store"), "{}", server.log());
    // The admin endpoint has its own, too.
    within("the process is ready", Duration::from_secs(10), || {
        (ask(&server, "/readyz").0 == 200).then_some(())
    });
    assert!(server.log().contains("connections of devices are bounded"), "{}", server.log());
    drop((crowd, connected));
    let mut subscriber = target.connect(&Connect::stored("s"));
    for number in 0..MESSAGES {
        let publish = subscriber.expect_publish();
        assert!(publish.text().starts_with(&format!("{number} ")), "in order");
        subscriber.send(&crate::harness::bytes::ack(crate::harness::bytes::PUBACK, publish.id));
    }
}
