//! What metrics say of TLS: handshakes by version and kind, and until when the files of each listener are good.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use rustls::server::UnbufferedServerConnection;
use rustls::{HandshakeKind, ProtocolVersion};

use super::expiry::{Term, What};

/// Unix seconds of what never ends, or is not there.
const NEVER: i64 = i64::MAX;

/// Of one listener. Counts only go up; whoever reads them is not in a hurry.
#[derive(Debug)]
pub(super) struct Telemetry {
    /// By version (1.2, 1.3) and whether a session was resumed.
    handshakes: [[AtomicU64; 2]; 2],
    /// When the first of each kind ends, Unix seconds.
    ends: [AtomicI64; What::ALL.len()],
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { handshakes: Default::default(), ends: std::array::from_fn(|_| AtomicI64::new(NEVER)) }
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
    pub(super) fn took(&self, terms: &[Term]) {
        for (what, end) in What::ALL.into_iter().zip(&self.ends) {
            let of_kind = terms.iter().filter(|term| term.what == what);
            let first = of_kind.map(|term| term.validity.until_s).min();
            end.store(first.unwrap_or(NEVER), Ordering::Relaxed);
        }
    }
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
            for (what, end) in What::ALL.into_iter().zip(&telemetry.ends) {
                let end = end.load(Ordering::Relaxed);
                if end != NEVER {
                    let labels = [("listener", &**listener), ("what", what.label())];
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
        let descriptor =
            encoder.encode_descriptor("tls_expiry_timestamp_seconds", help, None, MetricType::Gauge)?;
        self.encode_ends(descriptor)
    }
}
