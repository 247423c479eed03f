//! EMQX 5. "HTTP server" of password authentication: 204 lets in; 200 says what in `result`, and with it attributes, rules, an
//! end, and limits, which EMQX does not know. 4xx leaves the client to the next source. What EMQX takes for `ignore` beyond that, a service that fails or does not
//! answer, is `when_away` here.
//! Its authorizer: 204 allows, 200 says `allow`, `deny` or `ignore`, 4xx has no say.
// https://docs.emqx.com/en/emqx/latest/access-control/authn/http.html, .../authz/http.html

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::answered::{ALLOWED, Ruled, malformed, send, warn_seldom};
use super::request::{About, Parts, RequestTemplate};
use crate::action::ActionVerdict;
use crate::authorization::read_limits;
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};
use crate::source::http::acl;
use crate::source::http::config::HttpConfig;
use crate::source::http::facts::{Facts, Variable};
use crate::source::http::template::Syntax;
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason};

/// Attributes that one answer may hold, and the bytes of one with its name.
const ATTRIBUTES_MAX: usize = 64;
const ATTRIBUTE_BYTES_MAX: usize = 1024;

pub(in crate::source::http) struct Emqx5 {
    request: RequestTemplate,
    acl: Option<RequestTemplate>,
}

impl Emqx5 {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        let syntax = Syntax::Braces;
        let default = json!({"username": "${username}", "password": "${password}"});
        let of_action = json!({"username": "${username}", "topic": "${topic}", "action": "${action}"});
        let parts = Parts { url: ("url", &config.url), body: ("body", &config.body), default, syntax };
        Ok(Self {
            request: RequestTemplate::new(config, About::Connect, parts)?,
            acl: RequestTemplate::about_actions(config, of_action, syntax)?,
        })
    }

    pub(super) fn action_uses(&self, variable: Variable) -> bool {
        self.acl.as_ref().is_some_and(|acl| acl.uses(variable))
    }

    pub(super) fn action_attributes(&self) -> Vec<String> {
        self.acl.as_ref().map_or_else(Vec::new, RequestTemplate::attributes)
    }

    pub(super) async fn rule(&self, facts: &Facts, client: &HttpClient) -> Result<Ruled, Fault> {
        let request = self.acl.as_ref().and_then(|acl| acl.make(facts)).ok_or(Fault::Malformed)?;
        Ok((ruling(&send(client, request).await?)?, None))
    }

    pub(super) fn uses(&self, variable: Variable) -> bool {
        self.request.uses(variable)
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
        let Some(request) = self.request.make(facts) else {
            return Ok(Verdict::Ignore.into());
        };
        read(&send(client, request).await?, facts).map(Reply::from)
    }
}

fn read(answer: &Response<Bytes>, facts: &Facts) -> Result<Verdict, Fault> {
    match answer.status() {
        StatusCode::NO_CONTENT => Ok(Verdict::Allow(Grant::of(facts.subject()))),
        StatusCode::OK => {
            let fields = fields_of(answer)?;
            match fields.get("result").and_then(Value::as_str) {
                Some("allow") => grant(&fields, facts),
                Some("deny") => Ok(Verdict::Deny(DenyReason::NotAuthorized)),
                _ => Ok(Verdict::Ignore),
            }
        }
        StatusCode::TOO_MANY_REQUESTS => Err(Fault::Failing),
        status if status.is_client_error() => Ok(Verdict::Ignore),
        _ => Err(malformed("has a status that is none of 200, 204, 4xx and 5xx")),
    }
}

fn ruling(answer: &Response<Bytes>) -> Result<ActionVerdict, Fault> {
    match answer.status() {
        StatusCode::NO_CONTENT => Ok(ALLOWED),
        StatusCode::OK => Ok(match fields_of(answer)?.get("result").and_then(Value::as_str) {
            Some("allow") => ALLOWED,
            Some("deny") => ActionVerdict::Deny,
            _ => ActionVerdict::Ignore,
        }),
        StatusCode::TOO_MANY_REQUESTS => Err(Fault::Failing),
        status if status.is_client_error() => Ok(ActionVerdict::Ignore),
        _ => Err(malformed("has a status that is none of 200, 204, 4xx and 5xx")),
    }
}

fn fields_of(answer: &Response<Bytes>) -> Result<Map<String, Value>, Fault> {
    let content_type = answer.headers().get("content-type").map_or(&b""[..], |value| value.as_bytes());
    let is = |known: &str| {
        content_type.get(..known.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(known.as_bytes()))
    };
    if is("application/json") {
        serde_json::from_slice(answer.body()).map_err(|_| malformed("is no JSON object"))
    } else if is("application/x-www-form-urlencoded") {
        let pairs = form_urlencoded::parse(answer.body());
        Ok(pairs.map(|(name, value)| (name.into_owned(), value.into_owned().into())).collect())
    } else {
        Err(malformed("has a content-type that is neither JSON nor a form"))
    }
}

fn grant(fields: &Map<String, Value>, facts: &Facts) -> Result<Verdict, Fault> {
    let refused = |problem: &str| {
        warn_seldom("a client is refused for what the HTTP endpoint grants it", problem);
        Ok(Verdict::Deny(DenyReason::BadCredentials))
    };
    let expires_at_s = match fields.get("expire_at") {
        None => None,
        Some(value) => match value.as_u64() {
            Some(at_s) if at_s > crate::clock::now_s() => Some(at_s),
            Some(_) => return refused("expire_at is in the past"),
            None => return refused("expire_at is no time in seconds"),
        },
    };
    let rules = match fields.get("acl").map(|acl| acl::rules(acl, facts)) {
        None => Vec::new(),
        Some(Ok(rules)) => rules,
        Some(Err(problem)) => return refused(problem),
    };
    let limits = match fields.get("limits").map(read_limits) {
        None => None,
        Some(Ok(limits)) => limits,
        Some(Err(problem)) => return refused(&format!("limits {problem}")),
    };
    Ok(Verdict::Allow(Grant {
        attributes: attributes(fields.get("client_attrs"))?,
        rules,
        is_superuser: is_true(fields.get("is_superuser")),
        expires_at_s,
        limits,
        ..Grant::of(facts.subject())
    }))
}

/// Names and values that are text; others are passed over.
fn attributes(value: Option<&Value>) -> Result<BTreeMap<Arc<str>, Arc<str>>, Fault> {
    let Some(Value::Object(given)) = value else { return Ok(BTreeMap::new()) };
    let texts = given.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
    let attributes: BTreeMap<Arc<str>, Arc<str>> =
        texts.map(|(name, value)| (name.into(), value.into())).collect();
    let is_long = |(name, value): (&Arc<str>, &Arc<str>)| name.len() + value.len() > ATTRIBUTE_BYTES_MAX;
    if attributes.len() > ATTRIBUTES_MAX || attributes.iter().any(is_long) {
        return Err(malformed("has too many client_attrs, or too long ones"));
    }
    Ok(attributes)
}

fn is_true(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(is)) => *is,
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        Some(Value::String(text)) => text == "true" || text == "1",
        _ => false,
    }
}
