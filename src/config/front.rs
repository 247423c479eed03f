//! What faces devices, alone or in one process with everything else: listeners, TLS, bounds, and who may connect.

use std::collections::BTreeMap;
use std::path::Path;

use authsvc::{Anonymous, AuthConfig, AuthError, AuthorizationConfig};
use lb::tls::{Application, CertificateFiles, ClientCertificateMode, TlsConfig, TlsServer};
use lb::{EdgeConfig, ListenerConfig};
use serde::Serialize;

use super::source::Source;
use super::{Problem, listeners};
use crate::dev_certs;
use crate::exit::chain;

/// Its sections.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Front {
    /// Listeners by name.
    pub(crate) listeners: BTreeMap<String, ListenerConfig>,
    /// Bounds and timeouts of the edge; its `listeners` are the ones above.
    pub(crate) edge: EdgeConfig,
    /// Certificates.
    pub(crate) tls: TlsConfig,
    /// Who may connect.
    pub(crate) auth: AuthConfig,
    /// What clients may do.
    pub(crate) authorization: AuthorizationConfig,
    /// A service decides both.
    #[serde(skip)]
    asks_elsewhere: bool,
}

impl Front {
    /// Takes its sections and checks them. Where no certificates are named, those in `development` are used, which may not be
    /// there yet.
    pub(super) fn read(source: &mut Source, development: Option<&Path>) -> Result<Self, Problem> {
        listeners::complete(source)?;
        source.refuse(&[
            ("edge.listeners", "listeners are set in [listeners.NAME]"),
            ("edge.tls", "is set in [tls]"),
        ])?;
        let mut front = Self {
            listeners: source.section("listeners")?,
            edge: source.section("edge")?,
            tls: source.section("tls")?,
            auth: source.section("auth")?,
            authorization: source.section("authorization")?,
            asks_elsewhere: source.value("authsvc").is_some(),
        };
        front.complete_edge(development);
        front.check(source, development.is_some())?;
        Ok(front)
    }

    /// `tls` with the development certificates if it names none.
    fn with_certificates(tls: &TlsConfig, dir: Option<&Path>) -> TlsConfig {
        let mut tls = tls.clone();
        if let Some(dir) = dir.filter(|_| tls.certificates.is_empty()) {
            tls.certificates = vec![CertificateFiles {
                certificate_file: dir.join(dev_certs::SERVER),
                key_file: dir.join(dev_certs::SERVER_KEY),
                server_names: Vec::new(),
                ocsp_file: None,
            }];
            if tls.client_certificates.mode != ClientCertificateMode::Off {
                tls.client_certificates.ca_file.get_or_insert(dir.join(dev_certs::CA));
            }
        }
        tls
    }

    /// The edge's configuration with what is set elsewhere.
    fn complete_edge(&mut self, development: Option<&Path>) {
        let mut listeners = self.listeners.clone();
        // A page from anywhere is run by a browser on this machine: being here is no proof of who it is.
        let trusts_this_machine =
            !self.asks_elsewhere && self.auth.anonymous_in_force() == Anonymous::Loopback;
        for listener in listeners.values_mut() {
            if trusts_this_machine && listener.kind.is_websocket() && listener.origins.is_empty() {
                listener.origins.push("loopback".to_owned());
            }
            listener.tls = listener.tls.as_ref().map(|tls| Self::with_certificates(tls, development));
        }
        self.edge.listeners = listeners;
        self.edge.tls = Some(Self::with_certificates(&self.tls, development));
    }

    /// `[tls]`, or the one of its own, for each listener that does TLS.
    pub(crate) fn tls_of<'a>(&'a self, listener: &'a ListenerConfig) -> Option<&'a TlsConfig> {
        listener.kind.is_tls().then(|| listener.tls.as_ref().unwrap_or(&self.tls))
    }

    /// Whether TLS is served without a certificate that was named.
    pub(crate) fn names_no_certificate(&self) -> bool {
        self.listeners.values().any(|l| self.tls_of(l).is_some_and(|tls| tls.certificates.is_empty()))
    }

    fn check(&self, source: &Source, has_development: bool) -> Result<(), Problem> {
        self.edge.validate().map_err(|error| source.wrong(error))?;
        if !has_development && self.names_no_certificate() {
            let advice = "needed by the listeners mqtts and wss; name certificates (tidegate certs DIR makes some for \
                          development) or set listeners.mqtts and listeners.wss to \"off\"";
            return Err(source.problem("tls.certificates", advice));
        }
        self.check_tls(source)?;
        if self.asks_elsewhere {
            return Ok(());
        }
        self.check_identity(source)?;
        self.check_exposure(source)?;
        check_authentication(&self.auth, &self.authorization, source)
    }

    /// Reads the files that are named; those made for development may not be there yet.
    fn check_tls(&self, source: &Source) -> Result<(), Problem> {
        let own = self.listeners.iter().filter_map(|(name, listener)| {
            listener.tls.as_ref().map(|tls| (format!("listeners.{name}.tls"), tls))
        });
        for (key, tls) in own.chain([("tls".to_owned(), &self.tls)]) {
            let checked = if tls.certificates.is_empty() {
                TlsServer::check(tls)
            } else {
                TlsServer::load(tls.clone(), Application::Mqtt).map(drop)
            };
            checked.map_err(|error| {
                // Its text is the key below `tls`, a colon, and the rest.
                let text = chain(&error);
                let (below, advice) = text.split_once(": ").unwrap_or(("", &text));
                source.problem(&format!("{key}.{below}"), advice).of_file_if(error.is_of_a_file())
            })?;
        }
        Ok(())
    }

    fn check_identity(&self, source: &Source) -> Result<(), Problem> {
        let of_listeners = self.listeners.values().filter_map(|listener| self.tls_of(listener));
        let asked =
            of_listeners.into_iter().any(|tls| tls.client_certificates.mode != ClientCertificateMode::Off);
        match self.auth.needs_certificates() {
            Some(key) if !asked => {
                let advice = "needs tls.client_certificates.mode = \"optional\" or \"required\"";
                Err(source.problem(key, advice))
            }
            _ => Ok(()),
        }
    }

    /// Nothing listens beyond loopback until somebody has said who may connect.
    fn check_exposure(&self, source: &Source) -> Result<(), Problem> {
        if self.auth.has_source() || self.auth.anonymous == Some(Anonymous::Always) {
            return Ok(());
        }
        let exposed = self.listeners.iter().find(|(_, listener)| !listener.bind.is_loopback());
        exposed.map_or(Ok(()), |(name, _)| {
            let advice = "without authentication only loopback addresses are allowed; set auth.password_file (see \
                          tidegate passwd), auth.certificate = \"subject\", or auth.anonymous = \"always\"";
            Err(source.problem(&format!("listeners.{name}.bind"), advice))
        })
    }
}

/// Checks who may connect and what they may do, without starting anything.
pub(super) fn check_authentication(
    auth: &AuthConfig,
    authorization: &AuthorizationConfig,
    source: &Source,
) -> Result<(), Problem> {
    authsvc::Local::check(auth, authorization).map_err(|error| auth_problem(error, source))
}

/// What is wrong with a setting of authentication.
pub(super) fn auth_problem(error: AuthError, source: &Source) -> Problem {
    let is_of_a_file = error.is_of_a_file();
    let problem = match error {
        AuthError::Bound(error) => source.wrong(error),
        AuthError::Section { section, key, problem } | AuthError::File { section, key, problem } => {
            source.problem(&format!("{section}.{key}"), problem)
        }
        AuthError::Rule { index, key, problem } => {
            source.problem(&format!("authorization.rule[{index}].{key}"), problem)
        }
        AuthError::Limits { index, error } => {
            source.problem(&format!("authorization.limits[{index}].{}", error.key), error.problem)
        }
        AuthError::AclRead { .. } | AuthError::AclLine { .. } => {
            source.problem("authorization.acl_file", error)
        }
        error => source.problem("auth.password_file", error),
    };
    problem.of_file_if(is_of_a_file)
}
