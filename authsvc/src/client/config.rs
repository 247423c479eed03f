//! `[authsvc]`: where an edge asks who may connect, for how long, and what it remembers.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::AuthError;

/// Names and addresses of services.
const URLS_MAX: usize = 64;

link::settings! {
    /// How an edge asks.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ClientConfig {
        /// Where the service is: `https://HOST:PORT` (`http://` on this machine), several if there are several. A name that
        /// stands for several addresses is all of them.
        pub urls: Vec<String> = Vec::new();
        /// File of the secret that the service asks for, the same as its `service.secret_file`. Read again when it changes, as
        /// the other files are.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub secret_file: Option<PathBuf> = None;
        /// PEM file of the authorities of the service's certificate; needed with `https://`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_file: Option<PathBuf> = None;
        /// PEM file of the certificate chain that the edge shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub certificate_file: Option<PathBuf> = None;
        /// PEM file of its private key.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<PathBuf> = None;
        /// Milliseconds until names are looked up again.
        pub resolve_interval_ms: u64 = 5000, in 100..=3_600_000;
        /// Milliseconds until a connection is up, TLS included.
        pub connect_timeout_ms: u64 = 1000, in 50..=60_000;
        /// Milliseconds that a client waits for the answer, whichever services are asked for it.
        pub timeout_ms: u64 = 5000, in 50..=300_000;
        /// Questions at a time; further clients are refused as "server unavailable", and those of one address before there are so
        /// many.
        pub requests_max: usize = 4096, in 1..=1_000_000;
        /// Milliseconds between two looks whether a service is alive.
        pub probe_interval_ms: u64 = 500, in 50..=60_000;
        /// Milliseconds that such an answer may take; after two that did not come a service is passed over until one does.
        pub probe_timeout_ms: u64 = 500, in 50..=60_000;
        /// Milliseconds for which the same credentials of the same client are let in again without a question; never longer
        /// than half of what is left of the passport. 0 turns it off.
        pub allowed_ttl_ms: u64 = 60_000, in ..=86_400_000;
        /// The same for a refusal.
        pub denied_ttl_ms: u64 = 2000, in ..=60_000;
        /// Answers that are remembered: so many that let a client in, and as many that did not, about 1 KB each.
        pub answers_max: usize = 100_000, in ..=10_000_000;
        /// What happens while no service can be reached. Default `refuse`.
        pub when_away: WhenServiceAway = WhenServiceAway::Refuse;
    }
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
        self.check_bounds("authsvc")?;
        if self.certificate_file.is_some() != self.key_file.is_some() {
            return Err(wrong("certificate_file", "and key_file need each other"));
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

fn wrong(key: &'static str, problem: &str) -> AuthError {
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
