//! What is revoked, why, and who is meant by it.

use std::sync::Arc;

use link::Passport;
use mqtt::ReasonCode;
use serde::{Deserialize, Serialize};

/// What is revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A user, by name: what passports have as their subject.
    User(Arc<str>),
    /// A client, by Client Identifier.
    ClientId(Arc<str>),
    /// A token, by its identifier (`jti`).
    Token(Arc<str>),
    /// A client certificate, by its fingerprint: SHA-256 of its DER encoding, lower-case hex.
    Certificate(Arc<str>),
}

impl Target {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::User(name) | Self::ClientId(name) | Self::Token(name) | Self::Certificate(name) => name,
        }
    }
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevokeReason {
    /// An operator said so.
    Administrative,
    /// A source knows the credentials no more, or others instead.
    CredentialsChanged,
}

impl RevokeReason {
    /// What DISCONNECT tells the device.
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::Administrative => ReasonCode::AdministrativeAction,
            Self::CredentialsChanged => ReasonCode::NotAuthorized,
        }
    }
}

/// Who a connection is, as far as it can be revoked.
#[derive(Clone, Copy, Debug)]
pub struct Bearer<'a> {
    /// The subject of its passport; empty for anonymous clients.
    pub user: &'a str,
    /// Its Client Identifier.
    pub client_id: &'a str,
    /// The identifier of its token, if it came by one.
    pub token_id: Option<&'a str>,
    /// The fingerprint of its certificate, if it has one.
    pub certificate: Option<&'a str>,
}

impl<'a> Bearer<'a> {
    /// The bearer of `passport`, with a certificate of this fingerprint.
    pub fn new(passport: &'a Passport, certificate: Option<&'a str>) -> Self {
        let (user, client_id) = (&*passport.subject, &*passport.client_id);
        Self { user, client_id, token_id: passport.token_id.as_deref(), certificate }
    }

    /// Whether it is what `target` names.
    pub fn is(&self, target: &Target) -> bool {
        match target {
            Target::User(name) => !self.user.is_empty() && self.user == &**name,
            Target::ClientId(name) => self.client_id == &**name,
            Target::Token(name) => self.token_id == Some(&**name),
            Target::Certificate(name) => self.certificate == Some(&**name),
        }
    }
}
