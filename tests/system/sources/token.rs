//! Signed tokens, by a secret, a public key in a file and keys at a URL, as passwords and in an exchange; and tokens that an
//! authorization server is asked about.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

use super::{Credential, Setup, WRONG, hold, rules_claim};
use crate::harness::reference::{Asked, endpoint};

pub(super) const SECRET: &str = "tg-secret-known to nobody but those who issue tokens";
const METHOD: &str = "JWT";

/// What a token says of a user, and something that nobody may read in a log.
pub(super) fn claims(user: &str) -> Value {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "sub": user, "aud": "mqtt", "exp": now_s + 600, "acl": rules_claim(user == "admin"), "private": "tg-secret-claim",
    })
}

fn token(head: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(head), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

pub(super) fn hs256(secret: &str, claims: &Value) -> String {
    token(&json!({"alg": "HS256"}), claims, |signed| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(signed);
        mac.finalize().into_bytes().to_vec()
    })
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

const COMMON: &str = "issuer = []\naudience = ['mqtt']\nleeway_s = 0\nrules_claim = 'acl'\n";

/// By a secret; `show` makes a credential of a token.
fn by_secret(name: &str, show: fn(String) -> Credential) -> Setup {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("secret");
    fs::write(&file, SECRET).unwrap();
    let config = format!("[auth.jwt]\nsecret_file = {file:?}\nmethod = '{METHOD}'\n{COMMON}");
    let good = |user: &str| show(hs256(SECRET, &claims(user)));
    let unsigned = token(&json!({"alg": "none"}), &claims("alice"), |_| Vec::new());
    Setup::new(name, config, good("alice"), good("admin")).keeping(dir).refuses([
        (show(hs256("tg-secret-another one of enough bytes for HS256", &claims("alice"))), WRONG),
        (show(hs256(SECRET, &with(claims("alice"), "exp", json!(1)))), WRONG),
        (show(hs256(SECRET, &with(claims("alice"), "aud", json!("mail")))), WRONG),
        (show(unsigned), WRONG),
        (show("tg-secret-no token".to_owned()), WRONG),
        (Credential::password("alice", "tg-secret-guess"), WRONG),
    ])
}

fn openssl(arguments: &[&str], dir: &Path) {
    let made = Command::new("openssl").args(arguments).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// RS256, by openssl, with the public key in a file.
fn by_public_key() -> Setup {
    let dir = TempDir::new().unwrap();
    openssl(&["genrsa", "-out", "key.pem", "2048"], dir.path());
    openssl(&["rsa", "-in", "key.pem", "-pubout", "-out", "public.pem"], dir.path());
    let rs256 = |claims: &Value| {
        token(&json!({"alg": "RS256"}), claims, |signed| {
            fs::write(dir.path().join("signed"), signed).unwrap();
            openssl(&["dgst", "-sha256", "-sign", "key.pem", "-out", "signature", "signed"], dir.path());
            fs::read(dir.path().join("signature")).unwrap()
        })
    };
    let good = |user: &str| Credential::Token(rs256(&claims(user)));
    let (alice, admin) = (good("alice"), good("admin"));
    let public = fs::read_to_string(dir.path().join("public.pem")).unwrap();
    let refused = [
        // The public key taken for a secret.
        (Credential::Token(hs256(&public, &claims("alice"))), WRONG),
        (Credential::Token(rs256(&with(claims("alice"), "nbf", json!(4_102_444_800_u64)))), WRONG),
    ];
    let config = format!("[auth.jwt]\npublic_key_files = [{:?}]\n{COMMON}", dir.path().join("public.pem"));
    Setup::new("tokens by a public key in a file", config, alice, admin).refuses(refused).keeping(dir)
}

/// EdDSA, with the key in a set at a URL, which an OpenID Connect issuer may name.
fn by_url(name: &str, setting: &str) -> Setup {
    let new_key = || KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let (key, other) = (new_key(), new_key());
    let set = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "kid": "a", "use": "sig", "x": URL_SAFE_NO_PAD.encode(key.der_bytes())},
    ]});
    let address = endpoint(move |asked| {
        let issuer = format!("http://{}", asked.headers["host"]);
        match asked.path.as_str() {
            "/keys" => (200, set.to_string()),
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")}).to_string())
            }
            _ => (404, String::new()),
        }
    });
    let issuer = format!("http://{address}");
    let eddsa = |key: &KeyPair, kid: &str, user: &str, issuer: &str| {
        let claims = with(claims(user), "iss", json!(issuer));
        let head = json!({"alg": "EdDSA", "kid": kid});
        Credential::Token(token(&head, &claims, |signed| key.sign(signed).unwrap()))
    };
    let settings = setting.replace("BASE", &issuer);
    let config =
        format!("[auth.jwt]\n{settings}issuer = ['{issuer}']\naudience = ['mqtt']\nrules_claim = 'acl'\n");
    let good = |user: &str| eddsa(&key, "a", user, &issuer);
    Setup::new(name, config, good("alice"), good("admin")).refuses([
        (eddsa(&other, "a", "alice", &issuer), WRONG),
        (eddsa(&other, "b", "alice", &issuer), WRONG),
        (eddsa(&key, "a", "alice", "https://id.example.net"), WRONG),
    ])
}

#[test]
fn signed_tokens_by_every_kind_of_key_and_in_an_exchange() {
    hold(vec![
        by_secret("tokens by a secret", Credential::Token),
        by_secret("tokens in an exchange", |token| Credential::Exchange(METHOD, token)),
        by_public_key(),
        by_url("tokens by a key at a URL", "jwks_url = 'BASE/keys'\n"),
        by_url("tokens of an OpenID Connect issuer", "oidc_issuer = 'BASE'\n"),
    ]);
}

/// An authorization server (RFC 7662): the token says who it is of.
fn authority(asked: &Asked) -> (u16, String) {
    // RFC 6749 section 2.3.1: encoded as in a form.
    let basic = base64::prelude::BASE64_STANDARD.encode("tidegate:tg-secret-of+the+client");
    if asked.headers.get("authorization") != Some(&format!("Basic {basic}")) {
        return (401, String::new());
    }
    let token = asked.field("token").unwrap_or_default();
    let answer = match token.strip_prefix("tg-secret-token-of-") {
        Some(user @ ("alice" | "admin")) => with(claims(user), "active", json!(true)),
        Some("late") => with(with(claims("alice"), "active", json!(true)), "exp", json!(1)),
        _ => json!({"active": false}),
    };
    (200, answer.to_string())
}

#[test]
fn tokens_that_an_authorization_server_is_asked_about() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("client-secret");
    fs::write(&file, "tg-secret-of the client\n").unwrap();
    let config = format!(
        "[auth.introspection]\nurl = 'http://{}/introspect'\nclient_id = 'tidegate'\nclient_secret_file = {file:?}\n\
         audience = ['mqtt']\nrules_claim = 'acl'\n",
        endpoint(authority)
    );
    let token = |user: &str| Credential::Token(format!("tg-secret-token-of-{user}"));
    let setup = Setup::new("introspection", config, token("alice"), token("admin"))
        .keeping(dir)
        .refuses([(token("nobody"), WRONG), (token("late"), WRONG)]);
    hold(vec![setup]);
}
