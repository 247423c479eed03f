//! The keys that a service signs passports with, as it announces them (RFC 7517): for workers, which verify passports without
//! asking anybody about any of them.

use std::path::PathBuf;

use bytes::Bytes;
use hyper::{Request, StatusCode, Uri};
use link::{KeySet, PublicKey};

use crate::AuthError;
use crate::http_client::{HttpClient, HttpClientConfig};

/// The section whose settings these are.
const SECTION: &str = "passport";

/// Why there are no new keys. The texts hold nothing of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// Nobody answers.
    #[error("no answer: {0}")]
    Away(String),
    /// What was answered is no key set.
    #[error("the answer is no key set: {0}")]
    NoSet(String),
    /// There is no key in it that can be used.
    #[error("the key set has no key that can be used")]
    Empty,
}

/// Fetches keys from one URL.
pub struct KeyFetcher {
    client: HttpClient,
    uri: Uri,
}

impl KeyFetcher {
    /// One for `url`, whose certificate comes from the authorities in `ca_file`, or the system's.
    ///
    /// # Errors
    /// The URL or the file cannot be used; plain `http://` leads no further than this machine.
    pub fn new(url: &str, ca_file: Option<PathBuf>) -> Result<Self, AuthError> {
        let config = HttpClientConfig { ca_file, ..HttpClientConfig::default() };
        let uri = config.url(SECTION, "jwks_url", url)?;
        Ok(Self { client: HttpClient::new(SECTION, &config)?, uri })
    }

    /// The keys that are announced now, by the names that tokens give them.
    ///
    /// # Errors
    /// There are none to be had.
    pub async fn fetch(&self) -> Result<Vec<(String, PublicKey)>, KeysError> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = self.uri.clone();
        let answer = self.client.send(request).await.map_err(|error| KeysError::Away(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(KeysError::NoSet(format!("status {}", answer.status().as_u16())));
        }
        let set: KeySet = serde_json::from_slice(answer.body())
            .map_err(|error| KeysError::NoSet(format!("line {} column {}", error.line(), error.column())))?;
        let keys = set.keys();
        if keys.is_empty() { Err(KeysError::Empty) } else { Ok(keys) }
    }
}
