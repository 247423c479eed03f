//! The edge's configuration: typed, bounded, every key documented with its unit, default and bounds. [`EdgeConfig::validate`]
//! names the key that is wrong; nothing is bound before it agrees.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::http::uri::{Authority, PathAndQuery};
use link::{Bind, SettingError, settings};
use serde::{Deserialize, Serialize};

use crate::proxy::Prefix;
use crate::tls::TlsConfig;

/// Where its keys are; those of listeners are in `[listeners.NAME]`.
const SECTION: &str = "edge";

/// What a core does of the dearest handshakes that there are, RSA-4096, with some room.
const DRAIN_PER_THREAD_S: usize = 250;

link::settings! {
    /// The `[edge]` section.
    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct EdgeConfig {
        /// Listeners by name; the name is a metric label and is told to authentication. Default: none.
        pub listeners: BTreeMap<String, ListenerConfig> = BTreeMap::new(), in ..=64;
        /// TLS for `mqtts` and `wss` listeners without a `tls` of their own. Default: none.
        pub tls: Option<TlsConfig> = None;
        /// How long a connection may take until its CONNECT packet is complete, TLS and WebSocket handshakes included;
        /// milliseconds.
        pub connect_timeout_ms: u64 = 10_000, in 100..=300_000;
        /// How long a connection may be silent before its first byte; milliseconds.
        pub first_byte_timeout_ms: u64 = 5_000, in 100..=300_000;
        /// How long a connection may wait until a core does its TLS handshake, from accept, and again until its session is
        /// asked for, from when the client is authenticated; milliseconds. Clients that come again after some seconds have then
        /// gone, and others are told early to come again.
        pub admission_wait_ms: u64 = 4_000, in 100..=300_000;
        /// How long authentication may take after CONNECT, the client's answers included; milliseconds.
        pub authenticate_timeout_ms: u64 = 10_000, in 100..=300_000;
        /// How long the worker may take to open the session after that, before the device is refused with "server unavailable";
        /// milliseconds.
        pub open_timeout_ms: u32 = 10_000, in 100..=300_000;
        /// Passports that are renewed at once; others wait for their turn.
        pub renewals_max: usize = 256, in 1..=65_536;
        /// How long a device may stay after its passport has ended while authentication is not available to renew it;
        /// milliseconds.
        pub passport_grace_ms: u64 = 60_000, in ..=86_400_000;
        /// The largest CONNECT packet, bytes. The default is for a Will Message of the longest payload and topic (65,535
        /// bytes each) with as much again for the rest.
        pub connect_bytes_max: u32 = 262_144, in 256..=1_048_576;
        /// The largest packet from a device, bytes; also what the worker announces as Maximum Packet Size. The default is for a
        /// payload of 1 MiB and 128 KiB for what is in front of it.
        pub packet_bytes_max: u32 = 1_179_648, in 1_024..=268_435_460;
        /// The longest Client Identifier, bytes.
        pub client_id_bytes_max: u16 = 1_024, in 23..=65_535;
        /// Connected devices and handshakes together.
        pub connections_max: usize = 1_000_000, in 1..;
        /// Handshakes under way, from accept until the session is opened. For one more, the one that has gone longest without
        /// progress is given up, of the source that has most.
        pub handshakes_max: usize = 32_768, in 1..;
        /// Handshakes under way of one source (an IPv4 address, an IPv6 /64); for one more, its oldest is given up.
        pub source_handshakes_max: usize = 16_384, in 1..;
        /// Threads for handshakes; 0: one per core.
        pub handshake_threads: usize = 0, in ..=256;
        /// By how much the scheduler favours connected devices over handshakes: the niceness of handshake threads.
        pub handshake_niceness: u8 = 10, in ..=19;
        /// The Server Keep Alive imposed on MQTT 5 clients that ask for none or for more, seconds; 0: none.
        pub keep_alive_max_s: u16 = 0;
        /// The bound on answers that wait for a device that does not read; beyond it its packets are not read either; bytes per
        /// connection.
        pub outgoing_bytes_max: usize = 1_048_576, in 4_096..=1_073_741_824;
        /// Bytes of incomplete packets, of all connections together. Beyond it those that hold most are closed with 0x97. What
        /// comes before authentication has an eighth of it, or `connect_bytes_max` if that is more. At least `packet_bytes_max`.
        pub receive_buffer_bytes_max: usize = 268_435_456;
        /// How long a device may leave bytes unread while some wait for it, seconds.
        pub write_timeout_s: u16 = 30, in 1..=3_600;
        /// After how long a silent connection is probed by TCP, seconds: finds devices without Keep Alive that have gone
        /// without a word; 0 for never.
        pub tcp_keep_alive_s: u16 = 600;
        /// How long a closing connection may take to send its last bytes and to see the peer close, milliseconds.
        pub linger_ms: u64 = 2_000, in 10..=60_000;
        /// Log lines in a second about connections that were refused, or ended other than by the device's wish; 0 for none.
        pub log_lines_per_s: u32 = 20, in ..=1_000_000;
        /// Connections that are closed in a second when the edge ends in good order, so that they do not come to others all at
        /// once; more when the time for that would not do. Default 250 for each thread for handshakes, which an edge like this
        /// one can let in whatever its certificates are; 0 for no limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub drain_per_s: Option<usize> = None;
        /// Where MQTT 5 devices go when the edge ends in good order: the Server Reference of DISCONNECT 0x9C. Default: none,
        /// and 0x8B.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub drain_server_reference: Option<String> = None, in 1..=1_024;
        /// They are to stay there: 0x9D in place of 0x9C.
        pub drain_server_moved: bool = false;
        /// Whoever connects until all have gone is told the same by CONNACK; MQTT 3 gets return code 3. Needs a
        /// `drain_server_reference`.
        pub drain_answers_connects: bool = true;
        /// Connections per second from one source (an IPv4 address, an IPv6 /64). Loopback is exempt; 0 for no limit.
        pub source_connections_per_s: u32 = 1_000;
        /// How many connections one source may open at once before the rate holds.
        pub source_connections_burst: u32 = 10_000, in 1..;
        /// Connections that one source (an IPv4 address, an IPv6 /64) may have at a time. Loopback is exempt; 0: no limit
        /// but `connections_max`.
        pub source_connections_max: usize = 0;
        /// How often connections of one Client Identifier take each other over at this edge, once they have done so
        /// `takeover_burst` times at once; milliseconds from one to the next. Who comes sooner waits, and is not refused.
        /// 0 for no limit.
        pub takeover_interval_ms: u64 = 1_000, in ..=60_000;
        /// Takeovers of one Client Identifier that do not have to wait.
        pub takeover_burst: u32 = 5, in 1..=1_000;
        /// Sources whose rate is kept apart; further ones share 4,096 rates by hash.
        pub sources_max: usize = 100_000, in 16..=10_000_000;
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
    /// The path of the WebSocket, for `ws` and `wss`. Default `/mqtt`; starts with `/` and has no query.
    #[serde(default = "default_path")]
    pub path: String,
    /// Origins (`https://example.com`), as browsers write them, that browsers may connect from, for `ws` and `wss`; `loopback`
    /// stands for pages served by this machine. Default: none, which is any.
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

impl EdgeConfig {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first key that is out of bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.check_bounds(SECTION)?;
        if (self.receive_buffer_bytes_max as u64) < self.packet_bytes_max.into() {
            let problem = "must be at least edge.packet_bytes_max";
            return Err(SettingError::new(SECTION, "receive_buffer_bytes_max", problem));
        }
        self.validate_drain()?;
        for (n, (name, listener)) in self.listeners.iter().enumerate() {
            listener.validate(name)?;
            if let Some((other, _)) =
                self.listeners.iter().take(n).find(|(_, other)| listener.is_in_way_of(other))
            {
                let problem = format!("is the address of listeners.{other} too");
                return Err(SettingError::new(&format!("listeners.{name}"), "bind", &problem));
            }
            if listener.kind.is_tls() && listener.tls.is_none() && self.tls.is_none() {
                let section = format!("listeners.{name}");
                return Err(SettingError::new(&section, "tls", "is needed, or edge.tls"));
            }
        }
        Ok(())
    }

    // v5 section 4.13
    fn validate_drain(&self) -> Result<(), SettingError> {
        let wrong = |key: &str, problem: &str| Err(SettingError::new(SECTION, key, problem));
        match &self.drain_server_reference {
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

/// What is said of an origin that no browser sends.
const ORIGINS_RULE: &str = "must be \"loopback\", \"null\" or origins as browsers write them: scheme and host in lower case, a port \
                            only where it is not the scheme's own, and nothing behind it, such as https://example.com";

/// Whether a request can have this path.
fn is_path(text: &str) -> bool {
    text.parse::<PathAndQuery>().is_ok_and(|parsed| parsed.as_str() == text && parsed.query().is_none())
}

/// Whether the header `Origin` can be this, or it stands for some. RFC 6454 section 6.2.
fn is_origin(text: &str) -> bool {
    if matches!(text, "loopback" | "null") {
        return true;
    }
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_lowercase())
        && scheme.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'));
    let is_own_port = match scheme {
        "http" | "ws" => host.ends_with(":80"),
        "https" | "wss" => host.ends_with(":443"),
        _ => false,
    };
    // User names are left out by browsers, and names that are not ASCII are written in it.
    let is_authority = host.parse::<Authority>().is_ok_and(|parsed| parsed.as_str() == host)
        && host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@' && !byte.is_ascii_uppercase());
    is_scheme && is_authority && !is_own_port
}

impl ListenerConfig {
    /// Whether both cannot be listened on: an address is shared, and it is not meant to be.
    fn is_in_way_of(&self, other: &Self) -> bool {
        let is_meant = self.reuse_port && other.reuse_port && self.kind == other.kind;
        let mut own = self.bind.addresses().iter().filter(|address| address.port() != 0);
        !is_meant && own.any(|address| other.bind.addresses().contains(address))
    }

    fn validate(&self, name: &str) -> Result<(), SettingError> {
        if name.is_empty() || name.len() > 64 {
            return Err(SettingError::new("listeners", name, "a name has 1 to 64 bytes"));
        }
        let section = format!("listeners.{name}");
        let wrong = |key, problem| Err(SettingError::new(&section, key, problem));
        if !self.path.starts_with('/') {
            return wrong("path", "must start with /");
        }
        if !is_path(&self.path) {
            return wrong("path", "must be a path as requests have it, without blanks, ? and #");
        }
        if !self.kind.is_websocket() {
            if self.path != default_path() {
                return wrong("path", "is for ws and wss only");
            }
            if !self.origins.is_empty() {
                return wrong("origins", "is for ws and wss only");
            }
        }
        if !self.origins.iter().all(|origin| is_origin(origin)) {
            return wrong("origins", ORIGINS_RULE);
        }
        if self.proxy_protocol == ProxyProtocol::V1v2 && self.trusted.is_empty() {
            return wrong("trusted", "must name at least one prefix when proxy_protocol is on");
        }
        settings::check(&section, "backlog", &self.backlog, 1..=65_535)
    }
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
        assert_eq!(error.to_string(), "edge.linger_ms = 1: must be 10 to 60000");

        let mut config = EdgeConfig::default();
        let mut listener = ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), ListenerKind::Ws);
        listener.path = "mqtt".into();
        config.listeners.insert("browser".into(), listener);
        let error = config.validate().expect_err("a relative path");
        assert_eq!(error.to_string(), "listeners.browser.path: must start with /");
    }

    #[test]
    fn what_no_request_can_have_is_refused() {
        let listener = |kind| ListenerConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)), kind);
        let path = |path: &str| ListenerConfig { path: path.into(), ..listener(ListenerKind::Wss) };
        for (text, is_good) in [
            ("/mqtt", true),
            ("/", true),
            ("/a%20b/~c", true),
            ("/a b", false),
            ("/a?b", false),
            ("/a?", false),
            ("/a#b", false),
        ] {
            assert_eq!(path(text).validate("x").is_ok(), is_good, "{text}");
        }
        for (text, is_good) in [
            ("loopback", true),
            ("null", true),
            ("https://example.com", true),
            ("http://[::1]:8080", true),
            ("capacitor://localhost", true),
            ("example.com", false),
            ("*", false),
            ("https://", false),
            ("https://example.com/", false),
            ("https://example.com:443", false),
            ("https://Example.com", false),
            ("HTTPS://example.com", false),
            ("https://me@example.com", false),
            ("https://example.com?x", false),
        ] {
            let origins = vec!["https://a.example".to_owned(), text.to_owned()];
            let listener = ListenerConfig { origins, ..listener(ListenerKind::Ws) };
            assert_eq!(listener.validate("x").is_ok(), is_good, "{text}");
        }
        let mqtt = ListenerConfig { path: "/x".into(), ..listener(ListenerKind::Mqtt) };
        assert_eq!(mqtt.validate("x").expect_err("no path").key, "listeners.x.path");
        let mqtts = ListenerConfig { origins: vec!["loopback".into()], ..listener(ListenerKind::Mqtts) };
        assert_eq!(mqtts.validate("x").expect_err("no origins").key, "listeners.x.origins");
    }

    #[test]
    fn two_listeners_have_two_addresses() {
        let at = |port: u16, kind, reuse_port| {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            ListenerConfig { reuse_port, ..ListenerConfig::new(address, kind) }
        };
        let check = |a: ListenerConfig, b: ListenerConfig| {
            let listeners = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
            EdgeConfig { listeners, ..EdgeConfig::default() }.validate().map_err(|error| error.to_string())
        };
        let (mqtt, ws) = (ListenerKind::Mqtt, ListenerKind::Ws);
        let twice = Err("listeners.b.bind: is the address of listeners.a too".to_owned());
        assert_eq!(check(at(1883, mqtt, false), at(1883, ws, false)), twice);
        assert_eq!(check(at(1883, mqtt, true), at(1883, ws, true)), twice);
        assert_eq!(check(at(1883, mqtt, true), at(1883, mqtt, false)), twice);
        assert_eq!(check(at(1883, mqtt, true), at(1883, mqtt, true)), Ok(()));
        assert_eq!(check(at(1883, mqtt, false), at(1884, ws, false)), Ok(()));
        assert_eq!(check(at(0, mqtt, false), at(0, mqtt, false)), Ok(()));
    }

    #[test]
    fn where_devices_are_sent_must_be_said() {
        let moved = EdgeConfig { drain_server_moved: true, ..EdgeConfig::default() };
        assert_eq!(moved.validate().expect_err("nowhere").key, "edge.drain_server_moved");
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
