//! One connection that says what a test tells it to and hands over what comes, packet by packet.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Trust, Wire};
use crate::harness::DEADLINE;
use crate::harness::bytes::{self, Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, V5, ack};
use crate::harness::packet::{Connack, Packet};
use crate::harness::transport::Transport;

/// An MQTT connection.
pub(crate) struct Talker {
    wire: Wire,
    pub(crate) version: u8,
    waiting: VecDeque<Packet>,
}

impl Talker {
    /// Sends CONNECT and waits for CONNACK.
    pub(crate) async fn connect(
        address: SocketAddr,
        transport: Transport,
        trust: &Trust,
        connect: &Connect,
    ) -> io::Result<(Talker, Connack)> {
        let mut wire = Wire::open(address, transport, trust).await?;
        wire.write(&connect.bytes()).await?;
        let mut talker = Talker { wire, version: connect.version(), waiting: VecDeque::new() };
        let connack = talker.next().await?.connack(talker.version);
        Ok((talker, connack))
    }

    pub(crate) async fn send(&mut self, data: &[u8]) -> io::Result<()> {
        self.wire.write(data).await
    }

    /// The next packet, which must come within the usual deadline.
    pub(crate) async fn next(&mut self) -> io::Result<Packet> {
        self.next_within(DEADLINE).await?.ok_or_else(|| io::ErrorKind::TimedOut.into())
    }

    /// The next packet, if one comes within this time. Cancel safe.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> io::Result<Option<Packet>> {
        let deadline = Instant::now() + wait;
        loop {
            if let Some(packet) = self.waiting.pop_front() {
                return Ok(Some(packet));
            }
            match tokio::time::timeout_at(deadline, self.wire.read()).await {
                Ok(packets) => self.waiting.extend(packets?),
                Err(_) => return Ok(None),
            }
        }
    }

    /// The next packet of one of these types (its first byte without flags); others are put by for later.
    pub(crate) async fn next_of(&mut self, kinds: &[u8]) -> io::Result<Packet> {
        let mut others = VecDeque::new();
        let found = loop {
            let packet = self.next().await?;
            if kinds.contains(&(packet.first & 0xF0)) {
                break packet;
            }
            others.push_back(packet);
        };
        others.append(&mut self.waiting);
        self.waiting = others;
        Ok(found)
    }

    /// Subscribes and waits for SUBACK.
    pub(crate) async fn subscribe(&mut self, id: u16, filter: &str, qos: u8) -> io::Result<()> {
        let packet = match self.version {
            V5 => bytes::subscribe(id, &[], &[(filter, qos)]),
            _ => bytes::subscribe_v3(id, &[(filter, qos)]),
        };
        self.send(&packet).await?;
        let granted = self.next_of(&[0x90]).await?.suback(self.version);
        assert_eq!((granted.id, granted.codes.as_slice()), (id, &[qos][..]), "{filter}");
        Ok(())
    }

    /// Unsubscribes and waits for UNSUBACK.
    pub(crate) async fn unsubscribe(&mut self, id: u16, filter: &str) -> io::Result<()> {
        let packet = match self.version {
            V5 => bytes::unsubscribe(id, &[filter]),
            _ => bytes::unsubscribe_v3(id, &[filter]),
        };
        self.send(&packet).await?;
        let granted = self.next_of(&[0xB0]).await?.unsuback(self.version);
        assert_eq!(granted.id, id, "{filter}");
        Ok(())
    }

    /// Publishes and completes the flow.
    pub(crate) async fn publish(&mut self, id: u16, topic: &str, payload: &str, qos: u8) -> io::Result<()> {
        self.send(&self.publication(id, topic, payload, qos)).await?;
        if qos == 1 {
            self.expect_reply(PUBACK, id).await?;
        } else if qos == 2 {
            self.expect_reply(PUBREC, id).await?;
            self.send(&ack(PUBREL, id)).await?;
            self.expect_reply(PUBCOMP, id).await?;
        }
        Ok(())
    }

    /// A PUBLISH packet of this connection's version.
    pub(crate) fn publication(&self, id: u16, topic: &str, payload: &str, qos: u8) -> Vec<u8> {
        let publish = bytes::Publish::new(topic, payload);
        let publish = if self.version == V5 { publish } else { publish.v3() };
        match qos {
            0 => publish.bytes(),
            1 => publish.qos1(id).bytes(),
            _ => publish.qos2(id).bytes(),
        }
    }

    async fn expect_reply(&mut self, first: u8, id: u16) -> io::Result<()> {
        let reply = self.next_of(&[first & 0xF0]).await?.reply(first, self.version);
        assert_eq!(reply.id, id, "{reply:?}");
        assert!(reply.reason < 0x80, "{reply:?}");
        Ok(())
    }

    /// Completes the flow of a PUBLISH, and answers its topic and payload.
    pub(crate) async fn take(&mut self, packet: &Packet) -> io::Result<(String, String)> {
        let publish = packet.publish(self.version);
        match publish.qos {
            0 => {}
            1 => self.send(&ack(PUBACK, publish.id)).await?,
            _ => {
                self.send(&ack(PUBREC, publish.id)).await?;
                self.expect_reply(PUBREL, publish.id).await?;
                self.send(&ack(PUBCOMP, publish.id)).await?;
            }
        }
        Ok((publish.topic.clone(), publish.text().to_owned()))
    }
}
