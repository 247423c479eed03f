//! What was published, acknowledged and delivered, message by message, and what must not have happened.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// What one device did and saw.
#[derive(Default)]
pub(crate) struct Account {
    /// By topic: for each number whether its publication was acknowledged.
    pub(crate) published: HashMap<String, Vec<bool>>,
    /// By topic.
    pub(crate) received: HashMap<String, Received>,
    /// Ends of the connection that the test did not ask for: when, and what the server said.
    pub(crate) closes: Vec<(Duration, String)>,
    /// CONNACKs without Session Present to a CONNECT that asked for a stored session.
    pub(crate) sessions_lost: u64,
    /// CONNACKs with it.
    pub(crate) sessions_resumed: u64,
    /// Will Messages of others, by topic.
    pub(crate) wills: BTreeMap<String, u64>,
    /// PUBACK or PUBREC with a Reason Code that refuses.
    pub(crate) refused: BTreeMap<u8, u64>,
    /// Acknowledgements of what was not open.
    pub(crate) stray: u64,
    /// A PUBLISH at QoS 2 again before its PUBREL, on one connection.
    pub(crate) sent_again: u64,
    /// Publications at QoS 1 and 2 that wait for their acknowledgement.
    pub(crate) open: usize,
    /// The longest from PINGREQ to PINGRESP.
    pub(crate) ping: Duration,
    /// The longest from PUBLISH to PUBACK or PUBCOMP.
    pub(crate) acknowledgement: Duration,
    /// The longest from PUBLISH at QoS 1 or 2 to its first delivery here.
    pub(crate) delivery: Duration,
}

impl Account {
    pub(super) fn acknowledge(&mut self, topic: &str, number: usize) {
        if let Some(acknowledged) = self.published.get_mut(topic).and_then(|numbers| numbers.get_mut(number))
        {
            *acknowledged = true;
        }
    }

    /// Whether it has published at this QoS.
    pub(crate) fn has_published(&self, qos: usize) -> bool {
        self.published.iter().any(|(topic, numbers)| qos_of(topic) == qos && !numbers.is_empty())
    }
}

/// Deliveries of one topic.
#[derive(Default)]
pub(crate) struct Received {
    /// How often each number came.
    pub(crate) times: Vec<u32>,
    /// One more than the highest number so far.
    next: usize,
    /// First deliveries of a number below one that had come before.
    pub(crate) out_of_order: u64,
}

impl Received {
    /// Notes a delivery; whether it is the first of its number.
    pub(crate) fn take(&mut self, number: usize) -> bool {
        if self.times.len() <= number {
            self.times.resize(number + 1, 0);
        }
        self.times[number] += 1;
        let first = self.times[number] == 1;
        if first && number < self.next {
            self.out_of_order += 1;
        }
        self.next = self.next.max(number + 1);
        first
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.times.get(number).is_some_and(|times| *times > 0)
    }

    fn repeats(&self) -> u64 {
        self.times.iter().map(|times| u64::from(times.saturating_sub(1))).sum()
    }
}

/// The sums over a fleet, by QoS where it is an array.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) devices: usize,
    pub(crate) published: [u64; 3],
    pub(crate) acknowledged: [u64; 3],
    pub(crate) delivered: [u64; 3],
    /// Acknowledged (at QoS 0: sent) and not delivered to a stored session that had subscribed.
    pub(crate) lost_stored: [u64; 3],
    /// The same for clean sessions.
    pub(crate) lost_clean: [u64; 3],
    /// Deliveries of what had been delivered.
    pub(crate) repeated: [u64; 3],
    pub(crate) out_of_order: [u64; 3],
    pub(crate) sent_again: u64,
    pub(crate) stray: u64,
    pub(crate) refused: BTreeMap<u8, u64>,
    pub(crate) closes: Vec<(String, Duration, String)>,
    pub(crate) sessions_lost: u64,
    pub(crate) sessions_resumed: u64,
    pub(crate) wills: BTreeMap<String, u64>,
    pub(crate) ping: Duration,
    pub(crate) acknowledgement: Duration,
    pub(crate) delivery: Duration,
    /// The first few losses, repeats and misorders, to look for in the logs.
    pub(crate) examples: Vec<String>,
}

/// The QoS of a topic, which is its last level.
pub(crate) fn qos_of(topic: &str) -> usize {
    topic.rsplit('/').next().and_then(|level| level.parse().ok()).filter(|qos| *qos <= 2).unwrap_or(0)
}

impl Totals {
    pub(super) fn add_device(&mut self, name: &str, account: &Account) {
        self.devices += 1;
        for (topic, numbers) in &account.published {
            let qos = qos_of(topic);
            self.published[qos] += numbers.len() as u64;
            self.acknowledged[qos] += numbers.iter().filter(|acknowledged| **acknowledged).count() as u64;
        }
        for (topic, received) in &account.received {
            let qos = qos_of(topic);
            self.delivered[qos] += received.times.iter().filter(|times| **times > 0).count() as u64;
            self.repeated[qos] += received.repeats();
            self.out_of_order[qos] += received.out_of_order;
            if qos != 1 && received.repeats() > 0 {
                let number = received.times.iter().position(|times| *times > 1).unwrap_or_default();
                self.example(format!("{topic} number {number} came to {name} again"));
            }
            if received.out_of_order > 0 {
                self.example(format!("{topic} came to {name} out of order {} times", received.out_of_order));
            }
        }
        self.sent_again += account.sent_again;
        self.stray += account.stray;
        for (code, times) in &account.refused {
            *self.refused.entry(*code).or_default() += times;
        }
        self.closes.extend(account.closes.iter().map(|(at, how)| (name.to_owned(), *at, how.clone())));
        self.sessions_lost += account.sessions_lost;
        self.sessions_resumed += account.sessions_resumed;
        for (topic, times) in &account.wills {
            *self.wills.entry(topic.clone()).or_default() += times;
        }
        self.ping = self.ping.max(account.ping);
        self.acknowledgement = self.acknowledgement.max(account.acknowledgement);
        self.delivery = self.delivery.max(account.delivery);
    }

    /// Compares what was published to `topic` with what came to a subscriber.
    pub(super) fn add_route(
        &mut self,
        topic: &str,
        published: &[bool],
        name: &str,
        stored: bool,
        received: Option<&Received>,
    ) {
        let qos = qos_of(topic);
        let lost = (0..published.len()).filter(|number| {
            (published[*number] || qos == 0) && !received.is_some_and(|got| got.has(*number))
        });
        let lost: Vec<usize> = lost.collect();
        let column = if stored { &mut self.lost_stored } else { &mut self.lost_clean };
        column[qos] += lost.len() as u64;
        if qos > 0 && !lost.is_empty() {
            let first = lost[0];
            let kind = if stored { "stored" } else { "clean" };
            let others = lost.len() - 1;
            self.example(format!(
                "{topic} number {first} and {others} others did not come to the {kind} session {name}"
            ));
        }
    }

    /// What no fault of a worker, an edge or the store may cause while the devices' own edge lives.
    pub(crate) fn expect_clean(&self) {
        assert_eq!(self.lost_stored[1..], [0, 0], "acknowledged messages lost");
        assert_eq!((self.repeated[0], self.repeated[2]), (0, 0), "QoS 0 and QoS 2 duplicates");
        assert_eq!(self.sent_again, 0, "QoS 2 messages sent again on a connection that did not break");
        assert_eq!(self.out_of_order, [0, 0, 0], "order violations");
        assert!(self.closes.is_empty(), "device connections closed: {:?}", self.closes.first());
        assert!(self.wills.is_empty(), "Wills fired wrongly: {:?}", self.wills.first_key_value());
        assert_eq!(self.acknowledged[1..], self.published[1..], "everything is acknowledged in the end");
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < 20 {
            self.examples.push(text);
        }
    }

    /// One table for people.
    pub(crate) fn table(&self, title: &str) -> String {
        let row = |name: &str, by_qos: &[u64; 3]| {
            format!("| {name:<42} | {:>9} | {:>9} | {:>9} |\n", by_qos[0], by_qos[1], by_qos[2])
        };
        let mut text = format!("\n{title}: {} devices\n", self.devices);
        text += &format!("| {:<42} | {:>9} | {:>9} | {:>9} |\n", "messages", "QoS 0", "QoS 1", "QoS 2");
        text += &row("published", &self.published);
        text += &row("acknowledged", &self.acknowledged);
        text += &row("delivered", &self.delivered);
        text += &row("lost to stored sessions", &self.lost_stored);
        text += &row("lost to clean sessions", &self.lost_clean);
        text += &row("delivered again", &self.repeated);
        text += &row("out of order", &self.out_of_order);
        let sums = [
            ("connections closed", self.closes.len() as u64),
            ("sessions not found on return", self.sessions_lost),
            ("Will Messages", self.wills.values().sum()),
            ("QoS 2 sent again on the same connection", self.sent_again),
            ("acknowledgements of nothing", self.stray),
            ("publications refused", self.refused.values().sum()),
        ];
        for (name, sum) in sums {
            text += &format!("| {name:<42} | {sum:>9} |\n");
        }
        for (name, time) in [
            ("longest PINGREQ to PINGRESP", self.ping),
            ("longest PUBLISH to PUBACK or PUBCOMP", self.acknowledgement),
            ("longest PUBLISH (QoS 1, 2) to delivery", self.delivery),
        ] {
            text += &format!("| {name:<42} | {:>7} ms |\n", time.as_millis());
        }
        for (name, at, how) in self.closes.iter().take(10) {
            text += &format!("closed: {name} at {at:.1?}: {how}\n");
        }
        for example in &self.examples {
            text += &format!("{example}\n");
        }
        text
    }
}
