//! The server's certificates: loaded from files, chosen by Server Name Indication. Sees every ClientHello, so it also
//! notes the name for the facts of the handshake, which rustls does not give out over its unbuffered interface.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::config::CertificateFiles;
use super::error::TlsConfigError;
use super::facts;

thread_local! {
    static SERVER_NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Forgets what an earlier handshake on this thread may have left.
pub(super) fn forget_server_name() {
    SERVER_NAME.set(None);
}

/// The name in the ClientHello that was handled on this thread since [`forget_server_name`].
pub(super) fn take_server_name() -> Option<Box<str>> {
    SERVER_NAME.take()
}

/// Certificates by name; the first one answers for names that are not known, and for clients that send none.
#[derive(Debug)]
pub(super) struct Identities {
    default: Arc<CertifiedKey>,
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Identities {
    pub(super) fn load(
        files: &[CertificateFiles],
        provider: &CryptoProvider,
    ) -> Result<Self, TlsConfigError> {
        let mut default = None;
        let mut by_name = HashMap::new();
        for entry in files {
            let key = Arc::new(load_pair(entry, provider)?);
            for name in names_of(entry, &key)? {
                // The first certificate for a name keeps it, as the first of all is the default.
                by_name.entry(name.into_boxed_str()).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        let default = default.ok_or_else(|| TlsConfigError::Invalid {
            key: "certificates",
            problem: "at least one certificate is needed".to_owned(),
        })?;
        Ok(Self { default, by_name })
    }

    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = name.filter(|_| !self.by_name.is_empty()) else { return &self.default };
        if let Some(exact) = self.by_name.get(name) {
            return exact;
        }
        // RFC 6125 section 6.4.3: a wildcard stands for one whole leftmost label.
        let wildcard = name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        wildcard.and_then(|wildcard| self.by_name.get(wildcard.as_str())).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase).map(String::into_boxed_str);
        let chosen = Arc::clone(self.choose(name.as_deref()));
        SERVER_NAME.set(name);
        Some(chosen)
    }
}

fn load_pair(entry: &CertificateFiles, provider: &CryptoProvider) -> Result<CertifiedKey, TlsConfigError> {
    let chain = read_certificates("certificates.certificate_file", &entry.certificate_file)?;
    let pem = read_file("certificates.key_file", &entry.key_file)?;
    let unusable = |problem: String| TlsConfigError::Unusable {
        key: "certificates.key_file",
        path: entry.key_file.clone(),
        problem,
    };
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| unusable("holds no private key in PEM".to_owned()))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            unusable(format!("is not the key of {}", entry.certificate_file.display()))
        }
        rustls::Error::InvalidCertificate(_) => TlsConfigError::Unusable {
            key: "certificates.certificate_file",
            path: entry.certificate_file.clone(),
            problem: "holds a certificate that cannot be parsed".to_owned(),
        },
        error => unusable(error.to_string()),
    })
}

fn names_of(entry: &CertificateFiles, key: &CertifiedKey) -> Result<Vec<String>, TlsConfigError> {
    if !entry.server_names.is_empty() {
        return Ok(entry.server_names.iter().map(|name| name.to_ascii_lowercase()).collect());
    }
    let Some(leaf) = key.cert.first() else { return Ok(Vec::new()) };
    facts::server_names(leaf).map_err(|_| TlsConfigError::Unusable {
        key: "certificates.certificate_file",
        path: entry.certificate_file.clone(),
        problem: "holds a certificate that cannot be parsed".to_owned(),
    })
}

/// Reads all certificates of a PEM file; there must be one.
pub(super) fn read_certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let pem = read_file(key, path)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(TlsConfigError::Unusable {
            key,
            path: path.to_owned(),
            problem: "holds no certificate in PEM".to_owned(),
        }),
    }
}

pub(super) fn read_file(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsConfigError> {
    fs::read(path).map_err(|source| TlsConfigError::Unreadable { key, path: path.to_owned(), source })
}
