//! The contract of every store, in operations of the domain.
//!
//! Calls never block and never wait: the answer comes through a [`Done`], on a thread of the store's own or at once. The
//! answers for one session come in the order in which its state changed, so a caller that hands deliveries on from
//! inside the `Done` keeps the order that the numbers have.

use std::sync::Arc;

use mqtt::{ConnectionId, PacketId, ProtocolVersion, QoS};

use crate::clock::{self, TimeSource};
use crate::{Delivery, Message, StoreError, UnixMs, WorkerId};

/// Receives an answer, exactly once. It must be quick: it may run on the store's only writing thread.
pub type Done<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// The position of a message in its session's queue. Numbers are dense, start at 1 and only grow; the Packet Identifier
/// follows from the number: `1 + (n - 1) mod 65,535`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u64);

/// A session in a store: the client and which of the sessions that it had in the course of time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StoredSession {
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// Changes when the session is discarded and made anew.
    pub incarnation: u64,
}

/// Proof of ownership: every write of an owner carries it, and one that is not the current one is refused with
/// [`StoreError::Fenced`]. Compared for equality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Whose session.
    pub session: Arc<StoredSession>,
    /// Raised by each claim.
    pub epoch: u64,
    /// Chosen at random by each claim, since a failover may hand out an epoch twice.
    pub nonce: u64,
}

/// Bounds of one session's queue. What comes when it is full is refused as [`Enqueued::Full`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Messages, unacknowledged ones included.
    pub messages_max: u64,
    /// Bytes, as [`Message::size`] counts them.
    pub bytes_max: u64,
}

/// A Will Message and its Will Delay Interval in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// What to publish; `qos` and `retain` are the Will's.
    pub message: Arc<Message>,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
}

/// Whose a session is: who its clients authenticated as. Empty for those that did not have to, which are one principal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Principal(pub Arc<str>);

/// The Session Expiry Interval that means *never*.
pub const EXPIRY_NEVER: u32 = u32::MAX;

/// A connection asks for its session.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// Who asks. A session that is another principal's, and not over yet, is left as it is, and the claim is refused as
    /// [`ResumeRefusal::Foreign`]. One without a principal, which an earlier version stored, becomes this one's.
    pub principal: Principal,
    /// The device connection that will own it.
    pub connection_id: ConnectionId,
    /// Discard what is there first.
    pub clean_start: bool,
    /// Make a session if there is none (or it was discarded). Without it, none is made and the answer has no session: with
    /// `clean_start` that is how to end a session with everything that it has.
    pub create: bool,
    /// Session Expiry Interval, seconds; [`EXPIRY_NEVER`] for never. Counts from [`Store::release`].
    pub expiry_s: u32,
    /// Kept with the session, so that it is published when the process dies.
    pub will: Option<Will>,
    /// Sessions that the principal may have, this one included: with as many, none is made
    /// ([`StoreError::PrincipalQuota`]). `None`: any number, and so for a principal without a name. A store of several workers
    /// counts those that were made, or claimed, with a bound.
    pub principal_sessions_max: Option<u64>,
    /// Bounds of its queue from now on.
    pub limits: QueueLimits,
    /// The protocol of the connection.
    pub protocol: ProtocolVersion,
    /// The client's Receive Maximum: an upper bound of what may have been sent without being acknowledged.
    pub receive_maximum: u16,
    /// The session's QoS 1 and 2 messages wait in its worker's memory and not in the store, and only that worker has routes
    /// for it; the store keeps subscriptions, received identifiers and the Will, so that the device can move.
    pub memory_queue: bool,
    /// Take the session as it is, with its Will, expiry and bounds, because the device's connection has moved here: only
    /// if `connection_id` is the one that the session had last. `clean_start`, `create`, `expiry_s` and `will` say nothing
    /// then.
    pub resume: bool,
    /// Which claim for this connection this is. One that is carried out after a later one of the same connection (at another
    /// worker, by an edge that did not wait any longer) is refused as [`ResumeRefusal::TakenOver`], with `resume` or without.
    pub attempt: u32,
    /// How long ago the connection asked for it, milliseconds, when the call is made. One that was asked for before the claim
    /// of another connection which has, or had, the session is refused as [`ResumeRefusal::TakenOver`], unless the two are no
    /// more than [`CLAIM_SLACK_MS`] apart.
    pub age_ms: u64,
    /// Carried out at a greater age than this, by the store's clock, it has no effect ([`StoreError::TooLate`]): its device was
    /// refused by then. `None`: at any age.
    pub valid_ms: Option<u64>,
    /// How long the Will of a connection that loses its session by this may wait for that connection's last word (the
    /// [`Store::release`] with its own fence), milliseconds; then it is due. 0: it is answered at once.
    pub will_wait_ms: u64,
    /// Now.
    pub now: UnixMs,
}

/// See [`Claim::age_ms`]: more than the store's clock is wrong by, as workers know it.
pub const CLAIM_SLACK_MS: u64 = 250;

/// The answer to a [`Claim`].
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    /// The session that is owned now; `None` if there was none and `create` was not set, or it could not be resumed.
    pub session: Option<Owned>,
    /// The Will of the connection or session that was there before, to be published now. One that waits for a last word
    /// ([`Claim::will_wait_ms`]) comes as [`Due::Will`].
    pub will_due: Option<DueWill>,
    /// The discarded session, whose routes are to be dropped.
    pub discarded: Option<Arc<StoredSession>>,
    /// Another worker has a connection that owned the session until now, and is to be told.
    pub previous: Option<Previous>,
    /// Why the session was not resumed.
    pub refusal: Option<ResumeRefusal>,
}

/// A connection at another worker that has lost its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Previous {
    /// At this worker.
    pub worker: WorkerId,
    /// This connection.
    pub connection_id: ConnectionId,
}

/// Why a [`Claim`] with `resume` got no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeRefusal {
    /// There is none any more.
    Gone,
    /// A newer connection of the device has it.
    TakenOver,
    /// It is another principal's.
    Foreign,
}

/// A session as its new owner finds it.
#[derive(Clone, Debug)]
pub struct Owned {
    /// For all further calls.
    pub fence: Fence,
    /// Session Present: it was there before.
    pub present: bool,
    /// Its subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// The oldest number that is not acknowledged; equal to `tail` when the queue is empty.
    pub head: Number,
    /// The number that the next message gets.
    pub tail: Number,
    /// Messages below this number may have been sent before; those from it on were not, by a worker that knew all that the
    /// client had acknowledged.
    pub sent: Number,
    /// Messages below this number may have been sent on an earlier connection of the client: on this one, with DUP.
    pub repeats: Number,
    /// Packet Identifiers of QoS 2 messages received from the client and not yet released by it.
    pub received: Vec<PacketId>,
    /// Session Expiry Interval in force, seconds.
    pub expiry_s: u32,
}

/// How a session ends a connection.
#[derive(Clone, Debug)]
pub struct Release {
    /// Session Expiry Interval in seconds from `now`; 0 discards the session at once.
    pub expiry_s: u32,
    /// Publish the Will that was given at the claim: after its delay, or when the session ends, whichever is first. It comes
    /// as [`Due::Will`], also when the session ends now. Unset: the Will is dropped.
    pub keep_will: bool,
    /// Messages below this number may have been sent, on this connection or an earlier one.
    pub sent: Number,
    /// The connection may go on at another worker: for so many milliseconds the session stays, even one that expires at
    /// once, and a [`Claim`] with `resume` may take it; its timers count from then.
    pub grace_ms: u64,
    /// Now.
    pub now: UnixMs,
}

/// A subscription as it is stored. For a Shared Subscription the filter is the whole `$share/...` string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The Topic Filter.
    pub filter: Arc<str>,
    /// Its options.
    pub options: SubscriptionOptions,
}

/// Subscription Options and the Subscription Identifier, as far as they are state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS granted.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Subscription Identifier, 1 to 268,435,455; 0 for none.
    pub subscription_id: u32,
}

/// A message that sessions in the store are to get.
#[derive(Clone, Debug)]
pub struct Publish {
    /// The message.
    pub message: Arc<Message>,
    /// Where a QoS 2 message came from, when its publisher's session is stored: it is remembered as received, in the
    /// same commit, until [`Store::forget_received`]; a repeat changes nothing and is answered as a duplicate.
    pub origin: Option<Origin>,
    /// By this the queues know it when it comes again, from whichever worker, for a few minutes at least, if the store can be
    /// given up by a worker half-way: see [`Store::part_of`]. `None` for what does not come again, and with an `origin`.
    pub identity: Option<[u8; 16]>,
    /// Who gets it: sessions with QoS 1 or 2. May be empty when there is an `origin`.
    pub targets: Vec<Target>,
}

/// The QoS 2 flow that a message came by.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The publisher's session.
    pub fence: Fence,
    /// The Packet Identifier of its PUBLISH.
    pub packet_id: PacketId,
}

/// One session that gets a message.
#[derive(Clone, Debug)]
pub struct Target {
    /// Whose queue.
    pub session: Arc<StoredSession>,
    /// What it gets, with the effective QoS (1 or 2).
    pub delivery: Delivery,
    /// The Shared Subscription (`$share/...`) as a member of which it was chosen. The choice is remembered with an
    /// [`Origin`]: when the message comes again, the member of then gets it, whoever is named now.
    // v5 [MQTT-4.8.2-5]
    pub share: Option<Arc<str>>,
}

/// The answer to a [`Publish`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The message came before by the same QoS 2 flow: nothing was enqueued and `targets` is empty.
    pub duplicate: bool,
    /// For each target, in the order asked.
    pub targets: Vec<Enqueued>,
    /// Targets in whose place others got it.
    pub instead: Vec<Instead>,
}

/// A target in whose place another member of its share got a message: the one that was chosen when the message came first. The
/// outcome is that one's, and nobody else is to be chosen, even if it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instead {
    /// The place of the target in [`Publish::targets`], and of the outcome in [`Published::targets`].
    pub target: usize,
    /// The member that was chosen first.
    pub chosen: Arc<StoredSession>,
}

/// What became of one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// In its queue, durable.
    At(Number),
    /// In its queue, durable; a connection at another worker owns the session, and that worker is to be told.
    Elsewhere(Number, WorkerId),
    /// There is no such session any more: done, nobody waits for it.
    Gone,
    /// Its queue is full: dropped, to be counted.
    Full,
}

/// One record of a queue.
#[derive(Clone, Debug)]
pub struct Queued {
    /// Its number.
    pub number: Number,
    /// The message, or that only its PUBREL is outstanding.
    pub record: Record,
}

/// A queue record's content.
#[derive(Clone, Debug)]
pub enum Record {
    /// To be sent, or sent and not acknowledged.
    Message(Delivery),
    /// PUBREC was received: send PUBREL, wait for PUBCOMP.
    Released,
}

/// A page of a queue, in the order of numbers; acknowledged numbers are left out.
#[derive(Clone, Debug, Default)]
pub struct QueuePage {
    /// The records.
    pub records: Vec<Queued>,
    /// Where the next page starts. Equal to the tail when there is no more.
    pub next: Number,
}

/// A position in a listing, to be handed back unchanged. Opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub Box<[u8]>);

/// A page of retained messages.
#[derive(Clone, Debug, Default)]
pub struct RetainedPage {
    /// Messages that match and have not expired.
    pub messages: Vec<Arc<Message>>,
    /// Where to go on, `None` at the end.
    pub next: Option<Cursor>,
}

/// What a stored session is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRoutes {
    /// The session.
    pub session: Arc<StoredSession>,
    /// The epoch that it had when this was read: its subscriptions have everything that owners of an earlier one changed.
    pub epoch: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<Subscription>,
}

/// A page of all routes of sessions whose queue is stored.
#[derive(Clone, Debug, Default)]
pub struct RoutePage {
    /// One session may be split over several entries.
    pub sessions: Vec<SessionRoutes>,
    /// Where to go on, `None` at the end.
    pub next: Option<Cursor>,
}

/// A Will Message to publish, then [`Store::finish_will`]. It comes again as [`Due::Will`] if that does not happen.
#[derive(Clone, Debug)]
pub struct DueWill {
    /// Whose connection left it; the session may be gone.
    pub session: Arc<StoredSession>,
    /// Whose session that is, or was; `None` if an earlier version stored it.
    pub principal: Option<Principal>,
    /// The Will Message.
    pub message: Arc<Message>,
    /// Tells it from others that the session left, and stays the same when it comes again; in a store that knows no identities,
    /// until a restart. Not 0.
    pub number: u64,
}

/// A message that a session left when it ended, for the other members of the share by which it had come: one with QoS 1 that
/// was not acknowledged, or with QoS 2 that was never sent. It comes again as [`Due::Left`] until [`Store::finish_left`].
// v5 section 4.8.2, [MQTT-4.8.2-5]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueLeft {
    /// Whose it was; it is gone.
    pub session: Arc<StoredSession>,
    /// The whole `$share/...` string.
    pub share: Arc<str>,
    /// The message.
    pub message: Arc<Message>,
    /// Tells it from others that the session left, and stays the same when it comes again.
    pub number: u64,
}

/// Something whose time has come.
#[derive(Clone, Debug)]
pub enum Due {
    /// A Will.
    Will(DueWill),
    /// A session that expired and was deleted: drop its routes.
    Expired(Arc<StoredSession>),
    /// What a member of a share left.
    Left(DueLeft),
}

/// Counts for metrics and `$SYS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Sessions.
    pub sessions: u64,
    /// Messages in queues.
    pub queued_messages: u64,
    /// Bytes in queues, as [`Message::size`] counts them.
    pub queued_bytes: u64,
    /// Retained messages.
    pub retained_messages: u64,
    /// Bytes of retained messages.
    pub retained_bytes: u64,
    /// Subscriptions of stored sessions.
    pub subscriptions: u64,
}

/// Sessions of one part that get a message all or none.
pub const PART_TARGETS_MAX: usize = 64;

/// Keeps what must outlive a connection. See the module for how answers come.
pub trait Store: Send + Sync + 'static {
    /// Takes a session over, or makes it, or discards it first: whatever the [`Claim`] says. Raises the epoch, so that
    /// all writes of an earlier owner are refused from here on.
    fn claim(&self, claim: Claim, done: Done<Claimed>);

    /// Ends a connection's ownership and starts the timers. Of a connection that has lost its session it is the last word about
    /// its Will, if that waits for it: dropped, or due at once. It is refused all the same. Who was taken for dead
    /// ([`crate::Cluster::bury`]) still lets go as it wants, as long as nobody has claimed the session since.
    fn release(&self, fence: &Fence, release: Release, done: Done<()>);

    /// The Will that was given at the claim is not to be published any more, whatever ends the connection.
    fn drop_will(&self, fence: &Fence, done: Done<()>);

    /// Adds or replaces subscriptions. Answers for each whether the filter was there before.
    fn subscribe(&self, fence: &Fence, subscriptions: Vec<Subscription>, done: Done<Vec<bool>>);

    /// Removes subscriptions. Answers for each whether it was there.
    fn unsubscribe(&self, fence: &Fence, filters: Vec<Arc<str>>, done: Done<Vec<bool>>);

    /// Puts a message into queues. The answer comes when that is durable. With an error it may be in some of them, unless all
    /// targets, at most [`PART_TARGETS_MAX`], are in one part ([`Store::part_of`]): then it is in none, or the store was closed.
    fn publish(&self, publish: Publish, done: Done<Published>);

    /// Where a client's session is kept: sessions in different parts may be out of reach at different times. `None` if all are in
    /// one place, where any number of them gets a message all or none.
    fn part_of(&self, client_id: &str) -> Option<u16> {
        let _ = client_id;
        None
    }

    /// Whether a fence is the current one: changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] and [`StoreError::NoSession`], as for every call of an owner.
    fn confirm(&self, fence: &Fence, done: Done<()>);

    /// Reads a queue from `from` on, at most `messages_max` records and about `bytes_max` bytes (but at least one record
    /// if there is one).
    fn read_queue(
        &self,
        fence: &Fence,
        from: Number,
        messages_max: usize,
        bytes_max: usize,
        done: Done<QueuePage>,
    );

    /// The client has acknowledged (PUBACK, PUBCOMP, PUBREC with an error), or the message expired or is too large: the
    /// record goes.
    fn acknowledge(&self, fence: &Fence, number: Number, done: Done<()>);

    /// PUBREC came: the record becomes [`Record::Released`]. PUBREL may be sent after the answer.
    fn mark_released(&self, fence: &Fence, number: Number, done: Done<()>);

    /// PUBREL came from the client: the Packet Identifier is forgotten. PUBCOMP may be sent after the answer.
    fn forget_received(&self, fence: &Fence, packet_id: PacketId, done: Done<()>);

    /// Sets the retained message of its topic, or clears it when the payload is empty. Later calls of
    /// [`Store::retained`] see it at once; the answer comes when it is durable.
    ///
    /// # Errors
    /// [`StoreError::RetainedQuota`] when it would be one too many.
    fn retain(&self, message: Arc<Message>, done: Done<()>);

    /// Reads retained messages that match a Topic Filter (without `$share`), a page at a time. A store that has them elsewhere gives
    /// fewer than asked for when they are large: a page ends after the message with which it has 1 MiB, or a little later.
    fn retained(
        &self,
        filter: &str,
        cursor: Option<Cursor>,
        messages_max: usize,
        now: UnixMs,
        done: Done<RetainedPage>,
    );

    /// Reads all routes, a page at a time: what a starting worker loads.
    fn routes(&self, cursor: Option<Cursor>, sessions_max: usize, done: Done<RoutePage>);

    /// For each session, the number that its next message gets; `None` if it is gone. A worker that may have missed what it
    /// was told compares them with what it knows.
    fn tails(&self, sessions: Vec<Arc<StoredSession>>, done: Done<Vec<Option<Number>>>);

    /// Takes what is due at `now`, at most `max` items. Retained messages that have expired go then, or in the course of time,
    /// whether somebody reads them or not.
    fn claim_due(&self, now: UnixMs, max: usize, done: Done<Vec<Due>>);

    /// This Will, and no other of its session, has been published.
    fn finish_will(&self, will: &DueWill, done: Done<()>);

    /// A message that a member of a share left has reached another one, or there is none.
    fn finish_left(&self, left: &DueLeft, done: Done<()>);

    /// The clock that the times in calls are to be read from: it runs on from what the store has seen, and nobody sets it.
    fn time(&self) -> TimeSource {
        clock::running_from(clock::wall())
    }

    /// Counts, cheap enough for every scrape.
    fn stats(&self) -> StoreStats;

    /// Makes everything durable and stops. Calls after it are refused as [`StoreError::Closed`].
    fn close(&self, done: Done<()>);
}
