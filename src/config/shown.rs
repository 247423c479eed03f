//! What is shown of the configuration: by `--check` all that is in force as TOML, in an error line the value that is wrong. Secrets
//! are hidden in both.

use serde::Serialize;
use toml::{Table, Value};

/// Stands for a secret.
const HIDDEN: &str = "(hidden)";

/// What the last word of a key must be for its value to be a secret. Files of secrets are named by their path, which is
/// none.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "key"];

/// Keys with other names below which everything is a secret: URLs with a password, and headers that say who asks.
const SECRET_KEYS: [&str; 2] = ["nodes", "headers"];

/// How keys of URLs end.
const URL_KEYS: [&str; 2] = ["url", "urls"];

/// A key that two crates know, by section.
type Twin = (&'static str, &'static str);

/// What is shown at the one place where it is set.
pub(crate) const OF_STANDALONE: [Twin; 4] =
    [("edge", "listeners"), ("edge", "tls"), ("broker", "packet_bytes_max"), ("state", "dir")];

/// The same.
pub(crate) const OF_EDGE: [Twin; 2] = [("edge", "listeners"), ("edge", "tls")];

/// The same; without a key, the whole section.
pub(crate) const OF_EDGE_THAT_ASKS: [Twin; 4] =
    [("edge", "listeners"), ("edge", "tls"), ("auth", ""), ("authorization", "")];

/// The same.
pub(crate) const OF_AUTHSVC: [Twin; 1] = [("auth", "passport_lifetime_s")];

/// The same.
pub(crate) const OF_WORKER: [Twin; 2] = [("cluster", "handoff_grace_ms"), ("cluster", "clean_sessions")];

pub(crate) fn shown(config: &impl Serialize, twins: &[Twin]) -> Result<String, toml::ser::Error> {
    let mut table = Table::try_from(config)?;
    for (section, key) in twins {
        if key.is_empty() {
            table.remove(*section);
        }
        table.get_mut(*section).and_then(Value::as_table_mut).map(|section| section.remove(*key));
    }
    hide(&mut table);
    toml::to_string_pretty(&table)
}

/// What `key`, with dots and `[index]`, was set to, as far as everybody may know it.
pub(super) fn told(key: &str, value: &Value) -> Option<String> {
    if is_secret(key) || value.is_table() {
        return None;
    }
    let mut value = value.clone();
    hide_in(&mut value, false);
    Some(without_users(key, &value.to_string()))
}

/// Whether what is below `key` is a secret.
pub(super) fn is_secret(key: &str) -> bool {
    key.split(['.', '[']).any(names_secret)
}

fn names_secret(part: &str) -> bool {
    SECRET_KEYS.contains(&part) || SECRET_WORDS.contains(&part.rsplit('_').next().unwrap_or_default())
}

fn hide(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        hide_in(value, names_secret(key));
    }
}

fn hide_in(value: &mut Value, is_secret: bool) {
    match value {
        Value::Table(table) if is_secret => table.iter_mut().for_each(|(_, value)| hide_in(value, true)),
        Value::Table(table) => hide(table),
        Value::Array(array) => array.iter_mut().for_each(|value| hide_in(value, is_secret)),
        Value::String(value) if is_secret => HIDDEN.clone_into(value),
        _ => {}
    }
}

/// What is said of `key` without the user names and passwords of URLs in it. Rather too much is left out than too little: what is
/// wrong may be the URL itself.
pub(super) fn without_users(key: &str, text: &str) -> String {
    let key = key.split('[').next().unwrap_or_default();
    let is_url = URL_KEYS.iter().any(|last| key.ends_with(last));
    let scheme = text.find("://").map(|scheme| scheme + "://".len());
    let found = scheme.or(is_url.then_some(0)).zip(text.rfind('@')).filter(|(start, end)| start <= end);
    found
        .map_or_else(|| text.to_owned(), |(start, end)| format!("{}{HIDDEN}{}", &text[..start], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let mut table: Table =
            "jwt_secret = 'a'\nkey_file = 'k.pem'\n[link]\npassword = 'b'\n[[peer]]\ntoken = 'c'\n"
                .parse()
                .unwrap();
        hide(&mut table);
        let shown = table.to_string();
        assert_eq!(shown.matches(HIDDEN).count(), 3, "{shown}");
        assert!(shown.contains("k.pem"));
    }

    #[test]
    fn an_error_line_tells_no_secret() {
        let value = |text: &str| Value::String(text.to_owned());
        for key in ["redis.password", "redis.nodes", "redis.nodes[1]", "auth.http.headers.x-user"] {
            assert_eq!(told(key, &value("abc")), None, "{key}");
        }
        assert_eq!(told("data.dir", &value("abc")), Some("\"abc\"".to_owned()));
        assert_eq!(told("tls.key_file", &value("k.pem")), Some("\"k.pem\"".to_owned()));
        for url in ["https://a:b@c/d", "https://a:b/@@c/d", "https://a @c/d"] {
            for key in ["auth.http.url", "data.dir"] {
                assert_eq!(told(key, &value(url)).unwrap(), "\"https://(hidden)@c/d\"");
            }
        }
        for key in ["auth.http.acl_url", "authsvc.urls[0]"] {
            assert_eq!(told(key, &value("a:b@c/d")).unwrap(), "(hidden)@c/d\"");
        }
        let list = Value::Array(vec![value("https://a:b@c"), value("https://d:e@f")]);
        assert_eq!(told("authsvc.urls", &list).unwrap(), "[\"https://(hidden)@f\"]");
        assert_eq!(told("auth.ldap.user", &value("a@c")).unwrap(), "\"a@c\"");
    }
}
