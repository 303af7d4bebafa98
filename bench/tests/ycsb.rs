//! The benchmarker against a running cluster, and with a client that lies to it.

#![cfg(test)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use madkv_bench::ycsb::outcome::Outcome;
use madkv_testkit::cluster::Shape;
use madkv_testkit::programs::BENCHMARKER;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};

// The stage of the end-to-end tests, of which this needs a part.
#[allow(dead_code, reason = "this test uses a part of the stage")]
#[path = "../../chaos/tests/e2e/scene.rs"]
mod scene;

use scene::{SMALL, Scene, TIMEOUT, fresh_directory, programs};

/// Few and small records: what is tested is that it works, not how fast.
fn ycsb(clients: &str, operations: &str, arguments: &[&str]) -> Output {
    command(clients, operations, &[&["--records", "30"], arguments].concat()).output().unwrap()
}

fn command(clients: &str, operations: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs().path(BENCHMARKER));
    command.args(["ycsb", "--field_bytes", "20", "--nclis", clients, "--operations", operations]);
    command.args(arguments).env_remove("CARGO");
    command
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

/// A store of files behind the line protocol, with a line of shell in front of each request.
fn file_store(directory: &Path, before_each: &str) -> String {
    let script = directory.join("store.sh");
    let text = r#"#!/bin/sh
mkdir -p "$1" && cd "$1" || exit 1
count=0
while read -r verb key value; do
    BEFORE_EACH
    case $verb in
        PUT) printf %s "$value" > "$key"; echo "PUT $key not_found" ;;
        GET) echo "GET $key $(cat "$key" 2> /dev/null || echo null)" ;;
        SWAP)
            echo "SWAP $key $(cat "$key")"
            [ -n "$forget" ] || printf %s "$value" > "$key" ;;
        SCAN)
            echo "SCAN $key $value BEGIN"
            for file in user*; do
                if expr "x$file" ">=" "x$key" "&" "x$file" "<=" "x$value" > /dev/null; then
                    echo "  $file $(cat "$file")"; fi
            done
            echo "SCAN END" ;;
    esac
done
"#;
    executable(&script, &text.replace("BEFORE_EACH", before_each));
    format!("env LC_ALL=C {} {}", script.display(), directory.join("data").display())
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ycsb_client_that_loses_a_write_is_found_out() {
    // It acknowledges the 100th SWAP without doing it.
    let forgets = r#"forget=; [ "$verb" != SWAP ] || { count=$((count + 1)); [ "$count" -ne 100 ] || forget=yes; }"#;
    for (operations, passes) in [("120", true), ("300", false)] {
        let directory = fresh_directory();
        let store = file_store(directory.path(), forgets);
        let output = ycsb("1", operations, &["--client_command", &store, "--distribution", "uniform"]);
        let text = said(&output);
        assert_eq!(output.status.success(), passes, "{text}");
        assert_eq!(text.contains("WRONG: key user"), !passes, "{text}");
    }
}

#[test]
fn ycsb_rate_beyond_the_store_counts_from_the_intended_start_and_ends_in_time() {
    let directory = fresh_directory();
    // Loading is quick; then each request takes 50 ms, where one each 10 ms is wanted.
    let store = file_store(directory.path(), r#"[ "$verb" = PUT ] || sleep 0.05"#);
    let log = directory.path().join("run.log");
    let open = ["--client_command", &store, "--workload", "c", "--target", "100", "--seconds", "1.5"];
    let output = ycsb("1", "1000", &[&open[..], &["--log", log.to_str().unwrap()]].concat());
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(log.with_extension("json")).unwrap()).unwrap();
    let number = |value: &serde_json::Value| value.as_f64().unwrap();
    let (count, never_begun) = (number(&json["figures"]["OVERALL"]["count"]), number(&json["never_begun"]));
    assert!((2.0..=30.0).contains(&count), "{json}");
    // All that were due before the end: 150, of which the last one may lie on the end.
    assert!((149.0..=151.0).contains(&(count + never_begun)), "{json}");
    // The n-th begins 40 ms later than the one before it, at least: the last one is late by nearly everything.
    let max = number(&json["figures"]["OVERALL"]["max_ms"]);
    assert!(max > 1_000.0, "{json}");
    assert!(number(&json["seconds"]) >= 1.4, "{json}");
    assert!(said(&output).contains("operations were due and never begun"), "{output:?}");
}

#[test]
fn ycsb_interrupted_while_a_client_hangs_ends_with_it_at_once() {
    let directory = fresh_directory();
    let hangs = directory.path().join("hangs");
    let before =
        format!(r#"[ "$verb" = PUT ] || {{ echo $$ > {0}.part; mv {0}.part {0}; exec sleep 1000; }}"#, hangs.display());
    let store = file_store(directory.path(), &before);
    let log = directory.path().join("run.log");
    let child = command("2", "100", &["--records", "30", "--client_command", &store, "--log", log.to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let hanging = wait_for(TIMEOUT, "a hanging client", || fs::read_to_string(&hangs).ok()).unwrap();
    let start = Instant::now();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    // A client counts as hung after 120 s.
    assert!(start.elapsed() < TIMEOUT, "{:?}", start.elapsed());
    let text = said(&output);
    assert!(!output.status.success() && text.ends_with("madkv-bench: interrupted\n"), "{text}");
    assert!(!Path::new("/proc").join(hanging.trim()).exists());
    assert!(!log.exists(), "an interrupted run says nothing about the store");
}

#[test]
fn ycsb_client_that_ends_fails_the_run_with_one_line_and_a_log_that_says_why() {
    let directory = fresh_directory();
    let store = file_store(directory.path(), r#"[ "$verb" = PUT ] || exit 0"#);
    let log = directory.path().join("run.log");
    let output = ycsb("1", "100", &["--client_command", &store, "--log", log.to_str().unwrap()]);
    let text = said(&output);
    let last = text.lines().next_back().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{text}");
    assert!(last.starts_with("madkv-bench: measured phase: client 0: the client ended, at "), "{text}");
    let outcome = Outcome::parse(&fs::read_to_string(&log).unwrap()).unwrap();
    assert!(outcome.failure.unwrap().starts_with("measured phase: client 0: the client ended"));
}

#[test]
fn ycsb_impossible_numbers_are_refused_before_anything_starts() {
    for wrong in [
        ["--seconds", "-1"],
        ["--seconds", "nan"],
        ["--target", "0"],
        ["--records", "0"],
        ["--records", "18446744073709551615"],
        ["--operations", "0"],
        ["--field_bytes", "18446744073709551615"],
        ["--field_bytes", "104858"],
        ["--nclis", "0"],
        ["--scan_max", "0"],
        ["--managers", "nonsense"],
        ["--log", "/proc/no/such/place.log"],
        ["--server_rf", "4"],
        ["--manager_rf", "0"],
        ["--partitions", "60000"],
    ] {
        let own_cluster = ["--server_rf", "--manager_rf", "--partitions"].contains(&wrong[0]);
        let output = Command::new(programs().path(BENCHMARKER))
            .arg("ycsb")
            .args(if own_cluster { &[][..] } else { &["--client_command", "exit 1"] })
            .args(wrong)
            .env_remove("CARGO")
            .output()
            .unwrap();
        let text = said(&output);
        assert!(!output.status.success() && output.stdout.is_empty(), "{wrong:?}: {text}");
        assert!(!text.contains("panicked") && !text.contains("workload: "), "{wrong:?}: {text}");
    }
}

#[test]
fn ycsb_driven_by_a_distribution_asks_what_it_says() {
    let directory = fresh_directory();
    let path = directory.path();
    // As YCSB's own script: it prints what it runs, and runs it as a child.
    fs::create_dir(path.join("bin")).unwrap();
    executable(
        &path.join("bin/ycsb.sh"),
        r#"#!/bin/sh
echo "/usr/bin/java -classpath x site.ycsb.Client -db site.ycsb.BasicDB $*"
sh -c '
    if [ "$0" = load ]; then
        for key in 1 2 3 4 5; do echo "INSERT usertable user$key [ field0=x ]"; done
    else
        echo "READ usertable user1 [ <all fields>]"
        echo "READ usertable user2 [ <all fields>]"
        echo "UPDATE usertable user2 [ field0=/ ]"
        echo "INSERT usertable user9 [ field0=UPDATE usertable user1 ]"
        echo "SCAN usertable user4 3 [ <all fields>]"
        echo "SCAN usertable user99 3 [ <all fields>]"
    fi
    echo "[OVERALL], RunTime(ms), 25"
' "$1"
"#,
    );
    let store = file_store(path, ":");
    let log = path.join("run.log");
    let given = ["--client_command", &store, "--workload", "f", "--ycsb", path.to_str().unwrap(), "--records", "5"];
    let output = command("1", "100", &[&given[..], &["--log", log.to_str().unwrap()]].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let outcome = Outcome::parse(&fs::read_to_string(&log).unwrap()).unwrap();
    let count = |kind: &str| outcome.figures.get(kind).map_or(0, |figures| figures.count);
    assert_eq!(["READ", "UPDATE", "READ-MODIFY-WRITE", "INSERT", "SCAN"].map(count), [2, 1, 1, 1, 2]);
    assert_eq!((outcome.all().count, outcome.scanned), (5, (6, 3)));
    // One that names fewer records than it was asked for.
    let fewer = command("1", "100", &[&given[..6], &["--records", "6"]].concat()).output().unwrap();
    assert!(!fewer.status.success() && said(&fewer).contains("5 records were loaded instead of 6"), "{fewer:?}");
}
