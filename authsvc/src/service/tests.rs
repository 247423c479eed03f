//! The service over real sockets: what it answers to whom, and what it does with those who keep it waiting.

use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use link::{PassportVerifier, PublicKey};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use testkit::authority::write_passport_key;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{AuthConfig, AuthorizationConfig, Editor};

pub(crate) const SECRET: &str = "a secret of enough bytes";

/// A service with the users alice and bob, whose password is `secret`, and its directory.
pub(crate) struct Running {
    pub(crate) service: Service,
    pub(crate) dir: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(change: impl FnOnce(&mut ServiceConfig, &mut SigningConfig)) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change)
    }

    /// In a directory that may have a key.
    pub(crate) fn start_in(
        dir: tempfile::TempDir,
        change: impl FnOnce(&mut ServiceConfig, &mut SigningConfig),
    ) -> Self {
        let (users, key) = (dir.path().join("users"), dir.path().join("key"));
        let mut editor = Editor::open(&users).unwrap();
        for user in ["alice", "bob"] {
            editor.set(user, b"secret", Some(4096)).unwrap();
        }
        editor.save().unwrap();
        if !key.exists() {
            write_passport_key(&key);
        }
        let auth = AuthConfig {
            password_file: Some(users),
            passport_lifetime_s: Some(3600),
            hash_timeout_ms: 60_000,
            ..AuthConfig::default()
        };
        let local = Local::start(&auth, &AuthorizationConfig::default(), &mut Registry::default()).unwrap();
        let mut config = ServiceConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            request_timeout_ms: 60_000,
            ..ServiceConfig::default()
        };
        let mut signing = SigningConfig { signing_key_file: Some(key), ..SigningConfig::default() };
        change(&mut config, &mut signing);
        let service = Service::start(config, &signing, local, &mut Registry::default()).unwrap();
        Self { service, dir }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.service.addresses()[0]
    }

    pub(crate) fn local(&self) -> &Local {
        &self.service.shared.local
    }

    /// Sends bytes on a connection of their own, and reads to its end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refusal may come before everything was sent.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        let answer = self.raw(&request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0), body.to_owned())
    }

    async fn ask(&self, question: &Value) -> Value {
        let headers = "Content-Type: application/json\r\n";
        let (status, body) = self.send("POST", "/v1/authenticate", headers, &question.to_string()).await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn verifier(&self) -> PassportVerifier {
        let keys = self.service.shared.keys.current();
        let pem = keys.signer.public_key().to_pem();
        PassportVerifier::from_pems(&[pem], Duration::ZERO).unwrap()
    }
}

fn question(user: &str, password: &str) -> Value {
    let password = BASE64_STANDARD.encode(password);
    json!({"client_id": "dev", "username": user, "password": password, "peer": "192.0.2.1:1", "protocol": "5"})
}

#[tokio::test]
async fn the_right_password_gets_a_passport_that_the_announced_key_verifies() {
    let running = Running::start(|_, _| {});
    let answer = running.ask(&question("alice", "secret")).await;
    assert_eq!(answer["result"], "allow");
    assert!((3599..=3600).contains(&answer["expires_in"].as_u64().unwrap()), "{answer}");
    let (status, body) = running.send("GET", "/.well-known/jwks.json", "", "").await;
    assert_eq!(status, 200);
    let set: link::KeySet = serde_json::from_str(&body).unwrap();
    let verifier = PassportVerifier::without_keys(Duration::ZERO);
    verifier.trust(set.keys());
    let passport = verifier.verify(answer["passport"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!((&*passport.subject, &*passport.client_id), ("alice", "dev"));

    for (user, password) in [("alice", "wrong"), ("nobody", "secret")] {
        let answer = running.ask(&question(user, password)).await;
        assert_eq!(answer, json!({"result": "deny", "reason": "bad_credentials"}), "{user}");
    }
}

#[tokio::test]
async fn what_is_no_question_is_refused_with_the_status_that_says_why() {
    let running = Running::start(|config, _| config.body_bytes_max = 2048);
    let json = "Content-Type: application/json; charset=utf-8\r\n";
    let long = format!("{{\"client_id\":\"{}\"}}", "x".repeat(4096));
    for (method, path, headers, body, status) in [
        ("POST", "/v1/authenticate", json, "{}", 400),
        ("POST", "/v1/authenticate", json, "", 400),
        ("POST", "/v1/authenticate", json, "[1", 400),
        ("POST", "/v1/authenticate", "", "{}", 415),
        ("POST", "/v1/authenticate", json, long.as_str(), 413),
        ("GET", "/v1/authenticate", "", "", 405),
        ("DELETE", "/v1/revocations", "", "", 405),
        ("GET", "/v1/revocations?after=x", "", "", 400),
        ("GET", "/v1/revocations", "", "", 200),
        ("POST", "/livez", "", "", 405),
        ("GET", "/livez", "", "", 200),
        ("GET", "/readyz", "", "", 200),
        ("GET", "/", "", "", 404),
        ("POST", "/v2/authenticate", json, "{}", 404),
    ] {
        let (answered, text) = running.send(method, path, headers, body).await;
        assert_eq!(answered, status, "{method} {path} {body:.20}: {text}");
    }
    let chunked = format!(
        "POST /v1/authenticate HTTP/1.1\r\nHost: x\r\n{json}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1000\r\n{}",
        "x".repeat(0x1000)
    );
    assert!(
        running.raw(&chunked).await.starts_with("HTTP/1.1 413"),
        "a length that is not told counts as well"
    );
}

#[tokio::test]
async fn strangers_get_no_answer_where_there_is_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let running = Running::start(|config, _| config.secret_file = Some(file));
    let json = "Content-Type: application/json\r\n";
    let body = question("alice", "secret").to_string();
    for (headers, status) in [
        (json.to_owned(), 401),
        (format!("{json}Authorization: Bearer {SECRET}x\r\n"), 401),
        (format!("{json}Authorization: Bearer {SECRET}\r\n"), 200),
    ] {
        assert_eq!(running.send("POST", "/v1/authenticate", &headers, &body).await.0, status, "{headers}");
    }
    assert_eq!(running.send("GET", "/v1/revocations", "", "").await.0, 401);
    for open in ["/livez", "/.well-known/jwks.json"] {
        assert_eq!(running.send("GET", open, "", "").await.0, 200, "{open}");
    }
}

#[tokio::test]
async fn who_keeps_it_waiting_is_cut_off() {
    let running = Running::start(|config, _| {
        config.header_timeout_ms = 200;
        config.request_timeout_ms = 200;
    });
    let since = Instant::now();
    for start in ["", "P", "PRI * HTTP/2.0\r\n", "POST /v1/authenticate HTTP/1.1\r\nHost: x\r\n"] {
        running.raw(start).await;
    }
    let body_is_missing = "POST /v1/authenticate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                           Content-Length: 10\r\n\r\n{";
    assert!(running.raw(body_is_missing).await.starts_with("HTTP/1.1 408"));
    assert!(since.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn more_than_it_takes_on_is_told_to_come_back() {
    let running = Running::start(|config, _| config.requests_max = 1);
    let _busy = running.service.shared.turns.try_acquire().unwrap();
    let body = question("alice", "secret").to_string();
    let answer = running
        .raw(&format!(
            "POST /v1/authenticate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/json\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"), "{answer}");
    assert_eq!(running.send("GET", "/livez", "", "").await.0, 200, "it is alive all the same");
}

/// The client's side of SCRAM as far as its first message.
const CLIENT_FIRST: &str = "n,,n=alice,r=rOprNGfwEbeRWgbNEkqO";

#[tokio::test]
async fn an_exchange_goes_on_at_another_replica_with_the_same_key_and_no_other() {
    let one = Running::start(|_, _| {});
    let key = std::fs::read(one.dir.path().join("key")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("key"), key).unwrap();
    let two = Running::start_in(dir, |_, _| {});
    let stranger = Running::start(|_, _| {});
    let mut message = json!({"client_id": "dev", "peer": "192.0.2.1:1", "protocol": "5", "method": "SCRAM-SHA-256",
        "data": BASE64_STANDARD.encode(CLIENT_FIRST)});
    let answer = one.ask(&message).await;
    assert_eq!(answer["result"], "continue", "{answer}");
    let challenge = BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
    let challenge = String::from_utf8(challenge).unwrap();
    message["state"] = answer["state"].clone();
    message["data"] = BASE64_STANDARD.encode(client_final(&challenge)).into();
    assert_eq!(stranger.ask(&message).await, json!({"result": "deny", "reason": "not_authorized"}));
    let mut other = message.clone();
    other["client_id"] = "other".into();
    assert_eq!(two.ask(&other).await, json!({"result": "deny", "reason": "not_authorized"}));
    let answer = two.ask(&message).await;
    assert_eq!(answer["result"], "allow", "{answer}");
    let passport = two.verifier().verify(answer["passport"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(&*passport.subject, "alice");
    assert!(BASE64_STANDARD.decode(answer["data"].as_str().unwrap()).unwrap().starts_with(b"v="));
    message["method"] = "OTHER".into();
    assert_eq!(two.ask(&message).await, json!({"result": "deny", "reason": "not_authorized"}));
    message["state"] = Value::Null;
    assert_eq!(two.ask(&message).await, json!({"result": "deny", "reason": "bad_method"}));
}

fn client_final(challenge: &str) -> String {
    use crate::scram::hmac;
    use sha2::Digest as _;
    let field = |name| challenge.split(',').find_map(|f| f.strip_prefix(name)).unwrap();
    let salt = BASE64_STANDARD.decode(field("s=")).unwrap();
    let mut block = hmac(b"secret", &[&salt, &[0, 0, 0, 1]]);
    let mut salted = block;
    for _ in 1..field("i=").parse::<u32>().unwrap() {
        block = hmac(b"secret", &[&block]);
        salted.iter_mut().zip(block).for_each(|(salted, byte)| *salted ^= byte);
    }
    let client_key = hmac(&salted, &[b"Client Key"]);
    let without_proof = format!("c=biws,r={}", field("r="));
    let first_bare = CLIENT_FIRST.strip_prefix("n,,").unwrap();
    let message = format!("{first_bare},{challenge},{without_proof}");
    let mut proof = hmac(&sha2::Sha256::digest(client_key), &[message.as_bytes()]);
    proof.iter_mut().zip(client_key).for_each(|(proof, key)| *proof ^= key);
    format!("{without_proof},p={}", BASE64_STANDARD.encode(proof))
}

#[tokio::test]
async fn a_key_is_replaced_while_it_runs_and_what_was_sealed_before_still_opens() {
    let running = Running::start(|_, signing| signing.lifetime_s = 60);
    let request = json!({"client_id": "dev", "peer": "192.0.2.1:1", "protocol": "5", "method": "SCRAM-SHA-256",
        "data": BASE64_STANDARD.encode(CLIENT_FIRST)});
    let begun = running.ask(&request).await;
    let old: PublicKey = running.service.shared.keys.current().signer.public_key().clone();
    write_passport_key(&running.dir.path().join("key"));
    let now = Instant::now();
    for seconds in 0..6 {
        running.service.files().look(now + Duration::from_secs(seconds));
    }
    assert_ne!(*running.service.shared.keys.current().signer.public_key(), old);
    let mut message = request;
    message["state"] = begun["state"].clone();
    let challenge = BASE64_STANDARD.decode(begun["data"].as_str().unwrap()).unwrap();
    message["data"] = BASE64_STANDARD.encode(client_final(str::from_utf8(&challenge).unwrap())).into();
    let answer = running.ask(&message).await;
    let passport = running.verifier().verify(answer["passport"].as_str().unwrap().as_bytes());
    assert_eq!(&*passport.unwrap().subject, "alice");

    std::fs::write(running.dir.path().join("key"), "nonsense").unwrap();
    for seconds in 6..12 {
        running.service.files().look(now + Duration::from_secs(seconds));
    }
    assert_eq!(running.ask(&question("alice", "secret")).await["result"], "allow", "what was in force stays");
}

#[tokio::test]
async fn keys_that_sign_later_or_no_more_are_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (next, old) = (dir.path().join("next"), dir.path().join("old.pem"));
    write_passport_key(&next);
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    std::fs::write(&old, pair.public_key_pem()).unwrap();
    let running = Running::start(|_, signing| {
        signing.next_key_files = vec![next];
        signing.old_key_files = vec![old];
    });
    let (_, body) = running.send("GET", "/.well-known/jwks.json", "", "").await;
    let set: link::KeySet = serde_json::from_str(&body).unwrap();
    assert_eq!(set.keys().len(), 3, "{body}");
    assert!(!body.contains("\"d\""), "no private key: {body}");
}

#[tokio::test]
async fn who_was_revoked_is_banned_and_followers_hear_of_it() {
    let running = Running::start(|_, _| {});
    let (_, first) = running.send("GET", "/v1/revocations", "", "").await;
    let first: Value = serde_json::from_str(&first).unwrap();
    let path = format!("/v1/revocations?after=0&replica={}", first["replica"].as_str().unwrap());
    let list = running.local().revocations().clone();
    let (told, ()) = tokio::join!(running.send("GET", &path, "", ""), async {
        crate::RevokeOrder::carry_out(br#"{"user":"alice","lasts_s":60}"#, &list).unwrap();
    });
    let told: Value = serde_json::from_str(&told.1).unwrap();
    assert_eq!((&told["newest"], &told["revocations"][0]["user"]), (&json!(1), &json!("alice")), "{told}");
    let answer = running.ask(&question("alice", "secret")).await;
    assert_eq!(answer, json!({"result": "deny", "reason": "banned"}));
    assert_eq!(running.ask(&question("bob", "secret")).await["result"], "allow");
}

#[tokio::test]
async fn it_ends_in_good_order() {
    let running = Running::start(|_, _| {});
    let mut idle = TcpStream::connect(running.address()).await.unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    assert_eq!(running.service.drain(Duration::from_secs(10)).await, 0);
    assert_eq!(idle.read(&mut answer).await.unwrap(), 0, "an idle connection is closed");
}

// RFC 9113 sections 3.4 and 6.5
#[tokio::test]
async fn a_connection_may_have_all_requests_that_are_decided() {
    for (requests_max, expected) in [(1, 256), (4096, 4096)] {
        let running = Running::start(|config, _| config.requests_max = requests_max);
        let mut stream = TcpStream::connect(running.address()).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(head[3], 4, "SETTINGS");
        let mut settings = vec![0; usize::from(head[2])];
        stream.read_exact(&mut settings).await.unwrap();
        let streams = settings.chunks_exact(6).find(|setting| setting[..2] == [0, 3]).unwrap();
        assert_eq!(streams[2..], u32::to_be_bytes(expected));
    }
}
