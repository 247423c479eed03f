//! The house rules that a machine can check: file headers and sizes, who may depend on whom, names, clauses, no paths of one machine.
#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected stops at once")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::circles::circles;

#[path = "tidy/circles.rs"]
mod circles;

/// Lines of code in one file, tests aside.
const LINES_MAX: usize = 600;
const STATEMENTS: usize = 251;
const BANNED_NAMES: [&str; 6] = ["utils", "helpers", "common", "types", "manager", "misc"];

/// Which packages of the workspace each may depend on. Only the root sees all.
const MAY_USE: [(&str, &[&str]); 9] = [
    ("mqtt", &[]),
    ("files", &[]),
    ("state", &["mqtt", "files"]),
    ("link", &["mqtt", "files"]),
    ("broker", &["mqtt", "state", "link"]),
    ("authsvc", &["mqtt", "link", "files"]),
    ("lb", &["mqtt", "link", "authsvc", "files"]),
    ("loadtests", &["mqtt"]),
    ("testkit", &["mqtt", "state", "link"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files that git knows or would add, by path from the root.
fn files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let listed = match listed {
        Ok(output) if output.status.success() => String::from_utf8(output.stdout).unwrap(),
        _ => return walk(),
    };
    listed.lines().map(PathBuf::from).filter(|file| root().join(file).is_file()).collect()
}

/// The same for a source tree without git.
fn walk() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.') && name != ".ci";
            if entry.path().is_dir() {
                let built =
                    ["target", "data", "node_modules", "__pycache__"].iter().any(|other| name == *other);
                if !hidden && !built {
                    folders.push(entry.path());
                }
            } else {
                found.push(entry.path().strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found
}

fn rust_files() -> Vec<(PathBuf, String)> {
    files()
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| (file.clone(), fs::read_to_string(root().join(file)).unwrap()))
        .collect()
}

/// Fails with every finding at once.
fn expect_none(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn every_file_says_what_it_is() {
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        let header = text.lines().take_while(|line| line.starts_with("//!")).count();
        if !(1..=12).contains(&header) {
            found.push(format!("{} has {header} header lines", file.display()));
        }
    }
    expect_none("a file opens with a few lines of //!", &found);
}

#[test]
fn files_are_small() {
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        let is_test = file.components().any(|part| part.as_os_str() == "tests") || file.ends_with("tests.rs");
        if lines > LINES_MAX && !is_test {
            found.push(format!("{} has {lines} lines", file.display()));
        }
    }
    expect_none("600 lines at most, tests aside", &found);
}

#[test]
fn names_say_something() {
    let mut found = Vec::new();
    for (file, _) in rust_files() {
        for part in file.components() {
            let name = part.as_os_str().to_string_lossy();
            if BANNED_NAMES.contains(&name.trim_end_matches(".rs")) {
                found.push(file.display().to_string());
            }
        }
    }
    expect_none("these names say nothing", &found);
}

/// The local dependencies of a package, from the tables of its manifest; development dependencies may cross the rule.
fn local_dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut found = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside =
                table == "dependencies" || table == "build-dependencies" || table.ends_with(".dependencies");
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside) {
            let key = key.trim().trim_matches('"');
            let name = key.split('.').next().unwrap();
            let local = MAY_USE.iter().any(|(package, _)| *package == name);
            if local || value.contains("path") {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let mut found = Vec::new();
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.lines().find(|line| line.starts_with("members")).unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(MAY_USE.iter().any(|(package, _)| *package == member), "{member} has no rule");
    }
    for (package, allowed) in MAY_USE {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        for dependency in local_dependencies(&manifest) {
            if !allowed.contains(&dependency.as_str()) {
                found.push(format!("{package} uses {dependency}"));
            }
        }
    }
    let program = workspace.split("[workspace]").next().unwrap();
    if local_dependencies(program).contains("testkit") {
        found.push("the program uses testkit".to_owned());
    }
    expect_none("mqtt <- link, state <- broker; mqtt, link, authsvc <- lb; testkit in tests alone", &found);
}

/// Files that may import each other in a circle.
const CIRCLE_MAX: usize = 3;

#[test]
fn no_circle_of_imports_is_large() {
    let files = rust_files();
    let mut found = Vec::new();
    for package in
        MAY_USE.map(|(package, _)| Path::new(package).join("src")).iter().chain([&PathBuf::from("src")])
    {
        let of_package = files.iter().filter_map(|(file, text)| {
            let below = file.strip_prefix(package).ok()?;
            Some((below.to_str()?, text.as_str()))
        });
        for circle in circles(of_package) {
            let paths: BTreeSet<String> =
                circle.iter().map(|file| format!("{}/{file}", package.display())).collect();
            if paths.len() > CIRCLE_MAX {
                found.push(paths.into_iter().collect::<Vec<_>>().join(", "));
            }
        }
    }
    expect_none("files that import each other in a circle, three at most", &found);
}

/// What makes several workers one broker knows the sessions of its worker, and nothing of what is done with them.
#[test]
fn the_cluster_does_not_know_the_hub() {
    let is_of_cluster = |file: &Path| file.starts_with("broker/src/cluster");
    let names_hub =
        |text: &str| text.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == "Hub");
    let files: Vec<_> = rust_files().into_iter().filter(|(file, _)| is_of_cluster(file)).collect();
    assert!(files.len() > 10, "it was moved");
    let found: Vec<_> = files
        .iter()
        .filter(|(_, text)| names_hub(text) || text.contains("crate::hub"))
        .map(|(file, _)| file.display().to_string())
        .collect();
    expect_none("the cluster depends on the directory", &found);
}

/// Words that say in every Rust program what they say here.
const IDIOMS: [&str; 5] = ["Error", "Metrics", "Reader", "Result", "State"];

/// The name of the type that a line begins to define, outside of functions and modules within the file.
fn type_defined(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.strip_prefix(' ')?,
        None => line,
    };
    let (kind, rest) = line.split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "type"].contains(&kind);
    rest.split(|letter: char| !letter.is_alphanumeric()).next().filter(|_| is_type)
}

/// One word for one thing: whoever reads of a type in one file of a package may look for it in all of them.
#[test]
fn each_type_of_a_package_has_a_name_of_its_own() {
    let files = rust_files();
    let mut found = Vec::new();
    for (package, _) in MAY_USE.iter().filter(|(package, _)| *package != "loadtests") {
        let mut defined: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (file, text) in files.iter().filter(|(file, _)| file.starts_with(Path::new(package).join("src")))
        {
            if file.to_str().is_some_and(circles::is_test) {
                continue;
            }
            for name in text.lines().take_while(|line| *line != "mod tests {").filter_map(type_defined) {
                defined.entry(name).or_default().push(file.display().to_string());
            }
        }
        defined.retain(|name, files| files.len() > 1 && !IDIOMS.contains(name));
        found.extend(defined.into_iter().map(|(name, files)| format!("{name}: {}", files.join(", "))));
    }
    expect_none("types of one package with one name", &found);
}

/// The rows of docs/conformance.md: statement to what stands under *held by*.
fn conformance() -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/conformance.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| MQTT-")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let twice = rows.insert(cells[1].to_owned(), cells[2].to_owned());
        assert!(twice.is_none(), "{} has two rows", cells[1]);
    }
    rows
}

#[test]
fn every_statement_has_a_row() {
    let rows = conformance();
    assert_eq!(rows.len(), STATEMENTS, "rows in docs/conformance.md");
    // The numbers within a section run from 1 (2.2.1 from 2) without a gap, so a lost row cannot be made up by a wrong one.
    let mut sections: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for statement in rows.keys() {
        let (section, number) = statement.rsplit_once('-').unwrap();
        sections.entry(section).or_default().push(number.parse().unwrap());
    }
    for (section, mut numbers) in sections {
        numbers.sort_unstable();
        let first = if section == "MQTT-2.2.1" { 2 } else { 1 };
        let wanted: Vec<u32> = (first..).take(numbers.len()).collect();
        assert_eq!(numbers, wanted, "{section}");
    }
}

/// Whether `it::module::name`, `system::module::name` or `path/of/file.rs::name` is a function.
fn test_exists(test: &str) -> bool {
    let Some((path, name)) = test.rsplit_once("::") else { return false };
    let file = match path.split_once("::") {
        Some((binary, module)) => format!("tests/{binary}/{module}.rs"),
        None => path.to_owned(),
    };
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();
    ["(", "<"].iter().any(|follows| text.contains(&format!("fn {name}{follows}")))
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

#[test]
fn every_test_named_in_the_docs_exists() {
    let mut found = Vec::new();
    for (statement, held) in conformance() {
        let tests: Vec<&str> = held.split('`').skip(1).step_by(2).collect();
        if tests.is_empty() && held != "client" {
            found.push(format!("{statement} names no test"));
        }
        found.extend(
            tests.iter().filter(|test| !test_exists(test)).map(|test| format!("{statement} names {test}")),
        );
    }
    for doc in ["docs/hazards.md", "docs/races.md", "ARCHITECTURE.md"] {
        let text = read(doc);
        let names = text.split('`').skip(1).step_by(2);
        let missing = |name: &&str| match name.split_once("::") {
            Some((_, "")) => false,
            Some((file, _)) if has_extension(file, "rs") || doc == "docs/hazards.md" => !test_exists(name),
            None if has_extension(name, "rs") && name.contains('/') => !root().join(name).exists(),
            _ => false,
        };
        found.extend(names.filter(missing).map(|name| format!("{doc} names {name}")));
    }
    expect_none(
        "tests that docs/conformance.md, docs/hazards.md, docs/races.md and ARCHITECTURE.md name",
        &found,
    );
}

/// The statements that `3.3.4-3` or `3.3.4-3..5` names; none for a section (`4.6`).
fn statements(name: &str) -> Vec<String> {
    let Some((section, numbers)) = name.split_once('-') else { return Vec::new() };
    numbers.split("..").map(|number| format!("MQTT-{section}-{number}")).collect()
}

#[test]
fn clauses_named_in_the_code_exist() {
    let rows = conformance();
    let mut found = Vec::new();
    for (file, text) in rust_files() {
        for line in text.lines() {
            // The clauses of 3.1.1 are numbered otherwise; a line that names it is not judged.
            if line.contains("3.1.1") || line.contains("MQTT 3") || !line.contains("v5 [MQTT-") {
                continue;
            }
            for piece in line.split("[MQTT-").skip(1) {
                let Some((number, _)) = piece.split_once(']') else { continue };
                for statement in statements(number) {
                    if !rows.contains_key(&statement) {
                        found.push(format!("{}: {statement}", file.display()));
                    }
                }
            }
        }
    }
    expect_none("statements of MQTT 5 that do not exist", &found);
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let needles = [["/wo", "rk/"].concat(), ["/ho", "me/"].concat(), ["/ro", "ot/."].concat()];
    let mut found = Vec::new();
    for file in files() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if needles.iter().any(|needle| line.contains(needle.as_str())) {
                found.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    expect_none("paths that exist on one machine only", &found);
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).expect(file)
}

/// The layer of dependencies is made of manifests alone: one that is missing breaks the build of the image.
#[test]
fn the_image_is_built_of_all_members() {
    let members: BTreeSet<String> = {
        let workspace = read("Cargo.toml");
        let line = workspace.lines().find(|line| line.starts_with("members")).unwrap().to_owned();
        line.split('"').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let (dockerfile, ignored) = (read("deploy/Dockerfile"), read(".dockerignore"));
    let copied: BTreeSet<String> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY ")?.split_once("/Cargo.toml "))
        .map(|(member, _)| member.to_owned())
        .collect();
    assert_eq!(copied, members, "deploy/Dockerfile copies the manifest of each member");
    let stubs = dockerfile.lines().find_map(|line| line.strip_prefix("RUN for crate in ")).unwrap();
    let stubs: BTreeSet<&str> = stubs.split_once(';').unwrap().0.split(' ').collect();
    let libraries: BTreeSet<&str> =
        members.iter().map(String::as_str).filter(|member| *member != "loadtests").collect();
    assert_eq!(stubs, libraries, "deploy/Dockerfile makes an empty library for each member that is one");
    for member in &members {
        assert!(
            ignored.lines().any(|line| line == format!("!{member}")),
            ".dockerignore leaves {member} out"
        );
    }
}

fn alerts() -> Vec<String> {
    let alert = |line: &str| line.trim().strip_prefix("- alert: ").map(str::to_owned);
    read("deploy/monitoring/alerts.yml").lines().filter_map(alert).collect()
}

#[test]
fn every_alert_has_a_runbook_and_a_fault_that_makes_it_fire() {
    let (rules, page, test) = (
        read("deploy/monitoring/alerts.yml"),
        read("docs/operations.md"),
        read("tests/system/monitoring.rs"),
    );
    let sections: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("### Tidegate"))
        .map(|rest| format!("Tidegate{rest}"))
        .collect();
    let alerts = alerts();
    assert_eq!(alerts.iter().cloned().collect::<BTreeSet<_>>(), sections, "sections of docs/operations.md");
    let mut found = Vec::new();
    for alert in alerts {
        if !rules.contains(&format!("runbook: docs/operations.md#{}\n", alert.to_lowercase())) {
            found.push(format!("{alert} does not name its section"));
        }
        if !test.contains(&format!("\"{alert}\"")) {
            found.push(format!("{alert} is not in tests/system/monitoring.rs"));
        }
    }
    expect_none("alerts", &found);
}

/// Names of metrics in a text: `tidegate_…` and `process_…`, without what a histogram's series have behind its name.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"));
    let name = |word: &str| {
        let series = ["_bucket", "_sum", "_count"];
        series.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    ours.map(name).collect()
}

#[test]
fn every_metric_of_boards_and_alerts_is_documented() {
    let documented: BTreeSet<String> = read("docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .collect();
    let boards = files().into_iter().filter(|file| file.starts_with("deploy/monitoring"));
    let mut found = Vec::new();
    for file in boards {
        let text = fs::read_to_string(root().join(&file)).unwrap();
        let unknown = metrics(&text).into_iter().filter(|name| !documented.contains(name));
        found.extend(unknown.map(|name| format!("{}: {name}", file.display())));
    }
    expect_none("metrics that docs/metrics.md does not have", &found);
}

#[test]
fn every_script_with_a_command_line_starts() {
    // What it imports is there: figures in the documentation come from these.
    for script in files().iter().filter(|file| file.starts_with("scripts") || file.starts_with("loadtests")) {
        let path = root().join(script);
        let text = fs::read(&path).unwrap();
        let has = |part: &str| String::from_utf8_lossy(&text).contains(part);
        if !has("#!/usr/bin/env python3") || !has("argparse.ArgumentParser") {
            continue;
        }
        let told = Command::new(&path).arg("--help").output().unwrap();
        assert!(
            told.status.success(),
            "{} --help: {}",
            script.display(),
            String::from_utf8_lossy(&told.stderr)
        );
    }
}
