//! `docs/configuration.md` and the code say the same of every key: that there is one, its default, and its bounds.

use std::collections::BTreeSet;

use tempfile::TempDir;
use toml::{Table, Value};

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// Sections below others, of which each tells its keys.
const BELOW: [(Tier, &[&str]); 4] = [
    (Tier::Standalone, &["listeners.mqtt", "tls.client_certificates", "tls.tickets"]),
    (Tier::Edge, &["workers.health", "workers.passport", "workers.tls"]),
    (Tier::Worker, &["link.tls"]),
    (Tier::Authsvc, &["service.tls"]),
];

/// Sections that are not there by default, or share keys with others: their keys are those that are shown when they have what they
/// cannot do without.
const SHARING: [(Tier, &str, &str); 5] = [
    (Tier::Standalone, "auth.jwt", "audience = []\nissuer = []\nsecret_file = 'DIR/secret'\n"),
    (
        Tier::Standalone,
        "auth.introspection",
        "url = 'https://as.example.com/'\nclient_id = 'c'\nclient_secret_file = 'DIR/secret'\n",
    ),
    (
        Tier::Standalone,
        "auth.http",
        "contract = 'emqx5'\nurl = 'https://auth.example.com/'\nacl_url = 'https://auth.example.com/'\n",
    ),
    (Tier::Standalone, "auth.ldap", "url = 'ldaps://ldap.example.com'\nuser_dn = 'uid=${username}'\n"),
    (Tier::Edge, "authsvc", "urls = ['http://127.0.0.1:8080']\n"),
];

/// Where the keys that these share are documented.
const SHARED: [&str; 2] = ["### Calls by HTTP\n", "\nHow often it is asked"];

/// Keys that are set by another key, and documented there.
const ELSEWHERE: [&str; 7] = [
    "edge.listeners",
    "edge.tls",
    "broker.packet_bytes_max",
    "state.dir",
    "listeners.mqtt.tls",
    "cluster.handoff_grace_ms",
    "cluster.clean_sessions",
];

/// Keys whose default follows from another key or from the machine.
const DERIVED: [&str; 5] =
    ["link.name", "redis.worker", "listeners.mqtt.bind", "listeners.mqtt.kind", "admin.listen"];

/// What is tried to find a bound: the ends of the types.
const PROBES: [&str; 5] = ["0", "255", "65535", "4294967295", "9223372036854775807"];

/// The known keys of a section, as an unknown one is answered with them.
fn keys(tier: Tier, section: &str) -> Vec<String> {
    let mut text = String::new();
    if !section.is_empty() {
        text = format!("[{section}]\n");
    }
    let message = load_as(tier, &format!("{text}zzzzzzzzzzzzzzzz = 1\n"), &[]).unwrap_err();
    let known = message.split_once("known are ").unwrap_or_else(|| panic!("{section}: {message}")).1;
    known.split(", ").map(str::to_owned).collect()
}

/// What a command cannot do without.
fn needed(tier: Tier, dir: &Path) -> String {
    let file = |name: &str| format!("'{}'", dir.join(name).display());
    match tier {
        Tier::Standalone => String::new(),
        Tier::Edge => format!(
            "workers.addresses = ['127.0.0.1:7883']\nworkers.passport.signing_key_file = {}\n\
             tls.certificates = [{{ certificate_file = {}, key_file = {} }}]\n",
            file("passport.key"),
            file("server.pem"),
            file("server.key")
        ),
        Tier::Worker => format!("passport.verify_key_files = [{}]\n", file("passport.pem")),
        Tier::Authsvc => format!("passport.signing_key_file = {}\n", file("passport.key")),
    }
}

/// A command with all that it needs, and what is in force then.
struct Command {
    tier: Tier,
    text: String,
    shown: Table,
}

impl Command {
    fn new(tier: Tier, more: &str, dir: &TempDir) -> Self {
        let text =
            format!("{}{}", needed(tier, dir.path()), more.replace("DIR", &dir.path().to_string_lossy()));
        let shown = load_as(tier, &text, &[]).unwrap().shown().unwrap().parse().unwrap();
        Self { tier, text, shown }
    }

    /// What is in force; `None` where nothing is set.
    fn default_of(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split('.');
        let first = self.shown.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// What a number must be, as it is refused: `1 to 5`, `at least 1`.
    fn bound_of(&self, key: &str) -> Option<String> {
        let variable = format!("TIDEGATE__{}", key.replace('.', "__").to_uppercase());
        PROBES.iter().find_map(|probe| {
            let refused = load_as(self.tier, &self.text, &[(&variable, probe)]).err()?;
            let rest = refused.split_once(&format!("{key} = {probe}: must be "))?.1;
            Some(rest.split([',', '(', ';']).next()?.trim().to_owned())
        })
    }
}

/// The part of the document about a section, up to the next one.
fn part<'a>(heading: &str) -> Option<&'a str> {
    let part = &DOCUMENT[DOCUMENT.find(heading)? + heading.len()..];
    let end = part.find("\n## ").into_iter().chain(part.find("\n### ")).min();
    Some(&part[..end.unwrap_or(part.len())])
}

/// Default and meaning of a key.
fn row<'a>(part: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    let cells = part.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.splitn(3, " | ");
        Some((cells.next()?, cells.next()?, cells.next()?))
    });
    let name = format!("`{key}`");
    let is_told = |default: &str| !default.starts_with("as in ");
    cells
        .filter(|(keys, default, _)| is_told(default) && keys.split(", ").any(|key| key == name))
        .map(|(_, default, meaning)| (default, meaning))
        .next()
}

/// Whether the cell of the default says this.
fn says(cell: &str, value: &Value) -> bool {
    let expected = match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Boolean(is_set) => is_set.to_string(),
        // Lists and tables are told in words.
        _ => return true,
    };
    let is_end = |c: char| matches!(c, ' ' | ',' | ':' | ';');
    cell == expected
        || cell.trim_matches(['`', '"']) == expected
        || cell.split(is_end).next() == Some(&*expected)
}

/// Whether `text` has this bound, and not one that only begins or ends like it.
fn has_bound(text: &str, bound: &str) -> bool {
    let text = text.to_lowercase().replace('`', "");
    text.match_indices(bound).any(|(at, _)| {
        let is_part = |c: char| c.is_ascii_digit();
        !text[..at].ends_with(is_part) && !text[at + bound.len()..].starts_with(is_part)
    })
}

/// Whether `text` tells of a bound of numbers.
fn tells_of_a_bound(text: &str) -> bool {
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let is_number = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    words.windows(3).any(|words| match words {
        [least, "to", most] => is_number(least) && is_number(most),
        ["at" | "At", "least" | "most", bound] => is_number(bound),
        _ => false,
    })
}

/// What the document and the code say differently of a key.
fn differences(command: &Command, section: &str, key: &str, parts: &[&str]) -> Vec<String> {
    let full = format!("{section}.{key}");
    let Some((default, meaning)) = parts.iter().find_map(|part| row(part, key)) else {
        return vec![format!("{full} is not documented")];
    };
    let mut found = Vec::new();
    let in_force = command.default_of(&full);
    let is_number = |cell: &str| !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    match in_force {
        _ if DERIVED.contains(&&*full) || command.text.contains(&format!("{full} = ")) => {}
        Some(value) if !says(default, value) => {
            found.push(format!("{full} is {value}, documented is {default}"));
        }
        None if is_number(default) && command.default_of(section).is_some() => {
            found.push(format!("{full} is not set, documented is {default}"));
        }
        _ => {}
    }
    match command.bound_of(&full) {
        Some(bound)
            if !has_bound(meaning, &bound) && !has_bound(meaning, &bound.replace("at most", "0 to")) =>
        {
            found.push(format!("{full} must be {bound}, documented is: {meaning}"));
        }
        None if tells_of_a_bound(meaning) && in_force.is_some_and(Value::is_integer) => {
            found.push(format!("{full} has no bound, documented is: {meaning}"));
        }
        _ => {}
    }
    found
}

/// Keys with a value, those of tables within with dots.
fn keys_of(table: &Table) -> Vec<String> {
    let within = |(key, value): (&String, &Value)| match value.as_table() {
        Some(table) => keys_of(table).into_iter().map(|below| format!("{key}.{below}")).collect(),
        None => vec![key.clone()],
    };
    table.iter().flat_map(within).collect()
}

fn files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    crate::dev_certs::ensure(dir.path(), Readers::Everybody).unwrap();
    crate::dev_certs::ensure_links(dir.path(), Readers::Everybody).unwrap();
    std::fs::write(dir.path().join("secret"), [b'x'; 32]).unwrap();
    dir
}

#[test]
fn every_key_is_documented_with_its_default_and_its_bounds() {
    let (dir, mut seen, mut found) = (files(), BTreeSet::new(), Vec::new());
    for (tier, below) in BELOW {
        let command = Command::new(tier, "", &dir);
        let mut sections = keys(tier, "");
        sections.retain(|section| section != "listeners" && section != "authorization");
        sections.extend(below.iter().map(|section| (*section).to_owned()));
        for section in sections {
            let heading = section.replace("listeners.mqtt", "listeners.NAME");
            let part = part(&format!("## `[{heading}]`")).unwrap_or_else(|| panic!("no section {heading}"));
            for key in keys(tier, &section) {
                let full = format!("{section}.{key}");
                let has_section = DOCUMENT.contains(&format!("## `[{full}]`"));
                if has_section || ELSEWHERE.contains(&&*full) || !seen.insert((full, part.as_ptr())) {
                    continue;
                }
                found.extend(differences(&command, &section, &key, &[part]));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(seen.len() > 200, "{} keys", seen.len());
}

#[test]
fn keys_that_sections_share_are_documented_with_their_defaults_and_bounds() {
    let (dir, mut found) = (files(), Vec::new());
    let shared = SHARED.map(|heading| part(heading).unwrap());
    for (tier, section, needed) in SHARING {
        let command = Command::new(tier, &format!("[{section}]\n{needed}"), &dir);
        let own = part(&format!("## `[{section}]`")).unwrap();
        let of_jwt = part("### `[auth.jwt]`").unwrap();
        let table = command.default_of(section).and_then(Value::as_table).unwrap();
        let is_asked = |key: &String| !needed.contains(&format!("{key} = "));
        for key in keys_of(table).iter().filter(|key| is_asked(key)) {
            let parts: Vec<&str> = [own].into_iter().chain(shared).chain([of_jwt]).collect();
            found.extend(differences(&command, section, key, &parts));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
