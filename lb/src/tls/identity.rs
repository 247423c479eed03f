//! The server's certificates: loaded from files, chosen by Server Name Indication. Sees every ClientHello, so it also
//! notes the name for the facts of the handshake, which rustls does not give out over its unbuffered interface.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use files::Snapshot;
use files::pem::{self, Kind, PemError, Section};
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::CertificateDer;

use super::config::CertificateFiles;
use super::error::TlsConfigError;
use super::expiry::{FileTerms, Need, Term, What};
use super::own::OwnCertificate;
use super::{ocsp, subject};

const CERTIFICATE_KEY: &str = "certificates.certificate_file";
const PRIVATE_KEY_KEY: &str = "certificates.key_file";
const OCSP_KEY: &str = "certificates.ocsp_file";

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
    /// What is known of them, until it is taken.
    known: Known,
}

/// What is known of certificates.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// When each ends, and each OCSP response.
    pub(super) terms: Vec<Term>,
    /// The OCSP responses that are stapled, by the place of their certificate.
    pub(super) staples: Vec<Option<Vec<u8>>>,
    /// Those that are not, and why.
    pub(super) unstapled: Vec<Unstapled>,
}

/// An OCSP response that is of no use.
#[derive(Debug)]
pub(super) struct Unstapled {
    pub(super) path: PathBuf,
    pub(super) problem: String,
    /// Whether the one before is stapled still.
    pub(super) has_other: bool,
}

impl Identities {
    pub(super) fn load(
        files: &[CertificateFiles],
        provider: &CryptoProvider,
        found: &Snapshot,
        staples: &[Option<Vec<u8>>],
        now_s: i64,
    ) -> Result<Self, TlsConfigError> {
        let mut default = None;
        let (mut by_name, mut known) = (HashMap::new(), Known::default());
        for (place, entry) in files.iter().enumerate() {
            let (mut key, own_names) = load_pair(entry, provider, found)?;
            known.terms.extend(terms_of(entry, place, &key));
            key.ocsp = known.staple(entry, &key, found, staples.get(place), now_s);
            known.staples.push(key.ocsp.clone());
            let key = Arc::new(key);
            let given = entry.server_names.iter().map(|name| name.to_ascii_lowercase());
            let names = if entry.server_names.is_empty() { own_names } else { given.collect() };
            for name in names {
                // The first certificate for a name keeps it, as the first of all is the default.
                by_name.entry(name.into_boxed_str()).or_insert_with(|| Arc::clone(&key));
            }
            default.get_or_insert(key);
        }
        let default = default.ok_or_else(|| TlsConfigError::Invalid {
            key: "certificates",
            problem: "at least one certificate is needed".to_owned(),
        })?;
        Ok(Self { default, by_name, known })
    }

    /// What is known of them; asked once.
    pub(super) fn take_known(&mut self) -> Known {
        std::mem::take(&mut self.known)
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

impl Known {
    /// The OCSP response for a certificate: that of the file, or the one before if that is of no use and this still is.
    fn staple(
        &mut self,
        entry: &CertificateFiles,
        key: &CertifiedKey,
        found: &Snapshot,
        before: Option<&Option<Vec<u8>>>,
        now_s: i64,
    ) -> Option<Vec<u8>> {
        let path = entry.ocsp_file.as_ref()?;
        let checked = |der: &[u8]| ocsp::check(der, &key.cert, now_s);
        let read = found.bytes(path).map_err(|error| error.to_string());
        let (staple, validity) = match read.and_then(|der| Ok((der.to_vec(), checked(der)?))) {
            Ok(good) => good,
            Err(problem) => {
                let other =
                    before.and_then(Option::as_ref).and_then(|der| Some((der.clone(), checked(der).ok()?)));
                self.unstapled.push(Unstapled { path: path.clone(), problem, has_other: other.is_some() });
                other?
            }
        };
        let terms = FileTerms { what: What::OcspResponse, key: OCSP_KEY, path };
        let name = key.cert.first().map(|der| subject::of_certificate(der)).unwrap_or_default();
        self.terms.push(terms.term(name, validity, None));
        Some(staple)
    }
}

/// When the certificates of a chain end. What others have signed may be there for old clients alone.
fn terms_of(entry: &CertificateFiles, place: usize, key: &CertifiedKey) -> Vec<Term> {
    let path = &entry.certificate_file;
    let terms = FileTerms { what: What::ServerCertificate, key: CERTIFICATE_KEY, path };
    let need = |at| (at == 0).then_some(Need::Certificate(place));
    let chain = key.cert.iter().enumerate();
    chain.filter_map(|(at, der)| terms.of_certificate(der, need(at))).collect()
}

/// The pair, and the names in the certificate.
fn load_pair(
    entry: &CertificateFiles,
    provider: &CryptoProvider,
    found: &Snapshot,
) -> Result<(CertifiedKey, Vec<String>), TlsConfigError> {
    let path = &entry.certificate_file;
    let sections = read_sections(CERTIFICATE_KEY, path, found, Kind::Certificate)?;
    let unusable =
        |problem: String| TlsConfigError::Unusable { key: CERTIFICATE_KEY, path: path.clone(), problem };
    let Some(first) = sections.first() else { return Err(unusable("is empty".to_owned())) };
    let own = OwnCertificate::read(&first.der).map_err(|problem| {
        unusable(format!("line {}: the certificate cannot be parsed: {problem}", first.line))
    })?;
    let key = load_key(entry, provider, found)?;
    // As rustls would, which does not look at certificates of version 1 though it can serve them.
    if key.public_key().is_some_and(|public| *public != *own.public_key) {
        return Err(TlsConfigError::Mismatch {
            key: PRIVATE_KEY_KEY,
            path: entry.key_file.clone(),
            certificate: path.clone(),
        });
    }
    if own.is_v1 {
        tracing::warn!(
            path = %path.display(),
            "an X.509 certificate of version 1, which has no alternative names: some clients refuse it; one with an \
             extension file (openssl x509 -req -extfile) is better"
        );
    }
    let chain = sections.into_iter().map(|section| CertificateDer::from(section.der)).collect();
    Ok((CertifiedKey::new(chain, key), own.names))
}

fn load_key(
    entry: &CertificateFiles,
    provider: &CryptoProvider,
    found: &Snapshot,
) -> Result<Arc<dyn SigningKey>, TlsConfigError> {
    let path = &entry.key_file;
    let unusable = |problem| TlsConfigError::Unusable { key: PRIVATE_KEY_KEY, path: path.clone(), problem };
    let first = read_sections(PRIVATE_KEY_KEY, path, found, Kind::PrivateKey)?.into_iter().next();
    let Some(section) = first else { return Err(unusable("is empty".to_owned())) };
    let line = section.line;
    let loaded = provider.key_provider.load_private_key(section.into_private_key());
    loaded.map_err(|error| unusable(format!("line {line}: the private key cannot be used: {error}")))
}

/// All sections of a kind in a PEM file; there is at least one.
pub(super) fn read_sections(
    key: &'static str,
    path: &Path,
    found: &Snapshot,
    kind: Kind,
) -> Result<Vec<Section>, TlsConfigError> {
    pem::sections(read_file(key, path, found)?, kind).map_err(|error| {
        let (path, problem) = (path.to_owned(), error.to_string());
        match error {
            PemError::Empty | PemError::Nothing { .. } => TlsConfigError::Nothing { key, path, problem },
            PemError::Der | PemError::Line { .. } => TlsConfigError::Unusable { key, path, problem },
        }
    })
}

pub(super) fn read_file<'a>(
    key: &'static str,
    path: &Path,
    found: &'a Snapshot,
) -> Result<&'a [u8], TlsConfigError> {
    found.bytes(path).map_err(|source| TlsConfigError::Unreadable { key, path: path.to_owned(), source })
}
