//! The command line from the outside: exit codes, the one line that says why, files made, signals.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected should stop at once")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long anything may take; a debug build on a busy machine is slow.
const DEADLINE: Duration = Duration::from_secs(60);

fn tidegate(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(dir).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    tidegate(dir, arguments).output().unwrap()
}

fn passwd(dir: &Path, arguments: &[&str], input: &str) -> Output {
    let arguments = [&["passwd"], arguments].concat();
    let mut command = tidegate(dir, &arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Exit code and standard error, without its last line feed.
fn failure(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    (output.status.code().unwrap_or(-1), text)
}

fn last_line(output: &Output) -> (i32, String) {
    let (code, text) = failure(output);
    (code, text.lines().last().unwrap_or_default().to_owned())
}

/// Every port free, data in the directory.
fn write_config(dir: &Path, extra: &str) {
    let text = format!(
        "[listeners]\nmqtt = '127.0.0.1:0'\nmqtts = '127.0.0.1:0'\nws = '127.0.0.1:0'\nwss = '127.0.0.1:0'\n\
         [admin]\nlisten = '127.0.0.1:0'\n[runtime]\naddresses_file = 'addresses.json'\n{extra}"
    );
    fs::write(dir.join("tidegate.toml"), text).unwrap();
}

/// A server that is ended with its handle.
struct Server {
    child: Child,
    addresses: serde_json::Value,
}

impl Server {
    fn start(dir: &Path, extra: &str) -> Self {
        Self::wait_for(dir, tidegate(dir, &["--config", "tidegate.toml"]), extra)
    }

    /// By `command`, which must run it in `dir` on its `tidegate.toml`.
    fn wait_for(dir: &Path, mut command: Command, extra: &str) -> Self {
        write_config(dir, extra);
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let file = dir.join("addresses.json");
        let deadline = Instant::now() + DEADLINE;
        while !file.exists() {
            let ended = child.try_wait().unwrap();
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "did not start:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
        let addresses = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        Self { child, addresses }
    }

    fn connect(&self, listener: &str) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[listener].as_str().unwrap()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.unwrap().success());
    }

    fn wait(&mut self) -> Option<i32> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server did not end");
    }

    fn http(&self, path: &str) -> String {
        let mut stream = self.connect("admin");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Reason Code of the CONNACK to an MQTT 5 CONNECT with these credentials.
fn reason_code(server: &Server, user: &str, password: &str) -> u8 {
    let field = |text: &str| [&[0, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut body = b"\x00\x04MQTT\x05\xc2\x00\x3c\x00".to_vec();
    for text in ["cli-test", user, password] {
        body.extend(field(text));
    }
    let mut stream = server.connect("mqtt");
    stream.write_all(&[&[0x10, u8::try_from(body.len()).unwrap()], &*body].concat()).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack[0], 0x20);
    connack[3]
}

#[test]
fn check_prints_what_is_in_force_and_starts_nothing() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path(), "[edge]\nlinger_ms = 77\n");
    let mut command = tidegate(dir.path(), &["--config", "tidegate.toml", "--check"]);
    let output = command.env("TIDEGATE__BROKER__SYS_INTERVAL_S", "3").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown = stdout(&output);
    assert!(shown.contains("linger_ms = 77\n") && shown.contains("sys_interval_s = 3\n"), "{shown}");
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_wrong_configuration_is_one_line_and_64() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path(), "[edge]\nlinger = 1\n");
    let output = run(dir.path(), &["--config", "tidegate.toml"]);
    let line = "tidegate: tidegate.toml: edge.linger: unknown key; did you mean edge.linger_ms?";
    assert_eq!(failure(&output), (64, line.to_owned()));
    assert!(!dir.path().join("data").exists(), "nothing was begun");
}

/// What may mend by itself is no mistake of the configuration, so that who starts the process tries again.
#[test]
fn files_and_names_that_cannot_be_used_are_not_64() {
    let dir = TempDir::new().unwrap();
    for certs in ["one", "other"] {
        assert!(run(dir.path(), &["certs", certs]).status.success());
    }
    fs::write(dir.path().join("short"), "short").unwrap();
    let tls = |certificate: &str, key: &str| {
        format!("tls.certificates = [{{ certificate_file = '{certificate}', key_file = '{key}' }}]\n")
    };
    let tier =
        |tls: &str| format!("listeners = {{ mqtt = 'off', mqtts = 'off', ws = 'off', wss = 'off' }}\n{tls}");
    let links = |ca: &str| {
        format!("{{ certificate_file = 'one/worker.pem', key_file = 'one/worker.key', ca_file = '{ca}' }}")
    };
    let worker = |tls: &str, key: &str| {
        format!(
            "link.tls = {tls}\npassport.verify_key_files = ['{key}']\nredis.nodes = ['redis://127.0.0.1:1']\n"
        )
    };
    let service = |key: &str| format!("passport.signing_key_file = '{key}'\n");
    let cases = [
        ("standalone", tls("none.pem", "one/server.key"), 74, "cannot read"),
        ("standalone", tls("one/server.pem", "other/server.key"), 74, "is not the key of"),
        ("standalone", tls("short", "one/server.key"), 74, "short"),
        ("standalone", "auth.password_file = 'none'\n".to_owned(), 74, "none"),
        ("standalone", "admin.token_file = 'short'\n".to_owned(), 74, "a token has"),
        (
            "lb",
            tier("workers = { addresses = ['127.0.0.1:1'], passport.signing_key_file = 'none' }\n"),
            74,
            "none",
        ),
        ("broker", worker(&links("none"), "one/passport.pem"), 74, "none"),
        ("broker", worker(&links("one/link-ca.pem"), "none"), 74, "none"),
        ("authsvc", service("none"), 74, "none"),
        ("authsvc", String::new(), 64, "is needed"),
        ("standalone", "listeners.mqtt = 'no such name:1883'\n".to_owned(), 69, "cannot be resolved"),
        ("standalone", "listeners.mqtt = '127.0.0.1'\n".to_owned(), 64, "the port is missing"),
    ];
    for (tier, text, code, expected) in cases {
        fs::write(dir.path().join("tidegate.toml"), &text).unwrap();
        let (ended, line) = failure(&run(dir.path(), &[tier, "--config", "tidegate.toml", "--check"]));
        assert!(ended == code && line.contains(expected), "{text}: {ended} {line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_64() {
    let dir = TempDir::new().unwrap();
    let output = run(dir.path(), &["--confg"]);
    let (code, line) = failure(&output);
    assert_eq!((code, line.lines().count()), (64, 1), "{line}");
    assert!(run(dir.path(), &["--help"]).status.success());
    assert!(stdout(&run(dir.path(), &["--version"])).starts_with("tidegate "));
}

#[test]
fn a_port_in_use_is_named_with_its_listener() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    write_config(dir.path(), "");
    for (variable, key) in
        [("TIDEGATE__LISTENERS__WS", "listeners.ws.bind"), ("TIDEGATE__ADMIN__LISTEN", "admin.listen")]
    {
        let mut command = tidegate(dir.path(), &["--config", "tidegate.toml"]);
        let (code, line) = last_line(&command.env(variable, &address).output().unwrap());
        let expected = format!("tidegate: {key} = \"{address}\": cannot listen: Address already in use");
        assert!(code == 69 && line.starts_with(&expected), "{code} {line}");
    }
}

#[test]
fn a_data_directory_in_use_is_named() {
    let dir = TempDir::new().unwrap();
    let _server = Server::start(dir.path(), "");
    let (code, line) = last_line(&run(dir.path(), &["--config", "tidegate.toml"]));
    let expected = "tidegate: the store in data/state is in use by another process; set data.dir to another \
                    directory or end that process";
    assert_eq!((code, line.as_str()), (69, expected));
}

#[test]
fn the_first_start_makes_certificates_and_says_how_to_connect() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start(dir.path(), "");
    assert!(server.http("/readyz").starts_with("HTTP/1.1 200"));
    assert!(server.http("/metrics").contains("tidegate_"));
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let mut text = String::new();
    server.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    let port =
        |listener: &str| server.addresses[listener].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    for expected in [
        format!("mosquitto_sub -h 127.0.0.1 -p {} -t 'hello/#' -v", port("mqtt")),
        format!("mosquitto_pub -h 127.0.0.1 -p {} --cafile data/certs/ca.pem -t hello/world", port("mqtts")),
        format!("ws://127.0.0.1:{}/mqtt", port("ws")),
        format!("wss://127.0.0.1:{}/mqtt", port("wss")),
    ] {
        assert!(text.contains(&expected), "{expected} in {text}");
    }
    assert!(dir.path().join("data/certs/ca.pem").exists());
}

#[test]
fn sigterm_ends_in_good_order_with_devices_connected() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start(dir.path(), "");
    let mut device = server.connect("mqtt");
    device.write_all(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03dev").unwrap();
    let mut connack = [0; 2];
    device.read_exact(&mut connack).unwrap();
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    let mut rest = Vec::new();
    device.read_to_end(&mut rest).unwrap();
    // v5 section 4.13: the device is told that the server is shutting down.
    assert!(rest.windows(3).any(|bytes| bytes[0] == 0xe0 && bytes[2] == 0x8b), "{rest:x?}");
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.lines().all(|line| line.starts_with('{')), "logs are JSON where no terminal is: {log}");
    assert!(log.contains("\"message\":\"stopped\""), "{log}");
}

#[test]
fn a_user_made_by_passwd_can_connect_and_others_cannot() {
    let dir = TempDir::new().unwrap();
    let added = passwd(dir.path(), &["users", "alice"], "secret\n");
    assert_eq!(stdout(&added), "added alice in users\n");
    let server = Server::start(dir.path(), "[auth]\npassword_file = 'users'\n");
    assert_eq!(reason_code(&server, "alice", "secret"), 0x00);
    assert_eq!(reason_code(&server, "alice", "wrong"), 0x86);
    assert_eq!(reason_code(&server, "bob", "secret"), 0x86);

    let changed = passwd(dir.path(), &["users", "alice"], "other\n");
    assert_eq!(stdout(&changed), "changed alice in users\n");
    server.signal("HUP");
    let deadline = Instant::now() + DEADLINE;
    while reason_code(&server, "alice", "secret") == 0 {
        assert!(Instant::now() < deadline, "the password file is not read again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(reason_code(&server, "alice", "other"), 0x00);
}

/// Every file below `dir` that others can get at, with its permissions.
fn open_to_others(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            found.push(format!("{} {mode:o}", path.display()));
        }
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// As `tidegate`, in a shell without a umask.
fn without_umask(dir: &Path, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    let line = format!("umask 0; exec \"$0\" {arguments}");
    command.current_dir(dir).args(["-c", &line, env!("CARGO_BIN_EXE_tidegate")]).stdin(Stdio::null());
    command
}

#[test]
fn what_is_made_is_for_its_owner_only_whatever_the_umask() {
    let dir = TempDir::new().unwrap();
    let start = || {
        let _ = fs::remove_file(dir.path().join("addresses.json"));
        let command = without_umask(dir.path(), "--config tidegate.toml");
        Server::wait_for(dir.path(), command, "")
    };
    let mut server = start();
    let mut device = server.connect("mqtt");
    // A stored session with a queued message, so that there is a payload in the journal.
    device
        .write_all(b"\x10\x0f\x00\x04MQTT\x04\x00\x00\x3c\x00\x03dev\x82\x06\x00\x01\x00\x01a\x01")
        .unwrap();
    device.read_exact(&mut [0; 9]).unwrap();
    drop(device);
    server.signal("TERM");
    assert_eq!(server.wait(), Some(0));
    drop(server);
    assert_eq!(open_to_others(&dir.path().join("data")), [""; 0]);

    // What an earlier version has left open is closed.
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["data", "data/state", "data/state/db", "data/state/lock"] {
        let path = dir.path().join(name);
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let server = start();
    assert_eq!(open_to_others(&dir.path().join("data/state")), [""; 0]);
    drop(server);

    let made = without_umask(dir.path(), "certs pki").output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut passwd = without_umask(dir.path(), "passwd users alice");
    let mut passwd = passwd.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    passwd.stdin.take().unwrap().write_all(b"secret\n").unwrap();
    assert!(passwd.wait().unwrap().success());
    assert_eq!(open_to_others(&dir.path().join("users")), [""; 0]);
    let open = open_to_others(&dir.path().join("pki"));
    let is_public = |line: &String| line.ends_with(".pem 644") || line.ends_with("/pki 755");
    assert!(open.iter().all(is_public), "certificates may be read, and nothing written: {open:?}");
}

#[test]
fn an_address_without_a_port_or_host_says_what_is_missing() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path(), "");
    let cases = [
        ("LISTENERS__WS", "'127.0.0.1'", "the port is missing; write 127.0.0.1:PORT"),
        ("LISTENERS__WS", "1883", "the address is missing; write 127.0.0.1:1883 for this machine only"),
        ("ADMIN__LISTEN", "':9101'", "the address is missing; write 127.0.0.1:9101 for this machine only"),
        ("ADMIN__LISTEN", "'::1'", "an IPv6 address stands in brackets; write [::1]:PORT"),
    ];
    for (variable, value, expected) in cases {
        let mut command = tidegate(dir.path(), &["--config", "tidegate.toml", "--check"]);
        let output = command.env(format!("TIDEGATE__{variable}"), value).output().unwrap();
        let (code, line) = failure(&output);
        assert!(code == 64 && line.contains(expected), "{code} {line}");
    }
}

#[test]
fn passwd_deletes_and_refuses() {
    let dir = TempDir::new().unwrap();
    assert!(passwd(dir.path(), &["users", "alice"], "secret").status.success());
    let text = fs::read_to_string(dir.path().join("users")).unwrap();
    assert!(text.contains("alice:$argon2id$") && text.contains("alice:$scram-sha-256$"), "{text}");
    let cases: [(&[&str], &str, &str); 4] = [
        (&["users", "bob"], "", "tidegate: the password is empty; nothing was changed"),
        (&["users", "--delete", "bob"], "", "tidegate: users has no user \"bob\""),
        (
            &["users", "a/b"],
            "secret",
            "tidegate: user name \"a/b\": the user name must not contain : / + # $ * or control characters",
        ),
        (
            &["tidegate.toml", "bob"],
            "secret",
            "tidegate: password file \"tidegate.toml\" line 1: expected user:record",
        ),
    ];
    fs::write(dir.path().join("tidegate.toml"), "[edge]\n").unwrap();
    for (arguments, input, line) in cases {
        assert_eq!(failure(&passwd(dir.path(), arguments, input)), (64, line.to_owned()));
    }
    assert_eq!(stdout(&passwd(dir.path(), &["users", "alice", "--delete"], "")), "deleted alice in users\n");
    assert!(!fs::read_to_string(dir.path().join("users")).unwrap().contains("alice"));
}

#[test]
fn certs_makes_what_is_missing() {
    let dir = TempDir::new().unwrap();
    let first = run(dir.path(), &["certs", "pki"]);
    assert_eq!(stdout(&first).lines().filter(|line| line.starts_with("made")).count(), 16, "{first:?}");
    let second = run(dir.path(), &["certs", "pki"]);
    assert_eq!(stdout(&second).lines().filter(|line| line.starts_with("kept")).count(), 16, "{second:?}");
}

/// `tidegate healthcheck` of whoever has its admin endpoint at `address`.
fn healthcheck(dir: &Path, address: &str) -> (i32, String) {
    let mut command = tidegate(dir, &["healthcheck", "--config", "tidegate.toml"]);
    let output = command.env("TIDEGATE__ADMIN__LISTEN", address).output().unwrap();
    let (code, line) = failure(&output);
    (code, if code == 0 { stdout(&output) } else { line })
}

#[test]
fn healthcheck_tells_by_its_exit_code_whether_a_process_is_ready() {
    let dir = TempDir::new().unwrap();
    let mut server = Server::start(dir.path(), "");
    let address = server.addresses["admin"].as_str().unwrap().to_owned();
    assert_eq!(healthcheck(dir.path(), &address), (0, "ready\n".to_owned()));
    let everywhere = address.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(healthcheck(dir.path(), &everywhere), (0, "ready\n".to_owned()));
    server.signal("TERM");
    server.wait();
    let (code, line) = healthcheck(dir.path(), &address);
    let expected = format!("tidegate: no answer from http://{address}/readyz: Connection refused");
    assert!(code == 1 && line.starts_with(&expected), "{code} {line}");
    let (code, line) = healthcheck(dir.path(), "127.0.0.1:0");
    assert!(code == 64 && line.contains("admin.listen has no port"), "{code} {line}");
}

#[test]
fn healthcheck_says_why_a_process_is_not_ready() {
    let dir = TempDir::new().unwrap();
    write_config(dir.path(), "");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers =
        ["503 Service Unavailable\r\n\r\ndraining\n", "200 OK\r\n\r\nok\n", "404 Not Found\r\n\r\n"];
    let serving = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                question.extend(byte);
            }
            assert!(question.starts_with(b"GET /readyz HTTP/1.1\r\n"), "{question:?}");
            write!(stream, "HTTP/1.1 {answer}").unwrap();
        }
    });
    assert_eq!(healthcheck(dir.path(), &address), (1, "tidegate: not ready: draining".to_owned()));
    assert_eq!(healthcheck(dir.path(), &address), (0, "ready\n".to_owned()));
    let line = format!("tidegate: http://{address}/readyz is no admin endpoint of tidegate");
    assert_eq!(healthcheck(dir.path(), &address), (1, line));
    serving.join().unwrap();
}

#[test]
fn init_makes_what_a_stack_needs_and_welcome_says_how_to_connect() {
    let dir = TempDir::new().unwrap();
    let init = ["init", "pki", "--name", "broker.example.com", "--name", "192.0.2.1", "--user", "first"];
    let first = stdout(&run(dir.path(), &init));
    for file in [
        "ca.pem",
        "server.key",
        "worker.pem",
        "passport.key",
        "tickets.secret",
        "admin.token",
        "users",
        "first-user",
    ] {
        assert!(first.contains(&format!("made  pki/{file}\n")), "{file} in {first}");
    }
    let before = fs::read(dir.path().join("pki/users")).unwrap();
    assert_eq!(stdout(&run(dir.path(), &init)), "everything is there already in pki\n");
    assert_eq!(fs::read(dir.path().join("pki/users")).unwrap(), before);
    let open = open_to_others(&dir.path().join("pki"));
    assert!(open.iter().all(|line| line.ends_with(".pem 644") || line.ends_with("/pki 755")), "{open:?}");

    let copy = "docker cp welcome:/pki/ca.pem ca.pem";
    let text = stdout(&run(dir.path(), &["welcome", "pki", "--mqtts-ports", "8885-8886", "--copy", copy]));
    let stored = fs::read_to_string(dir.path().join("pki/first-user")).unwrap();
    let password = stored.trim().strip_prefix("first:").unwrap();
    let options = format!("-h localhost -p 8885 --cafile ca.pem -u first -P {password}");
    assert!(text.contains(&format!("  {copy}\n  mosquitto_sub {options} -t 'hello/#' -v\n")), "{text}");
    assert!(text.contains(&format!("  mosquitto_pub {options} -t hello/world -m 'hi'\n")), "{text}");
    assert!(text.contains("wss://localhost:8084/mqtt"), "{text}");

    assert_eq!(fs::read_to_string(dir.path().join("pki/admin.token")).unwrap().trim_end().len(), 32);
    let server = Server::start(dir.path(), "[auth]\npassword_file = 'pki/users'\n");
    assert_eq!(reason_code(&server, "first", password), 0x00);
    assert_eq!(reason_code(&server, "first", "wrong"), 0x86);
    fs::remove_file(dir.path().join("pki/first-user")).unwrap();
    assert_eq!(stdout(&run(dir.path(), &init)), "everything is there already in pki\n");
    assert!(stdout(&run(dir.path(), &["welcome", "pki"])).contains("-u USER -P PASSWORD"));
}

/// File, who, what; exit code and standard output.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str], i32, &'a str);

#[test]
fn which_rule_decides_is_told() {
    let dir = TempDir::new().unwrap();
    fs::write(
        dir.path().join("tidegate.toml"),
        "[[authorization.rule]]\nwho = ['group:staff']\neffect = 'deny'\naction = 'all'\ntopics = ['sites/%{site}/x']\n\
         [[authorization.rule]]\nwho = ['*']\neffect = 'allow'\naction = 'all'\nqos = [0, 1]\n\
         topics = ['sites/#', 'own/%c']\n",
    )
    .unwrap();
    fs::write(dir.path().join("acl"), "topic read open\nuser alice\ntopic write a/#\ntopic deny a/b\n")
        .unwrap();
    let staff = ["--as", "alice", "--client", "c", "--group", "staff", "--attribute", "site=bern"];
    let alice = ["--as", "alice", "--client", "c"];
    let cases: &[Case] = &[
        ("tidegate.toml", &staff, &["publish", "sites/bern/x"], 1, "denied: authorization.rule[0]\n"),
        ("tidegate.toml", &staff, &["publish", "sites/x/x"], 0, "allowed: authorization.rule[1]\n"),
        (
            "tidegate.toml",
            &alice,
            &["--qos", "2", "subscribe", "sites/+"],
            0,
            "allowed with QoS 1: authorization.rule[1]\n",
        ),
        ("tidegate.toml", &alice, &["publish", "own/c", "--qos", "2"], 1, "denied: no rule applies\n"),
        ("tidegate.toml", &alice, &["publish", "$SYS/x"], 1, "denied: $SYS is the server's\n"),
        (
            "tidegate.toml",
            &["--client", "c"],
            &["publish", "own/c", "--retain"],
            1,
            "denied: no rule applies\n",
        ),
        (
            "tidegate.toml",
            &["--as", "alice", "--client", "a/b"],
            &["publish", "x"],
            1,
            "denied: it may not connect, since what a rule names of it is missing or no level of a topic\n",
        ),
        ("acl", &alice, &["publish", "a/b"], 1, "denied: acl line 4 (topic deny a/b)\n"),
        ("acl", &alice, &["publish", "a/c"], 0, "allowed: acl line 3 (topic write a/#)\n"),
        ("acl", &["--client", "c"], &["subscribe", "#"], 0, "allowed: acl line 1 (topic read open)\n"),
        ("acl", &["--client", "c"], &["receive", "a"], 1, "denied: no rule applies\n"),
    ];
    for (file, who, what, code, text) in cases {
        let arguments = [&["authsvc", "--check-rules", file], *who, what].concat();
        let output = run(dir.path(), &arguments);
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(*code), *text), "{arguments:?}");
        assert_eq!(failure(&output).1, "", "{arguments:?}");
    }
    fs::write(dir.path().join("acl"), "nonsense\n").unwrap();
    let output = run(dir.path(), &["authsvc", "--check-rules", "acl", "--client", "c", "publish", "a"]);
    let problem =
        "tidegate: ACL file \"acl\" line 1: \"nonsense\" is not user, topic, pattern or a comment (#)";
    assert_eq!(failure(&output), (64, problem.to_owned()));
    for wrong in [&["--check-rules", "acl", "publish", "a"][..], &["--as", "alice"]] {
        assert_eq!(failure(&run(dir.path(), &[&["authsvc"], wrong].concat())).0, 64, "{wrong:?}");
    }
}

// Where systemd is: units that it would read otherwise than meant.
#[test]
fn units_of_systemd_are_understood() {
    let dir = TempDir::new().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    let mut count = 0;
    for unit in fs::read_dir(units).unwrap().map(|entry| entry.unwrap().path()) {
        let is_socket = unit.extension().is_some_and(|extension| extension == "socket");
        if is_socket || unit.extension().is_some_and(|extension| extension == "service") {
            let text = fs::read_to_string(&unit).unwrap();
            let installed = "ExecStart=/usr/bin/tidegate";
            assert!(is_socket || text.contains(installed), "{unit:?}");
            let here = format!("ExecStart={}", env!("CARGO_BIN_EXE_tidegate"));
            let copy = dir.path().join(unit.file_name().unwrap());
            fs::write(&copy, text.replace(installed, &here)).unwrap();
            command.arg(copy);
            count += 1;
        }
    }
    assert_eq!(count, 7, "units");
    let Ok(output) = command.output() else {
        println!("SKIPPED: systemd-analyze is missing");
        return;
    };
    // What it says of other units of this machine does not count.
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<&str> = text.lines().filter(|line| line.contains("tidegate")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}
