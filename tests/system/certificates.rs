//! Certificates, authorities and revocation lists that are replaced on the disk while devices come all the time: nobody good is
//! refused, what is new is shown, and whoever is revoked has gone in time.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use testkit::authority::{Authority, Issued};

use crate::harness::bytes::Connect;
use crate::harness::server::addresses_file;
use crate::harness::transport::{Stream, Wire};
use crate::harness::{Client, Server, Target, Transport, let_pass, replace, unique};
use crate::tiers::{Shape, Tiers, metric, within};

/// How long it may take, from the change on the disk, until who was revoked has gone.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// For waits that are no promise, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often each server's files are replaced; three servers do so side by side.
const ROUNDS: usize = 4;

/// Between two connections of a server's load.
const PACE: Duration = Duration::from_millis(10);

/// How files come to be others.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// One after the other, written where they are: the certificate first, its key a moment later.
    InPlace,
    /// Each renamed into its place.
    Renamed,
    /// All at once, by a link to a directory, as in Kubernetes.
    Linked,
}

struct Scene {
    server: Server,
    way: Way,
    /// Signs the server's certificates.
    root: Authority,
    /// Signs those of devices, and stays.
    fleet: Authority,
    dir: TempDir,
}

/// What the files are to hold.
struct Files {
    certificate: String,
    key: String,
    authorities: String,
    revoked: String,
}

impl Scene {
    fn start(way: Way, passing: &Authority) -> Self {
        let (dir, root, fleet) =
            (TempDir::new().unwrap(), Authority::new("devices of a test"), Authority::new("fleet"));
        let ca = dir.path().join("root.pem");
        fs::write(&ca, root.pem()).unwrap();
        let (_, files) = files(&root, &[&fleet, passing], fleet.revoked(&[]));
        lay(&dir.path().join("0"), &files);
        symlink("0", dir.path().join("live")).unwrap();
        let live = dir.path().join("live");
        let config = format!(
            "listeners = {{ mqtt = \"127.0.0.1:0\", mqtts = \"127.0.0.1:0\", ws = \"off\", wss = \"127.0.0.1:0\" }}\n\
             data.dir = {:?}\nadmin.listen = \"127.0.0.1:0\"\nruntime.addresses_file = {:?}\n\
             tls.certificates = [{{ certificate_file = {:?}, key_file = {:?} }}]\n\
             tls.client_certificates = {{ mode = \"optional\", ca_file = {:?}, crl_files = [{:?}] }}\n",
            dir.path().join("data"),
            addresses_file(dir.path()),
            live.join("server.pem"),
            live.join("server.key"),
            live.join("ca.pem"),
            live.join("revoked.pem"),
        );
        let server = Server::launch("standalone", dir.path(), &ca, &config);
        Self { server, way, root, fleet, dir }
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    /// Puts the files there.
    fn replace(&self, round: usize, files: &Files) {
        let Files { certificate, key, authorities, revoked } = files;
        match self.way {
            Way::InPlace => {
                fs::write(self.live().join("server.pem"), certificate).unwrap();
                let_pass(Duration::from_millis(500));
                fs::write(self.live().join("server.key"), key).unwrap();
                fs::write(self.live().join("ca.pem"), authorities).unwrap();
                fs::write(self.live().join("revoked.pem"), revoked).unwrap();
            }
            Way::Renamed => {
                replace(&self.live().join("server.pem"), certificate);
                replace(&self.live().join("server.key"), key);
                replace(&self.live().join("ca.pem"), authorities);
                replace(&self.live().join("revoked.pem"), revoked);
            }
            Way::Linked => {
                let name = (round + 1).to_string();
                lay(&self.dir.path().join(&name), files);
                let next = self.dir.path().join("next");
                symlink(name, &next).unwrap();
                fs::rename(next, self.live()).unwrap();
            }
        }
    }

    fn connect(&self, transport: Transport, identity: &Issued) -> Client {
        let mut client = Client::open_as(&self.server, transport, identity);
        client.send(&Connect::v5(&unique("c")).bytes());
        assert_eq!(client.expect_connack().code, 0);
        client
    }

    /// The certificate that new connections are shown.
    fn shown(&self) -> Vec<u8> {
        match Wire::open(&self.server, Transport::Tls) {
            Wire::Tls(stream) => stream.conn.peer_certificates().unwrap()[0].to_vec(),
            Wire::Tcp(_) => unreachable!("TLS was asked for"),
        }
    }
}

fn files(root: &Authority, authorities: &[&Authority], revoked: String) -> (Vec<u8>, Files) {
    let Issued { der, pem: certificate, key_pem: key, .. } = root.issue("localhost", &["localhost"]);
    let authorities = authorities.iter().map(|authority| authority.pem()).collect();
    (der, Files { certificate, key, authorities, revoked })
}

fn lay(dir: &Path, files: &Files) {
    fs::create_dir(dir).unwrap();
    fs::write(dir.join("server.pem"), &files.certificate).unwrap();
    fs::write(dir.join("server.key"), &files.key).unwrap();
    fs::write(dir.join("ca.pem"), &files.authorities).unwrap();
    fs::write(dir.join("revoked.pem"), &files.revoked).unwrap();
}

/// Comes and goes until told to stop: with and without a certificate, over both kinds of listeners. Answers how often.
fn load(scene: &Scene, stop: &AtomicBool) -> usize {
    let device = scene.fleet.issue_numbered("load", 1);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let transport = [Transport::Tls, Transport::Wss][count % 2];
        scene.connect(transport, &device).leave();
        drop(Wire::open(&scene.server, transport));
        count += 1;
        let_pass(PACE);
    }
    count
}

/// Replaces everything so often, and looks who goes.
fn replace_all(scene: &Scene, first: Authority) {
    let mut passing = first;
    let mut staying = scene.connect(Transport::Tls, &scene.fleet.issue_numbered("stays", 2));
    let mut revoked = Vec::new();
    for round in 0..ROUNDS {
        let serial = 100 + round as u64;
        let listed = scene.fleet.issue_numbered("listed", serial);
        let orphan = passing.issue_numbered("orphan", serial);
        let going = [
            scene.connect(Transport::Wss, &listed),
            scene.connect(Transport::Tls, &listed),
            scene.connect(Transport::Tls, &orphan),
        ];
        revoked.push(serial);
        passing = Authority::new(&format!("passing {round}"));
        let (next, files) = files(&scene.root, &[&scene.fleet, &passing], scene.fleet.revoked(&revoked));
        scene.replace(round, &files);
        let since = Instant::now();
        for mut client in going {
            let Ok(packet) = client.poll_until(since + REVOKED_WITHIN) else {
                panic!("{:?}, round {round}: it is still there after {:?}", scene.way, since.elapsed())
            };
            assert_eq!(packet.disconnect().reason, 0x87);
        }
        println!("{:?}, round {round}: gone after {:?}", scene.way, since.elapsed());
        within("the new certificate", PATIENCE, || (scene.shown() == next).then_some(()));
        for gone in [&listed, &orphan] {
            Stream::expect_refused(&scene.server, Transport::Tls, gone);
        }
        staying.expect_alive();
    }
    let log = scene.server.log();
    assert_eq!(log.matches("certificates read").count(), ROUNDS, "{log}");
    assert!(!log.contains("certificates not taken") && !log.contains("ERROR"), "{log}");
}

#[test]
fn files_replaced_under_load_refuse_nobody_good_and_end_who_is_revoked() {
    std::thread::scope(|scope| {
        for way in [Way::InPlace, Way::Renamed, Way::Linked] {
            scope.spawn(move || {
                let passing = Authority::new("passing");
                let scene = Scene::start(way, &passing);
                let stop = AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let load = scope.spawn(|| load(&scene, &stop));
                    let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        replace_all(&scene, passing);
                    }));
                    stop.store(true, Ordering::Relaxed);
                    let came = load.join().expect("nobody good is refused");
                    if let Err(failed) = replaced {
                        std::panic::resume_unwind(failed);
                    }
                    println!("{way:?}: {came} devices came, twice each");
                    assert!(came > 20, "{came}");
                });
            });
        }
    });
}

// An edge and a worker that are to trust another authority from now on; neither is started again for it.
#[test]
fn certificates_of_links_are_replaced_while_links_are_up() {
    let mut tiers = Tiers::start_single(&Shape::new(1, 1));
    let old = tiers.edges[0].dir().parent().unwrap().join("certs");
    let new = old.with_file_name("new-certs");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("certs").arg(&new).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let at = |tiers: &Tiers| Target { server: &tiers.edges[0], transport: Transport::Tls }.v5();
    let mut device = at(&tiers);
    for name in ["worker.pem", "worker.key", "edge.pem", "edge.key", "link-ca.pem"] {
        replace(&old.join(name), &fs::read_to_string(new.join(name)).unwrap());
    }
    for server in [&tiers.edges[0], &tiers.workers[0]] {
        within("they are read", PATIENCE, || {
            server.log().contains("certificates of links read").then_some(())
        });
    }
    device.publish("t", "the link is up", 1);
    // The worker that comes back trusts the new authority alone.
    tiers.kill_worker(0);
    tiers.run_worker(0);
    device.publish("t", "and comes up again", 1);
    at(&tiers).publish("t", "for others, too", 1);
    for (server, name) in [(&tiers.edges[0], "workers"), (&tiers.workers[0], "link")] {
        let ends = format!("tidegate_{name}_tls_expiry_timestamp_seconds{{what=\"certificate\"}}");
        assert!(metric(server, &ends) > 1.0e9, "{ends}");
    }
}
