//! The access control list in an EMQX 5 answer, as rules. A list that cannot be kept to the letter grants nothing: a condition
//! left out would let a rule reach further than was said.

use std::sync::Arc;

use link::{Action, Effect, QosSet, Rule};
use mqtt::QoS;
use mqtt::topic::validate_filter;
use serde_json::{Map, Value};

use super::facts::Facts;

/// Rules that one answer may hold.
const RULES_MAX: usize = 256;

/// Conditions on the client that are not looked at.
const CONDITIONS: [&str; 7] =
    ["clientid_re", "username_re", "ipaddr", "zone", "zone_re", "listener", "listener_re"];

/// The rules of a list.
///
/// # Errors
/// What is wrong with it.
pub(super) fn rules(acl: &Value, facts: &Facts) -> Result<Vec<Rule>, &'static str> {
    let list = acl.as_array().ok_or("acl is not a list")?;
    if list.len() > RULES_MAX {
        return Err("acl has too many rules");
    }
    list.iter()
        .map(|rule| rule_of(rule.as_object().ok_or("acl has a rule that is no object")?, facts))
        .collect()
}

fn rule_of(rule: &Map<String, Value>, facts: &Facts) -> Result<Rule, &'static str> {
    if CONDITIONS.iter().any(|key| rule.contains_key(*key)) {
        return Err("acl has a rule with a condition on the client, which is not supported");
    }
    let text = |key: &str| rule.get(key).and_then(Value::as_str);
    let effect = match text("permission") {
        Some("allow") => Effect::Allow,
        Some("deny") => Effect::Deny,
        _ => return Err("acl has a permission that is neither allow nor deny"),
    };
    let action = match text("action") {
        Some("publish" | "pub") => Action::Publish,
        Some("subscribe" | "sub") => Action::Subscribe,
        Some("all") => Action::All,
        _ => return Err("acl has an action that is none of publish, subscribe and all"),
    };
    let mut made = Rule::new(effect, action, Vec::new());
    for topic in topics(rule)? {
        match topic.strip_prefix("eq ") {
            Some(literal) => made.literal.push(checked(literal.to_owned())?),
            None => made.topics.push(checked(filled(topic, facts)?)?),
        }
    }
    if let Some(qos) = rule.get("qos") {
        made.qos = qos_of(qos)?;
    }
    // It is about PUBLISH only.
    if let Some(retain) = rule.get("retain").filter(|_| action != Action::Subscribe) {
        made.retain = retain_of(retain)?;
    }
    Ok(made)
}

fn topics(rule: &Map<String, Value>) -> Result<Vec<&str>, &'static str> {
    const WRONG: &str = "acl has a rule without topic or topics";
    let topics = match (rule.get("topic"), rule.get("topics")) {
        (Some(Value::String(topic)), _) => vec![topic.as_str()],
        (_, Some(Value::Array(topics))) => {
            topics.iter().map(Value::as_str).collect::<Option<_>>().ok_or(WRONG)?
        }
        _ => return Err(WRONG),
    };
    if topics.is_empty() { Err(WRONG) } else { Ok(topics) }
}

fn checked(topic: String) -> Result<Arc<str>, &'static str> {
    validate_filter(&topic).map_err(|_| "acl has a topic that is no Topic Filter")?;
    Ok(topic.into())
}

/// Whole levels become the placeholders of rules; within a level the value is filled in, if it is no more than a part of one.
fn filled(topic: &str, facts: &Facts) -> Result<String, &'static str> {
    let levels = topic.split('/').map(|level| match level {
        "${clientid}" => Ok("%c".to_owned()),
        "${username}" => Ok("%u".to_owned()),
        _ => within_level(level, facts),
    });
    Ok(levels.collect::<Result<Vec<_>, _>>()?.join("/"))
}

fn within_level(level: &str, facts: &Facts) -> Result<String, &'static str> {
    let mut filled = level.to_owned();
    let subject = facts.subject();
    for (placeholder, value) in [("${clientid}", &*facts.client_id), ("${username}", &*subject)] {
        if filled.contains(placeholder) {
            if value.contains(['/', '+', '#', '%', '$', '\0']) {
                return Err("acl has a placeholder for a name that is more than a part of a level");
            }
            filled = filled.replace(placeholder, value);
        }
    }
    if filled.contains("${") {
        return Err("acl has a placeholder that is neither ${clientid} nor ${username}");
    }
    Ok(filled)
}

fn qos_of(value: &Value) -> Result<QosSet, &'static str> {
    const WRONG: &str = "acl has a qos that is none of 0, 1 and 2";
    let level = |value: &Value| match value {
        Value::Number(number) => number.as_u64().and_then(|level| u8::try_from(level).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let levels: Vec<Option<u8>> = match value {
        Value::Null => return Ok(QosSet::ALL),
        Value::Array(list) => list.iter().map(level).collect(),
        Value::String(text) => text.split(',').map(|level| level.parse().ok()).collect(),
        one => vec![level(one)],
    };
    let levels: Option<Vec<QoS>> = levels.into_iter().map(|level| qos(level?)).collect();
    levels.and_then(QosSet::of).ok_or(WRONG)
}

fn qos(level: u8) -> Option<QoS> {
    [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().find(|qos| qos.as_u8() == level)
}

fn retain_of(value: &Value) -> Result<Option<bool>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(retain) => Ok(Some(*retain)),
        Value::Number(number) if number.as_u64() == Some(0) => Ok(Some(false)),
        Value::Number(number) if number.as_u64() == Some(1) => Ok(Some(true)),
        Value::String(text) => match text.as_str() {
            "all" => Ok(None),
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err("acl has a retain that is neither true nor false"),
        },
        _ => Err("acl has a retain that is neither true nor false"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(rule: &Value) -> Result<Rule, &'static str> {
        rules(&json!([rule]), &Facts::sample()).map(|mut rules| rules.remove(0))
    }

    fn rule(effect: Effect, action: Action, topic: &str) -> Rule {
        Rule::new(effect, action, vec![topic.into()])
    }

    #[test]
    fn documented_rules_are_kept() {
        let publish = json!({"permission": "allow", "action": "publish", "topic": "t/${clientid}"});
        assert_eq!(made(&publish), Ok(rule(Effect::Allow, Action::Publish, "t/%c")));
        let subscribe =
            json!({"permission": "allow", "action": "subscribe", "topic": "eq t/1/#", "qos": [1]});
        let mut literal = Rule::new(Effect::Allow, Action::Subscribe, vec![]);
        literal.literal = vec!["t/1/#".into()];
        literal.qos = QosSet::of([QoS::AtLeastOnce]).unwrap();
        assert_eq!(made(&subscribe), Ok(literal));
        let retained = json!({"permission": "deny", "action": "publish", "topic": "t/2", "retain": true});
        let expected = Rule { retain: Some(true), ..rule(Effect::Deny, Action::Publish, "t/2") };
        assert_eq!(made(&retained), Ok(expected));
        let all = json!({"permission": "deny", "action": "all", "topics": ["t/3", "t/${username}/+"]});
        let expected = Rule::new(Effect::Deny, Action::All, vec!["t/3".into(), "t/%u/+".into()]);
        assert_eq!(made(&all), Ok(expected));
        let within = json!({"permission": "allow", "action": "all", "topic": "dev-${clientid}/x"});
        assert_eq!(made(&within), Ok(rule(Effect::Allow, Action::All, "dev-sensor-1/x")));
    }

    #[test]
    fn ways_to_write_qos_and_retain() {
        let levels = |levels: &[QoS]| QosSet::of(levels.iter().copied());
        for (written, expected) in [
            (json!(0), levels(&[QoS::AtMostOnce])),
            (json!("2"), levels(&[QoS::ExactlyOnce])),
            (json!("0,1"), levels(&[QoS::AtMostOnce, QoS::AtLeastOnce])),
            (json!(["1", 2]), levels(&[QoS::AtLeastOnce, QoS::ExactlyOnce])),
            (json!(null), Some(QosSet::ALL)),
        ] {
            assert_eq!(qos_of(&written).ok(), expected, "{written}");
        }
        for (written, expected) in
            [(json!("all"), None), (json!(1), Some(true)), (json!("false"), Some(false)), (json!(null), None)]
        {
            assert_eq!(retain_of(&written), Ok(expected), "{written}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_as_a_whole() {
        let good = json!({"permission": "allow", "action": "all", "topic": "a"});
        for (key, value) in [
            ("permission", json!("maybe")),
            ("action", json!("delete")),
            ("topic", json!("a/#/b")),
            ("topic", json!("a/${zone}")),
            ("topic", json!(7)),
            ("qos", json!(3)),
            ("qos", json!([])),
            ("retain", json!("sometimes")),
            ("ipaddr", json!("10.0.0.0/8")),
            ("clientid_re", json!("^a$")),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(rules(&json!([good, bad]), &Facts::sample()).is_err(), "{bad}");
        }
        assert!(rules(&json!({"pub": ["a"]}), &Facts::sample()).is_err());
        assert!(rules(&Value::Array(vec![good; RULES_MAX + 1]), &Facts::sample()).is_err());
    }

    #[test]
    fn no_name_reaches_past_its_level() {
        for id in ["a/b", "+", "#", "%u", "${username}"] {
            let facts = Facts { client_id: id.into(), ..Facts::sample() };
            let rule = json!([{"permission": "allow", "action": "all", "topic": "d-${clientid}"}]);
            assert!(rules(&rule, &facts).is_err(), "{id}");
        }
    }
}
