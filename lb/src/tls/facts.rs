//! What a handshake established: taken once at its end, passed on to authentication, not kept with the connection.

use std::fmt::Write;
use std::sync::Arc;

use authsvc::{AlternativeName, Certificate};
use aws_lc_rs::digest;
use rustls::{CertificateError, CipherSuite, Error, HandshakeKind, ProtocolVersion};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;
use super::session::Session;
use super::subject;

/// What was agreed in a handshake.
#[derive(Clone, Debug)]
pub struct TlsFacts {
    /// Server Name Indication, lower case.
    pub server_name: Option<Box<str>>,
    /// The protocol version.
    pub version: ProtocolVersion,
    /// The cipher suite.
    pub cipher_suite: CipherSuite,
    /// The application protocol, if the client offered any.
    pub alpn: Option<Box<[u8]>>,
    /// Whether a session was resumed.
    pub resumed: bool,
    /// The verified client certificate.
    pub certificate: Option<Arc<Certificate>>,
}

impl TlsFacts {
    pub(super) fn take(session: &mut Session) -> Result<Self, TlsError> {
        let tls = &session.tls;
        let (Some(version), Some(suite)) = (tls.protocol_version(), tls.negotiated_cipher_suite()) else {
            return Err(TlsError::Internal(Error::HandshakeNotComplete));
        };
        let certificate = match tls.peer_certificates().and_then(<[_]>::first) {
            Some(der) => Some(Arc::new(read_certificate(der)?)),
            None => None,
        };
        Ok(Self {
            version,
            cipher_suite: suite.suite(),
            alpn: tls.alpn_protocol().map(Box::from),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate,
            server_name: session.server_name.take(),
        })
    }
}

/// Reads the facts of a certificate that was verified. A ticket carries the certificate past the verifier, so its end
/// is looked at here too.
fn read_certificate(der: &[u8]) -> Result<Certificate, TlsError> {
    let refused = || TlsError::ClientCertificateRefused(CertificateError::BadEncoding.into());
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| refused())?;
    if !certificate.validity().is_valid() {
        return Err(TlsError::ClientCertificateExpired);
    }
    let subject = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(Certificate {
        subject: subject.unwrap_or_default().into(),
        distinguished_name: subject::write(certificate.subject()).unwrap_or_default().into(),
        alternative_names: alternative_names(&certificate).map_err(|_| refused())?,
        fingerprint: fingerprint(der),
    })
}

/// The names beside its subject that a certificate is for.
fn alternative_names(
    certificate: &X509Certificate<'_>,
) -> Result<Vec<AlternativeName>, x509_parser::error::X509Error> {
    let Some(extension) = certificate.subject_alternative_name()? else { return Ok(Vec::new()) };
    let names = extension.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(AlternativeName::Dns((*name).into())),
        GeneralName::URI(name) => Some(AlternativeName::Uri((*name).into())),
        GeneralName::RFC822Name(name) => Some(AlternativeName::Email((*name).into())),
        _ => None,
    });
    Ok(names.collect())
}

fn fingerprint(der: &[u8]) -> Arc<str> {
    let digest = digest::digest(&digest::SHA256, der);
    let mut hex = String::with_capacity(64);
    for byte in digest.as_ref() {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex.into()
}
