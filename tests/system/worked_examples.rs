//! The worked examples of `docs/auth.md` and `docs/authsvc.md`, run as they are written: each from nothing to a client that is let in and
//! one that is not. Only ports are others, so that nothing else on the machine is in the way.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::servers::{Server as Redis, free_port};

/// What a client is told that is not let in, or may not do something, in lower case.
const REFUSALS: [&str; 4] = ["not authorized", "bad user name or password", "denied", "refused"];

/// Ports that the pages name.
const PORTS: [&str; 7] = ["8883", "8080", "8085", "3890", "1883", "7883", "6379"];

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
            if let Some((_, end)) = line.split_once("<<") {
                let end = end.trim_matches('\'');
                let typed: Vec<&str> = lines.by_ref().take_while(|line| **line != end).copied().collect();
                write!(command, "\n{}\n{end}", typed.join("\n")).unwrap();
            }
            let again = comment.strip_prefix("and once more for ").map(|name| {
                let first = command.rsplit_once(' ').map_or("", |(first, _)| first);
                Step { command: format!("{first} {name}"), ..Step::default() }
            });
            let is_told = again.is_none() && !comment.is_empty() && comment != "let in";
            let printed = if is_told { vec![comment.to_owned()] } else { Vec::new() };
            match steps.last_mut() {
                Some(step) if command.is_empty() => step.printed.extend(printed),
                _ => steps.push(Step { command, printed }),
            }
            steps.extend(again);
        }
        steps
    }
}

/// In place of the programs of these names: the binary under test, which listens elsewhere and reads its password where nobody types
/// one, and a slapd that stays.
const PROGRAMS: [(&str, &str); 2] = [
    (
        "tidegate",
        "export TIDEGATE__ADMIN__LISTEN=127.0.0.1:0\n\
         case \"$1 ${2-}\" in\n\
         'passwd '*) [ \"$(readlink /proc/self/fd/0)\" != /dev/null ] || { echo \"$PASSWORD\" | \"$TIDEGATE\" \"$@\"; exit; };;\n\
         'broker --config') export TIDEGATE__LINK__LISTEN=127.0.0.1:$P7883;;\n\
         'authsvc --config') export TIDEGATE__SERVICE__LISTEN=127.0.0.1:$P8080;;\n\
         'lb --config' | '--config '*)\n\
         export TIDEGATE__LISTENERS__MQTT=127.0.0.1:$P1883 TIDEGATE__LISTENERS__MQTTS=127.0.0.1:$P8883\n\
         export TIDEGATE__LISTENERS__WS=off TIDEGATE__LISTENERS__WSS=off;;\n\
         esac\nexec \"$TIDEGATE\" \"$@\"\n",
    ),
    ("slapd", "/usr/sbin/slapd -d 0 \"$@\" >/dev/null 2>&1 & echo $! >>pids\n"),
];

/// Which port a command in the background comes to listen at, by what it has in it.
const LISTENS: [(&str, &str); 7] = [
    ("authsvc --config", "8080"),
    ("broker --config", "7883"),
    ("lb --config", "8883"),
    ("tidegate --config", "1883"),
    ("slapd -f", "3890"),
    ("authority.py", "8085"),
    ("endpoint.py", "8080"),
];

/// What waits until somebody listens at a port.
const UNTIL: &str = "listens() { for _ in $(seq 600); do (exec 3<>/dev/tcp/127.0.0.1/$1) 2>/dev/null && return; sleep 0.05; done; \
                     echo \"nobody listens at $1\" >&2; }\n";

/// The script that runs `steps`, each with its output in a file of its own.
fn script(steps: &[Step]) -> String {
    let mut script = format!(
        "set -u\ntrap 'kill $(jobs -p) $(cat pids) 2>/dev/null; wait' EXIT\n: >pids\n{UNTIL}\
         export PATH=\"$PWD/programs:$PATH:/usr/sbin\" PASSWORD='tg-secret-of the page'\n\
         mosquitto_pub() {{ case \" $* \" in *' -p '*) command mosquitto_pub \"$@\";; \
         *) command mosquitto_pub -p $P1883 \"$@\";; esac; }}\n"
    );
    for (number, step) in steps.iter().enumerate() {
        writeln!(script, "{{ {}\n}} >out.{number} 2>&1", step.command).unwrap();
        let is_service = step.command.ends_with('&') || step.command.starts_with("slapd ");
        let listens = LISTENS.iter().find(|(part, _)| is_service && step.command.contains(part));
        if let Some((_, port)) = listens {
            writeln!(script, "listens $P{port}").unwrap();
        }
    }
    script
}

fn run(title: &str, blocks: &[Block<'_>]) -> Vec<Step> {
    let dir = TempDir::new().unwrap();
    let needs_redis = blocks.iter().any(|block| block.lines.iter().any(|line| line.contains("6379")));
    let redis = needs_redis.then(|| Redis::start(&[]));
    let port = |page: &str| match &redis {
        Some(redis) if page == "6379" => redis.port,
        _ => free_port(),
    };
    let ports: Vec<(&str, String)> = PORTS.iter().map(|page| (*page, port(page).to_string())).collect();
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
    let script = script(&steps);
    let ran = Command::new("bash")
        .args(["-c", &script])
        .env("TIDEGATE", env!("CARGO_BIN_EXE_tidegate"))
        .envs(ports.iter().map(|(page, free)| (format!("P{page}"), free)))
        .stdin(Stdio::null())
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

/// Runs the examples of a page in the sections of which the title begins so, and says how many there were.
fn run_page(page: &str, begins: &str) -> usize {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let mut examples = 0;
    for (title, blocks) in sections(&page) {
        if !title.starts_with(begins) || blocks.iter().all(|block| block.steps().is_empty()) {
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
    examples
}

#[test]
fn each_worked_example_lets_a_client_in_and_another_not() {
    let examples = run_page("docs/auth.md", "");
    assert_eq!(examples, 7, "a password file, tokens, introspection, certificates, HTTP, a directory, rules");
    assert_eq!(run_page("docs/authsvc.md", "From nothing"), 1);
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
