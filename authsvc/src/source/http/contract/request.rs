//! A request as EMQX's templates describe it: method, URL, headers and a body in JSON or as a form.

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};
use serde_json::{Map, Value};

use crate::AuthError;
use crate::source::http::config::{HttpConfig, MethodName, SECTION};
use crate::source::http::facts::{Facts, Variable};
use crate::source::http::template::{Body, Syntax, Template, UrlTemplate, ValuePlace};

/// What endpoints are told that asks them.
const AGENT: HeaderValue = HeaderValue::from_static("tidegate");
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Form,
}

/// A request with variables.
pub(super) struct RequestTemplate {
    method: Method,
    target: UrlTemplate,
    headers: Vec<(HeaderName, Template)>,
    body: Body,
    encoding: Encoding,
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Connect,
    Action,
}

/// What it is made of beside the method and the headers, and the key that each part comes from.
pub(super) struct Parts<'a> {
    pub(super) url: (&'static str, &'a str),
    pub(super) body: (&'static str, &'a Option<Map<String, Value>>),
    /// The body where none is set.
    pub(super) default: Value,
    pub(super) syntax: Syntax,
}

impl RequestTemplate {
    /// About actions, if they are asked about.
    ///
    /// # Errors
    /// A part that is not as it should be.
    pub(super) fn about_actions(
        config: &HttpConfig,
        default: Value,
        syntax: Syntax,
    ) -> Result<Option<Self>, AuthError> {
        let template = |url| {
            let parts =
                Parts { url: ("acl_url", url), body: ("acl_body", &config.acl_body), default, syntax };
            Self::new(config, About::Action, parts)
        };
        config.acl_url.as_deref().map(template).transpose()
    }

    /// Reads its parts.
    ///
    /// # Errors
    /// A part that is not as it should be.
    pub(super) fn new(config: &HttpConfig, about: About, parts: Parts<'_>) -> Result<Self, AuthError> {
        let Parts { url: (url_key, url), body: (body_key, body), default, syntax } = parts;
        let (method, headers_key, headers) = match about {
            About::Connect => (config.method, "headers", &config.headers),
            About::Action => (config.acl_method.or(config.method), "acl_headers", &config.acl_headers),
        };
        let method = method.unwrap_or_default();
        let wrong =
            |key: &'static str, problem: String| AuthError::Section { section: SECTION, key, problem };
        let target = UrlTemplate::parse(url, syntax).map_err(|problem| wrong(url_key, problem))?;
        // With values in it, as it will be sent.
        let filled = target.render(&Facts::nobody(), b"");
        if has_dot_segment(&filled) {
            return Err(wrong(url_key, "has . or .. between two / of its path".to_owned()));
        }
        config.client.url(SECTION, url_key, &String::from_utf8_lossy(&filled))?;
        let headers = headers.read(syntax).map_err(|problem| wrong(headers_key, problem))?;
        // Where no header says it: as EMQX 5 and EMQX 4 do.
        let encoding = if syntax == Syntax::Braces { Encoding::Json } else { Encoding::Form };
        let encoding =
            encoding_of(&headers, encoding).map_err(|problem| wrong(headers_key, problem.to_owned()))?;
        let body = body.clone().map_or(default, Value::Object);
        let body = Body::parse(&body, syntax).map_err(|problem| wrong(body_key, problem))?;
        if (encoding == Encoding::Form || method == MethodName::Get) && !body.is_flat() {
            return Err(wrong(body_key, "has values within values, which only JSON can have".to_owned()));
        }
        let made = Self { method: method.into(), target, headers, body, encoding };
        let unknown: &[Variable] = match about {
            About::Connect => &Variable::OF_ACTIONS,
            About::Action => &Variable::OF_CONNECT,
        };
        let has_unknown = unknown.iter().any(|variable| made.uses(*variable));
        if has_unknown || (about == About::Connect && !made.attributes().is_empty()) {
            let when = if about == About::Connect { "a client connects" } else { "an action is asked about" };
            return Err(wrong(
                body_key,
                format!("has, as its URL or headers may, a variable without a value when {when}"),
            ));
        }
        Ok(made)
    }

    /// The attributes that it asks for.
    pub(super) fn attributes(&self) -> Vec<String> {
        let mut names = Vec::new();
        self.target.put_attributes(&mut names);
        self.body.put_attributes(&mut names);
        self.headers.iter().for_each(|(_, value)| value.put_attributes(&mut names));
        names
    }

    /// Whether it asks for this variable.
    pub(super) fn uses(&self, variable: Variable) -> bool {
        self.target.uses(variable)
            || self.body.uses(variable)
            || self.headers.iter().any(|(_, value)| value.uses(variable))
    }

    /// The request for a client; `None` if it cannot say a value of it, such as a password that is no text in JSON, or a name by which
    /// the path would lead elsewhere.
    pub(super) fn make(&self, facts: &Facts) -> Option<Request<Bytes>> {
        let is_get = self.method == Method::GET;
        let query = if is_get { self.body.form(facts) } else { Vec::new() };
        let url = self.target.render(facts, &query);
        if has_dot_segment(&url) {
            return None;
        }
        let url = Uri::try_from(url).ok()?;
        let body = match self.encoding {
            _ if is_get => Vec::new(),
            Encoding::Json => serde_json::to_vec(&self.body.json(facts)?).ok()?,
            Encoding::Form => self.body.form(facts),
        };
        let mut request = request(self.method.clone(), url, (!is_get).then_some(self.encoding), body);
        for (name, value) in &self.headers {
            let value = HeaderValue::from_bytes(&value.render(facts, ValuePlace::Plain)).ok()?;
            request.headers_mut().insert(name.clone(), value);
        }
        Some(request)
    }
}

/// Whether the path of a URL leads out of where it stands, however its dots are written: RFC 3986 section 5.2.4 removes such
/// segments, and no encoding keeps everybody from doing so.
fn has_dot_segment(url: &[u8]) -> bool {
    let path = url.split(|byte| *byte == b'?').next().unwrap_or_default();
    path.split(|byte| *byte == b'/').any(|segment| matches!(segment, b"." | b".."))
}

/// A request with the headers that each has.
pub(super) fn request(method: Method, url: Uri, encoding: Option<Encoding>, body: Vec<u8>) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = url;
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/plain"));
    headers.insert(USER_AGENT, AGENT);
    let content_type = encoding.map(|encoding| match encoding {
        Encoding::Json => JSON,
        Encoding::Form => FORM,
    });
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    request
}

/// `name=value&..`, each encoded.
pub(super) fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = String::new();
    for (name, value) in fields {
        if !form.is_empty() {
            form.push('&');
        }
        form.push_str(name);
        form.push('=');
        form.extend(form_urlencoded::byte_serialize(value));
    }
    form.into_bytes()
}

fn encoding_of(headers: &[(HeaderName, Template)], default: Encoding) -> Result<Encoding, &'static str> {
    let Some((_, template)) = headers.iter().find(|(name, _)| *name == CONTENT_TYPE) else {
        return Ok(default);
    };
    let content_type = template.render(&Facts::nobody(), ValuePlace::Plain);
    if content_type.starts_with(JSON.as_bytes()) {
        Ok(Encoding::Json)
    } else if content_type.starts_with(FORM.as_bytes()) {
        Ok(Encoding::Form)
    } else {
        Err("have a content-type that is neither application/json nor application/x-www-form-urlencoded")
    }
}
