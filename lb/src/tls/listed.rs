//! Certificates by what revocation lists call them, and those that the lists of a listener name: connections outlive the handshake
//! that has verified a certificate, so they are looked through when a list was read again.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::error::TlsError;

/// Bytes of a digest that stands for a certificate. Whoever finds two that are alike gets himself disconnected.
const ID_BYTES: usize = 16;

/// Issuer and serial number of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CertificateId([u8; ID_BYTES]);

impl CertificateId {
    fn new(issuer: &[u8], serial: &[u8]) -> Self {
        // A number that would be negative begins with a zero, which some leave out.
        let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
        let mut inputs = digest::Context::new(&digest::SHA256);
        inputs.update(&(issuer.len() as u64).to_be_bytes());
        inputs.update(issuer);
        inputs.update(&serial[zeros..]);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&inputs.finish().as_ref()[..ID_BYTES]);
        Self(id)
    }

    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        Some(Self::new(certificate.issuer().as_raw(), certificate.raw_serial()))
    }
}

/// What the revocation lists of a listener name.
#[derive(Debug, Default)]
pub(crate) struct Listed(Box<[CertificateId]>);

impl Listed {
    fn has(&self, certificates: &[CertificateId]) -> bool {
        certificates.iter().any(|id| self.0.binary_search(id).is_ok())
    }
}

/// Reads what lists name, one after the other.
#[derive(Default)]
pub(super) struct Listing(Vec<CertificateId>);

impl Listing {
    pub(super) fn add(&mut self, list: &CertificateRevocationList<'_>) {
        let issuer = list.issuer().as_raw();
        self.0.extend(
            list.iter_revoked_certificates().map(|entry| CertificateId::new(issuer, entry.raw_serial())),
        );
    }

    pub(super) fn finish(mut self) -> Listed {
        self.0.sort_unstable();
        self.0.dedup();
        Listed(self.0.into())
    }
}

/// The certificates that a client has shown, its own first, at a listener that has revocation lists.
#[derive(Debug)]
pub(crate) struct Shown {
    certificates: Box<[CertificateId]>,
    /// Of the listener, as they are now.
    listed: Arc<ArcSwap<Listed>>,
}

impl Shown {
    /// `None` if there are none.
    ///
    /// # Errors
    /// One cannot be parsed.
    pub(super) fn new<D: AsRef<[u8]>>(
        chain: &[D],
        listed: &Arc<ArcSwap<Listed>>,
    ) -> Result<Option<Self>, TlsError> {
        let read = |der: &D| CertificateId::read(der.as_ref());
        let certificates: Option<Box<[_]>> = chain.iter().map(read).collect();
        let refused = || TlsError::ClientCertificateRefused(rustls::CertificateError::BadEncoding.into());
        let certificates = certificates.ok_or_else(refused)?;
        let listed = Arc::clone(listed);
        Ok((!certificates.is_empty()).then_some(Self { certificates, listed }))
    }

    /// Whether a list names one of them: its own, or one of the authorities between it and those that are trusted.
    pub(crate) fn is_listed(&self) -> bool {
        self.listed.load().has(&self.certificates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_its_issuer_and_its_number() {
        let id = CertificateId::new(b"issuer", &[0, 200, 1]);
        assert_eq!(id, CertificateId::new(b"issuer", &[200, 1]));
        for other in [
            CertificateId::new(b"issuer", &[200, 1, 0]),
            CertificateId::new(b"issue", &[b'r', 200, 1]),
            CertificateId::new(b"other", &[200, 1]),
        ] {
            assert_ne!(id, other);
        }
        let listed = Listing(vec![CertificateId::new(b"x", &[9]), id, id]).finish();
        assert_eq!(listed.0.len(), 2);
        assert!(listed.has(&[CertificateId::new(b"y", &[1]), id]), "one of the chain is enough");
        assert!(!listed.has(&[CertificateId::new(b"issuer", &[200])]) && !listed.has(&[]));
    }
}
