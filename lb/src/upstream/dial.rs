//! Keeps one link to a worker up: connects, drives it to its end, waits, and connects again.

use std::io;
use std::sync::Arc;

use link::LinkTlsError;
use link::mux::{LinkError, Settings};
use link::wire::FrameLimits;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::driver::{Driver, LinkEnd};
use super::link::Link;
use super::pool::Pool;
use super::reach::LinkIo;
use super::worker::Worker;

/// Why a link did not come up.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("no certificate can bear the name")]
    Name(#[source] LinkTlsError),
    #[error("connecting took too long")]
    Timeout,
}

/// Has one link kept up until the worker is not wanted any more.
pub(super) fn begin(pool: &Arc<Pool>, worker: &Arc<Worker>) {
    let task = pool.runtime.spawn(keep(pool.clone(), worker.clone()));
    worker.own(task.abort_handle());
}

/// Keeps one link up until the worker is not wanted any more.
async fn keep(pool: Arc<Pool>, worker: Arc<Worker>) {
    let mut failures = 0;
    while worker.streams() > 0 || !worker.lets_go() {
        let started = Instant::now();
        match connect_and_drive(&pool, &worker).await {
            // Whoever keeps its successor keeps it instead.
            Ok(LinkEnd::Worn) => return,
            Ok(LinkEnd::Retired) if worker.lets_go() => return,
            // It is listed again.
            Ok(LinkEnd::Retired) => continue,
            Ok(end @ (LinkEnd::NoHello | LinkEnd::Link(LinkError::NoCommonVersion { .. }))) => {
                failed(&pool, &worker, failures, &end);
            }
            Ok(end) => {
                pool.devices.metrics.link_failures.inc();
                tracing::debug!(worker = %worker.address, error = %chain(&end), "link lost");
            }
            Err(error) => {
                worker.fail();
                failed(&pool, &worker, failures, &error);
            }
        }
        // A link that was up for a while is connected again at once, and only then less and less often.
        if started.elapsed() >= pool.config.connect_timeout() {
            failures = 0;
        }
        sleep(pool.devices.chance.backoff(failures)).await;
        failures += 1;
    }
}

fn failed(pool: &Pool, worker: &Worker, failures: u32, error: &dyn std::error::Error) {
    pool.devices.metrics.link_failures.inc();
    // Every attempt says the same.
    if failures == 0 {
        tracing::warn!(worker = %worker.address, error = %chain(error), "no link to worker");
    }
}

async fn connect_and_drive(pool: &Arc<Pool>, worker: &Arc<Worker>) -> Result<LinkEnd, DialError> {
    let within = pool.config.connect_timeout();
    let ready_by = Instant::now() + within;
    let connecting = async {
        let io = pool.reach.reach(worker.address).await.map_err(DialError::Connect)?;
        let Some(tls) = &pool.tls else { return Ok(io) };
        let name = tls.config().name_of(&worker.host).map_err(DialError::Name)?;
        let io = TlsConnector::from(tls.current()).connect(name, io).await.map_err(DialError::Tls)?;
        Ok(Box::new(io) as Box<dyn LinkIo>)
    };
    let io = timeout(within, connecting).await.map_err(|_| DialError::Timeout)??;
    let link = Arc::new(Link::new(worker.clone(), settings(pool), pool.elapsed()));
    let replace = {
        let (pool, worker) = (pool.clone(), worker.clone());
        Box::new(move || begin(&pool, &worker))
    };
    let mut driver = Driver::new(pool.clone(), link, io, ready_by, replace);
    let end = (&mut driver).await;
    if driver.is_replaced() {
        tracing::debug!(worker = %worker.address, error = %chain(&end), "worn link is over");
        return Ok(LinkEnd::Worn);
    }
    Ok(end)
}

fn settings(pool: &Pool) -> Settings {
    // The length was checked with the configuration.
    let mut settings = Settings::new(pool.config.edge_name.as_str());
    settings.streams_max = pool.config.streams_per_link_max;
    settings.limits = FrameLimits::for_packets(pool.config.packet_bytes_max);
    settings
}

/// An error with its causes, for one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
