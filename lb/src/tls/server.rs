//! From a [`TlsConfig`] to rustls's configuration, and again whenever the files have changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use files::{Look, SETTLE_TIME, Settling, Snapshot};
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, SupportedProtocolVersion, version};

use super::accept::TlsAcceptor;
use super::client::ClientVerification;
use super::config::{MinVersion, TlsConfig};
use super::error::{TlsConfigError, TlsError};
use super::identity::{Identities, read_file};
use super::listed::{Listed, Shown};
use super::stream::TlsStream;
use super::telemetry::{Ends, Telemetry};
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

/// The TLS side of a listener: the configuration in force, made from files, and made anew after [`TlsServer::ask`].
pub struct TlsServer {
    config: TlsConfig,
    application: Application,
    provider: Arc<CryptoProvider>,
    tickets: Mutex<Option<Arc<Tickets>>>,
    current: Arc<ArcSwap<ServerConfig>>,
    /// What the revocation lists name that `current` goes by.
    listed: Arc<ArcSwap<Listed>>,
    files: Mutex<Files>,
    telemetry: Arc<Telemetry>,
}

/// The files of a listener, to be read again.
struct Files {
    settling: Settling,
    /// Until they have been taken: files that do not fit together may be half of a change.
    is_asked: bool,
    /// When they were first read, as long as they may have been seen between two writes then.
    started: Option<Instant>,
    authorities: BTreeSet<String>,
}

/// What another reading of the files has changed.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsChange {
    /// The subjects of the authorities whose certificates clients can no longer use.
    pub authorities_gone: BTreeSet<String>,
}

/// A configuration made from files.
struct Built {
    config: ServerConfig,
    authorities: BTreeSet<String>,
    ends: Ends,
    listed: Listed,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the key and the file.
    pub fn load(config: TlsConfig, application: Application) -> Result<Self, TlsConfigError> {
        let provider = Arc::new(provider());
        let tickets = Mutex::new(None);
        let found = Snapshot::take(config.files());
        let Built { config: first, authorities, ends, listed } =
            build(&config, application, &provider, &tickets, &found)?;
        let telemetry = Arc::new(Telemetry::default());
        telemetry.took(ends);
        let settling = Settling::new(&found);
        let files = Files { settling, is_asked: false, started: Some(Instant::now()), authorities };
        Ok(Self {
            config,
            application,
            provider,
            tickets,
            current: Arc::new(ArcSwap::from_pointee(first)),
            listed: Arc::new(ArcSwap::from_pointee(listed)),
            files: Mutex::new(files),
            telemetry,
        })
    }

    /// Has the files read again by [`TlsServer::look`], all together, when they have settled.
    pub fn ask(&self) {
        let mut files = self.files.lock();
        files.is_asked = true;
        files.settling.ask();
    }

    /// Takes the files if that was asked for, or they change right after they were loaded, and they have settled. New
    /// handshakes use what they say now; connections and handshakes under way go on as they are, but for those that `Shown`
    /// finds listed. Tickets stay good unless the secret, or what clients' certificates are verified by, has changed. To be
    /// called every [`files::LOOK_INTERVAL`]; blocks on the disk. `None`: nothing to say.
    ///
    /// # Errors
    /// As for [`TlsServer::load`]; the configuration in force then stays, and the files are taken when they have changed
    /// to something that can be used.
    pub fn look(&self, now: Instant) -> Option<Result<TlsChange, TlsConfigError>> {
        let mut files = self.files.lock();
        if !files.is_asked && files.started.is_none() {
            return None;
        }
        let found = match files.settling.look(now) {
            Look::Settled(found) => found,
            Look::Changing => return None,
            Look::Same => {
                files.started.take_if(|started| now.saturating_duration_since(*started) >= SETTLE_TIME);
                return None;
            }
        };
        // What cannot be used is waited for to be mended.
        files.is_asked = true;
        Some(build(&self.config, self.application, &self.provider, &self.tickets, &found).map(|built| {
            // In this order: whoever was let in by what was in force before finds itself listed.
            self.current.store(Arc::new(built.config));
            self.listed.store(Arc::new(built.listed));
            self.telemetry.took(built.ends);
            (files.is_asked, files.started) = (false, None);
            let before = std::mem::replace(&mut files.authorities, built.authorities);
            TlsChange { authorities_gone: before.difference(&files.authorities).cloned().collect() }
        }))
    }

    /// The certificates that a client has shown, where revocation lists may come to name them. To be taken before the first use of
    /// the connection.
    ///
    /// # Errors
    /// As [`TlsStream::facts`].
    pub(crate) fn shown<IO>(&self, stream: &mut TlsStream<IO>) -> Result<Option<Shown>, TlsError> {
        if self.config.client_certificates.crl_files.is_empty() {
            return Ok(None);
        }
        Shown::new(stream.session().tls.peer_certificates().unwrap_or_default(), &self.listed)
    }

    /// An acceptor that follows reloads.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::counted(Arc::clone(&self.current), Arc::clone(&self.telemetry))
    }

    /// What metrics say of it.
    pub(super) fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.telemetry)
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
    found: &Snapshot,
) -> Result<Built, TlsConfigError> {
    check_bounds(config)?;
    let identities = Identities::load(&config.certificates, provider, found)?;
    let server_certificate = identities.ends();
    let clients = ClientVerification::load(&config.client_certificates, provider, found)?;
    let tickets = prepare_tickets(config, &clients.digest, tickets, found)?;
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
    built.max_fragment_size = config.fragment_bytes_max;
    if let Some(tickets) = tickets {
        built.ticketer = tickets;
    }
    let ends = Ends { server_certificate, ..clients.ends };
    Ok(Built { config: built, authorities: clients.authorities, ends, listed: clients.listed })
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match min {
        MinVersion::Tls12 => &BOTH,
        MinVersion::Tls13 => &BOTH[..1],
    }
}

fn check_bounds(config: &TlsConfig) -> Result<(), TlsConfigError> {
    if config.fragment_bytes_max.is_some_and(|size| !(512..=16_389).contains(&size)) {
        return Err(TlsConfigError::Invalid {
            key: "fragment_bytes_max",
            problem: "must be between 512 and 16389 bytes".to_owned(),
        });
    }
    if !(60..=7 * 24 * 3600).contains(&config.tickets.rotate_s) {
        return Err(TlsConfigError::Invalid {
            key: "tickets.rotate_s",
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
    found: &Snapshot,
) -> Result<Option<Arc<Tickets>>, TlsConfigError> {
    const KEY: &str = "tickets.secret_file";
    if !config.tickets.enabled {
        return Ok(None);
    }
    let secret = match &config.tickets.secret_file {
        None => TicketSecret::Random { verification: *verification },
        Some(path) => {
            let bytes = read_file(KEY, path, found)?;
            TicketSecret::shared(bytes, verification).ok_or_else(|| TlsConfigError::Unusable {
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
    let tickets = Tickets::new(secret, config.tickets.rotate_s).map_err(|_| TlsConfigError::Invalid {
        key: "tickets",
        problem: "the system gives no random bytes".to_owned(),
    })?;
    let tickets = Arc::new(tickets);
    *in_use = Some(Arc::clone(&tickets));
    Ok(Some(tickets))
}
