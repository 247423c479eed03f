//! `[service]`: where callers come, how they are known, and the bounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use link::Bind;
use serde::{Deserialize, Serialize};

use crate::AuthError;

/// The port of the service.
const PORT: u16 = 8080;

link::settings! {
    /// Where callers come, and how many.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct ServiceConfig {
        /// Address. Default `127.0.0.1:8080`. Beyond loopback it needs `tls`, and callers that are known: by
        /// `tls.client_ca_file` or `secret_file`.
        pub listen: Bind = SocketAddr::from(([127, 0, 0, 1], PORT)).into();
        /// Certificates; without them, HTTP in the clear.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tls: Option<ServiceTlsConfig> = None;
        /// File of a secret that callers show (`Authorization: Bearer SECRET`), 16 bytes at least; white space at its ends does
        /// not count. Read again when it changes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub secret_file: Option<PathBuf> = None;
        /// Bytes of a request's line and headers.
        pub header_bytes_max: usize = 16_384, in 8_192..=1_048_576;
        /// Bytes of a request's body.
        pub body_bytes_max: usize = 262_144, in 1_024..=16_777_216;
        /// Milliseconds until a connection has sent its first request, and an HTTP/1.1 connection each further one.
        pub header_timeout_ms: u64 = 15_000, in 100..=600_000;
        /// Milliseconds from there to the answer, body included.
        pub request_timeout_ms: u64 = 10_000, in 100..=300_000;
        /// Connections; further ones wait in the kernel.
        pub connections_max: usize = 1024, in 1..=1_000_000;
        /// Requests that are decided at a time; further ones are answered with 503.
        pub requests_max: usize = 4096, in 1..=1_000_000;
    }
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
        Ok(self.check_bounds("service")?)
    }

    pub(super) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    /// Requests at a time on one connection: one may have all.
    pub(super) fn streams_max(&self) -> u32 {
        u32::try_from(self.requests_max).unwrap_or(u32::MAX)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
}
