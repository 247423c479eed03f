//! How the service knows its callers: by a certificate, a secret, or both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use files::Snapshot;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::WebPkiClientVerifier;
use subtle::ConstantTimeEq as _;

use super::config::ServiceTlsConfig;
use crate::AuthError;
use crate::named::Named;
use crate::watched::Watched;
use crate::wire::PROTOCOLS;

/// Shortest secret, bytes.
const SECRET_BYTES_MIN: usize = 16;

/// A secret that both ends know; only its digest is kept here.
pub(crate) struct Secret([u8; 32]);

impl Secret {
    /// Reads the secret in `path`, and again when it changes.
    pub(super) fn open(path: &Path) -> Result<Watched<Self>, AuthError> {
        let path = path.to_owned();
        let paths = [path.clone()];
        Watched::open("the callers' secret", &paths, move |found, _| {
            let file = Named::new("service", "secret_file", &path);
            Self::new(file.bytes(found)?).ok_or_else(|| file.unusable(&"a secret has 16 bytes or more"))
        })
    }

    fn new(bytes: &[u8]) -> Option<Self> {
        let secret = bytes.trim_ascii();
        (secret.len() >= SECRET_BYTES_MIN).then(|| Self(hash(secret)))
    }

    /// Whether the caller has shown it.
    pub(super) fn is_shown(&self, headers: &HeaderMap) -> bool {
        let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        shown.is_some_and(|shown| bool::from(hash(shown).ct_eq(&self.0)))
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

/// Reads what `config` names, and again when it changes.
pub(super) fn open_tls(config: &ServiceTlsConfig) -> Result<Watched<Arc<ServerConfig>>, AuthError> {
    let config = config.clone();
    let files = [Some(&config.certificate_file), Some(&config.key_file), config.client_ca_file.as_ref()];
    let paths: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
    Watched::open("certificates of the service", &paths, move |found, _| tls(&config, found))
}

fn tls(config: &ServiceTlsConfig, found: &Snapshot) -> Result<Arc<ServerConfig>, AuthError> {
    let provider = Arc::new(default_provider());
    let certificate = Named::new("service", "tls.certificate_file", &config.certificate_file);
    let key = Named::new("service", "tls.key_file", &config.key_file);
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| key.unusable(&error))?;
    let builder = match &config.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let file = Named::new("service", "tls.client_ca_file", path);
            // The keys are for everybody; who asks about clients is looked at with the question.
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(file.roots(found)?), provider)
                    .allow_unauthenticated();
            builder.with_client_cert_verifier(verifier.build().map_err(|error| file.unusable(&error))?)
        }
    };
    let mut server = builder
        .with_single_cert(certificate.certificates(found)?, key.private_key(found)?)
        .map_err(|error| certificate.unusable(&error))?;
    server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_as_a_bearer_token_and_nothing_else() {
        let secret = Secret::new(b"  0123456789abcdef\n").unwrap();
        let is_shown = |value: Option<&str>| {
            let mut headers = HeaderMap::new();
            value.map(|value| headers.insert(AUTHORIZATION, value.parse().unwrap()));
            secret.is_shown(&headers)
        };
        assert!(is_shown(Some("Bearer 0123456789abcdef")) && is_shown(Some("bearer  0123456789abcdef")));
        for wrong in [
            None,
            Some(""),
            Some("0123456789abcdef"),
            Some("Basic 0123456789abcdef"),
            Some("Bearer 0123456789abcdeF"),
            Some("Bearer "),
        ] {
            assert!(!is_shown(wrong), "{wrong:?}");
        }
        assert!(Secret::new(b"0123456789abcde").is_none(), "too short");
    }
}
