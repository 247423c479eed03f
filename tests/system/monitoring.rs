//! Prometheus watches real tiers with the rules and boards of `deploy/monitoring`: no alert fires in calm traffic, each fires when its
//! fault is made, and every query of every board has an answer. So that this takes a minute, all times in the rules are divided by
//! [`FASTER`], and Prometheus looks so much more often.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use self::prometheus::Prometheus;
use crate::harness::bytes::{self, Connect};
use crate::harness::server::addresses_file;
use crate::harness::transport::tcp;
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::wall_clock::WallClock;
use crate::harness::{Client, Server, Target, Transport, let_pass, unique};
use crate::interop::{libraries, text};
use crate::servers::{Server as RedisServer, free_port, until};
use crate::tiers::{Shape, Tiers, metric, wait_until_ready, within};

mod prometheus;

/// By how much time passes faster for rules than for an operator.
const FASTER: u32 = 30;
/// Between two looks of Prometheus at the processes, and at the rules.
const INTERVAL: &str = "500ms";
/// How long nothing may fire while nothing is wrong: as long as the longest `for` and the rate before it, and some.
const CALM: Duration = Duration::from_secs(15);
/// From a fault until its alert fires: the longest `for` is ten of these seconds, and a busy machine has a few of its own.
const FIRES_WITHIN: Duration = Duration::from_secs(40);
/// How long a passport is good: renewed by devices that stay for some seconds.
const PASSPORT_S: u32 = 6;
/// How long the slow endpoint thinks: longer than what alerts call slow.
const SLOW: Duration = Duration::from_millis(2600);
/// Connections that the edge takes.
const CONNECTIONS_MAX: usize = 64;

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring").join(file)
}

fn promtool(arguments: &[&str], file: &Path) {
    let output =
        Command::new("promtool").args(arguments).arg(file).output().expect("promtool (Debian: prometheus)");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&text));
}

/// The rules with every time in them (`for: 5m`, `[5m]`, `offset 5m`) divided by [`FASTER`].
fn hasten(rules: &str) -> String {
    let mut text = String::new();
    let mut rest = rules;
    while let Some(at) =
        ["for: ", "[", "offset "].iter().filter_map(|lead| Some(rest.find(lead)? + lead.len())).min()
    {
        let (before, after) = rest.split_at(at);
        text.push_str(before);
        let digits = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
        let unit_ms = match after[digits..].chars().next() {
            Some('s') => 1_000,
            Some('m') => 60_000,
            Some('h') => 3_600_000,
            _ => 0,
        };
        rest = after;
        if let (Ok(number), 1..) = (after[..digits].parse::<u32>(), unit_ms) {
            text.push_str(&format!("{}ms", number * unit_ms / FASTER));
            rest = &after[digits + 1..];
        }
    }
    text + rest
}

#[test]
fn times_in_rules_are_divided_for_the_test() {
    let rules = "expr: a{b=\"c\"} > 0 and rate(a[5m]) offset 10m\nfor: 30s\nannotations: [a]\n";
    let faster = "expr: a{b=\"c\"} > 0 and rate(a[10000ms]) offset 20000ms\nfor: 1000ms\nannotations: [a]\n";
    assert_eq!(hasten(rules), faster);
}

#[test]
fn prometheus_takes_the_configuration_and_the_rules() {
    promtool(&["check", "config"], &deployed("prometheus.yml"));
    promtool(&["check", "rules"], &deployed("alerts.yml"));
}

/// The boards, in files.
fn boards() -> Vec<PathBuf> {
    fs::read_dir(deployed("boards")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn boards_are_what_grafana_takes_for_boards() {
    let output = Command::new(libraries().join("grafana/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/boards.py"))
        .args(boards())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// An endpoint in the manner of EMQX that lets everybody in after [`SLOW`], or fails at once. Answers where it is; its thread ends with the
/// test.
fn slow_endpoint(fails: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    let answer = move |mut stream: TcpStream| {
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        // All requests of the client are one piece of JSON.
        while !request.ends_with(b"}") {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => request.extend_from_slice(&buffer[..count]),
                _ => return,
            }
        }
        let status = if fails.load(Ordering::Relaxed) {
            "500 Internal Server Error"
        } else {
            let_pass(SLOW);
            "200 OK"
        };
        let body = "{\"result\":\"allow\"}";
        let head = "Connection: close\r\nContent-Type: application/json\r\nContent-Length:";
        let _ =
            stream.write_all(format!("HTTP/1.1 {status}\r\n{head} {}\r\n\r\n{body}", body.len()).as_bytes());
    };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || answer(stream));
        }
    });
    url
}

/// An edge, two workers, a service of authentication, Redis with a replica, and Prometheus.
struct Watched {
    prometheus: Prometheus,
    tiers: Tiers,
    authsvc: Server,
    authsvc_clock: WallClock,
    endpoint_fails: Arc<AtomicBool>,
    replica: RedisServer,
    _dir: TempDir,
}

impl Watched {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let endpoint_fails = Arc::new(AtomicBool::new(false));
        let authsvc_clock = WallClock::new();
        let mut authsvc = start_authsvc(dir.path(), &slow_endpoint(endpoint_fails.clone()));
        authsvc.restart_with(authsvc_clock.env());
        let keys = dir.path().join("keys");
        let keys = keys.display();
        let service = format!("https://{}", authsvc.address_of("service"));
        let shape = Shape {
            signs_at_edges: false,
            worker_extra: format!(
                "passport.jwks_url = \"{service}/.well-known/jwks.json\"\npassport.jwks_ca_file = \"{keys}/link-ca.pem\"\n\
                 passport.jwks_interval_s = 1\nbroker.queue_messages_max = 20\n\
                 durability = {{ replicas = 1, when_short = \"degrade\" }}\n\
                 cluster = {{ lease_ms = 1000, worker_timeout_ms = 5000 }}\n"
            ),
            edge_extra: format!(
                "authsvc = {{ urls = [{service:?}], ca_file = \"{keys}/link-ca.pem\", certificate_file = \"{keys}/edge.pem\", \
                 key_file = \"{keys}/edge.key\", timeout_ms = 8000, allowed_ttl_ms = 0, denied_ttl_ms = 0 }}\n\
                 edge.connections_max = {CONNECTIONS_MAX}\nworkers.handoff_timeout_ms = 4000\n"
            ),
            ..Shape::new(2, 1)
        };
        let tiers = Tiers::start_single(&shape);
        let master = tiers.redis.servers()[0].port.to_string();
        let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &master]);
        until("the replica is in step", || {
            replica.cli(&["info", "replication"]).contains("master_link_status:up")
        });
        let jobs = [
            ("edge", tiers.edges()),
            ("broker", tiers.workers.iter().collect()),
            ("authsvc", vec![&authsvc]),
        ];
        let prometheus = Prometheus::start(&jobs);
        Self { prometheus, tiers, authsvc, authsvc_clock, endpoint_fails, replica, _dir: dir }
    }

    fn edge(&self) -> &Server {
        &self.tiers.edges[0]
    }

    fn connect(&self, connect: Connect) -> Client {
        let at = Target { server: self.edge(), transport: Transport::Tls };
        at.connect(&connect.user("anna", PASSWORD))
    }

    /// What a CONNECT by this user and password is answered.
    fn knock(&self, user: &str, password: &str) -> u8 {
        let mut client = Client::open(self.edge(), Transport::Tcp);
        client.send(&Connect::v5(&unique("k")).user(user, password).bytes());
        client.expect_connack().code
    }

    /// Messages at each QoS to a stored session, for so long.
    fn traffic(&self, time: Duration) {
        let mut subscriber = self.connect(Connect::stored(&unique("s")));
        let topic = unique("calm/");
        subscriber.subscribe(&topic, 2);
        let mut publisher = self.connect(Connect::stored(&unique("p")));
        let end = Instant::now() + time;
        while Instant::now() < end {
            for qos in 0..3 {
                publisher.publish(&topic, "x", qos);
                subscriber.take();
            }
            let_pass(Duration::from_millis(50));
        }
        publisher.leave();
        // Or its queue would fill up.
        subscriber.unsubscribe(&[&topic]);
        subscriber.leave();
    }

    /// Connections that are opened and closed, more often than devices come.
    fn look_like_a_load_balancer(&self) {
        for listener in ["mqtt", "mqtts", "wss"] {
            for _ in 0..3 {
                drop(tcp(self.edge().address_of(listener)));
            }
        }
    }

    /// Does this over and over in a thread of its own, until the alerts fire.
    fn while_doing(&self, seen: &mut BTreeSet<String>, alerts: &[&str], faults: &[&(dyn Fn() + Sync)]) {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for fault in faults {
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) {
                        // What devices may lose or wait for meanwhile is the matter of other tests.
                        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(fault));
                    }
                });
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.prometheus.expect(alerts, seen);
            }));
            over.store(true, Ordering::Relaxed);
            if let Err(failed) = result {
                std::panic::resume_unwind(failed);
            }
        });
    }
}

fn start_authsvc(dir: &Path, endpoint: &str) -> Server {
    let (keys, users, own) = (dir.join("keys"), dir.join("users"), dir.join("authsvc"));
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&keys).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    passwd(&users, "anna", &[]);
    passwd(&users, "guessed", &[]);
    passwd(&users, "greedy", &[]);
    fs::create_dir(&own).unwrap();
    let certs = keys.display();
    let config = format!(
        "service.listen = \"127.0.0.1:{}\"\n\
         service.tls = {{ certificate_file = \"{certs}/authsvc.pem\", key_file = \"{certs}/authsvc.key\", client_ca_file = \
         \"{certs}/link-ca.pem\" }}\n\
         passport = {{ signing_key_file = \"{certs}/passport.key\", lifetime_s = {PASSPORT_S} }}\nauth.password_file = {users:?}\n\
         authorization.limits = [{{ who = [\"greedy\"], received_messages_per_s = 5, subscriptions_max = 1 }}]\n\
         auth.http = {{ contract = \"emqx5\", url = {:?}, timeout_ms = 6000, cache.allowed_ttl_s = 0 }}\n\
         admin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n",
        free_port(),
        endpoint,
        addresses_file(&own)
    );
    let server = Server::launch("authsvc", &own, &keys.join("ca.pem"), &config);
    wait_until_ready(&server);
    server
}

/// Devices that come with a wrong password, no TLS, or a user whom a slow endpoint knows; and a session that fills up.
fn trouble_at_the_door(watched: &Watched, seen: &mut BTreeSet<String>) {
    let slow_users = AtomicUsize::new(0);
    let absent = unique("absent");
    let mut subscriber = watched.connect(Connect::stored(&absent));
    subscriber.subscribe("full/#", 1);
    subscriber.leave();
    // At rates at which each is a fifth of all.
    let guess = || {
        assert_ne!(watched.knock("guessed", "wrong"), 0);
        let_pass(Duration::from_millis(150));
    };
    let no_tls = || {
        let mut stream = tcp(watched.edge().address_of("mqtts"));
        let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
        let_pass(Duration::from_millis(120));
    };
    let slow = || {
        let user = format!("slow-{}", slow_users.fetch_add(1, Ordering::Relaxed));
        assert_eq!(watched.knock(&user, "any"), 0);
    };
    let fill = || {
        let mut publisher = watched.connect(Connect::v5(&unique("p")));
        for _ in 0..50 {
            publisher.publish("full/a", "x", 1);
        }
        let_pass(Duration::from_millis(500));
    };
    let greedy = || {
        let mut client = Client::open(watched.edge(), Transport::Tcp);
        client.send(&Connect::v5(&unique("g")).user("greedy", PASSWORD).bytes());
        assert_eq!(client.expect_connack().code, 0);
        assert_eq!(client.subscribe("greedy/one", 0), 0);
        assert_eq!(client.subscribe("greedy/two", 0), 0x97);
        for _ in 0..10 {
            client.send(&bytes::Publish::new("greedy/none", "x").bytes());
        }
        let_pass(Duration::from_millis(300));
    };
    let alerts = [
        "TidegateDevicesLimited",
        "TidegateGuessing",
        "TidegateAuthSlow",
        "TidegateHandshakesSlow",
        "TidegateConnectsRefused",
        "TidegateHandshakesFail",
        "TidegateMessagesDropped",
    ];
    let faults: [&(dyn Fn() + Sync); 9] =
        [&guess, &no_tls, &fill, &greedy, &slow, &slow, &slow, &slow, &slow];
    watched.while_doing(seen, &alerts, &faults);
    watched.endpoint_fails.store(true, Ordering::Relaxed);
    let refused = || {
        watched.knock("known-elsewhere", "any");
        let_pass(Duration::from_millis(50));
    };
    watched.while_doing(seen, &["TidegateAuthSourceAway"], &[&refused]);
    watched.endpoint_fails.store(false, Ordering::Relaxed);
}

/// More devices than the edge takes.
fn too_many(watched: &Watched, seen: &mut BTreeSet<String>) {
    let at = Target { server: watched.edge(), transport: Transport::Tcp };
    let device = || at.connect(&Connect::v5(&unique("m")).user("anna", PASSWORD));
    let here = || metric(watched.edge(), "tidegate_edge_connections");
    within("those of before have gone", FIRES_WITHIN, || (here() == 0.0).then_some(()));
    let devices: Vec<Client> = (0..CONNECTIONS_MAX).map(|_| device()).collect();
    let knock = || {
        let _ = tcp(watched.edge().address_of("mqtt")).read(&mut [0; 16]);
        let_pass(Duration::from_millis(50));
    };
    watched.while_doing(seen, &["TidegateConnectionsShed"], &[&knock]);
    devices.into_iter().for_each(Client::leave);
}

fn authentication_stands_still(watched: &Watched, seen: &mut BTreeSet<String>) {
    let devices: Vec<Client> = (0..5).map(|_| watched.connect(Connect::v5(&unique("d")))).collect();
    watched.authsvc.signal("STOP");
    let knock = || {
        let mut client = Client::open(watched.edge(), Transport::Tcp);
        client.send(&Connect::v5(&unique("k")).user("anna", PASSWORD).bytes());
        let _ = client.poll(Duration::from_secs(15));
    };
    let alerts = [
        "TidegateTierDown",
        "TidegateProcessDown",
        "TidegateAuthAway",
        "TidegateAuthUnavailable",
        "TidegatePassportsNotRenewed",
    ];
    watched.while_doing(seen, &alerts, &[&knock, &knock, &knock]);
    watched.authsvc.signal("CONT");
    drop(devices);
    within("somebody is let in again", FIRES_WITHIN, || (watched.knock("anna", PASSWORD) == 0).then_some(()));
}

/// One worker stands still, then both, then none.
fn workers_stand_still(watched: &Watched, seen: &mut BTreeSet<String>) {
    let devices: Vec<Client> = (0..10).map(|_| watched.connect(Connect::stored(&unique("d")))).collect();
    let [first, second] = &watched.tiers.workers[..] else { panic!("two workers") };
    first.signal("STOP");
    watched.prometheus.expect(&["TidegateWorkerAway", "TidegateWorkerBuried"], seen);
    second.signal("STOP");
    watched.prometheus.expect(&["TidegateDevicesWithoutWorker", "TidegateDevicesGivenUp"], seen);
    first.signal("CONT");
    second.signal("CONT");
    watched.prometheus.expect(&["TidegateWorkerExpelled"], seen);
    drop(devices);
    within("a device is served again", FIRES_WITHIN, || (watched.knock("anna", PASSWORD) == 0).then_some(()));
}

fn redis_stands_still(watched: &Watched, seen: &mut BTreeSet<String>) {
    watched.replica.pause();
    let publish = || watched.traffic(Duration::from_secs(1));
    watched.while_doing(seen, &["TidegateReplicasShort"], &[&publish]);
    watched.replica.go_on();
    let master = &watched.tiers.redis.servers()[0];
    master.pause();
    watched.prometheus.expect(&["TidegateStoreAway"], seen);
    master.go_on();
    within("messages flow again", FIRES_WITHIN, || {
        let lease = watched.prometheus.query("sum(tidegate_cluster_route_lease)");
        (lease[0]["value"][1] == "2").then_some(())
    });
}

/// Redis answers in fits and starts.
fn redis_is_slow(watched: &Watched, seen: &mut BTreeSet<String>) {
    let master = &watched.tiers.redis.servers()[0];
    let stutter = || {
        master.pause();
        let_pass(Duration::from_millis(1300));
        master.go_on();
        let_pass(Duration::from_millis(500));
    };
    let publish = || watched.traffic(Duration::from_secs(1));
    watched.while_doing(
        seen,
        &["TidegateStoreSlow", "TidegateAcknowledgeSlow"],
        &[&stutter, &publish, &publish],
    );
}

/// A replica that stands still while much is written, then dies.
fn replica_is_behind_and_dies(watched: &Watched, seen: &mut BTreeSet<String>) {
    watched.replica.pause();
    let payload = "x".repeat(60_000);
    let write = || {
        let mut publisher = watched.connect(Connect::v5(&unique("w")));
        for number in 0..20 {
            let publish = bytes::Publish::new(format!("large/{number}"), &payload).retain();
            publisher.publish_as(publish, 1);
        }
    };
    watched.while_doing(seen, &["TidegateReplicaLags"], &[&write]);
    watched.replica.kill();
    watched.prometheus.expect(&["TidegateReplicaMissing"], seen);
    watched.replica.run();
}

/// The edge is given a certificate that ends in five days; then both ends of links are, and then the authority of links does.
fn a_certificate_ends(watched: &Watched, seen: &mut BTreeSet<String>) {
    let certs = watched.edge().ca_file().parent().unwrap();
    let make = |line: &str| {
        let made = Command::new("sh").current_dir(certs).args(["-ec", line]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let tiers = &watched.tiers;
        tiers.edges.iter().chain(&tiers.workers).for_each(|server| server.signal("HUP"));
    };
    make(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 5 -subj /CN=localhost \
         -keyout server.key -out server.pem",
    );
    watched.prometheus.expect(&["TidegateCertificateEnds"], seen);
    let fires_for = |labels: &str| {
        let alert = format!(
            "ALERTS{{alertname=\"TidegateCertificateEnds\",alertstate=\"firing\",listener=\"\",{labels}}}"
        );
        within(labels, FIRES_WITHIN, || (!watched.prometheus.query(&alert).is_empty()).then_some(()));
    };
    // The same keys and names, and what else is in them.
    make(
        "for tier in edge worker; do \
         openssl x509 -x509toreq -copy_extensions copyall -in $tier.pem -signkey $tier.key -out request; \
         openssl x509 -req -copy_extensions copyall -in request -CA link-ca.pem -CAkey link-ca.key -set_serial 5 -days 5 -out new; \
         mv new $tier.pem; done",
    );
    fires_for("what=\"certificate\",job=\"edge\"");
    fires_for("what=\"certificate\",job=\"broker\"");
    make("openssl x509 -in link-ca.pem -signkey link-ca.key -days 5 -out new; mv new link-ca.pem");
    fires_for("what=\"authority\",job=\"edge\"");
    fires_for("what=\"authority\",job=\"broker\"");
}

/// The service of authentication has another time than the edge.
fn a_clock_is_wrong(watched: &Watched, seen: &mut BTreeSet<String>) {
    watched.authsvc_clock.set_ahead_s(60);
    watched.prometheus.expect(&["TidegateAuthClock"], seen);
    watched.authsvc_clock.set_ahead_s(0);
}

/// Every query of every board, over the whole run.
fn boards_have_data(prometheus: &Prometheus) {
    let mut empty = Vec::new();
    let mut count = 0;
    for file in boards() {
        let board: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                count += 1;
                let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
                if prometheus.query(&query).iter().all(|series| series["value"][1] == "NaN") {
                    empty.push(format!("{}, {}: {query}", board["title"], panel["title"]));
                }
            }
        }
    }
    assert!(empty.is_empty(), "of {count} queries these have no answer:\n  {}", empty.join("\n  "));
    println!("{count} queries of boards have an answer");
}

#[test]
fn alerts_fire_for_their_faults_alone_and_boards_have_data() {
    let watched = Watched::start();
    let prometheus = &watched.prometheus;
    within("all processes answer", FIRES_WITHIN, || (prometheus.query("up == 1").len() == 4).then_some(()));
    // What the start had to say is behind the rates.
    watched.traffic(Duration::from_secs(5));
    within("nothing fires", FIRES_WITHIN, || prometheus.firing().is_empty().then_some(()));
    let end = Instant::now() + CALM;
    while Instant::now() < end {
        watched.traffic(Duration::from_millis(500));
        watched.look_like_a_load_balancer();
        assert_eq!(prometheus.firing(), BTreeMap::new(), "an alert in calm traffic");
    }
    let mut seen = BTreeSet::new();
    trouble_at_the_door(&watched, &mut seen);
    too_many(&watched, &mut seen);
    authentication_stands_still(&watched, &mut seen);
    workers_stand_still(&watched, &mut seen);
    redis_stands_still(&watched, &mut seen);
    redis_is_slow(&watched, &mut seen);
    replica_is_behind_and_dies(&watched, &mut seen);
    a_certificate_ends(&watched, &mut seen);
    a_clock_is_wrong(&watched, &mut seen);
    let rules = fs::read_to_string(deployed("alerts.yml")).unwrap();
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    assert_eq!(alerts.map(str::to_owned).collect::<BTreeSet<_>>(), seen, "each alert has its fault");
    boards_have_data(prometheus);
}
