//! The executable on pipes, byte for byte, and its exit codes.

#![allow(clippy::unwrap_used)] // helpers of tests, where the lint only knows the tests themselves

mod fake;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fake::Cluster;
use madkv_proto::frames::{ClientRequest, ClientResponse};
use madkv_proto::limits::{KEY_MAX_BYTES, VALUE_MAX_BYTES};
use rustix::process::{Pid, Signal, kill_process};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_madkv-client"));
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program over `input`, on a thread of its own.
async fn run(args: Vec<String>, input: Vec<u8>) -> Output {
    tokio::task::spawn_blocking(move || {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut child = program(&args).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || {
            let _ = stdin.write_all(&input); // it may stop reading before the end
        });
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    })
    .await
    .unwrap()
}

fn managers(cluster: &Cluster) -> Vec<String> {
    vec!["--manager_addrs".into(), cluster.manager_addrs().join(",")]
}

async fn lines(cluster: &Cluster, input: &[u8]) -> Vec<String> {
    let output = run(managers(cluster), input.to_vec()).await;
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().split_inclusive('\n').map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_readme_lines_exact_bytes() {
    let cluster = Cluster::start_on_sockets(2, 3).await;
    let output = lines(&cluster, b"PUT a 1\nSWAP a 2\nGET a\nSCAN a z\nDELETE a\nGET a\nSTOP\n").await;
    assert_eq!(
        output.concat(),
        "PUT a not_found\nSWAP a 1\nGET a 2\nSCAN a z BEGIN\n  a 2\nSCAN END\nDELETE a found\nGET a null\nSTOP\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_bad_lines_one_error_each_and_reads_on() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let mut input = Vec::new();
    let bad: [&[u8]; 13] = [
        b"",
        b"  \t ",
        b"put a 1",
        b"FROB",
        b"PUT",
        b"PUT a",
        b"PUT a 1 2",
        b"GET",
        b"GET a b",
        b"SCAN a",
        b"STOP now",
        b"GET \xff\xfe",
        b"status",
    ];
    for line in bad {
        input.extend_from_slice(line);
        input.push(b'\n');
    }
    input.extend_from_slice(&vec![b'x'; 5_000_000]);
    input.extend_from_slice(b"\nPUT ");
    input.extend_from_slice(&vec![b'k'; KEY_MAX_BYTES + 1]);
    input.extend_from_slice(b" v\nPUT k ");
    input.extend_from_slice(&vec![b'v'; VALUE_MAX_BYTES + 1]);
    input.extend_from_slice(b"\n\tPUT  a\t \t1 \r\nGET a\r\n");
    input.extend_from_slice(b"GET a"); // no line end, no STOP
    let output = lines(&cluster, &input).await;
    assert_eq!(output.len(), bad.len() + 3 + 3, "{output:?}");
    let (errors, good) = output.split_at(bad.len() + 3);
    assert!(errors.iter().all(|line| line.starts_with("ERROR ") && line.len() < 200), "{errors:?}");
    assert_eq!(good, ["PUT a not_found\n", "GET a 1\n", "GET a 1\n"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_largest_key_and_value_pass() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let (key, value) = ("k".repeat(KEY_MAX_BYTES), "v".repeat(VALUE_MAX_BYTES));
    let output = lines(&cluster, format!("PUT {key} {value}\nGET {key}\nSTOP\nGET {key}\n").as_bytes()).await;
    assert_eq!(output, [format!("PUT {key} not_found\n"), format!("GET {key} {value}\n"), "STOP\n".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_empty_input_nothing_said_exit_0() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    assert_eq!(lines(&cluster, b"").await, Vec::<String>::new());
}

/// A child that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_each_answer_comes_before_the_next_line_is_sent() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let managers = cluster.manager_addrs().join(",");
    tokio::task::spawn_blocking(move || {
        let mut child = Running(program(&["--manager-addrs", &managers]).spawn().unwrap());
        let mut stdin = child.0.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
        let mut answer = String::new();
        for number in 0..20 {
            writeln!(stdin, "PUT k{number} v").unwrap();
            answer.clear();
            stdout.read_line(&mut answer).unwrap();
            assert_eq!(answer, format!("PUT k{number} not_found\n"));
        }
        drop(stdin);
        assert!(child.0.wait().unwrap().success());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_reader_gone_ends_quietly() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let managers = cluster.manager_addrs().join(",");
    tokio::task::spawn_blocking(move || {
        let mut child = Running(program(&["--manager_addrs", &managers]).spawn().unwrap());
        drop(child.0.stdout.take());
        child.0.stdin.take().unwrap().write_all(b"PUT a 1\nGET a\nGET a\n").unwrap();
        let mut said = String::new();
        child.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        assert_eq!(child.0.wait().unwrap().code(), Some(1));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pipe_timeout_says_whether_the_write_may_have_happened() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    cluster.group(0).leader = None;
    let mut args = managers(&cluster);
    args.extend(["--timeout-ms".to_owned(), "150".to_owned()]);
    let output = run(args, b"PUT a 1\nGET a\nSTOP\n".to_vec()).await;
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "ERROR timeout after 150 ms: nothing was changed\nERROR timeout after 150 ms: nothing was changed\nSTOP\n"
    );
    assert!(output.status.success());
}

/// Without any manager: input is read and answered all the same, and stderr says once who is missing.
#[tokio::test(flavor = "multi_thread")]
async fn pipe_no_one_up_ready_at_once_and_says_so_once() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    for node in &cluster.managers {
        node.kill().await;
    }
    let mut args = managers(&cluster);
    args.extend(["--timeout_ms".to_owned(), "700".to_owned()]);
    let output = run(args, b"FROB\nGET a\nGET a\nSTOP\n".to_vec()).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("no manager"), "{said}");
    assert!(output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_messages_on_stderr_in_the_contract_form() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let mut args = managers(&cluster);
    args.extend(["--trace_messages".to_owned(), "--client_id=7".to_owned()]);
    let output = run(args, b"PUT a 1\nSTOP\n".to_vec()).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.lines().all(|line| line.starts_with('[')), "{said}");
    assert!(said.contains("] Sent <C7, S1, 1, request>\n"), "{said}");
    assert!(said.contains("] Received <C7, S1, 1, reply>\n"), "{said}");
    assert_eq!(output.stdout, b"PUT a not_found\nSTOP\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_retries_one_line_for_each_attempt_that_failed() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let mut refusals = 2;
    cluster.rule(0, 0, move |_, ask| {
        let refuse = matches!(ask, ClientRequest::Write { .. }) && refusals > 0;
        refusals -= u32::from(refuse);
        refuse.then(|| ClientResponse::OutOfService("for a while".into()).into())
    });
    let mut args = managers(&cluster);
    args.extend(["--trace_retries".to_owned(), "--client_id=7".to_owned()]);
    let output = run(args, b"PUT a 1\nGET a\nSTOP\n".to_vec()).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said.lines().filter(|line| line.ends_with("] Retrying C7: out of service")).count(), 2, "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(output.stdout, b"PUT a not_found\nGET a 1\nSTOP\n");
}

// covers B20
#[tokio::test(flavor = "multi_thread")]
async fn trace_that_no_one_takes_is_dropped_and_answers_come() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    let managers = cluster.manager_addrs().join(",");
    tokio::task::spawn_blocking(move || {
        // One end takes nothing any more, and the other is not read.
        let (mut blocked, _unread) = UnixStream::pair().unwrap();
        blocked.set_nonblocking(true).unwrap();
        while blocked.write(b".").is_ok() {}
        blocked.set_nonblocking(false).unwrap();
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        for stderr in [OwnedFd::from(blocked), full.into()] {
            let mut command = program(&["--manager_addrs", &managers, "--trace_messages", "--trace_retries"]);
            let mut child = Running(command.stderr(stderr).spawn().unwrap());
            child.0.stdin.take().unwrap().write_all(b"DELETE a\nPUT a 1\nGET a\nSTOP\n").unwrap();
            let mut answers = String::new();
            child.0.stdout.take().unwrap().read_to_string(&mut answers).unwrap();
            let (first, rest) = answers.split_once('\n').unwrap();
            assert!(first.starts_with("DELETE a "));
            assert_eq!(rest, "PUT a not_found\nGET a 1\nSTOP\n");
            assert_eq!(child.0.wait().unwrap().code(), Some(0));
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn words_status_and_transfer_one_shot() {
    let cluster = Cluster::start_on_sockets(1, 3).await;
    let mut args = managers(&cluster);
    args.extend(["transfer".to_owned(), "s0".to_owned(), "2".to_owned()]);
    let output = run(args, vec![]).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cluster.group(0).leader, Some(2));
    let mut args = managers(&cluster);
    args.extend(["status".to_owned(), "--json".to_owned()]);
    let output = run(args, vec![]).await;
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 6);
    assert_eq!(json["nodes"][5]["role"], "leader");
    let mut args = managers(&cluster);
    args.extend(["transfer".to_owned(), "s9".to_owned(), "2".to_owned()]);
    let output = run(args, vec![]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no group"));
}

#[tokio::test(flavor = "multi_thread")]
async fn words_where_names_slot_partition_and_leader() {
    let cluster = Cluster::start_on_sockets(2, 3).await;
    let word = |words: &[&str]| {
        let mut args = managers(&cluster);
        args.extend(words.iter().map(|word| (*word).to_owned()));
        run(args, vec![])
    };
    let output = word(&["where", "k", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let slot = madkv_proto::slots::slot_of(b"k");
    assert_eq!((json["key"].as_str(), json["slot"].as_u64()), (Some("k"), Some(u64::from(slot))));
    let partition = json["partition"].as_u64().unwrap();
    assert_eq!(u64::from(slot >= madkv_proto::slots::SLOTS / 2), partition);
    let leader = json["leader"].as_u64().unwrap();
    assert_eq!(cluster.group(partition as usize).leader.map(u64::from), Some(leader));
    let output = word(&["where", "k"]).await;
    let address = json["address"].as_str().unwrap();
    let expected = format!("k: slot {slot}, partition s{partition}, leader s{partition}.{leader} at {address}\n");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_failed_exit_1() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    cluster.group(0).leader = None;
    let mut args = managers(&cluster);
    args.extend(["where".to_owned(), "k".to_owned()]);
    let output = run(args, vec![]).await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("no leader answers"));
    for node in &cluster.managers {
        node.kill().await;
    }
    for word in [&["status"][..], &["status", "--json"]] {
        let mut args = managers(&cluster);
        args.extend(word.iter().map(|word| (*word).to_owned()));
        let output = run(args, vec![]).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("unreachable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_contact_no_one_help_and_completions() {
    for (args, part) in [
        (&["help"][..], "PUT <key> <value> "),
        (&["help", "where"], "Usage: where"),
        (&["transfer", "--help"], "Usage: madkv-client transfer [OPTIONS] <GROUP> <REPLICA>"),
        (&["--help"], "Commands:"),
        (&["completions", "bash"], "complete -F"),
    ] {
        let output = run(args.iter().map(|arg| (*arg).to_owned()).collect(), vec![]).await;
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

// covers B9
#[tokio::test(flavor = "multi_thread")]
async fn arguments_wrong_one_line_exit_2() {
    for args in [&["--manager_addrs", "nonsense"][..], &["--manager_addrs"], &["--frob"], &["dance"]] {
        let output = run(args.iter().map(|arg| (*arg).to_owned()).collect(), vec![]).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
        assert_eq!(String::from_utf8(output.stderr).unwrap().lines().count(), 1, "{args:?}");
    }
}

/// Answers each read of the first partition with this.
fn answer_reads(cluster: &Cluster, response: impl Fn() -> ClientResponse + Send + 'static) {
    cluster.rule(0, 0, move |_, ask| matches!(ask, ClientRequest::Read { .. }).then(|| response().into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_restore_that_cannot_go_on_end_and_say_why() {
    let cluster = Cluster::start_on_sockets(2, 1).await;
    cluster.group(1).data.insert(b"k".to_vec(), b"v".to_vec());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let ask = async |timeout: &str, words: [&str; 2]| {
        let line = managers(&cluster).into_iter().chain([timeout.to_owned()]).chain(words.map(str::to_owned));
        run(line.collect(), Vec::new()).await
    };
    let patient = "--timeout_ms=600000";
    assert!(ask(patient, ["backup", &path("made")]).await.status.success());
    for (response, timeout, part) in [
        (ClientResponse::Refused("never".to_owned()), patient, "never"),
        (ClientResponse::Answer(bytes::Bytes::from_static(b"nonsense")), patient, "senseless"),
        (ClientResponse::WrongPartition { epoch: 1 }, "--timeout_ms=300", "slots have moved"),
        (ClientResponse::Busy { retry_after_ms: 1 }, "--timeout_ms=300", "is busy"),
    ] {
        answer_reads(&cluster, move || response.clone());
        for words in [["backup", &path("other")], ["restore", &path("made")]] {
            let output = ask(timeout, words).await;
            let why = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{words:?}: {why}");
            assert!(why.contains(part) && why.lines().count() == 1, "{part}: {why}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["made"], "nothing is left of what failed");
}

/// Sends a signal once a line has come from stderr; returns the exit code and what was said after that line.
fn interrupt(args: &[&str], first_line: &str, until: impl FnOnce(), signal: Signal) -> (Option<i32>, String) {
    let mut child = Running(program(args).spawn().unwrap());
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    let mut line = String::new();
    if !first_line.is_empty() {
        said.read_line(&mut line).unwrap();
        assert!(line.contains(first_line), "{line}");
    }
    until();
    kill_process(Pid::from_child(&child.0), signal).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    (child.0.wait().unwrap().code(), rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_and_restore_that_are_interrupted_leave_no_file_and_say_what_is_certain() {
    let cluster = Cluster::start_on_sockets(1, 1).await;
    for key in [b"a", b"b", b"c"] {
        cluster.group(0).data.insert(key.to_vec(), b"v".to_vec());
    }
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (made, unmade) = (path("made"), path("unmade"));
    let addresses = cluster.manager_addrs().join(",");
    let output = run([&managers(&cluster)[..], &["backup".to_owned(), made.clone()]].concat(), Vec::new()).await;
    assert!(output.status.success(), "{output:?}");

    answer_reads(&cluster, || ClientResponse::Busy { retry_after_ms: 1 });
    let line = ["--manager_addrs", &addresses, "backup", &unmade].map(str::to_owned);
    let ended = tokio::task::spawn_blocking(move || {
        let line = line.each_ref().map(String::as_str);
        interrupt(&line, "waiting: the leader is busy", || (), Signal::TERM)
    });
    let (code, said) = ended.await.unwrap();
    assert_eq!((code, said.as_str()), (Some(128 + 15), "madkv-client: interrupted\n"), "each reason is said once");
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["made"]);

    // The first write is answered, and no other one.
    let writes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&writes);
    cluster.rule(0, 0, move |_, ask| {
        let is_write = matches!(ask, ClientRequest::Write { .. });
        (is_write && seen.fetch_add(1, Ordering::SeqCst) > 0).then_some(fake::Act::Silent)
    });
    let line = ["--manager_addrs", &addresses, "restore", &made, "--into_nonempty"].map(str::to_owned);
    let ended = tokio::task::spawn_blocking(move || {
        let line = line.each_ref().map(String::as_str);
        let all_sent = || {
            while writes.load(Ordering::SeqCst) < 3 {
                std::thread::sleep(Duration::from_millis(10));
            }
            // The first one's answer was sent before the second one was read.
            std::thread::sleep(Duration::from_millis(200));
        };
        interrupt(&line, "", all_sent, Signal::INT)
    });
    let (code, said) = ended.await.unwrap();
    assert_eq!(code, Some(128 + 2), "{said}");
    assert!(said.contains("1 of 3 keys are certain"), "{said}");
}
