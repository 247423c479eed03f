//! What the verification of clients' certificates rests on, as far as it can be taken away from a connection that is there: the
//! authorities, and what revocation lists name. Connections outlive the handshake that has verified a certificate, so they are
//! looked through when the files have changed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs as provider;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::error::TlsError;

/// Bytes of a digest that stands for a certificate. Whoever finds two that are alike gets himself disconnected.
const ID_BYTES: usize = 16;

/// A certificate by its issuer and serial number, or an authority by its name and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id([u8; ID_BYTES]);

impl Id {
    fn new(name: &[u8], rest: &[u8]) -> Self {
        let mut inputs = digest::Context::new(&digest::SHA256);
        inputs.update(&(name.len() as u64).to_be_bytes());
        inputs.update(name);
        inputs.update(rest);
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&inputs.finish().as_ref()[..ID_BYTES]);
        Self(id)
    }

    fn of_certificate(issuer: &[u8], serial: &[u8]) -> Self {
        // A number that would be negative begins with a zero, which some leave out.
        let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
        Self::new(issuer, &serial[zeros..])
    }

    fn of_authority(anchor: &TrustAnchor<'_>) -> Self {
        Self::new(&anchor.subject, &anchor.subject_public_key_info)
    }
}

/// The authorities of a listener, and what its revocation lists name.
#[derive(Debug, Default)]
pub(crate) struct Trust {
    listed: Box<[Id]>,
    authorities: Box<[Id]>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Trust {
    pub(super) fn new(roots: &RootCertStore, Listing(mut listed): Listing) -> Self {
        let mut authorities: Vec<_> = roots.roots.iter().map(Id::of_authority).collect();
        for ids in [&mut listed, &mut authorities] {
            ids.sort_unstable();
            ids.dedup();
        }
        Self { listed: listed.into(), authorities: authorities.into(), anchors: roots.roots.clone() }
    }

    fn lists(&self, certificates: &[Id]) -> bool {
        certificates.iter().any(|id| self.listed.binary_search(id).is_ok())
    }

    fn knows(&self, authorities: &[Id]) -> bool {
        authorities.iter().any(|id| self.authorities.binary_search(id).is_ok())
    }

    /// The authorities that a verified chain leads to; several if the names of several fit.
    fn reached(&self, chain: &[CertificateDer<'_>], issuers: &[Vec<u8>]) -> Vec<Id> {
        let is_named = |anchor: &&TrustAnchor<'_>| issuers.iter().any(|issuer| *issuer == *anchor.subject);
        let named: Vec<_> = self.anchors.iter().filter(is_named).collect();
        // Of one name there may be an authority with an older key, too; which it was a signature tells.
        let is_alone = named.len() == 1;
        let reached = named.into_iter().filter(|anchor| is_alone || leads_to(chain, anchor));
        reached.map(Id::of_authority).collect()
    }
}

fn leads_to(chain: &[CertificateDer<'_>], anchor: &TrustAnchor<'static>) -> bool {
    let Some((own, between)) = chain.split_first() else { return false };
    let roots = Arc::new(RootCertStore { roots: vec![anchor.clone()] });
    WebPkiClientVerifier::builder_with_provider(roots, Arc::new(provider::default_provider()))
        .build()
        .is_ok_and(|verifier| verifier.verify_client_cert(own, between, UnixTime::now()).is_ok())
}

/// Reads what lists name, one after the other.
#[derive(Default)]
pub(super) struct Listing(Vec<Id>);

impl Listing {
    pub(super) fn add(&mut self, list: &CertificateRevocationList<'_>) {
        let issuer = list.issuer().as_raw();
        self.0.extend(
            list.iter_revoked_certificates().map(|entry| Id::of_certificate(issuer, entry.raw_serial())),
        );
    }
}

/// The certificates that a client has shown, its own first, and what they were trusted for.
#[derive(Debug)]
pub(crate) struct Shown {
    certificates: Box<[Id]>,
    authorities: Box<[Id]>,
    /// Of the listener, as it is now.
    trust: Arc<ArcSwap<Trust>>,
}

impl Shown {
    /// `None` if there are none.
    ///
    /// # Errors
    /// One cannot be parsed.
    pub(super) fn new(
        chain: &[CertificateDer<'_>],
        trust: &Arc<ArcSwap<Trust>>,
    ) -> Result<Option<Self>, TlsError> {
        let refused = || TlsError::ClientCertificateRefused(rustls::CertificateError::BadEncoding.into());
        let (mut certificates, mut issuers) = (Vec::new(), Vec::new());
        for der in chain {
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| refused())?;
            let issuer = certificate.issuer().as_raw();
            certificates.push(Id::of_certificate(issuer, certificate.raw_serial()));
            // Authorities are named without the header of the sequence.
            issuers.push(Any::from_der(issuer).map_err(|_| refused())?.1.data.to_vec());
        }
        let authorities = trust.load().reached(chain, &issuers).into();
        let (certificates, trust) = (certificates.into(), Arc::clone(trust));
        Ok((!chain.is_empty()).then_some(Self { certificates, authorities, trust }))
    }

    /// Of an authority that has gone.
    #[cfg(test)]
    pub(crate) fn distrusted() -> Self {
        let (certificates, authorities) = (Box::default(), Box::default());
        Self { certificates, authorities, trust: Arc::default() }
    }

    /// Whether they would not be taken any more: a list names one of them, or the authority that they lead to has gone.
    pub(crate) fn is_distrusted(&self) -> bool {
        let trust = self.trust.load();
        trust.lists(&self.certificates) || !trust.knows(&self.authorities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_its_issuer_and_its_number() {
        let id = Id::of_certificate(b"issuer", &[0, 200, 1]);
        assert_eq!(id, Id::of_certificate(b"issuer", &[200, 1]));
        for other in [
            Id::of_certificate(b"issuer", &[200, 1, 0]),
            Id::of_certificate(b"issue", &[b'r', 200, 1]),
            Id::of_certificate(b"other", &[200, 1]),
        ] {
            assert_ne!(id, other);
        }
        let trust =
            Trust::new(&RootCertStore::empty(), Listing(vec![Id::of_certificate(b"x", &[9]), id, id]));
        assert_eq!(trust.listed.len(), 2);
        assert!(trust.lists(&[Id::of_certificate(b"y", &[1]), id]), "one of the chain is enough");
        assert!(!trust.lists(&[Id::of_certificate(b"issuer", &[200])]) && !trust.lists(&[]));
    }
}
