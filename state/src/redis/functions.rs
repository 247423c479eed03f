//! The library of functions that Redis carries out, named by its own content: a worker of another version calls other
//! functions, and both stay loaded. A library is never replaced.
//!
//! Its text says keys, arguments and letters by name; places and letters are put in here, from what [`super::operations`] declares,
//! so that Redis looks nothing up by name.

use super::keys::fingerprint;
use super::op::Form;
use super::operations::{ClaimOp, SIGNATURES, Signature, word};

/// In this order: how calls are carried out comes last.
const TEXT: &str = concat!(
    include_str!("lua/store.lua"),
    "\n",
    include_str!("lua/seats.lua"),
    "\n",
    include_str!("lua/queue.lua"),
    "\n",
    include_str!("lua/cluster.lua"),
    "\n",
    include_str!("lua/calls.lua"),
);

/// The library and the names of its functions.
#[derive(Debug)]
pub(super) struct Library {
    /// What FUNCTION LOAD takes.
    pub(super) text: String,
    /// For calls with a number; answered once, however often it is sent.
    pub(super) write: String,
    /// For all others.
    pub(super) read: String,
}

impl Library {
    pub(super) fn new() -> Self {
        Self::of(&Places::put_into(TEXT).text)
    }

    fn of(text: &str) -> Self {
        let name = format!("tidegate_{:08x}", fingerprint(text));
        let text = format!("#!lua name={name}\n{}", text.replace("@NAME@", &name));
        Self { text, write: format!("{name}_write"), read: format!("{name}_read") }
    }
}

/// A text with places in place of names.
#[derive(Default)]
struct Places {
    text: String,
    /// The operation to which what comes belongs.
    operation: Option<&'static Signature>,
    /// Names that stand for something, by operation.
    found: Vec<(&'static str, String)>,
    /// Names that stand for nothing, with their lines.
    unknown: Vec<String>,
}

impl Places {
    fn put_into(text: &str) -> Self {
        let mut places = Self::default();
        for line in text.lines() {
            if line.starts_with("function ") || line.starts_with("local function ") {
                places.operation = operation_of(line);
            }
            let code = line.find("--").unwrap_or(line.len());
            places.put_line(line.get(..code).unwrap_or_default(), line);
            places.text.push('\n');
        }
        places
    }

    fn put_line(&mut self, code: &str, line: &str) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut rest = code;
        while let Some((before, after)) = rest.split_once('.') {
            let list_at = before.rfind(|c| !is_name(c)).map_or(0, |at| at + 1);
            let (before, list) = before.split_at(list_at);
            let (name, after) = after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()));
            self.text.push_str(before);
            match self.place(list, name) {
                Some(place) if !before.ends_with('.') => self.text.push_str(&place),
                _ => {
                    if matches!(list, "k" | "a" | "first" | "word") {
                        self.unknown.push(line.to_owned());
                    }
                    self.text.push_str(list);
                    self.text.push('.');
                    self.text.push_str(name);
                }
            }
            rest = after;
        }
        self.text.push_str(rest);
    }

    /// What `list.name` stands for.
    fn place(&mut self, list: &str, name: &str) -> Option<String> {
        let operation = self.operation;
        // A local function has the keys of a whole session.
        let signature = operation.unwrap_or(&ClaimOp::SIGNATURE);
        let place = match list {
            "k" => {
                let at = signature.keys.iter().position(|key| *key == name)?;
                format!("k[{}]", at + 1)
            }
            "a" => format!("a[{}]", arg_place(operation?, name, false)?),
            "first" => arg_place(operation?, name, true)?.to_string(),
            "word" => {
                let (_, letter) = word::ALL.iter().find(|(word, _)| *word == name)?;
                format!("'{}'", char::from(*letter))
            }
            _ => return None,
        };
        self.found.push((signature.name, format!("{list}.{name}")));
        Some(place)
    }
}

/// The operation that a line begins, or belongs to.
fn operation_of(line: &str) -> Option<&'static Signature> {
    let (_, name) = line.split_once("ops.")?;
    let name = name.split('(').next()?;
    SIGNATURES.iter().find(|signature| signature.name == name)
}

/// The place of an argument, from 1 on.
fn arg_place(signature: &Signature, name: &str, is_list: bool) -> Option<usize> {
    let mut place = 1;
    for (arg, form) in signature.args {
        match form {
            Form::One if *arg == name && !is_list => return Some(place),
            Form::List if *arg == name && is_list => return Some(place),
            Form::One | Form::List => place += 1,
            Form::Parts(parts) => {
                if let Some(at) = parts.iter().position(|part| *part == name && !is_list) {
                    return Some(place + at);
                }
                place += parts.len();
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    // ARCHITECTURE, rule 25: two libraries cannot share the name of a function either.
    #[test]
    fn another_text_has_another_name_and_other_functions() {
        let [one, two] = ["x('@NAME@_write')", "y('@NAME@_write')"].map(Library::of);
        assert_ne!(one.text.lines().next(), two.text.lines().next());
        assert_ne!(one.write, two.write);
        assert_ne!(one.read, two.read);
        assert!(one.text.ends_with(&format!("x('{}')", one.write)), "{}", one.text);
        assert_eq!(Library::new().write, Library::new().write);
    }

    #[test]
    fn places_stand_where_names_were() {
        let text = "function ops.subscribe(k, a)\n  f(k.subscriptions, a.epoch, first.subscriptions, s.k.session) -- a.b\n\
                    local function f(k)\n  g(k.orphans, word.FENCED, a.epoch)";
        let places = Places::put_into(text);
        let expected = "function ops.subscribe(k, a)\n  f(k[2], a[2], 5, s.k.session) \n\
                        local function f(k)\n  g(k[7], 'F', a.epoch)\n";
        assert_eq!(places.text, expected);
        assert_eq!(places.unknown, ["  g(k.orphans, word.FENCED, a.epoch)"]);
    }

    #[test]
    fn every_name_in_the_library_is_declared() {
        assert_eq!(Places::put_into(TEXT).unknown, Vec::<String>::new());
        let by_place: Vec<&str> = TEXT.lines().filter(|line| is_by_place(line)).collect();
        assert_eq!(by_place, ["  if a.has_identities == '1' then s, e, key = k[1], k[2], 3 end"]);
    }

    /// Whether a line names a key or an argument by a number.
    fn is_by_place(line: &str) -> bool {
        let code = line.split("--").next().unwrap_or_default();
        ["k[", "a["].iter().any(|list| {
            code.match_indices(list).any(|(at, _)| {
                !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.')
                    && code[at + 2..].starts_with(|c: char| c.is_ascii_digit())
            })
        })
    }

    #[test]
    fn every_function_is_declared_and_reads_all_its_arguments() {
        let found = Places::put_into(TEXT).found;
        let functions: Vec<&str> =
            TEXT.lines().filter_map(|line| line.strip_prefix("function ops.")?.split('(').next()).collect();
        let declared: Vec<&str> = SIGNATURES.iter().map(|signature| signature.name).collect();
        let sorted = |mut names: Vec<&'static str>| {
            names.sort_unstable();
            names
        };
        assert_eq!(sorted(declared), sorted(functions), "one of each");
        for signature in SIGNATURES {
            for (arg, form) in signature.args {
                let names = match form {
                    Form::One => vec![format!("a.{arg}")],
                    Form::List => vec![format!("first.{arg}")],
                    Form::Parts(parts) => parts.iter().map(|part| format!("a.{part}")).collect(),
                };
                for name in names {
                    let is_read = found.contains(&(signature.name, name.clone()));
                    // These two read all that they get.
                    assert!(
                        is_read || ["tails", "values"].contains(&signature.name),
                        "{} {name}",
                        signature.name
                    );
                }
            }
        }
    }
}
