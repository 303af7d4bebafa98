//! What must be true of the repository as a whole: the mutants still apply, and each case of the fault catalogue has a
//! test or a reason why not.

#![cfg(test)]

use std::fs;
use std::path::Path;

use xtask::coverage::coverage;
use xtask::mutants::{self, mutant::Mutant};

/// As wide as a line of a source may be.
const LINE_MAX_CHARS: usize = 120;

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

/// rustfmt leaves comments and texts alone.
#[test]
fn lines_of_sources_fit_in_120_columns() {
    let mut directories = vec![root().to_path_buf()];
    let (mut files, mut wide) = (0, Vec::new());
    while let Some(directory) = directories.pop() {
        for item in fs::read_dir(directory).unwrap() {
            let path = item.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".rs") {
                files += 1;
                let text = fs::read_to_string(&path).unwrap();
                let beyond = text.lines().enumerate().filter(|(_, line)| line.chars().count() > LINE_MAX_CHARS);
                wide.extend(beyond.map(|(at, _)| format!("{}:{}", path.display(), at + 1)));
            }
        }
    }
    assert!(files > 300, "{files}");
    assert!(wide.is_empty(), "{wide:#?}");
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
    mutants::mutant::load(&root().join(mutants::BANK)).unwrap()
}

#[test]
fn mutants_all_still_apply() {
    let stale = mutants::stale(&root().canonicalize().unwrap(), &bank());
    assert!(stale.is_empty(), "adapt these in mutants/ to the code:\n{}", stale.join("\n"));
}

#[test]
fn mutants_are_at_least_a_hundred() {
    assert!(bank().len() >= 100, "{}", bank().len());
}

#[test]
fn mutants_directory_has_no_file_of_another_kind() {
    let files = fs::read_dir(root().join(mutants::BANK)).unwrap().map(|file| file.unwrap().path());
    let others: Vec<_> = files.filter(|file| file.extension().is_none_or(|ending| ending != "mutant")).collect();
    assert_eq!(others, [root().join(mutants::BANK).join("README.md")]);
}

#[test]
fn cases_of_the_fault_catalogue_have_a_test_or_a_reason() {
    let coverage = coverage(root()).unwrap();
    assert!(coverage.unknown.is_empty(), "tests cover what the catalogue does not have: {:?}", coverage.unknown);
    assert!(coverage.holes.is_empty(), "neither a test nor a reason: {:?}", coverage.holes);
    assert!(coverage.table.lines().count() > 150, "{}", coverage.table);
}
