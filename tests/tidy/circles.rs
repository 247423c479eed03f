//! Which files of a crate import each other in a circle. Read from their paths (`crate::`, `self::`, `super::`) alone, tests aside;
//! what a file takes from the modules that it lies in is no import, since it is a part of those.

use std::collections::{BTreeMap, BTreeSet};

/// A module by the names on the way to it from the root of its crate.
type Module = Vec<String>;

/// The circles of more than one file among these, by path below the folder `src` of one crate, each with its text.
pub(crate) fn circles<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<BTreeSet<String>> {
    let files: BTreeMap<Module, (&str, &str)> = files
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| (module_of(path), (path, text)))
        .collect();
    let mut imports: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
    for (module, (_, text)) in &files {
        let paths = paths_in(text);
        let used = paths.iter().filter_map(|path| file_of(&files, module, path));
        imports.insert(module, used.filter(|used| !module.starts_with(used)).collect());
    }
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        files.keys().map(|module| (module, reached_from(&imports, module))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for module in files.keys().filter(|module| reached[*module].contains(*module)) {
        let round = reached[module].iter().filter(|other| reached[*other].contains(module));
        found.insert(round.map(|other| files[*other].0.to_owned()).collect());
    }
    found.into_iter().collect()
}

/// Whether a file is there for tests alone.
pub(crate) fn is_test(path: &str) -> bool {
    let is_test = |part: &str| matches!(part.trim_end_matches(".rs"), "tests" | "testing" | "simulation");
    path.split('/').any(is_test)
}

fn module_of(path: &str) -> Module {
    let parts = path.trim_end_matches(".rs").split('/').map(str::to_owned);
    let mut module: Module = parts.collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    module
}

fn reached_from<'a>(
    imports: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    module: &'a Module,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut next = vec![module];
    while let Some(at) = next.pop() {
        next.extend(imports[at].iter().filter(|used| reached.insert(**used)));
    }
    reached
}

/// The paths that a file names, without its comments and the module of its tests.
fn paths_in(text: &str) -> Vec<String> {
    let code: Vec<&str> = text
        .lines()
        .take_while(|line| *line != "mod tests {")
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect();
    let code = code.join(" ");
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|letter| !is_name(letter) && letter != ':') {
                expand(&code[at..], "", &mut found);
            }
        }
    }
    found
}

/// Takes one path off the front of `text`, or all those of a group in braces. Answers what follows.
fn expand<'a>(text: &'a str, before: &str, found: &mut Vec<String>) -> &'a str {
    let end = text.find(|letter: char| !(letter.is_alphanumeric() || "_:".contains(letter)));
    let (own, mut rest) = text.split_at(end.unwrap_or(text.len()));
    let path = format!("{before}{own}");
    if !own.ends_with("::") || !rest.starts_with('{') {
        found.push(path);
        return rest;
    }
    rest = rest[1..].trim_start();
    while !rest.is_empty() && !rest.starts_with('}') {
        let after = expand(rest, &path, found);
        // What is renamed, and the comma.
        let skipped = after.find([',', '}']).unwrap_or(after.len());
        rest = after[skipped..].trim_start_matches(',').trim_start();
    }
    rest.get(1..).unwrap_or_default()
}

/// The file in which a path of this module ends.
fn file_of<'a>(files: &'a BTreeMap<Module, (&str, &str)>, module: &Module, path: &str) -> Option<&'a Module> {
    let mut at = module.clone();
    let mut names = path.split("::").peekable();
    match names.next()? {
        "crate" => at.clear(),
        "super" => drop(at.pop()),
        _ => {}
    }
    while names.next_if_eq(&"super").is_some() {
        at.pop();
    }
    for name in names {
        at.push(name.to_owned());
        if !files.contains_key(&at) {
            at.pop();
            break;
        }
    }
    files.get_key_value(&at).map(|(file, _)| file)
}
