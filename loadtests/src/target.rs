//! Where the broker is and how to talk to it: options that all scenarios share.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mqtt::{ProtocolVersion, QoS};
use rustls::pki_types::ServerName;

use crate::net::dial::{Dial, TlsDial};
use crate::net::packet::Login;
use crate::net::tls::{self, TlsVersion};

/// Where the broker is, how to talk to it, what to account. Shared by all scenarios.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// Host name or address of the broker.
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: String,
    /// Port; 1883, 8883 with --tls, 8083 with --ws, 8084 with both.
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Use TLS.
    #[arg(long)]
    pub(crate) tls: bool,
    /// Use a WebSocket; over TLS with --tls.
    #[arg(long)]
    pub(crate) ws: bool,
    /// Path to ask for over a WebSocket.
    #[arg(long, default_value = "/mqtt")]
    pub(crate) path: String,
    /// User Name of every client; `%c` in it stands for the Client Identifier.
    #[arg(long, requires = "password")]
    pub(crate) user: Option<String>,
    /// Password of every client.
    #[arg(long, requires = "user")]
    pub(crate) password: Option<String>,
    /// Check the broker's certificate against these CAs (PEM); without it any certificate is accepted.
    #[arg(long)]
    pub(crate) cafile: Option<PathBuf>,
    /// Name to ask for in TLS.
    #[arg(long, default_value = "localhost")]
    pub(crate) server_name: String,
    /// Insist on one TLS version.
    #[arg(long, value_enum)]
    pub(crate) tls_version: Option<TlsVersion>,
    /// Protocol version.
    #[arg(long, value_enum, default_value = "3.1.1")]
    pub(crate) mqtt: MqttVersion,
    /// Threads, each with its own share of the clients.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) threads: u32,
    /// A process of the broker to account; may be given several times.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Write all figures to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// Protocol versions by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MqttVersion {
    /// MQTT 3.1.
    #[value(name = "3.1")]
    V31,
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5.
    #[value(name = "5")]
    V5,
}

/// Reads a Quality of Service from a command-line argument.
///
/// # Errors
/// Anything but 0, 1 and 2.
pub(crate) fn parse_qos(text: &str) -> Result<QoS, String> {
    let number: u8 = text.parse().map_err(|_| "expected 0, 1 or 2".to_owned())?;
    QoS::try_from(number).map_err(|error| error.to_string())
}

impl Target {
    /// The version in the codec's terms.
    #[must_use]
    pub(crate) fn version(&self) -> ProtocolVersion {
        match self.mqtt {
            MqttVersion::V31 => ProtocolVersion::V31,
            MqttVersion::V311 => ProtocolVersion::V311,
            MqttVersion::V5 => ProtocolVersion::V5,
        }
    }

    /// How to connect; TLS sessions are resumed only if `resume`.
    ///
    /// # Errors
    /// When the host has no address, or the CA file or server name is not usable.
    pub(crate) fn dial(&self, resume: bool) -> Result<Dial> {
        let port = self.port.unwrap_or(match (self.ws, self.tls) {
            (false, false) => 1883,
            (false, true) => 8883,
            (true, false) => 8083,
            (true, true) => 8084,
        });
        let tls = if self.tls {
            Some(TlsDial {
                config: tls::client_config(self.cafile.as_deref(), self.tls_version, resume)?,
                server_name: ServerName::try_from(self.server_name.clone()).context("--server-name")?,
            })
        } else {
            None
        };
        let login = self.user.clone().zip(self.password.clone());
        Ok(Dial {
            address: resolve(&self.host, port)?,
            tls,
            websocket_path: self.ws.then(|| self.path.clone()),
            login: login.map(|(user, password)| Login { user, password }),
            source: None,
        })
    }

    /// `tcp`, `tls`, `ws` or `wss`.
    #[must_use]
    pub(crate) fn transport(&self) -> &'static str {
        match (self.ws, self.tls) {
            (false, false) => "tcp",
            (false, true) => "tls",
            (true, false) => "ws",
            (true, true) => "wss",
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let mut addresses = (host, port).to_socket_addrs().with_context(|| format!("look up {host}"))?;
    addresses.next().with_context(|| format!("{host} has no address"))
}
