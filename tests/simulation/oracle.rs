//! What happened, and what of it must, may and must not have followed.

use std::collections::{HashMap, HashSet};

use mqtt::QoS;
use testkit::client::{Client, ELSEWHERE, Message, RETAINED, Wish};

use super::will::{LastWill, RETAINED_AT, SHARE_AT, WILL_BIT, WILLS_AT};

/// A message, and who must or must not get it.
struct Sent {
    publisher: usize,
    message: Message,
    is_acknowledged: bool,
    /// Who was subscribed all the while from when it was sent first: whoever was not may have missed the first copy of one that was
    /// sent again, and get another late.
    was_on: Vec<bool>,
    required: Vec<bool>,
    forbidden: Vec<bool>,
    /// The share had a member.
    is_shared: bool,
    /// Its publisher sent it behind a change of its own subscriptions that was not answered: on another connection it may come
    /// before that.
    is_behind: bool,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With DISCONNECT.
    Well,
    /// The device's socket was gone.
    Lost,
    /// The device connected anew while it was there.
    TakenOver,
    /// Its edge was killed, or it is not known how much of it the service has seen.
    Unknown,
}

/// One connection of a device.
pub(super) struct Connection {
    pub(super) client: usize,
    pub(super) edge: usize,
    pub(super) will: Option<LastWill>,
    /// CONNACK came.
    pub(super) is_connected: bool,
    pub(super) began_ms: u64,
    pub(super) connected_ms: Option<u64>,
    pub(super) end: Option<(End, u64)>,
    /// An earlier CONNECT of the device was not answered when this one was sent: it may be carried out later.
    pub(super) has_rival: bool,
}

pub(super) struct Oracle {
    /// Which devices lose nothing: those with stored sessions, and clean ones whose queues are stored.
    keeps: Vec<bool>,
    is_stored: Vec<bool>,
    sent: Vec<Sent>,
    pub(super) connections: Vec<Connection>,
}

fn matching(wishes: &[Wish], topic: usize) -> impl Iterator<Item = Wish> {
    let is_match = move |at: usize| match topic {
        RETAINED.. => at == RETAINED_AT,
        topic => at == topic || at == WILLS_AT - 1,
    };
    wishes.iter().enumerate().filter(move |(at, _)| is_match(*at)).map(|(_, wish)| *wish)
}

/// Which messages a client got.
fn got(client: &Client) -> HashSet<u32> {
    client.got.iter().map(|message| message.index).collect()
}

impl Oracle {
    pub(super) fn new(keeps: Vec<bool>, is_stored: Vec<bool>) -> Self {
        Self { keeps, is_stored, sent: Vec::new(), connections: Vec::new() }
    }

    pub(super) fn messages(&self) -> u32 {
        self.sent.len() as u32
    }

    /// A message is about to be published.
    pub(super) fn publish<'a>(
        &mut self,
        publisher: usize,
        message: Message,
        clients: impl Iterator<Item = &'a Client>,
    ) {
        let (mut was_on, mut required, mut forbidden) = (Vec::new(), Vec::new(), Vec::new());
        let (mut is_behind, mut is_shared) = (false, false);
        for (n, client) in clients.enumerate() {
            if is_member(client) {
                is_shared |= client.wishes[SHARE_AT] == Wish::On && !message.is_retained();
                was_on.push(false);
                required.push(false);
                forbidden.push(false);
                continue;
            }
            let is_on = |wishes: &[Wish]| matching(wishes, message.topic).any(|wish| wish == Wish::On);
            let is_off = |wishes: &[Wish]| matching(wishes, message.topic).all(|wish| wish == Wish::Off);
            let known = &client.wishes;
            let wishes = if n == publisher { client.wishes_in_order() } else { known.clone() };
            is_behind |= (is_on(&wishes), is_off(&wishes)) != (is_on(known), is_off(known));
            was_on.push(is_on(known));
            required.push(is_on(&wishes) && self.keeps[n] && !message.clears());
            // A later subscription brings what is retained.
            forbidden.push(is_off(&wishes) && !message.is_retained());
        }
        let is_acknowledged = false;
        self.sent.push(Sent {
            publisher,
            message,
            is_acknowledged,
            was_on,
            required,
            forbidden,
            is_shared,
            is_behind,
        });
    }

    pub(super) fn acknowledged(&mut self, index: u32) {
        self.sent[index as usize].is_acknowledged = true;
    }

    /// A publisher begins a new session: what was not acknowledged it will not send again, and may come whenever it likes.
    pub(super) fn abandoned(&mut self, publisher: usize) {
        let abandoned =
            self.sent.iter_mut().filter(|sent| sent.publisher == publisher && !sent.is_acknowledged);
        abandoned.for_each(|sent| sent.was_on.fill(false));
    }

    /// A subscription is about to change: what is not acknowledged yet may be matched before or after.
    pub(super) fn change(&mut self, n: usize, is_on: bool) {
        // What waits in memory may come to whoever subscribes meanwhile, although it was acknowledged.
        let keeps = self.keeps[n];
        for sent in self.sent.iter_mut().filter(|sent| !sent.is_acknowledged || !keeps) {
            if is_on {
                sent.forbidden[n] = false;
            } else {
                (sent.required[n], sent.was_on[n]) = (false, false);
            }
        }
    }

    /// What a device sent behind changes of its subscriptions may be carried out before them after all, unless it was already.
    pub(super) fn forget_order(&mut self, n: usize) {
        let behind = |sent: &&mut Sent| sent.publisher == n && sent.is_behind && !sent.is_acknowledged;
        for sent in self.sent.iter_mut().filter(behind) {
            (sent.required[n], sent.forbidden[n]) = (false, false);
        }
    }

    /// A connection has ended, and with it a clean session.
    pub(super) fn ended(&mut self, connection: usize, end: End, now_ms: u64) {
        let n = self.connections[connection].client;
        self.forget_order(n);
        self.connections[connection].end.get_or_insert((end, now_ms));
        if !self.is_stored[n] {
            for sent in &mut self.sent {
                sent.required[n] = false;
                // The first copy may have been for the session that has ended, and another come to the next.
                sent.was_on[n] &= sent.is_acknowledged;
            }
        }
    }

    /// An edge was killed: what it had been told lately may have got nowhere.
    pub(super) fn edge_died(&mut self, edge: usize, since_ms: u64) {
        for connection in self.connections.iter_mut().filter(|connection| connection.edge == edge) {
            if let Some((end, at_ms)) = &mut connection.end
                && *at_ms >= since_ms
            {
                *end = End::Unknown;
            }
        }
    }

    /// An acknowledged message that a device lacks.
    pub(super) fn missing<'a>(&self, clients: impl Iterator<Item = &'a Client>) -> Option<String> {
        for (n, client) in clients.enumerate() {
            let got = got(client);
            for sent in self.sent.iter().filter(|sent| sent.is_acknowledged && sent.required[n]) {
                if !got.contains(&sent.message.index) {
                    let Message { index, qos, .. } = sent.message;
                    return Some(format!(
                        "{} lacks message {index} of c{}, {qos:?}",
                        client.name, sent.publisher
                    ));
                }
            }
        }
        None
    }

    /// What is newest of a retained topic, as far as it is known to be: whoever asks for it gets that, or what was published later and
    /// not acknowledged.
    fn newest(&self, topic: usize) -> Option<Message> {
        let of_topic = |sent: &&Sent| sent.message.topic == topic && sent.is_acknowledged;
        self.sent.iter().rfind(of_topic).map(|sent| sent.message)
    }

    /// Whether what was published after it, and not acknowledged, may have cleared it.
    fn may_be_cleared(&self, newest: Message) -> bool {
        let mut later = self.sent.iter().map(|sent| sent.message).filter(|later| later.index > newest.index);
        later.any(|later| later.topic == newest.topic && later.clears())
    }

    /// A retained topic of which a device, which was subscribed when it had got so much, does not have the newest message last.
    pub(super) fn outdated(&self, client: &Client, from: usize) -> Option<String> {
        let topics: HashSet<usize> = self.sent.iter().map(|sent| sent.message.topic).collect();
        for topic in topics.into_iter().filter(|topic| *topic >= RETAINED) {
            let last = client.got[from..].iter().rfind(|message| message.topic == topic);
            let (last, newest) = (last.map(|message| message.index), self.newest(topic));
            let is_old = newest.is_some_and(|newest| match last {
                None => !newest.clears() && !self.may_be_cleared(newest),
                Some(last) => last < newest.index,
            });
            if is_old {
                return Some(format!(
                    "{} has {last:?} of r/{}, not {newest:?}",
                    client.name,
                    topic - RETAINED
                ));
            }
        }
        None
    }

    /// An acknowledged message that no member of the share has.
    pub(super) fn missing_share<'a>(&self, clients: impl Iterator<Item = &'a Client>) -> Option<String> {
        let members: Vec<_> = clients.filter(|client| is_member(client)).map(got).collect();
        let shared = self.sent.iter().filter(|sent| sent.is_acknowledged && sent.is_shared);
        let is_missing = |sent: &&Sent| members.iter().all(|got| !got.contains(&sent.message.index));
        let missing = shared.into_iter().find(is_missing)?;
        let Message { index, qos, .. } = missing.message;
        Some(format!("no member of the share has message {index} of c{}, {qos:?}", missing.publisher))
    }

    /// One member got each QoS 2 message for the share, and once.
    pub(super) fn check_share<'a>(&self, clients: impl Iterator<Item = &'a Client>) {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let members = clients.filter(|client| is_member(client));
        for message in members.flat_map(|client| &client.got) {
            *counts.entry(message.index).or_default() += 1;
        }
        for Sent { message: Message { index, qos, .. }, publisher, .. } in &self.sent {
            let count = counts.get(index).copied().unwrap_or(0);
            assert!(
                count <= 1 || *qos != QoS::ExactlyOnce,
                "the share has message {index} of c{publisher} {count} times"
            );
        }
    }

    /// What a device got is what it may have got, in order, and as often as it may.
    pub(super) fn check_messages(&self, n: usize, client: &Client) {
        let mut rest = &client.got[..];
        for begin in client.sessions_at.iter().rev() {
            // What is on its way to the session that begins here may have come to the one before.
            let (before, session) = rest.split_at(*begin);
            self.check_session(n, client, session);
            rest = before;
        }
        // An earlier CONNECT may have begun the session, and its CONNACK was lost.
        self.check_session(n, client, rest);
    }

    fn check_session(&self, n: usize, client: &Client, got: &[Message]) {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let mut last = HashMap::new();
        for Message { index, topic, .. } in got {
            let is_will = index & WILL_BIT != 0;
            assert_eq!(is_will, *topic == ELSEWHERE, "{}: {index} by a topic of others", client.name);
            if is_will {
                continue;
            }
            let Sent { publisher, message, was_on, forbidden, .. } = &self.sent[*index as usize];
            let keeps = if self.keeps[n] { "keeps" } else { "forgets" };
            let what =
                format!("{}, which {keeps}: message {index} of c{publisher}, {:?}", client.name, message.qos);
            assert!(!forbidden[n], "{what} came after UNSUBACK");
            let count = counts.entry(*index).or_default();
            *count += 1;
            if message.is_retained() {
                continue;
            }
            // A session that moves may be handed by its next worker what the one before did, unless its queue is stored.
            let is_once = message.qos == QoS::ExactlyOnce && self.keeps[n];
            assert!(*count == 1 || !is_once, "{what} came again");
            if *count == 1 && was_on[n] && self.keeps[n] {
                let before = last.insert((*publisher, message.topic, message.qos.as_u8()), *index);
                assert!(before < Some(*index), "{what} came after {before:?}");
            }
        }
    }

    /// Of one publisher and topic what comes with QoS 0 on one connection comes once and in order, wherever either goes on. A clean
    /// session of a publisher that begins anew is another publisher.
    pub(super) fn check_qos_0(&self, client: &Client) {
        let mut rest = &client.got[..];
        for begin in client.connections_at.iter().rev() {
            let (before, connection) = rest.split_at(*begin);
            let mut last = HashMap::new();
            for Message { index, .. } in connection.iter().filter(|message| message.index & WILL_BIT == 0) {
                let Sent { publisher, message, .. } = &self.sent[*index as usize];
                if message.qos == QoS::AtMostOnce && self.is_stored[*publisher] {
                    let before = last.insert((publisher, message.topic), index);
                    assert!(before < Some(index), "{}: {index} came after {before:?}", client.name);
                }
            }
            rest = before;
        }
    }

    /// Wills that the watcher lacks, as far as it is sure that they are due.
    pub(super) fn missing_will(&self, watcher: &Client) -> Option<String> {
        let got = got(watcher);
        for connection in &self.connections {
            let Some(will) = connection.will.filter(|_| connection.is_connected) else { continue };
            let is_due = match connection.end {
                // The session of a clean one ends with it, and then there is no delay.
                Some((End::Lost | End::TakenOver, _)) => {
                    will.delay_s == 0 || !self.is_stored[connection.client]
                }
                _ => false,
            };
            if is_due && !got.contains(&(will.index | WILL_BIT)) {
                return Some(format!("{}: no Will of {}", will.index, self.tell(connection)));
            }
        }
        None
    }

    /// No Will came that was not due, and none twice.
    pub(super) fn check_wills(&self, watcher: &Client, are_once: bool) {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for Message { index, .. } in watcher.got.iter().filter(|message| message.index & WILL_BIT != 0) {
            *counts.entry(index & !WILL_BIT).or_default() += 1;
        }
        for (at, connection) in self.connections.iter().enumerate() {
            let Some(will) = connection.will else { continue };
            let count = counts.get(&will.index).copied().unwrap_or(0);
            let what = format!("Will {} of {}", will.index, self.tell(connection));
            let may_repeat = !are_once || will.qos == QoS::AtLeastOnce;
            assert!(count <= 1 || may_repeat, "{what} came {count} times");
            let is_undue = match connection.end {
                // A CONNECT that is carried out late takes over what came after it.
                None => !connection.has_rival,
                Some((End::Well, _)) => !connection.has_rival,
                Some((End::Lost | End::TakenOver, at_ms)) => self.came_back(at, &will, at_ms),
                Some((End::Unknown, _)) => false,
            };
            assert!(count == 0 || !is_undue || !connection.is_connected, "{what} is not due");
        }
    }

    /// Whether the device of a stored session was back before its Will was due.
    fn came_back(&self, at: usize, will: &LastWill, ended_ms: u64) -> bool {
        let client = self.connections[at].client;
        let next = self.connections[at + 1..].iter().filter(|next| next.client == client);
        let back_ms = next.filter_map(|next| next.connected_ms).next();
        let due_ms = ended_ms + u64::from(will.delay_s) * 1000;
        will.delay_s > 0 && self.is_stored[client] && back_ms.is_some_and(|back_ms| back_ms < due_ms)
    }

    fn tell(&self, connection: &Connection) -> String {
        format!(
            "c{} at edge {}, {} to {:?}, delay {:?}",
            connection.client,
            connection.edge,
            connection.began_ms,
            connection.end,
            connection.will.map(|will| will.delay_s)
        )
    }
}

/// Whether a device is a member of the share and nothing else.
fn is_member(client: &Client) -> bool {
    client.wishes[SHARE_AT] != Wish::Off
}

/// The watcher of Wills is subscribed to them.
pub(super) fn watches(client: &Client) -> bool {
    client.wishes[WILLS_AT] == Wish::On
}
