//! What the endpoint is asked about single actions of clients that it let in (`acl_url`): those that their rules leave undecided.
//! What is asked at CONNECT and what here do not hold each other up.

use std::sync::Arc;
use std::time::Duration;

use link::{Attributes, Effect, Rule};
use mqtt::ProtocolVersion;

use super::config::{AclCacheConfig, HttpConfig, SECTION};
use super::contract::Contract;
use super::facts::{Facts, Variable};
use crate::action::{Action, ActionName, ActionRuling, ActionVerdict};
use crate::http_client::HttpClient;
use crate::inquiry::{CacheConfig, Decided, Inquiry, InquiryConfig, Reply, hashed};
use crate::metrics::Outcome;
use crate::source::context::SourceContext;
use crate::verdict::Grant;
use crate::{AuthError, WhenAway};

/// Answers are remembered by those who ask, and nowhere else: a passport that was renewed has them asked for again.
const NO_CACHE: CacheConfig = CacheConfig { allowed_ttl_s: 0, denied_ttl_s: 0, entries_max: 0 };

/// Of the attributes of one client, bytes in all: they travel with its passport.
const ATTRIBUTES_BYTES_MAX: usize = 8 * 1024;

/// See the module.
pub(super) struct Actions {
    client: HttpClient,
    inquiry: Inquiry<ActionRuling>,
    cache: AclCacheConfig,
    /// What ends the rules of who was let in.
    asks: Vec<Rule>,
}

impl Actions {
    /// `None` if the endpoint is not asked about actions.
    pub(super) fn start(
        config: &HttpConfig,
        contract: &Contract,
        context: &SourceContext,
    ) -> Result<Option<Self>, AuthError> {
        if config.acl_url.is_none() {
            return Ok(None);
        }
        let inquiry = InquiryConfig {
            when_away: WhenAway::Refuse,
            cache: &NO_CACHE,
            queue: &config.queue,
            breaker: &config.breaker,
        };
        let attempt_timeout =
            Duration::from_millis(config.client.timeout_ms) * contract.action_requests_max();
        let everything = vec!["#".into(), "$SYS/#".into()];
        Ok(Some(Self {
            client: HttpClient::new(SECTION, &config.client)?,
            inquiry: Inquiry::new(
                "http_acl",
                inquiry,
                config.client.connections_max,
                attempt_timeout,
                &context.metrics,
                &context.slow_down,
            ),
            cache: config.acl_cache.clone(),
            asks: vec![Rule::new(Effect::Ask, link::Action::All, everything)],
        }))
    }

    /// Has the actions of a client asked about that it let in, unless it may do everything; `None` if there is more to be told of it
    /// than a passport should hold.
    pub(super) fn have_asked(&self, grant: Grant, contract: &Contract, facts: &Facts) -> Option<Grant> {
        if grant.is_superuser {
            return Some(grant);
        }
        let mut told = Attributes::new();
        for variable in [Variable::PeerHost, Variable::CommonName, Variable::SubjectDn] {
            if contract.action_uses(variable) {
                let value = String::from_utf8_lossy(&facts.value(variable)).into_owned();
                told.insert(variable.name().into(), value.into());
            }
        }
        for name in contract.action_attributes() {
            if let Some(value) = grant.attributes.get(name.as_str()) {
                told.insert(format!("{}{name}", Facts::ATTRIBUTE).into(), value.clone());
            }
        }
        if contract.action_tells_groups() && !grant.groups.is_empty() {
            told.insert(Facts::GROUPS.into(), grant.groups.join(" ").into());
        }
        if contract.action_tells_version() && facts.version == ProtocolVersion::V5 {
            told.insert(Facts::VERSION.into(), "5".into());
        }
        let bytes: usize = told.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > ATTRIBUTES_BYTES_MAX {
            return None;
        }
        let told = (!told.is_empty()).then(|| Arc::new(told));
        Some(Grant { asks: self.asks.clone(), told, ..grant })
    }

    /// What the endpoint says.
    pub(super) async fn rule(&self, action: &Action, contract: &Contract) -> ActionRuling {
        let Some(facts) = Facts::of_action(action) else { return ActionRuling::UNAVAILABLE };
        let mut values: Vec<&[u8]> = vec![
            action.client_id.as_bytes(),
            action.subject.as_bytes(),
            action.topic.as_bytes(),
            match (action.action, action.retain) {
                (ActionName::Publish, false) => b"p",
                (ActionName::Publish, true) => b"r",
                (ActionName::Subscribe, _) => b"s",
            },
            match action.qos.as_u8() {
                0 => b"0",
                1 => b"1",
                _ => b"2",
            },
        ];
        let attributes = action.attributes.iter().flat_map(|attributes| attributes.iter());
        values.extend(attributes.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]));
        let fingerprint = self.inquiry.fingerprint(&values);
        let attempt = || async {
            let (verdict, lifetime) = contract.rule(&facts, action, &self.client).await?;
            let lifetime = lifetime.unwrap_or(self.lifetime_of(verdict));
            let verdict = ActionRuling { verdict, lifetime };
            Ok(Reply { verdict, lifetime: Some(Duration::ZERO), is_right: false })
        };
        // Clients take turns: one with many topics holds up itself.
        let ruling = self.inquiry.find(fingerprint, hashed(&*action.client_id), attempt).await;
        ruling.unwrap_or(ActionRuling::UNAVAILABLE)
    }

    fn lifetime_of(&self, verdict: ActionVerdict) -> Duration {
        Duration::from_secs(match verdict {
            ActionVerdict::Allow(_) => self.cache.allowed_ttl_s,
            ActionVerdict::Deny | ActionVerdict::Ignore => self.cache.denied_ttl_s,
            ActionVerdict::Unavailable => 0,
        })
    }
}

impl Decided for ActionRuling {
    fn outcome(&self) -> Outcome {
        match self.verdict {
            ActionVerdict::Allow(_) => Outcome::allowed,
            ActionVerdict::Deny => Outcome::denied,
            ActionVerdict::Ignore => Outcome::ignored,
            ActionVerdict::Unavailable => Outcome::failing,
        }
    }
}
