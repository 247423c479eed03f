//! Which run a worker that starts is to be. Its inbox lies in a slot that follows from the run, and where that slot takes no
//! writes (a master that stands still, is full, or has no replica left while copies are wanted) it could not join, though
//! everything else that it needs may be there.

use std::sync::Arc;

use super::engine::random;
use super::keys::{Bucket, Keys};
use super::node::{Address, Kept, Node};
use super::topology::Topology;
use crate::WorkerId;

/// Runs that are looked at. Of a cluster in which a third of the slots take no writes, all of so many lie there once in a thousand
/// million times.
const RUNS_MAX: usize = 20;

/// How long what is written to try a slot stays there, milliseconds.
const TRACE_MS: u64 = 1_000;

/// A run by chance, whose inbox is where a write counts at the moment, if one is found.
pub(super) async fn choose(topology: &Topology, keys: &Keys) -> WorkerId {
    let mut refusing: Vec<Address> = Vec::new();
    let mut run = random();
    for _ in 0..RUNS_MAX {
        let slot = Bucket::Inbox(run).slot();
        if let Some(node) = topology.owner(slot)
            && !refusing.contains(&node.address)
        {
            if takes_writes(&node, keys.of_inbox(run).trial()).await {
                break;
            }
            tracing::info!(node = %node.address, "it takes no writes: the inbox of this worker is to be elsewhere");
            refusing.push(node.address.clone());
        }
        run = random();
    }
    WorkerId(run)
}

async fn takes_writes(node: &Node, key: String) -> bool {
    let mut command = redis::cmd("SET");
    command.arg(key).arg("").arg("PX").arg(TRACE_MS);
    node.send(Arc::new(command), false, Kept::Yes).await.is_ok_and(|answer| answer == redis::Value::Okay)
}
