//! A process takes the place of another one at the same addresses, while clients come and go as fast as they can: nobody is refused
//! or reset, and nothing that was acknowledged is lost. A new process that fails, at whatever point, leaves the old one serving.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::fleet::mixed;
use crate::harness::bytes::{Connect, DISCONNECT};
use crate::harness::fleet::talker::Talker;
use crate::harness::fleet::{Fleet, Phase, Plan, Trust};
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::servers::free_port;
use crate::tiers::{Shape, Tiers, ask, metric, within};

/// Clients that come and go, each as fast as it is served; some of them over TLS.
const CLIENTS: u64 = 16;
const CLIENTS_TLS: u64 = 2;
/// A client that is not served by then counts as one that is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Drain, and the time for the workers to hear of it, and some more on a busy machine.
const END: Duration = Duration::from_secs(30);

// --- Clients that come and go -------------------------------------------------------------------------------------------

#[derive(Default)]
struct Seen {
    served: AtomicU64,
    slowest_ms: AtomicU64,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

/// Connects, is let in, and leaves. How it was not, otherwise.
async fn come_and_go(from: Ipv4Addr, to: SocketAddr) -> Result<(), String> {
    let failed = |stage: &'static str| move |error: io::Error| format!("{stage}: {error}");
    let socket = TcpSocket::new_v4().map_err(failed("socket"))?;
    socket.bind(SocketAddr::from((from, 0))).map_err(failed("bind"))?;
    let mut stream = socket.connect(to).await.map_err(failed("connect"))?;
    stream.set_nodelay(true).map_err(failed("option"))?;
    stream.write_all(&Connect::v4(&unique("come")).bytes()).await.map_err(failed("CONNECT"))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.map_err(failed("CONNACK"))?;
    if connack != [0x20, 2, 0, 0] {
        return Err(format!("refused: {connack:x?}"));
    }
    // A server that ends may have closed; it must not have reset.
    stream.write_all(DISCONNECT).await.map_err(failed("DISCONNECT"))?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map_err(failed("end"))?;
    Ok(())
}

async fn come_and_go_by_tls(to: SocketAddr, trust: &Trust) -> Result<(), String> {
    let connect = Connect::v5(&unique("come"));
    let (mut talker, connack) = Talker::connect(to, Transport::Tls, trust, &connect)
        .await
        .map_err(|error| format!("TLS: {error}"))?;
    if connack.code != 0 {
        return Err(format!("refused by TLS: {connack:?}"));
    }
    // The server may have closed already.
    let _ = talker.send(DISCONNECT).await;
    Ok(())
}

/// Clients at work.
struct Storm {
    seen: Arc<Seen>,
    since: Instant,
    _runtime: Runtime,
}

impl Storm {
    fn begin(server: &Server) -> Storm {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::new(Seen::default());
        let trust = Arc::new(Trust::read(server.ca_file()));
        let (plain, tls) = (server.address(Transport::Tcp), server.address(Transport::Tls));
        for number in 0..CLIENTS {
            let (seen, trust) = (seen.clone(), trust.clone());
            // Each has the ports of an address of its own.
            let from = Ipv4Addr::new(127, 88, 0, 1 + number as u8);
            runtime.spawn(async move {
                while !seen.is_over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let attempt = async {
                        match number < CLIENTS_TLS {
                            true => come_and_go_by_tls(tls, &trust).await,
                            false => come_and_go(from, plain).await,
                        }
                    };
                    let served = timeout(PATIENCE, attempt).await;
                    seen.slowest_ms.fetch_max(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
                    match served.unwrap_or_else(|_| Err(format!("not served for {PATIENCE:?}"))) {
                        Ok(()) => _ = seen.served.fetch_add(1, Ordering::Relaxed),
                        Err(how) => seen.failures.lock().unwrap().push(how),
                    }
                }
            });
        }
        Storm { seen, since: Instant::now(), _runtime: runtime }
    }

    /// Lets so many more be served.
    fn let_come(&self, count: u64) {
        let before = self.seen.served.load(Ordering::Relaxed);
        within("clients are served", PATIENCE, || {
            (self.seen.served.load(Ordering::Relaxed) >= before + count).then_some(())
        });
    }

    /// Nobody was refused or reset.
    fn end(self, what: &str) {
        self.seen.is_over.store(true, Ordering::Relaxed);
        let (served, took) = (self.seen.served.load(Ordering::Relaxed), self.since.elapsed());
        let slowest = self.seen.slowest_ms.load(Ordering::Relaxed);
        let failures = self.seen.failures.lock().unwrap();
        println!(
            "{what}: {served} clients served in {took:.1?}, {:.0} a second, the slowest within {slowest} ms; {} were not",
            served as f64 / took.as_secs_f64(),
            failures.len()
        );
        assert!(failures.is_empty(), "{failures:?}");
    }
}

/// Devices with stored sessions that publish and subscribe among each other.
fn fleet(server: &Server, devices: usize) -> Fleet {
    let mut fleet = Fleet::new(&[server]);
    for plan in mixed(devices, 1, Duration::from_millis(100)) {
        fleet.add(Plan { stored: true, will_delay_s: None, ..plan });
    }
    fleet.wait_until_ready(Duration::from_secs(60));
    fleet.enter(Phase::Load);
    fleet
}

/// Every device came back to its session as often as it was told to go, and to all that was acknowledged.
fn expect_nothing_lost(mut fleet: Fleet, devices: usize, times: usize) {
    fleet.wait_until_ready(Duration::from_secs(30));
    let totals = fleet.settle(Duration::from_secs(60));
    println!("{}", totals.table("processes are replaced"));
    assert_eq!(totals.sessions_lost, 0);
    assert_eq!((totals.closes.len(), totals.sessions_resumed), (devices * times, (devices * times) as u64));
    assert_eq!((totals.lost_stored[1], totals.lost_stored[2], totals.repeated[2]), (0, 0, 0));
    assert!(totals.acknowledged[1] > 0 && totals.acknowledged[2] > 0);
}

fn upgrade_socket(dir: &TempDir) -> (PathBuf, String) {
    let path = dir.path().join("upgrade.sock");
    let line = format!("upgrade_socket = {path:?}\n");
    (path, line)
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Waits until every device is back, so many times in all.
fn wait_for_return(fleet: &Fleet, devices: usize, times: usize) {
    within("every device is back", END, || {
        (fleet.totals().sessions_resumed >= (devices * times) as u64).then_some(())
    });
}

/// Replaces a process once, and answers the one that serves then.
fn replace(old: &Server, dir: &Path) -> Server {
    let mut next = old.begin_beside(dir, |config| config);
    next.wait_until_up();
    assert_eq!(old.wait_for_end(END), 0, "the old one ends in good order:\n{}", old.log());
    assert!(!old.log().contains("were cut at the deadline"), "{}", old.log());
    assert_eq!(next.address(Transport::Tcp), old.address(Transport::Tcp));
    next
}

// --- What must go well --------------------------------------------------------------------------------------------------

const EDGES: usize = 10;
const EDGE_DEVICES: usize = 16;

#[test]
fn an_edge_is_replaced_ten_times_and_nobody_is_refused() {
    let keep = TempDir::new().unwrap();
    let (path, line) = upgrade_socket(&keep);
    let mut shape = Shape::new(1, 1);
    shape.edge_extra = format!("edge.drain_per_s = 100\nruntime.{line}");
    let mut tiers = Tiers::start_single(&shape);
    // It is put there when the process serves.
    let made = within("the socket", END, || std::fs::metadata(&path).ok());
    assert_eq!(made.permissions().mode() & 0o777, 0o600, "for nobody else");
    let fleet = fleet(&tiers.edges[0], EDGE_DEVICES);
    let storm = Storm::begin(&tiers.edges[0]);
    storm.let_come(100);
    for number in 0..EDGES {
        let next = replace(&tiers.edges[0], &keep.path().join(number.to_string()));
        assert_eq!(ask(&next, "/readyz").0, 200);
        assert_eq!(metric(&next, "tidegate_upgrades_total"), 1.0);
        tiers.edges[0] = next;
        wait_for_return(&fleet, EDGE_DEVICES, number + 1);
    }
    storm.let_come(100);
    storm.end("an edge is replaced");
    expect_nothing_lost(fleet, EDGE_DEVICES, EDGES);
    // A plain end leaves nothing behind.
    tiers.edges[0].signal("TERM");
    assert_eq!(tiers.edges[0].wait_for_end(END), 0);
    assert!(!path.exists());
}

const PROCESSES: usize = 3;
const DEVICES: usize = 16;

#[test]
fn one_process_with_its_store_is_replaced_and_nobody_is_refused() {
    let keep = TempDir::new().unwrap();
    let (_, line) = upgrade_socket(&keep);
    let mut server = Server::start_in(keep.path(), &line);
    let fleet = fleet(&server, DEVICES);
    let storm = Storm::begin(&server);
    storm.let_come(100);
    for number in 0..PROCESSES {
        server = replace(&server, &keep.path().join(number.to_string()));
        wait_for_return(&fleet, DEVICES, number + 1);
    }
    storm.let_come(100);
    storm.end("one process is replaced");
    expect_nothing_lost(fleet, DEVICES, PROCESSES);
}

// --- What goes wrong ----------------------------------------------------------------------------------------------------

/// A new process, as far as it comes: says what it is, and reads what it is told.
fn begin_by_hand(path: &Path, command: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(path).expect("somebody is at the socket");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let hello = format!(
        "{{\"hello\":{{\"format\":1,\"pid\":{},\"version\":\"0\",\"command\":{command:?}}}}}\n",
        std::process::id()
    );
    stream.write_all(hello.as_bytes()).unwrap();
    let answer = line(&mut stream);
    (stream, answer)
}

fn line(stream: &mut UnixStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && stream.read(&mut byte).unwrap() > 0 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Ends with this code and says why.
fn expect_failure(new: &Server, code: i32, why: &str) {
    assert_eq!(new.wait_for_end(END), code, "{}", new.log());
    assert!(new.log().contains(why), "{why}: {}", new.log());
}

#[test]
fn a_new_edge_that_fails_leaves_the_old_one_serving() {
    let keep = TempDir::new().unwrap();
    let (path, line_of_socket) = upgrade_socket(&keep);
    let mut shape = Shape::new(1, 1);
    shape.edge_extra = format!("runtime.{line_of_socket}");
    let tiers = Tiers::start_single(&shape);
    let edge = &tiers.edges[0];
    let mut device = tcp(edge).v5();
    let storm = Storm::begin(edge);
    let dir = |name: &str| keep.path().join(name);
    let wrong = edge.begin_beside(&dir("wrong"), |config| config + "runtime.wrong = 1\n");
    expect_failure(&wrong, 64, "wrong");
    // What fails after the old one was told: an address that somebody has.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let bind =
        format!("listeners.more = {{ bind = \"{}\", kind = \"mqtt\" }}\n", taken.local_addr().unwrap());
    let late = edge.begin_beside(&dir("late"), |config| {
        config.replacen(
            "listeners = {",
            &format!("listeners = {{ {},", bind.trim().trim_start_matches("listeners.")),
            1,
        )
    });
    expect_failure(&late, 69, "cannot listen");
    // One that never gets ready, so that it can be killed on its way; meanwhile no other is let.
    let unready = edge.begin_beside(&dir("unready"), |config| without_workers(&config));
    within("it is on its way", END, || edge.log().contains("prepares to take over").then_some(()));
    within("it has the sockets", END, || unready.log().contains("is to be replaced").then_some(()));
    let second = edge.begin_beside(&dir("second"), |config| config);
    expect_failure(&second, 69, &format!("process {} is about to have it", unready.pid()));
    drop(unready);
    for said in ["", "{\"prepared\":null}", "\"prepared\"\n", "\"prepared\"\n\"ser", "nonsense\n"] {
        let (mut stream, sockets) = within("it may come", END, || {
            let begun = begin_by_hand(&path, "lb");
            begun.1.contains("sockets").then_some(begun)
        });
        assert!(sockets.contains("mqtts") && sockets.contains("admin"), "{sockets}");
        stream.write_all(said.as_bytes()).unwrap();
    }
    assert!(begin_by_hand(&path, "standalone").1.contains("refused"), "another kind of process");
    // Meanwhile the last of them has been noticed.
    within("no one is left", END, || (metric(edge, "tidegate_upgrades_total") >= 9.0).then_some(()));
    device.expect_alive();
    storm.let_come(50);
    storm.end("new edges fail");
    assert_eq!(ask(edge, "/readyz").0, 200);
    // An old one that stands still is not waited for, and goes on when it does.
    edge.signal("STOP");
    let stuck = edge.begin_beside(&dir("stuck"), |config| config);
    expect_failure(&stuck, 69, "does not answer");
    edge.signal("CONT");
    device.expect_alive();
    drop(tcp(edge).v5());
    let mut last = replace(edge, &dir("last"));
    drop(tcp(&last).v5());
    // Nobody else has the sockets when the old one is not there any more.
    let mut heir = last.begin_beside(&dir("heir"), |config| without_workers(&config));
    within("it has the sockets", END, || heir.log().contains("is to be replaced").then_some(()));
    last.kill();
    heir.wait_until_up();
    assert_eq!(ask(&heir, "/readyz").0, 503);
    drop(Client::open(&heir, Transport::Tls));
}

/// The configuration of an edge, with a worker that is not there.
fn without_workers(config: &str) -> String {
    let at = config.find("workers.addresses").unwrap();
    let end = at + config[at..].find('\n').unwrap();
    format!("{}workers.addresses = [\"127.0.0.1:{}\"]{}", &config[..at], free_port(), &config[end..])
}

#[test]
fn a_process_whose_successor_dies_takes_its_store_again() {
    let keep = TempDir::new().unwrap();
    let (path, line_of_socket) = upgrade_socket(&keep);
    let server = Server::start_in(keep.path(), &line_of_socket);
    let mut subscriber = tcp(&server).connect(&Connect::stored("s"));
    subscriber.subscribe("t", 1);
    let storm = Storm::begin(&server);
    storm.let_come(20);
    // The device does not close, so that the store is not free before its connection is given up. kill -9 comes before.
    let mut lazy = tcp(&server).v5();
    lazy.publish("t", "before", 1);
    let killed = server.begin_beside(&keep.path().join("killed"), |config| config);
    within("the old one makes room", END, || server.log().contains("makes room").then_some(()));
    lazy.expect_disconnect(0x8B);
    drop(killed);
    // There is somebody at the socket at every moment: the next one would bind what the old one has.
    within("the old one begins again", END, || {
        drop(UnixStream::connect(&path).expect("somebody is at the socket"));
        (server.log().matches("\"ready\"").count() == 2).then_some(())
    });
    // One that dies when it has everything.
    let (mut stream, _) = within("it may come", END, || {
        let begun = begin_by_hand(&path, "standalone");
        begun.1.contains("sockets").then_some(begun)
    });
    stream.write_all(b"\"prepared\"\n").unwrap();
    assert_eq!(line(&mut stream), "\"yours\"\n");
    drop(stream);
    storm.let_come(20);
    // One that has gone before the old one looks.
    server.signal("STOP");
    let mut gone = UnixStream::connect(&path).unwrap();
    gone.write_all(
        b"{\"hello\":{\"format\":1,\"pid\":1,\"version\":\"0\",\"command\":\"standalone\"}}\n\"prepared\"\n",
    )
    .unwrap();
    drop(gone);
    server.signal("CONT");
    storm.let_come(20);
    assert_eq!(server.log().matches("makes room").count(), 2, "{}", server.log());
    storm.end("successors die");
    within("it is ready", END, || (ask(&server, "/readyz").0 == 200).then_some(()));
    let mut subscriber = tcp(&server).connect(&Connect::stored("s").resume());
    subscriber.expect_message("before");
    let next = replace(&server, &keep.path().join("next"));
    tcp(&next).v5().publish("t", "after", 1);
}

#[test]
fn what_is_at_the_socket_and_is_no_process_of_ours_is_told() {
    let keep = TempDir::new().unwrap();
    let (path, line_of_socket) = upgrade_socket(&keep);
    std::fs::write(&path, "a file").unwrap();
    let server = Server::begin_in(keep.path(), &line_of_socket);
    expect_failure(&server, 64, "this is no socket");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    std::fs::remove_file(&path).unwrap();
    let stranger = UnixListener::bind(&path).unwrap();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = stranger.accept().unwrap();
        line(&mut stream);
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // What is left at its path when it ends is one that nobody answers at.
        let _ = stream.read(&mut [0]);
    });
    let server = Server::begin_in(keep.path(), &line_of_socket);
    expect_failure(&server, 69, "no process of tidegate");
    answering.join().unwrap();
    let server = Server::start_in(keep.path(), &line_of_socket);
    drop(tcp(&server).v5());
}

// --- Sockets that systemd holds -----------------------------------------------------------------------------------------

/// Ends with the test.
struct Activated(Child);

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Activated {
    /// A process that is given this socket by this name, as systemd does.
    fn start(dir: &Path, socket: &TcpListener, name: &str, bind: &str) -> Activated {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let started = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .env("TIDEGATE__LISTENERS__MQTT", bind)
            .envs(["MQTTS", "WS", "WSS"].map(|name| (format!("TIDEGATE__LISTENERS__{name}"), "off")))
            .env("TIDEGATE__ADMIN__LISTEN", "127.0.0.1:0")
            .env("TIDEGATE__DATA__DIR", dir.join("data"))
            .envs([("LISTEN_FDS", "1"), ("LISTEN_FDS_FIRST_FD", "0"), ("LISTEN_FDNAMES", name)])
            .stdin(OwnedFd::from(socket.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Activated(started)
    }
}

#[test]
fn a_socket_of_systemd_keeps_who_connects_between_two_processes() {
    let dir = TempDir::new().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let log = || std::fs::read_to_string(dir.path().join("log")).unwrap();
    // Who connects before there is a process waits for it.
    let served = || {
        let mut client = Client::try_open(address).expect("a socket that listens");
        client.send(&Connect::v5(&unique("waits")).bytes());
        client
    };
    let mut early = served();
    let mut first = Activated::start(dir.path(), &socket, "mqtt", &address.to_string());
    assert_eq!(early.expect_connack().code, 0);
    let ended = Command::new("kill").arg(first.0.id().to_string()).status().unwrap();
    assert!(ended.success());
    let code = within("it ends", END, || first.0.try_wait().unwrap());
    assert_eq!(code.code(), Some(0), "{}", log());
    let mut between = served();
    let _second = Activated::start(dir.path(), &socket, "mqtt", &address.to_string());
    assert_eq!(between.expect_connack().code, 0);
    // One that is not where the configuration has its listener would be open to others than was checked.
    let other = TempDir::new().unwrap();
    let mut refused = Activated::start(other.path(), &socket, "mqtt", "127.0.0.1:1");
    let code = within("it is refused", END, || refused.0.try_wait().unwrap());
    assert_eq!(code.code(), Some(64));
    let log = std::fs::read_to_string(other.path().join("log")).unwrap();
    assert!(log.contains(&format!("set listeners.mqtt.bind = \"{address}\"")), "{log}");
}
