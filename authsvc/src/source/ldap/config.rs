//! `[auth.ldap]`: users of a directory.

use std::path::PathBuf;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use super::template::{Field, FieldTemplate};
use crate::http_client::{TlsFiles, is_loopback};
use crate::inquiry::{BreakerConfig, CacheConfig, InquiryConfig, QueueConfig};
use crate::{AuthError, WhenAway};

/// Where the keys are.
pub(super) const SECTION: &str = "auth.ldap";

link::settings! {
    /// The section.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct LdapConfig {
        /// `ldaps://HOST` or `ldap://HOST`, with a port where it is not 636 or 389. Must be set.
        pub url: String = String::new();
        /// Whether the connection is encrypted by StartTLS (RFC 4511 section 4.14); with `ldap://` only.
        pub starttls: bool = false;
        /// Whether `ldap://` may lead beyond this machine without StartTLS, where others read passwords.
        pub allow_plain: bool = false;
        /// The name of a user, with `${username}`: who can be named without a search.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub user_dn: Option<String> = None;
        /// Below which entry users are searched for; instead of `user_dn`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub search_base: Option<String> = None;
        /// The filter that finds one (RFC 4515), with `${username}` and `${clientid}`. Default `(uid=${username})`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub search_filter: Option<String> = None;
        /// Who searches. Default: anybody (an anonymous bind).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub service_dn: Option<String> = None;
        /// File with its password, in its first line.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub service_password_file: Option<PathBuf> = None;
        /// The attribute that says how a user is called here, since a directory takes `ALICE` for `alice`; empty: as it came.
        pub username_attribute: String = "uid".to_owned();
        /// Attributes that rules may name as `%{NAME}`; the first value of each.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub attributes: Vec<String> = Vec::new();
        /// The attribute with the names of a user's groups, such as `memberOf`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub group_attribute: Option<String> = None;
        /// Groups are below this entry; others do not count.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub group_base: Option<String> = None;
        /// The filter that finds the groups of a user below `group_base`, with `${dn}` and `${username}`; instead of
        /// `group_attribute`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub group_filter: Option<String> = None;
        /// Milliseconds that one question may take: bind, searches and all.
        pub timeout_ms: u64 = 1_500, in 1..=300_000;
        /// Milliseconds of it that a connection may take to come up, TLS included.
        pub connect_timeout_ms: u64 = 1_000, in 1..=300_000;
        /// Questions at a time; each has a connection to bind, and one to search.
        pub connections_max: usize = 16, in 1..=1_000;
        /// PEM file of the authorities that the directory's certificate comes from. Default: the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_file: Option<PathBuf> = None;
        /// PEM file of the certificate chain that this end shows; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub certificate_file: Option<PathBuf> = None;
        /// PEM file of its private key.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<PathBuf> = None;
        /// What becomes of a client whose question has no answer.
        pub when_away: WhenAway = WhenAway::Refuse;
        /// What is remembered.
        pub cache: CacheConfig = CacheConfig::default();
        /// Who waits.
        pub queue: QueueConfig = QueueConfig::default();
        /// When the service is left alone.
        pub breaker: BreakerConfig = BreakerConfig::default();
    }
}

/// How the entry of a user is found.
pub(super) enum Finding {
    /// By its name.
    Named(FieldTemplate),
    /// By a search.
    Searched { base: String, filter: FieldTemplate },
}

/// How the groups of a user are found.
pub(super) enum Grouping {
    /// They are not.
    None,
    /// In an attribute; those below the base, if there is one.
    Attribute { name: String, base: Option<String> },
    /// By a search.
    Searched { base: String, filter: FieldTemplate },
}

fn wrong<T>(key: &'static str, problem: impl Into<String>) -> Result<T, AuthError> {
    Err(AuthError::Section { section: SECTION, key, problem: problem.into() })
}

fn template(key: &'static str, text: &str, known: &[Field]) -> Result<FieldTemplate, AuthError> {
    FieldTemplate::parse(text, known).or_else(|problem| wrong(key, problem))
}

fn filter(key: &'static str, text: &str, known: &[Field]) -> Result<FieldTemplate, AuthError> {
    let template = template(key, text, known)?;
    // Whatever stands for the values.
    match ldap3::parse_filter(template.render(|_| "x".to_owned())) {
        Ok(_) => Ok(template),
        Err(()) => wrong(key, "is no filter (RFC 4515), which looks like (uid=${username})"),
    }
}

impl LdapConfig {
    /// How questions are asked.
    pub(super) fn inquiry(&self) -> InquiryConfig<'_> {
        InquiryConfig {
            when_away: self.when_away,
            cache: &self.cache,
            queue: &self.queue,
            breaker: &self.breaker,
        }
    }

    /// Checks everything that can be checked without asking.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self) -> Result<(), AuthError> {
        self.inquiry().check(SECTION)?;
        self.check_bounds(SECTION)?;
        self.check_url()?;
        self.finding()?;
        self.grouping()?;
        if self.service_dn.is_some() != self.service_password_file.is_some() {
            return wrong("service_dn", "and service_password_file need each other");
        }
        self.service()?;
        self.tls().client_config(SECTION).map(|_| ())
    }

    fn check_url(&self) -> Result<(), AuthError> {
        let Ok(url) = self.url.parse::<Uri>() else { return wrong("url", "is not a URL") };
        let (Some(host), Some(scheme)) = (url.host(), url.scheme_str()) else {
            return wrong("url", "must be ldaps://HOST or ldap://HOST");
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || self.url.contains('@') {
            return wrong(
                "url",
                "must have nothing but a host and a port; what is searched has keys of its own",
            );
        }
        match scheme {
            "ldaps" if self.starttls => {
                wrong("starttls", "is for ldap:// only; ldaps:// is encrypted already")
            }
            "ldaps" => Ok(()),
            "ldap" if self.starttls || self.allow_plain || is_loopback(host) => Ok(()),
            "ldap" => wrong(
                "url",
                "must be ldaps://, or have starttls = true (or allow_plain = true: others read passwords)",
            ),
            _ => wrong("url", "must begin with ldaps:// or ldap://"),
        }
    }

    /// How users are found.
    ///
    /// # Errors
    /// Neither way is configured, or both.
    pub(super) fn finding(&self) -> Result<Finding, AuthError> {
        match (&self.user_dn, &self.search_base) {
            (Some(_), Some(_)) => wrong("search_base", "is instead of user_dn; remove one"),
            (Some(_), None) if self.search_filter.is_some() => wrong("search_filter", "needs search_base"),
            (Some(name), None) => {
                let name = template("user_dn", name, &[Field::Username, Field::ClientId])?;
                if !name.uses(Field::Username) {
                    return wrong("user_dn", "must have ${username} in it");
                }
                Ok(Finding::Named(name))
            }
            (None, Some(base)) => {
                let text = self.search_filter.as_deref().unwrap_or("(uid=${username})");
                let filter = filter("search_filter", text, &[Field::Username, Field::ClientId])?;
                if !filter.uses(Field::Username) {
                    return wrong("search_filter", "must have ${username} in it");
                }
                Ok(Finding::Searched { base: base.clone(), filter })
            }
            (None, None) => wrong("user_dn", "or search_base is needed"),
        }
    }

    /// How groups are found.
    ///
    /// # Errors
    /// Both ways are configured, or half of one.
    pub(super) fn grouping(&self) -> Result<Grouping, AuthError> {
        match (&self.group_attribute, &self.group_filter, &self.group_base) {
            (Some(_), Some(_), _) => wrong("group_filter", "is instead of group_attribute; remove one"),
            (Some(name), None, base) => Ok(Grouping::Attribute { name: name.clone(), base: base.clone() }),
            (None, Some(text), Some(base)) => {
                let filter = filter("group_filter", text, &[Field::Dn, Field::Username])?;
                Ok(Grouping::Searched { base: base.clone(), filter })
            }
            (None, Some(_), None) => wrong("group_filter", "needs group_base"),
            (None, None, Some(_)) => wrong("group_base", "needs group_attribute or group_filter"),
            (None, None, None) => Ok(Grouping::None),
        }
    }

    /// Name and password of who searches.
    ///
    /// # Errors
    /// The file cannot be read, or is empty.
    pub(super) fn service(&self) -> Result<Option<(String, String)>, AuthError> {
        let (Some(name), Some(file)) = (&self.service_dn, &self.service_password_file) else {
            return Ok(None);
        };
        let text = std::fs::read_to_string(file)
            .or_else(|error| wrong("service_password_file", format!("cannot be read: {error}")))?;
        match text.lines().next() {
            // A bind without a password is one of nobody (RFC 4513 section 5.1.2).
            None | Some("") => wrong("service_password_file", "has no password in its first line"),
            Some(password) => Ok(Some((name.clone(), password.to_owned()))),
        }
    }

    pub(super) fn tls(&self) -> TlsFiles<'_> {
        TlsFiles {
            ca: self.ca_file.as_deref(),
            certificate: self.certificate_file.as_deref(),
            key: self.key_file.as_deref(),
        }
    }
}
