//! `tidegate authsvc --check-rules`: what the rules of a file say about a client, and which one says it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::authsvc::{AuthorizationConfig, RuleTrace, Traced};
use broker::{Attempt, Decider, Explanation};
use clap::{Args, ValueEnum};
use mqtt::QoS;
use mqtt::topic::{validate_filter, validate_name};

use crate::exit::{Failure, chain};
use crate::output::print;

/// Whom, what and by which file to check.
#[derive(Debug, Args)]
pub(crate) struct RulesCheck {
    /// Only say what the rules of this file (a configuration file, or a Mosquitto ACL file) allow, and which one decides. Exits with
    /// 0 if it is allowed, with 1 if not.
    #[arg(long, value_name = "FILE", requires = "client", requires = "action", requires = "topic")]
    check_rules: Option<PathBuf>,
    /// The user name; without it, a client that did not have to authenticate.
    #[arg(long = "as", value_name = "USER", requires = "check_rules")]
    user: Option<String>,
    /// The Client Identifier.
    #[arg(long, value_name = "ID", requires = "check_rules")]
    client: Option<String>,
    /// A group that the user is in; may be given several times.
    #[arg(long = "group", value_name = "NAME", requires = "user")]
    groups: Vec<String>,
    /// What is known of the user, for %{NAME} in rules; may be given several times.
    #[arg(long = "attribute", value_name = "NAME=VALUE", requires = "user", value_parser = parse_attribute)]
    attributes: Vec<(Arc<str>, Arc<str>)>,
    /// The QoS of the message, or of the subscription.
    #[arg(long, value_name = "0..2", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2),
        requires = "check_rules")]
    qos: u8,
    /// The message is to be retained.
    #[arg(long, requires = "check_rules")]
    retain: bool,
    /// What the client wants.
    #[arg(value_enum, requires = "check_rules")]
    action: Option<Wish>,
    /// The Topic Name, or the Topic Filter to subscribe to.
    #[arg(requires = "check_rules")]
    topic: Option<String>,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wish {
    /// To publish, or leave as a Will.
    Publish,
    /// To subscribe.
    Subscribe,
    /// To be given a message by a subscription that matches more.
    Receive,
}

fn parse_attribute(text: &str) -> Result<(Arc<str>, Arc<str>), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.into(), value.into()))
}

impl RulesCheck {
    /// Says what the rules say; `None` if that was not asked for.
    pub(crate) fn run(&self) -> Option<Result<(), Failure>> {
        let file = self.check_rules.as_deref()?;
        Some(self.check(file))
    }

    fn check(&self, file: &Path) -> Result<(), Failure> {
        let client = Traced {
            user: self.user.as_deref().map(Arc::from),
            client_id: self.client.as_deref().unwrap_or_default().into(),
            attributes: self.attributes.clone(),
            groups: self.groups.iter().map(|group| group.as_str().into()).collect(),
        };
        let trace = RuleTrace::new(&read(file)?, &client).map_err(|error| Failure::usage(chain(&error)))?;
        let Ok(trace) = trace else {
            print(
                "denied: it may not connect, since what a rule names of it is missing or no level of a topic\n",
            )?;
            return Err(Failure::denied());
        };
        let attempt = self.attempt()?;
        let explanation = Explanation::of(Arc::new(trace.passport.clone()), attempt);
        print(&sentence(attempt, explanation, &trace))?;
        explanation.granted.map(|_| ()).ok_or_else(Failure::denied)
    }

    fn attempt(&self) -> Result<Attempt<'_>, Failure> {
        let topic = self.topic.as_deref().unwrap_or_default();
        let qos = QoS::try_from(self.qos).map_err(Failure::usage)?;
        let is_valid = match self.action {
            Some(Wish::Subscribe) => validate_filter(topic).is_ok(),
            _ => validate_name(topic).is_ok(),
        };
        if !is_valid {
            return Err(Failure::usage(format!("{topic:?} is no topic to do that with")));
        }
        Ok(match self.action {
            Some(Wish::Subscribe) => Attempt::Subscribe { filter: topic, qos },
            Some(Wish::Receive) => Attempt::Receive { topic },
            Some(Wish::Publish) | None => Attempt::Publish { topic, qos, retain: self.retain },
        })
    }
}

fn sentence(attempt: Attempt<'_>, explanation: Explanation, trace: &RuleTrace) -> String {
    let verdict = match (attempt, explanation.granted) {
        (_, None) => "denied".to_owned(),
        (Attempt::Subscribe { qos, .. }, Some(granted)) if granted < qos => {
            format!("allowed with QoS {}", granted.as_u8())
        }
        (_, Some(_)) => "allowed".to_owned(),
    };
    let why = match explanation.decider {
        Decider::Rule(index) => trace.origins.get(index).map(ToString::to_string).unwrap_or_default(),
        Decider::Nothing => "no rule applies".to_owned(),
        Decider::Server => "$SYS is the server's".to_owned(),
        Decider::Invalid => "it is no Topic Filter".to_owned(),
    };
    format!("{verdict}: {why}\n")
}

/// The rules of a configuration file, or those of an ACL file.
fn read(file: &Path) -> Result<AuthorizationConfig, Failure> {
    let cannot_read = |error| Failure::io(format!("cannot read {}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(cannot_read)?;
    let is_named_so = file.extension().is_some_and(|extension| extension == "toml");
    let table = match text.parse::<toml::Table>() {
        Err(error) if is_named_so => {
            let line = error.message().lines().next().unwrap_or_default().to_owned();
            return Err(Failure::usage(format!("{}: {line}", file.display())));
        }
        // Comments alone are no configuration, and an ACL file that allows nothing.
        Ok(table) if is_named_so || !table.is_empty() => table,
        _ => {
            return Ok(AuthorizationConfig {
                acl_file: Some(file.to_owned()),
                ..AuthorizationConfig::default()
            });
        }
    };
    let Some(section) = table.get("authorization") else { return Ok(AuthorizationConfig::default()) };
    section.clone().try_into().map_err(|error: toml::de::Error| {
        Failure::usage(format!("{}: authorization: {}", file.display(), error.message()))
    })
}
