//! The contracts that endpoints already keep with other brokers: what each is asked at CONNECT, and of a PUBLISH or a SUBSCRIBE
//! where that is configured (`rule`), and what its answers mean.

mod answered;
mod emqx4;
mod emqx5;
mod go_auth;
mod rabbitmq;
mod request;
mod vernemq;

pub(super) use answered::Ruled;

use super::config::{ContractName, HttpConfig};
use super::facts::{Facts, Variable};
use crate::AuthError;
use crate::action::Action;
use crate::http_client::HttpClient;
use crate::inquiry::{Fault, Reply};

/// One contract.
pub(super) enum Contract {
    Emqx5(emqx5::Emqx5),
    Emqx4(emqx4::Emqx4),
    GoAuth(go_auth::GoAuth),
    RabbitMq(rabbitmq::RabbitMq),
    VerneMq(vernemq::VerneMq),
}

impl Contract {
    /// The one that `config` names.
    ///
    /// # Errors
    /// A key that the contract needs, does not have, or that is not as it should be.
    pub(super) fn new(config: &HttpConfig) -> Result<Self, AuthError> {
        Ok(match config.contract {
            ContractName::Emqx5 => Self::Emqx5(emqx5::Emqx5::new(config)?),
            ContractName::Emqx4 => Self::Emqx4(emqx4::Emqx4::new(config)?),
            ContractName::GoAuth => Self::GoAuth(go_auth::GoAuth::new(config)?),
            ContractName::RabbitMq => Self::RabbitMq(rabbitmq::RabbitMq::new(config)?),
            ContractName::VerneMq => Self::VerneMq(vernemq::VerneMq::new(config)?),
        })
    }

    /// How many requests one question takes at most, one after the other.
    pub(super) fn requests_max(&self) -> u32 {
        match self {
            Self::Emqx5(_) | Self::VerneMq(_) => 1,
            Self::Emqx4(_) | Self::GoAuth(_) | Self::RabbitMq(_) => 2,
        }
    }

    /// The same for an action.
    pub(super) fn action_requests_max(&self) -> u32 {
        if matches!(self, Self::GoAuth(_)) { 2 } else { 1 }
    }

    /// Whether the answer about an action may depend on this.
    pub(super) fn action_uses(&self, variable: Variable) -> bool {
        match self {
            Self::Emqx5(contract) => contract.action_uses(variable),
            Self::Emqx4(contract) => contract.action_uses(variable),
            Self::GoAuth(_) | Self::RabbitMq(_) | Self::VerneMq(_) => false,
        }
    }

    /// The attributes on which the answer about an action may depend.
    pub(super) fn action_attributes(&self) -> Vec<String> {
        match self {
            Self::Emqx5(contract) => contract.action_attributes(),
            _ => Vec::new(),
        }
    }

    /// Whether the groups of a client are told when it is asked about an action.
    pub(super) fn action_tells_groups(&self) -> bool {
        matches!(self, Self::RabbitMq(_))
    }

    /// The same for the version of the protocol.
    pub(super) fn action_tells_version(&self) -> bool {
        matches!(self, Self::VerneMq(_))
    }

    /// Asks about an action of the client that `facts` are about.
    pub(super) async fn rule(
        &self,
        facts: &Facts,
        action: &Action,
        client: &HttpClient,
    ) -> Result<Ruled, Fault> {
        match self {
            Self::Emqx5(contract) => contract.rule(facts, client).await,
            Self::Emqx4(contract) => contract.rule(facts, client).await,
            Self::GoAuth(contract) => contract.rule(action, client).await,
            Self::RabbitMq(contract) => contract.rule(facts, action, client).await,
            Self::VerneMq(contract) => contract.rule(facts, action, client).await,
        }
    }

    /// Whether the answer may depend on this. The port is not looked at: it changes with each connection.
    pub(super) fn uses(&self, variable: Variable) -> bool {
        match self {
            Self::Emqx5(contract) => contract.uses(variable),
            Self::Emqx4(contract) => contract.uses(variable),
            Self::GoAuth(_) => false,
            Self::RabbitMq(_) | Self::VerneMq(_) => variable == Variable::PeerHost,
        }
    }

    /// Asks about a client.
    pub(super) async fn ask(&self, facts: &Facts, client: &HttpClient) -> Result<Reply, Fault> {
        match self {
            Self::Emqx5(contract) => contract.ask(facts, client).await,
            Self::Emqx4(contract) => contract.ask(facts, client).await,
            Self::GoAuth(contract) => contract.ask(facts, client).await,
            Self::RabbitMq(contract) => contract.ask(facts, client).await,
            Self::VerneMq(contract) => contract.ask(facts, client).await,
        }
    }
}

#[cfg(test)]
mod tests;
