//! What an edge's listeners have of TLS, kept as the files say: what is taken, what is not and why, what ends, and who has to go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use files::validity::date;

use crate::shared::Shared;
use crate::tls::{Refused, Reload, Unusable};

/// Certificates, keys, authorities, revocation lists and ticket secrets of an edge's listeners.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    reload: Reload,
    shared: Arc<Shared>,
}

impl Certificates {
    pub(super) fn new(reload: Reload, shared: &Arc<Shared>) -> Self {
        Self(Arc::new(Inner { reload, shared: Arc::clone(shared) }))
    }

    /// Has them read again though they look the same.
    pub fn ask(&self) {
        self.0.reload.ask();
    }

    /// Takes what has changed or was asked for, and has settled: all listeners all of it, or none anything; either is logged. New
    /// handshakes use it; connections stay, but for those whose certificate is revoked now, or comes from an authority that has
    /// gone. To be called every [`files::LOOK_INTERVAL`]; blocks on the disk.
    pub fn look(&self, now: Instant) {
        self.look_at(now, SystemTime::now());
    }

    fn look_at(&self, now: Instant, wall: SystemTime) {
        let Inner { reload, shared } = &*self.0;
        match reload.look(now, wall) {
            None => {}
            Some(Ok(changes)) => {
                tracing::info!(listeners = %reload.listeners(), "certificates read");
                let ended = shared.successions.revoke_distrusted();
                if ended > 0 {
                    tracing::info!(
                        connections = ended,
                        "connections end whose certificates were revoked, or whose authority has gone"
                    );
                }
                let gone = changes.into_iter().flat_map(|change| change.authorities_gone);
                for authority in gone.collect::<BTreeSet<_>>() {
                    tracing::info!(authority, "no certificates of it are taken any more");
                }
            }
            Some(Err(refused)) => not_taken(&refused),
        }
        for ending in reload.endings(now, wall) {
            let what = ending.what.label();
            let (path, name) = (ending.path.display(), ending.name);
            let (ends, days_left, listeners) = (date(ending.until_s), ending.days_left, ending.listeners);
            if ending.has_ended {
                tracing::warn!(%path, name, ends, listeners, "{what} has ended: put a new one there");
            } else {
                tracing::warn!(%path, name, ends, days_left, listeners, "{what} ends soon: put a new one there");
            }
        }
    }
}

fn not_taken(refused: &Refused) {
    const WHAT: &str =
        "certificates not taken, all listeners keep those of before; mend the file, it is read again then";
    match refused.kind {
        Unusable::Waiting => {
            tracing::warn!(error = %refused, "certificates not taken yet: the other file of the pair is waited for");
        }
        // As between two writes, or where somebody has meant something else.
        Unusable::Missing => tracing::warn!(error = %refused, "{WHAT}"),
        Unusable::Wrong => tracing::error!(error = %refused, "{WHAT}"),
    }
}
