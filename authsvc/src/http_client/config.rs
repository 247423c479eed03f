//! The settings of everything that calls out by HTTP, flattened into its section.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use super::TlsFiles;
use crate::AuthError;

link::settings! {
    /// How a section calls out.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct HttpClientConfig {
        /// Milliseconds that one request may take from the wait for a connection to the last byte of the answer.
        pub timeout_ms: u64 = 1500, in 1..=300_000;
        /// Milliseconds of it that a connection may take to come up, TLS included.
        pub connect_timeout_ms: u64 = 1000, in 1..=300_000;
        /// Requests at a time, and connections that are kept for further ones.
        pub connections_max: usize = 64, in 1..=10_000;
        /// Bytes of an answer's body; a longer one is not taken.
        pub answer_bytes_max: usize = 65_536, in 1..=16_777_216;
        /// PEM file of the authorities that the other end's certificate comes from. Default: the system's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ca_file: Option<PathBuf> = None;
        /// PEM file of the certificate chain that this end shows; none by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub certificate_file: Option<PathBuf> = None;
        /// PEM file of its private key (PKCS #8, PKCS #1 or SEC 1).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub key_file: Option<PathBuf> = None;
        /// Whether `http://` may lead beyond this machine, where others can read along.
        pub allow_plain: bool = false;
    }
}

impl HttpClientConfig {
    /// Checks a URL that requests may be sent to, and takes it apart.
    ///
    /// # Errors
    /// It is no URL, has a user name or password in it, or leads beyond this machine in the clear.
    pub(crate) fn url(&self, section: &'static str, key: &'static str, url: &str) -> Result<Uri, AuthError> {
        let wrong = |problem: &str| Err(AuthError::Section { section, key, problem: problem.to_owned() });
        let Ok(uri) = url.parse::<Uri>() else {
            return wrong("is not a URL");
        };
        if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
            return wrong("must be an absolute URL without user name and password in it");
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return wrong("must begin with https:// or http://");
        }
        if !self.may_ask(&uri) {
            return wrong("must begin with https:// (or set allow_plain = true: others can read along)");
        }
        Ok(uri)
    }

    /// Whether requests may go there: encrypted, within this machine, or because it was said so.
    pub(crate) fn may_ask(&self, uri: &Uri) -> bool {
        self.allow_plain || uri.scheme_str() == Some("https") || uri.host().is_some_and(is_loopback)
    }

    pub(super) fn tls(&self) -> TlsFiles<'_> {
        TlsFiles {
            ca: self.ca_file.as_deref(),
            certificate: self.certificate_file.as_deref(),
            key: self.key_file.as_deref(),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

/// Whether a host, as a URL has it, is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse::<std::net::IpAddr>();
    bare.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_this_machine_unless_it_is_said() {
        let config = HttpClientConfig::default();
        for url in ["https://a.example/x", "http://127.0.0.1:80", "http://[::1]/x", "http://localhost:8080/x"]
        {
            assert!(config.url("auth.http", "url", url).is_ok(), "{url}");
        }
        let refused = [
            ("http://a.example/", "must begin with https:// (or set allow_plain = true"),
            ("http://127.0.0.1.example/", "must begin with https:// (or set allow_plain = true"),
            ("http://10.0.0.1/", "must begin with https:// (or set allow_plain = true"),
            ("ftp://127.0.0.1/", "must begin with https:// or http://"),
            ("/path", "must be an absolute URL without user name and password in it"),
            (
                "https://user:secret@a.example/",
                "must be an absolute URL without user name and password in it",
            ),
            ("https://a b/", "is not a URL"),
        ];
        for (url, problem) in refused {
            let error = config.url("auth.http", "url", url).unwrap_err().to_string();
            assert!(error.starts_with(&format!("auth.http.url {problem}")), "{url}: {error}");
        }
        let open = HttpClientConfig { allow_plain: true, ..config };
        assert!(open.url("auth.http", "url", "http://a.example/").is_ok());
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let config = HttpClientConfig { timeout_ms: 0, ..HttpClientConfig::default() };
        let error = config.check_bounds("auth.http").unwrap_err().to_string();
        assert_eq!(error, "auth.http.timeout_ms = 0: must be 1 to 300000");
        let config =
            HttpClientConfig { certificate_file: Some("a.pem".into()), ..HttpClientConfig::default() };
        let error = config.tls().client_config("auth.jwt").unwrap_err().to_string();
        assert_eq!(error, "auth.jwt.certificate_file and key_file need each other");
    }
}
