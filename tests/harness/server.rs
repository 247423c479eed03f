//! The real binary as a process: configuration, readiness with a deadline, an end that never leaves it behind.
//! `TIDEGATE_TEST_ADDRESSES` names an addresses file (with `ca`) of a broker that already runs, to try the tests on another one.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::transport::Transport;

/// From the start of the process to its addresses file; a debug build on a busy machine makes certificates in this time.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// The server outlives neither this process nor the handle: a shell holds its process id and ends it when its input closes.
const WATCHDOG: &str = r#"exec 3<&0; "$@" </dev/null >&2 3<&- & pid=$!; echo $pid; exec >/dev/null; cat <&3 >/dev/null; kill -9 $pid 2>/dev/null; wait $pid"#;

/// A running server.
pub(crate) struct Server {
    watchdog: Option<Child>,
    pid: u32,
    addresses: HashMap<String, String>,
    dir: PathBuf,
    ca: PathBuf,
    _keep: Option<TempDir>,
}

/// The server with the default configuration that the conformance tests share.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| match std::env::var_os("TIDEGATE_TEST_ADDRESSES") {
        Some(file) => Server::running(Path::new(&file)),
        None => Server::start(""),
    })
}

impl Server {
    /// Starts a server in a directory of its own; `extra` is appended to the configuration.
    pub(crate) fn start(extra: &str) -> Server {
        let keep = TempDir::new().unwrap();
        let mut server = Server::start_in(keep.path(), extra);
        server._keep = Some(keep);
        server
    }

    /// Starts a server whose data is in `dir/data`, which may be there from an earlier run.
    pub(crate) fn start_in(dir: &Path, extra: &str) -> Server {
        let data = dir.join("data");
        let addresses_file = dir.join("addresses.json");
        let _ = fs::remove_file(&addresses_file);
        let config = dir.join("tidegate.toml");
        fs::write(&config, configuration(&data, &addresses_file, extra)).unwrap();
        let log_file = dir.join("log");
        let log = fs::File::options().create(true).append(true).open(&log_file).unwrap();
        let mut watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh", env!("CARGO_BIN_EXE_tidegate"), "--config"])
            .arg(&config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start the server");
        let mut line = String::new();
        BufReader::new(watchdog.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("the process id of the server");
        let mut server = Server {
            watchdog: Some(watchdog),
            pid,
            addresses: HashMap::new(),
            dir: dir.to_path_buf(),
            ca: data.join("certs").join("ca.pem"),
            _keep: None,
        };
        let deadline = Instant::now() + START_DEADLINE;
        while !addresses_file.exists() {
            let alive = server.is_alive() && Instant::now() < deadline;
            assert!(
                alive,
                "the server did not start:\n{}",
                fs::read_to_string(&log_file).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        server.addresses = read_addresses(&addresses_file);
        server
    }

    /// A broker that somebody else runs.
    fn running(addresses_file: &Path) -> Server {
        let addresses = read_addresses(addresses_file);
        let ca = addresses.get("ca").map(PathBuf::from).unwrap_or_default();
        Server { watchdog: None, pid: 0, addresses, dir: PathBuf::new(), ca, _keep: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The directory that holds the configuration, the log and the data.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn ca_file(&self) -> &Path {
        &self.ca
    }

    pub(crate) fn address(&self, transport: Transport) -> SocketAddr {
        self.address_of(transport.listener())
    }

    /// The bound address of a listener by its name in the configuration.
    pub(crate) fn address_of(&self, listener: &str) -> SocketAddr {
        self.addresses[listener].parse().unwrap()
    }

    /// Whether the process still runs (a zombie does not).
    pub(crate) fn is_alive(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    /// Resident memory of the process in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.pid.to_string()).status().unwrap();
        assert!(sent.success(), "kill -{name} {}", self.pid);
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_for_end(&self, within: Duration) {
        let deadline = Instant::now() + within;
        while self.is_alive() {
            assert!(Instant::now() < deadline, "the server still runs after {within:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            let _ = watchdog.wait();
        }
    }
}

/// Every listener on a free port, state below `data`.
fn configuration(data: &Path, addresses_file: &Path, extra: &str) -> String {
    format!(
        "[listeners]\nmqtt = \"127.0.0.1:0\"\nmqtts = \"127.0.0.1:0\"\nws = \"127.0.0.1:0\"\nwss = \"127.0.0.1:0\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[data]\ndir = \"{}\"\n[runtime]\naddresses_file = \"{}\"\n{extra}",
        data.display(),
        addresses_file.display(),
    )
}

fn read_addresses(file: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(file).unwrap();
    serde_json::from_str(&text).expect("the addresses file is a JSON object of strings")
}
