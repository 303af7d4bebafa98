//! The launcher, as README shows it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use madkv_testkit::programs::LAUNCHER;
use madkv_testkit::wait::wait_for;
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{TIMEOUT, fresh_directory, programs};

const SCRIPT: &str = "PUT a 1\nSWAP a 2\nGET a\nSCAN a z\nDELETE a\nGET a\nSTOP\n";
const ANSWERS: &str =
    "PUT a not_found\nSWAP a 1\nGET a 2\nSCAN a z BEGIN\n  a 2\nSCAN END\nDELETE a found\nGET a null\nSTOP\n";

fn launch(arguments: &[&str]) -> Child {
    Command::new(programs().path(LAUNCHER))
        .args(arguments)
        // Otherwise it would call cargo.
        .env_remove("CARGO")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn run(arguments: &[&str], script: &str) -> Output {
    let mut child = launch(arguments);
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn assert_answers(output: &Output, answers: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), answers, "stderr: {said}");
    assert!(output.status.success(), "{}: {said}", output.status);
}

#[test]
fn readme_script_through_launcher_prints_exactly_the_contracts_lines() {
    let output = run(&[], SCRIPT);
    assert_answers(&output, ANSWERS);
    let said = String::from_utf8_lossy(&output.stderr);
    for group in ["manager", "partition 0", "partition 1"] {
        assert!(said.contains(&format!("leads {group}")), "{said}");
    }
    for node in ["m.0", "m.2", "s0.0", "s1.2"] {
        assert!(said.contains(&format!("{node} shows what it does at http://127.0.0.1:")), "{said}");
    }
}

#[test]
fn launcher_other_shapes_serve() {
    for (rf, partitions) in [("1", "1"), ("5", "1"), ("1", "5")] {
        let output = run(&["--server_rf", rf, "--manager-rf", rf, "--partitions", partitions], SCRIPT);
        assert_answers(&output, ANSWERS);
    }
}

#[test]
fn launcher_given_directory_goes_on_with_it() {
    let directory = fresh_directory();
    let place = directory.path().join("kept").display().to_string();
    let lone = ["--directory", &place, "--server_rf", "1", "--manager_rf", "1", "--partitions", "2"];
    assert_answers(&run(&lone, "PUT a 1\nPUT b 2\n"), "PUT a not_found\nPUT b not_found\n");
    assert_answers(&run(&["--directory", &place], "SCAN a z\n"), "SCAN a z BEGIN\n  a 1\n  b 2\nSCAN END\n");
}

/// A small cluster in `place`, ready; with what it still has to say, which someone must be there to hear.
fn launch_small(place: &str) -> (Child, impl Sized) {
    let mut child = launch(&["--directory", place, "--partitions", "1", "--manager_rf", "1"]);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("leads partition 0")));
    // Four nodes and the client; the client may not have started yet.
    assert!(processes_naming(place) >= 4);
    (child, said)
}

#[test]
fn launcher_interrupted_ends_everything_it_started() {
    for signal in [Signal::INT, Signal::TERM] {
        let directory = fresh_directory();
        let place = directory.path().join("kept").display().to_string();
        let (mut child, _said) = launch_small(&place);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = wait_for(TIMEOUT, "the launcher's end", || child.try_wait().unwrap()).unwrap();
        assert_eq!(status.code(), Some(128 + signal.as_raw()));
        assert_eq!(processes_naming(&place), 0);
    }
}

#[test]
fn launcher_with_agents_launches_again_what_is_killed_and_leaves_no_process_behind() {
    for killed in [true, false] {
        let directory = fresh_directory();
        let place = directory.path().join("kept").display().to_string();
        let shape = ["--partitions", "1", "--manager_rf", "1", "--agents", "--trace_messages"];
        let mut child = launch(&[&["--directory", &place], &shape[..]].concat());
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("leads partition 0")));
        let backer = format!("{place}/backer.s0.1\0");
        let servers = || process_ids_naming(&backer);
        let old = wait_for(TIMEOUT, "a server", || servers().pop()).unwrap();
        let agent_log = || fs::read_to_string(directory.path().join("kept/agent.2.log")).unwrap_or_default();
        wait_for(TIMEOUT, "its agent", || agent_log().contains("add replica S2").then_some(())).unwrap();
        kill_process(Pid::from_raw(old).unwrap(), Signal::KILL).unwrap();
        wait_for(TIMEOUT, "another one", || servers().iter().any(|&pid| pid != old).then_some(()))
            .unwrap_or_else(|error| panic!("{error}: {}", agent_log()));
        if killed {
            child.kill().unwrap();
        } else {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        }
        child.wait().unwrap();
        wait_for(TIMEOUT, "the end of all that it started", || (processes_naming(&place) == 0).then_some(())).unwrap();
    }
}

#[test]
fn launcher_killed_leaves_no_process_behind() {
    let directory = fresh_directory();
    let place = directory.path().join("kept").display().to_string();
    let (mut child, _said) = launch_small(&place);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for(TIMEOUT, "the end of all that it started", || (processes_naming(&place) == 0).then_some(())).unwrap();
}

/// The words are the launcher's: the client alone knows none of them.
#[test]
fn words_of_the_launcher_do_what_they_say_and_refuse_what_they_cannot() {
    let script = [
        ("PUT a 1", "PUT a not_found"),
        ("kill m.0", "m.0 killed"),
        ("kill m.0", "ERROR m.0 does not run"),
        // All or none.
        ("kill s0.0 m.0", "ERROR m.0 does not run; nothing was done"),
        ("pause s0.2 m.0", "ERROR m.0 does not run; nothing was done"),
        ("wipe s0.0", "ERROR s0.0 runs; kill it first"),
        ("resume s0.2", "ERROR s0.2 is not paused"),
        ("pause m.0", "ERROR m.0 does not run"),
        ("restart m.0", "m.0 started"),
        ("kill s9.9", "ERROR no node s9.9; there are m.0 to m.0, and s0.0 to s0.2"),
        ("kill", "ERROR which node? for example s0.1"),
        ("wipe s0.1", "ERROR s0.1 runs; kill it first"),
        ("pause s0.2 s0.2", "s0.2 paused"),
        ("pause s0.2", "ERROR s0.2 is paused already"),
        ("GET a", "GET a 1"),
        ("resume s0.2", "s0.2 goes on"),
        ("resume s0.2", "ERROR s0.2 is not paused"),
        ("cut s0.0 s0.0", "ERROR s0.0 and s0.0 do not talk to each other"),
        // No two of the three hear each other.
        ("cut s0.0", "s0.0 is cut off from all other nodes"),
        ("cut s0.1 s0.2", "s0.1 and s0.2 are cut off from each other"),
        ("PUT b 1", "ERROR timeout"),
        ("heal", "everything passes"),
        ("PUT c 1", "PUT c not_found"),
        ("kill s0.0 s0.1 s0.2", "s0.0 killed"),
        ("", "s0.1 killed"),
        ("", "s0.2 killed"),
        ("wipe s0.1", "s0.1 has no data any more"),
        ("wipe s0.1", "ERROR s0.1 has no data"),
        ("restart s0.0 s0.2", "s0.0 started"),
        ("", "s0.2 started"),
        ("GET a", "GET a 1"),
        ("STOP", "STOP"),
    ];
    let lines: String =
        script.iter().filter(|(line, _)| !line.is_empty()).map(|(line, _)| format!("{line}\n")).collect();
    let shape = ["--partitions", "1", "--manager_rf", "1"];
    // Long enough for an election on a busy machine, and short enough to wait for it once in vain.
    let output = run(&[&shape[..], &["--client_flag=--timeout_ms=10000"]].concat(), &lines);
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{answers}\n{said}");
    assert_eq!(answers.lines().count(), script.len(), "{answers}\n{said}");
    for ((line, answer), heard) in script.iter().zip(answers.lines()) {
        assert!(heard.starts_with(answer), "{line}: {heard}, not {answer}\n{answers}");
    }
}

/// How many processes have `text` in their command line, the launcher itself not counted.
pub(crate) fn processes_naming(text: &str) -> usize {
    process_ids_naming(text).len()
}

/// Their numbers.
pub(crate) fn process_ids_naming(text: &str) -> Vec<i32> {
    let names = |path: &Path| {
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        command.contains(text) && !command.split('\0').next().is_some_and(|program| program.ends_with(LAUNCHER))
    };
    let named = fs::read_dir("/proc").unwrap().flatten().filter(|process| names(&process.path()));
    named.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}
