//! The JSON of `POST /v1/authenticate` and `GET /v1/revocations`, as both ends read and write it; `docs/openapi/authsvc.yaml`
//! describes it. Fields that are not known are ignored, so that either end may be the newer one.

use std::net::SocketAddr;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use link::{Attributes, Limits, Rule};
use mqtt::ProtocolVersion;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{AlternativeName, Certificate, DenyReason, Request};

/// Where clients are asked about.
pub(crate) const AUTHENTICATE_PATH: &str = "/v1/authenticate";
/// Where single actions are asked about.
pub(crate) const AUTHORIZE_PATH: &str = "/v1/authorize";
/// Where it is told who has to go.
pub(crate) const REVOCATIONS_PATH: &str = "/v1/revocations";
/// Where the keys of passports are.
pub(crate) const KEYS_PATH: &str = "/.well-known/jwks.json";
/// Whether it is alive.
pub(crate) const LIVE_PATH: &str = "/livez";

/// What a connection with TLS may speak, the best first.
pub(crate) const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Bytes, in base64 (RFC 4648 section 4).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Bytes);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Nothing of the text may be in the error: it may be a password.
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| D::Error::custom("not base64"))?;
        Ok(Self(bytes.into()))
    }
}

/// What is asked. Holds a password: no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) client_id: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) username: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<Base64>,
    /// Address and port of the device.
    pub(crate) peer: SocketAddr,
    /// The device is known to be on the machine of the edge.
    #[serde(default)]
    pub(crate) local: bool,
    /// The name of the listener at the edge.
    #[serde(default = "nameless")]
    pub(crate) listener: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls: Option<Arc<TlsFacts>>,
    pub(crate) protocol: Protocol,
    /// Clean Start; before MQTT 5, Clean Session.
    #[serde(default = "yes")]
    pub(crate) clean_start: bool,
    /// The Authentication Method, for enhanced authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<Arc<str>>,
    /// Authentication Data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Base64>,
    /// As the answer before this one had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<String>,
}

fn yes() -> bool {
    true
}

fn nameless() -> Arc<str> {
    "".into()
}

/// Facts of a verified client certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TlsFacts {
    /// The common name of its subject.
    #[serde(default = "nameless")]
    pub(crate) subject: Arc<str>,
    /// The whole subject, RFC 4514.
    #[serde(default = "nameless")]
    pub(crate) distinguished_name: Arc<str>,
    /// `DNS:`, `URI:` or `email:`, and the name.
    #[serde(default)]
    pub(crate) san: Vec<Arc<str>>,
    /// SHA-256 of its DER encoding, lower-case hex.
    #[serde(default = "nameless")]
    pub(crate) fingerprint: Arc<str>,
}

fn written(name: &AlternativeName) -> Arc<str> {
    match name {
        AlternativeName::Dns(name) => format!("DNS:{name}"),
        AlternativeName::Uri(name) => format!("URI:{name}"),
        AlternativeName::Email(name) => format!("email:{name}"),
    }
    .into()
}

fn read(text: &str) -> Option<AlternativeName> {
    let (kind, name) = text.split_once(':')?;
    match kind {
        "DNS" => Some(AlternativeName::Dns(name.into())),
        "URI" => Some(AlternativeName::Uri(name.into())),
        "email" => Some(AlternativeName::Email(name.into())),
        _ => None,
    }
}

/// The protocol of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Protocol {
    #[serde(rename = "3.1")]
    V31,
    #[serde(rename = "3.1.1")]
    V311,
    #[serde(rename = "5")]
    V5,
}

impl Question {
    /// A question about a CONNECT without an Authentication Method.
    pub(crate) fn new(request: &Request) -> Self {
        let tls = request.certificate.as_ref().map(|certificate| {
            Arc::new(TlsFacts {
                subject: certificate.subject.clone(),
                distinguished_name: certificate.distinguished_name.clone(),
                san: certificate.alternative_names.iter().map(written).collect(),
                fingerprint: certificate.fingerprint.clone(),
            })
        });
        Self {
            client_id: request.client_id.clone(),
            username: request.username.clone(),
            password: request.password.clone().map(Base64),
            peer: request.peer,
            local: request.is_local,
            listener: request.listener.clone(),
            tls,
            protocol: match request.protocol {
                ProtocolVersion::V31 => Protocol::V31,
                ProtocolVersion::V311 => Protocol::V311,
                ProtocolVersion::V5 => Protocol::V5,
            },
            clean_start: request.clean_start,
            method: None,
            data: None,
            state: None,
        }
    }

    /// Who asks to connect.
    pub(crate) fn request(&self) -> Request {
        let certificate = self.tls.as_ref().map(|tls| {
            Arc::new(Certificate {
                subject: tls.subject.clone(),
                distinguished_name: tls.distinguished_name.clone(),
                // Names of another kind are nobody's here.
                alternative_names: tls.san.iter().filter_map(|name| read(name)).collect(),
                fingerprint: tls.fingerprint.clone(),
            })
        });
        Request {
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            password: self.password.clone().map(|password| password.0),
            peer: self.peer,
            is_local: self.local,
            listener: self.listener.clone(),
            certificate,
            protocol: match self.protocol {
                Protocol::V31 => ProtocolVersion::V31,
                Protocol::V311 => ProtocolVersion::V311,
                Protocol::V5 => ProtocolVersion::V5,
            },
            clean_start: self.clean_start,
        }
    }
}

/// What is answered. Holds a passport: no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub(crate) enum Answer {
    /// It may connect.
    Allow(Box<Allowed>),
    /// Enhanced authentication goes on.
    Continue {
        /// Authentication Data for the client.
        data: Base64,
        /// To be sent along with what it answers.
        state: String,
    },
    /// It may not.
    Deny {
        /// Why.
        reason: Reason,
    },
}

/// A signed passport, or what is to be in one that the edge signs.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Allowed {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) passport: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rules: Option<Vec<Rule>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token_id: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) attributes: Option<Arc<Attributes>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<Limits>,
    /// Seconds; without it, the passport never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires_in: Option<u64>,
    /// Authentication Data for CONNACK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Base64>,
}

/// A [`DenyReason`]; one that is not known denies as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reason {
    BadCredentials,
    NotAuthorized,
    Banned,
    Unavailable,
    BadMethod,
    SlowedDown,
    #[serde(other)]
    Other,
}

impl From<DenyReason> for Reason {
    fn from(reason: DenyReason) -> Self {
        match reason {
            DenyReason::BadCredentials => Self::BadCredentials,
            DenyReason::NotAuthorized => Self::NotAuthorized,
            DenyReason::Banned => Self::Banned,
            DenyReason::Unavailable => Self::Unavailable,
            DenyReason::BadMethod => Self::BadMethod,
            DenyReason::SlowedDown => Self::SlowedDown,
        }
    }
}

impl From<Reason> for DenyReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::BadCredentials => Self::BadCredentials,
            Reason::NotAuthorized | Reason::Other => Self::NotAuthorized,
            Reason::Banned => Self::Banned,
            Reason::Unavailable => Self::Unavailable,
            Reason::BadMethod => Self::BadMethod,
            Reason::SlowedDown => Self::SlowedDown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it stands in `docs/authsvc.md`; a change here breaks services that others wrote.
    const QUESTION: &str = r#"{"client_id":"pump-7","username":"alice","password":"c2VjcmV0","peer":"192.0.2.1:4711","local":false,"listener":"mqtts","tls":{"subject":"pump-7","distinguished_name":"CN=pump-7,O=Plant","san":["DNS:pump-7.example","URI:urn:x:7","email:a@b"],"fingerprint":"00ff"},"protocol":"5","clean_start":false,"method":"SCRAM-SHA-256","data":"biws","state":"AQ"}"#;

    #[test]
    fn a_question_is_written_as_it_was_published() {
        let question: Question = serde_json::from_str(QUESTION).unwrap();
        assert_eq!(serde_json::to_string(&question).unwrap(), QUESTION);
        let request = question.request();
        assert_eq!(request.password.as_deref(), Some(&b"secret"[..]));
        let again = Question {
            method: question.method,
            data: question.data,
            state: question.state,
            ..Question::new(&request)
        };
        assert_eq!(serde_json::to_string(&again).unwrap(), QUESTION);
    }

    #[test]
    fn a_question_needs_little_and_may_say_more() {
        let question = r#"{"client_id":"a","peer":"[::1]:1","protocol":"3.1","shoe_size":43}"#;
        let request = serde_json::from_str::<Question>(question).unwrap().request();
        assert!(request.username.is_none() && request.certificate.is_none() && !request.is_local);
        for wrong in [
            r#"{"client_id":"a","peer":"[::1]:1"}"#,
            r#"{"client_id":"a","peer":"::1","protocol":"5"}"#,
            r#"{"client_id":"a","peer":"[::1]:1","protocol":"4"}"#,
            r#"{"client_id":null,"peer":"[::1]:1","protocol":"5"}"#,
        ] {
            assert!(serde_json::from_str::<Question>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_error_shows_nothing_of_a_password() {
        let question = r#"{"client_id":"a","peer":"[::1]:1","protocol":"5","password":"s3cret!"}"#;
        let error = serde_json::from_str::<Question>(question).err().unwrap().to_string();
        assert!(error.starts_with("not base64") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn answers_are_written_as_they_were_published() {
        for answer in [
            r#"{"result":"allow","passport":"a.b.c","expires_in":3600}"#,
            r#"{"result":"allow","subject":"alice","rules":[],"limits":{"connections_max":2,"qos_max":1}}"#,
            r##"{"result":"allow","subject":"alice","rules":[{"effect":"allow","action":"publish","topics":["#"]}],"expires_in":60,"data":"AA=="}"##,
            r#"{"result":"continue","data":"","state":"x"}"#,
            r#"{"result":"deny","reason":"bad_credentials"}"#,
        ] {
            let read: Answer = serde_json::from_str(answer).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), answer);
        }
        let newer: Answer =
            serde_json::from_str(r#"{"result":"deny","reason":"full_moon","more":1}"#).unwrap();
        assert!(
            matches!(newer, Answer::Deny { reason } if DenyReason::from(reason) == DenyReason::NotAuthorized)
        );
    }
}
