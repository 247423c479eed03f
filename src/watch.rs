//! The files that may change while a process runs: looked at now and then, and taken when they have settled. What cannot be used
//! leaves in force what was.

use std::sync::Arc;
use std::time::Instant;

use authsvc::Local;
use authsvc::client::Remote;
use authsvc::service::ServiceFiles;
use broker::LinkCertificates;
use lb::Certificates;
use lb::upstream::Workers;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Files that somebody looks after.
pub(crate) trait Files: Send + Sync {
    /// Has them read again though they look the same.
    fn ask(&self);

    /// Takes what has changed and settled. Blocks on the disk.
    fn look(&self, now: Instant);
}

/// Looks at all of them every [`files::LOOK_INTERVAL`].
pub(crate) struct Watch {
    all: Arc<[Box<dyn Files>]>,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Begins to look. Must be called in a runtime.
    pub(crate) fn start(all: Vec<Box<dyn Files>>) -> Self {
        let all: Arc<[Box<dyn Files>]> = all.into();
        Self { all: all.clone(), looking: tokio::spawn(look(all)) }
    }

    /// Has everything read again though it looks the same.
    pub(crate) fn ask(&self) {
        tracing::info!("certificates, keys, password and ACL files are read again when they have settled");
        self.all.iter().for_each(|files| files.ask());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(all: Arc<[Box<dyn Files>]>) {
    let mut ticks = tokio::time::interval(files::LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // When it was due: looks are a second apart, and three of them the time in which files settle, whatever threads do meanwhile.
        let now = ticks.tick().await.into_std();
        let all = all.clone();
        let looked = tokio::task::spawn_blocking(move || {
            all.iter().for_each(|files| files.look(now));
        });
        if looked.await.is_err() {
            // The runtime is shutting down.
            return;
        }
    }
}

macro_rules! looks_after_files {
    ($($who:ty),*) => {$(
        impl Files for $who {
            fn ask(&self) {
                <$who>::ask(self);
            }

            fn look(&self, now: Instant) {
                <$who>::look(self, now);
            }
        }
    )*};
}

looks_after_files!(Certificates, LinkCertificates, Local, Remote, ServiceFiles, Workers);
