//! An HTTP endpoint of the enterprise as a source, by a contract that it already keeps with another broker. Here it is asked at
//! CONNECT; `contract/` says what and how, `inquiry/` how often.

mod acl;
mod config;
mod contract;
mod facts;
mod template;

use std::time::Duration;

pub use config::{AnswerMode, ContractName, HeaderConfig, HttpConfig, MethodName, ParamsMode};
use contract::Contract;
use facts::{Facts, Variable};

use super::{Shared, Verdict};
use crate::http_client::HttpClient;
use crate::inquiry::{Fingerprint, Inquiry};
use crate::{AuthError, Request};

/// See the module.
pub(super) struct HttpSource {
    contract: Contract,
    client: HttpClient,
    inquiry: Inquiry,
}

impl HttpSource {
    /// Asks as `config` says.
    ///
    /// # Errors
    /// A key is not as it should be, or a file cannot be used.
    pub(super) fn start(config: &HttpConfig, shared: &Shared) -> Result<Self, AuthError> {
        config.check()?;
        let contract = Contract::new(config)?;
        let attempt_timeout = Duration::from_millis(config.client.timeout_ms) * contract.requests_max();
        let inquiry =
            Inquiry::new("http", config.inquiry(), config.client.connections_max, attempt_timeout, shared);
        Ok(Self { contract, client: HttpClient::new(config::SECTION, &config.client)?, inquiry })
    }

    /// Ignores who has neither a user name nor a certificate with a name.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        let Some(facts) = Facts::of(request) else { return Verdict::Ignore };
        let fingerprint = self.fingerprint(&facts);
        let ask = || self.contract.ask(&facts, &self.client);
        self.inquiry.ask(fingerprint, &facts.subject(), request, ask).await
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
