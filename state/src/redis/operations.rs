//! The functions of the library, each declared once: its kind, the keys that it touches and the arguments that it takes, in order. A
//! declaration makes the type by which a function is called here, and says which places `k.<key>` and `a.<argument>` are in the
//! text of the library (`lua/`): see [`super::functions`].

use mqtt::PacketId;

use super::keys::{BucketKeys, ClientKeys, ClusterKeys, InboxKeys, RetainedKeys, SeatKeys};
use super::op::{Arg, Args, Form, Kind, Op, Rest};
use super::seat::Seating;
use crate::{ConnectionId, Fence, Number, UnixMs};

/// How a function is called.
pub(super) struct Signature {
    pub(super) name: &'static str,
    /// Its keys in order; none if it takes any number of them.
    pub(super) keys: &'static [&'static str],
    /// Its arguments in order, by name.
    pub(super) args: &'static [(&'static str, Form)],
}

/// Declares functions: `kind name(type of the call) of keys [key...] { argument: type... }`. One `of any` touches the keys that it
/// is given; one `of frame` is put together by [`super::call::Frame`]. Only the last argument may be a list.
macro_rules! operations {
    ($($(#[$doc:meta])* $kind:ident $name:ident($call:ident $(<$life:lifetime>)?) of $of:ident $keys:tt {
        $($(#[$arg_doc:meta])* $arg:ident: $ty:ty),* $(,)?
    })*) => {
        $(
            $(#[$doc])*
            pub(super) struct $call $(<$life>)? {
                $($(#[$arg_doc])* pub(super) $arg: $ty,)*
            }

            impl $(<$life>)? $call $(<$life>)? {
                pub(super) const SIGNATURE: Signature = Signature {
                    name: stringify!($name),
                    keys: operations!(@names $keys),
                    args: &[$((stringify!($arg), <$ty as Arg>::FORM)),*],
                };

                operations!(@on $of $kind $keys);

                /// Writes the arguments behind others.
                pub(super) fn put(self, _args: &mut Args) {
                    $(self.$arg.put(_args);)*
                }
            }
        )*

        /// All functions.
        pub(super) const SIGNATURES: &[Signature] = &[$($call::SIGNATURE),*];
    };
    (@whole $($of_whole:tt)*) => {
        operations! { $($of_whole)* [session, subscriptions, queue, received, index, timers, orphans] }
    };
    (@names [whole]) => {
        operations! { @whole @names }
    };
    (@names [$($key:ident),*]) => {
        &[$(stringify!($key)),*]
    };
    (@on $of:ident $kind:ident [whole]) => {
        operations! { @whole @on $of $kind }
    };
    (@on frame $kind:ident []) => {};
    (@on any $kind:ident []) => {
        /// The operation on these keys.
        pub(super) fn on(self, keys: Vec<String>) -> Op {
            let mut op = Op::new(Self::SIGNATURE.name, Kind::$kind, keys);
            self.put(&mut op.args);
            op
        }
    };
    (@on $of:ident $kind:ident [$($key:ident),*]) => {
        /// The operation on its keys among these.
        pub(super) fn on(self, keys: &$of<'_>) -> Op {
            let mut op = Op::new(Self::SIGNATURE.name, Kind::$kind, vec![$(keys.$key()),*]);
            self.put(&mut op.args);
            op
        }
    };
}

// In the order of `lua/`. Where `now` is `None`, a function asks its server.
operations! {
    /// What the owner of a session is told beyond its numbers.
    Read contents(ContentsOp) of ClientKeys [subscriptions, received] {}

    /// See [`crate::Store::claim`].
    Alone claim(ClaimOp<'a>) of ClientKeys [whole] {
        client_id: &'a str,
        /// Of the session that is made, if one is.
        incarnation: u64,
        nonce: u64,
        connection_id: ConnectionId,
        clean_start: bool,
        create: bool,
        expiry_s: u32,
        /// Empty for none.
        will: Vec<u8>,
        will_delay_s: u32,
        messages_max: u64,
        bytes_max: u64,
        protocol: u8,
        receive_maximum: u16,
        now: Option<UnixMs>,
        worker: &'a str,
        run: &'a str,
        may_create: bool,
        memory_queue: bool,
        resume: bool,
        attempt: u32,
        /// After how long a Will comes again that is answered.
        again_ms: u64,
        principal: &'a str,
        /// When the connection asked for the session, by the server's clock.
        asked_at: UnixMs,
        /// Until when the claim may have an effect.
        valid_until: UnixMs,
        will_wait_ms: u64,
        seat: Seating,
    }

    /// See [`crate::Store::release`].
    Alone release(ReleaseOp<'a>) of ClientKeys [whole] {
        client_id: &'a str,
        fence: &'a Fence,
        expiry_s: u32,
        keep_will: bool,
        sent: Number,
        now: Option<UnixMs>,
        grace_ms: u64,
    }

    /// See [`crate::Store::drop_will`].
    Write drop_will(DropWillOp<'a>) of ClientKeys [session] { fence: &'a Fence }

    /// Lets a session of a dead run go.
    Alone bury(BuryOp<'a>) of ClientKeys [whole] {
        client_id: &'a str,
        incarnation: Vec<u8>,
        run: &'a str,
        now: Option<UnixMs>,
        /// How long the session waits for its connection.
        grace_ms: u64,
    }

    /// What a worker's earlier run has left: it owns sessions no more, and publishes no Wills.
    Alone abandon(AbandonOp<'a>) of ClientKeys [whole] {
        client_id: &'a str,
        incarnation: Vec<u8>,
        /// The run that is.
        run: &'a str,
        now: Option<UnixMs>,
        worker: &'a str,
    }

    /// What a worker's earlier run was to publish, and has not, comes again now.
    Write rearm(RearmOp<'a>) of BucketKeys [timers, orphans] { worker: &'a str, now: Option<UnixMs> }

    /// See [`crate::Store::subscribe`].
    Write subscribe(SubscribeOp<'a>) of ClientKeys [session, subscriptions] {
        fence: &'a Fence,
        subscriptions_max: u64,
        /// For each its filter and its options.
        subscriptions: Vec<Vec<u8>>,
    }

    /// See [`crate::Store::unsubscribe`].
    Write unsubscribe(UnsubscribeOp<'a>) of ClientKeys [session, subscriptions] {
        fence: &'a Fence,
        filters: Vec<Vec<u8>>,
    }

    /// See [`crate::Store::confirm`].
    Read confirm(ConfirmOp<'a>) of ClientKeys [session] { fence: &'a Fence }

    /// See [`crate::Store::read_queue`].
    Read read_queue(ReadQueueOp<'a>) of ClientKeys [session, queue] {
        fence: &'a Fence,
        from: Number,
        messages_max: u64,
        bytes_max: u64,
    }

    /// Remembers a QoS 2 message, unless one with its Packet Identifier is remembered.
    Write receive(ReceiveOp<'a>) of ClientKeys [session, received] {
        fence: &'a Fence,
        packet_id: PacketId,
        /// See [`super::received::Known::with_state`].
        known: Vec<u8>,
    }

    /// A QoS 2 message that is remembered has been routed.
    Write received(ReceivedOp) of ClientKeys [session, received] {
        incarnation: u64,
        packet_id: PacketId,
        pending: Vec<u8>,
        routed: Vec<u8>,
    }

    /// See [`crate::Store::forget_received`].
    Write forget(ForgetOp<'a>) of ClientKeys [session, received] { fence: &'a Fence, packet_id: PacketId }

    /// The clients of a bucket.
    Read list(ListOp<'a>) of BucketKeys [index, orphans] { after: &'a str, clients_max: u64 }

    /// What a starting worker, or one that buries another, has to know of a session.
    Read inspect(InspectOp) of ClientKeys [session] {}

    /// What a session is subscribed to.
    Read route(RouteOp) of ClientKeys [session, subscriptions] {}

    /// See [`crate::Store::tails`]: of the sessions with these keys.
    Read tails(TailsOp) of any [] { incarnations: Vec<Vec<u8>> }

    /// What is due in a bucket, and when something is next.
    Read due(DueOp) of BucketKeys [timers] { now: Option<UnixMs>, entries_max: u64 }

    /// Takes a Will that is due.
    Alone take_will(TakeWillOp<'a>) of ClientKeys [whole] {
        client_id: &'a str,
        now: Option<UnixMs>,
        again_ms: u64,
        worker: &'a str,
    }

    /// Ends a session that has expired.
    Alone take_expiry(TakeExpiryOp<'a>) of ClientKeys [whole] { client_id: &'a str, now: Option<UnixMs> }

    /// Takes a Will that is due and outlived its session.
    Alone take_orphan(TakeOrphanOp<'a>) of BucketKeys [timers, orphans] {
        name: &'a str,
        now: Option<UnixMs>,
        again_ms: u64,
        worker: &'a str,
    }

    /// Takes what a member of a share left.
    Alone take_left(TakeLeftOp<'a>) of BucketKeys [timers, orphans] {
        name: &'a str,
        now: Option<UnixMs>,
        again_ms: u64,
    }

    /// See [`crate::Store::finish_left`].
    Alone finish_left(FinishLeftOp) of BucketKeys [timers, orphans] { incarnation: u64, number: u64 }

    /// See [`crate::Store::finish_will`].
    Alone finish_will(FinishWillOp<'a>) of ClientKeys [session, timers, orphans] {
        client_id: &'a str,
        incarnation: u64,
        number: u64,
    }

    /// See [`crate::Store::retain`]. Alone when it clears.
    Write retain(RetainOp<'a>) of RetainedKeys [values, topics, owners] {
        topic: Vec<u8>,
        /// Empty to clear it.
        record: Vec<u8>,
        size: u64,
        /// Whether one more is allowed.
        may_add: bool,
        /// Bytes that are allowed to come.
        bytes_max: u64,
        seat: Seating,
        token: u64,
        principal: &'a str,
    }

    /// Forgets a retained message that has expired, unless it was replaced.
    Alone forget_expired(ForgetExpiredOp<'a>) of RetainedKeys [values, topics, owners] {
        topic: &'a [u8],
        record: Vec<u8>,
    }

    /// Forgets some of the retained messages that have expired, though nobody reads them.
    Alone forget_all_expired(ForgetAllExpiredOp<'a>) of RetainedKeys [values, topics, owners] {
        after: &'a [u8],
        topics_max: u64,
        now: UnixMs,
    }

    /// Topics of retained messages.
    Read topics(TopicsOp) of RetainedKeys [topics] { from: Vec<u8>, to: Vec<u8>, topics_max: u64 }

    /// Retained messages.
    Read values(ValuesOp) of RetainedKeys [values] { topics: Vec<Vec<u8>> }

    /// How many retained messages there are, and their bytes.
    Read retained_counts(RetainedCountsOp) of RetainedKeys [values, topics] {}

    /// Takes a seat.
    Write take_seat(TakeSeatOp<'a>) of SeatKeys [seats, seat_order] {
        seat: &'a [u8],
        token: u64,
        /// The range of all seats of its kind that its principal has.
        front: &'a [u8],
        behind: &'a [u8],
        seats_max: u64,
        /// How long after a look nobody is told to look.
        look_interval_ms: u64,
    }

    /// Seats that were not known to be in use lately.
    Read aged_seats(AgedSeatsOp) of SeatKeys [seats, seat_order] {
        from: Vec<u8>,
        to: Vec<u8>,
        seats_max: u64,
        age_ms: u64,
    }

    /// What was found out about seats.
    Write settle_seats(SettleSeatsOp) of SeatKeys [seats, seat_order] {
        /// For each three: see the function.
        seats: Vec<Vec<u8>>,
    }

    /// Whether a client has a session that is this principal's.
    Read has_session(HasSessionOp<'a>) of ClientKeys [session] { principal: &'a str }

    /// Whether a topic has a retained message with a seat of this principal's.
    Read has_retained(HasRetainedOp<'a>) of RetainedKeys [values, topics, owners] {
        topic: &'a [u8],
        principal: &'a str,
    }

    /// Gives an end to identities that were left without one.
    Unnumbered age_identities(AgeIdentitiesOp) of BucketKeys [identities, identity_times] {}

    /// What goes into queues and out of them. Its keys: of identities if there are any, then of each session and its queue.
    Write change_queues(ChangeQueuesOp<'a>) of frame [] {
        run: &'a str,
        has_identities: bool,
        bodies_count: u64,
        /// So many bodies, then the changes: see the function.
        bodies: Rest,
    }

    /// See [`crate::Cluster::join`].
    Write join(JoinOp<'a>) of ClusterKeys [registry, log_end, burials] { run: &'a str, name: &'a str }

    /// See [`crate::Cluster::renew`]. Of no use to anybody after a failover: it is not kept as writes are.
    Unnumbered renew(RenewOp<'a>) of ClusterKeys [registry, log_end, burials] {
        run: &'a str,
        applied: u64,
        lease_ms: u64,
        server: &'a str,
    }

    /// See [`crate::Cluster::append`].
    Write append(AppendOp<'a>) of ClusterKeys [registry, log_end, log, listening, listening_qos] {
        run: &'a str,
        entries_max: u64,
        entries_count: u64,
        /// For each whether it is of what the worker listens to, and what it says; then for each change of that worker and filter,
        /// and what it gets or nothing.
        entries: Vec<Vec<u8>>,
    }

    /// See [`crate::Cluster::listening`].
    Read listening(ListeningOp) of ClusterKeys [listening, listening_qos] { after: Vec<u8>, routes_max: u64 }

    /// Some of what a worker listens to goes. See [`LeaveOp`] for what the arguments mean.
    Write unlisten(UnlistenOp<'a>) of ClusterKeys [registry, burials, listening, listening_qos] {
        run: &'a str,
        joined_us: u64,
        is_own: bool,
    }

    /// A worker leaves the registry, or is struck out of it.
    Alone leave(LeaveOp<'a>) of ClusterKeys [registry, log_end, log, burials] {
        run: &'a str,
        /// The entry that is meant, as [`JoinOp`] answered it: of one that has joined anew nothing goes. 0: whichever.
        joined_us: u64,
        /// It does so itself, which it may not while others bury it.
        is_own: bool,
        entries_max: u64,
        entry: Vec<u8>,
    }

    /// One worker at a time buries another.
    Write bury_turn(BuryTurnOp<'a>) of ClusterKeys [registry, burials] {
        run: &'a str,
        by: &'a str,
        /// How long nobody else may.
        turn_ms: u64,
        /// The bucket that it is at.
        bucket: u16,
        /// For how long it must be silent for this to begin.
        silent_ms: u64,
    }

    /// The inbox of a worker that has joined.
    Write open_inbox(OpenInboxOp) of InboxKeys [counters] { joined_us: u64 }

    /// The inbox of a worker that leaves, or is dead, if it is still the one that was opened then. Answers where its last entry is.
    Write shut_inbox(ShutInboxOp) of InboxKeys [inbox, counters] { joined_us: u64 }

    /// See [`crate::Cluster::bury`].
    Read left_in_inbox(LeftInInboxOp) of InboxKeys [inbox] { after: u64, entries_max: u64 }

    /// The same inbox, when nothing is left in it that anybody wants.
    Alone close_inbox(CloseInboxOp) of InboxKeys [inbox, counters] { joined_us: u64 }

    /// See [`crate::Cluster::post`].
    Write post(PostOp) of InboxKeys [inbox, counters] { bytes_max: u64, entry: Vec<u8> }

    /// What was read of an inbox is thrown away.
    Unnumbered trim(TrimOp) of InboxKeys [inbox, counters] { through: u64 }
}

/// Letters by which calls and answers say things: `word.<NAME>` in the text of the library.
macro_rules! words {
    ($($(#[$doc:meta])* $name:ident = $letter:literal,)*) => {
        /// Letters by which calls and answers say things.
        pub(super) mod word {
            $($(#[$doc])* pub(in super::super) const $name: u8 = $letter;)*

            /// All of them.
            pub(in super::super) const ALL: &[(&str, u8)] = &[$((stringify!($name), $name)),*];
        }
    };
}

words! {
    /// There is no such session.
    NO_SESSION = b'N',
    /// The session is another owner's.
    FENCED = b'F',
    /// A bound does not allow one more.
    QUOTA = b'Q',
    /// A queue or an inbox is full.
    FULL = b'X',
    /// A session, or a worker, is there no more.
    GONE = b'G',
    /// Another connection has the session.
    TAKEN_OVER = b'T',
    /// The session is another principal's.
    FOREIGN = b'P',
    /// A claim is valid no longer.
    TOO_LATE = b'L',
    /// A claim was asked for earlier than the one that has the session.
    OVERTAKEN = b'O',
    /// It would need a seat, which was not taken.
    UNSEATED = b'U',
    /// All seats are taken, and nobody has looked lately whether all are in use.
    LOOK = b'?',
    /// What needs a seat has none so far.
    NO_SEAT = b'0',
    /// What needs a seat has one.
    SEAT = b'1',
    /// A worker is being buried.
    BURIED = b'B',
    /// A message is in the queue now.
    QUEUED = b'+',
    /// A message was in the queue.
    KNOWN = b'=',
    /// A message was in the queue of another session, which was chosen first.
    KNOWN_ELSEWHERE = b'~',
    /// A record is settled.
    SETTLED = b'.',
    /// Of changes of a queue: messages come.
    ENQUEUE = b'E',
    /// Messages come that are known by a name.
    ENQUEUE_NAMED = b'I',
    /// Records go.
    ACKNOWLEDGE = b'A',
    /// Records become marks.
    RELEASE = b'R',
    /// Of a session: records are settled, and messages come.
    BOTH = b'C',
}
