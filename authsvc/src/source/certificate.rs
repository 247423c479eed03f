//! The client certificate as an identity. It was verified in the handshake; here it only gets a name.

use super::{Grant, Verdict};
use crate::Request;

/// Takes the common name of the certificate's subject for the user name.
pub(super) struct CertificateSource;

impl CertificateSource {
    /// Ignores clients without a certificate, and certificates without a name.
    #[allow(clippy::unused_self, reason = "as every source")]
    pub(super) fn decide(&self, request: &Request) -> Verdict {
        match &request.certificate {
            Some(certificate) if !certificate.subject.is_empty() => {
                Verdict::Allow(Grant::of(certificate.subject.clone()))
            }
            _ => Verdict::Ignore,
        }
    }
}
