//! `docs/metrics.md` against what processes export, in both formats, and against what boards and alerts ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::bytes::Connect;
use crate::harness::server::addresses_file;
use crate::harness::transport::tcp;
use crate::harness::users::passwd;
use crate::harness::{Server, Target, Transport, unique};
use crate::servers::until;
use crate::tiers::{Shape, Tiers};

/// One row of the page.
#[derive(Debug)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    /// By the letter of the process: whether it always exports it, or only with some configuration.
    at: BTreeMap<char, bool>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn page() -> BTreeMap<String, Row> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let at = cells[4].split_whitespace().map(|process| {
            let letter = process.trim_matches(['(', ')']).chars().next().unwrap();
            (letter, !process.starts_with('('))
        });
        let labels = quoted(cells[3]).into_iter().collect();
        let row = Row { kind: cells[2].to_owned(), labels, at: at.collect() };
        let twice = rows.insert(quoted(cells[1]).remove(0), row);
        assert!(twice.is_none(), "{line}");
    }
    assert!(rows.len() > 60, "{}", rows.len());
    rows
}

/// `GET /metrics`: head and body.
fn scrape(server: &Server, accept: &str) -> (String, String) {
    let mut stream = tcp(server.address_of("admin"));
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn text_of(server: &Server) -> String {
    scrape(server, "text/plain").1
}

/// Types and label names by metric, as the text format tells them.
fn exported(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut found = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some((of, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name = of.to_owned();
            found.insert(name.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let labels = rest.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0.to_owned()));
            let of: &mut (String, BTreeSet<String>) = found.get_mut(&name).unwrap();
            of.1.extend(labels.filter(|label| label != "le"));
        }
    }
    found
}

/// Debian's prometheus has it: names, types and help as Prometheus wants them.
fn promtool_agrees(process: char, text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (Debian: prometheus)");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{process}: {said}");
}

/// Everything that `process` exports is on the page, as it says, and everything on the page that needs no label is exported.
fn holds(process: char, server: &Server) {
    let (head, open_metrics) =
        scrape(server, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5,*/*;q=0.1");
    assert!(head.contains("application/openmetrics-text") && open_metrics.ends_with("# EOF\n"), "{head}");
    let (head, text) = scrape(server, "text/plain");
    assert!(head.contains("text/plain; version=0.0.4") && !text.contains("# EOF"), "{head}");
    promtool_agrees(process, &text);
    let (page, exported) = (page(), exported(&text));
    let mut wrong = Vec::new();
    for (name, (kind, labels)) in &exported {
        match page.get(name).filter(|row| row.at.contains_key(&process)) {
            None => wrong.push(format!("{process} exports {name}, of which the page does not know")),
            Some(row) if row.kind != *kind || !labels.is_subset(&row.labels) => {
                wrong.push(format!(
                    "{process} exports {name} as {kind} with {labels:?}, the page says {row:?}"
                ));
            }
            Some(_) => {}
        }
    }
    for (name, row) in &page {
        if row.at.get(&process) == Some(&true) && row.labels.is_empty() && !exported.contains_key(name) {
            wrong.push(format!("{process} does not export {name}"));
        }
    }
    assert!(wrong.is_empty(), "docs/metrics.md:\n  {}", wrong.join("\n  "));
}

/// Some of everything: messages, a refusal, an end that the device did not want.
fn make_traffic(server: &Server, transport: Transport) {
    let at = Target { server, transport };
    let topic = unique("t");
    let mut subscriber = at.v5();
    subscriber.subscribe(&topic, 1);
    let mut publisher = at.v5();
    publisher.publish(&topic, "x", 0);
    publisher.publish(&topic, "y", 1);
    subscriber.expect_publish();
    // PINGREQ with a body.
    publisher.send(&[0xC0, 1, 0]);
    publisher.expect_dropped(0x81);
    at.refused(&Connect::v5(&"x".repeat(2_000)).bytes(), 5);
}

fn total(text: &str, name: &str) -> f64 {
    let values =
        text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

#[test]
fn a_standalone_exports_what_the_page_says() {
    let server = Server::start("");
    make_traffic(&server, Transport::Tls);
    make_traffic(&server, Transport::Tls);
    until("handshakes and acknowledgements are counted", || {
        let text = text_of(&server);
        total(&text, "tidegate_edge_tls_handshakes_total{") >= 6.0
            && total(&text, "tidegate_broker_acknowledge_seconds_count") >= 2.0
            && total(&text, "tidegate_edge_closes_total{reason=\"malformed_packet\"}") >= 2.0
    });
    let text = text_of(&server);
    let ends = "tidegate_edge_tls_expiry_timestamp_seconds{listener=\"mqtts\",what=\"server_certificate\"} ";
    assert!(total(&text, ends) > 1.7e9, "{text}");
    holds('S', &server);
}

#[test]
fn tiers_export_what_the_page_says() {
    let tiers =
        Tiers::start(&Shape { worker_extra: "durability.replicas = 1\n".to_owned(), ..Shape::new(1, 1) });
    tiers.checked(|tiers| {
        let (edge, worker) = (&tiers.edges[0], &tiers.workers[0]);
        make_traffic(edge, Transport::Tls);
        let at = Target { server: edge, transport: Transport::Tcp };
        at.connect(&Connect::stored(&unique("c"))).subscribe("stored/#", 1);
        at.v5().publish("stored/x", "x", 1);
        until("the store and its replicas are seen", || {
            let text = text_of(worker);
            total(&text, "tidegate_store_replicas{") >= 3.0
                && total(&text, "tidegate_store_batch_seconds_count") >= 1.0
                && total(&text, "tidegate_store_operation_seconds_count{operation=\"publish\"}") >= 1.0
        });
        assert!(total(&text_of(edge), "tidegate_workers_streams{") >= 1.0);
        holds('E', edge);
        holds('W', worker);
    });
}

fn start_authsvc(dir: &Path) -> Server {
    let keys = dir.join("keys");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&keys).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let (users, secret) = (dir.join("users"), dir.join("secret"));
    passwd(&users, "anna", &[]);
    fs::write(&secret, "a secret of enough bytes").unwrap();
    let config = format!(
        "service.listen = \"127.0.0.1:0\"\nservice.secret_file = {secret:?}\n\
         passport.signing_key_file = {:?}\nauth.password_file = {users:?}\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n",
        keys.join("passport.key"),
        addresses_file(dir)
    );
    Server::launch("authsvc", dir, &keys.join("ca.pem"), &config)
}

#[test]
fn the_service_of_authentication_exports_what_the_page_says() {
    let dir = TempDir::new().unwrap();
    holds('A', &start_authsvc(dir.path()));
}

/// Names of metrics in a text, without what a histogram adds.
fn names_in(text: &str, found: &mut BTreeSet<String>) {
    for word in text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')) {
        if word.starts_with("tidegate_") || word.starts_with("process_") {
            let name = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            found.insert(name.unwrap_or(word).to_owned());
        }
    }
}

#[test]
fn boards_and_alerts_ask_for_what_is_on_the_page() {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> = vec![root().join("deploy/monitoring")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("json" | "yml" | "yaml") => names_in(&fs::read_to_string(&path).unwrap(), &mut found),
                _ => {}
            }
        }
    }
    let page = page();
    let unknown: Vec<_> = found.iter().filter(|name| !page.contains_key(*name)).collect();
    assert!(!found.is_empty() && unknown.is_empty(), "not in docs/metrics.md: {unknown:?}");
}
