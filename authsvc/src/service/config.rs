//! `[service]`: where callers come, how they are known, and the bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use link::Bind;
use serde::{Deserialize, Serialize};

use crate::AuthError;

/// The port of the service.
const PORT: u16 = 8080;

/// Where callers come, and how many.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceConfig {
    /// Address. Default `127.0.0.1:8080`. Beyond loopback it needs `tls`, and callers that are known: by `tls.client_ca_file`
    /// or `secret_file`.
    pub listen: Bind,
    /// Certificates; without them, HTTP in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServiceTlsConfig>,
    /// File of a secret that callers show (`Authorization: Bearer SECRET`), 16 bytes at least; white space at its ends does not
    /// count. Read again when it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Bytes of a request's line and headers. Default 16384; 8192 to 1048576.
    pub header_bytes_max: usize,
    /// Bytes of a request's body. Default 262144; 1024 to 16777216.
    pub body_bytes_max: usize,
    /// Milliseconds until a connection has sent its first request, and an HTTP/1.1 connection each further one. Default 15000;
    /// 100 to 600000.
    pub header_timeout_ms: u64,
    /// Milliseconds from there to the answer, body included. Default 10000; 100 to 300000.
    pub request_timeout_ms: u64,
    /// Connections; further ones wait in the kernel. Default 1024; 1 to 1000000.
    pub connections_max: usize,
    /// Requests that are decided at a time; further ones are answered with 503. Default 4096; 1 to 1000000.
    pub requests_max: usize,
}

/// `[service.tls]`. All files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTlsConfig {
    /// PEM file of the certificate chain.
    pub certificate_file: PathBuf,
    /// PEM file of its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key_file: PathBuf,
    /// PEM file of the authorities of callers. With it, nobody may ask about clients without a certificate of theirs; the keys
    /// of passports are for everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], PORT)).into(),
            tls: None,
            secret_file: None,
            header_bytes_max: 16_384,
            body_bytes_max: 262_144,
            header_timeout_ms: 15_000,
            request_timeout_ms: 10_000,
            connections_max: 1024,
            requests_max: 4096,
        }
    }
}

impl ServiceConfig {
    /// Checks the bounds, and that strangers find nothing.
    pub(super) fn check(&self) -> Result<(), AuthError> {
        let wrong = |key, problem: &str| {
            Err(AuthError::Section { section: "service", key, problem: problem.to_owned() })
        };
        let is_known =
            self.secret_file.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if !self.listen.is_loopback() && self.tls.is_none() {
            let problem = "beyond loopback passwords need TLS; set service.tls.certificate_file and key_file (tidegate certs \
                           DIR makes some for development)";
            return wrong("listen", problem);
        }
        if !self.listen.is_loopback() && !is_known {
            let problem = "beyond loopback callers must be known; set service.tls.client_ca_file or service.secret_file";
            return wrong("listen", problem);
        }
        let checks = [
            (
                (8192..=1_048_576).contains(&self.header_bytes_max),
                "header_bytes_max",
                "must be 8192 to 1048576",
            ),
            (
                (1024..=16_777_216).contains(&self.body_bytes_max),
                "body_bytes_max",
                "must be 1024 to 16777216",
            ),
            ((100..=600_000).contains(&self.header_timeout_ms), "header_timeout_ms", "must be 100 to 600000"),
            (
                (100..=300_000).contains(&self.request_timeout_ms),
                "request_timeout_ms",
                "must be 100 to 300000",
            ),
            ((1..=1_000_000).contains(&self.connections_max), "connections_max", "must be 1 to 1000000"),
            ((1..=1_000_000).contains(&self.requests_max), "requests_max", "must be 1 to 1000000"),
        ];
        match checks.into_iter().find(|(is_within, ..)| !is_within) {
            Some((_, key, problem)) => wrong(key, problem),
            None => Ok(()),
        }
    }

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
