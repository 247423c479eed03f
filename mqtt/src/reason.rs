//! Reason Codes of MQTT 5, which packet may carry which, and the CONNECT return codes of MQTT 3.1 and 3.1.1.

use crate::packet_type::PacketType;
use crate::receiver::Receiver;

macro_rules! reason_codes {
    ($($(#[$meta:meta])* $code:ident = $byte:literal, $label:literal;)*) => {
        crate::numbered! {
            /// A Reason Code of MQTT 5 (section 2.4).
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub enum ReasonCode {
                $($(#[$meta])* $code = $byte,)*
            }
        }

        impl ReasonCode {
            /// The name as an identifier in lower case, fit for a metric label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$code => $label,)*
                }
            }
        }
    };
}

reason_codes! {
    /// Success, Normal disconnection, or Granted QoS 0.
    Success = 0x00, "success";
    /// Subscription granted at QoS 1.
    GrantedQoS1 = 0x01, "granted_qos_1";
    /// Subscription granted at QoS 2.
    GrantedQoS2 = 0x02, "granted_qos_2";
    /// The client leaves and wants its Will Message published.
    DisconnectWithWillMessage = 0x04, "disconnect_with_will_message";
    /// Accepted, but nobody is subscribed.
    NoMatchingSubscribers = 0x10, "no_matching_subscribers";
    /// There was nothing to unsubscribe from.
    NoSubscriptionExisted = 0x11, "no_subscription_existed";
    /// Another step of authentication follows.
    ContinueAuthentication = 0x18, "continue_authentication";
    /// The client starts a re-authentication.
    ReAuthenticate = 0x19, "re_authenticate";
    /// Failure without a stated reason.
    UnspecifiedError = 0x80, "unspecified_error";
    /// The packet could not be parsed.
    MalformedPacket = 0x81, "malformed_packet";
    /// Unexpected data, or data that the protocol does not allow.
    ProtocolError = 0x82, "protocol_error";
    /// Valid, but not accepted by this implementation.
    ImplementationSpecificError = 0x83, "implementation_specific_error";
    /// The version of the CONNECT is not supported.
    UnsupportedProtocolVersion = 0x84, "unsupported_protocol_version";
    /// The Client Identifier is not allowed.
    ClientIdentifierNotValid = 0x85, "client_identifier_not_valid";
    /// Wrong User Name or Password.
    BadUserNameOrPassword = 0x86, "bad_user_name_or_password";
    /// Not authorized.
    NotAuthorized = 0x87, "not_authorized";
    /// The server is not available.
    ServerUnavailable = 0x88, "server_unavailable";
    /// The server is busy; try later.
    ServerBusy = 0x89, "server_busy";
    /// The client is banned.
    Banned = 0x8A, "banned";
    /// The server is shutting down.
    ServerShuttingDown = 0x8B, "server_shutting_down";
    /// The authentication method is unknown or has changed.
    BadAuthenticationMethod = 0x8C, "bad_authentication_method";
    /// Nothing arrived for one and a half times the Keep Alive.
    KeepAliveTimeout = 0x8D, "keep_alive_timeout";
    /// Another connection uses the same Client Identifier.
    SessionTakenOver = 0x8E, "session_taken_over";
    /// The Topic Filter is not accepted.
    TopicFilterInvalid = 0x8F, "topic_filter_invalid";
    /// The Topic Name is not accepted.
    TopicNameInvalid = 0x90, "topic_name_invalid";
    /// The Packet Identifier is in use already.
    PacketIdentifierInUse = 0x91, "packet_identifier_in_use";
    /// The Packet Identifier is not known.
    PacketIdentifierNotFound = 0x92, "packet_identifier_not_found";
    /// More unacknowledged PUBLISH packets than the Receive Maximum.
    ReceiveMaximumExceeded = 0x93, "receive_maximum_exceeded";
    /// The Topic Alias is zero, too large or unknown.
    TopicAliasInvalid = 0x94, "topic_alias_invalid";
    /// The packet exceeds the Maximum Packet Size.
    PacketTooLarge = 0x95, "packet_too_large";
    /// Data arrives too fast.
    MessageRateTooHigh = 0x96, "message_rate_too_high";
    /// An implementation or administrative limit was exceeded.
    QuotaExceeded = 0x97, "quota_exceeded";
    /// Closed by an administrator.
    AdministrativeAction = 0x98, "administrative_action";
    /// The payload is not what its Payload Format Indicator says.
    PayloadFormatInvalid = 0x99, "payload_format_invalid";
    /// Retained messages are not supported.
    RetainNotSupported = 0x9A, "retain_not_supported";
    /// The Quality of Service is not supported.
    QoSNotSupported = 0x9B, "qos_not_supported";
    /// Use another server for now.
    UseAnotherServer = 0x9C, "use_another_server";
    /// Use another server from now on.
    ServerMoved = 0x9D, "server_moved";
    /// Shared Subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E, "shared_subscriptions_not_supported";
    /// Connections are made too fast.
    ConnectionRateExceeded = 0x9F, "connection_rate_exceeded";
    /// The time authorized for this connection is over.
    MaximumConnectTime = 0xA0, "maximum_connect_time";
    /// Subscription Identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1, "subscription_identifiers_not_supported";
    /// Wildcard Subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2, "wildcard_subscriptions_not_supported";
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
    /// Whether the code is 0x80 or above: the operation failed.
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
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
        Self::from_u8(byte).ok_or(UnknownReasonCode(byte))
    }
}

crate::numbered! {
    /// CONNECT return code of MQTT 3.1 and 3.1.1 (section 3.2.2.3).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
}

impl ConnectReturnCode {
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
