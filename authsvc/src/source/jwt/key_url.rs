//! Keys at a URL: a JWK set, or one that an OpenID Connect issuer names. A task of its own fetches them now and then, and when
//! a token names a key that is not known, but never more often than a bound says. What cannot be used leaves in force what
//! was: a server that is away, or has lost its keys, locks nobody out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Uri};
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::config::{JwtConfig, SECTION};
use super::key::{Key, SetProblem, read_set};
use crate::AuthError;
use crate::http_client::{HttpClient, HttpError};

/// Below the issuer, OpenID Connect Discovery 1.0 section 4.
const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The keys at `jwks_url` or of `oidc_issuer`. The task ends when it is dropped.
pub(super) struct KeyUrl {
    shared: Arc<KeyReader>,
    fetching: JoinHandle<()>,
}

struct KeyReader {
    client: HttpClient,
    place: KeyPlace,
    interval: Duration,
    interval_min: Duration,
    /// For how long a token waits for its key.
    patience: Duration,
    /// `None` until some could be read.
    current: RwLock<Option<Arc<[Key]>>>,
    wanted: Notify,
    is_fetching: AtomicBool,
    /// When the next fetch may begin.
    may_fetch_at: Mutex<Instant>,
    /// Counts the fetches that have ended.
    rounds: watch::Sender<u64>,
}

enum KeyPlace {
    Set(Uri),
    Issuer { name: String, discovery: Uri },
}

/// What matters of an issuer's configuration.
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    jwks_uri: String,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchProblem {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the configuration of the issuer cannot be read")]
    NotDiscovered,
    #[error("the configuration is that of another issuer")]
    OtherIssuer,
    #[error("jwks_uri of the issuer is no URL")]
    NoUrl,
    #[error(transparent)]
    Set(#[from] SetProblem),
}

impl KeyPlace {
    fn of(config: &JwtConfig) -> Result<Option<Self>, AuthError> {
        if let Some(url) = &config.jwks_url {
            return Ok(Some(Self::Set(config.http.url(SECTION, "jwks_url", url)?)));
        }
        let Some(issuer) = &config.oidc_issuer else { return Ok(None) };
        let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
        let discovery = config.http.url(SECTION, "oidc_issuer", &url)?;
        Ok(Some(Self::Issuer { name: issuer.clone(), discovery }))
    }
}

impl KeyUrl {
    /// Checks what `config` says about a URL, and starts nothing.
    pub(super) fn check(config: &JwtConfig) -> Result<(), AuthError> {
        if KeyPlace::of(config)?.is_some() {
            HttpClient::new(SECTION, &config.http)?;
        }
        Ok(())
    }

    /// Begins to fetch, if there is a URL. Must be called in a runtime then.
    pub(super) fn start(config: &JwtConfig) -> Result<Option<Self>, AuthError> {
        let Some(place) = KeyPlace::of(config)? else { return Ok(None) };
        let shared = Arc::new(KeyReader {
            client: HttpClient::new(SECTION, &config.http)?,
            place,
            interval: Duration::from_secs(config.refresh_interval_s),
            interval_min: Duration::from_secs(config.refresh_interval_min_s),
            // Two requests, each tried twice, and a moment.
            patience: Duration::from_millis(4 * config.http.timeout_ms + 500),
            current: RwLock::new(None),
            wanted: Notify::new(),
            is_fetching: AtomicBool::new(true),
            may_fetch_at: Mutex::new(Instant::now()),
            rounds: watch::Sender::new(0),
        });
        let fetching = tokio::spawn(shared.clone().run());
        Ok(Some(Self { shared, fetching }))
    }

    /// What is in force; `None` until some could be read.
    pub(super) fn current(&self) -> Option<Arc<[Key]>> {
        self.shared.current.read().clone()
    }

    /// Has the keys fetched for a token whose key is not among them, and waits until that has ended. Returns at once if it
    /// may not be done again yet.
    pub(super) async fn renew(&self) {
        let mut rounds = self.shared.rounds.subscribe();
        let is_fetching = self.shared.is_fetching.load(Ordering::Acquire);
        if !is_fetching {
            if Instant::now() < *self.shared.may_fetch_at.lock() {
                return;
            }
            self.shared.wanted.notify_one();
        }
        // It ends in any case; who waited in vain finds the keys of before.
        let _ = timeout(self.shared.patience, rounds.changed()).await;
    }
}

impl Drop for KeyUrl {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

impl KeyReader {
    async fn run(self: Arc<Self>) {
        let mut problem = None;
        loop {
            self.is_fetching.store(true, Ordering::Release);
            let found = self.fetch().await;
            let pause = if found.is_ok() { self.interval } else { self.interval_min };
            self.take(found, &mut problem);
            let may_fetch_at = Instant::now() + self.interval_min;
            *self.may_fetch_at.lock() = may_fetch_at;
            self.is_fetching.store(false, Ordering::Release);
            self.rounds.send_modify(|rounds| *rounds += 1);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
            sleep_until(may_fetch_at).await;
        }
    }

    /// Puts keys in force; says so where something has changed.
    fn take(&self, found: Result<Vec<Key>, FetchProblem>, problem: &mut Option<String>) {
        match found {
            Ok(keys) => {
                let before = self.current.read().is_some();
                if problem.take().is_some() || !before {
                    tracing::info!(keys = keys.len(), "keys for tokens read");
                }
                *self.current.write() = Some(keys.into());
            }
            Err(error) => {
                let text = error.to_string();
                if problem.as_ref() != Some(&text) {
                    let kept = self.current.read().as_ref().map_or(0, |keys| keys.len());
                    tracing::warn!(problem = text, kept, "keys for tokens not read, those of before stay");
                    *problem = Some(text);
                }
            }
        }
    }

    async fn fetch(&self) -> Result<Vec<Key>, FetchProblem> {
        let set = match &self.place {
            KeyPlace::Set(set) => set.clone(),
            KeyPlace::Issuer { name, discovery } => {
                let found = self.ask(discovery.clone()).await?;
                let found: Discovered =
                    serde_json::from_slice(&found).map_err(|_| FetchProblem::NotDiscovered)?;
                // OpenID Connect Discovery 1.0 section 4.3.
                if found.issuer != *name {
                    return Err(FetchProblem::OtherIssuer);
                }
                found.jwks_uri.parse().map_err(|_| FetchProblem::NoUrl)?
            }
        };
        Ok(read_set(&self.ask(set).await?)?)
    }

    async fn ask(&self, url: Uri) -> Result<Bytes, FetchProblem> {
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = url;
        let answer = match self.client.send(request.clone()).await {
            Err(error) if error.is_retryable() => self.client.send(request).await?,
            answer => answer?,
        };
        if answer.status() != hyper::StatusCode::OK {
            return Err(FetchProblem::Status(answer.status().as_u16()));
        }
        Ok(answer.into_body())
    }
}
