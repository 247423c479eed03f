//! What workers that share a store have in common: who they are, the log of changes of routes, and the inbox of each. The
//! store itself keeps sessions; nothing here is needed by a worker that has its store for itself.
//!
//! The registry is one place, so that this order holds: a worker joins, then reads where the log ends, then loads the routes
//! of sessions ([`crate::Store::routes`]) and of workers ([`Cluster::listening`]), then follows the log from there, then
//! serves. A subscriber writes its subscription, then its entry in the log, then lists the members, and waits until each
//! one that is live has applied that entry.

use std::sync::Arc;

use mqtt::QoS;

use crate::{ConnectionId, Cursor, Delivery, Done, Message, Number, StoredSession, Subscription, UnixMs};

/// One run of one worker: random, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u64);

/// A place in the log of routes, or in an inbox: dense, from 1 on; 0 is before everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Something with its place in the log of routes, or in an inbox. Several may share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// Where it is.
    pub position: Position,
    /// What is there.
    pub what: T,
}

/// A worker as the registry knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which run.
    pub id: WorkerId,
    /// Its configured name, the same for every run.
    pub name: Arc<str>,
    /// It has applied the log through this. `None`: it is reading all routes, and matches no message before it has applied
    /// what the log has by now, so that nobody waits for it.
    pub applied: Option<Position>,
    /// Its route lease holds, by the store's clock: it may be matching messages.
    pub is_live: bool,
    /// Milliseconds since it renewed its lease, by the store's clock.
    pub silent_ms: u64,
}

/// The answer to [`Cluster::join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Where the log ended after the worker was in the registry.
    pub log_end: Position,
}

/// The answer to [`Cluster::renew`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Everybody in the registry, this worker included.
    pub members: Vec<Member>,
    /// Where the log ends now. A worker that has been without a lease matches no message before it has applied this.
    pub log_end: Position,
    /// Others bury this worker, or have done so: its sessions are let go, and it must join anew.
    pub is_expelled: bool,
    /// The log may be another one than this worker has followed, with other entries in the same places, as its next read of it
    /// will tell: it has no lease, and what it said it has applied counts for nothing.
    pub is_elsewhere: bool,
    /// What the store's clock showed, microseconds: the same clock for all workers.
    pub now_us: u64,
}

/// A change that every worker must know for matching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// A session whose queue is stored has these subscriptions, new or changed.
    Subscribed {
        /// Which session.
        session: Arc<StoredSession>,
        /// That of the owner that changed them: a change which comes after one of a later epoch came too late, and says nothing.
        epoch: u64,
        /// New or changed.
        subscriptions: Vec<Subscription>,
    },
    /// A session whose queue is stored has subscriptions of these filters no more.
    Unsubscribed {
        /// Which session.
        session: Arc<StoredSession>,
        /// As in [`RouteChange::Subscribed`].
        epoch: u64,
        /// The filters.
        filters: Vec<Arc<str>>,
    },
    /// A session whose queue is stored is gone.
    Gone(Arc<StoredSession>),
    /// A worker has connected subscribers of a filter, or wants more or less for them than before.
    Listening(Listener),
    /// A worker has no connected subscribers of a filter any more.
    Deaf {
        /// The worker.
        worker: WorkerId,
        /// The filter.
        filter: Arc<str>,
    },
    /// The worker is gone, with all that it listened to. [`Cluster::leave`] and [`Cluster::bury`] say it.
    Left(WorkerId),
}

/// A worker with connected subscribers of a filter that get messages from their worker and not from a stored queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// The worker.
    pub worker: WorkerId,
    /// The Topic Filter, or a whole `$share/...` string.
    pub filter: Arc<str>,
    /// What the worker gets of it.
    pub wants: Wants,
}

/// What a worker gets of the messages that match a filter. The greater one includes the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wants {
    /// Only what is published with QoS 0, since all else comes from stored queues.
    Qos0Only,
    /// Everything, with at most this QoS.
    UpTo(QoS),
}

impl Wants {
    /// The QoS with which the worker gets a message that is published with this one; `None` if it does not get it.
    pub fn granted(self, published: QoS) -> Option<QoS> {
        match self {
            Self::Qos0Only => (published == QoS::AtMostOnce).then_some(QoS::AtMostOnce),
            Self::UpTo(qos) => Some(qos.min(published)),
        }
    }
}

/// A page of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// Changes in order.
    pub changes: Vec<Placed<RouteChange>>,
    /// Part of the log may be missing, because it was trimmed, or its server has failed over: all routes are to be loaded
    /// anew, as after [`Cluster::join`], and a worker tells again what it listens to.
    pub has_gap: bool,
}

/// A page of the filters that workers listen to.
#[derive(Clone, Debug, Default)]
pub struct ListeningPage {
    /// Workers and what they listen to.
    pub listeners: Vec<Listener>,
    /// Where to go on, `None` at the end.
    pub next: Option<Cursor>,
}

/// Which of its publisher's messages one is, so that whoever gets it again, or late, can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The worker that sends it.
    pub sender: WorkerId,
    /// Grows from note to note of one sender to one worker.
    pub number: u64,
    /// The session that publishes it. `None`: a Will Message.
    pub publisher: Option<PublishingSession>,
    /// A time before which it was not published, by the clock of [`Lease::now_us`]: hardly earlier than when it was, or 0 while
    /// the sender does not know that clock.
    pub at_us: u64,
}

/// The session that publishes a message, as the worker has it that sends the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishingSession {
    /// [`StoredSession::incarnation`].
    pub incarnation: u64,
    /// [`crate::Fence::epoch`] of the connection that publishes it.
    pub epoch: u64,
}

/// Something for another worker.
#[derive(Clone, Debug)]
pub enum Noted {
    /// A message for sessions that are connected there, as far as no stored queue has it for them.
    Message {
        /// Which one.
        stamp: Stamp,
        /// The message.
        message: Arc<Message>,
        /// For its plain subscriptions.
        is_plain: bool,
        /// For one member of each of these Shared Subscriptions (`$share/...`), chosen there.
        shares: Vec<Arc<str>>,
    },
    /// A message is in the stored queue of a session that is connected there.
    Queued {
        /// Whose.
        session: Arc<StoredSession>,
        /// Under this number.
        number: Number,
        /// What it is.
        delivery: Delivery,
    },
    /// A connection there has lost its session to a newer one.
    TakenOver {
        /// The client.
        client_id: Arc<str>,
        /// The connection that lost it.
        connection_id: ConnectionId,
    },
}

/// The answer to [`Cluster::post`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is in the inbox.
    Yes,
    /// The inbox is full: QoS 0 is dropped and counted, notes of queued messages may be left out (the owner sees a gap, or
    /// finds them when it compares tails), the rest is tried again.
    Full,
    /// There is no such worker any more: its sessions are elsewhere or away.
    Gone,
}

/// A page of this worker's inbox.
#[derive(Clone, Debug, Default)]
pub struct InboxPage {
    /// In the order of their places.
    pub notes: Vec<Placed<Noted>>,
    /// Notes may have been lost or may come twice, since the server of the inbox has failed over: the tails of connected
    /// sessions are to be compared with the store.
    pub has_gap: bool,
}

/// A worker that is silent for good, and how far what it left was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burial {
    /// Who is dead.
    pub worker: WorkerId,
    /// It is not buried if it has renewed its lease since, milliseconds by the store's clock. Says nothing once a burial has begun.
    pub silent_ms: u64,
    /// How long its sessions wait for their devices, milliseconds.
    pub grace_ms: u64,
    /// When that begins.
    pub now: UnixMs,
    /// What was in its inbox at or before this place was handed on, and is thrown away; 0 at first.
    pub handed_on: Position,
}

/// A message in the inbox of a dead worker, for one member of each of these Shared Subscriptions: there is one elsewhere, perhaps.
#[derive(Clone, Debug)]
pub struct LeftInInbox {
    /// The message, with QoS 1. What has QoS 2 the dead worker may have begun to deliver: no other member may have it then (v5 section
    /// 4.8.2, [MQTT-4.8.2-5]).
    pub message: Arc<Message>,
    /// The shares.
    pub shares: Vec<Arc<str>>,
}

impl Noted {
    /// What is for others if the worker is dead.
    pub(crate) fn left(self) -> Option<LeftInInbox> {
        match self {
            Self::Message { message, shares, .. }
                if message.qos() == QoS::AtLeastOnce && !shares.is_empty() =>
            {
                Some(LeftInInbox { message, shares })
            }
            _ => None,
        }
    }
}

/// What a worker has in common with others. Answers come as [`crate::Store`]'s do; those of one worker's calls of
/// [`Cluster::append`], and of its calls of [`Cluster::post`] to one inbox, in the order of the calls.
pub trait Cluster: Send + Sync + 'static {
    /// This run.
    fn id(&self) -> WorkerId;

    /// Enters the registry. It has no lease before it renews one, and its inbox is read from the start. A worker that was
    /// expelled drops all its sessions and joins again.
    ///
    /// # Errors
    /// [`crate::StoreError::Unavailable`] while it is being buried, too.
    fn join(&self, done: Done<Joined>);

    /// Renews the lease for `lease_ms` from when the store does it, and tells how far the log is applied (see
    /// [`Member::applied`]). The lease is to be counted from before the call.
    fn renew(&self, applied: Option<Position>, lease_ms: u64, done: Done<Lease>);

    /// Leaves the registry, after its sessions were let go.
    ///
    /// # Errors
    /// [`crate::StoreError::Unavailable`] while it is being buried, too: who does that sees to the rest.
    fn leave(&self, done: Done<()>);

    /// Adds changes to the log. `Listening` and `Deaf` are kept for [`Cluster::listening`] in the same step; those of a worker
    /// that is not in the registry are left out. Answers the place of the last one, when it is durable.
    fn append(&self, changes: Vec<RouteChange>, done: Done<Position>);

    /// Reads the log behind `after`; waits for something to come, up to about `wait_ms` milliseconds, then the page is empty.
    fn read_log(&self, after: Position, wait_ms: u64, done: Done<LogPage>);

    /// Reads what all workers listen to, a page at a time.
    fn listening(&self, cursor: Option<Cursor>, routes_max: usize, done: Done<ListeningPage>);

    /// Puts notes into a worker's inbox, all or none.
    fn post(&self, to: WorkerId, notes: Vec<Noted>, done: Done<Heard>);

    /// Reads this worker's inbox behind `after` and waits as [`Cluster::read_log`] does; what is at or before `after` is
    /// thrown away, at the latest when that has been read for a second and the inbox is read again.
    fn read_inbox(&self, after: Position, wait_ms: u64, done: Done<InboxPage>);

    /// Shuts this worker's inbox until it joins again: what is posted to it from now on is [`Heard::Gone`]. Answers the place of the
    /// last note in it, which may still be read; 0 if it is empty.
    fn shut_inbox(&self, done: Done<Position>);

    /// Lets go of everything that a worker owned which is silent for good: each of its sessions as [`crate::Store::release`]
    /// with the Will kept and [`Burial::grace_ms`]; then its inbox, which is shut, and what it listens to and its entry in the registry
    /// ([`RouteChange::Left`]).
    ///
    /// As long as there are messages for shares in its inbox, the answer is the next of them (which it may have taken itself before it
    /// died), and the worker stays in the registry: they are to be handed on, and the burial repeated with the place of the last one. It is
    /// over when none come. May be repeated by anybody, and goes on where it was left.
    fn bury(&self, burial: Burial, done: Done<Vec<Placed<LeftInInbox>>>);
}
