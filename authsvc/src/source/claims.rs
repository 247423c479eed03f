//! From the claims of a token, or what an authorization server says of one, to a grant.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use link::Rule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::certificate;
use crate::authorization::read_limits;
use crate::config::CertificateIdentity;
use crate::token_problem::TokenProblem;
use crate::verdict::{Grant, is_subject};
use crate::{AuthError, Request, RuleConfig};

/// Where RFC 8705 binds a token to a client certificate.
const BOUND_CLAIM: &str = "cnf.x5t#S256";

/// Longest `jti` that can be revoked by its name, bytes.
const TOKEN_ID_BYTES_MAX: usize = 256;

/// Bytes of an attribute's value.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Groups that one token may bring along, and bytes of the name of one.
const GROUPS_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 256;

/// Rules that one token may bring along.
const RULES_MAX: usize = 256;

/// Topics in one of them.
const TOPICS_MAX: usize = 256;

link::settings! {
    /// What claims mean. The name of a claim is that of a member of the token, or the way to it with dots: `realm_access.name`.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct ClaimsConfig {
        /// The claim that is the user name.
        pub username_claim: String = "sub".to_owned(), in 1..;
        /// Whether CONNECT's user name, where there is one, has to be the same; otherwise it does not matter.
        pub username_must_match: bool = false;
        /// Claims that rules may name: `%{site}` is the claim that `site` names here.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        pub attribute_claims: BTreeMap<Arc<str>, String> = BTreeMap::new(), in ..=32;
        /// The claim with the groups that `group:NAME` in rules refers to: a list of names, or one name.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub groups_claim: Option<String> = None, in 1..;
        /// The claim with rules of the token's own, in the form of `[[authorization.rule]]` without `who`; they come before the
        /// configured ones.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub rules_claim: Option<String> = None, in 1..;
        /// The claim with limits of the token's own, in the form of `[[authorization.limits]]` without `who`; they come before
        /// the configured ones.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limits_claim: Option<String> = None, in 1..;
        /// The claim that lets everything be done where it is `true`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub superuser_claim: Option<String> = None, in 1..;
    }
}

impl ClaimsConfig {
    /// Checks the bounds; `section` is where it was flattened into.
    pub(super) fn check(&self, section: &'static str) -> Result<(), AuthError> {
        self.check_bounds(section)?;
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_plain);
        match self.attribute_claims.iter().all(|(name, claim)| is_name(name) && !claim.is_empty()) {
            true => Ok(()),
            false => Err(AuthError::Section {
                section,
                key: "attribute_claims",
                problem: "must be NAME = \"claim\", NAME of letters, digits, _ - and .".to_owned(),
            }),
        }
    }

    /// Whom `claims` let in, for as long as `expires_at_s` says.
    pub(super) fn grant(
        &self,
        claims: &Map<String, Value>,
        expires_at_s: Option<u64>,
    ) -> Result<Grant, TokenProblem> {
        let subject = find(claims, &self.username_claim).and_then(Value::as_str).unwrap_or_default();
        if !is_subject(subject) {
            return Err(TokenProblem::claim(&self.username_claim, "is no user name"));
        }
        let is_superuser = match self.superuser_claim.as_ref().and_then(|claim| find(claims, claim)) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) => true,
            Some(_) => {
                let claim = self.superuser_claim.as_deref().unwrap_or_default();
                return Err(TokenProblem::claim(claim, "is neither true nor false"));
            }
        };
        let rules = match &self.rules_claim {
            Some(claim) => match find(claims, claim) {
                Some(rules) => read_rules(rules).map_err(|problem| TokenProblem::claim(claim, problem))?,
                None => Vec::new(),
            },
            None => Vec::new(),
        };
        let limits = match self.limits_claim.as_ref().map(|claim| (claim, find(claims, claim))) {
            Some((claim, Some(limits))) => {
                read_limits(limits).map_err(|problem| TokenProblem::claim(claim, problem))?
            }
            _ => None,
        };
        Ok(Grant {
            subject: subject.into(),
            attributes: self.attributes(claims)?,
            groups: self.groups(claims)?,
            rules,
            is_superuser,
            expires_at_s,
            token_id: token_id(claims),
            limits,
            ..Grant::of(subject.into())
        })
    }

    /// Whether CONNECT may have the user name that it has.
    pub(super) fn check_username(&self, subject: &str, request: &Request) -> Result<(), TokenProblem> {
        let is_other = request.username.as_ref().is_some_and(|name| **name != *subject);
        if self.username_must_match && is_other { Err(TokenProblem::UserName) } else { Ok(()) }
    }

    /// The names that the claim has, each once. What is none is not passed over: a rule that denies by group would be, too.
    fn groups(&self, claims: &Map<String, Value>) -> Result<Vec<Arc<str>>, TokenProblem> {
        let Some(claim) = &self.groups_claim else { return Ok(Vec::new()) };
        let names = match find(claims, claim) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(names)) => &names[..],
            Some(name) => std::slice::from_ref(name),
        };
        if names.len() > GROUPS_MAX {
            return Err(TokenProblem::claim(claim, "has more than 256 groups"));
        }
        let name = |name: &Value| {
            let is_name = |name: &&str| (1..=GROUP_BYTES_MAX).contains(&name.len());
            name.as_str().filter(is_name).map(Arc::from)
        };
        let names: Option<Vec<Arc<str>>> = names.iter().map(name).collect();
        let mut names = names.ok_or_else(|| TokenProblem::claim(claim, "is no list of names of groups"))?;
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Text, numbers, and true or false; other claims are no attributes.
    fn attributes(&self, claims: &Map<String, Value>) -> Result<BTreeMap<Arc<str>, Arc<str>>, TokenProblem> {
        let mut attributes = BTreeMap::new();
        for (name, claim) in &self.attribute_claims {
            let value: Arc<str> = match find(claims, claim) {
                Some(Value::String(text)) => text.as_str().into(),
                Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string().into(),
                _ => continue,
            };
            if value.len() > ATTRIBUTE_BYTES_MAX {
                return Err(TokenProblem::claim(claim, "is longer than 1024 bytes"));
            }
            attributes.insert(name.clone(), value);
        }
        Ok(attributes)
    }
}

/// The claim of that name, or else the one that it is the way to. Names with dots in them exist (URIs).
pub(super) fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    name.match_indices('.')
        .find_map(|(dot, _)| find(claims.get(&name[..dot])?.as_object()?, &name[dot + 1..]))
}

/// What binds the token to a client certificate, if something does. What cannot be read binds it to none that there is.
// RFC 7800, section 3.1; RFC 8705, section 3.1
pub(super) fn binding(claims: &Map<String, Value>) -> Option<&Value> {
    let is_unread = claims.get("cnf").is_some_and(|cnf| !cnf.is_object() && !cnf.is_null());
    if is_unread { Some(&Value::Null) } else { find(claims, BOUND_CLAIM) }
}

/// Whether `claim` is what `identity` means of the certificate that the client shows. A fingerprint may be in base64url.
pub(super) fn check_certificate(
    claim: &Value,
    identity: CertificateIdentity,
    request: &Request,
) -> Result<(), TokenProblem> {
    let claim = claim.as_str().unwrap_or_default();
    let name = request.certificate.as_ref().and_then(|shown| certificate::name(shown, identity));
    let in_hex = || {
        let digest = URL_SAFE_NO_PAD.decode(claim).ok()?;
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    };
    let is_same = |name: &str| {
        name == claim
            || (identity == CertificateIdentity::Fingerprint && in_hex().is_some_and(|hex| hex == name))
    };
    let is_its = !claim.is_empty() && name.is_some_and(|name| is_same(&name));
    if is_its { Ok(()) } else { Err(TokenProblem::Certificate) }
}

/// Rules as `[[authorization.rule]]` has them, for whom they come with.
pub(crate) fn read_rules(rules: &Value) -> Result<Vec<Rule>, String> {
    let Some(rules) = rules.as_array().filter(|rules| rules.len() <= RULES_MAX) else {
        return Err(format!("is no list of at most {RULES_MAX} rules"));
    };
    let read = rules.iter().enumerate().map(|(index, rule)| {
        let mut rule = rule.as_object().cloned().unwrap_or_default();
        if rule.insert("who".to_owned(), Value::from(vec!["*"])).is_some() {
            return Err(format!("[{index}].who is not for a token to say"));
        }
        let rule: RuleConfig =
            serde_json::from_value(rule.into()).map_err(|error| format!("[{index}]: {error}"))?;
        if rule.topics.len() > TOPICS_MAX {
            return Err(format!("[{index}].topics are more than {TOPICS_MAX}"));
        }
        rule.compile().map_err(|(key, problem)| format!("[{index}].{key} {problem}"))
    });
    read.collect()
}

/// The name by which the token can be revoked, RFC 7519 section 4.1.7.
fn token_id(claims: &Map<String, Value>) -> Option<Arc<str>> {
    let id = claims.get("jti")?.as_str()?;
    (1..=TOKEN_ID_BYTES_MAX).contains(&id.len()).then(|| id.into())
}

#[cfg(test)]
mod tests {
    use mqtt::ProtocolVersion;
    use serde_json::json;

    use super::*;

    fn request(username: Option<&str>) -> Request {
        Request {
            client_id: "device".into(),
            username: username.map(Arc::from),
            password: None,
            peer: ([192, 0, 2, 1], 40_000).into(),
            is_local: false,
            listener: "mqtt".into(),
            certificate: None,
            protocol: ProtocolVersion::V5,
            clean_start: true,
        }
    }

    fn granted(config: &ClaimsConfig, claims: &Value, username: Option<&str>) -> Result<Grant, String> {
        let granted = config.grant(claims.as_object().unwrap(), Some(7)).and_then(|grant| {
            config.check_username(&grant.subject, &request(username))?;
            Ok(grant)
        });
        granted.map_err(|problem| problem.to_string())
    }

    #[test]
    fn a_claim_is_the_user_name() {
        let by = |claim: &str| ClaimsConfig { username_claim: claim.to_owned(), ..ClaimsConfig::default() };
        let claims = json!({"sub": "pump-7", "device": {"name": "seven"}, "https://a.example/name": "by-uri", "n": 5,
            "empty": "", "control": "a\nb", "long": "x".repeat(1025)});
        for (claim, name) in
            [("sub", "pump-7"), ("device.name", "seven"), ("https://a.example/name", "by-uri")]
        {
            assert_eq!(&*granted(&by(claim), &claims, None).unwrap().subject, name);
        }
        for claim in ["n", "empty", "control", "long", "missing", "device", "device.missing", "sub.name", "."]
        {
            let problem = format!("claim {claim:?} is no user name");
            assert_eq!(granted(&by(claim), &claims, None), Err(problem));
        }
    }

    #[test]
    fn connect_may_have_to_have_the_same_user_name_or_none() {
        let claims = json!({"sub": "pump-7"});
        let lax = ClaimsConfig::default();
        let strict = ClaimsConfig { username_must_match: true, ..ClaimsConfig::default() };
        assert!(granted(&lax, &claims, Some("jwt")).is_ok());
        assert!(granted(&strict, &claims, None).is_ok());
        assert!(granted(&strict, &claims, Some("pump-7")).is_ok());
        let refused = granted(&strict, &claims, Some("pump-8"));
        assert_eq!(refused, Err("another user name than that of CONNECT".to_owned()));
    }

    #[test]
    fn claims_become_attributes() {
        let attribute_claims =
            [("site", "site"), ("line", "plant.line"), ("on", "on"), ("roles", "roles"), ("no", "no")];
        let attribute_claims = attribute_claims.map(|(name, claim)| (name.into(), claim.to_owned())).into();
        let config = ClaimsConfig { attribute_claims, ..ClaimsConfig::default() };
        let claims = json!({"sub": "p", "site": "north", "plant": {"line": 7}, "on": true, "roles": ["a"]});
        let attributes = granted(&config, &claims, None).unwrap().attributes;
        let expected = [("site", "north"), ("line", "7"), ("on", "true")];
        assert_eq!(attributes, expected.map(|(name, value)| (name.into(), value.into())).into());
        let long = json!({"sub": "p", "site": "x".repeat(1025)});
        assert_eq!(granted(&config, &long, None), Err("claim \"site\" is longer than 1024 bytes".to_owned()));
    }

    #[test]
    fn a_claim_names_groups() {
        let by =
            |claim: &str| ClaimsConfig { groups_claim: Some(claim.to_owned()), ..ClaimsConfig::default() };
        let claims = json!({"sub": "p", "groups": ["staff", "crew", "staff"], "realm": {"roles": ["one"]}, "role": "single",
            "none": [], "null": null});
        let cases: [(&str, &[&str]); 6] = [
            ("groups", &["crew", "staff"]),
            ("realm.roles", &["one"]),
            ("role", &["single"]),
            ("none", &[]),
            ("null", &[]),
            ("missing", &[]),
        ];
        for (claim, expected) in cases {
            let groups = granted(&by(claim), &claims, None).unwrap().groups;
            assert_eq!(groups.iter().map(|name| &**name).collect::<Vec<_>>(), expected, "{claim}");
        }
        assert!(granted(&ClaimsConfig::default(), &claims, None).unwrap().groups.is_empty());
        let many: Vec<_> = (0..257).map(|n| n.to_string()).collect();
        for wrong in [
            json!(7),
            json!({"a": 1}),
            json!(["a", 7]),
            json!(["a", ""]),
            json!(["x".repeat(257)]),
            json!(many),
        ] {
            let problem = granted(&by("groups"), &json!({"sub": "p", "groups": wrong}), None).unwrap_err();
            assert!(problem.starts_with("claim \"groups\" "), "{problem}");
        }
    }

    #[test]
    fn a_token_may_bring_rules_and_a_superuser() {
        let config = ClaimsConfig {
            rules_claim: Some("acl".to_owned()),
            superuser_claim: Some("admin".to_owned()),
            ..ClaimsConfig::default()
        };
        let rule = json!({"effect": "allow", "action": "publish", "topics": ["up/%c", "up/%u/#"]});
        let grant = granted(&config, &json!({"sub": "p", "acl": [rule], "admin": true}), None).unwrap();
        assert!(grant.is_superuser);
        assert_eq!(grant.rules.len(), 1);
        assert_eq!(grant.rules[0].topics, [Arc::from("up/%c"), "up/%u/#".into()]);
        let plain = granted(&config, &json!({"sub": "p", "admin": false}), None).unwrap();
        assert_eq!(plain, Grant { expires_at_s: Some(7), ..Grant::of("p".into()) });
        let unset = ClaimsConfig::default();
        let grant = granted(&unset, &json!({"sub": "p", "acl": "x", "admin": 1}), None).unwrap();
        assert!(grant.rules.is_empty() && !grant.is_superuser, "what is not configured means nothing");
    }

    #[test]
    fn a_token_may_bring_limits_and_bad_ones_let_nobody_in() {
        let config = ClaimsConfig { limits_claim: Some("plan.mqtt".to_owned()), ..ClaimsConfig::default() };
        let brought = |limits: Value| {
            granted(&config, &json!({"sub": "p", "plan": {"mqtt": limits}}), None).map(|grant| grant.limits)
        };
        let limits = brought(json!({"qos_max": 1, "retain": false})).unwrap().unwrap();
        assert_eq!((limits.qos_max, limits.retain, limits.sessions_max), (Some(1), Some(false), None));
        assert_eq!(brought(json!({})), Ok(None));
        assert_eq!(granted(&config, &json!({"sub": "p"}), None).unwrap().limits, None);
        for wrong in [json!([]), json!({"qos_max": 3}), json!({"qos": 1}), json!({"retain": 1})] {
            let problem = brought(wrong).unwrap_err();
            assert!(problem.starts_with("claim \"plan.mqtt\" are "), "{problem}");
        }
        let unset = ClaimsConfig::default();
        assert_eq!(granted(&unset, &json!({"sub": "p", "plan": {"mqtt": 1}}), None).unwrap().limits, None);
    }

    #[test]
    fn rules_that_cannot_be_read_let_nobody_in() {
        let config = ClaimsConfig { rules_claim: Some("acl".to_owned()), ..ClaimsConfig::default() };
        let rule = |topic: &str| json!({"effect": "deny", "action": "all", "topics": [topic]});
        let cases = [
            (json!("#"), "is no list of at most 256 rules"),
            (json!([1]), "[0]: missing field"),
            (json!([rule("a"), {"effect": "perhaps"}]), "[1]: unknown variant"),
            (json!([rule("a/#/b")]), "[0].topics \"a/#/b\" is not a valid Topic Filter"),
            (json!([rule("x%c")]), "[0].topics \"x%c\""),
            (
                json!([{"who": ["*"], "effect": "deny", "action": "all", "topics": ["a"]}]),
                "[0].who is not for a token",
            ),
            (json!([{"effect": "deny", "action": "all", "topics": ["a"], "more": 1}]), "[0]: unknown field"),
            (json!(vec![rule("a"); 257]), "is no list of at most 256 rules"),
            (
                json!([{"effect": "deny", "action": "all", "topics": vec!["a"; 257]}]),
                "[0].topics are more than 256",
            ),
        ];
        for (rules, expected) in cases {
            let problem = granted(&config, &json!({"sub": "p", "acl": rules}), None).unwrap_err();
            assert!(problem.starts_with(&format!("claim \"acl\" {expected}")), "{problem}");
        }
        let config = ClaimsConfig { superuser_claim: Some("admin".to_owned()), ..ClaimsConfig::default() };
        let problem = granted(&config, &json!({"sub": "p", "admin": "yes"}), None).unwrap_err();
        assert_eq!(problem, "claim \"admin\" is neither true nor false");
    }

    #[test]
    fn settings_are_checked() {
        let bad = |name: &str, claim: &str| ClaimsConfig {
            attribute_claims: [(name.into(), claim.to_owned())].into(),
            ..ClaimsConfig::default()
        };
        assert!(bad("site", "x").check("auth.jwt").is_ok());
        for config in [bad("", "x"), bad("a b", "x"), bad("a", ""), bad("}", "x")] {
            let error = config.check("auth.jwt").unwrap_err().to_string();
            assert!(error.starts_with("auth.jwt.attribute_claims must be NAME"), "{error}");
        }
    }
}
