//! The fuzzer against a running cluster, and against clients that lie.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use madkv_chaos::fuzz::{Fuzz, FuzzOptions, run};
use madkv_testkit::cluster::Shape;
use madkv_testkit::programs::{CLIENT, FUZZER};
use madkv_testkit::wait::wait_for;
use tempfile::TempDir;

use crate::scene::{ONLY, SMALL, Scene, TIMEOUT, fresh_directory, programs};

fn options(scene: &Scene, directory: &TempDir) -> FuzzOptions {
    let managers = scene.manager_addresses().split(',').map(str::to_owned).collect();
    FuzzOptions {
        program: Some(programs().path(CLIENT)),
        // This many operations are a few seconds on an idle machine; the time is for a busy one.
        operations: Some(500),
        length: Duration::from_secs(600),
        ..FuzzOptions::new(managers, &directory.path().join("run.history"))
    }
}

/// How often something is tried that a busy machine may spoil.
const RUNS_MAX: usize = 20;

fn fuzzer(arguments: &[&str]) -> Output {
    Command::new(programs().path(FUZZER)).args(arguments).env_remove("CARGO").output().unwrap()
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn fuzz_healthy_cluster_passes_with_programs_and_with_library() {
    let scene = Scene::new(Shape { partitions: 2, ..SMALL });
    let directory = fresh_directory();
    for program in [Some(programs().path(CLIENT)), None] {
        // The second run meets the first one's keys, and clients that die.
        let options = FuzzOptions {
            program,
            prefix: Some("again-".to_owned()),
            deaths_permille: 5,
            timeout: Some(TIMEOUT),
            ..options(&scene, &directory)
        };
        let report = run(options, &AtomicBool::new(false)).unwrap();
        assert!(report.passed, "{report}");
        assert!(report.statistics.answered() > 50 && report.picture.is_none(), "{report}");
        let history = fs::read_to_string(&report.history).unwrap();
        assert!(history.contains("\npartitions 2\n"));
        let again = fuzzer(&["check", &report.history.display().to_string()]);
        assert_eq!((again.status.code(), last_line(&again)), (Some(0), "PASSED".to_owned()), "{again:?}");
    }
}

// covers I14 E1
#[test]
fn fuzz_leader_killed_meanwhile_passes_and_saw_retries() {
    let mut scene = Scene::new(SMALL);
    let directory = fresh_directory();
    let options = FuzzOptions { operations: None, must_retry: true, ..options(&scene, &directory) };
    let fuzz = Fuzz::start(options).unwrap();
    let wait_answers = |more: u64| {
        let target = fuzz.answered() + more;
        wait_for(TIMEOUT, "answers", || (fuzz.answered() >= target || fuzz.failure().is_some()).then_some(())).unwrap();
    };
    for _ in 0..2 {
        wait_answers(200);
        let leader = scene.leader_of(ONLY);
        scene.process(leader).kill();
        wait_answers(200);
        scene.process(leader).start().unwrap();
        scene.wait_caught_up(ONLY, TIMEOUT).unwrap();
    }
    fuzz.stop();
    let report = fuzz.finish().unwrap();
    assert!(report.passed, "{report}");
    assert!(report.statistics.retried > 0, "{report}");
}

#[test]
fn fuzz_nothing_crashed_although_it_should_have_fails() {
    let scene = Scene::new(SMALL);
    let directory = fresh_directory();
    let log = directory.path().join("fuzz-5-yes.log");
    let managers = scene.manager_addresses();
    let log_name = log.display().to_string();
    let arguments = ["--managers", &managers, "--ops", "100", "--must_retry", "--log", &log_name, "--seed", "7"];
    // On a busy machine something may have to be tried again although nothing crashed: such a run says nothing.
    let mut runs = (0..RUNS_MAX).map(|_| fuzzer(&arguments));
    let output = runs.find(|output| !output.status.success()).expect("a run without retries");
    assert_eq!((output.status.code(), last_line(&output)), (Some(1), "FAILED".to_owned()), "{output:?}");
    let text = fs::read_to_string(log).unwrap();
    assert_eq!(text.as_bytes(), output.stdout, "the log has what was printed");
    assert!(text.contains("had to be tried again: nothing crashed"), "{text}");
    assert!(directory.path().join("fuzz-5-yes.history").exists());
}

#[test]
fn fuzz_clients_that_lie_are_found_and_a_picture_shows_it() {
    let scene = Scene::new(SMALL);
    let directory = fresh_directory();
    let liar = directory.path().join("liar");
    // It forgets each DELETE that it has acknowledged.
    let real = programs().path(CLIENT).display().to_string();
    let script = format!(
        "#!/bin/bash\nexec 3> >(exec {real} \"$@\" 2>/dev/null)\nwhile read -r verb rest; do\n\
         if [ \"$verb\" = DELETE ]; then echo \"DELETE $rest found\"; else echo \"$verb $rest\" >&3; fi\ndone\nexec \
         3>&-\nwait\n"
    );
    fs::write(&liar, script).unwrap();
    fs::set_permissions(&liar, fs::Permissions::from_mode(0o755)).unwrap();
    let options = FuzzOptions { program: Some(liar), ..options(&scene, &directory) };
    let report = run(options, &AtomicBool::new(false)).unwrap();
    assert!(!report.passed && !report.verdict.violations.is_empty(), "{report}");
    assert_eq!(report.failures, Vec::<String>::new(), "{report}");
    let picture = report.picture.clone().expect("a picture");
    let page = fs::read_to_string(&picture).unwrap();
    assert!(page.contains("<svg") && page.contains("DELETE"), "{page}");
    fs::remove_file(&picture).unwrap();
    let again = fuzzer(&["check", &report.history.display().to_string()]);
    assert_eq!((again.status.code(), last_line(&again)), (Some(1), "FAILED".to_owned()), "{again:?}");
    assert!(picture.exists());
}

#[test]
fn fuzz_client_that_hangs_fails_the_run_and_is_named() {
    let scene = Scene::new(SMALL);
    let directory = fresh_directory();
    let sleeper = directory.path().join("sleeper");
    fs::write(&sleeper, "#!/bin/sh\nexec sleep 600\n").unwrap();
    fs::set_permissions(&sleeper, fs::Permissions::from_mode(0o755)).unwrap();
    let hang_timeout = Duration::from_secs(2);
    let options = FuzzOptions { program: Some(sleeper), hang_timeout, ..options(&scene, &directory) };
    let report = run(options, &AtomicBool::new(false)).unwrap();
    assert!(!report.passed, "{report}");
    assert!(report.failures.iter().any(|failure| failure.contains("client 0 hangs")), "{report}");
}

#[test]
fn fuzz_what_cannot_run_exit_code_2_and_one_line() {
    let directory = fresh_directory();
    let bad = directory.path().join("bad.history");
    fs::write(&bad, "madkv-history 1\n0 1 2 GET k -> absent\n").unwrap();
    let missing = directory.path().join("missing").display().to_string();
    let bad = bad.display().to_string();
    for (arguments, part) in [
        (&["check", &missing][..], "missing"),
        (&["check", &bad], "line 3: the file is cut off"),
        (&["--managers", "nonsense"], "nonsense"),
        (&["--managers", "127.0.0.1:9", "--patience", "1"], "the service is not there"),
    ] {
        let output = fuzzer(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(said.lines().last().unwrap_or_default().contains(part), "{arguments:?}: {said}");
    }
}
