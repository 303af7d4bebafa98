//! The example as a stranger would run it: three processes and a client, and the leader's death between two numbers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

struct Replica(Child);

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The example, which a run of all tests has built along; a run of this test alone has not.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let built = test.parent().and_then(|deps| deps.parent()).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        // Of the whole workspace: with fewer packages others of their features are on, and most crates are built twice.
        build.args(["build", "--quiet", "--locked", "--workspace", "--example", "counter-service"]);
        assert!(build.arg("--target-dir").arg(built.parent().unwrap()).status().unwrap().success());
        built.join("examples/counter-service")
    })
}

fn counter(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn counter_service_counts_on_when_each_replica_has_died_once() {
    let directory = tempfile::tempdir().unwrap();
    // Held until all of them are known, so that none is given out twice.
    let held: Vec<TcpListener> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = held.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let (clients, peers) = addresses.split_at(3);
    drop(held);
    let start = |number: usize| {
        let others: Vec<&str> = peers.iter().map(String::as_str).filter(|peer| *peer != peers[number]).collect();
        let child = Command::new(program())
            .args(["serve", "--replica_id", &number.to_string(), "--listen", &clients[number]])
            .args(["--p2p_listen", &peers[number], "--peer_addrs", &others.join(",")])
            .args(["--allow_unsynced", "--backer_path"])
            .arg(directory.path().join(number.to_string()))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Replica(child)
    };
    let mut replicas: Vec<Replica> = (0..3).map(start).collect();
    let replicated = clients.join(",");
    assert_eq!(printed(&counter(&["add", "--replicas", &replicated, "5"])), "5");
    for (number, replica) in replicas.iter_mut().enumerate() {
        replica.0.kill().unwrap();
        replica.0.wait().unwrap();
        let sum = 5 + number + 1;
        assert_eq!(printed(&counter(&["add", "--replicas", &replicated, "1"])), sum.to_string());
        *replica = start(number);
    }
    assert_eq!(printed(&counter(&["get", "--replicas", &replicated])), "8");
}

#[test]
fn counter_service_wrong_arguments_are_one_line_and_exit_code_2() {
    let nothing =
        ["serve", "--replica_id", "0", "--listen", "x", "--p2p_listen", "127.0.0.1:1", "--peer_addrs", "none"];
    let output = counter(&[&nothing[..], &["--backer_path", "/nowhere"]].concat());
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("counter: --listen: ") && said.lines().count() == 1, "{said:?}");
}
