//! Which rule decides, for who asks why: by the same comparisons as for a client, without the answers that are known beforehand.

use std::sync::Arc;

use link::{Effect, Passport, Rule};
use mqtt::QoS;
use mqtt::topic::SharedFilter;

use super::{Authority, Publication, is_server_only, levels_from};

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<'a> {
    /// PUBLISH, or a Will.
    Publish {
        /// Its Topic Name.
        topic: &'a str,
        /// With which QoS.
        qos: QoS,
        /// Whether it is to be retained.
        retain: bool,
    },
    /// SUBSCRIBE.
    Subscribe {
        /// The Topic Filter, which may be that of a Shared Subscription.
        filter: &'a str,
        /// The QoS that it asks for.
        qos: QoS,
    },
    /// A message by a subscription of an earlier passport, or one that rules about single messages let reach further.
    Receive {
        /// Its Topic Name.
        topic: &'a str,
    },
}

/// The answer to an [`Attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// With which QoS it is allowed: for SUBSCRIBE the one that is granted. `None`: it is not.
    pub granted: Option<QoS>,
    /// What decided.
    pub decider: Decider,
}

/// What decided about an [`Attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decider {
    /// The rule of the passport with this place, from 0.
    Rule(usize),
    /// No rule applies.
    Nothing,
    /// The server keeps `$SYS` for itself.
    Server,
    /// It is no Topic Filter.
    Invalid,
}

impl Explanation {
    /// What `passport` says about `attempt`.
    pub fn of(passport: Arc<Passport>, attempt: Attempt<'_>) -> Self {
        let authority = Authority::new(passport);
        match attempt {
            Attempt::Publish { topic, .. } if is_server_only(topic) => {
                Self { granted: None, decider: Decider::Server }
            }
            Attempt::Publish { topic, qos, retain } => {
                let publication = Publication { topic, qos, retain };
                authority.explain(qos, |rule| authority.is_about(rule, publication))
            }
            Attempt::Subscribe { filter, qos } => {
                let (filter, is_shared) = match SharedFilter::parse(filter) {
                    Ok(Some(shared)) => (shared.filter, true),
                    Ok(None) => (filter, false),
                    Err(_) => return Self { granted: None, decider: Decider::Invalid },
                };
                authority.explain_best(qos, |rule, qos| authority.grants(rule, filter, is_shared, qos))
            }
            Attempt::Receive { topic } => {
                authority.explain_best(QoS::ExactlyOnce, |rule, qos| authority.lets_through(rule, topic, qos))
            }
        }
    }
}

impl Authority {
    fn explain(&self, qos: QoS, applies: impl Fn(&Rule) -> bool) -> Explanation {
        let rules = &self.passport.rules;
        match rules.iter().position(applies) {
            Some(index) => {
                let granted = (rules[index].effect == Effect::Allow).then_some(qos);
                Explanation { granted, decider: Decider::Rule(index) }
            }
            None => Explanation { granted: None, decider: Decider::Nothing },
        }
    }

    /// For the highest QoS up to `wanted` that is allowed, else for that one.
    fn explain_best(&self, wanted: QoS, applies: impl Fn(&Rule, QoS) -> bool) -> Explanation {
        let explain = |qos| self.explain(qos, |rule| applies(rule, qos));
        let best = levels_from(wanted).map(explain).find(|explanation| explanation.granted.is_some());
        best.unwrap_or_else(|| explain(wanted))
    }
}
