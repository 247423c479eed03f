//! Where settings come from: a TOML file, and over it the environment. Remembers which setting came from where.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use link::{Bind, BindError, SettingError};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::{Fault, Problem, shown};

/// Begins the name of every environment variable that is a setting.
pub(super) const PREFIX: &str = "TIDEGATE__";

/// Keys that had another name: how their path ended, and their last part now.
const RENAMED: [(&str, &str); 2] =
    [("tls.tickets.rotate_secs", "rotate_s"), ("tls.max_fragment_size", "fragment_bytes_max")];

/// Settings as they were given.
pub(crate) struct Source {
    table: Table,
    file: String,
    /// Keys (with dots) that the environment set, and the text that stands there.
    from_environment: BTreeMap<String, String>,
}

impl Source {
    /// Reads `file` (nothing if there is none) and lays `TIDEGATE__SECTION__KEY=value` over it.
    pub(crate) fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problem> {
        let name = file.map_or_else(|| "configuration".to_owned(), |file| file.display().to_string());
        let table = file.map_or_else(|| Ok(Table::new()), |file| read_file(file, &name))?;
        let mut source = Self { table, file: name, from_environment: BTreeMap::new() };
        for (variable, value) in environment {
            if let Some(path) = variable.strip_prefix(PREFIX) {
                source.overlay(&variable, path, &value)?;
            }
        }
        Ok(source)
    }

    fn overlay(&mut self, variable: &str, path: &str, value: &str) -> Result<(), Problem> {
        let wrong = |advice: &str| Err(Problem::of_setting(variable.to_owned(), None, advice.to_owned()));
        let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if keys.len() < 2 || keys.iter().any(String::is_empty) {
            return wrong("expected TIDEGATE__SECTION__KEY");
        }
        let mut table = &mut self.table;
        for section in &keys[..keys.len() - 1] {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            // A listener may have been given as its address alone; a variable for one of its keys keeps that.
            if let Value::String(bind) = entry {
                let bind = Value::String(std::mem::take(bind));
                *entry = Value::Table(Table::from_iter([("bind".to_owned(), bind)]));
            }
            let Some(next) = entry.as_table_mut() else {
                return wrong(&format!("{section} is not a section"));
            };
            table = next;
        }
        table.insert(keys[keys.len() - 1].clone(), parse_value(value));
        self.from_environment.insert(keys.join("."), value.to_owned());
        Ok(())
    }

    /// The whole, for completing.
    pub(crate) fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// What `key`, with dots and `[index]`, was set to.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        let mut parts = key.split(['.', '[']).map(|part| part.trim_end_matches(']'));
        let first = self.table.get(parts.next()?)?;
        parts.try_fold(first, |value, part| match value {
            Value::Table(table) => table.get(part),
            Value::Array(array) => array.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// What is wrong with `key`, with its value, if that is no secret, and where it came from.
    pub(crate) fn problem(&self, key: &str, advice: impl Display) -> Problem {
        let value = self.value(key).and_then(|value| shown::told(key, value));
        self.problem_with(key, value, shown::without_users(key, &advice.to_string()))
    }

    /// What is wrong with a setting, as its section says it.
    pub(crate) fn wrong(&self, error: SettingError) -> Problem {
        self.problem(&error.key, error.problem)
    }

    /// What is wrong with the name of `key`.
    pub(crate) fn unknown(&self, key: &str, advice: impl Display) -> Problem {
        self.problem_with(key, None, advice.to_string())
    }

    fn problem_with(&self, key: &str, value: Option<String>, advice: String) -> Problem {
        let from_environment = |set: &&String| *set == key || set.starts_with(&format!("{key}."));
        let variable = self.from_environment.keys().find(from_environment);
        let origin = variable.map_or_else(
            || self.file.clone(),
            |key| format!("environment variable {PREFIX}{}", key.replace('.', "__").to_uppercase()),
        );
        Problem::of_setting(origin, Some((key.to_owned(), value)), advice)
    }

    /// The names of the sections that were given.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.table.keys().map(String::as_str)
    }

    /// Refuses keys that have their place elsewhere.
    pub(crate) fn refuse(&self, keys: &[(&str, &str)]) -> Result<(), Problem> {
        let given = keys.iter().find(|(key, _)| self.value(key).is_some());
        given.map_or(Ok(()), |(key, advice)| Err(self.problem(key, advice)))
    }

    /// A section as `T`, the default if it was not given; an unknown key is answered with the nearest known one.
    pub(crate) fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T, Problem> {
        let mut value = self.table.get(section).cloned().unwrap_or_else(|| Value::Table(Table::new()));
        loop {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(read) => return Ok(read),
                Err(error) => error,
            };
            let below = error.path().to_string();
            let path = if below == "." { section.to_owned() } else { format!("{section}.{below}") };
            let message = error.inner().message();
            if let Some(text) = self.from_environment.get(&path)
                && expects_text(message)
                && let Some(parsed) = at(&mut value, &below).filter(|parsed| !parsed.is_str())
            {
                // A password of digits is no number.
                *parsed = Value::String(text.clone());
                continue;
            }
            return Err(match UnknownField::parse(message) {
                Some(unknown) => self.unknown(&unknown.within(&path), unknown.advice(&path)),
                None if shown::is_secret(&path) => self.problem(&path, expectation(message)),
                None => Problem {
                    fault: fault_of(at(&mut value, &below), message),
                    ..self.problem(&path, message)
                },
            });
        }
    }
}

/// The value at `path` below `value`.
fn at<'v>(value: &'v mut Value, path: &str) -> Option<&'v mut Value> {
    path.split('.').try_fold(value, |value, part| value.as_table_mut()?.get_mut(part))
}

/// Where the fault is that serde tells of: a name to listen at that nobody knows may be known later.
fn fault_of(value: Option<&mut Value>, message: &str) -> Fault {
    match value.and_then(|value| value.as_str()).map(str::parse::<Bind>) {
        Some(Err(error @ BindError::Unresolved { .. })) if message.contains(&error.to_string()) => {
            Fault::Address
        }
        _ => Fault::Setting,
    }
}

/// Whether serde found something else where a text belongs.
fn expects_text(message: &str) -> bool {
    message.ends_with("expected a string") || message.ends_with("expected path string")
}

/// What serde says that it wants, without what it found.
fn expectation(message: &str) -> &str {
    message.rfind("expected ").map_or("cannot be read", |wanted| &message[wanted..])
}

fn read_file(file: &Path, name: &str) -> Result<Table, Problem> {
    let wrong = |origin, advice| Problem::of_setting(origin, None, advice);
    let text = std::fs::read_to_string(file)
        .map_err(|error| wrong(name.to_owned(), format!("cannot read the configuration file: {error}")))?;
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
        let origin = line.map_or_else(|| name.to_owned(), |line| format!("{name} line {line}"));
        wrong(origin, error.message().to_owned())
    })
}

/// A value as TOML writes it, or else text as it stands.
fn parse_value(text: &str) -> Value {
    let parsed = format!("v = {text}").parse::<Table>().ok();
    let single = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("v"));
    single.unwrap_or_else(|| Value::String(text.to_owned()))
}

/// What serde says about a key that no struct has.
struct UnknownField<'a> {
    name: &'a str,
    known: Vec<&'a str>,
}

impl<'a> UnknownField<'a> {
    fn parse(message: &'a str) -> Option<Self> {
        let rest = message.strip_prefix("unknown field `")?;
        let (name, rest) = rest.split_once('`')?;
        // Every second piece between backquotes is a name.
        let known = rest.split('`').skip(1).step_by(2).collect();
        Some(Self { name, known })
    }

    /// The key with dots.
    fn within(&self, path: &str) -> String {
        join(self.parent(path), self.name)
    }

    /// The path may or may not end in the unknown key itself.
    fn parent<'p>(&self, path: &'p str) -> &'p str {
        let parent = path.strip_suffix(self.name);
        parent.map_or(path, |parent| parent.strip_suffix('.').unwrap_or(parent))
    }

    fn advice(&self, path: &str) -> String {
        let key = self.within(path);
        let is_old =
            |old: &str| key.strip_suffix(old).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| is_old(old)) {
            return format!("is called {} now", join(self.parent(path), new));
        }
        unknown_advice(self.name, self.parent(path), &self.known)
    }
}

/// What to say of a name below `parent` that is none of those known.
pub(crate) fn unknown_advice(name: &str, parent: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let near = nearest.filter(|known| strsim::damerau_levenshtein(known, name) <= 1 + known.len() / 3);
    match near {
        Some(known) => format!("unknown key; did you mean {}?", join(parent, known)),
        // Serde does not tell them of a section that shares keys with others.
        None if known.is_empty() => "unknown key".to_owned(),
        None => format!("unknown key; known are {}", known.join(", ")),
    }
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}
