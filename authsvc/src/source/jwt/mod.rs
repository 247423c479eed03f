//! Signed tokens (JWT, RFC 7519) as a source: in the password of CONNECT, or in an Authentication Method of MQTT 5, where the
//! device renews its token on the open connection. Verifying one takes up to a tenth of a millisecond and no I/O.
//!
//! `token.rs` reads what is not believed yet, `key*.rs` have the keys, `../claims.rs` says what claims mean.

mod config;
mod key;
mod key_files;
mod key_url;
mod token;

use std::collections::HashMap;
use std::time::Instant;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, AlgorithmFamily, Validation};
use serde_json::{Map, Value};

pub use config::{JwtConfig, SecretEncoding};
use key::Key;
use key_url::KeyUrl;
use token::Header;

use super::claims;
use super::context::SourceContext;
use crate::clock::now_s;
use crate::config::CertificateIdentity;
use crate::metrics::Metrics;
use crate::token_problem::TokenProblem;
use crate::verdict::{Grant, Verdict, WhenAway};
use crate::watched::Watched;
use crate::{AuthError, DenyReason, Request};

/// Keys that one token is tried with: those of a set without names.
const KEYS_TRIED_MAX: usize = 16;

type Claims = Map<String, Value>;

/// Tokens as `[auth.jwt]` says.
pub(crate) struct JwtSource {
    config: JwtConfig,
    /// What is asked of a token, by its algorithm; no others are accepted.
    validations: HashMap<Algorithm, Validation>,
    files: Watched<Vec<Key>>,
    url: Option<KeyUrl>,
    metrics: Metrics,
}

impl JwtSource {
    /// Reads the key files and begins to fetch keys. Must be called in a runtime if there is a URL.
    pub(super) fn start(config: &JwtConfig, context: &SourceContext) -> Result<Self, AuthError> {
        config.check()?;
        Ok(Self {
            validations: validations(config),
            files: key_files::open(config)?,
            url: KeyUrl::start(config)?,
            metrics: context.metrics.clone(),
            config: config.clone(),
        })
    }

    /// Checks `config` as [`JwtSource::start`] would, and starts nothing.
    pub(crate) fn check(config: &JwtConfig) -> Result<(), AuthError> {
        config.check()?;
        key_files::open(config)?;
        KeyUrl::check(config)
    }

    /// Whether `method` is the Authentication Method of tokens.
    pub(crate) fn has_method(&self, method: &str) -> bool {
        self.config.method.as_deref() == Some(method)
    }

    /// Has the key files read again though they look the same.
    pub(crate) fn ask(&self) {
        self.files.ask();
    }

    /// Looks whether the key files have changed and settled, and takes them then.
    pub(crate) fn look(&self, now: Instant) {
        self.files.look(now);
    }

    /// Decides about clients whose password is a token.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        match &request.password {
            Some(password) if self.config.password => self.decide_token(password, request).await,
            _ => Verdict::Ignore,
        }
    }

    /// Decides about a client that shows `token`.
    pub(crate) async fn decide_token(&self, token: &[u8], request: &Request) -> Verdict {
        match self.grant(token, request).await {
            Ok(grant) => Verdict::Allow(grant),
            Err(TokenProblem::NotAToken) => Verdict::Ignore,
            Err(TokenProblem::NoKeys) if self.config.when_away == WhenAway::Ignore => Verdict::Ignore,
            Err(TokenProblem::NoKeys) => Verdict::Deny(DenyReason::Unavailable),
            Err(problem) => {
                self.metrics.count_refused_token(&problem);
                tracing::debug!(client_id = %request.client_id, peer = %request.peer, %problem, "token refused");
                Verdict::Deny(DenyReason::BadCredentials)
            }
        }
    }

    async fn grant(&self, token: &[u8], request: &Request) -> Result<Grant, TokenProblem> {
        let header = Header::read(token, self.config.token_bytes_max)?;
        let algorithm = header.algorithm()?;
        let validation = self.validations.get(&algorithm).ok_or(TokenProblem::Algorithm)?;
        let claims = self.verify(token, header.kid.as_deref(), algorithm, validation).await?;
        // RFC 7519, section 4.1.1; the library takes a list of several, too.
        if validation.iss.is_some() && !claims.get("iss").is_some_and(Value::is_string) {
            return Err(TokenProblem::Issuer);
        }
        let expires_at_s = self.end_of(&claims)?;
        self.check_certificate(&claims, request)?;
        let grant = self.config.claims.grant(&claims, Some(expires_at_s))?;
        self.config.claims.check_username(&grant.subject, request)?;
        Ok(grant)
    }

    /// The claims of a token that is signed with a key that is known, now or after another look at the URL.
    async fn verify(
        &self,
        token: &[u8],
        kid: Option<&str>,
        algorithm: Algorithm,
        validation: &Validation,
    ) -> Result<Claims, TokenProblem> {
        let (files, known) = (self.files.current(), self.url.as_ref().and_then(KeyUrl::current));
        let known = known.as_deref().unwrap_or_default();
        let problem = match try_keys(files.iter().chain(known), token, kid, algorithm, validation) {
            Err(problem @ (TokenProblem::UnknownKey | TokenProblem::Signature | TokenProblem::Algorithm)) => {
                problem
            }
            decided => return decided,
        };
        let is_known = known.iter().any(|key| key.has_id(kid));
        let Some(url) = self.url.as_ref().filter(|_| !is_known) else { return Err(problem) };
        url.renew().await;
        match url.current() {
            Some(keys) => try_keys(keys.iter(), token, kid, algorithm, validation),
            None => Err(TokenProblem::NoKeys),
        }
    }

    /// When the token is no longer accepted, seconds since the Unix epoch.
    fn end_of(&self, claims: &Claims) -> Result<u64, TokenProblem> {
        let exp =
            claims.get("exp").and_then(|exp| exp.as_u64().or_else(|| exp.as_f64().map(|exp| exp as u64)));
        let exp = exp.ok_or_else(|| TokenProblem::claim("exp", "is missing"))?;
        let ends_at_s = exp.saturating_add(self.config.leeway_s);
        // A passport that has ended would be renewed at once, and again.
        if ends_at_s <= now_s() { Err(TokenProblem::Expired) } else { Ok(ends_at_s) }
    }

    /// Whether the client shows the certificate that the token is bound to.
    fn check_certificate(&self, claims: &Claims, request: &Request) -> Result<(), TokenProblem> {
        if let Some(bound) = claims::binding(claims) {
            claims::check_certificate(bound, CertificateIdentity::Fingerprint, request)?;
        }
        if !self.config.require_certificate {
            return Ok(());
        }
        let claim = claims::find(claims, &self.config.certificate_claim).unwrap_or(&Value::Null);
        claims::check_certificate(claim, self.config.certificate_identity, request)
    }
}

/// What is asked of tokens, for each algorithm that is allowed.
fn validations(config: &JwtConfig) -> HashMap<Algorithm, Validation> {
    let families = [AlgorithmFamily::Hmac, AlgorithmFamily::Rsa, AlgorithmFamily::Ec, AlgorithmFamily::Ed];
    let all = families.iter().flat_map(AlgorithmFamily::algorithms);
    let allowed = all.filter(|one| config.algorithms.is_empty() || config.algorithms.contains(one));
    let audience = config.audience.clone().unwrap_or_default();
    let issuers = config.issuers();
    let validation = |algorithm: &Algorithm| {
        let mut validation = Validation::new(*algorithm);
        let mut required = vec!["exp"];
        validation.leeway = config.leeway_s;
        validation.validate_nbf = true;
        validation.validate_aud = !audience.is_empty();
        if !audience.is_empty() {
            validation.set_audience(&audience);
            required.push("aud");
        }
        if !issuers.is_empty() {
            validation.set_issuer(&issuers);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        (*algorithm, validation)
    };
    allowed.map(validation).collect()
}

/// Tries the keys that `kid` may mean: one of that name first, then those that have none.
fn try_keys<'a>(
    keys: impl Iterator<Item = &'a Key>,
    token: &[u8],
    kid: Option<&str>,
    algorithm: Algorithm,
    validation: &Validation,
) -> Result<Claims, TokenProblem> {
    let (by_name, others): (Vec<_>, Vec<_>) =
        keys.filter(|key| key.is_named(kid)).partition(|key| key.has_id(kid));
    let mut problem = if by_name.is_empty() && others.is_empty() {
        TokenProblem::UnknownKey
    } else {
        TokenProblem::Algorithm
    };
    let suitable = by_name.into_iter().chain(others).filter(|key| key.suits(algorithm));
    for key in suitable.take(KEYS_TRIED_MAX) {
        match jsonwebtoken::decode::<Claims>(token, &key.decoding, validation) {
            Ok(token) => return Ok(token.claims),
            Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                problem = TokenProblem::Signature;
            }
            Err(error) => return Err(problem_of(error.kind())),
        }
    }
    Err(problem)
}

fn problem_of(error: &ErrorKind) -> TokenProblem {
    match error {
        ErrorKind::ExpiredSignature => TokenProblem::Expired,
        ErrorKind::ImmatureSignature => TokenProblem::NotYetValid,
        ErrorKind::InvalidAudience => TokenProblem::Audience,
        ErrorKind::InvalidIssuer => TokenProblem::Issuer,
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => TokenProblem::Algorithm,
        ErrorKind::MissingRequiredClaim(claim) => TokenProblem::claim(claim, "is missing"),
        ErrorKind::InvalidClaimFormat(claim) => TokenProblem::claim(claim, "cannot be read"),
        _ => TokenProblem::Malformed,
    }
}

#[cfg(test)]
mod tests;
