//! Many at once: devices that all come back, with the habits of real clients; connections that say nothing, or one byte at a time;
//! attempts that were dead before an edge saw them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::bytes::{self, Connect};
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::property as p;
use crate::harness::websocket::WebSocket;
use crate::harness::{Client, Server, Transport, unique, until};
use crate::tiers::{Shape, Tiers, metric, within};

// --- Devices that all come back -----------------------------------------------------------------------------------------

const DEVICES: u64 = 1_500;
/// A device gives an attempt up after this, and begins the next one after that.
const GIVE_UP: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
const DEVICES_PER_ADDRESS: u64 = 50;
/// A build without optimization on a busy machine needs its time for so many handshakes.
const BACK_WITHIN: Duration = Duration::from_secs(120);
const NOBODY_PERCENT_MAX: f64 = 5.0;

/// What happened to all devices.
#[derive(Default)]
struct Tally {
    attempts: AtomicU64,
    admitted: AtomicU64,
    thrown_out: AtomicU64,
    up: AtomicU64,
}

/// A certificate for localhost with a key that is dear to sign with, which the clients trust as it is.
fn rsa_4096(dir: &Path) -> (String, PathBuf) {
    let (certificate, key) = (dir.join("rsa.pem"), dir.join("rsa.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args([Path::new("-keyout"), &key, Path::new("-out"), &certificate])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let config = format!(
        "[[tls.certificates]]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n",
        certificate.display(),
        key.display()
    );
    (config, certificate)
}

/// Trusts whatever is in this file; every handshake is a full one.
fn connector(ca_file: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca_file).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

/// Thousands of clients on one thread.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn dial(from: Ipv4Addr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A device and where it connects.
struct Device {
    from: Ipv4Addr,
    to: SocketAddr,
    connect: Vec<u8>,
    tls: TlsConnector,
}

impl Device {
    async fn attempt(&self) -> io::Result<TlsStream<TcpStream>> {
        let socket = dial(self.from, self.to).await?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut stream = self.tls.connect(name, socket).await?;
        stream.write_all(&self.connect).await?;
        stream.flush().await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        if connack == [0x20, 2, 0, 0] { Ok(stream) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
    }

    /// Comes back until it is in, and whenever it is thrown out.
    async fn live(self, tally: Arc<Tally>) {
        loop {
            tally.attempts.fetch_add(1, Ordering::Relaxed);
            if let Ok(Ok(mut stream)) = tokio::time::timeout(GIVE_UP, self.attempt()).await {
                tally.admitted.fetch_add(1, Ordering::Relaxed);
                tally.up.fetch_add(1, Ordering::Relaxed);
                // Nobody sends it anything: whatever this is, it is its end.
                let _ = stream.read(&mut [0]).await;
                tally.up.fetch_sub(1, Ordering::Relaxed);
                tally.thrown_out.fetch_add(1, Ordering::Relaxed);
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

#[test]
fn all_devices_come_back_from_a_storm() {
    let dir = TempDir::new().unwrap();
    let (config, ca) = rsa_4096(dir.path());
    let server = Server::start(&config);
    let tls = connector(&ca);
    let (tally, runtime) = (Arc::new(Tally::default()), runtime());
    let before = metric(&server, "tidegate_edge_handshake_seconds_count");
    let begin = Instant::now();
    for number in 0..DEVICES {
        let address = u32::try_from(number / DEVICES_PER_ADDRESS).unwrap();
        let device = Device {
            from: Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(127, 77, 0, 1)) + address),
            to: server.address(Transport::Tls),
            connect: Connect::v4(&unique("storm")).bytes(),
            tls: tls.clone(),
        };
        runtime.spawn(device.live(tally.clone()));
    }
    let (mut seconds, mut last) = (Vec::new(), 0);
    within("all are back", BACK_WITHIN, || {
        if begin.elapsed().as_secs() > seconds.len() as u64 {
            let admitted = tally.admitted.load(Ordering::Relaxed);
            seconds.push(admitted - last);
            last = admitted;
        }
        assert!(begin.elapsed() < BACK_WITHIN, "only {last} were let in, each second {seconds:?}");
        (tally.up.load(Ordering::Relaxed) >= DEVICES).then_some(())
    });
    let took = begin.elapsed();
    // Attempts that are dead may still be on their way to a session.
    within("handshakes have ended", BACK_WITHIN, || {
        (metric(&server, "tidegate_edge_handshakes") == 0.0).then_some(())
    });
    let opened = metric(&server, "tidegate_edge_handshake_seconds_count") - before;
    let admitted = tally.admitted.load(Ordering::Relaxed);
    let nobody = 100.0 * (opened - admitted as f64).max(0.0) / opened;
    println!(
        "{DEVICES} devices back after {took:.1?}, each second {seconds:?}; {} attempts, {opened} sessions opened, \
         {nobody:.1} % of them for nobody",
        tally.attempts.load(Ordering::Relaxed),
    );
    assert_eq!(tally.thrown_out.load(Ordering::Relaxed), 0, "nobody who was in is thrown out");
    assert!(nobody < NOBODY_PERCENT_MAX, "{nobody:.1} % of {opened} sessions were opened for nobody");
    assert_eq!(tally.up.load(Ordering::Relaxed), DEVICES);
}

// --- Connections that say nothing, or one byte at a time ----------------------------------------------------------------

const SILENT: usize = 8_300;
/// Descriptors of an edge that has fewer of them than an attacker has connections.
const FILES: u32 = 2_000;
const SLOW_PER_STAGE: usize = 1_400;
const BYTE_INTERVAL: Duration = Duration::from_secs(1);
/// So many bytes each have said before good clients come, if they have any to say.
const BYTES_BEFORE: u64 = 3;
const TRIES: usize = 100;
const PROXIED: &str = "[listeners.proxied]\nbind = '127.0.0.1:0'\nkind = 'mqtt'\nproxy_protocol = 'v1v2'\ntrusted = ['127.0.0.0/8']\n";
const PROXY_HEADER: &[u8] = b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 1883\r\n";

/// What attackers have done so far.
#[derive(Default)]
struct Attackers {
    /// Connections that are open.
    open: AtomicU64,
    /// Bytes in all.
    said: AtomicU64,
}

/// What an attacker does with one connection, and with the next one when that is closed: says `bytes`, one every
/// [`BYTE_INTERVAL`], and then nothing.
async fn attack(from: Ipv4Addr, to: SocketAddr, bytes: Arc<Vec<u8>>, seen: Arc<Attackers>) {
    loop {
        let Ok(mut socket) = dial(from, to).await else {
            tokio::time::sleep(BYTE_INTERVAL).await;
            continue;
        };
        seen.open.fetch_add(1, Ordering::Relaxed);
        let mut at = 0;
        let mut answer = [0; 64];
        loop {
            let next = tokio::time::timeout(BYTE_INTERVAL, socket.read(&mut answer));
            match next.await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
                Err(_) if at < bytes.len() => {
                    if socket.write_all(&bytes[at..=at]).await.is_err() {
                        break;
                    }
                    at += 1;
                    seen.said.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => {}
            }
        }
        seen.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Of so many tries over all transports, one after the other, how many good clients get a CONNACK before they would give up.
fn good_clients(server: &Server, runtime: &Runtime, tries: usize) -> usize {
    let trust = Trust::read(server.ca_file());
    let get_in = |number: usize| {
        let connect = Connect::v5(&unique("good"));
        let attempt = async {
            let Some(transport) = Transport::ALL.get(number % 5) else {
                return behind_a_proxy(server.address_of("proxied"), &connect).await;
            };
            let (_, connack) =
                Talker::connect(server.address(*transport), *transport, &trust, &connect).await?;
            Ok(connack.code == 0)
        };
        let is_in = runtime.block_on(async { tokio::time::timeout(GIVE_UP, attempt).await });
        if !matches!(is_in, Ok(Ok(true))) {
            println!("try {number}: {is_in:?}");
        }
        matches!(is_in, Ok(Ok(true)))
    };
    (0..tries).filter(|number| get_in(*number)).count()
}

/// Whether a client is let in that comes by way of a load balancer.
async fn behind_a_proxy(to: SocketAddr, connect: &Connect) -> io::Result<bool> {
    let mut socket = TcpStream::connect(to).await?;
    socket.write_all(&[PROXY_HEADER, &connect.bytes()].concat()).await?;
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await?;
    Ok(connack[0] == 0x20 && connack[3] == 0)
}

/// `each` connections for each of these places and what is said there, until `enough` are open: some are closed and come again.
/// Every connection of an attack is from one address, which has all its ports: no earlier attack was from there.
fn start_attack(runtime: &Runtime, stages: &[(SocketAddr, Vec<u8>)], each: usize, enough: usize) {
    static ATTACKS: AtomicU32 = AtomicU32::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let network = 66 + u8::try_from(ATTACKS.fetch_add(1, Ordering::Relaxed) % 8).unwrap();
    let from = Ipv4Addr::new(127, network, high, low.clamp(1, 254));
    let seen = Arc::new(Attackers::default());
    let mut talkers = 0;
    for (to, bytes) in stages {
        talkers += if bytes.is_empty() { 0 } else { each as u64 };
        let bytes = Arc::new(bytes.clone());
        for _ in 0..each {
            runtime.spawn(attack(from, *to, bytes.clone(), seen.clone()));
        }
    }
    until(
        || {
            let is_open = seen.open.load(Ordering::Relaxed) >= enough as u64;
            (is_open && seen.said.load(Ordering::Relaxed) >= BYTES_BEFORE * talkers).then_some(())
        },
        || format!("{} connections of the attacker", seen.open.load(Ordering::Relaxed)),
    );
}

#[test]
fn silent_connections_of_one_address_keep_nobody_out() {
    let server = Server::start(PROXIED);
    let runtime = runtime();
    start_attack(&runtime, &[(server.address(Transport::Tls), Vec::new())], SILENT, SILENT * 3 / 4);
    assert_eq!(
        good_clients(&server, &runtime, TRIES),
        TRIES,
        "of {TRIES} good clients beside {SILENT} silent ones"
    );
}

#[test]
fn silent_connections_beyond_the_descriptors_keep_nobody_out() {
    let server = Server::start_with_files(FILES, PROXIED);
    let runtime = runtime();
    start_attack(&runtime, &[(server.address(Transport::Tls), Vec::new())], SILENT, FILES as usize / 2);
    let let_in = good_clients(&server, &runtime, TRIES);
    assert_eq!(let_in, TRIES, "of {TRIES} good clients, with {FILES} descriptors for {SILENT} silent ones");
}

#[test]
fn slow_connections_at_every_stage_keep_nobody_out() {
    let server = Server::start(PROXIED);
    let connect = Connect::v5("slow").with(p::pair("k", &"v".repeat(200))).bytes();
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3];
    hello.extend([7; 200]);
    let upgrade = WebSocket::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n").into_bytes();
    let stages = [
        (server.address(Transport::Tcp), Vec::new()),
        (server.address(Transport::Tls), hello.clone()),
        (server.address_of("proxied"), PROXY_HEADER.to_vec()),
        (server.address(Transport::Ws), upgrade),
        (server.address(Transport::Tcp), connect),
        (server.address(Transport::Wss), hello),
    ];
    let runtime = runtime();
    start_attack(&runtime, &stages, SLOW_PER_STAGE, SLOW_PER_STAGE * stages.len() * 3 / 4);
    assert_eq!(
        good_clients(&server, &runtime, TRIES),
        TRIES,
        "of {TRIES} good clients beside slow ones at every stage"
    );
}

// --- Attempts that were dead before an edge saw them --------------------------------------------------------------------

const DEAD_ATTEMPTS: usize = 3;

/// An attempt that is over before anybody reads it: by FIN, or with `is_reset` by RST.
async fn die(to: SocketAddr, connect: &[u8], is_reset: bool) -> io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    if is_reset {
        socket.set_zero_linger()?;
    }
    socket.connect(to).await?.write_all(connect).await
}

/// Where an attempt goes, and all that it says.
fn attempt(edge: &Server, connect: &Connect, over_websocket: bool) -> (SocketAddr, Vec<u8>) {
    match edge.find_address("ws").filter(|_| over_websocket) {
        None => (edge.address(Transport::Tcp), connect.bytes()),
        Some(address) => {
            let upgrade = WebSocket::request("/mqtt", "Sec-WebSocket-Protocol: mqtt\r\n");
            (address, [upgrade.into_bytes(), WebSocket::frame(0x82, &connect.bytes())].concat())
        }
    }
}

/// An edge is stopped; attempts of one client end, the last one stays; the edge goes on.
fn stopped_and_gone_on(edge: &Server, rounds: usize) {
    let runtime = runtime();
    for round in 0..rounds {
        let client_id = unique("again");
        let connect = match round % 4 {
            0 => Connect::v5(&client_id),
            1 => Connect::v4(&client_id),
            2 => Connect::stored(&client_id),
            _ => Connect::v4(&client_id).resume(),
        };
        let accepted = metric(edge, "tidegate_edge_accepted_total");
        edge.signal("STOP");
        for number in 0..DEAD_ATTEMPTS {
            let (to, bytes) = attempt(edge, &connect, (round + number) % 2 == 0);
            runtime.block_on(die(to, &bytes, (round + number) % 3 == 0)).unwrap();
        }
        let mut live =
            Client::try_open(edge.address(Transport::Tcp)).expect("the kernel accepts for the edge");
        live.version = connect.version();
        live.send(&connect.bytes());
        edge.signal("CONT");
        let connack = live.expect_connack();
        assert_eq!(connack.code, 0, "round {round}: the one that stayed");
        within("the edge is through with all of them", Duration::from_secs(10), || {
            let seen = metric(edge, "tidegate_edge_accepted_total") - accepted;
            (seen > DEAD_ATTEMPTS as f64 && metric(edge, "tidegate_edge_handshakes") == 0.0).then_some(())
        });
        live.send(bytes::PINGREQ);
        live.expect(bytes::PINGRESP);
    }
}

#[test]
fn a_dead_attempt_never_takes_the_live_ones_place() {
    let server = Server::start("");
    stopped_and_gone_on(&server, 100);
}

#[test]
fn a_dead_attempt_never_takes_the_live_ones_place_at_a_worker() {
    let tiers = Tiers::start_single(&Shape::new(1, 1));
    stopped_and_gone_on(&tiers.edges[0], 30);
}
