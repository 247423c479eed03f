//! Sans-I/O codec for MQTT 3.1, 3.1.1 and 5: framing, borrowed views of all fifteen Control Packets, and their encoders.
//!
//! Strict and bounded: every view is validated in full when it is decoded, nothing is allocated by size fields, and no
//! input panics. It holds no session rules; what one packet alone cannot show is left to the broker. Start at
//! [`frame::FrameBuffer`] for bytes in, [`Packet::decode`] for views, [`publish::PublishHead`] for fan-out.

mod bytes_io;
mod connection_id;
mod error;
pub mod frame;
mod numbered;
mod packet;
mod packet_id;
mod packet_type;
mod property;
mod property_id;
mod qos;
mod reason;
mod receiver;
pub mod topic;
pub mod varint;
mod version;

pub use connection_id::ConnectionId;
pub use error::DecodeError;
pub use frame::{Frame, FrameBuffer, OwnedFrame};
pub use packet::Packet;
pub use packet::ack::{Ack, AckKind};
pub use packet::auth::Auth;
pub use packet::connack::ConnAck;
pub use packet::connect::{Connect, Will};
pub use packet::disconnect::Disconnect;
pub use packet::publish::{self, Publish, PublishHead};
pub use packet::suback::{ReasonCodes, SubAck, UnsubAck};
pub use packet::subscribe::{RetainHandling, Subscribe, SubscriptionOptions, Subscriptions};
pub use packet::unsubscribe::{TopicFilters, Unsubscribe};
pub use packet_id::PacketId;
pub use packet_type::PacketType;
pub use property::{Properties, PropertiesBuf, PropertiesIter, Property, PublishProperties};
pub use property_id::PropertyId;
pub use qos::{InvalidQoS, QoS};
pub use reason::{ConnectReturnCode, ReasonCode, UnknownReasonCode};
pub use receiver::Receiver;
pub use version::ProtocolVersion;
