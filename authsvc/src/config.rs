//! The settings of authentication (`[auth]`).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{AuthError, HttpConfig, IntrospectionConfig, JwtConfig, LdapConfig, SourceName};

/// `[auth]`: who may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The sources of identities in the order in which they are asked; each that is configured must be in it. Default: those
    /// configured, in the order `certificate`, `password_file`, `jwt`,
    /// `introspection`, `http`, `ldap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<SourceName>>,
    /// Password file, made by `tidegate passwd`; none by default. Read again when it changes and on SIGHUP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// An HTTP endpoint that decides; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpConfig>,
    /// A directory; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ldap: Option<LdapConfig>,
    /// Whether clients without credentials may connect. Default: `loopback` until a source of identities is configured
    /// (`password_file`, `certificate`, `jwt` and the others), `never` from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<Anonymous>,
    /// Whether a verified client certificate is an identity, and what of it is the user name. Default `off`.
    pub certificate: CertificateIdentity,
    /// What that begins with, and what is left out of the user name; a certificate without it is no identity. None by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_prefix: Option<Arc<str>>,
    /// `[auth.jwt]`: signed tokens; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtConfig>,
    /// `[auth.introspection]`: tokens that an authorization server is asked about; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub introspection: Option<IntrospectionConfig>,
    /// Whether the Authentication Method SCRAM-SHA-256 is offered when there is a password file. Default true.
    pub scram: bool,
    /// Seconds that what a client was allowed holds. The edge asks again before that; who used an Authentication Method has
    /// to authenticate anew, or its connection ends. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passport_lifetime_s: Option<u64>,
    /// Passwords hashed at a time, each by a thread of its own with 19 MiB. Default: half of the cores, at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_threads: Option<usize>,
    /// Logins that wait for a thread; beyond it the oldest is refused as "server unavailable". Default 4096.
    pub hash_queue_max: usize,
    /// Milliseconds that a login waits for its verdict before it is refused as "server unavailable". Default 5000.
    pub hash_timeout_ms: u64,
    /// Seconds for which a password that was right is known again without hashing; used ones are kept longer. 0
    /// turns it off. Default 86400.
    pub recent_ttl_s: u64,
    /// Passwords known that way, about 150 bytes each. Default 100000.
    pub recent_max: usize,
    /// Wrong passwords in a row before one user name at one address is slowed down. Default 10.
    pub wrong_passwords_max: u32,
    /// Seconds until one more attempt is let through then. Attempts refused meanwhile do not count. Default 10.
    pub wrong_password_interval_s: u32,
    /// Users and addresses remembered for that. Default 100000.
    pub slowed_down_max: usize,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            sources: None,
            password_file: None,
            http: None,
            ldap: None,
            anonymous: None,
            certificate: CertificateIdentity::Off,
            certificate_prefix: None,
            jwt: None,
            introspection: None,
            scram: true,
            passport_lifetime_s: None,
            hash_threads: None,
            hash_queue_max: 4096,
            hash_timeout_ms: 5000,
            recent_ttl_s: 86_400,
            recent_max: 100_000,
            wrong_passwords_max: 10,
            wrong_password_interval_s: 10,
            slowed_down_max: 100_000,
        }
    }
}

impl AuthConfig {
    /// Checks the bounds that keep arithmetic and memory within theirs.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), AuthError> {
        let threads = self.hash_threads.unwrap_or(1);
        let checks = [
            ((1..=256).contains(&threads), "hash_threads", "must be 1 to 256"),
            ((1..=1_000_000).contains(&self.hash_queue_max), "hash_queue_max", "must be 1 to 1000000"),
            (self.hash_timeout_ms <= 300_000, "hash_timeout_ms", "must be at most 300000"),
            (self.recent_ttl_s <= 31_536_000, "recent_ttl_s", "must be at most 31536000"),
            (self.recent_max <= 100_000_000, "recent_max", "must be at most 100000000"),
            (
                (1..=1_000_000).contains(&self.wrong_passwords_max),
                "wrong_passwords_max",
                "must be 1 to 1000000",
            ),
            (self.wrong_password_interval_s <= 86_400, "wrong_password_interval_s", "must be at most 86400"),
            ((2..=100_000_000).contains(&self.slowed_down_max), "slowed_down_max", "must be 2 to 100000000"),
            (self.passport_lifetime_s != Some(0), "passport_lifetime_s", "must be at least 1"),
            (
                self.certificate_prefix.is_none() || self.certificate != CertificateIdentity::Off,
                "certificate_prefix",
                "needs auth.certificate: say what of the certificate begins with it",
            ),
        ];
        match checks.into_iter().find(|(is_within, ..)| !is_within) {
            Some((_, key, problem)) => Err(AuthError::Setting { key, problem }),
            None => self.check_sources(),
        }
    }

    /// `sources` names each source that is configured, once, and no other.
    fn check_sources(&self) -> Result<(), AuthError> {
        let Some(sources) = &self.sources else { return Ok(()) };
        let wrong = |problem| Err(AuthError::Setting { key: "sources", problem });
        if sources.iter().any(|name| !self.has(*name)) {
            return wrong("names a source that is not configured: set its key, or leave it out");
        }
        if SourceName::ALL.iter().any(|name| self.has(*name) && !sources.contains(name)) {
            return wrong("leaves out a source that is configured: name it, or remove its key");
        }
        if sources.iter().enumerate().any(|(at, name)| sources[..at].contains(name)) {
            return wrong("names a source twice");
        }
        Ok(())
    }

    fn has(&self, source: SourceName) -> bool {
        match source {
            SourceName::Certificate => self.certificate != CertificateIdentity::Off,
            SourceName::PasswordFile => self.password_file.is_some(),
            SourceName::Jwt => self.jwt.is_some(),
            SourceName::Introspection => self.introspection.is_some(),
            SourceName::Http => self.http.is_some(),
            SourceName::Ldap => self.ldap.is_some(),
        }
    }

    /// Whether a source needs clients to be asked for their certificate, and the key that says so.
    pub fn needs_certificates(&self) -> Option<&'static str> {
        if self.certificate != CertificateIdentity::Off {
            return Some("auth.certificate");
        }
        self.jwt.as_ref().is_some_and(|jwt| jwt.require_certificate).then_some("auth.jwt.require_certificate")
    }

    /// Whether any source of identities is configured.
    pub fn has_source(&self) -> bool {
        SourceName::ALL.iter().any(|name| self.has(*name))
    }

    /// Whether what a client may do follows from its user name alone: no source brings rules, attributes or a superuser.
    pub fn rules_follow_from_names(&self) -> bool {
        let bring = |name: &SourceName| !matches!(name, SourceName::Certificate | SourceName::PasswordFile);
        !SourceName::ALL.iter().any(|name| bring(name) && self.has(*name))
    }

    /// The sources that are configured, in the order in which they are asked.
    pub(crate) fn sources_in_force(&self) -> Vec<SourceName> {
        let configured = || SourceName::ALL.into_iter().filter(|name| self.has(*name)).collect();
        self.sources.clone().unwrap_or_else(configured)
    }

    /// The policy for clients without credentials that is in force.
    pub fn anonymous_in_force(&self) -> Anonymous {
        self.anonymous.unwrap_or(if self.has_source() { Anonymous::Never } else { Anonymous::Loopback })
    }

    /// Threads that hash passwords.
    pub fn hash_threads_in_force(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.hash_threads.unwrap_or(cores / 2).max(1)
    }
}

/// Whether clients without credentials may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// From this machine only.
    Loopback,
    /// No.
    Never,
    /// From anywhere.
    Always,
}

/// What of a verified client certificate is the user name, whatever CONNECT says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateIdentity {
    /// Nothing: it is no identity.
    #[default]
    Off,
    /// The same as `common_name`.
    Subject,
    /// The common name of its subject.
    CommonName,
    /// Its whole subject as RFC 4514 writes it, `CN=pump-7,O=Plant`.
    DistinguishedName,
    /// The first DNS name among its alternative names.
    Dns,
    /// The first URI among them.
    Uri,
    /// The first e-mail address among them.
    Email,
    /// SHA-256 of its DER encoding, lower-case hex.
    Fingerprint,
}
