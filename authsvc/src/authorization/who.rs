//! Whom a rule or a limit is about.

use std::sync::Arc;

/// Stands for everybody who authenticated.
const EVERYBODY: &str = "*";

/// Stands for those who did not have to.
const ANONYMOUS: &str = "anonymous";

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Everybody,
    Anonymous,
    Group(Arc<str>),
    User(Arc<str>),
}

impl Who {
    pub(super) fn parse(who: &Arc<str>) -> Result<Self, String> {
        match who.strip_prefix("group:") {
            Some("") => Err("group: needs a name, as in \"group:staff\"".to_owned()),
            Some(name) => Ok(Self::Group(name.into())),
            None if &**who == EVERYBODY => Ok(Self::Everybody),
            None if &**who == ANONYMOUS => Ok(Self::Anonymous),
            None => Ok(Self::User(who.clone())),
        }
    }

    /// Whether it stands for the user `name`, who is in `groups`.
    pub(super) fn is_about(&self, name: &str, groups: &[Arc<str>]) -> bool {
        match self {
            Self::Everybody => true,
            Self::Anonymous => false,
            Self::Group(group) => groups.contains(group),
            Self::User(user) => **user == *name,
        }
    }
}
