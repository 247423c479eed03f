//! What is done before the store serves: find the nodes, load the library, check the format and the settings of Redis.

use std::collections::HashMap;
use std::sync::Arc;

use redis::Value;

use super::config::{ConnectError, RedisConfig};
use super::fault::Fault;
use super::keys::Keys;
use super::node::{Kept, Node};
use super::op::pairs;
use super::router::{Router, refused};

/// The format that this version reads and writes.
const FORMAT: &str = "1";

/// A setting, what it must be, and whether it may be absent (a single server has no cluster).
struct Needed {
    setting: &'static str,
    value: &'static str,
    /// What is stored would be thrown away.
    is_vital: bool,
}

const NEEDED: [Needed; 3] = [
    Needed { setting: "maxmemory-policy", value: "noeviction", is_vital: true },
    Needed { setting: "appendonly", value: "yes", is_vital: false },
    Needed { setting: "cluster-require-full-coverage", value: "no", is_vital: false },
];

/// Everything before recovery.
pub(super) async fn prepare(router: &Router, keys: &Keys, config: &RedisConfig) -> Result<(), ConnectError> {
    router.topology.refresh().await.map_err(explain)?;
    for node in router.topology.masters() {
        router.load_library(&node).await.map_err(explain)?;
        check(config, &node).await?;
    }
    check_format(router, keys).await
}

fn explain(fault: Fault) -> ConnectError {
    match fault {
        fault @ Fault::Refused { .. } if fault.is_passing() => {
            ConnectError::Unreachable { detail: fault.to_string() }
        }
        Fault::Refused { node, detail } => ConnectError::Refused { detail: format!("{node}: {detail}") },
        other => ConnectError::Unreachable { detail: other.to_string() },
    }
}

/// What a node says while it is full, or on its way up or down.
const PASSING: [&str; 8] =
    ["OOM", "LOADING", "CLUSTERDOWN", "MASTERDOWN", "READONLY", "TRYAGAIN", "BUSY", "MISCONF"];

impl Fault {
    /// Whether a refusal is of the moment.
    fn is_passing(&self) -> bool {
        let Self::Refused { detail, .. } = self else { return true };
        detail.split_whitespace().next().is_some_and(|code| PASSING.contains(&code))
    }
}

async fn check_format(router: &Router, keys: &Keys) -> Result<(), ConnectError> {
    let (key, slot) = keys.format();
    let mut command = redis::cmd("SET");
    command.arg(key).arg(FORMAT).arg("NX").arg("GET");
    match router.call(slot, Arc::new(command), Kept::No, false).await.map_err(explain)? {
        Value::Nil => Ok(()),
        Value::BulkString(found) if found == FORMAT.as_bytes() => Ok(()),
        Value::BulkString(found) => {
            Err(ConnectError::UnknownFormat { found: String::from_utf8_lossy(&found).into_owned() })
        }
        _ => Err(explain(Fault::Form)),
    }
}

async fn check(config: &RedisConfig, node: &Node) -> Result<(), ConnectError> {
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg("maxmemory").arg("cluster-enabled");
    for needed in &NEEDED {
        command.arg(needed.setting);
    }
    let answer = match node.send(Arc::new(command), false, Kept::No).await.map_err(explain)? {
        Value::ServerError(error) => {
            let reason = refused(node, &error);
            tracing::warn!(node = %node.address, %reason, "cannot check the settings of redis");
            return Ok(());
        }
        answer => answer,
    };
    let found: HashMap<String, String> = pairs(answer)
        .map_err(ConnectError::Recovery)?
        .into_iter()
        .map(|(name, value)| (text(&name), text(&value)))
        .collect();
    let is_cluster = found.get("cluster-enabled").is_some_and(|is| is == "yes");
    let has_bound = found.get("maxmemory").is_some_and(|bytes| bytes != "0");
    for Needed { setting, value, is_vital } in NEEDED {
        if setting.starts_with("cluster-") && !is_cluster {
            continue;
        }
        let Some(is) = found.get(setting).filter(|is| *is != value) else { continue };
        // Without a bound of memory nothing is ever evicted.
        if config.strict_settings || (is_vital && has_bound) {
            let (node, found) = (node.address.to_string(), is.clone());
            return Err(ConnectError::Setting { node, setting, found, needed: value });
        }
        tracing::warn!(node = %node.address, setting, found = %is, needed = value, "redis is not set as this store needs it");
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
