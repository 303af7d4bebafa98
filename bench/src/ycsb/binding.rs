//! YCSB itself as the source of operations: its `basic` binding prints what it would ask a store.
//!
//! Lines look like `READ usertable user1 [ <all fields>]`, `SCAN usertable user1 55 [ <all fields>]`,
//! `UPDATE usertable user1 [ field3=... ]`. Only the key and the count are taken: values are ours, so that they can be
//! checked, and a read-modify-write comes as a READ and an UPDATE.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::ycsb::workload::{Operation, Workload};

/// Operations that may wait to be taken.
const WAITING_MAX: usize = 4_096;

/// A run of YCSB. Killed when dropped.
#[derive(Debug)]
pub(super) struct Binding {
    child: Child,
    operations: Mutex<Receiver<Operation>>,
}

impl Binding {
    /// Starts YCSB's `load` or `run` phase; its words on stderr go to ours.
    pub(super) fn start(
        directory: &Path,
        phase: &str,
        workload: Workload,
        properties: &[(&str, String)],
    ) -> io::Result<Binding> {
        let program = directory.join("bin/ycsb.sh");
        let mut command = Command::new(&program);
        command.arg(phase).arg("basic").arg("-P").arg(directory.join(format!("workloads/workload{workload}")));
        for (name, value) in properties {
            command.arg("-p").arg(format!("{name}={value}"));
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        let (operation, operations) = sync_channel(WAITING_MAX);
        if let Some(output) = child.stdout.take() {
            thread::spawn(move || forward(BufReader::new(output), &operation));
        }
        Ok(Binding { child, operations: Mutex::new(operations) })
    }

    /// The next operation, whichever client asks; `None` at the end.
    pub(super) fn next(&self) -> Option<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(mut lines: impl BufRead, to: &SyncSender<Operation>) {
    // Its values are random bytes: no lines of text.
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line), Ok(1..)) {
        if let Some(operation) = parse(&String::from_utf8_lossy(&line))
            && to.send(operation).is_err()
        {
            return;
        }
        line.clear();
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

    /// What the basic binding of YCSB 0.17 prints.
    const RECORDED: &str = "***************** properties *****************\n\
        \"recordcount\"=\"10\"\n\
        \"workload\"=\"site.ycsb.workloads.CoreWorkload\"\n\
        **********************************************\n\
        INSERT usertable user6284781860667377211 [ field1=!8*\\  field0=:4$,x 0.6( ]\n\
        READ usertable user6284781860667377211 [ <all fields>]\n\
        UPDATE usertable user8517097267634966620 [ field9=)&b=%W ]\n\
        SCAN usertable user1820151046732198393 55 [ <all fields>]\n\
        [OVERALL], RunTime(ms), 25\n\
        [READ], Operations, 1\n";

    #[test]
    fn forward_recorded_output_gives_its_operations_and_nothing_else() {
        let (operation, operations) = sync_channel(100);
        forward(RECORDED.as_bytes(), &operation);
        drop(operation);
        let key = |number: &str| format!("user{number}");
        let expected = [
            Operation::Insert(None, key("6284781860667377211")),
            Operation::Read(key("6284781860667377211")),
            Operation::Update(key("8517097267634966620")),
            Operation::Scan(key("1820151046732198393"), 55),
        ];
        assert_eq!(operations.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn start_distribution_runs_its_script_with_workload_and_properties() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("bin")).unwrap();
        let script = directory.path().join("bin/ycsb.sh");
        std::fs::write(&script, "#!/bin/sh\necho \"READ usertable user$1-$2-${4##*/}-$6 [ <all fields>]\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let properties = [("recordcount", "7".to_owned())];
        let binding = Binding::start(directory.path(), "load", Workload::B, &properties).unwrap();
        assert_eq!(binding.next(), Some(Operation::Read("userload-basic-workloadb-recordcount=7".to_owned())));
        assert_eq!(binding.next(), None);
    }
}
