//! All keys into a file, and back.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use madkv_testkit::cluster::{Cluster, Node, Shape};
use madkv_testkit::programs::CLIENT;

use crate::scene::{Scene, TIMEOUT, fresh_directory, programs};

/// More than a restore has under way, in several blocks of the file.
const KEYS: usize = 600;
const VALUE_BYTES: usize = 1_500;

fn client(cluster: &Cluster, words: &[&str]) -> Output {
    let mut command = Command::new(programs().path(CLIENT));
    command.args(["--manager_addrs", &cluster.manager_addresses()]).args(words).stdin(Stdio::null()).output().unwrap()
}

fn assert_refused(output: &Output, part: &str) {
    let why = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{why}");
    assert!(why.contains(part) && why.lines().count() == 1, "{part:?} in {why:?}");
}

fn value(number: usize) -> String {
    format!("{number}-").repeat(VALUE_BYTES).chars().take(VALUE_BYTES).collect()
}

/// The keys and values from `a` to `z`, as the client prints them.
fn all(cluster: &Cluster) -> Vec<String> {
    let mut client = cluster.client().unwrap();
    let mut lines = vec![client.ask("SCAN a z", TIMEOUT).unwrap()];
    while lines.last().unwrap() != "SCAN END" {
        lines.push(client.line(TIMEOUT).unwrap());
    }
    lines
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn backup_goes_into_a_cluster_of_another_shape_whole_or_not_at_all() {
    let mut scene = Scene::new(Shape { server_rf: 3, manager_rf: 1, partitions: 2 });
    let mut writer = scene.client().unwrap();
    for number in 0..KEYS {
        writer.ask(&format!("PUT key{number:03} {}", value(number)), TIMEOUT).unwrap();
    }
    // A replica that is down does not matter.
    scene.process(Node::Server { partition: 0, replica: 0 }).kill();
    let directory = fresh_directory();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let made = client(&scene, &["backup", &path("whole")]);
    assert!(made.status.success(), "{made:?}");
    assert!(String::from_utf8_lossy(&made.stdout).starts_with(&format!("{KEYS} keys of 2 partitions")), "{made:?}");
    assert_eq!(names(directory.path()), ["whole"], "nothing is left beside it");
    assert_refused(&client(&scene, &["backup", &path("whole")]), "such a file already");
    assert_refused(&client(&scene, &["backup", &path("no/such/directory")]), "cannot be written");

    let other = Scene::new(Shape { server_rf: 1, manager_rf: 1, partitions: 3 });
    let bytes = fs::read(path("whole")).unwrap();
    // Far behind the first records: they must not have been written when it is found.
    let mut damaged = bytes.clone();
    let at = bytes.len() - 60;
    damaged[at] ^= 1;
    for (name, bytes, part) in [
        ("damaged", &damaged[..], "does not verify"),
        ("cut", &bytes[..bytes.len() - 1], "it ends in block"),
        ("without its end", &bytes[..bytes.len() - 25], "before its end"),
        ("foreign", b"{\"a\": 1}\n", "no backup"),
    ] {
        fs::write(path(name), bytes).unwrap();
        assert_refused(&client(&other, &["restore", &path(name)]), part);
        assert_eq!(all(&other), ["SCAN a z BEGIN", "SCAN END"], "{name}");
    }
    assert_refused(&client(&other, &["restore", &path("absent")]), "cannot be read");

    let restored = client(&other, &["restore", &path("whole")]);
    assert!(restored.status.success(), "{restored:?}");
    let expected = all(&scene);
    assert_eq!(expected.len(), KEYS + 2);
    assert!(all(&other) == expected, "the other cluster has other keys or values");

    // Over what is there only if that is said.
    let mut writer = other.client().unwrap();
    writer.ask("PUT key000 changed", TIMEOUT).unwrap();
    assert_refused(&client(&other, &["restore", &path("whole")]), "has keys");
    assert_eq!(writer.get("key000", TIMEOUT).unwrap().as_deref(), Some("changed"));
    assert!(client(&other, &["restore", &path("whole"), "--into-nonempty"]).status.success());
    assert!(all(&other) == expected, "the other cluster has other keys or values");
}
