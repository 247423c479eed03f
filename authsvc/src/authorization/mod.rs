//! From configured rules, a Mosquitto ACL file and what sources grant to passports. Clients with the same rules share them.

mod acl_file;
mod limits;
mod list;
mod placeholder;
mod settings;
#[cfg(test)]
mod tests;
mod trace;
mod who;

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::digest;
use link::Passport;
use parking_lot::RwLock;

use crate::verdict::Grant;
use crate::{AuthConfig, AuthError, DenyReason};

use self::acl_file::{AclFile, AclWatch};
use self::limits::LimitsTable;
use self::list::{Asker, Lists};

pub use self::limits::LimitsConfig;
pub(crate) use self::limits::read_limits;
pub use self::settings::{AuthorizationConfig, RetainCondition, RuleConfig};
pub use self::trace::{Origin, RuleTrace, Traced};

/// Who a client turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Let in without credentials.
    Anonymous,
    /// Let in by a source.
    User(Grant),
}

/// Makes passports.
pub(crate) struct Authorization {
    config: AuthorizationConfig,
    acl: Option<AclWatch>,
    in_force: RwLock<Arc<InForce>>,
    limits: LimitsTable,
    /// The subject of anonymous clients, shared by them.
    nobody: Arc<str>,
    lifetime_s: Option<u64>,
}

struct InForce {
    acl: Arc<AclFile>,
    lists: Lists,
    name: Arc<str>,
}

impl InForce {
    fn new(config: &AuthorizationConfig, acl: Arc<AclFile>) -> Result<Self, AuthError> {
        let lists = Lists::new(config, &acl)?;
        let mut rules = digest::Context::new(&digest::SHA256);
        // A configuration can always be written.
        rules.update(&serde_json::to_vec(config).unwrap_or_default());
        rules.update(&acl.digest);
        let name = rules.finish().as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(Self { acl, lists, name: name.into() })
    }
}

impl Authorization {
    /// Compiles `config`, and reads the ACL file that it names; passports last as long as `auth` says.
    pub(crate) fn new(config: &AuthorizationConfig, auth: &AuthConfig) -> Result<Self, AuthError> {
        let opened = config.acl_file.as_deref().map(AclWatch::open).transpose()?;
        let (acl, file) = opened.map_or_else(|| (None, Arc::default()), |(watch, file)| (Some(watch), file));
        let in_force = InForce::new(config, file)?;
        Ok(Self {
            config: config.clone(),
            acl,
            in_force: RwLock::new(Arc::new(in_force)),
            limits: LimitsTable::new(&config.limits)?,
            nobody: "".into(),
            lifetime_s: auth.passport_lifetime_s,
        })
    }

    /// Has the ACL file read again though it looks the same, when [`Authorization::look`] finds it settled.
    pub(crate) fn ask(&self) {
        if let Some(acl) = &self.acl {
            acl.ask();
        }
    }

    /// Looks whether the ACL file has changed and settled, and takes it then; what is wrong with it leaves in force what was.
    /// Either is logged. Blocks on the disk.
    pub(crate) fn look(&self, now: Instant) {
        let Some(acl) = &self.acl else { return };
        let current = self.in_force.read().clone();
        match acl.look(now, &current.acl) {
            Ok(None) => {}
            Ok(Some(file)) => self.take(file),
            // Nothing is wrong with what there is, but somebody has meant something else.
            Err(error @ AuthError::AclEmpty { .. }) => tracing::warn!(%error, "ACL file not taken"),
            Err(error) => tracing::error!(%error, "ACL file not taken, what it said before stays"),
        }
    }

    fn take(&self, acl: Arc<AclFile>) {
        match InForce::new(&self.config, acl) {
            Ok(in_force) => {
                tracing::info!(users = in_force.acl.users.len(), "ACL file read");
                *self.in_force.write() = Arc::new(in_force);
            }
            Err(error) => tracing::error!(%error, "ACL file not taken, what it said before stays"),
        }
    }

    /// Whether rules may become others while the process runs.
    pub(crate) fn may_change(&self) -> bool {
        self.acl.is_some()
    }

    /// Names the rules in force: processes with the same rules have the same name for them.
    pub(crate) fn name(&self) -> Arc<str> {
        self.in_force.read().name.clone()
    }

    /// Whether rules go by what only a client's source can say of it: its groups and attributes.
    pub(crate) fn asks_sources(&self) -> bool {
        self.in_force.read().lists.ask_sources()
    }

    /// The passport of `identity`, from `now_s` (seconds since the Unix epoch) on.
    pub(crate) fn passport(
        &self,
        identity: &Identity,
        client_id: &Arc<str>,
        now_s: u64,
    ) -> Result<Arc<Passport>, DenyReason> {
        let (grant, subject) = match identity {
            Identity::Anonymous => (None, &self.nobody),
            Identity::User(grant) => (Some(grant), &grant.subject),
        };
        let in_force = self.in_force.read().clone();
        let rules = in_force.lists.rules(&Asker { grant, client_id, subject })?;
        let lifetime_ends_s = self.lifetime_s.map(|lifetime_s| now_s.saturating_add(lifetime_s));
        let granted_until_s = grant.and_then(|grant| grant.expires_at_s);
        let expires_at_s = lifetime_ends_s.into_iter().chain(granted_until_s).min();
        let token_id = grant.and_then(|grant| grant.token_id.clone());
        let passport = Passport::new(subject.clone(), client_id.clone(), rules);
        let attributes = grant.and_then(|grant| grant.told.clone());
        let limits = self.limits.of(grant);
        Ok(Arc::new(Passport { expires_at_s, token_id, attributes, limits, ..passport }))
    }
}
