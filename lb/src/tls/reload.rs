//! The files of all TLS listeners of an edge: looked at together, and taken by all listeners or by none. Names every thing in them
//! that ends, in time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use files::validity::unix_s;
use files::{Look, Settling, Snapshot};
use parking_lot::Mutex;

use super::error::TlsConfigError;
use super::expiry::What;
use super::server::{Prepared, TlsChange, TlsServer};

/// How long a certificate and a key that do not belong together are taken for two files of which one is still to come.
const PAIR_PATIENCE: Duration = Duration::from_secs(60);

/// How often what ends is told of again.
const TELL_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// A listener with TLS.
pub(crate) struct Served {
    pub(crate) listener: Arc<str>,
    /// The key of its settings, `tls` or `listeners.NAME.tls`.
    pub(crate) key: String,
    pub(crate) server: Arc<TlsServer>,
}

/// All of them, and their files.
pub(crate) struct Reload {
    served: Vec<Served>,
    files: Mutex<Files>,
    told: Mutex<Told>,
}

struct Files {
    settling: Settling,
    /// What was found and does not belong together, and since when.
    unpaired: Option<(Instant, Option<String>)>,
    /// When something that was refused will be good, or an OCSP response ends, Unix seconds.
    again_at_s: Option<i64>,
}

/// Why files were not taken: one line that names the key and the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}")]
pub(crate) struct Refused {
    line: String,
    pub(crate) kind: Unusable,
}

/// What is the matter with files that are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// Nothing is there where something should be.
    Missing,
    /// What belongs together does not: the rest may be on its way.
    Waiting,
    /// Anything else.
    Wrong,
}

impl Reload {
    /// Of listeners whose files were read as `found`.
    pub(crate) fn new(served: Vec<Served>, found: &Snapshot) -> Self {
        let files =
            Files { settling: Settling::new(found), unpaired: None, again_at_s: first_staple_ends(&served) };
        Self { served, files: Mutex::new(files), told: Mutex::default() }
    }

    /// The names of the listeners.
    pub(crate) fn listeners(&self) -> String {
        self.served.iter().map(|served| &*served.listener).collect::<Vec<_>>().join(", ")
    }

    /// Has the files read again though they look the same.
    pub(crate) fn ask(&self) {
        self.files.lock().settling.ask();
    }

    /// Takes the files if they have changed and settled, or were asked for. To be called every [`files::LOOK_INTERVAL`]; blocks on
    /// the disk. `None`: nothing to say.
    ///
    /// # Errors
    /// The first file that cannot be used. All listeners then go on as they are, and the files are taken when they have
    /// changed to something that can be used.
    pub(crate) fn look(&self, now: Instant, wall: SystemTime) -> Option<Result<Vec<TlsChange>, Refused>> {
        let mut files = self.files.lock();
        if files.again_at_s.take_if(|at_s| *at_s <= unix_s(wall)).is_some() {
            files.settling.ask();
        }
        let found = match files.settling.look(now) {
            Look::Settled(found) => found,
            Look::Changing => return None,
            Look::Same => return files.lost_patience(now).map(Err),
        };
        let prepared: Result<Vec<_>, _> =
            self.served.iter().map(|served| served.prepare(&found, wall)).collect();
        match prepared {
            Ok(prepared) => {
                let served = self.served.iter().zip(prepared);
                let changes = served.map(|(served, prepared)| served.server.take(prepared)).collect();
                (files.unpaired, files.again_at_s) = (None, first_staple_ends(&self.served));
                Some(Ok(changes))
            }
            Err((line, error)) => files.refuse(line, &error, now).map(Err),
        }
    }

    /// What ends and was not told of, or not for a day.
    pub(crate) fn endings(&self, now: Instant, wall: SystemTime) -> Vec<Ending> {
        let now_s = unix_s(wall);
        let mut found: BTreeMap<Ending, BTreeSet<Arc<str>>> = BTreeMap::new();
        for served in &self.served {
            for (term, has_ended) in served.server.endings(now_s) {
                let (days_left, listeners) = (term.validity.days_left(now_s), String::new());
                let (what, path, name, until_s) = (term.what, term.path, term.name, term.validity.until_s);
                let ending = Ending { what, path, name, until_s, has_ended, days_left, listeners };
                found.entry(ending).or_default().insert(Arc::clone(&served.listener));
            }
        }
        let with_listeners = |(ending, of): (Ending, BTreeSet<Arc<str>>)| Ending {
            listeners: of.iter().map(|name| &**name).collect::<Vec<_>>().join(", "),
            ..ending
        };
        self.told.lock().news(found.into_iter().map(with_listeners).collect(), now)
    }
}

/// The first second in which a response that is stapled is of no use any more.
fn first_staple_ends(served: &[Served]) -> Option<i64> {
    let staples = served.iter().filter_map(|served| served.server.staples_until_s());
    staples.min().map(|until_s| until_s.saturating_add(1))
}

impl Served {
    fn prepare(&self, found: &Snapshot, wall: SystemTime) -> Result<Prepared, (String, TlsConfigError)> {
        self.server.prepare(found, wall).map_err(|error| (format!("{}.{error}", self.key), error))
    }
}

impl Files {
    /// What is to be said of files that cannot be taken: nothing, if it was said that the rest is waited for.
    fn refuse(&mut self, line: String, error: &TlsConfigError, now: Instant) -> Option<Refused> {
        if let TlsConfigError::NotGoodNow { good_from_s: Some(at_s), .. } = error {
            self.again_at_s = Some(self.again_at_s.map_or(*at_s, |other| other.min(*at_s)));
        }
        let is_unpaired = matches!(error, TlsConfigError::Mismatch { .. });
        let since = self.unpaired.take().map(|(since, _)| since).filter(|_| is_unpaired);
        let kind = match error {
            TlsConfigError::Mismatch { .. } => Unusable::Waiting,
            error if error.is_missing() => Unusable::Missing,
            _ => Unusable::Wrong,
        };
        if is_unpaired {
            self.unpaired = Some((since.unwrap_or(now), Some(line.clone())));
        }
        since.is_none().then_some(Refused { line, kind })
    }

    /// What has not come together for long, once.
    fn lost_patience(&mut self, now: Instant) -> Option<Refused> {
        let (since, line) = self.unpaired.as_mut()?;
        if now.saturating_duration_since(*since) < PAIR_PATIENCE {
            return None;
        }
        line.take().map(|line| Refused { line, kind: Unusable::Wrong })
    }
}

/// Something that ends, or has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ending {
    pub(crate) what: What,
    pub(crate) path: PathBuf,
    /// Of whom it is.
    pub(crate) name: String,
    pub(crate) until_s: i64,
    pub(crate) has_ended: bool,
    pub(crate) days_left: i64,
    /// Where it is in force.
    pub(crate) listeners: String,
}

/// What was told of, and when.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    endings: BTreeSet<Ending>,
}

impl Told {
    fn news(&mut self, found: BTreeSet<Ending>, now: Instant) -> Vec<Ending> {
        let is_due = self.at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_INTERVAL);
        if is_due {
            (self.at, self.endings) = (Some(now), BTreeSet::new());
        }
        // The days that are left are another number each day, which alone is no news.
        let known = |ending: &Ending| {
            let same = |told: &Ending| Ending { days_left: ending.days_left, ..told.clone() } == *ending;
            self.endings.iter().any(same)
        };
        let news: Vec<_> = found.iter().filter(|ending| !known(ending)).cloned().collect();
        self.endings = found;
        news
    }
}
