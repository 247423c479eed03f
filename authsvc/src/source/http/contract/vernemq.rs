//! VerneMQ's webhooks `auth_on_register` and `auth_on_register_m5`: `ok` with modifiers, `next`, or an error. An answer is
//! remembered if it says so (`cache-control: max-age`), as there.
// https://docs.vernemq.com/plugin-development/webhookplugins

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, Uri};
use link::{Action, Effect, Rule};
use mqtt::ProtocolVersion;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::{Encoding, request};
use super::{malformed, send, warn_seldom};
use crate::http_client::HttpClient;
use crate::inquiry::{Answer, Fault};
use crate::source::http::config::{HttpConfig, SECTION};
use crate::source::http::facts::Facts;
use crate::source::{Grant, Verdict};
use crate::{AuthError, DenyReason};

/// Modifiers that are obeyed; each takes away what rules would allow.
const OBEYED: [(&str, Action); 2] =
    [("allow_publish", Action::Publish), ("allow_subscribe", Action::Subscribe)];

pub(in crate::source::http) struct VerneMq {
    url: Uri,
}

/// Of MQTT 3.1 and 3.1.1.
#[derive(Serialize)]
struct Register<'a> {
    peer_addr: &'a str,
    peer_port: u16,
    username: Option<&'a str>,
    password: Option<&'a str>,
    mountpoint: &'a str,
    client_id: &'a str,
    clean_session: bool,
}

/// Of MQTT 5.
#[derive(Serialize)]
struct RegisterM5<'a> {
    peer_addr: &'a str,
    peer_port: u16,
    mountpoint: &'a str,
    client_id: &'a str,
    username: Option<&'a str>,
    password: Option<&'a str>,
    clean_start: bool,
    properties: Map<String, Value>,
}

#[derive(Deserialize)]
struct Registered {
    result: Value,
    #[serde(default)]
    modifiers: Map<String, Value>,
}

impl VerneMq {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        Ok(Self { url: config.client.url(SECTION, "url", &config.url)? })
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Answer, Fault> {
        let Some(request) = self.request(facts) else {
            return Ok(Verdict::Ignore.into());
        };
        read(&send(client, request).await?, facts)
    }

    fn request(&self, facts: &Facts) -> Option<Request<Bytes>> {
        let password = std::str::from_utf8(&facts.password).ok()?;
        let password = Some(password).filter(|password| !password.is_empty());
        let (address, port) = (facts.address(), facts.peer.port());
        let (username, client_id) = (facts.username.as_deref(), &*facts.client_id);
        let (hook, body) = if facts.version == ProtocolVersion::V5 {
            let register = RegisterM5 {
                peer_addr: &address,
                peer_port: port,
                mountpoint: "",
                client_id,
                username,
                password,
                clean_start: facts.clean_start,
                properties: Map::new(),
            };
            ("auth_on_register_m5", serde_json::to_vec(&register))
        } else {
            let register = Register {
                peer_addr: &address,
                peer_port: port,
                username,
                password,
                mountpoint: "",
                client_id,
                clean_session: facts.clean_start,
            };
            ("auth_on_register", serde_json::to_vec(&register))
        };
        let mut request = request(Method::POST, self.url.clone(), Some(Encoding::Json), body.ok()?);
        request.headers_mut().insert("vernemq-hook", hyper::header::HeaderValue::from_static(hook));
        Some(request)
    }
}

fn read(answer: &Response<Bytes>, facts: &Facts) -> Result<Answer, Fault> {
    if answer.status() != StatusCode::OK {
        return Err(malformed("has a status other than 200"));
    }
    let Registered { result, modifiers } =
        serde_json::from_slice(answer.body()).map_err(|_| malformed("is no JSON with a result"))?;
    let verdict = match &result {
        Value::String(result) if result == "ok" => {
            let rules = rules(&modifiers);
            Verdict::Allow(Grant { rules, ..Grant::of(facts.subject()) })
        }
        Value::String(result) if result == "next" => Verdict::Ignore,
        Value::Object(result) => Verdict::Deny(reason(result.get("error"))),
        _ => return Err(malformed("has a result that is none of ok, next and an error")),
    };
    let is_allowed = matches!(verdict, Verdict::Allow(_));
    let lifetime = is_allowed.then(|| max_age(answer)).flatten().unwrap_or_default();
    Ok(Answer { verdict, lifetime: Some(lifetime) })
}

/// The words of VerneMQ; others mean no more than no.
fn reason(error: Option<&Value>) -> DenyReason {
    // MQTT 5: {"error": {"reason_code": "banned"}}
    let error = error.and_then(|error| error.get("reason_code").or(Some(error)));
    match error.and_then(Value::as_str) {
        Some("invalid_credentials" | "bad_username_or_password") => DenyReason::BadCredentials,
        Some("server_unavailable" | "server_busy") => DenyReason::Unavailable,
        Some("banned") => DenyReason::Banned,
        _ => DenyReason::NotAuthorized,
    }
}

fn rules(modifiers: &Map<String, Value>) -> Vec<Rule> {
    let is_obeyed = |name: &String| OBEYED.iter().any(|(obeyed, _)| obeyed == name);
    if !modifiers.keys().all(is_obeyed) {
        warn_seldom(
            "modifiers of the HTTP endpoint are not obeyed",
            "only allow_publish and allow_subscribe are",
        );
    }
    let forbidden = OBEYED.iter().filter(|(name, _)| modifiers.get(*name) == Some(&Value::Bool(false)));
    let everything = || vec!["#".into(), "$SYS/#".into()];
    forbidden.map(|(_, action)| Rule::new(Effect::Deny, *action, everything())).collect()
}

fn max_age(answer: &Response<Bytes>) -> Option<Duration> {
    let control = answer.headers().get("cache-control")?.to_str().ok()?;
    let age = control.split(',').find_map(|part| part.trim().strip_prefix("max-age="))?;
    age.parse().ok().map(Duration::from_secs)
}
