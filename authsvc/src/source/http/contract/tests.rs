//! Each contract against a server that keeps it: what it is sent, byte for byte but for the order of headers and the port, and
//! what comes of each of its answers. The files in `golden/` are written from the public descriptions.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use link::{Action, Effect, Rule};
use mqtt::{ProtocolVersion, QoS};

use super::answered::ALLOWED;
use super::*;
use crate::DenyReason;
use crate::http_client::HttpClientConfig;
use crate::source::http::HttpSource;
use crate::verdict::{Grant, Verdict};

mod odd;

mod actions;

/// A server that gives `answers` one after the other, and what it was asked.
struct Reference {
    address: std::net::SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Reference {
    async fn start(answers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers.to_vec())));
        let told = asked.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, told.clone(), answers.clone()));
            }
        });
        Self { address, asked }
    }

    /// What it was asked, headers in order and without its port.
    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock();
        asked.iter().map(|request| normal(&request.replace(&self.address.to_string(), "HOST"))).collect()
    }
}

async fn serve(mut socket: TcpStream, asked: Arc<Mutex<Vec<String>>>, answers: Arc<Mutex<Vec<String>>>) {
    let mut read = Vec::new();
    loop {
        let request = loop {
            if let Some(length) = request_length(&read) {
                break String::from_utf8(read.drain(..length).collect()).unwrap();
            }
            if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        asked.lock().push(request);
        let answer = if answers.lock().is_empty() { return } else { answers.lock().remove(0) };
        if socket.write_all(answer.as_bytes()).await.is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

fn request_length(read: &[u8]) -> Option<usize> {
    let head = read.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
    let length = text
        .split("content-length: ")
        .nth(1)
        .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse().unwrap());
    (read.len() >= head + length).then_some(head + length)
}

fn normal(request: &str) -> String {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let mut headers: Vec<&str> = headers.split("\r\n").collect();
    headers.sort_unstable();
    format!("{line}\n{}\n\n{body}\n", headers.join("\n"))
}

fn answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    let length =
        if status.starts_with("204") { String::new() } else { format!("content-length: {length}\r\n") };
    format!("HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n{length}\r\n{body}")
}

fn json(body: &str) -> String {
    answer("200 OK", "application/json; charset=utf-8", body)
}

fn text(status: &str, body: &str) -> String {
    answer(status, "text/plain", body)
}

/// Asks about `facts` by the contract of `settings`, in which `BASE` is the server.
async fn ask(settings: &str, facts: &Facts, answers: &[String]) -> (Vec<String>, Result<Reply, Fault>) {
    let config: HttpConfig = toml::from_str(&settings.replace("BASE", "http://127.0.0.1")).unwrap();
    HttpSource::check(&config).unwrap();
    ask_by(&client(), settings, facts, answers).await
}

/// One that reads the authorities of the system, which takes its time.
fn client() -> HttpClient {
    HttpClient::new("auth.http", &HttpClientConfig::default()).unwrap()
}

async fn ask_by(
    client: &HttpClient,
    settings: &str,
    facts: &Facts,
    answers: &[String],
) -> (Vec<String>, Result<Reply, Fault>) {
    let server = Reference::start(answers).await;
    let settings = settings.replace("BASE", &format!("http://{}", server.address));
    let config: HttpConfig = toml::from_str(&settings).unwrap();
    let answered = Contract::new(&config).unwrap().ask(facts, client).await;
    (server.asked(), answered)
}

/// Checks what is asked.
async fn sends(settings: &str, facts: &Facts, answers: &[String], golden: &[&str]) {
    let (asked, _) = ask(settings, facts, answers).await;
    assert_eq!(asked.len(), golden.len(), "{settings}");
    for (asked, golden) in asked.iter().zip(golden) {
        assert_eq!(asked, golden, "{settings}");
    }
}

/// Checks what comes of answers.
async fn means(settings: &str, answers: &[String], expected: Result<Verdict, Fault>) {
    let (_, answered) = ask(settings, &Facts::sample(), answers).await;
    assert_eq!(answered.map(|answer| answer.verdict), expected, "{settings}\n{answers:?}");
}

fn alice() -> Grant {
    Grant::of("alice".into())
}

fn allow() -> Result<Verdict, Fault> {
    Ok(Verdict::Allow(alice()))
}

fn deny(reason: DenyReason) -> Result<Verdict, Fault> {
    Ok(Verdict::Deny(reason))
}

fn superuser(is_superuser: bool) -> Result<Verdict, Fault> {
    Ok(Verdict::Allow(Grant { is_superuser, ..alice() }))
}

const IGNORE: Result<Verdict, Fault> = Ok(Verdict::Ignore);
const MALFORMED: Result<Verdict, Fault> = Err(Fault::Malformed);
const FAILING: Result<Verdict, Fault> = Err(Fault::Failing);

const EMQX5: &str = "contract = 'emqx5'\nurl = 'BASE/auth'";

#[tokio::test]
async fn emqx5_is_asked_as_described() {
    let with = |more: &str| format!("contract = 'emqx5'\n{more}");
    let headers = "headers = { X-Request-Source = 'EMQX' }";
    let post = with(&format!("url = 'BASE/auth?clientid=${{clientid}}'\n{headers}"));
    let get = with(&format!("url = 'BASE/auth'\nmethod = 'get'\n{headers}"));
    let form = with(
        "url = 'BASE/auth'\nheaders = { Content-Type = 'application/x-www-form-urlencoded' }\n\
         body = { username = '${username}', password = '${password}', id = '${clientid}', host = '${peerhost}', \
         cn = '${cert_common_name}', dn = '${cert_subject}' }",
    );
    let ok = [json("{}")];
    sends(&post, &Facts::sample(), &ok, &[include_str!("golden/emqx5_post.http")]).await;
    sends(&get, &Facts::sample(), &ok, &[include_str!("golden/emqx5_get.http")]).await;
    sends(&form, &Facts::sample(), &ok, &[include_str!("golden/emqx5_form.http")]).await;
}

#[tokio::test]
async fn emqx5_answers_mean_what_is_documented() {
    means(EMQX5, &[answer("204 No Content", "text/plain", "")], allow()).await;
    means(EMQX5, &[json(r#"{"result": "allow"}"#)], allow()).await;
    means(EMQX5, &[json(r#"{"result": "deny"}"#)], deny(DenyReason::NotAuthorized)).await;
    means(EMQX5, &[json(r#"{"result": "ignore"}"#)], IGNORE).await;
    means(EMQX5, &[json("{}")], IGNORE).await;
    means(EMQX5, &[text("401 Unauthorized", r#"{"result": "allow"}"#)], IGNORE).await;
    means(EMQX5, &[text("404 Not Found", "")], IGNORE).await;
    for (is, written) in
        [(true, "true"), (false, "false"), (true, "1"), (true, "\"true\""), (false, "\"no\"")]
    {
        means(EMQX5, &[json(&format!(r#"{{"result": "allow", "is_superuser": {written}}}"#))], superuser(is))
            .await;
    }
    let form = "application/x-www-form-urlencoded";
    means(EMQX5, &[answer("200 OK", form, "result=allow&is_superuser=true")], superuser(true)).await;
    let whole = json(
        r#"{"result": "allow", "client_attrs": {"role": "admin", "sn": "10c61f1a1f47", "n": 1},
            "expire_at": 4102444800,
            "acl": [{"permission": "allow", "action": "subscribe", "topic": "eq t/1/#"},
                    {"permission": "deny", "action": "all", "topic": "t/3"}]}"#,
    );
    let mut literal = Rule::new(Effect::Allow, Action::Subscribe, vec![]);
    literal.literal = vec!["t/1/#".into()];
    let attributes = [("role", "admin"), ("sn", "10c61f1a1f47")];
    let grant = Grant {
        attributes: attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
        rules: vec![literal, Rule::new(Effect::Deny, Action::All, vec!["t/3".into()])],
        expires_at_s: Some(4_102_444_800),
        ..alice()
    };
    means(EMQX5, &[whole], Ok(Verdict::Allow(grant))).await;
    let bounded = json(r#"{"result": "allow", "limits": {"qos_max": 1}}"#);
    let limits = Some(Box::new(link::Limits { qos_max: Some(1), ..link::Limits::default() }));
    means(EMQX5, &[bounded], Ok(Verdict::Allow(Grant { limits, ..alice() }))).await;
}

#[tokio::test]
async fn emqx5_answers_that_cannot_be_kept_let_nobody_in() {
    let refused = || deny(DenyReason::BadCredentials);
    means(EMQX5, &[json(r#"{"result": "allow", "expire_at": 1}"#)], refused()).await;
    means(EMQX5, &[json(r#"{"result": "allow", "expire_at": "soon"}"#)], refused()).await;
    means(EMQX5, &[json(r#"{"result": "allow", "acl": [{"permission": "allow"}]}"#)], refused()).await;
    means(EMQX5, &[json(r#"{"result": "allow", "limits": {"qos_max": 3}}"#)], refused()).await;
    means(EMQX5, &[json(r#"{"result": "allow", "limits": {"quality": 1}}"#)], refused()).await;
    means(EMQX5, &[json("{\"result\": \"allow\"")], MALFORMED).await;
    means(EMQX5, &[json("[1]")], MALFORMED).await;
    means(EMQX5, &[answer("200 OK", "text/html", "<html>")], MALFORMED).await;
    means(EMQX5, &[text("302 Found", "")], MALFORMED).await;
    let attributes: Vec<String> = (0..100).map(|n| format!("\"a{n}\": \"x\"")).collect();
    let many = format!(r#"{{"result": "allow", "client_attrs": {{{}}}}}"#, attributes.join(","));
    means(EMQX5, &[json(&many)], MALFORMED).await;
    let long = format!(r#"{{"result": "allow", "x": "{}"}}"#, "x".repeat(70_000));
    means(EMQX5, &[json(&long)], MALFORMED).await;
    means(EMQX5, &["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}".to_owned()], Err(Fault::Timeout)).await;
    means(EMQX5, &["what?\r\n\r\n".to_owned()], MALFORMED).await;
    means(EMQX5, &[], Err(Fault::Unreachable)).await;
    means(EMQX5, &[text("503 Service Unavailable", "")], FAILING).await;
    means(EMQX5, &[text("429 Too Many Requests", "")], FAILING).await;
}

#[tokio::test]
async fn values_that_a_request_cannot_say_leave_the_client_to_others() {
    let binary = Facts { password: b"\xff".as_slice().into(), ..Facts::sample() };
    let (asked, answered) = ask(EMQX5, &binary, &[]).await;
    assert_eq!((asked.len(), answered.map(|answer| answer.verdict)), (0, IGNORE));
    let lines = Facts { username: Some("a\r\nx: y".into()), ..Facts::sample() };
    let settings = format!("{EMQX5}\nheaders = {{ x-user = '${{username}}' }}");
    let (asked, answered) = ask(&settings, &lines, &[]).await;
    assert_eq!((asked.len(), answered.map(|answer| answer.verdict)), (0, IGNORE));
}

const EMQX4: &str = "contract = 'emqx4'\nurl = 'BASE/mqtt/auth'";
const EMQX4_SUPERUSER: &str =
    "contract = 'emqx4'\nurl = 'BASE/mqtt/auth'\nsuperuser_url = 'BASE/mqtt/superuser'";

#[tokio::test]
async fn emqx4_and_nanomq_are_asked_as_described() {
    let ok = [text("200 OK", ""), text("200 OK", "")];
    let golden = [include_str!("golden/emqx4_auth.http"), include_str!("golden/emqx4_superuser.http")];
    sends(EMQX4_SUPERUSER, &Facts::sample(), &ok, &golden).await;
    let get = format!(
        "{EMQX4}\nmethod = 'get'\nbody = {{ clientid = '%c', username = '%u', password = '%P', ip = '%a', \
         port = '%p', protocol = '%r' }}"
    );
    sends(&get, &Facts::sample(), &ok, &[include_str!("golden/nanomq_get.http")]).await;
}

#[tokio::test]
async fn emqx4_answers_mean_what_is_documented() {
    means(EMQX4, &[text("200 OK", "")], allow()).await;
    means(EMQX4, &[text("200 OK", "ignore")], IGNORE).await;
    for (status, reason) in [
        ("400 Bad Request", DenyReason::BadCredentials),
        ("401 Unauthorized", DenyReason::BadCredentials),
        ("403 Forbidden", DenyReason::NotAuthorized),
        ("429 Too Many Requests", DenyReason::Banned),
    ] {
        means(EMQX4, &[text(status, "")], deny(reason)).await;
    }
    means(EMQX4, &[text("500 Internal Server Error", "")], FAILING).await;
    means(EMQX4, &[text("204 No Content", "")], MALFORMED).await;
    let ok = || text("200 OK", "");
    means(EMQX4_SUPERUSER, &[ok(), ok()], superuser(true)).await;
    means(EMQX4_SUPERUSER, &[ok(), text("401 Unauthorized", "")], superuser(false)).await;
    means(EMQX4_SUPERUSER, &[ok(), text("500 Oh", "")], superuser(false)).await;
    means(EMQX4_SUPERUSER, &[text("401 Unauthorized", "")], deny(DenyReason::BadCredentials)).await;
}

const GO_AUTH: &str = "contract = 'mosquitto-go-auth'\nurl = 'BASE/user'";

fn go_auth(more: &str) -> String {
    format!("{GO_AUTH}\nsuperuser_url = 'BASE/superuser'\n{more}")
}

#[tokio::test]
async fn mosquitto_go_auth_is_asked_as_described() {
    let ok = [text("200 OK", "ok"), text("200 OK", "ok")];
    let json = [
        include_str!("golden/go_auth_getuser_json.http"),
        include_str!("golden/go_auth_superuser_json.http"),
    ];
    sends(&go_auth(""), &Facts::sample(), &ok, &json).await;
    let form = format!("{GO_AUTH}\nparams = 'form'");
    sends(&form, &Facts::sample(), &ok, &[include_str!("golden/go_auth_getuser_form.http")]).await;
}

#[tokio::test]
async fn mosquitto_go_auth_answers_mean_what_is_documented() {
    let no = || deny(DenyReason::BadCredentials);
    means(GO_AUTH, &[text("200 OK", "whatever")], allow()).await;
    means(GO_AUTH, &[text("401 Unauthorized", "ok")], no()).await;
    means(GO_AUTH, &[text("500 Oh", "")], FAILING).await;
    let by_text = format!("{GO_AUTH}\nanswer = 'text'");
    means(&by_text, &[text("200 OK", "ok")], allow()).await;
    means(&by_text, &[text("200 OK", "no such user")], no()).await;
    let by_json = format!("{GO_AUTH}\nanswer = 'json'");
    means(&by_json, &[json(r#"{"ok": true, "error": ""}"#)], allow()).await;
    means(&by_json, &[json(r#"{"ok": false, "error": "wrong"}"#)], no()).await;
    means(&by_json, &[json("{}")], no()).await;
    means(&by_json, &[json("ok")], MALFORMED).await;
    let yes = || text("200 OK", "");
    means(&go_auth(""), &[yes(), yes()], superuser(true)).await;
    means(&go_auth(""), &[yes(), text("403 Forbidden", "")], superuser(false)).await;
    means(&go_auth(""), &[yes(), text("500 Oh", "")], superuser(false)).await;
}

const RABBITMQ: &str = "contract = 'rabbitmq'\nurl = 'BASE/auth/user'\nvhost_url = 'BASE/auth/vhost'";

#[tokio::test]
async fn rabbitmq_is_asked_as_described() {
    let ok = [text("200 OK", "allow monitoring policymaker"), text("200 OK", "allow")];
    let golden = [include_str!("golden/rabbitmq_user.http"), include_str!("golden/rabbitmq_vhost.http")];
    sends(RABBITMQ, &Facts::sample(), &ok, &golden).await;
    let get = "contract = 'rabbitmq'\nurl = 'BASE/auth/user'\nmethod = 'get'";
    sends(get, &Facts::sample(), &ok, &[include_str!("golden/rabbitmq_user_get.http")]).await;
}

#[tokio::test]
async fn rabbitmq_answers_mean_what_is_documented() {
    let said = |user: &str, vhost: &str| [text("200 OK", user), text("200 OK", vhost)];
    means(RABBITMQ, &said("allow", "allow"), allow()).await;
    means(RABBITMQ, &said(" ALLOW \n", "Allow"), allow()).await;
    let groups = vec!["administrator".into(), "monitoring".into()];
    let tagged = Ok(Verdict::Allow(Grant { groups, ..alice() }));
    means(RABBITMQ, &said("allow administrator monitoring", "allow"), tagged).await;
    means(RABBITMQ, &said("deny", "allow"), deny(DenyReason::BadCredentials)).await;
    means(RABBITMQ, &said("deny locked out", "allow"), deny(DenyReason::BadCredentials)).await;
    means(RABBITMQ, &said("allow", "deny"), deny(DenyReason::NotAuthorized)).await;
    means(RABBITMQ, &said("allowed", "allow"), MALFORMED).await;
    means(RABBITMQ, &said("", "allow"), MALFORMED).await;
    means(RABBITMQ, &[text("201 Created", "allow"), text("201 Created", "allow")], allow()).await;
    means(RABBITMQ, &[text("403 Forbidden", "allow")], MALFORMED).await;
    means(RABBITMQ, &[text("200 OK", "allow"), text("500 Oh", "allow")], FAILING).await;
    let tags = format!("allow {}", "t ".repeat(100));
    means(RABBITMQ, &said(&tags, "allow"), MALFORMED).await;
}

const VERNEMQ: &str = "contract = 'vernemq'\nurl = 'BASE/hooks'";

#[tokio::test]
async fn vernemq_is_asked_as_described() {
    let ok = [json(r#"{"result": "ok"}"#)];
    let old = Facts { version: ProtocolVersion::V311, ..Facts::sample() };
    sends(VERNEMQ, &old, &ok, &[include_str!("golden/vernemq_register.http")]).await;
    sends(VERNEMQ, &Facts::sample(), &ok, &[include_str!("golden/vernemq_register_m5.http")]).await;
}

#[tokio::test]
async fn vernemq_answers_mean_what_is_documented() {
    means(VERNEMQ, &[json(r#"{"result": "ok"}"#)], allow()).await;
    means(VERNEMQ, &[json(r#"{"result": "next"}"#)], IGNORE).await;
    for (error, reason) in [
        (r#""not_allowed""#, DenyReason::NotAuthorized),
        (r#""invalid_credentials""#, DenyReason::BadCredentials),
        (r#"{"reason_code": "banned"}"#, DenyReason::Banned),
        ("7", DenyReason::NotAuthorized),
    ] {
        means(VERNEMQ, &[json(&format!(r#"{{"result": {{"error": {error}}}}}"#))], deny(reason)).await;
    }
    let modified = r#"{"result": "ok", "modifiers": {"max_message_size": 65535, "allow_publish": false,
        "subscriber_id": {"client_id": "other", "mountpoint": "x"}}}"#;
    let silent = Rule::new(Effect::Deny, Action::Publish, vec!["#".into(), "$SYS/#".into()]);
    let grant = Grant { rules: vec![silent], ..alice() };
    means(VERNEMQ, &[json(modified)], Ok(Verdict::Allow(grant))).await;
    means(VERNEMQ, &[json(r#"{"result": "yes"}"#)], MALFORMED).await;
    means(VERNEMQ, &[json("ok")], MALFORMED).await;
    means(VERNEMQ, &[text("401 Unauthorized", "")], MALFORMED).await;
    means(VERNEMQ, &[text("502 Bad Gateway", "")], FAILING).await;
}

#[tokio::test]
async fn vernemq_says_how_long_an_answer_holds() {
    let ok = r#"{"result": "ok"}"#;
    let with =
        |control: &str| vec![format!("HTTP/1.1 200 OK\r\n{control}content-length: {}\r\n\r\n{ok}", ok.len())];
    for (control, expected_s) in
        [("", 0), ("cache-control: private, max-age=45\r\n", 45), ("cache-control: max-age=x\r\n", 0)]
    {
        let (_, answered) = ask(VERNEMQ, &Facts::sample(), &with(control)).await;
        assert_eq!(answered.unwrap().lifetime.unwrap().as_secs(), expected_s, "{control}");
    }
}

#[test]
fn keys_of_other_contracts_and_wrong_ones_are_named() {
    let told = |settings: &str| {
        let config: HttpConfig = toml::from_str(settings).unwrap();
        HttpSource::check(&config).unwrap_err().to_string()
    };
    let with = |contract: &str, more: &str| {
        told(&format!("contract = '{contract}'\nurl = 'http://127.0.0.1/'\n{more}"))
    };
    assert_eq!(with("emqx5", "vhost = 'x'"), "auth.http.vhost is of another contract than this; remove it");
    assert_eq!(with("emqx4", "superuser_body = {}"), "auth.http.superuser_body needs superuser_url");
    assert!(
        with("emqx5", "body = { u = '${user}' }")
            .starts_with("auth.http.body has the variable ${user}; known")
    );
    assert!(with("emqx5", "headers = { host = 'x' }").starts_with("auth.http.headers have \"host\""));
    assert!(
        with("emqx4", "body = { a = { b = 'c' } }").starts_with("auth.http.body has values within values")
    );
    assert!(with("vernemq", "timeout_ms = 0").starts_with("auth.http.timeout_ms = 0: must be"));
    assert!(
        with("rabbitmq", "cache = { allowed_ttl_s = 100000 }").starts_with("auth.http.cache.allowed_ttl_s")
    );
    let plain = told("contract = 'emqx5'\nurl = 'http://a.example/${username}'");
    assert!(plain.starts_with("auth.http.url must begin with https://"), "{plain}");
    let both = with("mosquitto-go-auth", "method = 'get'\nparams = 'form'");
    assert!(both.starts_with("auth.http.params must be \"json\""));
    let unknown = toml::from_str::<HttpConfig>("contract = 'emqx5'\nurl = 'x'\nurll = 'y'").unwrap_err();
    assert!(unknown.to_string().contains("unknown field `urll`"), "{unknown}");
    let below = "contract = 'emqx5'\nurl = 'x'\ncache = { ttl = 1 }";
    let below = toml::from_str::<HttpConfig>(below).unwrap_err().to_string();
    assert!(below.contains("unknown field `ttl`, expected one of `allowed_ttl_s`"), "{below}");
}

#[test]
fn headers_are_not_shown() {
    let config: HttpConfig =
        toml::from_str("contract = 'emqx5'\nurl = 'http://127.0.0.1/'\nheaders = { x-api-key = 's3cret' }")
            .unwrap();
    let shown = toml::to_string(&config).unwrap();
    assert!(shown.contains("x-api-key = \"(hidden)\"") && !shown.contains("s3cret"), "{shown}");
    assert!(!format!("{config:?}").contains("s3cret"));
}
