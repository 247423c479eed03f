//! Whom the client trusts, and the certificate that it shows.

use std::path::Path;
use std::sync::Arc;

use files::pem::{self, Kind, Section};
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::AuthError;

/// The PEM files that a section names by `ca_file`, `certificate_file` and `key_file`.
#[derive(Clone, Copy)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) ca: Option<&'a Path>,
    pub(crate) certificate: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
}

impl TlsFiles<'_> {
    /// The TLS of `section`.
    ///
    /// # Errors
    /// One of certificate and key is missing, or a file cannot be read or used.
    pub(crate) fn client_config(self, section: &'static str) -> Result<ClientConfig, AuthError> {
        let wrong = |key: &'static str, problem: String| AuthError::File { section, key, problem };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("ca_file", error.to_string()))?
            .with_root_certificates(match self.ca {
                Some(file) => of_file(file).map_err(|problem| wrong("ca_file", problem))?,
                None => of_system(section),
            });
        let (certificate, key) = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return Ok(builder.with_no_client_auth()),
            _ => {
                let (key, problem) = ("certificate_file", "and key_file need each other".to_owned());
                return Err(AuthError::Section { section, key, problem });
            }
        };
        let chain = chain_of(certificate).map_err(|problem| wrong("certificate_file", problem))?;
        let private = key_of(key).map_err(|problem| wrong("key_file", problem))?;
        builder.with_client_auth_cert(chain, private).map_err(|error| {
            wrong("key_file", format!("does not go with {}: {error}", certificate.display()))
        })
    }
}

fn of_file(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for Section { line, der, .. } in certificates(file)? {
        roots.add(der.into()).map_err(|error| {
            format!("line {line}: the certificate cannot be used as an authority: {error}")
        })?;
    }
    Ok(roots)
}

fn of_system(section: &'static str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Systems carry certificates of other times; those that nothing can be done with are passed over.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        tracing::warn!(section, "the system has no certificate authorities, so no https:// without ca_file");
    }
    roots
}

fn chain_of(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    Ok(certificates(file)?.into_iter().map(|section| section.der.into()).collect())
}

fn key_of(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let first = pem::first(&read(file)?, Kind::PrivateKey);
    first.map(Section::into_private_key).map_err(|error| error.to_string())
}

fn certificates(file: &Path) -> Result<Vec<Section>, String> {
    pem::sections(&read(file)?, Kind::Certificate).map_err(|error| error.to_string())
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(file).map_err(|error| format!("cannot be read: {error}"))
}
