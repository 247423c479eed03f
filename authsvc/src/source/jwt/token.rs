//! A token before it is believed: what its header says.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::token_problem::TokenProblem;

/// How the header of every token begins: `{"` in base64.
const BEGIN: &[u8] = b"eyJ";

/// What matters of a token's header (RFC 7515 section 4). A key in it, or a URL of one, is not looked at.
#[derive(Deserialize)]
pub(super) struct Header {
    alg: String,
    /// The name of the key; only ever compared.
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl Header {
    /// Reads the header of `token`, at most `bytes_max` long.
    ///
    /// # Errors
    /// [`TokenProblem::NotAToken`] if it is none, which a password may look like.
    pub(super) fn read(token: &[u8], bytes_max: usize) -> Result<Self, TokenProblem> {
        let is_compact = token.starts_with(BEGIN) && token.iter().filter(|byte| **byte == b'.').count() == 2;
        if !is_compact {
            return Err(TokenProblem::NotAToken);
        }
        if token.len() > bytes_max {
            return Err(TokenProblem::TooLong);
        }
        let header = token.split(|byte| *byte == b'.').next().unwrap_or_default();
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenProblem::NotAToken)?;
        serde_json::from_slice(&header).map_err(|_| TokenProblem::NotAToken)
    }

    /// How it is signed.
    pub(super) fn algorithm(&self) -> Result<Algorithm, TokenProblem> {
        if self.alg.eq_ignore_ascii_case("none") {
            return Err(TokenProblem::Unsigned);
        }
        // None are known here. RFC 7515 section 4.1.11.
        if self.crit.is_some() {
            return Err(TokenProblem::Critical);
        }
        Algorithm::from_str(&self.alg).map_err(|_| TokenProblem::Algorithm)
    }
}
