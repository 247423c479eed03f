//! The worked examples of `docs/auth.md`, run as they are written: each from nothing to a client that is let in and one that is not.
//! Only ports are others, so that nothing else on the machine is in the way.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::servers::free_port;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/auth.md");

/// What a client is told that is not let in, or may not do something, in lower case.
const REFUSALS: [&str; 3] = ["not authorized", "bad user name or password", "denied"];

/// Ports that the page names.
const PORTS: [&str; 5] = ["8883", "8080", "8085", "3890", "1883"];

/// A fenced block: its language, and its lines.
struct Block<'a> {
    language: &'a str,
    lines: Vec<&'a str>,
}

/// The sections of a page with their blocks.
fn sections(page: &str) -> Vec<(&str, Vec<Block<'_>>)> {
    let mut sections: Vec<(&str, Vec<Block<'_>>)> = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push((title, Vec::new()));
        } else if let (Some(language), Some((_, blocks))) = (line.strip_prefix("```"), sections.last_mut()) {
            let lines = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            blocks.push(Block { language, lines });
        }
    }
    sections
}

/// A command, and the words that what it prints has to hold; with none of them, it prints nothing that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    printed: Vec<String>,
}

impl Block<'_> {
    /// A file, if it is one: by the name in its first line, or the configuration.
    fn file(&self) -> Option<(&str, String)> {
        let named = self.lines.first().and_then(|line| line.strip_prefix("# "));
        let name = match (self.language, named) {
            ("python" | "toml", Some(name)) => name,
            ("toml", None) => "tidegate.toml",
            _ => return None,
        };
        Some((name, self.lines.join("\n") + "\n"))
    }

    fn steps(&self) -> Vec<Step> {
        match self.language {
            "console" => self.steps_of_console(),
            "sh" => self.steps_of_script(),
            _ => Vec::new(),
        }
    }

    /// `$ command`, and what it prints, or what is typed into `cat > FILE`.
    fn steps_of_console(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for line in &self.lines {
            if let Some(command) = line.strip_prefix("$ ") {
                steps.push(Step { command: command.to_owned(), printed: Vec::new() });
            } else if let Some(step) = steps.last_mut() {
                step.printed.push((*line).to_owned());
            }
        }
        for step in &mut steps {
            if step.command.starts_with("cat > ") {
                let typed = std::mem::take(&mut step.printed).join("\n");
                step.command = format!("{} <<'TYPED'\n{typed}\nTYPED", step.command);
            }
        }
        steps
    }

    /// Commands, with what they print as comments.
    fn steps_of_script(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        let mut lines = self.lines.iter();
        while let Some(line) = lines.next() {
            let (command, comment) = line.split_once("# ").unwrap_or((line, ""));
            let mut command = command.trim_end().to_owned();
            if let Some((_, end)) = line.split_once("<<'") {
                let typed = lines.by_ref().take_while(|line| **line != end.trim_end_matches('\''));
                let typed: Vec<&str> = typed.copied().collect();
                let end = end.trim_end_matches('\'');
                write!(command, "\n{}\n{end}", typed.join("\n")).unwrap();
            }
            let again = comment.strip_prefix("and once more for ").map(|name| {
                let first = command.rsplit_once(' ').map_or("", |(first, _)| first);
                Step { command: format!("{first} {name}"), ..Step::default() }
            });
            let printed =
                if again.is_none() && !comment.is_empty() { vec![comment.to_owned()] } else { Vec::new() };
            match steps.last_mut() {
                Some(step) if command.is_empty() => step.printed.extend(printed),
                _ => steps.push(Step { command, printed }),
            }
            steps.extend(again);
        }
        steps
    }
}

/// In place of the programs of these names: the binary under test, which reads its password, and a slapd that stays.
const PROGRAMS: [(&str, &str); 2] = [
    (
        "tidegate",
        "if [ \"$1\" = passwd ]; then printf '%s\\n' \"$PASSWORD\" | \"$TIDEGATE\" \"$@\"; else exec \"$TIDEGATE\" \"$@\"; fi\n",
    ),
    ("slapd", "/usr/sbin/slapd -d 0 \"$@\" >/dev/null 2>&1 & echo $! >>pids\n"),
];

/// What waits until somebody listens at a port.
const UNTIL: &str = "listens() { for _ in $(seq 600); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.05; done; \
                     echo \"nobody listens at $1\" >&2; }\n";

/// The script that runs `steps`, each with its output in a file of its own.
fn script(steps: &[Step], ports: &[(String, String)]) -> String {
    let mqtt = &ports[PORTS.len() - 1].1;
    let mqtts = &ports[0].1;
    let mut script = format!(
        "set -u\ntrap 'kill $(jobs -p) $(cat pids) 2>/dev/null; wait' EXIT\n: >pids\n{UNTIL}\
         export PATH=\"$PWD/programs:$PATH:/usr/sbin\" PASSWORD='tg-secret-of the page'\n\
         export TIDEGATE__LISTENERS__MQTT=127.0.0.1:{mqtt} TIDEGATE__LISTENERS__MQTTS=127.0.0.1:{mqtts}\n\
         export TIDEGATE__DATA__DIR=data TIDEGATE__LISTENERS__WS=off TIDEGATE__LISTENERS__WSS=off TIDEGATE__ADMIN__LISTEN=127.0.0.1:0\n\
         mosquitto_pub() {{ case \" $* \" in *' -p '*) command mosquitto_pub \"$@\";; *) command mosquitto_pub -p {mqtt} \"$@\";; esac; }}\n"
    );
    for (number, step) in steps.iter().enumerate() {
        writeln!(script, "{{ {}\n}} >out.{number} 2>&1", step.command).unwrap();
        let port = if step.command.starts_with("tidegate --config") {
            Some(mqtt)
        } else if step.command.starts_with("slapd ") {
            Some(&ports[3].1)
        } else if step.command.ends_with('&') {
            let endpoint = if step.command.contains("authority") { 2 } else { 1 };
            Some(&ports[endpoint].1)
        } else {
            None
        };
        if let Some(port) = port {
            writeln!(script, "listens {port}").unwrap();
        }
    }
    script
}

fn run(title: &str, blocks: &[Block<'_>]) -> Vec<Step> {
    let dir = TempDir::new().unwrap();
    let ports: Vec<(String, String)> =
        PORTS.iter().map(|port| ((*port).to_owned(), free_port().to_string())).collect();
    // By way of a mark: one free port may hold the digits of another of the page.
    let mark = |index: usize| format!("<port {index}>");
    let by_ports = |text: &str| {
        let numbered = || ports.iter().enumerate();
        let text = numbered().fold(text.to_owned(), |text, (n, (page, _))| text.replace(page, &mark(n)));
        numbered().fold(text, |text, (n, (_, free))| text.replace(&mark(n), free))
    };
    let mut steps = Vec::new();
    for block in blocks {
        // What is shown after the example is another configuration.
        if let Some((name, text)) = block.file().filter(|(name, _)| !dir.path().join(name).exists()) {
            fs::write(dir.path().join(name), by_ports(&text)).unwrap();
        }
        steps.extend(block.steps().into_iter().map(|step| Step { command: by_ports(&step.command), ..step }));
    }
    fs::create_dir(dir.path().join("programs")).unwrap();
    for (name, text) in PROGRAMS {
        let file = dir.path().join("programs").join(name);
        fs::write(&file, format!("#!/bin/sh\n{text}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let script = script(&steps, &ports);
    let ran = Command::new("bash")
        .args(["-c", &script])
        .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(said.is_empty(), "{title}: {said}\n{}", everything(dir.path(), steps.len()));
    for (number, step) in steps.iter().enumerate() {
        let printed = fs::read_to_string(dir.path().join(format!("out.{number}"))).unwrap().to_lowercase();
        let holds = step.printed.iter().all(|line| printed.contains(&line.to_lowercase()));
        let is_silent =
            !step.command.starts_with("mosquitto_") || !step.printed.is_empty() || printed.is_empty();
        assert!(
            holds && is_silent,
            "{title}: {step:?} printed\n{printed}\n{}",
            everything(dir.path(), steps.len())
        );
    }
    steps
}

/// What was printed by each step.
fn everything(dir: &Path, steps: usize) -> String {
    let read = |number| fs::read_to_string(dir.join(format!("out.{number}"))).unwrap_or_default();
    (0..steps).map(|number| format!("-- {number}\n{}", read(number))).collect()
}

#[test]
fn each_worked_example_lets_a_client_in_and_another_not() {
    let page = fs::read_to_string(PAGE).unwrap();
    let mut examples = 0;
    for (title, blocks) in sections(&page) {
        if blocks.iter().all(|block| block.steps().is_empty()) {
            continue;
        }
        examples += 1;
        let steps = run(title, &blocks);
        let clients = steps.iter().filter(|step| step.command.starts_with("mosquitto_pub"));
        let (refused, let_in): (Vec<_>, Vec<_>) = clients.partition(|step| !step.printed.is_empty());
        let is_refused = |step: &&Step| {
            step.printed.iter().any(|line| REFUSALS.iter().any(|told| line.to_lowercase().contains(told)))
        };
        assert!(refused.iter().any(is_refused) && !let_in.is_empty(), "{title}: {refused:?} {let_in:?}");
    }
    assert_eq!(examples, 7, "a password file, tokens, introspection, certificates, HTTP, a directory, rules");
}

#[test]
fn a_page_is_read_as_it_is_meant() {
    let page = "## One\n```console\n$ cat > f\na\nb\n$ x\nout\n```\n## Two\n```sh\np u a    # and once more for b\n\
                cat > f <<'END'\nc\nEND\nq\n# told\nr   # too\n```\n";
    let sections = sections(page);
    let step = |command: &str, printed: &[&str]| Step {
        command: command.to_owned(),
        printed: printed.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(sections[0].1[0].steps(), [step("cat > f <<'TYPED'\na\nb\nTYPED", &[]), step("x", &["out"])]);
    assert_eq!(
        sections[1].1[0].steps(),
        [
            step("p u a", &[]),
            step("p u b", &[]),
            step("cat > f <<'END'\nc\nEND", &[]),
            step("q", &["told"]),
            step("r", &["too"]),
        ]
    );
}
