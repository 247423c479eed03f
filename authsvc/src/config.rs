//! The settings of authentication (`[auth]`).

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{AuthError, HttpConfig, IntrospectionConfig, JwtConfig, LdapConfig, SourceName};

/// Where its keys are.
const SECTION: &str = "auth";

link::settings! {
    /// `[auth]`: who may connect.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct AuthConfig {
        /// The sources of identities in the order in which they are asked; each that is configured must be in it. Default:
        /// those configured, in the order `certificate`, `password_file`, `jwt`, `introspection`, `http`, `ldap`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub sources: Option<Vec<SourceName>> = None;
        /// Password file, made by `tidegate passwd`; none by default. Read again when it changes and on SIGHUP.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub password_file: Option<PathBuf> = None;
        /// File in which it is kept what an operator has revoked for longer, so that it is in force after a restart; none by
        /// default. Written by this process alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub revocations_file: Option<PathBuf> = None;
        /// An HTTP endpoint that decides; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub http: Option<HttpConfig> = None;
        /// A directory; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ldap: Option<LdapConfig> = None;
        /// Whether clients without credentials may connect. Default: `loopback` until a source of identities is configured
        /// (`password_file`, `certificate`, `jwt` and the others), `never` from then on.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub anonymous: Option<Anonymous> = None;
        /// Whether a verified client certificate is an identity, and what of it is the user name. Default `off`.
        pub certificate: CertificateIdentity = CertificateIdentity::Off;
        /// What that begins with, and what is left out of the user name; a certificate without it is no identity. None by
        /// default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub certificate_prefix: Option<Arc<str>> = None;
        /// `[auth.jwt]`: signed tokens; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub jwt: Option<JwtConfig> = None;
        /// `[auth.introspection]`: tokens that an authorization server is asked about; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub introspection: Option<IntrospectionConfig> = None;
        /// Whether the Authentication Method SCRAM-SHA-256 is offered when there is a password file.
        pub scram: bool = true;
        /// Seconds that what a client was allowed holds. The edge asks again before that; who used an Authentication Method has
        /// to authenticate anew, or its connection ends. Default: for ever.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub passport_lifetime_s: Option<u64> = None, in 1..;
        /// Passwords hashed at a time, each by a thread of its own with 19 MiB. Default: half of the cores, at least one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub hash_threads: Option<usize> = None, in 1..=256;
        /// Logins that wait for a thread; beyond it the oldest is refused as "server unavailable".
        pub hash_queue_max: usize = 4096, in 1..=1_000_000;
        /// Milliseconds that a login waits for its verdict before it is refused as "server unavailable".
        pub hash_timeout_ms: u64 = 5000, in ..=300_000;
        /// Seconds for which a password that was right is known again without hashing; used ones are kept longer. 0 turns it
        /// off.
        pub recent_ttl_s: u64 = 86_400, in ..=31_536_000;
        /// Passwords known that way, about 150 bytes each.
        pub recent_max: usize = 100_000, in ..=100_000_000;
        /// Wrong passwords in a row before one user name at one address is slowed down.
        pub wrong_passwords_max: u32 = 10, in 1..=1_000_000;
        /// Seconds until one more attempt is let through then. Attempts refused meanwhile do not count.
        pub wrong_password_interval_s: u32 = 10, in ..=86_400;
        /// Users and addresses remembered for that.
        pub slowed_down_max: usize = 100_000, in 2..=100_000_000;
    }
}

impl AuthConfig {
    /// Checks the bounds that keep arithmetic and memory within theirs.
    ///
    /// # Errors
    /// The first setting that is out of bounds.
    pub(crate) fn check(&self) -> Result<(), AuthError> {
        self.check_bounds(SECTION)?;
        if self.certificate_prefix.is_some() && self.certificate == CertificateIdentity::Off {
            let problem = "needs auth.certificate: say what of the certificate begins with it";
            return wrong("certificate_prefix", problem);
        }
        self.check_sources()
    }

    /// `sources` names each source that is configured, once, and no other.
    fn check_sources(&self) -> Result<(), AuthError> {
        let Some(sources) = &self.sources else { return Ok(()) };
        let wrong = |problem| wrong("sources", problem);
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

fn wrong(key: &'static str, problem: &str) -> Result<(), AuthError> {
    Err(AuthError::Section { section: SECTION, key, problem: problem.to_owned() })
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
