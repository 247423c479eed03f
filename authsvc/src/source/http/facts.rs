//! What is said of a client to an endpoint.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use link::Attributes;
use mqtt::ProtocolVersion;

use crate::Request;
use crate::action::{Action, ActionName};
use crate::verdict::is_subject;

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
    /// What its passport says of it; of an action only.
    pub(super) attributes: Option<Arc<Attributes>>,
    /// The action that is asked about.
    pub(super) action: Option<ActionFacts>,
}

/// Facts of an action.
#[derive(Clone)]
pub(super) struct ActionFacts {
    pub(super) name: ActionName,
    pub(super) topic: Arc<str>,
    pub(super) qos: u8,
    pub(super) retain: bool,
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
    ProtocolName,
    Mountpoint,
    Topic,
    Action,
    Access,
    Qos,
    Retain,
}

impl Variable {
    /// As EMQX 5 and EMQX 4 write them; where one of them has none there is a space.
    const ALL: [(Self, &'static str, char); 15] = [
        (Self::Username, "username", 'u'),
        (Self::Password, "password", 'P'),
        (Self::ClientId, "clientid", 'c'),
        (Self::PeerHost, "peerhost", 'a'),
        (Self::PeerPort, "peerport", 'p'),
        (Self::CommonName, "cert_common_name", 'C'),
        (Self::SubjectDn, "cert_subject", 'd'),
        (Self::Protocol, "protocol", 'r'),
        (Self::ProtocolName, "proto_name", ' '),
        (Self::Mountpoint, "mountpoint", 'm'),
        (Self::Topic, "topic", 't'),
        (Self::Action, "action", ' '),
        (Self::Access, " ", 'A'),
        (Self::Qos, "qos", ' '),
        (Self::Retain, "retain", ' '),
    ];

    /// What only an action has.
    pub(super) const OF_ACTIONS: [Self; 5] =
        [Self::Topic, Self::Action, Self::Access, Self::Qos, Self::Retain];

    /// What is known at CONNECT only.
    pub(super) const OF_CONNECT: [Self; 2] = [Self::Password, Self::PeerPort];

    /// Its name in EMQX 5.
    pub(super) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(variable, ..)| *variable == self).map_or("", |(_, name, _)| name)
    }

    pub(super) fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(_, known, _)| *known == name && name != " ")
            .map(|(variable, ..)| variable)
    }

    pub(super) fn by_letter(letter: char) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|(.., known)| *known == letter && letter != ' ')
            .map(|(variable, ..)| variable)
    }

    pub(super) fn names() -> Vec<&'static str> {
        Self::ALL.into_iter().map(|(_, name, _)| name).filter(|name| *name != " ").collect()
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
            attributes: None,
            action: None,
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

    /// What the names of a client's attributes begin with among those of its passport.
    pub(super) const ATTRIBUTE: &str = "client_attrs.";
    /// What its groups are among them, and the protocol of its connection.
    pub(super) const GROUPS: &str = "groups";
    pub(super) const VERSION: &str = "version";

    /// Those of an action; `None` if nothing says whose it is.
    pub(super) fn of_action(action: &Action) -> Option<Self> {
        let told = |name: &str| action.attributes.as_ref()?.get(name).cloned();
        let or_none = |name| told(name).unwrap_or_else(|| "".into());
        let host = told(Variable::PeerHost.name()).and_then(|host| host.parse().ok());
        let version = told(Self::VERSION);
        is_subject(&action.subject).then(|| Self {
            username: Some(action.subject.clone()),
            client_id: action.client_id.clone(),
            peer: SocketAddr::new(host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0),
            common_name: or_none(Variable::CommonName.name()),
            subject_dn: or_none(Variable::SubjectDn.name()),
            version: if version.as_deref() == Some("5") {
                ProtocolVersion::V5
            } else {
                ProtocolVersion::V311
            },
            attributes: action.attributes.clone(),
            action: Some(ActionFacts {
                name: action.action,
                topic: action.topic.clone(),
                qos: action.qos.as_u8(),
                retain: action.retain,
            }),
            ..Self::nobody()
        })
    }

    /// An attribute of its source's; empty if there is none.
    pub(super) fn attribute(&self, name: &str) -> &str {
        let attributes = self.attributes.as_deref();
        attributes
            .and_then(|told| told.get(format!("{}{name}", Self::ATTRIBUTE).as_str()))
            .map_or("", |value| value)
    }

    /// Its groups.
    pub(super) fn groups(&self) -> &str {
        self.attributes.as_deref().and_then(|told| told.get(Self::GROUPS)).map_or("", |value| value)
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
            Variable::ProtocolName => b"MQTT".as_slice().into(),
            Variable::Mountpoint => b"".as_slice().into(),
            Variable::Topic | Variable::Action | Variable::Access | Variable::Qos | Variable::Retain => {
                self.action.as_ref().map_or_else(Vec::new, |action| action.value(variable)).into()
            }
        }
    }
}

impl ActionFacts {
    fn value(&self, variable: Variable) -> Vec<u8> {
        let is_publish = self.name == ActionName::Publish;
        match variable {
            Variable::Topic => self.topic.as_bytes().to_vec(),
            Variable::Action => if is_publish { "publish" } else { "subscribe" }.into(),
            Variable::Access => if is_publish { "2" } else { "1" }.into(),
            Variable::Qos => self.qos.to_string().into(),
            Variable::Retain => self.retain.to_string().into(),
            _ => Vec::new(),
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
            attributes: None,
            action: None,
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
            attributes: None,
            action: None,
        }
    }
}
