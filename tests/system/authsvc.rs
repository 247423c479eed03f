//! The service of authentication as processes of its own: two of them behind two edges and two workers. Devices come while one is
//! killed, stands still, while both are away and back again; keys are replaced and users revoked with devices connected.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::bytes::{self, Connect};
use crate::harness::property as p;
use crate::harness::scram::{METHOD, Scram};
use crate::harness::server::addresses_file;
use crate::harness::transport::tcp;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::wall_clock::WallClock;
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::servers::free_port;
use crate::tiers::{Shape, Tiers, metric, wait_until_ready, within};

/// What the operator shows.
const TOKEN: &str = "tg-secret-the operator's token";

/// How long it may take until who was revoked has gone.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// For waits that are no promise, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two services with the same users and keys.
pub(crate) struct Services {
    pub(crate) servers: Vec<Server>,
    dir: TempDir,
    extra: String,
}

fn certs(dir: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

impl Services {
    fn start() -> Self {
        Self::start_in(TempDir::new().unwrap(), "")
    }

    /// The same with what else their configuration is to say, in a directory whose files it may name.
    pub(crate) fn start_in(dir: TempDir, extra: &str) -> Self {
        let (keys, next) = (dir.path().join("keys"), dir.path().join("next"));
        certs(&keys);
        certs(&next);
        fs::copy(next.join("passport.key"), keys.join("next.key")).unwrap();
        for user in ["anna", "bert"] {
            passwd(&dir.path().join("users"), user, &[]);
        }
        fs::write(dir.path().join("token"), TOKEN).unwrap();
        let mut services = Self { servers: Vec::new(), dir, extra: extra.to_owned() };
        for number in 0..2 {
            let dir = services.path(&format!("authsvc-{number}"));
            fs::create_dir(&dir).unwrap();
            let config = services.config(&dir, free_port());
            services.servers.push(Server::begin("authsvc", &dir, &keys.join("ca.pem"), &config));
        }
        for server in &mut services.servers {
            server.wait_until_up();
            wait_until_ready(server);
        }
        services
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, dir: &Path, port: u16) -> String {
        let (users, keys, token) = (self.path("users"), self.path("keys"), self.path("token"));
        let keys = keys.display();
        format!(
            "service.listen = \"127.0.0.1:{port}\"\n\
             service.tls = {{ certificate_file = \"{keys}/authsvc.pem\", key_file = \"{keys}/authsvc.key\", \
             client_ca_file = \"{keys}/link-ca.pem\" }}\n\
             passport.signing_key_file = \"{keys}/passport.key\"\npassport.next_key_files = [\"{keys}/next.key\"]\n\
             auth.password_file = {users:?}\nauth.hash_timeout_ms = 60000\nservice.request_timeout_ms = 60000\n\
             admin.listen = \"127.0.0.1:0\"\nadmin.token_file = {token:?}\nruntime.addresses_file = {:?}\n{}",
            addresses_file(dir),
            self.extra
        )
    }

    /// What an edge says of them.
    fn of_edge(&self) -> String {
        self.of_edge_that_remembers(100)
    }

    /// The same, with how long an answer that lets in is remembered, milliseconds.
    pub(crate) fn of_edge_that_remembers(&self, ttl_ms: u64) -> String {
        let keys = self.path("keys");
        let keys = keys.display();
        let urls: Vec<_> =
            self.servers.iter().map(|s| format!("https://{}", s.address_of("service"))).collect();
        format!(
            "authsvc = {{ urls = {urls:?}, ca_file = \"{keys}/link-ca.pem\", certificate_file = \"{keys}/edge.pem\", \
             key_file = \"{keys}/edge.key\", timeout_ms = 20000, allowed_ttl_ms = {ttl_ms}, denied_ttl_ms = 100 }}\n\
             edge.authenticate_timeout_ms = 60000\n"
        )
    }

    /// What a worker says of them: the keys are announced, beside the one in a file that it has anyway.
    pub(crate) fn of_worker(&self) -> String {
        let url = format!("https://{}/.well-known/jwks.json", self.servers[1].address_of("service"));
        let ca = self.path("keys/link-ca.pem");
        format!("passport.jwks_url = {url:?}\npassport.jwks_ca_file = {ca:?}\npassport.jwks_interval_s = 1\n")
    }

    /// The next key signs, and the one of before is announced still.
    pub(crate) fn replace_key(&self) {
        let keys = self.path("keys");
        let old = fs::read(keys.join("passport.key")).unwrap();
        fs::copy(keys.join("next.key"), keys.join("passport.key")).unwrap();
        fs::write(keys.join("next.key"), old).unwrap();
        for server in &self.servers {
            let has_read = || server.log().contains("keys of passports read");
            within("a service takes the next key", PATIENCE, || has_read().then_some(()));
        }
    }

    /// An operator says so to one of them.
    pub(crate) fn revoke(&self, number: usize, order: &str) {
        let mut stream = tcp(self.servers[number].address_of("admin"));
        let length = order.len();
        write!(
            stream,
            "POST /v1/revocations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: {length}\r\n\r\n{order}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A device that stays.
fn connect(tiers: &Tiers, edge: usize, user: &str) -> Client {
    let at = Target { server: &tiers.edges[edge], transport: Transport::Tls };
    at.connect(&Connect::stored(&unique("c")).user(user, PASSWORD))
}

/// What a CONNECT is answered.
fn answer(tiers: &Tiers, edge: usize, connect: &Connect) -> u8 {
    let mut client = Client::open(&tiers.edges[edge], Transport::Tcp);
    client.version = connect.version();
    client.send(&connect.bytes());
    client.expect_connack().code
}

/// New devices are let in at each edge, whatever is the matter.
fn all_come_in(tiers: &Tiers, what: &str) {
    for number in 0..10 {
        let connect = Connect::v5(&unique("c")).user("anna", PASSWORD);
        assert_eq!(answer(tiers, number % 2, &connect), 0, "{what}");
    }
}

/// Waits until each edge sees so many services answer.
fn see(tiers: &Tiers, services: usize) {
    tiers.edges.iter().for_each(|edge| see_at(edge, services));
}

fn see_at(edge: &Server, services: usize) {
    let up = || metric(edge, "tidegate_authsvc_client_up");
    within("an edge sees what services there are", PATIENCE, || (up() == services as f64).then_some(()));
}

#[test]
fn devices_come_and_stay_whatever_becomes_of_a_service() {
    let mut services = Services::start();
    let mut shape = Shape::new(2, 2);
    shape.edge_extra = services.of_edge();
    shape.worker_extra = services.of_worker();
    shape.signs_at_edges = false;
    let mut tiers = Tiers::start_single(&shape);
    let mut devices: Vec<Client> = (0..8).map(|number| connect(&tiers, number % 2, "anna")).collect();
    assert_eq!(answer(&tiers, 0, &Connect::v5(&unique("c")).user("anna", "wrong")), 0x86);
    assert_eq!(answer(&tiers, 1, &Connect::v4(&unique("c")).user("anna", "wrong")), 4);
    exchange(&tiers);

    services.servers[0].kill();
    all_come_in(&tiers, "one was killed");
    see(&tiers, 1);
    services.servers[0].run();
    services.servers[0].wait_until_up();
    see(&tiers, 2);
    services.servers[1].signal("STOP");
    all_come_in(&tiers, "one stands still");
    see(&tiers, 1);

    // Both are away: nobody waits, and nobody who is there goes.
    services.servers[0].kill();
    see(&tiers, 0);
    let since = Instant::now();
    assert_eq!(answer(&tiers, 0, &Connect::v5(&unique("c")).user("anna", PASSWORD)), 0x88);
    assert_eq!(answer(&tiers, 1, &Connect::v4(&unique("c")).user("anna", PASSWORD)), 3);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    for device in &mut devices {
        device.publish("t", "still here", 1);
    }
    services.servers[0].run();
    services.servers[1].signal("CONT");
    services.servers[0].wait_until_up();
    see(&tiers, 2);
    all_come_in(&tiers, "both are back");

    let clock = WallClock::new();
    clock.set_ahead_s(60);
    services.servers[1].restart_with(clock.env());
    see(&tiers, 2);
    all_come_in(&tiers, "the clock of one is wrong");
    services.servers[1].restart_with(Vec::new());
    see(&tiers, 2);

    services.replace_key();
    after_another_key(&mut tiers, &mut devices);
    revoke(&services, &tiers, devices);
}

/// Enhanced authentication goes through whichever services.
fn exchange(tiers: &Tiers) {
    let method = |data: &str| [p::text(p::AUTH_METHOD, METHOD), p::text(p::AUTH_DATA, data)].concat();
    let mut scram = Scram::new("bert", PASSWORD, &unique("nonce"));
    let mut client = Client::open(&tiers.edges[0], Transport::Tls);
    client.send(&Connect::v5(&unique("c")).with(method(&scram.first())).bytes());
    let challenge = client.read_packet().auth();
    let answer = scram.answer(challenge.properties.text(p::AUTH_DATA).unwrap());
    client.send(&bytes::auth(0x18, &method(&answer)));
    let connack = client.expect_connack();
    assert_eq!(connack.code, 0);
    assert!(scram.accepts(connack.properties.text(p::AUTH_DATA).unwrap()));
    client.leave();
}

/// Devices that came by the old key stay, and go on elsewhere when their worker dies.
fn after_another_key(tiers: &mut Tiers, devices: &mut Vec<Client>) {
    devices.extend((0..2).map(|edge| connect(tiers, edge, "bert")));
    tiers.kill_worker(0);
    for device in devices {
        device.publish("t", "elsewhere", 1);
    }
    let refused: String = tiers.workers.iter().map(Server::log).collect();
    assert!(!refused.contains("passport is not accepted"), "{refused}");
}

/// Who is revoked goes from both edges, and nobody else.
fn revoke(services: &Services, tiers: &Tiers, mut devices: Vec<Client>) {
    let named = unique("named");
    let connect_named = Connect::v5(&named).user("bert", PASSWORD);
    let at = Target { server: &tiers.edges[1], transport: Transport::Tls };
    let mut by_name = at.connect(&connect_named);
    services.revoke(0, &format!("{{\"client_id\":\"{named}\",\"lasts_s\":60}}"));
    gone(&mut by_name, REVOKED_WITHIN, 0x98);
    assert_eq!(answer(tiers, 0, &connect_named), 0x8a, "nor may it come back");
    let mut others = devices.split_off(8);
    services.revoke(1, "{\"user\":\"anna\"}");
    for device in &mut devices {
        gone(device, REVOKED_WITHIN, 0x98);
    }
    for device in &mut others {
        device.publish("t", "others stay", 1);
    }
    assert_eq!(answer(tiers, 0, &Connect::v5(&unique("c")).user("anna", PASSWORD)), 0, "she may come back");
    passwd(&services.path("users"), "bert", &["--delete"]);
    for device in &mut others {
        // The file has to settle first.
        gone(device, PATIENCE, 0x87);
    }
}

fn gone(device: &mut Client, within: Duration, reason: u8) {
    let Ok(packet) = device.poll(within) else { panic!("it is still there, or gone without a word") };
    assert_eq!(packet.disconnect().reason, reason);
}

/// A process that ends with the test.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example, which answers.
fn example(port: u16) -> Ending {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples/authsvc.py");
    let child = Command::new("python3").arg(script).arg(port.to_string()).spawn().unwrap();
    let service = Ending(child);
    within("the example listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).ok());
    service
}

#[test]
fn a_service_of_ones_own_decides() {
    let port = free_port();
    let service = example(port);
    let mut shape = Shape::new(1, 1);
    shape.edge_extra = format!("authsvc.urls = [\"http://127.0.0.1:{port}\"]\nauthsvc.allowed_ttl_ms = 0\n");
    let tiers = Tiers::start_single(&shape);
    let id = unique("c");
    let at = Target { server: &tiers.edges[0], transport: Transport::Tls };
    let mut device = at.connect(&Connect::v5(&id).user("alice", "secret"));
    assert_eq!(device.subscribe("news/today", 1), 1);
    assert_eq!(device.subscribe("other", 1), 0x87);
    device.publish(&format!("devices/{id}/t"), "allowed", 1);
    device.send(&bytes::Publish::new("news/today", "not allowed").qos1(7).bytes());
    assert_eq!(device.expect_reply(bytes::PUBACK, 7).reason, 0x87);
    for (user, password) in [("alice", "wrong"), ("nobody", "secret")] {
        assert_eq!(answer(&tiers, 0, &Connect::v5(&unique("c")).user(user, password)), 0x86, "{user}");
    }
    drop(service);
    see_at(&tiers.edges[0], 0);
    assert_eq!(answer(&tiers, 0, &Connect::v5(&unique("c")).user("alice", "secret")), 0x88);
    let _again = example(port);
    see_at(&tiers.edges[0], 1);
    assert_eq!(answer(&tiers, 0, &Connect::v5(&unique("c")).user("alice", "secret")), 0);
}
