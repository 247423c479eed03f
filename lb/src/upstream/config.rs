//! The `[workers]` section: where workers are, how they are reached and watched, and what a move may take.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use link::{BindError, LinkTlsConfig, SettingError, split_host_port};
use serde::{Deserialize, Serialize};

/// Where its keys are.
const SECTION: &str = "workers";

link::settings! {
    /// The `[workers]` section.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct WorkersConfig {
        /// Where links of workers are listened for, `host:port`. Every address that a name stands for is a worker. Default:
        /// none.
        pub addresses: Vec<String> = Vec::new(), in ..=1_024;
        /// What this edge calls itself towards workers, for their logs.
        pub edge_name: String = "edge".to_owned(), in 1..=255;
        /// How often names are resolved again, milliseconds.
        pub resolve_interval_ms: u64 = 5_000, in 100..=3_600_000;
        /// Links to each worker.
        pub links_per_worker: usize = 2, in 1..=16;
        /// How long connecting may take, TLS and HELLO included, milliseconds.
        pub connect_timeout_ms: u64 = 2_000, in 100..=60_000;
        /// The longest wait before a link that failed is tried again, milliseconds; the first is an eighth of a second.
        pub backoff_max_ms: u64 = 2_000, in 125..=60_000;
        /// A worker that would have more than so many times the mean of this edge's streams is passed over.
        pub load_factor: f64 = 1.25, in 1.01..=100.0;
        /// Sessions that are being resumed at once.
        pub moves_inflight_max: usize = 256, in 1..=65_536;
        /// Sessions that are moved in a second, at most, from workers that have more than `load_factor` allows to others; 0 for
        /// none.
        pub rebalance_per_s: usize = 100, in ..=10_000;
        /// How long a device whose worker is gone waits for another, before it is told to connect anew, milliseconds. It stands
        /// still while the store is away.
        pub handoff_timeout_ms: u64 = 30_000, in 1_000..=3_600_000;
        /// How long one worker may take to answer a resume before another is asked, milliseconds.
        pub resume_timeout_ms: u64 = 5_000, in 100..=60_000;
        /// How workers are watched beyond their links.
        pub health: HealthConfig = HealthConfig::default();
        /// How sessions are vouched for.
        pub passport: PassportConfig = PassportConfig::default();
        /// Mutual TLS towards workers. Default: none, links are not encrypted.
        pub tls: Option<LinkTlsConfig> = None;
        /// The largest Control Packet, bytes: that of the edge.
        #[serde(skip)]
        pub packet_bytes_max: u32 = 1_179_648;
        /// Streams that one link opens in its life, before there has to be another: all that can be told apart.
        #[serde(skip)]
        pub streams_per_link_max: u32 = u32::MAX;
    }
}

link::settings! {
    /// `[workers.health]`
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct HealthConfig {
        /// The port of the workers' admin endpoint, whose `/readyz` is asked. Default: none, only links tell.
        pub admin_port: Option<u16> = None;
        /// How often, milliseconds.
        pub interval_ms: u64 = 1_000, in 100..=600_000;
        /// How long an answer may take, milliseconds.
        pub timeout_ms: u64 = 1_000, in 50..=60_000;
        /// Failures in a row after which no more sessions are opened there.
        pub failures_max: u32 = 2, in 1..=100;
    }
}

/// `[workers.passport]`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PassportConfig {
    /// PEM file of the private key (PKCS #8; Ed25519 or P-256) that passports are signed with. Workers have the public one.
    /// Needed with `addresses`, unless a service of authentication signs them.
    pub signing_key_file: Option<PathBuf>,
    /// Passports are signed where they are made, elsewhere.
    #[serde(skip)]
    pub comes_signed: bool,
}

/// Where one entry of `addresses` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    pub(super) port: u16,
    /// `None` when it is a name.
    pub(super) address: Option<SocketAddr>,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, BindError> {
        let (bare, port) = split_host_port(text)?;
        if port == 0 {
            return Err(BindError::NoPort(bare.to_owned()));
        }
        let address = bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port));
        // Names of certificates are asked for as they are written, with the brackets of an IPv6 address.
        let host = text.rsplit_once(':').map_or(bare, |(host, _)| host);
        Ok(Self { host: host.to_owned(), port, address })
    }
}

impl WorkersConfig {
    /// Checks every bound. Files are read by [`super::Workers::start`].
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_bounds(SECTION)?;
        self.health.check_bounds("workers.health")?;
        for text in &self.addresses {
            if let Err(error) = Endpoint::parse(text) {
                return wrong("addresses", format!("{text:?}: {error}"));
            }
        }
        let needs_key = !self.passport.comes_signed && !self.addresses.is_empty();
        if needs_key && self.passport.signing_key_file.is_none() {
            return wrong("passport.signing_key_file", "is needed");
        }
        Ok(())
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn handoff_timeout(&self) -> Duration {
        Duration::from_millis(self.handoff_timeout_ms)
    }

    pub(super) fn resume_timeout(&self) -> Duration {
        Duration::from_millis(self.resume_timeout_ms)
    }
}

fn wrong(key: &str, problem: impl Into<String>) -> Result<(), SettingError> {
    Err(SettingError::new(SECTION, key, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        WorkersConfig::default().validate().expect("valid");
    }

    #[test]
    fn an_endpoint_is_a_name_or_an_address_with_a_port() {
        let parse = |text| {
            Endpoint::parse(text)
                .ok()
                .map(|endpoint| (endpoint.host, endpoint.port, endpoint.address.is_some()))
        };
        assert_eq!(parse("broker:7883"), Some(("broker".to_owned(), 7883, false)));
        assert_eq!(parse("10.0.0.1:7883"), Some(("10.0.0.1".to_owned(), 7883, true)));
        assert_eq!(parse("[::1]:7883"), Some(("[::1]".to_owned(), 7883, true)));
        for wrong in ["broker", ":7883", "broker:0", "broker:x", "::1:7883", "[broker]:7883", "broker:70000"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_an_address_lacks_is_said() {
        let config = WorkersConfig { addresses: vec!["broker".to_owned()], ..WorkersConfig::default() };
        let error = config.validate().expect_err("no port");
        let expected = "workers.addresses: \"broker\": the port is missing; write broker:PORT";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_error_names_its_key() {
        let config = WorkersConfig { addresses: vec!["broker:7883".to_owned()], ..WorkersConfig::default() };
        let error = config.validate().expect_err("no key");
        assert_eq!(error.to_string(), "workers.passport.signing_key_file: is needed");
        let config = WorkersConfig { load_factor: 1.0, ..WorkersConfig::default() };
        let error = config.validate().expect_err("out of bounds");
        assert_eq!(error.to_string(), "workers.load_factor = 1: must be 1.01 to 100");
    }
}
