//! Decisions from the outside: who is let in, at what cost, and what changes when files do.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use mqtt::ProtocolVersion;

use super::*;
use crate::config::CertificateIdentity;
use crate::scram::hmac;
use crate::{Certificate, Editor, Exchange, SourceName, Step};

struct Setting {
    dir: tempfile::TempDir,
    config: AuthConfig,
}

impl Setting {
    /// A password file with alice, whose password is "secret".
    fn with_alice() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let mut editor = Editor::open(&path).unwrap();
        editor.set("alice", b"secret", Some(4096)).unwrap();
        editor.save().unwrap();
        let config = AuthConfig { password_file: Some(path), hash_threads: Some(1), ..AuthConfig::default() };
        Self { dir, config }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("users")
    }

    fn start(&self) -> Local {
        Local::start(&self.config, &AuthorizationConfig::default(), &mut Registry::default()).unwrap()
    }
}

fn local(config: &AuthConfig) -> Local {
    Local::start(config, &AuthorizationConfig::default(), &mut Registry::default()).unwrap()
}

fn request(username: Option<&str>, password: Option<&str>) -> Request {
    Request {
        client_id: "device".into(),
        username: username.map(Arc::from),
        password: password.map(|p| Bytes::copy_from_slice(p.as_bytes())),
        peer: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        is_local: false,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

// What a client has left behind is judged when it is not there to show who it is.
#[test]
fn a_passport_of_somebody_who_is_not_there_has_the_rules_of_now() {
    let rule = |who: &str, topic: &str| {
        crate::RuleConfig::new(
            vec![who.into()],
            link::Effect::Allow,
            link::Action::Publish,
            vec![topic.into()],
        )
    };
    let own = vec![rule("alice", "a/%c"), rule("anonymous", "open")];
    let rules = AuthorizationConfig { rule: own, ..AuthorizationConfig::default() };
    let local = Local::start(&AuthConfig::default(), &rules, &mut Registry::default()).unwrap();
    let topics = |subject, client_id| {
        let passport = local.passport_of(subject, client_id)?;
        assert_eq!((&*passport.subject, &*passport.client_id), (subject, client_id));
        Some(passport.rules.iter().flat_map(|rule| rule.topics.clone()).collect::<Vec<_>>())
    };
    assert_eq!(topics("alice", "dev"), Some(vec!["a/%c".into()]));
    assert_eq!(topics("alice", "d/v"), None, "refused where a rule has %c");
    assert_eq!(topics("", "d/v"), Some(vec!["open".into()]));
    assert_eq!(topics("bob", "dev"), Some(vec![]));

    let staff = vec![rule("group:staff", "a"), rule("anonymous", "open")];
    let rules = AuthorizationConfig { rule: staff, ..AuthorizationConfig::default() };
    let local = Local::start(&AuthConfig::default(), &rules, &mut Registry::default()).unwrap();
    let rules_of = |subject| local.passport_of(subject, "dev").unwrap().rules.clone();
    let all = Passport::unrestricted("".into(), "".into()).rules;
    assert_eq!(rules_of("alice"), all, "whether she is in the group is not known");
    assert_eq!(rules_of("").len(), 1);
}

fn from(peer: &str, request: Request) -> Request {
    let peer: SocketAddr = peer.parse().unwrap();
    Request { peer, is_local: peer.ip().to_canonical().is_loopback(), ..request }
}

fn with_certificate(subject: &str, request: Request) -> Request {
    let certificate = Certificate {
        subject: subject.into(),
        distinguished_name: format!("CN={subject}").into(),
        alternative_names: vec![],
        fingerprint: "00".into(),
    };
    Request { certificate: Some(Arc::new(certificate)), ..request }
}

fn subject(decision: &Decision) -> Result<&str, DenyReason> {
    match decision {
        Decision::Allow(passport) => Ok(&passport.subject),
        Decision::Deny(reason) => Err(*reason),
    }
}

#[tokio::test]
async fn anonymous_clients_come_from_loopback_until_a_source_is_configured() {
    let open = local(&AuthConfig::default());
    for peer in ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(subject(&open.authenticate(from(peer, request(None, None))).await), Ok(""), "{peer}");
    }
    let refused = open.authenticate(request(None, None)).await;
    assert_eq!(subject(&refused), Err(DenyReason::NotAuthorized));
    let proxied = Request { is_local: false, ..from("127.0.0.1:1", request(None, None)) };
    assert_eq!(
        subject(&open.authenticate(proxied).await),
        Err(DenyReason::NotAuthorized),
        "from who knows where"
    );
    let named = open.authenticate(from("127.0.0.1:1", request(Some("x"), Some("y")))).await;
    assert_eq!(subject(&named), Ok(""), "a name that nobody can check is no identity");

    let closed = Setting::with_alice().start();
    let refused = closed.authenticate(from("127.0.0.1:1", request(None, None))).await;
    assert_eq!(subject(&refused), Err(DenyReason::NotAuthorized));
}

#[tokio::test]
async fn anonymous_always_does_not_let_wrong_passwords_in() {
    let mut setting = Setting::with_alice();
    setting.config.anonymous = Some(Anonymous::Always);
    let auth = setting.start();
    assert_eq!(subject(&auth.authenticate(request(None, None)).await), Ok(""));
    let wrong = auth.authenticate(request(Some("alice"), Some("wrong"))).await;
    assert_eq!(subject(&wrong), Err(DenyReason::BadCredentials));
}

#[tokio::test]
async fn a_right_password_is_hashed_once_and_known_then() {
    let auth = Setting::with_alice().start();
    for _ in 0..5 {
        let decision = auth.authenticate(request(Some("alice"), Some("secret"))).await;
        assert_eq!(subject(&decision), Ok("alice"));
    }
    assert_eq!(
        (auth.inner.metrics.passwords_hashed.get(), auth.inner.metrics.passwords_recent.get()),
        (1, 4)
    );
}

#[tokio::test]
async fn missing_and_wrong_credentials_are_refused_alike() {
    let auth = Setting::with_alice().start();
    let cases = [
        (Some("alice"), Some("wrong")),
        (Some("alice"), Some("")),
        (Some("alice"), None),
        (Some("nobody"), Some("secret")),
        (None, Some("secret")),
    ];
    for (name, password) in cases {
        let decision = auth.authenticate(request(name, password)).await;
        assert_eq!(subject(&decision), Err(DenyReason::BadCredentials), "{name:?} {password:?}");
    }
}

#[tokio::test]
async fn an_unknown_user_costs_as_much_as_a_wrong_password() {
    let auth = Setting::with_alice().start();
    auth.authenticate(request(Some("nobody"), Some("secret"))).await;
    assert_eq!(auth.inner.metrics.passwords_hashed.get(), 1);
}

#[tokio::test]
async fn guessing_is_slowed_down_and_a_known_device_is_not() {
    let mut setting = Setting::with_alice();
    setting.config.wrong_passwords_max = 2;
    setting.config.wrong_password_interval_s = 3600;
    let auth = setting.start();
    let device = from("198.51.100.7:1", request(Some("alice"), Some("secret")));
    assert_eq!(subject(&auth.authenticate(device.clone()).await), Ok("alice"));
    let guess = |n| {
        let password = format!("guess{n}");
        from("198.51.100.7:1", request(Some("alice"), Some(&password)))
    };
    for n in 0..2 {
        assert_eq!(subject(&auth.authenticate(guess(n)).await), Err(DenyReason::BadCredentials));
    }
    for n in 2..5 {
        assert_eq!(subject(&auth.authenticate(guess(n)).await), Err(DenyReason::SlowedDown));
    }
    assert_eq!(auth.inner.metrics.passwords_hashed.get(), 3, "what is slowed down is not hashed");
    assert_eq!(subject(&auth.authenticate(device).await), Ok("alice"));
}

#[tokio::test]
async fn a_fleet_with_one_password_at_one_address_is_let_in_at_once() {
    let mut setting = Setting::with_alice();
    setting.config.wrong_passwords_max = 2;
    let auth = setting.start();
    let logins: Vec<_> = (0..200)
        .map(|_| {
            let auth = auth.clone();
            tokio::spawn(async move { auth.authenticate(request(Some("alice"), Some("secret"))).await })
        })
        .collect();
    for login in logins {
        assert_eq!(subject(&login.await.unwrap()), Ok("alice"));
    }
    assert_eq!(auth.inner.metrics.passwords_hashed.get(), 1);
}

#[tokio::test]
async fn a_changed_password_holds_at_once_after_reload() {
    let setting = Setting::with_alice();
    let auth = setting.start();
    assert!(subject(&auth.authenticate(request(Some("alice"), Some("secret"))).await).is_ok());
    let mut editor = Editor::open(&setting.file()).unwrap();
    editor.set("alice", b"changed", None).unwrap();
    editor.save().unwrap();
    let now = Instant::now();
    for seconds in 0..5 {
        auth.look(now + Duration::from_secs(seconds));
    }
    let old = auth.authenticate(request(Some("alice"), Some("secret"))).await;
    assert_eq!(subject(&old), Err(DenyReason::BadCredentials));
    assert!(subject(&auth.authenticate(request(Some("alice"), Some("changed"))).await).is_ok());
}

#[tokio::test]
async fn a_certificate_is_an_identity_only_where_configured() {
    let config = AuthConfig { certificate: CertificateIdentity::Subject, ..AuthConfig::default() };
    let auth = local(&config);
    let named = auth.authenticate(with_certificate("pump-7", request(Some("other"), None))).await;
    assert_eq!(subject(&named), Ok("pump-7"));
    let nameless = auth.authenticate(with_certificate("", request(None, None))).await;
    assert_eq!(subject(&nameless), Err(DenyReason::NotAuthorized));
    let without = auth.authenticate(request(Some("pump-7"), Some("x"))).await;
    assert_eq!(subject(&without), Err(DenyReason::BadCredentials));

    let off = Setting::with_alice().start();
    let refused = off.authenticate(with_certificate("alice", request(None, None))).await;
    assert_eq!(subject(&refused), Err(DenyReason::NotAuthorized));
}

#[tokio::test]
async fn sources_are_asked_in_the_configured_order() {
    let mut setting = Setting::with_alice();
    setting.config.certificate = CertificateIdentity::Subject;
    let both = with_certificate("pump-7", request(Some("alice"), Some("secret")));
    assert_eq!(subject(&setting.start().authenticate(both.clone()).await), Ok("pump-7"), "by default");
    setting.config.sources = Some(vec![SourceName::PasswordFile, SourceName::Certificate]);
    let auth = setting.start();
    assert_eq!(subject(&auth.authenticate(both).await), Ok("alice"));
    let wrong = with_certificate("pump-7", request(Some("alice"), Some("wrong")));
    assert_eq!(
        subject(&auth.authenticate(wrong).await),
        Err(DenyReason::BadCredentials),
        "a denial is final"
    );
    let hashed = auth.inner.metrics.passwords_hashed.get();
    let unknown = with_certificate("pump-7", request(Some("bob"), Some("secret")));
    assert_eq!(subject(&auth.authenticate(unknown).await), Ok("pump-7"), "no user of the file");
    assert_eq!(auth.inner.metrics.passwords_hashed.get(), hashed, "who is known elsewhere costs no hash");
}

#[test]
fn sources_name_what_is_configured_and_nothing_else() {
    use SourceName::{Certificate, PasswordFile};
    let mut setting = Setting::with_alice();
    let cases = [
        (vec![], "leaves out a source that is configured: name it, or remove its key"),
        (
            vec![PasswordFile, Certificate],
            "names a source that is not configured: set its key, or leave it out",
        ),
        (vec![PasswordFile, PasswordFile], "names a source twice"),
    ];
    for (sources, problem) in cases {
        setting.config.sources = Some(sources);
        let error = Local::check(&setting.config, &AuthorizationConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("auth.sources {problem}"));
    }
}

#[tokio::test]
async fn a_login_that_waits_too_long_is_told_to_come_back() {
    let mut setting = Setting::with_alice();
    setting.config.hash_timeout_ms = 0;
    let auth = setting.start();
    let decision = auth.authenticate(request(Some("alice"), Some("secret"))).await;
    assert_eq!(subject(&decision), Err(DenyReason::Unavailable));
}

/// The client's side of RFC 5802, written apart from the server's.
fn client_final(challenge: &str, first_bare: &str, password: &[u8]) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use sha2::Digest as _;
    let field = |name| challenge.split(',').find_map(|f| f.strip_prefix(name)).unwrap();
    let salt = BASE64.decode(field("s=")).unwrap();
    let mut u = hmac(password, &[&salt[..], &[0, 0, 0, 1]]);
    let mut salted = u;
    for _ in 1..field("i=").parse::<u32>().unwrap() {
        u = hmac(password, &[&u]);
        salted.iter_mut().zip(u).for_each(|(s, u)| *s ^= u);
    }
    let client_key = hmac(&salted, &[b"Client Key"]);
    let without_proof = format!("c=biws,r={}", field("r="));
    let message = format!("{first_bare},{challenge},{without_proof}");
    let mut proof = hmac(&sha2::Sha256::digest(client_key), &[message.as_bytes()]);
    proof.iter_mut().zip(client_key).for_each(|(p, k)| *p ^= k);
    format!("{without_proof},p={}", BASE64.encode(proof))
}

async fn scram(auth: &Local, user: &str, password: &str) -> (String, Step) {
    let (challenge, last) = scram_from("192.0.2.1:4711", auth, user, password).await;
    (challenge.split(',').nth(1).unwrap().to_owned(), last)
}

/// The server's challenge and how it ends.
async fn scram_from(peer: &str, auth: &Local, user: &str, password: &str) -> (String, Step) {
    let mut exchange = auth.begin("SCRAM-SHA-256", from(peer, request(None, None))).unwrap();
    let bare = format!("n={user},r=fyko+d2lbbFgONRv9qkxdawL");
    let Step::Continue(challenge) = exchange.step(Some(format!("n,,{bare}").as_bytes())).await else {
        panic!("no challenge for {user}")
    };
    let challenge = String::from_utf8(challenge.to_vec()).unwrap();
    let last = exchange.step(Some(client_final(&challenge, &bare, password.as_bytes()).as_bytes())).await;
    (challenge, last)
}

#[tokio::test]
async fn scram_lets_the_right_password_in() {
    let auth = Setting::with_alice().start();
    let (_, step) = scram(&auth, "alice", "secret").await;
    let Step::Done(passport, Some(signature)) = step else { panic!("{step:?}") };
    assert_eq!((&*passport.subject, &*passport.client_id), ("alice", "device"));
    assert!(signature.starts_with(b"v="));
}

#[tokio::test]
async fn scram_does_not_tell_an_unknown_user_from_a_wrong_password() {
    let setting = Setting::with_alice();
    let auth = setting.start();
    let wrong = scram(&auth, "alice", "wrong").await;
    let unknown = scram(&auth, "nobody", "secret").await;
    assert_eq!(wrong.1, Step::Deny(DenyReason::BadCredentials));
    assert_eq!(unknown.1, Step::Deny(DenyReason::BadCredentials));
    assert_eq!(wrong.0.len(), unknown.0.len());
    assert_eq!(unknown.0, scram(&setting.start(), "nobody", "x").await.0, "also after a restart");
}

#[tokio::test]
async fn scram_guessing_is_slowed_down() {
    let mut setting = Setting::with_alice();
    setting.config.wrong_passwords_max = 2;
    let auth = setting.start();
    for _ in 0..2 {
        assert_eq!(scram(&auth, "alice", "wrong").await.1, Step::Deny(DenyReason::BadCredentials));
    }
    assert_eq!(scram(&auth, "alice", "secret").await.1, Step::Deny(DenyReason::SlowedDown));
}

// A wrong proof costs no hash, neither here nor there.
#[tokio::test]
async fn wrong_proofs_of_many_get_no_stranger_refused() {
    let mut setting = Setting::with_alice();
    setting.config.slowed_down_max = 16;
    let auth = setting.start();
    for n in 0..100 {
        let peer = format!("10.0.0.{n}:1");
        let last = scram_from(&peer, &auth, &format!("nobody{n}"), "wrong").await.1;
        assert_eq!(last, Step::Deny(DenyReason::BadCredentials), "{n}");
    }
    assert!(matches!(scram_from("198.51.100.9:1", &auth, "alice", "secret").await.1, Step::Done(..)));
    let request = from("198.51.100.9:1", request(Some("alice"), Some("secret")));
    assert_eq!(subject(&auth.authenticate(request).await), Ok("alice"));
}

#[tokio::test]
async fn scram_shows_unknown_users_what_it_shows_known_ones() {
    let setting = Setting::with_alice();
    let mut editor = Editor::open(&setting.file()).unwrap();
    editor.set("bob", b"secret", Some(5000)).unwrap();
    editor.save().unwrap();
    // As another tool may have written it.
    let text = std::fs::read_to_string(setting.file()).unwrap();
    let carol = scram::Verifier::derive(b"secret", &[7; 24], 4096);
    std::fs::write(setting.file(), format!("{text}carol:{carol}\n")).unwrap();
    let auth = setting.start();
    let mut shapes = std::collections::BTreeSet::new();
    for n in 0..60 {
        let mut exchange = auth.begin("SCRAM-SHA-256", request(None, None)).unwrap();
        let first = format!("n,,n=nobody{n},r=fyko+d2lbbFgONRv9qkxdawL");
        let Step::Continue(challenge) = exchange.step(Some(first.as_bytes())).await else { panic!("{n}") };
        let challenge = String::from_utf8(challenge.to_vec()).unwrap();
        let field = |name| challenge.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
        shapes.insert((field("i=").to_owned(), field("s=").len()));
    }
    let known = [("4096", 24), ("4096", 32), ("5000", 24)];
    assert_eq!(shapes, known.map(|(iterations, salt)| (iterations.to_owned(), salt)).into());
}

#[tokio::test]
async fn scram_may_begin_without_data_and_only_once() {
    let auth = Setting::with_alice().start();
    let mut exchange = auth.begin("SCRAM-SHA-256", request(None, None)).unwrap();
    assert_eq!(exchange.step(None).await, Step::Continue(Bytes::new()));
    assert_eq!(exchange.step(None).await, Step::Deny(DenyReason::NotAuthorized));
    assert_eq!(exchange.step(Some(b"n,,n=alice,r=abcdefgh")).await, Step::Deny(DenyReason::NotAuthorized));
}

#[tokio::test]
async fn scram_for_another_user_than_connect_names_is_refused() {
    let auth = Setting::with_alice().start();
    let mut exchange = auth.begin("SCRAM-SHA-256", request(Some("bob"), None)).unwrap();
    let step = exchange.step(Some(b"n,,n=alice,r=abcdefgh")).await;
    assert_eq!(step, Step::Deny(DenyReason::BadCredentials));
}

#[test]
fn methods_that_are_not_offered_are_refused() {
    let auth = Setting::with_alice().start();
    assert!(auth.begin("SCRAM-SHA-1", request(None, None)).is_none());
    assert!(auth.begin("scram-sha-256", request(None, None)).is_none());
    assert!(local(&AuthConfig::default()).begin("SCRAM-SHA-256", request(None, None)).is_none());
}
