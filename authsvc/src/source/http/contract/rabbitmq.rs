//! RabbitMQ's HTTP authentication backend: `user_path`, then `vhost_path`; both answer `allow` or `deny` in the body, the former
//! with tags, which become groups. `topic_path` is asked about actions: as of the exchange `amq.topic`, in RabbitMQ's spelling of topics.
// https://www.rabbitmq.com/docs/access-control, rabbitmq_auth_backend_http/README.md

use bytes::Bytes;
use hyper::{Method, Request, Response, StatusCode, Uri};

use super::answered::{ALLOWED, Ruled, malformed, send};
use super::request::{Encoding, form, request};
use crate::action::{Action, ActionName, ActionVerdict};
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};
use crate::source::http::config::{HttpConfig, SECTION};
use crate::source::http::facts::Facts;
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason};

/// The exchange that MQTT is behind there.
const EXCHANGE: &str = "amq.topic";

/// Tags that one answer may hold.
const TAGS_MAX: usize = 64;

pub(in crate::source::http) struct RabbitMq {
    user_url: Uri,
    vhost_url: Option<Uri>,
    topic_url: Option<Uri>,
    vhost: String,
    method: Method,
}

impl RabbitMq {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        Ok(Self {
            user_url: config.client.url(SECTION, "url", &config.url)?,
            vhost_url: config.url_if_set("vhost_url", &config.vhost_url)?,
            topic_url: config.url_if_set("acl_url", &config.acl_url)?,
            vhost: config.vhost.clone().unwrap_or_else(|| "/".to_owned()),
            method: config.method.unwrap_or_default().into(),
        })
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
        let subject = facts.subject();
        let fields: [(&str, &[u8]); 4] = [
            ("username", subject.as_bytes()),
            ("password", &facts.password),
            ("vhost", self.vhost.as_bytes()),
            ("client_id", facts.client_id.as_bytes()),
        ];
        let answer = send(client, self.request(&self.user_url, &fields)?).await?;
        let Some(tags) = allowed(&answer)? else {
            return Ok(Verdict::Deny(DenyReason::BadCredentials).into());
        };
        if tags.len() > TAGS_MAX {
            return Err(malformed("has too many tags"));
        }
        if let Some(url) = &self.vhost_url {
            let (ip, joined) = (facts.address(), tags.join(" "));
            let fields: [(&str, &[u8]); 5] = [
                ("username", subject.as_bytes()),
                ("vhost", self.vhost.as_bytes()),
                ("ip", ip.as_bytes()),
                ("tags", joined.as_bytes()),
                ("client_id", facts.client_id.as_bytes()),
            ];
            let answer = send(client, self.request(url, &fields)?).await?;
            if allowed(&answer)?.is_none() {
                return Ok(Reply::right(Verdict::Deny(DenyReason::NotAuthorized)));
            }
        }
        let groups = tags.into_iter().map(Into::into).collect();
        Ok(Verdict::Allow(Grant { groups, ..Grant::of(subject) }).into())
    }

    pub(super) async fn rule(
        &self,
        facts: &Facts,
        action: &Action,
        client: &HttpClient,
    ) -> Result<Ruled, Fault> {
        let url = self.topic_url.as_ref().ok_or(Fault::Malformed)?;
        let permission = match action.action {
            ActionName::Publish => "write",
            ActionName::Subscribe => "read",
        };
        let routing_key = action.topic.replace('/', ".").replace('+', "*");
        let fields: [(&str, &[u8]); 10] = [
            ("username", action.subject.as_bytes()),
            ("vhost", self.vhost.as_bytes()),
            ("resource", b"topic"),
            ("name", EXCHANGE.as_bytes()),
            ("permission", permission.as_bytes()),
            ("tags", facts.groups().as_bytes()),
            ("routing_key", routing_key.as_bytes()),
            ("variable_map.client_id", action.client_id.as_bytes()),
            ("variable_map.username", action.subject.as_bytes()),
            ("variable_map.vhost", self.vhost.as_bytes()),
        ];
        let answer = send(client, self.request(url, &fields)?).await?;
        Ok((if allowed(&answer)?.is_some() { ALLOWED } else { ActionVerdict::Deny }, None))
    }

    fn request(&self, url: &Uri, fields: &[(&str, &[u8])]) -> Result<Request<Bytes>, Fault> {
        let form = form(fields);
        if self.method != Method::GET {
            return Ok(request(self.method.clone(), url.clone(), Some(Encoding::Form), form));
        }
        let mark = if url.query().is_some() { '&' } else { '?' };
        let url = format!("{url}{mark}{}", String::from_utf8_lossy(&form));
        let url = url.parse().map_err(|_| Fault::Malformed)?;
        Ok(request(Method::GET, url, None, Vec::new()))
    }
}

/// The tags of who is allowed; `None` for who is not.
fn allowed(answer: &Response<Bytes>) -> Result<Option<Vec<String>>, Fault> {
    if !matches!(answer.status(), StatusCode::OK | StatusCode::CREATED) {
        return Err(malformed("has a status that is neither 200 nor 201"));
    }
    let body = String::from_utf8_lossy(answer.body()).trim().to_lowercase();
    let mut words = body.split_whitespace();
    match words.next() {
        Some("allow") => Ok(Some(words.map(str::to_owned).collect())),
        Some("deny") => Ok(None),
        _ => Err(malformed("is neither allow nor deny")),
    }
}
