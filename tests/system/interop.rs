//! Other people's clients against the real binary: mosquitto_pub and mosquitto_sub, paho-mqtt 1.x and 2.x, MQTT.js, a Mosquitto bridge,
//! and what sslyze and openssl say of a listener.
//! `tests/interop/setup` fetches the libraries once, into the target directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::authority::Authority;

use crate::harness::bytes::{Connect, Publish};
use crate::harness::{DEADLINE, Server, Target, Transport, shared, unique};
use crate::tiers::metric;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop");

/// The folder with the virtual environments of Python and the modules of Node.
pub(crate) fn libraries() -> &'static Path {
    static DONE: OnceLock<PathBuf> = OnceLock::new();
    DONE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        let setup = Command::new(Path::new(SCRIPTS).join("setup")).arg(&folder).output().unwrap();
        assert!(setup.status.success(), "tests/interop/setup:\n{}", text(&setup));
        folder
    })
}

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a scenario script: it exits 0 or says what went wrong.
fn scenario(mut program: Command, transport: Transport, version: &str) {
    let server = shared();
    let address = server.address(transport);
    let kind = transport.listener();
    let output = program
        .args([kind, &address.ip().to_string(), &address.port().to_string(), version, &unique("x")])
        .arg(server.ca_file())
        .output()
        .unwrap();
    assert!(output.status.success(), "{kind} {version}:\n{}", text(&output));
}

fn paho(environment: &str) {
    let python = libraries().join(environment).join("bin/python");
    for transport in Transport::ALL {
        for version in ["3.1", "3.1.1", "5"] {
            let mut program = Command::new(&python);
            program.arg(Path::new(SCRIPTS).join("paho_client.py"));
            scenario(program, transport, version);
        }
    }
}

#[test]
fn paho_1_works_over_every_transport_and_version() {
    paho("paho1");
}

#[test]
fn paho_2_works_over_every_transport_and_version() {
    paho("paho2");
}

#[test]
fn mqttjs_works_over_every_transport_and_version() {
    let modules = libraries().join("node_modules");
    for transport in Transport::ALL {
        for version in ["3.1", "3.1.1", "5"] {
            let mut program = Command::new("node");
            program.arg(Path::new(SCRIPTS).join("mqttjs_client.js")).env("NODE_PATH", &modules);
            scenario(program, transport, version);
        }
    }
}

/// A client of Mosquitto with where to connect.
fn mosquitto(program: &str, transport: Transport, version: &str) -> Command {
    let server = shared();
    let address = server.address(transport);
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-p", &address.port().to_string(), "-V", version]);
    if transport == Transport::Tls {
        command.arg("--cafile").arg(server.ca_file());
    }
    command
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn mosquitto_clients_work_over_tcp_and_tls() {
    for transport in [Transport::Tcp, Transport::Tls] {
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            for qos in ["0", "1", "2"] {
                exchange(transport, version, qos);
            }
        }
    }
}

/// Twenty messages from mosquitto_pub to mosquitto_sub, a retained one first.
fn exchange(transport: Transport, version: &str, qos: &str) {
    let topic = unique("t");
    let retained = mosquitto("mosquitto_pub", transport, version)
        .args(["-t", &topic, "-q", qos, "-r", "-m", "retained"])
        .output()
        .unwrap();
    assert!(retained.status.success(), "{}", text(&retained));
    let mut subscriber = Running(
        mosquitto("mosquitto_sub", transport, version)
            .args(["-t", &topic, "-q", qos, "-C", "21", "-W", "20"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "retained");
    let mut publisher = mosquitto("mosquitto_pub", transport, version)
        .args(["-t", &topic, "-q", qos, "-l"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let numbers: String = (0..20).map(|number| format!("{number}\n")).collect();
    std::io::Write::write_all(&mut publisher.stdin.take().unwrap(), numbers.as_bytes()).unwrap();
    assert!(publisher.wait().unwrap().success());
    let received: Vec<String> = lines.map(Result::unwrap).collect();
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(received, wanted, "{transport:?} {version} QoS {qos}");
    assert!(subscriber.0.wait().unwrap().success());
    let removed =
        mosquitto("mosquitto_pub", transport, version).args(["-t", &topic, "-r", "-n"]).output().unwrap();
    assert!(removed.status.success());
}

#[test]
fn mosquitto_sub_resumes_its_session() {
    let (topic, id) = (unique("t"), unique("s"));
    let subscriber = |count: &str| {
        let mut command = mosquitto("mosquitto_sub", Transport::Tls, "mqttv5");
        command.args(["-t", &topic, "-q", "2", "-i", &id, "-c", "-x", "60", "-W", "20"]);
        if count == "0" {
            command.arg("-E")
        } else {
            command.args(["-C", count])
        };
        command.output().unwrap()
    };
    assert!(subscriber("0").status.success());
    for payload in ["one", "two", "three"] {
        let sent = mosquitto("mosquitto_pub", Transport::Tcp, "mqttv311")
            .args(["-t", &topic, "-q", "2", "-m", payload])
            .output()
            .unwrap();
        assert!(sent.status.success(), "{}", text(&sent));
    }
    let received = subscriber("3");
    assert_eq!(String::from_utf8_lossy(&received.stdout), "one\ntwo\nthree\n", "{}", text(&received));
    at_tcp().connect(&Connect::v5(&id)).leave();
}

fn at_tcp() -> Target<'static> {
    Target { server: shared(), transport: Transport::Tcp }
}

#[test]
fn a_mosquitto_bridge_connects_both_ways() {
    let dir = TempDir::new().unwrap();
    let server: &Server = shared();
    let port = {
        // A free port for the other broker; nobody else listens there in between.
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    };
    for version in ["mqttv31", "mqttv311", "mqttv50"] {
        let root = unique("bridge");
        let config = dir.path().join("mosquitto.conf");
        let address = server.address(Transport::Tcp);
        let bridge = format!(
            "allow_anonymous true\nlistener {port} 127.0.0.1\nconnection {root}\naddress {address}\n\
             bridge_protocol_version {version}\nremote_clientid {root}\nrestart_timeout 1\n\
             topic {root}/# both 1\n"
        );
        fs::write(&config, bridge).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let program = ["mosquitto", "/usr/sbin/mosquitto"]
            .into_iter()
            .find(|program| Command::new(program).arg("-h").output().is_ok())
            .expect("mosquitto is installed");
        let _other = Running(Command::new(program).arg("-c").arg(&config).stderr(log).spawn().unwrap());
        let ours = at_tcp();
        let mut here = ours.v5();
        here.subscribe(&format!("{root}/there"), 1);
        // The bridge is up once a message from the other broker arrives here.
        let deadline = Instant::now() + Duration::from_secs(30);
        let sent = loop {
            let port = port.to_string();
            let publish =
                ["-h", "127.0.0.1", "-p", &port, "-t", &format!("{root}/there"), "-q", "1", "-m", "hello"];
            let _ = Command::new("mosquitto_pub").args(publish).output().unwrap();
            if let Ok(packet) = here.poll(Duration::from_millis(500)) {
                break packet.publish(5);
            }
            let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{version}: the bridge does not deliver:\n{log}");
        };
        assert_eq!(sent.text(), "hello");
        // At the first attempt: a bridge that is refused waits and comes again.
        let log = fs::read_to_string(dir.path().join("log")).unwrap_or_default();
        let is_attempt = |line: &&str| line.contains("Connecting bridge") && !line.contains("(step 2)");
        assert_eq!(log.lines().filter(is_attempt).count(), 1, "{version}:\n{log}");
        keeps_retain(&ours, port, &format!("{root}/kept"), version);
        let other_side = Running(
            Command::new("mosquitto_sub")
                .args([
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port.to_string(),
                    "-t",
                    &format!("{root}/here"),
                    "-C",
                    "1",
                    "-W",
                    "20",
                ])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut other_side = other_side;
        let mut line = BufReader::new(other_side.0.stdout.take().unwrap());
        let mut publisher = ours.v4();
        // Repeated until the subscription over there stands; retained messages would not tell a live one.
        let done = std::thread::spawn(move || {
            let mut text = String::new();
            line.read_line(&mut text).unwrap();
            text
        });
        while !done.is_finished() {
            publisher.publish(&format!("{root}/here"), "back", 1);
            std::thread::yield_now();
        }
        assert_eq!(done.join().unwrap().trim(), "back", "{version}");
    }
}

/// What is published retained here while the bridge is up is retained at the other broker, too.
fn keeps_retain(ours: &Target, port: u16, topic: &str, version: &str) {
    ours.v4().publish_as(Publish::new(topic, "kept").retain(), 1);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let port = port.to_string();
        let sub = ["-h", "127.0.0.1", "-p", &port, "-t", topic, "--retained-only", "-C", "1", "-W", "1"];
        let found = Command::new("mosquitto_sub").args(sub).output().unwrap();
        if found.stdout == b"kept\n" {
            break;
        }
        assert!(Instant::now() < deadline, "{version}: RETAIN is lost: {}", text(&found));
    }
}

/// A server with a certificate for `localhost` that is not its first, and an OCSP response about it, all made by openssl in `dir`.
fn with_openssl_certificates(dir: &Path) -> Server {
    let made = Command::new(Path::new(SCRIPTS).join("authority")).arg(dir).output().unwrap();
    assert!(made.status.success(), "tests/interop/authority:\n{}", text(&made));
    let other = Authority::new("others").issue("other.example", &["other.example"]);
    fs::write(dir.join("other.pem"), other.pem).unwrap();
    fs::write(dir.join("other.key"), other.key_pem).unwrap();
    let file = |name: &str| dir.join(name);
    Server::start_in(
        dir,
        &format!(
            "[tls]\ncertificates = [{{ certificate_file = {:?}, key_file = {:?} }}, {{ certificate_file = {:?}, key_file = {:?}, \
             ocsp_file = {:?} }}]\n",
            file("other.pem"),
            file("other.key"),
            file("server.pem"),
            file("server.key"),
            file("server.ocsp")
        ),
    )
}

#[test]
fn sslyze_finds_nothing_wrong_with_a_listener() {
    let dir = TempDir::new().unwrap();
    let server = with_openssl_certificates(dir.path());
    let target = format!("localhost:{}", server.address(Transport::Tls).port());
    let sslyze = |arguments: &[&str]| {
        let mut command = Command::new(libraries().join("sslyze/bin/sslyze"));
        let output = command.arg("--certinfo_ca_file").arg(dir.path().join("ca.pem"));
        let output = output.args(arguments).arg(&target).output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        said
    };
    let said = sslyze(&["--mozilla_config", "intermediate"]);
    for good in [
        "OK - Compliant",
        "Supplied CA file CA Store (N/A):   OK - Certificate is trusted",
        "Validation w/ Mozilla Store:       OK - Response is trusted",
        "Cert Status:                       GOOD",
        "Client Renegotiation DoS Attack:   OK",
    ] {
        assert!(said.contains(good), "{good:?} is not in\n{said}");
    }
    assert!(!said.contains("VULNERABLE") && !said.contains("Error"), "{said}");
    // It takes a ticket that was renewed for one that was ignored; the server knows better.
    let resumed = "tidegate_edge_tls_handshakes_total{listener=\"mqtts\",version=\"1.2\",kind=\"resumed\"}";
    let before = metric(&server, resumed);
    sslyze(&["--mozilla_config", "disable", "--resum"]);
    assert_eq!(metric(&server, resumed) - before, 5.0, "each of its attempts");
}

#[test]
fn openssl_resumes_at_both_versions() {
    let dir = TempDir::new().unwrap();
    let server = with_openssl_certificates(dir.path());
    let target = format!("127.0.0.1:{}", server.address(Transport::Tls).port());
    let connect = |arguments: &[&str], packets: &[u8]| {
        let mut client = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &target,
                "-servername",
                "localhost",
                "-ign_eof",
                "-verify_return_error",
                "-CAfile",
            ])
            .arg(dir.path().join("ca.pem"))
            .args(arguments)
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(client.stdin.as_mut().unwrap(), packets).unwrap();
        // The server closes on DISCONNECT.
        let output = client.wait_with_output().unwrap();
        text(&output)
    };
    let packets = [Connect::v5(&unique("o")).bytes(), b"\xE0\0".to_vec()].concat();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = format!("session{version}");
        let first = connect(&[version, "-sess_out", &session], &packets);
        assert!(first.contains("New, TLS") && first.contains("Verification: OK"), "{first}");
        let second = connect(&[version, "-sess_in", &session], &packets);
        assert!(second.contains("Reused, TLS"), "{version}: {second}");
    }
}
