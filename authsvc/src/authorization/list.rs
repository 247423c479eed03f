//! The list of rules of each client: what its source granted, the configured rules about it, its lines of the ACL file, the
//! patterns of that, and what holds where none applies. Lists are made once for everybody whom a rule or a line names, and shared.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use link::{Effect, Passport, Rule};
use parking_lot::Mutex;

use super::acl_file::{AclFile, Fit, Patterns, Section};
use super::placeholder::{self, Attributes, Uses};
use super::settings::AuthorizationConfig;
use super::who::Who;
use crate::DenyReason;
use crate::verdict::Grant;

/// Lists for members of groups that are kept; beyond it all are made anew.
const GROUP_LISTS_MAX: usize = 4096;

/// Who it is, if rules or lines name it, and which of the groups that rules name it is in.
type Member = (Option<Arc<str>>, BTreeSet<Arc<str>>);

/// Who asks for a passport.
pub(super) struct Asker<'a> {
    /// What its source says; `None` if it did not have to authenticate.
    pub(super) grant: Option<&'a Grant>,
    pub(super) client_id: &'a str,
    /// Empty without a grant.
    pub(super) subject: &'a str,
}

/// All of them.
pub(super) struct Lists {
    rules: Vec<(Vec<Who>, Rule)>,
    /// The lines of the ACL file about single users.
    sections: HashMap<Arc<str>, Vec<Rule>>,
    patterns: Patterns,
    /// What ends each list: nothing, or a rule that allows everything.
    last: Vec<Rule>,
    /// The same for clients whose source brought rules: nothing, unless it was configured.
    last_if_granted: Vec<Rule>,
    named: HashMap<Arc<str>, RuleList>,
    /// The groups that rules name.
    groups: BTreeSet<Arc<str>>,
    /// The lists of their members, made when one comes.
    by_group: Mutex<HashMap<Member, RuleList>>,
    everybody: RuleList,
    anonymous: RuleList,
    unrestricted: Arc<[Rule]>,
}

/// One of them, as its parts and as a whole.
#[derive(Clone)]
struct RuleList {
    /// What comes before the patterns.
    head: usize,
    /// What the head uses of a client.
    uses: Uses,
    whole: Arc<[Rule]>,
}

impl Lists {
    pub(super) fn new(config: &AuthorizationConfig, acl: &AclFile) -> Result<Self, crate::AuthError> {
        let last_for = |default| if default == Effect::Allow { unrestricted().to_vec() } else { Vec::new() };
        let mut lists = Self {
            rules: config.compile()?,
            sections: acl.users.iter().map(|(name, section)| (name.clone(), section.rules())).collect(),
            patterns: Patterns::new(&acl.patterns),
            last: last_for(config.default_in_force()),
            last_if_granted: last_for(config.default.unwrap_or(Effect::Deny)),
            named: HashMap::new(),
            groups: BTreeSet::new(),
            by_group: Mutex::default(),
            everybody: RuleList::default(),
            anonymous: RuleList::default(),
            unrestricted: unrestricted(),
        };
        let named = lists.rules.iter().flat_map(|(who, _)| who).filter_map(|who| match who {
            Who::User(name) => Some(name),
            _ => None,
        });
        let named: BTreeSet<_> = named.chain(lists.sections.keys()).cloned().collect();
        lists.named =
            named.into_iter().map(|name| (name.clone(), lists.list(lists.head_of(&name, &[])))).collect();
        let groups = lists.rules.iter().flat_map(|(who, _)| who).filter_map(|who| match who {
            Who::Group(name) => Some(name.clone()),
            _ => None,
        });
        lists.groups = groups.collect();
        lists.everybody = lists.list(lists.configured(|who| *who == Who::Everybody));
        let mut anonymous = lists.configured(|who| *who == Who::Anonymous);
        anonymous.extend(acl.anonymous.rules());
        lists.anonymous = lists.list(anonymous);
        Ok(lists)
    }

    /// The rules of who asks.
    ///
    /// # Errors
    /// It is refused: what rules name of it is no level of a topic.
    pub(super) fn rules(&self, asker: &Asker<'_>) -> Result<Arc<[Rule]>, DenyReason> {
        let Some(grant) = asker.grant else {
            return self.shared_or_own(&self.anonymous, asker, &Attributes::new());
        };
        if grant.is_superuser {
            return Ok(self.unrestricted.clone());
        }
        if grant.rules.is_empty() && grant.asks.is_empty() {
            return self.shared_or_own(&self.list_of(grant), asker, &grant.attributes);
        }
        let mut head = grant.rules.clone();
        head.extend(self.head_of(&grant.subject, &grant.groups));
        let last: Vec<Rule> = grant.asks.iter().chain(&self.last_if_granted).cloned().collect();
        self.own(&head, Uses::of(&head), &last, asker, &grant.attributes)
    }

    /// The list of a user without rules of its own, made when the first one with the same name or groups comes.
    fn list_of(&self, grant: &Grant) -> RuleList {
        let (name, named) = match self.named.get_key_value(&grant.subject) {
            Some((name, list)) => (Some(name), list),
            None => (None, &self.everybody),
        };
        let groups: BTreeSet<_> =
            grant.groups.iter().filter(|group| self.groups.contains(*group)).cloned().collect();
        if groups.is_empty() {
            return named.clone();
        }
        let member = (name.cloned(), groups);
        let mut made = self.by_group.lock();
        if let Some(list) = made.get(&member) {
            return list.clone();
        }
        let list = self.list(self.head_of(&grant.subject, &grant.groups));
        if made.len() >= GROUP_LISTS_MAX {
            made.clear();
        }
        made.insert(member, list.clone());
        list
    }

    /// Whether rules go by more of a client than its name.
    pub(super) fn ask_sources(&self) -> bool {
        let is_group = |who: &Who| matches!(who, Who::Group(_));
        self.rules
            .iter()
            .any(|(who, rule)| who.iter().any(is_group) || Uses::of(std::slice::from_ref(rule)).attributes)
    }

    fn shared_or_own(
        &self,
        list: &RuleList,
        asker: &Asker<'_>,
        attributes: &Attributes,
    ) -> Result<Arc<[Rule]>, DenyReason> {
        let fits = list.uses.admit(asker.client_id, asker.subject);
        if fits && !list.uses.attributes && self.patterns.fit(asker.client_id, asker.subject) == Fit::Shared {
            return Ok(list.whole.clone());
        }
        self.own(&list.whole[..list.head], list.uses, &self.last, asker, attributes)
    }

    fn own(
        &self,
        head: &[Rule],
        uses: Uses,
        last: &[Rule],
        asker: &Asker<'_>,
        attributes: &Attributes,
    ) -> Result<Arc<[Rule]>, DenyReason> {
        if !uses.admit(asker.client_id, asker.subject) {
            return Err(DenyReason::NotAuthorized);
        }
        let mut rules =
            head.iter().map(|rule| placeholder::fill(rule, attributes)).collect::<Result<Vec<_>, _>>()?;
        match self.patterns.fit(asker.client_id, asker.subject) {
            Fit::Shared => rules.extend(self.patterns.rules.iter().chain(last).cloned()),
            Fit::Own(patterns) => rules.extend(patterns.into_iter().chain(last.iter().cloned())),
            Fit::Nothing => {}
        }
        rules.retain(|rule| !(rule.topics.is_empty() && rule.literal.is_empty()));
        Ok(rules.into())
    }

    /// What is configured and in the ACL file about one user, patterns aside.
    fn head_of(&self, name: &Arc<str>, groups: &[Arc<str>]) -> Vec<Rule> {
        let mut head = self.configured(|who| who.is_about(name, groups));
        head.extend(self.sections.get(name).into_iter().flatten().cloned());
        head
    }

    fn configured(&self, is_about: impl Fn(&Who) -> bool) -> Vec<Rule> {
        let rules = self.rules.iter().filter(|(who, _)| who.iter().any(&is_about));
        rules.map(|(_, rule)| rule.clone()).collect()
    }

    fn list(&self, head: Vec<Rule>) -> RuleList {
        let (len, uses) = (head.len(), Uses::of(&head));
        let whole = head.into_iter().chain(self.patterns.rules.iter().chain(&self.last).cloned()).collect();
        RuleList { head: len, uses, whole }
    }
}

impl Default for RuleList {
    fn default() -> Self {
        Self { head: 0, uses: Uses::default(), whole: Arc::from([]) }
    }
}

/// What the ACL file says about who asks, patterns aside.
pub(super) fn section_of<'a>(acl: &'a AclFile, asker: &Asker<'_>) -> Option<&'a Section> {
    match asker.grant {
        None => Some(&acl.anonymous),
        Some(_) => acl.users.get(asker.subject),
    }
}

/// What allows everything.
pub(super) fn unrestricted() -> Arc<[Rule]> {
    Passport::unrestricted(Arc::from(""), Arc::from("")).rules
}
