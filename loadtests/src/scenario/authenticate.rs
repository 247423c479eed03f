//! Questions to the service of authentication (`POST /v1/authenticate`), over HTTP/1.1 connections that stay: each asks again when it
//! has its answer.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::prelude::{BASE64_STANDARD, Engine};
use clap::Args;
use serde_json::json;

use super::run_name;
use crate::measure::latency::Latency;
use crate::report::Report;
use crate::run::Meter;

/// Longest answer, bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// An answer that takes longer ends the run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Options of `authenticate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuthenticateArgs {
    /// Where the service listens, without TLS.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub(crate) address: String,
    /// Connections, each on a thread of its own.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) connections: u32,
    /// Seconds of the measurement, after one in which nothing is counted.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// User name of the clients; each has a Client Identifier of its own.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// File with their password or token; a line feed at its end does not count.
    #[arg(long)]
    pub(crate) password_file: PathBuf,
    /// Clients that take turns; 1 asks the same question each time.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) clients: u32,
    /// File of the secret that the service wants to see.
    #[arg(long)]
    pub(crate) secret_file: Option<PathBuf>,
    /// A process of the service to account; may be given several times.
    #[arg(long = "pid")]
    pub(crate) pids: Vec<u32>,
    /// Write all figures to this file.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

/// Runs the scenario.
///
/// # Errors
/// When the service cannot be reached, or refuses a client.
pub(crate) fn run(args: &AuthenticateArgs) -> Result<Report> {
    let seconds = Duration::try_from_secs_f64(args.seconds).context("--seconds")?;
    let address = args.address.to_socket_addrs().with_context(|| format!("look up {}", args.address))?.next();
    let address = address.with_context(|| format!("{} has no address", args.address))?;
    let questions = Questions::new(args)?;
    let begin = Instant::now() + Duration::from_secs(1);
    let span = (begin, begin + seconds);
    let (latencies, cost) = std::thread::scope(|scope| -> Result<_> {
        let asking: Vec<_> =
            (0..args.connections).map(|_| scope.spawn(|| ask(address, &questions, span))).collect();
        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
        let meter = Meter::start(&args.pids)?;
        std::thread::sleep(seconds);
        let cost = meter.stop()?;
        let latencies: Result<Vec<_>> =
            asking.into_iter().map(|asking| asking.join().ok().context("a thread panicked")?).collect();
        Ok((latencies?, cost))
    })?;
    let mut all = Latency::new()?;
    let mut answers = 0;
    for (count, latency) in latencies {
        all.merge(&latency);
        answers += count;
    }
    let mut report = Report::new("authenticate");
    report.add("connections", args.connections);
    report.add("clients", args.clients);
    report.add("answers", answers);
    report.add_cost("", "answer", answers, &cost);
    let per_cpu_s = cost.broker.map(|service| answers as f64 / service.cpu_s.max(1e-9));
    report.add_some("answers_per_cpu_s", per_cpu_s);
    report.add_latency("latency_", all.summary());
    Ok(report)
}

/// What is asked, by turns.
struct Questions {
    name: String,
    user: Option<String>,
    password: String,
    authorization: String,
    host: String,
    clients: u64,
    number: AtomicU64,
}

impl Questions {
    fn new(args: &AuthenticateArgs) -> Result<Self> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        let password = read(&args.password_file)?;
        let authorization = match &args.secret_file {
            Some(path) => format!("authorization: Bearer {}\r\n", read(path)?.trim()),
            None => String::new(),
        };
        Ok(Self {
            name: run_name(),
            user: args.user.clone(),
            password: BASE64_STANDARD.encode(password.strip_suffix('\n').unwrap_or(&password)),
            authorization,
            host: args.address.clone(),
            clients: u64::from(args.clients),
            number: AtomicU64::new(0),
        })
    }

    fn next(&self) -> String {
        let client = self.number.fetch_add(1, Ordering::Relaxed) % self.clients;
        let mut question = json!({
            "client_id": format!("tgl-{}-{client}", self.name),
            "password": self.password,
            "peer": "192.0.2.1:4711",
            "listener": "mqtts",
            "protocol": "5",
        });
        if let Some(user) = &self.user {
            question["username"] = user.as_str().into();
        }
        let body = question.to_string();
        format!(
            "POST /v1/authenticate HTTP/1.1\r\nhost: {}\r\n{}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            self.authorization,
            body.len()
        )
    }
}

/// Asks until the span is over; counts what is answered within it.
fn ask(address: SocketAddr, questions: &Questions, span: (Instant, Instant)) -> Result<(u64, Latency)> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let (mut count, mut latency) = (0, Latency::new()?);
    loop {
        let asked_at = Instant::now();
        if asked_at >= span.1 {
            return Ok((count, latency));
        }
        stream.write_all(questions.next().as_bytes())?;
        let answer = read_answer(&mut answers)?;
        ensure!(answer.contains("\"allow\""), "the service answers: {answer}");
        let answered_at = Instant::now();
        if asked_at >= span.0 && answered_at <= span.1 {
            count += 1;
            let took = answered_at.duration_since(asked_at);
            latency.record_ns(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

/// The body of an answer with status 200.
fn read_answer(answers: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    answers.read_line(&mut line)?;
    ensure!(line.starts_with("HTTP/1.1 200 "), "the service answers: {:?}", line.trim_end());
    let mut length = None;
    loop {
        line.clear();
        answers.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().context("content-length of the answer")?);
        }
    }
    let Some(length) = length.filter(|length| *length <= ANSWER_BYTES_MAX) else {
        bail!("the answer has no length, or is longer than {ANSWER_BYTES_MAX} bytes");
    };
    let mut body = vec![0; length];
    answers.read_exact(&mut body)?;
    String::from_utf8(body).context("the answer is no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_no_further() {
        let mut bytes = &b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Length: 2\r\n\r\nabHTTP"[..];
        assert_eq!(read_answer(&mut bytes).unwrap(), "ab");
        assert_eq!(bytes, b"HTTP");
        for bad in [
            "HTTP/1.1 503 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab",
        ] {
            assert!(read_answer(&mut bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
