//! The settings of `[auth.introspection]`.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::claims::ClaimsConfig;
use crate::verdict::WhenAway;
use crate::{AuthError, HttpClientConfig};

/// Where the keys are.
pub(super) const SECTION: &str = "auth.introspection";

link::settings! {
    /// `[auth.introspection]`: tokens that an authorization server is asked about.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct IntrospectionConfig {
        /// The introspection endpoint. Must be set.
        pub url: String = String::new();
        /// Who asks. Must be set.
        pub client_id: String = String::new();
        /// File of its secret; a line end at its end does not count. Must be set.
        pub client_secret_file: PathBuf = PathBuf::new();
        /// How both are shown. Default `basic`.
        pub client_authentication: ClientAuthentication = ClientAuthentication::Basic;
        /// The user name that a CONNECT with a token has; others are left to the next source. Default: any, or none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub username: Option<Arc<str>> = None;
        /// Whom tokens are for: one of these has to be in `aud`. Default: whoever the server says they are good for.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        pub audience: Vec<String> = Vec::new();
        /// What the members of an answer mean.
        #[serde(flatten)]
        pub claims: ClaimsConfig = ClaimsConfig::default();
        /// What happens to tokens that are not active. Default `deny`.
        pub when_inactive: WhenInactive = WhenInactive::Deny;
        /// Seconds for which a good token is not asked about again, at most until it ends.
        pub cache_ttl_s: u64 = 60, in ..=86_400;
        /// The same for one that is not good.
        pub negative_ttl_s: u64 = 10, in ..=3_600;
        /// Answers that are kept.
        pub cache_max: usize = 10_000, in ..=1_000_000;
        /// Bytes of a token; a longer password is none.
        pub token_bytes_max: usize = 16_384, in 16..=65_535;
        /// What happens to tokens while the server does not answer. Default `refuse`.
        pub when_away: WhenAway = WhenAway::Refuse;
        /// How it is asked.
        #[serde(flatten)]
        pub http: HttpClientConfig = HttpClientConfig::default();
    }
}

/// How a client shows who it is (RFC 6749 section 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuthentication {
    /// In the header `Authorization`.
    #[default]
    Basic,
    /// In the body.
    Post,
}

/// What becomes of a client whose token is not active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenInactive {
    /// It is denied.
    #[default]
    Deny,
    /// The next source is asked: it may have been a password.
    Ignore,
}

impl IntrospectionConfig {
    /// Checks what does not need the file.
    ///
    /// # Errors
    /// The first setting that is out of bounds, or missing.
    pub(super) fn check(&self) -> Result<(), AuthError> {
        let checks = [
            (!self.url.is_empty(), "url", "must be the introspection endpoint"),
            (!self.client_id.is_empty(), "client_id", "must be set: who asks"),
            (!self.client_secret_file.as_os_str().is_empty(), "client_secret_file", "must be set"),
        ];
        if let Some((_, key, problem)) = checks.into_iter().find(|(is_right, ..)| !is_right) {
            return Err(AuthError::Section { section: SECTION, key, problem: problem.to_owned() });
        }
        self.check_bounds(SECTION)?;
        self.claims.check(SECTION)?;
        Ok(self.http.check_bounds(SECTION)?)
    }
}
