//! `tidegate authsvc`: the service of authentication, which edges ask who may connect.

use authsvc::service::{Service, ServiceConfig, SigningConfig};
use authsvc::{AuthConfig, AuthorizationConfig};
use serde::Serialize;

use super::front::{auth_problem, check_authentication};
use super::process::ProcessConfig;
use super::source::Source;
use super::{Problem, Tier};

/// Its sections.
pub(super) const SECTIONS: &[&str] =
    &["service", "passport", "auth", "authorization", "admin", "log", "runtime"];

/// Everything that can be configured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AuthsvcConfig {
    /// Where edges come.
    pub(crate) service: ServiceConfig,
    /// How passports are signed.
    pub(crate) passport: SigningConfig,
    /// Who may connect.
    pub(crate) auth: AuthConfig,
    /// What clients may do.
    pub(crate) authorization: AuthorizationConfig,
    /// Admin, logs, process.
    #[serde(flatten)]
    pub(crate) process: ProcessConfig,
}

impl AuthsvcConfig {
    /// Takes what was given and checks everything that can be checked without binding.
    pub(super) fn read(source: &Source) -> Result<Self, Problem> {
        source.refuse(&[("auth.passport_lifetime_s", "is set as passport.lifetime_s")])?;
        let mut config = Self {
            service: source.section("service")?,
            passport: source.section("passport")?,
            auth: source.section("auth")?,
            authorization: source.section("authorization")?,
            process: ProcessConfig::read(source, Tier::Authsvc)?,
        };
        config.auth.passport_lifetime_s = Some(config.passport.lifetime_s);
        Service::check(&config.service, &config.passport).map_err(|error| auth_problem(error, source))?;
        check_authentication(&config.auth, &config.authorization, source)?;
        Ok(config)
    }
}
