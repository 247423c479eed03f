//! What becomes of a worker that is dead: its sessions wait for their devices, and what came for shares with members there goes
//! to the other members.

use std::sync::Arc;

use state::{Burial, LeftInInbox, Member, Placed, Position, StoreError};
use tokio::sync::mpsc;

use super::Cluster;
use super::ask::ask;
use super::inbox::Recipient;

/// Lets go of what a dead worker had. If the store cannot do it now, it is begun again by whoever next finds the worker silent.
pub(super) async fn bury(cluster: Arc<Cluster>, recipient: impl Recipient, dead: Member) {
    let worker = &*dead.name;
    tracing::warn!(worker, silent_ms = dead.silent_ms, "a worker is dead: its sessions are let go");
    match let_go(&cluster, &recipient, &dead).await {
        Ok(()) => {
            cluster.metrics.workers_buried.inc();
        }
        Err(error) => tracing::warn!(worker, %error, "a dead worker is not let go of yet"),
    }
}

async fn let_go(cluster: &Cluster, recipient: &impl Recipient, dead: &Member) -> Result<(), StoreError> {
    let mut burial = Burial {
        worker: dead.id,
        silent_ms: u64::from(cluster.settings.worker_timeout_ms),
        grace_ms: u64::from(cluster.settings.handoff_grace_ms),
        now: cluster.host.clock.now(),
        handed_on: Position::default(),
    };
    loop {
        let left = ask(|done| cluster.api.bury(burial, done)).await?;
        let Some(last) = left.last() else { return Ok(()) };
        burial.handed_on = last.position;
        hand_on(cluster, recipient, left).await;
    }
}

/// Offers messages for shares to other members, and returns when these have them.
async fn hand_on(cluster: &Cluster, recipient: &impl Recipient, left: Vec<Placed<LeftInInbox>>) {
    let (held, mut is_over) = mpsc::channel::<()>(1);
    for Placed { what: LeftInInbox { message, shares }, .. } in left {
        for share in shares {
            cluster.metrics.messages_handed_on.inc();
            let held = held.clone();
            recipient.share_anew(share, Arc::clone(&message), Box::new(move || drop(held)));
        }
    }
    drop(held);
    let _nobody_sends = is_over.recv().await;
}
