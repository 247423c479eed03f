//! The rules of a client with where each was written, for who asks why. Made from the same parts as [`super::list`], a rule
//! for each line.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use link::{Effect, Passport, Rule};

use super::acl_file::{AclWatch, Fit, Line, Patterns, Section, fill_patterns};
use super::list::{Asker, section_of, unrestricted};
use super::placeholder::{self, Uses};
use super::settings::AuthorizationConfig;
use super::who::Who;
use crate::verdict::Grant;
use crate::{AuthError, DenyReason};

/// Whose rules are asked for.
#[derive(Clone, Debug, Default)]
pub struct Traced {
    /// The user name; `None` for a client that did not have to authenticate.
    pub user: Option<Arc<str>>,
    /// The Client Identifier.
    pub client_id: Arc<str>,
    /// What its source would say of it, by name.
    pub attributes: Vec<(Arc<str>, Arc<str>)>,
    /// The groups that its source would say it is in.
    pub groups: Vec<Arc<str>>,
}

/// Where a rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `authorization.rule[INDEX]`, from 0.
    Rule(usize),
    /// A line of an ACL file.
    AclLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// `authorization.default`.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(index) => write!(f, "authorization.rule[{index}]"),
            Self::AclLine { path, line, text } => write!(f, "{} line {line} ({text})", path.display()),
            Self::Default => f.write_str("authorization.default"),
        }
    }
}

/// The rules of one client, in order.
#[derive(Clone, Debug)]
pub struct RuleTrace {
    /// The passport that it would get.
    pub passport: Passport,
    /// Where each of its rules was written.
    pub origins: Vec<Origin>,
}

impl RuleTrace {
    /// The rules that `config` has for this client.
    ///
    /// # Errors
    /// A rule, or a line of the ACL file, is not as documented. Inside, why the client could not connect at all: what rules
    /// name of it is no level of a topic.
    pub fn new(config: &AuthorizationConfig, client: &Traced) -> Result<Result<Self, DenyReason>, AuthError> {
        let subject: Arc<str> = client.user.clone().unwrap_or_default();
        let grant = client.user.as_ref().map(|_| Grant {
            attributes: client.attributes.iter().cloned().collect(),
            groups: client.groups.clone(),
            ..Grant::of(subject.clone())
        });
        let asker = Asker { grant: grant.as_ref(), client_id: &client.client_id, subject: &subject };
        let rules = pieces(config, &asker)?;
        Ok(rules.map(|rules| {
            let (origins, rules): (_, Vec<Rule>) = rules.into_iter().unzip();
            Self { passport: Passport::new(subject.clone(), client.client_id.clone(), rules.into()), origins }
        }))
    }
}

type Pieces = Vec<(Origin, Rule)>;

fn pieces(config: &AuthorizationConfig, asker: &Asker<'_>) -> Result<Result<Pieces, DenyReason>, AuthError> {
    let is_asker = |who: &Who| match asker.grant {
        None => *who == Who::Anonymous,
        Some(grant) => who.is_about(asker.subject, &grant.groups),
    };
    let mut pieces = Pieces::new();
    for (index, (who, rule)) in config.compile()?.into_iter().enumerate() {
        if who.iter().any(is_asker) {
            pieces.push((Origin::Rule(index), rule));
        }
    }
    let opened = config.acl_file.as_deref().map(|path| AclWatch::open(path).map(|(_, file)| (path, file)));
    let acl = opened.transpose()?;
    if let Some((path, acl)) = &acl {
        let section = section_of(acl, asker).into_iter().flat_map(Section::rules_by_line);
        pieces.extend(section.map(|(line, rule)| (origin(path, "topic", line), rule)));
    }
    let heads: Vec<Rule> = pieces.iter().map(|(_, rule)| rule.clone()).collect();
    if !Uses::of(&heads).admit(asker.client_id, asker.subject) {
        return Ok(Err(DenyReason::NotAuthorized));
    }
    let attributes = asker.grant.map(|grant| grant.attributes.clone()).unwrap_or_default();
    for (_, rule) in &mut pieces {
        match placeholder::fill(rule, &attributes) {
            Ok(filled) => *rule = filled,
            Err(reason) => return Ok(Err(reason)),
        }
    }
    if let Some((path, acl)) = &acl {
        if Patterns::new(&acl.patterns).fit(asker.client_id, asker.subject) == Fit::Nothing {
            return Ok(Ok(pieces));
        }
        let filled = acl.patterns.rules_by_line().flat_map(|(line, rule)| {
            let rules = fill_patterns(&[rule], asker.client_id, asker.subject);
            rules.into_iter().map(move |rule| (origin(path, "pattern", line), rule))
        });
        pieces.extend(filled);
    }
    if config.default_in_force() == Effect::Allow {
        pieces.extend(unrestricted().iter().map(|rule| (Origin::Default, rule.clone())));
    }
    Ok(Ok(pieces))
}

fn origin(path: &std::path::Path, word: &str, line: &Line) -> Origin {
    let text = format!("{word} {} {}", line.access.word(), line.topic);
    Origin::AclLine { path: path.to_owned(), line: line.number, text }
}
