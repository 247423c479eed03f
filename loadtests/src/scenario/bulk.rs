//! A fixed number of messages on each of many topics, by a few publishers, as fast as the acknowledgements come.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mqtt::{Packet, ProtocolVersion, QoS};

use super::publisher::Publisher;
use crate::measure::payload::Stamp;
use crate::net::dial::Dial;
use crate::net::establish::{connect_all, disconnect_all};
use crate::net::packet::{self, ConnectOptions, PublishTemplate};
use crate::net::reactor::{ConnectionId, Handler, Link, Reactor};
use crate::run::Counters;

const TURN: Duration = Duration::from_millis(20);
const STANDSTILL: Duration = Duration::from_secs(10);

/// What to publish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk<'a> {
    /// Protocol version.
    pub(crate) version: ProtocolVersion,
    /// Topic Names. The stamp's `publisher` is the index of the topic.
    pub(crate) topics: &'a [String],
    /// Messages per topic; the stamp's `sequence` counts them from 0.
    pub(crate) rounds: u32,
    /// QoS 1 or 2.
    pub(crate) qos: QoS,
    /// RETAIN.
    pub(crate) retain: bool,
    /// Payload; 0 sends empty payloads, which removes retained messages.
    pub(crate) payload_bytes: usize,
    /// Publishing clients; each serves every so-many-th topic.
    pub(crate) publishers: u32,
    /// Unacknowledged messages per publisher.
    pub(crate) window: u32,
    /// Part of the Client Identifiers.
    pub(crate) name: &'a str,
}

/// Publishes all of it, waits for the last acknowledgement and disconnects.
///
/// # Errors
/// When a message is refused or the broker stops answering.
pub(crate) fn publish(
    bulk: &Bulk<'_>,
    dial: &Dial,
    reactor: &mut Reactor,
    counters: &Counters,
) -> Result<()> {
    let clients: Vec<ConnectOptions> = (0..bulk.publishers)
        .map(|client| ConnectOptions {
            version: bulk.version,
            client_id: format!("tgl-{}-p{client}", bulk.name),
            clean: true,
            keep_alive_s: 0,
        })
        .collect();
    let established = connect_all(reactor, dial, &clients, None)?;
    let ids: Vec<ConnectionId> = established.iter().map(|client| client.id).collect();
    let highest = ids.iter().copied().max().unwrap_or(0);
    let mut sending = Sending { by_id: vec![0; highest + 1], senders: Vec::new(), acked: 0, failure: None };
    for (number, client) in established.iter().enumerate() {
        sending.by_id[client.id] = number;
        let publisher = Publisher::new(bulk.qos, bulk.window.min(u32::from(client.receive_max)));
        sending.senders.push(Sender { id: client.id, publisher, topic: number, round: 0 });
    }
    let templates: Vec<PublishTemplate> = bulk
        .topics
        .iter()
        .map(|topic| PublishTemplate::new(bulk.version, topic, bulk.qos, bulk.retain, bulk.payload_bytes))
        .collect();
    turn_loop(bulk, &templates, &mut sending, reactor, counters)?;
    disconnect_all(reactor, &ids)
}

fn turn_loop(
    bulk: &Bulk<'_>,
    templates: &[PublishTemplate],
    sending: &mut Sending,
    reactor: &mut Reactor,
    counters: &Counters,
) -> Result<()> {
    let total = bulk.topics.len() as u64 * u64::from(bulk.rounds);
    let (mut moved, mut before) = (Instant::now(), 0);
    while sending.acked < total {
        let due_ns = reactor.now_ns();
        for sender in &mut sending.senders {
            sender.send(bulk, templates, due_ns, reactor)?;
        }
        reactor.flush(sending);
        reactor.turn(sending, TURN)?;
        if let Some(failure) = sending.failure.take() {
            bail!("{failure}");
        }
        counters.begun.store(sending.acked, Ordering::Relaxed);
        if sending.acked != before {
            (moved, before) = (Instant::now(), sending.acked);
        } else if moved.elapsed() > STANDSTILL {
            bail!("no acknowledgement for {} s", STANDSTILL.as_secs());
        }
    }
    if let Some(refused) =
        sending.senders.iter().map(|sender| sender.publisher.refused).find(|refused| *refused > 0)
    {
        bail!("{refused} messages were refused");
    }
    Ok(())
}

struct Sender {
    id: ConnectionId,
    publisher: Publisher,
    topic: usize,
    round: u32,
}

impl Sender {
    fn send(
        &mut self,
        bulk: &Bulk<'_>,
        templates: &[PublishTemplate],
        due_ns: u64,
        reactor: &mut Reactor,
    ) -> Result<()> {
        if !self.publisher.is_open() || self.round >= bulk.rounds {
            return Ok(());
        }
        let out = reactor.out(self.id).context("a connection has gone")?;
        while self.publisher.is_open() && self.round < bulk.rounds {
            let Some(template) = templates.get(self.topic) else {
                (self.topic, self.round) = (self.topic % bulk.publishers as usize, self.round + 1);
                if templates.len() <= self.topic {
                    self.round = bulk.rounds;
                }
                continue;
            };
            let stamp = Stamp { publisher: self.topic as u32, sequence: u64::from(self.round), due_ns };
            self.publisher.send(template, &stamp, out);
            self.topic += bulk.publishers as usize;
        }
        Ok(())
    }
}

struct Sending {
    by_id: Vec<usize>,
    senders: Vec<Sender>,
    acked: u64,
    failure: Option<String>,
}

impl Handler for Sending {
    fn packet(&mut self, link: &mut Link<'_>, packet: Packet<'_>) {
        let sender = &mut self.senders[self.by_id[link.id]];
        self.acked += u64::from(sender.publisher.acknowledge(&packet, link.out).is_some());
        self.failure = self.failure.take().or_else(|| packet::refusal(&packet));
    }

    fn closed(&mut self, _id: ConnectionId, error: Option<io::Error>) {
        if let Some(error) = error {
            self.failure.get_or_insert_with(|| format!("connection lost: {error}"));
        }
    }
}
