//! What the edge itself counts, from its `/metrics`: what it has done for connections, whoever was still there to see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result};

/// Counts one for each session opened, from the accept on.
const OPENED: &str = "tidegate_edge_handshake_seconds_count";
/// TLS handshakes completed.
const HANDSHAKES: &str = "tidegate_edge_tls_handshakes_total";
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an edge has done, since it started or within a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// Sessions opened.
    pub(super) opened: u64,
    /// TLS handshakes completed, if the edge counts them.
    pub(super) handshakes: Option<u64>,
}

impl Done {
    /// What was done after `before`.
    #[must_use]
    pub(super) fn since(&self, before: &Self) -> Self {
        let handshakes = self.handshakes.map(|now| now.saturating_sub(before.handshakes.unwrap_or(0)));
        Self { opened: self.opened.saturating_sub(before.opened), handshakes }
    }
}

/// Asks the edge at this admin address.
///
/// # Errors
/// When it cannot be asked, or does not count the sessions that it opens.
pub(super) fn done(admin: &str) -> Result<Done> {
    let address = admin.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let address = address.with_context(|| format!("--admin: {admin} is no address"))?;
    let text = ask(address).with_context(|| format!("read the metrics at {address}"))?;
    let opened = sum(&text, OPENED).with_context(|| format!("the metrics at {address} have no {OPENED}"))?;
    // A counter with labels has no sample before it first counts, so that none is not nothing.
    Ok(Done { opened, handshakes: sum(&text, HANDSHAKES) })
}

fn ask(address: SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    write!(socket, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a metric over its labels; `None` without any sample.
fn sum(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .map(|value| value as u64)
        .reduce(|sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_does_not_count() {
        let done = |opened, handshakes| Done { opened, handshakes };
        assert_eq!(done(9, Some(7)).since(&done(4, None)), done(5, Some(7)));
        assert_eq!(done(9, Some(7)).since(&done(4, Some(3))), done(5, Some(4)));
        assert_eq!(done(9, None).since(&done(4, None)), done(5, None));
    }

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# TYPE a_count counter\na_count 3\na_count{l=\"x y\"} 4\na_count_more 9\n";
        assert_eq!(sum(text, "a_count"), Some(7));
        assert_eq!(sum(text, "b_count"), None);
    }
}
