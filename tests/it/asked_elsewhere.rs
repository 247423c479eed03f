//! Users who are known elsewhere, to an HTTP endpoint or a directory: who comes in, and what they may do then, in both versions.

use tempfile::TempDir;
use testkit::nobody::Nobody;

use crate::harness::bytes::{Connect, Publish, Will};
use crate::harness::directory::directory;
use crate::harness::reference::{Asked, endpoint};
use crate::harness::{Client, Server, Target, Transport, unique};
use crate::process::get;

pub(crate) const PASSWORD: &str = "tg-secret-only in this test";

fn tcp(server: &Server) -> Target<'_> {
    Target { server, transport: Transport::Tcp }
}

/// Publishes once and returns the Reason Code of PUBACK or PUBREC, 0 where there is none.
fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8) -> u8 {
    client.publish_and_see(Publish::new(topic, payload), qos)
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
    let address = endpoint(|asked: &Asked| {
        assert_eq!(asked.path, "/auth");
        let asked = asked.json();
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
    let address = endpoint(|Asked { body, .. }: &Asked| {
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
    let nobody = Nobody::here();
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("passwords");
    crate::harness::users::passwd(&file, "anna", &[]);
    let http = format!("[auth.http]\ncontract = 'emqx4'\nurl = 'http://{}/auth'\n", nobody.address());
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

#[test]
fn users_and_groups_of_a_directory_come_in_by_bind_or_by_search() {
    let groups = [("staff", "alice"), ("everything", "observer")];
    let directory = directory(PASSWORD, &["alice", "observer"], &groups);
    let by_group = "group_base = 'dc=example'\ngroup_filter = '(member=${dn})'\n";
    for way in ["user_dn = 'uid=${username},dc=example'\n", "search_base = 'dc=example'\n"] {
        let server =
            Server::start(&format!("[auth.ldap]\nurl = '{}'\n{way}{by_group}{BY_GROUP}", directory.ldap()));
        expect_what_alice_may(&server);
    }
}
