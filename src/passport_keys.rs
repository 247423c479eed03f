//! The keys of passports that a service announces: asked for in the background, now and then and when a passport comes of a key
//! that is not known. Those of before stay while there is no answer, or one that is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use authsvc::client::{KeyFetcher, KeysError};
use link::{PassportVerifier, PublicKey};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::WorkerConfig;
use crate::exit::Failure;

/// How often it is looked whether a passport came of a key that is not known.
const LOOK: Duration = Duration::from_millis(250);

/// The keys are asked for no more often than this, whatever comes.
const INTERVAL_MIN: Duration = Duration::from_secs(5);

/// Before they are asked for again by a worker that has none yet.
const FIRST_INTERVAL: Duration = Duration::from_millis(500);

/// What keeps the keys. Dropped, it stops.
pub(crate) struct PassportKeys {
    has_some: Arc<AtomicBool>,
    asking: AbortHandle,
}

impl Drop for PassportKeys {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

struct Asking {
    fetcher: KeyFetcher,
    verifier: Arc<PassportVerifier>,
    /// Good whatever is announced.
    of_files: Vec<(String, PublicKey)>,
    announced: Vec<(String, PublicKey)>,
    has_some: Arc<AtomicBool>,
    told: Option<KeysError>,
    interval: Duration,
    metrics: KeyMetrics,
}

link::metrics! {
    /// What is counted of them.
    struct KeyMetrics in "tidegate_passport" {
        /// Keys of passports that are announced.
        keys_announced: Gauge;
        /// Questions for keys of passports without an answer that can be used.
        keys_failures: Counter;
    }
}

impl PassportKeys {
    /// Begins to ask, if there is somebody to be asked.
    pub(crate) fn start(
        config: &WorkerConfig,
        verifier: &Arc<PassportVerifier>,
        registry: &mut Registry,
    ) -> Result<Option<Self>, Failure> {
        let Some(fetcher) = config.fetcher().map_err(Failure::usage)? else { return Ok(None) };
        let mut of_files = Vec::new();
        for path in &config.passport.verify_key_files {
            let keys = PublicKey::from_file(path).map_err(Failure::io)?;
            of_files.extend(keys.into_iter().map(|key| (key.id(), key)));
        }
        let has_some = Arc::new(AtomicBool::new(!of_files.is_empty()));
        let asking = Asking {
            fetcher,
            verifier: verifier.clone(),
            of_files,
            announced: Vec::new(),
            has_some: has_some.clone(),
            told: None,
            interval: Duration::from_secs(config.passport.jwks_interval_s),
            metrics: KeyMetrics::register(registry),
        };
        let asking = tokio::spawn(asking.run()).abort_handle();
        Ok(Some(Self { has_some, asking }))
    }

    /// Whether passports of anybody are good yet.
    pub(crate) fn has_some(&self) -> Arc<AtomicBool> {
        self.has_some.clone()
    }
}

impl Asking {
    async fn run(mut self) {
        loop {
            let unknown = self.verifier.unknown_keys();
            self.ask().await;
            self.wait(unknown).await;
        }
    }

    async fn ask(&mut self) {
        match self.fetcher.fetch().await {
            Ok(keys) => {
                self.told = None;
                if keys == self.announced {
                    return;
                }
                let names: Vec<_> = keys.iter().map(|(name, _)| name.as_str()).collect();
                tracing::info!(keys = names.join(" "), "keys of passports read");
                self.metrics.keys_announced.set(keys.len() as i64);
                self.verifier.trust(self.of_files.iter().chain(&keys).cloned());
                self.announced = keys;
                self.has_some.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                self.metrics.keys_failures.inc();
                // Every attempt says the same.
                if self.told.as_ref() != Some(&error) {
                    tracing::warn!(%error, "no keys of passports, those of before stay");
                    self.told = Some(error);
                }
            }
        }
    }

    /// Returns when it is time to ask again.
    async fn wait(&self, unknown: u64) {
        let asked = Instant::now();
        let first = !self.has_some.load(Ordering::Relaxed);
        let at_least = if first { FIRST_INTERVAL } else { INTERVAL_MIN.min(self.interval) };
        loop {
            tokio::time::sleep(LOOK).await;
            let is_due = first || asked.elapsed() >= self.interval || self.verifier.unknown_keys() != unknown;
            if is_due && asked.elapsed() >= at_least {
                return;
            }
        }
    }
}
