//! From a [`TlsConfig`] to rustls's configuration, and again whenever the files have changed.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, SupportedProtocolVersion, version};

use super::accept::TlsAcceptor;
use super::client::ClientVerification;
use super::config::{MinVersion, TlsConfig};
use super::error::TlsConfigError;
use super::identity::{Identities, read_file};
use super::ticket::{TicketSecret, Tickets};

/// What the listener carries inside TLS: it decides which application protocols are agreed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// MQTT: `mqtt`.
    Mqtt,
    /// MQTT over WebSocket: `http/1.1`, `mqtt`.
    WebSocket,
}

impl Application {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Mqtt => vec![b"mqtt".to_vec()],
            Self::WebSocket => vec![b"http/1.1".to_vec(), b"mqtt".to_vec()],
        }
    }
}

/// The TLS side of a listener: the configuration in force, made from files and made anew on [`TlsServer::reload`].
pub struct TlsServer {
    config: TlsConfig,
    application: Application,
    provider: Arc<CryptoProvider>,
    tickets: Mutex<Option<Arc<Tickets>>>,
    current: Arc<ArcSwap<ServerConfig>>,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the key and the file.
    pub fn load(config: TlsConfig, application: Application) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(provider());
        let tickets = Mutex::new(None);
        let first = build(&config, application, &provider, &tickets)?;
        Ok(Self { config, application, provider, tickets, current: Arc::new(ArcSwap::from_pointee(first)) })
    }

    /// Reads the files again. New handshakes use what they say now; connections and handshakes under way go on as they
    /// are. Tickets stay good unless the secret, or what clients' certificates are verified by, has changed.
    ///
    /// # Errors
    /// As for [`TlsServer::load`]; the configuration in force then stays.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        let fresh = build(&self.config, self.application, &self.provider, &self.tickets)?;
        self.current.store(Arc::new(fresh));
        Ok(())
    }

    /// An acceptor that follows reloads.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::new(Arc::clone(&self.current))
    }
}

/// aws-lc with AES-128 before AES-256: it is as safe here, its SHA-256 is done by hardware where SHA-384 is not, and a
/// handshake hashes a lot. The server's order decides, unless the client puts ChaCha20 first.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    // Stable: everything else keeps its place within its version.
    provider
        .cipher_suites
        .sort_by_key(|suite| (suite.version().version != ProtocolVersion::TLSv1_3, cost(suite.suite())));
    provider
}

fn cost(suite: CipherSuite) -> u8 {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
        _ => 1,
    }
}

fn build(
    config: &TlsConfig,
    application: Application,
    provider: &Arc<CryptoProvider>,
    tickets: &Mutex<Option<Arc<Tickets>>>,
) -> Result<ServerConfig, TlsConfigError> {
    check_bounds(config)?;
    let identities = Identities::load(&config.certificates, provider)?;
    let clients = ClientVerification::load(&config.client_certificates, provider)?;
    let tickets = prepare_tickets(config, &clients.digest, tickets)?;
    let mut built = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(config.min_version))
        .map_err(|error| TlsConfigError::Invalid { key: "min_version", problem: error.to_string() })?
        .with_client_cert_verifier(clients.verifier)
        .with_cert_resolver(Arc::new(identities));
    built.ignore_client_order = true;
    built.alpn_protocols = application.protocols();
    built.session_storage = Arc::new(NoServerSessionStorage {});
    built.send_tls13_tickets = usize::from(tickets.is_some());
    built.max_early_data_size = 0;
    built.send_half_rtt_data = false;
    built.max_fragment_size = config.max_fragment_size;
    if let Some(tickets) = tickets {
        built.ticketer = tickets;
    }
    Ok(built)
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match min {
        MinVersion::Tls12 => &BOTH,
        MinVersion::Tls13 => &BOTH[..1],
    }
}

fn check_bounds(config: &TlsConfig) -> Result<(), TlsConfigError> {
    if config.max_fragment_size.is_some_and(|size| !(512..=16_389).contains(&size)) {
        return Err(TlsConfigError::Invalid {
            key: "max_fragment_size",
            problem: "must be between 512 and 16389 bytes".to_owned(),
        });
    }
    if !(60..=7 * 24 * 3600).contains(&config.tickets.rotate_secs) {
        return Err(TlsConfigError::Invalid {
            key: "tickets.rotate_secs",
            problem: "must be between 60 and 604800 seconds".to_owned(),
        });
    }
    Ok(())
}

/// The keys for tickets: those that are in use, unless what they are bound to has changed.
fn prepare_tickets(
    config: &TlsConfig,
    verification: &[u8; 32],
    in_use: &Mutex<Option<Arc<Tickets>>>,
) -> Result<Option<Arc<Tickets>>, TlsConfigError> {
    const KEY: &str = "tickets.secret_file";
    if !config.tickets.enabled {
        return Ok(None);
    }
    let secret = match &config.tickets.secret_file {
        None => TicketSecret::Random { verification: *verification },
        Some(path) => {
            let bytes = read_file(KEY, path)?;
            TicketSecret::shared(&bytes, verification).ok_or_else(|| TlsConfigError::Unusable {
                key: KEY,
                path: path.clone(),
                problem: "must hold at least 32 bytes".to_owned(),
            })?
        }
    };
    let mut in_use = in_use.lock();
    if let Some(tickets) = in_use.as_ref().filter(|tickets| tickets.is_bound_to(&secret)) {
        return Ok(Some(Arc::clone(tickets)));
    }
    let tickets = Tickets::new(secret, config.tickets.rotate_secs).map_err(|_| TlsConfigError::Invalid {
        key: "tickets",
        problem: "the system gives no random bytes".to_owned(),
    })?;
    let tickets = Arc::new(tickets);
    *in_use = Some(Arc::clone(&tickets));
    Ok(Some(tickets))
}
