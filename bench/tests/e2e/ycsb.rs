//! The benchmarker against a running cluster, and with a client that lies to it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use madkv_bench::cluster::Shape;
use madkv_bench::programs::BENCHMARKER;
use madkv_bench::ycsb::outcome::Outcome;

use crate::scene::{SMALL, Scene, fresh_directory, programs};

/// Few and small records: what is tested is that it works, not how fast.
fn ycsb(clients: &str, operations: &str, arguments: &[&str]) -> Output {
    Command::new(programs().path(BENCHMARKER))
        .args(["ycsb", "--records", "30", "--field_bytes", "20", "--nclis", clients, "--operations", operations])
        .args(arguments)
        .env_remove("CARGO")
        .output()
        .unwrap()
}

#[test]
fn ycsb_workloads_on_a_running_cluster_are_measured_logged_and_verified() {
    let scene = Scene::new(Shape { partitions: 2, ..SMALL });
    let managers = scene.manager_addresses();
    let directory = fresh_directory();
    let log = directory.path().join("kept").join("bench-2-x-3.log");
    // The second meets what the first one left, the third runs against the clock.
    let runs: [(u64, &[&str]); 3] = [
        (300, &["--workload", "a", "--check_replicas"]),
        (300, &["--workload", "e", "--clients", "library"]),
        (100, &["--workload", "f", "--clients", "library", "--target", "200"]),
    ];
    for (operations, more) in runs {
        let run = [&["--managers", managers.as_str(), "--log", log.to_str().unwrap()], more].concat();
        let output = ycsb("2", &operations.to_string(), &run);
        assert!(output.status.success(), "{output:?}");
        let text = fs::read_to_string(&log).unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), text);
        let outcome = Outcome::parse(&text).unwrap();
        assert!(outcome.passed, "{text}");
        assert_eq!(outcome.all().count, operations, "{text}");
        assert_eq!(outcome.header("replication factor"), Some("3"));
        assert_eq!(outcome.header("partitions"), Some("2"));
        if more.contains(&"e") {
            let (asked, returned) = outcome.scanned;
            assert!(returned > 0 && returned <= asked, "{text}");
        }
        if more.contains(&"--check_replicas") {
            assert!(text.contains("the same from each of 3 replicas"), "{text}");
        }
        let json: serde_json::Value = serde_json::from_slice(&fs::read(log.with_extension("json")).unwrap()).unwrap();
        assert_eq!(json["passed"], true);
        // One manager and six servers, each with what it has cost.
        assert_eq!(json["costs"].as_array().unwrap().len(), 7, "{json}");
    }
}

#[test]
fn ycsb_client_that_loses_a_write_is_found_out() {
    let directory = fresh_directory();
    let script = directory.path().join("forgetful");
    // A store of files that acknowledges the 100th SWAP without doing it.
    fs::write(
        &script,
        r#"#!/bin/sh
cd "$1" || exit 1
count=0
while read -r verb key value; do
    case $verb in
        PUT) printf %s "$value" > "$key"; echo "PUT $key not_found" ;;
        GET) echo "GET $key $(cat "$key")" ;;
        SWAP)
            count=$((count + 1))
            echo "SWAP $key $(cat "$key")"
            [ "$count" -eq 100 ] || printf %s "$value" > "$key" ;;
        SCAN)
            echo "SCAN $key $value BEGIN"
            for file in user*; do
                if expr "x$file" ">=" "x$key" "&" "x$file" "<=" "x$value" > /dev/null; then echo "  $file $(cat "$file")"; fi
            done
            echo "SCAN END" ;;
    esac
done
"#,
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for (operations, passes) in [("120", true), ("300", false)] {
        let data = directory.path().join(operations);
        fs::create_dir(&data).unwrap();
        let command = format!("env LC_ALL=C {} {}", script.display(), data.display());
        let output = ycsb("1", operations, &["--client_command", &command, "--distribution", "uniform"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), passes, "{text}");
        assert_eq!(text.contains("WRONG: key user"), !passes, "{text}");
    }
}
