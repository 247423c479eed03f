//! SUBSCRIBE and PUBLISH in one write, UNSUBSCRIBE and PUBLISH in one write, while workers are killed, hang and leave: a client
//! gets what it published behind its SUBSCRIBE, and nothing of what it published behind its UNSUBSCRIBE (ARCHITECTURE, rule 31).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::bytes::{self, Connect, PUBCOMP, PUBREL, V5, ack};
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Transport, let_pass};
use crate::tiers::{Shape, Tiers};

const CLIENTS: usize = 24;
/// How long an answer or a delivery may take, whatever happens meanwhile.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two faults.
const CALM: Duration = Duration::from_secs(2);
/// Longer than a route lease and than a link is given until it is dead.
const PAST_THE_LEASE: Duration = Duration::from_secs(4);

#[derive(Default)]
struct Counts {
    rounds: AtomicUsize,
    lost: AtomicUsize,
    delivered_after_unsuback: AtomicUsize,
    overtaken: AtomicUsize,
    closed: AtomicUsize,
    stop: AtomicBool,
}

/// What one write is to bring.
struct Wanted {
    /// The first byte of SUBACK or UNSUBACK.
    answer: u8,
    is_answered: bool,
    is_acknowledged: bool,
    /// The payload of its own message, if that is to come.
    own: Option<String>,
}

struct Client {
    talker: Talker,
    counts: Arc<Counts>,
}

impl Client {
    /// Both requests of one round, each with a message behind it.
    async fn round(&mut self, topic: &str, qos: u8) -> io::Result<()> {
        let is_v5 = self.talker.version == V5;
        let pair = [(topic, qos)];
        let subscribe = if is_v5 { bytes::subscribe(1, &[], &pair) } else { bytes::subscribe_v3(1, &pair) };
        let own = self.talker.publication(2, topic, &format!("own {topic}"), qos);
        self.talker.send(&[subscribe, own].concat()).await?;
        self.take(0x90, Some(format!("own {topic}")), qos).await?;
        let unsubscribe =
            if is_v5 { bytes::unsubscribe(3, &[topic]) } else { bytes::unsubscribe_v3(3, &[topic]) };
        let not = self.talker.publication(4, topic, "not", qos);
        self.talker.send(&[unsubscribe, not].concat()).await?;
        self.take(0xB0, None, qos).await
    }

    /// Takes what comes until everything has.
    async fn take(&mut self, answer: u8, own: Option<String>, qos: u8) -> io::Result<()> {
        let mut wanted = Wanted { answer, is_answered: false, is_acknowledged: qos == 0, own };
        let until = Instant::now() + PATIENCE;
        // With QoS 0 a message may be lost with its worker.
        while !(wanted.is_answered && wanted.is_acknowledged && (wanted.own.is_none() || qos == 0)) {
            let left = until.saturating_duration_since(Instant::now());
            let Some(packet) = self.talker.next_within(left).await? else {
                println!("{} {} {:?}", wanted.is_answered, wanted.is_acknowledged, wanted.own);
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            };
            match packet.first & 0xF0 {
                kind @ (0x90 | 0xB0) => wanted.is_answered |= kind == wanted.answer,
                0x40 | 0x70 => wanted.is_acknowledged = true,
                0x50 => {
                    let id = u16::from_be_bytes([packet.bytes()[2], packet.bytes()[3]]);
                    self.talker.send(&ack(PUBREL, id)).await?;
                }
                0x60 => {
                    let id = u16::from_be_bytes([packet.bytes()[2], packet.bytes()[3]]);
                    self.talker.send(&ack(PUBCOMP, id)).await?;
                }
                _ => self.deliver(&packet, &mut wanted).await?,
            }
            let is_early = !wanted.is_answered && wanted.is_acknowledged && qos > 0;
            self.counts.overtaken.fetch_add(usize::from(is_early), Ordering::Relaxed);
        }
        Ok(())
    }

    async fn deliver(
        &mut self,
        packet: &crate::harness::packet::Packet,
        wanted: &mut Wanted,
    ) -> io::Result<()> {
        let publish = packet.publish(self.talker.version);
        match publish.qos {
            0 => {}
            1 => self.talker.send(&ack(bytes::PUBACK, publish.id)).await?,
            _ => self.talker.send(&ack(bytes::PUBREC, publish.id)).await?,
        }
        if publish.text() == "not" {
            println!("{} came after its UNSUBSCRIBE", publish.topic);
            self.counts.delivered_after_unsuback.fetch_add(1, Ordering::Relaxed);
        }
        wanted.own.take_if(|own| *own == publish.text());
        Ok(())
    }
}

/// Subscribes and publishes until it is told to stop.
async fn talk(mut client: Client, number: usize) {
    for time in 0.. {
        if client.counts.stop.load(Ordering::Relaxed) {
            return;
        }
        let qos = [1, 2, 1, 0][time % 4];
        if let Err(error) = client.round(&format!("own/{number}/{time}"), qos).await {
            println!("client {number}: {error}");
            client.counts.closed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        client.counts.rounds.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn connect(tiers: &Tiers, trust: &Trust, number: usize, counts: &Arc<Counts>) -> Client {
    let edge = &tiers.edges[number % 2];
    let name = format!("talks-{number}");
    let connect = match number % 4 {
        0 => Connect::stored(&name),
        1 => Connect::v5(&name),
        2 => Connect::v4(&name).resume(),
        _ => Connect::v4(&name),
    };
    let transport = if number & 4 == 0 { Transport::Tls } else { Transport::Wss };
    let (talker, connack) =
        Talker::connect(edge.address(transport), transport, trust, &connect).await.unwrap();
    assert_eq!(connack.code, 0, "{connack:?}");
    Client { talker, counts: Arc::clone(counts) }
}

fn harm(tiers: &mut Tiers) {
    for worker in 0..tiers.workers.len() {
        tiers.kill_worker(worker);
        let_pass(CALM);
        tiers.run_worker(worker);
        let_pass(CALM);
    }
    tiers.workers[0].signal("STOP");
    let_pass(PAST_THE_LEASE);
    tiers.workers[0].signal("CONT");
    let_pass(CALM);
    tiers.drain_worker(1);
    let_pass(CALM);
    tiers.run_worker(1);
    let_pass(CALM);
}

#[test]
fn what_follows_a_request_in_one_write_keeps_its_place_while_workers_die() {
    let mut shape = Shape::new(3, 2);
    shape.worker_extra = "durability.clean_sessions = \"store\"\n".to_owned();
    let mut tiers = Tiers::start_single(&shape);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let trust = Trust::read(tiers.edges[0].ca_file());
    let counts = Arc::new(Counts::default());
    let mut talking = Vec::new();
    for number in 0..CLIENTS {
        let client = runtime.block_on(connect(&tiers, &trust, number, &counts));
        talking.push(runtime.spawn(talk(client, number)));
    }
    harm(&mut tiers);
    counts.stop.store(true, Ordering::Relaxed);
    for talking in talking {
        runtime.block_on(talking).unwrap();
    }
    let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!("\nSUBSCRIBE or UNSUBSCRIBE, and PUBLISH, in one write");
    println!("| rounds                              | {:>8} |", count(&counts.rounds));
    println!("| own messages or answers lost        | {:>8} |", count(&counts.lost));
    println!("| delivered after UNSUBACK            | {:>8} |", count(&counts.delivered_after_unsuback));
    println!("| acknowledged before the request     | {:>8} |", count(&counts.overtaken));
    println!("| connections closed                  | {:>8} |", count(&counts.closed));
    tiers.checked(|_| {
        assert!(count(&counts.rounds) > 10 * CLIENTS);
        let bad = [&counts.lost, &counts.delivered_after_unsuback, &counts.overtaken, &counts.closed];
        assert_eq!(bad.map(count), [0; 4]);
    });
}
