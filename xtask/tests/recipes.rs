//! The recipes of module `p3`: which command lines they run, and what `p3::kill` ends.
//!
//! They need `just` (on the path, or named by `JUST`); without it each test says that it was skipped. Cargo and the
//! executables are stand-ins that print their arguments, so nothing is built and nothing is started.

#![cfg(test)]

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

struct Recipes {
    just: PathBuf,
    stand_ins: TempDir,
}

impl Recipes {
    /// `None`, and a line that says so, if there is no `just`.
    fn new() -> Option<Recipes> {
        let just = env::var_os("JUST").map_or_else(|| PathBuf::from("just"), PathBuf::from);
        if Command::new(&just).arg("--version").output().is_err() {
            eprintln!("SKIPPED: just is not installed");
            return None;
        }
        let stand_ins = tempfile::tempdir().unwrap();
        let release = stand_ins.path().join("release");
        fs::create_dir(&release).unwrap();
        for name in ["madkv-manager", "madkv-server", "madkv-client", "madkv-fuzz", "madkv-bench"] {
            script(&release.join(name), "#!/bin/sh\necho \"${0##*/} $*\"\n");
        }
        script(&stand_ins.path().join("cargo"), "#!/bin/sh\necho \"cargo $*\"\n");
        Some(Recipes { just, stand_ins })
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.stand_ins.path().display(), env::var("PATH").unwrap());
        Command::new(&self.just)
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", self.stand_ins.path())
            .env_remove("MADKV_FLAGS")
            .output()
            .unwrap()
    }

    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

const MANAGERS: &str = "127.0.0.1:3666,127.0.0.1:3667,127.0.0.1:3668";
const SERVERS: &str = "127.0.0.1:3777,127.0.0.1:3778,127.0.0.1:3779,127.0.0.1:3780,127.0.0.1:3781,127.0.0.1:3782";

#[test]
fn manager_and_server_default_arguments_run_first_nodes_of_default_cluster() {
    let Some(recipes) = Recipes::new() else { return };
    assert_eq!(
        recipes.lines(&["p3::manager"]),
        [format!(
            "madkv-manager --replica_id 0 --man_listen 127.0.0.1:3666 --p2p_listen 127.0.0.1:3606 \
             --peer_addrs 127.0.0.1:3607,127.0.0.1:3608 --server_rf 3 --server_addrs {SERVERS} --backer_path \
             ./backer.m.0"
        )]
    );
    assert_eq!(
        recipes.lines(&["p3::server"]),
        [format!(
            "madkv-server --partition_id 0 --replica_id 0 --manager_addrs {MANAGERS} --api_listen 127.0.0.1:3777 \
             --p2p_listen 127.0.0.1:3707 --peer_addrs 127.0.0.1:3708,127.0.0.1:3709 --backer_path ./backer.s0.0"
        )]
    );
    assert_eq!(recipes.lines(&["p3::client"]), [format!("madkv-client --manager_addrs {MANAGERS}")]);
}

#[test]
fn manager_and_server_positional_arguments_arrive_in_contract_order() {
    let Some(recipes) = Recipes::new() else { return };
    assert_eq!(
        recipes.lines(&["p3::manager", "1", "1001", "1002", "8.7.6.5:3607", "1", "127.0.0.1:5", "/d/m"]),
        ["madkv-manager --replica_id 1 --man_listen 0.0.0.0:1001 --p2p_listen 0.0.0.0:1002 \
          --peer_addrs 8.7.6.5:3607 --server_rf 1 --server_addrs 127.0.0.1:5 --backer_path /d/m"]
    );
    assert_eq!(
        recipes.lines(&["p3::server", "1", "2", "localhost:1", "1003", "1004", "none", "/d/s"]),
        ["madkv-server --partition_id 1 --replica_id 2 --manager_addrs localhost:1 --api_listen 127.0.0.1:1003 \
          --p2p_listen 127.0.0.1:1004 --peer_addrs none --backer_path /d/s"]
    );
    assert_eq!(recipes.lines(&["p3::client", "10.0.0.1:1"]), ["madkv-client --manager_addrs 10.0.0.1:1"]);
}

#[test]
fn fuzz_log_is_named_after_its_arguments_and_crashing_demands_retries() {
    let Some(recipes) = Recipes::new() else { return };
    let line = |arguments: &[&str]| recipes.lines(&[&["p3::fuzz"], arguments].concat()).join("\n");
    let log = "--log /tmp/madkv-p3/fuzz/fuzz";
    assert_eq!(line(&[]), format!("madkv-fuzz --nclis 5 --managers {MANAGERS} {log}-5-no.log"));
    assert_eq!(line(&["3", "yes", "h:1"]), format!("madkv-fuzz --nclis 5 --managers h:1 {log}-3-yes.log --must_retry"));
    for wrong in [["x", "no"], ["5", "maybe"], ["", "no"]] {
        let output = recipes.run(&[&["p3::fuzz"], &wrong[..]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}: {output:?}");
    }
}

#[test]
fn bench_log_is_named_after_its_arguments() {
    let Some(recipes) = Recipes::new() else { return };
    let line = |arguments: &[&str]| recipes.lines(&[&["p3::bench"], arguments].concat()).join("\n");
    let run = |clients: &str, workload: &str, rf: &str, managers: &str| {
        format!(
            "madkv-bench ycsb --nclis {clients} --workload {workload} --server_rf {rf} --managers {managers} \
             --seconds 30 \
             --log /tmp/madkv-p3/bench/bench-{clients}-{workload}-{rf}.log"
        )
    };
    assert_eq!(line(&["10", "a"]), run("10", "a", "3", MANAGERS));
    assert_eq!(line(&["30", "f", "5", "h:1"]), run("30", "f", "5", "h:1"));
    assert_eq!(recipes.lines(&["p3::report"]), ["madkv-bench report"]);
    for wrong in [["x", "a", "3"], ["10", "g", "3"], ["10", "a", "many"], ["10", "aa", "3"]] {
        let output = recipes.run(&[&["p3::bench"], &wrong[..]].concat());
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}: {output:?}");
    }
}

#[test]
fn service_default_cluster_each_node_gets_its_own_addresses() {
    let Some(recipes) = Recipes::new() else { return };
    // What of the node is missing or stale, and the client, which nothing else builds; not the tools.
    let built = "cargo build --release --workspace --locked --bin madkv-manager --bin madkv-client";
    for (replica, peers) in [(0, "3607,127.0.0.1:3608"), (1, "3606,127.0.0.1:3608"), (2, "3606,127.0.0.1:3607")] {
        assert_eq!(
            recipes.lines(&["p3::service", &format!("m.{replica}")]),
            [
                built.to_owned(),
                format!(
                    "madkv-manager --replica_id {replica} --man_listen 127.0.0.1:{} --p2p_listen 127.0.0.1:{} \
                     --peer_addrs 127.0.0.1:{peers} --server_rf 3 --server_addrs {SERVERS} --backer_path \
                     ./backer.m.{replica}",
                    3666 + replica,
                    3606 + replica,
                )
            ]
        );
    }
    let peers = ["3708,127.0.0.1:3709", "3707,127.0.0.1:3709", "3707,127.0.0.1:3708"];
    let more_peers = ["3711,127.0.0.1:3712", "3710,127.0.0.1:3712", "3710,127.0.0.1:3711"];
    for (at, peers) in peers.into_iter().chain(more_peers).enumerate() {
        let (partition, replica) = (at / 3, at % 3);
        assert_eq!(
            recipes.lines(&["p3::service", &format!("s{partition}.{replica}")])[1],
            format!(
                "madkv-server --partition_id {partition} --replica_id {replica} --manager_addrs {MANAGERS} \
                 --api_listen 127.0.0.1:{} --p2p_listen 127.0.0.1:{} --peer_addrs 127.0.0.1:{peers} \
                 --backer_path ./backer.s{partition}.{replica}",
                3777 + at,
                3707 + at,
            )
        );
    }
    let built = "cargo build --release --workspace --locked --bin madkv-server --bin madkv-client";
    assert_eq!(recipes.lines(&["p3::service"])[0], built);
    assert!(recipes.lines(&["p3::service"])[1].contains("--partition_id 0 --replica_id 0"));
}

#[test]
fn service_other_shapes_lone_replicas_and_remote_addresses() {
    let Some(recipes) = Recipes::new() else { return };
    // One manager, two partitions of one server each, one address not loopback.
    let rest = ["h:1", "h:2", "1", "h:3,h:4", "h:5,h:6", "/data/b"];
    let run = |node: &str| recipes.lines(&[&["p3::service", node], &rest[..]].concat()).remove(1);
    assert_eq!(
        run("m.0"),
        "madkv-manager --replica_id 0 --man_listen 0.0.0.0:1 --p2p_listen 0.0.0.0:2 --peer_addrs none --server_rf 1 \
         --server_addrs h:3,h:4 --backer_path /data/b.m.0"
    );
    assert_eq!(
        run("s1.0"),
        "madkv-server --partition_id 1 --replica_id 0 --manager_addrs h:1 --api_listen 0.0.0.0:4 --p2p_listen \
         0.0.0.0:6 \
         --peer_addrs none --backer_path /data/b.s1.0"
    );
}

#[test]
fn service_impossible_node_is_refused_before_anything_is_built() {
    let Some(recipes) = Recipes::new() else { return };
    for node in ["m.3", "s2.0", "s0.3", "s0", "x.1", "m.", "s.1", "m.1.1", ""] {
        let output = recipes.run(&["p3::service", node]);
        assert!(!output.status.success(), "{node}: {output:?}");
        assert!(output.stdout.is_empty(), "{node}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("p3::service:"), "{node}: {output:?}");
    }
}

/// In a process namespace of its own, because the recipe ends every process of the user.
#[test]
fn kill_ends_our_executables_only_also_replaced_ones() {
    let Some(recipes) = Recipes::new() else { return };
    let unshare = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no process namespaces here");
        return;
    }
    let scene = r#"
        set -eu
        cp "$(command -v sleep)" "$1/madkv-server"; cp "$1/madkv-server" "$1/madkv-client"
        cp "$1/madkv-server" "$1/madkv-servers"
        cp "$1/madkv-server" "$1/madkv-agent"
        "$1/madkv-server" 600 & server=$!
        "$1/madkv-agent" 600 & agent=$!
        "$1/madkv-client" 600 & client=$!
        "$1/madkv-servers" 600 & other=$!
        sh -c 'sleep 600; :' "$1/madkv-server" & editor=$!
        rm "$1/madkv-client"
        ! kill -0 "$server" && exit 10
        "$2" p3::kill || exit 11
        for gone in $server $client $agent; do [ -z "$(readlink "/proc/$gone/exe")" ] || exit 12; done
        for alive in $other $editor; do kill -0 "$alive" || exit 13; done
        "$2" p3::kill || exit 14
    "#;
    let place = tempfile::tempdir().unwrap();
    let just = Command::new("sh").arg("-c").arg("command -v \"$1\"").arg("-").arg(&recipes.just).output().unwrap();
    let output = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", scene, "-"])
        .arg(place.path())
        .arg(String::from_utf8(just.stdout).unwrap().trim())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
