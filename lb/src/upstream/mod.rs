//! Workers behind links: finds them, keeps links to them, opens the sessions of devices there, and carries devices over when
//! a worker dies or leaves, without their noticing. Start at [`Workers::start`]; the rules are in `docs/link.md`.

mod agenda;
mod alias;
mod chance;
mod config;
mod device;
mod dial;
mod discovery;
mod driver;
mod health;
mod link;
mod mail;
mod metrics;
mod mover;
mod pool;
mod reach;
mod rebalance;
mod ring;
mod route;
mod storeless;
mod stream;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;

use ::link::{KeyError, LinkTls, LinkTlsError, Open, PassportSigner, Upstream};
use bytes::Bytes;
use mqtt::{Connect, ProtocolVersion};
use prometheus_client::registry::Registry;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Duration, timeout};

pub use config::{HealthConfig, PassportConfig, WorkersConfig};
pub use reach::{LinkIo, Reach, Reaching};
pub use stream::WorkerStream;

use self::chance::Chance;
use self::device::{Device, Devices};
use self::metrics::Metrics;
use self::pool::Pool;
use self::reach::Tcp;

/// Why the edge cannot use workers.
#[derive(Debug, thiserror::Error)]
pub enum WorkersError {
    /// The configuration is not valid.
    #[error(transparent)]
    Config(#[from] ::link::SettingError),
    /// The key for passports cannot be used.
    #[error("workers.passport.signing_key_file cannot be used")]
    Key(#[source] KeyError),
    /// A file for TLS cannot be used.
    #[error("workers.tls cannot be used")]
    Tls(#[source] LinkTlsError),
}

/// The workers of an edge. Clones are the same.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

impl Workers {
    /// Begins to look for workers and to connect. Must be called within the tokio runtime that carries the connected devices.
    ///
    /// # Errors
    /// The configuration, or a file that it names, cannot be used. A worker that cannot be found or reached is no error.
    pub fn start(config: WorkersConfig, registry: &mut Registry) -> Result<Self, WorkersError> {
        Self::start_by(config, Arc::new(Tcp), StdRng::from_os_rng(), registry)
    }

    /// As [`Workers::start`], with other connections and another chance: for simulations.
    ///
    /// # Errors
    /// As [`Workers::start`].
    pub fn start_by(
        config: WorkersConfig,
        reach: Arc<dyn Reach>,
        chance: StdRng,
        registry: &mut Registry,
    ) -> Result<Self, WorkersError> {
        config.validate()?;
        let key_file = config.passport.signing_key_file.as_deref();
        let signer = key_file.map(PassportSigner::from_file).transpose().map_err(WorkersError::Key)?;
        let tls = config.tls.as_ref().map(|tls| LinkTls::client("workers.tls", tls));
        let tls = tls.transpose().map_err(WorkersError::Tls)?;
        let devices = Devices::new(
            Metrics::register(registry),
            signer,
            config.handoff_timeout(),
            Chance::new(chance, config.backoff_max_ms),
        );
        let pool = Arc::new(Pool::new(config, Arc::new(devices), reach, tls));
        let tasks = [
            tokio::spawn(discovery::run(pool.clone())).abort_handle(),
            tokio::spawn(mover::run(pool.clone())).abort_handle(),
            tokio::spawn(rebalance::run(pool.clone())).abort_handle(),
            tokio::spawn(storeless::run(pool.clone())).abort_handle(),
        ];
        pool.tasks.lock().extend(tasks);
        Ok(Self(pool))
    }

    /// Has the certificates of links read again though they look the same.
    pub fn ask(&self) {
        self.0.tls.iter().for_each(LinkTls::ask);
    }

    /// Takes the certificates of links if they have changed and settled; links that are up stay. To be called every
    /// [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: std::time::Instant) {
        if let Some(tls) = &self.0.tls {
            tls.look(now);
            tls.terms().show(&self.0.devices.metrics.tls_expiry_timestamp_seconds);
        }
    }

    /// Whether a session can be opened: at least one worker has a link.
    pub fn is_ready(&self) -> bool {
        self.0.ring.load().len() > 0
    }

    /// Waits until workers know of every connection that has ended, for so long at most, then ends all links. Answers how
    /// many connections no worker has heard the end of; a worker takes them for lost. To be called when the edge is drained.
    pub async fn stop(&self, deadline: Duration) -> usize {
        let pool = &self.0;
        // The count says what became of it.
        let _ = timeout(deadline, pool.devices.emptied()).await;
        let left = pool.devices.count();
        for task in pool.tasks.lock().drain(..) {
            task.abort();
        }
        for worker in pool.workers.lock().values() {
            worker.stop();
        }
        pool.devices.agenda.clear();
        left
    }
}

impl Upstream for Workers {
    type Stream = WorkerStream;

    fn open(&self, open: Open) -> WorkerStream {
        let devices = &self.0.devices;
        let client_id = open.passport.client_id.clone();
        let version = version_of(&open.connect);
        let passport = open.passport.clone();
        // Each worker gets the passport in its own form.
        let template = Box::new(open.with_passport(Bytes::new()));
        let device = Arc::new(Device::new(devices.clone(), client_id, version, template, passport));
        if !mover::begin(&self.0, &device) {
            devices.agenda.push([device.clone()]);
        }
        WorkerStream::new(device)
    }
}

fn version_of(connect: &[u8]) -> ProtocolVersion {
    let frame = mqtt::frame::split(connect, u32::MAX).ok().flatten();
    // The edge has validated it.
    frame.and_then(|frame| Connect::version_of(frame).ok()).unwrap_or(ProtocolVersion::V5)
}
