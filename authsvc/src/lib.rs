//! Who may connect and what they may do: the contract that the edge asks through, and the sources that answer.
//!
//! [`Local`] answers in the same process: it asks the sources of identities in their order (`source/mod.rs`), and turns what
//! they grant into a passport. Start at `local.rs`. What a client may do once connected is written in its passport and checked by the worker.

mod action;
mod authorization;
pub mod client;
mod clock;
mod config;
mod contract;
mod error;
#[cfg(test)]
mod eventually;
mod exchange;
mod fair;
mod http_client;
mod inquiry;
mod local;
mod metrics;
mod named;
mod revocation;
mod scram;
pub mod service;
mod share;
mod slowdown;
mod source;
mod token_problem;
mod verdict;
mod watched;
mod wire;

pub use action::{Action, ActionName, ActionRuling, ActionVerdict};
pub use authorization::{
    AuthorizationConfig, LimitsConfig, Origin, RetainCondition, RuleConfig, RuleTrace, Traced,
};
pub use config::{Anonymous, AuthConfig, CertificateIdentity};
pub use contract::{
    AlternativeName, Authenticator, Certificate, Decision, DenyReason, Exchange, Request, Step,
};
pub use error::AuthError;
pub use exchange::{LocalExchange, SCRAM_ITERATIONS};
pub use http_client::HttpClientConfig;
pub use inquiry::{BreakerConfig, CacheConfig, QueueConfig};
pub use local::Local;
pub use revocation::{Bearer, Revocation, Revocations, RevokeError, RevokeOrder, RevokeReason, Target, Told};
pub use scram::METHOD as SCRAM_METHOD;
pub use source::http::{
    AclCacheConfig, AnswerMode, ContractName, HeaderConfig, HttpConfig, MethodName, ParamsMode,
};
pub use source::introspection::{ClientAuthentication, IntrospectionConfig, WhenInactive};
pub use source::jwt::{JwtConfig, SecretEncoding};
pub use source::ldap::LdapConfig;
pub use source::password_file::Editor;
pub use source::{ClaimsConfig, SourceName};
pub use verdict::WhenAway;
