//! What the crates may depend on, and that a build of the workspace has every program.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Stdio};

/// The most crates that whoever embeds the client library builds, those of this workspace included.
const CLIENT_CRATES_MAX: usize = 45;

fn cargo(arguments: &[&str]) -> String {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(root).stdin(Stdio::null()).output().expect("cargo runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints text")
}

/// The crates that a package is built of, each with its features: `name version|features`.
fn tree(package: &[&str]) -> Vec<String> {
    let shown = ["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}|{f}", "--package"];
    let printed = cargo(&[&shown, package].concat());
    let lines = printed.lines().map(|line| line.trim_end_matches(" (*)").to_owned());
    let mut crates: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    crates.sort();
    crates.dedup();
    crates
}

fn assert_without(crates: &[String], forbidden: &[&str]) {
    for name in forbidden {
        let found = crates.iter().find(|line| line.split(' ').next() == Some(name));
        assert_eq!(found, None, "{name} in {crates:#?}");
    }
}

#[test]
fn client_library_is_small_and_has_no_engine_of_any_kind() {
    let crates = tree(&["madkv-client"]);
    assert!(crates.len() <= CLIENT_CRATES_MAX, "{} crates: {crates:#?}", crates.len());
    assert_without(&crates, &["sled", "imbl", "crossbeam-channel", "clap", "rustyline", "tracing-subscriber"]);
    // The session table, the engine and the transport are in smr, behind other features.
    let smr = crates.iter().find(|line| line.starts_with("smr v")).expect("the client rests on smr");
    assert_eq!(smr.rsplit_once('|').map(|(_, features)| features), Some("wire"));
}

#[test]
fn command_line_client_has_no_log_engine_and_no_state_machine() {
    assert_without(&tree(&["madkv-client", "--features", "cli"]), &["sled", "imbl", "crossbeam-channel"]);
}

#[test]
fn pure_part_of_smr_has_no_runtime_and_no_files() {
    let crates = tree(&["smr", "--no-default-features", "--features", "core"]);
    assert_without(&crates, &["tokio", "rustix", "sled", "libc", "rand", "crossbeam-channel"]);
}

/// The command-line client is behind a feature, which nobody who builds all of it has to know.
#[test]
fn build_of_the_workspace_has_every_program() {
    let built = cargo(&["build", "--locked", "--workspace", "--bins", "--message-format", "json"]);
    for name in ["madkv-client", "madkv-server", "madkv-manager", "madkv-local"] {
        let executable = format!("/{name}\"");
        let made = |line: &str| {
            line.split("\"executable\":")
                .nth(1)
                .is_some_and(|rest| rest.split(',').next().is_some_and(|path| path.ends_with(&executable)))
        };
        assert!(built.lines().any(made), "the build has no {name}");
    }
}
