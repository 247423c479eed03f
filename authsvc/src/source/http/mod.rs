//! An HTTP endpoint of the enterprise as a source, by a contract that it already keeps with another broker. It is asked at
//! CONNECT, and about single actions where `acl_url` is set (`actions.rs`); `contract/` says what and how, `inquiry/` how often.

mod acl;
mod actions;
mod config;
mod contract;
mod facts;
mod template;

use std::time::Duration;

use actions::Actions;
pub use config::{
    AclCacheConfig, AnswerMode, ContractName, HeaderConfig, HttpConfig, MethodName, ParamsMode,
};
use contract::Contract;
use facts::{Facts, Variable};

use super::context::SourceContext;
use crate::action::{Action, ActionRuling};
use crate::http_client::HttpClient;
use crate::inquiry::{Fingerprint, Inquiry};
use crate::verdict::Verdict;
use crate::{AuthError, DenyReason, Request};

/// See the module.
pub(crate) struct HttpSource {
    contract: Contract,
    client: HttpClient,
    inquiry: Inquiry,
    actions: Option<Actions>,
}

impl HttpSource {
    /// Asks as `config` says.
    ///
    /// # Errors
    /// A key is not as it should be, or a file cannot be used.
    pub(super) fn start(config: &HttpConfig, context: &SourceContext) -> Result<Self, AuthError> {
        Self::check(config)?;
        let contract = Contract::new(config)?;
        let attempt_timeout = Duration::from_millis(config.client.timeout_ms) * contract.requests_max();
        let inquiry = Inquiry::new(
            "http",
            config.inquiry(),
            config.client.connections_max,
            attempt_timeout,
            &context.metrics,
            &context.slow_down,
        );
        let actions = Actions::start(config, &contract, context)?;
        Ok(Self { contract, client: HttpClient::new(config::SECTION, &config.client)?, inquiry, actions })
    }

    /// Checks everything that can be checked without asking, and reads the files that `config` names.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(config: &HttpConfig) -> Result<(), AuthError> {
        config.inquiry().check(config::SECTION)?;
        config.check_keys()?;
        HttpClient::new(config::SECTION, &config.client)?;
        Contract::new(config).map(drop)
    }

    /// Ignores who has neither a user name nor a certificate with a name.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        let Some(facts) = Facts::of(request) else { return Verdict::Ignore };
        let fingerprint = self.fingerprint(&facts);
        let ask = || self.contract.ask(&facts, &self.client);
        let verdict = self.inquiry.ask(fingerprint, &facts.subject(), request, ask).await;
        match (verdict, &self.actions) {
            (Verdict::Allow(grant), Some(actions)) => {
                let grant = actions.have_asked(grant, &self.contract, &facts);
                grant.map_or_else(
                    || {
                        tracing::warn!(client_id = %request.client_id, "refused: too much is to be told of it when it is asked about");
                        Verdict::Deny(DenyReason::NotAuthorized)
                    },
                    Verdict::Allow,
                )
            }
            (verdict, _) => verdict,
        }
    }

    /// What it says of an action of a client.
    pub(crate) async fn rule(&self, action: &Action) -> ActionRuling {
        match &self.actions {
            Some(actions) => actions.rule(action, &self.contract).await,
            None => ActionRuling::UNAVAILABLE,
        }
    }

    fn fingerprint(&self, facts: &Facts) -> Fingerprint {
        let address = if self.contract.uses(Variable::PeerHost) { facts.address() } else { String::new() };
        let flags = [facts.version as u8, u8::from(facts.clean_start), u8::from(facts.username.is_some())];
        self.inquiry.fingerprint(&[
            facts.username.as_deref().unwrap_or_default().as_bytes(),
            &facts.password,
            facts.client_id.as_bytes(),
            facts.common_name.as_bytes(),
            facts.subject_dn.as_bytes(),
            address.as_bytes(),
            &flags,
        ])
    }
}

#[cfg(test)]
mod tests;
