//! The cryptography of a listener: cipher suites and groups in the order in which they are preferred, by default or as settings
//! name them.

use std::fmt::Debug;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, ProtocolVersion};

use super::config::{MinVersion, TlsConfig};
use super::error::TlsConfigError;

/// aws-lc with AES-128 before AES-256: it is as safe here, its SHA-256 is done by hardware where SHA-384 is not, and a
/// handshake hashes a lot. The server's order decides, unless the client puts ChaCha20 first.
///
/// # Errors
/// A name that nothing goes by, with those that there are.
pub(super) fn provider(config: &TlsConfig) -> Result<CryptoProvider, TlsConfigError> {
    let mut provider = aws_lc_rs::default_provider();
    // Stable: everything else keeps its place within its version.
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.version().version != ProtocolVersion::TLSv1_3, cost(suite.suite())));
    if !config.cipher_suites.is_empty() {
        provider.cipher_suites =
            named("cipher_suites", &config.cipher_suites, aws_lc_rs::ALL_CIPHER_SUITES, |suite| {
                iana_suite(suite.suite())
            })?;
    }
    if !config.groups.is_empty() {
        provider.kx_groups =
            named("groups", &config.groups, aws_lc_rs::ALL_KX_GROUPS, |group| name(group.name()))?;
    }
    let is_new = |suite: &rustls::SupportedCipherSuite| suite.version().version == ProtocolVersion::TLSv1_3;
    if config.min_version == MinVersion::Tls13 && !provider.cipher_suites.iter().any(is_new) {
        let problem = "none of them is for TLS 1.3, which is the min_version".to_owned();
        return Err(TlsConfigError::Invalid { key: "cipher_suites", problem });
    }
    Ok(provider)
}

fn cost(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    }
}

/// Those of `all` that are given by name, in the order of the names.
fn named<T: Copy>(
    key: &'static str,
    given: &[String],
    all: &[T],
    name_of: impl Fn(&T) -> String,
) -> Result<Vec<T>, TlsConfigError> {
    let find = |name: &String| {
        // rustls has a prefix of its own for suites of TLS 1.3.
        let wanted = name.replacen("TLS13_", "TLS_", 1);
        all.iter().copied().find(|one| name_of(one).eq_ignore_ascii_case(&wanted)).ok_or_else(|| {
            let known = all.iter().map(&name_of).collect::<Vec<_>>().join(", ");
            TlsConfigError::Invalid { key, problem: format!("{name:?} is none of {known}") }
        })
    };
    given.iter().map(find).collect()
}

fn iana_suite(suite: CipherSuite) -> String {
    name(suite).replacen("TLS13_", "TLS_", 1)
}

/// As rustls writes it, which is as IANA does.
fn name(named: impl Debug) -> String {
    format!("{named:?}")
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;

    fn config(suites: &[&str], groups: &[&str]) -> TlsConfig {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        TlsConfig { cipher_suites: owned(suites), groups: owned(groups), ..TlsConfig::default() }
    }

    #[test]
    fn suites_and_groups_are_taken_by_name_in_their_order() {
        let suites =
            ["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256"];
        let found = provider(&config(&suites, &["secp256r1", "x25519", "X25519MLKEM768"])).unwrap();
        let suites: Vec<_> = found.cipher_suites.iter().map(rustls::SupportedCipherSuite::suite).collect();
        let expected = [
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
        ];
        assert_eq!(suites, expected);
        let groups: Vec<_> = found.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::secp256r1, NamedGroup::X25519, NamedGroup::X25519MLKEM768]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_there_are() {
        let problem = |config: &TlsConfig| provider(config).unwrap_err().to_string();
        let line = problem(&config(&["TLS_RSA_WITH_AES_128_CBC_SHA"], &[]));
        assert!(
            line.starts_with(
                "cipher_suites: \"TLS_RSA_WITH_AES_128_CBC_SHA\" is none of TLS_AES_256_GCM_SHA384, "
            ),
            "{line}"
        );
        let line = problem(&config(&[], &["P-256"]));
        assert!(line.starts_with("groups: \"P-256\" is none of ") && line.contains("secp256r1"), "{line}");
        let mut old = config(&["TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"], &[]);
        old.min_version = MinVersion::Tls13;
        assert_eq!(problem(&old), "cipher_suites: none of them is for TLS 1.3, which is the min_version");
    }
}
