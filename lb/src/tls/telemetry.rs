//! What metrics say of TLS: handshakes by version and kind, and until when the files of each listener are good.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use rustls::server::UnbufferedServerConnection;
use rustls::{HandshakeKind, ProtocolVersion};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// Unix seconds of what never ends, or is not there.
const NEVER: i64 = i64::MAX;

/// Of one listener. Counts only go up; whoever reads them is not in a hurry.
#[derive(Debug)]
pub(super) struct Telemetry {
    /// By version (1.2, 1.3) and whether a session was resumed.
    handshakes: [[AtomicU64; 2]; 2],
    server_certificate: AtomicI64,
    client_authority: AtomicI64,
    revocation_list: AtomicI64,
}

/// When the first of each ends, Unix seconds; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// Of certificates that the server shows, those between it and its authority among them.
    pub(super) server_certificate: Option<i64>,
    /// Of authorities that certificates of clients are verified by.
    pub(super) client_authority: Option<i64>,
    /// The time of the next one that a revocation list tells; the list is of no use after that.
    pub(super) revocation_list: Option<i64>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            handshakes: Default::default(),
            server_certificate: AtomicI64::new(NEVER),
            client_authority: AtomicI64::new(NEVER),
            revocation_list: AtomicI64::new(NEVER),
        }
    }
}

impl Telemetry {
    /// A handshake is complete.
    pub(super) fn count(&self, tls: &UnbufferedServerConnection) {
        let is_new = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        self.handshakes[usize::from(is_new)][usize::from(is_resumed)].fetch_add(1, Ordering::Relaxed);
    }

    /// Files were read.
    pub(super) fn took(&self, ends: Ends) {
        self.server_certificate.store(ends.server_certificate.unwrap_or(NEVER), Ordering::Relaxed);
        self.client_authority.store(ends.client_authority.unwrap_or(NEVER), Ordering::Relaxed);
        self.revocation_list.store(ends.revocation_list.unwrap_or(NEVER), Ordering::Relaxed);
    }
}

/// The end of a certificate; `None` if it cannot be read, which others say.
pub(super) fn end_of_certificate(der: &[u8]) -> Option<i64> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

/// When the next revocation list is due.
pub(super) fn end_of_list(list: &CertificateRevocationList<'_>) -> Option<i64> {
    list.next_update().map(|next| next.timestamp())
}

/// The earlier of two.
pub(super) fn first(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

/// Metrics of the TLS of an edge's listeners, by listener.
#[derive(Debug)]
pub struct TlsMetrics(pub(super) Vec<(Arc<str>, Arc<Telemetry>)>);

impl TlsMetrics {
    /// Of these listeners.
    pub fn of<'a>(servers: impl Iterator<Item = (Arc<str>, &'a super::TlsServer)>) -> Self {
        Self(servers.map(|(listener, server)| (listener, server.telemetry())).collect())
    }

    fn encode_handshakes(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (listener, telemetry) in &self.0 {
            for (version, of_version) in ["1.2", "1.3"].into_iter().zip(&telemetry.handshakes) {
                for (kind, count) in ["full", "resumed"].into_iter().zip(of_version) {
                    let labels = [("listener", &**listener), ("version", version), ("kind", kind)];
                    encoder
                        .encode_family(&labels)?
                        .encode_counter::<NoLabelSet, u64, u64>(&count.load(Ordering::Relaxed), None)?;
                }
            }
        }
        Ok(())
    }

    fn encode_ends(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (listener, telemetry) in &self.0 {
            for (what, end) in [
                ("server_certificate", &telemetry.server_certificate),
                ("client_authority", &telemetry.client_authority),
                ("revocation_list", &telemetry.revocation_list),
            ] {
                let end = end.load(Ordering::Relaxed);
                if end != NEVER {
                    let labels = [("listener", &**listener), ("what", what)];
                    encoder.encode_family(&labels)?.encode_gauge(&end)?;
                }
            }
        }
        Ok(())
    }
}

impl Collector for TlsMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let help = "TLS handshakes that were completed, by version and kind";
        self.encode_handshakes(encoder.encode_descriptor(
            "tls_handshakes",
            help,
            None,
            MetricType::Counter,
        )?)?;
        let help = "When the first certificate or revocation list of a listener ends, Unix time";
        self.encode_ends(encoder.encode_descriptor(
            "tls_expiry_timestamp_seconds",
            help,
            None,
            MetricType::Gauge,
        )?)
    }
}
