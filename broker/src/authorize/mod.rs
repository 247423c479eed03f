//! What a passport allows. Rules are tried in order and the first that applies decides; when none does, the answer is no.
//!
//! Nothing is allocated. Passports without restrictions are recognised once, when a session gets them. How a topic of a rule is
//! compared is in `pattern`; why SUBSCRIBE is granted a lower QoS rather than refused is in
//! `docs/decisions/0013-what-a-rule-says.md`.

pub(crate) mod authorizer;
pub(crate) mod bounds;
mod explain;
mod pattern;
pub(crate) mod principal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use link::{Action, Effect, Limits, Passport, Rule};
use mqtt::QoS;
use mqtt::topic::SharedFilter;
use state::{Message, Owner};

pub use self::explain::{Attempt, Decider, Explanation};
use self::pattern::{covers, is_same, overlaps};
use crate::authorize::principal::owner_of;

/// A passport, ready to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    passport: Arc<Passport>,
    /// Every Topic Name that does not start with `$` may be published to, with any QoS, retained or not.
    publish_all: bool,
    /// Every Topic Filter that does not start with `$` may be subscribed to, with any QoS.
    subscribe_all: bool,
    /// Some rule makes a difference between levels of QoS.
    tells_qos_apart: bool,
    /// Some rule is about single messages: a subscription may match what the client may not have.
    tells_messages_apart: bool,
    /// Some rule leaves it to who is asked.
    asks: bool,
    /// The passport has limits.
    is_limited: bool,
}

/// What a client sends to be published, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Publication<'a> {
    pub(crate) topic: &'a str,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
}

impl<'a> From<&'a Message> for Publication<'a> {
    fn from(message: &'a Message) -> Self {
        Self { topic: message.topic(), qos: message.qos(), retain: message.retain() }
    }
}

impl Authority {
    /// Looks once at the rules for the answers that need no second look.
    pub(crate) fn new(passport: Arc<Passport>) -> Self {
        let allows_all = |concerns: fn(Action) -> bool| {
            for rule in passport.rules.iter().filter(|rule| concerns(rule.action)) {
                let is_about_all = || rule.topics.iter().any(|topic| &**topic == "#");
                match rule.effect {
                    Effect::Allow if rule.is_unconditional() && is_about_all() => return true,
                    Effect::Deny | Effect::Ask if !is_only_about_dollar(rule) => return false,
                    _ => {}
                }
            }
            false
        };
        Self {
            publish_all: allows_all(is_about_publishing),
            subscribe_all: allows_all(is_about_receiving),
            tells_qos_apart: passport.rules.iter().any(|rule| !rule.qos.is_all()),
            is_limited: passport.limits.is_some(),
            tells_messages_apart: passport.rules.iter().any(|rule| rule.action == Action::Receive),
            asks: passport.rules.iter().any(|rule| rule.effect == Effect::Ask),
            passport,
        }
    }

    /// What the rules say about publishing this. `$SYS` is the server's alone, whatever they say, but for the state of bridges,
    /// which another broker tells there.
    // The specification leaves `$SYS` to implementations (v5 section 4.7.2); clients that could write there could forge
    // what operators watch.
    pub(crate) fn on_publish(&self, publication: Publication<'_>) -> Effect {
        self.publishing(publication, |_| true)
    }

    /// The same where who was asked has no say in it.
    pub(crate) fn on_publish_unasked(&self, publication: Publication<'_>) -> Effect {
        self.publishing(publication, is_no_question)
    }

    fn publishing(&self, publication: Publication<'_>, counts: fn(&Rule) -> bool) -> Effect {
        let Publication { topic, .. } = publication;
        let is_plain = !topic.starts_with('$');
        if is_plain && self.publish_all {
            return Effect::Allow;
        }
        if !is_plain && is_server_only(topic) {
            return Effect::Deny;
        }
        self.effect(|rule| counts(rule) && self.is_about(rule, publication))
    }

    /// Whether this may be published, or might if it was asked about: for what was asked about when the client left it.
    pub(crate) fn may_publish(&self, publication: Publication<'_>) -> bool {
        self.on_publish(publication) != Effect::Deny
    }

    /// The QoS with which this Topic Filter may be subscribed to: the highest up to `wanted`; `None` if there is none. For a
    /// Shared Subscription its own filter counts, not the Share Name.
    ///
    /// An *allow* rule applies when one of its filters covers everything that `filter` can match, a *deny* rule already
    /// when it overlaps: there is no second check per message, so a subscription to `#` must not slip past a rule that
    /// forbids `secret/#`. With rules about [`Action::Receive`] there is one, so it is the other way round for them, but
    /// for Shared Subscriptions: what one member may not have would be lost to the group.
    ///
    /// It comes with [`Effect::Allow`], or with [`Effect::Ask`] where that has to be asked about first.
    pub(crate) fn on_subscribe(&self, filter: &str, wanted: QoS) -> Option<(QoS, Effect)> {
        self.subscribing(filter, wanted, |_| true)
    }

    /// The same where who was asked has no say in it.
    pub(crate) fn on_subscribe_unasked(&self, filter: &str, wanted: QoS) -> Option<QoS> {
        self.subscribing(filter, wanted, is_no_question).map(|(qos, _)| qos)
    }

    fn subscribing(&self, filter: &str, wanted: QoS, counts: fn(&Rule) -> bool) -> Option<(QoS, Effect)> {
        let (filter, is_shared) = match SharedFilter::parse(filter) {
            Ok(Some(shared)) => (shared.filter, true),
            Ok(None) => (filter, false),
            Err(_) => return None,
        };
        if self.subscribe_all && !filter.starts_with('$') {
            return Some((wanted, Effect::Allow));
        }
        let grant = |qos: QoS| {
            let effect = self.effect(|rule| counts(rule) && self.grants(rule, filter, is_shared, qos));
            (effect != Effect::Deny).then_some((qos, effect))
        };
        if self.tells_qos_apart { levels_from(wanted).find_map(grant) } else { grant(wanted) }
    }

    /// Whether this Topic Filter may be subscribed to, with some QoS, or might if it was asked about: for subscriptions that were.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        self.on_subscribe(filter, QoS::ExactlyOnce).is_some()
    }

    /// Whether some actions are to be asked about.
    pub(crate) fn asks(&self) -> bool {
        self.asks
    }

    /// The passport.
    pub(crate) fn passport(&self) -> &Arc<Passport> {
        &self.passport
    }

    /// Whether messages are to be looked at one by one, though every subscription was granted by this passport.
    pub(crate) fn tells_messages_apart(&self) -> bool {
        self.tells_messages_apart
    }

    /// Whether a message with this Topic Name may be received. Without rules about [`Action::Receive`], every subscription that
    /// is granted covers what it matches, so this says no only to what an earlier passport let in.
    pub(crate) fn may_receive(&self, topic: &str) -> bool {
        if self.subscribe_all && !topic.starts_with('$') {
            return true;
        }
        // What a rule asks about was asked about when it was subscribed to.
        let may_have = |qos| self.effect(|rule| self.lets_through(rule, topic, qos)) != Effect::Deny;
        // With which QoS it was subscribed to is not known here.
        if self.tells_qos_apart {
            levels_from(QoS::ExactlyOnce).any(may_have)
        } else {
            may_have(QoS::AtMostOnce)
        }
    }

    /// Whether this passport allows just the same to the same client.
    pub(crate) fn is_as_before(&self, passport: &Passport) -> bool {
        let (rules, others) = (&self.passport.rules, &passport.rules);
        // Clients with equal rules mostly share them.
        (Arc::ptr_eq(rules, others) || rules == others) && self.passport.client_id == passport.client_id
    }

    /// What its passport bounds the client by.
    #[inline]
    pub(crate) fn limits(&self) -> Option<&Limits> {
        if self.is_limited { self.passport.limits.as_deref() } else { None }
    }

    /// Whose a message is that its client has retained.
    pub(crate) fn owner(&self) -> Owner {
        owner_of(&self.passport)
    }

    /// Whose passport it is.
    pub(crate) fn subject(&self) -> &str {
        &self.passport.subject
    }

    /// What the first rule that applies says.
    fn effect(&self, applies: impl Fn(&Rule) -> bool) -> Effect {
        self.passport.rules.iter().find(|rule| applies(rule)).map_or(Effect::Deny, |rule| rule.effect)
    }

    fn is_about(&self, rule: &Rule, Publication { topic, qos, retain }: Publication<'_>) -> bool {
        is_about_publishing(rule.action)
            && rule.qos.contains(qos)
            && rule.retain.is_none_or(|wanted| wanted == retain)
            && (self.any(&rule.topics, topic, covers) || self.any(&rule.literal, topic, is_same))
    }

    /// Whether the rule decides about a subscription to `filter` with `qos`.
    fn grants(&self, rule: &Rule, filter: &str, is_shared: bool, qos: QoS) -> bool {
        if !is_about_receiving(rule.action) || !rule.qos.contains(qos) {
            return false;
        }
        let is_checked_later = rule.action == Action::Receive && !is_shared;
        let applies = match (rule.effect, is_checked_later) {
            (Effect::Allow | Effect::Ask, false) | (Effect::Deny, true) => covers,
            (Effect::Deny, false) | (Effect::Allow | Effect::Ask, true) => overlaps,
        };
        self.any(&rule.topics, filter, applies) || self.any(&rule.literal, filter, is_same)
    }

    /// Whether the rule decides about a message that came by a subscription with `qos`.
    fn lets_through(&self, rule: &Rule, topic: &str, qos: QoS) -> bool {
        if !is_about_receiving(rule.action) || !rule.qos.contains(qos) {
            return false;
        }
        let literally = match (rule.action, rule.effect) {
            (Action::Receive, _) => self.any(&rule.literal, topic, is_same),
            (_, Effect::Allow | Effect::Ask) => self.any(&rule.literal, topic, covers),
            // Another filter, which was not forbidden, may match the same.
            (_, Effect::Deny) => false,
        };
        literally || self.any(&rule.topics, topic, covers)
    }

    fn any(&self, patterns: &[Arc<str>], filter: &str, applies: fn(&str, &str, &Passport) -> bool) -> bool {
        patterns.iter().any(|pattern| applies(pattern, filter, &self.passport))
    }
}

/// From `highest` down.
fn levels_from(highest: QoS) -> impl Iterator<Item = QoS> {
    [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::AtMostOnce].into_iter().filter(move |&qos| qos <= highest)
}

fn is_no_question(rule: &Rule) -> bool {
    rule.effect != Effect::Ask
}

fn is_about_publishing(action: Action) -> bool {
    matches!(action, Action::Publish | Action::All)
}

fn is_about_receiving(action: Action) -> bool {
    matches!(action, Action::Subscribe | Action::Receive | Action::All)
}

fn is_only_about_dollar(rule: &Rule) -> bool {
    rule.topics.iter().chain(&rule.literal).all(|topic| topic.starts_with('$'))
}

/// `$SYS`, except `$SYS/broker/connection/NAME/state`: there a Mosquitto bridge says whether it is up, as its Will too.
fn is_server_only(topic: &str) -> bool {
    let Some(rest) = topic.strip_prefix("$SYS") else { return false };
    let bridge = rest.strip_prefix("/broker/connection/").and_then(|rest| rest.strip_suffix("/state"));
    (rest.is_empty() || rest.starts_with('/')) && bridge.is_none_or(|name| name.contains('/'))
}
