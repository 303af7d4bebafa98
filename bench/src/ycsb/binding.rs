//! YCSB itself as the source of operations: its `basic` binding prints what it would ask a store.
//!
//! Lines look like `READ usertable user1 [ <all fields>]`, `SCAN usertable user1 55 [ <all fields>]`,
//! `UPDATE usertable user1 [ field3=... ]` (`BasicDB.java` of YCSB's core). Only the key and the count are taken:
//! values are ours, so that they can be checked. A read-modify-write is printed as a READ and, next, an UPDATE of the
//! same key; in workload F, which has no other updates, it is put together again.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::ycsb::workload::{Operation, Workload};
use madkv_testkit::measure::Trouble;
use madkv_testkit::wait::wait_for;

/// Operations that may wait to be taken.
const WAITING_MAX: usize = 4_096;
/// How long it may say nothing: a Java machine has to start.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end after its last word.
const END_TIMEOUT: Duration = Duration::from_secs(20);
/// How often to look whether its words are still wanted.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Lines about errors that are kept.
const ERRORS_MAX: usize = 5;
/// How its script, and its client, begin such a line.
const ERROR: &str = "[ERROR]";

/// A run of YCSB. Killed when dropped, with all that it has started.
#[derive(Debug)]
pub(super) struct Binding {
    child: Mutex<Child>,
    /// Taken before the clock starts, so that the Java machine is up when it does.
    first: Mutex<Option<Operation>>,
    operations: Mutex<Receiver<Operation>>,
    errors: Errors,
}

type Errors = Arc<Mutex<Vec<String>>>;

impl Binding {
    /// Starts YCSB's `load` or `run` phase, and waits for its first operation; its words on stderr go to ours.
    pub(super) fn start(
        directory: &Path,
        phase: &str,
        workload: Workload,
        properties: &[(&str, String)],
        is_over: &dyn Fn() -> bool,
    ) -> Result<Binding, Trouble> {
        let program = directory.join("bin/ycsb.sh");
        let mut command = Command::new(&program);
        command.arg(phase).arg("basic").arg("-P").arg(directory.join(format!("workloads/workload{workload}")));
        for (name, value) in properties {
            command.arg("-p").arg(format!("{name}={value}"));
        }
        // A group of its own: the script waits for Java as its child, and both have to end.
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).spawn();
        let mut child = child.map_err(|error| format!("{}: {error}", program.display()))?;
        let output = child.stdout.take().ok_or("YCSB without a pipe")?;
        let (operation, operations) = sync_channel(WAITING_MAX);
        let errors = Errors::default();
        let said = Arc::clone(&errors);
        let joins = workload == Workload::F;
        thread::spawn(move || forward(BufReader::new(output), joins, &operation, &said));
        let binding =
            Binding { child: Mutex::new(child), first: Mutex::default(), operations: Mutex::new(operations), errors };
        let first = binding.next(is_over)?;
        let first = first.ok_or_else(|| format!("YCSB's {phase} phase names no operation{}", binding.complaint()))?;
        *binding.first.lock() = Some(first);
        Ok(binding)
    }

    /// The next operation, whichever client asks; `None` at the end, or if no one wants it any more.
    pub(super) fn next(&self, is_over: &dyn Fn() -> bool) -> Result<Option<Operation>, Trouble> {
        if let Some(first) = self.first.lock().take() {
            return Ok(Some(first));
        }
        let operations = self.operations.lock();
        let start = Instant::now();
        loop {
            match operations.recv_timeout(LOOK_AGAIN) {
                Ok(operation) => return Ok(Some(operation)),
                Err(RecvTimeoutError::Disconnected) => return self.ended().map(|()| None),
                Err(RecvTimeoutError::Timeout) if is_over() => return Ok(None),
                Err(RecvTimeoutError::Timeout) if start.elapsed() > SILENCE_MAX => {
                    return Err(format!("YCSB has said nothing for {SILENCE_MAX:?}{}", self.complaint()).into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether it ended well.
    fn ended(&self) -> Result<(), Trouble> {
        let mut child = self.child.lock();
        let status = wait_for(END_TIMEOUT, "YCSB's end", || child.try_wait().transpose())??;
        if status.success() { Ok(()) } else { Err(format!("YCSB failed ({status}){}", self.complaint()).into()) }
    }

    fn complaint(&self) -> String {
        let errors = self.errors.lock();
        errors.iter().map(|error| format!("; {error}")).collect()
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        // Not waited for, so the number is still this child's. It may have ended by itself meanwhile.
        if let Ok(None) = child.try_wait() {
            let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
            let _ = child.wait();
        }
    }
}

/// Hands operations on; with `joins`, a READ and an UPDATE of the same key next to each other are one
/// read-modify-write.
fn forward(mut lines: impl BufRead, joins: bool, to: &SyncSender<Operation>, errors: &Mutex<Vec<String>>) {
    let mut held = None;
    // Its values are random bytes: no lines of text.
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line);
        if let Some(operation) = parse(&text) {
            let send = match (held.take(), operation) {
                (Some(read), Operation::Update(key)) if read == key => vec![Operation::ReadModifyWrite(key)],
                (read, Operation::Read(key)) if joins => {
                    held = Some(key);
                    read.map(Operation::Read).into_iter().collect()
                }
                (read, other) => read.map(Operation::Read).into_iter().chain([other]).collect(),
            };
            if send.into_iter().any(|operation| to.send(operation).is_err()) {
                return;
            }
        } else if text.starts_with(ERROR) {
            let mut errors = errors.lock();
            if errors.len() < ERRORS_MAX {
                errors.push(text.trim_end().to_owned());
            }
        }
        line.clear();
    }
    if let Some(key) = held {
        // No one may be there to take it.
        let _ = to.send(Operation::Read(key));
    }
}

/// An operation out of a line; `None` if it is about something else.
fn parse(line: &str) -> Option<Operation> {
    let mut words = line.split(' ');
    let (verb, _table, key) = (words.next()?, words.next()?, words.next()?);
    if !key.starts_with("user") {
        return None;
    }
    let key = key.trim_end().to_owned();
    match verb {
        "READ" => Some(Operation::Read(key)),
        "UPDATE" => Some(Operation::Update(key)),
        "INSERT" => Some(Operation::Insert(None, key)),
        "SCAN" => Some(Operation::Scan(key, words.next()?.parse().ok()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// What the basic binding of YCSB 0.17 prints.
    const RECORDED: &str = "/usr/bin/java  -classpath /y/conf:/y/lib/core-0.17.0.jar \
        site.ycsb.Client -t -db site.ycsb.BasicDB\n\
        ***************** properties *****************\n\
        \"recordcount\"=\"10\"\n\
        \"workload\"=\"site.ycsb.workloads.CoreWorkload\"\n\
        **********************************************\n\
        INSERT usertable user6284781860667377211 [ field1=!8*\\  field0=:4$,x 0.6( ]\n\
        READ usertable user6284781860667377211 [ <all fields>]\n\
        READ usertable user8517097267634966620 [ field3 ]\n\
        UPDATE usertable user8517097267634966620 [ field9=)&b=%W ]\n\
        SCAN usertable user1820151046732198393 55 [ <all fields>]\n\
        [OVERALL], RunTime(ms), 25\n\
        [READ], Operations, 1\n";

    fn forwarded(joins: bool) -> Vec<Operation> {
        let (operation, operations) = sync_channel(100);
        forward(RECORDED.as_bytes(), joins, &operation, &Mutex::default());
        drop(operation);
        operations.iter().collect()
    }

    #[test]
    fn forward_recorded_output_gives_its_operations_and_nothing_else() {
        let key = |number: &str| format!("user{number}");
        let mut expected = vec![
            Operation::Insert(None, key("6284781860667377211")),
            Operation::Read(key("6284781860667377211")),
            Operation::Read(key("8517097267634966620")),
            Operation::Update(key("8517097267634966620")),
            Operation::Scan(key("1820151046732198393"), 55),
        ];
        assert_eq!(forwarded(false), expected);
        // In F the read and the update of one key are one operation, the read of another one is not.
        expected.splice(2..4, [Operation::ReadModifyWrite(key("8517097267634966620"))]);
        assert_eq!(forwarded(true), expected);
    }

    /// A stand-in for a distribution: as the real one, its script starts another process and waits for it.
    fn distribution(script: &str) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        let path = directory.path().join("bin/ycsb.sh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).unwrap();
        directory
    }

    fn start(directory: &TempDir, phase: &str) -> Result<Binding, Trouble> {
        Binding::start(directory.path(), phase, Workload::B, &[("recordcount", "7".to_owned())], &|| false)
    }

    #[test]
    fn start_distribution_runs_its_script_with_workload_and_properties() {
        let directory = distribution("echo \"READ usertable user$1-$2-${4##*/}-$6 [ <all fields>]\"");
        let binding = start(&directory, "load").unwrap();
        let next = || binding.next(&|| false).unwrap();
        assert_eq!(next(), Some(Operation::Read("userload-basic-workloadb-recordcount=7".to_owned())));
        assert_eq!(next(), None);
    }

    #[test]
    fn start_distribution_that_fails_says_why() {
        let directory = distribution("echo '[ERROR] Java executable not found. Exiting.'; exit 1");
        let error = start(&directory, "run").unwrap_err().to_string();
        assert!(
            error.contains("YCSB failed") && error.ends_with("; [ERROR] Java executable not found. Exiting."),
            "{error}"
        );
        let error = start(&distribution("exit 0"), "run").unwrap_err().to_string();
        assert!(error.contains("names no operation"), "{error}");
        let error = start(&tempfile::tempdir().unwrap(), "run").unwrap_err().to_string();
        assert!(error.contains("bin/ycsb.sh"), "{error}");
    }

    #[test]
    fn next_after_a_failure_in_the_middle_is_an_error() {
        let directory = distribution("echo 'READ usertable user1 [ <all fields>]'; exit 3");
        let binding = start(&directory, "run").unwrap();
        assert!(binding.next(&|| false).unwrap().is_some());
        assert!(binding.next(&|| false).unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn drop_ends_what_the_script_has_started_and_no_one_waits() {
        let directory = distribution("sh -c 'echo \"READ usertable user$$ [ <all fields>]\"; exec sleep 1000' &\nwait");
        let binding = start(&directory, "run").unwrap();
        let Some(Operation::Read(key)) = binding.next(&|| false).unwrap() else { panic!("no read") };
        let process = Path::new("/proc").join(key.trim_start_matches("user"));
        assert!(process.exists());
        // It hangs now; whoever does not want to wait gets nothing.
        assert_eq!(binding.next(&|| true).unwrap(), None);
        drop(binding);
        // Its parent is gone too, so someone else reaps it.
        let state = || std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        wait_for(END_TIMEOUT, "its end", || (!process.exists() || state().contains(") Z")).then_some(())).unwrap();
    }
}
