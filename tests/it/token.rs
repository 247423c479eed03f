//! Signed tokens as passwords and as an Authentication Method: who is let in, what for, and until when.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use crate::harness::bytes::{Connect, PUBACK, Publish, Will, auth};
use crate::harness::property as p;
use crate::harness::{Client, Server, Target, Transport, unique, until};
use crate::process::get;

const METHOD: &str = "JWT";
const SECRET: &[u8] = b"tg-secret-known to nobody but those who issue tokens";

/// A server that takes tokens, which may bring rules.
fn server() -> (TempDir, Server) {
    server_with("")
}

/// The same with more settings.
pub(crate) fn server_with(more: &str) -> (TempDir, Server) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let server = Server::start(&format!(
        "[log]\nlevel = \"info,authsvc=debug\"\n[auth.jwt]\nsecret_file = \"{}\"\naudience = [\"mqtt\"]\nissuer = [\"https://id.example\"]\n\
         leeway_s = 0\nmethod = \"{METHOD}\"\nrules_claim = \"acl\"\n{more}",
        file.display()
    ));
    (dir, server)
}

/// A token of pump-7 that ends after `life_s`, with what else `claims` has.
pub(crate) fn token(life_s: u64, claims: &Value) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut all = json!({"sub": "pump-7", "aud": "mqtt", "iss": "https://id.example", "exp": now_s + life_s});
    claims.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = format!("{}.{}", encode(&json!({"alg": "HS256", "typ": "JWT"})), encode(&all));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).unwrap();
    mac.update(head.as_bytes());
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// May publish and subscribe below its name.
fn with_rules(life_s: u64) -> String {
    token(life_s, &json!({"acl": [{"effect": "allow", "action": "all", "topics": ["plant/%u/#"]}]}))
}

pub(crate) fn data(token: &str) -> Vec<u8> {
    [p::text(p::AUTH_METHOD, METHOD), p::text(p::AUTH_DATA, token)].concat()
}

/// A connection whose CONNECT ran the method.
fn by_method(server: &Server, token: &str) -> Client {
    let mut client = Client::open(server, Transport::Tls);
    client.send(&Connect::v5(&unique("c")).with(data(token)).bytes());
    let connack = client.expect_connack();
    assert_eq!(connack.code, 0);
    // v5 [MQTT-4.12.0-5]
    assert_eq!(connack.properties.text(p::AUTH_METHOD), Some(METHOD));
    client
}

/// Publishes at QoS 1 and returns the Reason Code.
fn publish(client: &mut Client, topic: &str) -> u8 {
    client.send(&Publish::new(topic, "x").qos1(9).bytes());
    client.expect_reply(PUBACK, 9).reason
}

#[test]
fn a_token_as_password_lets_in_for_what_it_says() {
    let (_dir, server) = server();
    let good = with_rules(60);
    for (transport, name) in [(Transport::Tcp, None), (Transport::Wss, Some("whatever"))] {
        let at = Target { server: &server, transport };
        let connect = Connect::v5(&unique("c"));
        let connect = match name {
            Some(name) => connect.user(name, &good),
            None => connect.password_only(&good),
        };
        let mut client = at.connect(&connect);
        assert_eq!(client.subscribe("plant/pump-7/#", 1), 1);
        assert_eq!(client.subscribe("plant/#", 1), 0x87);
        assert_eq!(client.subscribe("$share/all/plant/pump-8/#", 1), 0x87);
        assert_eq!(client.subscribe("$SYS/#", 0), 0x87);
        assert_eq!(publish(&mut client, "plant/pump-8/state"), 0x87);
        assert_eq!(publish(&mut client, "plant/pump-7/state"), 0);
        assert_eq!(client.expect_message("x").topic, "plant/pump-7/state");
    }
    let at = Target { server: &server, transport: Transport::Tcp };
    let mut old = at.connect(&Connect::v4(&unique("c")).user("pump-7", &good));
    assert_eq!(old.subscribe("plant/pump-7/+", 0), 0);
    assert_eq!(old.subscribe("#", 0), 0x80);
}

#[test]
fn a_token_that_is_not_good_is_refused_and_why_is_in_the_log_alone() {
    let (_dir, server) = server();
    let at = Target { server: &server, transport: Transport::Tcp };
    let whole = with_rules(60);
    let (head, _) = whole.rsplit_once('.').unwrap();
    let unsigned =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), whole.split('.').nth(1).unwrap());
    let refused = [
        ("expired", token(0, &json!({}))),
        ("not yet valid", token(60, &json!({"nbf": 9_999_999_999_u64}))),
        ("for another audience", token(60, &json!({"aud": "mail"}))),
        ("of another issuer", token(60, &json!({"iss": "https://id.example.net"}))),
        ("not signed", unsigned),
        ("bad signature", format!("{head}.{}", URL_SAFE_NO_PAD.encode([7; 32]))),
        ("longer than token_bytes_max", token(60, &json!({"more": "x".repeat(20_000)}))),
    ];
    for (reason, token) in &refused {
        let v5 = Connect::v5(&unique("c")).password_only(token);
        let connack = at.refused(&v5.bytes(), 5);
        assert_eq!(connack.code, 0x86, "{reason}");
        assert_eq!(connack.properties.text(p::REASON_STRING), None, "{reason}");
        let v4 = Connect::v4(&unique("c")).user("pump-7", token);
        assert_eq!(at.refused(&v4.bytes(), 4).code, 4, "{reason}");
        let mut client = Client::open(&server, Transport::Tcp);
        client.send(&Connect::v5(&unique("c")).with(data(token)).bytes());
        assert!([0x86, 0x87].contains(&client.expect_connack().code), "{reason}");
        client.expect_close();
    }
    let is_told = |log: &str| refused.iter().all(|(reason, _)| log.contains(reason));
    until(|| is_told(&server.log()).then_some(()), || server.log());
    let printed = server.log() + &get(&server, "/metrics").1;
    for (reason, token) in &refused {
        for part in token.split('.').filter(|part| part.len() > 30) {
            assert!(!printed.contains(part), "{reason}: a part of the token is in the log");
        }
    }
    assert!(printed.contains("tidegate_auth_tokens_refused_total{reason=\"expired\"} 3"), "counted");
    assert!(!printed.contains(str::from_utf8(SECRET).unwrap()));
}

#[test]
fn a_connection_ends_with_its_token() {
    let (_dir, server) = server();
    let at = Target { server: &server, transport: Transport::Tcp };
    let since = Instant::now();
    let mut by_password = at.connect(&Connect::v5(&unique("c")).password_only(&with_rules(3)));
    let mut by_method = by_method(&server, &with_rules(3));
    let mut stays = at.connect(&Connect::v5(&unique("c")).password_only(&with_rules(60)));
    by_password.expect_disconnect(0x87);
    by_method.expect_disconnect(0x87);
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    stays.expect_alive();
}

#[test]
fn a_device_renews_its_token_on_the_open_connection() {
    let (_dir, server) = server();
    let first = with_rules(3);
    let (mut client, mut other) = (by_method(&server, &first), by_method(&server, &first));
    assert_eq!(publish(&mut client, "plant/pump-7/state"), 0x10, "nobody subscribes");
    // The next token has other rules.
    let next = token(60, &json!({"acl": [{"effect": "allow", "action": "publish", "topics": ["other"]}]}));
    client.send(&auth(0x19, &data(&next)));
    assert_eq!(client.read_packet().auth().reason, 0);
    // Who stays with the first token goes with it.
    other.expect_disconnect(0x87);
    client.expect_alive();
    assert_eq!(publish(&mut client, "plant/pump-7/state"), 0x87);
    assert_eq!(publish(&mut client, "other"), 0x10);

    // v5 [MQTT-4.12.1-2]
    client.send(&auth(0x19, &data(&token(0, &json!({})))));
    client.expect_disconnect(0x87);

    // A session is its user's alone, however good the token: no AUTH tells of success.
    let mut other = by_method(&server, &with_rules(60));
    other.send(&auth(0x19, &data(&token(60, &json!({"sub": "pump-8"})))));
    other.expect_disconnect(0x87);
}

// The rules of a token are gone with its device, so that they cannot be looked up when the Will is due.
#[test]
fn a_will_that_a_token_allows_is_published_when_its_device_is_away() {
    let rule = "[[authorization.rule]]\nwho = [\"somebody\"]\neffect = \"allow\"\naction = \"all\"\ntopics = [\"x\"]\n";
    let (_dir, server) = server_with(rule);
    let at = Target { server: &server, transport: Transport::Tcp };
    let mut observer = at.connect(&Connect::v5(&unique("c")).password_only(&with_rules(60)));
    assert_eq!(observer.subscribe("plant/pump-7/#", 0), 0);
    let will = |topic: &str| Will::new(topic, "gone").delay(1);
    let allowed =
        Connect::stored(&unique("c")).password_only(&with_rules(60)).will(will("plant/pump-7/will"));
    at.connect(&allowed).vanish();
    assert_eq!(observer.expect_message("gone").topic, "plant/pump-7/will");
    let other = Connect::stored(&unique("c")).password_only(&with_rules(60)).will(will("plant/pump-8/will"));
    assert_eq!(at.refused(&other.bytes(), 5).code, 0x87);
}

#[test]
fn groups_of_a_token_are_those_that_rules_name() {
    let rule = "groups_claim = \"realm.roles\"\n[[authorization.rule]]\nwho = [\"group:crew\"]\neffect = \"allow\"\n\
                action = \"all\"\ntopics = [\"crew/%u/#\"]\n";
    let (_dir, server) = server_with(rule);
    let at = Target { server: &server, transport: Transport::Tcp };
    let connect = |roles: Value| {
        let token = token(60, &json!({"realm": {"roles": roles}}));
        at.connect(&Connect::v5(&unique("c")).password_only(&token))
    };
    let mut member = connect(json!(["guests", "crew"]));
    assert_eq!((publish(&mut member, "crew/pump-7/x"), publish(&mut member, "crew/pump-8/x")), (0x10, 0x87));
    let mut other = connect(json!(["guests"]));
    assert_eq!(publish(&mut other, "crew/pump-7/x"), 0x87);
    let wrong = token(60, &json!({"realm": {"roles": ["crew", 7]}}));
    let refused = at.refused(&Connect::v5(&unique("c")).password_only(&wrong).bytes(), 5);
    assert_eq!(refused.code, 0x86);
}

// Both would let in whoever knows what everybody may know.
#[test]
fn neither_a_public_key_nor_one_that_a_token_brings_along_signs_for_anybody() {
    let (dir, elsewhere) = (TempDir::new().unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let pair = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (ours, theirs) = (pair(), pair());
    let pem = ours.public_key_pem();
    let file = dir.path().join("key.pem");
    std::fs::write(&file, &pem).unwrap();
    std::fs::write(dir.path().join("theirs.pem"), theirs.public_key_pem()).unwrap();
    let server = Server::start(&format!(
        "[log]\nlevel = \"info,authsvc=debug\"\n[auth.jwt]\npublic_key_files = [{file:?}]\naudience = [\"mqtt\"]\nissuer = []\n"
    ));
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = encode(&json!({"sub": "pump-7", "aud": "mqtt", "exp": 9_999_999_999_u64}).to_string());
    let signed = |head: Value, key: &rcgen::KeyPair| {
        let text = format!("{}.{claims}", encode(&head.to_string()));
        let signature = rcgen::SigningKey::sign(key, text.as_bytes()).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let by_public_key = {
        let text = format!("{}.{claims}", encode("{\"alg\":\"HS256\"}"));
        let mut mac = Hmac::<Sha256>::new_from_slice(pem.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    };
    let place = format!("http://{}/keys", elsewhere.local_addr().unwrap());
    let x = URL_SAFE_NO_PAD.encode(theirs.public_key_raw());
    let their_key = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "theirs"});
    let heads = [
        json!({"alg": "EdDSA", "kid": "theirs", "jwk": their_key}),
        json!({"alg": "EdDSA", "kid": "theirs", "jku": place, "x5u": place}),
        json!({"alg": "EdDSA", "kid": dir.path().join("theirs.pem")}),
        json!({"alg": "EdDSA", "kid": "../theirs.pem"}),
    ];
    let at = Target { server: &server, transport: Transport::Tcp };
    for token in heads.into_iter().map(|head| signed(head, &theirs)).chain([by_public_key]) {
        let refused = at.refused(&Connect::v5(&unique("c")).password_only(&token).bytes(), 5);
        assert_eq!((refused.code, refused.properties.text(p::REASON_STRING)), (0x86, None));
    }
    elsewhere.set_nonblocking(true).unwrap();
    assert!(elsewhere.accept().is_err(), "nobody was asked for a key");
    let good = signed(json!({"alg": "EdDSA", "kid": "theirs"}), &ours);
    at.connect(&Connect::v5(&unique("c")).password_only(&good)).leave();
}
