//! The settings of `[auth.jwt]`.

use std::path::PathBuf;
use std::sync::Arc;

use jsonwebtoken::Algorithm;
use serde::{Deserialize, Serialize};

use super::super::claims::ClaimsConfig;
use crate::config::CertificateIdentity;
use crate::verdict::WhenAway;
use crate::{AuthError, HttpClientConfig, SCRAM_METHOD};

/// Where the keys are.
pub(super) const SECTION: &str = "auth.jwt";

link::settings! {
    /// `[auth.jwt]`: signed tokens.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct JwtConfig {
        /// File of a secret for HS256, HS384 and HS512, at least 32 bytes; a line end at its end does not count.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub secret_file: Option<PathBuf> = None;
        /// How the secret is written in it: `text` (its bytes as they stand) or `base64`. Default `text`.
        pub secret_encoding: SecretEncoding = SecretEncoding::Text;
        /// PEM files of public keys (`PUBLIC KEY`), one or more in each: RSA, P-256, P-384 or Ed25519.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub public_key_files: Vec<PathBuf> = Vec::new(), in ..=64;
        /// URL of a JWK set (RFC 7517).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub jwks_url: Option<String> = None;
        /// An OpenID Connect issuer: where its JWK set is says `/.well-known/openid-configuration` below it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub oidc_issuer: Option<String> = None;
        /// Seconds after which the keys at a URL are read again.
        pub refresh_interval_s: u64 = 3600, in 60..=604_800;
        /// Seconds that lie at least between two readings, whatever tokens name keys that are not known.
        pub refresh_interval_min_s: u64 = 10, in 1..=3_600;
        /// Algorithms that are accepted (`RS256` and so on). Default: those that suit the keys.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub algorithms: Vec<Algorithm> = Vec::new();
        /// Whom tokens are for: one of these has to be in `aud`. Must be set; `[]` takes tokens for anybody.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub audience: Option<Vec<String>> = None;
        /// Who issues tokens: `iss` has to be one of these. Must be set, unless `oidc_issuer` is, which is its default; `[]`
        /// takes tokens of anybody whose key is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub issuer: Option<Vec<String>> = None;
        /// Seconds by which clocks may differ: for so long a token is good before `nbf` and after `exp`.
        pub leeway_s: u64 = 30, in ..=3_600;
        /// What the claims mean.
        #[serde(flatten)]
        pub claims: ClaimsConfig = ClaimsConfig::default();
        /// Whether the password of CONNECT may be a token.
        pub password: bool = true;
        /// The Authentication Method (MQTT 5) whose Authentication Data is a token. None by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub method: Option<Arc<str>> = None;
        /// Whether a token needs a client certificate that it names. Default false; a token that names one in `cnf` (RFC 8705)
        /// needs it in any case.
        pub require_certificate: bool = false;
        /// The claim that names it. Default `cnf.x5t#S256`.
        pub certificate_claim: String = "cnf.x5t#S256".to_owned();
        /// What of the certificate that is, as in `auth.certificate`. Default `fingerprint`, in hex or base64url.
        pub certificate_identity: CertificateIdentity = CertificateIdentity::Fingerprint;
        /// Bytes of a token.
        pub token_bytes_max: usize = 16_384, in 64..=65_535;
        /// What happens to tokens while no keys could be read yet. Default `refuse`.
        pub when_away: WhenAway = WhenAway::Refuse;
        /// How keys are fetched.
        #[serde(flatten)]
        pub http: HttpClientConfig = HttpClientConfig::default();
    }
}

/// How a secret is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretEncoding {
    /// Its bytes as they stand.
    #[default]
    Text,
    /// Base64, of either alphabet.
    Base64,
}

impl JwtConfig {
    /// Checks what does not need the files.
    ///
    /// # Errors
    /// The first setting that is out of bounds, or missing.
    pub(super) fn check(&self) -> Result<(), AuthError> {
        let has_url = self.jwks_url.is_some() || self.oidc_issuer.is_some();
        let has_keys = has_url || self.secret_file.is_some() || !self.public_key_files.is_empty();
        let knows_issuer = self.issuer.is_some() || self.oidc_issuer.is_some();
        let method = self.method.as_deref();
        let checks = [
            (
                has_keys,
                "jwks_url",
                "or oidc_issuer, public_key_files or secret_file must say where the keys are",
            ),
            (
                self.jwks_url.is_none() || self.oidc_issuer.is_none(),
                "jwks_url",
                "and oidc_issuer exclude each other",
            ),
            (
                self.audience.is_some(),
                "audience",
                "must name whom tokens are for; [] takes tokens for anybody",
            ),
            (
                knows_issuer,
                "issuer",
                "must name who issues tokens; [] takes tokens of anybody whose key is known",
            ),
            (self.password || method.is_some(), "password", "is false, and method names no other way"),
            (method.is_none_or(|name| !name.is_empty()), "method", "must not be empty"),
            (method != Some(SCRAM_METHOD), "method", "must not be that of passwords, SCRAM-SHA-256"),
            (!self.certificate_claim.is_empty(), "certificate_claim", "must not be empty"),
            (
                self.certificate_identity != CertificateIdentity::Off,
                "certificate_identity",
                "must say what of the certificate the claim is",
            ),
        ];
        if let Some((_, key, problem)) = checks.into_iter().find(|(is_right, ..)| !is_right) {
            return Err(AuthError::Section { section: SECTION, key, problem: problem.to_owned() });
        }
        self.check_bounds(SECTION)?;
        self.claims.check(SECTION)?;
        Ok(self.http.check_bounds(SECTION)?)
    }

    /// Who may have issued a token; empty for anybody.
    pub(super) fn issuers(&self) -> Vec<String> {
        self.issuer.clone().unwrap_or_else(|| self.oidc_issuer.iter().cloned().collect())
    }
}
