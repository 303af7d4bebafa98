//! The diagrams in the documents are those of the golden scripts as they are.

#![cfg(test)]

use std::path::Path;

use xtask::diagrams::stale;

#[test]
fn diagrams_are_those_of_the_scripts() {
    let stale = stale(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("documents and scripts");
    assert!(stale.is_empty(), "{stale:?}: run `cargo run -p xtask -- diagrams`");
}
