//! A Mosquitto ACL file, read as it is (mosquitto.conf(5), `acl_file`): lines `topic` before the first `user` are about clients
//! without a user name, those after it about that user, and lines `pattern` about everybody, with `%c` and `%u` anywhere. Within
//! each of these, `deny` comes before everything else. Reading a message needs no permission to subscribe: see
//! [`link::Action::Receive`].

mod pattern;
mod watch;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use link::{Action, Effect, Rule};
use mqtt::topic::validate_filter;

use super::placeholder::is_placeholder;
use crate::AuthError;

pub(super) use pattern::{Fit, Patterns, fill as fill_patterns};
pub(super) use watch::AclWatch;

/// Bytes of a file.
const FILE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AclFile {
    pub(super) anonymous: Section,
    pub(super) users: HashMap<Arc<str>, Section>,
    pub(super) patterns: Section,
    /// Lines that mean nothing, from 1: Mosquitto knows no placeholders there, and no topic has what they name.
    pub(super) ignored: Vec<usize>,
    /// Of its bytes.
    pub(super) digest: [u8; 32],
}

/// Lines about the same clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Section {
    denying: Vec<Line>,
    allowing: Vec<Line>,
}

/// One line `topic` or `pattern`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub(super) number: usize,
    pub(super) access: Access,
    pub(super) topic: Arc<str>,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Access {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self::Read),
            "write" => Some(Self::Write),
            "readwrite" => Some(Self::ReadWrite),
            "deny" => Some(Self::Deny),
            _ => None,
        }
    }

    /// As it is written.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadWrite => "readwrite",
            Self::Deny => "deny",
        }
    }

    fn effect(self) -> Effect {
        if self == Self::Deny { Effect::Deny } else { Effect::Allow }
    }

    fn is_about(self, action: Action) -> bool {
        match self {
            Self::Read => action == Action::Receive,
            Self::Write => action == Action::Publish,
            Self::ReadWrite | Self::Deny => true,
        }
    }
}

impl Section {
    fn add(&mut self, line: Line) {
        if line.access == Access::Deny { &mut self.denying } else { &mut self.allowing }.push(line);
    }

    /// In the order in which they count.
    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.denying.iter().chain(&self.allowing)
    }

    /// At most four rules that say the same. Lines with one effect decide alike in any order.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for (effect, lines) in [(Effect::Deny, &self.denying), (Effect::Allow, &self.allowing)] {
            for action in [Action::Publish, Action::Receive] {
                let lines = lines.iter().filter(|line| line.access.is_about(action));
                let topics: Vec<_> = lines.map(|line| line.topic.clone()).collect();
                if !topics.is_empty() {
                    rules.push(Rule::new(effect, action, topics));
                }
            }
        }
        rules
    }

    /// The same as a rule or two for each line, with the line.
    pub(super) fn rules_by_line(&self) -> impl Iterator<Item = (&Line, Rule)> {
        self.lines().flat_map(|line| {
            let actions = [Action::Publish, Action::Receive].into_iter();
            let actions = actions.filter(|&action| line.access.is_about(action));
            actions
                .map(move |action| (line, Rule::new(line.access.effect(), action, vec![line.topic.clone()])))
        })
    }
}

/// Whose the lines that come are.
enum Whose {
    Anonymous,
    User(Arc<str>),
}

impl AclFile {
    /// Reads the bytes of a file; `path` is for errors.
    ///
    /// # Errors
    /// The first line that is not understood.
    pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Self, AuthError> {
        let wrong = |line, problem: String| AuthError::AclLine { path: path.to_owned(), line, problem };
        if bytes.len() > FILE_BYTES_MAX {
            return Err(wrong(1, format!("the file has more than {FILE_BYTES_MAX} bytes")));
        }
        let (mut file, mut whose) = (Self::default(), Whose::Anonymous);
        for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let number = index + 1;
            let line = std::str::from_utf8(line).map_err(|_| wrong(number, "is not UTF-8".to_owned()))?;
            file.take(line.trim(), number, &mut whose).map_err(|problem| wrong(number, problem))?;
        }
        file.digest.copy_from_slice(digest(&SHA256, bytes).as_ref());
        Ok(file)
    }

    /// Whether nothing is allowed or forbidden.
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |section: &Section| section.lines().next().is_none();
        is_empty(&self.anonymous) && is_empty(&self.patterns) && self.users.values().all(is_empty)
    }

    fn take(&mut self, line: &str, number: usize, whose: &mut Whose) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        match word {
            "user" if rest.is_empty() => return Err("user without a name".to_owned()),
            "user" => *whose = Whose::User(rest.into()),
            "topic" | "pattern" => {
                let (access, topic) = parse_access(rest)?;
                let line = Line { number, access, topic: topic.into() };
                if !self.is_understood(word, topic) {
                    self.ignored.push(number);
                } else if word == "pattern" {
                    self.patterns.add(line);
                } else {
                    self.section(whose).add(line);
                }
            }
            _ => return Err(format!("{word:?} is not user, topic, pattern or a comment (#)")),
        }
        Ok(())
    }

    fn section(&mut self, whose: &Whose) -> &mut Section {
        match whose {
            Whose::Anonymous => &mut self.anonymous,
            Whose::User(name) => self.users.entry(name.clone()).or_default(),
        }
    }

    /// `%c` is a plain level in `topic` lines for Mosquitto, and `%{name}` in all; here it would mean something.
    fn is_understood(&self, word: &str, topic: &str) -> bool {
        let mut placeholders = topic.split('/').filter(|level| is_placeholder(level));
        match word {
            "pattern" => placeholders.all(|level| !level.starts_with("%{")),
            _ => placeholders.next().is_none(),
        }
    }
}

/// `[read|write|readwrite|deny] TOPIC`, where a single word is the topic.
fn parse_access(rest: &str) -> Result<(Access, &str), String> {
    let (access, topic) = match rest.split_once(char::is_whitespace) {
        None => (Access::ReadWrite, rest),
        Some((word, topic)) => {
            let advice = || format!("{word:?} is not read, write, readwrite or deny");
            (Access::parse(word).ok_or_else(advice)?, topic.trim_start())
        }
    };
    if topic.is_empty() {
        return Err("no topic".to_owned());
    }
    if validate_filter(topic).is_err() {
        return Err(format!("{topic:?} is not a valid Topic Filter"));
    }
    Ok((access, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> AclFile {
        AclFile::parse(text.as_bytes(), Path::new("acl")).unwrap()
    }

    fn shown(section: &Section) -> Vec<String> {
        section.lines().map(|line| format!("{} {} {}", line.number, line.access.word(), line.topic)).collect()
    }

    #[test]
    fn lines_belong_to_the_user_before_them() {
        let file = parse(
            "# comment\n\n  # indented\ntopic read open/#\r\ntopic both\npattern write %c/x\nuser  bob the builder \n\
             topic a\ntopic   deny    sp ace/x  \nuser alice\n\ttopic\twrite y\nuser bob the builder\ntopic read z\n",
        );
        assert_eq!(shown(&file.anonymous), ["4 read open/#", "5 readwrite both"]);
        assert_eq!(shown(&file.patterns), ["6 write %c/x"]);
        let bob = ["9 deny sp ace/x", "8 readwrite a", "13 read z"];
        assert_eq!(shown(&file.users["bob the builder"]), bob);
        assert_eq!(shown(&file.users["alice"]), ["11 write y"]);
        assert!(!file.is_empty() && parse("# nothing\nuser bob\n").is_empty());
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let cases = [
            ("nonsense line", "\"nonsense\" is not user, topic, pattern or a comment (#)"),
            ("topics a", "\"topics\" is not user, topic, pattern or a comment (#)"),
            ("topic", "no topic"),
            ("pattern  ", "no topic"),
            ("user", "user without a name"),
            ("topic Read x", "\"Read\" is not read, write, readwrite or deny"),
            ("topic a b", "\"a\" is not read, write, readwrite or deny"),
            ("topic write a/#/b", "\"a/#/b\" is not a valid Topic Filter"),
        ];
        for (line, problem) in cases {
            let error =
                AclFile::parse(format!("topic a\n{line}\n").as_bytes(), Path::new("acl")).unwrap_err();
            assert_eq!(error.to_string(), format!("ACL file \"acl\" line 2: {problem}"));
        }
        let error = AclFile::parse(b"topic a\xff\n", Path::new("acl")).unwrap_err();
        assert_eq!(error.to_string(), "ACL file \"acl\" line 1: is not UTF-8");
    }

    #[test]
    fn placeholders_where_mosquitto_knows_none_are_ignored() {
        let file = parse("topic a/%c\ntopic deny %u\npattern a/%{x}\ntopic a/x%c\npattern x%c/%u\n");
        assert_eq!(file.ignored, [1, 2, 3]);
        assert_eq!(shown(&file.anonymous), ["4 readwrite a/x%c"]);
        assert_eq!(shown(&file.patterns), ["5 readwrite x%c/%u"]);
    }

    #[test]
    fn what_is_forbidden_comes_first_and_lines_are_gathered() {
        let file = parse("topic read a\ntopic write b\ntopic c\ntopic deny d\ntopic read e\ntopic deny f\n");
        let rule = |effect, action, topics: &[&str]| {
            Rule::new(effect, action, topics.iter().map(|&topic| topic.into()).collect())
        };
        let expected = [
            rule(Effect::Deny, Action::Publish, &["d", "f"]),
            rule(Effect::Deny, Action::Receive, &["d", "f"]),
            rule(Effect::Allow, Action::Publish, &["b", "c"]),
            rule(Effect::Allow, Action::Receive, &["a", "c", "e"]),
        ];
        assert_eq!(file.anonymous.rules(), expected);
        let by_line: Vec<_> = file.anonymous.rules_by_line().map(|(line, _)| line.number).collect();
        assert_eq!(by_line, [4, 4, 6, 6, 1, 2, 3, 3, 5]);
    }
}
