//! A replica that cannot go on ends, and says why by its handle. Its host goes on: this process is one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod replica_support;

use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use smr::LogEngine;
use smr::entry::Index;
use smr::fatal::ReplicaFailure;
use smr::id::ClusterId;
use smr::replica::{Opened, Outcome, RecoverOptions, ReplicaHandle, ReplicaOptions, Request, recover};
use smr::report::ReportSink;
use smr::state_machine::{Answer, StateMachine};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use replica_support::{Counter, TIMEOUT, ask, listener, options, wait_until};

/// Counts, and has a bug.
#[derive(Clone, Default)]
struct Buggy(Counter);

impl StateMachine for Buggy {
    type Image = Counter;

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        assert!(command != b"bug", "a command that this state machine does not survive");
        self.0.apply(index, command)
    }

    fn query(&self, query: &[u8]) -> Answer {
        self.0.query(query)
    }

    fn image(&self) -> Counter {
        self.0.image()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Buggy> {
        Counter::restore(input).map(Buggy)
    }
}

/// Keeps what the replica says.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl ReportSink for Lines {
    fn line(&self, who: &str, text: &str) {
        self.0.lock().unwrap().push(format!("{who}: {text}"));
    }
}

/// Counts in a build that knows two kinds of commands, or one.
#[derive(Clone, Default)]
struct Build<const VERSION: u16>(Counter);

impl<const VERSION: u16> StateMachine for Build<VERSION> {
    type Image = Counter;

    const COMMANDS_VERSION: u16 = VERSION;

    fn command_version(command: &[u8]) -> Option<u16> {
        let version = if command == b"new" { 2 } else { 1 };
        (version <= VERSION).then_some(version)
    }

    fn apply(&mut self, index: Index, command: &[u8]) -> Vec<u8> {
        self.0.apply(index, command)
    }

    fn query(&self, query: &[u8]) -> Answer {
        self.0.query(query)
    }

    fn image(&self) -> Counter {
        self.0.image()
    }

    fn restore(input: &mut dyn Read) -> io::Result<Build<VERSION>> {
        Counter::restore(input).map(Build)
    }
}

/// A group of one, in a directory that an earlier replica may still be about to let go of.
fn alone<S: StateMachine + Default>(directory: &Path, runtime: &Runtime, lines: &Arc<Lines>) -> ReplicaHandle {
    let replica = started::<S>(directory, runtime, lines);
    wait_until("a leader of one", || (count(&replica, "up").is_some()).then_some(()));
    replica
}

fn started<S: StateMachine + Default>(directory: &Path, runtime: &Runtime, lines: &Arc<Lines>) -> ReplicaHandle {
    opened(|| options(0, [], listener(), directory, runtime), lines).run(S::default()).unwrap()
}

fn opened(options: impl Fn() -> ReplicaOptions, lines: &Arc<Lines>) -> Opened {
    let start = Instant::now();
    loop {
        let reports: Arc<dyn ReportSink> = lines.clone();
        match Opened::open(ReplicaOptions { log_engine: LogEngine::Segments, reports, ..options() }) {
            Ok(opened) => return opened,
            Err(error) => assert!(start.elapsed() < TIMEOUT, "{error}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Proposes, and returns the answer.
fn count(replica: &ReplicaHandle, command: &'static str) -> Option<u64> {
    match ask(replica, Request::Idempotent { command: Bytes::from_static(command.as_bytes()) }) {
        Outcome::Answer(answer) => Some(u64::from_le_bytes(answer[..].try_into().unwrap())),
        _ => None,
    }
}

fn ended(replica: &ReplicaHandle, runtime: &Runtime) -> Result<(), ReplicaFailure> {
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, replica.ended()).await }).expect("the replica has an end")
}

/// While this lives no file of this process can be written. One test at a time may hold it.
struct FilesFail(Rlimit);

impl FilesFail {
    fn begin(runtime: &Runtime) -> FilesFail {
        // Without it the signal would end the process.
        runtime.block_on(async { drop(signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).unwrap()) });
        let before = getrlimit(Resource::Fsize);
        setrlimit(Resource::Fsize, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
        FilesFail(before)
    }
}

impl Drop for FilesFail {
    fn drop(&mut self) {
        let FilesFail(Rlimit { current, maximum }) = self;
        setrlimit(Resource::Fsize, Rlimit { current: *current, maximum: *maximum }).unwrap();
    }
}

/// One at a time: the limit is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

// covers D7
#[test]
fn disk_that_fails_ends_the_replica_with_an_error_and_not_the_process() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let lines = Arc::new(Lines::default());
    let replica = alone::<Counter>(directory.path(), &runtime, &lines);
    let before = count(&replica, "up").unwrap();

    let fails = FilesFail::begin(&runtime);
    assert_eq!(count(&replica, "up"), None, "nothing is acknowledged that is not on the disk");
    match ended(&replica, &runtime) {
        Err(ReplicaFailure::World { who, why }) => {
            assert!(who.starts_with("g.0") && why.contains("disk failed"), "{who}: {why}");
        }
        other => panic!("{other:?}"),
    }
    // Whoever asks from now on is refused, and not left waiting.
    assert!(matches!(ask(&replica, Request::Status), Outcome::OutOfService(_)));
    drop(fails);

    // This process is still there, and the directory with all that was acknowledged.
    let again = alone::<Counter>(directory.path(), &runtime, &lines);
    assert!(count(&again, "up").unwrap() > before);
    again.shutdown();
    assert_eq!(ended(&again, &runtime), Ok(()), "in order");
    let said = lines.0.lock().unwrap();
    assert!(said.iter().any(|line| line.starts_with("g.0: replica 0 is leader")), "{said:?}");
}

// A turn runs on the thread of whoever asks, which must survive it.
#[test]
fn bug_in_the_state_machine_ends_the_replica_with_an_error_and_not_the_caller() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let replica = alone::<Buggy>(directory.path(), &runtime, &Arc::default());
    let waiting = {
        let replica = replica.clone();
        runtime.spawn(async move { replica.ask(Request::Idempotent { command: Bytes::from_static(b"bug") }).await })
    };
    match ended(&replica, &runtime) {
        Err(ReplicaFailure::Bug { what, .. }) => assert!(what.contains("does not survive"), "{what}"),
        other => panic!("{other:?}"),
    }
    let outcome = runtime.block_on(async { tokio::time::timeout(TIMEOUT, waiting).await }).unwrap().unwrap();
    assert!(matches!(outcome, None | Some(Outcome::Unknown)), "it may have taken effect: {outcome:?}");
    assert!(matches!(ask(&replica, Request::Status), Outcome::OutOfService(_)));
}

// covers L20
#[test]
fn older_build_on_a_newer_directory_ends_before_what_it_does_not_know_and_the_newer_one_goes_on() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let newer = alone::<Build<2>>(directory.path(), &runtime, &Arc::default());
    let before = count(&newer, "new").expect("every member of a group of one applies it");
    newer.shutdown();
    assert_eq!(ended(&newer, &runtime), Ok(()));

    let older = started::<Build<1>>(directory.path(), &runtime, &Arc::default());
    match ended(&older, &runtime) {
        Err(ReplicaFailure::NewerBuildNeeded { who, why }) => {
            assert!(who.starts_with("g.0") && why.contains("cannot be applied: unknown command"), "{who}: {why}");
        }
        other => panic!("{other:?}"),
    }
    drop(older);

    let again = alone::<Build<2>>(directory.path(), &runtime, &Arc::default());
    assert!(count(&again, "new").unwrap() > before);
    again.shutdown();
}

// covers L20
#[test]
fn older_build_does_not_recover_a_directory_with_commands_that_it_does_not_know() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    let directories = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| directories.path().join(name));
    let newer = alone::<Build<2>>(&from, &runtime, &Arc::default());
    count(&newer, "new").unwrap();
    newer.shutdown();
    drop(newer);

    let options = RecoverOptions {
        from,
        to: to.clone(),
        log_engine: None,
        allow_unsynced: true,
        name_if_lost: None,
        cluster_if_lost: Some(ClusterId(1)),
    };
    // The replica may still be about to let go of its directory.
    let error = wait_until("the directory", || {
        let recovered = recover(&options, Build::<1>::default(), |_| true, |_| None);
        let error = recovered.expect_err("a command was passed over").to_string();
        (!error.contains("in use")).then_some(error)
    });
    assert!(error.contains("cannot be applied: unknown command"), "{error}");
    assert!(!to.exists(), "nothing was made");
    recover(&options, Build::<2>::default(), |_| true, |_| None).unwrap();
}

// covers L20
#[test]
fn command_of_a_new_kind_waits_until_the_other_replica_says_that_it_runs_the_newer_build() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = Runtime::new().unwrap();
    let directories = tempfile::tempdir().unwrap();
    let listeners = [listener(), listener()];
    let address = |at: usize| listeners[at].local_addr().unwrap().to_string();
    let open = |at: usize| {
        let (name, other) = (at as u16, 1 - at);
        let directory = directories.path().join(name.to_string());
        let again = || listeners[at].try_clone().unwrap();
        opened(|| options(name, [(other as u16, address(other))], again(), &directory, &runtime), &Arc::default())
    };
    let run = |at: usize, is_newer: bool| match is_newer {
        true => open(at).run(Build::<2>::default()).unwrap(),
        false => open(at).run(Build::<1>::default()).unwrap(),
    };
    let new = |replica: &ReplicaHandle| ask(replica, Request::Idempotent { command: Bytes::from_static(b"new") });

    let (newer, older) = (run(0, true), run(1, false));
    wait_until("a leader", || (count(&newer, "up").is_some() || count(&older, "up").is_some()).then_some(()));
    for replica in [&newer, &older] {
        let said = new(replica);
        assert!(matches!(said, Outcome::Refused(_) | Outcome::NotLeader(_)), "{said:?}");
    }
    older.shutdown();
    drop(older);

    let upgraded = run(1, true);
    wait_until("the command", || [&newer, &upgraded].into_iter().find_map(|replica| count(replica, "new")));
    newer.shutdown();
    upgraded.shutdown();
}
