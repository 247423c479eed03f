//! What `--check` prints: the configuration in force as TOML, secrets hidden.

use serde::Serialize;
use toml::{Table, Value};

/// Stands for a secret.
const HIDDEN: &str = "(hidden)";

/// What the last word of a key must be for its value to be a secret. Files of secrets are named by their path, which is
/// none.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "key"];

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

fn hide(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        let secret = SECRET_WORDS.contains(&key.rsplit('_').next().unwrap_or_default());
        match value {
            Value::Table(table) => hide(table),
            Value::Array(array) => array.iter_mut().filter_map(Value::as_table_mut).for_each(hide),
            Value::String(value) if secret => HIDDEN.clone_into(value),
            _ => {}
        }
    }
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
}
