//! Bad command lines, ports and directories of an agent, with the real binary.

#![cfg(test)]

use std::net::TcpListener;
use std::process::{Command, Output};

const GOOD: [(&str, &str); 6] = [
    ("--id", "1"),
    ("--host", "a"),
    ("--manager_addrs", "127.0.0.1:1"),
    ("--listen", "127.0.0.1:0"),
    ("--directory", "/proc/nonexistent/never/made"),
    ("--heartbeat_freq", "100"),
];

fn run(line: &[String]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_madkv-agent")).args(line).output().unwrap()
}

fn with(flag: &str, value: &str) -> Vec<String> {
    let pairs = GOOD.iter().map(|&(name, good)| [name, if name == flag { value } else { good }]);
    pairs.flatten().map(str::to_owned).collect()
}

fn expect_line(line: &[String], code: i32, word: &str) {
    let output = run(line);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{line:?}: {text:?}");
    assert!(text.starts_with("madkv-agent: ") && text.contains(word), "{line:?}: {text:?} does not mention {word:?}");
    assert!(output.stdout.is_empty());
}

// covers B9
#[test]
fn command_line_that_cannot_work_one_line_and_exit_code_2() {
    for (flag, value, word) in [
        ("--id", "0", "--id"),
        ("--id", "-1", "--id"),
        ("--id", "one", "--id"),
        ("--host", "", "--host"),
        ("--host", "a b", "--host"),
        ("--host", &"x".repeat(65), "--host"),
        ("--manager_addrs", "", "--manager_addrs"),
        ("--manager_addrs", "a:1,a:1", "twice"),
        ("--listen", "somewhere", "--listen"),
        ("--listen", "0.0.0.0:7", "loopback"),
        ("--heartbeat_freq", "9", "--heartbeat_freq"),
        ("--heartbeat_freq", "60001", "--heartbeat_freq"),
        ("--heartbeat_freq", "-5", "--heartbeat_freq"),
    ] {
        expect_line(&with(flag, value), 2, word);
    }
    let good = with("", "");
    for more in [&["--relaunch", "maybe"][..], &["--what"], &["extra"]] {
        let line: Vec<String> = good.iter().cloned().chain(more.iter().map(|&word| word.to_owned())).collect();
        expect_line(&line, 2, more[0].trim_start_matches("--"));
    }
    expect_line(&good[2..], 2, "--id");
    expect_line(&[], 2, "required");
}

// covers B9
#[test]
fn port_and_directory_that_cannot_be_had_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    expect_line(&with("--listen", &address), 1, &address);
    expect_line(&with("", ""), 1, "--directory");
}

#[test]
fn flags_with_hyphens_are_accepted_and_help_names_them() {
    let hyphens: Vec<String> = with("--id", "0").iter().map(|word| word.replace('_', "-")).collect();
    expect_line(&hyphens, 2, "numbered from 1");
    let help = run(&["--help".to_owned()]);
    let text = String::from_utf8(help.stdout).unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(GOOD.iter().all(|(flag, _)| text.contains(flag)), "{text}");
}
