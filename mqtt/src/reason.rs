//! Reason Codes of MQTT 5, which packet may carry which, and the CONNECT return codes of MQTT 3.1 and 3.1.1.

use crate::packet_type::PacketType;
use crate::receiver::Receiver;

/// A Reason Code of MQTT 5 (section 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ReasonCode {
    /// Success, Normal disconnection, or Granted QoS 0.
    Success = 0x00,
    /// Subscription granted at QoS 1.
    GrantedQoS1 = 0x01,
    /// Subscription granted at QoS 2.
    GrantedQoS2 = 0x02,
    /// The client leaves and wants its Will Message published.
    DisconnectWithWillMessage = 0x04,
    /// Accepted, but nobody is subscribed.
    NoMatchingSubscribers = 0x10,
    /// There was nothing to unsubscribe from.
    NoSubscriptionExisted = 0x11,
    /// Another step of authentication follows.
    ContinueAuthentication = 0x18,
    /// The client starts a re-authentication.
    ReAuthenticate = 0x19,
    /// Failure without a stated reason.
    UnspecifiedError = 0x80,
    /// The packet could not be parsed.
    MalformedPacket = 0x81,
    /// Unexpected data, or data that the protocol does not allow.
    ProtocolError = 0x82,
    /// Valid, but not accepted by this implementation.
    ImplementationSpecificError = 0x83,
    /// The version of the CONNECT is not supported.
    UnsupportedProtocolVersion = 0x84,
    /// The Client Identifier is not allowed.
    ClientIdentifierNotValid = 0x85,
    /// Wrong User Name or Password.
    BadUserNameOrPassword = 0x86,
    /// Not authorized.
    NotAuthorized = 0x87,
    /// The server is not available.
    ServerUnavailable = 0x88,
    /// The server is busy; try later.
    ServerBusy = 0x89,
    /// The client is banned.
    Banned = 0x8A,
    /// The server is shutting down.
    ServerShuttingDown = 0x8B,
    /// The authentication method is unknown or has changed.
    BadAuthenticationMethod = 0x8C,
    /// Nothing arrived for one and a half times the Keep Alive.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the same Client Identifier.
    SessionTakenOver = 0x8E,
    /// The Topic Filter is not accepted.
    TopicFilterInvalid = 0x8F,
    /// The Topic Name is not accepted.
    TopicNameInvalid = 0x90,
    /// The Packet Identifier is in use already.
    PacketIdentifierInUse = 0x91,
    /// The Packet Identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More unacknowledged PUBLISH packets than the Receive Maximum.
    ReceiveMaximumExceeded = 0x93,
    /// The Topic Alias is zero, too large or unknown.
    TopicAliasInvalid = 0x94,
    /// The packet exceeds the Maximum Packet Size.
    PacketTooLarge = 0x95,
    /// Data arrives too fast.
    MessageRateTooHigh = 0x96,
    /// An implementation or administrative limit was exceeded.
    QuotaExceeded = 0x97,
    /// Closed by an administrator.
    AdministrativeAction = 0x98,
    /// The payload is not what its Payload Format Indicator says.
    PayloadFormatInvalid = 0x99,
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A,
    /// The Quality of Service is not supported.
    QoSNotSupported = 0x9B,
    /// Use another server for now.
    UseAnotherServer = 0x9C,
    /// Use another server from now on.
    ServerMoved = 0x9D,
    /// Shared Subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connections are made too fast.
    ConnectionRateExceeded = 0x9F,
    /// The time authorized for this connection is over.
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

/// A byte that names no Reason Code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:#04x} is not a Reason Code")]
pub struct UnknownReasonCode(pub u8);

#[allow(non_upper_case_globals)] // aliases of variants, written as variants
impl ReasonCode {
    /// Alias of [`ReasonCode::Success`] in DISCONNECT.
    pub const NormalDisconnection: Self = Self::Success;
    /// Alias of [`ReasonCode::Success`] in SUBACK.
    pub const GrantedQoS0: Self = Self::Success;
}

impl ReasonCode {
    /// All Reason Codes, in the order of their bytes.
    pub const ALL: [Self; 43] = [
        Self::Success,
        Self::GrantedQoS1,
        Self::GrantedQoS2,
        Self::DisconnectWithWillMessage,
        Self::NoMatchingSubscribers,
        Self::NoSubscriptionExisted,
        Self::ContinueAuthentication,
        Self::ReAuthenticate,
        Self::UnspecifiedError,
        Self::MalformedPacket,
        Self::ProtocolError,
        Self::ImplementationSpecificError,
        Self::UnsupportedProtocolVersion,
        Self::ClientIdentifierNotValid,
        Self::BadUserNameOrPassword,
        Self::NotAuthorized,
        Self::ServerUnavailable,
        Self::ServerBusy,
        Self::Banned,
        Self::ServerShuttingDown,
        Self::BadAuthenticationMethod,
        Self::KeepAliveTimeout,
        Self::SessionTakenOver,
        Self::TopicFilterInvalid,
        Self::TopicNameInvalid,
        Self::PacketIdentifierInUse,
        Self::PacketIdentifierNotFound,
        Self::ReceiveMaximumExceeded,
        Self::TopicAliasInvalid,
        Self::PacketTooLarge,
        Self::MessageRateTooHigh,
        Self::QuotaExceeded,
        Self::AdministrativeAction,
        Self::PayloadFormatInvalid,
        Self::RetainNotSupported,
        Self::QoSNotSupported,
        Self::UseAnotherServer,
        Self::ServerMoved,
        Self::SharedSubscriptionsNotSupported,
        Self::ConnectionRateExceeded,
        Self::MaximumConnectTime,
        Self::SubscriptionIdentifiersNotSupported,
        Self::WildcardSubscriptionsNotSupported,
    ];

    /// The byte on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether the code is 0x80 or above: the operation failed.
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// The name as an identifier in lower case, fit for a metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::GrantedQoS1 => "granted_qos_1",
            Self::GrantedQoS2 => "granted_qos_2",
            Self::DisconnectWithWillMessage => "disconnect_with_will_message",
            Self::NoMatchingSubscribers => "no_matching_subscribers",
            Self::NoSubscriptionExisted => "no_subscription_existed",
            Self::ContinueAuthentication => "continue_authentication",
            Self::ReAuthenticate => "re_authenticate",
            Self::UnspecifiedError => "unspecified_error",
            Self::MalformedPacket => "malformed_packet",
            Self::ProtocolError => "protocol_error",
            Self::ImplementationSpecificError => "implementation_specific_error",
            Self::UnsupportedProtocolVersion => "unsupported_protocol_version",
            Self::ClientIdentifierNotValid => "client_identifier_not_valid",
            Self::BadUserNameOrPassword => "bad_user_name_or_password",
            Self::NotAuthorized => "not_authorized",
            Self::ServerUnavailable => "server_unavailable",
            Self::ServerBusy => "server_busy",
            Self::Banned => "banned",
            Self::ServerShuttingDown => "server_shutting_down",
            Self::BadAuthenticationMethod => "bad_authentication_method",
            Self::KeepAliveTimeout => "keep_alive_timeout",
            Self::SessionTakenOver => "session_taken_over",
            Self::TopicFilterInvalid => "topic_filter_invalid",
            Self::TopicNameInvalid => "topic_name_invalid",
            Self::PacketIdentifierInUse => "packet_identifier_in_use",
            Self::PacketIdentifierNotFound => "packet_identifier_not_found",
            Self::ReceiveMaximumExceeded => "receive_maximum_exceeded",
            Self::TopicAliasInvalid => "topic_alias_invalid",
            Self::PacketTooLarge => "packet_too_large",
            Self::MessageRateTooHigh => "message_rate_too_high",
            Self::QuotaExceeded => "quota_exceeded",
            Self::AdministrativeAction => "administrative_action",
            Self::PayloadFormatInvalid => "payload_format_invalid",
            Self::RetainNotSupported => "retain_not_supported",
            Self::QoSNotSupported => "qos_not_supported",
            Self::UseAnotherServer => "use_another_server",
            Self::ServerMoved => "server_moved",
            Self::SharedSubscriptionsNotSupported => "shared_subscriptions_not_supported",
            Self::ConnectionRateExceeded => "connection_rate_exceeded",
            Self::MaximumConnectTime => "maximum_connect_time",
            Self::SubscriptionIdentifiersNotSupported => "subscription_identifiers_not_supported",
            Self::WildcardSubscriptionsNotSupported => "wildcard_subscriptions_not_supported",
        }
    }

    /// The code in a SUBACK that grants `qos`.
    pub const fn granted(qos: crate::QoS) -> Self {
        match qos {
            crate::QoS::AtMostOnce => Self::Success,
            crate::QoS::AtLeastOnce => Self::GrantedQoS1,
            crate::QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// Whether a packet of this type may carry the code on its way to `receiver` (the tables of sections 3.2 to 3.15).
    pub const fn is_allowed(self, packet: PacketType, receiver: Receiver) -> bool {
        let to_server = matches!(receiver, Receiver::Server);
        let code = self.as_u8();
        match packet {
            // v5 [MQTT-3.2.2-8]
            PacketType::ConnAck => {
                matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
            }
            // v5 [MQTT-3.4.2-1], v5 [MQTT-3.5.2-1]
            PacketType::PubAck | PacketType::PubRec => {
                matches!(code, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            // v5 [MQTT-3.6.2-1], v5 [MQTT-3.7.2-1]
            PacketType::PubRel | PacketType::PubComp => matches!(code, 0x00 | 0x92),
            // v5 [MQTT-3.9.3-2]
            PacketType::SubAck => {
                matches!(code, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            // v5 [MQTT-3.11.3-2]
            PacketType::UnsubAck => matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
            // v5 [MQTT-3.14.2-1]
            PacketType::Disconnect => match code {
                0x04 => to_server,
                0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99 => true,
                0x87 | 0x89 | 0x8B | 0x8D..=0x8F | 0x9A..=0xA2 => !to_server,
                _ => false,
            },
            // v5 [MQTT-3.15.2-1]
            PacketType::Auth => match code {
                0x00 => !to_server,
                0x18 => true,
                0x19 => to_server,
                _ => false,
            },
            _ => false,
        }
    }
}

impl TryFrom<u8> for ReasonCode {
    type Error = UnknownReasonCode;

    fn try_from(byte: u8) -> Result<Self, UnknownReasonCode> {
        Ok(match byte {
            0x00 => Self::Success,
            0x01 => Self::GrantedQoS1,
            0x02 => Self::GrantedQoS2,
            0x04 => Self::DisconnectWithWillMessage,
            0x10 => Self::NoMatchingSubscribers,
            0x11 => Self::NoSubscriptionExisted,
            0x18 => Self::ContinueAuthentication,
            0x19 => Self::ReAuthenticate,
            0x80 => Self::UnspecifiedError,
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x83 => Self::ImplementationSpecificError,
            0x84 => Self::UnsupportedProtocolVersion,
            0x85 => Self::ClientIdentifierNotValid,
            0x86 => Self::BadUserNameOrPassword,
            0x87 => Self::NotAuthorized,
            0x88 => Self::ServerUnavailable,
            0x89 => Self::ServerBusy,
            0x8A => Self::Banned,
            0x8B => Self::ServerShuttingDown,
            0x8C => Self::BadAuthenticationMethod,
            0x8D => Self::KeepAliveTimeout,
            0x8E => Self::SessionTakenOver,
            0x8F => Self::TopicFilterInvalid,
            0x90 => Self::TopicNameInvalid,
            0x91 => Self::PacketIdentifierInUse,
            0x92 => Self::PacketIdentifierNotFound,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 => Self::PayloadFormatInvalid,
            0x9A => Self::RetainNotSupported,
            0x9B => Self::QoSNotSupported,
            0x9C => Self::UseAnotherServer,
            0x9D => Self::ServerMoved,
            0x9E => Self::SharedSubscriptionsNotSupported,
            0x9F => Self::ConnectionRateExceeded,
            0xA0 => Self::MaximumConnectTime,
            0xA1 => Self::SubscriptionIdentifiersNotSupported,
            0xA2 => Self::WildcardSubscriptionsNotSupported,
            _ => return Err(UnknownReasonCode(byte)),
        })
    }
}

/// CONNECT return code of MQTT 3.1 and 3.1.1 (section 3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ConnectReturnCode {
    /// 0: accepted.
    Accepted = 0,
    /// 1: the server does not support the level of the protocol.
    UnacceptableProtocolVersion = 1,
    /// 2: the Client Identifier is not allowed.
    IdentifierRejected = 2,
    /// 3: the server is not available.
    ServerUnavailable = 3,
    /// 4: bad user name or password.
    BadUserNameOrPassword = 4,
    /// 5: not authorized.
    NotAuthorized = 5,
}

impl ConnectReturnCode {
    /// The byte on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The code that `byte` names; `None` above 5.
    pub const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Accepted,
            1 => Self::UnacceptableProtocolVersion,
            2 => Self::IdentifierRejected,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// The nearest code for a Reason Code of an MQTT 5 CONNACK. What the older versions cannot say (busy, quota, rate,
    /// unspecified) becomes [`ConnectReturnCode::ServerUnavailable`].
    pub const fn from_reason(reason: ReasonCode) -> Self {
        match reason {
            ReasonCode::Success => Self::Accepted,
            ReasonCode::UnsupportedProtocolVersion => Self::UnacceptableProtocolVersion,
            ReasonCode::ClientIdentifierNotValid => Self::IdentifierRejected,
            ReasonCode::BadUserNameOrPassword => Self::BadUserNameOrPassword,
            ReasonCode::NotAuthorized
            | ReasonCode::Banned
            | ReasonCode::BadAuthenticationMethod
            | ReasonCode::TopicNameInvalid
            | ReasonCode::RetainNotSupported
            | ReasonCode::QoSNotSupported => Self::NotAuthorized,
            _ => Self::ServerUnavailable,
        }
    }

    /// The Reason Code of MQTT 5 that says the same.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Accepted => ReasonCode::Success,
            Self::UnacceptableProtocolVersion => ReasonCode::UnsupportedProtocolVersion,
            Self::IdentifierRejected => ReasonCode::ClientIdentifierNotValid,
            Self::ServerUnavailable => ReasonCode::ServerUnavailable,
            Self::BadUserNameOrPassword => ReasonCode::BadUserNameOrPassword,
            Self::NotAuthorized => ReasonCode::NotAuthorized,
        }
    }
}
