//! What the edge asks and what it is answered, whether authentication runs in the same process or behind HTTP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use link::Passport;
use mqtt::{ProtocolVersion, ReasonCode};

/// Who asks to connect.
#[derive(Clone)]
pub struct Request {
    /// The Client Identifier, assigned if the client sent none.
    pub client_id: Arc<str>,
    /// User Name, if CONNECT had one.
    pub username: Option<Arc<str>>,
    /// Password, if CONNECT had one. Never logged: [`Request`] has no derived `Debug`.
    pub password: Option<Bytes>,
    /// The device's address; that of a load balancer where it named none.
    pub peer: SocketAddr,
    /// The device is known to be on this machine: connected over loopback, and where a load balancer stands in between, that
    /// said so.
    pub is_local: bool,
    /// The listener's name.
    pub listener: Arc<str>,
    /// What the verified client certificate says.
    pub certificate: Option<Arc<Certificate>>,
    /// The protocol of the connection.
    pub protocol: ProtocolVersion,
    /// Clean Start; before MQTT 5, Clean Session.
    pub clean_start: bool,
}

/// Facts of a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject; empty if there is none.
    pub subject: Arc<str>,
    /// Its whole subject as RFC 4514 writes it (`CN=pump-7,O=Plant`); empty if there is none, or none that is text.
    pub distinguished_name: Arc<str>,
    /// Subject alternative names in their order.
    pub alternative_names: Vec<AlternativeName>,
    /// SHA-256 of its DER encoding, lower-case hex.
    pub fingerprint: Arc<str>,
}

/// A subject alternative name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// A DNS name.
    Dns(Arc<str>),
    /// A URI.
    Uri(Arc<str>),
    /// An e-mail address.
    Email(Arc<str>),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may connect.
    Allow(Arc<Passport>),
    /// It may not.
    Deny(DenyReason),
}

/// Why a client may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// User name or password wrong, or missing.
    BadCredentials,
    /// Known, but not allowed to connect.
    NotAuthorized,
    /// Shut out.
    Banned,
    /// It could not be decided: try again later.
    Unavailable,
    /// The Authentication Method is not supported.
    BadMethod,
    /// Too many wrong passwords lately.
    SlowedDown,
}

impl DenyReason {
    /// The v5 Reason Code for CONNACK or DISCONNECT.
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::BadCredentials => ReasonCode::BadUserNameOrPassword,
            Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::Banned => ReasonCode::Banned,
            Self::Unavailable => ReasonCode::ServerUnavailable,
            Self::BadMethod => ReasonCode::BadAuthenticationMethod,
            Self::SlowedDown => ReasonCode::ConnectionRateExceeded,
        }
    }

    /// As metrics write it.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadCredentials => "bad_credentials",
            Self::NotAuthorized => "not_authorized",
            Self::Banned => "banned",
            Self::Unavailable => "unavailable",
            Self::BadMethod => "bad_method",
            Self::SlowedDown => "slowed_down",
        }
    }
}

/// Decides who may connect and what they may do.
pub trait Authenticator: Send + Sync + 'static {
    /// One run of an Authentication Method.
    type Exchange: Exchange;

    /// Decides about a CONNECT without an Authentication Method. Bounded in time by the implementation.
    fn authenticate(&self, request: Request) -> impl Future<Output = Decision> + Send;

    /// Begins enhanced authentication (v5 section 4.12) with a CONNECT's, or a re-authentication's, Authentication
    /// Method. `None`: the method is not supported, refuse with 0x8C.
    fn begin(&self, method: &str, request: Request) -> Option<Self::Exchange>;

    /// Whether what a client may do can become something else before its passport ends: then [`crate::Revocations`] tells, and
    /// it is asked about anew.
    fn rules_may_change(&self) -> bool {
        false
    }
}

/// One run of an Authentication Method.
pub trait Exchange: Send + 'static {
    /// Takes the client's Authentication Data (from CONNECT or AUTH) and says how to go on.
    fn step(&mut self, data: Option<&[u8]>) -> impl Future<Output = Step> + Send;

    /// What has to be remembered until the client answers, for [`crate::Local`] to go on from elsewhere; secret, and not to be
    /// changed by others. `None` where the exchange cannot go on elsewhere.
    fn suspend(&self) -> Option<Vec<u8>> {
        None
    }
}

/// How enhanced authentication goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send AUTH 0x18 with this Authentication Data and wait for the client's.
    Continue(Bytes),
    /// The client is who it says; the data goes into CONNACK (or AUTH 0x00).
    Done(Arc<Passport>, Option<Bytes>),
    /// It is not.
    Deny(DenyReason),
}
