//! Who decides whether a client may connect: this process, or a service that it asks.

use authsvc::client::{Remote, RemoteExchange};
use authsvc::{
    Action, ActionRuling, Authenticator, Decision, Exchange, Local, LocalExchange, Request, Revocations, Step,
};

use crate::watch::Files;

/// The [`Authenticator`] of an edge.
#[derive(Clone)]
pub(crate) enum Authentication {
    /// This process decides.
    Here(Local),
    /// A service does.
    Elsewhere(Remote),
}

/// One run of an Authentication Method.
pub(crate) enum AuthenticationExchange {
    /// In this process.
    Here(Box<LocalExchange>),
    /// At the service.
    Elsewhere(Box<RemoteExchange>),
}

impl Authentication {
    /// Who has to go.
    pub(crate) fn revocations(&self) -> &Revocations {
        match self {
            Self::Here(local) => local.revocations(),
            Self::Elsewhere(remote) => remote.revocations(),
        }
    }

    /// What is said of an action that rules leave undecided.
    pub(crate) async fn authorize(&self, action: &Action) -> ActionRuling {
        match self {
            Self::Here(local) => local.authorize(action).await,
            Self::Elsewhere(remote) => remote.authorize(action).await,
        }
    }

    /// What it looks after.
    pub(crate) fn files(&self) -> Box<dyn Files> {
        match self {
            Self::Here(local) => Box::new(local.clone()),
            Self::Elsewhere(remote) => Box::new(remote.clone()),
        }
    }
}

impl Authenticator for Authentication {
    type Exchange = AuthenticationExchange;

    fn rules_may_change(&self) -> bool {
        match self {
            Self::Here(local) => local.rules_may_change(),
            Self::Elsewhere(remote) => remote.rules_may_change(),
        }
    }

    async fn authenticate(&self, request: Request) -> Decision {
        match self {
            Self::Here(local) => local.authenticate(request).await,
            Self::Elsewhere(remote) => remote.authenticate(request).await,
        }
    }

    fn begin(&self, method: &str, request: Request) -> Option<AuthenticationExchange> {
        match self {
            Self::Here(local) => local.begin(method, request).map(Box::new).map(AuthenticationExchange::Here),
            Self::Elsewhere(remote) => {
                remote.begin(method, request).map(Box::new).map(AuthenticationExchange::Elsewhere)
            }
        }
    }
}

impl Exchange for AuthenticationExchange {
    async fn step(&mut self, data: Option<&[u8]>) -> Step {
        match self {
            Self::Here(exchange) => exchange.step(data).await,
            Self::Elsewhere(exchange) => exchange.step(data).await,
        }
    }
}
