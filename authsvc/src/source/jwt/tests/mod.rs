//! Tokens of every kind, whole and broken, against a source with real keys.

mod by_url;
mod exchange;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use jsonwebtoken::{EncodingKey, Header as TokenHeader, encode};
use mqtt::ProtocolVersion;
use prometheus_client::registry::Registry;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::json;

use super::*;
use crate::Certificate;
use crate::slowdown::SlowDown;

const SECRET: &[u8] = b"a secret of no less than 32 bytes";

/// A key pair; making one of RSA takes a while, so each kind is made once.
pub(super) struct Pair {
    pub(super) public_pem: String,
    pub(super) signing: EncodingKey,
}

fn pair(kind: usize) -> &'static Pair {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    &PAIRS.get_or_init(|| {
        type Read = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
        let kinds: [(_, Read); 4] = [
            (&PKCS_RSA_SHA256, EncodingKey::from_rsa_pem),
            (&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem),
            (&PKCS_ECDSA_P384_SHA384, EncodingKey::from_ec_pem),
            (&PKCS_ED25519, EncodingKey::from_ed_pem),
        ];
        let made = kinds.map(|(kind, read)| {
            let pair = KeyPair::generate_for(kind).unwrap();
            let signing = read(pair.serialize_pem().as_bytes()).unwrap();
            Pair { public_pem: pair.public_key_pem(), signing }
        });
        made.into()
    })[kind]
}

pub(super) fn rsa() -> &'static Pair {
    pair(0)
}

pub(super) fn p256() -> &'static Pair {
    pair(1)
}

pub(super) fn p384() -> &'static Pair {
    pair(2)
}

pub(super) fn ed25519() -> &'static Pair {
    pair(3)
}

/// Good claims for a minute.
pub(super) fn claims() -> Value {
    json!({"sub": "pump-7", "aud": "mqtt", "iss": "https://id.example", "exp": now_s() + 60})
}

/// Those with others in the place of some; `null` takes one away.
fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

pub(super) fn sign(algorithm: Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
    let header = TokenHeader { kid: kid.map(str::to_owned), ..TokenHeader::new(algorithm) };
    encode(&header, claims, key).unwrap()
}

/// A token whose header is `header`, signed with `SECRET` over what it is.
fn by_hand(header: &str, claims: &Value) -> String {
    let head = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = crate::scram::hmac(SECRET, &[head.as_bytes()]);
    format!("{head}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub(super) fn request() -> Request {
    Request {
        client_id: "device".into(),
        username: None,
        password: None,
        peer: ([192, 0, 2, 1], 40_000).into(),
        is_local: false,
        listener: "mqtt".into(),
        certificate: None,
        protocol: ProtocolVersion::V5,
        clean_start: true,
    }
}

/// Keys in files of their own.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A source of one secret and one public key of each kind.
    pub(super) fn config(&self) -> JwtConfig {
        let all = [rsa(), p256(), p384()].map(|pair| pair.public_pem.as_str()).concat();
        JwtConfig {
            secret_file: Some(self.write("secret", SECRET)),
            public_key_files: vec![self.write("three", all), self.write("ed", &ed25519().public_pem)],
            audience: Some(vec!["mqtt".to_owned(), "other".to_owned()]),
            issuer: Some(vec!["https://id.example".to_owned()]),
            ..JwtConfig::default()
        }
    }
}

pub(super) fn start(config: &JwtConfig) -> JwtSource {
    let context = SourceContext {
        metrics: Metrics::register(&mut Registry::default()),
        slow_down: Arc::new(SlowDown::new(10, Duration::from_secs(1), 10)),
    };
    JwtSource::start(config, &context).unwrap()
}

async fn granted(source: &JwtSource, token: &str) -> Result<Grant, TokenProblem> {
    source.grant(token.as_bytes(), &request()).await
}

#[tokio::test]
async fn every_algorithm_lets_in_with_the_key_of_its_kind() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    let files = Files::new();
    let source = start(&files.config());
    let secret = EncodingKey::from_secret(SECRET);
    let cases = [
        (vec![HS256, HS384, HS512], &secret),
        (vec![RS256, RS384, RS512, PS256, PS384, PS512], &rsa().signing),
        (vec![ES256], &p256().signing),
        (vec![ES384], &p384().signing),
        (vec![EdDSA], &ed25519().signing),
    ];
    for (algorithms, key) in cases {
        for algorithm in algorithms {
            let token = sign(algorithm, None, &claims(), key);
            let grant = granted(&source, &token).await.map_err(|problem| format!("{algorithm:?}: {problem}"));
            assert_eq!(&*grant.unwrap().subject, "pump-7");
            // A name that no key has does not matter where keys have none.
            let named = sign(algorithm, Some("any"), &claims(), key);
            assert!(granted(&source, &named).await.is_ok(), "{algorithm:?}");
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_as_it_has_to_be_is_refused() {
    let files = Files::new();
    let source = start(&files.config());
    let signed = |claims: &Value| sign(Algorithm::ES256, None, claims, &p256().signing);
    let changed = |changes: &Value| signed(&with(changes));
    let missing = |claim: &str| TokenProblem::claim(claim, "is missing");
    let whole = signed(&claims());
    let (head, signature) = whole.rsplit_once('.').unwrap();
    let (header, _) = head.split_once('.').unwrap();
    let other_claims = URL_SAFE_NO_PAD.encode(with(&json!({"sub": "admin"})).to_string());
    let public_as_secret = EncodingKey::from_secret(rsa().public_pem.as_bytes());
    let stranger = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let stranger = EncodingKey::from_ec_pem(stranger.serialize_pem().as_bytes()).unwrap();
    let none = |name| by_hand(&format!("{{\"alg\":\"{name}\"}}"), &claims());
    let now = now_s();
    let cases = [
        ("expired", changed(&json!({"exp": now - 31})), TokenProblem::Expired),
        ("expired now", changed(&json!({"exp": now - 30})), TokenProblem::Expired),
        ("no end", changed(&json!({"exp": null})), missing("exp")),
        ("an end that is no number", changed(&json!({"exp": "later"})), missing("exp")),
        ("an end before time", changed(&json!({"exp": -1})), missing("exp")),
        ("not yet valid", changed(&json!({"nbf": now + 60})), TokenProblem::NotYetValid),
        ("another audience", changed(&json!({"aud": "mail"})), TokenProblem::Audience),
        ("other audiences", changed(&json!({"aud": ["mail", "web"]})), TokenProblem::Audience),
        ("no audience", changed(&json!({"aud": null})), missing("aud")),
        ("another issuer", changed(&json!({"iss": "https://id.example/"})), TokenProblem::Issuer),
        ("one issuer of several", changed(&json!({"iss": ["https://id.example"]})), TokenProblem::Issuer),
        ("no issuer", changed(&json!({"iss": null})), missing("iss")),
        ("no user", changed(&json!({"sub": null})), TokenProblem::claim("sub", "is no user name")),
        ("not signed", none("none"), TokenProblem::Unsigned),
        ("not signed, in capitals", none("nOnE"), TokenProblem::Unsigned),
        (
            "a public key as secret",
            sign(Algorithm::HS256, None, &claims(), &public_as_secret),
            TokenProblem::Signature,
        ),
        (
            "a key that is not known",
            sign(Algorithm::ES256, None, &claims(), &stranger),
            TokenProblem::Signature,
        ),
        ("claims of another", format!("{header}.{other_claims}.{signature}"), TokenProblem::Signature),
        ("no signature", format!("{head}."), TokenProblem::Signature),
        ("half a signature", whole[..whole.len() - 22].to_owned(), TokenProblem::Signature),
        (
            "an algorithm of the other curve",
            by_hand("{\"alg\":\"ES512\"}", &claims()),
            TokenProblem::Algorithm,
        ),
        (
            "an extension",
            by_hand("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}", &claims()),
            TokenProblem::Critical,
        ),
        ("claims that are no object", by_hand("{\"alg\":\"HS256\"}", &json!([1])), TokenProblem::Malformed),
        ("too long", changed(&json!({"more": "x".repeat(16_384)})), TokenProblem::TooLong),
        ("a password", "secret".to_owned(), TokenProblem::NotAToken),
        ("a password with dots", "a.b.c".to_owned(), TokenProblem::NotAToken),
        ("nearly a token", "eyJ.eyJ.x".to_owned(), TokenProblem::NotAToken),
        ("a long password", format!("eyJ{}", "x".repeat(60_000)), TokenProblem::NotAToken),
        ("encrypted", format!("{whole}.x.y"), TokenProblem::NotAToken),
        ("nothing", String::new(), TokenProblem::NotAToken),
    ];
    for (what, token, problem) in cases {
        assert_eq!(granted(&source, &token).await, Err(problem), "{what}");
    }
    assert!(granted(&source, &whole).await.is_ok(), "that nothing was wrong with");
    assert!(granted(&source, &changed(&json!({"aud": ["web", "other"]}))).await.is_ok());
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    let files = Files::new();
    let mut config = files.config();
    config.secret_file = None;
    let source = start(&config);
    for pair in [rsa(), p256(), p384(), ed25519()] {
        for secret in [pair.public_pem.as_bytes(), pair.public_pem.trim_end().as_bytes()] {
            let token = sign(Algorithm::HS256, None, &claims(), &EncodingKey::from_secret(secret));
            assert_eq!(granted(&source, &token).await, Err(TokenProblem::Algorithm));
        }
    }
    config.secret_file = Some(files.write("public", &rsa().public_pem));
    let error = JwtSource::check(&config).unwrap_err().to_string();
    assert!(error.contains("holds a PEM key, which is no secret"), "{error}");
}

#[tokio::test]
async fn algorithms_can_be_restricted() {
    let files = Files::new();
    let source = start(&JwtConfig { algorithms: vec![Algorithm::PS256], ..files.config() });
    let signed = |algorithm| sign(algorithm, None, &claims(), &rsa().signing);
    assert!(granted(&source, &signed(Algorithm::PS256)).await.is_ok());
    assert_eq!(granted(&source, &signed(Algorithm::RS256)).await, Err(TokenProblem::Algorithm));
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    let files = Files::new();
    let source = start(&files.config());
    let now = now_s();
    let changed = |changes: &Value| sign(Algorithm::ES256, None, &with(changes), &p256().signing);
    let late = granted(&source, &changed(&json!({"exp": now - 10}))).await.unwrap();
    assert_eq!(late.expires_at_s, Some(now + 20), "the passport lasts as long as the token is good");
    let early =
        granted(&source, &changed(&json!({"nbf": now + 10, "exp": now as f64 + 60.5}))).await.unwrap();
    assert_eq!(early.expires_at_s, Some(now + 90));
    let for_ever = granted(&source, &changed(&json!({"exp": u64::MAX}))).await.unwrap();
    assert_eq!(for_ever.expires_at_s, Some(u64::MAX));
}

#[tokio::test]
async fn anybodys_tokens_are_taken_only_where_it_says_so() {
    let files = Files::new();
    let open = JwtConfig { audience: Some(vec![]), issuer: Some(vec![]), ..files.config() };
    let source = start(&open);
    for changes in [json!({}), json!({"aud": null, "iss": null}), json!({"aud": "mail", "iss": "x"})] {
        let token = sign(Algorithm::EdDSA, None, &with(&changes), &ed25519().signing);
        assert!(granted(&source, &token).await.is_ok(), "{changes}");
    }
}

#[tokio::test]
async fn a_token_bound_to_a_certificate_needs_it() {
    let hex = "00ff".repeat(16);
    let base64 = URL_SAFE_NO_PAD.encode([0, 0xff].repeat(16));
    let certificate = |subject: &str, fingerprint: &str| Certificate {
        subject: subject.into(),
        distinguished_name: format!("CN={subject}").into(),
        alternative_names: vec![],
        fingerprint: fingerprint.into(),
    };
    let (mine, other) = (certificate("pump-7", &hex), certificate("pump-8", &"11".repeat(32)));
    let files = Files::new();
    let lax = files.config();
    let strict = JwtConfig { require_certificate: true, ..files.config() };
    let by_name = JwtConfig {
        require_certificate: true,
        certificate_claim: "sub".to_owned(),
        certificate_identity: CertificateIdentity::CommonName,
        ..files.config()
    };
    let (bound, free) = (json!({"cnf": {"x5t#S256": base64}}), json!({}));
    let in_hex = json!({"cnf": {"x5t#S256": hex}});
    let odd = json!({"cnf": {"x5t#S256": 7}});
    let (odder, by_another_way) = (json!({"cnf": base64}), json!({"cnf": {"jkt": base64}}));
    let cases = [
        ("bound", &lax, &bound, Some(&mine), true),
        ("bound, in hex", &lax, &in_hex, Some(&mine), true),
        ("bound, without", &lax, &bound, None, false),
        ("bound to another", &lax, &bound, Some(&other), false),
        ("bound to what cannot be read", &lax, &odd, Some(&mine), false),
        ("bound somehow", &lax, &odder, Some(&mine), false),
        ("bound by another way", &lax, &by_another_way, Some(&mine), true),
        ("free", &lax, &free, Some(&other), true),
        ("free, without", &lax, &free, None, true),
        ("free, where it must be bound", &strict, &free, Some(&mine), false),
        ("bound, where it must be", &strict, &bound, Some(&mine), true),
        ("bound, without, where it must be", &strict, &bound, None, false),
        ("by name", &by_name, &free, Some(&mine), true),
        ("by name, another's", &by_name, &free, Some(&other), false),
        ("by name, without", &by_name, &free, None, false),
        ("by name and bound to another", &by_name, &bound, Some(&certificate("pump-7", "22")), false),
    ];
    for (what, config, changes, shown, is_let_in) in cases {
        let token = sign(Algorithm::EdDSA, None, &with(changes), &ed25519().signing);
        let request = Request { certificate: shown.cloned().map(Arc::new), ..request() };
        let granted = start(config).grant(token.as_bytes(), &request).await;
        match granted {
            Ok(_) => assert!(is_let_in, "{what}"),
            Err(problem) => {
                assert!(!is_let_in, "{what}");
                assert_eq!(problem, TokenProblem::Certificate, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn keys_in_files_are_taken_again_when_they_have_changed() {
    let files = Files::new();
    let config = JwtConfig { secret_file: None, ..files.config() };
    let source = start(&config);
    let token = sign(Algorithm::EdDSA, None, &claims(), &ed25519().signing);
    let mut now = Instant::now();
    let mut look = || {
        for _ in 0..5 {
            now += files::LOOK_INTERVAL;
            source.look(now);
        }
    };
    files.write("ed", "nonsense");
    look();
    assert!(granted(&source, &token).await.is_ok(), "what is wrong leaves the keys of before");
    files.write("ed", &p256().public_pem);
    look();
    assert_eq!(granted(&source, &token).await, Err(TokenProblem::Algorithm));
    files.write("ed", &ed25519().public_pem);
    look();
    assert!(granted(&source, &token).await.is_ok());
}

#[test]
fn settings_that_cannot_work_are_named() {
    let files = Files::new();
    let base = || files.config();
    let path = |name: &str| files.0.path().join(name).display().to_string();
    let short = files.write("short", "0123456789");
    let private = files.write("private", KeyPair::generate().unwrap().serialize_pem());
    let cases: Vec<(JwtConfig, String)> = vec![
        (
            JwtConfig::default(),
            "jwks_url or oidc_issuer, public_key_files or secret_file must say where the keys are".into(),
        ),
        (
            JwtConfig { audience: None, ..base() },
            "audience must name whom tokens are for; [] takes tokens for anybody".into(),
        ),
        (
            JwtConfig { issuer: None, ..base() },
            "issuer must name who issues tokens; [] takes tokens of anybody whose key is known".into(),
        ),
        (
            JwtConfig {
                jwks_url: Some("https://a/".into()),
                oidc_issuer: Some("https://a/".into()),
                ..base()
            },
            "jwks_url and oidc_issuer exclude each other".into(),
        ),
        (
            JwtConfig { jwks_url: Some("http://a.example/".into()), ..base() },
            "jwks_url must begin with https:// (or set allow_plain = true: others can read along)".into(),
        ),
        (
            JwtConfig { method: Some("SCRAM-SHA-256".into()), ..base() },
            "method must not be that of passwords, SCRAM-SHA-256".into(),
        ),
        (JwtConfig { password: false, ..base() }, "password is false, and method names no other way".into()),
        (JwtConfig { leeway_s: 3601, ..base() }, "leeway_s = 3601: must be at most 3600".into()),
        (
            JwtConfig { token_bytes_max: 70_000, ..base() },
            "token_bytes_max = 70000: must be 64 to 65535".into(),
        ),
        (
            JwtConfig { secret_file: Some(short), ..base() },
            format!("secret_file {}: must hold a secret of at least 32 bytes", path("short")),
        ),
        (
            JwtConfig { public_key_files: vec![private], ..base() },
            format!(
                "public_key_files {}: holds no public key in PEM, only PRIVATE KEY (line 1)",
                path("private")
            ),
        ),
        (
            JwtConfig { secret_encoding: SecretEncoding::Base64, ..base() },
            format!("secret_file {}: is not base64", path("secret")),
        ),
    ];
    for (config, expected) in cases {
        let error = JwtSource::check(&config).unwrap_err().to_string();
        assert_eq!(error, format!("auth.jwt.{expected}"));
    }
    JwtSource::check(&base()).unwrap();
}

#[tokio::test]
async fn a_secret_may_be_written_in_base64_and_end_with_its_line() {
    use base64::engine::general_purpose::STANDARD;
    let files = Files::new();
    let token = sign(Algorithm::HS256, None, &claims(), &EncodingKey::from_secret(SECRET));
    let text = [SECRET, b"\r\n"].concat();
    let base64 = format!("{}\n", STANDARD.encode(SECRET));
    for (bytes, secret_encoding) in
        [(text, SecretEncoding::Text), (base64.into_bytes(), SecretEncoding::Base64)]
    {
        let secret_file = Some(files.write("written", bytes));
        let source = start(&JwtConfig { secret_file, secret_encoding, ..files.config() });
        assert!(granted(&source, &token).await.is_ok(), "{secret_encoding:?}");
    }
}

#[test]
fn the_section_is_read_as_it_is_documented() {
    let text = r#"{"secret_file": "s", "audience": [], "issuer": [], "username_claim": "name", "timeout_ms": 7,
        "algorithms": ["RS256"], "attribute_claims": {"site": "plant.site"}}"#;
    let config: JwtConfig = serde_json::from_str(text).unwrap();
    assert_eq!((&*config.claims.username_claim, config.http.timeout_ms), ("name", 7));
    let again = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<JwtConfig>(&again).unwrap(), config);
    let error = serde_json::from_str::<JwtConfig>(r#"{"audiance": []}"#).unwrap_err().to_string();
    assert!(error.starts_with("unknown field `audiance`"), "{error}");
}
