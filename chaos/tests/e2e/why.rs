//! `why`: one write's way over all replicas.

use std::process::{Command, Output, Stdio};

use madkv_testkit::programs::CLIENT;

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT, programs};

fn why(scene: &Scene, words: &[&str]) -> Output {
    Command::new(programs().path(CLIENT))
        .args(["--manager_addrs", &scene.manager_addresses(), "why"])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The number behind `"name":`, in all places of a line of JSON.
fn numbers(json: &str, name: &str) -> Vec<u64> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    json.split(&format!("\"{name}\":")).skip(1).filter_map(|rest| digits(rest).parse().ok()).collect()
}

#[test]
fn why_tells_each_replicas_part_and_names_the_one_that_hangs() {
    let mut scene = Scene::new(SMALL);
    let output = why(&scene, &["PUT", "k", "v", "--json"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("\"answer\":\"PUT k not_found\""), "{text}");
    assert_eq!(vec![numbers(&text, "us").iter().sum::<u64>()], numbers(&text, "total_us"), "{text}");
    assert_eq!(text.matches("\"completes_quorum\":true").count(), 1, "{text}");
    assert!(!numbers(&text, "hop_us").is_empty(), "some follower was level: {text}");

    let hung = scene.follower_of(ONLY);
    scene.process(hung).freeze();
    let output = why(&scene, &["PUT", "k", "w"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    scene.process(hung).thaw();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("PUT k found\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with(&format!("  {hung}: "))).unwrap_or_default();
    assert!(line.contains("not yet") && !line.contains("quorum"), "{text}");
    assert_eq!(text.matches("completes the quorum").count(), 1, "{text}");

    let refused = why(&scene, &["GET", "k"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("only PUT, SWAP and DELETE"), "{refused:?}");
    assert_eq!(scene.warm_client().get("k", TIMEOUT).unwrap().as_deref(), Some("w"));
}
