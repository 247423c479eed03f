//! What goes into a session and what comes out: the whole of its contact with the world. No clock, randomness or socket
//! is in here; whoever drives the session has those.

use std::sync::Arc;

use link::{Outgoing, Passport};
use mqtt::{PacketId, QoS, ReasonCode};
use state::{Delivery, Message, Number, QueuePage, StoreError, Subscription, UnixMs};

use crate::authorize::bounds::Bound;

/// What happened to a session.
#[derive(Debug)]
pub(crate) enum Input<'a> {
    /// The device sent one whole Control Packet (never CONNECT, PINGREQ, AUTH).
    Packet(mqtt::frame::Frame<'a>),
    /// A matching message, for a session whose queue is in memory, or QoS 0 for any.
    Deliver(Delivery),
    /// A matching message that is in the store's queue under this number. May come again, late, or not at all (then a
    /// later number shows the gap, and the session reads its queue).
    DeliverStored(Number, Delivery),
    /// Messages up to this number are in the store's queue and were not all handed in: the session reads when it has
    /// room.
    Missed(Number),
    /// The answer to [`Effect::Publish`] with QoS 1 or 2. `Success`, `NoMatchingSubscribers`, or an error.
    Published(PacketId, QoS, Result<ReasonCode, StoreError>),
    /// The answer to [`Effect::Request`]: a Reason Code for each filter, in order (for SUBSCRIBE granted QoS or an error).
    Responded(PacketId, RequestKind, Vec<ReasonCode>),
    /// A retained message for a new subscription, when its QoS is 0 or the queue is in memory. Asked for by
    /// [`Effect::MoreRetained`].
    Retained(Delivery),
    /// The answer to [`StoreOp::ReadQueue`]. As with every answer of the store, an error that may pass is better retried
    /// by the driver: the session holds back what waits for it, and the client finds it when it connects again.
    Queue(Result<QueuePage, StoreError>),
    /// The answer to [`StoreOp::MarkReleased`].
    Released(Number, Result<(), StoreError>),
    /// The answer to [`StoreOp::ForgetReceived`].
    Forgotten(PacketId, Result<(), StoreError>),
    /// Another connection has the session now, here or at another worker.
    TakenOver,
    /// The server ends the connection for this reason (shutdown, administrative action, expired passport, a session
    /// that the store says is somebody else's).
    End(ReasonCode),
    /// Re-authentication gave a new passport.
    Renewed(Arc<Passport>),
    /// The transport has taken what was written: there is room for more messages.
    Writable,
}

/// What a session wants done. Packets for the device are not effects: they are encoded to `Outputs::wire` at once.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Route an authorised message. QoS 1 and 2 are answered by [`Input::Published`] when it is durable wherever it must
    /// be; the packet identifier is the publisher's. For QoS 2 of a stored session the driver has the store remember the
    /// identifier in the same commit.
    Publish(Option<PacketId>, Arc<Message>),
    /// Retain a QoS 2 message that was routed when it came on an earlier connection: it may not have been retained then, or something
    /// that is sent again before it is retained now. It is answered as by [`Effect::Publish`].
    RetainAgain(PacketId, Arc<Message>),
    /// Carry this out. The answer is [`Input::Responded`] with the codes of *all* the packet's filters.
    Request(PacketId, Request),
    /// There is room: hand in about this many retained messages, if any wait.
    MoreRetained(usize),
    /// Have the store do this, for a stored session.
    Store(StoreOp),
    /// A message was dropped, to be counted.
    Dropped(DropReason, QoS),
    /// The client was refused what is beyond a bound, to be counted.
    Limited(Bound),
    /// The connection ends; what is on the wire is to be written first. Nothing comes after this.
    Close(Closing),
}

impl Effect {
    /// Whether it is what an acknowledgement of the client asks of the store.
    pub(crate) fn is_acknowledgement(&self) -> bool {
        matches!(self, Self::Store(StoreOp::Acknowledge(_) | StoreOp::MarkReleased(_)))
    }
}

/// What a session asks of the store by itself. It reaches the store as it is here, and the answer comes back as the [`Input`]
/// that is named.
#[derive(Clone, Debug)]
pub(crate) enum StoreOp {
    /// Read the stored queue from this number on, at most so many records: [`Input::Queue`]. One read is under way at most.
    ReadQueue(Number, usize),
    /// The record may go. No answer is needed.
    Acknowledge(Number),
    /// PUBREC came: [`Input::Released`] when that is durable.
    MarkReleased(Number),
    /// PUBREL came from the client: [`Input::Forgotten`] when that is durable.
    ForgetReceived(PacketId),
}

/// What a SUBSCRIBE or UNSUBSCRIBE asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Add or replace these subscriptions, all authorised and valid; the driver deals with retained messages according to
    /// `retain_handling`, after SUBACK. Refused ones are in here with their code.
    Subscribe(Vec<SubscribeItem>),
    /// Remove these.
    Unsubscribe {
        /// Which.
        filters: Vec<Arc<str>>,
        /// Another worker may have done so, and nobody have been told.
        is_again: bool,
    },
}

impl Request {
    pub(crate) fn kind(&self) -> RequestKind {
        match self {
            Self::Subscribe(_) => RequestKind::Subscribe,
            Self::Unsubscribe { .. } => RequestKind::Unsubscribe,
        }
    }
}

/// What kind of request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RequestKind {
    /// SUBSCRIBE.
    Subscribe,
    /// UNSUBSCRIBE.
    Unsubscribe,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug)]
pub(crate) struct SubscribeItem {
    /// What to subscribe, or the Reason Code with which this one is refused.
    pub subscription: Result<Subscription, ReasonCode>,
    /// Retain Handling; `DoNotSend` for Shared Subscriptions.
    pub retain_handling: mqtt::RetainHandling,
    /// Its place among what outdates retained messages, as [`Session::open_retained`] says.
    ///
    /// [`Session::open_retained`]: super::Session::open_retained
    pub asked_at: u64,
}

/// Why and how a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Closing {
    /// For logs and metrics.
    pub reason: ReasonCode,
    /// Whether the Will Message is due ([MQTT-3.1.2-8]).
    pub will: WillFate,
    /// The Session Expiry Interval in force now, seconds: DISCONNECT may have changed it.
    pub expiry_s: u32,
}

/// What becomes of the Will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WillFate {
    /// Deleted without publishing: the client said DISCONNECT 0x00.
    Drop,
    /// Published after its delay or when the session ends.
    Publish,
    /// Decided by the takeover.
    TakenOver,
}

link::labels! {
    /// Why a message did not reach a session.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) enum DropReason {
        /// A queue was full.
        QueueFull = "QueueFull",
        /// QoS 0 for a device that does not read fast enough.
        SlowClient = "SlowClient",
        /// The process has too much memory, and the device is among those that read least.
        OutOfMemory = "OutOfMemory",
        /// Its Message Expiry Interval passed.
        Expired = "Expired",
        /// Larger than the client's Maximum Packet Size.
        // v5 [MQTT-3.1.2-25]
        TooLarge = "TooLarge",
        /// The client refused it with an error code in PUBACK or PUBREC.
        Refused = "Refused",
        /// The publisher's passport does not allow it.
        NotAuthorized = "NotAuthorized",
        /// Whoever is asked about it gave no answer.
        Undecided = "Undecided",
        /// The passport of who was to get it does not allow it any more.
        ReceiverNotAuthorized = "ReceiverNotAuthorized",
    }
}

/// Where a session's outputs go.
pub(crate) struct Outputs<'o> {
    /// Packets for the device, encoded, in order.
    pub wire: &'o mut Outgoing,
    /// Everything else, in order.
    pub effects: &'o mut Vec<Effect>,
}

/// What a session is opened with, beside the CONNECT packet.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// Its Client Identifier.
    pub client_id: Arc<str>,
    /// Set when the server assigned it.
    pub assigned: bool,
    /// What it may do.
    pub passport: Arc<Passport>,
    /// For CONNACK.
    pub server_keep_alive_s: Option<u16>,
    /// For CONNACK.
    pub authentication: Option<link::AuthenticationOutcome>,
    /// What is in the store, and where its queue stands; `None`: everything in memory.
    pub stored: Option<state::Owned>,
    /// Its queue is in memory, whatever else is in the store.
    pub memory_queue: bool,
    /// The connection was at another worker before: nothing is answered.
    pub resume: Option<Box<link::Resume>>,
    /// Now.
    pub now: UnixMs,
}
