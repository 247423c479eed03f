//! Mutual TLS of links: both ends show a certificate of the same authority. TLS 1.3 only, since both ends are of this
//! software.

mod live;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::Snapshot;
use files::pem::{self, Kind, Section};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::{Deserialize, Serialize};

pub use self::live::{LinkTerms, LinkTls};

/// The certificate that this end shows, and the authority of the other's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkTlsConfig {
    /// PEM file of this end's certificate chain.
    pub certificate_file: PathBuf,
    /// PEM file of its private key (PKCS #8, PKCS #1 or SEC 1).
    pub key_file: PathBuf,
    /// PEM file of the authorities that the other end's certificate comes from.
    pub ca_file: PathBuf,
    /// At the edge: the name that the certificates of workers bear. Default: the host that is dialled.
    #[serde(default)]
    pub server_name: Option<String>,
}

/// What is wrong with a [`LinkTlsConfig`].
#[derive(Debug, thiserror::Error)]
pub enum LinkTlsError {
    /// A file cannot be read.
    #[error("{key}: {} cannot be read", path.display())]
    Unreadable {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{key}: {}: {problem}", path.display())]
    Unusable {
        /// The key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key and a certificate do not belong together, as when one of the two files is still to come.
    #[error("{key}: {}: is not the key of {}", path.display(), certificate.display())]
    Mismatch {
        /// The key.
        key: &'static str,
        /// The file of the key.
        path: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// A name that no certificate can bear.
    #[error("server_name: {0:?} is neither a DNS name nor an address")]
    Name(String),
}

impl LinkTlsError {
    /// Whether it is a file that the configuration names, and not what the configuration says.
    pub fn is_of_a_file(&self) -> bool {
        !matches!(self, Self::Name(_))
    }
}

fn read<'a>(key: &'static str, path: &Path, found: &'a Snapshot) -> Result<&'a [u8], LinkTlsError> {
    found.bytes(path).map_err(|source| LinkTlsError::Unreadable { key, path: path.to_owned(), source })
}

fn unusable(key: &'static str, path: &Path, problem: impl Into<String>) -> LinkTlsError {
    LinkTlsError::Unusable { key, path: path.to_owned(), problem: problem.into() }
}

fn certificates(key: &'static str, path: &Path, found: &Snapshot) -> Result<Vec<Section>, LinkTlsError> {
    let sections = pem::sections(read(key, path, found)?, Kind::Certificate);
    sections.map_err(|error| unusable(key, path, error.to_string()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl LinkTlsConfig {
    fn files(&self) -> [&Path; 3] {
        [&self.certificate_file, &self.key_file, &self.ca_file]
    }

    /// For the edge, which dials.
    ///
    /// # Errors
    /// The key and the file that cannot be used.
    pub fn client(&self) -> Result<Arc<ClientConfig>, LinkTlsError> {
        self.client_from(&Snapshot::take(self.files()))
    }

    fn client_from(&self, found: &Snapshot) -> Result<Arc<ClientConfig>, LinkTlsError> {
        if let Some(name) = &self.server_name {
            server_name(name)?;
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.of_pair(&error))?
            .with_root_certificates(self.authorities(found)?)
            .with_client_auth_cert(self.chain(found)?, self.key(found)?)
            .map_err(|error| self.of_pair(&error))?;
        Ok(Arc::new(config))
    }

    /// For the worker, which listens, and takes nobody without a certificate.
    ///
    /// # Errors
    /// The key and the file that cannot be used.
    pub fn server(&self) -> Result<Arc<ServerConfig>, LinkTlsError> {
        self.server_from(&Snapshot::take(self.files()))
    }

    fn server_from(&self, found: &Snapshot) -> Result<Arc<ServerConfig>, LinkTlsError> {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.authorities(found)?), provider())
                .build()
                .map_err(|error| unusable("ca_file", &self.ca_file, error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.of_pair(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain(found)?, self.key(found)?)
            .map_err(|error| self.of_pair(&error))?;
        Ok(Arc::new(config))
    }

    /// The name that the certificate of a worker at `host` has to bear.
    ///
    /// # Errors
    /// It is no name.
    pub fn name_of(&self, host: &str) -> Result<ServerName<'static>, LinkTlsError> {
        server_name(self.server_name.as_deref().unwrap_or(host))
    }

    fn authorities(&self, found: &Snapshot) -> Result<RootCertStore, LinkTlsError> {
        let mut roots = RootCertStore::empty();
        for Section { line, der, .. } in certificates("ca_file", &self.ca_file, found)? {
            roots.add(der.into()).map_err(|error| {
                let problem = format!("line {line}: the certificate cannot be used as an authority: {error}");
                unusable("ca_file", &self.ca_file, problem)
            })?;
        }
        Ok(roots)
    }

    fn chain(&self, found: &Snapshot) -> Result<Vec<CertificateDer<'static>>, LinkTlsError> {
        let certificates = certificates("certificate_file", &self.certificate_file, found)?;
        Ok(certificates.into_iter().map(|section| section.der.into()).collect())
    }

    fn key(&self, found: &Snapshot) -> Result<PrivateKeyDer<'static>, LinkTlsError> {
        let (key, path) = ("key_file", &self.key_file);
        let first = pem::first(read(key, path, found)?, Kind::PrivateKey);
        first.map(Section::into_private_key).map_err(|error| unusable(key, path, error.to_string()))
    }

    fn of_pair(&self, error: &rustls::Error) -> LinkTlsError {
        match error {
            rustls::Error::InvalidCertificate(reason) => {
                // The other end would refuse one of version 1 too, as `openssl x509 -req` makes it without an extension file.
                let problem = format!(
                    "its first certificate cannot be used on links ({reason:?}); they need X.509 version 3, with the \
                     name of this end (openssl x509 -req -extfile, or tidegate certs)"
                );
                unusable("certificate_file", &self.certificate_file, problem)
            }
            rustls::Error::InconsistentKeys(_) => {
                let (path, certificate) = (self.key_file.clone(), self.certificate_file.clone());
                LinkTlsError::Mismatch { key: "key_file", path, certificate }
            }
            error => unusable("key_file", &self.key_file, error.to_string()),
        }
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, LinkTlsError> {
    // An IPv6 address may come in the brackets of `host:port`.
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    ServerName::try_from(bare.to_owned()).map_err(|_| LinkTlsError::Name(name.to_owned()))
}

#[cfg(test)]
mod tests;
