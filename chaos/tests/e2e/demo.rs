//! Demonstrations: the quick ones run here, all of them by `just demos`.

use std::process::{Command, Output, Stdio};

use crate::scene::programs;

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(programs().path("madkv-demo"));
    // Otherwise it would call cargo.
    command.args(arguments).env_remove("CARGO").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn demonstrations_say_what_they_show_and_end_well() {
    let output = demo(&["steady-state", "backup"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    for part in ["[guide 1 (7)]", "[guide 5 steady state v1 and v2]", "backup: everything happened as claimed"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn demonstration_that_there_is_not_is_refused() {
    let output = demo(&["dance"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let names = demo(&["--list"]);
    assert!(names.status.success() && String::from_utf8_lossy(&names.stdout).contains("slow-leader"));
}
