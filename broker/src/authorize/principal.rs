//! Whose a session is. The principal is who a passport is about: its subject, however that was proven; those that did not
//! have to authenticate are one principal, with an empty name. A session is its principal's alone, see
//! `docs/decisions/0011-a-session-has-a-principal.md`.

use std::sync::Arc;

use link::Passport;
use state::{Owner, Principal};

use crate::config::ForeignSession;

/// Asked for who a principal and a Client Identifier are: their passport as of now, or nothing if they could have none.
pub type Rules = Arc<dyn Fn(&str, &str) -> Option<Arc<Passport>> + Send + Sync>;

/// What a name that is apart begins with: no Client Identifier has it (v5 [MQTT-1.5.4-2]).
const APART: char = '\0';

/// Who a passport is about.
pub(crate) fn principal_of(passport: &Passport) -> Principal {
    Principal(Arc::clone(&passport.subject))
}

/// Whose a message is that this passport's client has retained.
pub(crate) fn owner_of(passport: &Passport) -> Owner {
    let max = passport.limits.as_deref().and_then(|limits| limits.retained_messages_max);
    // Those without a name are no principal that could be held to anything.
    let messages_max = max.filter(|_| !passport.subject.is_empty()).map(u64::from);
    Owner { principal: principal_of(passport), messages_max }
}

/// The name by which a session is known to store and registry: the Client Identifier, unless sessions of different
/// principals are to be apart. Then it is told from all others by its principal; that of clients that did not authenticate
/// is plain.
pub(crate) fn session_name(
    mode: ForeignSession,
    Principal(principal): &Principal,
    client_id: Arc<str>,
) -> Arc<str> {
    if mode == ForeignSession::Refuse || principal.is_empty() {
        return client_id;
    }
    format!("{APART}{}{APART}{principal}{client_id}", principal.len()).into()
}

/// The Client Identifier in a [`session_name`].
pub(crate) fn client_id_of(name: &Arc<str>) -> Arc<str> {
    match part_of(name) {
        Some(client_id) => client_id.into(),
        None => Arc::clone(name),
    }
}

fn part_of(name: &str) -> Option<&str> {
    let (len, rest) = name.strip_prefix(APART)?.split_once(APART)?;
    rest.get(len.parse().ok()?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(principal: &str, client_id: &str) -> Arc<str> {
        session_name(ForeignSession::Separate, &Principal(principal.into()), client_id.into())
    }

    #[test]
    fn names_of_different_principals_and_clients_differ() {
        let parts = ["", "1", "a", "ab", "b", "1a", "\u{1}"];
        let mut seen = std::collections::HashSet::new();
        for principal in parts {
            for client_id in parts {
                let name = name(principal, client_id);
                assert_eq!(&*client_id_of(&name), client_id, "{principal:?} {client_id:?}");
                assert!(seen.insert(name), "{principal:?} {client_id:?}");
            }
        }
    }

    #[test]
    fn a_principal_may_have_any_name() {
        for principal in ["a\0b", "\0", "0\0", "\u{0}1\0"] {
            assert_eq!(&*client_id_of(&name(principal, "c")), "c", "{principal:?}");
        }
        assert_ne!(name("a\0b", "c"), name("a", "\0bc"));
    }

    #[test]
    fn where_others_are_refused_names_are_client_identifiers() {
        let client_id: Arc<str> = "c".into();
        let plain = session_name(ForeignSession::Refuse, &Principal("a".into()), Arc::clone(&client_id));
        assert!(Arc::ptr_eq(&plain, &client_id));
        assert!(Arc::ptr_eq(&client_id_of(&plain), &client_id));
    }
}
