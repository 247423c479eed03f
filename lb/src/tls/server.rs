//! From a [`TlsConfig`] to rustls's configuration, and again whenever the files have changed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use files::Snapshot;
use files::validity::unix_s;
use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedProtocolVersion, version};

use super::accept::TlsAcceptor;
use super::client::ClientVerification;
use super::config::{MinVersion, TlsConfig};
use super::error::{TlsConfigError, TlsError};
use super::expiry::{self, Term, What};
use super::identity::{Identities, Known, Unstapled, read_file};
use super::provider::provider;
use super::stream::TlsStream;
use super::telemetry::Telemetry;
use super::ticket::{TicketSecret, Tickets};
use super::trust::{Shown, Trust};

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

/// The TLS side of a listener: the configuration in force, made from files.
pub struct TlsServer {
    config: TlsConfig,
    application: Application,
    provider: Arc<CryptoProvider>,
    current: Arc<ArcSwap<ServerConfig>>,
    /// What `current` trusts clients' certificates by.
    trust: Arc<ArcSwap<Trust>>,
    in_force: Mutex<InForce>,
    telemetry: Arc<Telemetry>,
}

/// What is known of the files that are in force.
struct InForce {
    tickets: Option<Arc<Tickets>>,
    /// The subjects of the authorities of clients.
    authorities: BTreeSet<String>,
    /// Of the certificates, and when the rest ends.
    known: Known,
}

impl InForce {
    fn tell_unstapled(&self) {
        for Unstapled { path, problem, has_other } in &self.known.unstapled {
            let instead = if *has_other { "the one of before is stapled" } else { "none is stapled" };
            tracing::warn!(path = %path.display(), "certificates.ocsp_file: the OCSP response {problem}; {instead}");
        }
    }
}

/// What other files have changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TlsChange {
    /// The subjects of the authorities whose certificates clients can no longer use.
    pub(crate) authorities_gone: BTreeSet<String>,
}

/// What files would have come into force.
pub(crate) struct Prepared {
    config: ServerConfig,
    trust: Trust,
    in_force: InForce,
}

impl TlsServer {
    /// Reads the files.
    ///
    /// # Errors
    /// One line that names the key and the file.
    pub fn load(config: TlsConfig, application: Application) -> Result<Self, TlsConfigError> {
        let found = Snapshot::take(config.files());
        Self::load_from(config, application, &found)
    }

    /// Takes the files as they were found.
    ///
    /// # Errors
    /// As [`TlsServer::load`].
    pub(crate) fn load_from(
        config: TlsConfig,
        application: Application,
        found: &Snapshot,
    ) -> Result<Self, TlsConfigError> {
        check_bounds(&config)?;
        let provider = Arc::new(provider(&config)?);
        let now_s = unix_s(SystemTime::now());
        let Prepared { config: first, trust, in_force } =
            build(&config, application, &provider, None, found, now_s)?;
        in_force.tell_unstapled();
        let telemetry = Arc::new(Telemetry::default());
        telemetry.took(&in_force.known.terms);
        Ok(Self {
            config,
            application,
            provider,
            current: Arc::new(ArcSwap::from_pointee(first)),
            trust: Arc::new(ArcSwap::from_pointee(trust)),
            in_force: Mutex::new(in_force),
            telemetry,
        })
    }

    /// Checks what can be checked without the files.
    ///
    /// # Errors
    /// One line that names the key.
    pub fn check(config: &TlsConfig) -> Result<(), TlsConfigError> {
        check_bounds(config)?;
        provider(config).map(drop)
    }

    /// The files that it is made from.
    #[cfg(test)]
    pub(super) fn files(&self) -> impl Iterator<Item = &std::path::Path> {
        self.config.files()
    }

    /// Makes of files what [`TlsServer::take`] puts in force; nothing has changed until then.
    ///
    /// # Errors
    /// As for [`TlsServer::load`], and what has ended while what is in force has not.
    pub(crate) fn prepare(&self, found: &Snapshot, now: SystemTime) -> Result<Prepared, TlsConfigError> {
        let in_force = self.in_force.lock();
        let now_s = unix_s(now);
        let prepared = build(&self.config, self.application, &self.provider, Some(&in_force), found, now_s)?;
        expiry::refuse_worse(&in_force.known.terms, &prepared.in_force.known.terms, now_s)?;
        Ok(prepared)
    }

    /// Puts it in force. New handshakes use it; connections and handshakes under way go on as they are, but for those that `Shown`
    /// finds distrusted. Tickets stay good unless the secret, or what clients' certificates are verified by, has changed.
    pub(crate) fn take(&self, prepared: Prepared) -> TlsChange {
        let Prepared { config, trust, in_force } = prepared;
        in_force.tell_unstapled();
        // In this order: whoever was let in by what was in force before finds itself distrusted.
        self.current.store(Arc::new(config));
        self.trust.store(Arc::new(trust));
        self.telemetry.took(&in_force.known.terms);
        let before = std::mem::replace(&mut *self.in_force.lock(), in_force);
        let now = self.in_force.lock();
        TlsChange { authorities_gone: before.authorities.difference(&now.authorities).cloned().collect() }
    }

    /// What of its files ends soon, or has ended, and which of both.
    pub(crate) fn endings(&self, now_s: i64) -> Vec<(Term, bool)> {
        let in_force = self.in_force.lock();
        let is_due = |term: &&Term| self.config.tells_of(term, now_s);
        let due = in_force.known.terms.iter().filter(is_due);
        due.map(|term| (term.clone(), term.validity.has_ended(now_s))).collect()
    }

    /// When the first OCSP response ends that is stapled, Unix seconds.
    pub(crate) fn staples_until_s(&self) -> Option<i64> {
        let in_force = self.in_force.lock();
        let staples = in_force.known.terms.iter().filter(|term| term.what == What::OcspResponse);
        staples.map(|term| term.validity.until_s).min()
    }

    /// The certificates that a client has shown, which may come to be distrusted. To be taken before the first use of the
    /// connection.
    ///
    /// # Errors
    /// As [`TlsStream::facts`].
    pub(crate) fn shown<IO>(&self, stream: &mut TlsStream<IO>) -> Result<Option<Shown>, TlsError> {
        Shown::new(stream.session().tls.peer_certificates().unwrap_or_default(), &self.trust)
    }

    /// An acceptor that follows reloads.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::counted(Arc::clone(&self.current), self.config.alpn_strict, Arc::clone(&self.telemetry))
    }

    /// What metrics say of it.
    pub(super) fn telemetry(&self) -> Arc<Telemetry> {
        Arc::clone(&self.telemetry)
    }
}

fn build(
    config: &TlsConfig,
    application: Application,
    provider: &Arc<CryptoProvider>,
    in_force: Option<&InForce>,
    found: &Snapshot,
    now_s: i64,
) -> Result<Prepared, TlsConfigError> {
    let staples = in_force.map(|in_force| &*in_force.known.staples).unwrap_or_default();
    let mut identities = Identities::load(&config.certificates, provider, found, staples, now_s)?;
    let mut known = identities.take_known();
    let clients = ClientVerification::load(&config.client_certificates, provider, found)?;
    known.terms.extend(clients.terms);
    let tickets = in_force.and_then(|in_force| in_force.tickets.as_ref());
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
    if let Some(tickets) = &tickets {
        built.ticketer = Arc::clone(tickets) as _;
    }
    let in_force = InForce { tickets, authorities: clients.authorities, known };
    Ok(Prepared { config: built, trust: clients.trust, in_force })
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match min {
        MinVersion::Tls12 => &BOTH,
        MinVersion::Tls13 => &BOTH[..1],
    }
}

fn check_bounds(config: &TlsConfig) -> Result<(), TlsConfigError> {
    config.check_bounds("")?;
    Ok(config.tickets.check_bounds("tickets")?)
}

/// The keys for tickets: those that are in use, unless what they are bound to has changed.
fn prepare_tickets(
    config: &TlsConfig,
    verification: &[u8; 32],
    in_use: Option<&Arc<Tickets>>,
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
    if let Some(tickets) = in_use.filter(|tickets| tickets.is_bound_to(&secret)) {
        return Ok(Some(Arc::clone(tickets)));
    }
    let tickets = Tickets::new(in_use.map(Arc::as_ref), secret, config.tickets.rotate_s).map_err(|_| {
        TlsConfigError::Invalid { key: "tickets", problem: "the system gives no random bytes".to_owned() }
    })?;
    Ok(Some(Arc::new(tickets)))
}
