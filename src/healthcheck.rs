//! `tidegate healthcheck`: asks `/readyz` of a process on this machine and answers by its exit code, for container engines, whose
//! images have nothing else to ask with.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use link::Bind;

use crate::exit::Failure;
use crate::output::print;
use crate::welcome::reachable;

/// How long the connection, the question and each part of the answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// An answer has no more bytes.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks the process whose `admin.listen` this is.
pub(crate) fn run(listen: &Bind) -> Result<(), Failure> {
    let Some(address) = listen.addresses().first().filter(|address| address.port() != 0) else {
        return Err(Failure::usage("admin.listen has no port that could be asked; name one"));
    };
    let address = SocketAddr::new(reachable(address.ip()), address.port());
    let answer = ask(address)
        .map_err(|error| Failure::unhealthy(format!("no answer from http://{address}/readyz: {error}")))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => print("ready\n"),
        Some("503") => Err(Failure::unhealthy(format!("not ready: {}", body.trim()))),
        _ => Err(Failure::unhealthy(format!("http://{address}/readyz is no admin endpoint of tidegate"))),
    }
}

fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}
