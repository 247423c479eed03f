//! What is said of a client to an endpoint.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use mqtt::ProtocolVersion;

use crate::Request;
use crate::source::is_subject;

/// Facts of a CONNECT. Holds a password: no `Debug`.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) username: Option<Arc<str>>,
    /// Empty if there is none.
    pub(super) password: Bytes,
    pub(super) client_id: Arc<str>,
    pub(super) peer: SocketAddr,
    /// Of the certificate; empty without one.
    pub(super) common_name: Arc<str>,
    /// The same, its whole subject.
    pub(super) subject_dn: Arc<str>,
    pub(super) clean_start: bool,
    pub(super) version: ProtocolVersion,
}

/// What a template may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variable {
    Username,
    Password,
    ClientId,
    PeerHost,
    PeerPort,
    CommonName,
    SubjectDn,
    Protocol,
}

impl Variable {
    /// Those of EMQX 5, and those that EMQX 4 has besides.
    const ALL: [(Self, &'static str, char); 8] = [
        (Self::Username, "username", 'u'),
        (Self::Password, "password", 'P'),
        (Self::ClientId, "clientid", 'c'),
        (Self::PeerHost, "peerhost", 'a'),
        (Self::PeerPort, "peerport", 'p'),
        (Self::CommonName, "cert_common_name", 'C'),
        (Self::SubjectDn, "cert_subject", 'd'),
        (Self::Protocol, "protocol", 'r'),
    ];

    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known, _)| *known == name).map(|(variable, ..)| variable)
    }

    pub(super) fn by_letter(letter: char) -> Option<Self> {
        Self::ALL.into_iter().find(|(.., known)| *known == letter).map(|(variable, ..)| variable)
    }

    pub(super) fn names() -> [&'static str; 8] {
        Self::ALL.map(|(_, name, _)| name)
    }
}

impl Facts {
    /// Those of `request`; `None` if it does not say who it is.
    pub(super) fn of(request: &Request) -> Option<Self> {
        let certificate = request.certificate.as_ref();
        let facts = Self {
            username: request.username.clone(),
            password: request.password.clone().unwrap_or_default(),
            client_id: request.client_id.clone(),
            peer: request.peer,
            common_name: certificate.map_or_else(|| "".into(), |certificate| certificate.subject.clone()),
            subject_dn: certificate
                .map_or_else(|| "".into(), |certificate| certificate.distinguished_name.clone()),
            clean_start: request.clean_start,
            version: request.protocol,
        };
        is_subject(&facts.subject()).then_some(facts)
    }

    /// Who it is: the user name, without one the common name of the certificate.
    pub(super) fn subject(&self) -> Arc<str> {
        let named = self.username.as_ref().filter(|name| !name.is_empty());
        named.unwrap_or(&self.common_name).clone()
    }

    /// Its address as text; an IPv4 one within IPv6 as the former.
    pub(super) fn address(&self) -> String {
        self.peer.ip().to_canonical().to_string()
    }

    /// Empty if there is none.
    pub(super) fn value(&self, variable: Variable) -> Cow<'_, [u8]> {
        match variable {
            Variable::Username => self.username.as_deref().unwrap_or_default().as_bytes().into(),
            Variable::Password => (&*self.password).into(),
            Variable::ClientId => self.client_id.as_bytes().into(),
            Variable::PeerHost => self.address().into_bytes().into(),
            Variable::PeerPort => self.peer.port().to_string().into_bytes().into(),
            Variable::CommonName => self.common_name.as_bytes().into(),
            Variable::SubjectDn => self.subject_dn.as_bytes().into(),
            Variable::Protocol => b"mqtt".as_slice().into(),
        }
    }
}

impl Facts {
    /// Nobody's: for what does not depend on a client.
    pub(super) fn nobody() -> Self {
        Self {
            username: None,
            password: Bytes::new(),
            client_id: "".into(),
            peer: SocketAddr::from(([127, 0, 0, 1], 0)),
            common_name: "".into(),
            subject_dn: "".into(),
            clean_start: false,
            version: ProtocolVersion::V5,
        }
    }
}

#[cfg(test)]
impl Facts {
    /// The client of the tests.
    pub(super) fn sample() -> Self {
        Self {
            username: Some("alice".into()),
            password: Bytes::from_static(b"s3cret&x"),
            client_id: "sensor-1".into(),
            peer: "192.0.2.7:40123".parse().unwrap(),
            common_name: "sensor-1.example".into(),
            subject_dn: "O=Example, CN=sensor-1.example".into(),
            clean_start: true,
            version: ProtocolVersion::V5,
        }
    }
}
