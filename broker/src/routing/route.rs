//! Which sessions get a message, and how: matched against the index, merged per session, one member per share.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mqtt::QoS;
use smallvec::{SmallVec, smallvec};
use state::{
    Delivery, Message, PART_TARGETS_MAX, SubscriptionIds, SubscriptionOptions, Via, Wants, WorkerId,
};

use crate::directory::{Group, Index, Matches, OtherWorker, Posted, Readiness, SessionHandle, Subscriber};
use crate::hub::Hub;
use crate::hub::work::message::{Routed, Share};
use crate::session::DropReason;

/// Behind whoever may take a message of a share.
const RANK_SILENT: u8 = Readiness::Away as u8 + 2;

/// Another worker that gets the message, for sessions that are connected there.
pub(crate) struct Sent {
    /// Which one, by its number in the index.
    pub id: u64,
    /// Which one, by its own.
    pub worker: WorkerId,
    /// The highest QoS with which any of them may get it.
    pub qos: QoS,
    pub is_plain: bool,
    pub shares: Vec<Share>,
}

/// Who gets a message beside those that have it already.
#[derive(Default)]
pub(crate) struct Found {
    pub stored: Vec<Routed>,
    pub sent: SmallVec<[Sent; 2]>,
}

impl Found {
    fn sent_to(&mut self, other: &OtherWorker, qos: QoS) -> &mut Sent {
        let &OtherWorker { id, worker, .. } = other;
        let position = self.sent.iter().position(|sent| sent.id == id).unwrap_or_else(|| {
            self.sent.push(Sent { id, worker, qos, is_plain: false, shares: Vec::new() });
            self.sent.len() - 1
        });
        let sent = &mut self.sent[position];
        sent.qos = sent.qos.max(qos);
        sent
    }
}

impl Hub {
    /// Stored sessions that get a message, apart by where the store keeps them: each part is done whole or not at all, and what
    /// cannot be done now is tried again by itself, so that nothing is done twice. A message with an origin stays whole: its
    /// queues know it when it comes again.
    pub(crate) fn split(&self, mut stored: Vec<Routed>, has_origin: bool) -> SmallVec<[Vec<Routed>; 1]> {
        let part_of = |routed: &Routed| self.store.part_of(&routed.session.client_id);
        if has_origin || stored.len() == 1 || stored.first().is_some_and(|first| part_of(first).is_none()) {
            return smallvec![stored];
        }
        stored.sort_by_cached_key(part_of);
        let mut parts = SmallVec::new();
        let mut last = None;
        for routed in stored {
            let part = part_of(&routed);
            match parts.last_mut() {
                Some(same) if last == Some(part) && Vec::len(same) < PART_TARGETS_MAX => same.push(routed),
                _ => parts.push(vec![routed]),
            }
            last = Some(part);
        }
        parts
    }

    /// Hands the message to every connected session that matches and whose queue is in memory, and lists the others. Answers
    /// whether any subscription matched.
    pub(crate) fn route(
        &self,
        matches: &Matches<'_>,
        message: &Arc<Message>,
        publisher: Option<u64>,
        found: &mut Found,
    ) -> bool {
        let mut matched = false;
        if let [leaf] = matches.as_slice() {
            for entry in leaf.plain() {
                matched |= self.offer_plain(&[entry], message, publisher, found);
            }
        } else {
            // Several filters: each session gets one copy, with the highest QoS and all its identifiers.
            // v5 [MQTT-3.3.4-2], [MQTT-3.3.4-4]
            let mut entries: SmallVec<[&Subscriber; 16]> =
                matches.iter().flat_map(|leaf| leaf.plain()).collect();
            entries.sort_unstable_by_key(|entry| entry.id());
            for same in entries.chunk_by(|a, b| a.id() == b.id()) {
                matched |= self.offer_plain(same, message, publisher, found);
            }
        }
        for group in matches.iter().flat_map(|leaf| leaf.shared()) {
            let share = Share { group: group.id(), filter: Arc::clone(group.filter()), tried: Vec::new() };
            matched |= self.offer_group(group, message, &share, found);
        }
        matched
    }

    /// Hands a message that was published at another worker, at `at_us` by the store's clock, to the sessions that are connected
    /// here and have no stored queue for it. Answers how many did not get it since they may have it from another worker.
    /// Shares that have no such member here any more are added to `homeless`.
    pub(crate) fn route_noted(
        &self,
        message: &Arc<Message>,
        at_us: u64,
        is_plain: bool,
        (shares, homeless): (&[Arc<str>], &mut Vec<Arc<str>>),
    ) -> u64 {
        let mut left_out = 0;
        let index = self.directory.index();
        // What would be for stored queues or for other workers has been sent there by the publisher's.
        let mut elsewhere = Found::default();
        if is_plain {
            let matches = index.matches(message.topic());
            let mut entries: SmallVec<[&Subscriber; 16]> =
                matches.iter().flat_map(|leaf| leaf.plain()).collect();
            entries.sort_unstable_by_key(|entry| entry.id());
            for same in entries.chunk_by(|a, b| a.id() == b.id()) {
                let is_connected =
                    |entry: &&Subscriber| entry.session().is_some_and(|(it, _)| it.is_connected());
                if same.iter().all(|entry| may_have(entry, message, at_us)) {
                    left_out += u64::from(same.iter().any(is_connected));
                } else {
                    self.offer_plain(same, message, None, &mut elsewhere);
                }
            }
        }
        for share in shares {
            if !self.route_noted_share(&index, message, at_us, share) {
                homeless.push(Arc::clone(share));
            }
        }
        left_out
    }

    /// Answers whether there is a member that could take it, even if it did not.
    fn route_noted_share(&self, index: &Index, message: &Arc<Message>, at_us: u64, share: &str) -> bool {
        let Some(group) = index.group(share) else { return false };
        let mut is_home = false;
        let rank = |entry: &Subscriber| {
            let (session, options) = entry.session()?;
            let is_queued = session.stored.is_some() && message.qos().min(options.qos) > QoS::AtMostOnce;
            if is_queued || may_have(entry, message, at_us) {
                return None;
            }
            let readiness = session.readiness(message.qos());
            (readiness != Readiness::Away).then_some(readiness as u8)
        };
        let mut nowhere = Found::default();
        group.offer(rank, |entry| {
            let Some((session, options)) = entry.session() else { return false };
            is_home = true;
            let merged = Merged::of_share(options, group.filter());
            self.offer(session, message, &merged, &mut nowhere) == Offered::Taken
        });
        is_home
    }

    /// Offers a message to the members of a share that were not tried.
    pub(crate) fn offer_group(
        &self,
        group: &Group,
        message: &Arc<Message>,
        share: &Share,
        found: &mut Found,
    ) -> bool {
        group.offer(
            |entry| self.rank(group, entry, message.qos()),
            |entry| !share.tried.contains(&entry.id()) && self.offer_share(entry, message, share, found),
        )
    }

    /// Offers a message to the members of a share that were not tried, if it is still that share. Answers whether one has
    /// taken it.
    pub(crate) fn choose_again(&self, message: &Arc<Message>, share: &Share, found: &mut Found) -> bool {
        let index = self.directory.index();
        let group = index.group(&share.filter).filter(|group| group.id() == share.group);
        group.is_some_and(|group| self.offer_group(group, message, share, found))
    }

    /// Which members of a share come first: those that are connected, here or (for all that is known) elsewhere. See
    /// `docs/decisions`.
    fn rank(&self, group: &Group, member: &Subscriber, qos: QoS) -> Option<u8> {
        let session = match member {
            Subscriber::Session(session, _) => session,
            // What it is sent goes to others late, if it is dead.
            Subscriber::Worker(other) if other.is_silent.load(Ordering::Relaxed) => {
                return (other.wants != Wants::Qos0Only || qos == QoS::AtMostOnce).then_some(RANK_SILENT);
            }
            Subscriber::Worker(other) => {
                return match other.wants {
                    _ if qos == QoS::AtMostOnce => Some(0),
                    // Its members get it from their queues, and are members here.
                    Wants::Qos0Only => None,
                    Wants::UpTo(QoS::AtMostOnce) => Some(Readiness::Away as u8 + 1),
                    Wants::UpTo(_) => Some(0),
                };
            }
        };
        let readiness = match session.readiness(qos) {
            Readiness::Away if group.has_workers() && session.stored.is_some() && !session.is_away() => {
                Readiness::Ready
            }
            readiness => readiness,
        };
        Some(readiness as u8)
    }

    fn offer_share(
        &self,
        member: &Subscriber,
        message: &Arc<Message>,
        share: &Share,
        found: &mut Found,
    ) -> bool {
        let (session, options) = match member {
            Subscriber::Session(session, options) => (session, options),
            Subscriber::Worker(other) => {
                let granted = other.wants.granted(message.qos());
                if let Some(qos) = granted {
                    found.sent_to(other, qos).shares.push(share.clone());
                }
                return granted.is_some();
            }
        };
        let before = found.stored.len();
        let merged = Merged::of_share(options, &share.filter);
        let offered = self.offer(session, message, &merged, found);
        if let Some(routed) = found.stored.get_mut(before) {
            routed.share = Some(Box::new(share.clone()));
        }
        offered == Offered::Taken
    }

    /// Offers a message to one subscriber, by all of its filters that match.
    fn offer_plain(
        &self,
        same: &[&Subscriber],
        message: &Arc<Message>,
        publisher: Option<u64>,
        found: &mut Found,
    ) -> bool {
        let session = match same.first() {
            Some(Subscriber::Session(session, _)) => session,
            Some(Subscriber::Worker(other)) => {
                let granted = |entry: &&Subscriber| match entry {
                    Subscriber::Worker(other) => other.wants.granted(message.qos()),
                    Subscriber::Session(..) => None,
                };
                if let Some(qos) = same.iter().filter_map(granted).max() {
                    found.sent_to(other, qos).is_plain = true;
                }
                return true;
            }
            None => return false,
        };
        let local = publisher == Some(session.id);
        // v5 [MQTT-3.8.3-3]
        let options = same.iter().filter_map(|entry| entry.session());
        let mut options = options.map(|(_, options)| options).filter(|o| !(local && o.no_local));
        let Some(first) = options.next() else { return false };
        let merged = options.fold(Merged::of(first), Merged::with);
        self.offer(session, message, &merged, found);
        true
    }

    fn offer(
        &self,
        session: &Arc<SessionHandle>,
        message: &Arc<Message>,
        merged: &Merged,
        found: &mut Found,
    ) -> Offered {
        let delivery = Delivery {
            message: Arc::clone(message),
            // v5 [MQTT-3.8.4-8]
            qos: message.qos().min(merged.qos),
            // v5 [MQTT-3.3.1-12], [MQTT-3.3.1-13]
            retain: message.retain() && merged.retain_as_published,
            subscription_ids: SubscriptionIds::from_slice(&merged.ids),
            via: merged.via.clone(),
        };
        let qos = delivery.qos;
        if qos != QoS::AtMostOnce && session.stored.is_some() {
            found.stored.push(Routed { session: Arc::clone(session), delivery, share: None });
            return Offered::Taken;
        }
        let bytes_max =
            if qos == QoS::AtMostOnce { self.config.qos0_bytes_max } else { self.config.queue_bytes_max };
        match session.deliver(delivery, bytes_max) {
            Posted::Yes => Offered::Taken,
            Posted::Heavy => {
                self.directory.list_heavy(session);
                Offered::Taken
            }
            Posted::Offline => Offered::Declined,
            Posted::Full => {
                let reason =
                    if qos == QoS::AtMostOnce { DropReason::SlowClient } else { DropReason::QueueFull };
                self.metrics.drop_message(reason, qos);
                Offered::Declined
            }
        }
    }
}

/// Whether a session that gets a message with QoS 0 may have it already, from the worker where it was before.
fn may_have(subscriber: &Subscriber, message: &Message, at_us: u64) -> bool {
    subscriber.session().is_some_and(|(session, options)| {
        message.qos().min(options.qos) == QoS::AtMostOnce && at_us < session.listens_since()
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Offered {
    Taken,
    Declined,
}

/// The options of all of a session's matching subscriptions together.
struct Merged {
    qos: QoS,
    retain_as_published: bool,
    ids: SmallVec<[u32; 2]>,
    via: Via,
}

impl Merged {
    fn of(options: &SubscriptionOptions) -> Self {
        let (ids, via) = (SmallVec::new(), Via::Subscription);
        let none = Self { qos: QoS::AtMostOnce, retain_as_published: false, ids, via };
        none.with(options)
    }

    fn of_share(options: &SubscriptionOptions, share: &Arc<str>) -> Self {
        Self { via: Via::Share(Arc::clone(share)), ..Self::of(options) }
    }

    fn with(mut self, options: &SubscriptionOptions) -> Self {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        if options.subscription_id != 0 {
            self.ids.push(options.subscription_id);
        }
        self
    }
}
