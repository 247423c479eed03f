//! `[auth.http]`: an endpoint of the enterprise that decides who may connect.

use std::collections::BTreeMap;

use hyper::header::HeaderName;
use hyper::{Method, Uri};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::template::{Syntax, Template};
use crate::http_client::HttpClientConfig;
use crate::inquiry::{BreakerConfig, CacheConfig, InquiryConfig, QueueConfig};
use crate::{AuthError, WhenAway};

/// Where the keys are.
pub(super) const SECTION: &str = "auth.http";

/// Headers that the request has by itself.
const HEADERS_OF_THE_CLIENT: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// The section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// What the endpoint is asked and how it answers.
    pub contract: ContractName,
    /// Where it is: EMQX's `url`, `http_getuser_uri` with host and port, RabbitMQ's `user_path`, VerneMQ's `endpoint`.
    pub url: String,
    /// `post` (the default), `get` or `put`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodName>,
    /// Headers, with variables. EMQX only.
    #[serde(default, skip_serializing_if = "HeaderConfig::is_empty")]
    pub headers: HeaderConfig,
    /// The body, with variables; the query with `get`. EMQX only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Map<String, Value>>,
    /// Whom to ask whether a user may do everything. EMQX 4 and mosquitto-go-auth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser_url: Option<String>,
    /// The body for that. EMQX 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser_body: Option<Map<String, Value>>,
    /// `vhost_path` of RabbitMQ; not asked by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost_url: Option<String>,
    /// The virtual host that RabbitMQ's endpoint is asked about. Default `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vhost: Option<String>,
    /// `http_params_mode` of mosquitto-go-auth: `json` (the default) or `form`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<ParamsMode>,
    /// `http_response_mode` of mosquitto-go-auth: `status` (the default), `json` or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerMode>,
    /// Whom to ask about single actions, those that rules leave undecided: the URL of EMQX's authorizer, `http_aclcheck_uri`,
    /// RabbitMQ's `topic_path`, VerneMQ's endpoint of `auth_on_publish` and `auth_on_subscribe`. Not asked by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_url: Option<String>,
    /// `post`, `get` or `put`; as `method` by default. EMQX only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_method: Option<MethodName>,
    /// Headers for that, with variables. EMQX only.
    #[serde(default, skip_serializing_if = "HeaderConfig::is_empty")]
    pub acl_headers: HeaderConfig,
    /// The body for that, with variables; the query with `get`. EMQX only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acl_body: Option<Map<String, Value>>,
    /// For how long those answers are remembered.
    #[serde(default)]
    pub acl_cache: AclCacheConfig,
    /// How it is called.
    #[serde(flatten)]
    pub client: HttpClientConfig,
    /// What becomes of a client whose question has no answer. Default `refuse`.
    #[serde(default)]
    pub when_away: WhenAway,
    /// What is remembered.
    #[serde(default)]
    pub cache: CacheConfig,
    /// Who waits.
    #[serde(default)]
    pub queue: QueueConfig,
    /// When the service is left alone.
    #[serde(default)]
    pub breaker: BreakerConfig,
}

link::settings! {
    /// `acl_cache`: for how long answers about actions are remembered where they are asked for; `broker.answers_max` says how many.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub struct AclCacheConfig {
        /// Seconds for which an action that was allowed is not asked about again; 0 asks each time.
        pub allowed_ttl_s: u64 = 30, in ..=86_400;
        /// The same for one that was not.
        pub denied_ttl_s: u64 = 5, in ..=86_400;
    }
}

/// The contract of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContractName {
    /// EMQX 5.
    #[serde(rename = "emqx5")]
    Emqx5,
    /// EMQX 4, NanoMQ.
    #[serde(rename = "emqx4")]
    Emqx4,
    /// mosquitto-go-auth.
    #[serde(rename = "mosquitto-go-auth")]
    GoAuth,
    /// RabbitMQ.
    #[serde(rename = "rabbitmq")]
    RabbitMq,
    /// VerneMQ.
    #[serde(rename = "vernemq")]
    VerneMq,
}

/// A method of HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// POST.
    #[default]
    Post,
    /// GET: what it says may be written down on its way, passwords as well.
    Get,
    /// PUT.
    Put,
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Post => Self::POST,
            MethodName::Get => Self::GET,
            MethodName::Put => Self::PUT,
        }
    }
}

/// How mosquitto-go-auth's endpoint is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParamsMode {
    /// As JSON.
    #[default]
    Json,
    /// As a form.
    Form,
}

/// How mosquitto-go-auth's endpoint answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerMode {
    /// By status.
    #[default]
    Status,
    /// By `{"ok": true}`.
    Json,
    /// By `ok`.
    Text,
}

/// Headers by name. Their values may be secrets: they are neither logged nor shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct HeaderConfig(BTreeMap<String, String>);

impl HeaderConfig {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values.
    pub(super) fn read(&self, syntax: Syntax) -> Result<Vec<(HeaderName, Template)>, String> {
        let read = self.0.iter().map(|(name, value)| {
            let header: HeaderName = name.parse().map_err(|_| format!("have {name:?}, which is no name"))?;
            if HEADERS_OF_THE_CLIENT.contains(&header.as_str()) {
                return Err(format!("have {name:?}, which the request has by itself"));
            }
            // In what it says is no value of a secret, only the name of a variable.
            Ok((header, Template::parse(value, syntax)?))
        });
        read.collect()
    }
}

impl std::fmt::Debug for HeaderConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Serialize for HeaderConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.keys().map(|name| (name, "(hidden)")))
    }
}

impl HttpConfig {
    /// How questions are asked.
    pub(super) fn inquiry(&self) -> InquiryConfig<'_> {
        InquiryConfig {
            when_away: self.when_away,
            cache: &self.cache,
            queue: &self.queue,
            breaker: &self.breaker,
        }
    }

    /// A URL that is asked only if it is set.
    ///
    /// # Errors
    /// As [`HttpClientConfig::url`].
    pub(super) fn url_if_set(
        &self,
        key: &'static str,
        url: &Option<String>,
    ) -> Result<Option<Uri>, AuthError> {
        url.as_deref().map(|url| self.client.url(SECTION, key, url)).transpose()
    }

    /// Refuses keys that the contract would not look at.
    pub(super) fn check_keys(&self) -> Result<(), AuthError> {
        use ContractName::{Emqx4, Emqx5, GoAuth, RabbitMq};
        let keys: [(&'static str, bool, &[ContractName]); 12] = [
            ("method", self.method.is_some(), &[Emqx5, Emqx4, GoAuth, RabbitMq]),
            ("headers", !self.headers.is_empty(), &[Emqx5, Emqx4]),
            ("body", self.body.is_some(), &[Emqx5, Emqx4]),
            ("superuser_url", self.superuser_url.is_some(), &[Emqx4, GoAuth]),
            ("superuser_body", self.superuser_body.is_some(), &[Emqx4]),
            ("vhost_url", self.vhost_url.is_some(), &[RabbitMq]),
            ("vhost", self.vhost.is_some(), &[RabbitMq]),
            ("acl_method", self.acl_method.is_some(), &[Emqx5, Emqx4]),
            ("acl_headers", !self.acl_headers.is_empty(), &[Emqx5, Emqx4]),
            ("acl_body", self.acl_body.is_some(), &[Emqx5, Emqx4]),
            ("params", self.params.is_some(), &[GoAuth]),
            ("answer", self.answer.is_some(), &[GoAuth]),
        ];
        let wrong = |key, problem: &str| {
            Err(AuthError::Section { section: SECTION, key, problem: problem.to_owned() })
        };
        let foreign =
            keys.iter().find(|(_, is_set, contracts)| *is_set && !contracts.contains(&self.contract));
        if let Some((key, ..)) = foreign {
            return wrong(key, "is of another contract than this; remove it");
        }
        if self.superuser_body.is_some() && self.superuser_url.is_none() {
            return wrong("superuser_body", "needs superuser_url");
        }
        let needs_acl_url = [
            ("acl_method", self.acl_method.is_some()),
            ("acl_headers", !self.acl_headers.is_empty()),
            ("acl_body", self.acl_body.is_some()),
            ("acl_cache", self.acl_cache != AclCacheConfig::default()),
        ];
        if let Some((key, _)) =
            needs_acl_url.into_iter().find(|(_, is_set)| *is_set && self.acl_url.is_none())
        {
            return wrong(key, "needs acl_url");
        }
        self.acl_cache.check_bounds("auth.http.acl_cache")?;
        if self.contract == GoAuth
            && self.method == Some(MethodName::Get)
            && self.params == Some(ParamsMode::Form)
        {
            return wrong("params", "must be \"json\" with method = \"get\", as in mosquitto-go-auth");
        }
        Ok(())
    }
}
