//! The client certificate as an identity. It was verified in the handshake; here it only gets a name.

use std::sync::Arc;

use crate::config::{AuthConfig, CertificateIdentity};
use crate::verdict::{Grant, Verdict, is_subject};
use crate::{AlternativeName, Certificate, Request};

/// Takes what `auth.certificate` says for the user name.
pub(super) struct CertificateSource {
    identity: CertificateIdentity,
    prefix: Arc<str>,
}

impl CertificateSource {
    pub(super) fn new(config: &AuthConfig) -> Self {
        let prefix = config.certificate_prefix.clone().unwrap_or_default();
        Self { identity: config.certificate, prefix }
    }

    /// Ignores clients without a certificate, and certificates without such a name.
    pub(super) fn decide(&self, request: &Request) -> Verdict {
        let name = request.certificate.as_ref().and_then(|certificate| name(certificate, self.identity));
        match name.as_deref().and_then(|name| name.strip_prefix(&*self.prefix)) {
            Some(name) if is_subject(name) => Verdict::Allow(Grant::of(name.into())),
            _ => Verdict::Ignore,
        }
    }
}

/// What `identity` means of `certificate`. Of several alternative names of a kind the first counts.
pub(super) fn name(certificate: &Certificate, identity: CertificateIdentity) -> Option<Arc<str>> {
    let alternative = |pick: fn(&AlternativeName) -> Option<&Arc<str>>| {
        certificate.alternative_names.iter().find_map(pick).cloned()
    };
    match identity {
        CertificateIdentity::Off => None,
        CertificateIdentity::Subject | CertificateIdentity::CommonName => Some(certificate.subject.clone()),
        CertificateIdentity::DistinguishedName => Some(certificate.distinguished_name.clone()),
        CertificateIdentity::Fingerprint => Some(certificate.fingerprint.clone()),
        CertificateIdentity::Dns => alternative(|name| match name {
            AlternativeName::Dns(name) => Some(name),
            _ => None,
        }),
        CertificateIdentity::Uri => alternative(|name| match name {
            AlternativeName::Uri(name) => Some(name),
            _ => None,
        }),
        CertificateIdentity::Email => alternative(|name| match name {
            AlternativeName::Email(name) => Some(name),
            _ => None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use mqtt::ProtocolVersion;

    use super::*;

    fn request(certificate: Option<Certificate>) -> Request {
        Request {
            client_id: "device".into(),
            username: Some("somebody else".into()),
            password: None,
            peer: ([192, 0, 2, 1], 40_000).into(),
            is_local: false,
            listener: "mqtts".into(),
            certificate: certificate.map(Arc::new),
            protocol: ProtocolVersion::V5,
            clean_start: true,
        }
    }

    fn certificate() -> Certificate {
        Certificate {
            subject: "pump-7".into(),
            distinguished_name: "CN=pump-7,O=Plant".into(),
            alternative_names: vec![
                AlternativeName::Email("pump@plant.example".into()),
                AlternativeName::Dns("pump-7.plant.example".into()),
                AlternativeName::Dns("other.plant.example".into()),
                AlternativeName::Uri("urn:device:pump-7".into()),
            ],
            fingerprint: "00ff".into(),
        }
    }

    fn decided(
        identity: CertificateIdentity,
        prefix: Option<&str>,
        certificate: Option<Certificate>,
    ) -> Option<String> {
        let config = AuthConfig {
            certificate: identity,
            certificate_prefix: prefix.map(Arc::from),
            ..AuthConfig::default()
        };
        match CertificateSource::new(&config).decide(&request(certificate)) {
            Verdict::Allow(grant) => Some(grant.subject.to_string()),
            verdict => {
                assert_eq!(verdict, Verdict::Ignore);
                None
            }
        }
    }

    #[test]
    fn each_part_of_a_certificate_can_be_the_user_name() {
        use CertificateIdentity::{
            CommonName, DistinguishedName, Dns, Email, Fingerprint, Off, Subject, Uri,
        };
        let cases = [
            (Off, None),
            (Subject, Some("pump-7")),
            (CommonName, Some("pump-7")),
            (DistinguishedName, Some("CN=pump-7,O=Plant")),
            (Dns, Some("pump-7.plant.example")),
            (Uri, Some("urn:device:pump-7")),
            (Email, Some("pump@plant.example")),
            (Fingerprint, Some("00ff")),
        ];
        for (identity, expected) in cases {
            assert_eq!(decided(identity, None, Some(certificate())).as_deref(), expected, "{identity:?}");
            assert_eq!(decided(identity, None, None), None, "{identity:?}");
        }
    }

    #[test]
    fn a_prefix_is_needed_and_left_out() {
        use CertificateIdentity::{Dns, Uri};
        assert_eq!(decided(Uri, Some("urn:device:"), Some(certificate())).as_deref(), Some("pump-7"));
        assert_eq!(decided(Uri, Some("urn:person:"), Some(certificate())), None);
        assert_eq!(decided(Dns, Some("pump-7.plant.example"), Some(certificate())), None, "nothing is left");
    }

    #[test]
    fn what_names_nobody_is_no_identity() {
        let named = |subject: &str| Certificate { subject: subject.into(), ..certificate() };
        for subject in ["", "pump\n7", "\u{0}", &"x".repeat(1025)] {
            assert_eq!(
                decided(CertificateIdentity::CommonName, None, Some(named(subject))),
                None,
                "{subject:?}"
            );
        }
        let bare = Certificate { alternative_names: vec![], ..certificate() };
        for identity in [CertificateIdentity::Dns, CertificateIdentity::Uri, CertificateIdentity::Email] {
            assert_eq!(decided(identity, None, Some(bare.clone())), None, "{identity:?}");
        }
    }
}
