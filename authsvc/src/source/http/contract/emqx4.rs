//! EMQX 4 and NanoMQ: the status code decides; 200 with the body `ignore` leaves the client to the next source. A second request
//! tells whether who was let in may do everything. Of an action the status code says the same.
// https://docs.emqx.com/en/emqx/v4.4/advanced/auth-http.html, https://nanomq.io/docs/en/latest/access-control/http.html

use std::time::Duration;

use bytes::Bytes;
use hyper::{Response, StatusCode};
use serde_json::json;

use super::answered::{ALLOWED, Ruled, malformed, send};
use super::request::{About, Parts, RequestTemplate};
use crate::action::ActionVerdict;
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};
use crate::source::http::config::HttpConfig;
use crate::source::http::facts::{Facts, Variable};
use crate::source::http::template::Syntax;
use crate::verdict::{Grant, Verdict};
use crate::{AuthError, DenyReason};

pub(in crate::source::http) struct Emqx4 {
    request: RequestTemplate,
    superuser: Option<RequestTemplate>,
    acl: Option<RequestTemplate>,
}

impl Emqx4 {
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        let syntax = Syntax::Percent;
        let template = |url, body, default| {
            RequestTemplate::new(config, About::Connect, Parts { url, body, default, syntax })
        };
        let default = json!({"clientid": "%c", "username": "%u", "password": "%P"});
        let of_superuser = json!({"clientid": "%c", "username": "%u"});
        let of_action = json!({"access": "%A", "username": "%u", "clientid": "%c", "ipaddr": "%a", "topic": "%t", "mountpoint": "%m"});
        let superuser = config.superuser_url.as_deref().map(|url| {
            template(("superuser_url", url), ("superuser_body", &config.superuser_body), of_superuser)
        });
        Ok(Self {
            request: template(("url", &config.url), ("body", &config.body), default)?,
            superuser: superuser.transpose()?,
            acl: RequestTemplate::about_actions(config, of_action, syntax)?,
        })
    }

    pub(super) fn action_uses(&self, variable: Variable) -> bool {
        self.acl.as_ref().is_some_and(|acl| acl.uses(variable))
    }

    pub(super) async fn rule(&self, facts: &Facts, client: &HttpClient) -> Result<Ruled, Fault> {
        let request = self.acl.as_ref().and_then(|acl| acl.make(facts)).ok_or(Fault::Malformed)?;
        let answer = send(client, request).await?;
        Ok((
            match answer.status() {
                StatusCode::OK if answer.body().trim_ascii() == b"ignore" => ActionVerdict::Ignore,
                StatusCode::OK => ALLOWED,
                status if status.is_client_error() => ActionVerdict::Deny,
                _ => return Err(malformed("has a status that is none of 200, 4xx and 5xx")),
            },
            None,
        ))
    }

    pub(super) fn uses(&self, variable: Variable) -> bool {
        [Some(&self.request), self.superuser.as_ref()]
            .into_iter()
            .flatten()
            .any(|request| request.uses(variable))
    }

    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
        let Some(request) = self.request.make(facts) else {
            return Ok(Verdict::Ignore.into());
        };
        let verdict = read(&send(client, request).await?, facts)?;
        let (Verdict::Allow(grant), Some(superuser)) = (&verdict, &self.superuser) else {
            return Ok(verdict.into());
        };
        let Some(request) = superuser.make(facts) else { return Ok(verdict.into()) };
        Ok(match send(client, request).await {
            Ok(answer) => {
                let is_superuser = answer.status() == StatusCode::OK;
                Verdict::Allow(Grant { is_superuser, ..grant.clone() }).into()
            }
            // Nobody is a superuser for want of an answer, nor is it remembered.
            Err(_) => Reply { verdict, lifetime: Some(Duration::ZERO), is_right: true },
        })
    }
}

fn read(answer: &Response<Bytes>, facts: &Facts) -> Result<Verdict, Fault> {
    Ok(match answer.status() {
        StatusCode::OK if answer.body().trim_ascii() == b"ignore" => Verdict::Ignore,
        StatusCode::OK => Verdict::Allow(Grant::of(facts.subject())),
        StatusCode::FORBIDDEN => Verdict::Deny(DenyReason::NotAuthorized),
        StatusCode::TOO_MANY_REQUESTS => Verdict::Deny(DenyReason::Banned),
        status if status.is_client_error() => Verdict::Deny(DenyReason::BadCredentials),
        _ => return Err(malformed("has a status that is none of 200, 4xx and 5xx")),
    })
}
