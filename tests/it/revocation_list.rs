//! Revocation lists that are read again, with devices connected: whose certificate they name goes, and nobody else, whatever is
//! the matter with the file.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use testkit::authority::{Authority, Issued};

use crate::harness::bytes::Connect;
use crate::harness::transport::Stream;
use crate::harness::{Client, Server, Target, Transport, unique, until};

/// How long it may take until who was revoked has gone, once the list was read.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

struct Scene {
    server: Server,
    authority: Authority,
    list: PathBuf,
    _dir: TempDir,
}

impl Scene {
    fn start() -> Self {
        let (authority, dir) = (Authority::new("devices of a test"), TempDir::new().unwrap());
        let (ca, list) = (dir.path().join("ca.pem"), dir.path().join("revoked.pem"));
        fs::write(&ca, authority.pem()).unwrap();
        fs::write(&list, authority.revoked(&[1])).unwrap();
        let server = Server::start(&format!(
            "[tls.client_certificates]\nmode = \"optional\"\nca_file = {ca:?}\ncrl_files = [{list:?}]\n"
        ));
        Self { server, authority, list, _dir: dir }
    }

    fn connect(&self, transport: Transport, identity: &Issued) -> Client {
        let mut client = Client::open_as(&self.server, transport, identity);
        client.send(&Connect::v5(&unique("c")).bytes());
        assert_eq!(client.expect_connack().code, 0);
        client
    }

    /// Has the files read again, and waits until the log says `what` once more.
    fn read_again(&self, what: &str) {
        let said = || self.server.log().matches(what).count();
        let before = said();
        self.server.signal("HUP");
        until(|| (said() > before).then_some(()), || self.server.log());
    }
}

#[test]
fn whose_certificate_a_list_names_that_was_read_again_goes_and_nobody_else() {
    let scene = Scene::start();
    let (lost, kept) =
        (scene.authority.issue_numbered("lost", 17), scene.authority.issue_numbered("kept", 18));
    let transports = [Transport::Tls, Transport::Wss];
    let mut going = transports.map(|transport| scene.connect(transport, &lost));
    let mut staying: Vec<_> = transports.iter().map(|transport| scene.connect(*transport, &kept)).collect();
    staying.push(Target { server: &scene.server, transport: Transport::Tls }.v5());
    Stream::expect_refused(
        &scene.server,
        Transport::Tls,
        &scene.authority.issue_numbered("listed already", 1),
    );

    // Half a list, as while somebody writes it, and then none at all: what was read before holds.
    let whole = scene.authority.revoked(&[1, 17]);
    for part in [&whole[..whole.len() / 2], ""] {
        fs::write(&scene.list, part).unwrap();
        scene.read_again("certificates not taken");
        going.iter_mut().chain(&mut staying).for_each(Client::expect_alive);
    }
    // The same list again says nothing new.
    fs::write(&scene.list, scene.authority.revoked(&[1])).unwrap();
    scene.read_again("certificates read");
    going.iter_mut().chain(&mut staying).for_each(Client::expect_alive);

    fs::write(&scene.list, &whole).unwrap();
    scene.read_again("certificates read");
    for client in &mut going {
        let Ok(packet) = client.poll(REVOKED_WITHIN) else {
            panic!("it is still there, or gone without a word")
        };
        assert_eq!(packet.disconnect().reason, 0x87);
    }
    staying.iter_mut().for_each(Client::expect_alive);
    for transport in transports {
        Stream::expect_refused(&scene.server, transport, &lost);
        scene.connect(transport, &kept).expect_alive();
    }
}
