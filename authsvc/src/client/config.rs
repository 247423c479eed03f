//! `[authsvc]`: where an edge asks who may connect, for how long, and what it remembers.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::AuthError;

/// Names and addresses of services.
const URLS_MAX: usize = 64;

/// How an edge asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientConfig {
    /// Where the service is: `https://HOST:PORT` (`http://` on this machine), several if there are several. A name that stands
    /// for several addresses is all of them.
    pub urls: Vec<String>,
    /// File of the secret that the service asks for, the same as its `service.secret_file`. Read again when it changes, as the
    /// other files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// PEM file of the authorities of the service's certificate; needed with `https://`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the certificate chain that the edge shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file of its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Milliseconds until names are looked up again. Default 5000; 100 to 3600000.
    pub resolve_interval_ms: u64,
    /// Milliseconds until a connection is up, TLS included. Default 1000; 50 to 60000.
    pub connect_timeout_ms: u64,
    /// Milliseconds that a client waits for the answer, whichever services are asked for it. Default 5000; 50 to 300000.
    pub timeout_ms: u64,
    /// Questions at a time; further clients are refused as "server unavailable". Default 4096; 1 to 1000000.
    pub requests_max: usize,
    /// Milliseconds between two looks whether a service is alive. Default 500; 50 to 60000.
    pub probe_interval_ms: u64,
    /// Milliseconds that such an answer may take; after two that did not come a service is passed over until one does. Default
    /// 500; 50 to 60000.
    pub probe_timeout_ms: u64,
    /// Milliseconds for which the same credentials of the same client are let in again without a question; never longer than
    /// half of what is left of the passport. 0 turns it off. Default 60000; at most 86400000.
    pub allowed_ttl_ms: u64,
    /// The same for a refusal. Default 2000; at most 60000.
    pub denied_ttl_ms: u64,
    /// Answers that are remembered: so many that let a client in, and as many that did not, about 1 KB each. Default 100000; at most
    /// 10000000.
    pub answers_max: usize,
    /// What happens while no service can be reached. Default `refuse`.
    pub when_away: WhenServiceAway,
}

/// What happens to clients while no service can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenServiceAway {
    /// New ones are refused as "server unavailable"; those that there are stay for a while after their passport's end
    /// (`edge.passport_grace_ms`).
    Refuse,
    /// Credentials of which it is remembered that they are good are let in until their passport's end, too.
    Cached,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            secret_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            resolve_interval_ms: 5000,
            connect_timeout_ms: 1000,
            timeout_ms: 5000,
            requests_max: 4096,
            probe_interval_ms: 500,
            probe_timeout_ms: 500,
            allowed_ttl_ms: 60_000,
            denied_ttl_ms: 2000,
            answers_max: 100_000,
            when_away: WhenServiceAway::Refuse,
        }
    }
}

/// One entry of `urls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) is_tls: bool,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// `host:port` as requests name it.
    pub(super) authority: String,
}

impl ClientConfig {
    /// Checks the bounds.
    pub(super) fn check(&self) -> Result<(), AuthError> {
        let checks = [
            (
                (100..=3_600_000).contains(&self.resolve_interval_ms),
                "resolve_interval_ms",
                "must be 100 to 3600000",
            ),
            ((50..=60_000).contains(&self.connect_timeout_ms), "connect_timeout_ms", "must be 50 to 60000"),
            ((50..=300_000).contains(&self.timeout_ms), "timeout_ms", "must be 50 to 300000"),
            ((1..=1_000_000).contains(&self.requests_max), "requests_max", "must be 1 to 1000000"),
            ((50..=60_000).contains(&self.probe_interval_ms), "probe_interval_ms", "must be 50 to 60000"),
            ((50..=60_000).contains(&self.probe_timeout_ms), "probe_timeout_ms", "must be 50 to 60000"),
            (self.allowed_ttl_ms <= 86_400_000, "allowed_ttl_ms", "must be at most 86400000"),
            (self.denied_ttl_ms <= 60_000, "denied_ttl_ms", "must be at most 60000"),
            (self.answers_max <= 10_000_000, "answers_max", "must be at most 10000000"),
            (
                self.certificate_file.is_some() == self.key_file.is_some(),
                "certificate_file",
                "and key_file need each other",
            ),
        ];
        if let Some((_, key, problem)) = checks.into_iter().find(|(is_within, ..)| !is_within) {
            return Err(wrong(key, problem));
        }
        let endpoints = self.endpoints()?;
        if endpoints.iter().any(|endpoint| endpoint.is_tls) && self.ca_file.is_none() {
            return Err(wrong(
                "ca_file",
                "is needed for https://: the authorities of the service's certificate",
            ));
        }
        Ok(())
    }

    /// The entries of `urls`, at least one.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, AuthError> {
        if self.urls.is_empty() || self.urls.len() > URLS_MAX {
            return Err(wrong("urls", "has 1 to 64 entries such as \"https://authsvc:8080\""));
        }
        self.urls.iter().map(|url| Endpoint::parse(url)).collect()
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

impl Endpoint {
    fn parse(url: &str) -> Result<Self, AuthError> {
        let of = |problem: &str| wrong("urls", &format!("{url:?}: {problem}"));
        let uri: Uri = url.parse().map_err(|_| of("is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(of("must begin with https:// or http://"));
        };
        let is_tls = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(of("must begin with https:// or http://")),
        };
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(of("must be no more than https://HOST:PORT"));
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_here = host == "localhost"
            || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback());
        if !is_tls && !is_here {
            return Err(of("beyond this machine passwords need https://"));
        }
        Ok(Self { is_tls, host, port, authority: authority.as_str().to_owned() })
    }
}

pub(super) fn wrong(key: &'static str, problem: &str) -> AuthError {
    AuthError::Section { section: "authsvc", key, problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(url: &str) -> ClientConfig {
        let ca_file = url.starts_with("https").then(|| "ca.pem".into());
        ClientConfig { urls: vec![url.to_owned()], ca_file, ..ClientConfig::default() }
    }

    #[test]
    fn passwords_leave_this_machine_only_encrypted() {
        for good in
            ["http://127.0.0.1:8080", "http://[::1]:1", "http://localhost:80/", "https://authsvc:8080"]
        {
            assert!(with(good).check().is_ok(), "{good}");
        }
        for bad in [
            "http://authsvc:8080",
            "http://10.0.0.1",
            "authsvc:8080",
            "ftp://localhost",
            "https://user:secret@authsvc",
            "https://authsvc/path",
            "https://authsvc?x",
        ] {
            let error = with(bad).check().unwrap_err().to_string();
            assert!(error.starts_with("authsvc.urls"), "{error}");
        }
        assert!(ClientConfig { ca_file: None, ..with("https://a") }.check().is_err());
        assert!(ClientConfig::default().check().is_err());
    }

    #[test]
    fn a_url_is_taken_apart() {
        let endpoint = Endpoint::parse("https://[2001:db8::1]:8443").unwrap();
        assert_eq!((&*endpoint.host, endpoint.port, endpoint.is_tls), ("2001:db8::1", 8443, true));
        assert_eq!(endpoint.authority, "[2001:db8::1]:8443");
        assert_eq!(Endpoint::parse("https://a").unwrap().port, 443);
    }
}
