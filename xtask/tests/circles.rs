//! The top modules of each crate import each other in one direction: without a circle, a reader can begin at the
//! bottom and go up. Parts of one module may rest on each other.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Top modules and those that each of them names.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The crates of the workspace, by their directories.
fn crates() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let members = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("members");
    members
        .split(',')
        .map(|member| member.trim().trim_matches('"').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code of a file without comments and without its tests.
fn code_of(text: &str) -> String {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The top modules that follow `crate::` in `code`, also inside braces.
fn named_in(code: &str) -> BTreeSet<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let Some(inside) = rest.strip_prefix('{') else {
            named.insert(word(rest));
            continue;
        };
        let (mut depth, mut starts) = (0, true);
        for (at, character) in inside.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => starts = true,
                _ if starts && !character.is_whitespace() => {
                    named.insert(word(&inside[at..]));
                    starts = false;
                }
                _ => {}
            }
        }
    }
    named
}

fn imports(source: &Path) -> Imports {
    let mut files = Vec::new();
    sources(source, &mut files);
    let mut imports = Imports::new();
    for file in files {
        let within = file.strip_prefix(source).expect("a file of the crate");
        let top = within.components().next().expect("a name").as_os_str().to_string_lossy().into_owned();
        let top = top.trim_end_matches(".rs").to_owned();
        let is_test = file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("_tests"));
        if top == "lib" || top == "main" || is_test {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source file");
        imports.entry(top).or_default().extend(named_in(&code_of(&text)));
    }
    let tops: BTreeSet<String> = imports.keys().cloned().collect();
    for (top, named) in &mut imports {
        named.retain(|name| name != top && tops.contains(name));
    }
    imports
}

/// A path from a module back to itself.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn walk(imports: &Imports, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        let here = path.last().expect("a path is not empty").clone();
        for next in imports.get(&here).into_iter().flatten() {
            if let Some(at) = path.iter().position(|before| before == next) {
                path.drain(..at);
                path.push(next.clone());
                return true;
            }
            if !done.contains(next) {
                path.push(next.clone());
                if walk(imports, path, done) {
                    return true;
                }
                path.pop();
            }
        }
        done.insert(here);
        false
    }
    let mut done = BTreeSet::new();
    imports.keys().find_map(|top| {
        let mut path = vec![top.clone()];
        (!done.contains(top) && walk(imports, &mut path, &mut done)).then_some(path)
    })
}

#[test]
fn top_modules_of_each_crate_import_each_other_in_one_direction() {
    let crates = crates();
    assert!(crates.len() >= 11, "{crates:?}");
    let mut modules = 0;
    for name in crates {
        let imports = imports(&root().join(&name).join("src"));
        modules += imports.len();
        assert_eq!(circle(&imports), None, "a circle in {name}");
    }
    assert!(modules > 100, "only {modules} modules were found");
}

#[test]
fn circle_is_found_through_braces_and_not_in_comments_or_tests() {
    let code = "use crate::{b::{self, X}, c};\n// use crate::d;\nfn f() { crate::e::g() }\n\
        #[cfg(test)]\nmod tests { use crate::z; }";
    let named: Vec<String> = named_in(&code_of(code)).into_iter().collect();
    assert_eq!(named, ["b", "c", "e"]);
    let graph = |edges: &[(&str, &str)]| {
        let mut imports = Imports::new();
        for (from, to) in edges {
            imports.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        circle(&imports)
    };
    assert_eq!(graph(&[("a", "b"), ("a", "c"), ("b", "c")]), None);
    let found = graph(&[("a", "b"), ("b", "c"), ("c", "b")]).expect("b and c name each other");
    assert_eq!(found, ["b", "c", "b"]);
}
