//! What is printed once everything is up: how to connect, as commands that can be copied.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use authsvc::Anonymous;
use lb::tls::ClientCertificateMode;
use lb::{ListenerConfig, ListenerKind};

use crate::config::{Front, StandaloneConfig};
use crate::dev_certs;

/// The text. `addresses` are the bound ones by listener, and `admin`.
pub(crate) fn welcome(
    config: &StandaloneConfig,
    addresses: &BTreeMap<String, SocketAddr>,
    admin: SocketAddr,
) -> String {
    let mut text = format!("tidegate {} is ready. {}\n", env!("CARGO_PKG_VERSION"), who(&config.front));
    for (name, listener) in &config.front.listeners {
        let Some(address) = addresses.get(name) else { continue };
        let host = reachable(address.ip());
        let title = match listener.kind {
            ListenerKind::Mqtt => "MQTT",
            ListenerKind::Mqtts => "MQTT over TLS",
            ListenerKind::Ws => "MQTT over WebSocket",
            ListenerKind::Wss => "MQTT over WebSocket and TLS",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n  {title}, {}", all_of(name, addresses).join(", "));
        if listener.kind.is_websocket() {
            let scheme = if listener.kind.is_tls() { "wss" } else { "ws" };
            let host = SocketAddr::new(host, address.port());
            let _ = writeln!(text, "    {scheme}://{host}{}   (subprotocol mqtt)", listener.path);
        } else {
            let options = options(config, listener, SocketAddr::new(host, address.port()));
            let _ = writeln!(text, "    mosquitto_sub {options} -t 'hello/#' -v");
            let _ = writeln!(text, "    mosquitto_pub {options} -t hello/world -m 'hi'");
        }
    }
    let _ = writeln!(text, "\n  Health and metrics, http://{admin}/readyz and /metrics");
    if config.uses_development_certificate() {
        let ca = ca_file(config);
        let _ = writeln!(text, "  The TLS certificate is for development; clients trust it by {ca}");
    }
    text.push('\n');
    text
}

/// Where a listener listens; a name may stand for several addresses.
fn all_of(name: &str, addresses: &BTreeMap<String, SocketAddr>) -> Vec<String> {
    let nth = |n| addresses.get(&link::name_of_nth(name, n));
    (0..).map_while(nth).map(SocketAddr::to_string).collect()
}

fn who(config: &Front) -> &'static str {
    match (config.auth.anonymous_in_force(), config.auth.has_source()) {
        (Anonymous::Always, true) => "Anybody may connect; a user name must have its password.",
        (Anonymous::Always, false) => "Anybody may connect.",
        (Anonymous::Loopback, true) => "Known users, and anybody from this machine, may connect.",
        (Anonymous::Loopback, false) => "Anybody from this machine may connect.",
        (Anonymous::Never, _) => "Known users may connect.",
    }
}

fn options(config: &StandaloneConfig, listener: &ListenerConfig, address: SocketAddr) -> String {
    let mut options = format!("-h {} -p {}", address.ip(), address.port());
    // Writing to a String cannot fail.
    let _ = match config.front.tls_of(listener) {
        None => Ok(()),
        Some(tls) if tls.certificates.is_empty() => {
            let dir = certificates_dir(config);
            let required = tls.client_certificates.mode == ClientCertificateMode::Required;
            let client = if required {
                format!(" --cert {dir}/client.pem --key {dir}/client.key")
            } else {
                String::new()
            };
            write!(options, " --cafile {}{client}", ca_file(config))
        }
        Some(_) => write!(options, " --cafile CA_FILE"),
    };
    if config.front.auth.password_file.is_some() && config.front.auth.anonymous_in_force() == Anonymous::Never
    {
        options.push_str(" -u USER -P PASSWORD");
    }
    options
}

fn ca_file(config: &StandaloneConfig) -> String {
    format!("{}/{}", certificates_dir(config), dev_certs::CA)
}

fn certificates_dir(config: &StandaloneConfig) -> String {
    config.certificates_dir().display().to_string()
}

/// Where a client on this machine finds it.
pub(crate) fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        ip => ip,
    }
}
