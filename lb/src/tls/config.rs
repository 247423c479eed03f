//! The TLS section of a listener's configuration.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::expiry::{Term, What};

link::settings! {
    /// How a listener does TLS.
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct TlsConfig {
        /// Certificates with their keys, at least one. Chosen by Server Name Indication; the first is the default.
        pub certificates: Vec<CertificateFiles> = Vec::new();
        /// The lowest protocol version accepted: `"1.2"` (default) or `"1.3"`.
        pub min_version: MinVersion = MinVersion::default();
        /// The cipher suites that may be agreed to, by their names at IANA, the preferred first. Empty (default): all that
        /// there are.
        pub cipher_suites: Vec<String> = Vec::new();
        /// The groups for key exchange, in the same way.
        pub groups: Vec<String> = Vec::new();
        /// Whether clients are refused that offer application protocols (ALPN) of which none is served. Default false: they are
        /// let in without any.
        pub alpn_strict: bool = false;
        /// What is asked of clients.
        pub client_certificates: ClientCertificateConfig = ClientCertificateConfig::default();
        /// Session tickets.
        pub tickets: TicketConfig = TicketConfig::default();
        /// The largest TLS record sent, header included, in bytes: 512 to 16,389. Unset: 16,384 of plaintext. Small records let
        /// a device with little memory begin sooner, at the price of more work here.
        pub fragment_bytes_max: Option<usize> = None, in 512..=16_389;
        /// From how many days before its end on a certificate is told of, the server's and those of authorities: 0: when it has
        /// ended.
        pub certificate_warning_days: u32 = 14, in ..=3_650;
        /// The same for revocation lists and OCSP responses, in hours before the next one is due:
        pub list_warning_hours: u32 = 24, in ..=8_760;
    }
}

impl TlsConfig {
    /// Whether operators are told at this time that it ends.
    pub(super) fn tells_of(&self, term: &Term, now_s: i64) -> bool {
        const HOUR_S: i64 = 60 * 60;
        let ahead_s = match term.what {
            What::ServerCertificate | What::ClientAuthority => {
                i64::from(self.certificate_warning_days) * 24 * HOUR_S
            }
            What::RevocationList | What::OcspResponse => i64::from(self.list_warning_hours) * HOUR_S,
        };
        term.validity.has_ended(now_s.saturating_add(ahead_s))
    }

    /// The files that are read, and belong together.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.certificates.iter().flat_map(CertificateFiles::files);
        let clients =
            Some(&self.client_certificates).filter(|clients| clients.mode != ClientCertificateMode::Off);
        let clients =
            clients.into_iter().flat_map(|clients| clients.ca_file.iter().chain(&clients.crl_files));
        let secret = self.tickets.secret_file.as_ref().filter(|_| self.tickets.enabled);
        pairs.chain(clients).chain(secret).map(PathBuf::as_path)
    }
}

/// One certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file of the chain, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// PEM file of the private key: PKCS #8, PKCS #1 or SEC 1.
    pub key_file: PathBuf,
    /// The server names it answers to, `*.example.com` for one whole label. Empty (default): those in the certificate.
    #[serde(default)]
    pub server_names: Vec<String>,
    /// DER file of the OCSP response about it, which is stapled to handshakes while it is good. Unset (default): none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ocsp_file: Option<PathBuf>,
}

impl CertificateFiles {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate_file, &self.key_file].into_iter().chain(&self.ocsp_file)
    }
}

/// The lowest protocol version accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3 only.
    #[serde(rename = "1.3")]
    Tls13,
}

/// What is asked of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientCertificateConfig {
    /// `"off"` (default), `"optional"` or `"required"`.
    pub mode: ClientCertificateMode,
    /// PEM file of the authorities that clients' certificates must come from. Needed unless `mode` is `"off"`.
    pub ca_file: Option<PathBuf>,
    /// Certificate revocation lists, PEM or DER. With one or more, a client certificate whose issuer has no list here is
    /// accepted, and a list that is past its next update is refused.
    pub crl_files: Vec<PathBuf>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificateMode {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; one that is shown must be good.
    Optional,
    /// Without one the handshake fails.
    Required,
}

link::settings! {
    /// Session tickets: what lets a returning client skip the certificates.
    #[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct TicketConfig {
        /// Whether tickets are given out and accepted.
        pub enabled: bool = true;
        /// How long one key makes tickets, in seconds: A ticket is good for one to two of these.
        pub rotate_s: u64 = 12 * 60 * 60, in 60..=604_800;
        /// File of at least 32 secret bytes, from which every edge that has the same file derives the same keys. Unset
        /// (default): random keys, good in this process only.
        pub secret_file: Option<PathBuf> = None;
    }
}
