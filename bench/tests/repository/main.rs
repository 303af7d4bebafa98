//! What must be true of the repository as a whole: the planted bugs still apply, and the table of covered cases in
//! `docs/TESTING.md` says what the comments in the tests say.

#![cfg(test)]

mod coverage;

use std::fs;
use std::path::Path;

use madkv_bench::planted::{self, mutant::Mutant};

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn packages_name_no_repository() {
    assert_eq!(env!("CARGO_PKG_REPOSITORY"), "");
    let manifests = fs::read_dir(root()).unwrap().map(|item| item.unwrap().path().join("Cargo.toml"));
    for manifest in manifests.filter_map(|path| fs::read_to_string(path).ok()).chain([read("Cargo.toml")]) {
        assert!(!manifest.lines().any(|line| line.starts_with("repository")), "{manifest}");
    }
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap()
}

/// `just --list` shows the last line of a comment, so each recipe has one line, which is a whole sentence.
#[test]
fn recipes_are_described_by_one_sentence_each() {
    for name in ["Justfile", "p3.just"] {
        let text = read(name);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('[')).collect();
        let mut recipes = 0;
        for at in (0..lines.len()).filter(|&at| is_recipe(lines[at])) {
            let [above, comment] = [2, 1].map(|up| at.checked_sub(up).map_or("", |at| lines[at]));
            let sentence = comment.strip_prefix("# ").unwrap_or_default();
            let whole = sentence.starts_with(|first: char| first.is_ascii_uppercase()) && sentence.ends_with('.');
            assert!(whole && sentence.matches(". ").count() == 0, "{name}: {comment:?} above {}", lines[at]);
            assert!(!above.starts_with('#'), "{name}: two lines of comment above {}", lines[at]);
            recipes += 1;
        }
        assert!(recipes > 10, "{name}: {recipes}");
    }
}

fn is_recipe(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_lowercase()) && line.contains(':') && !line.contains(":=")
}

fn bank() -> Vec<Mutant> {
    planted::mutant::load(&root().join(planted::BANK)).unwrap()
}

#[test]
fn planted_bugs_all_still_apply() {
    let stale = planted::stale(&root().canonicalize().unwrap(), &bank());
    assert!(stale.is_empty(), "adapt these in planted/ to the code:\n{}", stale.join("\n"));
}

#[test]
fn planted_bugs_are_at_least_eighty() {
    assert!(bank().len() >= 80, "{}", bank().len());
}

#[test]
fn planted_directory_has_no_file_of_another_kind() {
    let files = fs::read_dir(root().join(planted::BANK)).unwrap().map(|file| file.unwrap().path());
    let others: Vec<_> = files.filter(|file| file.extension().is_none_or(|ending| ending != "mutant")).collect();
    assert_eq!(others, [root().join(planted::BANK).join("README.md")]);
}
