//! How far replicas are behind their masters, as the masters say. Asked now and then, for whoever watches; nothing here depends
//! on it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;

use super::node::{Kept, Node};
use super::topology::Topology;

/// How often masters are asked.
pub(super) const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// What a master of the store says of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaLag {
    /// Where the master is.
    pub node: String,
    /// Replicas that follow it.
    pub replicas: u64,
    /// Bytes of its writes that the last of them does not have yet; 0 without replicas.
    pub lag_bytes: u64,
}

/// What was heard last.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    heard: Mutex<Vec<ReplicaLag>>,
}

impl Replicas {
    /// What each master said that answered when asked last.
    pub(super) fn heard(&self) -> Vec<ReplicaLag> {
        self.heard.lock().clone()
    }

    /// A master that does not answer holds up nothing else.
    pub(super) async fn ask_all(&self, topology: &Topology) {
        let mut heard = Vec::new();
        for master in topology.masters() {
            heard.extend(ask(&master).await);
        }
        *self.heard.lock() = heard;
    }
}

async fn ask(master: &Node) -> Option<ReplicaLag> {
    let mut command = redis::cmd("INFO");
    command.arg("replication");
    let answer = master.send(Arc::new(command), false, Kept::No).await.ok()?;
    let text = match answer {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok()?,
        Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    read(&text, master.address.to_string())
}

fn read(info: &str, node: String) -> Option<ReplicaLag> {
    let value = |key: &str| {
        let mut lines = info.lines().filter_map(|line| line.trim_end().split_once(':'));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let written: u64 = value("master_repl_offset")?.parse().ok()?;
    // slave0:ip=192.0.2.1,port=6379,state=online,offset=1234,lag=0
    let of_replica = |line: &str| {
        let (name, facts) = line.trim_end().split_once(':')?;
        let is_one = name.strip_prefix("slave").is_some_and(|number| number.parse::<u32>().is_ok());
        let fact = |key: &str| facts.split(',').find_map(|fact| fact.strip_prefix(key)?.strip_prefix('='));
        let is_online = fact("state") == Some("online");
        (is_one && is_online).then(|| fact("offset")?.parse::<u64>().ok()).flatten()
    };
    let offsets: Vec<u64> = info.lines().filter_map(of_replica).collect();
    let last = offsets.iter().min().copied().unwrap_or(written);
    Some(ReplicaLag { node, replicas: offsets.len() as u64, lag_bytes: written.saturating_sub(last) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replica_that_is_furthest_behind_counts() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:3\r\n\
                    slave0:ip=192.0.2.1,port=6379,state=online,offset=900,lag=0\r\n\
                    slave1:ip=192.0.2.2,port=6379,state=online,offset=750,lag=1\r\n\
                    slave2:ip=192.0.2.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_failover_state:no-failover\r\nmaster_repl_offset:1000\r\n";
        let lag = |replicas, lag_bytes| Some(ReplicaLag { node: "a:1".to_owned(), replicas, lag_bytes });
        assert_eq!(read(info, "a:1".to_owned()), lag(2, 250));
        assert_eq!(read("role:master\r\nmaster_repl_offset:7\r\n", "a:1".to_owned()), lag(0, 0));
        assert_eq!(read("# nothing\r\n", "a:1".to_owned()), None);
    }
}
