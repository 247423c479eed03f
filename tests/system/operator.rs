//! What operators do as most guides say: certificates by openssl's plain commands, signals that other programs understand, files
//! that are rewritten in place.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, let_pass};
use crate::tiers::{Shape, Tiers, ask, within};

/// Runs a program that must succeed.
fn run(dir: &Path, line: &str) -> String {
    let output = Command::new("sh").current_dir(dir).args(["-c", line]).output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}:\n{text}");
    text
}

// As mosquitto-tls(7) has it: no extension file, so the certificate is of version 1.
#[test]
fn a_certificate_as_guides_make_it_is_served_with_a_warning() {
    let dir = TempDir::new().unwrap();
    for line in [
        "openssl req -new -x509 -days 30 -extensions v3_ca -nodes -keyout ca.key -out ca.crt -subj '/CN=howto CA'",
        "openssl genrsa -out server.key 2048",
        "openssl req -out server.csr -key server.key -new -subj /CN=localhost",
        "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out server.crt -days 30",
    ] {
        run(dir.path(), line);
    }
    let text = run(dir.path(), "openssl x509 -in server.crt -noout -text");
    assert!(text.contains("Version: 1 "), "openssl makes others here: {text}");
    let own = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let tls = format!(
        "tls.certificates = [{{ certificate_file = {:?}, key_file = {:?} }}]\n",
        file("server.crt"),
        file("server.key")
    );
    let server = Server::start_in(
        own.path(),
        &format!("[listeners.other]\nbind = \"127.0.0.1:0\"\nkind = \"mqtts\"\n{tls}"),
    );
    let log = server.log();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("version 1")), "{log}");
    let port = server.address_of("other").port();
    run(dir.path(), &format!("mosquitto_pub -h localhost -p {port} --cafile ca.crt -t a -m hi -q 1"));
}

#[test]
fn signals_that_mean_nothing_end_no_tier() {
    let tiers = Tiers::start_single(&Shape::new(1, 1));
    let mut device: Client = Target { server: &tiers.edges[0], transport: Transport::Tls }.v5();
    for server in tiers.edges.iter().chain(&tiers.workers) {
        for signal in ["USR1", "USR2", "PIPE", "HUP"] {
            server.signal(signal);
            device.publish("a", signal, 1);
            assert!(server.is_alive(), "SIG{signal}:\n{}", server.log());
        }
        assert_eq!(ask(server, "/livez").0, 200);
    }
}

// The file of an edge, rewritten in place while passports are renewed: nobody is thrown out.
#[test]
fn a_password_file_in_two_writes_costs_no_connection_of_an_edge() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    for user in ["anna", "bert"] {
        passwd(&file, user, &[]);
    }
    let mut shape = Shape::new(1, 1);
    shape.edge_extra = format!(
        "auth.password_file = {file:?}\nauth.passport_lifetime_s = 1\nauth.hash_timeout_ms = 60000\n\
         edge.authenticate_timeout_ms = 60000\n"
    );
    let tiers = Tiers::start_single(&shape);
    let at = Target { server: &tiers.edges[0], transport: Transport::Tls };
    let connect = |user: &str| at.connect(&Connect::stored(user).user(user, PASSWORD));
    let mut devices = [connect("anna"), connect("bert")];
    let text = std::fs::read(&file).unwrap();
    for part in [0, text.len() / 3, text.len() - 10, text.len()] {
        std::fs::write(&file, &text[..part]).unwrap();
        let_pass(Duration::from_secs(2));
        for device in &mut devices {
            device.publish("a", "still here", 1);
        }
    }
    let read = || tiers.edges[0].log().contains("password file read").then_some(());
    within("the file is read when it is whole", Duration::from_secs(20), read);
    for device in &mut devices {
        device.publish("a", "still here", 1);
    }
}
