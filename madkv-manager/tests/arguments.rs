//! Bad command lines, ports and directories, with the real binary.

#![cfg(test)]

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time in which a process that cannot start must have said so.
const LIMIT: Duration = Duration::from_secs(2);

fn good() -> Vec<(&'static str, String)> {
    vec![
        ("--replica_id", "1".into()),
        ("--man_listen", "127.0.0.1:0".into()),
        ("--p2p_listen", "127.0.0.1:0".into()),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:3".into()),
        ("--server_rf", "3".into()),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12,127.0.0.1:13".into()),
        ("--backer_path", "/nonexistent/never/made".into()),
    ]
}

fn with(flag: &str, value: &str) -> Vec<String> {
    let mut line = good();
    line.iter_mut().find(|(name, _)| *name == flag).unwrap().1 = value.to_owned();
    line.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

fn run(line: &[String]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_madkv-manager"))
        .args(line)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            child.wait().unwrap();
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("{line:?} is still running; it said {text:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Checks that the process ended with `code` and one line that contains `word`.
fn expect_line(line: &[String], code: i32, word: &str) {
    let output = run(line);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{line:?}: {text}");
    assert_eq!(text.lines().count(), 1, "{line:?}: {text:?}");
    assert!(text.starts_with("madkv-manager: ") && text.contains(word), "{line:?}: {text:?} does not mention {word:?}");
    assert!(output.stdout.is_empty());
}

// covers B9
#[test]
fn command_line_that_cannot_work_one_line_and_exit_code_2() {
    let cases = [
        ("--replica_id", "3", "--replica_id"),
        ("--replica_id", "one", "--replica_id"),
        ("--replica_id", "-1", "--replica_id"),
        ("--server_rf", "-3", "--server_rf"),
        ("--man_listen", "somewhere", "--man_listen"),
        ("--p2p_listen", "127.0.0.1:99999", "--p2p_listen"),
        ("--peer_addrs", "127.0.0.1:2", "group of 2"),
        ("--peer_addrs", "127.0.0.1:2,127.0.0.1:2", "twice"),
        ("--peer_addrs", "300.0.0.1:2,127.0.0.1:3", "IPv4"),
        ("--server_rf", "2", "replication factor 2"),
        ("--server_rf", "0", "replication factor 0"),
        ("--server_rf", "5", "5"),
        ("--server_rf", "many", "--server_rf"),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12", "2 server addresses"),
        ("--server_addrs", "127.0.0.1:11,127.0.0.1:12,127.0.0.1:11", "twice"),
        ("--server_addrs", "none", "0 partitions"),
        ("--server_addrs", "a,b,c", "port"),
    ];
    for (flag, value, word) in cases {
        expect_line(&with(flag, value), 2, word);
    }
    let mut twice = with("--p2p_listen", "127.0.0.1:45671");
    twice[3] = "0.0.0.0:45671".into();
    expect_line(&twice, 2, "both");
    expect_line(&with("--replica_id", "1")[2..], 2, "--replica_id");
    let mut unknown = with("--replica_id", "1");
    unknown.push("--what".into());
    expect_line(&unknown, 2, "--what");
    expect_line(&[], 2, "required");
}

// covers B9
#[test]
fn port_in_use_one_line_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--man_listen", "--p2p_listen"] {
        expect_line(&with(flag, &address), 1, &address);
    }
}

// covers B9
#[test]
fn directory_that_is_a_file_one_line_and_exit_code_1() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    expect_line(&with("--backer_path", path), 1, path);
    let below = format!("{path}/below");
    expect_line(&with("--backer_path", &below), 1, path);
}

#[test]
fn help_publishes_the_limits_and_both_spellings_of_flags_are_accepted() {
    let output = run(&["--help".into()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("--man_listen") && text.contains("value 1048576 bytes"), "{text}");
    let hyphens: Vec<String> = with("--replica_id", "9").iter().map(|word| word.replace('_', "-")).collect();
    expect_line(&hyphens, 2, "9 is not among the 3 replicas");
}
