//! What must be true of the repository as a whole: the planted bugs still apply, and the table of covered cases in
//! `docs/TESTING.md` says what the comments in the tests say.

#![cfg(test)]

mod coverage;

use std::path::Path;

use madkv_bench::planted;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn planted_bugs_all_still_apply() {
    let stale = planted::stale(&root().canonicalize().unwrap()).unwrap();
    assert!(stale.is_empty(), "adapt these patches in planted/ to the code:\n{}", stale.join("\n"));
}

#[test]
fn planted_bugs_are_at_least_thirty() {
    let bank = planted::patch::load(&root().join(planted::BANK)).unwrap();
    assert!(bank.len() >= 30, "{}", bank.len());
}
