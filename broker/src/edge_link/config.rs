//! The configuration of the worker's end of links.

use std::net::SocketAddr;

use link::{Bind, LinkTlsConfig};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where edges reach a worker, and the bounds of what they may ask of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// Address or name, and port; a name is listened on at all its addresses, port 0 picks a free one. Default
    /// `127.0.0.1:7883`.
    pub listen: Bind,
    /// Mutual TLS; without it, whoever reaches the address can open links, and only passports tell who a device is.
    pub tls: Option<LinkTlsConfig>,
    /// The worker's name, which edges show in logs and metrics. At most 255 bytes; default `worker`.
    pub name: String,
    /// Links at a time; more are closed at once. At least 1; default 1,024.
    pub links_max: usize,
    /// Devices at a time, all links together; more are refused as *overloaded*. At least 1; default 1,000,000.
    pub streams_max: usize,
    /// How long a session stays as it is after its link was lost, so that its device can go on at another worker, in
    /// milliseconds; its Will and its expiry count from then. 1,000 to 3,600,000; default 60,000.
    pub handoff_grace_ms: u64,
    /// How long a passport that has expired is honoured for a device that is connected already, in milliseconds: edges renew
    /// passports, and cannot while the authentication service is away. At most 86,400,000; default 60,000.
    pub passport_grace_ms: u64,
    /// Bytes that an edge may send on one stream before the session has taken any. 1,024 to 16,777,216; default 65,536.
    pub window_bytes: u32,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7883)).into(),
            tls: None,
            name: "worker".into(),
            links_max: 1024,
            streams_max: 1_000_000,
            handoff_grace_ms: 60_000,
            passport_grace_ms: 60_000,
            window_bytes: link::mux::WINDOW_BYTES,
        }
    }
}

/// A value that is out of its bounds.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("link.{key} = {value}: {expected}")]
pub struct LinkConfigError {
    /// The key under `link`.
    pub key: &'static str,
    /// What it was set to; of a text, its length in bytes.
    pub value: u64,
    /// What it may be.
    pub expected: &'static str,
}

impl LinkConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), LinkConfigError> {
        let bounds = [
            ("name", self.name.len() as u64, 1, 255, "must have 1 to 255 bytes"),
            ("links_max", self.links_max as u64, 1, u64::MAX, "must be at least 1"),
            ("streams_max", self.streams_max as u64, 1, u64::MAX, "must be at least 1"),
            ("handoff_grace_ms", self.handoff_grace_ms, 1000, 3_600_000, "must be 1000 to 3600000"),
            ("passport_grace_ms", self.passport_grace_ms, 0, 86_400_000, "must be at most 86400000"),
            ("window_bytes", self.window_bytes.into(), 1024, 1 << 24, "must be 1024 to 16777216"),
        ];
        for (key, value, min, max, expected) in bounds {
            if !(min..=max).contains(&value) {
                return Err(LinkConfigError { key, value, expected });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_bounds_are_named() {
        assert_eq!(LinkConfig::default().validate(), Ok(()));
        let config = LinkConfig { handoff_grace_ms: 999, ..LinkConfig::default() };
        let error = config.validate().unwrap_err().to_string();
        assert_eq!(error, "link.handoff_grace_ms = 999: must be 1000 to 3600000");
        let config = LinkConfig { name: String::new(), ..LinkConfig::default() };
        assert_eq!(config.validate().unwrap_err().key, "name");
    }
}
