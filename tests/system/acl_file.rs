//! One ACL file, read by Mosquitto and by us: the same clients may publish and are given the same. Where they differ on purpose
//! is in `docs/auth.md`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, Publish};
use crate::harness::users::{PASSWORD, passwd};
use crate::harness::{Client, Server, Transport, until};

/// Every kind of line. Everybody may read `mark`, by which a reader knows that nothing more is to come.
const ACL: &str = "\
# Clients without a user name.
topic read mark
topic read open/#
topic deny open/closed
topic write in/+/x
topic $SYS/broker/test/#

user admin
topic readwrite #
topic readwrite $dollar/#

user alice
topic read mark
topic  own/#
topic deny own/+/secret
topic write own/a/secret
topic read sp ace/#
topic read $dollar/a

user bob builder
topic read mark
topic write #
topic deny shared/b

user none
topic read mark

pattern write dev/%c/#
pattern read dev/%c/+
pattern deny dev/%c/locked
pattern readwrite users/%u/%c
pattern write part-%c-%u/x
pattern read shared/#
pattern deny shared/private
";

/// User name and Client Identifier.
const CLIENTS: [(Option<&str>, &str); 10] = [
    (None, "7"),
    (None, "a/b"),
    (Some("alice"), "7"),
    (Some("alice"), "8+"),
    (Some("alice"), "#"),
    (Some("alice"), "a/b"),
    (Some("bob builder"), "7"),
    (Some("bob builder"), "x/7"),
    (Some("none"), "7"),
    (Some("admin"), "9"),
];

const TOPICS: [&str; 35] = [
    "open",
    "open/x",
    "open/closed",
    "open/closed/x",
    "in/a/x",
    "in/a/b/x",
    "both/%c/plain",
    "both/7/plain",
    "own",
    "own/a",
    "own/a/secret",
    "own/a/secret/x",
    "sp ace/x",
    "$dollar/a",
    "$dollar/b",
    "dev/7",
    "dev/7/a",
    "dev/7/a/b",
    "dev/7/locked",
    "dev/a/b/c",
    "dev/a/b",
    "dev/%u/a",
    "users/alice/7",
    "users/alice/a/b",
    "users/bob builder/7",
    "users//7",
    "part-7-alice/x",
    "part-7-/x",
    "part-a/b-alice/x",
    "part-7-bob builder/x",
    "shared",
    "shared/a",
    "shared/b",
    "shared/private",
    "other",
];

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn mosquitto(dir: &Path, users: &[&str]) -> (Running, SocketAddr) {
    let passwords = dir.join("mosquitto-users");
    fs::write(&passwords, "").unwrap();
    for user in users {
        let made = Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([user, PASSWORD]).status();
        assert!(made.unwrap().success(), "mosquitto_passwd");
    }
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = dir.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\npassword_file {}\nacl_file {}\nuser root\n",
        address.port(),
        passwords.display(),
        dir.join("acl").display()
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(dir.join("mosquitto.log")).unwrap();
    let program = ["mosquitto", "/usr/sbin/mosquitto"]
        .into_iter()
        .find(|program| Command::new(program).arg("-h").output().is_ok())
        .expect("mosquitto is installed");
    let running = Running(Command::new(program).arg("-c").arg(&config).stderr(log).spawn().unwrap());
    let log = || fs::read_to_string(dir.join("mosquitto.log")).unwrap_or_default();
    until(|| Client::try_open(address), || format!("mosquitto listens:\n{}", log()));
    (running, address)
}

fn connect(address: SocketAddr, user: Option<&str>, client_id: &str) -> Client {
    let mut client = Client::try_open(address).unwrap();
    let mut connect = Connect::v5(client_id);
    if let Some(user) = user {
        connect = connect.user(user, PASSWORD);
    }
    client.send(&connect.bytes());
    assert_eq!(client.expect_connack().code, 0, "{user:?} {client_id}");
    client
}

/// Publishes to each of these and says which are taken. Not more at a time than Mosquitto's Receive Maximum.
fn publish(client: &mut Client, topics: &[&str]) -> Vec<bool> {
    let mut taken = Vec::new();
    for some in topics.chunks(16) {
        for (id, topic) in (1..).zip(some) {
            client.send(&Publish::new(topic, topic).qos1(id).bytes());
        }
        let answers = (1..).zip(some).map(|(id, _)| client.expect_reply(PUBACK, id).reason < 0x80);
        taken.extend(answers);
    }
    taken
}

/// What each client may publish, and what it is given by the widest subscriptions that there are.
fn outcomes(address: SocketAddr) -> BTreeMap<String, String> {
    let mut outcomes = BTreeMap::new();
    let mut admin = connect(address, Some("admin"), "the admin");
    for (user, client_id) in CLIENTS {
        let mut client = connect(address, user, client_id);
        let name = |verb: &str, topic: &str| format!("{} as {client_id} {verb} {topic}", user.unwrap_or("-"));
        for (topic, is_taken) in TOPICS.into_iter().zip(publish(&mut client, &TOPICS)) {
            outcomes.insert(name("publishes", topic), is_taken.to_string());
        }
        client.subscribe("#", 0);
        client.subscribe("$dollar/#", 0);
        for topics in [&TOPICS[..], &["mark"]] {
            assert!(publish(&mut admin, topics).into_iter().all(|is_taken| is_taken));
        }
        loop {
            let received = client.expect_publish().topic;
            if received == "mark" {
                break;
            }
            outcomes.insert(name("is given", &received), "true".to_owned());
        }
    }
    outcomes
}

#[test]
fn an_acl_file_means_what_it_means_to_mosquitto() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("acl"), ACL).unwrap();
    let users = ["admin", "alice", "bob builder", "none"];
    for user in users {
        passwd(&dir.path().join("users"), user, &["--no-scram"]);
    }
    let (_mosquitto, theirs) = mosquitto(dir.path(), &users);
    let ours = Server::start_in(
        dir.path(),
        &format!(
            "[auth]\npassword_file = \"{}\"\nanonymous = \"loopback\"\n[authorization]\nacl_file = \"{}\"\n",
            dir.path().join("users").display(),
            dir.path().join("acl").display()
        ),
    );
    let (theirs, ours) = (outcomes(theirs), outcomes(ours.address(Transport::Tcp)));
    let differences: Vec<_> = theirs
        .keys()
        .chain(ours.keys())
        .filter(|&key| theirs.get(key) != ours.get(key))
        .map(|key| format!("{key}: Mosquitto {:?}, Tidegate {:?}", theirs.get(key), ours.get(key)))
        .collect();
    assert!(
        differences.is_empty(),
        "{} outcomes, of which differ:\n{}",
        theirs.len(),
        differences.join("\n")
    );
    assert!(theirs.values().any(|outcome| outcome == "false"), "something was refused");
}
