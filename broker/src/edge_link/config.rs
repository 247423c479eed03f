//! The configuration of the worker's end of links.

use std::net::SocketAddr;

use link::{Bind, LinkTlsConfig, SettingError};
use serde::{Deserialize, Serialize};

link::settings! {
    /// Where edges reach a worker, and the bounds of what they may ask of it.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct LinkConfig {
        /// Address or name, and port; a name is listened on at all its addresses, port 0 picks a free one. Default
        /// `127.0.0.1:7883`.
        pub listen: Bind = SocketAddr::from(([127, 0, 0, 1], 7883)).into();
        /// Mutual TLS; without it, whoever reaches the address can open links, and only passports tell who a device is.
        pub tls: Option<LinkTlsConfig> = None;
        /// The worker's name, which edges show in logs and metrics.
        pub name: String = "worker".into(), in 1..=255;
        /// Links at a time; more are closed at once.
        pub links_max: usize = 1024, in 1..;
        /// Devices at a time, all links together; more are refused as *overloaded*.
        pub streams_max: usize = 1_000_000, in 1..;
        /// How long a session stays as it is after its link was lost, so that its device can go on at another worker, in
        /// milliseconds; its Will and its expiry count from then.
        pub handoff_grace_ms: u64 = 60_000, in 1_000..=3_600_000;
        /// How long a passport that has expired is honoured for a device that is connected already, in milliseconds: edges
        /// renew passports, and cannot while the authentication service is away.
        pub passport_grace_ms: u64 = 60_000, in ..=86_400_000;
        /// Bytes that an edge may send on one stream before the session has taken any.
        pub window_bytes: u32 = link::mux::WINDOW_BYTES, in 1_024..=16_777_216;
    }
}

impl LinkConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of its bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_bounds("link")
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
        assert_eq!(config.validate().unwrap_err().key, "link.name");
    }
}
