//! The introspection endpoint of an authorization server: the question, and whether it answers at all.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use form_urlencoded::{Serializer, byte_serialize};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use serde_json::{Map, Value};

use super::config::{ClientAuthentication, IntrospectionConfig, SECTION};
use crate::AuthError;
use crate::http_client::{HttpClient, HttpError};
use crate::named::Named;

/// Where tokens are asked about, and as whom. Holds the client's secret: not for logs.
pub(super) struct IntrospectionEndpoint {
    client: HttpClient,
    url: Uri,
    /// Basic authentication.
    authorization: Option<HeaderValue>,
    /// Or what stands in the body.
    credentials: Option<(String, String)>,
    is_away: AtomicBool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AskProblem {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it does not know this client: look at client_id and client_secret_file (status {0})")]
    Refused(u16),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("the answer is none of token introspection")]
    Malformed,
}

impl IntrospectionEndpoint {
    /// Reads the client's secret.
    pub(super) fn new(config: &IntrospectionConfig) -> Result<Self, AuthError> {
        let path = &config.client_secret_file;
        let file = Named::new(SECTION, "client_secret_file", path);
        let secret = std::fs::read_to_string(path).map_err(|error| file.unusable(&error))?;
        let secret = secret.trim_end_matches(['\r', '\n']).to_owned();
        if secret.is_empty() {
            return Err(file.unusable(&"is empty"));
        }
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let (authorization, credentials) = match config.client_authentication {
            ClientAuthentication::Basic => {
                let both = format!("{}:{}", encode(&config.client_id), encode(&secret));
                let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64.encode(both)))
                    .map_err(|_| file.unusable(&"cannot be sent"))?;
                value.set_sensitive(true);
                (Some(value), None)
            }
            ClientAuthentication::Post => (None, Some((config.client_id.clone(), secret))),
        };
        Ok(Self {
            client: HttpClient::new(SECTION, &config.http)?,
            url: config.http.url(SECTION, "url", &config.url)?,
            authorization,
            credentials,
            is_away: AtomicBool::new(false),
        })
    }

    /// What the server says of `token`; `None` if it says nothing that can be used, which is logged when it begins and ends.
    pub(super) async fn ask(&self, token: &str) -> Option<Map<String, Value>> {
        match self.answer(token).await {
            Ok(answer) => {
                if self.is_away.swap(false, Ordering::Relaxed) {
                    tracing::info!("token introspection answers again");
                }
                Some(answer)
            }
            Err(problem) => {
                if !self.is_away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%problem, "token introspection does not answer");
                }
                None
            }
        }
    }

    async fn answer(&self, token: &str) -> Result<Map<String, Value>, AskProblem> {
        let request = self.request(token);
        let answer: Response<Bytes> = match self.client.send(request.clone()).await {
            // To ask changes nothing at the other end.
            Err(error) if error.is_retryable() => self.client.send(request).await?,
            answer => answer?,
        };
        match answer.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(AskProblem::Refused(status.as_u16()));
            }
            status => return Err(AskProblem::Status(status.as_u16())),
        }
        let answer: Map<String, Value> =
            serde_json::from_slice(answer.body()).map_err(|_| AskProblem::Malformed)?;
        if answer.get("active").is_some_and(Value::is_boolean) {
            Ok(answer)
        } else {
            Err(AskProblem::Malformed)
        }
    }

    /// RFC 7662 section 2.1.
    fn request(&self, token: &str) -> Request<Bytes> {
        let mut body = Serializer::new(String::new());
        body.append_pair("token", token).append_pair("token_type_hint", "access_token");
        if let Some((id, secret)) = &self.credentials {
            body.append_pair("client_id", id).append_pair("client_secret", secret);
        }
        let mut request = Request::new(Bytes::from(body.finish()));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.url.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }
}
