//! A tier, or all of them, as a process: configuration, readiness with a deadline, where it listens.
//! `TIDEGATE_TEST_ADDRESSES` names an addresses file (with `ca`) of a broker that already runs, to try the tests on another one.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::Process;
use super::transport::Transport;

/// From the start of the process to its addresses file; a debug build on a busy machine makes certificates in this time.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// A running server.
pub(crate) struct Server {
    process: Option<Process>,
    command: &'static str,
    addresses: HashMap<String, String>,
    /// How many files it may have open; as many as this process otherwise.
    files: Option<u32>,
    dir: PathBuf,
    ca: PathBuf,
    env: Vec<(&'static str, OsString)>,
    _keep: Option<TempDir>,
}

/// What a connection may take until it is opened, longer than any test: a close is then the answer to what was sent.
const NO_TIME_OUTS: &str =
    "[edge]\nconnect_timeout_ms = 300000\nauthenticate_timeout_ms = 300000\nopen_timeout_ms = 300000\n";

/// The server that the conformance tests share, with the default configuration but for [`NO_TIME_OUTS`].
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| match std::env::var_os("TIDEGATE_TEST_ADDRESSES") {
        Some(file) => Server::running(Path::new(&file)),
        None => Server::start(NO_TIME_OUTS),
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
        let mut server = Server::begin_in(dir, extra);
        server.wait_until_up();
        server
    }

    /// The same without waiting; [`Server::wait_until_up`] does.
    pub(crate) fn begin_in(dir: &Path, extra: &str) -> Server {
        let data = dir.join("data");
        let ca = data.join("certs").join("ca.pem");
        Server::begin("standalone", dir, &ca, &configuration(&data, dir, extra))
    }

    /// As [`Server::start`], with at most so many open files.
    pub(crate) fn start_with_files(files: u32, extra: &str) -> Server {
        let keep = TempDir::new().unwrap();
        let data = keep.path().join("data");
        let (dir, ca) = (keep.path().to_path_buf(), data.join("certs").join("ca.pem"));
        fs::write(dir.join("tidegate.toml"), configuration(&data, &dir, extra)).unwrap();
        let mut server = Server {
            process: None,
            command: "standalone",
            addresses: HashMap::new(),
            files: Some(files),
            dir,
            ca,
            env: Vec::new(),
            _keep: Some(keep),
        };
        server.run();
        server.wait_until_up();
        server
    }

    /// Starts `tidegate COMMAND` with this configuration, which must name `dir/addresses.json` as its addresses file.
    pub(crate) fn launch(command: &'static str, dir: &Path, ca: &Path, config: &str) -> Server {
        let mut server = Server::begin(command, dir, ca, config);
        server.wait_until_up();
        server
    }

    /// The same without waiting; [`Server::wait_until_up`] does.
    pub(crate) fn begin(command: &'static str, dir: &Path, ca: &Path, config: &str) -> Server {
        fs::write(dir.join("tidegate.toml"), config).unwrap();
        let mut server = Server {
            process: None,
            command,
            addresses: HashMap::new(),
            files: None,
            dir: dir.to_path_buf(),
            ca: ca.to_path_buf(),
            env: Vec::new(),
            _keep: None,
        };
        server.run();
        server
    }

    /// Starts one more process with the configuration of this one, and what `change` makes of it, which keeps its log and its
    /// addresses in `dir`.
    pub(crate) fn begin_beside(&self, dir: &Path, change: impl FnOnce(String) -> String) -> Server {
        let config = fs::read_to_string(self.dir.join("tidegate.toml")).unwrap();
        let path = |dir: &Path| addresses_file(dir).display().to_string();
        fs::create_dir_all(dir).unwrap();
        Server::begin(self.command, dir, &self.ca, &change(config.replace(&path(&self.dir), &path(dir))))
    }

    /// Starts the process (again) with the configuration that it had.
    pub(crate) fn run(&mut self) {
        self.process = None;
        let _ = fs::remove_file(addresses_file(&self.dir));
        let config = self.dir.join("tidegate.toml");
        let arguments = [OsStr::new(self.command), OsStr::new("--config"), config.as_os_str()];
        self.process = Some(Process::start(&self.dir, self.files, &arguments, &self.env));
    }

    /// Ends the process and starts it again, with these variables from then on.
    pub(crate) fn restart_with(&mut self, env: Vec<(&'static str, OsString)>) {
        self.env = env;
        self.run();
        self.wait_until_up();
    }

    /// Waits until everything listens, and reads where.
    pub(crate) fn wait_until_up(&mut self) {
        let deadline = Instant::now() + START_DEADLINE;
        let file = addresses_file(&self.dir);
        while !file.exists() {
            let alive = self.is_alive() && Instant::now() < deadline;
            assert!(alive, "{} did not start:\n{}", self.command, self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        self.addresses = read_addresses(&file);
    }

    /// A broker that somebody else runs.
    pub(crate) fn running(addresses_file: &Path) -> Server {
        let addresses = read_addresses(addresses_file);
        let ca = addresses.get("ca").map(PathBuf::from).unwrap_or_default();
        let (dir, env) = (PathBuf::new(), Vec::new());
        Server { process: None, command: "", addresses, files: None, dir, ca, env, _keep: None }
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("a process of ours")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().pid()
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

    /// The same if there is one: `NAME.2` for the second address of a name.
    pub(crate) fn find_address(&self, listener: &str) -> Option<SocketAddr> {
        self.addresses.get(listener).map(|address| address.parse().unwrap())
    }

    /// Whether the process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_alive)
    }

    /// Resident memory of the process in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }

    /// The most memory that the process has had.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        self.process().signal(name);
    }

    /// Waits until the process has ended and answers its exit code (128 and more: by a signal).
    pub(crate) fn wait_for_end(&self, within: Duration) -> i32 {
        self.process().wait_for_end(within)
    }

    /// `kill -9`; nothing of it is left when this returns.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// What the server wrote.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

/// Every listener on a free port, state below `data`.
fn configuration(data: &Path, dir: &Path, extra: &str) -> String {
    format!(
        "[listeners]\nmqtt = \"127.0.0.1:0\"\nmqtts = \"127.0.0.1:0\"\nws = \"127.0.0.1:0\"\nwss = \"127.0.0.1:0\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[data]\ndir = \"{}\"\n[runtime]\naddresses_file = \"{}\"\n{extra}",
        data.display(),
        addresses_file(dir).display(),
    )
}

/// Where a process that runs in `dir` writes down its addresses.
pub(crate) fn addresses_file(dir: &Path) -> PathBuf {
    dir.join("addresses.json")
}

fn read_addresses(file: &Path) -> HashMap<String, String> {
    let text = fs::read_to_string(file).unwrap();
    serde_json::from_str(&text).expect("the addresses file is a JSON object of strings")
}
