//! Users who are known elsewhere, to an HTTP endpoint or a directory: who comes in, and what they may do then, in both versions.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, PUBCOMP, PUBREC, PUBREL, Publish, Will, ack};
use crate::harness::{Client, Server, Target, Transport, unique, until};
use crate::process::get;

pub(crate) const PASSWORD: &str = "tg-secret-only in this test";

/// Answers each POST with what `answer` makes of its path and body, and counts nothing: threads end with the test.
pub(crate) fn endpoint(answer: fn(&str, &str) -> (u16, String)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            std::thread::spawn(move || serve(socket, answer));
        }
    });
    address
}

fn serve(mut socket: TcpStream, answer: fn(&str, &str) -> (u16, String)) {
    let mut read = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        let whole = text.split_once("\r\n\r\n").and_then(|(head, body)| {
            let length = head.to_lowercase().split_once("content-length: ")?.1.to_owned();
            let length: usize = length.lines().next()?.parse().ok()?;
            (body.len() >= length).then(|| (head.to_owned(), body.to_owned()))
        });
        if let Some((head, body)) = whole {
            read.clear();
            let (status, said) = answer(head.split(' ').nth(1).unwrap(), &body);
            let kind = if said.starts_with('{') { "application/json" } else { "text/plain" };
            let length = said.len();
            write!(
                socket,
                "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{said}"
            )
            .unwrap();
        }
        match socket.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(length) => read.extend_from_slice(&chunk[..length]),
        }
    }
}

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Publishes once and returns the Reason Code of PUBACK or PUBREC, 0 where there is none.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u8 {
    let publish = Publish::new(topic, payload);
    let publish = if client.version < 5 { publish.v3() } else { publish };
    match qos {
        0 => {
            client.send(&publish.bytes());
            client.expect_alive();
            0
        }
        1 => {
            client.send(&publish.qos1(7).bytes());
            client.expect_reply(PUBACK, 7).reason
        }
        _ => {
            client.send(&publish.qos2(7).bytes());
            let reason = client.expect_reply(PUBREC, 7).reason;
            if reason < 0x80 {
                client.send(&ack(PUBREL, 7));
                client.expect_success(PUBCOMP, 7);
            }
            reason
        }
    }
}

/// Alice may publish below `own/alice`, and subscribe there and to `shared/#`; the observer sees everything.
fn expect_what_alice_may(server: &Server) {
    let at = tcp(server);
    let mut observer = at.connect(&Connect::v5(&unique("o")).user("observer", PASSWORD));
    assert_eq!(observer.subscribe("#", 0), 0);
    for version in [4, 5] {
        let connect = || Connect::new(version, &unique("c"));
        let (wrong, not_authorized) = if version == 5 { (0x86, 0x87) } else { (4, 5) };
        for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD), ("alice", "")] {
            let refused = at.refused(&connect().user(user, password).bytes(), version);
            assert_eq!(refused.code, wrong, "version {version}: {user} {password:?}");
        }
        let will = |topic: &str| connect().user("alice", PASSWORD).will(Will::new(topic, "gone"));
        assert_eq!(at.refused(&will("own/bob/will").bytes(), version).code, not_authorized);
        at.connect(&will("own/alice/will")).vanish();
        assert_eq!(observer.take().topic, "own/alice/will");

        let mut alice = at.connect(&connect().user("alice", PASSWORD));
        for qos in [0, 1, 2] {
            let payload = format!("version {version} QoS {qos}");
            assert_eq!(publish(&mut alice, "own/alice/x", &payload, qos), 0);
            let refusal = if version == 5 && qos > 0 { 0x87 } else { 0 };
            assert_eq!(publish(&mut alice, "own/bob/x", "never", qos), refusal, "{payload}");
            assert_eq!(observer.take().text(), payload);
        }
        let filters = [
            "own/alice/#",
            "own/bob/#",
            "own/+/x",
            "#",
            "$SYS/#",
            "shared/a",
            "$share/g/shared/a",
            "$share/g/own/bob/x",
        ];
        let asked: Vec<_> = filters.iter().map(|filter| (*filter, 1)).collect();
        let no = if version == 5 { 0x87 } else { 0x80 };
        assert_eq!(
            alice.subscribe_all(&asked, &[]).codes,
            [1, no, no, no, no, 1, 1, no],
            "version {version}"
        );
        alice.leave();
    }
    observer.expect_silence();
    assert!(!server.log().contains(PASSWORD), "no password in the log");
}

#[test]
fn an_emqx5_endpoint_says_who_comes_in_and_what_for() {
    let address = endpoint(|path, body| {
        assert_eq!(path, "/auth");
        let asked: serde_json::Value = serde_json::from_str(body).unwrap();
        let rules = r#"[{"permission": "allow", "action": "all", "topic": "own/${username}/#"},
                        {"permission": "allow", "action": "subscribe", "topics": ["shared/#"]}]"#;
        let said = match (asked["username"].as_str().unwrap(), asked["password"] == PASSWORD) {
            ("alice", true) => format!(r#"{{"result": "allow", "acl": {rules}}}"#),
            ("observer", true) => r#"{"result": "allow", "is_superuser": true}"#.to_owned(),
            _ => r#"{"result": "ignore"}"#.to_owned(),
        };
        (200, said)
    });
    let server = Server::start(&format!("[auth.http]\ncontract = 'emqx5'\nurl = 'http://{address}/auth'\n"));
    expect_what_alice_may(&server);
    let metrics = get(&server, "/metrics").1;
    assert!(
        metrics.contains("tidegate_auth_inquiries_total{source=\"http\",outcome=\"allowed\"}"),
        "{metrics}"
    );
}

/// Rules by group, for sources that know groups.
const BY_GROUP: &str = "[[authorization.rule]]\nwho = ['group:everything']\neffect = 'allow'\naction = 'all'\ntopics = ['#']\n\
                        [[authorization.rule]]\nwho = ['group:staff']\neffect = 'allow'\naction = 'subscribe'\ntopics = ['shared/#']\n\
                        [[authorization.rule]]\nwho = ['*']\neffect = 'allow'\naction = 'all'\ntopics = ['own/%u/#']\n";

#[test]
fn tags_of_a_rabbitmq_endpoint_are_groups_of_rules() {
    let address = endpoint(|_, body| {
        let knows = body.contains("password=tg-secret-only+in+this+test");
        let said = match (body.contains("username=alice"), body.contains("username=observer")) {
            (true, _) if knows => "allow staff",
            (_, true) if knows => "allow everything",
            _ => "deny",
        };
        (200, said.to_owned())
    });
    let server = Server::start(&format!(
        "[auth.http]\ncontract = 'rabbitmq'\nurl = 'http://{address}/auth/user'\n{BY_GROUP}"
    ));
    expect_what_alice_may(&server);
}

#[test]
fn an_endpoint_that_is_away_refuses_as_unavailable_or_leaves_it_to_the_password_file() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    crate::harness::users::passwd(&file, "anna", &[]);
    let http = format!("[auth.http]\ncontract = 'emqx4'\nurl = 'http://{unused}/auth'\n");
    let server = Server::start(&http);
    for (version, unavailable) in [(4, 3), (5, 0x88)] {
        let connect = Connect::new(version, &unique("c")).user("anna", PASSWORD);
        assert_eq!(tcp(&server).refused(&connect.bytes(), version).code, unavailable);
    }
    let both = format!(
        "[auth]\nsources = ['http', 'password_file']\npassword_file = '{}'\nhash_timeout_ms = 60000\n\
         {http}when_away = 'ignore'\n[edge]\nauthenticate_timeout_ms = 60000\n",
        file.display()
    );
    let server = Server::start(&both);
    let anna = Connect::v5(&unique("c")).user("anna", crate::harness::users::PASSWORD);
    tcp(&server).connect(&anna).leave();
}

/// Debian's slapd with these users; ends with the test.
struct Directory(Child, #[allow(dead_code, reason = "kept as long as slapd runs")] TempDir, u16);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Directory {
    fn start() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let schema = |name: &str| format!("include /etc/ldap/schema/{name}.schema\n");
        let configuration = format!(
            "{}{}{}modulepath /usr/lib/ldap\nmoduleload back_mdb\ndatabase mdb\nsuffix dc=example\ndirectory {}\n\
             access to attrs=userPassword by anonymous auth\naccess to * by * read\n",
            schema("core"),
            schema("cosine"),
            schema("inetorgperson"),
            dir.path().join("data").display()
        );
        fs::write(dir.path().join("slapd.conf"), configuration).unwrap();
        fs::write(dir.path().join("entries.ldif"), entries()).unwrap();
        let file = |name: &str| dir.path().join(name);
        let added = Command::new("/usr/sbin/slapadd")
            .args([
                "-f".as_ref(),
                file("slapd.conf").as_os_str(),
                "-l".as_ref(),
                file("entries.ldif").as_os_str(),
            ])
            .output()
            .unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        let slapd = Command::new("/usr/sbin/slapd")
            .args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{port}"), "-f"])
            .arg(file("slapd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until(|| TcpStream::connect(("127.0.0.1", port)).ok(), || "slapd listens".to_owned());
        Self(slapd, dir, port)
    }
}

fn entries() -> String {
    let user = |name: &str| {
        format!(
            "dn: uid={name},dc=example\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\nuserPassword: {PASSWORD}\n\n"
        )
    };
    let group = |name: &str, member: &str| {
        format!(
            "dn: cn={name},dc=example\nobjectClass: groupOfNames\ncn: {name}\nmember: uid={member},dc=example\n\n"
        )
    };
    let root =
        "dn: dc=example\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n";
    [
        root.to_owned(),
        user("alice"),
        user("observer"),
        group("staff", "alice"),
        group("everything", "observer"),
    ]
    .concat()
}

#[test]
fn users_and_groups_of_a_directory_come_in_by_bind_or_by_search() {
    let directory = Directory::start();
    let groups = "group_base = 'dc=example'\ngroup_filter = '(member=${dn})'\n";
    for way in ["user_dn = 'uid=${username},dc=example'\n", "search_base = 'dc=example'\n"] {
        let server = Server::start(&format!(
            "[auth.ldap]\nurl = 'ldap://127.0.0.1:{}'\n{way}{groups}{BY_GROUP}",
            directory.2
        ));
        expect_what_alice_may(&server);
    }
}
