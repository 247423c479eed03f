//! What matters of a certificate that the edge shows.

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

/// A certificate that the edge shows.
pub(super) struct OwnCertificate {
    /// SubjectPublicKeyInfo, DER.
    pub(super) public_key: Box<[u8]>,
    /// Of X.509 version 1, as `openssl x509 -req` makes them without an extension file.
    pub(super) is_v1: bool,
    /// The DNS names that it is for, lower case: its alternative names, or else its common name.
    pub(super) names: Vec<String>,
}

impl OwnCertificate {
    pub(super) fn read(der: &[u8]) -> Result<Self, x509_parser::error::X509Error> {
        let (_, certificate) = X509Certificate::from_der(der)?;
        let mut names = Vec::new();
        if let Some(extension) = certificate.subject_alternative_name()? {
            names.extend(extension.value.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            }));
        } else {
            let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
            names.extend(common.map(str::to_ascii_lowercase));
        }
        Ok(Self {
            public_key: certificate.public_key().raw.into(),
            is_v1: certificate.version() == X509Version::V1,
            names,
        })
    }
}
