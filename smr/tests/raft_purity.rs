//! A protocol core knows nothing of the world. clippy denies the types and methods; this denies the words, so that
//! no one gets around it with an alias or an attribute.

use std::fs;
use std::path::Path;

const FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::net",
    "std::io",
    "std::thread",
    "std::time",
    "std::env",
    "std::sync",
    "std::process",
    "HashMap",
    "HashSet",
    "tokio",
    "crossbeam",
    "async ",
    ".await",
    "unsafe",
    "from_os_rng",
    "SysRng",
    "println!",
    "tracing::",
    "allow(clippy::disallowed",
];

#[test]
fn core_sources_forbidden_words_absent() {
    let folders = ["src/raft", "src/configured", "src/core_kit"];
    let folders = folders.map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let mut files = 0;
    for file in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        files += 1;
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            for word in FORBIDDEN {
                assert!(!code.contains(word), "{}:{}: {word:?} in the core", path.display(), number + 1);
            }
        }
    }
    assert!(files > 30, "only {files} files were looked at");
}
