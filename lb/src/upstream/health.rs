//! Asks a worker's admin endpoint whether it is ready. What it says counts beside the links: a worker that says no gets no new
//! sessions while others say yes.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Duration, MissedTickBehavior, interval, timeout};

use super::pool::Pool;
use super::worker::Worker;

/// Asks again and again, for ever.
pub(super) async fn watch(pool: Arc<Pool>, worker: Arc<Worker>, admin_port: u16) {
    let config = &pool.config.health;
    let address = SocketAddr::new(worker.address.ip(), admin_port);
    let mut ticks = interval(Duration::from_millis(config.interval_ms));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        ticks.tick().await;
        let answer = timeout(Duration::from_millis(config.timeout_ms), is_ready(address)).await;
        failures = if matches!(answer, Ok(true)) { 0 } else { failures + 1 };
        let is_news = match failures {
            0 => worker.set_healthy(true),
            _ if failures >= config.failures_max => worker.set_healthy(false),
            _ => false,
        };
        if is_news {
            tracing::info!(worker = %worker.address, is_ready = failures == 0, "worker's health");
            pool.changed();
        }
    }
}

/// Whether `/readyz` is answered with 200. One connection for one question: there is one a second.
async fn is_ready(address: SocketAddr) -> bool {
    let Ok(io) = TcpStream::connect(address).await else { return false };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await else {
        return false;
    };
    let request = Request::get("/readyz")
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return false };
    // It ends with the answer, or when nobody asks any more.
    tokio::spawn(connection);
    sender.send_request(request).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
}
