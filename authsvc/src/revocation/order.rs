//! What an operator asks to be revoked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::REVOKED_S_MAX;
use super::list::Revocations;
use super::target::{RevokeReason, Target};

/// Longest name of what is revoked, bytes.
const NAME_BYTES_MAX: usize = 65_535;

/// Why an order was not carried out, or not as it should.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// It is not as documented; the text says why.
    #[error("{0}")]
    Order(String),
    /// It is in force, and will not be after a restart.
    #[error("in force, but not kept beyond this process: {0}")]
    NotKept(io::Error),
}

/// What an operator asks for: the body of `POST /v1/revocations`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeOrder {
    user: Option<Arc<str>>,
    client_id: Option<Arc<str>>,
    token: Option<Arc<str>>,
    certificate: Option<Arc<str>>,
    /// Seconds for which nobody new comes. Default 0: only connections that there are end.
    #[serde(default)]
    lasts_s: u64,
}

impl RevokeOrder {
    /// Reads one from JSON and has it done. The name is what was revoked. Blocks on the disk where the list is kept.
    ///
    /// # Errors
    /// What is wrong with it, or that it could not be written down.
    pub fn carry_out(json: &[u8], list: &Revocations) -> Result<Target, RevokeError> {
        let order: Self =
            serde_json::from_slice(json).map_err(|error| RevokeError::Order(error.to_string()))?;
        let (target, lasts) = order.read().map_err(RevokeError::Order)?;
        list.revoke(target.clone(), RevokeReason::Administrative, lasts);
        list.keep().map_err(RevokeError::NotKept)?;
        Ok(target)
    }

    fn read(self) -> Result<(Target, Duration), String> {
        let order = self;
        let certificate = order.certificate.as_deref().map(fingerprint).transpose()?;
        let named: Vec<_> = [
            order.user.map(Target::User),
            order.client_id.map(Target::ClientId),
            order.token.map(Target::Token),
            certificate.map(Target::Certificate),
        ]
        .into_iter()
        .flatten()
        .collect();
        let [target] = &named[..] else {
            return Err("name one of user, client_id, token, certificate".to_owned());
        };
        if target.name().is_empty() || target.name().len() > NAME_BYTES_MAX {
            return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        if order.lasts_s > REVOKED_S_MAX {
            return Err(format!("lasts_s is at most {REVOKED_S_MAX}"));
        }
        Ok((target.clone(), Duration::from_secs(order.lasts_s)))
    }
}

/// A fingerprint as certificates are compared by it, of one that may be written as OpenSSL does, with colons and in upper case.
fn fingerprint(written: &str) -> Result<Arc<str>, String> {
    let digits: String = written.chars().filter(|sign| *sign != ':').collect();
    if digits.len() != 64 || !digits.bytes().all(|sign| sign.is_ascii_hexdigit()) {
        return Err("certificate is not the SHA-256 fingerprint of one: 64 hexadecimal digits".to_owned());
    }
    Ok(digits.to_ascii_lowercase().into())
}
