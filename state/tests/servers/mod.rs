//! Real Redis processes for tests, on free ports: a single server, or a cluster of three masters with a replica each. To be
//! included by path; needs `redis` and `tempfile`. A small shell watches each process, and ends it, by its id, and
//! removes its directory when the test's process is gone, however that ended.

#![allow(dead_code, reason = "each test binary that includes this uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Set to 1, it lets tests run that start processes and take long.
pub(crate) const GATE: &str = "TIDEGATE_SYSTEM_TESTS";

const DEADLINE: Duration = Duration::from_secs(60);

/// Ends the whole test binary, saying why, unless its tests are wanted and can run. In CI they must be able to.
pub(crate) fn gate() {
    let mut skip = None;
    if std::env::var(GATE).is_ok_and(|value| value == "1") {
        if Command::new("redis-server").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "redis-server is missing");
            skip = Some("redis-server is missing".to_owned());
        }
    } else {
        skip = Some(format!("set {GATE}=1 to run them"));
    }
    if let Some(reason) = skip {
        // Past the capture of the test runner.
        writeln!(std::io::stderr().lock(), "SKIPPED all tests of this binary: {reason}").ok();
        std::process::exit(0);
    }
}

/// A port that is free, given to nobody else of this process. Outgoing connections do not get one of these, as a rule, so
/// that a server which is started again finds it free.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u32 = 12_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Others that run at the same time begin elsewhere.
    let begin = std::process::id().wrapping_mul(2_654_435_761) % COUNT;
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < COUNT, "all ports are taken");
        let port = FIRST + ((begin + given) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits for a state.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A Redis process.
pub(crate) struct Server {
    pub(crate) port: u16,
    dir: PathBuf,
    args: Vec<String>,
    process: Mutex<Option<Process>>,
}

struct Process {
    watcher: Child,
    /// While it is open, the watcher waits.
    _leash: ChildStdin,
    id: String,
}

impl Server {
    /// Starts one, with settings in the form of its command line, and waits until it answers.
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::start_on(free_port(), settings)
    }

    /// The same, on a port of the caller's, which may be set to something else than plain text.
    pub(crate) fn start_on(port: u16, settings: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("tidegate-redis-").tempdir().expect("a directory").keep();
        let mut args: Vec<String> = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
            .iter()
            .chain(["--maxmemory-policy", "noeviction", "--bind", "127.0.0.1", "--daemonize", "no"].iter())
            .chain(["--hash-max-listpack-entries", "128", "--hash-max-listpack-value", "512"].iter())
            .chain(settings)
            .map(|arg| (*arg).to_owned())
            .collect();
        if !settings.contains(&"--port") {
            args.extend(["--port".to_owned(), port.to_string()]);
        }
        let dir_arg = dir.to_string_lossy().into_owned();
        args.extend(["--dir".to_owned(), dir_arg.clone(), "--logfile".to_owned(), format!("{dir_arg}/log")]);
        let server = Self { port, dir, args, process: Mutex::new(None) };
        server.run();
        server
    }

    /// Starts the process again, with what it had written.
    pub(crate) fn run(&self) {
        const WATCH: &str = r#"dir=$1; shift
redis-server "$@" >/dev/null 2>&1 </dev/null &
echo $!
cat >/dev/null
kill -9 $! 2>/dev/null
rm -rf "$dir""#;
        let mut watcher = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(&self.dir)
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let leash = watcher.stdin.take().expect("its input");
        let mut id = String::new();
        BufReader::new(watcher.stdout.take().expect("its output")).read_line(&mut id).expect("an id");
        *self.process.lock().expect("a process") =
            Some(Process { watcher, _leash: leash, id: id.trim().to_owned() });
        until("redis listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn signal(&self, name: &str) {
        let process = self.process.lock().expect("a process");
        let id = &process.as_ref().expect("running").id;
        Command::new("kill").args([name, id]).status().expect("a signal");
    }

    /// `kill -9`. Its directory stays.
    pub(crate) fn kill(&self) {
        self.signal("-9");
        let Some(mut process) = self.process.lock().expect("a process").take() else { return };
        // The watcher must not remove the directory: it goes first.
        process.watcher.kill().ok();
        process.watcher.wait().ok();
        until("the port is free", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err());
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    /// Runs a command of Redis, on a connection of its own, and answers what `redis-cli` prints of it into a file: nothing when the
    /// server cannot be reached. A process for each would cost more than the servers do while a test waits for their state.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        let (name, rest) = args.split_first().expect("a command");
        if name.starts_with("--") {
            return self.cli_process(args);
        }
        let connection = redis::Client::open(self.url()).and_then(|client| client.get_connection());
        let Ok(mut connection) = connection else { return String::new() };
        let answer = redis::cmd(name).arg(rest).query::<redis::Value>(&mut connection);
        answer.map_or_else(|error| error.to_string(), |value| printed(&value)).trim().to_owned()
    }

    /// What `redis-cli` itself does with its own options.
    fn cli_process(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(args)
            .env_remove("REDISCLI_AUTH")
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// What it wrote into its log.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = std::fs::File::open(self.dir.join("log")) {
            file.read_to_string(&mut text).ok();
        }
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = self.process.lock().expect("a process").take() {
            let Process { mut watcher, _leash: leash, .. } = process;
            drop(leash);
            watcher.wait().ok();
        }
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

/// An answer as `redis-cli` prints it where nobody looks.
fn printed(value: &redis::Value) -> String {
    match value {
        redis::Value::Int(number) => number.to_string(),
        redis::Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        redis::Value::SimpleString(text) | redis::Value::VerbatimString { text, .. } => text.clone(),
        redis::Value::Okay => "OK".to_owned(),
        redis::Value::Array(values) => values.iter().map(printed).collect::<Vec<_>>().join("\n"),
        redis::Value::Nil => String::new(),
        other => panic!("no test asks for {other:?}"),
    }
}

/// Three masters with a replica each.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    /// Starts six processes and waits until all agree.
    pub(crate) fn start() -> Self {
        let servers: Vec<Server> = (0..6)
            .map(|_| {
                let bus = free_port().to_string();
                let settings =
                    ["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"];
                let rest = ["--cluster-require-full-coverage", "no", "--cluster-config-file", "nodes.conf"];
                Server::start(&[&settings[..], &rest[..]].concat())
            })
            .collect();
        let nodes: Vec<String> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let output = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&nodes)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let cluster = Self { servers };
        cluster.settle();
        cluster
    }

    /// Waits until every process that runs sees all slots served, and each master has a replica that is in step.
    pub(crate) fn settle(&self) {
        until("the cluster is whole", || {
            self.servers.iter().all(|server| {
                let is_ok = server.cli(&["cluster", "info"]).contains("cluster_state:ok");
                let replication = server.cli(&["info", "replication"]);
                let is_linked = if replication.contains("role:master") {
                    replication.contains("connected_slaves:1") && replication.contains("state=online")
                } else {
                    replication.contains("master_link_status:up")
                };
                is_ok && is_linked && self.masters().len() == 3
            })
        });
    }

    pub(crate) fn masters(&self) -> Vec<&Server> {
        let is_master = |server: &&Server| {
            let replication = server.cli(&["info", "replication"]);
            replication.contains("role:master")
        };
        self.servers.iter().filter(is_master).collect()
    }

    /// The replica of a master.
    pub(crate) fn replica_of(&self, master: &Server) -> &Server {
        let follows = format!("master_port:{}\r", master.port);
        self.servers
            .iter()
            .find(|server| server.cli(&["info", "replication"]).contains(&follows))
            .expect("a replica")
    }

    /// The master that has a slot.
    pub(crate) fn owner(&self, slot: u16) -> &Server {
        let port = |line: &str| line.split_whitespace().nth(1)?.split(['@', ':']).nth(1)?.parse::<u16>().ok();
        let nodes = self
            .servers
            .iter()
            .map(|server| server.cli(&["cluster", "nodes"]))
            .find(|nodes| !nodes.is_empty());
        let nodes = nodes.expect("a node that answers");
        let has_slot = |line: &&str| {
            line.contains("master")
                && !line.contains("fail")
                && line.split_whitespace().skip(8).any(|range| {
                    let (first, last) = range.split_once('-').unwrap_or((range, range));
                    matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
                })
        };
        let found = nodes.lines().find(has_slot).and_then(port).expect("an owner");
        self.servers.iter().find(|server| server.port == found).expect("one of ours")
    }
}
