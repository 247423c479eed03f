//! A file that a setting names: what is in it, certificates and keys above all, or what is wrong with it. Read by who calls.

use std::fmt::Display;
use std::path::Path;

use files::Snapshot;
use files::pem::{self, Kind, Section};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::AuthError;

/// A file, and the setting that names it.
#[derive(Clone, Copy)]
pub(crate) struct Named<'a> {
    section: &'static str,
    key: &'static str,
    path: &'a Path,
}

impl<'a> Named<'a> {
    pub(crate) fn new(section: &'static str, key: &'static str, path: &'a Path) -> Self {
        Self { section, key, path }
    }

    /// What is wrong with it.
    pub(crate) fn unusable(self, problem: &dyn Display) -> AuthError {
        let problem = format!("{}: {problem}", self.path.display());
        AuthError::File { section: self.section, key: self.key, problem }
    }

    /// What is in it.
    pub(crate) fn bytes(self, found: &Snapshot) -> Result<&[u8], AuthError> {
        found.bytes(self.path).map_err(|error| self.unusable(&error))
    }

    /// The certificates in it, at least one.
    pub(crate) fn certificates(self, found: &Snapshot) -> Result<Vec<CertificateDer<'static>>, AuthError> {
        let sections = pem::sections(self.bytes(found)?, Kind::Certificate);
        let sections = sections.map_err(|error| self.unusable(&error))?;
        Ok(sections.into_iter().map(|section| section.der.into()).collect())
    }

    /// The certificates in it, as authorities.
    pub(crate) fn roots(self, found: &Snapshot) -> Result<RootCertStore, AuthError> {
        let mut roots = RootCertStore::empty();
        for authority in self.certificates(found)? {
            roots.add(authority).map_err(|error| self.unusable(&error))?;
        }
        Ok(roots)
    }

    /// The first private key in it.
    pub(crate) fn private_key(self, found: &Snapshot) -> Result<PrivateKeyDer<'static>, AuthError> {
        let first = pem::first(self.bytes(found)?, Kind::PrivateKey);
        first.map(Section::into_private_key).map_err(|error| self.unusable(&error))
    }
}
