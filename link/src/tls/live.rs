//! One end's TLS as its files say: read again when they have changed and settled. Links that are up stay as they are, new ones use
//! what is new; what cannot be used, or has ended, leaves in force what was.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use files::validity::{Validity, date, unix_s};
use files::{Look, Settling, Snapshot};
use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::gauge::Gauge;
use rustls::{ClientConfig, ServerConfig};

use super::{LinkTlsConfig, LinkTlsError};
use crate::metrics::By;

/// From so long before its end on a certificate is told of, and how often.
const TELL_AHEAD_DAYS: i64 = 14;
const TELL_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// The TLS of one end, a [`ClientConfig`] at the edge and a [`ServerConfig`] at the worker.
pub struct LinkTls<C> {
    /// The section of its settings.
    section: &'static str,
    config: LinkTlsConfig,
    make: fn(&LinkTlsConfig, &Snapshot) -> Result<Arc<C>, LinkTlsError>,
    current: RwLock<Arc<C>>,
    state: Mutex<State>,
}

struct State {
    settling: Settling,
    terms: LinkTerms,
    /// When what ends was told of, and whether it had ended then.
    told: Option<(Instant, bool)>,
}

/// When the certificate of this end ends, and the last of the authorities of the other's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTerms {
    /// Of this end's certificate.
    pub certificate: Validity,
    /// Of the authority that is good for longest.
    pub authority: Validity,
}

impl LinkTls<ClientConfig> {
    /// For the edge.
    ///
    /// # Errors
    /// The key and the file that cannot be used.
    pub fn client(section: &'static str, config: &LinkTlsConfig) -> Result<Self, LinkTlsError> {
        Self::open(section, config, LinkTlsConfig::client_from)
    }
}

impl LinkTls<ServerConfig> {
    /// For the worker.
    ///
    /// # Errors
    /// The key and the file that cannot be used.
    pub fn server(section: &'static str, config: &LinkTlsConfig) -> Result<Self, LinkTlsError> {
        Self::open(section, config, LinkTlsConfig::server_from)
    }
}

impl<C> LinkTls<C> {
    fn open(
        section: &'static str,
        config: &LinkTlsConfig,
        make: fn(&LinkTlsConfig, &Snapshot) -> Result<Arc<C>, LinkTlsError>,
    ) -> Result<Self, LinkTlsError> {
        let found = Snapshot::take(config.files());
        let current = RwLock::new(make(config, &found)?);
        let terms = LinkTerms::read(config, &found)?;
        let state = Mutex::new(State { settling: Settling::new(&found), terms, told: None });
        Ok(Self { section, config: config.clone(), make, current, state })
    }

    /// What is in force.
    pub fn current(&self) -> Arc<C> {
        self.current.read().clone()
    }

    /// What it is made from.
    pub fn config(&self) -> &LinkTlsConfig {
        &self.config
    }

    /// When what is in force ends.
    pub fn terms(&self) -> LinkTerms {
        self.state.lock().terms
    }

    /// Has the files read again though they look the same.
    pub fn ask(&self) {
        self.state.lock().settling.ask();
    }

    /// Takes the files if they have changed and settled, and tells of what ends soon; all of it is logged. To be called every
    /// [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        self.look_at(now, SystemTime::now());
    }

    fn look_at(&self, now: Instant, wall: SystemTime) {
        const WHAT: &str =
            "certificates of links not taken, those of before stay; mend the file, it is read again then";
        let now_s = unix_s(wall);
        let section = self.section;
        let mut state = self.state.lock();
        if let Look::Settled(found) = state.settling.look(now) {
            match self.prepare(&found, state.terms, now_s) {
                Ok((made, terms)) => {
                    *self.current.write() = made;
                    (state.terms, state.told) = (terms, None);
                    tracing::info!(section, "certificates of links read");
                }
                Err(error @ LinkTlsError::Mismatch { .. }) => {
                    tracing::warn!(%error, section, "certificates of links not taken yet: the other file of the pair is waited for");
                }
                Err(error) if found.missing().is_some() => tracing::warn!(%error, section, "{WHAT}"),
                Err(error) => tracing::error!(%error, section, "{WHAT}"),
            }
        }
        state.tell(section, now, now_s);
    }

    fn prepare(
        &self,
        found: &Snapshot,
        in_force: LinkTerms,
        now_s: i64,
    ) -> Result<(Arc<C>, LinkTerms), LinkTlsError> {
        let made = (self.make)(&self.config, found)?;
        let terms = LinkTerms::read(&self.config, found)?;
        for (key, path, before, after) in [
            ("certificate_file", &self.config.certificate_file, in_force.certificate, terms.certificate),
            ("ca_file", &self.config.ca_file, in_force.authority, terms.authority),
        ] {
            if before.is_good(now_s) && !after.is_good(now_s) {
                let problem = format!(
                    "is good from {} until {} only, while the one in force is good until {}",
                    date(after.from_s),
                    date(after.until_s),
                    date(before.until_s)
                );
                return Err(super::unusable(key, path, problem));
            }
        }
        Ok((made, terms))
    }
}

impl State {
    fn tell(&mut self, section: &str, now: Instant, now_s: i64) {
        let LinkTerms { certificate, authority } = self.terms;
        let (what, first) = if certificate.until_s <= authority.until_s {
            ("certificate", certificate)
        } else {
            ("authority", authority)
        };
        let (has_ended, days_left) = (first.has_ended(now_s), first.days_left(now_s));
        let is_known = |(at, had_ended): (Instant, bool)| {
            had_ended == has_ended && now.saturating_duration_since(at) < TELL_INTERVAL
        };
        if days_left >= TELL_AHEAD_DAYS || self.told.is_some_and(is_known) {
            return;
        }
        self.told = Some((now, has_ended));
        let ends = date(first.until_s);
        if has_ended {
            tracing::warn!(section, ends, "the {what} of links has ended: put a new one there");
        } else {
            tracing::warn!(section, ends, days_left, "the {what} of links ends soon: put a new one there");
        }
    }
}

impl LinkTerms {
    fn read(config: &LinkTlsConfig, found: &Snapshot) -> Result<Self, LinkTlsError> {
        let all = |key, path| -> Result<Vec<Validity>, LinkTlsError> {
            let certificates = super::certificates(key, path, found)?;
            let read = certificates.iter().map(|section| Validity::of_certificate(&section.der));
            read.collect::<Option<_>>()
                .ok_or_else(|| super::unusable(key, path, "holds a certificate that cannot be parsed"))
        };
        let empty = |key, path| super::unusable(key, path, "is empty");
        let certificate = all("certificate_file", &config.certificate_file)?.into_iter().next();
        let authority = all("ca_file", &config.ca_file)?.into_iter().max_by_key(|one| one.until_s);
        Ok(Self {
            certificate: certificate.ok_or_else(|| empty("certificate_file", &config.certificate_file))?,
            authority: authority.ok_or_else(|| empty("ca_file", &config.ca_file))?,
        })
    }

    /// Shows when each ends, Unix seconds.
    pub fn show(&self, ends: &By<(&'static str,), Gauge>) {
        ends.of(("certificate",)).set(self.certificate.until_s);
        ends.of(("authority",)).set(self.authority.until_s);
    }
}
