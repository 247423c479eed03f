//! Who may connect and what they may do: the contract that the edge asks through, and the sources that answer.
//!
//! [`Local`] answers in the same process from a password file, client certificates and the policy for anonymous clients.
//! Start at `local.rs`. What a client may do once connected is written in its passport and checked by the worker.

mod authorization;
mod config;
mod contract;
mod decoy;
mod error;
mod exchange;
mod fair;
mod hashing;
mod local;
mod metrics;
mod password_file;
mod recent;
mod scram;
mod slowdown;
mod users;

pub use config::{Anonymous, AuthConfig, AuthorizationConfig, CertificateIdentity, RuleConfig};
pub use contract::{Authenticator, Certificate, Decision, DenyReason, Exchange, Request, Step};
pub use error::AuthError;
pub use exchange::{SCRAM_ITERATIONS, ScramExchange};
pub use local::Local;
pub use password_file::Editor;
pub use scram::METHOD as SCRAM_METHOD;
