//! Two services of authentication, two edges, two workers, and devices on every way in: users, clients, tokens and certificates are
//! revoked, rules become others, the key of passports is replaced. Who must go is gone in time, with the Reason Code; nobody else
//! notices.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use testkit::authority::{Authority, Issued};

use super::authsvc::Services;
use super::fleet::mixed;
use crate::harness::bytes::{Connect, PUBACK, Publish};
use crate::harness::fleet::{Fleet, Phase};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Target, Transport, replace, unique};
use crate::tiers::{Shape, Tiers, metric, within};

/// How long it may take until who was revoked has gone.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A file has to be the same for three seconds, and is looked at each second.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

/// For waits that are no promise, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const SECRET: &[u8] = b"known to nobody but those who issue tokens";

/// Everybody without a user name may do everything; carl may publish where the file says.
fn acl(carl: &str) -> String {
    format!("topic readwrite #\nuser carl\ntopic readwrite {carl}\n")
}

/// A token by this name.
fn token(id: &str) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims =
        json!({"sub": "pump", "aud": "mqtt", "iss": "https://id.example", "exp": now_s + 3600, "jti": id});
    let head = json!({"alg": "HS256", "typ": "JWT"});
    let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let signed = format!("{}.{}", encode(&head), encode(&claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

struct Scene {
    services: Services,
    tiers: Tiers,
    authority: Authority,
    files: TempDir,
}

impl Scene {
    fn start() -> Self {
        let (dir, files, authority) =
            (TempDir::new().unwrap(), TempDir::new().unwrap(), Authority::new("devices of a test"));
        let path = |name: &str| files.path().join(name);
        fs::write(path("ca.pem"), authority.pem()).unwrap();
        fs::write(path("revoked.pem"), authority.revoked(&[1])).unwrap();
        fs::write(path("acl"), acl("before")).unwrap();
        fs::write(path("secret"), SECRET).unwrap();
        passwd(&dir.path().join("users"), "carl", &[]);
        let services = Services::start_in(
            dir,
            &format!(
                "auth.anonymous = \"always\"\nauth.jwt = {{ secret_file = {:?}, audience = [\"mqtt\"], \
                 issuer = [\"https://id.example\"] }}\nauthorization.acl_file = {:?}\n",
                path("secret"),
                path("acl")
            ),
        );
        let mut shape = Shape::new(2, 2);
        shape.signs_at_edges = false;
        shape.worker_extra = services.of_worker();
        // What is remembered is no reason to go on by rules of before.
        shape.edge_extra = services.of_edge_that_remembers(60_000)
            + &format!(
                "tls.client_certificates = {{ mode = \"optional\", ca_file = {:?}, crl_files = [{:?}] }}\n",
                path("ca.pem"),
                path("revoked.pem")
            );
        let tiers = Tiers::start_single(&shape);
        Self { services, tiers, authority, files }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// The same at both edges, over these transports.
    fn at_both(&self, connect: impl Fn() -> Connect, transports: [Transport; 2]) -> Vec<Client> {
        let at = |(server, transport)| Target { server, transport }.connect(&connect());
        self.tiers.edges.iter().zip(transports).map(at).collect()
    }

    fn users(&self, name: &str) -> Vec<Client> {
        self.at_both(|| Connect::stored(&unique("u")).user(name, PASSWORD), [Transport::Tcp, Transport::Tls])
    }

    fn bearers(&self, token: &str) -> Vec<Client> {
        self.at_both(|| Connect::v5(&unique("t")).user("any", token), [Transport::Wss, Transport::Tcp])
    }

    fn holders(&self, identity: &Issued) -> Vec<Client> {
        let connect = |(server, transport): (&Server, Transport)| {
            let mut client = Client::open_as(server, transport, identity);
            client.send(&Connect::v5(&unique("h")).bytes());
            assert_eq!(client.expect_connack().code, 0);
            client
        };
        self.tiers.edges.iter().zip([Transport::Tls, Transport::Wss]).map(connect).collect()
    }
}

/// They go with this reason, and others stay.
fn expect_gone(what: &str, since: Instant, clients: Vec<Client>, reason: u8, others: &mut [Vec<Client>]) {
    for mut client in clients {
        let Ok(packet) = client.poll_until(since + REVOKED_WITHIN) else {
            panic!("{what}: it is still there, or gone without a word, after {:?}", since.elapsed())
        };
        assert_eq!(packet.disconnect().reason, reason, "{what}");
    }
    println!("{what}: gone after {:?}", since.elapsed());
    others.iter_mut().flatten().for_each(Client::expect_alive);
}

fn fingerprint(identity: &Issued) -> String {
    Sha256::digest(&identity.der).iter().map(|byte| format!("{byte:02X}")).collect()
}

fn may_publish(client: &mut Client, topic: &str) -> bool {
    client.send(&Publish::new(topic, "x").qos1(9).bytes());
    client.expect_reply(PUBACK, 9).reason < 0x80
}

/// The orders of an operator, each to one of the services.
fn by_order(scene: &Scene, others: &mut [Vec<Client>]) {
    let Scene { services, authority, .. } = scene;
    let (known, lost) = (token("known"), token("lost"));
    let (card, lost_card) = (authority.issue_numbered("card", 16), authority.issue_numbered("lost card", 17));
    let anna = scene.users("anna");
    let (bearers, mut known) = (scene.bearers(&lost), scene.bearers(&known));
    let (holders, mut card) = (scene.holders(&lost_card), scene.holders(&card));
    let name = unique("named");
    let named = Target { server: &scene.tiers.edges[1], transport: Transport::Tls }
        .connect(&Connect::v5(&name).user("bert", PASSWORD));

    let revoke = |number: usize, order: String| {
        services.revoke(number, &order);
        Instant::now()
    };
    let since = revoke(0, "{\"user\":\"anna\"}".to_owned());
    expect_gone("a user", since, anna, 0x98, others);
    let since = revoke(1, format!("{{\"client_id\":\"{name}\"}}"));
    expect_gone("a client", since, vec![named], 0x98, others);
    let since = revoke(0, "{\"token\":\"lost\",\"lasts_s\":60}".to_owned());
    expect_gone("a token", since, bearers, 0x98, others);
    let since = revoke(1, format!("{{\"certificate\":\"{}\",\"lasts_s\":60}}", fingerprint(&lost_card)));
    expect_gone("a certificate", since, holders, 0x98, others);
    known.iter_mut().chain(&mut card).for_each(Client::expect_alive);
    // Nor may they come back for now, at whichever edge.
    for edge in &scene.tiers.edges {
        let at = Target { server: edge, transport: Transport::Tcp };
        assert_eq!(at.refused(&Connect::v5(&unique("t")).user("any", &lost).bytes(), 5).code, 0x8a);
        let mut client = Client::open_as(edge, Transport::Tls, &lost_card);
        client.send(&Connect::v5(&unique("h")).bytes());
        assert_eq!(client.expect_connack().code, 0x8a);
    }
    scene.users("anna").iter_mut().for_each(Client::expect_alive);
}

/// A list of certificates that both edges read again.
fn by_list(scene: &Scene, others: &mut [Vec<Client>]) {
    let (card, lost_card) =
        (scene.authority.issue_numbered("card", 18), scene.authority.issue_numbered("lost card", 19));
    let (mut card, lost_card) = (scene.holders(&card), scene.holders(&lost_card));
    replace(&scene.file("revoked.pem"), &scene.authority.revoked(&[1, 19]));
    for edge in &scene.tiers.edges {
        edge.signal("HUP");
    }
    for edge in &scene.tiers.edges {
        within("an edge reads the list", PATIENCE, || edge.log().contains("certificates read").then_some(()));
    }
    expect_gone("a certificate on a list", Instant::now(), lost_card, 0x87, others);
    card.iter_mut().for_each(Client::expect_alive);
}

/// Files of the services that change.
fn by_file(scene: &Scene, others: &mut [Vec<Client>]) {
    let mut carl = scene.users("carl");
    for client in &mut carl {
        assert!(may_publish(client, "before") && !may_publish(client, "after"));
    }
    let since = Instant::now();
    replace(&scene.file("acl"), &acl("after"));
    for client in &mut carl {
        within("other rules reach it", PATIENCE, || may_publish(client, "after").then_some(()));
        assert!(!may_publish(client, "before"));
    }
    println!("other rules: there after {:?}", since.elapsed());

    let bert = scene.users("bert");
    let users = scene.services.path("users");
    passwd(&users, "bert", &["--delete"]);
    let removed = Instant::now();
    let log = |server: &Server| server.log().contains("bert");
    within("the services see it", PATIENCE, || scene.services.servers.iter().all(log).then_some(()));
    println!("the file was read {:?} after it was changed", removed.elapsed());
    expect_gone("a user who was removed", Instant::now(), bert, 0x87, others);
    passwd(&users, "carl", &[]);
    let since = Instant::now() + SETTLED_WITHIN;
    expect_gone("a user with another password", since, carl, 0x87, others);
}

#[test]
fn who_must_go_goes_from_both_edges_and_nobody_else_notices() {
    let scene = Scene::start();
    let mut fleet = Fleet::new(&scene.tiers.edges());
    for plan in mixed(16, 2, Duration::from_millis(100)) {
        fleet.add(plan);
    }
    fleet.wait_until_ready(PATIENCE);
    fleet.enter(Phase::Load);
    let mut others = vec![scene.bearers(&token("other"))];

    by_order(&scene, &mut others);
    scene.services.replace_key();
    // Those of the old key and of the new one stay side by side.
    others.push(scene.bearers(&token("of the next key")));
    others.iter_mut().flatten().for_each(Client::expect_alive);
    by_list(&scene, &mut others);
    by_file(&scene, &mut others);

    let refused: String = scene.tiers.workers.iter().map(Server::log).collect();
    assert!(!refused.contains("passport is not accepted"), "{refused}");
    let renewed: f64 =
        scene.tiers.edges.iter().map(|edge| metric(edge, "tidegate_edge_passport_renewals_total")).sum();
    assert!(renewed >= 16.0, "the fleet was asked about anew: {renewed}");
    let totals = fleet.settle_with_qos_0(PATIENCE);
    println!("{}", totals.table("devices that nobody revoked"));
    totals.expect_clean();
    assert_eq!((totals.lost_stored, totals.lost_clean), ([0; 3], [0; 3]));
    assert!(totals.acknowledged[1] > 0);
}
