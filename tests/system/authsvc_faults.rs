//! Thousands of CONNECTs while what decides about them is slow, fails, hangs and comes back, and while one of two services of
//! authentication is killed: the right answer, in time, and none is left out.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::authsvc::Services;
use crate::harness::bytes::Connect;
use crate::harness::fleet::Trust;
use crate::harness::fleet::talker::Talker;
use crate::harness::{Server, Transport, let_pass, unique};
use crate::tiers::{Shape, Tiers, metric, within};

/// Devices that wait for their CONNACK at a time.
const AT_ONCE: usize = 16;

/// How long a device may wait at the worst: a turn of its question, two attempts of a second, and the noise of the machine.
const WAIT_MAX: Duration = Duration::from_secs(6);

/// By when the breaker has opened.
const OPEN_WITHIN: Duration = Duration::from_secs(2);

/// For waits that are no promise, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const PASSWORD: &str = "only in this test";

/// How the endpoint behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mood {
    Well,
    Slow,
    Failing,
    Hanging,
}

/// An HTTP endpoint that keeps EMQX's contract. Threads end with the test.
#[derive(Clone)]
struct Endpoint {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Self { address, mood: Arc::default(), asked: Arc::default() };
        let serving = endpoint.clone();
        std::thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let endpoint = serving.clone();
                std::thread::spawn(move || endpoint.serve(socket));
            }
        });
        endpoint
    }

    fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    fn is_now(&self, mood: Mood) -> bool {
        self.mood.load(Ordering::SeqCst) == mood as u8
    }

    fn serve(&self, mut socket: TcpStream) {
        let (mut read, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_lowercase();
                let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
                if body.len() >= length.parse().unwrap() {
                    read.clear();
                    self.asked.fetch_add(1, Ordering::SeqCst);
                    while self.is_now(Mood::Hanging) {
                        let_pass(Duration::from_millis(20));
                    }
                    if self.is_now(Mood::Slow) {
                        let_pass(Duration::from_millis(200));
                    }
                    let status = if self.is_now(Mood::Failing) { 500 } else { 200 };
                    let result = if body.contains(PASSWORD) { "allow" } else { "deny" };
                    let said = format!("{{\"result\":\"{result}\"}}");
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{said}",
                        said.len()
                    );
                    // Who asked may have given up.
                    if socket.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            }
            match socket.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(length) => read.extend_from_slice(&chunk[..length]),
            }
        }
    }
}

/// One device, and what it has to be told.
#[derive(Clone)]
struct Caller {
    client_id: String,
    edge: usize,
    password: &'static str,
    expected: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    In,
    Wrong,
    Unavailable,
}

impl Caller {
    fn connect(&self) -> Connect {
        // Every third speaks an older version.
        let is_old = self
            .client_id
            .len()
            .wrapping_add(usize::from(self.client_id.as_bytes()[self.client_id.len() - 1]))
            % 3
            == 0;
        let connect = if is_old { Connect::v4(&self.client_id) } else { Connect::v5(&self.client_id) };
        connect.user(&self.client_id, self.password)
    }

    fn code(&self, version: u8) -> u8 {
        match (self.expected, version) {
            (Expected::In, _) => 0,
            (Expected::Wrong, 5) => 0x87,
            (Expected::Wrong, _) => 5,
            (Expected::Unavailable, 5) => 0x88,
            (Expected::Unavailable, _) => 3,
        }
    }
}

/// So many devices that nobody has seen, one in ten with a wrong password.
fn strangers(count: usize, expected: Expected) -> Vec<Caller> {
    let caller = |number: usize| {
        let is_wrong = number % 10 == 9;
        Caller {
            client_id: unique("s"),
            edge: number % 2,
            password: if is_wrong { "wrong" } else { PASSWORD },
            expected: if is_wrong && expected == Expected::In { Expected::Wrong } else { expected },
        }
    };
    (0..count).map(caller).collect()
}

struct Scene {
    endpoint: Endpoint,
    services: Services,
    tiers: Tiers,
    runtime: Runtime,
    trust: Trust,
    connects: usize,
}

impl Scene {
    fn start() -> Self {
        let endpoint = Endpoint::start();
        let services = Services::start_in(
            TempDir::new().unwrap(),
            &format!(
                "auth.wrong_passwords_max = 100000\nauth.http = {{ contract = \"emqx5\", url = \"http://{}/auth\", \
                 timeout_ms = 1000 }}\n",
                endpoint.address
            ),
        );
        let mut shape = Shape::new(1, 2);
        shape.signs_at_edges = false;
        shape.worker_extra = services.of_worker();
        shape.edge_extra = services.of_edge_that_remembers(120_000);
        let tiers = Tiers::start_single(&shape);
        let trust = Trust::read(tiers.edges[0].ca_file());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { endpoint, services, tiers, runtime, trust, connects: 0 }
    }

    /// Has them connect, so many at a time; each is told what it is to be told, in time. `meanwhile` runs as soon as they have begun.
    fn have_come(&mut self, what: &str, callers: &[Caller], meanwhile: impl FnOnce(&mut Self)) {
        let (addresses, seats) = (self.addresses(), Arc::new(Semaphore::new(AT_ONCE)));
        let tasks: Vec<_> = callers
            .iter()
            .map(|caller| {
                let (caller, seats, trust) = (caller.clone(), seats.clone(), self.trust.clone());
                let address = addresses[caller.edge];
                self.runtime.spawn(async move {
                    let _seat = seats.acquire().await.unwrap();
                    let (since, connect) = (Instant::now(), caller.connect());
                    let come = Talker::connect(address, Transport::Tcp, &trust, &connect).await;
                    let code = come.map(|(_, connack)| connack.code).map_err(|error| error.to_string());
                    (code, caller.code(connect.version()), since.elapsed())
                })
            })
            .collect();
        meanwhile(self);
        let (mut codes, mut waits, mut wrong) = (BTreeMap::<u8, usize>::new(), Vec::new(), Vec::new());
        for task in tasks {
            let (code, expected, waited) = self.runtime.block_on(task).unwrap();
            waits.push(waited);
            match code {
                Ok(code) if code == expected => *codes.entry(code).or_default() += 1,
                other => wrong.push((other, expected, waited)),
            }
        }
        waits.sort_unstable();
        let (half, most, last) =
            (waits[waits.len() / 2], waits[waits.len() * 99 / 100], waits[waits.len() - 1]);
        println!(
            "{what}: {} CONNECTs {codes:?}, p50 {half:.1?}, p99 {most:.1?}, longest {last:.1?}",
            waits.len()
        );
        assert!(wrong.is_empty(), "{what}: {} were told something else: {:?}", wrong.len(), &wrong[0]);
        assert!(last < WAIT_MAX, "{what}: {last:?}");
        self.connects += callers.len();
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.tiers.edges.iter().map(|edge| edge.address(Transport::Tcp)).collect()
    }

    /// How many services leave the endpoint alone.
    fn open_breakers(&self) -> usize {
        let is_open = |server: &&Server| metric(server, "tidegate_auth_breaker_open") > 0.0;
        self.services.servers.iter().filter(is_open).count()
    }

    /// The endpoint is as it was not before; the breakers open in time.
    fn turns(&mut self, mood: Mood, known: &[Caller]) {
        self.endpoint.is(mood);
        let mut callers = strangers(600, Expected::Unavailable);
        callers.extend_from_slice(known);
        let since = Instant::now();
        self.have_come(&format!("{mood:?}"), &callers, |scene| {
            within("both breakers open", OPEN_WITHIN, || (scene.open_breakers() == 2).then_some(()));
            let took = since.elapsed();
            println!("{mood:?}: both breakers open after {took:.1?}");
            assert!(took < OPEN_WITHIN, "{took:?}");
        });
        self.comes_back();
    }

    /// The endpoint is well again; the breakers close at the first question that it answers.
    fn comes_back(&mut self) {
        self.endpoint.is(Mood::Well);
        let since = Instant::now();
        let address = self.addresses()[0];
        within("both breakers close", PATIENCE, || {
            let connect = Connect::v5(&unique("p")).user("p", PASSWORD);
            let come = Talker::connect(address, Transport::Tcp, &self.trust, &connect);
            let code = self.runtime.block_on(come).unwrap().1.code;
            assert!([0, 0x88].contains(&code), "{code:#x}");
            (self.open_breakers() == 0).then_some(())
        });
        println!("both breakers closed after {:.1?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
}

#[test]
fn every_connect_is_answered_whatever_becomes_of_those_who_decide() {
    let mut scene = Scene::start();
    let known: Vec<_> =
        strangers(400, Expected::In).into_iter().filter(|c| c.expected == Expected::In).collect();
    scene.have_come("calm, not known", &known, |_| {});
    let asked = scene.endpoint.asked.load(Ordering::SeqCst);
    scene.have_come("calm, known", &known, |_| {});
    assert_eq!(scene.endpoint.asked.load(Ordering::SeqCst), asked, "answers are remembered");

    scene.endpoint.is(Mood::Slow);
    let mut callers = strangers(600, Expected::In);
    callers.extend_from_slice(&known);
    scene.have_come("slow", &callers, |_| {});
    scene.turns(Mood::Failing, &known);
    scene.have_come("back", &strangers(500, Expected::In), |_| {});
    scene.turns(Mood::Hanging, &known);
    scene.have_come("back again", &strangers(500, Expected::In), |_| {});

    scene.have_come("one of two is killed", &strangers(600, Expected::In), |scene| {
        scene.services.servers[0].kill();
    });
    scene.have_come("one of two is away", &strangers(300, Expected::In), |_| {});
    scene.services.servers[0].run();
    scene.services.servers[0].wait_until_up();
    scene.have_come("and back", &strangers(200, Expected::In), |_| {});
    assert!(scene.connects >= 5_000, "{}", scene.connects);
}
