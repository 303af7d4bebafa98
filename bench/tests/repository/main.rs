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
