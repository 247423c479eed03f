//! The edge's configuration: typed, bounded, every key documented with its unit, default and bounds. [`EdgeConfig::validate`]
//! names the key that is wrong; nothing is bound before it agrees.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use link::Bind;
use serde::{Deserialize, Serialize};

use crate::proxy::Prefix;
use crate::tls::TlsConfig;

/// A Server Reference is no longer than this.
const SERVER_REFERENCE_BYTES_MAX: usize = 1_024;

/// What a core does of the dearest handshakes that there are, RSA-4096, with some room.
const DRAIN_PER_THREAD_S: usize = 250;

/// The `[edge]` section.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    /// Listeners by name; the name is a metric label and is told to authentication. Default: none. At most 64.
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// TLS for `mqtts` and `wss` listeners without a `tls` of their own. Default: none.
    pub tls: Option<TlsConfig>,
    /// How long a connection may take until its CONNECT packet is complete, TLS and WebSocket handshakes included;
    /// milliseconds. Default 10,000; 100 to 300,000.
    pub connect_timeout_ms: u64,
    /// How long a connection may be silent before its first byte; milliseconds. Default 5,000; 100 to 300,000.
    pub first_byte_timeout_ms: u64,
    /// How long a connection may wait until a core does its TLS handshake, from accept, and again until its session is asked for,
    /// from when the client is authenticated; milliseconds. Clients that come again after some seconds have then gone, and
    /// others are told early to come again. Default 4,000; 100 to 300,000.
    pub admission_wait_ms: u64,
    /// How long authentication may take after CONNECT, the client's answers included; milliseconds. Default 10,000; 100 to
    /// 300,000.
    pub authenticate_timeout_ms: u64,
    /// How long the worker may take to open the session after that, before the device is refused with "server
    /// unavailable"; milliseconds. Default 10,000; 100 to 300,000.
    pub open_timeout_ms: u32,
    /// Passports that are renewed at once; others wait for their turn. Default 256; 1 to 65,536.
    pub renewals_max: usize,
    /// How long a device may stay after its passport has ended while authentication is not available to renew it;
    /// milliseconds. Default 60,000; at most 86,400,000.
    pub passport_grace_ms: u64,
    /// The largest CONNECT packet, bytes. Default 262,144: a Will Message of the longest payload and topic (65,535 bytes each)
    /// with as much again for the rest; 256 to 1,048,576.
    pub connect_bytes_max: u32,
    /// The largest packet from a device, bytes; also what the worker announces as Maximum Packet Size. Default 1,179,648: a
    /// payload of 1 MiB and 128 KiB for what is in front of it; 1,024 to 268,435,460.
    pub packet_bytes_max: u32,
    /// The longest Client Identifier, bytes. Default 1,024; 23 to 65,535.
    pub client_id_bytes_max: u16,
    /// Connected devices and handshakes together. Default 1,000,000; at least 1.
    pub connections_max: usize,
    /// Handshakes under way, from accept until the session is opened. For one more, the one that has gone longest without
    /// progress is given up, of the source that has most. Default 32,768; at least 1.
    pub handshakes_max: usize,
    /// Handshakes under way of one source (an IPv4 address, an IPv6 /64); for one more, its oldest is given up. Default 16,384;
    /// at least 1.
    pub source_handshakes_max: usize,
    /// Threads for handshakes. Default 0: one per core. At most 256.
    pub handshake_threads: usize,
    /// By how much the scheduler favours connected devices over handshakes: the niceness of handshake threads. Default 10; 0
    /// to 19.
    pub handshake_niceness: u8,
    /// The Server Keep Alive imposed on MQTT 5 clients that ask for none or for more, seconds. Default 0: none.
    pub keep_alive_max_s: u16,
    /// The bound on answers that wait for a device that does not read; beyond it its packets are not read either; bytes
    /// per connection. Default 1,048,576; 4,096 to 1,073,741,824.
    pub outgoing_bytes_max: usize,
    /// Bytes of incomplete packets, of all connections together, CONNECT included. The connection that goes past it is closed
    /// with 0x97.
    /// Default 268,435,456; at least `packet_bytes_max`.
    pub receive_buffer_bytes_max: usize,
    /// How long a device may leave bytes unread while some wait for it, seconds. Default 30; 1 to 3,600.
    pub write_timeout_s: u16,
    /// After how long a silent connection is probed by TCP, seconds: finds devices without Keep Alive that have gone without
    /// a word. Default 600; 0 for never.
    pub tcp_keep_alive_s: u16,
    /// How long a closing connection may take to send its last bytes and to see the peer close, milliseconds. Default
    /// 2,000; 10 to 60,000.
    pub linger_ms: u64,
    /// Log lines in a second about connections that were refused, or ended other than by the device's wish; 0 for none. Default
    /// 20; at most 1,000,000.
    pub log_lines_per_s: u32,
    /// Connections that are closed in a second when the edge ends in good order, so that they do not come to others all at
    /// once; more when the time for that would not do. Default 250 for each thread for handshakes, which an edge like this one
    /// can let in whatever its certificates are; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_per_s: Option<usize>,
    /// Where MQTT 5 devices go when the edge ends in good order: the Server Reference of DISCONNECT 0x9C. Default: none, and
    /// 0x8B. 1 to 1,024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_server_reference: Option<String>,
    /// They are to stay there: 0x9D in place of 0x9C. Default false.
    pub drain_server_moved: bool,
    /// Whoever connects until all have gone is told the same by CONNACK; MQTT 3 gets return code 3. Needs a
    /// `drain_server_reference`. Default true.
    pub drain_answers_connects: bool,
    /// Connections per second from one source (an IPv4 address, an IPv6 /64). Loopback is exempt. Default 1,000; 0 for
    /// no limit.
    pub source_connections_per_s: u32,
    /// How many connections one source may open at once before the rate holds. Default 10,000; at least 1.
    pub source_connections_burst: u32,
    /// Connections that one source (an IPv4 address, an IPv6 /64) may have at a time. Loopback is exempt. Default 0: no limit
    /// but `connections_max`.
    pub source_connections_max: usize,
    /// How often connections of one Client Identifier take each other over at this edge, once they have done so
    /// `takeover_burst` times at once; milliseconds from one to the next. Who comes sooner waits, and is not refused. Default
    /// 1,000; 0 for no limit; at most 60,000.
    pub takeover_interval_ms: u64,
    /// Takeovers of one Client Identifier that do not have to wait. Default 5; 1 to 1,000.
    pub takeover_burst: u32,
    /// Sources whose rate is kept apart; further ones share 4,096 rates by hash. Default 100,000; 16 to 10,000,000.
    pub sources_max: usize,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            listeners: BTreeMap::new(),
            tls: None,
            connect_timeout_ms: 10_000,
            first_byte_timeout_ms: 5_000,
            admission_wait_ms: 4_000,
            authenticate_timeout_ms: 10_000,
            open_timeout_ms: 10_000,
            renewals_max: 256,
            passport_grace_ms: 60_000,
            connect_bytes_max: 262_144,
            packet_bytes_max: 1_179_648,
            client_id_bytes_max: 1_024,
            connections_max: 1_000_000,
            handshakes_max: 32_768,
            source_handshakes_max: 16_384,
            handshake_threads: 0,
            handshake_niceness: 10,
            keep_alive_max_s: 0,
            outgoing_bytes_max: 1_048_576,
            receive_buffer_bytes_max: 268_435_456,
            write_timeout_s: 30,
            tcp_keep_alive_s: 600,
            linger_ms: 2_000,
            log_lines_per_s: 20,
            drain_per_s: None,
            drain_server_reference: None,
            drain_server_moved: false,
            drain_answers_connects: true,
            source_connections_per_s: 1_000,
            source_connections_burst: 10_000,
            source_connections_max: 0,
            takeover_interval_ms: 1_000,
            takeover_burst: 5,
            sources_max: 100_000,
        }
    }
}

/// One listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address or name, and port; a name is listened on at all its addresses, port 0 picks a free one.
    pub bind: Bind,
    /// What is spoken there.
    pub kind: ListenerKind,
    /// The path of the WebSocket, for `ws` and `wss`. Default `/mqtt`; starts with `/`.
    #[serde(default = "default_path")]
    pub path: String,
    /// Origins (`https://example.com`) that browsers may connect from, for `ws` and `wss`; `loopback` stands for pages
    /// served by this machine. Default: none, which is any.
    #[serde(default)]
    pub origins: Vec<String>,
    /// TLS for `mqtts` and `wss`. Default: `edge.tls`.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Whether load balancers in front send the PROXY protocol. Default `off`.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// From whom the PROXY protocol is believed: addresses or prefixes such as `10.0.0.0/8`. Connections from elsewhere
    /// are served as if it were off. Needed with `proxy_protocol`. Default: none.
    #[serde(default)]
    pub trusted: Vec<Prefix>,
    /// `SO_REUSEPORT`, so that another process can bind the same port. Default false.
    #[serde(default)]
    pub reuse_port: bool,
    /// Connections per second that are let in; others are closed at once, and a second's worth may come together. Default 0: no
    /// limit.
    #[serde(default)]
    pub connections_per_s: u32,
    /// Connections that wait in the kernel to be accepted. Default 4,096; 1 to 65,535.
    #[serde(default = "default_backlog")]
    pub backlog: u16,
}

impl ListenerConfig {
    /// A listener with every other key at its default.
    pub fn new(bind: impl Into<Bind>, kind: ListenerKind) -> Self {
        Self {
            bind: bind.into(),
            kind,
            path: default_path(),
            origins: Vec::new(),
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            trusted: Vec::new(),
            reuse_port: false,
            connections_per_s: 0,
            backlog: default_backlog(),
        }
    }
}

impl ListenerConfig {
    /// How often it lets one in, if there is a limit.
    pub(crate) fn rate(&self) -> Option<DefaultDirectRateLimiter> {
        NonZeroU32::new(self.connections_per_s).map(|rate| RateLimiter::direct(Quota::per_second(rate)))
    }

    /// Whether the PROXY protocol is required from this peer.
    pub(crate) fn is_trusted(&self, peer: IpAddr) -> bool {
        self.proxy_protocol == ProxyProtocol::V1v2 && self.trusted.iter().any(|prefix| prefix.contains(peer))
    }
}

fn default_path() -> String {
    "/mqtt".into()
}

fn default_backlog() -> u16 {
    4_096
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// MQTT over TCP.
    Mqtt,
    /// MQTT over TLS.
    Mqtts,
    /// MQTT over WebSocket.
    Ws,
    /// MQTT over WebSocket over TLS.
    Wss,
}

impl ListenerKind {
    /// Whether TLS is under it.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Whether WebSocket is under it.
    pub fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// Whether a listener takes the PROXY protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// No.
    #[default]
    Off,
    /// Versions 1 and 2, required from trusted peers.
    V1v2,
}

/// A key that is wrong, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("edge.{key}: {problem}")]
pub struct ConfigError {
    /// The key, with dots.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

impl EdgeConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        within("connect_timeout_ms", self.connect_timeout_ms, 100, 300_000)?;
        within("first_byte_timeout_ms", self.first_byte_timeout_ms, 100, 300_000)?;
        within("admission_wait_ms", self.admission_wait_ms, 100, 300_000)?;
        within("authenticate_timeout_ms", self.authenticate_timeout_ms, 100, 300_000)?;
        within("renewals_max", self.renewals_max as u64, 1, 65_536)?;
        within("passport_grace_ms", self.passport_grace_ms, 0, 86_400_000)?;
        within("open_timeout_ms", self.open_timeout_ms.into(), 100, 300_000)?;
        within("connect_bytes_max", self.connect_bytes_max.into(), 256, 1_048_576)?;
        within("packet_bytes_max", self.packet_bytes_max.into(), 1_024, 268_435_460)?;
        within("client_id_bytes_max", self.client_id_bytes_max.into(), 23, 65_535)?;
        within("connections_max", self.connections_max as u64, 1, u64::MAX)?;
        within("handshakes_max", self.handshakes_max as u64, 1, u64::MAX)?;
        within("source_handshakes_max", self.source_handshakes_max as u64, 1, u64::MAX)?;
        within("handshake_threads", self.handshake_threads as u64, 0, 256)?;
        within("handshake_niceness", self.handshake_niceness.into(), 0, 19)?;
        within("outgoing_bytes_max", self.outgoing_bytes_max as u64, 4_096, 1 << 30)?;
        within(
            "receive_buffer_bytes_max",
            self.receive_buffer_bytes_max as u64,
            self.packet_bytes_max.into(),
            u64::MAX,
        )?;
        within("write_timeout_s", self.write_timeout_s.into(), 1, 3_600)?;
        within("linger_ms", self.linger_ms, 10, 60_000)?;
        within("log_lines_per_s", self.log_lines_per_s.into(), 0, 1_000_000)?;
        within("source_connections_burst", self.source_connections_burst.into(), 1, u64::MAX)?;
        within("takeover_interval_ms", self.takeover_interval_ms, 0, 60_000)?;
        within("takeover_burst", self.takeover_burst.into(), 1, 1_000)?;
        within("sources_max", self.sources_max as u64, 16, 10_000_000)?;
        self.validate_drain()?;
        within("listeners", self.listeners.len() as u64, 0, 64)?;
        for (name, listener) in &self.listeners {
            listener.validate(name)?;
            if listener.kind.is_tls() && listener.tls.is_none() && self.tls.is_none() {
                return Err(ConfigError {
                    key: format!("listeners.{name}.tls"),
                    problem: "is needed, or edge.tls".into(),
                });
            }
        }
        Ok(())
    }

    // v5 section 4.13
    fn validate_drain(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| Err(ConfigError { key: key.into(), problem: problem.into() });
        match &self.drain_server_reference {
            Some(reference) if !(1..=SERVER_REFERENCE_BYTES_MAX).contains(&reference.len()) => {
                wrong("drain_server_reference", "has 1 to 1024 bytes")
            }
            Some(reference) if reference.chars().any(char::is_control) => {
                wrong("drain_server_reference", "is a name or an address, with or without a port")
            }
            None if self.drain_server_moved => {
                wrong("drain_server_moved", "needs drain_server_reference, which says where to")
            }
            _ => Ok(()),
        }
    }

    /// Connections that are closed in a second when the edge ends; 0 for no limit.
    pub(crate) fn drain_per_s(&self) -> usize {
        self.drain_per_s.unwrap_or_else(|| DRAIN_PER_THREAD_S * self.handshake_threads())
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(crate) fn first_byte_timeout(&self) -> Duration {
        Duration::from_millis(self.first_byte_timeout_ms)
    }

    pub(crate) fn admission_wait(&self) -> Duration {
        Duration::from_millis(self.admission_wait_ms)
    }

    pub(crate) fn takeover_interval(&self) -> Duration {
        Duration::from_millis(self.takeover_interval_ms)
    }

    /// Threads for handshakes, as many as there are.
    pub(crate) fn handshake_threads(&self) -> usize {
        match self.handshake_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    pub(crate) fn authenticate_timeout(&self) -> Duration {
        Duration::from_millis(self.authenticate_timeout_ms)
    }
}

impl ListenerConfig {
    fn validate(&self, name: &str) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| {
            Err(ConfigError { key: format!("listeners.{name}{key}"), problem: problem.into() })
        };
        if name.is_empty() || name.len() > 64 {
            return wrong("", "a name has 1 to 64 bytes");
        }
        if !self.path.starts_with('/') {
            return wrong(".path", "must start with /");
        }
        if self.proxy_protocol == ProxyProtocol::V1v2 && self.trusted.is_empty() {
            return wrong(".trusted", "must name at least one prefix when proxy_protocol is on");
        }
        within(&format!("listeners.{name}.backlog"), self.backlog.into(), 1, 65_535)
    }
}

fn within(key: &str, value: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    let problem = if max == u64::MAX {
        format!("{value} is below the least value {min}")
    } else {
        format!("{value} is outside of {min} to {max}")
    };
    Err(ConfigError { key: key.into(), problem })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn the_defaults_are_within_their_bounds() {
        EdgeConfig::default().validate().expect("valid");
    }

    #[test]
    fn an_error_names_its_key() {
        let config = EdgeConfig { linger_ms: 1, ..EdgeConfig::default() };
        let error = config.validate().expect_err("out of bounds");
        assert_eq!(error.to_string(), "edge.linger_ms: 1 is outside of 10 to 60000");

        let mut config = EdgeConfig::default();
        let mut listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Ws);
        listener.path = "mqtt".into();
        config.listeners.insert("browser".into(), listener);
        let error = config.validate().expect_err("a relative path");
        assert_eq!(error.to_string(), "edge.listeners.browser.path: must start with /");
    }

    #[test]
    fn where_devices_are_sent_must_be_said() {
        let moved = EdgeConfig { drain_server_moved: true, ..EdgeConfig::default() };
        assert_eq!(moved.validate().expect_err("nowhere").key, "drain_server_moved");
        for (reference, is_good) in
            [("b.example.com:8883", true), ("", false), ("a\nb", false), (&"x".repeat(1_025), false)]
        {
            let config = EdgeConfig { drain_server_reference: Some(reference.to_owned()), ..moved.clone() };
            assert_eq!(config.validate().is_ok(), is_good, "{reference:?}");
        }
    }

    #[test]
    fn proxy_protocol_without_trusted_peers_is_refused() {
        let mut config = EdgeConfig::default();
        let mut listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Mqtt);
        listener.proxy_protocol = ProxyProtocol::V1v2;
        config.listeners.insert("front".into(), listener);
        assert_eq!(config.validate().expect_err("nobody is trusted").key, "listeners.front.trusted");
    }
}
