//! The HTTP backend of mosquitto-go-auth: `getuser`, then `superuser`; parameters as JSON or a form, answers by status, as JSON
//! (`{"ok": true}`) or as text (`ok`). `aclcheck` is asked with `acc` 2 for a PUBLISH; for a SUBSCRIBE with 4, which says whether to
//! subscribe, and then with 1, as which Mosquitto asks for each message and here the filter stands for them all.
// https://github.com/iegomez/mosquitto-go-auth#http

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, Request, Response, Uri};
use serde::Deserialize;
use serde_json::json;

use super::answered::{ALLOWED, Ruled, malformed, send};
use super::request::{Encoding, form, request};
use crate::action::{Action, ActionName, ActionVerdict};
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};
use crate::source::http::config::{AnswerMode, HttpConfig, ParamsMode, SECTION};
use crate::source::http::facts::Facts;
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason};

pub(in crate::source::http) struct GoAuth {
    user_url: Uri,
    superuser_url: Option<Uri>,
    acl_url: Option<Uri>,
    method: Method,
    encoding: Encoding,
    answer: AnswerMode,
}

/// `acc` of mosquitto-go-auth.
const READ: u8 = 1;
const WRITE: u8 = 2;
const SUBSCRIBE: u8 = 4;

/// A JSON answer.
#[derive(Deserialize)]
struct JsonAnswer {
    #[serde(default)]
    ok: bool,
}

impl GoAuth {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        Ok(Self {
            user_url: config.client.url(SECTION, "url", &config.url)?,
            superuser_url: config.url_if_set("superuser_url", &config.superuser_url)?,
            acl_url: config.url_if_set("acl_url", &config.acl_url)?,
            method: config.method.unwrap_or_default().into(),
            encoding: match config.params.unwrap_or_default() {
                ParamsMode::Json => Encoding::Json,
                ParamsMode::Form => Encoding::Form,
            },
            answer: config.answer.unwrap_or_default(),
        })
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
        let Some(request) = self.user_request(facts) else {
            return Ok(Verdict::Ignore.into());
        };
        if !self.is_yes(&send(client, request).await?)? {
            return Ok(Verdict::Deny(DenyReason::BadCredentials).into());
        }
        let grant = Grant::of(facts.subject());
        let Some(request) = self.superuser_request(&grant.subject) else {
            return Ok(Verdict::Allow(grant).into());
        };
        let answered = send(client, request).await;
        // Nobody is a superuser for want of an answer, nor is it remembered.
        let is_superuser = answered.and_then(|answer| self.is_yes(&answer));
        let lifetime = is_superuser.is_err().then_some(Duration::ZERO);
        let is_superuser = is_superuser.unwrap_or(false);
        Ok(Reply { verdict: Verdict::Allow(Grant { is_superuser, ..grant }), lifetime, is_right: true })
    }

    pub(super) async fn rule(&self, action: &Action, client: &HttpClient) -> Result<Ruled, Fault> {
        let accesses: &[u8] = match action.action {
            ActionName::Publish => &[WRITE],
            ActionName::Subscribe => &[SUBSCRIBE, READ],
        };
        for access in accesses {
            let request = self.acl_request(action, *access).ok_or(Fault::Malformed)?;
            if !self.is_yes(&send(client, request).await?)? {
                return Ok((ActionVerdict::Deny, None));
            }
        }
        Ok((ALLOWED, None))
    }

    fn acl_request(&self, action: &Action, access: u8) -> Option<Request<Bytes>> {
        let url = self.acl_url.clone()?;
        let Action { client_id, subject, topic, .. } = action;
        let body = match self.encoding {
            Encoding::Json => {
                json!({"acc": access, "clientid": &**client_id, "topic": &**topic, "username": &**subject})
                    .to_string()
                    .into_bytes()
            }
            Encoding::Form => form(&[
                ("acc", access.to_string().as_bytes()),
                ("clientid", client_id.as_bytes()),
                ("topic", topic.as_bytes()),
                ("username", subject.as_bytes()),
            ]),
        };
        Some(request(self.method.clone(), url, Some(self.encoding), body))
    }

    fn user_request(&self, facts: &Facts) -> Option<Request<Bytes>> {
        let subject = facts.subject();
        let body = match self.encoding {
            Encoding::Json => {
                let password = std::str::from_utf8(&facts.password).ok()?;
                json!({"clientid": &*facts.client_id, "password": password, "username": &*subject})
                    .to_string()
                    .into_bytes()
            }
            Encoding::Form => form(&[
                ("clientid", facts.client_id.as_bytes()),
                ("password", &facts.password),
                ("username", subject.as_bytes()),
            ]),
        };
        Some(request(self.method.clone(), self.user_url.clone(), Some(self.encoding), body))
    }

    fn superuser_request(&self, subject: &str) -> Option<Request<Bytes>> {
        let url = self.superuser_url.clone()?;
        let body = match self.encoding {
            Encoding::Json => json!({"username": subject}).to_string().into_bytes(),
            Encoding::Form => form(&[("username", subject.as_bytes())]),
        };
        Some(request(self.method.clone(), url, Some(self.encoding), body))
    }

    fn is_yes(&self, answer: &Response<Bytes>) -> Result<bool, Fault> {
        if !answer.status().is_success() {
            return Ok(false);
        }
        match self.answer {
            AnswerMode::Status => Ok(true),
            AnswerMode::Text => Ok(&answer.body()[..] == b"ok"),
            AnswerMode::Json => serde_json::from_slice(answer.body())
                .map(|JsonAnswer { ok }| ok)
                .map_err(|_| malformed("is no JSON with ok")),
        }
    }
}
