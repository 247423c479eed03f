//! How clients' certificates are verified, and a digest of everything that verification rests on: a ticket stands for a
//! verification that was done, so it must not outlive a changed authority or revocation list.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use files::Snapshot;
use files::pem::{Kind, Section};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::config::{ClientCertificateConfig, ClientCertificateMode};
use super::error::TlsConfigError;
use super::identity::{read_file, read_sections};
use super::listed::{Listed, Listing};
use super::telemetry::{Ends, end_of_certificate, end_of_list, first};

/// DER of a revocation list begins so, and no PEM does.
const DER_SEQUENCE: u8 = 0x30;

/// A verifier with the digest of its inputs.
pub(super) struct ClientVerification {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Equal for edges that verify alike.
    pub(super) digest: [u8; 32],
    /// The subjects of the authorities, for the log.
    pub(super) authorities: BTreeSet<String>,
    /// When the first authority ends, and when the first list does.
    pub(super) ends: Ends,
    /// Certificates that are revoked.
    pub(super) listed: Listed,
}

impl ClientVerification {
    pub(super) fn load(
        config: &ClientCertificateConfig,
        provider: &Arc<CryptoProvider>,
        found: &Snapshot,
    ) -> Result<Self, TlsConfigError> {
        let (mut authorities, mut ends) = (BTreeSet::new(), Ends::default());
        let mut inputs = digest::Context::new(&digest::SHA256);
        inputs.update(match config.mode {
            ClientCertificateMode::Off => b"off",
            ClientCertificateMode::Optional => b"optional",
            ClientCertificateMode::Required => b"required",
        });
        let mut listing = Listing::default();
        let verifier = if config.mode == ClientCertificateMode::Off {
            Arc::new(NoClientAuth)
        } else {
            let (roots, lists) =
                read_trust(config, found, &mut inputs, &mut authorities, &mut listing, &mut ends)?;
            build_verifier(config, provider, roots, lists)?
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(inputs.finish().as_ref());
        Ok(Self { verifier, digest, authorities, ends, listed: listing.finish() })
    }
}

const CA_KEY: &str = "client_certificates.ca_file";
const CRL_KEY: &str = "client_certificates.crl_files";

type RevocationLists = Vec<CertificateRevocationListDer<'static>>;

/// The authorities, and what they have revoked.
fn read_trust(
    config: &ClientCertificateConfig,
    found: &Snapshot,
    inputs: &mut digest::Context,
    authorities: &mut BTreeSet<String>,
    listing: &mut Listing,
    ends: &mut Ends,
) -> Result<(RootCertStore, RevocationLists), TlsConfigError> {
    let Some(ca_file) = &config.ca_file else {
        return Err(TlsConfigError::Invalid {
            key: CA_KEY,
            problem: "is needed when client certificates are asked for".to_owned(),
        });
    };
    let mut roots = RootCertStore::empty();
    for Section { line, der, .. } in read_sections(CA_KEY, ca_file, found, Kind::Certificate)? {
        absorb(inputs, &der);
        ends.client_authority = first(ends.client_authority, end_of_certificate(&der));
        authorities.extend(X509Certificate::from_der(&der).map(|(_, ca)| ca.subject().to_string()));
        roots.add(CertificateDer::from(der)).map_err(|error| TlsConfigError::Unusable {
            key: CA_KEY,
            path: ca_file.clone(),
            problem: format!("line {line}: the certificate cannot be used as an authority: {error}"),
        })?;
    }
    Ok((roots, load_revocation_lists(config, found, inputs, listing, ends)?))
}

fn build_verifier(
    config: &ClientCertificateConfig,
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
    lists: RevocationLists,
) -> Result<Arc<dyn ClientCertVerifier>, TlsConfigError> {
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if !lists.is_empty() {
        builder = builder.with_crls(lists).allow_unknown_revocation_status().enforce_revocation_expiration();
    }
    if config.mode == ClientCertificateMode::Optional {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(error) => TlsConfigError::Invalid {
            key: CRL_KEY,
            problem: format!("a revocation list is of no use: {error:?}"),
        },
        error => TlsConfigError::Invalid { key: CA_KEY, problem: error.to_string() },
    })
}

fn load_revocation_lists(
    config: &ClientCertificateConfig,
    found: &Snapshot,
    inputs: &mut digest::Context,
    listing: &mut Listing,
    ends: &mut Ends,
) -> Result<RevocationLists, TlsConfigError> {
    let mut lists = Vec::new();
    for path in &config.crl_files {
        let bytes = read_file(CRL_KEY, path, found)?;
        let is_der = bytes.first() == Some(&DER_SEQUENCE);
        let sections = if is_der {
            vec![Section { label: String::new(), line: 1, der: bytes.to_vec() }]
        } else {
            read_sections(CRL_KEY, path, found, Kind::RevocationList)?
        };
        for Section { line, der, .. } in sections {
            let (_, list) =
                CertificateRevocationList::from_der(&der).map_err(|error| TlsConfigError::Unusable {
                    key: CRL_KEY,
                    path: path.clone(),
                    problem: format!("line {line}: the revocation list cannot be parsed: {error}"),
                })?;
            listing.add(&list);
            ends.revocation_list = first(ends.revocation_list, end_of_list(&list));
            absorb(inputs, &der);
            lists.push(CertificateRevocationListDer::from(der));
        }
    }
    Ok(lists)
}

fn absorb(inputs: &mut digest::Context, bytes: &[u8]) {
    inputs.update(&(bytes.len() as u64).to_be_bytes());
    inputs.update(bytes);
}
