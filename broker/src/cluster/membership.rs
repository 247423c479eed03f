//! How a worker enters the registry, keeps its lease, and looks after those that are silent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use state::{Lease, Member, StoreError, WorkerId};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::Cluster;
use super::ask::{RETRY_AFTER, ask};
use super::inbox::Recipient;
use super::pace::Pace;
use super::{burial, inbox, log_reader};

/// How often it is looked whether the lease holds, while joining.
const SOON: Duration = Duration::from_millis(3);
/// The store counts whole milliseconds, by a clock that need not run as this one does: of its lease a worker leaves out one
/// part in so many, so that it matches nothing any more when others stop waiting for it.
const CAUTION: u32 = 32;

/// The tasks that keep a worker in the cluster; they end when this is dropped.
pub(crate) struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    /// Ends them.
    pub(crate) fn abort(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.abort();
    }
}

/// Enters the registry, loads what others listen to, and follows it from then on. Comes back when messages may be matched,
/// however long the store is away.
///
/// # Errors
/// What the store will not answer later either.
pub(crate) async fn join(
    cluster: &Arc<Cluster>,
    recipient: impl Recipient + Clone + 'static,
) -> Result<Tasks, StoreError> {
    while let Err(error) = enter(cluster).await {
        if !error.is_retryable() {
            return Err(error);
        }
        sleep(RETRY_AFTER).await;
    }
    let own = || Arc::clone(cluster);
    let mut tasks = Tasks(Vec::new());
    // Before the routes are loaded, which may take longer than others wait for a silent worker.
    tasks.0.push(tokio::spawn(keep_lease(own(), recipient.clone())));
    while let Err(error) = log_reader::load(cluster).await {
        if !error.is_retryable() {
            return Err(error);
        }
        sleep(RETRY_AFTER).await;
    }
    cluster.lease.end_loading();
    tasks.0.push(tokio::spawn(log_reader::follow(own())));
    tasks.0.push(tokio::spawn(inbox::read(own(), recipient)));
    tasks.0.push(tokio::spawn(inbox::sweep(own())));
    tasks.0.push(tokio::spawn(retry(own())));
    while !cluster.lease.holds() {
        cluster.renew_soon.notify_one();
        sleep(SOON).await;
    }
    Ok(tasks)
}

/// Leaves the registry; the tasks have ended.
///
/// # Errors
/// What the store answers.
pub(crate) async fn leave(cluster: &Cluster) -> Result<(), StoreError> {
    cluster.lease.drop_now();
    ask(|done| cluster.api.leave(done)).await
}

async fn enter(cluster: &Cluster) -> Result<(), StoreError> {
    let joined = ask(|done| cluster.api.join(done)).await?;
    cluster.lease.set_applied(joined.log_end);
    cluster.joins.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
    Ok(())
}

/// Renews the lease a few times while it lasts, and at once when somebody waits for it.
async fn keep_lease(cluster: Arc<Cluster>, recipient: impl Recipient + Clone + 'static) {
    let lease = cluster.settings.lease();
    let mut burials = HashMap::new();
    let mut pace = Pace::new();
    loop {
        let call = cluster.begin_list();
        let doubted = cluster.fenced.take();
        let asked = cluster.lease.ask();
        let renewed =
            ask(|done| cluster.api.renew(asked.applied, u64::from(cluster.settings.lease_ms), done));
        match timeout(lease * 4, renewed).await {
            // It explains whatever the store has refused.
            Ok(Ok(Lease { is_expelled: true, .. })) => expelled(&cluster).await,
            Ok(Ok(Lease { members, log_end, is_elsewhere, now_us, .. })) => {
                cluster.clock.set(asked.at(), now_us);
                cluster.host.clock.follow(now_us, asked.at().elapsed());
                if is_elsewhere {
                    tracing::debug!("the log is another server's, and was not read there");
                    // As far as others had applied the log of the server before says nothing here.
                    cluster.forget_passed();
                } else if cluster.lease.renew(&asked, lease - lease / CAUTION, log_end) {
                    tracing::info!("the route lease begins");
                }
                cluster.metrics.members.set(i64::try_from(members.len()).unwrap_or(i64::MAX));
                let lag = log_end.0.saturating_sub(cluster.lease.applied().0);
                cluster.metrics.route_lag_entries.set(i64::try_from(lag).unwrap_or(i64::MAX));
                cluster.pass(call, &members, log_end);
                let is_live = |id| members.iter().any(|member| member.id == id && member.is_live);
                cluster.directory.note_silent(|worker| !is_live(worker));
                cluster.end_doubted(doubted);
                bury_silent(&cluster, &recipient, &members, &mut burials);
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the route lease was not renewed");
                cluster.fenced.put_back(doubted);
            }
            Err(_) => {
                tracing::debug!("the store has not answered for the route lease");
                cluster.fenced.put_back(doubted);
            }
        }
        cluster.metrics.route_lease.set(i64::from(cluster.lease.holds()));
        if !cluster.is_waited_for() {
            let _early = timeout(lease / 4, cluster.renew_soon.notified()).await;
        }
        pace.wait().await;
    }
}

/// Others have let go of this worker's sessions: its connections go on elsewhere, and it begins anew.
async fn expelled(cluster: &Arc<Cluster>) {
    tracing::warn!("other workers took this one for dead: it lets go of its sessions and joins anew");
    cluster.metrics.expelled.inc();
    cluster.lease.drop_now();
    cluster.lease.begin_loading();
    let hook = cluster.on_expelled.lock().clone();
    match hook {
        Some(hook) => hook(),
        // Nobody can move them.
        None => cluster.directory.sessions().for_each(|session| {
            if session.is_connected() {
                cluster.directory.evict(session);
            }
        }),
    }
    while let Err(error) = enter(cluster).await {
        tracing::debug!(%error, "the registry could not be entered");
        sleep(RETRY_AFTER).await;
    }
}

/// Buries workers that are silent for good, if this one has heard from the store all the time: after an outage everybody
/// looks silent.
fn bury_silent(
    cluster: &Arc<Cluster>,
    recipient: &(impl Recipient + Clone + 'static),
    members: &[Member],
    burials: &mut HashMap<WorkerId, AbortOnDropHandle<()>>,
) {
    burials.retain(|_, burial| !burial.is_finished());
    let after = cluster.settings.worker_timeout();
    if cluster.lease.steady_for() < after {
        return;
    }
    for member in members {
        let is_silent = u128::from(member.silent_ms) >= after.as_millis();
        if member.id != cluster.id && is_silent && !burials.contains_key(&member.id) {
            let burial = burial::bury(Arc::clone(cluster), recipient.clone(), member.clone());
            burials.insert(member.id, AbortOnDropHandle::new(tokio::spawn(burial)));
        }
    }
}

/// Tries again what the store could not take, and says what is not listened to any more.
async fn retry(cluster: Arc<Cluster>) {
    let mut tick = interval(RETRY_AFTER);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        cluster.repost();
        cluster.listened.lock().lower();
        cluster.log.write_again();
    }
}
