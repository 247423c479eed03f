//! How clients' certificates are verified, and a digest of everything that verification rests on: a ticket stands for a
//! verification that was done, so it must not outlive a changed authority or revocation list.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::config::{ClientCertificateConfig, ClientCertificateMode};
use super::error::TlsConfigError;
use super::identity::{read_certificates, read_file};

/// A verifier with the digest of its inputs.
pub(super) struct ClientVerification {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Equal for edges that verify alike.
    pub(super) digest: [u8; 32],
}

impl ClientVerification {
    pub(super) fn load(
        config: &ClientCertificateConfig,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsConfigError> {
        let mut inputs = digest::Context::new(&digest::SHA256);
        inputs.update(match config.mode {
            ClientCertificateMode::Off => b"off",
            ClientCertificateMode::Optional => b"optional",
            ClientCertificateMode::Required => b"required",
        });
        let verifier = if config.mode == ClientCertificateMode::Off {
            Arc::new(NoClientAuth)
        } else {
            build_verifier(config, provider, &mut inputs)?
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(inputs.finish().as_ref());
        Ok(Self { verifier, digest })
    }
}

fn build_verifier(
    config: &ClientCertificateConfig,
    provider: &Arc<CryptoProvider>,
    inputs: &mut digest::Context,
) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
    const CA_KEY: &str = "client_certificates.ca_file";
    let Some(ca_file) = &config.ca_file else {
        return Err(TlsConfigError::Invalid {
            key: CA_KEY,
            problem: "is needed when client certificates are asked for".to_owned(),
        });
    };
    let unusable = |problem: String| TlsConfigError::Unusable { key: CA_KEY, path: ca_file.clone(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(CA_KEY, ca_file)? {
        absorb(inputs, &certificate);
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    let lists = load_revocation_lists(config, inputs)?;
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if !lists.is_empty() {
        builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
    }
    if config.mode == ClientCertificateMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(error) => TlsConfigError::Invalid {
            key: "client_certificates.crl_files",
            problem: format!("a revocation list is of no use: {error:?}"),
        },
        error => unusable(error.to_string()),
    })
}

fn load_revocation_lists(
    config: &ClientCertificateConfig,
    inputs: &mut digest::Context,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsConfigError> {
    const KEY: &str = "client_certificates.crl_files";
    let mut lists = Vec::new();
    for path in &config.crl_files {
        let bytes = read_file(KEY, path)?;
        let unusable = |problem: &str| TlsConfigError::Unusable {
            key: KEY,
            path: path.clone(),
            problem: problem.to_owned(),
        };
        let found = if bytes.starts_with(b"-----") {
            CertificateRevocationListDer::pem_slice_iter(&bytes)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| unusable("is not PEM"))?
        } else {
            vec![CertificateRevocationListDer::from(bytes)]
        };
        if found.is_empty() {
            return Err(unusable("holds no revocation list"));
        }
        for list in &found {
            absorb(inputs, list);
        }
        lists.extend(found);
    }
    Ok(lists)
}

fn absorb(inputs: &mut digest::Context, bytes: &[u8]) {
    inputs.update(&(bytes.len() as u64).to_be_bytes());
    inputs.update(bytes);
}
