//! Which cases of the fault catalogue have a test: a comment above a test, or in a script, that says "covers" and the
//! numbers. `xtask coverage` prints the table, and after it the cases without a test, with the reason that
//! `docs/fault-catalogue.md` gives at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

const CATALOGUE: &str = "docs/fault-catalogue.md";
/// Where tests, and what they consist of, are looked for.
const PLACES: [&str; 10] = [
    "smr",
    "smr-sim",
    "smr-service",
    "madkv-proto",
    "madkv-client",
    "madkv-server",
    "madkv-manager",
    "testkit",
    "chaos",
    "bench",
];
/// More tests than this of one case are only counted, in the table.
const NAMED_MAX: usize = 3;
/// What a case is about is cut to this many characters, in the table.
const ABOUT_MAX_CHARS: usize = 90;

/// A number of the catalogue.
#[derive(Clone, Debug)]
struct Case {
    name: String,
    layers: String,
    about: String,
}

/// The cases of the catalogue, in its order, and why some have no test.
fn catalogue(text: &str) -> (Vec<Case>, BTreeMap<String, String>) {
    let mut cases = Vec::new();
    let mut reasons = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, rest)) = line.strip_prefix("- **").and_then(|rest| rest.split_once("** ")) {
            let (layers, about) = match rest.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
                Some((layers, about)) => (layers, about),
                None => ("", rest),
            };
            let name = name.to_owned();
            if is_case(&name) {
                cases.push(Case { name, layers: layers.to_owned(), about: shortened(about) });
            }
        } else if let Some((names, reason)) = line.strip_prefix("- No test: ").and_then(|rest| rest.split_once(" — "))
        {
            for name in names.split(' ') {
                reasons.insert(name.to_owned(), reason.to_owned());
            }
        }
    }
    (cases, reasons)
}

/// The set-up of a case, up to what must hold.
fn shortened(about: &str) -> String {
    let about = about.split(" → ").next().unwrap_or(about).replace("**", "").replace('|', "/");
    if about.chars().count() <= ABOUT_MAX_CHARS {
        return about;
    }
    let cut: String = about.chars().take(ABOUT_MAX_CHARS).collect();
    let cut = cut.rsplit_once(' ').map_or(cut.as_str(), |(whole, _)| whole);
    format!("{} …", cut.trim_end_matches([',', ';', ':']))
}

fn is_case(word: &str) -> bool {
    let mut letters = word.chars();
    letters.next().is_some_and(|letter| letter.is_ascii_uppercase())
        && word.len() > 1
        && letters.all(|letter| letter.is_ascii_digit())
}

/// The cases that a line of a comment names after the word "covers".
fn covered_by(line: &str) -> Vec<&str> {
    let line = line.trim_start();
    let is_comment = line.starts_with("//") || line.starts_with('#');
    let Some((_, rest)) = line.split_once("covers").filter(|_| is_comment) else { return Vec::new() };
    let words = rest.trim_start_matches(':').split([' ', ',']).filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_end_matches(['.', ':', ';']));
    words.take_while(|word| is_case(word)).collect()
}

/// Every (case, test) of the repository.
fn covered(root: &Path) -> io::Result<BTreeMap<String, BTreeSet<String>>> {
    let mut covered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for place in PLACES {
        visit(&root.join(place), &mut |path| {
            let is_test = path.extension().is_some_and(|ending| ending == "rs" || ending == "txt");
            let Some(text) = fs::read_to_string(path).ok().filter(|_| is_test) else { return };
            let lines: Vec<&str> = text.lines().collect();
            for (position, line) in lines.iter().enumerate() {
                for case in covered_by(line) {
                    let test = test_behind(path.strip_prefix(root).unwrap_or(path), &lines[position..]);
                    covered.entry(case.to_owned()).or_default().insert(test);
                }
            }
        })?;
    }
    Ok(covered)
}

fn visit(directory: &Path, look: &mut dyn FnMut(&Path)) -> io::Result<()> {
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        if !path.is_dir() {
            look(&path);
        } else if path.file_name().is_none_or(|name| name != "target") {
            visit(&path, look)?;
        }
    }
    Ok(())
}

/// The file (without what all of them share) and, in Rust, the function that follows the comment.
fn test_behind(path: &Path, lines: &[&str]) -> String {
    let whole = path.with_extension("");
    let whole = whole.to_string_lossy().replace("/tests/", "/").replace("/src/", "/");
    let file = whole.trim_end_matches("/mod").trim_end_matches("/main");
    if path.extension().is_some_and(|ending| ending == "txt") {
        return file.to_owned();
    }
    let function = lines.iter().find_map(|line| {
        let (_, rest) = line.split_once("fn ").filter(|(before, _)| !before.contains("//"))?;
        rest.split(['(', '<']).next()
    });
    function.map_or_else(|| file.to_owned(), |function| format!("{file} `{function}`"))
}

fn table(cases: &[Case], reasons: &BTreeMap<String, String>, covered: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut rows = String::from("| case | layers | about | tests |\n|---|---|---|---|\n");
    let mut holes: Vec<(&str, Vec<&str>)> = Vec::new();
    for case in cases {
        let Some(tests) = covered.get(&case.name) else {
            let reason = reasons.get(&case.name).map_or("not written yet", String::as_str);
            match holes.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, names)) => names.push(&case.name),
                None => holes.push((reason, vec![&case.name])),
            }
            continue;
        };
        let mut named: Vec<&str> = tests.iter().take(NAMED_MAX).map(String::as_str).collect();
        let more = format!("and {} more", tests.len().saturating_sub(NAMED_MAX));
        if tests.len() > NAMED_MAX {
            named.push(&more);
        }
        rows += &format!("| {} | {} | {} | {} |\n", case.name, case.layers, case.about, named.join("; "));
    }
    let with_test = cases.iter().filter(|case| covered.contains_key(&case.name)).count();
    let mut list = format!("\n{with_test} of {} cases have a test. The others:\n\n", cases.len());
    for (reason, names) in holes {
        list += &format!("- {}: {reason}\n", names.join(", "));
    }
    rows + &list
}

/// What the repository's tests say they cover.
#[derive(Debug)]
pub struct Coverage {
    /// The table, as Markdown.
    pub table: String,
    /// Numbers that tests name and the catalogue does not have.
    pub unknown: Vec<String>,
    /// Cases without a test and without a reason.
    pub holes: Vec<String>,
}

/// Reads the catalogue and all tests of the repository at `root`.
///
/// # Errors
/// Those of the file system.
pub fn coverage(root: &Path) -> io::Result<Coverage> {
    let (cases, reasons) = catalogue(&fs::read_to_string(root.join(CATALOGUE))?);
    let covered = covered(root)?;
    let unknown = covered.keys().filter(|name| cases.iter().all(|case| case.name != **name)).cloned().collect();
    let is_hole = |name: &String| !covered.contains_key(name) && !reasons.contains_key(name);
    let holes = cases.iter().map(|case| case.name.clone()).filter(is_hole).collect();
    Ok(Coverage { table: table(&cases, &reasons, &covered), unknown, holes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covered_by_reads_all_forms_of_the_comment() {
        assert_eq!(covered_by("    // covers G1, G2, G3"), ["G1", "G2", "G3"]);
        assert_eq!(covered_by("// covers E1: the fast failover"), ["E1"]);
        assert_eq!(covered_by("# §5.3: one story. covers L9 I10"), ["L9", "I10"]);
        assert_eq!(covered_by("// covers D1 I14, on a small scale."), ["D1", "I14"]);
        assert!(covered_by("/// a durable snapshot covers them.").is_empty());
        assert!(covered_by("let covers = E1;").is_empty());
    }
}
