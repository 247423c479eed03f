//! What a power loss and a bad disk leave behind, as the next start of the process finds it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::{Server, Target, Transport};

const MESSAGES: usize = 20;

fn at(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// The journal of a store that held messages for one session when its process was killed, without the zeros behind it.
fn journal_after_kill(dir: &Path) -> Vec<u8> {
    let server = Server::start_in(dir, "");
    let mut subscriber = at(&server).connect(&Connect::stored("s"));
    subscriber.subscribe("t", 1);
    drop(subscriber);
    let mut publisher = at(&server).v5();
    for number in 0..MESSAGES {
        publisher.publish("t", &format!("message {number}"), 1);
    }
    drop(server);
    let mut bytes = fs::read(dir.join("data/state/db/0.jnl")).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes.truncate(last + 1);
    bytes
}

fn write_journal(dir: &Path, bytes: &[u8]) {
    fs::write(dir.join("data/state/db/0.jnl"), bytes).unwrap();
}

/// How many of the messages the session still gets.
fn delivered(server: &Server) -> usize {
    let mut subscriber = at(server).connect(&Connect::stored("s"));
    let mut count = 0;
    while let Ok(packet) =
        subscriber.poll(Duration::from_millis(if count < MESSAGES - 1 { 5_000 } else { 200 }))
    {
        let publish = packet.publish(5);
        subscriber.send(&crate::harness::bytes::ack(crate::harness::bytes::PUBACK, publish.id));
        count += 1;
    }
    count
}

// HAZARDS 36.
#[test]
fn a_write_that_was_cut_short_is_left_out_and_told() {
    let dir = TempDir::new().unwrap();
    let mut bytes = journal_after_kill(dir.path());
    bytes.truncate(bytes.len() - 30);
    write_journal(dir.path(), &bytes);
    let server = Server::start_in(dir.path(), "");
    assert_eq!(delivered(&server), MESSAGES - 1);
    let log = server.log();
    let told = |level: &str, text: &str| log.lines().any(|line| line.contains(level) && line.contains(text));
    assert!(told("WARN", "is cut off"), "{log}");
    assert!(told("ERROR", "acknowledged are gone"), "the disk had confirmed it: {log}");
}

#[test]
fn damage_with_messages_behind_it_is_refused_until_it_is_set_aside() {
    let dir = TempDir::new().unwrap();
    let mut bytes = journal_after_kill(dir.path());
    let middle = bytes.len() / 2;
    bytes[middle..middle + 16].fill(0);
    write_journal(dir.path(), &bytes);
    let mut server = Server::begin_in(dir.path(), "");
    assert_eq!(server.wait_for_end(Duration::from_secs(60)), 74);
    let log = server.log();
    let last = log.lines().last().unwrap();
    for part in ["is damaged", "0.jnl cannot be read for", "whole batches", "state.on_damage = \"set_aside\""]
    {
        assert!(last.contains(part), "{part}: {last}");
    }
    assert_eq!(fs::read(dir.path().join("data/state/db/0.jnl")).unwrap(), bytes, "left as it is");
    server.kill();
    let server = Server::start_in(dir.path(), "[state]\non_damage = \"set_aside\"\n");
    let count = delivered(&server);
    assert!((MESSAGES - 2..MESSAGES).contains(&count), "{count}");
    assert!(server.log().contains("goes on with the rest"), "{}", server.log());
    assert_eq!(fs::read(dir.path().join("data/state/damaged/1/0.jnl")).unwrap(), bytes, "kept as it was");
}
