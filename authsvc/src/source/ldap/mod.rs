//! A directory as a source: who can bind there (RFC 4513) with the password that came is let in, with the groups and attributes
//! of the entry. A bind without a password is never tried: servers take it for one of nobody, and say yes.

mod config;
mod connection;
mod dn;
mod template;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use config::LdapConfig;
use config::{Finding, Grouping};
use connection::{Connections, SUCCESS, fault};
use ldap3::{Ldap, Scope, SearchEntry, SearchOptions, dn_escape, ldap_escape};
use template::Field;

use super::context::SourceContext;
use crate::inquiry::{Fault, Inquiry, Reply};
use crate::verdict::{Grant, Verdict, is_subject};
use crate::{AuthError, DenyReason, Request};

/// Groups of one user.
const GROUPS_MAX: usize = 256;

/// Bytes of one attribute's value.
const ATTRIBUTE_BYTES_MAX: usize = 1024;

/// Asks for no attribute (RFC 4511 section 4.5.1.8).
const NO_ATTRIBUTES: &str = "1.1";

/// Result codes of RFC 4511, appendix A.1.
const NO_SUCH_OBJECT: u32 = 32;
const INVALID_DN_SYNTAX: u32 = 34;
const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
const INVALID_CREDENTIALS: u32 = 49;
const INSUFFICIENT_ACCESS_RIGHTS: u32 = 50;
const CONSTRAINT_VIOLATION: u32 = 19;
const UNWILLING_TO_PERFORM: u32 = 53;

/// See the module.
pub(super) struct LdapSource {
    connections: Connections,
    finding: Finding,
    grouping: Grouping,
    username_attribute: String,
    attributes: Vec<String>,
    inquiry: Inquiry,
    timeout: Duration,
}

/// Who wants in.
struct Login<'a> {
    username: &'a str,
    password: &'a str,
    client_id: &'a str,
}

/// What a search found.
enum Found {
    /// An entry; what it says, if it was asked.
    Entry(SearchEntry),
    Nobody,
    Several,
}

impl LdapSource {
    /// Asks as `config` says.
    ///
    /// # Errors
    /// A key is not as it should be, or a file cannot be used.
    pub(super) fn start(config: &LdapConfig, context: &SourceContext) -> Result<Self, AuthError> {
        config.check()?;
        let timeout = Duration::from_millis(config.timeout_ms);
        Ok(Self {
            connections: Connections::new(config)?,
            finding: config.finding()?,
            grouping: config.grouping()?,
            username_attribute: config.username_attribute.clone(),
            attributes: config.attributes.clone(),
            inquiry: Inquiry::new(
                "ldap",
                config.inquiry(),
                config.connections_max,
                timeout,
                &context.metrics,
                &context.slow_down,
            ),
            timeout,
        })
    }

    /// Ignores who has no user name, or a password that is no text.
    pub(super) async fn decide(&self, request: &Request) -> Verdict {
        let Some(username) = request.username.as_deref().filter(|name| is_subject(name)) else {
            return Verdict::Ignore;
        };
        let password = request.password.as_deref().unwrap_or_default();
        if password.is_empty() {
            // RFC 4513 section 5.1.2
            return Verdict::Deny(DenyReason::BadCredentials);
        }
        let Ok(password) = std::str::from_utf8(password) else { return Verdict::Ignore };
        let login = Login { username, password, client_id: &request.client_id };
        let fingerprint = self.inquiry.fingerprint(&[
            username.as_bytes(),
            password.as_bytes(),
            if self.uses_client_id() { login.client_id.as_bytes() } else { b"" },
        ]);
        self.inquiry.ask(fingerprint, username, request, || self.ask_in_time(&login)).await
    }

    fn uses_client_id(&self) -> bool {
        match &self.finding {
            Finding::Named(template) | Finding::Searched { filter: template, .. } => {
                template.uses(Field::ClientId)
            }
        }
    }

    async fn ask_in_time(&self, login: &Login<'_>) -> Result<Reply, Fault> {
        let asked = tokio::time::timeout(self.timeout, self.ask(login)).await;
        let reply = asked.unwrap_or(Err(Fault::Timeout));
        if reply.is_err() {
            self.connections.forget();
        }
        reply
    }

    async fn ask(&self, login: &Login<'_>) -> Result<Reply, Fault> {
        match &self.finding {
            Finding::Named(template) => {
                let name = template.render(|field| dn_escape(login.value(field)).into_owned());
                self.bind_and_read(&name, login).await
            }
            Finding::Searched { base, filter } => {
                let filter = filter.render(|field| ldap_escape(login.value(field)).into_owned());
                self.search_and_bind(base, &filter, login).await
            }
        }
    }

    /// Whoever binds reads its own entry.
    async fn bind_and_read(&self, name: &str, login: &Login<'_>) -> Result<Reply, Fault> {
        let mut ldap = self.connections.to_bind().await?;
        if let Some(refused) = bind(&mut ldap, name, login.password).await? {
            self.connections.keep_to_bind(ldap);
            return Ok(refused.into());
        }
        let found = search(&mut ldap, name, Scope::Base, "(objectClass=*)", &self.wanted()).await?;
        let verdict = match found {
            Found::Entry(entry) => self.grant(&mut ldap, entry, login).await?,
            Found::Nobody | Found::Several => {
                tracing::warn!(
                    "a user of the directory may not read its own entry; search with a service_dn"
                );
                Verdict::Deny(DenyReason::NotAuthorized)
            }
        };
        self.connections.keep_to_bind(ldap);
        Ok(Reply::right(verdict))
    }

    /// The service finds the entry and what it says; the user only binds.
    async fn search_and_bind(&self, base: &str, filter: &str, login: &Login<'_>) -> Result<Reply, Fault> {
        let mut searching = self.connections.to_search().await?;
        let found = search(&mut searching, base, Scope::Subtree, filter, &self.wanted()).await?;
        let entry = match found {
            Found::Entry(entry) => entry,
            Found::Nobody => {
                self.connections.keep_to_search(searching);
                return self.refuse_unknown(base, login).await;
            }
            Found::Several => {
                self.connections.keep_to_search(searching);
                tracing::warn!("auth.ldap.search_filter finds several entries for one user name");
                return Ok(Verdict::Deny(DenyReason::NotAuthorized).into());
            }
        };
        let mut binding = self.connections.to_bind().await?;
        let refused = bind(&mut binding, &entry.dn, login.password).await?;
        self.connections.keep_to_bind(binding);
        let reply = match refused {
            Some(refused) => refused.into(),
            None => Reply::right(self.grant(&mut searching, entry, login).await?),
        };
        self.connections.keep_to_search(searching);
        Ok(reply)
    }

    /// Takes as many questions as for somebody who is there, so that fewer tell who is.
    async fn refuse_unknown(&self, base: &str, login: &Login<'_>) -> Result<Reply, Fault> {
        let mut binding = self.connections.to_bind().await?;
        let nobody = format!("cn={:032x},{base}", rand::random::<u128>());
        bind(&mut binding, &nobody, login.password).await?;
        self.connections.keep_to_bind(binding);
        Ok(Verdict::Ignore.into())
    }

    fn wanted(&self) -> Vec<&str> {
        let mut wanted: Vec<&str> = self.attributes.iter().map(String::as_str).collect();
        wanted.push(&self.username_attribute);
        if let Grouping::Attribute { name, .. } = &self.grouping {
            wanted.push(name);
        }
        wanted.retain(|name| !name.is_empty());
        if wanted.is_empty() { vec![NO_ATTRIBUTES] } else { wanted }
    }

    async fn grant(&self, ldap: &mut Ldap, entry: SearchEntry, login: &Login<'_>) -> Result<Verdict, Fault> {
        let subject = match self.username_attribute.as_str() {
            "" => login.username,
            name => match first_of(&entry, name).filter(|name| is_subject(name)) {
                Some(subject) => subject,
                None => {
                    tracing::warn!(
                        attribute = name,
                        "an entry of the directory does not say how it is called"
                    );
                    return Ok(Verdict::Deny(DenyReason::NotAuthorized));
                }
            },
        };
        let mut attributes = BTreeMap::new();
        for name in &self.attributes {
            let Some(value) = first_of(&entry, name) else { continue };
            if value.len() > ATTRIBUTE_BYTES_MAX {
                // Of this user alone: it is no fault of the directory.
                tracing::warn!(attribute = name, "an entry of the directory has a value that is too long");
                return Ok(Verdict::Deny(DenyReason::NotAuthorized));
            }
            attributes.insert(Arc::from(name.as_str()), Arc::from(value));
        }
        let groups = self.groups(ldap, &entry, login).await?;
        if groups.len() > GROUPS_MAX {
            tracing::warn!(
                "a user of the directory has too many groups; narrow them by auth.ldap.group_base"
            );
            return Ok(Verdict::Deny(DenyReason::NotAuthorized));
        }
        Ok(Verdict::Allow(Grant { attributes, groups, ..Grant::of(subject.into()) }))
    }

    async fn groups(
        &self,
        ldap: &mut Ldap,
        entry: &SearchEntry,
        login: &Login<'_>,
    ) -> Result<Vec<Arc<str>>, Fault> {
        let names = match &self.grouping {
            Grouping::None => return Ok(Vec::new()),
            Grouping::Attribute { name, base } => {
                let is_ours = |group: &&String| base.as_ref().is_none_or(|base| dn::is_below(group, base));
                values_of(entry, name).iter().filter(is_ours).cloned().collect()
            }
            Grouping::Searched { base, filter } => {
                let filter = filter.render(|field| match field {
                    Field::Dn => ldap_escape(entry.dn.as_str()).into_owned(),
                    field => ldap_escape(login.value(field)).into_owned(),
                });
                let options = SearchOptions::new().sizelimit(limit(GROUPS_MAX + 1));
                let searched = ldap.with_search_options(options).search(
                    base,
                    Scope::Subtree,
                    &filter,
                    vec![NO_ATTRIBUTES],
                );
                let found = searched.await.map_err(|error| fault(&error))?;
                let (entries, _) = found.success().map_err(|error| fault(&error))?;
                entries
                    .into_iter()
                    .filter(|entry| !entry.is_ref())
                    .map(|entry| SearchEntry::construct(entry).dn)
                    .collect::<Vec<_>>()
            }
        };
        let mut groups: Vec<Arc<str>> =
            names.iter().filter_map(|name| dn::first_value(name)).map(Arc::from).collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }
}

impl Login<'_> {
    fn value(&self, field: Field) -> &str {
        match field {
            Field::Username => self.username,
            Field::ClientId => self.client_id,
            Field::Dn => "",
        }
    }
}

/// Why a user is refused; `None` if it is not.
async fn bind(ldap: &mut Ldap, name: &str, password: &str) -> Result<Option<Verdict>, Fault> {
    let bound = ldap.simple_bind(name, password).await.map_err(|error| fault(&error))?;
    match bound.rc {
        SUCCESS => Ok(None),
        NO_SUCH_OBJECT | INVALID_DN_SYNTAX | INAPPROPRIATE_AUTHENTICATION | INVALID_CREDENTIALS => {
            Ok(Some(Verdict::Deny(DenyReason::BadCredentials)))
        }
        // Locked, expired, or not now.
        INSUFFICIENT_ACCESS_RIGHTS | CONSTRAINT_VIOLATION | UNWILLING_TO_PERFORM => {
            Ok(Some(Verdict::Deny(DenyReason::NotAuthorized)))
        }
        rc => {
            tracing::debug!(rc, "the directory cannot bind now");
            Err(Fault::Failing)
        }
    }
}

async fn search(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attributes: &[&str],
) -> Result<Found, Fault> {
    // Two are enough to know that there are several.
    let options = SearchOptions::new().sizelimit(2);
    let searched = ldap.with_search_options(options).search(base, scope, filter, attributes).await;
    let ldap3::SearchResult(entries, result) = searched.map_err(|error| fault(&error))?;
    let mut entries = entries.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
    match (entries.next(), entries.next()) {
        (Some(_), Some(_)) => Ok(Found::Several),
        (Some(entry), None) if result.rc == SUCCESS => Ok(Found::Entry(SearchEntry::construct(entry))),
        (None, _) if matches!(result.rc, SUCCESS | NO_SUCH_OBJECT | INSUFFICIENT_ACCESS_RIGHTS) => {
            Ok(Found::Nobody)
        }
        _ => {
            tracing::debug!(rc = result.rc, "the directory cannot search now");
            Err(Fault::Failing)
        }
    }
}

/// Names of attributes have no case (RFC 4512 section 2.5).
fn values_of<'a>(entry: &'a SearchEntry, name: &str) -> &'a [String] {
    let found = entry.attrs.iter().find(|(of, _)| of.eq_ignore_ascii_case(name));
    found.map_or(&[], |(_, values)| values.as_slice())
}

fn first_of<'a>(entry: &'a SearchEntry, name: &str) -> Option<&'a str> {
    values_of(entry, name).first().map(String::as_str)
}

fn limit(entries: usize) -> i32 {
    i32::try_from(entries).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
