//! How clients' certificates are verified, and a digest of everything that verification rests on: a ticket stands for a
//! verification that was done, so it must not outlive a changed authority or revocation list.

use std::collections::BTreeSet;
use std::sync::Arc;

use aws_lc_rs::digest;
use files::Snapshot;
use files::pem::{Kind, Section};
use files::validity::Validity;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::config::{ClientCertificateConfig, ClientCertificateMode};
use super::error::TlsConfigError;
use super::expiry::{FileTerms, Need, Term, What};
use super::identity::{read_file, read_sections};
use super::subject;
use super::trust::{Listing, Trust};

/// DER of a revocation list begins so, and no PEM does.
const DER_SEQUENCE: u8 = 0x30;

/// A verifier with the digest of its inputs.
pub(super) struct ClientVerification {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Equal for edges that verify alike.
    pub(super) digest: [u8; 32],
    /// The subjects of the authorities, for the log.
    pub(super) authorities: BTreeSet<String>,
    /// When authorities and lists end.
    pub(super) terms: Vec<Term>,
    /// What connections that were verified may lose.
    pub(super) trust: Trust,
}

impl ClientVerification {
    pub(super) fn load(
        config: &ClientCertificateConfig,
        provider: &Arc<CryptoProvider>,
        found: &Snapshot,
    ) -> Result<Self, TlsConfigError> {
        let mut inputs = digest::Context::new(&digest::SHA256);
        inputs.update(match config.mode {
            ClientCertificateMode::Off => b"off",
            ClientCertificateMode::Optional => b"optional",
            ClientCertificateMode::Required => b"required",
        });
        let mut read = Read::new();
        let verifier = if config.mode == ClientCertificateMode::Off {
            Arc::new(NoClientAuth)
        } else {
            read.authorities(config, found, &mut inputs)?;
            let lists = read.revocation_lists(config, found, &mut inputs)?;
            build_verifier(config, provider, read.roots.clone(), lists)?
        };
        let mut digest = [0; 32];
        digest.copy_from_slice(inputs.finish().as_ref());
        let Read { roots, names: authorities, terms, listing } = read;
        Ok(Self { verifier, digest, authorities, terms, trust: Trust::new(&roots, listing) })
    }
}

const CA_KEY: &str = "client_certificates.ca_file";
const CRL_KEY: &str = "client_certificates.crl_files";

type RevocationLists = Vec<CertificateRevocationListDer<'static>>;

/// What the files say.
struct Read {
    roots: RootCertStore,
    names: BTreeSet<String>,
    terms: Vec<Term>,
    listing: Listing,
}

impl Read {
    fn new() -> Self {
        let (names, terms, listing) = (BTreeSet::new(), Vec::new(), Listing::default());
        Self { roots: RootCertStore::empty(), names, terms, listing }
    }

    fn authorities(
        &mut self,
        config: &ClientCertificateConfig,
        found: &Snapshot,
        inputs: &mut digest::Context,
    ) -> Result<(), TlsConfigError> {
        let Some(ca_file) = &config.ca_file else {
            return Err(TlsConfigError::Invalid {
                key: CA_KEY,
                problem: "is needed when client certificates are asked for".to_owned(),
            });
        };
        let terms = FileTerms { what: What::ClientAuthority, key: CA_KEY, path: ca_file };
        for Section { line, der, .. } in read_sections(CA_KEY, ca_file, found, Kind::Certificate)? {
            absorb(inputs, &der);
            self.terms.extend(terms.of_certificate(&der, Some(Need::Authority)));
            self.names.extend(X509Certificate::from_der(&der).map(|(_, ca)| ca.subject().to_string()));
            self.roots.add(CertificateDer::from(der)).map_err(|error| TlsConfigError::Unusable {
                key: CA_KEY,
                path: ca_file.clone(),
                problem: format!("line {line}: the certificate cannot be used as an authority: {error}"),
            })?;
        }
        Ok(())
    }

    fn revocation_lists(
        &mut self,
        config: &ClientCertificateConfig,
        found: &Snapshot,
        inputs: &mut digest::Context,
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
            let terms = FileTerms { what: What::RevocationList, key: CRL_KEY, path };
            for Section { line, der, .. } in sections {
                let (_, list) =
                    CertificateRevocationList::from_der(&der).map_err(|error| TlsConfigError::Unusable {
                        key: CRL_KEY,
                        path: path.clone(),
                        problem: format!("line {line}: the revocation list cannot be parsed: {error}"),
                    })?;
                // RFC 5280, section 5.1.2.1
                if list.version().is_none() {
                    return Err(TlsConfigError::Unusable {
                        key: CRL_KEY,
                        path: path.clone(),
                        problem: format!(
                            "line {line}: the revocation list is of version 1, and must be of version 2 (`openssl ca -gencrl` makes \
                             it with crl_extensions in its configuration)"
                        ),
                    });
                }
                self.listing.add(&list);
                self.terms.push(term_of_list(&terms, &list));
                absorb(inputs, &der);
                lists.push(CertificateRevocationListDer::from(der));
            }
        }
        Ok(lists)
    }
}

/// A list is of no use when the next one is due.
fn term_of_list(terms: &FileTerms<'_>, list: &CertificateRevocationList<'_>) -> Term {
    let validity = Validity {
        from_s: list.last_update().timestamp(),
        until_s: list.next_update().map_or(i64::MAX, |next| next.timestamp()),
    };
    let issuer = subject::write(list.issuer()).unwrap_or_default();
    terms.term(issuer, validity, Some(Need::ListOf(list.issuer().as_raw().into())))
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

fn absorb(inputs: &mut digest::Context, bytes: &[u8]) {
    inputs.update(&(bytes.len() as u64).to_be_bytes());
    inputs.update(bytes);
}
