//! What the edge itself counts, from its `/metrics`: how many sessions it has opened, whoever was still there to see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result};

/// Counts one for each session opened, from the accept on.
const OPENED: &str = "tidegate_edge_handshake_seconds_count";
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Sessions that the edge at this admin address has opened since it started.
///
/// # Errors
/// When it cannot be asked, or counts no such thing.
pub(super) fn sessions_opened(admin: &str) -> Result<u64> {
    let address = admin.to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
    let address = address.with_context(|| format!("--admin: {admin} is no address"))?;
    let text = ask(address).with_context(|| format!("read the metrics at {address}"))?;
    sum(&text, OPENED).with_context(|| format!("the metrics at {address} have no {OPENED}"))
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
    fn a_metric_is_summed_over_its_labels() {
        let text = "# TYPE a_count counter\na_count 3\na_count{l=\"x y\"} 4\na_count_more 9\n";
        assert_eq!(sum(text, "a_count"), Some(7));
        assert_eq!(sum(text, "b_count"), None);
    }
}
