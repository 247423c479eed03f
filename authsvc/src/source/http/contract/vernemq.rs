//! VerneMQ's webhooks, by the names before MQTT 5 and with `_m5`. `auth_on_publish` and `auth_on_subscribe` are asked about actions, the
//! latter of one filter at a time and the former without the payload. `auth_on_register` and `auth_on_register_m5`: `ok` with modifiers, `next`, or an error. An answer is
//! remembered if it says so (`cache-control: max-age`), as there.
// https://docs.vernemq.com/plugin-development/webhookplugins

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, Uri};
use link::{Effect, Rule};
use mqtt::{ProtocolVersion, QoS};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answered::{ALLOWED, Ruled, malformed, send, warn_seldom};
use super::request::{Encoding, request};
use crate::action::{Action, ActionName, ActionVerdict};
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};
use crate::source::http::config::{HttpConfig, SECTION};
use crate::source::http::facts::Facts;
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason};

/// Modifiers that are obeyed; each takes away what rules would allow.
const OBEYED: [(&str, link::Action); 2] =
    [("allow_publish", link::Action::Publish), ("allow_subscribe", link::Action::Subscribe)];

pub(in crate::source::http) struct VerneMq {
    url: Uri,
    acl_url: Option<Uri>,
}

/// `auth_on_publish`; with properties, that of MQTT 5.
#[derive(Serialize)]
struct PublishHook<'a> {
    username: &'a str,
    client_id: &'a str,
    mountpoint: &'a str,
    qos: u8,
    topic: &'a str,
    payload: &'a str,
    retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Map<String, Value>>,
}

/// `auth_on_subscribe`, as above.
#[derive(Serialize)]
struct SubscribeHook<'a> {
    client_id: &'a str,
    mountpoint: &'a str,
    username: &'a str,
    topics: [Value; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<Map<String, Value>>,
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
    /// Of `auth_on_subscribe`; that of MQTT 5 has it among the modifiers.
    #[serde(default)]
    topics: Option<Value>,
}

impl VerneMq {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        Ok(Self {
            url: config.client.url(SECTION, "url", &config.url)?,
            acl_url: config.url_if_set("acl_url", &config.acl_url)?,
        })
    }

    pub(super) async fn rule(
        &self,
        facts: &Facts,
        action: &Action,
        client: &HttpClient,
    ) -> Result<Ruled, Fault> {
        let request = self.acl_request(facts, action).ok_or(Fault::Malformed)?;
        let answer = send(client, request).await?;
        let verdict = ruling(&answer, action)?;
        let is_allowed = matches!(verdict, ActionVerdict::Allow(_));
        let lifetime = is_allowed.then(|| max_age(&answer)).flatten().unwrap_or_default();
        Ok((verdict, Some(lifetime)))
    }

    fn acl_request(&self, facts: &Facts, action: &Action) -> Option<Request<Bytes>> {
        let is_v5 = facts.version == ProtocolVersion::V5;
        let properties = is_v5.then(Map::new);
        let Action { client_id, subject, topic, .. } = action;
        let (hook, body) = match action.action {
            ActionName::Publish => {
                let hook = PublishHook {
                    username: subject,
                    client_id,
                    mountpoint: "",
                    qos: action.qos.as_u8(),
                    topic,
                    payload: "",
                    retain: action.retain,
                    properties,
                };
                let name = if is_v5 { "auth_on_publish_m5" } else { "auth_on_publish" };
                (name, serde_json::to_vec(&hook))
            }
            ActionName::Subscribe => {
                let topics = [json!({"topic": &**topic, "qos": action.qos.as_u8()})];
                let hook = SubscribeHook { client_id, mountpoint: "", username: subject, topics, properties };
                let name = if is_v5 { "auth_on_subscribe_m5" } else { "auth_on_subscribe" };
                (name, serde_json::to_vec(&hook))
            }
        };
        let mut request = request(Method::POST, self.acl_url.clone()?, Some(Encoding::Json), body.ok()?);
        request.headers_mut().insert("vernemq-hook", hyper::header::HeaderValue::from_static(hook));
        Some(request)
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
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

fn read(answer: &Response<Bytes>, facts: &Facts) -> Result<Reply, Fault> {
    if answer.status() != StatusCode::OK {
        return Err(malformed("has a status other than 200"));
    }
    let Registered { result, modifiers, .. } =
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
    Ok(Reply { verdict, lifetime: Some(lifetime), is_right: is_allowed })
}

fn ruling(answer: &Response<Bytes>, action: &Action) -> Result<ActionVerdict, Fault> {
    if answer.status() != StatusCode::OK {
        return Err(malformed("has a status other than 200"));
    }
    let Registered { result, modifiers, topics } =
        serde_json::from_slice(answer.body()).map_err(|_| malformed("is no JSON with a result"))?;
    Ok(match &result {
        Value::String(result) if result == "ok" => match action.action {
            ActionName::Publish => published(&modifiers, action),
            ActionName::Subscribe => subscribed(topics.as_ref().or(modifiers.get("topics")), action),
        },
        Value::String(result) if result == "next" => ActionVerdict::Ignore,
        Value::Object(_) => ActionVerdict::Deny,
        _ => return Err(malformed("has a result that is none of ok, next and an error")),
    })
}

/// A message that is to be another one may not be published as it is.
fn published(modifiers: &Map<String, Value>, action: &Action) -> ActionVerdict {
    let is_as_it_is = |(name, value): (&String, &Value)| match name.as_str() {
        "topic" => value.as_str() == Some(&action.topic),
        "qos" => value.as_u64() == Some(action.qos.as_u8().into()),
        "retain" => value.as_bool() == Some(action.retain),
        // How fast it may go on; that is not obeyed.
        "throttle" => true,
        _ => false,
    };
    if modifiers.iter().all(is_as_it_is) {
        return ALLOWED;
    }
    warn_seldom("a PUBLISH is refused which the HTTP endpoint would change", "messages are not changed");
    ActionVerdict::Deny
}

/// The QoS of the one filter, from 128 on a Reason Code.
fn subscribed(topics: Option<&Value>, action: &Action) -> ActionVerdict {
    let Some(topics) = topics else { return ALLOWED };
    let granted = match topics.as_array().map(Vec::as_slice) {
        Some([one]) if one.get("topic").and_then(Value::as_str) == Some(&action.topic) => one.get("qos"),
        _ => {
            warn_seldom(
                "a SUBSCRIBE is refused which the HTTP endpoint would change",
                "filters are not changed",
            );
            return ActionVerdict::Deny;
        }
    };
    let granted = granted.and_then(Value::as_u64).and_then(|level| u8::try_from(level).ok());
    match granted.map(QoS::try_from) {
        Some(Ok(qos)) => ActionVerdict::Allow(qos),
        _ => ActionVerdict::Deny,
    }
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
