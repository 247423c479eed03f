//! The `$SYS/broker/...` topics, named as Mosquitto names them: retained in memory, published when they change.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mqtt::QoS;
use prometheus_client::metrics::counter::Counter;
use state::Message;

use crate::hub::Hub;

/// Whether a topic is one of those that are kept here. The state of bridges is retained like any other message.
pub(crate) fn is_own(topic: &str) -> bool {
    topic.starts_with("$SYS/") && !topic.starts_with("$SYS/broker/connection/")
}

/// Publishes the topics and remembers what rates need.
pub(crate) struct Sys {
    started: Instant,
    last: Option<Totals>,
}

#[derive(Clone, Copy, Default)]
struct Totals {
    at_s: f64,
    received: u64,
    sent: u64,
}

impl Sys {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), last: None }
    }

    /// Publishes every topic whose value has changed.
    pub(crate) fn publish(&mut self, hub: &Arc<Hub>) {
        let now = hub.now();
        for (topic, value) in self.values(hub) {
            let unchanged =
                hub.sys.read().get(topic).is_some_and(|old| old.payload_slice() == value.as_bytes());
            if unchanged {
                continue;
            }
            let message = Message::new(topic, &[], value.as_bytes(), QoS::AtMostOnce, true, now);
            let message = Arc::new(message);
            hub.sys.write().insert(topic.into(), Arc::clone(&message));
            hub.publish(None, None, &message);
        }
    }

    fn values(&mut self, hub: &Hub) -> Vec<(&'static str, String)> {
        let metrics = &hub.metrics;
        let sum = |counters: &[Counter; 3]| counters.iter().map(Counter::get).sum::<u64>();
        let totals = Totals {
            at_s: self.started.elapsed().as_secs_f64(),
            received: sum(&metrics.messages_received),
            sent: sum(&metrics.messages_sent),
        };
        let last = self.last.replace(totals).unwrap_or_default();
        let per_minute = |now: u64, before: u64| {
            let elapsed = (totals.at_s - last.at_s).max(1e-3);
            format!("{:.2}", (now - before) as f64 / elapsed * 60.0)
        };
        let stats = hub.store.stats();
        let connected = metrics.sessions_connected.get();
        let (sessions, _) = hub.directory.sessions().count();
        let offline = i64::try_from(sessions).unwrap_or(0).saturating_sub(connected).max(0);
        let retained = stats.retained_messages + hub.sys.read().len() as u64;
        vec![
            ("$SYS/broker/version", format!("tidegate version {}", env!("CARGO_PKG_VERSION"))),
            ("$SYS/broker/uptime", format!("{} seconds", self.started.elapsed().as_secs())),
            ("$SYS/broker/clients/connected", connected.to_string()),
            ("$SYS/broker/clients/active", connected.to_string()),
            ("$SYS/broker/clients/disconnected", offline.to_string()),
            ("$SYS/broker/clients/inactive", offline.to_string()),
            ("$SYS/broker/clients/total", sessions.to_string()),
            ("$SYS/broker/clients/expired", metrics.sessions_expired.get().to_string()),
            ("$SYS/broker/clients/maximum", hub.connected_max.load(Ordering::Relaxed).to_string()),
            ("$SYS/broker/messages/received", totals.received.to_string()),
            ("$SYS/broker/messages/sent", totals.sent.to_string()),
            ("$SYS/broker/publish/messages/received", totals.received.to_string()),
            ("$SYS/broker/publish/messages/sent", totals.sent.to_string()),
            ("$SYS/broker/publish/messages/dropped", metrics.dropped_total().to_string()),
            ("$SYS/broker/publish/bytes/received", metrics.payload_bytes_received.get().to_string()),
            ("$SYS/broker/publish/bytes/sent", metrics.payload_bytes_sent.get().to_string()),
            ("$SYS/broker/load/publish/received/1min", per_minute(totals.received, last.received)),
            ("$SYS/broker/load/publish/sent/1min", per_minute(totals.sent, last.sent)),
            ("$SYS/broker/store/messages/count", stats.queued_messages.to_string()),
            ("$SYS/broker/store/messages/bytes", stats.queued_bytes.to_string()),
            ("$SYS/broker/retained messages/count", retained.to_string()),
            ("$SYS/broker/subscriptions/count", hub.directory.index().len().to_string()),
        ]
    }
}
