//! What happens by the clock and not by a packet: due Wills, expired sessions, work that the store could not take, and
//! the `$SYS` topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use state::{Due, UnixMs};
use tokio::time::{MissedTickBehavior, interval};

use crate::hub::Hub;
use crate::hub::sys::Sys;

/// Due items taken from the store at once.
const DUE_MAX: usize = 1000;
/// How often the store is asked for what is due: Will Delay and Session Expiry are in whole seconds.
const DUE_INTERVAL: Duration = Duration::from_millis(500);
/// How soon work is tried again that the store could not take, and the longest that the clock stands still while no
/// device does anything.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Runs until it is dropped.
pub(crate) async fn run(hub: Arc<Hub>) {
    let mut due = interval(DUE_INTERVAL);
    let mut retry = interval(RETRY_INTERVAL);
    let sys_interval_s = u64::from(hub.config.sys_interval_s);
    let mut sys_tick = interval(Duration::from_secs(sys_interval_s.max(1)));
    for timer in [&mut due, &mut retry, &mut sys_tick] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    }
    let mut sys = Sys::new();
    // A store that is away gets the question once, and not twice a second for as long as it is.
    let is_asking = Arc::new(AtomicBool::new(false));
    loop {
        tokio::select! {
            // So that a run can be repeated; each is due now and then only.
            biased;
            _ = due.tick() => {
                hub.directory.sweep();
                if !is_asking.swap(true, Ordering::AcqRel) {
                    let is_asking = Arc::clone(&is_asking);
                    let answered = move || is_asking.store(false, Ordering::Release);
                    claim_due_then(&hub, hub.now(), Box::new(answered));
                }
            }
            _ = retry.tick() => {
                hub.clock.tick();
                hub.retry_held();
            }
            _ = sys_tick.tick(), if sys_interval_s > 0 => sys.publish(&hub),
        }
    }
}

/// Does what is due at `now`.
pub(crate) fn claim_due(hub: &Arc<Hub>, now: UnixMs) {
    claim_due_then(hub, now, Box::new(|| ()));
}

/// The same, then `then`: when the store has handed out all that is due. Of a worker that leaves nothing is asked.
fn claim_due_then(hub: &Arc<Hub>, now: UnixMs, then: Box<dyn FnOnce() + Send>) {
    if hub.due.is_closed() {
        return then();
    }
    let at_hand = hub.due.token();
    let answered = Arc::clone(hub);
    hub.store.claim_due(
        now,
        DUE_MAX,
        Box::new(move |result| match result {
            Ok(due) => {
                let full = due.len() >= DUE_MAX;
                due.into_iter().for_each(|due| fire(&answered, due));
                drop(at_hand);
                if full { claim_due_then(&answered, now, then) } else { then() }
            }
            Err(error) => {
                tracing::warn!(%error, "due timers could not be read");
                then();
            }
        }),
    );
}

fn fire(hub: &Arc<Hub>, due: Due) {
    match due {
        Due::Will(will) => hub.publish_due_will(will, None),
        Due::Left(left) => hub.publish_left(left),
        Due::Expired(session) => {
            hub.metrics.sessions_expired.inc();
            hub.directory.drop_stored(&session);
        }
    }
}
