//! What the crates may depend on: only those below them, and of those what they need; and that a build of the
//! workspace has every program.

#![cfg(test)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// The most crates that whoever embeds the client library builds, those of this workspace included.
const CLIENT_CRATES_MAX: usize = 45;

/// What only those need who can be watched.
const HTTP: [&str; 3] = ["axum", "hyper", "prometheus-client"];

/// The crates of the workspace, by their directories, from the bottom up: each depends on those before it only.
const CRATES: [(&str, &str); 13] = [
    ("smr", "smr"),
    ("smr-sim", "smr-sim"),
    ("smr-service", "smr-service"),
    ("madkv-proto", "madkv-proto"),
    ("madkv-client", "madkv-client"),
    ("madkv-server", "madkv-server"),
    ("madkv-manager", "madkv-manager"),
    ("services/factory", "factory"),
    ("services/voting", "voting"),
    ("testkit", "madkv-testkit"),
    ("chaos", "madkv-chaos"),
    ("bench", "madkv-bench"),
    ("xtask", "xtask"),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(root()).stdin(Stdio::null()).output().expect("cargo runs");
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

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    section.lines().take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ']).next())
}

#[test]
fn crates_depend_on_those_below_them_only() {
    let workspace = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = workspace.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    assert_eq!(members.matches('"').count(), 2 * CRATES.len(), "a crate of the workspace is not in the list here");
    for (place, (directory, name)) in CRATES.iter().enumerate() {
        let manifest = fs::read_to_string(root().join(directory).join("Cargo.toml")).unwrap();
        for dependency in dependencies(&manifest) {
            let upward = CRATES[place..].iter().any(|(_, other)| *other == dependency);
            assert!(!upward, "{name} depends on {dependency}, which stands above it");
        }
    }
}

#[test]
fn programs_that_serve_contain_no_simulator_and_no_tests() {
    for name in ["madkv-server", "madkv-manager", "madkv-client", "factory", "voting"] {
        let crates = tree(&[name, "--all-features"]);
        assert_without(&crates, &["smr-sim", "madkv-testkit", "madkv-chaos", "proptest", "tempfile"]);
    }
}

#[test]
fn client_library_is_small_and_has_no_engine_of_any_kind() {
    let crates = tree(&["madkv-client"]);
    assert!(crates.len() <= CLIENT_CRATES_MAX, "{} crates: {crates:#?}", crates.len());
    assert_without(&crates, &["sled", "imbl", "crossbeam-channel", "clap", "rustyline", "tracing-subscriber"]);
    assert_without(&crates, &HTTP);
    // The session table, the engine and the transport are in smr, behind other features.
    let smr = crates.iter().find(|line| line.starts_with("smr v")).expect("the client rests on smr");
    assert_eq!(smr.rsplit_once('|').map(|(_, features)| features), Some("wire"));
}

#[test]
fn command_line_client_has_no_log_engine_and_no_state_machine() {
    let crates = tree(&["madkv-client", "--features", "cli"]);
    assert_without(&crates, &["sled", "imbl", "crossbeam-channel"]);
    assert_without(&crates, &HTTP);
}

#[test]
fn services_beside_the_store_need_neither_its_client_nor_its_manager() {
    for name in ["factory", "voting"] {
        assert_without(&tree(&[name]), &["madkv-client", "madkv-manager"]);
    }
}

#[test]
fn pure_part_of_smr_has_no_runtime_and_no_files() {
    let crates = tree(&["smr", "--no-default-features", "--features", "core"]);
    assert_without(&crates, &["tokio", "rustix", "sled", "libc", "rand", "crossbeam-channel"]);
}

/// The command-line client is behind a feature, which no one who builds all of it has to know.
#[test]
fn build_of_the_workspace_has_every_program() {
    let shown = ["tree", "--locked", "--workspace", "--edges", "normal", "--prefix", "none", "--format", "{p}|{f}"];
    let built = cargo(&shown);
    let manifests = ["madkv-client", "madkv-server", "madkv-manager", "testkit"].map(|directory| {
        let path = root().join(directory).join("Cargo.toml");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    for (program, of) in
        [("madkv-client", 0), ("madkv-server", 1), ("madkv-manager", 2), ("madkv-agent", 2), ("madkv-local", 3)]
    {
        let manifest = &manifests[of];
        let (_, target) = manifest.split_once(&format!("[[bin]]\nname = \"{program}\"")).expect(program);
        let target = target.split("\n[").next().unwrap_or_default();
        let Some(wanted) = target.lines().find(|line| line.starts_with("required-features")) else { continue };
        let wanted = wanted.strip_prefix("required-features = [\"").and_then(|list| list.strip_suffix("\"]"));
        let wanted = wanted.unwrap_or_else(|| panic!("{program}: not one feature on one line: {target}"));
        let is_on = |line: &str| {
            line.split_once('|').is_some_and(|(package, features)| {
                package.starts_with(&format!("{program} ")) && features.split(',').any(|feature| feature == wanted)
            })
        };
        assert!(built.lines().any(is_on), "a build of the workspace has no {program}: it is without {wanted}");
    }
}
