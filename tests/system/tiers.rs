//! The tiers as processes of their own: edges, workers, and the Redis that the workers share, on free ports, with certificates
//! and keys made for the run.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::server::addresses_file;
use crate::harness::transport::tcp;
use crate::harness::{DEADLINE, Server};
use crate::proxy::Proxy;
use crate::servers::{Cluster, Server as RedisServer, free_port, until};

/// How long an orderly end of a worker may take.
const DRAIN: Duration = Duration::from_secs(30);

/// What the workers keep their sessions in.
pub(crate) enum Redis {
    /// Three masters with a replica each.
    Cluster(Cluster),
    /// One process, which nothing replaces.
    Single(RedisServer),
}

impl Redis {
    pub(crate) fn servers(&self) -> &[RedisServer] {
        match self {
            Redis::Cluster(cluster) => &cluster.servers,
            Redis::Single(server) => std::slice::from_ref(server),
        }
    }
}

/// How many of each, and what their configurations say beyond what all have.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) workers: usize,
    pub(crate) edges: usize,
    /// Edge n knows worker n only, so that a test can say by which worker a device is served.
    pub(crate) is_paired: bool,
    /// Edges have a key and sign passports themselves.
    pub(crate) signs_at_edges: bool,
    pub(crate) worker_extra: String,
    pub(crate) edge_extra: String,
}

impl Shape {
    /// Every edge knows every worker.
    pub(crate) fn new(workers: usize, edges: usize) -> Self {
        let (worker_extra, edge_extra) = (String::new(), String::new());
        Self { workers, edges, is_paired: false, signs_at_edges: true, worker_extra, edge_extra }
    }

    /// As many edges as workers, each with one of its own.
    pub(crate) fn paired(count: usize) -> Self {
        Self { is_paired: true, ..Self::new(count, count) }
    }
}

/// Everything that runs.
pub(crate) struct Tiers {
    // Dropped in this order: edges, then workers, then what they write to.
    pub(crate) edges: Vec<Server>,
    pub(crate) workers: Vec<Server>,
    pub(crate) redis: Redis,
    keep: TempDir,
}

impl Tiers {
    /// With a Redis Cluster of six processes.
    pub(crate) fn start(shape: &Shape) -> Tiers {
        Self::start_on(Redis::Cluster(Cluster::start()), shape, |_, nodes| nodes)
    }

    /// With a single Redis.
    pub(crate) fn start_single(shape: &Shape) -> Tiers {
        Self::start_on(Redis::Single(RedisServer::start(&[])), shape, |_, nodes| nodes)
    }

    /// With a single Redis, which the first worker reaches by way of a proxy.
    pub(crate) fn start_with_proxy(shape: &Shape) -> (Tiers, Proxy) {
        let redis = RedisServer::start(&[]);
        let proxy = Proxy::start(SocketAddr::from(([127, 0, 0, 1], redis.port)));
        let by_proxy = format!("redis://{}", proxy.address());
        let nodes = |worker, nodes: Vec<String>| if worker == 0 { vec![by_proxy.clone()] } else { nodes };
        (Self::start_on(Redis::Single(redis), shape, nodes), proxy)
    }

    fn start_on(redis: Redis, shape: &Shape, nodes: impl Fn(usize, Vec<String>) -> Vec<String>) -> Tiers {
        let keep = TempDir::new().unwrap();
        let certs = keep.path().join("certs");
        let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&certs).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut tiers = Tiers { edges: Vec::new(), workers: Vec::new(), redis, keep };
        let links: Vec<String> = (0..shape.workers).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        for (number, link) in links.iter().enumerate() {
            let urls = tiers.redis.servers().iter().map(RedisServer::url).collect();
            let dir = tiers.dir(&format!("worker-{number}"));
            let config = worker_config(&dir, &certs, link, &nodes(number, urls), &shape.worker_extra);
            tiers.workers.push(Server::begin("broker", &dir, &certs.join("ca.pem"), &config));
        }
        for worker in &mut tiers.workers {
            worker.wait_until_up();
        }
        for number in 0..shape.edges {
            let dir = tiers.dir(&format!("edge-{number}"));
            let known = if shape.is_paired { &links[number..=number] } else { &links[..] };
            let key = format!("workers.passport.signing_key_file = \"{}/passport.key\"\n", certs.display());
            let key = if shape.signs_at_edges { key } else { String::new() };
            let config = edge_config(&dir, &certs, known, &(key + &shape.edge_extra));
            tiers.edges.push(Server::begin("lb", &dir, &certs.join("ca.pem"), &config));
        }
        for edge in &mut tiers.edges {
            edge.wait_until_up();
        }
        for server in tiers.workers.iter().chain(&tiers.edges) {
            wait_until_ready(server);
        }
        tiers
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.keep.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }

    pub(crate) fn edges(&self) -> Vec<&Server> {
        self.edges.iter().collect()
    }

    /// `kill -9`.
    pub(crate) fn kill_worker(&mut self, number: usize) {
        self.workers[number].kill();
    }

    /// Starts a worker again where it was, and waits until it serves.
    pub(crate) fn run_worker(&mut self, number: usize) {
        self.workers[number].run();
        self.workers[number].wait_until_up();
        wait_until_ready(&self.workers[number]);
    }

    /// SIGTERM, and the orderly end that follows.
    pub(crate) fn drain_worker(&mut self, number: usize) {
        let worker = &self.workers[number];
        worker.signal("TERM");
        let code = worker.wait_for_end(DRAIN);
        assert_eq!(code, 0, "worker {number} ends in good order:\n{}", tail(&worker.log()));
    }

    /// Runs checks; when one fails, the directory with all logs and configurations is kept and named.
    pub(crate) fn checked(self, checks: impl FnOnce(&Tiers)) {
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| checks(&self))).err();
        if let Some(failed) = failed {
            let Tiers { edges, workers, redis, keep } = self;
            drop((edges, workers, redis));
            println!("logs and configurations are kept in {}", keep.keep().display());
            std::panic::resume_unwind(failed);
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn worker_config(dir: &Path, certs: &Path, link: &str, nodes: &[String], extra: &str) -> String {
    let certs = certs.display();
    format!(
        "link.listen = \"{link}\"\n\
         link.tls = {{ certificate_file = \"{certs}/worker.pem\", key_file = \"{certs}/worker.key\", ca_file = \
         \"{certs}/link-ca.pem\" }}\n\
         passport.verify_key_files = [\"{certs}/passport.pem\"]\n\
         redis.nodes = {nodes:?}\nredis.worker = \"{link}\"\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n{extra}",
        addresses_file(dir)
    )
}

fn edge_config(dir: &Path, certs: &Path, links: &[String], extra: &str) -> String {
    let certs = certs.display();
    format!(
        "listeners = {{ mqtt = \"127.0.0.1:0\", mqtts = \"127.0.0.1:0\", ws = \"off\", wss = \"127.0.0.1:0\" }}\n\
         tls.certificates = [{{ certificate_file = \"{certs}/server.pem\", key_file = \"{certs}/server.key\" }}]\n\
         workers.addresses = {links:?}\n\
         workers.tls = {{ certificate_file = \"{certs}/edge.pem\", key_file = \"{certs}/edge.key\", ca_file = \
         \"{certs}/link-ca.pem\" }}\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n{extra}",
        addresses_file(dir)
    )
}

/// What the admin port of a process answers: status and body.
pub(crate) fn ask(server: &Server, path: &str) -> (u16, String) {
    let mut stream = tcp(server.address_of("admin"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    (status, body)
}

/// Waits until `/readyz` says so.
pub(crate) fn wait_until_ready(server: &Server) {
    until("a process is ready", || ask(server, "/readyz").0 == 200);
}

/// The sum of a metric over its labels; 0 if there is none.
pub(crate) fn metric(server: &Server, name: &str) -> f64 {
    testkit::metrics::sum(&ask(server, "/metrics").1, name)
}

/// Waits for something with a deadline, and says what it was.
pub(crate) fn within<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit.max(DEADLINE);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
